"""The optimiser: AdamW with a learning rate of its own for groups of parameters, and the average of weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from phl_ase.errors import PHLError
from phl_ase.training.config import TrainingSection


def named_like(names: Sequence[str], pattern: str, key: str) -> list[str]:
    """Names that fit a pattern of a configuration.

    Args:
        names: Of the parameters of a model.
        pattern: As in a shell: ``*``, ``?``, ``[…]``.
        key: Where in the configuration it stands.

    Raises:
        PHLError: When none does, with some that there are.
    """
    fitting = [name for name in names if fnmatchcase(name, pattern)]
    if not fitting:
        some = ", ".join(names[:: max(1, len(names) // 6)])
        raise PHLError(f"{key}: no parameter is called {pattern!r}; the model has, among others, {some}")
    return fitting


def parameter_groups(model: torch.nn.Module, factors: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return the parameters of a model by the factor on their learning rate.

    Args:
        model: The model.
        factors: Name pattern -> factor; of several that fit a name the first holds, where none fits it is 1.

    Returns:
        A group of torch's optimisers for each factor: ``params`` and ``factor``.

    Raises:
        PHLError: For a pattern that fits no parameter, one whose parameters are all fitted by patterns before it, or
            one of which none is trained.
    """
    parameters = dict(model.named_parameters())
    of_name: dict[str, float] = {}
    for pattern, factor in factors.items():
        fitting = named_like(list(parameters), pattern, "training.rate_factors")
        left = [name for name in fitting if name not in of_name]
        trained = [name for name in left if parameters[name].requires_grad]
        if not trained:
            why = "is frozen: potential.trainable leaves it out" if left else "fits a pattern before it: put it first"
            raise PHLError(f"training.rate_factors: every parameter called {pattern!r} {why}")
        of_name |= dict.fromkeys(left, factor)
    groups: dict[float, list[Tensor]] = {}
    for name, parameter in parameters.items():
        groups.setdefault(of_name.get(name, 1.0), []).append(parameter)
    return [{"params": members, "factor": factor} for factor, members in groups.items()]


def new_optimiser(model: torch.nn.Module, training: TrainingSection) -> torch.optim.Optimizer:
    """AdamW (doi:10.48550/arXiv.1711.05101); its weight decay goes with the rate, and so with the factor on it.

    Raises:
        PHLError: For ``rate_factors`` that do not fit the model.
    """
    groups = parameter_groups(model, training.rate_factors)
    return torch.optim.AdamW(groups, lr=training.learning_rate, weight_decay=training.weight_decay, fused=True)


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate that the factors of the groups multiply."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group.get("factor", 1.0)


def rate_of(optimiser: torch.optim.Optimizer) -> float:
    """Return the learning rate that the factors of the groups multiply."""
    group = optimiser.param_groups[0]
    return float(group["lr"] / group.get("factor", 1.0))


def moving_average(decay: float) -> Callable[[Any, Any, Any], None]:
    """Return the update of averaged weights: exponential, faster during the first steps, soon to be forgotten."""

    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        steps = float(count)
        weight = 1.0 - min(decay, (1.0 + steps) / (10.0 + steps))
        torch._foreach_lerp_(averaged, current, weight)

    return torch.no_grad()(update)
