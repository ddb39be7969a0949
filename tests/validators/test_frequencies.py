"""Validation of frequencies where the answers are known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from clusters import Broken, lennard_jones, raises, rhombus, tetrahedron

from phl_ase.curvature import DIFFERENCES, EXACT
from phl_ase.datasets import open_dataset
from phl_ase.datasets.reactions import reactions_of
from phl_ase.errors import PHLError
from phl_ase.paths import displaced, relax, rmsd
from phl_ase.plots.spectra import draw
from phl_ase.plots.style import to_png
from phl_ase.resolver import resolve_calculator
from phl_ase.results import Report
from phl_ase.units import convert
from phl_ase.validators import ReferenceCurvature, validate_frequencies, validate_relaxed_frequencies
from phl_ase.validators import frequencies as frequencies_module
from phl_ase.vibrations import finite_difference_hessian, harmonic_analysis, rigid_motions, thermochemistry

NAMES = {"system": "LJ4", "potential": "LJ"}


def reference_at(atoms: Atoms, **options) -> ReferenceCurvature:
    """A structure with its own calculator's curvature as reference."""
    return ReferenceCurvature(atoms, finite_difference_hessian(atoms), **options)


def values(report: Report) -> dict[str, float]:
    return {metric.name: metric.value for metric in report.metrics}


@pytest.fixture(scope="module")
def saddle():
    return rhombus()


@pytest.fixture(scope="module")
def nh3():
    """GFN2-xTB ammonia at its minimum."""
    atoms = molecule("NH3")
    atoms.calc = resolve_calculator("tblite")
    found = relax(atoms, 1e-4)
    assert found.converged
    return found.atoms


# ------------------------------------------------------------------------------------------------- stationary points


def test_frequencies_against_themselves_have_no_error(saddle):
    report = validate_frequencies(reference_at(saddle), finite_difference_hessian, **NAMES)
    assert report.outcome == "agrees"
    found = values(report)
    for name, value in found.items():
        if name.endswith(("MAE", "error")):
            assert value == 0, name
    for name in ("|cos| of mode 1", "|cos| of mode 2", "mean mode overlap"):
        assert found[name] == pytest.approx(1)
    for name in ("imaginary modes", "modes left out of G"):
        assert report.metric(name).value == report.metric(name).reference == 1
    assert report.metric("imaginary wavenumber").value < 0
    assert report.provenance["curvature"] == "a Hessian function"
    assert Report.from_dict(json.loads(json.dumps(report.to_dict()))).outcome == "agrees"


def test_a_hessian_too_stiff_by_a_known_factor(saddle):
    """1.21 H has 1.1 times the wavenumbers, the same modes and 1.21 times the eigenvalues."""
    hessian = finite_difference_hessian(saddle)
    report = validate_frequencies(reference_at(saddle), 1.21 * hessian, **NAMES)
    reference = harmonic_analysis(saddle, hessian)
    found = values(report)
    assert report.outcome == "agrees"
    for name in ("frequency MAE", "matched frequency MAE"):
        assert found[name] == pytest.approx(0.1 * np.abs(reference.wavenumbers).mean())
    for name in ("largest frequency error", "largest matched frequency error"):
        assert found[name] == pytest.approx(0.1 * np.abs(reference.wavenumbers).max())
    assert found["imaginary wavenumber"] == pytest.approx(1.1 * reference.wavenumbers[0])
    assert found["ZPE error"] == pytest.approx(0.1 * reference.zero_point_energy_mev)
    assert found["Hessian MAE"] == pytest.approx(0.21 * np.abs(hessian).mean())
    raw = np.linalg.eigvalsh(hessian)
    assert found["eigenvalue MAE"] == pytest.approx(0.21 * np.abs(raw).mean())
    # six of the twelve are rigid motions, next to zero: without them the mean doubles
    assert found["projected eigenvalue MAE"] == pytest.approx(2 * found["eigenvalue MAE"], rel=1e-4)
    np.testing.assert_allclose(report.arrays["wavenumbers"], 1.1 * reference.wavenumbers)
    gibbs = thermochemistry(harmonic_analysis(saddle, 1.21 * hessian), 0.0)
    assert found["G correction"] == pytest.approx(convert(gibbs.gibbs_correction, "eV", "kcal/mol"))


def test_projected_errors_do_not_see_rigid_noise(nh3):
    """Noise on translations and rotations alone: the raw errors see it, the projected ones do not."""
    reference = reference_at(nh3)
    rigid = rigid_motions(nh3.positions, np.ones(4))
    noisy = reference.hessian + 2.0 * rigid @ rigid.T
    found = values(validate_frequencies(reference, noisy, **NAMES))
    assert found["Hessian MAE"] > 0.1
    assert found["eigenvalue MAE"] == pytest.approx(2.0 * 6 / 12, rel=1e-3)
    for name in ("projected Hessian MAE", "projected eigenvalue MAE"):
        assert found[name] == pytest.approx(0, abs=1e-12)


