"""``phl evaluate``: errors of a model against the labels of a data set, by kind of geometry."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phl_ase.cli.options import Device, Dtype, Model, Trust
from phl_ase.cli.output import check_target, save_json, table
from phl_ase.errors import PHLError, unknown

if TYPE_CHECKING:
    from phl_ase.datasets import BaseDataset
    from phl_ase.structures import Frame

_PARTS = ("all", "train", "valid", "test")
_ATOMS_TOGETHER = 128
_DERIVATIVES = ("energy", "forces", "hessian")

Predict = Callable[[Sequence["Frame"]], list[dict[str, Any]]]


def evaluate(
    model: Model,
    dataset: Annotated[str, typer.Argument(help="A bundled name, our HDF5, or anything ase.io reads.")],
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the errors as JSON.")] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE", help="Take part of a split: random, stationary, by-reaction, or a run's split.json."
        ),
    ] = None,
    part: Annotated[str, typer.Option(help="Part of the split: train, valid, test or all.")] = "test",
    split_seed: Annotated[int, typer.Option(min=0, help="Seed of a split given by name.")] = 0,
    max_atoms: Annotated[int | None, typer.Option(min=1, help="Leave systems of more atoms out.")] = None,
    device: Device = "auto",
    dtype: Dtype = "float64",
    trust: Trust = False,
) -> None:
    """Mean absolute errors of energies (meV/atom), forces (meV/Å) and Hessians (eV/Å²) by kind of geometry.

    'near' are stationary points and samples up to 600 K, 'far' are IRC points and hotter samples.

    phl evaluate run/best.safetensors reactions-wb97xd-631gd --split run/split.json
    phl evaluate emt slabs.extxyz --json errors.json
    """
    check_target(json, "JSON file")
    from phl_ase.datasets import open_dataset
    from phl_ase.resolver import resolve_calculator
    from phl_ase.results import provenance
    from phl_ase.scoring import ERRORS

    with open_dataset(dataset) as opened:
        indices = [
            i for i in _chosen(opened, split, part, split_seed) if max_atoms is None or opened.sizes[i] <= max_atoms
        ]
        if not indices:
            raise PHLError(f"no frame of {opened.name} is left to evaluate: choose another part or more atoms")
        calculator = resolve_calculator(model, device=device, dtype=dtype, trust=trust)
        errors = _errors(opened, indices, _predictor(calculator, model))
        facts = {"model": model, "data": opened.name, "data_hash": opened.content_hash(), "frames": len(indices)}
    units = {name: kind.unit for name, kind in ERRORS.items()}
    rows = [(group, values["frames"], *(values[name] for name in units)) for group, values in errors.items()]
    typer.echo(table(("geometries", "frames", *(f"{name} / {unit}" for name, unit in units.items())), rows))
    chosen = {"split": split, "part": part if split else "all", "split_seed": split_seed}
    save_json(json, {**facts, **chosen, "units": units, "errors": errors, "provenance": provenance()})


def _chosen(dataset: BaseDataset, name: str | None, part: str, seed: int) -> Sequence[int]:
    if part not in _PARTS:
        raise unknown("part of a split", part, _PARTS)
    if name is None or part == "all":
        return range(len(dataset))
    from phl_ase.datasets import split

    if Path(name).suffix == ".json":
        return getattr(_recorded(Path(name), dataset), part)
    return getattr(split(dataset, name, seed), part)


def _recorded(path: Path, dataset: BaseDataset) -> Any:
    import json

    from phl_ase.datasets import Split

    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PHLError(f"{path} cannot be read ({error}); expected the split.json of a run") from None
    if not isinstance(values, dict):
        raise PHLError(f"{path} holds no split; expected the split.json of a run")
    return Split.from_json(values).check(dataset)


def _errors(dataset: BaseDataset, indices: Sequence[int], predict: Predict) -> dict[str, dict[str, float]]:
    """Errors of every group of geometries, never holding more than one batch of Hessians."""
    import dataclasses

    import numpy as np

    from phl_ase.progress import Progress
    from phl_ase.scoring import frame_errors, mean_errors

    frames: list[Frame] = []
    parts = []
    with Progress("evaluate", len(indices)) as progress:
        for chosen in _batches(indices, dataset.sizes):
            batch = dataset.frames(chosen)
            parts.append(frame_errors(batch, predict(batch)))
            frames += [dataclasses.replace(frame, hessian=None, probes=None, products=None) for frame in batch]
            for _ in batch:
                progress.advance()
    if all(np.isnan(values).all() for part in parts for values in part.values()):
        raise PHLError(f"no frame of {dataset.name} carries energy, forces or a Hessian: there is nothing to compare")
    return mean_errors(frames, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def _batches(indices: Sequence[int], sizes: Any) -> Iterator[list[int]]:
    """Frames of like size together, few atoms at a time; a large one alone."""
    batch: list[int] = []
    for index in sorted(indices, key=lambda i: sizes[i]):
        if batch and (len(batch) + 1) * sizes[index] > _ATOMS_TOGETHER:
            yield batch
            batch = []
        batch.append(int(index))
    if batch:
        yield batch


def _predictor(calculator: Any, name: str) -> Predict:
    """How to ask a calculator: in one batched pass where it can, frame by frame otherwise."""
    from phl_ase.structures import atoms_from_frame

    def asked(frames: Sequence[Frame]) -> tuple[str, ...]:
        return tuple(q for q in _DERIVATIVES if any(getattr(frame, q) is not None for frame in frames))

    def batched(frames: Sequence[Frame]) -> list[dict[str, Any]]:
        needs = asked(frames)
        if not needs:
            return [{} for _ in frames]
        try:
            return list(calculator.evaluate([atoms_from_frame(f) for f in frames], needs))
        except PHLError as error:
            if len(frames) == 1:
                raise type(error)(f"frame {frames[0].frame_id}: {error}") from None
            # one by one: the message then names the frame of the data set and not its place in the batch
            return [batched([frame])[0] for frame in frames]

    def one_by_one(frames: Sequence[Frame]) -> list[dict[str, Any]]:
        return [_ask(calculator, name, frame, asked([frame])) for frame in frames]

    return batched if hasattr(calculator, "evaluate") else one_by_one


def _ask(calculator: Any, name: str, frame: Frame, quantities: Sequence[str]) -> dict[str, Any]:
    """What any ASE calculator gives for one frame; its Hessian by central differences where it has none of its own."""
    from phl_ase.structures import atoms_from_frame
    from phl_ase.vibrations import finite_difference_hessian

    atoms = atoms_from_frame(frame)
    atoms.calc = calculator
    ways: dict[str, Callable[[], Any]] = {
        "energy": atoms.get_potential_energy,
        "forces": lambda: atoms.get_forces(apply_constraint=False),
        "hessian": lambda: (
            calculator.get_hessian(atoms) if hasattr(calculator, "get_hessian") else finite_difference_hessian(atoms)
        ),
    }
    try:
        return {quantity: ways[quantity]() for quantity in quantities}
    except PHLError:
        raise
    except Exception as error:  # a method may raise anything for a structure that it was not made for
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise PHLError(f"{name} cannot evaluate frame {frame.frame_id}, {atoms.symbols} ({reason})") from error
