"""Reaction paths: closed forms, two integrators against one another on GFN2-xTB, everything that can go wrong."""

from __future__ import annotations

import time

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.morse import MorsePotential
from ase.constraints import FixAtoms
from ase.io import read
from reaction_surfaces import RADIUS, WELL, Swing, Wing, double_well, expand_arc, swing, wing
from scipy.spatial.transform import Rotation

from phl_ase import PHLCalculator
from phl_ase.curvature import DIFFERENCES, curvature_of
from phl_ase.datasets import open_dataset
from phl_ase.datasets.reactions import reactions_of
from phl_ase.errors import NonFiniteError, PHLError
from phl_ase.paths import arc_length, find_reaction, find_transition_state, follow_irc, relax, relax_to_minimum, rmsd
from phl_ase.paths.branch import StepError
from phl_ase.paths.counting import CountingHessian
from phl_ase.paths.irc import INTEGRATORS
from phl_ase.paths.quadratic import Expansion, Surface, descend, interpolated_gradient, steepest_descent
from phl_ase.paths.reaction import REACTION_OUTCOMES
from phl_ase.paths.reaction_path import PATH_OUTCOMES
from phl_ase.paths.sella_irc import prepared_hessian
from phl_ase.resolver import resolve_calculator
from phl_ase.structures import atoms_from_frame
from phl_ase.vibrations import harmonic_analysis, rigid_motions

KCAL = 23.0605  # kcal/mol in an eV


def xtb_transition_state(reaction: str) -> Atoms:
    """The TS of GFN2-xTB from that of the bundled data set."""
    frames = reactions_of(open_dataset("reactions-wb97xd-631gd"), [reaction])[reaction]
    atoms = atoms_from_frame(frames.transition_state)
    atoms.calc = resolve_calculator("tblite")
    found = find_transition_state(atoms, curvature_of(atoms.calc).hessian, fmax=0.005, diag_every_n=3)
    assert found.converged
    return found.atoms


@pytest.fixture(scope="module")
def hcn():
    return xtb_transition_state("hcn_hnc")


@pytest.fixture(scope="module")
def hcn_paths(hcn):
    return {method: follow_irc(hcn, method=method) for method in INTEGRATORS}


