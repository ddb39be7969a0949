"""e3nn's tensor products of neighbours' features with spherical harmonics, as a few products of matrices.

e3nn generates a handful of small operations for each path (an irrep of the features × one of the harmonics → one of the
message); every one of them comes back several times in a gradient of a gradient. Here the harmonics of an edge become
one matrix for each irrep of the features, which couples it to all messages at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from phl_ase.adapters.containment import vendor


class MatrixProducts:
    """Replacement of the ``forward`` of an e3nn ``TensorProduct`` whose paths are all of the kind ``uvu``.

    message[e, u, k] = weight[e, p(k), u] Σ_i features[e, u, i] Σ_j C[i, j, k] harmonics[e, j]
    with Wigner's 3j symbols C times e3nn's normalisation, k over the components of every path p.

    Args:
        product: The tensor product; :func:`can_be_matrices` says whether it is one of these.
    """

    def __init__(self, product: Any) -> None:
        e3nn = vendor("e3nn.o3", "e3nn", "mace")
        first, second, out = product.irreps_in1, product.irreps_in2, product.irreps_out
        self._channels = first[0].mul
        self._dims = [irrep.dim for _, irrep in first]
        paths = list(product.instructions)
        # paths in the order in which they are computed: by the irrep of the features
        order = sorted(range(len(paths)), key=lambda p: paths[p].i_in1)
        self._widths = [out[paths[p].i_out].ir.dim for p in order]
        self._outputs = sorted(range(len(order)), key=lambda place: paths[order[place]].i_out)
        couplings: list[list[Tensor]] = [[] for _ in first]
        for p in order:
            path = paths[p]
            irreps = first[path.i_in1].ir, second[path.i_in2].ir, out[path.i_out].ir
            block = torch.zeros(irreps[0].dim, second.dim, irreps[2].dim, dtype=torch.float64, device="cpu")
            symbols = e3nn.wigner_3j(*(irrep.l for irrep in irreps), dtype=torch.float64)
            block[:, second.slices()[path.i_in2]] = path.path_weight * symbols
            couplings[path.i_in1].append(block)
        # which path a component of the message belongs to
        spread = torch.zeros(len(paths), sum(self._widths), dtype=torch.float64, device="cpu")
        ends = torch.tensor(self._widths, device="cpu").cumsum(0).tolist()
        for p, width, end in zip(order, self._widths, ends, strict=True):
            spread[p, end - width : end] = 1.0
        # harmonics @ coupling: (edges, i × k)
        self._exact = [
            torch.cat(blocks, dim=-1).transpose(0, 1).flatten(1) if blocks else torch.zeros(second.dim, 0, device="cpu")
            for blocks in couplings
        ] + [spread]
        self._converted: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}

    def __call__(
        self,
        features: Float[Tensor, "edges features"],
        harmonics: Float[Tensor, "edges harmonics"],
        weight: Float[Tensor, "edges weights"],
    ) -> Float[Tensor, "edges messages"]:
        """The messages, in e3nn's order: by irreps, of each the channels, of each of these its components."""
        key = harmonics.dtype, harmonics.device
        if key not in self._converted:
            self._converted[key] = [constant.to(harmonics) for constant in self._exact]
        *couplings, spread = self._converted[key]
        edges, channels = len(harmonics), self._channels
        parts = features.split([channels * dim for dim in self._dims], dim=-1)
        mixed = []
        for part, dim, coupling in zip(parts, self._dims, couplings, strict=True):
            if coupling.shape[1]:
                left = part.reshape(edges, channels, dim)
                right = (harmonics @ coupling).reshape(edges, dim, coupling.shape[1] // dim)  # also without edges
                # matrices of one column and one row: multiplying numbers is faster
                mixed.append(left * right if dim == 1 else left @ right)
        weights = weight.reshape(edges, len(spread), channels).transpose(1, 2) @ spread
        paths = (_joined(mixed) * weights).split(self._widths, dim=-1)
        return _joined([paths[place].flatten(1) for place in self._outputs])


def can_be_matrices(product: Any) -> bool:
    """Return whether a module is a tensor product that :class:`MatrixProducts` computes."""
    if not isinstance(product, vendor("e3nn.o3", "e3nn", "mace").TensorProduct):
        return False
    paths = product.instructions
    return (
        all(path.connection_mode == "uvu" and path.has_weight for path in paths)
        and len({path.i_out for path in paths}) == len(paths) == len(product.irreps_out) > 0
        and len({channels for channels, _ in product.irreps_in1}) == 1
        and all(channels == 1 for channels, _ in product.irreps_in2)
        and not product.shared_weights
    )


def use_matrix_products(module: nn.Module) -> int:
    """Let every tensor product in a module that can be products of matrices be computed so; its state stays as it is.

    Returns:
        How many there are.
    """
    found = [part for part in module.modules() if can_be_matrices(part)]
    for part in found:
        part.forward = MatrixProducts(part)
    return len(found)


@contextlib.contextmanager
def own_products(module: nn.Module) -> Iterator[None]:
    """The module as its vendor made it, for as long as the block runs."""
    taken = [part for part in module.modules() if isinstance(part.__dict__.get("forward"), MatrixProducts)]
    replaced = [part.__dict__.pop("forward") for part in taken]
    try:
        yield
    finally:
        for part, forward in zip(taken, replaced, strict=True):
            part.forward = forward


class _Joined(torch.autograd.Function):
    """``torch.cat`` along the last axis whose gradient is one ``split``: the gradient of that is one ``cat`` again.

    torch's own gradient takes a slice for each part, and the gradient of a slice fills a whole tensor with zeros.
    """

    @staticmethod
    def forward(widths: Sequence[int], *parts: Tensor) -> Tensor:
        return torch.cat(parts, dim=-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.widths = inputs[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *gradients[0].split(ctx.widths, dim=-1)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], widths: Sequence[int], *parts: Tensor) -> tuple[Tensor, int]:
        stacked = [
            part.expand(info.batch_size, *part.shape) if dim is None else part.movedim(dim, 0)
            for part, dim in zip(parts, in_dims[1:], strict=True)
        ]
        return _Joined.apply(widths, *stacked), 0


def _joined(parts: Sequence[Tensor]) -> Tensor:
    if len(parts) == 1:
        return parts[0]
    joined: Tensor = _Joined.apply(tuple(part.shape[-1] for part in parts), *parts)
    return joined
