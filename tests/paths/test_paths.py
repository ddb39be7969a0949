"""Transition-state searches on real ASE calculators, relaxations, displacements, alignment."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, fcc100, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms
from ase.io import read
from ase.io.ulm import Writer
from ase.optimize import BFGS
from clusters import Broken
from scipy.spatial.transform import Rotation

from phl_ase import PHLCalculator
from phl_ase.curvature import finite_difference_hvp
from phl_ase.errors import NonFiniteError, PHLError
from phl_ase.paths import aligned, displaced, find_transition_state, relax, rmsd
from phl_ase.paths.counting import CountingCalculator
from phl_ase.paths.optimisation import RELAXATION_OUTCOMES, _iterate, run_optimiser
from phl_ase.paths.transition_state import SEARCH_OUTCOMES
from phl_ase.vibrations import finite_difference_hessian, harmonic_analysis, rigid_motions

SIGMA = 2.5
BOND = SIGMA * 2 ** (1 / 6)
# the rhombus that joins two tetrahedra of LJ4; the energy in units of epsilon, D. J. Wales, Energy Landscapes (2003)
RHOMBUS_ENERGY = -5.073421


def lennard_jones():
    return LennardJones(sigma=SIGMA, epsilon=1.0, rc=100.0)


def cluster(seed=0, rms=0.1):
    """LJ4 near its only transition state."""
    height = BOND * 3**0.5 / 2
    atoms = Atoms("Ar4", [[0, 0, 0], [BOND, 0, 0], [BOND / 2, height, 0], [BOND / 2, -height, 0]])
    atoms = displaced(atoms, rms, seed)
    atoms.calc = lennard_jones()
    return atoms


def adatom(seed=0):
    """Copper beside the bridge site of a fixed copper surface."""
    atoms = fcc100("Cu", (2, 2, 2), vacuum=6)
    add_adsorbate(atoms, "Cu", 1.9, "bridge")
    atoms.set_constraint(FixAtoms(range(8)))
    atoms = displaced(atoms, 0.2, seed)
    atoms.calc = EMT()
    return atoms


class Wrapped(Calculator):
    """Lennard-Jones until the given call; then what the test wants to happen."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, happens, after=3):
        super().__init__()
        self.inner, self.happens, self.after, self.calls = lennard_jones(), happens, after, 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.inner.calculate(atoms, ["energy", "forces"], all_changes)
        self.results = dict(self.inner.results)
        self.calls += 1
        if self.calls > self.after:
            self.happens(self.results)


def raises(error):
    def happens(results):
        raise error

    return happens


@pytest.mark.parametrize("hessian", [None, finite_difference_hessian], ids=["gradients", "hessian"])
@pytest.mark.parametrize("seed", [0, 1])
def test_cluster(hessian, seed):
    atoms = cluster(seed)
    calculator, before = atoms.calc, atoms.positions.copy()
    search = find_transition_state(atoms, hessian)
    assert search.outcome == "converged", search.sentence
    assert search.converged
    # second order in the residual force
    assert search.energy == pytest.approx(RHOMBUS_ENERGY, abs=1e-4)
    raw = np.linalg.norm(search.atoms.get_forces(), axis=1).max()
    assert search.fmax == pytest.approx(raw, rel=1e-9)
    assert raw <= 0.01
    assert search.n_imaginary == 1
    assert search.analysis.n_projected == 6
    assert search.curvature == ("finite differences" if hessian is None else "hessian function")
    assert (search.hessian_calls > 0) == (hessian is not None)
    assert search.steps < search.force_calls < 40
    np.testing.assert_array_equal(atoms.positions, before)
    assert atoms.calc is calculator
    assert search.atoms is not atoms
    assert search.atoms.calc is calculator


def test_the_hessian_saves_gradients():
    plain, exact, always = (
        find_transition_state(cluster(1), *arguments, **options)
        for arguments, options in (
            ((), {}),
            ((finite_difference_hessian,), {}),
            ((finite_difference_hessian,), {"diag_every_n": 0}),
        )
    )
    assert exact.force_calls < plain.force_calls
    assert always.hessian_calls > exact.hessian_calls >= 1


