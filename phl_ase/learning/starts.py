"""Which model a run starts from."""

from __future__ import annotations

from typing import Any

from ase import Atoms
from ase.data import chemical_symbols

from phl_ase.errors import PHLError
from phl_ase.resolver import check_method, resolve_calculator

NOTHING = "none"
"""Start from nothing: everything is learnt."""

AUTO = "auto"
"""Start from a method that is much cheaper than the reference and knows the elements."""

_HEAVIEST = 86  # of GFN-xTB


def recommended_start(reference: str) -> str:
    """Return the starting model to take for a reference: GFN2-xTB, and GFN1-xTB where that is the reference itself."""
    name, _, rest = reference.partition(":")
    return "tblite:GFN1-xTB" if name == "tblite" and rest in ("", "GFN2-xTB") else "tblite"


def make_start(text: str, reference: str, atoms: Atoms, *, device: str = "auto", trust: bool = False) -> Any:
    """Return the starting model's calculator; ``None`` for a start from nothing.

    Args:
        text: A MODEL or METHOD, ``"auto"`` or ``"none"``.
        reference: The reference's METHOD.
        atoms: The molecule.
        device: For models.
        trust: Whether code that the text names may run.

    Raises:
        PHLError: For a text that stands for nothing, the reference itself, or elements or a charge that the model does
            not know.
    """
    if text == NOTHING:
        return None
    chosen = recommended_start(reference) if text == AUTO else text
    if chosen == reference or {chosen, reference} == {"tblite", "tblite:GFN2-xTB"}:
        raise PHLError(f"--from {chosen} is the reference itself; give a cheaper method or a model, or --from auto")
    check_method(chosen, trust=trust)
    calculator = resolve_calculator(chosen, device=device, trust=trust)
    known = getattr(getattr(calculator, "potential", None), "species", None)
    species = {int(z) for z in known} if known is not None else set(range(1, _HEAVIEST + 1))
    if known is not None or chosen.startswith("tblite"):
        foreign = sorted(set(atoms.numbers.tolist()) - species)
        if foreign:
            names = ", ".join(chemical_symbols[z] for z in foreign)
            knows = "a start from nothing (--from none) would do"
            if foreign[-1] <= _HEAVIEST:
                knows = f"--from {recommended_start(reference)} (elements to Rn) or --from none would do"
            raise PHLError(f"the starting model {chosen} does not know {names}; {knows}")
    charge = int(atoms.info.get("charge", 0))
    if charge and getattr(getattr(calculator, "potential", None), "takes_charge", True) is False:
        raise PHLError(
            f"the starting model {chosen} does not know about charge, and the structure has {charge:+d}; "
            f"--from {recommended_start(reference)} does"
        )
    return calculator
