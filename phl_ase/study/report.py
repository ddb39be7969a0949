"""Results as one HTML file that needs nothing else: figures inside, no scripts, no network, fit for print.

Everything that comes from data or a user (names, reasons, versions) is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from phl_ase.errors import PHLError
from phl_ase.study.figures import FIGURES, draw_figures
from phl_ase.study.table import Row, metric, rows, shown

Results = Mapping[str, Any]

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: #1a1a1a; background: #fff;
  max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem; }
p, li, dd { max-width: 48rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .8rem 0; }
th, td { padding: .25rem .8rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
thead th { border-bottom: 2px solid #333; vertical-align: bottom; }
tr.group th { text-align: left; padding-top: .8rem; font-weight: 600; border-bottom: 1px solid #bbb; }
tbody th { font-weight: 400; }
td.word { white-space: normal; } td.best { font-weight: 700; }
caption { text-align: left; padding-bottom: .3rem; color: #444; }
figure { margin: 1.2rem 0; } figure img { max-width: 100%; height: auto; }
figcaption { color: #444; max-width: 48rem; }
dt { font-weight: 600; margin-top: .5rem; } dd { margin-left: 1.2rem; }
.failed { border-left: 4px solid #D55E00; padding-left: .8rem; }
.small { color: #555; font-size: .85rem; }
@media print { body { margin: 0; font-size: 10pt; max-width: none; } figure, tr, table { break-inside: avoid; }
  .wide { overflow: visible; } th, td { padding: .1rem .4rem; white-space: normal; } h2 { break-after: avoid; } }
"""

_SCHEMES = {
    "E-F": "Energies and forces only: what most machine-learned potentials are trained on. Curvature (how the force "
    "changes when an atom moves) is left to follow from the forces, and there is nothing that holds it to the truth.",
    "E-F-HVP-onehot": "Besides, one column of the DFT Hessian for each geometry and step, drawn anew at random: how "
    "all forces answer when one coordinate of one atom moves.",
    "E-F-HVP-random": "Besides, the product of the DFT Hessian with one random direction in which all atoms move "
    "together (Projected Hessian Learning). On average over directions this is the error of the whole Hessian, at "
    "about the cost of forces.",
    "E-F-H": "Besides, the full DFT Hessian at every step: the most curvature, at a cost that grows with the square of "
    "the number of atoms.",
}

_MEANING = """
<p>All models have the same architecture, data and number of epochs; only what they are trained on differs. They are
compared with DFT on geometries that they were not trained on.</p>
<ul>
<li><b>Energy, forces, Hessian</b>: mean absolute errors. “Near” is close to minima and transition states (TSs); “far”
  is on reaction paths and in hot molecules, where reactions happen and where curvature matters most.</li>
<li><b>Vibrations</b>: harmonic wavenumbers at the DFT geometry of TSs. The imaginary wavenumber belongs to the motion
  along the reaction; the zero-point energy (ZPE) is half the sum of the real ones.</li>
<li><b>Search</b>: from a distorted geometry, does the saddle-point optimiser Sella find the TS on the model's surface,
  how far is that from the DFT TS (RMSD), and what did it cost? The barrier is the electronic energy of the TS found
  above that of an end point relaxed with the same model.</li>
<li><b>Searches</b>: the same for every TS that was not trained on, from several starts. A search counts where it
  converged, where the structure has one imaginary mode, where the reaction path from it leads to both DFT end points,
  and where it is the DFT TS; each line counts those that passed the lines above.</li>
</ul>
<p class="small">One training run for each scheme and a dozen searches: differences of a few per cent, or of a few
steps, may be chance. Times are of one core each; they grow where the machine has other work, which the time on the
processor does not.</p>
"""


def render_report(results: Any, figures: Mapping[str, bytes] | None = None) -> str:
    """The report of a demo.

    Args:
        results: What ``run_demo`` returns, or what stands in its ``results.json``.
        figures: Figures as PNG, by their key in ``FIGURES``; drawn from the results by default.

    Returns:
        A self-contained HTML page.

    Raises:
        PHLError: For something else than results of a demo.
    """
    if not isinstance(results, Mapping) or results.get("format") != "phl demo":
        raise PHLError("not results of a demo; expected what 'phl demo' wrote as results.json")
    images = draw_figures(results) if figures is None else figures
    failed = [
        f'<p class="failed"><b>{escape(name)} failed:</b> {escape(str(entry["reason"]))}</p>'
        for name, entry in results["schemes"].items()
        if entry["outcome"] != "trained"
    ]
    notes = "".join(f"<li>{escape(note)}</li>" for note in results["notes"])
    body = [
        "<h1>What supervising curvature buys</h1>",
        f'<p class="small">phl demo, {escape(str(results["provenance"].get("date", "")))}</p>',
        *failed,
        comparison_table(rows(results), list(results["schemes"]), _caption(results)),
        f"<ul>{notes}</ul>",
        "<h2>What the schemes are</h2>",
        _schemes(results),
        "<h2>What the numbers mean</h2>",
        _MEANING,
        "<h2>Figures</h2>",
        *(figure(images[name], caption) for name, (_, caption) in FIGURES.items() if name in images),
        "<h2>Every transition state</h2>",
        _states(results),
        "<h2>How this was made</h2>",
        _origin(results),
    ]
    return page("phl demo: what supervising curvature buys", "\n".join(body))


