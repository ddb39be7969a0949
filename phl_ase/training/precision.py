"""Precision of float32 matrix products in training: float32, or rounded to what a GPU multiplies faster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from phl_ase.errors import PHLError
from phl_ase.training.config import TrainConfig


def check_precision(config: TrainConfig) -> None:
    """See that nothing is asked for that rounded factors would spoil, or that they have no part in.

    Raises:
        PHLError: For rounded factors with float64, or with HVPs by differences.
    """
    training = config.training
    if training.matmul_precision == "highest":
        return
    asked = f'training.matmul_precision is "{training.matmul_precision}"'
    if training.dtype == "float64":
        raise PHLError(f'{asked}, which does not act on training.dtype="float64"; use "float32", or "highest"')
    if config.scheme.hvp == "differences":
        raise PHLError(f'{asked}, which spoils scheme.hvp="differences"; use "exact", or "highest"')


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """``torch.set_float32_matmul_precision`` for the block: whatever a process has set, a run does as it says.

    Args:
        name: ``"highest"``, ``"high"`` or ``"medium"``.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
