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

TOGETHER = 8
"""Vectors in one call."""

_WRONG = 1e-6


def costs(s: Subject) -> tuple[Cost, ...]:
    """Times of energies, forces and one HVP by each mode, on the frames of the check together."""
    batch = s.batch()
    v = s.tensor(np.concatenate(s.directions(TOGETHER), axis=1))
    declared = s.potential.derivative_modes
    modes: dict[str, Callable[[], Tensor]] = {
        "loop": lambda: filled(evaluate(OneMode(s.potential, "loop"), batch, ("hvp",), probes=v).hvp),
        "batched": lambda: filled(evaluate(OneMode(s.potential, "batched"), batch, ("hvp",), probes=v).hvp),
        "func": lambda: func_hvps(s, batch, v),
    }
    try:
        rows = [
            Cost("energies", _timed(lambda: evaluate(s.potential, batch, ("energy",)).energy)[1]),
            Cost("forces", _timed(lambda: filled(evaluate(s.potential, batch, ("forces",)).forces))[1]),
        ]
        exact = modes["loop"]()
    except Exception:  # the rows of the report say what is wrong with it
        return ()
    for mode, hvps in modes.items():
        mark = "" if mode in declared else "not declared"
        try:
            found, milliseconds = _timed(hvps)
        except Exception as error:  # that a mode fails is what is asked
            # where it is not offered, nobody needs the vendor's words for why
            note = f"declared, but fails: {first_line(error)}" if mode in declared else "not offered by this potential"
            rows.append(Cost(f"HVP, {mode}", float("nan"), note))
            continue
        if relative(found, exact) > (_WRONG if s.dtype == torch.float64 else 1e-2):
            mark = f"{mark}; wrong HVPs".removeprefix("; ")
        rows.append(Cost(f"HVP, {mode}", milliseconds / TOGETHER, mark))
    return tuple(rows)


def _timed(action: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """Return a result, and the least of two times in ms; the first call, which may compile, is not one of them."""
    result = action()
    times = []
    for _ in range(2):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return result, 1e3 * min(times)
