"""Reactions learnt on the fly: what is learnt, what is bought, what is confirmed, and what is refused."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import SCFError
from typer.testing import CliRunner

from phl_ase import PHLCalculator
from phl_ase.cli.app import app
from phl_ase.datasets import open_dataset
from phl_ase.errors import PHLError
from phl_ase.jobs import Store
from phl_ase.learning import (
    GradientObservations,
    KernelCorrection,
    LabelStore,
    LearnedCalculator,
    LearningStopped,
    LearnOptions,
    learn_reaction,
    make_start,
    recommended_start,
)
from phl_ase.learning.dataset import frames_of
from phl_ase.learning.kernel import USUAL_KERNEL, OutOfMemoryError
from phl_ase.learning.model import train_model
from phl_ase.reference import make_method
from phl_ase.vibrations import finite_difference_hessian, harmonic_analysis

pytest.importorskip("tblite")

STEP = 5e-4
HCN_TS = Atoms("HCN", [(0.10, 1.17, 0.0), (0.0, 0.0, 0.0), (1.18, 0.02, 0.0)], info={"charge": 0, "multiplicity": 1})


def gfn2():
    return make_method("tblite")


def store_of(folder: Path, atoms: Atoms, make=gfn2, **settings) -> LabelStore:
    return LabelStore(Store(folder), atoms, make, {"method": "tblite"}, step=STEP, **settings)


def surrogate() -> LearnedCalculator:
    return LearnedCalculator(make_method("tblite:GFN1-xTB"))


# -------------------------------------------------------------------------------------------------------------- kernel


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A store with a few labels of ethanol-like size, and the surrogate that has learnt them."""
    atoms = molecule("CH3OH")
    atoms.info.update(charge=0, multiplicity=1)
    store = store_of(tmp_path_factory.mktemp("labels"), atoms)
    rng = np.random.default_rng(3)
    store.buy([atoms.positions + scale * rng.normal(size=(6, 3)) for scale in (0.0, 0.05, 0.05)], "end")
    store.label_hvps(atoms.positions, list(rng.normal(size=(2, 6, 3))))
    calculator = surrogate()
    calculator.fit(store)
    return store, calculator


def test_labels_are_reproduced(taught):
    store, calculator = taught
    for known in store.points:
        atoms = Atoms(store.atoms.symbols, known.positions, calculator=calculator)
        # the noise that labels are taken to have: 1 meV, 2 meV/Å
        assert atoms.get_potential_energy() == pytest.approx(known.energy, abs=2e-3)
        np.testing.assert_allclose(atoms.get_forces(), known.forces, atol=8e-3)
    for one in store.hvps:
        atoms = Atoms(store.atoms.symbols, one.positions)
        # exact, but for the asymmetry that differences leave to products
        np.testing.assert_allclose(calculator.get_hvp(one.vector, atoms), one.product, atol=0.01)


def test_forces_and_hessians_of_the_correction_are_its_derivatives(taught):
    store, calculator = taught
    correction = calculator.correction
    rng = np.random.default_rng(0)
    x = store.atoms.positions + 0.1 * rng.normal(size=(6, 3))
    v, h = rng.normal(size=(6, 3)), 1e-5
    (ahead, slope_ahead), (behind, slope_behind) = (correction.energy_and_gradient(x + s * h * v) for s in (1, -1))
    _, slope = correction.energy_and_gradient(x)
    # central differences: of the second derivatives 1e-5 is left
    assert (ahead - behind) / (2 * h) == pytest.approx(np.vdot(slope, v), abs=1e-5)
    product = (slope_ahead - slope_behind).ravel() / (2 * h)
    np.testing.assert_allclose(correction.hessian(x) @ v.ravel(), product, atol=1e-4)


def test_the_correction_does_not_know_place_and_orientation(taught):
    store, calculator = taught
    turned = store.atoms.copy()
    turned.positions += 0.03 * np.random.default_rng(1).normal(size=(6, 3))
    before = calculator.correction.energy_and_gradient(turned.positions)[0]
    turned.rotate(50, (1, 2, 3))
    turned.translate((1, 2, 3))
    assert calculator.correction.energy_and_gradient(turned.positions)[0] == pytest.approx(before, abs=1e-9)


def test_uncertainty_is_small_at_labels_and_covers_the_error_elsewhere(taught):
    store, calculator = taught
    correction = calculator.correction
    reference = gfn2()
    for known in store.points:
        assert correction.energy_std(known.positions) < 2e-3  # 1 meV is taken for the labels' noise
    rng = np.random.default_rng(5)
    for scale in (0.03, 0.06, 0.1):
        atoms = store.atoms.copy()
        atoms.positions += scale * rng.normal(size=(6, 3))
        atoms.calc = reference
        energy = atoms.get_potential_energy()
        atoms.calc = calculator
        std = correction.energy_std(atoms.positions)
        assert 1e-3 < std < 0.5
        assert abs(atoms.get_potential_energy() - energy) < 4 * std


