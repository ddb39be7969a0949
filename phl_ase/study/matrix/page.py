"""The report of a study: one HTML file that needs nothing else, its scoreboard on top; and what stands beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from itertools import groupby

from phl_ase.files import write_atomic
from phl_ase.results import provenance
from phl_ase.study.matrix.cells import FULL
from phl_ase.study.matrix.drawing import Drawn
from phl_ase.study.matrix.figures import figures
from phl_ase.study.matrix.gather import QUANTITIES
from phl_ase.study.matrix.tables import (
    RULE,
    Outcome,
    as_csv,
    as_json,
    columns,
    heading,
    number,
    with_interval,
)
from phl_ase.study.matrix.verdicts import NOT_ASKED, NOT_SEEN, SEEN, SHOWN, Claim
from phl_ase.study.report import figure, page, table, values_table

REPORT, RESULTS, SCOREBOARD, FIGURES = "report.html", "results.json", "scoreboard.csv", "figures"

_MARKS = {SEEN: "✓", NOT_SEEN: "✗", SHOWN: ""}
"""Verdict -> sign beside its words, for whoever prints without colours."""


def write_outcome(outcome: Outcome) -> None:
    """Write report, numbers and figures into the study's folder.

    Raises:
        PHLError: When they cannot be written.
    """
    root = outcome.study.folder
    drawn = [(one, one.png()) for one in figures(outcome)]
    (root / FIGURES).mkdir(exist_ok=True)
    for one, content in drawn:
        write_atomic(root / FIGURES / f"{one.name}.png", content)
    write_atomic(root / SCOREBOARD, as_csv(outcome).encode())
    text = json.dumps(as_json(outcome), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomic(root / RESULTS, text.encode())
    write_atomic(root / REPORT, render(outcome, drawn).encode())


def render(outcome: Outcome, drawn: Sequence[tuple[Drawn, bytes]]) -> str:
    """The page.

    Args:
        outcome: What a study has to say.
        drawn: Its figures and their content.
    """
    title = outcome.study.config.title
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="small">phl study, {escape(str(provenance()["date"]))}; {escape(_size(outcome))}</p>',
        *_unfinished(outcome),
        "<h2>Claims</h2>",
        '<p class="small">Claims of <a href="https://arxiv.org/abs/2603.04523">arXiv:2603.04523</a>, in the settings '
        f"of this study. {escape(RULE)}.</p>",
        _claims(outcome.claims),
        "<h2>Scoreboard</h2>",
        *(_scoreboard(outcome, *setting) for setting in outcome.settings()),
    ]
    for section, group in groupby(drawn, key=lambda pair: pair[0].section):
        body.append(f"<h2>{escape(section)}</h2>")
        body += [figure(content, one.caption) for one, content in group]
    body += ["<h2>Cells</h2>", _cells(outcome), "<h2>How this was made</h2>", _origin(outcome)]
    return page(title, "\n".join(body))


def _size(outcome: Outcome) -> str:
    done = sum(cell.outcome == "done" for cell in outcome.cells)
    hours = sum(c.facts.get("cpu_seconds", 0.0) + sum(c.seconds.values()) for c in outcome.cells) / 3600
    return f"{done} of {len(outcome.cells)} cells done, {hours:.2f} hours of processor time"


def _unfinished(outcome: Outcome) -> list[str]:
    """What is missing, before anything else is said."""
    found = outcome.open_cells()
    if not found:
        return []
    items = "".join(f"<li><b>{escape(n)}</b>: {escape(word)}: {escape(why)}</li>" for n, word, why in found[:50])
    more = f"<li>and {len(found) - 50} more, see the cells below</li>" if len(found) > 50 else ""
    return [f'<div class="failed"><p>{len(found)} cells are not done:</p><ul>{items}{more}</ul></div>']


def _claims(claims: Iterable[Claim]) -> str:
    lines = []
    for claim in claims:
        where, note = (f" ({claim.where})" if claim.where else ""), (f" – {claim.note}" if claim.note else "")
        mark = _MARKS.get(claim.verdict, "?" if claim.verdict != NOT_ASKED else "")
        lines.append(
            f'<tr class="group"><th colspan="4" style="white-space:normal">{escape(claim.text + where + note)}</th>'
            f'<th style="text-align:left">{mark} {escape(claim.verdict)}</th></tr>'
        )
        for one in claim.evidence:
            found = one.estimate
            counts = f"{found.seeds} seeds, " if found.seeds else ""
            left_out = f", {found.left_out} left out" if found.left_out else ""
            interval = f"[{number(found.low, 2)}, {number(found.high, 2)}]" if found.has_interval else "–"
            cells = [
                one.what,
                number(found.value, 2),
                interval,
                f"{counts}{found.units} {found.unit}{left_out}",
                f"{_MARKS.get(one.verdict, '?')} {one.verdict}",
            ]
            lines.append(
                f'<tr><th scope="row">{escape(cells[0])}</th>'
                + "".join(f"<td>{escape(cell)}</td>" for cell in cells[1:4])
                + f'<td style="text-align:left">{escape(cells[4])}</td></tr>'
            )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("", "ratio", "95 % interval", "drawn", "verdict"))
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _scoreboard(outcome: Outcome, split: str, budget: str) -> str:
    """One line for each method: means with intervals, and how they compare with E-F-H."""
    wanted = columns(outcome, split, budget)
    head = ["method", "seeds", *(heading(*pair) for pair in wanted)]
    lines, verdicts = [], []
    for arm in outcome.arms_of(split, budget):
        found = [outcome.row(arm, *pair) for pair in wanted]
        decimals = [QUANTITIES[name].decimals for name, _ in wanted]
        cells = ["–" if r is None else with_interval(r.mean, d) for r, d in zip(found, decimals, strict=True)]
        lines.append([arm.method.label, str(outcome.seeds(arm)), *cells])
        if any(r is not None and r.ratio is not None for r in found):
            ratios = [None if r is None else r.ratio for r in found]
            shown = ["" if r is None else f"{with_interval(r, 2)} {r.verdict}" for r in ratios]
            verdicts.append([arm.method.label, str(outcome.seeds(arm)), *shown])
    parts = [table(head, lines, f"{split} split, equal {budget}: means with 95 % intervals")]
    if verdicts:
        keep = [0, 1, *(i + 2 for i, (key, _) in enumerate(wanted) if not QUANTITIES[key].is_share)]
        names = [head[i].partition(" / ")[0] for i in keep]
        caption = f"{split} split, equal {budget}: error ratios to {FULL} on the same frames and seeds"
        parts.append(table(names, [[line[i] for i in keep] for line in verdicts], caption))
    return "\n".join(parts)


def _cells(outcome: Outcome) -> str:
    head = ["cell", "outcome", "epochs", "steps", "best epoch", "frames", "training / s", "processor / s", "asking / s"]
    lines = []
    for cell in outcome.cells:
        facts = cell.facts
        capped = facts.get("capped_from")
        epochs = f"{facts.get('epochs', '–')}{f' (cap; else {capped})' if capped else ''}"
        lines.append(
            [
                cell.cell.name,
                cell.outcome,
                epochs,
                *(str(facts.get(key, "–")) for key in ("steps", "best_epoch", "training_frames")),
                *(number(facts.get(key, float("nan")), 0) for key in ("seconds", "cpu_seconds")),
                number(sum(cell.seconds.values()), 0),
            ]
        )
    return table(head, lines, "times of one core; cells without models show why above")


def _origin(outcome: Outcome) -> str:
    study = outcome.study
    values: dict[str, object] = {**provenance(), "splits": ", ".join(dict.fromkeys(s for s, _ in outcome.settings()))}
    config = study.config.to_json()
    for section in ("data", "potential", "loss", "training", "budget", "validators"):
        values |= {f"{section}.{key}": value for key, value in config[section].items()}
    values |= {f"weights.{scheme}": weights for scheme, weights in config["weights"].items()}
    for scheme, scores in study.trials.items():
        shown = [None if score is None else round(score, 3) for score in scores]
        tried = ", ".join(f"{w}: {s}" for w, s in zip(config["tuning"]["settings"][scheme], shown, strict=True))
        values[f"weights tried of {scheme}"] = (
            f"{tried}; chosen: {dict(study.weights.get(scheme, {}))} (smallest sum of the logarithms of energy, force "
            "and Hessian errors of the validation frames)"
        )
    return values_table(values)