def test_degenerate_lowest_modes_are_scored_as_a_space():
    """The bends of CO2: any two directions are as good as another."""
    atoms = molecule("CO2")
    atoms.calc = resolve_calculator("tblite")
    relaxed = relax(atoms, 1e-4).atoms
    hessian = finite_difference_hessian(relaxed)
    axis = relaxed.positions[1] - relaxed.positions[0]
    axis /= np.linalg.norm(axis)
    across = np.linalg.svd(axis[None])[2][1:]
    split = hessian + 1e-3 * np.kron(np.eye(3), np.outer(across[0] + across[1], across[0] + across[1]))
    found = values(validate_frequencies(ReferenceCurvature(relaxed, hessian), split, **NAMES))
    assert found["|cos| of mode 1"] == pytest.approx(1, abs=1e-6)
    assert found["mean mode overlap"] == pytest.approx(1, abs=1e-6)


def test_wrong_number_of_imaginary_modes_is_an_outcome():
    atoms = tetrahedron()
    reference = reference_at(atoms)
    report = validate_frequencies(reference, -reference.hessian, **NAMES)
    assert report.outcome == "wrong order"
    assert report.metric("imaginary modes").value == report.metric("modes left out of G").value == 6
    assert report.metric("imaginary modes").reference == 0
    assert "imaginary wavenumber" not in values(report)


@pytest.mark.parametrize(
    ("subject", "outcome", "words"),
    [
        (lambda atoms: np.full((12, 12), np.nan), "exploded", "NaN"),
        (raises, "failed", "RuntimeError: SCF did not converge"),
        (Broken(raises), "failed", "RuntimeError: SCF did not converge"),
        (Broken(lambda atoms: {"energy": 0.0, "forces": np.full((4, 3), np.nan)}), "exploded", "NaN"),
    ],
)
def test_a_hessian_that_cannot_be_had_is_an_outcome(subject, outcome, words):
    report = validate_frequencies(reference_at(tetrahedron()), subject, **NAMES)
    assert report.outcome == outcome
    assert words in report.sentence
    assert np.isnan(report.metric("frequency MAE").value)
    assert report.metric("ZPE").reference > 0


class Interrupted(Broken):
    def __init__(self):
        def stop(_):
            raise KeyboardInterrupt

        super().__init__(stop)


def test_ctrl_c_is_not_swallowed():
    for validate in (validate_frequencies, validate_relaxed_frequencies):
        with pytest.raises(KeyboardInterrupt):
            validate(reference_at(tetrahedron()), Interrupted(), **NAMES)


@pytest.mark.parametrize(("calculator", "source"), [("tblite", DIFFERENCES), ("default", EXACT)])
def test_the_provenance_says_where_the_curvature_is_from(nh3, calculator, source):
    report = validate_frequencies(reference_at(nh3), resolve_calculator(calculator), **NAMES)
    assert report.outcome == "agrees"
    assert report.provenance["curvature"] == source


def test_an_atom_alone():
    """No vibration; what is left of its Gibbs energy is translation: S = 154.85 J/(mol K) at 1 bar (CODATA)."""
    atoms = Atoms("Ar", calculator=lennard_jones())
    for validate in (validate_frequencies, validate_relaxed_frequencies):
        report = validate(reference_at(atoms), lennard_jones(), **NAMES)
        assert report.outcome == "no vibrations"
        assert report.metric("ZPE").value == 0
        assert report.metric("G correction").value == pytest.approx(-9.545, abs=0.002)  # H − TS, S of the tables
        assert report.metric("G correction error").value == 0


def test_fixed_atoms(nh3):
    """Only the free block is compared, and there is no gas of molecules that are held."""
    held = nh3.copy()
    held.calc = nh3.calc
    held.set_constraint(FixAtoms([0]))
    report = validate_frequencies(ReferenceCurvature(held, finite_difference_hessian(held)), nh3.calc, **NAMES)
    assert report.outcome == "agrees"
    assert report.arrays["wavenumbers"].shape == (6,)  # nine less the rotations about the atom that is held
    assert "G correction" not in values(report)


# -------------------------------------------------------------------------------------------------- relaxed geometry


