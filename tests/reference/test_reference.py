"""Reference methods and the labels of one frame.

The default run needs no PySCF: dispersion, labels by EMT and GFN2-xTB. What needs PySCF is marked ``reference``.
"""

from __future__ import annotations

import copy
import gc
import pickle
import sys
import tempfile
import weakref
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.units import Bohr, Hartree

from phl_ase.curvature import EXACT, curvature_of, finite_difference_hvp
from phl_ase.datasets import open_dataset
from phl_ase.errors import NonFiniteError, PHLError
from phl_ase.probes import FAMILIES
from phl_ase.reference import (
    FAILURES,
    HESSIANS,
    METHODS,
    Probes,
    PySCFCalculator,
    SCFNotConverged,
    chai_head_gordon,
    choose_step,
    label_frame,
    level_of_theory,
    make_method,
)
from phl_ase.reference import scf as scf_module
from phl_ase.reference.pyscf_method import with_sum_rule
from phl_ase.resolver import CALCULATORS as RESOLVED
from phl_ase.resolver import resolve_calculator
from phl_ase.structures import Frame, atoms_from_frame, frame_from_atoms

BUNDLE = "reactions-wb97xd-631gd"


def rattled(name: str, size: float = 0.05) -> Atoms:
    atoms = molecule(name)
    atoms.rattle(size, seed=3)
    return atoms


# --------------------------------------------------------------------------------------------------------- dispersion

# C6 (Ha Bohr⁶) and R0 (Bohr) of D2 as Psi4 tabulates them in atomic units (psi4/src/psi4/libdisp/dispersion_defines.h):
# an independent copy of the published table, by another conversion
PSI4 = {
    1: (2.4283353778422600, 1.89161571498900),
    6: (30.354192223028200, 2.74388213602800),
    8: (12.141676889211300, 2.53601227723800),
    18: (79.961614941805800, 3.01411295245500),
}


def psi4_energy(atoms: Atoms) -> float:
    """The sum over pairs as it is printed in the paper, Ha."""
    energy = 0.0
    for i in range(len(atoms)):
        for j in range(i):
            r = np.linalg.norm(atoms.positions[i] - atoms.positions[j]) / Bohr
            (c6_i, r0_i), (c6_j, r0_j) = PSI4[atoms.numbers[i]], PSI4[atoms.numbers[j]]
            energy -= np.sqrt(c6_i * c6_j) / r**6 / (1.0 + 6.0 * (r / (r0_i + r0_j)) ** -12)
    return energy


@pytest.mark.parametrize(
    "atoms", [molecule("CH3CH2OH"), molecule("C6H6"), Atoms("Ar2", [[0, 0, 0], [0, 0, 3.8]])], ids=str
)
def test_dispersion_energy_with_the_numbers_of_psi4(atoms):
    # the tables agree to six digits: Psi4 converted with other constants
    assert chai_head_gordon(atoms.numbers, atoms.positions).energy == pytest.approx(
        psi4_energy(atoms) * Hartree, rel=3e-6
    )


def test_dispersion_of_a_pair_by_hand():
    # Ar2 at 3.80 Å: C6 = 4.61 J nm⁶/mol = 47.779 eV Å⁶, R0 = 3.190 Å:
    # 47.779 / 3010.936 = 0.0158686; (3.80 / 3.19)⁻¹² = 0.122495; 0.0158686 / (1 + 6 · 0.122495) = 0.0091460
    pair = chai_head_gordon(np.array([18, 18]), np.array([[0, 0, 0], [0, 0, 3.8]]))
    assert pair.energy == pytest.approx(-0.0091460, abs=2e-6)


@pytest.mark.parametrize("name", ["CH3CH2OH", "SiH4", "PH3", "CH3Cl", "H2COH", "LiF"])
def test_dispersion_derivatives_against_differences(name):
    atoms = rattled(name)
    numbers, positions, n = atoms.numbers, atoms.positions, len(atoms)
    here, delta = chai_head_gordon(numbers, positions), 1e-3

    def at(index: int, steps: int):
        moved = positions.copy()
        moved.ravel()[index] += steps * delta
        return chai_head_gordon(numbers, moved)

    gradient, hessian = np.zeros(3 * n), np.zeros((3 * n, 3 * n))
    for index in range(3 * n):
        ahead, back, further, behind = (at(index, steps) for steps in (1, -1, 2, -2))
        # five points: the error is of fourth order, 1e-12 of δ⁴ times a derivative of order five
        gradient[index] = (8 * (ahead.energy - back.energy) - (further.energy - behind.energy)) / (12 * delta)
        hessian[index] = (8 * (ahead.gradient - back.gradient) - (further.gradient - behind.gradient)).ravel() / (
            12 * delta
        )
    np.testing.assert_allclose(here.gradient.ravel(), gradient, atol=1e-7 * np.abs(gradient).max())
    np.testing.assert_allclose(here.hessian, hessian, atol=1e-7 * np.abs(hessian).max())