def test_hvps_teach_curvature(taught):
    """Two HVPs bring frequencies nearer to the reference's than the energies and forces alone."""
    store, calculator = taught
    atoms = store.atoms.copy()
    atoms.calc = gfn2()
    wanted = harmonic_analysis(atoms, finite_difference_hessian(atoms, delta=1e-3)).wavenumbers
    points = store.points
    gradients = [(known.energy, -known.forces) for known in points]
    start = [calculator._start_at(store.atoms, known.positions) for known in points]
    none = np.zeros((0, 6, 3))
    without = KernelCorrection(
        GradientObservations(
            np.array([known.positions for known in points]),
            np.array([e - e0 for (e, _), (e0, _) in zip(gradients, start, strict=True)]),
            np.array([g - g0 for (_, g), (_, g0) in zip(gradients, start, strict=True)]),
            none,
            none,
            none,
        ),
        store.atoms.numbers,
    )
    bare = LearnedCalculator(calculator.start).get_hessian(atoms)

    def error(hessian):
        return np.abs(harmonic_analysis(atoms, hessian).wavenumbers - wanted).mean()

    assert error(calculator.get_hessian(atoms)) < 0.7 * error(bare + without.hessian(atoms.positions))


def test_labels_that_are_not_finite_are_refused():
    bad = np.zeros((1, 2, 3))
    bad[0, 1, 0] = 0.7
    nothing = np.zeros((0, 2, 3))
    with pytest.raises(PHLError, match="cannot be fitted"):
        KernelCorrection(
            GradientObservations(bad, np.array([np.nan]), bad, nothing, nothing, nothing), np.array([1, 1])
        )


def observations(points: int, hvps: int) -> GradientObservations:
    rng = np.random.default_rng(5)
    places = molecule("CH3OH").positions + 0.05 * rng.normal(size=(points, 6, 3))
    gradients, vectors, products = (0.1 * rng.normal(size=(count, 6, 3)) for count in (points, hvps, hvps))
    return GradientObservations(places, 0.1 * rng.normal(size=points), gradients, places[:hvps], vectors, products)


def test_the_fit_stays_within_a_memory_budget():
    numbers, known = molecule("CH3OH").numbers, observations(4, 2)
    free = KernelCorrection(known, numbers)
    with pytest.raises(OutOfMemoryError, match=r"4 gradients and 2 HVPs of 6 atoms needs 0\.0 GiB"):
        KernelCorrection(known, numbers, memory_budget=2**18)
    least = 3 * 8 * (8 * 18) ** 2 + 4 * 8 * (4 + 6 * 18) ** 2
    narrow = KernelCorrection(known, numbers, memory_budget=least)  # nothing is kept for later
    assert (narrow.choice, narrow.likelihood) == (free.choice, free.likelihood)


def test_parts_of_the_pairs_covariance_are_those_of_the_whole(monkeypatch):
    numbers, known = molecule("CH3OH").numbers, observations(4, 2)
    place = known.positions[0] + 0.02
    whole = KernelCorrection(known, numbers).hessian(place)
    monkeypatch.setattr("phl_ase.learning.kernel._PAIRS_TOGETHER", 1)  # point by point
    np.testing.assert_allclose(KernelCorrection(known, numbers).hessian(place), whole, rtol=1e-9, atol=1e-9)


# --------------------------------------------------------------------------------------------------------------- store


def test_gradients_are_bought_once_and_kept(tmp_path):
    calls = []

    def counted():
        calculator = gfn2()
        calculate = calculator.calculate

        def count(*arguments, **named):
            calls.append(1)
            return calculate(*arguments, **named)

        calculator.calculate = count
        return calculator

    store = store_of(tmp_path, HCN_TS, counted)
    x = HCN_TS.positions
    store.buy([x, x + 0.01], "ts")
    store.label_hvps(x, [np.ones((3, 3))])
    assert len(store) == len(calls) == 4
    store.gradient(x, "ts")
    store.label_hvps(x, [2 * np.ones((3, 3))])  # the same direction
    assert len(store) == len(calls) == 4
    again = store_of(tmp_path, HCN_TS, counted)
    assert [known.kind for known in again.gradients] == ["ts", "ts", "probe", "probe"]
    np.testing.assert_array_equal(again.hvps[0].product, store.hvps[0].product)
    again.gradient(x, "ts")
    assert len(calls) == 4


def test_results_of_other_methods_in_the_folder_are_left_alone(tmp_path):
    store_of(tmp_path, HCN_TS).gradient(HCN_TS.positions, "ts")
    other = LabelStore(Store(tmp_path), HCN_TS, gfn2, {"method": "tblite:GFN1-xTB"}, step=STEP)
    assert len(other) == 0