def test_relaxed_minimum_is_found_and_compared(nh3):
    """A reference that is the potential itself: it walks back, whatever orientation it started in."""
    start = displaced(nh3, 0.05, 0)
    start.rotate(40, (1, 2, 3))
    away = ReferenceCurvature(start, harmonic_analysis(nh3, finite_difference_hessian(nh3)).hessian, kind="elsewhere")
    with pytest.raises(PHLError, match="needs one of its stationary points"):
        validate_relaxed_frequencies(away, nh3.calc, **NAMES)
    turned = nh3.copy()
    turned.calc = nh3.calc
    turned.rotate(40, (1, 2, 3))
    report = validate_relaxed_frequencies(reference_at(turned), nh3.calc, **NAMES)
    found = values(report)
    assert report.outcome == "agrees"
    assert found["RMSD to the reference"] < 1e-3
    assert found["frequency MAE"] < 0.5
    assert found["mean mode overlap"] > 0.999
    assert "Hessian MAE" not in found
    assert report.provenance["geometry"] == "stationary point of the potential"


@pytest.mark.parametrize("kind", ["transition_state", "product"])
def test_relaxed_stationary_points_of_another_method(kind):
    """GFN2-xTB at its own HCN/HNC stationary points, near those of DFT; modes are turned onto the reference's."""
    frame = getattr(reactions_of(open_dataset("reactions-wb97xd-631gd"), ["hcn_hnc"])["hcn_hnc"], kind)
    reference = ReferenceCurvature(Atoms(frame.numbers, frame.positions), frame.hessian, frame.forces)
    calculator = resolve_calculator("tblite")
    report = validate_relaxed_frequencies(reference, calculator, system="HCN", potential="GFN2-xTB")
    found = values(report)
    assert report.outcome == "agrees"
    assert 0.005 < found["RMSD to the reference"] < 0.2
    assert found["mean mode overlap"] > 0.8
    assert found["steps"] > 1
    # what was found is a stationary point: its frequencies are those of an independent relaxation
    if kind == "product":
        atoms = Atoms(frame.numbers, frame.positions, calculator=calculator)
        again = relax(atoms, 1e-4).atoms
        assert found["RMSD to the reference"] == pytest.approx(rmsd(again, atoms), abs=1e-3)
        expected = harmonic_analysis(again, finite_difference_hessian(again)).wavenumbers
        np.testing.assert_allclose(report.arrays["wavenumbers"], expected, atol=1.0)


def test_relaxed_searches_that_fail_are_outcomes(saddle):
    reference = reference_at(saddle)
    report = validate_relaxed_frequencies(reference, Broken(raises), **NAMES)
    assert report.outcome == "not found"
    assert "SCF did not converge" in report.sentence
    upside_down = ReferenceCurvature(tetrahedron(), -finite_difference_hessian(tetrahedron()))
    report = validate_relaxed_frequencies(upside_down, lennard_jones(), **NAMES)
    assert report.outcome == "not found"
    assert "6 imaginary modes" in report.sentence
    # EMT's copper dimer is shorter by far: relaxed from the length of an argon one
    dimer = Atoms("Cu2", [[0, 0, 0], [0, 0, 3.2]])
    bond = np.array([0, 0, -1, 0, 0, 1.0])
    report = validate_relaxed_frequencies(ReferenceCurvature(dimer, np.outer(bond, bond)), EMT(), **NAMES)
    assert report.outcome == "another structure"
    assert report.metric("RMSD to the reference").value > 0.25
    assert np.isnan(report.metric("frequency MAE").value)
    # how far is too far is for the caller to say
    wide = validate_relaxed_frequencies(
        ReferenceCurvature(dimer, np.outer(bond, bond)), EMT(), same_within=2.0, **NAMES
    )
    assert wide.outcome == "agrees"


# --------------------------------------------------------------------------------------------- off stationary points


def test_off_stationary_points_eigenvalues_are_scored(nh3):
    atoms = displaced(nh3, 0.2, 1)
    atoms.calc = nh3.calc
    reference = reference_at(atoms, forces=atoms.get_forces())
    report = validate_frequencies(reference, 1.1 * reference.hessian, **NAMES)
    found = values(report)
    assert report.outcome == "off stationary"
    assert not {"frequency MAE", "ZPE", "G correction"} & set(found)
    assert found["lowest eigenvalue"] == pytest.approx(1.1 * report.metric("lowest eigenvalue").reference)
    assert found["|cos| of mode 1"] == pytest.approx(1)
    assert report.arrays["eigenvalues"].shape == (6,)
    assert found["projected eigenvalue MAE"] == pytest.approx(
        0.1 * np.abs(report.arrays["reference_eigenvalues"]).mean()
    )
    failed = validate_frequencies(reference, raises, **NAMES)
    assert failed.outcome == "failed"
    assert np.isnan(failed.metric("eigenvalue MAE").value)