def test_dispersion_keeps_the_rules(rng):
    atoms = rattled("CH3CH2OH")
    here = chai_head_gordon(atoms.numbers, atoms.positions)
    assert here.energy < 0
    np.testing.assert_allclose(here.hessian, here.hessian.T, atol=1e-15)
    np.testing.assert_allclose(here.gradient.sum(axis=0), 0, atol=1e-15)
    np.testing.assert_allclose(here.hessian.reshape(9, 3, 9, 3).sum(axis=2), 0, atol=1e-14)
    np.testing.assert_allclose(np.cross(atoms.positions, here.gradient).sum(axis=0), 0, atol=1e-14)
    alone = chai_head_gordon(np.array([6]), np.zeros((1, 3)))
    assert (alone.energy, alone.gradient.any(), alone.hessian.any()) == (0.0, False, False)
    on_top = chai_head_gordon(np.array([1, 1]), np.zeros((2, 3)))
    assert on_top.energy == 0.0
    assert np.all(np.isfinite(on_top.hessian))
    assert chai_head_gordon(np.array([1, 1]), np.array([[0, 0, 0], [0, 0, 1e4]])).energy == pytest.approx(
        0.0, abs=1e-20
    )


def test_dispersion_of_what_it_does_not_know():
    with pytest.raises(PHLError, match="no parameters for Pt, Au; it covers H to Xe"):
        chai_head_gordon(np.array([79, 78, 1]), np.zeros((3, 3)))
    with pytest.raises(PHLError, match=r"shape \(2, 3\); expected \(1, 3\)"):
        chai_head_gordon(np.array([1]), np.zeros((2, 3)))
    with pytest.raises(NonFiniteError):
        chai_head_gordon(np.array([1]), np.full((1, 3), np.nan))


# ------------------------------------------------------------------------------------------------------------ methods


def test_the_resolver_knows_every_method():
    assert set(METHODS) <= set(RESOLVED)
    assert all(method.description for method in METHODS.values())
    assert isinstance(make_method("emt"), EMT)
    with pytest.raises(PHLError, match="unknown reference method 'dft'; valid: emt, pyscf, tblite"):
        make_method("dft")


def test_level_of_theory_of_calculators():
    assert level_of_theory(resolve_calculator("tblite:GFN1-xTB")) == "GFN1-xTB"
    assert level_of_theory(EMT()) == "EMT"


# -------------------------------------------------------------------------------------------------- labels of a frame


@pytest.fixture(scope="module")
def xtb():
    return resolve_calculator("tblite")


def test_energy_and_forces(xtb):
    atoms = rattled("CH3OH")
    atoms.info.update(kind="nms", reaction="none", temperature=300.0)
    labelled = label_frame(atoms, xtb)
    frame, atoms.calc = labelled.frame, xtb
    assert labelled.failure is None
    assert labelled.gradients == 1
    assert frame.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    np.testing.assert_allclose(frame.forces, atoms.get_forces(), atol=1e-8)
    assert (frame.kind, frame.reaction, frame.temperature) == ("nms", "none", 300.0)
    assert frame.hessian is frame.probes is frame.hvp is None


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_hvps_are_a_converged_hessian_times_recorded_probes(xtb, family):
    atoms = rattled("H2CO")
    labelled = label_frame(atoms, xtb, probes=Probes(family, 3, seed=5), estimate_error=True)
    frame = labelled.frame
    count = 12 if FAMILIES[family].complete else 3
    assert frame.probes.shape == (count, 4, 3)
    assert labelled.gradients == 1 + 4 * count
    hvps = converged_hessian(atoms, xtb) @ frame.probes.reshape(count, 12).T
    error = frame.hvp.reshape(count, 12).T - hvps
    # all atoms move at once by the step: twice the error of a Hessian's columns
    assert np.sqrt(np.mean(error**2)) < 3e-3
    # truncation dominates, where the comparison of two steps estimates the error itself
    assert labelled.hvp_error == pytest.approx(np.sqrt(np.mean(error**2)), rel=0.3)
    np.testing.assert_array_equal(label_frame(atoms, xtb, probes=Probes(family, 3, seed=5)).frame.probes, frame.probes)


