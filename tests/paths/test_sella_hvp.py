"""Exact Hessian-vector products in Sella's eigensolver: the seam itself, and searches through it."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import inspect
import textwrap
from pathlib import Path

import numpy as np
import pytest
import sella
from ase import Atoms
from ase.build import add_adsorbate, fcc100, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.units import Bohr, Hartree
from clusters import RHOMBUS_ENERGY, lennard_jones, rhombus
from sella.linalg import NumericalHessian
from sella.peswrapper import PES, InternalPES

from phl_ase.curvature import DIFFERENCES, EXACT, Curvature, curvature_of
from phl_ase.errors import PHLError
from phl_ase.paths import RECOMMENDED, STRATEGIES, displaced, find_transition_state, search
from phl_ase.paths.counting import CountingHVP
from phl_ase.paths.sella_hvp import HVPSella

STIFFNESS = 7.0  # eV/Å²


class Springs(Calculator):
    """A spring between every two atoms, off its rest length: energy, forces and Hessian in closed form."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, length=1.3):
        super().__init__()
        self.length = length

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        vectors = atoms.positions[:, None] - atoms.positions[None]
        distances = np.linalg.norm(vectors, axis=2) + np.eye(len(atoms))
        stretch = (distances - self.length) * (1 - np.eye(len(atoms)))
        forces = -STIFFNESS * np.einsum("ij,ijk->ik", stretch / distances, vectors)
        self.results = {"energy": 0.25 * STIFFNESS * np.sum(stretch**2), "forces": forces}

    def get_hessian(self, atoms):
        n = len(atoms)
        hessian = np.zeros((n, 3, n, 3))
        for i in range(n):
            for j in range(n):
                if i != j:
                    vector = atoms.positions[i] - atoms.positions[j]
                    distance = np.linalg.norm(vector)
                    along = np.outer(vector, vector) / distance**2
                    block = STIFFNESS * (np.eye(3) - self.length / distance * (np.eye(3) - along))
                    hessian[i, :, i] += block
                    hessian[i, :, j] -= block
        return hessian.reshape(3 * n, 3 * n)

    def get_hvp(self, vectors, atoms):
        return (vectors.reshape(-1, 3 * len(atoms)) @ self.get_hessian(atoms)).reshape(vectors.shape)


def springs(name, seed=0, rms=0.1):
    atoms = displaced(molecule(name), rms, seed)
    atoms.calc = Springs()
    return atoms


def cluster(seed=0, rms=0.1):
    atoms = displaced(rhombus(), rms, seed)
    atoms.calc = lennard_jones()
    return atoms


def surface_of(atoms, internal, hvp=None):
    """Sella's surface with the exact probes in it, its first gradient done; and the probes."""
    hvps = CountingHVP(hvp or atoms.calc.get_hvp, atoms.calc)
    optimiser = HVPSella(atoms, hvps, order=1, internal=internal, logfile=None)
    optimiser.pes.get_g()
    return optimiser.pes, optimiser.pes._calc_eg


def quotient(pes, probes, direction, **options):
    """What Sella's eigensolver makes of a direction."""
    return NumericalHessian(probes, pes.get_x(), pes.get_g(), pes.eta, **options) @ direction


def free_directions(pes, seed=1):
    free = pes.get_Ufree()
    directions = free @ np.random.default_rng(seed).standard_normal((free.shape[1], 3))
    return (directions / np.linalg.norm(directions, axis=0)).T


# ---------------------------------------------------------------------------------------------- Sella as it was found

# What the seam leans on, without comments and docstrings. A change of any of these needs a new look at
# phl_ase/paths/sella_hvp.py before the hash here follows.
KNOWN = {
    PES._calc_eg: "61f8c89ed150",
    PES.diag: "8877c2da211a",
    PES.kick: "474c33f8c13d",
    PES.calculate_hessian: "c8abf674a6a6",
    InternalPES.eval: "f6dc7b7dd13d",
    InternalPES.get_x: "1a461ec11c31",
    InternalPES._get_Binv: "ac92fa630d87",
    InternalPES.calculate_hessian: "0e7f27ac2cb6",
    NumericalHessian._matvec: "c9726e55c8da",
    sella.Sella._initialize_eigensolver: "e3021d3157c7",
    sella.Sella._ensure_initialized: "5d5f6398417e",
    sella.Sella._rebuild_after_bad_internals: "ea8e5fb2b91a",
}