class Breaking(Calculator):
    """Another calculator until so many geometries have been asked for."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, calculator, after, do):
        super().__init__()
        self.calculator, self.left, self.do = calculator, after, do

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        structure = atoms.copy()
        structure.calc = self.calculator
        self.results = {"energy": structure.get_potential_energy(), "forces": structure.get_forces()}
        self.left -= 1
        if self.left < 0:
            if isinstance(self.do, BaseException):
                raise self.do
            self.results["forces"] = self.results["forces"] * self.do


# ------------------------------------------------------------------------------------------------------- closed forms


def test_the_closed_form_is_consistent():
    """Gradients and Hessians of both surfaces against differences, before anything is judged by them."""
    x, h = np.array([1.0, 0.35]), 1e-5
    ahead, back = ([expand_arc(x + sign * h * axis) for axis in np.eye(2)] for sign in (1, -1))
    slopes = [(a.energy - b.energy) / (2 * h) for a, b in zip(ahead, back, strict=True)]
    np.testing.assert_allclose(slopes, expand_arc(x).gradient, atol=1e-8)
    curvatures = [(a.gradient - b.gradient) / (2 * h) for a, b in zip(ahead, back, strict=True)]
    np.testing.assert_allclose(curvatures, expand_arc(x).hessian, atol=1e-7)
    atoms = swing()
    atoms.rattle(0.05, seed=1)
    from ase.calculators.fd import calculate_numerical_forces

    np.testing.assert_allclose(atoms.get_forces(), calculate_numerical_forces(atoms, eps=1e-5), atol=1e-7)


def arc_path(step):
    free = Surface(expand_arc, lambda x: np.eye(2), lambda gradient: bool(np.linalg.norm(gradient) < 1e-3))
    ts = expand_arc(np.array([RADIUS, 0.0]))
    return list(steepest_descent(free, ts, np.array([0.0, 1.0]), step=step, max_points=100))


def test_quadratic_integrator_follows_a_known_path():
    """The arc r = R. The error falls with the square of the step; without the corrector it is 5 times as large."""
    deviations = []
    for step in (0.1, 0.05):
        points = arc_path(step)
        places = np.array([place for place, _, _ in points])
        angles = np.arctan2(places[:, 1], places[:, 0])
        deviations.append(np.abs(np.hypot(*places.T) - RADIUS).max())
        energies = np.array([energy for _, energy, _ in points])
        np.testing.assert_allclose(energies, double_well(angles), atol=5e-5)
        assert points[-1][2]
        assert angles[-1] == pytest.approx(WELL, abs=1e-3)
        assert np.all(np.diff(angles) > 0)
    assert deviations[0] < 1.5e-3
    assert deviations[1] < deviations[0] / 3.5


@pytest.mark.parametrize(("method", "tolerance"), [("sella", 0.01), ("quadratic", 2e-3)])
def test_integrators_follow_a_known_path_of_atoms(method, tolerance):
    path = follow_irc(swing(), method=method)
    assert path.converged, path.sentence
    assert path.curvature == DIFFERENCES
    angles = np.array([np.radians(atoms.get_angle(0, 1, 2)) - np.pi / 2 for atoms in path.structures])
    sign = np.sign(angles[-1])
    assert [angles[0], angles[-1]] == pytest.approx([-sign * WELL, sign * WELL], abs=0.01)
    radii = [atoms.get_distance(0, 1) for atoms in path.structures]
    np.testing.assert_allclose(radii, RADIUS, atol=tolerance)
    np.testing.assert_allclose(path.arc_length, sign * np.sqrt(1.008) * RADIUS * angles, atol=5e-3)
    # the stiff wall of the valley turns a deviation into ½ k Δr²
    np.testing.assert_allclose(path.energies, double_well(angles), atol=0.5 * Swing.stiffness * tolerance**2)


def test_descent_on_a_parabola():
    """Down a parabola to where an arc length leads, or to its bottom; across a second, stiffer one."""
    one = np.array([[2.0]])
    assert descend(lambda x: one @ x, np.array([1.0]), 0.4) == pytest.approx([0.6], abs=1e-6)
    assert descend(lambda x: one @ x, np.array([1.0]), 5.0) == pytest.approx([0.0], abs=1e-6)
    assert descend(lambda x: one @ x, np.array([0.0]), 1.0) == pytest.approx([0.0])
    # of dx/dt = -kx every path is y = y0 (x / x0)^(k2 / k1)
    x, y = descend(lambda x: np.array([1.0, 3.0]) * x, np.array([1.0, 1.0]), 0.8)
    assert y == pytest.approx(x**3, abs=1e-5)


def test_interpolant_of_two_expansions():
    """Its gradient is the derivative of its energy, and at both points that of the expansion there."""
    first, second = (expand_arc(np.array(x)) for x in ([1.1, 0.1], [1.05, 0.25]))

    def energy(x):
        squares = [np.sum((x - e.point) ** 2) for e in (first, second)]
        return (squares[1] * first.at(x)[0] + squares[0] * second.at(x)[0]) / sum(squares)

    x, h = np.array([1.12, 0.2]), 1e-5
    slopes = [(energy(x + h * axis) - energy(x - h * axis)) / (2 * h) for axis in np.eye(2)]
    np.testing.assert_allclose(interpolated_gradient(first, second, x), slopes, atol=1e-8)
    for expansion in (first, second):
        np.testing.assert_allclose(
            interpolated_gradient(first, second, expansion.point), expansion.gradient, atol=1e-12
        )


# --------------------------------------------------------------------------------------------------------- arc length


ARC = np.sqrt(1.008) * RADIUS * 1.5  # √amu·Å, of the circle below


def on_a_circle(count, rng):
    """H going round the end of a heavy CN, each structure turned and moved at random."""
    frames = []
    for angle in 0.8 + np.linspace(0, 1.5, count):
        atoms = Atoms("HCN", [[RADIUS * np.cos(angle), RADIUS * np.sin(angle), 0], [0, 0, 0], [1.2, 0, 0]])
        atoms.set_masses([1.008, 1e6, 1e6])
        atoms.positions = Rotation.random(random_state=rng).apply(atoms.positions) + rng.normal(size=3)
        frames.append(atoms)
    return frames


def test_arc_length_of_a_coarse_circle(rng):
    """Eight points: the spline has 1e-3 of the length; straight chords would miss 2e-3 of each."""
    lengths = arc_length(on_a_circle(8, rng), 3)
    np.testing.assert_allclose(lengths, ARC * (np.arange(8) - 3) / 7, atol=5e-4)
    assert lengths[3] == 0


def test_arc_length_of_few_points(rng):
    first, second = on_a_circle(2, rng)
    chord = 2 * np.sqrt(1.008) * RADIUS * np.sin(0.75)
    assert arc_length([first]) == pytest.approx([0])
    assert arc_length([first, first.copy()]) == pytest.approx([0, 0], abs=1e-7)
    assert arc_length([first, second, second.copy()], 1) == pytest.approx(
        [-chord, 0, 0], abs=1e-5
    )  # the frame weighs 1e6 amu


@pytest.mark.parametrize("structures", [[], [molecule("HCN"), molecule("NH3")]])
def test_arc_length_of_what_is_no_path(structures):
    with pytest.raises(PHLError, match="expected"):
        arc_length(structures)


# ---------------------------------------------------------------------------------------------- the prepared Hessian


def test_prepared_hessian(hcn):
    """Vibrations as they were, rigid motions with the stiffness asked for, the imaginary mode the lowest."""
    hessian = curvature_of(hcn.calc).hessian(hcn)
    analysis, masses = harmonic_analysis(hcn, hessian), hcn.get_masses()
    prepared = prepared_hessian(hcn, hessian, stiffness=15.0)
    weights = np.repeat(np.sqrt(masses), 3)
    values, vectors = np.linalg.eigh(prepared / np.outer(weights, weights))
    assert abs(vectors[:, 0] @ analysis.modes[0].ravel()) == pytest.approx(1, abs=1e-9)
    rigid = rigid_motions(hcn.positions, masses)
    weighted = prepared / np.outer(weights, weights)
    np.testing.assert_allclose(weighted @ rigid, 15.0 / masses.mean() * rigid, atol=1e-9)
    again = harmonic_analysis(hcn, prepared)
    np.testing.assert_allclose(again.wavenumbers, analysis.wavenumbers, atol=1e-6)
    assert np.sum(values < 0) == 1


# --------------------------------------------------------------------------------------------------- a real reaction


@pytest.mark.parametrize("method", INTEGRATORS)
def test_path_of_a_reaction(hcn_paths, hcn, method):
    path = hcn_paths[method]
    assert path.converged, path.sentence
    assert path.outcome == "converged"
    assert path.structures[path.ts_index] is not hcn
    assert rmsd(path.structures[path.ts_index], hcn) < 1e-12
    assert path.arc_length[path.ts_index] == 0
    assert np.all(np.diff(path.arc_length) > 0)
    # down on both sides
    assert np.all(np.diff(path.energies[: path.ts_index + 1]) > 0)
    assert np.all(np.diff(path.energies[path.ts_index :]) < 0)
    for direction in (path.backward, path.forward):
        assert direction.first_step_overlap > 0.999
        assert direction.seconds > 0
        assert direction.force_calls >= direction.steps
    assert path.backward.steps + path.forward.steps + 1 == len(path.structures) == len(path.energies)
    assert path.force_calls == 1 + path.backward.force_calls + path.forward.force_calls
    assert path.hessian_calls == 1 + path.backward.hessian_calls + path.forward.hessian_calls
    assert (path.hessian_calls == 1) == (method == "sella")
    along = (path.structures[-1].positions - hcn.positions) * np.sqrt(hcn.get_masses())[:, None]
    assert np.vdot(along, path.analysis.modes[0]) != 0


def test_the_integrators_agree(hcn_paths):
    """Two methods, one path, within what Sella's own threshold for staying in the valley allows."""
    first, second = hcn_paths["sella"], hcn_paths["quadratic"]
    low, high = max(first.arc_length[0], second.arc_length[0]), min(first.arc_length[-1], second.arc_length[-1])
    common = np.linspace(low, high, 100)
    profiles = [np.interp(common, path.arc_length, path.energies) for path in (first, second)]
    assert KCAL * np.sqrt(np.mean((profiles[0] - profiles[1]) ** 2)) < 0.2
    for one, other in zip(first.ends, second.ends, strict=True):
        assert rmsd(one, other) < 0.02
    np.testing.assert_allclose(first.arc_length[[0, -1]], second.arc_length[[0, -1]], rtol=0.02)
    for atoms in first.structures[:: len(first.structures) // 6]:
        assert min(rmsd(atoms, other) for other in second.structures) < 0.02


def test_masses_count(hcn):
    """Deuterium goes a longer way in √amu·Å, at the masses that are stated; the input keeps having none."""
    heavy = hcn.copy()
    heavy.calc = hcn.calc
    heavy.set_masses([2.014 if symbol == "H" else None for symbol in heavy.symbols])
    lengths = {name: np.ptp(follow_irc(atoms).arc_length) for name, atoms in {"H": hcn, "D": heavy}.items()}
    assert 1.2 < lengths["D"] / lengths["H"] < np.sqrt(2.014 / 1.008)
    assert "masses" not in hcn.arrays


def test_reaction(hcn):
    reaction = find_reaction(hcn)
    assert reaction.converged, reaction.sentence
    assert {atoms.get_chemical_formula() for atoms in (end.atoms for end in reaction.ends)} == {"CHN"}
    assert [end.n_imaginary for end in reaction.ends] == [0, 0]
    assert [end.fragments for end in reaction.ends] == [1, 1]
    assert sorted([*reaction.broken, *reaction.made]) == ["C0-H2", "N1-H2"]
    assert reaction.barrier_forward - reaction.barrier_back == pytest.approx(reaction.reaction_energy)
    # E(HCN) and E(HNC) relaxed from scratch
    for end in reaction.ends:
        assert end.relaxation.fmax <= 1e-3
    assert abs(reaction.reaction_energy) == pytest.approx(0.868, abs=0.01)  # GFN2-xTB, 20.0 kcal/mol
    assert reaction.hessian_calls == 3
    assert "breaks" in reaction.sentence


def test_reaction_that_does_not_start():
    water = molecule("H2O")
    water.calc = resolve_calculator("tblite")
    reaction = find_reaction(water)
    assert reaction.outcome == "not stationary" in REACTION_OUTCOMES
    assert reaction.ends == ()
    assert np.isnan(reaction.barrier_forward)
    with pytest.raises(PHLError, match="relax_fmax"):
        find_reaction(water, relax_fmax=0.0)


# ------------------------------------------------------------------------------------------------- what can go wrong


def test_minimum_is_no_transition_state():
    reaction = swing()
    reaction.positions[0] = RADIUS * np.array([-np.sin(WELL), np.cos(WELL), 0])
    path = follow_irc(reaction)
    assert path.outcome == "no transition state"
    assert "0 imaginary modes" in path.sentence
    assert len(path.structures) == 1
    assert path.arc_length == pytest.approx([0])
    assert path.analysis.n_imaginary == 0


def test_second_order_saddle():
    """Linear water bends either way."""
    water = Atoms("OH2", [[0, 0, 0], [0, 0, 0.93], [0, 0, -0.93]], calculator=resolve_calculator("tblite"))
    from ase.optimize import BFGS

    with BFGS(water, logfile=None) as optimiser:
        optimiser.run(fmax=1e-3)
    path = follow_irc(water)
    assert path.outcome == "no transition state"
    assert "2 imaginary modes" in path.sentence


def test_large_forces():
    atoms = swing()
    atoms.positions[0, 1] += 0.1
    path = follow_irc(atoms)
    assert path.outcome == "not stationary"
    assert "eV/Å" in path.sentence


@pytest.mark.parametrize("method", INTEGRATORS)
def test_points_run_out(method):
    path = follow_irc(swing(), method=method, max_points=2)
    assert path.outcome == "not converged"
    assert len(path.structures) == 5


@pytest.mark.parametrize("method", INTEGRATORS)
@pytest.mark.parametrize(
    ("do", "outcome"), [(float("nan"), "exploded"), (RuntimeError("SCF not converged"), "failed")], ids=["nan", "error"]
)
def test_failures_are_outcomes(method, do, outcome):
    """After some steps; what was found before is kept."""
    atoms = swing()
    atoms.calc = Breaking(Swing(), 8, do)
    exact = curvature_of(Swing()).hessian
    path = follow_irc(atoms, lambda x: exact(x), method=method)
    assert path.outcome == outcome
    assert path.curvature == "hessian function"
    assert len(path.structures) > 2
    assert np.all(np.isfinite(path.energies))
    assert path.sentence.startswith(("backward", "both"))


@pytest.mark.parametrize("method", INTEGRATORS)
def test_interruption_keeps_the_trajectory(method, tmp_path):
    atoms = swing()
    atoms.calc = Breaking(Swing(), 8, KeyboardInterrupt())
    exact = curvature_of(Swing()).hessian
    with pytest.raises(KeyboardInterrupt):
        follow_irc(atoms, lambda x: exact(x), method=method, trajectory=tmp_path / "path.traj")
    images = read(tmp_path / "path.traj", ":")
    assert len(images) > 2
    assert images[0].get_potential_energy() == pytest.approx(double_well(0.0))
    assert images[-1].get_potential_energy() < images[0].get_potential_energy()


def test_trajectory_in_order(tmp_path):
    path = follow_irc(swing(), trajectory=tmp_path / "path.traj")
    images = read(tmp_path / "path.traj", ":")
    assert [atoms.info["irc_s"] for atoms in images] == pytest.approx(path.arc_length.tolist())
    assert [atoms.get_potential_energy() for atoms in images] == pytest.approx(path.energies.tolist())
    assert [p.name for p in tmp_path.iterdir()] == ["path.traj"]


MISTAKES = {
    "atom": (lambda a: a.__delitem__([1, 2]), {}, "1 atom;"),
    "periodic": (lambda a: a.set_pbc(True), {}, "periodic"),
    "constraints": (lambda a: a.set_constraint(FixAtoms([0])), {}, "constraints"),
    "no calculator": (lambda a: setattr(a, "calc", None), {}, "calculator"),
    "method": (lambda a: None, {"method": "euler"}, "quadratic, sella"),
    "step": (lambda a: None, {"step": 0.0}, "step is 0.0"),
    "fmax": (lambda a: None, {"fmax": -1.0}, "fmax is -1.0"),
    "points": (lambda a: None, {"max_points": 0}, "max_points is 0"),
    "trajectory": (lambda a: None, {"trajectory": "absent/path.traj"}, "cannot write"),
    "shape": (lambda a: None, {"hessian": lambda atoms: np.eye(3)}, "shape"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spoil, options, message = MISTAKES[name]
    atoms = swing()
    spoil(atoms)
    with pytest.raises(PHLError, match=message) as caught:
        follow_irc(atoms, **options)
    assert "\n" not in str(caught.value)


def test_positions_that_are_not_finite():
    atoms = swing()
    atoms.positions[0, 0] = np.nan
    with pytest.raises(NonFiniteError):
        follow_irc(atoms)


def test_outcomes_have_sentences():
    assert set(PATH_OUTCOMES) - {"converged"} < set(REACTION_OUTCOMES)
    assert all(sentence for sentence in (*PATH_OUTCOMES.values(), *REACTION_OUTCOMES.values()))


@pytest.mark.slow
@pytest.mark.parametrize("method", INTEGRATORS)
def test_every_bundled_reaction_converges_both_ways(method):
    for name in reactions_of(open_dataset("reactions-wb97xd-631gd")):
        path = follow_irc(xtb_transition_state(name), method=method)
        assert path.converged, f"{name}: {path.sentence}"
        assert min(path.backward.first_step_overlap, path.forward.first_step_overlap) > 0.999


def test_a_whole_step_across_the_minimum_is_halved():
    """From this TS, Sella's last sphere around the path has no point of the path on it, and Sella raises."""
    calculator = PHLCalculator()
    with open_dataset("reactions-wb97xd-631gd") as dataset:
        guess = atoms_from_frame(reactions_of(dataset, ["hcn_hnc"])["hcn_hnc"].transition_state)
    guess.calc = calculator
    ts = find_transition_state(guess, calculator.get_hessian, fmax=1e-4, diag_every_n=0)
    path = follow_irc(ts.atoms, calculator.get_hessian)
    assert path.converged, path.sentence
    for end in path.ends:
        end.calc = calculator
        assert np.abs(end.get_forces()).max() < 0.01


def test_an_end_on_a_saddle_is_pushed_off_it():
    """A planar NH3 has no force out of its plane: relaxed, it is the TS of the inversion."""
    planar = Atoms("NH3", [[0, 0, 0], [1.0, 0, 0], [-0.5, 0.866, 0], [-0.5, -0.866, 0]])
    planar.calc = calculator = resolve_calculator("tblite")
    hessian = CountingHessian(curvature_of(calculator).hessian, calculator)
    end, analysed, pushes = relax_to_minimum(planar, hessian, fmax=1e-3, steps=100)
    assert end.converged
    assert analysed.value.n_imaginary == 0
    assert pushes == 1
    assert hessian.calls == 2
    assert abs(end.atoms.positions[0, 2] - end.atoms.positions[1:, 2].mean()) > 0.2
    assert end.force_calls > relax(planar, 1e-3).force_calls


def test_a_reaction_whose_end_rests_on_a_flat_saddle():
    """In the plane nothing leads off the saddle, and beside it the forces are below the threshold already."""
    reaction = find_reaction(wing())
    assert reaction.converged, reaction.sentence
    flat, other = sorted(reaction.ends, key=lambda end: -end.pushes)
    assert 1 <= flat.pushes <= 3
    assert other.pushes == 0
    h, c, n, other_h = flat.atoms.positions
    normal = np.cross(h - c, n - c)
    height = (other_h - c) @ normal / np.linalg.norm(normal)
    # where the relaxation rests beside the saddle, the height is half of this
    assert abs(height) == pytest.approx(Wing.height, abs=0.03)
    side = "forward" if flat is reaction.forward else "backward"
    assert f"the {side} end rested on a saddle point and was pushed off it ({flat.pushes} of" in reaction.sentence


def raises(error):
    def integrate(_):
        raise error

    return integrate


def morse(distance: float) -> Atoms:
    surface = MorsePotential(epsilon=4.7, r0=0.74, rho0=1.4, rcut1=50.0, rcut2=60.0)
    return Atoms("H2", [[0, 0, 0], [0, 0, distance]], calculator=surface)


def test_a_soft_start_ends_in_time():
    """The foothold was longer than the shortest step, which was then followed backwards without an end."""
    started = time.perf_counter()
    path = follow_irc(morse(4.3), method="quadratic")
    assert time.perf_counter() - started < 60
    assert np.all(np.isfinite(path.energies))
    assert path.ends[0].get_distance(0, 1) == pytest.approx(0.74, abs=0.01)
    # no stationary point, so that nothing leads down outwards: whoever follows that side, it is no reaction
    assert not find_reaction(morse(4.3), method="quadratic").converged
    with pytest.raises(StepError, match="no step"):
        descend(lambda x: x, np.ones(1), -0.1)


def test_expansions_about_one_point():
    """A path that came to rest asks for them; 0/0 was NaN."""
    expansion = Expansion(np.ones(2), 0.5, np.array([0.1, 0.2]), np.eye(2))
    np.testing.assert_array_equal(interpolated_gradient(expansion, expansion, np.ones(2)), [0.1, 0.2])


@pytest.mark.parametrize("method", INTEGRATORS)
@pytest.mark.parametrize(
    "error", [RuntimeError("no point on the sphere"), StepError("no step")], ids=["foreign", "own"]
)
def test_where_an_integrator_fails_the_other_is_tried(method, error, monkeypatch):
    def fails(branch):
        branch.record(branch.start.positions, 0.0)
        raise error

    monkeypatch.setitem(INTEGRATORS, method, fails)
    path = follow_irc(swing(), method=method)
    (other,) = set(INTEGRATORS) - {method}
    assert path.converged
    assert {path.backward.method, path.forward.method} == {other}
    assert str(error) in path.sentence
    assert f"followed by {other}" in path.sentence
    angles = [np.radians(atoms.get_angle(0, 1, 2)) - np.pi / 2 for atoms in path.ends]
    assert sorted(angles) == pytest.approx([-WELL, WELL], abs=0.01)
    reaction = find_reaction(swing(), method=method)
    assert reaction.converged
    assert str(error) in reaction.sentence


def test_where_all_integrators_fail_all_reasons_are_said(monkeypatch):
    for method in INTEGRATORS:
        monkeypatch.setitem(INTEGRATORS, method, raises(RuntimeError(f"not by {method}")))
    path = follow_irc(swing())
    assert path.outcome == "failed"
    assert "not by sella" in path.sentence
    assert "not by quadratic" in path.sentence
    assert "raise error" in path.backward.traceback


def test_the_first_step_is_shortened_where_sella_finds_no_point(monkeypatch):
    steps = []

    def follow(branch, step):
        steps.append(step)
        if len(steps) < 3:
            raise StepError("no point")
        return True

    monkeypatch.setattr("phl_ase.paths.sella_irc._follow", follow)
    assert follow_irc(swing()).converged
    assert steps[:3] == [0.1, 0.05, 0.025]


def test_a_path_back_to_its_own_start_is_no_reaction():
    """H2 has one minimum: GFN2-xTB's ridge near 4.3 Å leads to it on both sides."""
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.78]], calculator=resolve_calculator("tblite"))
    found = find_transition_state(atoms)
    assert found.converged
    reaction = find_reaction(found.atoms)
    assert reaction.path.converged
    assert (reaction.outcome, reaction.converged) == ("same end", False)
    assert "no reaction" in reaction.sentence
