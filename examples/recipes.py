"""Jobs on molecules for workflow tools (decorate them, ``@quacc.job``): Atoms with a calculator in, a plain dictionary,
as JSON takes it, out. Sella runs on the calculator's exact Hessian-vector products."""

import json

from ase import Atoms
from ase.optimize import BFGS

from phl_ase import PHLCalculator
from phl_ase.curvature import curvature_of
from phl_ase.paths import follow_irc, search
from phl_ase.vibrations import harmonic_analysis, thermochemistry


def summary(atoms: Atoms, **more) -> dict:
    structure = {"numbers": atoms.numbers.tolist(), "positions": atoms.positions.tolist(), "info": {**atoms.info}}
    return {"structure": structure, "energy": float(atoms.get_potential_energy()), **more}


def ts_job(atoms: Atoms, way: str = "hvp", fmax: float = 0.01) -> dict:
    """Transition-state search by Sella, "hvp": exact products in its eigensolver (others: ``phl_ase.paths.WAYS``)."""
    found = search(atoms, way, curvature_of(atoms.calc), fmax=fmax)
    calls = {"gradients": found.force_calls, "products": found.hvp_calls, "hessians": found.hessian_calls}
    return summary(found.atoms, outcome=found.sentence, converged=found.converged, fmax=found.fmax, calls=calls)


def freq_job(atoms: Atoms, temperature: float = 298.15, pressure: float = 101325.0) -> dict:
    """Wavenumbers (cm⁻¹, imaginary ones negative) and thermochemistry (eV) from one exact Hessian."""
    modes = harmonic_analysis(atoms, curvature_of(atoms.calc).hessian(atoms))
    gibbs = thermochemistry(modes, 0.0, temperature=temperature, pressure=pressure).gibbs_correction
    found = {"wavenumbers": modes.wavenumbers.tolist(), "n_imaginary": modes.n_imaginary}
    return summary(atoms, zero_point_energy=modes.zero_point_energy, gibbs_correction=gibbs, **found)


def irc_job(atoms: Atoms, step: float = 0.1) -> dict:
    """The reaction path both ways from a transition state by Sella's IRC; its first step follows the exact Hessian."""
    path = follow_irc(atoms, step=step)
    profile = {"arc_length": path.arc_length.tolist(), "energies": path.energies.tolist()}
    profile["positions"] = [point.positions.tolist() for point in path.structures]
    return summary(atoms, outcome=path.sentence, converged=path.converged, **profile)


def quasi_irc_job(atoms: Atoms, direction: int = 1, push: float = 0.1, fmax: float = 0.01) -> dict:
    """The minimum on one side (1 or -1): a push along the imaginary mode (Å, of the most moved atom), then BFGS."""
    mode = harmonic_analysis(atoms, curvature_of(atoms.calc).hessian(atoms)).displacements[0]
    end = atoms.copy()
    end.calc = atoms.calc
    end.positions += direction * push * mode / (mode**2).sum(axis=1).max() ** 0.5
    return summary(end, converged=bool(BFGS(end, logfile=None).run(fmax=fmax, steps=500)))


if __name__ == "__main__":
    guess = Atoms("CNH", [[0.0, 0.0, 0.0], [0.0, 0.0, 1.19], [0.0, 1.15, 0.3]], calculator=PHLCalculator())
    ts = ts_job(guess)
    saddle = Atoms(**ts["structure"], calculator=guess.calc)
    sides = {f"quasi-irc {side:+d}": quasi_irc_job(saddle, side) for side in (1, -1)}
    print(f"ts_job: {ts['outcome']}; {ts['calls']}")
    for name, job in (results := {"freq": freq_job(saddle), "irc": irc_job(saddle), **sides}).items():
        print(f"{name}: {job['energy'] - ts['energy']:+.3f} eV from the TS, {len(json.dumps(job))} bytes of JSON")
    print(f"imaginary modes: {results['freq']['n_imaginary']}; path: {results['irc']['outcome']}")
