"""``phl evaluate``: errors of a model against the labels of a data set, by kind of geometry."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phl_ase.cli import options as opt
from phl_ase.cli.inputs import check_inputs
from phl_ase.cli.options import option
from phl_ase.cli.output import check_outputs, save_json, save_plot
from phl_ase.errors import DomainWarning, PHLError, unknown
from phl_ase.tables import text_table

if TYPE_CHECKING:
    from phl_ase.curvature import Curvature
    from phl_ase.datasets import BaseDataset
    from phl_ase.results import Report
    from phl_ase.scoring import LabelErrors
    from phl_ase.structures import Frame
    from phl_ase.types import ASECalculator
    from phl_ase.validators import ScoredFrames
    from phl_ase.validators.uncertainty import UncertaintySamples

_PARTS = ("all", "train", "valid", "test")
_ATOMS_TOGETHER = 128
_LOOKED_UP = 512  # frames at a time
_DERIVATIVES = ("energy", "forces", "hessian")
_HELD_OUT = ("valid", "test")  # parts of a split that are for structures that a model has not seen


def evaluate(
    model: opt.Model,
    dataset: opt.DatasetName,
    json: opt.JsonFile = None,
    plot: opt.PlotFile = None,
    reliability: Annotated[
        Path | None, option("--reliability FILE", "Draw a committee's uncertainty against its errors.")
    ] = None,
    energies: Annotated[
        str, option("absolute|relative", "Compare energies as they are, or within a composition.")
    ] = "absolute",
    split: Annotated[
        str | None,
        option(
            "NAME|FILE|MODEL",
            "Take part of a split: random, stationary, by-reaction, a run's split.json, or a bundled model's own.",
        ),
    ] = None,
    part: Annotated[str, option("", "Part of the split: train, valid, test or all.")] = "test",
    split_seed: Annotated[int, option("", "Seed of a split given by name.", min=0)] = 0,
    include_trained: Annotated[
        bool, option("--include-trained", "Score the frames of a test part that the model was trained on, too.")
    ] = False,
    max_atoms: Annotated[int | None, option("", "Leave systems of more atoms out.", min=1)] = None,
    key: opt.Keys = None,
    device: opt.Device = "auto",
    dtype: opt.Dtype = "float64",
    trust: opt.Trust = False,
) -> None:
    """Score energies (meV/atom), forces (meV/Å), Hessians and HVPs (eV/Å²) by kind of geometry.

    'near' are stationary points and mild samples (up to 600 K), 'far' are IRC points, randomly displaced structures and
    hot samples. Eigenvalues are without translations and rotations; u·H·u is the curvature along a recorded probe. Of a
    test part, the structures that the model was trained on are left out, whatever file they are in. A method of another
    level of theory counts energy from another zero: compare its relative energies, within each composition. Of a
    committee, its uncertainties are compared with its errors.

    phl evaluate default reactions-wb97xd-631gd --split default --reliability reliability.png

    phl evaluate run/best.safetensors reactions-wb97xd-631gd --split run/split.json
    phl evaluate run/best.safetensors mine.extxyz --key energy=dft_energy --key forces=dft_forces
    phl evaluate tblite reactions-wb97xd-631gd --energies relative --json errors.json --plot errors.png
    """
    check_outputs(json, plot)
    check_outputs(None, reliability)
    check_inputs(methods=[model], files=[dataset], trust=trust)
    from phl_ase.curvature import curvature_of
    from phl_ase.datasets import open_dataset
    from phl_ase.reference import level_of_theory
    from phl_ase.resolver import resolve_calculator
    from phl_ase.results import Metric
    from phl_ase.scoring import ENERGIES, STATIONARY, LabelErrors
    from phl_ase.structures.label import label_of
    from phl_ase.validators import accuracy_report
    from phl_ase.validators.uncertainty import UncertaintySamples

    if energies not in ENERGIES:
        raise unknown("way to compare energies", energies, ENERGIES)
    with open_dataset(dataset, keys=opt.pairs(key)) as opened:
        indices = [
            i for i in _chosen(opened, split, part, split_seed) if max_atoms is None or opened.sizes[i] <= max_atoms
        ]
        if not indices:
            raise PHLError(f"no frame of {opened.name} is left to evaluate: choose another part or more atoms")
        labels = opened.meta.level_of_theory
        calculator = resolve_calculator(model, device=device, dtype=dtype, trust=trust)
        if reliability is not None and "forces_std" not in calculator.implemented_properties:
            raise PHLError(f"{model} states no uncertainty; --reliability takes a committee")
        drop = part in _HELD_OUT and split is not None and not include_trained
        scored, said, seen = _unseen(opened, indices, calculator, model, part, leave_out=drop)
        if said:
            typer.echo(said + "\n")
        samples, others, curvature = UncertaintySamples(), LabelErrors(), curvature_of(calculator)
        report = accuracy_report(
            _scored(opened, scored, calculator, curvature, model, samples, others),
            system=opened.name,
            potential=model,
            # of the whole data set, whatever part is evaluated; one at a time, for their Hessians
            stationary=(opened[index] for index, kind in enumerate(opened.kinds) if kind in STATIONARY),
            energies=energies,
            details={
                "data_hash": opened.content_hash(),
                "frames": len(scored),
                "split": {"name": split, "part": part, "seed": split_seed} if split else None,
                "trained_on": seen,
                "hessians": curvature.source,
            },
        )
    typer.echo(_shown(report))
    if means := others.means():
        rows = [(name, mae, rmse, label_of(name).unit, n) for name, (mae, rmse, n) in means.items()]
        typer.echo("\n" + text_table(("label", "MAE", "RMSE", "unit", "frames"), rows))
        metrics = [Metric(f"{name} MAE", mae, unit) for name, mae, _, unit, _ in rows]
        metrics += [Metric(f"{name} RMSE", rmse, unit) for name, _, rmse, unit, _ in rows]
        report = dataclasses.replace(report, metrics=(*report.metrics, *metrics))
    card = getattr(getattr(calculator, "potential", None), "provenance", None) or {}
    own = card.get("level_of_theory") or level_of_theory(calculator)
    if not labels or own == labels:
        typer.echo(f"labels: {labels or 'level of theory unknown'}")
    else:
        typer.echo(f"labels: {labels}; {model}: {own}: errors include the difference of the two methods")
    stated = _uncertainty(samples, report)
    save_json(json, [report, *stated] if stated else report)
    save_plot(plot, "accuracy", [report])
    save_plot(reliability, "uncertainty", stated)


def _shown(report: Report) -> str:
    """Return means by kind of geometry with their intervals, and what a reader must know of them."""
    import numpy as np

    from phl_ase.scoring import ALL_ERRORS, HVP_ERRORS

    arrays = report.arrays
    compared = [name for name in ALL_ERRORS if np.any(arrays.get(f"{name}_by_group_frames", 0))]
    columns = [
        [
            f"{mean:.3g} [{low:.3g}, {high:.3g}]" if low == low else None if mean != mean else f"{mean:.3g}"
            for mean, low, high in zip(*(arrays[f"{name}_by_group{end}"] for end in ("", "_low", "_high")), strict=True)
        ]
        for name in compared
    ]
    kinds = [ALL_ERRORS[name] for name in compared]
    headings = (
        "geometries",
        "frames",
        *(f"{kind.title} / {f'({kind.unit})' if '/' in kind.unit else kind.unit}" for kind in kinds),
    )
    rows = list(zip(arrays["groups"].tolist(), arrays["group_frames"].tolist(), *columns, strict=True))
    facts = report.provenance
    lines = [text_table(headings, rows), f"in brackets: {facts['intervals']}", f"energies: {facts['energies']}"]
    if {"hessian", *HVP_ERRORS} & set(compared):
        lines.append(
            f"Hessians and HVPs: {facts['hessians']}" if "hvp" in compared else f"Hessians: {facts['hessians']}"
        )
    explosion = [report.sentence] if report.outcome != "scored" else []
    return "\n".join([*lines, *explosion, *(f"note: {note}" for note in facts["notes"])])


def _unseen(
    dataset: BaseDataset, indices: Sequence[int], calculator: ASECalculator, model: str, part: str, *, leave_out: bool
) -> tuple[Sequence[int], str, dict[str, Any] | None]:
    """Return the frames to score, what is said of those that the model was trained on, and its numbers.

    Raises:
        PHLError: When these are to be left out, and no frame is left.
    """
    import numpy as np

    from phl_ase.trained_on import trained_on

    known = trained_on(calculator)
    if not known:  # a method
        return indices, "", None
    # what chose the model is no test of it either
    chosen = leave_out and part == "test"
    parts = [indices[k : k + _LOOKED_UP] for k in range(0, len(indices), _LOOKED_UP)]
    found = np.concatenate([known.seen(dataset.frames(some), valid=chosen) for some in parts])
    number, total = int(found.sum()), len(indices)
    how = "was trained on or chosen by" if chosen else "was trained on"
    facts = {"seen": number, "of": total, "left_out": leave_out, "recorded": known.known}
    if not known.known:
        but = f", but for {number} of these {total} frames" if number else ""
        return indices, f"what {model} was trained on is not recorded{but}: these may be training errors", facts
    if not number:
        return indices, f"{model} {how} none of these {total} frames", facts
    if not leave_out:
        said = f"{model} {how} {number} of these {total} frames: errors on new structures are larger"
        return indices, said, facts
    if number == total:
        raise PHLError(
            f"{model} {how} each of these {total} frames: nothing is left to test it on; choose another split or part, "
            "or give --include-trained for its training errors"
        )
    left = [index for index, seen in zip(indices, found.tolist(), strict=True) if not seen]
    learnt = f"{model} was trained on{' or chosen by' if chosen else ''} the other {number}, or copies of them"
    said = f"{len(left)} of {total} frames are scored: {learnt}"
    return left, said, facts


def _chosen(dataset: BaseDataset, name: str | None, part: str, seed: int) -> Sequence[int]:
    if part not in _PARTS:
        raise unknown("part of a split", part, _PARTS)
    if name is None or part == "all":
        return range(len(dataset))
    from phl_ase.datasets import Split, split
    from phl_ase.potentials.cards import bundled_models, read_card

    if Path(name).suffix == ".json":
        try:
            values = json.loads(Path(name).read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:
            raise PHLError(f"{name} cannot be read ({error}); expected the split.json of a run") from None
    elif name in bundled_models() or Path(name).suffix == ".safetensors":
        values = read_card(name)["provenance"].get("split")
    else:
        return getattr(split(dataset, name, seed), part)
    if not isinstance(values, dict):
        raise PHLError(f"{name} holds no split; expected the split.json of a run, or a model whose card has one")
    return getattr(Split.from_json(values).check(dataset), part)


def _uncertainty(samples: UncertaintySamples, accuracy: Report) -> list[Report]:
    """Return the report on the uncertainties of a potential that states them, shown; empty for others."""
    from phl_ase.validators.uncertainty import UNCERTAINTY_UNITS, uncertainty_report

    if not samples:
        return []
    details = {key: accuracy.provenance[key] for key in ("data_hash", "split")}
    report = uncertainty_report(samples, system=accuracy.system, potential=accuracy.potential, details=details)
    asked = {
        "within 1 std / %": "within 1 std",
        "within 2 std / %": "within 2 std",
        "error / std (68 %)": "scale",
        "rank correlation": "rank correlation",
        "miscalibration area": "miscalibration area",
        "RMSE": "RMSE",
        "mean std": "mean std",
    }
    rows = [
        (f"{q} / {UNCERTAINTY_UNITS[q]}", *(report.metric(f"{q} {name}").value for name in asked.values()))
        for q in UNCERTAINTY_UNITS
    ]
    typer.echo("\n" + text_table(("uncertainty", *asked), rows))
    said = {
        "frames in domain": "{:.1f} % of the frames are in domain",
        "frames of large force errors": "{} frames have force errors above three times the median",
        "… of them noticed": "{:.1f} % of these are said to be out of domain",
    }
    noticed = [said[m.name].format(m.value) for m in report.metrics if m.name in said]
    typer.echo("\n".join(["of a normal distribution: 68.3 %, 95.4 %, 1, and an area of 0", *noticed]))
    return [report]


def _scored(
    dataset: BaseDataset,
    indices: Sequence[int],
    calculator: ASECalculator,
    curvature: Curvature,
    name: str,
    samples: UncertaintySamples,
    others: LabelErrors,
) -> ScoredFrames:
    """Return errors of some frames, never holding more than one batch of Hessians.

    Uncertainties go to the samples, errors of labels that other packages declare to the others.
    """
    import warnings

    import numpy as np

    from phl_ase.progress import Progress
    from phl_ase.validators import score_batches

    def batches() -> Iterator[tuple[list[Frame], list[dict[str, Any]]]]:
        for chosen in _batches(indices, dataset.sizes):
            batch = dataset.frames(chosen)
            with warnings.catch_warnings():  # the report says how many there are
                warnings.simplefilter("ignore", DomainWarning)
                predictions = _predictions(batch, calculator, curvature, name)
            samples.add(batch, predictions)
            others.add(batch, predictions)
            yield batch, predictions
            for _ in batch:
                progress.advance()

    with Progress("evaluate", len(indices)) as progress:
        scored = score_batches(batches())
    if all(np.isnan(values).all() for values in scored.errors.values()) and not others.means():
        left = ", ".join(dataset.keys_not_read)
        hint = left and f"; keys that were not read: {left}: a label under one of them is read by --key LABEL=KEY"
        raise PHLError(
            f"no frame of {dataset.name} carries energy, forces or a Hessian: there is nothing to compare{hint}"
        )
    return scored


def _batches(indices: Sequence[int], sizes: Any) -> Iterator[list[int]]:
    """Yield frames of like size together, few atoms at a time; a large one alone."""
    batch: list[int] = []
    for index in sorted(indices, key=lambda i: sizes[i]):
        if batch and (len(batch) + 1) * sizes[index] > _ATOMS_TOGETHER:
            yield batch
            batch = []
        batch.append(int(index))
    if batch:
        yield batch


def _predictions(
    frames: Sequence[Frame], calculator: ASECalculator, curvature: Curvature, name: str
) -> list[dict[str, Any]]:
    """Return what a calculator gives for frames: in one batched pass where it can, frame by frame otherwise."""
    import numpy as np

    from phl_ase.structures import atoms_from_frame

    evaluate_all = getattr(calculator, "evaluate", None)
    batched = evaluate_all is not None
    known = (*_DERIVATIVES, "hvp", *getattr(getattr(calculator, "potential", None), "predicts", ()))
    needs = [q for q in known if any(frame.label(q) is not None for frame in frames)]
    if not needs:
        return [{} for _ in frames]
    if not batched and len(frames) > 1:
        return [_predictions([frame], calculator, curvature, name)[0] for frame in frames]
    structures = [atoms_from_frame(frame) for frame in frames]
    wanted = [q for q in needs if q != "hvp"]
    rows: list[dict[str, Any]]
    try:
        if evaluate_all is not None:
            rows = list(evaluate_all(structures, wanted)) if wanted else [{} for _ in frames]
        else:
            (atoms,) = structures
            atoms.calc = calculator
            ask: dict[str, Callable[[], Any]] = {
                "energy": atoms.get_potential_energy,
                "forces": lambda: atoms.get_forces(apply_constraint=False),
                "hessian": lambda: curvature.hessian(atoms),
            }
            rows = [{quantity: ask[quantity]() for quantity in wanted}]
        for frame, atoms, row in zip(frames, structures, rows, strict=True):
            if frame.probes is None:
                continue
            if "hessian" in row:  # it is there anyway
                flat = frame.probes.reshape(len(frame.probes), -1)
                row["hvp"] = (flat @ np.asarray(row["hessian"], dtype=float)).reshape(frame.probes.shape)
            else:
                row["hvp"] = curvature.hvp(frame.probes, atoms)
        return rows
    except PHLError as error:
        if not batched:
            raise
        if len(frames) == 1:
            raise type(error)(f"frame {frames[0].frame_id}: {error}") from None
        # one by one: the message then names the frame of the data set and not its place in the batch
        return [_predictions([frame], calculator, curvature, name)[0] for frame in frames]
    except Exception as error:  # a method may raise anything for a structure that it was not made for
        if batched:
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        what = f"frame {frames[0].frame_id}, {structures[0].symbols}"
        raise PHLError(f"{name} cannot evaluate {what} ({reason})") from error
