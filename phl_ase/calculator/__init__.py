"""The ASE calculator: energies, forces, stresses, Hessians and Hessian-vector products of a potential."""

from phl_ase.calculator.ase_calculator import QUANTITIES, PHLCalculator
from phl_ase.calculator.hessians import LAYOUTS, HessianOperator

__all__ = ["LAYOUTS", "QUANTITIES", "HessianOperator", "PHLCalculator"]