def test_hvps_are_those_of_the_reference(tmp_path):
    store = store_of(tmp_path, HCN_TS)
    v = np.random.default_rng(0).normal(size=(3, 3))
    (one,) = store.label_hvps(HCN_TS.positions, [v])
    atoms = HCN_TS.copy()
    atoms.calc = gfn2()
    # both are differences of second order; xTB's noise leaves some 1e-3
    hessian = finite_difference_hessian(atoms, delta=1e-3)
    np.testing.assert_allclose(one.product.ravel(), hessian @ one.vector.ravel(), atol=0.02)


def test_budgets_and_failures_stop_and_keep_what_there_is(tmp_path):
    store = store_of(tmp_path / "a", HCN_TS, budget=2)
    store.gradient(HCN_TS.positions, "ts")
    with pytest.raises(LearningStopped, match="1 of 2 reference gradients are spent") as stop:
        store.label_hvps(HCN_TS.positions, [np.ones((3, 3))])
    assert stop.value.outcome == "budget spent"

    def failing():
        calculator = gfn2()

        def fail(*arguments, **named):
            raise SCFError("100 cycles")

        calculator.calculate = fail
        return calculator

    store = store_of(tmp_path / "b", HCN_TS, failing)
    with pytest.raises(LearningStopped, match=r"failed at a ts geometry: the self-consistent field.*100 cycles"):
        store.gradient(HCN_TS.positions, "ts")
    assert len(store) == 0


# ---------------------------------------------------------------------------------------------------------------- runs


def test_a_whole_reaction_is_confirmed_and_goes_on_after_a_stop(tmp_path):
    """HCN to HNC: stopped by its budget, then finished; nothing is bought twice."""
    stopped = learn_reaction(HCN_TS, None, store_of(tmp_path, HCN_TS, budget=19), surrogate())
    assert stopped.outcome == "budget spent"
    bought = len(stopped.store)
    assert 10 <= bought <= 19

    found = learn_reaction(HCN_TS, None, store_of(tmp_path, HCN_TS), surrogate())
    assert found.verified, found.reason
    assert bought < len(found.store) < 50
    places = np.array([known.positions.ravel() for known in found.store.gradients])
    apart = np.abs(places[:, None] - places[None]).max(axis=2) + np.eye(len(places))
    assert apart.min() > 1e-7
    # the reference itself
    atoms = found.ts.atoms.copy()
    atoms.calc = gfn2()
    assert np.linalg.norm(atoms.get_forces(), axis=1).max() <= 0.02
    analysis = harmonic_analysis(atoms, finite_difference_hessian(atoms, delta=1e-3))
    assert analysis.n_imaginary == 1
    # the aim is 15 cm⁻¹
    assert np.abs(analysis.wavenumbers - found.ts.analysis.wavenumbers).mean() < 15
    assert {end.atoms.get_chemical_formula() for end in found.ends} == {"CHN"}
    assert found.profile is not None
    assert found.path_error <= found.options.path_error
    model = train_model(found, tmp_path / "model.safetensors", "GFN2-xTB", epochs=2)
    calculator = PHLCalculator(model)
    atoms.calc = calculator
    assert np.isfinite(atoms.get_potential_energy())
    assert calculator.results["in_domain"]
    frames = frames_of(found.store, "hcn")
    assert sum(2 * len(frame.probes) for frame in frames if frame.probes is not None) + len(frames) == len(found.store)


def test_a_run_that_goes_on_fits_what_the_former_one_fitted(tmp_path, monkeypatch):
    """The likelihood has several summits: which one is climbed must not depend on a stop."""
    begun = []

    def spied(observations, numbers, begin):
        begun.append(begin)
        return KernelCorrection(observations, numbers, begin)

    monkeypatch.setattr("phl_ase.learning.surrogate.KernelCorrection", spied)
    found = learn_reaction(HCN_TS, None, store_of(tmp_path, HCN_TS), surrogate(), LearnOptions(ts_only=True))
    assert begun[0] == USUAL_KERNEL
    last = found.calculator.correction.choice
    assert last != USUAL_KERNEL
    again = surrogate()
    again.fit(store_of(tmp_path, HCN_TS))
    assert begun[-1] == last
    assert again.correction.choice == last
    hessians = [one.get_hessian(found.ts.atoms) for one in (again, found.calculator)]
    np.testing.assert_allclose(*hessians, atol=1e-4)  # the rounding of the start's self-consistent field
    # what cannot be read, or is of another grid, is no reason to stop
    (file,) = tmp_path.glob("kernel-*.json")
    for content in ("{", "[]", json.dumps({**asdict(last), "shape": 17.0})):
        file.write_text(content)
        surrogate().fit(store_of(tmp_path, HCN_TS))
        assert begun[-1] == USUAL_KERNEL


