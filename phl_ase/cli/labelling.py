"""Methods and labels as the options of ``phl label``, ``phl reactions`` and the tasks name them."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phl_ase.errors import PHLError

if TYPE_CHECKING:
    from phl_ase.reference import LabelMethod, LabelRequest


def label_request(
    method: str,
    *,
    hessian: str | None,
    hvp: int | None,
    family: str | None,
    seed: int | None,
    step: float | None,
    estimate_error: int,
) -> LabelRequest:
    """Return the labels that options ask for, with the step of the method where none is given.

    Raises:
        PHLError: For options of HVPs without any, and what the request itself refuses.
    """
    from phl_ase.reference import LabelRequest, Probes, difference_step

    asked = {"family": family, "seed": seed}
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    if hvp is None and (given or estimate_error):
        raise PHLError("--probes, --seed and --estimate-error are about HVPs: add --hvp K")
    chosen: dict[str, Any] = {"step": difference_step(method) if step is None else step}
    if hvp is not None:
        chosen["probes"] = Probes(count=hvp, **given)
    return LabelRequest(hessian=hessian, estimate_error=estimate_error, **chosen)


def label_method(text: str, settings: Sequence[str], device: str, trust: bool) -> LabelMethod:
    """Return what makes the calculator, as workers receive it, and what its labels depend on.

    Raises:
        PHLError: For a setting that cannot be read, or that the method does not take.
    """
    from phl_ase.reference import METHODS, LabelMethod, make_method
    from phl_ase.resolver import resolve_calculator

    chosen: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not (key and equals and value):
            raise PHLError(f"got --set {setting!r}; expected KEY=VALUE, for example grid_level=5")
        chosen[key] = value
    if chosen:
        if text.partition(":")[0] not in METHODS:
            raise PHLError(f"--set is for {', '.join(sorted(METHODS))}; {text!r} takes no settings")
        return LabelMethod(functools.partial(make_method, text, chosen), text, chosen)
    make = functools.partial(resolve_calculator, text, device=device, trust=trust)
    # labels depend on what is in a model's file, not on its name
    content = {"sha256": hashlib.sha256(Path(text).read_bytes()).hexdigest()} if Path(text).is_file() else {}
    return LabelMethod(make, text, content)
