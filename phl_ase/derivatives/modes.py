"""Modes of torch that a caller may be in, and in which derivatives would be zero, impossible or rounded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from phl_ase.errors import PHLError
from phl_ase.structures import Batch

_CPU = torch.device("cpu")


@contextmanager
def own_modes(device: torch.device) -> Iterator[None]:
    """Leave the caller's ``inference_mode``, ``no_grad``, ``autocast`` and default device for the time of a block.

    In inference mode a potential records no graph, so that every derivative of its energy would be zero; autocast
    rounds matrix products to 8 bits; potentials of other packages make tensors without saying on which device.

    Args:
        device: Where the block computes.

    Raises:
        PHLError: For tensors made in inference mode that take part in derivatives, such as the weights of a potential.
    """
    # most callers are in none of them, and entering what is not needed takes a while
    recorded = torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()
    exact = torch.autocast(device.type, enabled=False) if torch.is_autocast_enabled(device.type) else nullcontext()
    default = torch.get_default_device()
    placed = nullcontext() if default in (device, _CPU) else torch.device(device)
    with recorded, exact, placed, torch.enable_grad():
        try:
            yield
        except RuntimeError as error:
            if "nference tensor" not in str(error):
                raise
            raise PHLError(
                "the potential holds tensors made inside torch.inference_mode(), of which no derivative exists; "
                "make the potential outside of it, or take copy.deepcopy(potential) outside of it"
            ) from error


def without_inference_tensors(batch: Batch) -> Batch:
    """Return the batch with ordinary copies of tensors that were made in inference mode."""

    def ordinary(tensor: Tensor) -> Tensor:
        return tensor.clone() if tensor.is_inference() else tensor

    # looked at one by one: this runs at every evaluation, and a tree of tensors takes ten times as long
    shown = (batch.positions, batch.numbers, batch.system, batch.cell, *(n.i for n in batch.neighbours.values()))
    if not any(tensor.is_inference() for tensor in shown):
        return batch
    with torch.inference_mode(False):
        copied: Batch = pytree.tree_map_only(Tensor, ordinary, batch)
    return copied
