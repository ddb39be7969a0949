"""Reference methods by name: one function and one line each. Nothing heavy is imported before a method is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from phl_ase.errors import PHLError, missing_package, unknown


@dataclass(frozen=True)
class Method:
    """A reference method.

    Attributes:
        make: From what follows the name and a colon (empty for nothing) to a new ASE calculator.
        description: One line for a user.
    """

    make: Callable[[str], Any]
    description: str


def _emt(rest: str) -> Any:
    from ase.calculators.emt import EMT

    if rest:
        raise PHLError(f"got 'emt:{rest}'; 'emt' stands alone")
    return EMT()


def _tblite(rest: str) -> Any:
    """GFN2-xTB, or the method that follows (C. Bannwarth et al., doi:10.1021/acs.jctc.8b01176)."""
    try:
        from tblite.ase import TBLite
    except ImportError:
        raise missing_package("tblite", "reference", "the method tblite (GFN-xTB)") from None
    method = rest or "GFN2-xTB"
    valid = ("GFN2-xTB", "GFN1-xTB", "IPEA1-xTB")
    if method not in valid:
        raise PHLError(f"unknown tblite method {method!r}; valid: {', '.join(f'tblite:{m}' for m in valid)}")
    from phl_ase.structures import charge_and_multiplicity

    class InfoTBLite(TBLite):
        """TBLite that takes charge and multiplicity from ``atoms.info``, like everything here."""

        def check_state(self, atoms, tol=1e-15):
            charge, multiplicity = charge_and_multiplicity(atoms)
            # without one in info, xTB's own: the lowest that the number of electrons allows
            stated = {"multiplicity", "spin"} & set(atoms.info)
            self.set(charge=charge, multiplicity=multiplicity if stated else None)
            return super().check_state(atoms, tol)

    # at the usual accuracy (1.0) the noise of the forces puts 4e-3 eV/Å² on a numerical Hessian, here 3e-5; no slower
    return InfoTBLite(method=method, accuracy=0.01, verbosity=0)


def _pyscf(rest: str) -> Any:
    """ωB97X-D/6-31G(d), or FUNCTIONAL/BASIS."""
    from phl_ase.reference.pyscf_method import PySCFCalculator

    if not rest:
        return PySCFCalculator()
    functional, _, basis = rest.partition("/")
    if not (functional and basis):
        raise PHLError(f"got 'pyscf:{rest}'; expected pyscf:FUNCTIONAL/BASIS, for example pyscf:b3lyp/def2-svp")
    return PySCFCalculator(functional, basis)


METHODS: dict[str, Method] = {
    "emt": Method(_emt, "effective medium theory for metals (ASE): for trying things out"),
    "tblite": Method(_tblite, "GFN2-xTB, or tblite:GFN1-xTB, tblite:IPEA1-xTB"),
    "pyscf": Method(_pyscf, "wB97X-D/6-31G(d), or pyscf:FUNCTIONAL/BASIS"),
}
"""Name -> method."""


def make_method(text: str) -> Any:
    """A new ASE calculator of a method such as ``tblite:GFN1-xTB``.

    Raises:
        PHLError: For an unknown name, a text that the method does not read, or a missing package.
    """
    name, _, rest = text.partition(":")
    if name not in METHODS:
        raise unknown("reference method", name, METHODS)
    return METHODS[name].make(rest)


def level_of_theory(calculator: Any) -> str:
    """What a data set writes as the level of theory of a calculator's labels."""
    parameters = getattr(calculator, "parameters", None) or {}
    stated = getattr(calculator, "level_of_theory", None) or parameters.get("method")
    return str(stated or type(calculator).__name__)