def test_on_a_path_the_gradient_is_projected_out(nh3):
    """What happens along the reference's gradient is not scored: it is no property of the valley."""
    atoms = displaced(nh3, 0.2, 1)
    atoms.calc = nh3.calc
    forces = atoms.get_forces()
    reference = reference_at(atoms, forces=forces, kind="irc")
    along = forces.ravel() / np.linalg.norm(forces)
    report = validate_frequencies(reference, reference.hessian + 5.0 * np.outer(along, along), **NAMES)
    assert report.outcome == "on a path"
    assert "gradient projected out" in report.sentence
    found = values(report)
    assert report.arrays["eigenvalues"].shape == (5,)
    assert found["projected eigenvalue MAE"] == pytest.approx(0, abs=1e-10)
    assert found["eigenvalue MAE"] > 0.1


@pytest.mark.parametrize(("largest", "kind"), [(0.01, "agrees"), (0.2, "off stationary")])
def test_forces_say_whether_a_point_is_stationary(nh3, largest, kind):
    forces = np.zeros((4, 3))
    forces[0, 0], forces[1, 0] = largest, -largest
    reference = reference_at(nh3, forces=forces)
    assert validate_frequencies(reference, reference.hessian, **NAMES).outcome == kind


# ------------------------------------------------------------------------------------------------- mistakes, figures


def test_the_caller_gets_told_of_mistakes(nh3):
    good = reference_at(nh3)
    hessian = good.hessian
    order = np.array([1, 0, 2, 3])
    rows = (3 * order[:, None] + np.arange(3)).ravel()
    periodic = nh3.copy()
    periodic.set_cell(np.eye(3) * 9)
    periodic.pbc = True
    for reference, subject, words in (
        (good, hessian.reshape(4, 3, 4, 3), r"shape \(4, 3, 4, 3\), expected \(12, 12\)"),
        (good, hessian[:9, :9], r"expected \(12, 12\) for 4 atoms"),
        (ReferenceCurvature(nh3, np.full_like(hessian, np.inf)), hessian, "NaN or infinity"),
        (ReferenceCurvature(nh3, hessian[np.ix_(rows, rows)]), hessian, "another order"),
        (ReferenceCurvature(periodic, hessian), hessian, "periodic"),
        (ReferenceCurvature(bulk("Cu"), np.eye(3)), np.eye(3), "periodic"),
        (ReferenceCurvature(nh3, hessian, kind="irc"), hessian, "forces"),
        (ReferenceCurvature(nh3, hessian, kind="product"), hessian, "valid: elsewhere, irc, stationary"),
        (ReferenceCurvature(nh3, hessian, np.zeros((3, 3))), hessian, r"expected \(4, 3\)"),
        (ReferenceCurvature(nh3, hessian, np.full((4, 3), np.nan)), hessian, "NaN"),
    ):
        with pytest.raises(PHLError, match=words) as error:
            validate_frequencies(reference, subject, **NAMES)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("outcome", sorted(frequencies_module.FREQUENCY_OUTCOMES))
def test_every_outcome_has_a_sentence(outcome):
    assert len(frequencies_module.FREQUENCY_OUTCOMES[outcome].split()) > 3


def test_figure_of_spectra(saddle, nh3):
    """One panel for each system, one lane for each potential, whatever became of it; read back from JSON."""
    ar4 = reference_at(saddle)
    away = reference_at(nh3, kind="elsewhere")
    reports = [
        validate_frequencies(ar4, 1.2 * ar4.hessian, system="LJ4", potential="stiff"),
        validate_frequencies(ar4, raises, system="LJ4", potential="broken"),
        validate_frequencies(away, away.hessian, system="NH3", potential="stiff"),
    ]
    figure = draw([Report.from_dict(json.loads(json.dumps(report.to_dict()))) for report in reports])
    (axes,) = [axes for axes in figure.axes if axes.axison]
    assert axes.get_title(loc="left") == "LJ4"
    assert axes.get_xlabel() == "wavenumber / cm⁻¹"
    texts = [text.get_text() for text in axes.texts]
    assert texts[0].startswith("MAE ")
    assert texts[1] == "failed"
    assert "without wavenumbers: 1" in figure.get_supxlabel()
    assert to_png(draw, reports).startswith(b"\x89PNG")
    many = [
        Report(str(number), "p", "agrees", arrays=reports[0].arrays, validator="frequencies") for number in range(20)
    ]
    figure = draw(many)
    assert sum(axes.axison for axes in figure.axes) == 12
    assert "systems not shown: 8" in figure.get_supxlabel()
    with pytest.raises(PHLError, match="reports on frequencies"):
        draw([Report("a", "b", "c", validator="irc")])
    assert to_png(draw, []).startswith(b"\x89PNG")
