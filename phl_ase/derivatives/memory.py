"""Memory of Hessian rows that are taken together: measured from the graph they are taken of, held to a budget.

Memory that HVPs free stays with the process for the next ones.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor

from phl_ase.errors import PHLError
from phl_ase.free_memory import available_memory

CPU_CHUNK = 2**27
"""Bytes of saved tensors that a chunk of rows may have on a CPU: more of them gain nothing."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT, _LARGEST_FROM_HEAP = 2**29, 2**25  # bytes; glibc takes no larger one for the second
_CHOSEN_BY_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


class SavedBytes:
    """Counts the bytes that a graph keeps for its backward pass, each storage once."""

    def __init__(self) -> None:
        self.total = 0
        self._seen: set[int] = set()

    def __call__(self, tensor: Tensor) -> Tensor:
        """Count the tensor and pass it on.

        Detached (autograd puts it back into its graph when it unpacks it): an output kept with its own graph would be
        a cycle that is never freed.
        """
        key = tensor.untyped_storage().data_ptr()
        if key not in self._seen:
            self._seen.add(key)
            self.total += tensor.untyped_storage().nbytes()
        return tensor.detach()


@contextmanager
def counting_saved_bytes() -> Iterator[SavedBytes]:
    """Count what graphs built inside the block save for backward."""
    counter = SavedBytes()
    with torch.autograd.graph.saved_tensors_hooks(counter, lambda tensor: tensor):
        yield counter


def default_budget(device: torch.device) -> int:
    """Return a budget in bytes: 1/2 of what is free on a GPU, 3/4 of what the system and the container leave a CPU.

    Rows on a CPU are few at a time (``CPU_CHUNK``): there the budget only says whether one of a large system fits.
    """
    if device.type == "cuda":
        # what torch keeps of freed tensors is free for new ones
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return (torch.cuda.mem_get_info(device)[0] + kept) // 2
    return 3 * available_memory() // 4


@functools.cache
def keep_freed_memory() -> bool:
    """Let the C library keep up to 512 MiB that tensors free, for the tensors that come next.

    By itself glibc gives memory back at once, and every HVP fetches the same pages again. This holds for the
    process from then on; variables of glibc's own that the user has set are respected.

    Returns:
        Whether it was asked to: not without glibc.
    """
    if sys.platform != "linux" or any(name in os.environ for name in _CHOSEN_BY_USER):
        return False
    with suppress(AttributeError, OSError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_FROM_HEAP) and mallopt(_M_TRIM_THRESHOLD, _KEPT))
    return False


def rows_per_chunk(bytes_per_row: int, memory_budget: int) -> int:
    """Return how many Hessian rows to take together.

    Args:
        bytes_per_row: What one row needs: at most the tensors saved by the graph of the gradient.
        memory_budget: Bytes allowed.

    Raises:
        PHLError: When not even one row fits.
    """
    if bytes_per_row > memory_budget:
        raise PHLError(
            f"one Hessian-vector product needs about {bytes_per_row / 2**20:.0f} MiB, but the memory budget is "
            f"{memory_budget / 2**20:.0f} MiB; raise the budget or evaluate fewer systems together"
        )
    return max(1, memory_budget // max(bytes_per_row, 1))