@pytest.mark.parametrize("hessian", [None, finite_difference_hessian], ids=["gradients", "hessian"])
def test_adatom_on_a_fixed_surface(hessian, tmp_path):
    """The adatom hops over the bridge site; the search moves nothing else."""
    atoms = adatom()
    path = tmp_path / "search.traj"
    log = tmp_path / "search.log"
    search = find_transition_state(atoms, hessian, internal=False, trajectory=path, logfile=str(log))
    assert search.converged, search.sentence
    np.testing.assert_array_equal(search.atoms.positions[:8], atoms.positions[:8])
    assert search.analysis.modes.shape == (3, 1, 3)
    assert search.analysis.n_projected == 0
    images = read(path, ":")
    assert len(images) == search.steps + 1
    assert log.read_text().count("Sella") >= search.steps
    np.testing.assert_allclose(images[-1].positions, search.atoms.positions, atol=1e-12)
    bridge = fcc100("Cu", (2, 2, 2), vacuum=6)
    add_adsorbate(bridge, "Cu", 0.0, "bridge")
    np.testing.assert_allclose(search.atoms.positions[8, :2], bridge.positions[8, :2], atol=0.02)


def test_wrong_order():
    """A linear LJ3 is a saddle in two bends; a start at rest there stays there."""
    guess = Atoms("Ar3", [[-BOND, 0, 0], [0, 0, 0], [BOND, 0, 0]])
    guess.calc = lennard_jones()
    start = relax(guess, 1e-3).atoms
    search = find_transition_state(start, finite_difference_hessian, internal=False)
    assert search.outcome == "wrong order of saddle"
    assert search.n_imaginary == 2
    assert search.steps == 0
    assert "2 imaginary" in search.sentence


def test_steps_run_out():
    search = find_transition_state(cluster(), finite_difference_hessian, max_steps=2)
    assert search.outcome == "not converged"
    assert search.steps == 2
    assert search.fmax > 0.01
    assert search.analysis is None
    assert search.n_imaginary is None


@pytest.mark.parametrize(
    ("key", "value"), [("forces", np.full((4, 3), np.nan)), ("energy", np.inf), ("forces", np.full((4, 3), 1e6))]
)
def test_explosion_is_a_result(key, value):
    atoms = cluster()
    atoms.calc = Wrapped(lambda results: results.update({key: value}))
    search = find_transition_state(atoms, internal=False)
    assert search.outcome == "exploded"
    assert search.reason in search.sentence
    # the last sound structure, so that it can be looked at
    assert np.all(np.isfinite(search.atoms.positions))
    assert np.isfinite(search.energy)
    assert np.isfinite(search.fmax)
    assert search.force_calls == 4
    assert search.analysis is None


@pytest.mark.parametrize("after", [0, 3])
def test_failure_is_a_result(after):
    atoms = cluster()
    atoms.calc = Wrapped(raises(RuntimeError("SCF did\nnot converge")), after)
    search = find_transition_state(atoms, internal=False)
    assert search.outcome == "failed"
    assert search.reason == "RuntimeError: SCF did not converge"
    assert np.isnan(search.energy) == (after == 0)
    assert relax(atoms).outcome == "failed"


def test_failure_of_the_final_analysis_is_a_result():
    search = find_transition_state(cluster())
    atoms = search.atoms.copy()
    atoms.calc = Wrapped(raises(RuntimeError("licence expired")), after=1)
    again = find_transition_state(atoms, internal=False, fmax=0.1)
    assert (again.outcome, again.steps, again.analysis) == ("failed", 0, None)


def test_hessian_trouble():
    assert find_transition_state(cluster(), lambda atoms: np.full((12, 12), np.nan)).outcome == "exploded"
    failed = find_transition_state(cluster(), raises(ZeroDivisionError("no")))
    assert (failed.outcome, failed.reason) == ("failed", "ZeroDivisionError: no")


@pytest.mark.parametrize("shape", [(4, 3, 4, 3), (4, 4, 3, 3), (12, 4, 3), (9, 9)])
@pytest.mark.parametrize("internal", [True, False])
def test_wrong_hessian_shape(shape, internal):
    with pytest.raises(PHLError, match=r"expected \(12, 12\)") as error:
        find_transition_state(cluster(), lambda atoms: np.zeros(shape), internal=internal)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("error", "after"),
    [(KeyboardInterrupt(), 0), (KeyboardInterrupt(), 3), (PHLError("a species that the model never saw"), 0)],
)
def test_what_is_not_a_result(error, after):
    atoms = cluster()
    atoms.calc = Wrapped(raises(error), after)
    with pytest.raises(type(error)):
        find_transition_state(atoms, internal=False)


def test_what_a_calculator_refuses_on_the_way_is_a_result():
    """It took the start, so that the caller made no mistake."""
    atoms = cluster()
    atoms.calc = Wrapped(raises(PHLError("two atoms closer than 0.1 Å")), after=3)
    search = find_transition_state(atoms, internal=False)
    assert search.outcome == "exploded"
    assert "two atoms closer than 0.1 Å" in search.reason
    assert search.force_calls == 4