def fingerprint(function):
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    if ast.get_docstring(tree.body[0]) is not None:
        tree.body[0].body = tree.body[0].body[1:]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:12]


@pytest.mark.parametrize("function", KNOWN, ids=lambda f: f.__qualname__)
def test_sella_is_the_one_that_is_known(function):
    version = importlib.metadata.version("sella")
    assert fingerprint(function) == KNOWN[function], (
        f"Sella {version} has another {function.__qualname__} than 2.6.0: see whether the exact HVPs in "
        "phl_ase/paths/sella_hvp.py still hold, then put the new fingerprint here"
    )


def test_nothing_but_the_eigensolver_takes_probes():
    root = Path(inspect.getfile(sella)).parent
    uses = [
        (path.name, line.strip())
        for path in sorted(root.rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if "_calc_eg" in line
    ]
    assert uses == [("peswrapper.py", "def _calc_eg(self, x):"), ("peswrapper.py", "self._calc_eg,")]
    assert "self._calc_eg," in inspect.getsource(PES.diag)
    assert "_calc_eg" not in vars(InternalPES)


def test_another_sella_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.7.1")
    with pytest.raises(PHLError, match=r"Sella 2\.7\.1 .* Sella 2\.6 alone: pip install .* gradients or Hessians"):
        search(cluster(), "hvp", curvature_of(lennard_jones()))
    assert search(cluster(), "gradients", curvature_of(lennard_jones())).converged


# --------------------------------------------------------------------------------------------------------- the seam


def test_springs_are_what_they_say():
    """The surface the tests stand on: its Hessian against central differences of its forces."""
    from phl_ase.vibrations import finite_difference_hessian

    atoms = springs("H2O2")
    # second order in the step of 0.001 Å, fourth derivatives of 100 eV/Å⁴
    np.testing.assert_allclose(atoms.calc.get_hessian(atoms), finite_difference_hessian(atoms, delta=1e-3), atol=5e-5)


@pytest.mark.parametrize("threepoint", [False, True])
@pytest.mark.parametrize("name", ["H2O", "H2O2", "CO2", "C2H4"])
def test_quotient_in_cartesian_coordinates(name, threepoint):
    atoms = springs(name)
    pes, probes = surface_of(atoms, internal=False)
    hessian = atoms.calc.get_hessian(atoms)
    for direction in free_directions(pes):
        exact = hessian @ direction
        # rounding of x + ηd: 1e-16 Å / 1e-4 in the direction
        np.testing.assert_allclose(
            quotient(pes, probes, direction, threepoint=threepoint),
            exact,
            rtol=0,
            atol=1e-10 * np.linalg.norm(exact),
        )
    assert probes.fallbacks == 0


@pytest.mark.parametrize("name", ["H2O", "H2O2", "C2H4"])
def test_quotient_in_internal_coordinates(name):
    """Against the matrix that Sella itself makes of a Cartesian Hessian."""
    atoms = springs(name)
    pes, probes = surface_of(atoms, internal=True)
    matrix = pes._convert_cartesian_hessian_to_internal(atoms.calc.get_hessian(atoms))
    free = pes.get_Ufree()
    for direction in free_directions(pes):
        exact = free.T @ matrix @ direction
        np.testing.assert_allclose(
            free.T @ quotient(pes, probes, direction), exact, rtol=0, atol=1e-10 * np.linalg.norm(exact)
        )
    assert probes.fallbacks == 0


def fixed_methanol():
    atoms = springs("CH3OH")
    atoms.set_constraint(FixAtoms([0, 1]))
    return atoms


@pytest.mark.filterwarnings("ignore:Internal coordinates .* do not span:UserWarning")
@pytest.mark.parametrize("internal", [True, False])
@pytest.mark.parametrize(
    ("make", "n_dummies"),
    [
        (lambda: springs("CO2", rms=0.02), 1),
        (lambda: springs("C2H2", rms=0.02), 2),
        (lambda: springs("H2"), 0),
        (fixed_methanol, 0),
    ],
    ids=["CO2", "C2H2", "H2", "fixed atoms"],
)
def test_quotient_is_that_of_sellas_own_differences(make, n_dummies, internal):
    """Dummy atoms of linear molecules and constraints included."""
    atoms = make()
    pes, probes = surface_of(atoms, internal)
    assert not internal or len(pes.dummies) == n_dummies
    free = pes.get_Ufree()
    assert free.shape[1] > 0
    for direction in free_directions(pes):
        ours = free.T @ quotient(pes, probes, direction)
        # central differences at 1e-4, second order: 2e-9 of H v where there are fixed atoms; internal steps are solved
        # by an integrator to 1e-6 Å
        theirs = free.T @ quotient(pes, probes._differences, direction, threepoint=True)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * np.linalg.norm(theirs))


