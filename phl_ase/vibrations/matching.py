"""Matching of the modes of two analyses: assignment by overlap, fair to degenerate modes.

The overlap of a mode with a reference mode is the square of their mass-weighted scalar product. Modes that are
degenerate in the reference span a space in which any basis is as good as another, so it is the space that counts: of a
group g of k reference modes matched to k modes, with the matrix S of their scalar products, the overlap is ‖S‖_F²/k,
the mean of the squared singular values of S, which is 1 however the modes are turned among themselves. The assignment
(H. W. Kuhn, Nav. Res. Logist. Q. 2, 83 (1955), doi:10.1002/nav.3800020109; by ``scipy``) maximises the sum of that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from phl_ase.errors import PHLError
from phl_ase.types import Array
from phl_ase.vibrations.analysis import HarmonicAnalysis

DEGENERATE_WITHIN = 5.0
"""Neighbouring wavenumbers of the reference that differ by no more than this (cm⁻¹) belong to one group."""


@dataclass(frozen=True, eq=False, repr=False)
class ModeMatch:
    """Modes assigned to those of a reference.

    Attributes:
        assignment: For each reference mode, which mode it is ``(m,)``; −1 where there are too few.
        overlaps: For each reference mode, the overlap, 0 to 1 ``(m,)``; within a group that of the whole group.
        errors: For each reference mode, wavenumber minus the reference's, cm⁻¹ ``(m,)``; NaN where there is none.
        groups: For each reference mode, the number of its degenerate group ``(m,)``.
    """

    assignment: Array
    overlaps: Array
    errors: Array
    groups: Array

    def __repr__(self) -> str:
        errors = np.abs(self.errors[np.isfinite(self.errors)])
        largest = f"{errors.max():.1f}" if len(errors) else "no"
        mean = f"{self.overlaps.mean():.3f}" if len(self.overlaps) else "none"
        return f"<ModeMatch of {len(self.assignment)} modes: mean overlap {mean}, largest error {largest} cm⁻¹>"


def match_modes(
    analysis: HarmonicAnalysis, reference: HarmonicAnalysis, *, degenerate_within: float = DEGENERATE_WITHIN
) -> ModeMatch:
    """Assign the modes of an analysis to those of a reference, each at most once.

    Within a degenerate group the modes are taken in ascending order of wavenumber.

    Args:
        analysis: Modes of the same atoms with the same masses; at another geometry, turned onto the reference's.
        reference: What they are compared with.
        degenerate_within: Largest difference of neighbouring wavenumbers in a group, cm⁻¹; 0 for no groups.

    Raises:
        PHLError: When the analyses are not of the same atoms.
    """
    if not (
        np.array_equal(analysis.indices, reference.indices)
        and np.array_equal(analysis.atoms.numbers, reference.atoms.numbers)
    ):
        raise PHLError(
            f"the modes are of atoms {analysis.indices.tolist()} of {analysis.atoms.symbols}, the reference's of "
            f"{reference.indices.tolist()} of {reference.atoms.symbols}; expected the same atoms in the same order"
        )
    groups = degenerate_groups(reference.wavenumbers, degenerate_within)
    width = 3 * len(reference.indices)
    squares = (reference.modes.reshape(-1, width) @ analysis.modes.reshape(-1, width).T) ** 2
    # weight of each mode in the space of each group: the sum over an assignment is then Σ_g ‖S_g‖²
    in_group = np.array([squares[groups == group].sum(axis=0) for group in groups]).reshape(squares.shape)
    rows, columns = linear_sum_assignment(in_group, maximize=True)
    assignment = np.full(len(groups), -1)
    assignment[rows] = columns
    overlaps = np.zeros(len(groups))
    for group in np.unique(groups):
        members = np.nonzero(groups == group)[0]
        found = np.sort(assignment[members][assignment[members] >= 0])
        assignment[members] = -1
        assignment[members[: len(found)]] = found
        overlaps[members] = squares[np.ix_(members, found)].sum() / len(members)
    errors = np.full(len(groups), np.nan)
    matched = assignment >= 0
    errors[matched] = analysis.wavenumbers[assignment[matched]] - reference.wavenumbers[matched]
    # rounding can carry a perfect overlap beyond 1
    return ModeMatch(assignment, np.minimum(overlaps, 1.0), errors, groups)


def degenerate_groups(wavenumbers: Array, within: float = DEGENERATE_WITHIN) -> Array:
    """Number of the group of each of ascending wavenumbers ``(m,)``; neighbours within ``within`` cm⁻¹ share one.

    Raises:
        PHLError: For a negative width.
    """
    if not within >= 0:
        raise PHLError(f"degenerate_within is {within!r} cm⁻¹; expected zero or a positive number")
    return np.cumsum(np.diff(wavenumbers, prepend=wavenumbers[:1]) > within)
