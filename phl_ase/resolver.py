"""One reading of MODEL and METHOD strings for every command: what a name, a file or a prefix stands for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from phl_ase.adapters import ADAPTERS, check_foreign
from phl_ase.errors import PHLError, UnknownModelError, reason_of
from phl_ase.potentials.cards import card_of, find_model
from phl_ase.reference.methods import METHODS as REFERENCE_METHODS


@dataclass(frozen=True)
class CalculatorOptions:
    """Options of every method besides its own text.

    Attributes:
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, …; for methods that run on torch.
        dtype: ``"float64"`` or ``"float32"``; likewise.
        trust: Whether code that the text names may run.
    """

    device: str
    dtype: str
    trust: bool


def resolve_calculator(text: str, *, device: str = "auto", dtype: str = "float64", trust: bool = False) -> Any:
    """Return the ASE calculator that a MODEL or METHOD stands for.

    Args:
        text: A bundled model, a ``.safetensors`` file, or a key of ``CALCULATORS``, some followed by ``:`` and more:
            ``emt``, ``tblite``, ``tblite:GFN1-xTB``, ``pyscf:b3lyp/def2-svp``, ``mace:FILE``,
            ``ase:package.module:factory``.
        device: For models: ``"auto"``, ``"cpu"``, ``"cuda"``, ….
        dtype: For models: ``"float64"`` or ``"float32"``.
        trust: Allow ``ase:package.module:factory``, which imports and runs that code, and foreign models whose loading
            runs code from their file.

    Returns:
        A new calculator.

    Raises:
        PHLError: For a text that stands for nothing, a missing package, a method of another version, or code that is
            not trusted.
    """
    check_method(text, trust=trust)
    prefix, _, rest = text.partition(":")
    options = CalculatorOptions(device, dtype, trust)
    return CALCULATORS[prefix](rest, options) if prefix in CALCULATORS else _model(text, options)


def check_method(text: str, *, trust: bool = False) -> None:
    """Check that a MODEL or METHOD stands for something, without importing what it needs.

    Args:
        text: As in :func:`resolve_calculator`.
        trust: Whether code that the text names may run.

    Raises:
        PHLError: For a text that stands for nothing, a missing file, one that is no model file, or code that is not
            trusted.
    """
    prefix, _, rest = text.partition(":")
    if prefix in ADAPTERS:
        check_foreign(text)
    elif prefix == "ase":
        module_name, colon, factory = rest.partition(":")
        if not (module_name and colon and factory):
            raise PHLError(
                f"got {text!r}; expected ase:package.module:factory, for example ase:ase.calculators.emt:EMT"
            )
        if not trust:
            raise PHLError(
                f"{text!r} runs the code of {module_name}; if you trust it, say so: --trust on the command line, "
                "trust=True in Python"
            )
    elif not text:
        valid = f"a bundled model, a .safetensors file, {', '.join(sorted(CALCULATORS))}"
        raise PHLError(f"no model or method was given; valid: {valid}")
    elif prefix not in CALCULATORS:
        try:
            card_of(find_model(text)[0])
        except UnknownModelError as error:  # perhaps a method was meant
            hint = " (tblite is GFN2-xTB)" if "xtb" in text.lower() or "gfn" in text.lower() else ""
            raise UnknownModelError(f"{error}; methods: {', '.join(sorted(CALCULATORS))}{hint}") from None


def _reference(name: str, rest: str, _: CalculatorOptions) -> Any:
    return REFERENCE_METHODS[name].make(rest)


def _foreign(name: str, rest: str, options: CalculatorOptions) -> Any:
    return _model(f"{name}:{rest}", options)


def _code(rest: str, options: CalculatorOptions) -> Any:
    module_name, _, factory = rest.partition(":")
    try:
        made = getattr(importlib.import_module(module_name), factory)()
    except Exception as error:  # whatever foreign code raises is one line here; the cause keeps the rest
        reason = reason_of(error)
        hint = "; is its folder on PYTHONPATH?" if isinstance(error, ModuleNotFoundError) else ""
        raise PHLError(f"'ase:{rest}' failed ({reason}){hint}") from error
    if not callable(getattr(made, "get_property", None)):
        raise PHLError(f"'ase:{rest}' made a {type(made).__name__}; expected an ASE calculator")
    return made


def _model(text: str, options: CalculatorOptions) -> Any:
    from phl_ase.calculator import PHLCalculator  # torch: not before a model is asked for

    return PHLCalculator(text, device=options.device, dtype=options.dtype, trust=options.trust)


CALCULATORS: dict[str, Callable[[str, CalculatorOptions], Any]] = {
    **{name: partial(_reference, name) for name in REFERENCE_METHODS},
    "ase": _code,
    **{name: partial(_foreign, name) for name in ADAPTERS},
}
"""Prefix -> calculator of what follows it."""
