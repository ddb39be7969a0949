"""A transition state from a guess: Sella run with several strategies and the model's curvature, and the barriers.

python transition_state.py [GUESS] [MODEL]      (a structure that ase.io reads; HCN to HNC and the bundled model)
"""

import sys
from pathlib import Path

import ase.io

from phl_ase import PHLCalculator
from phl_ase.curvature import curvature_of
from phl_ase.paths import STRATEGIES, relax, search
from phl_ase.units import convert
from phl_ase.vibrations import mode_trajectory

structure, *model = sys.argv[1:] or [Path(__file__).parent / "structures/hcn_hnc_guess.xyz"]
guess = ase.io.read(structure)
guess.calc = calc = PHLCalculator(*model)
curvature = curvature_of(calc)  # the model's own Hessians and HVPs; of other calculators differences of forces

for strategy in ("gradients", "hvp", "hessian-every"):
    found = search(guess, strategy, curvature)
    print(f"{found.outcome}: {STRATEGIES[strategy].description}")
    calls = f"{found.force_calls} gradients, {found.hvp_calls} HVPs, {found.hessian_calls} Hessians"
    print(f"  {found.steps} steps, {calls}, largest force {found.fmax:.4f} eV/Å")
if found.analysis is None:
    sys.exit(f"no transition state: {found.sentence}")
print(found.analysis.table())
ase.io.write("ts.extxyz", found.atoms)

# a push along the imaginary mode either way, and down; examples/irc.py follows the path itself
pushed = mode_trajectory(found.analysis, 0, amplitude=0.1, n_frames=4)
for side, start in (("one", pushed[1]), ("the other", pushed[3])):
    start.calc = calc
    minimum = relax(start)
    barrier = convert(found.energy - minimum.energy, "eV", "kcal/mol")
    print(f"on {side} side: {minimum.outcome} in {minimum.steps} steps; barrier from there {barrier:.1f} kcal/mol")
# Sella can be used directly, too: Sella(guess, order=1, internal=True, hessian_function=calc.get_hessian)