def converged_hessian(atoms: Atoms, calculator) -> np.ndarray:
    """Differences of fourth order: they agree to 1e-4 eV/Å² with those of twice the step."""
    atoms = atoms.copy()
    atoms.calc = calculator
    unit = np.eye(3 * len(atoms)).reshape(-1, len(atoms), 3)
    near, far = (finite_difference_hvp(unit, atoms, delta=delta).reshape(len(unit), -1) for delta in (0.004, 0.008))
    return (4 * near - far) / 3


def test_probes_follow_the_identity_of_the_frame(xtb):
    frames = [Frame(**{**vars(frame_from_atoms(rattled("H2CO"))), "frame_id": k}) for k in (0, 1)]
    first, second = (label_frame(frame, xtb, probes=Probes(count=2)).frame for frame in frames)
    assert (first.frame_id, second.frame_id) == (0, 1)
    assert np.any(first.probes != second.probes)
    assert np.any(Probes(seed=1).draw(first) != Probes(seed=0).draw(first))


@pytest.mark.parametrize("kind", sorted(HESSIANS))
def test_hessians(xtb, kind):
    atoms = rattled("H2CO")
    labelled = label_frame(atoms, xtb, hessian=kind)
    assert labelled.gradients == 1 + 6 * 4
    expected = converged_hessian(atoms, xtb)
    assert np.sqrt(np.mean((labelled.frame.hessian - expected) ** 2)) < 1e-3
    np.testing.assert_array_equal(labelled.frame.hessian, labelled.frame.hessian.T)


def test_labels_of_a_crystal():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=1)
    frame = label_frame(atoms, EMT(), probes=Probes(count=1)).frame
    assert frame.pbc.all()
    assert np.abs(frame.hvp).max() > 1


class Broken(Calculator):
    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, problem: Exception) -> None:
        super().__init__()
        self.problem = problem

    def calculate(self, *arguments, **options):
        raise self.problem


@pytest.mark.parametrize(
    ("problem", "outcome"),
    [
        (SCFNotConverged("no\nrung"), "scf"),
        (NonFiniteError("NaN"), "not-finite"),
        (PHLError("no such element"), "refused"),
        (ZeroDivisionError(), "crashed"),
    ],
)
def test_a_failure_is_a_result(problem, outcome):
    atoms = rattled("H2O")
    labelled = label_frame(atoms, Broken(problem), hessian="own")
    assert labelled.failure.outcome == outcome
    assert outcome in FAILURES
    assert labelled.failure.reason == (" ".join(str(problem).split()) or "ZeroDivisionError")
    assert labelled.frame.energy is labelled.frame.forces is None
    np.testing.assert_array_equal(labelled.frame.positions, atoms.positions)


def test_an_interrupt_is_not_swallowed():
    with pytest.raises(KeyboardInterrupt):
        label_frame(rattled("H2O"), Broken(KeyboardInterrupt()))


def test_structures_that_cannot_be_labelled(xtb):
    assert label_frame(Atoms(), xtb).failure.outcome == "refused"
    assert label_frame(Atoms("H", [[np.nan, 0, 0]]), xtb).failure.outcome == "not-finite"
    assert label_frame(molecule("H2"), xtb, probes=Probes("orthogonal", 7)).failure.outcome == "refused"
    flat = Atoms("Cu", cell=[[3, 0, 0], [3, 1e-5, 0], [0, 0, 3]], pbc=True)  # EMT's own neighbour list would not end
    assert "its own image are 1e-05 Å apart" in label_frame(flat, EMT()).failure.reason


def test_mistakes_in_the_request(xtb):
    atoms = rattled("H2O")
    with pytest.raises(PHLError, match="unknown kind of Hessian 'numerical'; valid: differences, own"):
        label_frame(atoms, xtb, hessian="numerical")
    with pytest.raises(PHLError, match="positive displacement"):
        label_frame(atoms, xtb, step=0.0)
    with pytest.raises(PHLError, match="no probes were asked for"):
        label_frame(atoms, xtb, estimate_error=True)
    with pytest.raises(PHLError, match="unknown probe family"):
        Probes("radioactive")
    with pytest.raises(PHLError, match="at least 1"):
        Probes(count=0)
    with pytest.raises(PHLError, match="three ascending"):
        choose_step(atoms, xtb, steps=(0.01, 0.02))


