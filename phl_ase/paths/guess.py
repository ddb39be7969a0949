"""Guesses of transition states from reactant and product: an interpolated path and its highest image.

Paths come from ``PATH_METHODS``: geodesics (X. Zhu, K. C. Thompson, T. J. Martínez, J. Chem. Phys. 150, 164103 (2019),
doi:10.1063/1.5090303) or image-dependent pair potentials (S. Smidstrup, A. Pedersen, K. Stokbro, H. Jónsson, J. Chem.
Phys. 140, 214106 (2014), doi:10.1063/1.4878664), refined where wanted by some steps of a nudged elastic band with a
climbing image (G. Henkelman, B. P. Uberuaga, H. Jónsson, J. Chem. Phys. 113, 9901 (2000), doi:10.1063/1.1329672).
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from ase import Atoms
from ase.geometry import find_mic

from phl_ase.errors import PHLError, attempt, missing_package, unknown
from phl_ase.paths.counting import CountingCalculator
from phl_ase.paths.geometry import aligned
from phl_ase.types import Array, ASECalculator

# Å, of the middle image: atoms that meet on a line (HCN to HNC) could never pass each other without leaving it
_SIDESTEP = 0.3

BAND = "neb"
"""The method that lets the best of the paths climb as a nudged elastic band."""

_BAND_STEPS = 50


@dataclass(frozen=True)
class PathMethod:
    """A method that makes a path from reactant to product.

    Attributes:
        description: What it does, in a few words.
        make: ``make(reactant, product, n_images)`` to all positions ``(n_images, n, 3)`` Å, end points included.
        package: The optional package that it needs; empty for none.
        periodic: Whether it can take periodic structures.
    """

    description: str
    make: Callable[[Atoms, Atoms, int], Array]
    package: str = ""
    periodic: bool = True

    @property
    def is_installed(self) -> bool:
        """Return whether the package is there."""
        return not self.package or importlib.util.find_spec(self.package) is not None


@dataclass(frozen=True, eq=False)
class TransitionStateGuess:
    """A guess of a transition state.

    Attributes:
        atoms: The guess, with the calculator where one was given.
        path: The images from reactant to product, both included, aligned.
        energies: Their energies, eV; NaN where the calculator failed; ``None`` without a calculator.
        index: Which image the guess is.
        method: Key of ``PATH_METHODS`` that made the path.
        force_calls: Geometries at which energy and forces were computed.
        reason: Why the elastic band or an energy failed; empty otherwise.
    """

    atoms: Atoms
    path: tuple[Atoms, ...]
    energies: Array | None
    index: int
    method: str
    force_calls: int
    reason: str = ""

    @property
    def highest(self) -> float:
        """Energy of the guess, eV; NaN without a calculator."""
        return float("nan") if self.energies is None else float(self.energies[self.index])


def guess_transition_state(
    reactant: Atoms,
    product: Atoms,
    calculator: ASECalculator | None = None,
    *,
    method: str = "auto",
    n_images: int = 11,
    neb_steps: int = 0,
) -> TransitionStateGuess:
    """Guess a transition state between two structures.

    Args:
        reactant: One end, a minimum.
        product: The other, with the same atoms in the same order; it is moved onto the reactant first (by a proper
            rotation), but where constraints hold atoms in a frame. Neither is changed.
        calculator: Chooses the highest image between the ends; without one it is the middle one.
        method: A key of ``PATH_METHODS``, or ``"auto"``: of those that are installed and take the structures, the one
            whose highest image is lowest; without a calculator the first. ``"neb"`` is that one, refined by 50 steps
            of an elastic band.
        n_images: Images of the path, the ends included.
        neb_steps: Most steps of a nudged elastic band with the calculator; with more than 0 the images climb.

    Returns:
        The guess and its path.

    Raises:
        PHLError: For other atoms or another order, an unknown method or one that cannot be used, fewer than three
            images, an elastic band without a calculator, or a calculator that fails for every image.
        NonFiniteError: For NaN or infinite positions.
    """
    if n_images < 3:
        raise PHLError(f"n_images is {n_images}; expected at least 3: reactant, guess, product")
    if neb_steps < 0:
        raise PHLError(f"neb_steps is {neb_steps}; expected 0 or more")
    if neb_steps and calculator is None:
        raise PHLError("neb_steps needs a calculator; give one, or take neb_steps=0")
    if method == BAND:
        if calculator is None:
            raise PHLError(f"the method {BAND!r} needs a calculator; give one, or take 'auto'")
        method, neb_steps = "auto", neb_steps or _BAND_STEPS
    moved = aligned(product, reactant)
    if reactant.constraints:  # which hold atoms in a frame: each atom to its nearest image only
        moved = product.copy()
        difference = find_mic(product.positions - reactant.positions, reactant.cell, reactant.pbc)[0]
        moved.positions[:] = reactant.positions + difference
    names = _candidates(method, periodic=bool(np.any(reactant.pbc)), several=calculator is not None)
    paths = {name: _images(reactant, PATH_METHODS[name].make(reactant, moved, n_images)) for name in names}
    if calculator is None:
        images, middle = paths[names[0]], n_images // 2
        return TransitionStateGuess(images[middle].copy(), tuple(images), None, middle, names[0], 0)
    if len(names) == 1:
        return _highest(paths[names[0]], names[0], calculator, neb_steps)
    guesses = [_highest(images, name, calculator, 0) for name, images in paths.items()]
    calls = sum(guess.force_calls for guess in guesses)
    best = min(guesses, key=lambda guess: guess.highest)
    if neb_steps:
        best = _highest(list(best.path), best.method, calculator, neb_steps)
        calls += best.force_calls
    return replace(best, force_calls=calls)


def _highest(images: list[Atoms], name: str, calculator: ASECalculator, neb_steps: int) -> TransitionStateGuess:
    """Return the highest image between the ends of a path, the path refined before."""
    # one for each image, so that each keeps what it was asked last
    counters = [CountingCalculator(calculator) for _ in images]
    reason = _refined(images, counters, neb_steps) if neb_steps else ""
    energies = np.full(len(images), np.nan)
    for k, (image, counter) in enumerate(zip(images, counters, strict=True)):
        working = image.copy()
        working.calc = counter
        try:
            asked = attempt(working.get_potential_energy)
        except PHLError as error:  # one image may be where the calculator cannot go
            reason = reason or str(error)
            continue
        energies[k] = float("nan") if asked.value is None else asked.value
        reason = reason or asked.reason
    inner = energies[1:-1]
    if not np.any(np.isfinite(inner)):
        raise PHLError(f"the calculator gave no energy for any image between the end points ({reason})")
    index = 1 + int(np.nanargmax(inner))
    guess = images[index].copy()
    guess.calc = calculator
    return TransitionStateGuess(guess, tuple(images), energies, index, name, sum(c.calls for c in counters), reason)


def _candidates(method: str, *, periodic: bool, several: bool) -> list[str]:
    """Return the keys of ``PATH_METHODS`` that are meant."""
    if method == "auto":
        usable = [key for key, one in PATH_METHODS.items() if one.is_installed and (one.periodic or not periodic)]
        return usable if several else usable[:1]
    if method not in PATH_METHODS:
        raise unknown("way to guess a path", method, GUESSES)
    if periodic and not PATH_METHODS[method].periodic:
        raise PHLError(f"the path method {method!r} is for molecules, and the structure is periodic: take 'idpp'")
    if not PATH_METHODS[method].is_installed:
        raise missing_package(PATH_METHODS[method].package, method, f"the path method {method!r}")
    return [method]


def _images(reactant: Atoms, positions: Array) -> list[Atoms]:
    """Return copies of the reactant at the positions, each aligned with the one before."""
    images: list[Atoms] = []
    for place in positions:
        image = reactant.copy()
        image.calc = None
        image.positions[:] = place
        # where atoms are fixed the path was made in their frame
        images.append(aligned(image, images[-1]) if images and not reactant.constraints else image)
    return images


def _idpp(reactant: Atoms, product: Atoms, n_images: int) -> Array:
    """Return positions interpolated so that all distances change evenly, as nearly as they can."""
    from ase.mep import NEB
    from ase.mep.neb import idpp_interpolate

    images = [reactant.copy() for _ in range(n_images - 1)] + [product.copy()]
    periodic = bool(np.any(reactant.pbc))
    band = NEB(images, method="aseneb")
    band.interpolate(method="linear", mic=periodic, apply_constraint=bool(reactant.constraints))
    # a small random displacement in the direction in which the structure is thinnest
    axes = np.linalg.svd(reactant.positions - reactant.positions.mean(axis=0), full_matrices=True)[2]
    aside = np.random.default_rng(0).standard_normal((len(reactant), 1)) * axes[-1]
    aside *= _SIDESTEP / np.sqrt(np.mean(aside**2) * 3)
    for k, image in enumerate(images[1:-1], start=1):
        # not written to the array, so that constraints hold what they hold
        image.set_positions(image.positions + np.sin(np.pi * k / (n_images - 1)) * aside)
    idpp_interpolate(band, traj=None, log=None, mic=periodic)
    return np.array([image.positions for image in images])


def _geodesic(reactant: Atoms, product: Atoms, n_images: int) -> Array:
    """Return positions along the shortest path in the space of scaled distances."""
    from geodesic_interpolate import Geodesic, redistribute

    symbols = reactant.get_chemical_symbols()
    with _numpy_random_state(0):
        raw = redistribute(symbols, [reactant.positions.copy(), product.positions.copy()], n_images, tol=1e-2)
        smoother = Geodesic(symbols, raw, 1.7, threshold=3, friction=1e-2)  # the values of its own command line
        smoother.smooth(tol=2e-3, max_iter=15)
    return np.array(smoother.path)


@contextlib.contextmanager
def _numpy_random_state(seed: int) -> Iterator[None]:
    """NumPy's global generator in a known state, and back: the package nudges with it and takes no other."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.set_state(np.random.RandomState(seed).get_state())  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


