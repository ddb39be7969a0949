"""Cost of curvature at inference: Hessians, lowest modes, shared HVPs and ways to take one HVP.

    python workflows/benchmarks/hessian_inference.py --json workflows/results/hessian_inference.json

One thread, processor time, fastest of some rounds; ratios stand within one part. The structures are made here (alkane
chains, water clusters); the bundled model extrapolates on them, which changes no time. The JSON is written after every
row, each part with its provenance: a run that was stopped keeps what it had, and ``--parts`` renews some parts alone.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch.func import grad, jvp, vmap

from phl_ase.calculator import PHLCalculator
from phl_ase.curvature import finite_difference_hvp
from phl_ase.derivatives import GradientGraph, evaluate
from phl_ase.derivatives.sparsity import sparsity_of
from phl_ase.results import provenance, write_json
from phl_ase.structures import Batch, collate, frame_from_atoms
from phl_ase.vibrations import lowest_modes

Array = np.ndarray
Row = dict[str, Any]


def alkane(n_carbon: int) -> Atoms:
    """All-trans, bonds 1.53 and 1.09 Å."""
    half, tilt = np.radians(56.0), np.radians(53.5)
    number = np.arange(n_carbon)
    carbons = np.stack([1.53 * np.sin(half) * number, 1.53 * np.cos(half) * (number % 2), 0.0 * number], axis=1)
    outwards = np.where(number % 2, 1.0, -1.0)
    positions, symbols = list(carbons), ["C"] * n_carbon
    for centre, side in zip(carbons, outwards, strict=True):
        positions += [centre + 1.09 * np.array([0, side * np.cos(tilt), z * np.sin(tilt)]) for z in (1, -1)]
    for end, x in ((0, -1.0), (-1, 1.0)):
        positions.append(carbons[end] + 1.09 * np.array([x * np.sin(half), -outwards[end] * np.cos(half), 0]))
    return Atoms(symbols + ["H"] * (len(positions) - n_carbon), np.array(positions))


def water(n_molecules: int) -> Atoms:
    """Molecules in random orientations on a cubic grid of 3.1 Å."""
    rng = np.random.default_rng(0)
    side = int(np.ceil(n_molecules ** (1 / 3)))
    cluster = Atoms()
    for index in range(n_molecules):
        one = molecule("H2O")
        one.rotate(rng.uniform(0, 360), rng.normal(size=3))
        one.translate(3.1 * np.array([index % side, index // side % side, index // side**2]))
        cluster += one
    return cluster


def diamond(n_atoms: int) -> Atoms:
    """A cell of about so many atoms, off their places."""
    side = round((n_atoms / 8) ** (1 / 3))
    atoms: Atoms = bulk("C", "diamond", a=3.567, cubic=True) * (side, side, max(1, round(n_atoms / (8 * side**2))))
    atoms.rattle(0.02, seed=0)
    return atoms


def fastest(function: Callable[[], Any], rounds: int = 5) -> float:
    """Processor time of the fastest of some calls after one that warms up, ms."""
    function()
    best = np.inf
    for _ in range(rounds):
        started = time.process_time()
        function()
        best = min(best, time.process_time() - started)
    return 1e3 * best


def fastest_in_turn(functions: Sequence[Callable[[], Any]], rounds: int = 8) -> list[float]:
    """The same of several functions in turn: a machine that slows down for a while slows all of them."""
    return np.min([[fastest(function, 1) for function in functions] for _ in range(rounds)], axis=0).tolist()


def once(function: Callable[[], Any]) -> tuple[Any, float]:
    """What a function returns, and its processor time in s."""
    started = time.process_time()
    value = function()
    return value, time.process_time() - started


def batch_of(calculator: PHLCalculator, atoms: Atoms) -> Batch:
    """A structure as the calculator's potential takes it."""
    dtype = next(calculator.potential.parameters()).dtype
    return collate([frame_from_atoms(atoms)], calculator.potential.cutoffs)[0].to(calculator.device, dtype)


