"""The ASE calculator: energies, forces, stresses, Hessians and Hessian-vector products of a potential."""

from phl_ase.calculator.ase_calculator import QUANTITIES, PHLCalculator
from phl_ase.calculator.hessians import LAYOUTS, HessianOperator
from phl_ase.errors import DomainError, DomainWarning, ExplodedError

__all__ = ["LAYOUTS", "QUANTITIES", "DomainError", "DomainWarning", "ExplodedError", "HessianOperator", "PHLCalculator"]
