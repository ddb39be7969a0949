"""Statistics of the frames that are written into a data set: asymmetry, sum rules, duplicates, refusals."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from phl_ase.datasets.consistency import ROTATIONAL, rotational_residual
from phl_ase.datasets.schema import symmetrised
from phl_ase.datasets.summary import OUTLIERS
from phl_ase.hessians import asymmetry
from phl_ase.structures.frame import Frame

ROUNDING = 1e-4
"""Positions are the same when they are the same after rounding to this, Å."""
SUM_RULE = OUTLIERS["hessian_sum_rule"][1]
"""Largest sum over the atoms of a Hessian's row that breaks no rule, eV/Å²."""
LISTED = 50


class FrameStatistics:
    """Counts and extremes over frames, added one by one; a few numbers and 8 bytes a frame.

    Attributes:
        seen: Frames of the source.
        refused: Those that were not taken; in ``refusals`` the first of them, and why.
        asymmetric: Largest asymmetry of a Hessian that was averaged away, eV/Å², and its frame.
        sum_rule: Largest violation of the acoustic sum rule, eV/Å², and its frame; ``sum_rule_broken`` counts them.
        rotation: Largest residual of the rotational rule and its frame; ``rotation_broken`` counts them.
        places: Label -> the keys that it was found under, and how often.
    """

    def __init__(self) -> None:
        self.seen = 0
        self.refused = 0
        self.refusals: list[tuple[str, str]] = []
        self.asymmetric: tuple[float, str] = (0.0, "")
        self.sum_rule: tuple[float, str] = (0.0, "")
        self.sum_rule_broken = 0
        self.rotation: tuple[float, str] = (0.0, "")
        self.rotation_broken = 0
        self.places: dict[str, Counter[str]] = {}
        self._keys = array("Q")

    def refuse(self, name: str, reason: str) -> None:
        """Record a frame that was not taken."""
        self.refused += 1
        if len(self.refusals) < LISTED:
            self.refusals.append((name, " ".join(reason.split())[:300]))

    def symmetric(self, frame: Frame, name: str) -> Frame:
        """Return a frame with the asymmetry of its Hessian averaged away and recorded.

        Raises:
            PHLError: When it is too asymmetric to be noise.
        """
        found = symmetrised(frame, name)
        if found is not frame and frame.hessian is not None:
            self.asymmetric = max(self.asymmetric, (asymmetry(frame.hessian), name))
        return found

    def add(self, frame: Frame, name: str, found: Mapping[str, str]) -> None:
        """Count a frame that was taken."""
        for label, place in found.items():
            self.places.setdefault(label, Counter())[place] += 1
        if frame.hessian is not None:
            worst = float(np.abs(frame.hessian.reshape(3 * len(frame), -1, 3).sum(axis=1)).max())
            self.sum_rule = max(self.sum_rule, (worst, name))
            self.sum_rule_broken += worst > SUM_RULE
        if frame.hessian is not None and frame.forces is not None and not np.any(frame.pbc):
            residual = rotational_residual(frame.positions, frame.forces, frame.hessian)
            self.rotation = max(self.rotation, (residual, name))
            self.rotation_broken += residual > ROTATIONAL
        # + 0 turns −0 into 0
        rounded = np.round(np.concatenate([frame.cell, frame.positions]) / ROUNDING) + 0.0
        state = np.array([frame.charge, frame.multiplicity, *frame.pbc, *frame.numbers], dtype=np.int64)
        digest = hashlib.blake2b(state.tobytes() + rounded.tobytes(), digest_size=8)
        self._keys.append(int.from_bytes(digest.digest(), "little"))

    def duplicates(self) -> tuple[int, list[list[int]]]:
        """Return how many frames repeat an earlier one, and the first pairs (earlier, later) of frame numbers."""
        keys = np.frombuffer(self._keys, dtype=np.uint64)
        order = np.argsort(keys, kind="stable")
        again = keys[order][1:] == keys[order][:-1]
        pairs = np.stack([order[:-1][again], order[1:][again]], axis=1)
        first = pairs[np.argsort(pairs[:, 1], kind="stable")][:LISTED]
        return int(again.sum()), first.tolist()

    def to_json(self) -> dict[str, Any]:
        """Return everything counted, as values that JSON holds."""

        def rule(worst: tuple[float, str], broken: int, limit: float, unit: str) -> dict[str, Any]:
            return {"largest": worst[0], "frame": worst[1], "broken": broken, "limit": limit, "unit": unit}

        repeats, pairs = self.duplicates()
        return {
            "seen": self.seen,
            "refused": self.refused,
            "refusals": [{"frame": name, "reason": reason} for name, reason in self.refusals],
            "asymmetry_removed": {"largest": self.asymmetric[0], "frame": self.asymmetric[1], "unit": "eV/Å²"},
            "sum_rule": rule(self.sum_rule, self.sum_rule_broken, SUM_RULE, "eV/Å²"),
            "rotational_rule": rule(self.rotation, self.rotation_broken, ROTATIONAL, "1"),
            "duplicates": {"count": repeats, "pairs": pairs, "rounding": ROUNDING, "unit": "Å"},
            "keys": {label: dict(places) for label, places in sorted(self.places.items())},
        }

    def lines(self) -> Iterator[str]:
        """Yield the statistics for a reader, line by line."""
        if self.asymmetric[0]:
            yield "largest |H − Hᵀ| averaged away: {:.2g} eV/Å² ({})".format(*self.asymmetric)
        if "hessian" in self.places:
            worst, name = self.sum_rule
            yield (
                f"acoustic sum rule: {self.sum_rule_broken} Hessians break it by more than {SUM_RULE:g} eV/Å²; "
                f"largest sum {worst:.2g} eV/Å² ({name})"
            )
        if self.rotation[1]:
            worst, name = self.rotation
            yield (
                f"rotational rule H·(ω × x) = ω × ∇E: {self.rotation_broken} Hessians break it by more than "
                f"{100 * ROTATIONAL:g} %; largest {100 * worst:.2g} % ({name})"
            )
        repeats, pairs = self.duplicates()
        first = f", first {pairs[0][0]} and {pairs[0][1]}" if pairs else ""
        yield f"duplicates (same atoms, positions within {ROUNDING:g} Å): {repeats}{first}"
