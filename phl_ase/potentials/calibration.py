"""Calibration of a committee: factors that turn its spread into errors, and the limits of its training data.

The factor is the 68.27th percentile of |error| / spread over frames that no member has seen: one standard deviation
covers there what it covers of a normal distribution, whatever the tails are (for scaling by one factor, by variances,
see Musil et al., doi:10.1021/acs.jctc.8b00959; for the measures of its success, Tran et al.,
doi:10.1088/2632-2153/ab7e1a, and Busk et al., doi:10.1088/2632-2153/ac3eb3).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from phl_ase.errors import PHLError
from phl_ase.potentials.domain import Domain
from phl_ase.structures import Frame

Array = np.ndarray

ONE_SIGMA = 0.6826894921370859
"""Share of a normal distribution within one standard deviation."""

_QUANTILE = 2.3263
"""Standard deviations of the 99th percentile of a normal distribution."""

_SOFT = 1.0  # eV/Å: of forces below, the uncertainty no longer depends on their size

_ZERO = 1e-8  # eV/Å: components below are zero by symmetry


@dataclass(frozen=True)
class Calibration:
    """Uncertainty of a committee, calibrated.

    Attributes:
        energy: Factor of ``energy_std``.
        forces: Factor of ``forces_std``.
        forces_limit: Uncertainty of an atom (root mean square of the calibrated ``forces_std`` of its components)
            above which a structure is outside of the training data, eV/Å.
        rest_limit: The same of a structure without forces, eV/Å; by default it has no limit of its own.
        forces_exponent: How that grows with the forces, see :meth:`limit`.
        domain: Distances and molecules that were seen.
        frames: Number of frames that the factors were fitted on.
    """

    energy: float
    forces: float
    forces_limit: float
    domain: Domain
    frames: int = 0
    rest_limit: float = np.inf
    forces_exponent: float = 0.0

    def __post_init__(self) -> None:
        numbers = {"energy": self.energy, "forces": self.forces, "forces_limit": self.forces_limit}
        for name, value in numbers.items():
            if not (np.isfinite(value) and value > 0):
                raise PHLError(f"calibration of a committee: {name} is {value}; expected a positive number")
        if not self.rest_limit > 0:
            raise PHLError(f"calibration of a committee: rest_limit is {self.rest_limit}; expected a positive number")
        if not (np.isfinite(self.forces_exponent) and self.forces_exponent >= 0):
            raise PHLError(f"calibration of a committee: forces_exponent is {self.forces_exponent}; expected 0 or more")

    @classmethod
    def fit(
        cls, held_out: Sequence[Frame], predictions: Sequence[Mapping[str, Any]], seen: Iterable[Frame]
    ) -> Calibration:
        """Factors and limits.

        Limits are 99th percentiles of log-normal distributions fitted to the held-out frames' largest uncertainty of an
        atom: one of all frames, and one whose logarithm is a straight line against that of the largest force. High up
        a wall forces are large, and their uncertainty with them: the first limit alone lets unknown reactions pass, the
        second alone atoms that fall into each other.

        Args:
            held_out: Labelled frames that no member was trained on or chosen by.
            predictions: For each ``energy``, ``forces`` and their ``…_std`` before calibration, eV and eV/Å.
            seen: Frames that members were trained on.

        Raises:
            PHLError: For fewer than five frames with energies and forces, or members that do not differ.
        """
        rows = [(f, p) for f, p in zip(held_out, predictions, strict=True) if f.energy is not None]
        rows = [(f, p) for f, p in rows if f.forces is not None]
        if len(rows) < 5:
            raise PHLError(f"{len(rows)} held-out frames carry energies and forces; expected at least 5 to calibrate")
        energy = _factor(
            np.array([p["energy"] - f.energy for f, p in rows]), np.array([p["energy_std"] for _, p in rows])
        )
        forces = _factor(
            np.concatenate([(p["forces"] - f.forces).ravel() for f, p in rows]),
            np.concatenate([np.ravel(p["forces_std"]) for _, p in rows]),
        )
        largest = np.log([forces * largest_on_an_atom(p["forces_std"]) for _, p in rows])
        size = np.log([1 + largest_on_an_atom(p["forces"]) / _SOFT for _, p in rows])
        exponent = max(0.0, float(np.polyfit(size, largest, 1)[0])) if np.ptp(size) > 0 else 0.0
        limit, rest_limit = (
            float(np.exp(values.mean() + _QUANTILE * values.std(ddof=1)))
            for values in (largest, largest - exponent * size)
        )
        return cls(energy, forces, limit, Domain.fit(seen), len(rows), rest_limit, exponent)

    def limit(self, largest_force: float) -> float:
        """Uncertainty of an atom above which a structure is outside of the training data, eV/Å.

        The lower of ``forces_limit`` and ``rest_limit`` · (1 + F)^``forces_exponent``.

        Args:
            largest_force: F, the largest root mean square of the components of the force on an atom, eV/Å.
        """
        return min(self.forces_limit, self.rest_limit * (1.0 + largest_force / _SOFT) ** self.forces_exponent)

    def to_json(self) -> dict[str, Any]:
        """Plain values, element symbols for atomic numbers."""
        names = ("energy", "forces", "forces_limit", "frames")
        numbers = {name: getattr(self, name) for name in names}
        if np.isfinite(self.rest_limit):
            numbers |= {"rest_limit": self.rest_limit, "forces_exponent": self.forces_exponent}
        return {**numbers, **self.domain.to_json()}

    @classmethod
    def from_json(cls, values: Any) -> Calibration:
        """Return the calibration that :meth:`to_json` wrote.

        Raises:
            PHLError: For anything else.
        """
        try:
            numbers = {name: float(values[name]) for name in ("energy", "forces", "forces_limit")}
            numbers |= {n: float(values[n]) for n in ("rest_limit", "forces_exponent") if n in values}
            return cls(**numbers, domain=Domain.from_json(values), frames=int(values.get("frames", 0)))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = str(error) if isinstance(error, PHLError) else f"{type(error).__name__} {error}"
            raise PHLError(f"the calibration of a committee is broken ({reason})") from None


def largest_on_an_atom(forces: Array) -> float:
    """Return the largest root mean square over an atom's components of ``(n, 3)`` forces or their uncertainties."""
    return float(np.sqrt(np.mean(np.square(forces), axis=1)).max())


def _factor(errors: Array, spreads: Array) -> float:
    known = spreads > _ZERO
    if not known.any():
        raise PHLError("the members of the committee do not differ: there is no spread to calibrate")
    return float(np.quantile(np.abs(errors[known]) / spreads[known], ONE_SIGMA))