def test_the_step_chosen_lies_between_noise_and_curvature(xtb):
    step, differences = choose_step(rattled("H2CO"), xtb, steps=(1e-5, 1e-3, 0.005, 0.02, 0.1))
    assert differences[0.02] > differences[step]
    assert step in (1e-3, 0.005)


def test_the_sum_rule_changes_diagonal_blocks_alone(rng):
    noisy = rng.normal(size=(12, 12))
    mended = with_sum_rule(noisy)
    np.testing.assert_allclose(mended, mended.T, atol=1e-15)
    # what is left in a sum is the antisymmetric part of a row of blocks, which no symmetric diagonal block can take
    sums = mended.reshape(4, 3, 4, 3).sum(axis=2)
    np.testing.assert_allclose(sums + sums.transpose(0, 2, 1), 0, atol=1e-14)
    blocks, before = mended.reshape(4, 3, 4, 3), (0.5 * (noisy + noisy.T)).reshape(4, 3, 4, 3)
    np.testing.assert_array_equal(blocks[0, :, 1], before[0, :, 1])


# -------------------------------------------------------------------------------------------------------------- PySCF


@pytest.fixture(scope="module")
def pyscf_calculator():
    pytest.importorskip("pyscf")
    return PySCFCalculator()


@pytest.mark.reference
@pytest.mark.parametrize(("reaction", "kind"), [("hcn_hnc", "ts"), ("nh3_inversion", "nms"), ("h2o2_cis", "displaced")])
def test_the_bundled_data_are_reproduced(pyscf_calculator, reaction, kind):
    frame = next(f for f in open_dataset(BUNDLE) if (f.reaction, f.kind) == (reaction, kind))
    calculator, atoms = pyscf_calculator, atoms_from_frame(frame)
    atoms.calc = calculator
    # the same program: energies to their SCF's 1e-10 Ha; forces to what 1e-10 Ha of energy left in theirs
    assert atoms.get_potential_energy() == pytest.approx(frame.energy, abs=1e-8)
    np.testing.assert_allclose(atoms.get_forces(), frame.forces, atol=1e-4)
    np.testing.assert_allclose(calculator.get_hessian(atoms), frame.hessian, atol=1e-3)


@pytest.mark.reference
def test_forces_are_the_gradient_of_the_energy(pyscf_calculator, rng):
    atoms = rattled("HCN")
    atoms.calc = pyscf_calculator
    forces, direction, delta = atoms.get_forces(), rng.normal(size=(3, 3)), 2e-3
    energies = {}
    for steps in (-2, -1, 1, 2):
        moved = atoms.copy()
        moved.positions += steps * delta * direction
        moved.calc = pyscf_calculator
        energies[steps] = moved.get_potential_energy()
    slope = (8 * (energies[1] - energies[-1]) - (energies[2] - energies[-2])) / (12 * delta)
    # energies good to 1e-9 eV over 2e-3 Å, fourth order: about 1e-6 eV/Å
    assert slope == pytest.approx(-np.sum(forces * direction), abs=2e-5)
    # with the response of the grid translations cost nothing
    np.testing.assert_allclose(forces.sum(axis=0), 0, atol=1e-9)


@pytest.mark.reference
def test_the_dispersion_is_added_to_pyscf_once():
    """PySCF called by hand, without anything of ours but the pair sum."""
    gto, dft = (pytest.importorskip(f"pyscf.{name}") for name in ("gto", "dft"))
    atoms = molecule("H2O")
    plain = dft.RKS(
        gto.M(atom=list(zip(atoms.numbers, atoms.positions / Bohr, strict=True)), unit="Bohr", basis="6-31g(d)",
                    cart=True, verbose=0),
        xc="471",
    )  # fmt: skip
    plain.grids.level = 4
    atoms.calc = PySCFCalculator()
    expected = plain.kernel() * Hartree + chai_head_gordon(atoms.numbers, atoms.positions).energy
    assert atoms.get_potential_energy() == pytest.approx(expected, abs=1e-6)


