"""A reaction learnt on the fly against plain searches: the same start, the same end, every reference gradient counted.

    python workflows/on_the_fly.py starts --guesses grambow_ts_guesses.xyz --known grambow_ts_reference.csv
    python workflows/on_the_fly.py plain  --out runs/on_the_fly
    python workflows/on_the_fly.py learn  --out runs/on_the_fly
    python workflows/on_the_fly.py score  --out runs/on_the_fly
    python workflows/on_the_fly.py table  --out runs/on_the_fly --json workflows/results/on_the_fly.json

``starts`` chooses reactions by a seed and finds their end points; its result is kept in ``on_the_fly_starts.extxyz``.
``plain`` runs the routes without a model, ``learn`` the command ``phl learn``, ``on_the_fly_routes.py`` other packages.
``score`` asks the reference about what was found, and counts nothing. A run that is there is not run again: stop and
restart freely.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from on_the_fly_routes import FMAX, STARTS, STEPS, Counted, make_reference, read_starts, recorded

from phl_ase.errors import PHLError
from phl_ase.results import provenance, write_json

DATA = "reactions-wb97xd-631gd"
CHOSEN = {"grambow": 24, "bundled": 8, "small": 6}
"""Set -> number of reactions: 8-16 atoms that no study here has learnt from; of the bundled ones; 5-9 atoms for DFT."""

ACCEPTED = 1.5 * FMAX
"""eV/Å: largest force of a verified point. Packages measure differently what they converge: in internal coordinates, by
components."""

Found = dict[str, Any]


def starts(guesses: Path, known: Path) -> None:
    """Choose reactions and write their guesses, GFN2-xTB transition states and end points."""
    from phl_ase.datasets import open_dataset, reactions_of
    from phl_ase.structures import atoms_from_frame

    with known.open(encoding="utf-8") as file:
        published = {row["reaction"] for row in csv.DictReader(file)}
    grambow = {a.info["reaction"]: a for a in ase.io.read(guesses, ":") if a.info["reaction"] not in published}
    with open_dataset(DATA) as dataset:
        bundled = {name: atoms_from_frame(one.transition_state) for name, one in reactions_of(dataset).items()}
    pools = {
        "grambow": {name: a for name, a in grambow.items() if 8 < len(a) <= 16},
        "bundled": bundled,
        "small": {name: a for name, a in grambow.items() if len(a) <= 8},
    }
    frames = []
    for group, pool in pools.items():
        for name in random.Random(22).sample(sorted(pool), CHOSEN[group]):
            for kind, atoms in whole_reaction(pool[name]).items():
                plain = Atoms(atoms.symbols, atoms.positions, info={"reaction": name, "set": group, "kind": kind})
                frames.append(plain)
            print(name, group, len(pool[name]), frames[-1].info["kind"], flush=True)
    ase.io.write(STARTS, frames, format="extxyz")


def whole_reaction(guess: Atoms) -> dict[str, Atoms]:
    """The guess, and where GFN2-xTB has a reaction there: its transition state and both minima."""
    from phl_ase.curvature import DIFFERENCES, curvature_of
    from phl_ase.paths import LADDERS, find_reaction, search

    calculator = make_reference("tblite")
    start = guess.copy()
    start.calc = calculator
    for strategy, internal in LADDERS[DIFFERENCES]:
        found = search(start, strategy, curvature_of(calculator), fmax=0.005, internal=internal)
        if found.converged and (path := find_reaction(found.atoms)).converged:
            ends = {"reactant": path.ends[0].atoms, "product": path.ends[1].atoms}
            return {"guess": guess, "ts": found.atoms, **ends}
    return {"guess": guess}


def search_by(strategy: str) -> Callable[[dict[str, Atoms], Counted], Found]:
    """A transition state from the guess, without the Hessian of its final analysis."""

    def run(structures: dict[str, Atoms], counted: Counted) -> Found:
        from phl_ase.curvature import curvature_of
        from phl_ase.paths import STRATEGIES, search

        curvature = curvature_of(counted)
        if not STRATEGIES[strategy].needs_hessian:
            curvature = replace(curvature, hessian=curvature_of(counted.calculator).hessian)
        start = structures["guess"].copy()
        start.calc = counted
        found = search(start, strategy, curvature, fmax=FMAX, max_steps=STEPS)
        gradients = found.force_calls + found.hidden_force_calls
        return {"outcome": found.outcome, "gradients": gradients, "ts": found.atoms.positions}

    return run


def between(*guesses: str) -> Callable[[dict[str, Atoms], Counted], Found]:
    """Transition state, path, ends and frequencies from reactant and product, as ``phl reaction`` finds them.

    The thresholds are those that the learned route promises, wider than the command's own.
    """

    def run(structures: dict[str, Atoms], counted: Counted) -> Found:
        from phl_ase.curvature import DIFFERENCES, curvature_of
        from phl_ase.paths import LADDERS, connects, find_reaction, guess_transition_state, search

        reactant, product = structures["reactant"], structures["product"]
        curvature = curvature_of(counted)
        best: Found = {"outcome": "no transition state"}
        attempts = []
        for guess in guesses:
            counted.part = "guess"
            start = guess_transition_state(reactant, product, counted, method=guess).atoms
            for strategy, internal in LADDERS[DIFFERENCES]:
                counted.part = "search"
                found = search(start, strategy, curvature, fmax=FMAX, max_steps=STEPS, internal=internal)
                attempts.append(f"{guess}, {strategy}: {found.outcome}")
                if not found.converged:
                    continue
                counted.part = "path"
                path = find_reaction(found.atoms, curvature.hessian, fmax=FMAX, relax_fmax=FMAX)
                if len(path.ends) < 2:
                    continue
                ends = (path.ends[0].atoms, path.ends[1].atoms)
                connection = connects(ends, reactant, product)
                attempts[-1] += f", {path.outcome}, {connection.outcome}"
                best = {"outcome": connection.outcome, "ts": found.atoms.positions}
                best["ends"] = [one.positions for one in (ends[::-1] if connection.flipped else ends)]
                if connection.connected:
                    return {**best, "attempts": attempts}
        return {**best, "attempts": attempts}

    return run


def as_shipped(structures: dict[str, Atoms], counted: Counted) -> Found:
    """``phl reaction REACTANT --product PRODUCT`` with its own thresholds."""
    from phl_ase.tasks import reaction_profile, search_between

    found = search_between(structures["reactant"], structures["product"], counted)
    outcome = found.connection.outcome if found.connection else found.search.outcome
    content: Found = {"outcome": outcome, "attempts": found.attempts, "ts": found.search.atoms.positions}
    if found.reaction is not None and len(found.reaction.ends) == 2:
        reaction_profile(found.reaction)
        content["ends"] = [end.atoms.positions for end in found.reaction.ends]
    return content


PLAIN: dict[str, tuple[str, Callable[[dict[str, Atoms], Counted], Found]]] = {
    **{
        f"sella-{strategy}": ("guess", search_by(strategy))
        for strategy in ("gradients", "hvp", "hessian", "hessian-hvp", "hessian-3")
    },
    "path-sella-irc": ("reactant", between("auto", "neb")),
    "neb-sella-irc": ("reactant", between("neb")),
    "phl-reaction": ("reactant", as_shipped),
}
"""Route -> the structure that it starts from, and how it runs."""


def plain(out: Path, reference: str, routes: list[str], names: set[str]) -> None:
    """Run the routes without a model."""
    folder = out / reference
    for reaction, structures in read_starts(names, reference).items():
        for route in routes or PLAIN:
            start, run = PLAIN[route]
            if start in structures:
                recorded(folder, reaction, route, reference, lambda c, s=structures, r=run: r(s, c))


def score(out: Path, reference: str) -> None:
    """Ask the reference about every structure that was found: energy, forces, Hessian; and judge the ends."""
    known = read_starts()
    for file in sorted((out / reference).glob("*/*.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        if "score" in content or "ts" not in content:
            continue
        judge = Judge(content["reference"], known[content["reaction"]])
        content["score"] = judge.score(content)
        write_json(file, content)


def learn(out: Path, reference: str, model: str, start: str, options: list[str], names: set[str]) -> None:
    """Run ``phl learn`` from a guess or from reactant and product."""
    route = "-".join(["learn", start, model.replace(":", "-"), *(one.lstrip("-") for one in options)])
    for reaction, structures in read_starts(names, reference).items():
        if start == "guess" or "product" in structures:
            run = learned(reference, model, start, options)
            recorded(out / reference, reaction, route, reference, lambda c, s=structures, r=run: r(s, c))


def learned(reference: str, model: str, start: str, options: list[str]) -> Callable[[dict[str, Atoms], Counted], Found]:
    """The command in a process of its own; it counts its gradients itself."""

    def run(structures: dict[str, Atoms], counted: Counted) -> Found:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for kind in ("guess", "reactant", "product"):
                if kind in structures:
                    plain = Atoms(structures[kind].symbols, structures[kind].positions)
                    ase.io.write(folder / f"{kind}.xyz", plain)
            given = ["guess.xyz", "--ts-only"] if start == "guess" else ["reactant.xyz", "--product", "product.xyz"]
            command = [sys.executable, "-m", "phl_ase", "learn", *given, "--with", reference, "--from", model]
            command += ["--json", "result.json", "--out", "found", *options]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=7200)
            if done.returncode == 2:  # it was called wrongly: no result
                raise SystemExit(done.stderr)
            if not (folder / "result.json").exists():
                return {"outcome": f"no result: {(done.stderr or done.stdout).strip()[-300:]}"}
            result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found: Found = {
            "outcome": result["outcome"],
            "reasons": result.get("reasons"),
            "own_verdict": result["verified"],
            "gradients": result["reference_gradients"],
            "reference_seconds": result["seconds_reference"],
            "processor_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
            "barriers": result["barriers"],
            "steps": result["steps"],
        }
        if result["ts"]:
            found["ts"], found["wavenumbers"] = result["ts"]["positions_A"], result["ts"]["wavenumbers_cm-1"]
        if result["reactant"] and result["product"]:
            found["ends"] = [result[end]["positions_A"] for end in ("reactant", "product")]
        return found

    return run


def table(out: Path, target: Path | None, drawing: Path | None) -> None:
    """Show and keep what came out."""
    from on_the_fly_table import figure, rows, text

    from phl_ase.plots.style import to_png

    groups = {reaction: kinds["guess"].info["set"] for reaction, kinds in read_starts().items()}
    runs = {}
    for file in sorted(out.glob("*/*/*.json")):
        run = json.loads(file.read_text(encoding="utf-8"))
        runs[run["reference"], run["route"], run["reaction"]] = run
    found = rows(runs, groups)
    print(text(found))
    if target is not None:
        kept = ("outcome", "reasons", "attempts", "own_verdict", "gradients", "parts", "seconds", "processor_seconds")
        each = [
            {"reference": ref, "route": route, "reaction": reaction, **{k: run[k] for k in kept if k in run}}
            | {"score": {k: v for k, v in run.get("score", {}).items() if k not in ("ts", "ends")}}
            for (ref, route, reaction), run in runs.items()
        ]
        write_json(target, {"command": __doc__, "rows": found, "runs": each, "provenance": provenance()})
    if drawing is not None:
        drawing.write_bytes(to_png(figure, (runs, groups)))


class Judge:
    """The reference method, not counted, and what is known of a reaction."""

    def __init__(self, reference: str, known: dict[str, Atoms]):
        self.reference, self.known, self.calculator = reference, known, make_reference(reference)

    def point(self, positions: Any) -> Found:
        """Energy (eV), largest force (eV/Å) and wavenumbers (cm⁻¹) of a structure."""
        from phl_ase.reference.methods import difference_step
        from phl_ase.vibrations import finite_difference_hessian, harmonic_analysis

        atoms = Atoms(self.known["guess"].symbols, positions, calculator=self.calculator)
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        if hasattr(self.calculator, "get_hessian"):
            hessian = self.calculator.get_hessian(atoms)
        else:
            hessian = finite_difference_hessian(atoms, delta=difference_step(self.reference))
        analysis = harmonic_analysis(atoms, hessian)
        return {
            "energy": energy,
            "fmax": float(np.linalg.norm(forces, axis=1).max()),
            "imaginary_modes": analysis.n_imaginary,
            "wavenumbers": analysis.wavenumbers.round(2),
        }

    def score(self, content: Found) -> Found:
        """What is true of a run."""
        from phl_ase.paths import connects, rmsd

        symbols = self.known["guess"].symbols
        try:
            scored: Found = {"ts": self.point(content["ts"])}
            if "ts" in self.known:
                scored["rmsd_to_known_ts"] = rmsd(Atoms(symbols, content["ts"]), self.known["ts"])
            scored["verified_ts"] = scored["ts"]["fmax"] <= ACCEPTED and scored["ts"]["imaginary_modes"] == 1
            if "ends" in content:
                scored["ends"] = [self.point(end) for end in content["ends"]]
                ends = tuple(Atoms(symbols, end) for end in content["ends"])
                connection = connects(ends, self.known["reactant"], self.known["product"])
                scored["connection"] = connection.outcome
                minima = all(end["fmax"] <= ACCEPTED and end["imaginary_modes"] == 0 for end in scored["ends"])
                scored["verified"] = scored["verified_ts"] and connection.connected and minima
        except PHLError as error:  # atoms on top of each other
            return {"verified_ts": False, "error": str(error)}
        return scored


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    made = {name: commands.add_parser(name) for name in ("starts", "plain", "learn", "score", "table")}
    made["starts"].add_argument("--guesses", type=Path, required=True)
    made["starts"].add_argument("--known", type=Path, required=True)
    made["plain"].add_argument("--route", action="append", choices=PLAIN, default=[])
    made["learn"].add_argument("--start", choices=("guess", "ends"), action="append", default=[])
    made["learn"].add_argument("--from", dest="model", default="auto", help="the starting model")
    made["learn"].add_argument("--options", default="", help="further options of phl learn, for example '--hvp=0'")
    for name in ("plain", "learn", "score"):
        made[name].add_argument("--reference", default="tblite")
    for name in ("plain", "learn"):
        made[name].add_argument("--reactions", nargs="*", help="names of reactions or of the sets; all by default")
    for name in ("plain", "learn", "score", "table"):
        made[name].add_argument("--out", type=Path, required=True)
    made["table"].add_argument("--json", type=Path)
    made["table"].add_argument("--figure", type=Path)
    given = parser.parse_args()
    if given.command == "starts":
        starts(given.guesses, given.known)
    elif given.command == "plain":
        plain(given.out, given.reference, given.route, set(given.reactions or ()))
    elif given.command == "learn":
        for start in given.start or ("guess", "ends"):
            learn(given.out, given.reference, given.model, start, given.options.split(), set(given.reactions or ()))
    elif given.command == "score":
        score(given.out, given.reference)
    else:
        table(given.out, given.json, given.figure)


if __name__ == "__main__":
    main()
