"""Jobs for workflow tools (decorate them, ``@quacc.job``): Atoms with a calculator in, a dictionary for JSON out.

python recipes.py [GUESS] [MODEL]      (a guess of a transition state that ase.io reads; HCN to HNC)
"""

import json
import sys
from pathlib import Path

import ase.io
from ase import Atoms

from phl_ase import PHLCalculator
from phl_ase.curvature import curvature_of
from phl_ase.paths import follow_irc, relax, search
from phl_ase.vibrations import harmonic_analysis, mode_trajectory, thermochemistry


def summary(atoms: Atoms, **more) -> dict:
    structure = {"numbers": atoms.numbers.tolist(), "positions": atoms.positions.tolist(), "info": {**atoms.info}}
    return {"structure": structure, "energy": float(atoms.get_potential_energy()), **more}


def ts_job(atoms: Atoms, strategy: str = "hvp", fmax: float = 0.01) -> dict:
    """Transition-state search by Sella, "hvp": exact HVPs in its eigensolver (others: ``phl_ase.paths.STRATEGIES``)."""
    found = search(atoms, strategy, curvature_of(atoms.calc), fmax=fmax)
    calls = {"gradients": found.force_calls, "hvp": found.hvp_calls, "hessians": found.hessian_calls}
    return summary(found.atoms, outcome=found.sentence, converged=found.converged, fmax=fmax, calls=calls)


def freq_job(atoms: Atoms, temperature: float = 298.15, pressure: float = 101325.0) -> dict:
    """Wavenumbers (cm⁻¹, imaginary ones negative) and thermochemistry (eV) from one exact Hessian."""
    modes = harmonic_analysis(atoms, curvature_of(atoms.calc).hessian(atoms))
    gibbs = thermochemistry(modes, 0.0, temperature=temperature, pressure=pressure).gibbs_correction
    numbers = {"wavenumbers": modes.wavenumbers.tolist(), "zero_point_energy": modes.zero_point_energy}
    return summary(atoms, outcome=repr(modes), gibbs_correction=gibbs, **numbers)


def irc_job(atoms: Atoms, step: float = 0.1) -> dict:
    """The reaction path both ways from a transition state by Sella's IRC; its first step follows the exact Hessian."""
    path = follow_irc(atoms, step=step)
    profile = {"arc_length": path.arc_length.tolist(), "energies": path.energies.tolist()}
    return summary(atoms, outcome=path.sentence, converged=path.converged, **profile)


def quasi_irc_job(atoms: Atoms, direction: int = 1, push: float = 0.1, fmax: float = 0.01) -> dict:
    """The minimum on one side (1 or -1): a push along the imaginary mode (Å, of the most moved atom), then BFGS."""
    modes = harmonic_analysis(atoms, curvature_of(atoms.calc).hessian(atoms))
    pushed = mode_trajectory(modes, 0, amplitude=push, n_frames=4)[direction]
    found = relax(Atoms(pushed, calculator=atoms.calc), fmax, 500)
    return summary(found.atoms, outcome=found.sentence, converged=found.converged)


if __name__ == "__main__":
    structure, *model = sys.argv[1:] or [Path(__file__).parent / "structures/hcn_hnc_guess.xyz"]
    guess = Atoms(ase.io.read(structure), calculator=PHLCalculator(*model))
    saddle = Atoms(**(ts := ts_job(guess))["structure"], calculator=guess.calc)
    results = {"ts": ts, "freq": freq_job(saddle), "irc": irc_job(saddle)}
    for name, job in (results | {f"side {side:+d}": quasi_irc_job(saddle, side) for side in (1, -1)}).items():
        print(f"{name}: {job['energy'] - ts['energy']:+.3f} eV; {job['outcome']} (JSON: {len(json.dumps(job))} bytes)")
