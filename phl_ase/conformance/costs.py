"""Modes of second derivatives that a potential allows, declared or not, and their costs."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from phl_ase.conformance.report import Cost, first_line
from phl_ase.conformance.slopes import OneMode, func_hvps
from phl_ase.conformance.subject import Subject, filled, relative
from phl_ase.derivatives import evaluate
from phl_ase.structures import Batch

TOGETHER = 8
"""Vectors in one call."""

_WRONG = 1e-6


def costs(s: Subject) -> tuple[Cost, ...]:
    """Times of energies, forces and one HVP by each mode, on the frames of the check together."""
    batch = s.batch()
    v = s.tensor(np.concatenate(s.directions(TOGETHER), axis=1))
    declared = s.potential.derivative_modes
    try:
        rows = [
            Cost("energies", *_timed(lambda: evaluate(s.potential, batch, ("energy",)).energy)[1:]),
            Cost("forces", *_timed(lambda: filled(evaluate(s.potential, batch, ("forces",)).forces))[1:]),
        ]
        exact, *_ = _timed(lambda: _one_by_one(s, batch, v))
    except Exception:  # the rows of the report say what is wrong with it
        return ()
    for mode, hvps in _MODES.items():
        mark = "" if mode in declared else "not declared"
        try:
            found, milliseconds, note = _timed(lambda hvps=hvps: hvps(s, batch, v))  # type: ignore[misc]
        except Exception as error:  # that a mode fails is what is asked
            # where it is not offered, nobody needs the vendor's words for why
            note = f"declared, but fails: {first_line(error)}" if mode in declared else "not offered by this potential"
            rows.append(Cost(f"HVP, {mode}", float("nan"), note))
            continue
        if relative(found, exact) > (_WRONG if s.dtype == torch.float64 else 1e-2):
            mark = f"{mark}; wrong HVPs".removeprefix("; ")
        rows.append(Cost(f"HVP, {mode}", milliseconds / TOGETHER, mark or note))
    return tuple(rows)


def _one_by_one(s: Subject, batch: Batch, v: Tensor) -> Tensor:
    return filled(evaluate(OneMode(s.potential, "loop"), batch, ("hvp",), probes=v).hvp)


def _together(s: Subject, batch: Batch, v: Tensor) -> Tensor:
    return filled(evaluate(OneMode(s.potential, "batched"), batch, ("hvp",), probes=v).hvp)


_MODES: dict[str, Callable[[Subject, Batch, Tensor], Tensor]] = {
    "loop": _one_by_one,
    "batched": _together,
    "func": func_hvps,
}


def _timed(action: Callable[[], Tensor]) -> tuple[Tensor, float, str]:
    """A result, and the least of two times in ms; the first call, which may compile, is not one of them."""
    result = action()
    times = []
    for _ in range(2):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return result, 1e3 * min(times), ""
