"""Structures around a given one: normal-mode samples, molecular dynamics, scans along a mode, random displacements.

Every sampler takes a structure with any ASE calculator and returns copies without one, ``kind`` and ``temperature`` in
``info``; what could not be taken is said, not raised.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.units import kB

from phl_ase.curvature import curvature_of
from phl_ase.errors import PHLError, attempt, unknown
from phl_ase.paths.counting import CountingCalculator
from phl_ase.paths.geometry import displaced
from phl_ase.paths.irc import STATIONARY_WITHIN
from phl_ase.reactions.guesses import closest_atoms
from phl_ase.reactions.settings import SOFTEST_SAMPLED
from phl_ase.types import ASECalculator
from phl_ase.units import wavenumbers
from phl_ase.vibrations import HarmonicAnalysis, free_motions, harmonic_analysis

Array = np.ndarray
Taken = Callable[[Atoms], object]
"""Is called with each sample as soon as it is taken: for progress, and to keep what a stop would lose."""

# times the sum of covalent radii; nearer atoms are on a wall that no reaction climbs
_CLOSEST = 0.65
# times the harmonic mean of the potential energy
_HOTTEST = 3.0
# draws for one sample: of a loose complex at 2000 K the harmonic distribution is nine times in ten far too high
_DRAWS = 30


def _ignored(_: Atoms) -> None:
    pass


@dataclass(frozen=True, eq=False, repr=False)
class Samples:
    """Structures that a sampler gives.

    Attributes:
        frames: The samples.
        refused: Why something that was drawn, or the rest, is not among them; one line each.
    """

    frames: tuple[Atoms, ...]
    refused: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Samples: {len(self.frames)} frames, {len(self.refused)} refused>"


def draw_normal_modes(
    analysis: HarmonicAnalysis, temperature: float, rng: np.random.Generator, *, softest: float = SOFTEST_SAMPLED
) -> Array:
    """Return positions from the classical harmonic distribution: of each mode Q ~ N(0, kT/λ), λ its eigenvalue.

    Args:
        analysis: The modes; imaginary ones are taken by their absolute value.
        temperature: K.
        rng: Random numbers.
        softest: Softer modes are sampled as if they were this stiff, cm⁻¹.

    Returns:
        ``(n, 3)`` Å.
    """
    stiff = np.maximum(np.abs(analysis.wavenumbers), softest)
    eigenvalues = (stiff / float(wavenumbers(1.0))) ** 2
    amplitudes = rng.standard_normal(len(stiff)) * np.sqrt(kB * temperature / eigenvalues)
    return _moved(analysis, np.tensordot(amplitudes, analysis.displacements, axes=1))


def _moved(analysis: HarmonicAnalysis, displacement: Array) -> Array:
    """Return positions displaced along modes; lengths and angles that constraints hold stay as they are."""
    positions = analysis.atoms.positions.copy()
    positions[analysis.indices] += displacement
    return free_motions(analysis.atoms).restore(analysis.atoms, positions) if analysis.n_constrained else positions


def around_stationary_point(
    analysis: HarmonicAnalysis,
    calculator: ASECalculator,
    energy: float,
    temperature: float,
    rng: np.random.Generator,
    *,
    count: int = 1,
    softest: float = SOFTEST_SAMPLED,
    taken: Taken = _ignored,
) -> Samples:
    """Normal-mode samples fit to be labelled: no atoms run into each other, no energy far above the temperature's.

    Args:
        analysis: Of the stationary point.
        calculator: Any ASE calculator.
        energy: Of the stationary point, eV.
        temperature: K.
        rng: Random numbers.
        count: Samples wanted; each is drawn up to thirty times.
        softest: See :func:`draw_normal_modes`.
        taken: Is called with each sample.
    """

    def draw() -> Atoms:
        atoms = analysis.atoms.copy()
        atoms.positions[:] = draw_normal_modes(analysis, temperature, rng, softest=softest)
        atoms.info.update(kind="nms", temperature=temperature)
        return atoms

    limit = _HOTTEST * 0.5 * len(analysis.modes) * kB * temperature

    def unfit(atoms: Atoms) -> str:
        clash = _clash(atoms)
        if clash:
            return clash
        there = atoms.copy()
        there.calc = CountingCalculator(calculator)
        tried = attempt(there.get_potential_energy)
        if tried.value is None:
            return tried.reason
        excess = tried.value - energy
        return f"{excess:.2f} eV above the stationary point, at most {limit:.2f}" if excess > limit else ""

    return _drawn(draw, unfit, count, f"{temperature:g} K", taken)


def _drawn(
    draw: Callable[[], Atoms], unfit: Callable[[Atoms], str], count: int, where: str, taken: Taken = _ignored
) -> Samples:
    """Return so many structures, each drawn until there is no reason against it, or too often."""
    frames, refused = [], []
    for _ in range(count):
        for _ in range(_DRAWS):
            atoms = draw()
            reason = unfit(atoms)
            if not reason:
                frames.append(atoms)
                taken(atoms)
                break
            refused.append(f"{where}: {reason}")
    return Samples(tuple(frames), tuple(refused))


def _clash(atoms: Atoms) -> str:
    """Return which atoms have run into each other; empty where none have."""
    closest, _ = closest_atoms(atoms)
    return f"two atoms at {closest:.2f} times the sum of their radii" if closest < _CLOSEST else ""


def sample_normal_modes(
    atoms: Atoms,
    taken: Taken = _ignored,
    *,
    temperature: float = 300.0,
    count: int = 20,
    seed: int = 0,
    softest: float = SOFTEST_SAMPLED,
) -> Samples:
    """Samples of the classical harmonic distribution around a stationary point.

    Args:
        atoms: The stationary point, with a calculator; at a TS the imaginary mode is sampled by its absolute value.
        taken: Is called with each sample.
        temperature: K.
        count: Samples.
        seed: Of the random numbers.
        softest: Softer modes are sampled as if they were this stiff, cm⁻¹: a straight line is no torsion.

    Raises:
        PHLError: For a structure that is not stationary, no calculator, or numbers that are not positive.
    """
    _check_positive(temperature=temperature, count=count, softest=softest)
    analysis, energy = _stationary(atoms)
    rng = np.random.default_rng(seed)
    options: dict[str, Any] = {"count": count, "softest": softest, "taken": taken}
    return around_stationary_point(analysis, atoms.calc, energy, temperature, rng, **options)


def sample_dynamics(
    atoms: Atoms,
    taken: Taken = _ignored,
    *,
    temperature: float = 300.0,
    count: int = 20,
    seed: int = 0,
    time_step: float = 0.5,
    friction: float = 0.01,
    interval: int = 200,
    equilibration: int = 1000,
) -> Samples:
    """Return frames of Langevin dynamics, so far apart in time that velocities have forgotten one another.

    Args:
        atoms: The start, with a calculator.
        taken: Is called with each frame.
        temperature: K.
        count: Frames.
        seed: Of velocities and noise.
        time_step: fs.
        friction: 1/fs; its inverse is the time in which velocities are forgotten.
        interval: Steps from frame to frame; by default as long as that time.
        equilibration: Steps before the first frame.

    Returns:
        Frames with ``time`` (fs) in ``info``, fewer where the dynamics broke off.

    Raises:
        PHLError: For no calculator, or numbers that are not positive.
    """
    from ase.constraints import FixCom
    from ase.md.langevin import Langevin

    numbers = {"temperature": temperature, "count": count, "time_step": time_step, "friction": friction}
    _check_positive(**numbers, interval=interval, equilibration=equilibration)
    rng = np.random.default_rng(seed)
    moving = _with_counter(atoms)
    if not atoms.constraints:
        moving.set_constraint(FixCom())  # Langevin's own way of holding the centre of mass samples another ensemble
    # Maxwell's distribution, within the constraints
    widths = np.sqrt(moving.get_masses() * kB * temperature)
    moving.set_momenta(widths[:, None] * rng.standard_normal((len(moving), 3)))
    options: dict[str, Any] = {"temperature_K": temperature, "friction": friction / units.fs, "fixcm": False}
    frames: list[Atoms] = []

    def move() -> bool:
        dynamics.run(equilibration if not frames else interval)
        return True

    with Langevin(moving, time_step * units.fs, **options, rng=rng, logfile=None) as dynamics:
        while len(frames) < count:
            moved = attempt(move)
            if not moved.value:
                return Samples(tuple(frames), (f"{temperature:g} K: the dynamics broke off: {moved.reason}",))
            frame = atoms.copy()
            frame.positions[:] = moving.positions
            time = (equilibration + len(frames) * interval) * time_step
            frame.info.update(kind="md", temperature=temperature, time=time)
            frames.append(frame)
            taken(frame)
    return Samples(tuple(frames))


def scan_mode(
    atoms: Atoms, taken: Taken = _ignored, *, mode: int = 0, amplitude: float = 0.3, count: int = 11
) -> Samples:
    """Structures along a normal mode, evenly from one side to the other.

    Args:
        atoms: A stationary point, with a calculator.
        taken: Is called with each structure.
        mode: Which mode, ascending from 0: of a TS that is the imaginary one. Negative numbers count from the end.
        amplitude: Largest displacement of an atom, Å.
        count: Structures, the outermost at ± the amplitude.

    Returns:
        Frames with ``mode``, ``wavenumber`` (cm⁻¹, imaginary ones negative) and ``amplitude`` (Å) in ``info``.

    Raises:
        PHLError: For a structure that is not stationary, no calculator, a mode that there is not, or a number that
            cannot be.
    """
    _check_positive(amplitude=amplitude)
    if count < 2:
        raise PHLError(f"count is {count}; a scan needs at least its two ends")
    analysis, _ = _stationary(atoms)
    if not -len(analysis.modes) <= mode < len(analysis.modes):
        raise PHLError(f"mode {mode} does not exist; there are {len(analysis.modes)}, numbered from 0")
    number = mode % len(analysis.modes)
    direction = analysis.displacements[number] / np.linalg.norm(analysis.displacements[number], axis=1).max()
    frames = []
    for size in np.linspace(-amplitude, amplitude, count):
        frame = analysis.atoms.copy()
        frame.positions[:] = _moved(analysis, size * direction)
        known = {"mode": number, "wavenumber": float(analysis.wavenumbers[number]), "amplitude": round(float(size), 12)}
        frame.info.update(kind="scan", **known)
        frames.append(frame)
        taken(frame)
    return Samples(tuple(frames))


def sample_displacements(
    atoms: Atoms, taken: Taken = _ignored, *, displacement: float = 0.1, count: int = 20, seed: int = 0
) -> Samples:
    """Every atom moved at random, all directions alike: what a search meets that starts from a rough guess.

    Normal-mode samples of a few hundred kelvin leave stiff directions almost where they were; a structure 0.1 Å off in
    all directions lies electronvolts up. A model that is to find the way back has to be shown such.

    Args:
        atoms: The structure, stationary or not; nothing is computed.
        taken: Is called with each structure.
        displacement: √mean‖Δr‖² over the atoms, Å, without translation and rotation (``phl_ase.paths.displaced``).
        count: Structures; each is drawn up to thirty times until no two atoms run into each other.
        seed: Of the random numbers.

    Returns:
        Frames with ``displacement`` (Å) in ``info``.

    Raises:
        PHLError: For numbers that are not positive, or a structure that has no shape to change.
    """
    _check_positive(displacement=displacement, count=count)
    return displaced_structures(atoms, displacement, np.random.default_rng(seed), count=count, taken=taken)


def displaced_structures(
    atoms: Atoms, displacement: float, rng: np.random.Generator, *, count: int = 1, taken: Taken = _ignored
) -> Samples:
    """Random displacements fit to be labelled: no atoms run into each other.

    Args:
        atoms: The structure; nothing is computed.
        displacement: See :func:`sample_displacements`, Å.
        rng: Random numbers.
        count: Structures wanted; each is drawn up to thirty times.
        taken: Is called with each structure.
    """

    def draw() -> Atoms:
        frame = displaced(atoms, displacement, rng)
        frame.info.update(kind="displaced", displacement=displacement)
        return frame

    return _drawn(draw, _clash, count, f"{displacement:g} Å", taken)


@dataclass(frozen=True)
class Sampler:
    """A way to sample.

    Attributes:
        description: What it does, in a few words.
        draw: ``draw(atoms, taken, **settings)``; its keyword arguments are the settings.
    """

    description: str
    draw: Callable[..., Samples]

    @property
    def settings(self) -> dict[str, Any]:
        """Setting -> its default."""
        parameters = inspect.signature(self.draw).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


SAMPLERS: Mapping[str, Sampler] = {
    "normal-mode": Sampler("the classical harmonic distribution around a stationary point", sample_normal_modes),
    "md": Sampler("frames of Langevin dynamics", sample_dynamics),
    "mode-scan": Sampler("structures along one normal mode of a stationary point", scan_mode),
    "displaced": Sampler("every atom moved at random, all directions alike", sample_displacements),
}
"""Name -> sampler."""


def sample(atoms: Atoms, how: str = "normal-mode", taken: Taken = _ignored, **settings: Any) -> Samples:
    """Sample structures around a given one.

    Args:
        atoms: The structure, with a calculator where the sampler needs one; it is not changed.
        how: A key of ``SAMPLERS``.
        taken: Is called with each sample as soon as it is there, for progress.
        **settings: Of the sampler, see there.

    Raises:
        PHLError: For an unknown sampler or setting, and what the sampler refuses.
    """
    if how not in SAMPLERS:
        raise unknown("sampler", how, SAMPLERS)
    for name in settings:
        if name not in SAMPLERS[how].settings:
            raise unknown(f"setting of the sampler {how}", name, SAMPLERS[how].settings)
    return SAMPLERS[how].draw(atoms, taken, **settings)


def _stationary(atoms: Atoms) -> tuple[HarmonicAnalysis, float]:
    """Modes and energy of a structure at rest."""
    there = _with_counter(atoms)
    energy = float(there.get_potential_energy())
    largest = there.calc.largest_force()
    if largest > STATIONARY_WITHIN:
        raise PHLError(
            f"{atoms.symbols} is no stationary point: its largest force is {largest:.3g} eV/Å, at most "
            f"{STATIONARY_WITHIN:g}; relax it first"
        )
    return harmonic_analysis(atoms, curvature_of(atoms.calc).hessian(atoms), forces=there.calc.forces), energy


def _with_counter(atoms: Atoms) -> Atoms:
    """Return a copy whose calculator is checked for what is not finite."""
    if atoms.calc is None:
        raise PHLError("the atoms have no calculator; sampling needs one that gives forces: set atoms.calc")
    copy = atoms.copy()
    copy.calc = CountingCalculator(atoms.calc)
    return copy


def _check_positive(**numbers: float) -> None:
    for name, value in numbers.items():
        if not (np.isfinite(value) and value > 0):
            raise PHLError(f"{name} is {value!r}; expected a positive number")
