"""The ASE calculator: energies, forces, stresses, Hessians and Hessian-vector products of a potential."""

from phl_ase.calculator.ase_calculator import CALCULATED, PHLCalculator
from phl_ase.calculator.hessians import LAYOUTS, HessianOperator
from phl_ase.errors import DomainError, DomainWarning, ExplodedError

__all__ = [
    "CALCULATED",
    "LAYOUTS",
    "DomainError",
    "DomainWarning",
    "ExplodedError",
    "HessianOperator",
    "PHLCalculator",
]