def page(title: str, body: str) -> str:
    """A page that loads nothing and runs nothing.

    Args:
        title: Plain text.
        body: HTML; whoever made it has escaped what is in it.
    """
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def comparison_table(lines_of: Iterable[Row], schemes: Sequence[str], caption: str) -> str:
    """Rows under their headings, one column for each scheme, the smallest error of a row bold."""
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in schemes)
    lines, group = [], None
    for row in lines_of:
        if row.group != group:
            group = row.group
            lines.append(f'<tr class="group"><th colspan="{len(schemes) + 3}">{escape(group)}</th></tr>')
        best = _best(row)
        cells = "".join(
            f'<td class="{"word" if isinstance(row.values.get(name), str) else "best" if name in best else ""}">'
            f"{escape(row.cell(name))}</td>"
            for name in schemes
        )
        reference = "" if row.reference is None else shown(row.reference, row.decimals)
        lines.append(
            f'<tr><th scope="row">{escape(row.label)}</th><td>{escape(row.unit)}</td>{cells}'
            f"<td>{escape(reference)}</td></tr>"
        )
    return (
        f'<div class="wide"><table><caption>{escape(caption)}</caption>\n<thead><tr><th></th><th scope="col">unit</th>'
        f'{heads}<th scope="col">DFT</th></tr></thead>\n<tbody>\n' + "\n".join(lines) + "\n</tbody></table></div>"
    )


def _best(row: Row) -> set[str]:
    """Schemes with the smallest error of a row that holds errors."""
    numbers = {n: abs(v) for n, v in row.values.items() if isinstance(v, (int, float))}
    is_error = "error" in row.label or "error" in row.group or row.label.startswith(("RMSD", "largest"))
    if not is_error or len(numbers) < 2:
        return set()
    return {name for name in numbers if row.cell(name).lstrip("-") == shown(min(numbers.values()), row.decimals)}


def _caption(results: Results) -> str:
    return f"{results['data']['level_of_theory']} reference; the smallest error of each row is bold"


def _schemes(results: Results) -> str:
    items = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(_SCHEMES.get(name, entry['description']))}</dd>"
        for name, entry in results["schemes"].items()
    )
    return f"<dl>{items}</dl>"


def figure(content: bytes, caption: str) -> str:
    """A PNG inside the page, with its caption, plain text."""
    data = base64.b64encode(content).decode("ascii")
    text = escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'


def _states(results: Results) -> str:
    """Frequencies of every test TS for every scheme."""
    head = ["reaction", "scheme", "frequency MAE / cm⁻¹", "imaginary wavenumber / cm⁻¹", "imaginary modes", "ZPE / meV"]
    lines = []
    for place, reaction in enumerate(results["data"]["transition_states"]["test"]):
        for name, entry in results["schemes"].items():
            if not entry.get("scores"):
                continue
            report = entry["scores"]["frequencies"][place]
            both = [
                f"{_imaginary(metric(report, key))} ({_imaginary(metric(report, key, 'reference'))})"
                if key == "imaginary wavenumber"
                else f"{shown(metric(report, key), d)} ({shown(metric(report, key, 'reference'), d)})"
                for key, d in (("imaginary wavenumber", 0), ("imaginary modes", 0), ("ZPE", 1))
            ]
            lines.append([reaction, name, shown(metric(report, "frequency MAE"), 0), *both])
    return table(head, lines, "DFT in brackets")


def _imaginary(value: float | None) -> str:
    return "–" if value is None else f"{abs(value):.0f}{'i' if value < 0 else ''}"


def table(head: Sequence[str], lines: Sequence[Sequence[str]], caption: str) -> str:
    """A table of plain text."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    return (
        f'<div class="wide"><table><caption>{escape(caption)}</caption>\n<thead><tr>{top}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _origin(results: Results) -> str:
    config = results["settings"]["config"]
    values = {
        **results["provenance"],
        "data": f"{results['data']['data']}, sha256 {results['data']['data_hash']}",
        "split": f"{results['data']['name']}, seed {results['data']['seed']}, fractions {results['data']['fractions']}",
        "processes": results["settings"]["processes"],
        "wall time": f"{results['seconds']} s",
        **{
            f"{section}.{key}": value
            for section in ("potential", "loss", "training")
            for key, value in config[section].items()
        },
    }
    return values_table(values)


def values_table(values: Mapping[str, Any]) -> str:
    """Names and values, two columns of plain text."""
    lines = "".join(f"<tr><td>{escape(str(k))}</td><td>{escape(str(v))}</td></tr>" for k, v in values.items())
    return f'<table class="small"><tbody>{lines}</tbody></table>'
