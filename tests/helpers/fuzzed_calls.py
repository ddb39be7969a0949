"""One call on one structure, checked: the process that ``test_fuzz.py`` asks, so that a signal there is a failure here.

Reads cases as lines of JSON and answers each with a line: what became of it, and why where that is a failure. A right
answer is finite and agrees with differences of what it is a derivative of. A refusal is a ``PHLError``, or ASE's own
error for a stress without a volume. A call that takes more than ``LIMIT`` seconds of processor ends the process.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import traceback
import warnings

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.constraints import FixAtoms, FixBondLength, FixCartesian, FixedPlane

from phl_ase import PHLCalculator
from phl_ase.errors import PHLError
from phl_ase.paths import find_transition_state, relax
from phl_ase.potentials import LennardJones, PaiNN, PaiNNConfig
from phl_ase.structures import neighbour_list
from phl_ase.units import wavenumbers
from phl_ase.vibrations import harmonic_analysis

LIMIT = 10.0
STEP = 1e-6  # Å; networks that extrapolate curve sharply

POTENTIALS = {
    "bundled": lambda: "default",
    "network": lambda: PaiNN(PaiNNConfig((1, 6, 7, 8, 29), channels=8, cutoff=4.5, core="zbl")),
    "pairs": lambda: LennardJones(epsilon=0.1, sigma=1.5, cutoff=5.0),
}
MODES = {
    "usual": contextlib.nullcontext,
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}
CONSTRAINTS = {
    "none": lambda n: [],
    "first": lambda n: [FixAtoms([0])],
    "last": lambda n: [FixAtoms([-1])],
    "all": lambda n: [FixAtoms(list(range(n)))],
    "axis": lambda n: [FixCartesian(0, mask=[True, False, True])],
    "plane": lambda n: [FixedPlane(0, [0, 0, 1])],
    "bond": lambda n: [FixBondLength(0, n - 1)] if n > 1 else [],
}


def agree(found, expected, what: str, *, relative: float = 1e-3, absolute: float = 1e-4) -> None:
    found, expected = np.asarray(found, dtype=float), np.asarray(expected, dtype=float)
    assert np.isfinite(found).all(), f"{what}: {found} is not finite"
    error = np.abs(found - expected).max()
    scale = max(np.abs(found).max(), np.abs(expected).max())
    assert error <= absolute + relative * scale, f"{what}: {found.tolist()} is {error:.3g} off {expected.tolist()}"


def crowded(atoms: Atoms) -> bool:
    """Whether atoms are so near that rounding of huge energies is all that differences show."""
    return len(neighbour_list(atoms.positions, np.array(atoms.cell), atoms.pbc, 0.4)[0]) > 0


def moved(atoms: Atoms, step: np.ndarray) -> Atoms:
    other = atoms.copy()
    other.positions = atoms.positions + step
    return other


def slope(function, h: float):
    """Central differences of fourth order."""
    return (8.0 * (function(h) - function(-h)) - function(2 * h) + function(-2 * h)) / (12.0 * h)


def direction(atoms: Atoms) -> np.ndarray:
    d = np.random.default_rng(len(atoms)).normal(size=(len(atoms), 3))
    return d / np.linalg.norm(d)


def energy(calc, atoms) -> None:
    one = calc.get_potential_energy(atoms)
    beside = calc.evaluate([molecule("H2O"), atoms], ("energy",))[1]["energy"]
    agree(one, beside, "energy beside another", relative=1e-9)
    if crowded(atoms):
        return
    # an image of an atom is the same atom
    for axis in np.flatnonzero(atoms.pbc):
        step = np.zeros((len(atoms), 3))
        step[0] = atoms.cell[axis]
        agree(calc.get_potential_energy(moved(atoms, step)), one, "energy of an image", relative=1e-6)


def forces(calc, atoms) -> None:
    found, d = calc.get_forces(atoms), direction(atoms)
    if crowded(atoms):
        agree(found, found, "forces")
        return
    expected = -slope(lambda h: calc.get_potential_energy(moved(atoms, h * d)), STEP)
    agree((found * d).sum(), expected, "forces", absolute=1e-4 + 1e-3 * np.abs(found).max())
    agree(found.sum(axis=0), 0.0, "sum of forces", absolute=1e-6 * (1.0 + np.abs(found).max()))


def stress(calc, atoms) -> None:
    found = calc.get_stress(atoms)
    if crowded(atoms):
        agree(found, found, "stress")
        return
    strain = np.random.default_rng(1).normal(size=(3, 3))
    strain = 0.5 * (strain + strain.T)

    def strained(h):
        other = atoms.copy()
        other.set_cell(atoms.cell @ (np.eye(3) + h * strain), scale_atoms=False)
        other.positions = atoms.positions @ (np.eye(3) + h * strain)
        return calc.get_potential_energy(other)

    full = np.array([[found[0], found[5], found[4]], [found[5], found[1], found[3]], [found[4], found[3], found[2]]])
    extent = max(1.0, np.abs(atoms.positions).max(), np.abs(atoms.cell[atoms.pbc]).max(initial=0.0))
    expected = slope(strained, STEP / extent)
    agree((full * strain).sum() * atoms.get_volume(), expected, "stress", absolute=1e-4 * extent)


def hvp(calc, atoms) -> None:
    d = direction(atoms)
    found = calc.get_hvp(d, atoms)
    if crowded(atoms):
        agree(found, found, "HVP")
        return
    agree(found, slope(lambda h: -calc.get_forces(moved(atoms, h * d)), STEP), "HVP")


def hessian(calc, atoms) -> None:
    found, d = calc.get_hessian(atoms), direction(atoms)
    agree(found, found.T, "symmetry", relative=1e-12, absolute=1e-12)
    agree(found @ d.ravel(), calc.get_hvp(d, atoms).ravel(), "Hessian against HVP", relative=1e-7)
    agree(calc.get_sparse_hessian(atoms).toarray(), found, "sparse Hessian", relative=1e-7)
    agree(calc.evaluate([atoms], ("hessian",))[0]["hessian"], found, "Hessian of many", relative=1e-7)


def modes(calc, atoms) -> None:
    values, vectors = calc.get_lowest_modes(atoms, 1)
    assert np.isfinite(values).all(), values
    assert np.isfinite(vectors).all(), vectors
    if crowded(atoms):
        return
    analysis = harmonic_analysis(atoms, calc.get_hessian(atoms), forces=calc.get_forces(atoms))
    agree(wavenumbers(values), analysis.wavenumbers[:1], "lowest mode", relative=1e-2, absolute=1.0)  # cm⁻¹


def relaxation(calc, atoms) -> None:
    atoms.calc = calc.calc
    result = relax(atoms, fmax=0.05, steps=15)
    assert result.sentence, result.outcome
    if result.converged:
        assert np.isfinite(result.atoms.positions).all(), "a relaxed structure that is not finite"
        assert np.isfinite(result.energy), "a relaxed structure without an energy"


def search(calc, atoms) -> None:
    atoms.calc = calc.calc
    result = find_transition_state(atoms, calc.get_hessian, max_steps=4)
    assert result.sentence, result.outcome
    if result.converged:
        assert np.isfinite(result.atoms.positions).all(), "a transition state that is not finite"
        assert result.n_imaginary == 1, result.outcome


CALLS = {
    "energy": energy,
    "forces": forces,
    "stress": stress,
    "hvp": hvp,
    "hessian": hessian,
    "modes": modes,
    "relax": relaxation,
    "search": search,
}


def structure(case: dict) -> Atoms:
    atoms = Atoms(case["numbers"], positions=case["positions"], cell=case["cell"], pbc=case["pbc"])
    atoms.info.update(case["info"])
    atoms.set_constraint(CONSTRAINTS[case["constraint"]](len(atoms)))
    return atoms


class Timed:
    """A calculator whose every call has ``LIMIT`` seconds of processor to itself."""

    def __init__(self, calc: PHLCalculator) -> None:
        self.calc = calc

    def __getattr__(self, name: str):
        signal.setitimer(signal.ITIMER_PROF, LIMIT)
        return getattr(self.calc, name)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what others print is no answer
    warnings.simplefilter("ignore")
    calculators = {name: PHLCalculator(make(), device="cpu") for name, make in POTENTIALS.items()}
    for calc in calculators.values():  # what is imported on first use is paid for here
        for call in CALLS.values():
            with contextlib.suppress(PHLError, PropertyNotImplementedError, AssertionError):
                call(Timed(calc), molecule("H2O"))
    signal.setitimer(signal.ITIMER_PROF, 0.0)
    print(json.dumps({"ready": list(CALLS)}), file=answers, flush=True)
    for line in sys.stdin:
        case = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, LIMIT)
        try:
            with MODES[case["mode"]]():
                CALLS[case["call"]](Timed(calculators[case["potential"]]), structure(case))
            answer = {"outcome": "right"}
        except (PHLError, PropertyNotImplementedError) as error:
            answer = {"outcome": "refused", "reason": f"{type(error).__name__}: {error}"}
        except Exception:
            answer = {"outcome": "wrong", "reason": traceback.format_exc()}
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
