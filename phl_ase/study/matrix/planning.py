"""What a study would do, and how long that takes: for ``phl study --plan``."""

from __future__ import annotations

from phl_ase.study.matrix.budget import cost_key, measure, time_method
from phl_ase.study.matrix.cells import Cell, plan
from phl_ase.study.matrix.config import StudyConfig
from phl_ase.study.matrix.running import Frames, estimated_seconds

_ROUNDS = 2


def plan_text(config: StudyConfig, processes: int) -> str:
    """Cells of each method and setting with their epochs, and estimated hours; steps are timed, nothing is kept.

    Args:
        config: The study.
        processes: How many cells at once.

    Raises:
        PHLError: For data that cannot be read.
    """
    planned = plan(config)
    frames = Frames(config)
    timed = {cost_key(cell.method): cell for cell in planned.cells}
    if planned.cells:
        first, method = planned.cells[0], time_method(config)
        timed.setdefault(cost_key(method), Cell(method, first.split, 1.0, "epochs", first.seed))
    rounds = config.budget.model_copy(update={"rounds": _ROUNDS})
    seconds = measure(timed, config.model_copy(update={"budget": rounds})) if timed else {}
    lengths = frames.lengths(planned, seconds)
    lines, seen = [], dict.fromkeys(cell.arm for cell in planned.cells)
    for arm in seen:
        cells = [cell for cell in planned.cells if cell.arm == arm]
        spans = [lengths[cell] for cell in cells if cell in lengths]
        epochs = ", ".join(dict.fromkeys(f"{s.epochs}{' (cap)' if s.capped_from else ''}" for s in spans)) or "-"
        hours = estimated_seconds({c: lengths[c] for c in cells if c in lengths}, seconds, config) / 3600
        where = f"{arm.split}, {arm.fraction:g} of the frames, equal {arm.budget}"
        lines.append(f"{arm.method.label:38s} {where:44s} {len(cells):3d} cells  epochs {epochs:14s} {hours:7.2f} h")
    lines += [f"{one.name}: impossible: {one.reason}" for one in planned.impossible]
    lines += [f"{cell.name}: {reason}" for cell, reason in frames.refused.items()]
    hours = estimated_seconds(lengths, seconds, config) / 3600
    total = f"{len(planned.cells)} cells: about {hours:.1f} hours of one core"
    return "\n".join([*lines, f"{total}, {hours / processes:.1f} with {processes} processes"])
