"""Validation of transition-state searches where the answers are known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ase import Atoms
from ase.io import read
from clusters import MINIMUM_ENERGY, RHOMBUS_ENERGY, Broken, lennard_jones, raises, rhombus, tetrahedron

from phl_ase.datasets import open_dataset, reactions_of
from phl_ase.errors import PHLError
from phl_ase.paths import STRATEGIES, displaced
from phl_ase.plots.funnel import draw
from phl_ase.resolver import resolve_calculator
from phl_ase.results import plain
from phl_ase.structures import atoms_from_frame
from phl_ase.study.references import NoReference, labelled_path, labelled_reaction, own_reaction
from phl_ase.units import convert
from phl_ase.validators import ReferenceReaction, StationaryPoint, funnels, validate_transition_state
from phl_ase.validators import transition_state as ts_module
from phl_ase.validators.funnel import FUNNEL_STAGES
from phl_ase.vibrations import finite_difference_hessian

DATA = "reactions-wb97xd-631gd"


@pytest.fixture(scope="module")
def saddle():
    return rhombus()


@pytest.fixture(scope="module")
def reference(saddle):
    """The rhombus of LJ4; of its ends, two tetrahedra with atoms exchanged, only one is told."""
    ts = StationaryPoint(saddle, RHOMBUS_ENERGY, finite_difference_hessian(saddle))
    return ReferenceReaction("LJ4", ts, {"tetrahedron": StationaryPoint(tetrahedron(), MINIMUM_ENERGY)})


@pytest.fixture(scope="module")
def xtb():
    return resolve_calculator("tblite")


@pytest.fixture(scope="module")
def isomerisation(xtb):
    """HCN to HNC on the surface of GFN2-xTB."""
    with open_dataset(DATA) as dataset:
        guess = atoms_from_frame(reactions_of(dataset, ["hcn_hnc"])["hcn_hnc"].transition_state)
    return own_reaction("hcn_hnc", guess, xtb)


def test_search_without_its_path(reference, saddle):
    report = validate_transition_state(
        displaced(saddle, 0.1, 3),
        lennard_jones(),
        reference,
        potential="LJ",
        strategy="hessian-3",
        follow=False,
        fmax=1e-3,
    )
    assert report.outcome == "found"
    assert report.metric("RMSD to the reference TS").value < 1e-3
    wavenumber = report.metric("imaginary wavenumber")
    assert wavenumber.value == pytest.approx(wavenumber.reference, abs=0.1)
    expected = convert(RHOMBUS_ENERGY - MINIMUM_ENERGY, "eV", "kcal/mol")
    barrier = report.metric("barrier from tetrahedron")
    assert barrier.reference == pytest.approx(expected)
    assert barrier.value == pytest.approx(expected, abs=0.01)
    assert abs(report.metric("barrier error from tetrahedron").value) < 0.01
    assert "connected" not in [metric.name for metric in report.metrics]
    # differences stand behind the Hessians of a calculator that has none: 6n gradients each
    assert report.provenance["curvature"] == "finite differences of forces"
    assert report.metric("hidden force calls").value == 24 * report.metric("Hessian calls").value > 0


@pytest.mark.parametrize("strategy", ["gradients", "hvp", "hessian-3"])
def test_whole_funnel_on_a_real_surface(isomerisation, xtb, strategy):
    reference = isomerisation.reaction
    start = displaced(reference.transition_state.atoms, 0.1, 1)
    report = validate_transition_state(start, xtb, reference, potential="GFN2-xTB", strategy=strategy)
    assert report.outcome == "found"
    assert [report.metric(stage).value for stage in FUNNEL_STAGES] == [1, 1, 1, 1]
    assert report.metric("RMSD to the reference TS").value < 0.01
    for end in ("reactant", "product"):
        assert abs(report.metric(f"barrier error from {end}").value) < 0.01
    assert (report.metric("Hessian calls").value > 0) == STRATEGIES[strategy].needs_hessian
    assert (report.metric("HVP calls").value > 0) == STRATEGIES[strategy].needs_hvp
    assert report.metric("path force calls").value > 10
    assert report.provenance["strategy"] == strategy


def test_wrong_ends_are_found_out(isomerisation, xtb):
    """A reference whose product is the reactant turned by 60°, with the bonds of neither end."""
    reaction = isomerisation.reaction
    bent = reaction.ends["product"].atoms.copy()
    hydrogen = int(np.nonzero(bent.numbers == 1)[0][0])
    bent.positions[hydrogen] += [0.0, 3.0, 0.0]
    wrong = dataclasses.replace(reaction, ends={**reaction.ends, "product": StationaryPoint(bent)})
    start = displaced(reaction.transition_state.atoms, 0.05, 0)
    report = validate_transition_state(start, xtb, wrong, potential="GFN2-xTB")
    assert report.outcome == "other end points"
    assert report.metric("connected").value == 0
    assert np.isnan(report.metric("barrier from reactant").value)


def test_a_guess_about_which_nothing_is_known(isomerisation, xtb):
    start = displaced(isomerisation.ts.atoms, 0.05, 0)
    report = validate_transition_state(start, xtb, ReferenceReaction("guess"), potential="GFN2-xTB", follow=False)
    assert report.outcome == "found"
    assert [m.name for m in report.metrics][:2] == ["converged", "first order"]
    assert not {"same TS", "connected", "RMSD to the reference TS"} & {m.name for m in report.metrics}


def test_a_minimum_is_no_transition_state(isomerisation, xtb):
    report = validate_transition_state(
        isomerisation.reaction.ends["reactant"].atoms, xtb, isomerisation.reaction, potential="GFN2-xTB", max_steps=30
    )
    assert report.outcome in {"wrong order of saddle", "not converged", "another saddle", "other end points", "no path"}
    assert report.metric("same TS").value == 0


@pytest.mark.parametrize(
    ("calculator", "options", "outcome"),
    [
        (lennard_jones(), {"max_steps": 1}, "not converged"),
        (lennard_jones(), {"same_within": 1e-9}, "another saddle"),
        (Broken(raises), {}, "failed"),
        (Broken(lambda atoms: {"energy": np.nan, "forces": np.zeros((4, 3))}), {}, "exploded"),
    ],
)
def test_a_search_that_fails_is_an_outcome(reference, saddle, calculator, options, outcome, tmp_path):
    report = validate_transition_state(
        displaced(saddle, 0.1, 0),
        calculator,
        reference,
        potential="broken",
        strategy="gradients",
        follow=False,
        trajectory=tmp_path / "search.traj",
        **options,
    )
    assert report.outcome == outcome
    assert report.outcome in ts_module.TS_OUTCOMES
    assert report.sentence
    assert report.metric("same TS").value == 0
    if outcome != "another saddle":
        assert np.isnan(report.metric("barrier from tetrahedron").value)
    if outcome == "not converged":
        assert len(read(tmp_path / "search.traj", ":")) >= 1
    plain(report)


def test_the_callers_mistakes(reference, saddle):
    with pytest.raises(PHLError, match="same atoms"):
        validate_transition_state(Atoms("Ne4", saddle.positions), lennard_jones(), reference, potential="")
    with pytest.raises(PHLError, match=r"unknown Sella strategy 'guess'; valid: .*gradients"):
        validate_transition_state(saddle, lennard_jones(), reference, potential="", strategy="guess")


def test_funnel_counts_each_stage_among_those_that_passed_the_one_before(reference, saddle):
    def report(strategy="hessian-3", **options):
        start = displaced(saddle, 0.1, 0)
        return validate_transition_state(
            start, lennard_jones(), reference, potential="LJ", strategy=strategy, follow=False, **options
        )

    # without Hessians of its own, a calculator is searched with gradients, unless another strategy is asked for
    reports = [report(), report(max_steps=1), report(same_within=1e-9), report(strategy=None)]
    funnel, other = funnels(reports)
    assert (funnel.strategy, funnel.starts, dict(funnel.passed)) == (
        "hessian-3",
        3,
        {"converged": 2, "first order": 2, "same TS": 1},
    )
    assert funnel.complete == 1
    assert funnel.barrier_error < 0.01
    assert funnel.counts["steps"] == np.mean([r.metric("steps").value for r in reports[:3]])
    assert (other.strategy, other.starts) == ("gradients", 1)
    axes = draw(reports).axes
    assert [tick.get_text() for tick in axes[0].get_xticklabels()] == ["converged", "first order", "same TS"]
    assert max(bar.get_height() for bar in axes[0].patches) == 2
    assert not draw([]).axes[0].patches


def test_references_from_labels():
    with open_dataset(DATA) as dataset:
        frames = reactions_of(dataset, ["nh3_inversion"])["nh3_inversion"]
    reaction, path = labelled_reaction(frames), labelled_path(frames)
    assert set(reaction.ends) == {"reactant", "product"}
    assert reaction.transition_state.hessian.shape == (12, 12)
    assert path.energies.argmax() == path.ts_index
    without = dataclasses.replace(frames, product=None)
    assert labelled_reaction(without).ends == {}
    with pytest.raises(PHLError, match="no path to compare with"):
        labelled_path(without)


def test_a_method_without_that_reaction_is_told_apart_from_a_mistake(xtb):
    far = Atoms("H2", [[0, 0, 0], [0, 0, 8.0]])
    with pytest.raises(NoReference, match="h2: the reference has no TS"):
        own_reaction("h2", far, xtb)


def test_a_path_from_a_structure_to_itself_is_no_reaction(xtb):
    """H2O2 is planar and trans in GFN2-xTB: from the cis TS both directions lead to the same minimum."""
    with open_dataset(DATA) as dataset:
        guess = atoms_from_frame(reactions_of(dataset, ["h2o2_cis"])["h2o2_cis"].transition_state)
    with pytest.raises(NoReference, match="reach the same structure"):
        own_reaction("h2o2_cis", guess, xtb)


@pytest.mark.parametrize("outcome", sorted(ts_module.TS_OUTCOMES))
def test_every_outcome_has_a_sentence(outcome):
    assert len(ts_module.TS_OUTCOMES[outcome].split()) > 3
