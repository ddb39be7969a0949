"""Committees: the mean of models of the same surface, and each member beside the others for their spread."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from phl_ase.errors import PHLError
from phl_ase.potentials.calibration import Calibration
from phl_ase.potentials.combine import Combination
from phl_ase.potentials.stacked import side_by_side, stacked
from phl_ase.structures import Batch, Potential

FEW_BYTES = 1024
"""Bytes of one number for each ordered pair of a batch (128 pairs in float64, 256 in float32) up to which a processor
takes members side by side: three take 0.6 of the time of one after the other at 6 atoms, as long at 12."""

_MUST_AGREE = ("level_of_theory", "energy_reference")


class Committee(Combination):
    """The mean of models of the same surface. How far its members disagree is a measure of how far to trust it.

    Args:
        members: One or more potentials of the same species, level of theory and energy reference (the last two where
            a member says them: as an attribute, or in the ``provenance`` of its card).
        calibration: What its spread means, from frames that no member has seen.
        provenance: What a card says of it as a whole.

    Raises:
        PHLError: For no members, or members that do not agree.
    """

    def __init__(
        self,
        members: Iterable[Potential],
        calibration: Calibration | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(members)
        _check_agreement("species", [tuple(m.species) for m in self.members])
        _check_agreement("takes_charge", [m.takes_charge for m in self.members])
        for name in _MUST_AGREE:
            given = [getattr(m, "provenance", None) for m in self.members]
            cards = [card if isinstance(card, Mapping) else {} for card in given]
            values = [getattr(m, name, None) or card.get(name) for m, card in zip(self.members, cards, strict=True)]
            _check_agreement(name, [value for value in values if value])
        self.takes_charge = self.members[0].takes_charge
        self.calibration = calibration
        self.provenance = dict(provenance or {})
        self.together: Potential | None = None

    def stack(self) -> Committee:
        """Make ready for evaluation alone: members of one architecture are evaluated side by side where that is faster.

        The weights are copied: they must not change any more.

        Returns:
            Itself.
        """
        self.together = stacked(list(self.members))
        return self

    def __getstate__(self) -> dict[str, Any]:
        # the weights of a copy may change
        modules = {name: module for name, module in self._modules.items() if name != "together"}
        return {**self.__dict__, "_modules": modules, "together": None}

    def suits(self, batch: Batch) -> bool:
        """Return whether a batch is evaluated with the members side by side."""
        if self.together is None:
            return False
        # a GPU waits for operations at sizes where a processor has long been busy
        pairs = sum(len(pairs.i) for pairs in batch.neighbours.values())
        return batch.positions.device.type != "cpu" or pairs * batch.positions.itemsize <= FEW_BYTES

    def energies(self, batch: Batch) -> Float[Tensor, "members systems"]:
        """Return the energy of each member, eV, float64."""
        if self.together is None or not self.suits(batch):
            return super().energies(batch)
        energies = self.together(side_by_side(batch, len(self.members)))
        return energies.reshape(len(self.members), batch.n_systems)

    def forward(self, batch: Batch) -> Float[Tensor, " systems"]:
        """Return mean energies in eV, float64."""
        return self.energies(batch).mean(0)


def _check_agreement(name: str, values: Sequence[object]) -> None:
    if any(value != values[0] for value in values):
        listed = ", ".join(dict.fromkeys(map(str, values)))
        raise PHLError(f"members of a committee differ in {name}: {listed}; expected models of the same surface")
