"""A device that is not the CPU, made of CPU memory: what would fail or wait on a GPU fails or is counted here.

Its tensors hold a CPU tensor, and every operation runs on that, to the same numbers. As on a GPU, an operation on
tensors of both devices is an error (but for elementwise ones with a number in a tensor of the CPU, and copies), and
reading a number back is a transfer, for which a GPU would be waited for. Kernels, memory and speed are the CPU's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "another"
_setup_privateuseone_for_python_backend(NAME)
DEVICE = torch.device(NAME, 0)

_aten = torch.ops.aten
_COPIES = (_aten._to_copy.default, _aten.copy_.default)
_READ = (_aten._local_scalar_dense.default, _aten.nonzero.default, _aten.equal.default)
# made by torch's own code where no subclass is asked, among others in ``torch.tensor``
_MADE = (
    _aten.empty.memory_format,
    _aten.empty_strided.default,
    _aten.eye.default,
    _aten.eye.m,
    _aten.arange.default,
    _aten.arange.start,
    _aten.arange.start_step,
    _aten._to_copy.default,
    _aten.copy_.default,
    _aten.tril_indices.default,
    _aten.triu_indices.default,
    _aten.view.default,
)

_counters: list[list[Any]] = []


class AnotherTensor(Tensor):
    """A tensor of the other device.

    Attributes:
        inner: Its numbers, on the CPU.
    """

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> AnotherTensor:
        made: AnotherTensor = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})

    def __repr__(self) -> str:
        return f"AnotherTensor({self.inner})"

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.inner.untyped_storage()


@contextlib.contextmanager
def counting_transfers() -> Iterator[list[Any]]:
    """Operations in the block that took numbers back from the device."""
    transfers: list[Any] = []
    _counters.append(transfers)
    try:
        yield transfers
    finally:
        _counters.remove(transfers)


def _run(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    tensors = list(_tensors((*args, *kwargs.values())))
    there = [tensor for tensor in tensors if isinstance(tensor, AnotherTensor)]
    named = kwargs.get("device")
    stays = bool(there) if named is None else torch.device(named).type == NAME
    if there:
        if function not in _COPIES:
            _check_devices(function, tensors)
        if function in _READ or (function in _COPIES and not (stays and isinstance(args[0], AnotherTensor))):
            for counter in _counters:
                counter.append(function)
    if named is not None:
        kwargs = {**kwargs, "device": "cpu"}
    result = function(*_inner(args), **{name: _inner(value) for name, value in kwargs.items()})
    if function is _aten.copy_.default:
        return args[0]
    # what is changed in place stays the tensor that it was
    same = {id(tensor.inner): tensor for tensor in there}
    return _outer(result, same) if stays else result


def _check_devices(function: Any, tensors: list[Tensor]) -> None:
    elementwise = torch.Tag.pointwise in function.tags
    here = [t for t in tensors if not isinstance(t, AnotherTensor) and not (elementwise and t.dim() == 0)]
    if here:
        shapes = [tuple(tensor.shape) for tensor in here]
        raise RuntimeError(f"{function}: expected all tensors on {DEVICE}; those of shape {shapes} are on the CPU")


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)


def _inner(value: Any) -> Any:
    if isinstance(value, AnotherTensor):
        return value.inner
    return type(value)(map(_inner, value)) if isinstance(value, (list, tuple)) else value


def _outer(value: Any, same: dict[int, AnotherTensor]) -> Any:
    if isinstance(value, Tensor):
        return same[id(value)] if id(value) in same else AnotherTensor(value)
    return type(value)(_outer(part, same) for part in value) if isinstance(value, (list, tuple)) else value


def _kernel(function: Any) -> Any:
    return lambda *args, **kwargs: _run(function, args, kwargs)


_library = torch.library.Library("aten", "IMPL")
for _function in _MADE:
    _library.impl(_function, _kernel(_function), "PrivateUse1")
