"""Table of docs/potentials.md, potential × what works: small models of every adapter and ours through ``phl check``.

    make .venv-foreign/.phl-ase-installed                   # an environment with every adapter (make foreign-test, too)
    .venv-foreign/bin/python workflows/potential_table.py   # checks, writes the JSON and the table between its markers
    python workflows/potential_table.py --only-table        # the table again from the JSON

Models of other packages have random weights: the table tells what an architecture and its adapter allow, not how good
a fit is. Times are left out: they belong to a quiet machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from phl_ase import check_potential
from phl_ase.adapters import load_foreign
from phl_ase.conformance import Check, ConformanceReport, markdown
from phl_ase.errors import PHLError
from phl_ase.files import write_atomic
from phl_ase.potentials import Committee, PaiNN, PaiNNConfig, load_saved
from phl_ase.results import provenance, write_json
from phl_ase.structures import Potential

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "workflows" / "results" / "potential_table.json"
BEGIN, END = "<!-- potential table: workflows/potential_table.py -->", "<!-- end of the potential table -->"
PAGE = ROOT / "docs" / "potentials.md"
CAPTION = (
    "Made by `workflows/potential_table.py`. Models of other packages are small and untrained: the table shows what\n"
    "an architecture allows, not how good a fit is. Beside `nearly` and `no` stands the largest number that should be\n"
    "smaller, mostly a relative jump of the Hessian."
)
sys.path.insert(0, str(ROOT / "tests"))

import foreign_models  # noqa: E402

DISTRIBUTIONS = {"mace": "mace-torch", "ani": "torchani"}


def _painn(core: str, seed: int = 0) -> Potential:
    torch.random.manual_seed(seed)
    return PaiNN(PaiNNConfig((1, 6, 8), channels=16, cutoff=4.0, core=core))


OURS: dict[str, Callable[[], Potential]] = {
    "default": lambda: load_saved("default"),
    "PaiNN": lambda: _painn("none"),
    "PaiNN, core = zbl": lambda: _painn("zbl"),
    "a committee of PaiNN": lambda: Committee([_painn("none"), _painn("none", seed=1)]),
}
"""Name in the table -> our potential."""


def _as_published(folder: Path) -> str:
    torch.save(foreign_models.ani_module(activation="celu", cutoff_fn="cosine"), folder / "ani.pt")
    return str(folder / "ani.pt")


_MAKERS = {f"{name}:FILE": (name, vendor.make) for name, vendor in foreign_models.VENDORS.items()}
FOREIGN: dict[str, tuple[str, Callable[[Path], str]]] = {
    "mace:FILE": _MAKERS.pop("mace:FILE"),
    "ani:FILE, GELU": _MAKERS.pop("ani:FILE"),
    "ani:FILE, CELU as in ANI-2x": ("ani", _as_published),
    **_MAKERS,
}
"""Name in the table -> prefix, and what writes a model and returns what follows the prefix."""


def _foreign(prefix: str, make: Callable[[Path], str]) -> Potential:
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        # first: MACE's import changes how e3nn, which its maker needs, is loaded
        importlib.import_module(foreign_models.VENDORS[prefix].package)
        return load_foreign(f"{prefix}:{make(Path(folder))}")


def check_all() -> list[dict[str, Any]]:
    """Check every potential."""
    rows = [_row(name, "phl-ase", make()) for name, make in OURS.items()]
    for name, (prefix, make) in FOREIGN.items():
        package = DISTRIBUTIONS.get(prefix, prefix)
        try:
            rows.append(_row(name, f"{package} {version(package)}", _foreign(prefix, make)))
        except (ImportError, PHLError) as error:
            raise SystemExit(f"{error}; expected every adapter: see the top of this file") from error
    return rows


def _row(name: str, package: str, potential: Potential) -> dict[str, Any]:
    report = dataclasses.replace(check_potential(potential), potential=name)
    print(report.table(), end="\n\n", flush=True)
    checks = [dataclasses.asdict(check) for check in report.rows]
    for check in checks:  # JSON has no NaN
        check["value"] = check["value"] if check["value"] == check["value"] else None
    modes = list(potential.derivative_modes)
    return {"potential": name, "package": package, "charge": potential.takes_charge, "modes": modes, "checks": checks}


def report_of(row: dict[str, Any]) -> ConformanceReport:
    """The report of a row of the JSON."""
    nan = float("nan")
    checks = [
        Check(**(check | {"value": nan if check["value"] is None else check["value"]})) for check in row["checks"]
    ]
    return ConformanceReport(row["potential"], tuple(checks))


def table_part(rows: list[dict[str, Any]]) -> str:
    """What stands between the markers."""
    return f"{CAPTION}\n\n{markdown([report_of(row) for row in rows])}"


def with_table(text: str, made: str) -> str:
    """A text with the table between its markers."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise SystemExit(f"expected {BEGIN!r} and {END!r} once each")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{made}\n{END}{rest.split(END)[1]}"


def main() -> None:
    """Check, write, show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only-table", action="store_true", help="write the table from the JSON that there is")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.only_table:
        write_json(RESULTS, {"rows": check_all(), "provenance": provenance()})
    made = table_part(json.loads(RESULTS.read_text(encoding="utf-8"))["rows"])
    write_atomic(PAGE, with_table(PAGE.read_text(encoding="utf-8"), made).encode())
    print(made)


if __name__ == "__main__":
    main()