PATH_METHODS: Mapping[str, PathMethod] = {
    "geodesic": PathMethod("geodesic in scaled distances", _geodesic, package="geodesic_interpolate", periodic=False),
    "idpp": PathMethod("image-dependent pair potential of ASE's elastic band", _idpp),
}
"""Name -> how a path is made, the best first."""

GUESSES: tuple[str, ...] = ("auto", *PATH_METHODS, BAND)
"""Methods that :func:`guess_transition_state` takes."""


def _refined(images: list[Atoms], counters: list[CountingCalculator], steps: int) -> str:
    """Let the images climb an elastic band; what went wrong, or nothing."""
    from ase.mep import NEB
    from ase.optimize import FIRE

    # a copy, so that what a failure leaves behind can be thrown away
    working = [image.copy() for image in images]
    for image, counter in zip(working, counters, strict=True):
        image.calc = counter
    band = NEB(working, climb=True, method="improvedtangent")

    def climb() -> bool:
        with FIRE(band, logfile=None) as optimiser:
            return bool(optimiser.run(fmax=0.1, steps=steps))

    try:
        climbed = attempt(climb)
    except PHLError as error:  # what the calculator refuses is where the band went
        return str(error)
    if climbed.value is None:  # the path before it stays
        return climbed.reason
    for image, better in zip(images, working, strict=True):
        image.positions[:] = better.positions
    return ""