def stops_at(call):
    def happens(results):
        raise KeyboardInterrupt

    return Wrapped(happens, call)


@pytest.mark.parametrize("after", [1, 12])
def test_ctrl_c_leaves_a_complete_trajectory(after, tmp_path):
    path = tmp_path / "search.traj"
    atoms = cluster()
    atoms.calc = stops_at(after)
    with pytest.raises(KeyboardInterrupt):
        find_transition_state(atoms, internal=True, trajectory=path)
    images = read(path, ":") if path.stat().st_size and after > 1 else []
    assert (len(images) > 2) == (after > 1)
    for image in images:
        fresh = image.copy()
        fresh.calc = lennard_jones()
        np.testing.assert_allclose(image.get_forces(), fresh.get_forces(), atol=1e-10)
        assert image.get_potential_energy() == pytest.approx(fresh.get_potential_energy())


def test_ctrl_c_while_an_image_is_written(tmp_path, monkeypatch):
    """The half-written image is left out: with it, ASE could not read the others."""
    path = tmp_path / "search.traj"
    original, written = Writer.sync, []

    def interrupted(self):
        if len(written) == 4:
            monkeypatch.setattr(Writer, "sync", original)
            raise KeyboardInterrupt
        written.append(1)
        original(self)

    monkeypatch.setattr(Writer, "sync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        find_transition_state(cluster(), trajectory=path)
    assert len(read(path, ":")) == 4


def test_periodic_structures_have_no_internal_coordinates():
    atoms = adatom()
    assert not find_transition_state(atoms, max_steps=1).internal
    with pytest.raises(PHLError, match="periodic: take internal=False"):
        find_transition_state(atoms, internal=True)
    assert find_transition_state(cluster(), max_steps=1).internal


def test_the_analysis_may_have_a_hessian_of_its_own():
    asked = []

    def hessian(atoms):
        asked.append(atoms)
        return finite_difference_hessian(atoms)

    search = find_transition_state(cluster(), analysis_hessian=hessian)
    assert (search.converged, search.hessian_calls, len(asked)) == (True, 0, 1)
    assert search.curvature == "hessian function"


def test_the_analysis_from_hvps():
    search = find_transition_state(cluster(), hvp=lambda v, a: finite_difference_hvp(v, a))
    assert search.converged, search.sentence
    assert search.curvature == "Hessian-vector products"
    assert search.hessian_calls == 0
    other = harmonic_analysis(search.atoms, finite_difference_hessian(search.atoms))
    # the same differences of the same forces along the same directions
    np.testing.assert_allclose(search.analysis.wavenumbers, other.wavenumbers, atol=1e-6)


def test_mistakes(tmp_path):
    atoms = cluster()
    bare = atoms.copy()
    lone = Atoms("Ar", calculator=lennard_jones())
    broken = cluster()
    broken.positions[0, 0] = np.nan
    for wrong, options, message in (
        (bare, {}, "no calculator"),
        (lone, {}, "1 atom;"),
        (atoms, {"fmax": 0.0}, "fmax"),
        (atoms, {"max_steps": 0}, "steps"),
        (broken, {}, "NaN"),
        (atoms, {"trajectory": tmp_path / "nowhere" / "search.traj"}, "trajectory"),
    ):
        with pytest.raises(PHLError, match=message):
            find_transition_state(wrong, **options)
    with pytest.raises(PHLError, match="no calculator"):
        relax(bare)


def test_raw_forces_are_rechecked():
    """An optimiser that stops at 1.3 times the threshold is asked again, with half the threshold."""
    atoms = cluster(rms=0.01)
    direction = atoms.get_forces()
    largest = np.linalg.norm(direction, axis=1).max()
    asked = []

    class Careless:
        nsteps = 0

        def run(self, fmax, steps):
            asked.append((fmax, steps))
            self.nsteps += 1
            atoms.calc.results["forces"] = direction * (1.3 * fmax / largest)

    _iterate(Careless(), atoms, 0.01, 10)
    assert asked == [(0.01, 10), (0.005, 9)]

    class Stuck(Careless):
        def run(self, fmax, steps):
            super().run(0.02, steps)

    asked.clear()
    _iterate(Stuck(), atoms, 0.01, 100)
    assert len(asked) == 7


def test_counting():
    atoms = cluster()
    inner = atoms.calc
    atoms.calc = counter = CountingCalculator(inner)
    forces, energy = atoms.get_forces(), atoms.get_potential_energy()
    atoms.get_forces()
    assert counter.calls == 1
    atoms.positions[0, 0] += 0.01
    atoms.get_potential_energy()
    assert counter.calls == 2
    atoms.positions[0, 0] -= 0.01
    plain = atoms.copy()
    plain.calc = lennard_jones()
    assert energy == pytest.approx(plain.get_potential_energy())
    np.testing.assert_allclose(forces, plain.get_forces(), atol=1e-12)
    assert not hasattr(inner, "calls")


def test_relaxation():
    atoms = cluster(rms=0.3)
    before = atoms.positions.copy()
    found = relax(atoms, 1e-3)
    assert found.converged
    assert found.energy == pytest.approx(-6.0, abs=1e-5)
    assert found.fmax <= 1e-3
    assert found.force_calls == found.steps + 1
    assert harmonic_analysis(found.atoms, finite_difference_hessian(found.atoms)).n_imaginary == 0
    np.testing.assert_array_equal(atoms.positions, before)
    assert relax(atoms, 1e-3, 1).outcome == "not converged"
    assert relax(Atoms("Ar", calculator=lennard_jones())).converged
    # a start with atoms on top of each other has not exploded yet
    close = Atoms("Ar2", [[0, 0, 0], [0, 0, 0.8]], calculator=lennard_jones())
    assert np.abs(close.get_forces()).max() > 1e4
    assert relax(close).outcome != "exploded"
    atoms.calc = Wrapped(lambda results: results.update(energy=np.nan))
    assert relax(atoms).outcome == "exploded"


def test_every_outcome_has_a_sentence():
    for table in (SEARCH_OUTCOMES, RELAXATION_OUTCOMES):
        assert all(len(sentence) > 20 for sentence in table.values())
    assert set(RELAXATION_OUTCOMES) < set(SEARCH_OUTCOMES)


@pytest.mark.parametrize("name", ["N2", "CO2", "H2O", "C6H6"])
@pytest.mark.parametrize("rms", [0.01, 0.1])
def test_displacement_has_its_size(name, rms):
    atoms = molecule(name)
    before = atoms.positions.copy()
    moved = displaced(atoms, rms, 5)
    change = moved.positions - before
    assert np.sqrt(np.mean(np.sum(change**2, axis=1))) == pytest.approx(rms, rel=1e-12)
    rigid = rigid_motions(before, np.ones(len(atoms)))
    np.testing.assert_allclose(rigid.T @ change.ravel(), 0, atol=1e-12)
    # no rotation can bring it closer: what is left of the displacement is orthogonal to all of them
    assert rmsd(atoms, moved) == pytest.approx(rms, rel=1e-6)
    np.testing.assert_array_equal(atoms.positions, before)
    np.testing.assert_array_equal(displaced(atoms, rms, 5).positions, moved.positions)
    if len(atoms) > 2:  # two atoms can only be stretched or squeezed
        assert not np.allclose(displaced(atoms, rms, 6).positions, moved.positions)


def test_displacement_of_a_surface():
    atoms = adatom()
    moved = displaced(atoms, 0.3, 1)
    np.testing.assert_array_equal(moved.positions[:8], atoms.positions[:8])
    assert np.linalg.norm(moved.positions[8] - atoms.positions[8]) == pytest.approx(0.3)
    loose = atoms.copy()
    loose.set_constraint()
    change = displaced(loose, 0.3, 1).positions - atoms.positions
    np.testing.assert_allclose(change.sum(axis=0), 0, atol=1e-12)


@pytest.mark.parametrize(
    ("atoms", "rms"), [(Atoms("Ar"), 0.1), (Atoms(), 0.1), (molecule("H2O"), 0.0), (molecule("H2O"), np.nan)]
)
def test_impossible_displacement(atoms, rms):
    with pytest.raises(PHLError, match="expected"):
        displaced(atoms, rms, 0)


@pytest.mark.parametrize("name", ["N2", "CO2", "H2O", "C2H6"])
def test_rmsd_of_a_moved_copy(name):
    atoms = molecule(name)
    copy = atoms.copy()
    copy.positions = copy.positions @ Rotation.random(rng=np.random.default_rng(2)).as_matrix().T + [3.0, -1.0, 2.0]
    assert rmsd(atoms, copy) < 1e-7
    assert rmsd(atoms, atoms) < 1e-7


def test_rmsd():
    stretched = Atoms("N2", [[0, 0, 0], [0, 0, 1.2]])
    # each atom of N2 moves by half the stretch
    assert rmsd(Atoms("N2", [[0, 0, 0], [1.0, 0, 0]]), stretched) == pytest.approx(0.1)
    assert rmsd(Atoms("Ar"), Atoms("Ar", [[5, 5, 5]])) == 0
    chiral = molecule("CH4")
    chiral.symbols[1:] = ["H", "F", "Cl", "Br"]
    mirror = chiral.copy()
    mirror.positions[:, 0] *= -1
    assert rmsd(chiral, mirror) > 0.3
    assert rmsd(chiral, mirror) == pytest.approx(rmsd(mirror, chiral))
    with pytest.raises(PHLError, match="same atoms"):
        rmsd(molecule("H2O"), molecule("CO2"))
    broken = molecule("H2O")
    broken.positions[0] = np.nan
    with pytest.raises(NonFiniteError, match="NaN"):
        rmsd(broken, broken)


def test_rmsd_of_periodic_structures():
    atoms = adatom()
    wrapped = atoms.copy()
    wrapped.positions += 0.5 * wrapped.cell[0] / 4
    wrapped.wrap()
    assert rmsd(atoms, wrapped) < 1e-7


def test_alignment():
    atoms = molecule("C2H6")
    turn = Rotation.random(rng=np.random.default_rng(3)).as_matrix()
    moved = atoms.copy()
    moved.positions = displaced(atoms, 0.1, 0).positions @ turn.T + [1.0, 2.0, 3.0]
    back = aligned(moved, atoms)
    np.testing.assert_allclose(back.positions.mean(axis=0), atoms.positions.mean(axis=0), atol=1e-12)
    # a displacement orthogonal to rotations is given back, but for the second order in its size
    assert np.sqrt(np.mean(np.sum((back.positions - atoms.positions) ** 2, axis=1))) == pytest.approx(0.1, rel=1e-5)
    np.testing.assert_allclose(back.get_all_distances(), moved.get_all_distances(), atol=1e-12)
    surface = adatom()
    wrapped = surface.copy()
    wrapped.positions += 0.4 * wrapped.cell[0]
    wrapped.wrap()
    np.testing.assert_allclose(aligned(wrapped, surface).positions, surface.positions, atol=1e-7)


def test_a_structure_that_the_calculator_refuses_on_the_way_is_an_outcome():
    """A model that stops where atoms come too near must not stop whoever relaxes with it."""
    asked = []

    def answer(atoms):
        asked.append(1)
        if len(asked) > 2:
            raise PHLError("atoms 0 and 1 are 0.007 Å apart")
        inner = lennard_jones()
        inner.calculate(atoms, ["energy", "forces"], all_changes)
        return inner.results

    atoms = cluster(rms=0.2)
    atoms.calc = Broken(answer)
    relaxed = relax(atoms)
    assert relaxed.outcome == "exploded"
    assert "0.007 Å" in relaxed.sentence
    asked.extend([1, 1])
    with pytest.raises(PHLError, match=r"0\.007 Å"):
        relax(atoms)


def test_a_search_from_a_line():
    """Sella's Cartesian coordinates fix a rotation that a linear molecule does not have: atoms flew to 3e7 Å."""
    atoms = molecule("HCN")
    atoms.calc = PHLCalculator()
    for internal in (False, True):
        found = find_transition_state(atoms, atoms.calc.get_hessian, internal=internal)
        assert found.converged, found.sentence
        # the hydrogen between both ends, as DFT has it
        assert found.analysis.wavenumbers[0] == pytest.approx(-1184, abs=30)
        assert found.atoms.get_distance(0, 1) == pytest.approx(1.19, abs=0.02)
        assert found.atoms.get_distance(0, 2) == pytest.approx(1.18, abs=0.02)
    minimum = relax(atoms, 1e-3).atoms
    start = find_transition_state(minimum, atoms.calc.get_hessian)
    assert (start.outcome, start.steps) == ("wrong order of saddle", 0)
    assert "a guess between two minima" in start.sentence


def test_a_step_that_throws_atoms_apart_is_no_convergence():
    """Far apart there are no forces, and the search would take that for a stationary point."""

    class Thrower(BFGS):
        def step(self, forces=None):
            positions = self.optimizable.get_x().reshape(-1, 3)
            positions[0] += 1e6
            self.optimizable.set_x(positions.ravel())

    run = run_optimiser(cluster(), lambda working: Thrower(working, logfile=None), 0.01, 5, None)
    assert run.outcome == "exploded"
    assert "moved atom 0 (Ar) by 1.7e+06" in run.sentence
    assert np.ptp(run.atoms.positions) < 10
