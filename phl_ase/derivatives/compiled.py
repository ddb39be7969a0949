"""Functions of tensors compiled with all their derivatives in one graph.

``torch.compile`` cannot differentiate twice through what it compiles. So a function that takes gradients inside, as
often as it likes, is traced first, on tensors without numbers whose sizes are symbols; what comes out is a flat list of
operations without any derivative left to take, and that is compiled, once for all sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from phl_ase.derivatives.layout import lay_out_matrix_products

Function = Callable[[Mapping[str, Tensor]], Sequence[Tensor]]

SIZES = {"systems": 17, "rows": 13, "atoms": 211, "edges": 2503}
"""Sizes to trace with: primes, so that no size is taken for another or for a number of channels."""

# what tracing and compiling raise for a function that they cannot do; nothing here is a mistake of the caller
_COULD_NOT = (
    RuntimeError,
    NotImplementedError,
    TypeError,
    ValueError,
    AssertionError,
    ImportError,
    OSError,
    LookupError,
)


class CompileFailure(RuntimeError):
    """A function could not be traced or compiled; says why in one line."""


def compiled(function: Function, arguments: Mapping[str, Tensor], axes: Mapping[str, tuple[str, ...]]) -> Function:
    """Trace and compile a function that takes gradients inside.

    Args:
        function: Of named tensors; returns tensors.
        arguments: An example, for shapes and dtypes.
        axes: Names of the leading axes whose sizes may change, keys of ``SIZES`` (or such a key and a number); of
            arguments that stand here. A size of 0 or 1 is not covered.

    Raises:
        CompileFailure: Where that is impossible: an operation without a rule, no compiler on this machine, ….
    """
    names = list(arguments)
    try:
        graph, examples = _traced(function, arguments, axes)
        made = torch._inductor.compile(graph, examples)
    except (*_COULD_NOT, torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError) as error:
        text = f"{type(error).__name__}: {error}".strip()
        raise CompileFailure(text.splitlines()[0][:300]) from error

    def call(values: Mapping[str, Tensor]) -> Sequence[Tensor]:
        with torch.no_grad():
            results: Sequence[Tensor] = made(*[values[name] for name in names])
        return results

    return call


def _traced(
    function: Function, arguments: Mapping[str, Tensor], axes: Mapping[str, tuple[str, ...]]
) -> tuple[torch.fx.GraphModule, list[Any]]:
    from torch._dynamo.source import ConstantSource
    from torch._inductor.decomposition import select_decomp_table
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

    # buffers that a potential hides from ``named_buffers`` are constants
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    examples = []
    for name, value in arguments.items():
        if not (leading := axes.get(name, ())):
            examples.append(mode.from_tensor(value.detach(), static_shapes=True))
            continue
        sizes = []
        for axis in leading:  # ``edges1`` is another size than ``edges``
            kind = axis.rstrip("0123456789")
            sizes.append(SIZES[kind] + 2 * int(axis.removeprefix(kind) or 0))
        shape = (*sizes, *value.shape[len(sizes) :])
        dynamic = [DimDynamic.DUCK] * len(sizes) + [DimDynamic.STATIC] * (len(shape) - len(sizes))
        example = mode.from_tensor(
            torch.empty(shape, dtype=value.dtype, device=value.device),
            source=ConstantSource(name),
            symbolic_context=StatelessSymbolicContext(dynamic_sizes=dynamic),
        )
        examples.append(example)

    def flat(*values: Tensor) -> list[Tensor]:
        return list(function(dict(zip(arguments, values, strict=True))))

    with mode, torch.enable_grad():
        graph = make_fx(flat, decomposition_table=select_decomp_table(), _allow_non_fake_inputs=True)(*examples)
    lay_out_matrix_products(graph.graph)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph, examples