@pytest.mark.reference
def test_analytic_hessian_hvps_and_differences(rng):
    """The analytic Hessian lacks the response of the grid; HVPs by differences do not."""
    atoms = rattled("HCN")
    analytic, numerical = PySCFCalculator(), PySCFCalculator(hessian="differences")
    exact = numerical.get_hessian(atoms)
    assert np.abs(exact.reshape(3, 3, 3, 3).sum(axis=2)).max() < 5e-3
    assert np.abs(analytic.get_hessian(atoms) - exact).max() < 0.7
    assert np.abs(analytic.get_hessian(atoms).reshape(3, 3, 3, 3).sum(axis=2)).max() < 0.05
    vectors = rng.choice([-1.0, 1.0], size=(2, 3, 3))
    hvps = numerical.get_hvp(vectors, atoms).reshape(2, 9)
    # truncation of second order at steps that differ by √3: 0.01 eV/Å² of about 100
    np.testing.assert_allclose(hvps, vectors.reshape(2, 9) @ exact, atol=0.05)
    assert curvature_of(analytic).source == EXACT


@pytest.mark.reference
def test_open_shells_and_charge(pyscf_calculator):
    atoms = molecule("H2O")
    atoms.calc = pyscf_calculator
    neutral = atoms.get_potential_energy()
    atoms.info.update(charge=1, multiplicity=2)
    # ionisation of water: 12.6 eV vertical by experiment (NIST)
    assert atoms.get_potential_energy() - neutral == pytest.approx(12.6, abs=0.5)
    np.testing.assert_allclose(atoms.get_forces().sum(axis=0), 0, atol=1e-8)
    atoms.info.clear()
    assert atoms.get_potential_energy() == pytest.approx(neutral, abs=1e-7)


@pytest.mark.reference
@pytest.mark.parametrize("rung", scf_module.LADDER[1:], ids=lambda rung: rung.name)
def test_every_rung_reaches_the_same_energy(monkeypatch, rung):
    atoms = molecule("H2O")
    atoms.calc = PySCFCalculator("b3lyp", "sto-3g")
    expected = atoms.get_potential_energy()
    monkeypatch.setattr(scf_module, "LADDER", (rung,))
    atoms.calc.reset()
    assert atoms.get_potential_energy() == pytest.approx(expected, abs=1e-7)
    assert atoms.calc.rung == rung.name


@pytest.mark.reference
def test_no_convergence_is_an_error_with_its_reason_and_a_failed_frame(monkeypatch):
    pytest.importorskip("pyscf")

    def hopeless(mean_field):
        mean_field.max_cycle = 1
        return mean_field

    monkeypatch.setattr(scf_module, "LADDER", (scf_module.Rung("one cycle", hopeless),))
    labelled = label_frame(molecule("H2O"), PySCFCalculator("b3lyp", "sto-3g"))
    assert labelled.failure.outcome == "scf"
    assert "did not converge (one cycle)" in labelled.failure.reason


@pytest.mark.reference
def test_nothing_is_left_behind(tmp_path, monkeypatch, capfd):
    pyscf = pytest.importorskip("pyscf")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(pyscf.lib.param, "TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    threads = pyscf.lib.num_threads()
    calculator = PySCFCalculator("b3lyp", "sto-3g", threads=threads + 1)
    atoms = molecule("H2O")
    calculator.get_hessian(atoms)
    assert not list(Path(tmp_path).iterdir())
    assert pyscf.lib.num_threads() == threads
    assert capfd.readouterr() == ("", "")
    again = pickle.loads(pickle.dumps(calculator))
    assert again.get_potential_energy(atoms) == copy.deepcopy(calculator).get_potential_energy(atoms)


@pytest.mark.reference
def test_densities_are_carried_over(pyscf_calculator):
    atoms = rattled("HCN")
    pyscf_calculator.reset()
    atoms.calc = pyscf_calculator
    atoms.get_forces()
    assert pyscf_calculator.rung == "DIIS from atoms"
    atoms.positions[0, 0] += 0.01
    carried = atoms.get_forces()
    assert pyscf_calculator.rung == "DIIS from the carried density"
    pyscf_calculator.reset()
    np.testing.assert_allclose(atoms.get_forces(), carried, atol=5e-5)


@pytest.mark.reference
def test_pyscf_by_name():
    pytest.importorskip("pyscf")
    calculator = resolve_calculator("pyscf:b3lyp/def2-svp")
    assert level_of_theory(calculator) == "B3LYP/def2-svp"
    assert not calculator.cartesian
    assert resolve_calculator("pyscf").level_of_theory == "wB97X-D/6-31G(d)"
    assert resolve_calculator("pyscf").cartesian
    assert not PySCFCalculator("pbe0", "6-311g**").cartesian
    assert PySCFCalculator(cartesian=False).level_of_theory == "wB97X-D/6-31G(d), spherical d"
    for text in ("pyscf:b3lyp", "pyscf:/sto-3g"):
        with pytest.raises(PHLError, match="expected pyscf:FUNCTIONAL/BASIS"):
            resolve_calculator(text)


@pytest.mark.reference
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"functional": "nonsense"}, "no functional 'nonsense'"),
        ({"functional": "b2plyp"}, "second-order part"),
        ({"functional": "b97-d"}, "dispersion"),
        ({"grid_level": 2}, "expected 4 to 9"),
        ({"hessian": "numeric"}, "unknown kind of Hessian"),
        ({"step": -1.0}, "positive number"),
    ],
)
def test_options_that_do_not_exist(options, message):
    pytest.importorskip("pyscf")
    with pytest.raises(PHLError, match=message):
        PySCFCalculator(**options)


