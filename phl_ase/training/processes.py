"""Training shared by several processes: every batch is split among them, gradients are summed, all take the same step.

``torchrun`` starts the processes and says which is which. Gradients are summed by hand after ``backward``, because
``DistributedDataParallel`` does not support the double backward of forces and HVPs (PyTorch issue 47562). Losses
are global sums over global counts, so the number of processes and uneven last batches change nothing but rounding.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
import torch.distributed
from torch import Tensor

from phl_ase.errors import PHLError

T = TypeVar("T")


class ProcessGroup:
    """The processes of a run; alone, every method is a matter of course and costs nothing.

    Attributes:
        rank: Which one this is, from 0; the first keeps the run's files.
        count: How many there are.
        local_rank: Which one on its machine, and so which of its GPUs it takes.
    """

    def __init__(self, rank: int = 0, count: int = 1, local_rank: int = 0) -> None:
        self.rank, self.count, self.local_rank = rank, count, local_rank

    @property
    def is_first(self) -> bool:
        """Return whether this process keeps the run's files and shows its progress."""
        return self.rank == 0

    def device(self, device: torch.device) -> torch.device:
        """Return the GPU of this process, where the run is on GPUs."""
        if self.count == 1 or device.type != "cuda":
            return device
        return torch.device("cuda", self.local_rank)

    def share(self, indices: np.ndarray) -> np.ndarray:
        """This process's part of a batch; the batch is sorted by size, so that the parts are of like cost."""
        return indices[self.rank :: self.count]

    def sum(self, values: Mapping[str, float], device: torch.device) -> dict[str, float]:
        """Sums over the processes, name by name; all must give the same names."""
        if self.count == 1:
            return dict(values)
        total = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
        torch.distributed.all_reduce(total)
        return dict(zip(values, total.tolist(), strict=True))

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace every ``.grad`` by its sum over the processes, in one message."""
        if self.count == 1:
            return
        trained = [p for p in parameters if p.requires_grad]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        torch.distributed.all_reduce(flat)
        for parameter, summed in zip(trained, flat.split([p.numel() for p in trained]), strict=True):
            parameter.grad = summed.view_as(parameter)

    def first_says(self, action: Callable[[], T]) -> T:
        """Return the result of an action of the first process, in all of them.

        Raises:
            PHLError: In every process, where the action raises it in the first.
        """
        if self.count == 1:
            return action()
        said: list[object] = [None, None]
        if self.is_first:
            try:
                said = [action(), None]
            except PHLError as error:
                said = [None, error]
        torch.distributed.broadcast_object_list(said, src=0)
        if isinstance(said[1], PHLError):
            raise said[1]
        return said[0]  # type: ignore[return-value]

    def together(self, error: PHLError | None) -> None:
        """Fail in every process where one has failed, so that none waits for another forever.

        Raises:
            PHLError: The error of the first process that has one.
        """
        if self.count == 1:
            errors: list[PHLError | None] = [error]
        else:
            errors = [None] * self.count
            torch.distributed.all_gather_object(errors, error)
        found = next((e for e in errors if e is not None), None)
        if found is not None:
            raise found


def is_first_process() -> bool:
    """Return whether this process shows the run's progress; true where ``torchrun`` did not start it."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def processes_of_run() -> Iterator[ProcessGroup]:
    """The processes that ``torchrun`` started, connected; this process alone where it did not.

    Raises:
        PHLError: When they cannot be connected, or one of them is lost while the run goes on.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1 or torch.distributed.is_initialized():
        yield ProcessGroup() if count == 1 else _connected()
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        torch.distributed.init_process_group(backend)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise PHLError(
            f"the {count} processes of this run cannot be connected ({reason}); start it with torchrun"
        ) from None
    try:
        yield _connected()
    except RuntimeError as error:
        # what gloo and NCCL raise when the other side of a message is gone
        if not any(word in str(error) for word in ("onnection", "NCCL", "imed out", "gloo")):
            raise
        reason = str(error).splitlines()[0]
        raise PHLError(
            f"another process of this run is gone ({reason}); the last checkpoint is kept: continue with --resume"
        ) from None
    finally:
        torch.distributed.destroy_process_group()


def _connected() -> ProcessGroup:
    return ProcessGroup(
        torch.distributed.get_rank(), torch.distributed.get_world_size(), int(os.environ.get("LOCAL_RANK", "0"))
    )
