"""PySCF as an ASE calculator: Kohn–Sham energies, forces with the response of the grid, Hessians, HVPs.

The default is ωB97X-D/6-31G(d) with Cartesian d functions, the convention of that basis in the published work: PySCF's
ωB97X part (libxc 471) plus the pair dispersion of :mod:`phl_ase.reference.dispersion`.

PySCF's analytic Hessian leaves the response of the integration grid out: against differences of gradients, elements
on the diagonal blocks are wrong by up to 1.5 eV/Å² at grid level 4. Each diagonal block is therefore reset to minus the
sum of its row (translations cost nothing), which leaves up to 0.6 eV/Å²; differences of gradients have no such error.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes, compare_atoms
from ase.data import chemical_symbols

from phl_ase.curvature import finite_difference_hvp
from phl_ase.errors import NonFiniteError, PHLError, unknown
from phl_ase.hessians import symmetrised
from phl_ase.reference.dispersion import chai_head_gordon, check_elements
from phl_ase.reference.distances import check_distances
from phl_ase.reference.in_memory import keep_in_memory
from phl_ase.reference.scf import (
    CONVERGENCE,
    GRADIENT_CONVERGENCE,
    DensityHistory,
    bounded_threads,
    converge,
    pyscf_package,
)
from phl_ase.structures import charge_and_multiplicity
from phl_ase.units import convert
from phl_ase.vibrations import finite_difference_hessian

Array = np.ndarray

FUNCTIONAL = "wb97x-d"
BASIS = "6-31g(d)"
HEAVIEST = 36
"""Krypton: the basis sets of heavier elements come with core potentials."""


@dataclass(frozen=True)
class Functional:
    """A functional that PySCF does not know by its name, or not whole.

    Attributes:
        xc: What PySCF calls its exchange and correlation.
        title: How reports write it.
    """

    xc: str
    title: str


# all others go to PySCF by their name; these carry the Chai–Head-Gordon dispersion
_WITH_DISPERSION = {FUNCTIONAL: Functional("471", "wB97X-D"), "wb97xd": Functional("471", "wB97X-D")}
# basis sets that were defined with six Cartesian d functions; 6-311G and all later families are spherical
_CARTESIAN = re.compile(r"(3-?21|4-?31|6-?21|6-?31)[+g]", re.IGNORECASE)
# names that promise a term which PySCF's Kohn–Sham energy lacks, without a word: dispersion, second-order correlation
_INCOMPLETE = re.compile(r"[-_]d\d?(bj|zero|op|m)?\w*$|plyp|pwpb95|^dsd|^xyg|wb97x-2|\(2\)", re.IGNORECASE)

_HESSIANS = ("analytic", "differences")


class PySCFCalculator(Calculator):
    """Density functional theory by PySCF.

    Charge and multiplicity come from ``atoms.info`` (``charge``, ``multiplicity``, 2S+1); a singlet is restricted,
    everything else unrestricted. Energy and forces always come together. The density is carried over from geometry to
    geometry. Nothing is written to disk.

    Args:
        functional: ``"wb97x-d"`` (with its dispersion), or anything PySCF knows.
        basis: Any basis PySCF has for the elements.
        cartesian: Cartesian (6D) or spherical (5D) d functions; by default what the basis was defined with.
        grid_level: PySCF's integration grid, 4 to 9: coarser ones make noisy curvature.
        hessian: ``"analytic"``, or ``"differences"`` of gradients: 6n of them, without the error of the grid.
        step: Displacement of the atom that moves most in differences of gradients, Å.
        threads: Threads of PySCF; the linear algebra of NumPy follows ``OMP_NUM_THREADS``.
        max_memory: MB that PySCF may use.

    Raises:
        PHLError: For an unknown functional or option, or a missing package.
    """

    implemented_properties = ["energy", "free_energy", "forces", "hessian"]  # noqa: RUF012 (ASE wants a list)
    ignored_changes = {"initial_charges", "initial_magmoms"}  # noqa: RUF012

    def __init__(
        self,
        functional: str = FUNCTIONAL,
        basis: str = BASIS,
        *,
        cartesian: bool | None = None,
        grid_level: int = 4,
        hessian: str = "analytic",
        step: float = 0.002,
        threads: int = 1,
        max_memory: int = 4000,
    ) -> None:
        super().__init__()
        if hessian not in _HESSIANS:
            raise unknown("kind of Hessian", hessian, _HESSIANS)
        if not 4 <= grid_level <= 9:
            raise PHLError(f"grid_level is {grid_level}; expected 4 to 9: coarser grids make noisy curvature")
        for name, value in (("step", step), ("threads", threads), ("max_memory", max_memory)):
            if not value > 0:
                raise PHLError(f"{name} is {value}; expected a positive number")
        known = _WITH_DISPERSION.get(functional.lower().replace("_", "-"))
        self._has_dispersion = known is not None
        self._xc = known.xc if known else functional
        title = known.title if known else functional.upper()
        self.basis = basis
        usual = _CARTESIAN.match(basis) is not None
        self.cartesian = usual if cartesian is None else cartesian
        self.level_of_theory = f"{title}/{basis.replace('g', 'G') if basis[:1].isdigit() else basis}"
        if self.cartesian != usual:
            self.level_of_theory += f", {'Cartesian' if self.cartesian else 'spherical'} d"
        self.parameters.update(
            functional=functional, basis=basis, cartesian=self.cartesian, grid_level=grid_level, hessian=hessian
        )
        self.grid_level, self.hessian, self.step = grid_level, hessian, step
        self.threads, self.max_memory = threads, max_memory
        self.rung = ""
        self._history = DensityHistory()
        self._mean_field: Any = None
        if known is None and _INCOMPLETE.search(functional):
            raise PHLError(
                f"PySCF would leave the dispersion or second-order part of {functional!r} out; expected a functional "
                f"that is whole without, such as b3lyp or pbe0, or {FUNCTIONAL!r}, whose dispersion is added here"
            )
        libxc = pyscf_package().dft.libxc  # outside: that the package is missing is a ValueError too
        try:
            libxc.parse_xc(self._xc)
        except (KeyError, ValueError, NotImplementedError) as error:
            reason = " ".join(str(error).split())
            raise PHLError(f"PySCF has no functional {self._xc!r} ({reason}); some it has: b3lyp, pbe0") from None

    # -- ASE ----------------------------------------------------------------------------------------------------------

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Return what has changed since the last calculation; charge and multiplicity in ``atoms.info`` count."""
        state = charge_and_multiplicity(atoms)
        changes = compare_atoms(self.atoms, atoms, tol=tol, excluded_properties=self.ignored_changes)
        if self.atoms is not None and charge_and_multiplicity(self.atoms) != state:
            changes.append("charge and multiplicity")
        return changes

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Collection[str] = ("energy",),
        system_changes: Collection[str] = all_changes,
    ) -> None:
        """Fill ``results`` with energy and forces, and with the Hessian where asked for.

        Raises:
            PHLError: For a structure that the method cannot treat.
            NonFiniteError: For NaN or infinite positions.
            SCFNotConverged: When no rung of the ladder converged.
        """
        atoms = self.atoms if atoms is None else atoms
        if atoms is None:
            raise PHLError("no atoms: nothing was calculated yet; give the structure")
        if self.check_state(atoms):
            self.results, self._mean_field = {}, None
        super().calculate(atoms, list(properties), list(system_changes))
        if "forces" not in self.results:
            self.results.update(self._energy_and_forces(atoms))
        if "hessian" in properties:
            self.results["hessian"] = self._hessian(atoms)

    def reset(self) -> None:
        """Forget results and the densities that the next calculation would start from."""
        super().reset()
        self._history, self._mean_field = DensityHistory(), None

    def __getstate__(self) -> dict[str, Any]:
        # copies and pickles do without PySCF's objects
        return {**self.__dict__, "_mean_field": None}

    # -- curvature ----------------------------------------------------------------------------------------------------

    def get_hessian(self, atoms: Atoms | None = None) -> Array:
        """Return the Hessian ``(3n, 3n)`` eV/Å², symmetric, analytic or by differences as the calculator was made.

        Raises:
            PHLError: For a structure that the method cannot treat.
            SCFNotConverged: When no rung of the ladder converged.
        """
        return self.get_property("hessian", atoms)

    def get_hvp(self, vectors: Any, atoms: Atoms | None = None) -> Array:
        """H·v by central differences: two gradients a vector, the error of the grid response left out.

        Args:
            vectors: ``(n, 3)`` or ``(K, n, 3)``.
            atoms: The structure; the last one by default.

        Returns:
            HVPs of the same shape, eV/Å² per unit of vector.
        """
        atoms = self.atoms if atoms is None else atoms
        if atoms is None:
            raise PHLError("no atoms: nothing was calculated yet; give the structure")
        return finite_difference_hvp(vectors, self._displaced(atoms), delta=self.step)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _displaced(self, atoms: Atoms) -> Atoms:
        """Return a copy for differences of gradients: what it calculates leaves this calculator's results alone."""
        copy = atoms.copy()
        copy.calc = _Gradients(self)
        return copy

    def _molecule(self, atoms: Atoms) -> Any:
        """PySCF's molecule."""
        charge, multiplicity = check_molecule(atoms)
        if self._has_dispersion:
            check_elements(atoms.numbers)
        places = [(int(z), tuple(p)) for z, p in zip(atoms.numbers, convert(atoms.positions, "Å", "Bohr"), strict=True)]
        options = {"charge": charge, "spin": multiplicity - 1, "verbose": 0, "max_memory": self.max_memory}
        gto = pyscf_package().gto
        try:
            with warnings.catch_warnings():
                # an unknown basis makes PySCF advertise another package before it fails
                warnings.simplefilter("ignore", UserWarning)
                return gto.M(atom=places, unit="Bohr", basis=self.basis, cart=self.cartesian, **options)
        except (KeyError, ValueError, gto.basis.BasisNotFoundError) as error:
            species = ", ".join(chemical_symbols[z] for z in np.unique(atoms.numbers))
            reason = " ".join(str(error).split())
            raise PHLError(f"PySCF has no basis {self.basis!r} for all of {species} ({reason})") from None

    def _converged(self, atoms: Atoms) -> Any:
        molecule, dft = self._molecule(atoms), pyscf_package().dft

        def make() -> Any:
            mean_field = (dft.RKS if molecule.spin == 0 else dft.UKS)(molecule, xc=self._xc)
            mean_field.chkfile = mean_field._chkfile = None  # the temporary file goes at once
            mean_field.grids.level = self.grid_level
            mean_field.conv_tol, mean_field.conv_tol_grad = CONVERGENCE, GRADIENT_CONVERGENCE
            mean_field.max_cycle = 80
            keep_in_memory(mean_field, self.max_memory / 4)
            return mean_field

        key = (tuple(atoms.numbers.tolist()), molecule.charge, molecule.spin)
        overlap = molecule.intor_symmetric("int1e_ovlp")
        start = self._history.start(key, atoms.positions, overlap)
        mean_field, self.rung = converge(make, start)
        self._history.add(key, atoms.positions, overlap, np.asarray(mean_field.make_rdm1()))
        return mean_field

    def _energy_and_forces(self, atoms: Atoms) -> dict[str, Any]:
        with bounded_threads(self.threads):
            mean_field = self._mean_field = self._converged(atoms)
            gradients = mean_field.nuc_grad_method()
            gradients.grid_response = True
            gradient = convert(gradients.kernel(), "Ha/Bohr", "eV/Å")
        energy = float(convert(mean_field.e_tot, "Ha", "eV"))
        if self._has_dispersion:
            pairs = chai_head_gordon(atoms.numbers, atoms.positions)
            energy, gradient = energy + pairs.energy, gradient + pairs.gradient
        if not (np.isfinite(energy) and np.all(np.isfinite(gradient))):
            raise NonFiniteError(f"PySCF gave a result that is not finite for {atoms.get_chemical_formula()}")
        return {"energy": energy, "free_energy": energy, "forces": -gradient}

    def _hessian(self, atoms: Atoms) -> Array:
        if self.hessian == "differences":
            return finite_difference_hessian(self._displaced(atoms), delta=self.step)
        n = len(atoms)
        with bounded_threads(self.threads):
            if self._mean_field is None:
                self._mean_field = self._converged(atoms)
            blocks = self._mean_field.Hessian().kernel()
        square = convert(np.asarray(blocks).transpose(0, 2, 1, 3).reshape(3 * n, 3 * n), "Ha/Bohr²", "eV/Å²")
        if self._has_dispersion:
            square = square + chai_head_gordon(atoms.numbers, atoms.positions).hessian
        return with_sum_rule(square)