def test_other_points_are_answered_by_sella():
    pes, probes = surface_of(springs("H2O"), internal=False)
    x = pes.get_x()
    far = np.full(9, 0.01)
    energy, gradient = probes(x + far)
    assert probes.fallbacks == 1
    moved = pes.atoms.copy()
    moved.positions += 0.01
    moved.calc = Springs()
    assert energy == pytest.approx(moved.get_potential_energy())
    np.testing.assert_allclose(gradient, -moved.get_forces().ravel(), atol=1e-12)
    probe = free_directions(pes)[0] * pes.eta
    energy, _ = probes(x + probe)
    moved.positions = (x + probe).reshape(-1, 3)
    # third order in the probe
    assert energy == pytest.approx(moved.get_potential_energy(), abs=1e-9)


# -------------------------------------------------------------------------------------------------- wrong HVPs

WRONG = {
    "sign": lambda calc, start: lambda v, a: -calc.get_hvp(v, a),
    "Hartree/Bohr²": lambda calc, start: lambda v, a: calc.get_hvp(v, a) / (Hartree / Bohr**2),
    "twice": lambda calc, start: lambda v, a: 2 * calc.get_hvp(v, a),
    "mass-weighted": lambda calc, start: lambda v, a: calc.get_hvp(v, a) / a.get_masses()[:, None],
    "axes exchanged": lambda calc, start: lambda v, a: calc.get_hvp(v, a)[..., ::-1],
    "another geometry": lambda calc, start: lambda v, a: calc.get_hvp(v, start),
}


@pytest.mark.parametrize("internal", [True, False])
@pytest.mark.parametrize("mistake", WRONG)
def test_wrong_hvps_are_caught(mistake, internal):
    atoms = springs("H2O2")
    elsewhere = springs("H2O2", seed=5, rms=0.6)
    with pytest.raises(PHLError, match="look at its sign") as error:
        find_transition_state(atoms, hvp=WRONG[mistake](atoms.calc, elsewhere), internal=internal)
    assert "\n" not in str(error.value)


def test_hvps_of_the_wrong_shape_or_none():
    with pytest.raises(PHLError, match=r"returned shape \(12,\), expected that of the vectors, \(4, 3\)"):
        find_transition_state(cluster(), hvp=lambda v, a: v.ravel())
    nan = find_transition_state(cluster(), hvp=lambda v, a: v * np.nan)
    assert nan.outcome == "exploded"

    def fails(vectors, atoms):
        raise ZeroDivisionError("no")

    failed = find_transition_state(cluster(), hvp=fails)
    assert (failed.outcome, failed.reason) == ("failed", "ZeroDivisionError: no")


# --------------------------------------------------------------------------------------------------------- searches