def hessians(calculator: PHLCalculator, _: argparse.Namespace) -> Iterator[Row]:
    """Full Hessians of molecules, alone and ten at once, in force calls of the same model.

    Beside them what both take where pairs are listed, as they are for small molecules.
    """
    for name, atoms in (("methane", molecule("CH4")), ("heptane", alkane(7)), ("(H2O)8", water(8))):
        batch = batch_of(calculator, atoms)
        forces, hessian = (
            functools.partial(evaluate, calculator.potential, batch, needs) for needs in (("forces",), ("hessian",))
        )
        force, alone = fastest_in_turn([forces, hessian])
        ten = fastest(lambda atoms=atoms: calculator.evaluate([atoms] * 10, ("hessian",)), 1) / 10
        calculator.potential.takes_blocks = False
        force_by_lists, by_lists = fastest_in_turn([forces, hessian])
        del calculator.potential.takes_blocks
        yield {
            "system": name,
            "atoms": len(atoms),
            "force ms": force,
            "Hessian ms": alone,
            "Hessian, one of ten at once, ms": ten,
            "force by lists ms": force_by_lists,
            "Hessian by lists ms": by_lists,
            "Hessian in force calls": alone / force,
            "Hessian in best force calls": alone / min(force, force_by_lists),
            "finite differences in force calls": 6 * len(atoms),
        }


