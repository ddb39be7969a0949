"""Errors by kind of geometry, displacement and temperature, with their intervals, and the figure of them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from clusters import lennard_jones, rhombus, tetrahedron
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

from phl_ase.cli.app import app
from phl_ase.curvature import curvature_of
from phl_ase.datasets import open_dataset, write_dataset
from phl_ase.errors import PHLError
from phl_ase.paths import displaced
from phl_ase.plots.accuracy import draw
from phl_ase.plots.displacement import PANELS, draw_rows
from phl_ase.plots.page import render_reports
from phl_ase.plots.style import styles_of, to_png
from phl_ase.resolver import resolve_calculator
from phl_ase.results import Report, plain, read_reports
from phl_ase.scoring import (
    ERRORS,
    LabelledStructure,
    curvatures_along,
    facts,
    geometries,
    group_means,
    intervals,
    mean_errors,
    projected_eigenvalues,
    relative_energy_errors,
    resampling_units,
    temperature_groups,
)
from phl_ase.scoring.bootstrap import MOST_UNITS
from phl_ase.structures import Frame, atoms_from_frame
from phl_ase.validators import accuracy as accuracy_module
from phl_ase.validators import (
    accuracy_report,
    displacements,
    predict,
    score_batches,
    validate_accuracy,
)
from phl_ase.vibrations import finite_difference_hessian, harmonic_analysis

PNG = b"\x89PNG\r\n\x1a\n"


def labelled(atoms, **labels):
    atoms = atoms.copy()
    atoms.calc = lennard_jones()
    return Frame(
        numbers=atoms.numbers.copy(),
        positions=atoms.positions.copy(),
        energy=atoms.get_potential_energy(),
        forces=atoms.get_forces(),
        hessian=finite_difference_hessian(atoms),
        **labels,
    )


@pytest.fixture(scope="module")
def frames():
    saddle, well = rhombus(), tetrahedron()
    return [
        labelled(saddle, kind="ts", reaction="LJ4"),
        labelled(well, kind="reactant", reaction="LJ4"),
        labelled(displaced(well, 0.05, 1), kind="nms", reaction="LJ4", temperature=300.0),
        labelled(displaced(saddle, 0.3, 2), kind="nms", reaction="LJ4", temperature=2000.0),
        labelled(displaced(saddle, 0.1, 3), kind="irc", reaction="LJ4"),
        labelled(well, kind="nms", reaction="elsewhere", temperature=300.0),
    ]


def labels_of(frame, **changes):
    return {"energy": frame.energy, "forces": frame.forces, "hessian": frame.hessian, **changes}


def scored(frames, rows, **keywords):
    return validate_accuracy(frames, rows, system="LJ4", potential="LJ", **keywords)


# ------------------------------------------------------------------------------------------------------ displacements


def test_displacement_from_the_nearest_stationary_point(frames):
    np.testing.assert_allclose(displacements(frames)[:5], [0, 0, 0.05, 0.3, 0.1], atol=1e-6)
    assert np.isnan(displacements(frames)[5])
    assert np.isnan(displacements(frames[2:])).all()
    np.testing.assert_allclose(displacements(frames[2:], frames)[:3], [0.05, 0.3, 0.1], atol=1e-6)


def test_intervals_hold_their_lower_limit_and_the_last_what_is_further():
    inside = intervals(np.array([0.0, 0.1, 0.2, np.nan, 3.0]), [0, 0.2, 1])
    assert inside.tolist() == [[True, True, False, False, False], [False, False, True, False, True]]


def test_temperatures_are_grouped_one_by_one_or_in_intervals_where_there_are_many():
    few = np.array([300.0, np.nan, 600.0, 300.0])
    assert temperature_groups(few).tolist() == [[True, False, False, True], [False, False, True, False]]
    assert temperature_groups(np.full(3, np.nan)).shape == (0, 3)
    many = np.append(np.random.default_rng(0).uniform(200, 900, 1000), np.nan)
    groups = temperature_groups(many)
    np.testing.assert_array_equal(groups.sum(axis=0), np.isfinite(many))
    assert np.ptp(groups.sum(axis=1)) <= 1
    means = [many[group].mean() for group in groups]
    assert means == sorted(means)


# ------------------------------------------------------------------------------------------------------------- spectra


@pytest.mark.parametrize(("name", "internal"), [("H2O", 3), ("CO2", 4), ("H2", 1), ("H", 0)])
def test_projected_eigenvalues_of_a_minimum(name, internal):
    """GFN2-xTB: as many as there are vibrations, all positive, and the same after a turn."""
    atoms = molecule(name)
    hessian = curvature_of(resolve_calculator("tblite")).hessian(atoms) if internal else np.zeros((3, 3))
    found = projected_eigenvalues(hessian, atoms.positions)
    assert len(found) == internal
    assert np.all(found > 0)
    turn = Rotation.from_euler("xyz", [10, 40, 70], degrees=True).as_matrix()
    everywhere = np.kron(np.eye(len(atoms)), turn)
    again = projected_eigenvalues(everywhere @ hessian @ everywhere.T, atoms.positions @ turn.T)
    np.testing.assert_allclose(again, found, atol=1e-9)


def test_projected_eigenvalues_agree_with_a_harmonic_analysis_of_equal_masses():
    atoms = displaced(rhombus(), 0.1, 4)
    atoms.calc = lennard_jones()
    hessian = finite_difference_hessian(atoms)
    atoms.set_masses(np.ones(len(atoms)))
    expected = harmonic_analysis(atoms, hessian)
    found = projected_eigenvalues(hessian, atoms.positions)
    vectors = expected.modes.reshape(len(found), -1)
    # mass-weighted with unit masses is not mass-weighted: the same eigenvalues along the same modes
    np.testing.assert_allclose(found, np.einsum("ki,ij,kj->k", vectors, hessian, vectors), atol=1e-8)
    assert found[0] < 0


def test_a_crystal_keeps_its_rotations():
    atoms = bulk("Cu", cubic=True)
    atoms.calc = EMT()
    hessian = finite_difference_hessian(atoms)
    assert len(projected_eigenvalues(hessian, atoms.positions, periodic=True)) == 9
    frame = Frame(atoms.numbers, atoms.positions, cell=atoms.cell.array, pbc=atoms.pbc, hessian=hessian)
    report = scored([frame], [{"hessian": hessian + 0.3 * np.eye(12)}])
    assert report.metric("lowest_eigenvalue, all").value == pytest.approx(0.3)


def test_errors_of_the_spectrum(frames):
    """A Hessian shifted by a multiple of one shifts its spectrum alike, and a saddle becomes a minimum."""
    shift = 1e-3 - projected_eigenvalues(frames[0].hessian, frames[0].positions)[0]
    rows = [labels_of(frame, hessian=frame.hessian + shift * np.eye(12)) for frame in frames[:2]]
    report = scored(frames[:2], rows)
    for kind, wrong in (("ts", 100.0), ("reactant", 0.0)):
        assert report.metric(f"lowest_eigenvalue, {kind}").value == pytest.approx(shift)
        assert report.metric(f"saddle_order, {kind}").value == wrong
    assert report.metric("saddle_order, ts").unit == "%"


# -------------------------------------------------------------------------------------------------------------- errors


def test_accuracy_against_itself_is_exact(frames):
    structures = [Atoms(frame.numbers, frame.positions) for frame in frames]
    report = scored(frames, predict(structures, lennard_jones(), finite_difference_hessian))
    assert report.outcome == "scored"
    assert all(m.value == pytest.approx(0, abs=1e-8) for m in report.metrics if not m.name.startswith("frames"))
    assert structures[0].calc is None


def test_accuracy_of_known_errors_by_region(frames):
    """Everything off by a known amount, far frames by twice as much."""
    predictions = []
    for number, frame in enumerate(frames):
        factor = 2 if number in (3, 4) else 1
        predictions.append(
            {
                "energy": frame.energy + 0.004 * factor,
                "forces": frame.forces - 0.01 * factor,
                "hessian": frame.hessian + 0.5 * factor * np.eye(12),
            }
        )
    report = scored(frames, predictions)
    for region, factor in (("near", 1), ("far", 2), ("ts", 1), ("irc", 2), ("stationary", 1), ("mild", 1), ("hot", 2)):
        assert report.metric(f"energy, {region}").value == pytest.approx(1.0 * factor)
        assert report.metric(f"energy, {region}").unit == "meV/atom"
        assert report.metric(f"forces, {region}").value == pytest.approx(10.0 * factor)
        assert report.metric(f"hessian, {region}").value == pytest.approx(0.5 * factor / 12)
        assert report.metric(f"lowest_eigenvalue, {region}").value == pytest.approx(0.5 * factor)
    assert {region: report.metric(f"frames, {region}").value for region in ("far", "hot", "stationary", "mild")} == {
        "far": 2,
        "hot": 1,
        "stationary": 2,
        "mild": 2,
    }
    arrays = report.arrays
    assert arrays["displacement_frames"].sum() == 5
    assert arrays["forces_by_displacement"][0] == pytest.approx(10.0)
    place = np.digitize(0.3 - 1e-6, arrays["displacement_edges"]) - 1
    assert np.nanmax(arrays["forces_by_displacement"][place : place + 2]) == pytest.approx(20.0)
    assert arrays["temperature_means"].tolist() == [300, 2000]
    np.testing.assert_allclose(arrays["forces_by_temperature"], [10, 20])
    assert arrays["forces_by_temperature_frames"].tolist() == [2, 1]


def test_structures_displaced_at_random_are_far(frames):
    groups = geometries([dataclasses.replace(frame, kind="displaced", temperature=None) for frame in frames])
    assert sorted(groups) == ["all", "displaced", "far"]
    assert groups["far"].all()


def test_kinds_of_geometry_named_like_a_region(frames):
    named = [dataclasses.replace(frame, kind="hot") for frame in frames]
    groups = geometries(named)
    assert groups["hot"].sum() == 1
    assert groups["kind hot"].all()
    assert mean_errors(named, {"energy": np.arange(6.0)})["kind hot"] == {"frames": 6, "energy": 2.5}


def test_frames_that_come_in_batches_score_like_all_at_once(frames):
    """What is kept of a frame is enough, and none of its Hessians is kept."""
    rows = [labels_of(frame, energy=frame.energy + 0.01 * i) for i, frame in enumerate(frames)]
    streamed = score_batches((frames[i : i + 2], rows[i : i + 2]) for i in (0, 2, 4))
    assert all(isinstance(frame, LabelledStructure) and not hasattr(frame, "hessian") for frame in streamed.frames)
    again = accuracy_report(streamed, system="LJ4", potential="LJ")
    for name, values in scored(frames, rows).arrays.items():
        np.testing.assert_array_equal(again.arrays[name], values)


def test_missing_labels_and_nan_predictions(frames):
    bare = [dataclasses.replace(frame, hessian=None) for frame in frames]
    rows = [{"energy": f.energy, "forces": f.forces} for f in frames]
    report = scored(bare, rows)
    assert report.outcome == "scored"
    assert not [m for m in report.metrics if m.name.startswith(("hessian", "lowest", "saddle"))]
    assert report.provenance["notes"] == ["nothing to compare of: Hessians or HVPs"]
    rows[0]["energy"] = np.nan
    assert scored(bare, rows).outcome == "exploded"
    with pytest.raises(PHLError, match="5 predictions for 6 frames"):
        scored(bare, rows[:5])
    with pytest.raises(PHLError, match="no frames"):
        scored([], [])
    with pytest.raises(PHLError, match="unknown way to compare energies 'shifted'; valid: absolute, relative"):
        scored(bare, rows, energies="shifted")


def test_a_hessian_that_explodes_is_left_out_and_said(frames):
    rows = [labels_of(frame) for frame in frames]
    rows[0]["hessian"] = np.full((12, 12), np.nan)
    report = scored(frames, rows)
    assert report.outcome == "exploded"
    assert report.metric("hessian, all").value == 0
    assert report.arrays["lowest_eigenvalue_by_group_frames"][0] == 5


def test_frames_of_unknown_origin(frames):
    bare = [dataclasses.replace(frame, kind="", reaction="", temperature=None) for frame in frames]
    report = scored(bare, [labels_of(frame) for frame in frames])
    assert report.arrays["groups"].tolist() == ["all"]
    assert [note.split(":")[0] for note in report.provenance["notes"]] == [
        "no errors against displacement",
        "no errors against temperature",
    ]
    assert "6 frames drawn" in report.provenance["intervals"]
    figure = draw([report])
    # what is unknown has no panel
    assert all("reference" in label for label in axis_labels(figure, "x"))


# ---------------------------------------------------------------------------------------------------- relative energies


def test_relative_energies_forget_the_zero_of_each_composition(frames):
    """GFN2-xTB against DFT: thousands of eV of core electrons apart, and yet comparable."""
    dataset = open_dataset("reactions-wb97xd-631gd")
    chosen = [frame for frame in dataset.frames(range(len(dataset))) if frame.kind in ("ts", "reactant", "product")]
    rows = predict([atoms_from_frame(frame) for frame in chosen], resolve_calculator("tblite"))
    absolute, relative = (
        validate_accuracy(chosen, rows, system="data", potential="GFN2-xTB", energies=way)
        for way in ("absolute", "relative")
    )
    assert absolute.metric("energy, all").value > 1e5
    assert "compare relative energies" in absolute.provenance["notes"][-1]
    assert 1 < relative.metric("energy, all").value < 200
    assert not [note for note in relative.provenance["notes"] if "relative" in note]
    assert relative.provenance["energies"].startswith("relative")


def test_relative_energies_by_hand():
    water, hydrogen = np.array([8, 1, 1]), np.array([1, 1])
    known = [(water, 1.0), (water[::-1], 2.0), (hydrogen, 5.0), (water, None)]
    frames = [facts(Frame(numbers, np.zeros((len(numbers), 3)), energy=energy)) for numbers, energy in known]
    found = relative_energy_errors(frames, np.array([101.0, 102.6, 7.0, 1.0]))
    # 100 and 100.6 eV apart, 0.3 eV about their mean, three atoms; one frame alone has nothing to compare with
    np.testing.assert_allclose(found[:2], 100.0)
    assert np.isnan(found[2:]).all()
    assert np.isinf(relative_energy_errors(frames, np.array([101.0, np.inf, 7.0, 1.0]))[1])


# ----------------------------------------------------------------------------------------------------------- intervals


def test_interval_of_a_mean_is_that_of_statistics():
    """300 independent values: mean ± 1.96 σ/√n, to 10 % of its width (2,000 samples, and the sample's own σ)."""
    values = np.random.default_rng(1).normal(5, 2, 300)
    units = resampling_units([""] * 300)
    found = group_means({"a": values}, np.ones((1, 300), dtype=bool), units)
    half = 1.96 * values.std() / np.sqrt(300)
    assert found.mean["a"][0] == pytest.approx(values.mean())
    assert found.low["a"][0] == pytest.approx(values.mean() - half, abs=0.2 * half)
    assert found.high["a"][0] == pytest.approx(values.mean() + half, abs=0.2 * half)


def test_correlated_frames_need_reactions_to_be_drawn():
    """Frames of one reaction err alike: intervals from frames are far too narrow, from reactions they nearly hold.

    200 data sets of 13 reactions with 27 frames, as bundled; reactions spread by 1, frames within them by 1. The share
    of intervals with the true mean has a standard error of 2 to 3 %.
    """
    random = np.random.default_rng(2)
    names = np.repeat([f"r{i}" for i in range(13)], 27)
    everything = np.ones((1, len(names)), dtype=bool)
    held = {}
    for unit, reactions in (("frames", [""] * len(names)), ("reactions", names.tolist())):
        units = resampling_units(reactions)
        assert units.name == unit
        count = 0
        for _ in range(200):
            values = np.repeat(random.normal(0, 1, 13), 27) + random.normal(0, 1, len(names))
            found = group_means({"a": values}, everything, units, draws=300)
            count += found.low["a"][0] <= 0 <= found.high["a"][0]
        held[unit] = count / 200
    assert held["frames"] < 0.6
    assert 0.83 < held["reactions"] <= 0.99


def test_intervals_are_repeatable_and_absent_where_there_is_too_little():
    names = [f"r{i // 4}" for i in range(24)]
    units = resampling_units(names)
    values = np.random.default_rng(3).random(24)
    groups = np.array([np.ones(24), np.arange(24) < 8, np.arange(24) < 0, np.ones(24)], dtype=bool)
    first, second = (group_means({"a": values, "b": np.full(24, 7.0)}, groups, units) for _ in range(2))
    np.testing.assert_array_equal(first.low["a"], second.low["a"])
    # two reactions have no spread to speak of; what is the same everywhere has none at all
    assert np.isnan(first.low["a"]).tolist() == [False, True, True, False]
    assert np.isnan(first.low["b"]).all()
    assert first.frames["a"].tolist() == [24, 8, 0, 24]
    assert np.isnan(first.mean["a"][2])
    assert resampling_units(names[:12]).name == "frames"


def test_many_frames_are_drawn_in_blocks_with_the_same_interval():
    n = 3 * MOST_UNITS + 7
    values = np.random.default_rng(4).exponential(1, n)
    units = resampling_units([""] * n)
    assert units.number == n
    found = group_means({"a": values}, np.ones((1, n), dtype=bool), units, draws=400)
    half = 1.96 * values.std() / np.sqrt(n)
    # 400 samples know the limits to about 8 % of the half width
    assert found.high["a"][0] - found.low["a"][0] == pytest.approx(2 * half, rel=0.25)


# ------------------------------------------------------------------------------------------------------------- reports


@pytest.mark.parametrize("outcome", sorted(accuracy_module.ACCURACY_OUTCOMES))
def test_every_outcome_has_a_sentence(outcome):
    assert len(accuracy_module.ACCURACY_OUTCOMES[outcome].split()) > 3


def axis_labels(figure, axis="y"):
    return [getattr(axes, f"get_{axis}label")() for axes in figure.axes]


def test_figure_of_frames_too_few_for_means_shows_the_frames(frames):
    report = scored(frames, [{"energy": f.energy + 0.1} for f in frames])
    figure = draw([report])
    assert axis_labels(figure)[:2] == ["model energy / eV", "energy error / (meV/atom)"]
    displacement = figure.axes[1]
    assert np.isfinite(displacement.lines[0].get_ydata()).sum() == 6
    assert not len(displacement.lines[1].get_ydata())
    assert to_png(draw, [report]).startswith(PNG)


def test_a_figure_has_no_empty_panel(frames):
    """A panel for what is compared, whatever is missing: labels, stationary points, temperatures."""
    bare = [dataclasses.replace(f, kind="", reaction="", temperature=None) for f in frames]
    report = scored(bare, [labels_of(f, energy=f.energy + 0.1) for f in bare])
    figure = draw([report])
    assert axis_labels(figure) == [
        "model energy / eV",
        "model force component / (eV/Å)",
        "model Hessian element / (eV/Å²)",
    ]
    assert all(len(axes.lines) == 2 for axes in figure.axes)
    only = scored(frames, [{"forces": f.forces + 0.1} for f in frames])
    assert all("force" in label for label in axis_labels(draw([only])))


def test_one_potential_on_two_sets_of_data_is_two_curves(frames):
    reports = [scored(frames, [labels_of(f, energy=f.energy + 0.1) for f in frames])]
    reports.append(scored([with_probes(f) for f in frames], [{"energy": f.energy} for f in frames]))
    reports[1] = dataclasses.replace(reports[1], system="others")
    figure = draw(reports)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["LJ, LJ4", "LJ, others"]
    assert not [text for axes in figure.axes for text in axes.texts]  # no panel that says that it is empty
    page = render_reports(reports)
    assert page.count("<table") >= 3
    assert "lowest eigenvalue" in page


def test_few_frames_far_off_do_not_empty_the_panels():
    """Three frames in a thousand that are far off, in error or displacement, leave the axes to the others."""
    random = np.random.default_rng(2)
    distance, error = random.uniform(0, 0.3, 1000), random.uniform(10, 100, 1000)
    distance[:3], error[3:6] = 2.0, 1e5
    curve = {"displacement_means": np.array([0.1, 0.2]), "forces_by_displacement": np.array([40.0, 60.0])}
    curve |= {f"forces_by_displacement_{end}": np.array([f * 40, f * 60]) for end, f in (("low", 0.9), ("high", 1.1))}
    curve |= {"forces_by_displacement_frames": np.array([500, 500])}
    report = Report("s", "p", "scored", arrays={"displacement": distance, "forces_error": error, **curve})
    (axes,) = draw_rows({"p": report}, styles_of(["p"])).axes
    assert axes.get_xlim()[1] < 0.4
    assert axes.get_ylim()[1] < 200
    assert "frames beyond the panel" in axes.get_title(loc="right")


def test_figure_of_two_potentials_from_stored_reports(frames):
    random = np.random.default_rng(5)
    many = [dataclasses.replace(f, reaction=f.reaction and f"{f.reaction}-{i}") for i in range(8) for f in frames]
    reports = []
    for name, size in (("good", 0.01), ("bad", 0.1)):
        rows = [labels_of(f, **{q: getattr(f, q) + size * random.random() for q in ("energy", "forces")}) for f in many]
        report = validate_accuracy(many, rows, system="LJ4", potential=name)
        reports.append(Report.from_dict(plain(report)))
    figure = draw(reports)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["good", "bad"]
    errors = [axes for axes in figure.axes if "error" in axes.get_ylabel()]
    along = [axes for axes in errors if axes.get_xlabel().endswith("/ Å")]
    # Hessians are right to the last digit: zero has no place on a logarithmic axis, and no panel
    assert [axes.get_ylabel().split(" error")[0] for axes in along] == [ERRORS[e].title for e in PANELS[:2]]
    assert sum(axes.get_xlabel().endswith("K") for axes in errors) == len(along)
    assert sum("reference" in axes.get_xlabel() for axes in figure.axes) == 3
    forces = along[1]
    assert ERRORS["forces"].unit in forces.get_ylabel()
    # a line and its interval bars for each potential: bands of several would mix
    assert len(forces.collections) == len(forces.lines) == 2
    low, high = forces.get_ylim()
    assert 0 < low < 10 < 100 < high
    assert to_png(draw, reports).startswith(PNG)
    assert to_png(draw, []).startswith(PNG)


# ----------------------------------------------------------------------------------------------------------------- HVPs


def with_probes(frame, number=3, seed=0):
    """A frame that holds HVPs along probes and no Hessian."""
    v = np.random.default_rng(seed).choice([-1.0, 1.0], size=(number, len(frame), 3))
    hvps = (v.reshape(number, -1) @ frame.hessian).reshape(v.shape)
    return dataclasses.replace(frame, hessian=None, probes=v, hvp=hvps)


def test_hvps_are_scored_where_they_are_recorded(frames):
    """Closed forms: HVPs 2 % too large, and one that differs by a constant along one component."""
    held = [with_probes(f, seed=i) for i, f in enumerate(frames)]
    report = scored(held, [labels_of(f, hvp=1.02 * f.hvp) for f in held])
    assert report.metric("hvp_relative, all").value == pytest.approx(2.0)
    assert report.metric("hvp_relative, all").unit == "%"
    assert report.metric("hvp, all").value == pytest.approx(np.mean([0.02 * np.abs(f.hvp).mean() for f in held]))
    along = [curvatures_along(f.probes, f.hvp) for f in held]
    assert report.metric("curvature_along, all").value == pytest.approx(
        np.mean([0.02 * np.abs(c).mean() for c in along])
    )
    np.testing.assert_allclose(
        np.sort(report.arrays["parity_curvature_along_reference"]), np.sort(np.concatenate(along)), rtol=1e-5
    )
    assert not [m for m in report.metrics if m.name.startswith("hessian")]
    assert not [note for note in report.provenance["notes"] if "nothing to compare" in note]
    assert "u·H·u error / (eV/Å²)" in axis_labels(draw([report]))


def test_the_curvature_along_a_probe_is_that_of_a_unit_vector(frames):
    frame = frames[0]
    v = np.zeros((2, len(frame), 3))
    v[0, 1, 2], v[1] = 7.0, 0.0
    hvps = (v.reshape(2, -1) @ frame.hessian).reshape(v.shape)
    np.testing.assert_allclose(curvatures_along(v, hvps), [frame.hessian[5, 5], 0.0])


def test_frames_with_and_without_hvps_are_scored_together(frames):
    some = [with_probes(frames[0]), *frames[1:]]
    rows = [labels_of(some[0], hvp=some[0].hvp + 0.5), *(labels_of(f) for f in some[1:])]
    batches = [([frame], [row]) for frame, row in zip(some, rows, strict=True)]
    report = accuracy_report(score_batches(batches), system="s", potential="p")
    assert report.metric("hvp, all").value == pytest.approx(0.5)
    assert np.isfinite(report.arrays["hvp_error"]).tolist() == [True, *[False] * (len(frames) - 1)]
    exploded = scored(some[:1], [labels_of(some[0], hvp=np.full_like(some[0].hvp, np.nan))])
    assert exploded.outcome == "exploded"


def test_evaluate_scores_the_hvps_of_a_file_by_any_method(tmp_path, monkeypatch):
    """Labels by EMT itself, one HVP wrong by a half: a method without HVPs of its own is asked by differences."""
    monkeypatch.setenv("COLUMNS", "200")
    frames = []
    for seed in range(4):
        atoms = bulk("Cu", cubic=True) * (1, 1, 1)
        atoms.rattle(0.05, seed=seed)
        atoms.calc = EMT()
        v = np.random.default_rng(seed).choice([-1.0, 1.0], size=(2, len(atoms), 3))
        hvps = curvature_of(EMT()).hvp(v, atoms)
        hvps[0, 0, 0] += 0.5 if seed == 0 else 0.0
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "probes": v, "hvp": hvps}
        frames.append(Frame(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, **labels))
    file, target = tmp_path / "hvps.h5", tmp_path / "a.json"
    write_dataset(file, frames)
    done = CliRunner().invoke(app, ["evaluate", "emt", str(file), "--json", str(target), "--plot", f"{target}.png"])
    assert done.exit_code == 0, done.output
    assert all(name in done.output for name in ("HVP / (eV/Å²)", "relative HVP / %", "u·H·u / (eV/Å²)"))
    assert "HVPs: finite differences of forces" in done.output
    assert "nothing to compare" not in done.output
    (report,) = read_reports(target)
    wrong = 0.5 / (2 * 4 * 3)  # of one frame: one of its 24 numbers
    np.testing.assert_allclose(np.sort(report.arrays["hvp_error"]), [0, 0, 0, wrong], atol=1e-6)
    # u·H·u of one of two probes, whose squared length is 12
    assert np.max(report.arrays["curvature_along_error"]) == pytest.approx(0.5 / 12 / 2, abs=1e-6)
