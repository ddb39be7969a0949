"""Integrals that PySCF computes anew in every cycle of a self-consistent field, kept in memory where they fit.

For a small molecule that is orbital values on the grid and the integrals of the range-separated Coulomb operator: with
them a cycle of ωB97X-D/6-31G(d) takes a bit more than half the time.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from functools import cache
from typing import Any


def keep_in_memory(mean_field: Any, megabytes: float) -> None:
    """Let a fresh mean field keep orbital values and range-separated integrals.

    Args:
        mean_field: Of PySCF, a molecule's; changed.
        megabytes: What each of the two may take; what does not fit is computed anew, as PySCF does.
    """
    mean_field._numint = _numint_class()(megabytes)
    mean_field.get_jk = _RangeSeparated(mean_field, megabytes)


@cache
def _numint_class() -> type:
    from pyscf.dft.numint import NumInt

    class KeptNumInt(NumInt):
        """PySCF's integration on a grid, orbital values and first derivatives kept."""

        def __init__(self, megabytes: float) -> None:
            super().__init__()
            self._megabytes = megabytes
            self._kept: dict[int, tuple[Any, list[Any]]] = {}

        def block_loop(self, mol, grids, nao=None, deriv=0, *arguments, **options) -> Iterator[Any]:
            """Blocks of (orbital values, mask, weights, points)."""
            fresh = super().block_loop
            components = 1 + 3 * deriv
            size = components * (nao or mol.nao) * (0 if grids.coords is None else len(grids.coords)) * 8e-6
            if deriv > 1 or size > self._megabytes or options.get("non0tab") is not None or len(arguments) > 1:
                yield from fresh(mol, grids, nao, deriv, *arguments, **options)
                return
            owner, blocks = self._kept.get(deriv, (None, []))
            if owner is not grids.coords or owner is None:
                # the buffer of the values is used again for the next block
                blocks = [
                    (values.copy(order="K"), *rest)
                    for values, *rest in fresh(mol, grids, nao, deriv, *arguments, **options)
                ]
                self._kept[deriv] = (grids.coords, blocks)
            yield from blocks

    return KeptNumInt


class _RangeSeparated:
    """A mean field's Coulomb and exchange matrices, those of erf(ωr)/r and erfc(ωr)/r from integrals in memory."""

    def __init__(self, mean_field: Any, megabytes: float) -> None:
        self._molecule = mean_field.mol
        # weak: the mean field holds this object, and a cycle would keep gigabytes until the garbage collector comes by
        self._full: Any = weakref.WeakMethod(mean_field.get_jk)
        self._fits = self._molecule.nao**4 / 8 * 8e-6 < megabytes
        self._integrals: dict[float, Any] = {}

    def __call__(self, mol=None, dm=None, hermi=1, with_j=True, with_k=True, omega=None) -> Any:
        if not omega or not self._fits or dm is None or mol not in (None, self._molecule):
            return self._full()(mol, dm, hermi, with_j, with_k, omega)
        from pyscf.scf.hf import dot_eri_dm

        if omega not in self._integrals:
            with self._molecule.with_range_coulomb(omega):
                self._integrals[omega] = self._molecule.intor("int2e", aosym="s8")
        return dot_eri_dm(self._integrals[omega], dm, hermi, with_j, with_k)