@pytest.mark.reference
@pytest.mark.parametrize(
    ("atoms", "options", "message"),
    [
        (Atoms("OH", [[0, 0, 0], [0, 0, 1]]), {}, "9 electrons, which cannot have multiplicity 1"),
        (Atoms("H2", [[0, 0, 0], [0, 0, 0.1]]), {}, "0.100 Å apart"),
        (Atoms("I2", [[0, 0, 0], [0, 0, 2.7]]), {"functional": "pbe0", "basis": "def2-svp"}, "core potentials"),
        (molecule("H2O"), {"basis": "6-31h"}, "no basis '6-31h' for all of H, O"),
        (bulk("Ne"), {}, "periodic"),
    ],
    ids=["electrons", "overlap", "heavy", "basis", "periodic"],
)
def test_structures_that_pyscf_cannot_treat(atoms, options, message):
    pytest.importorskip("pyscf")
    labelled = label_frame(atoms, PySCFCalculator(**options))
    assert labelled.failure.outcome == "refused"
    assert message in labelled.failure.reason
    with pytest.raises(PHLError):
        PySCFCalculator(**options).get_potential_energy(atoms)


@pytest.mark.reference
def test_a_mean_field_is_freed_at_once():
    """A cycle of references would keep its integrals, gigabytes of them, until the garbage collector comes by."""
    from pyscf import dft, gto

    from phl_ase.reference.in_memory import keep_in_memory

    mean_field = dft.RKS(gto.M(atom="H 0 0 0; H 0 0 0.74", basis="6-31g", verbose=0))
    mean_field.xc = "471"
    keep_in_memory(mean_field, 100)
    mean_field.kernel()
    gc.disable()
    try:
        alive = weakref.ref(mean_field)
        del mean_field
        assert alive() is None
    finally:
        gc.enable()


def test_without_pyscf_the_package_is_named_and_no_functional(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyscf", None)
    for text in ("pyscf", "pyscf:b3lyp/def2-svp"):
        with pytest.raises(PHLError, match=r"needs the package 'pyscf', which is not installed: pip install 'phl-ase"):
            make_method(text)


def test_xtb_takes_one_thread_also_where_torch_has_loaded_openmp(monkeypatch):
    from phl_ase.reference.methods import _openmp

    ase_calculator = pytest.importorskip("tblite.ase").TBLite
    library, seen = _openmp(), []
    if library is None:
        pytest.skip("no OpenMP library of a known name")
    calculate = ase_calculator.calculate

    def watched(self, *arguments, **options):
        seen.append(library.omp_get_max_threads())
        return calculate(self, *arguments, **options)

    monkeypatch.setattr(ase_calculator, "calculate", watched)
    before = library.omp_get_max_threads()
    library.omp_set_num_threads(3)
    try:
        for variable in (None, "3"):
            if variable is None:
                monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
            else:
                monkeypatch.setenv("OMP_NUM_THREADS", variable)
            water = molecule("H2O")
            water.calc = make_method("tblite")
            water.get_potential_energy()
            assert library.omp_get_max_threads() == 3
    finally:
        library.omp_set_num_threads(before)
    assert seen == [1, 3]
