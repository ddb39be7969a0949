"""Sella with every strategy, from the same starts on each potential's own surface: the funnel, the calls, the time.

    python workflows/ts_searches.py run --potential tblite  --out runs/ts
    python workflows/ts_searches.py run --potential default --out runs/ts
    python workflows/ts_searches.py run --potential default --dtype float32 --out runs/ts
    python workflows/ts_searches.py table --out runs/ts --json workflows/results/ts_searches.json

For each bundled reaction: the potential's own TS, path and end points; starts displaced from that TS; every strategy
from every start, then the IRC from what was found, by both integrators once from the TS itself. A reaction that is done
is kept; stop and restart freely. Strategies are taken in turn, start by start, so that a busy machine slows all alike.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

DATA = "reactions-wb97xd-631gd"
RMS = 0.1
STARTS = 4
INTEGRATORS = ("sella", "quadratic")


def run(potential: str, dtype: str, out: Path) -> None:
    """All searches of one potential."""
    import torch

    from phl_ase.datasets import open_dataset, reactions_of
    from phl_ase.resolver import resolve_calculator
    from phl_ase.results import write_json
    from phl_ase.structures import atoms_from_frame

    torch.set_num_threads(1)
    calculator = resolve_calculator(potential, device="cpu", dtype=dtype)
    folder = out / f"{potential}-{dtype}"
    folder.mkdir(parents=True, exist_ok=True)
    with open_dataset(DATA) as dataset:
        guesses = {name: atoms_from_frame(r.transition_state) for name, r in reactions_of(dataset).items()}
    warm_up(calculator, guesses["hcn_hnc"])
    for name, guess in guesses.items():
        file = folder / f"{name}.json"
        if not file.exists():
            write_json(file, searches(name, guess, calculator, potential))
            print(f"{folder.name}: {name} done", flush=True)


def warm_up(calculator: Any, guess: Any) -> None:
    """Sella compiles what it runs for the first time, for seconds; no search should pay for that."""
    from phl_ase.curvature import curvature_of
    from phl_ase.paths import STRATEGIES, displaced, search

    start = displaced(guess, RMS, 99)
    start.calc = calculator
    for strategy in STRATEGIES:
        search(start, strategy, curvature_of(calculator))


def searches(name: str, guess: Any, calculator: Any, potential: str) -> dict[str, Any]:
    """Reports of one reaction, or why there are none."""
    from phl_ase.paths import STRATEGIES, displaced
    from phl_ase.study.references import NoReference, own_reaction
    from phl_ase.validators import validate_irc, validate_transition_state

    try:
        own = own_reaction(name, guess, calculator)
    except NoReference as error:
        return {"reaction": name, "no_reference": str(error), "searches": [], "paths": []}
    reports = [
        validate_transition_state(
            displaced(own.ts.atoms, RMS, seed),
            calculator,
            own.reaction,
            potential=potential,
            strategy=strategy,
            details={"seed": seed},
        )
        for seed in range(STARTS)
        for strategy in STRATEGIES
    ]
    paths = [
        validate_irc(own.ts.atoms, calculator, None, own.path, system=name, potential=potential, method=method)
        for method in INTEGRATORS
    ]
    return {"reaction": name, "no_reference": None, "searches": reports, "paths": paths}


def table(out: Path, target: Path | None) -> None:
    """Funnels of all potentials that were run, and what paths cost."""
    from phl_ase.results import Report, provenance, write_json

    found: dict[str, Any] = {}
    for folder in sorted(path for path in out.iterdir() if path.is_dir()):
        contents = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]
        reports = [Report.from_dict(one) for content in contents for one in content["searches"]]
        paths = [Report.from_dict(one) for content in contents for one in content["paths"]]
        found[folder.name] = {
            "reactions": [content["reaction"] for content in contents],
            "no_reference": {c["reaction"]: c["no_reference"] for c in contents if c["no_reference"]},
            "strategies": strategies(reports),
            "paths": {method: path_summary(paths, method) for method in INTEGRATORS},
            "not_found": [
                {
                    "reaction": r.system,
                    "strategy": r.provenance["strategy"],
                    "seed": r.provenance["seed"],
                    "outcome": r.outcome,
                }
                | {"sentence": r.sentence}
                for r in reports
                if r.outcome != "found"
            ],
        }
        show(folder.name, found[folder.name])
    if target is not None:
        setting = {"data": DATA, "rms": RMS, "starts": STARTS, "command": __doc__.split("\n\n")[1]}
        write_json(target, {**setting, "potentials": found, "provenance": provenance()})


def strategies(reports: list[Any]) -> dict[str, Any]:
    """Funnel and mean costs of each strategy; and over the starts that all solved, so that costs compare alike."""
    from phl_ase.validators import funnels

    solved: dict[tuple[str, int], set[str]] = {}
    for report in reports:
        if report.outcome == "found":
            solved.setdefault((report.system, report.provenance["seed"]), set()).add(report.provenance["strategy"])
    names = {report.provenance["strategy"] for report in reports}
    common = [r for r in reports if solved.get((r.system, r.provenance["seed"]), set()) == names]
    shared = {group.strategy: group for group in funnels(common)}
    return {
        group.strategy: {
            "starts": group.starts,
            "passed": dict(group.passed),
            "barrier_error": group.barrier_error,
            "means": dict(group.counts),
            "solved_by_all": {"starts": shared[group.strategy].starts, "means": dict(shared[group.strategy].counts)},
        }
        for group in funnels(reports)
    }


def path_summary(reports: list[Any], method: str) -> dict[str, Any]:
    """How many paths converged both ways and reached their ends, and what they cost on average."""
    chosen = [r for r in reports if r.provenance["method"] == method]
    helped = [any(one not in ("", method) for one in r.provenance.get("integrators", ())) for r in chosen]
    names = ("steps", "force calls", "Hessian calls", "first step overlap", "profile RMSE", "largest deviation")
    values = {name: [r.metric(name).value for r in chosen] for name in names}
    return {
        "paths": len(chosen),
        "helped by another integrator": sum(helped),
        "outcomes": {o: sum(r.outcome == o for r in chosen) for o in sorted({r.outcome for r in chosen})},
        "means": {name: float(np.nanmean(column)) for name, column in values.items()},
        "lowest first step overlap": float(np.nanmin(values["first step overlap"])),
        "seconds": float(np.mean([r.provenance["seconds"] for r in chosen])),
    }


def show(name: str, content: dict[str, Any]) -> None:
    from phl_ase.validators.funnel import COUNTS, FUNNEL_STAGES

    print(f"\n{name}: {len(content['reactions'])} reactions; no reference: {content['no_reference'] or 'none'}")
    print(
        f"{'strategy':16s}" + "".join(f"{stage:>13s}" for stage in FUNNEL_STAGES) + "".join(f"{c:>15s}" for c in COUNTS)
    )
    for strategy, one in content["strategies"].items():
        passed = "".join(f"{one['passed'].get(stage, 0):>10d}/{one['starts']:<2d}" for stage in FUNNEL_STAGES)
        print(f"{strategy:16s}{passed}" + "".join(f"{one['solved_by_all']['means'][c]:15.2f}" for c in COUNTS))
    for method, one in content["paths"].items():
        costs = ", ".join(f"{key} {value:.4g}" for key, value in one["means"].items())
        print(f"IRC, {method}: {one['outcomes']} of {one['paths']}; {costs}; {one['seconds']:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run")
    runner.add_argument("--potential", required=True)
    runner.add_argument("--dtype", default="float64")
    runner.add_argument("--out", type=Path, required=True)
    shower = commands.add_parser("table")
    shower.add_argument("--out", type=Path, required=True)
    shower.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.command == "run":
        run(given.potential, given.dtype, given.out)
    else:
        table(given.out, given.json)


if __name__ == "__main__":
    main()