def modes(calculator: PHLCalculator, arguments: argparse.Namespace) -> Iterator[Row]:
    """Three lowest modes of large systems, in HVPs, beside the rows of the dense Hessian."""
    for name, atoms in (("alkane", alkane(arguments.large // 3)), ("water", water(arguments.large // 3))):
        vector = np.random.default_rng(0).standard_normal((1, len(atoms), 3))
        hvp = fastest(lambda vector=vector, atoms=atoms: calculator.get_hvp(vector, atoms), 3)
        found, seconds = once(lambda atoms=atoms: lowest_modes(atoms, calculator.get_hvp))
        batch = batch_of(calculator, atoms)
        colours = sparsity_of(calculator.potential, batch).n_colours
        yield {
            "system": name,
            "atoms": len(atoms),
            "HVP ms": hvp,
            "HVPs for the modes": found.n_hvps,
            "converged": found.converged,
            "modes s": seconds,
            "cm^-1": found.wavenumbers,
            "HVPs of the dense Hessian": 3 * len(atoms),
            "HVPs of the coloured Hessian": 3 * min(colours, len(atoms)),
            "modes : dense Hessian (3n HVPs)": seconds / (3e-3 * len(atoms) * hvp),
            "modes : Hessian by its best way": seconds / (3e-3 * min(colours, len(atoms)) * hvp),
        }


def colouring(calculator: PHLCalculator, arguments: argparse.Namespace) -> Iterator[Row]:
    """HVPs of a Hessian against the number of atoms."""
    for kind, make in (("alkane", lambda n: alkane((n - 2) // 3)), ("water", lambda n: water(n // 3))):
        for n in arguments.sizes:
            atoms = make(n)
            batch = batch_of(calculator, atoms)
            sparsity, seconds = once(lambda batch=batch: sparsity_of(calculator.potential, batch))
            row = {
                "system": kind,
                "atoms": len(atoms),
                "HVPs of every row": 3 * len(atoms),
                "HVPs shared": 3 * sparsity.n_colours,
                "blocks that are not zero, %": 100 * sparsity.pattern.nnz / len(atoms) ** 2,
                "search s": seconds,
            }
            if kind == "alkane" and len(atoms) <= arguments.largest_hessian:
                matrix, taken = once(lambda atoms=atoms: calculator.get_sparse_hessian(atoms))
                row |= {"sparse Hessian s": taken, "sparse Hessian MiB": 12 * matrix.nnz / 2**20}
            yield row


@contextlib.contextmanager
def differentiable_silu() -> Iterator[None]:
    """SiLU as x σ(x): forward mode has no formula for the second derivative of torch's own."""
    own = torch.nn.functional.silu
    torch.nn.functional.silu = lambda x: x * torch.sigmoid(x)
    try:
        yield
    finally:
        torch.nn.functional.silu = own


def hvps(calculator: PHLCalculator, _: argparse.Namespace) -> Iterator[Row]:
    """Ways to take Hessian-vector products, each in force calls."""
    for atoms in (molecule("C2H6"), alkane(7), alkane(16)):
        yield ways_of(calculator.potential, batch_of(calculator, atoms))


def ways_of(potential: Any, batch: Batch) -> Row:
    """Force calls per HVP, K at a time."""
    force = fastest(lambda: evaluate(potential, batch), 10)
    graph = GradientGraph(potential, batch, curvature=True)
    vectors = torch.randn(16, *batch.positions.shape, dtype=batch.positions.dtype)
    row: Row = {"atoms": len(batch.numbers), "force ms": force, "saved MiB": graph.saved_bytes / 2**20}
    for k in (1, 4, 16):
        row[f"reverse over reverse, {k}"] = fastest(lambda k=k: graph._chunk(vectors[:k]), 3) / k / force
    with differentiable_silu():
        slope = grad(lambda x: potential(batch.moved(x)).sum())

        def forward(vector: torch.Tensor) -> torch.Tensor:
            return jvp(slope, (batch.positions,), (vector,))[1]

        row["forward over reverse, 1"] = fastest(lambda: forward(vectors[0]), 2) / force
        row["forward over reverse, 4"] = fastest(lambda: vmap(forward)(vectors[:4]), 2) / 4 / force
    return row


def differences(calculator: PHLCalculator, _: argparse.Namespace) -> Iterator[Row]:
    """Error of HVPs by central differences of forces, relative to the exact ones in float64."""
    atoms = molecule("CH3CH2OH")
    vectors = np.random.default_rng(0).standard_normal((4, len(atoms), 3))
    exact = calculator.get_hvp(vectors, atoms)
    single = PHLCalculator("default#1", device="cpu", dtype="float32", out_of_domain="ignore")
    size = np.linalg.norm(exact)
    for step in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2):
        row: Row = {"step / Å": step}
        for name, calc in (("float64", calculator), ("float32", single)):
            atoms.calc = calc
            row[name] = np.linalg.norm(finite_difference_hvp(vectors, atoms, delta=step) - exact) / size
        yield row
    yield {"step / Å": 0.0, "float64": 0.0, "float32": np.linalg.norm(single.get_hvp(vectors, atoms) - exact) / size}


def cells(calculator: PHLCalculator, arguments: argparse.Namespace) -> Iterator[Row]:
    """Energy, forces, stress and HVPs of large periodic cells of diamond, the densest that there is.

    Memory is the peak of the process; run this part alone.
    """
    for n in arguments.cells:
        atoms = diamond(n)
        _, forces = once(lambda atoms=atoms: calculator.get_stress(atoms))
        memory = peak_memory()
        vector = np.random.default_rng(0).standard_normal((len(atoms), 3))
        _, first = once(lambda atoms=atoms, vector=vector: calculator.get_hvp(vector, atoms))
        _, again = once(lambda atoms=atoms, vector=vector: calculator.get_hvp(vector, atoms))
        yield {
            "atoms": len(atoms),
            "neighbours of an atom": len(batch_of(calculator, atoms).neighbours[5.0].i) / len(atoms),
            "energy, forces and stress s": forces,
            "their peak GiB": memory,
            "first HVP s": first,
            "next HVP s": again,
            "peak GiB": peak_memory(),
        }


def peak_memory() -> float:
    """GiB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


PARTS: dict[str, Callable[[PHLCalculator, argparse.Namespace], Iterator[Row]]] = {
    "hessians": hessians,
    "differences": differences,
    "hvp": hvps,
    "modes": modes,
    "colouring": colouring,
    "cells": cells,
}


def shown(row: Row) -> str:
    """One row of the table."""
    cells = (f"{key}: {value:.3g}" if isinstance(value, float) else f"{key}: {value}" for key, value in row.items())
    return "  ".join(cells)


def main() -> None:
    """Read the command line, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--large", type=int, default=300, help="atoms of the systems whose lowest modes are found")
    parser.add_argument("--sizes", type=int, nargs="+", default=[62, 152, 302, 1001, 3002])
    parser.add_argument("--largest-hessian", type=int, default=302, help="atoms up to which Hessians are taken")
    parser.add_argument("--cells", type=int, nargs="+", default=[512, 2000], help="about so many atoms in a cell")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    calculator = PHLCalculator("default#1", device="cpu")
    found: dict[str, Any] = {}
    if arguments.json and arguments.json.exists():
        found = json.loads(arguments.json.read_text(encoding="utf-8"))
    for part in arguments.parts:
        print(f"\n{part}: {PARTS[part].__doc__}")
        rows: list[Row] = []
        for row in PARTS[part](calculator, arguments):
            rows.append(row)
            load = os.getloadavg()[0]
            origin = provenance(model="default#1", dtype="float64", threads=1, load=f"{load:.0f} wanted to run")
            found[part] = {"provenance": origin, "rows": rows}
            print(shown(row), flush=True)
            if arguments.json:
                write_json(arguments.json, found)


if __name__ == "__main__":
    main()