@pytest.mark.parametrize("internal", [True, False])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_finds_the_saddle(strategy, internal):
    curvature = curvature_of(lennard_jones())
    # in Cartesian coordinates Sella's eigensolver begins at the gradient without a preconditioner and may stay with a
    # stiff mode, whether its HVPs are exact or not: a start from which it finds the soft one
    found = search(cluster(0, 0.1 if internal else 0.05), strategy, curvature, internal=internal, fmax=1e-3)
    assert found.converged, found.sentence
    assert found.internal == internal
    assert found.energy == pytest.approx(RHOMBUS_ENERGY, abs=1e-4)
    assert (found.hessian_calls > 0) == STRATEGIES[strategy].needs_hessian
    assert (found.hvp_calls > 0) == STRATEGIES[strategy].needs_hvp
    assert found.hvp_fallbacks == 0
    assert curvature.source == DIFFERENCES
    assert found.hidden_force_calls == 24 * found.hessian_calls + 2 * found.hvp_calls
    assert found.curvature == "hessian function"


def test_hvps_take_the_place_of_gradients():
    curvature = curvature_of(lennard_jones())
    plain = search(cluster(1), "gradients", curvature)
    exact = search(cluster(1), "hvp", curvature)
    # the steps, the start and the one that is checked; Sella asks for the end again where the raw forces are higher
    assert exact.steps + 2 <= exact.force_calls <= exact.steps + 3
    assert exact.steps <= plain.steps + 2
    assert plain.force_calls > exact.force_calls
    both = search(cluster(1), "hessian-hvp-3", curvature)
    assert both.hessian_calls == 1
    assert both.hvp_calls > 1


def test_unknown_way():
    with pytest.raises(PHLError, match="unknown Sella strategy 'hvps'; valid: gradients, hessian, hessian-3"):
        search(cluster(), "hvps", curvature_of(lennard_jones()))
    assert set(RECOMMENDED) == {EXACT, DIFFERENCES}
    assert set(RECOMMENDED.values()) <= set(STRATEGIES)


def test_exact_curvature_hides_nothing():
    atoms = springs("H2O2")
    curvature = curvature_of(atoms.calc)
    assert isinstance(curvature, Curvature)
    assert curvature.is_exact
    assert search(atoms, "hessian-hvp-3", curvature, max_steps=5).hidden_force_calls == 0


@pytest.mark.parametrize("strategy", ["hvp", "hessian-hvp"])
def test_bad_internals_are_followed(strategy, monkeypatch):
    """Sella makes its surface anew, and the HVPs must come with it."""
    calls = []
    original = HVPSella._maybe_rebuild_bad_internals

    def bad_once(self):
        calls.append(1)
        if len(calls) != 2:
            return original(self)
        self._rebuild_after_bad_internals()
        return True

    monkeypatch.setattr(HVPSella, "_maybe_rebuild_bad_internals", bad_once)
    curvature = curvature_of(lennard_jones())
    found = search(cluster(2), strategy, curvature, internal=True)
    assert found.converged, found.sentence
    assert len(calls) > 2
    assert found.hvp_fallbacks == 0
    # nothing but steps, the start, the check (once) and the surface made anew
    assert found.force_calls <= found.steps + 4
    assert found.hessian_calls == (2 if strategy == "hessian-hvp" else 0)


def test_fixed_surface():
    atoms = fcc100("Cu", (2, 2, 2), vacuum=6)
    add_adsorbate(atoms, "Cu", 1.9, "bridge")
    atoms.set_constraint(FixAtoms(range(8)))
    atoms = displaced(atoms, 0.2, 0)
    atoms.calc = EMT()
    found = search(atoms, "hvp", curvature_of(EMT()))
    assert found.converged, found.sentence
    assert not found.internal
    np.testing.assert_array_equal(found.atoms.positions[:8], atoms.positions[:8])


@pytest.mark.parametrize("strategy", ["gradients", "hvp", "hessian-3", "hessian-hvp"])
def test_a_minimum_is_an_outcome(strategy):
    """At rest nothing moves and the modes say what it is; two atoms have no saddle, and the search ends."""
    from clusters import tetrahedron

    at_rest = search(tetrahedron(), strategy, curvature_of(lennard_jones()))
    assert (at_rest.outcome, at_rest.n_imaginary, at_rest.steps) == ("wrong order of saddle", 0, 0)
    pair = Atoms("Ar2", [[0, 0, 0], [0, 0, 2.9]], calculator=lennard_jones())
    ended = search(pair, strategy, curvature_of(lennard_jones()), max_steps=40)
    assert not ended.converged or ended.analysis is not None
