"""The Potential protocol: the interface of every model, analytic surface, sum, committee and adapter."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol, runtime_checkable

from ase.data import chemical_symbols
from jaxtyping import Float
from torch import Tensor

from phl_ase.errors import PHLError
from phl_ase.structures.batch import Batch
from phl_ase.structures.label import label_of


@runtime_checkable
class Potential(Protocol):
    """Energy only: forces, stress, HVPs and Hessians come from ``phl_ase.derivatives`` for every potential.

    A potential that also predicts labels of another kind (see :func:`phl_ase.structures.register_label`) lists their
    names in ``predicts`` and has a method ``predict(batch, names)`` that returns those asked for by name:
    ``(systems, …)``, ``(atoms, …)``, ``(systems, dense, dense)``.

    Attributes:
        species: Atomic numbers it knows, ascending; empty when it takes any.
        cutoffs: Neighbour-list cutoffs it reads from a batch, Å.
        receptive_field: Distance beyond which atoms do not influence each other's energy, Å.
        derivative_modes: Which of ``"func"``, ``"batched"``, ``"loop"`` its second derivatives can be taken by,
            best first (``"func"``: torch.func transforms; ``"batched"``: vectorised reverse mode; ``"loop"``: one
            vector at a time).
        takes_charge: Whether energies depend on charge and multiplicity; a model that does not refuses charged
            systems.
    """

    species: tuple[int, ...]
    cutoffs: tuple[float, ...]
    receptive_field: float
    derivative_modes: tuple[str, ...]
    takes_charge: bool

    def __call__(self, batch: Batch) -> Float[Tensor, " systems"]:
        """Return energies in eV, differentiable three times in the batch's positions (and cell)."""
        ...


def require_known_elements(species: Collection[int], batch: Batch) -> None:
    """Check that a potential knows the elements of a batch: models look them up in tables that answer to any number.

    Args:
        species: Atomic numbers that the potential knows; empty where it takes any.
        batch: The systems.

    Raises:
        PHLError: For an element that it does not know.
    """
    if not species:
        return
    present = batch.elements_present()
    if present is None or present.issubset(species):  # None: asked before it was traced
        return
    raise PHLError(
        f"the structures have {symbols_of(sorted(present.difference(species)))}, which the model never saw; "
        f"it knows {symbols_of(species)}: use or train a model for these elements"
    )


def energies_of(potential: Potential, batch: Batch) -> Float[Tensor, " systems"]:
    """Return the energies of a batch, eV, checked to be of elements that the potential knows, one for each system.

    Raises:
        PHLError: For an element that the potential does not know, or anything but real numbers ``(systems,)``.
    """
    require_known_elements(potential.species, batch)
    energies = potential(batch)
    if isinstance(energies, Tensor) and energies.is_floating_point() and energies.shape == (batch.n_systems,):
        return energies
    got = f"{energies.dtype} of shape {tuple(energies.shape)}" if isinstance(energies, Tensor) else repr(type(energies))
    raise PHLError(
        f"{type(potential).__name__} returned {got}; expected a floating-point tensor with one energy for each system, "
        f"({batch.n_systems},): sum the energies of atoms by batch.system"
    )


def predicted(potential: Potential, batch: Batch, names: Iterable[str]) -> dict[str, Tensor]:
    """Return what a potential predicts of labels that other packages declare.

    Args:
        potential: One that lists them in ``predicts`` and has a method ``predict``.
        batch: The systems.
        names: The labels; without any, nothing is computed.

    Raises:
        PHLError: For a potential that does not predict one of them, or predicts it in another shape.
    """
    names = list(names)
    if not names:
        return {}
    for name in names:
        if name not in getattr(potential, "predicts", ()):
            raise PHLError(
                f"{type(potential).__name__} does not predict {name}; name it in its attribute predicts and return it "
                "from its method predict"
            )
    found: dict[str, Tensor] = potential.predict(batch, names)  # type: ignore[attr-defined]
    for name in names:
        label = label_of(name)
        shape = found[name].shape
        expected = (batch.n_systems, *label.shape) if label.per == "system" else (len(batch.numbers), *label.shape)
        if label.per != "pair" and shape != expected:
            raise PHLError(f"{type(potential).__name__} predicts {name} of shape {tuple(shape)}; expected {expected}")
    return {name: found[name] for name in names}


def symbols_of(numbers: Iterable[int]) -> str:
    """Return the chemical symbols of atomic numbers in one line; what is no element stays a number."""
    return ", ".join(chemical_symbols[z] if 0 < z < len(chemical_symbols) else str(z) for z in numbers)
