"""Structures: frames, batches, neighbour lists, and the types every other subpackage speaks in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phl_ase.lazy import lazy_exports

if TYPE_CHECKING:
    from phl_ase.structures.atoms import atoms_from_frame, charge_and_multiplicity, frame_from_atoms
    from phl_ase.structures.batch import Batch, Labels, Neighbours, Predictions, to_dense, to_flat
    from phl_ase.structures.blocks import (
        BlockedNeighbours,
        blocks_pay,
        in_blocks,
        in_faster_form,
    )
    from phl_ase.structures.contracts import Potential, energies_of, predicted, require_known_elements, symbols_of
    from phl_ase.structures.frame import Frame
    from phl_ase.structures.label import Label, labels, register_label
    from phl_ase.structures.neighbours import neighbour_list
    from phl_ase.structures.packing import PackedFrames, collate

__all__ = [
    "Batch",
    "BlockedNeighbours",
    "Frame",
    "Label",
    "Labels",
    "Neighbours",
    "PackedFrames",
    "Potential",
    "Predictions",
    "atoms_from_frame",
    "blocks_pay",
    "charge_and_multiplicity",
    "collate",
    "energies_of",
    "frame_from_atoms",
    "in_blocks",
    "in_faster_form",
    "labels",
    "neighbour_list",
    "predicted",
    "register_label",
    "require_known_elements",
    "symbols_of",
    "to_dense",
    "to_flat",
]

_HOMES = {
    "atoms": ("atoms_from_frame", "charge_and_multiplicity", "frame_from_atoms"),
    "batch": ("Batch", "Labels", "Neighbours", "Predictions", "to_dense", "to_flat"),
    "blocks": ("BlockedNeighbours", "blocks_pay", "in_blocks", "in_faster_form"),
    "contracts": ("Potential", "energies_of", "predicted", "require_known_elements", "symbols_of"),
    "frame": ("Frame",),
    "label": ("Label", "labels", "register_label"),
    "neighbours": ("neighbour_list",),
    "packing": ("PackedFrames", "collate"),
}

__getattr__ = lazy_exports(__name__, _HOMES)