class _Gradients(Calculator):
    """Forces of a PySCF calculator at displaced geometries, its results left as they are, its densities used."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, owner: PySCFCalculator) -> None:
        super().__init__()
        self._owner = owner

    def calculate(self, atoms=None, properties=("forces",), system_changes=all_changes) -> None:
        """Fill ``results``."""
        super().calculate(atoms, list(properties), list(system_changes))
        kept = self._owner._mean_field
        self.results = self._owner._energy_and_forces(atoms)
        self._owner._mean_field = kept


def with_sum_rule(hessian: Array) -> Array:
    """A Hessian whose translations cost nothing: each diagonal block reset to minus the sum of the others in its row.

    Args:
        hessian: ``(3n, 3n)`` eV/Å².

    Returns:
        Symmetric, of the same shape; blocks off the diagonal are only symmetrised.
    """
    n = len(hessian) // 3
    blocks = symmetrised(hessian).reshape(n, 3, n, 3)
    atoms = np.arange(n)
    blocks[atoms, :, atoms, :] = 0.0
    sums = blocks.sum(axis=2)
    blocks[atoms, :, atoms, :] = -symmetrised(sums)
    return np.ascontiguousarray(blocks.reshape(3 * n, 3 * n))


def check_molecule(atoms: Atoms) -> tuple[int, int]:
    """Everything that can be wrong with a structure before anything is computed.

    Returns:
        Charge (e) and multiplicity.

    Raises:
        PHLError: For a periodic or empty structure, an element beyond Kr, atoms on top of each other, or a number of
            electrons that does not go with the multiplicity.
        NonFiniteError: For NaN or infinite positions.
    """
    charge, multiplicity = charge_and_multiplicity(atoms)
    name = atoms.get_chemical_formula() or "the structure"
    if len(atoms) == 0 or np.any(atoms.pbc):
        what = "periodic" if len(atoms) else "without atoms"
        raise PHLError(f"{name} is {what}; expected a molecule: set atoms.pbc = False")
    if not np.all(np.isfinite(atoms.positions)):
        raise NonFiniteError(f"{name}: positions hold NaN or infinity; expected finite numbers")
    if not np.all((atoms.numbers >= 1) & (atoms.numbers <= HEAVIEST)):
        raise PHLError(f"{name}: expected elements from H to Kr: heavier ones need core potentials, absent here")
    check_distances(atoms, name)
    electrons, unpaired = int(atoms.numbers.sum()) - charge, multiplicity - 1
    if electrons < max(1, unpaired) or (electrons - unpaired) % 2:
        raise PHLError(
            f"{name} with charge {charge} has {electrons} electrons, which cannot have multiplicity {multiplicity} "
            "(2S+1): set atoms.info['charge'] and "
            "atoms.info['multiplicity'], in an XYZ file charge=… multiplicity=… in the comment"
        )
    return charge, multiplicity