def test_without_hvps_only_confirming_ones_are_bought(tmp_path):
    options = LearnOptions(ts_only=True, hvp=0, end_hvp=0)
    found = learn_reaction(HCN_TS, None, store_of(tmp_path, HCN_TS), surrogate(), options)
    assert found.verified, found.reason
    assert len(found.store.hvps) == options.ts_modes


def test_a_start_from_nothing_finds_the_ts(tmp_path):
    options = LearnOptions(ts_only=True)
    found = learn_reaction(HCN_TS, None, store_of(tmp_path, HCN_TS), LearnedCalculator(None), options)
    assert found.verified, found.reason


# ------------------------------------------------------------------------------------------------------------- command


@pytest.fixture
def phl(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*words: str):
        done = CliRunner().invoke(app, list(words))
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.output

    return run


def test_the_command_writes_everything(phl):
    ase.io.write("guess.xyz", HCN_TS, format="xyz")
    code, said = phl("learn", "guess.xyz", "--with", "tblite", "--json", "found.json")
    assert code == 0, said
    assert "verified" in said
    found = json.loads(Path("found.json").read_text())
    assert found["outcome"] == "verified"
    assert found["verified"] is True
    assert found["reference_gradients"] > found["steps"][-1]["gradients"] + 3 * 2  # curvature is learnt last
    assert 900 < found["ts"]["imaginary_wavenumber"] < 1500
    assert found["fmax"] <= 0.02
    assert found["barriers"]["forward_kcal_per_mol"] > 0
    # the profile's energies are the reference's, not the fit's
    energies = [found[name]["energy_eV"] for name in ("reactant", "ts", "product")]
    points = found["profile"]["points"].values()
    assert [point["energy_eV"] for point in points] == energies
    forward = found["barriers"]["forward_kcal_per_mol"]
    assert found["profile"]["relative_kcal_per_mol"]["energy"][1] == pytest.approx(forward, abs=1e-9)
    assert f"{forward:.2f}" in said
    assert "next:    phl freq guess_learn_points.xyz --with tblite" in said
    with open_dataset("guess_learn_labels.h5") as labels:
        assert labels.meta.level_of_theory == "GFN2-xTB"
        assert sum(frame.probes is not None for frame in labels) == 3
    for name in (".xyz", "_points.xyz", ".pdf", "_convergence.pdf", ".json"):
        assert Path(f"guess_learn{name}").stat().st_size > 0
    code, said = phl("learn", "guess.xyz", "--with", "tblite")
    assert code == 0, said
    assert f"going on with {found['reference_gradients']} reference gradients" in said
    assert json.loads(Path("guess_learn.json").read_text())["reference_gradients"] == found["reference_gradients"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ts.xyz", "--product", "ts.xyz", "--with", "tblite"], "the same structure"),
        (["ts.xyz", "--product", "water.xyz", "--with", "tblite"], "expected the same atoms"),
        (["ts.xyz", "--product", "turned.xyz", "--with", "tblite"], "another order"),
        (["ts.xyz", "--with", "tblite", "--budget", "5"], "a budget of 5 reference gradients cannot do"),
        (["chloride.xyz", "--with", "tblite", "--from", "default"], "does not know Cl; --from tblite:GFN1-xTB"),
        (["ts.xyz", "--with", "tblite", "--from", "tblite"], "is the reference itself"),
        (["ts.xyz", "--with", "tblite", "--charge", "1"], "multiplicity 1 is impossible"),
        (["ts.xyz", "--with", "nothing"], "unknown model"),
        (["helium.xyz", "--with", "tblite"], "a single atom; a reaction needs at least 2"),
        (["ts.xyz", "--with", "tblite", "--fmax", "0"], "expected a positive number"),
    ],
)
def test_mistakes_are_one_line(phl, words, said):
    ase.io.write("ts.xyz", HCN_TS, format="xyz")
    ase.io.write("turned.xyz", HCN_TS[[1, 0, 2]], format="xyz")
    ase.io.write("water.xyz", molecule("H2O"), format="xyz")
    ase.io.write("chloride.xyz", molecule("CH3Cl"), format="xyz")
    ase.io.write("helium.xyz", Atoms("He"), format="xyz")
    code, output = phl("learn", *words)
    assert code == 2, output
    assert "--product" not in words or not list(Path().glob("*.work"))
    assert said in output
    assert "Traceback" not in output


def test_recommended_starts():
    assert recommended_start("tblite") == "tblite:GFN1-xTB"
    assert recommended_start("tblite:GFN1-xTB") == "tblite"
    assert recommended_start("pyscf:pbe0/def2-svp") == "tblite"
    uranium = Atoms("UH", [(0, 0, 0), (0, 0, 2.0)])
    with pytest.raises(PHLError, match="does not know U; a start from nothing"):
        make_start("auto", "pyscf", uranium)
