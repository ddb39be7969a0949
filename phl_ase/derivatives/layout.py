"""Matrix products of a traced graph, laid out in memory as what follows reads them.

The second derivative of A B holds (Gᵀ A)ᵀ, a product that is read across, and sums of such. What a compiler fuses with
one is then neither vectorised nor read in order: a third of the time of a training step.
"""

from __future__ import annotations

import torch
from torch.fx import Graph, Node

_ADD = torch.ops.aten.add.Tensor
_ORDER = {torch.ops.aten.mm.default: -1, torch.ops.aten.bmm.default: -1, _ADD: 1}
"""Operations whose result can be had transposed for nothing, and the order in which they then take their arguments."""


def lay_out_matrix_products(graph: Graph) -> None:
    """(A B)ᵀ becomes Bᵀ Aᵀ, and (C + D)ᵀ becomes Cᵀ + Dᵀ, wherever nothing wants them as they are; in place.

    Args:
        graph: Of core operations, whose nodes know the shapes of their results.
    """
    for node in reversed(graph.nodes):
        if node.target not in _ORDER or not node.users or not all(_transposes(user) for user in node.users):
            continue
        shapes = [argument.meta["val"].shape if isinstance(argument, Node) else None for argument in node.args]
        if node.target is _ADD and (None in shapes or shapes[0] != shapes[1]):
            continue
        with graph.inserting_before(node):
            arguments = []
            for argument in node.args[:: _ORDER[node.target]]:
                if _transposes(argument):
                    arguments.append(argument.all_input_nodes[0])
                    continue
                permute = (argument, _last_two_exchanged(argument))
                arguments.append(graph.call_function(torch.ops.aten.permute.default, permute))
                arguments[-1].meta["val"] = argument.meta["val"].mT
            made = graph.call_function(node.target, tuple(arguments), node.kwargs)
        made.meta["val"] = node.meta["val"].mT
        for user in list(node.users):
            user.replace_all_uses_with(made)
            graph.erase_node(user)
        graph.erase_node(node)


def _transposes(node: Node) -> bool:
    return node.target is torch.ops.aten.permute.default and node.args[1] == _last_two_exchanged(node)


def _last_two_exchanged(node: Node) -> list[int]:
    axes = [*range(node.meta["val"].dim())]
    return [*axes[:-2], *axes[:-3:-1]]
