"""Time the Hessian of one MACE model, ours against its own calculator's ``get_hessian``; needs the extra [mace].

    python workflows/benchmarks/mace_hessian.py [--json FILE]

An untrained model (32 channels, l = 1, two interactions, correlation 2) in float64, one thread, processor time, the
fastest of three rounds taken in turn.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.build import molecule

from phl_ase import PHLCalculator
from phl_ase.adapters.containment import vendor
from phl_ase.files import write_atomic
from phl_ase.results import plain, provenance

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
MOLECULES = ("H2O", "CH3OH", "CH3CH2OH", "C6H6")
ROUNDS = 3


def main() -> None:
    """Measure, show, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    from foreign_models import mace_calculator, mace_module

    vendor("mace.modules", "mace-torch", "mace")  # before e3nn, which it helps to load under torch of today
    irreps = vendor("e3nn.o3", "e3nn", "mace").Irreps
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mace.model"
        torch.save(mace_module(hidden_irreps=irreps("32x0e + 32x1o")), file)
        own = mace_calculator(str(file))
        ours = PHLCalculator(f"mace:{file}", device="cpu")
        for name in MOLECULES:
            atoms = molecule(name)
            times: dict[str, list[float]] = {"own": [], "ours": []}
            found = {}
            for _ in range(ROUNDS):
                atoms.positions += 1e-6  # a new structure: nothing is cached
                for who, calculator in (("own", own), ("ours", ours)):
                    started = time.process_time()
                    found[who] = np.asarray(calculator.get_hessian(atoms=atoms)).reshape(3 * len(atoms), -1)
                    times[who].append(time.process_time() - started)
            difference = float(np.abs(found["own"] - found["ours"]).max())
            row = {"molecule": name, "atoms": len(atoms), "own_s": min(times["own"]), "ours_s": min(times["ours"])}
            rows.append(row | {"ratio": row["ours_s"] / row["own_s"], "largest_difference": difference})
            print({key: value if isinstance(value, str) else float(f"{value:.3g}") for key, value in rows[-1].items()})
    if arguments.json is not None:
        content = {"rows": rows, "provenance": provenance()}
        write_atomic(arguments.json, json.dumps(plain(content), indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
