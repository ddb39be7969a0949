"""Organic reactions of 6 to 23 atoms: GFN2-xTB data from Grambow's TSs, models, and their TSs against published ones.

Guesses and reference values: ``irc_comparison`` of patonlab/pyQRC, a sample of doi:10.1038/s41597-020-0460-4.
The reactions with reference values test, all others train:

    python workflows/grambow.py pick grambow_ts_guesses.xyz grambow_ts_reference.csv --out runs/grambow
    cd runs/grambow
    made="--with tblite --hvp 1 --samples 1 --displacements 0.05,0.1,0.2,0.3 --workers 2"
    phl reactions train.xyz $made -o train.h5 --json train.json
    phl reactions study.xyz $made --hessian differences -o study.h5 --json study.json
    phl reactions test.xyz $made --hessian differences -o test.h5 --json test.json
    phl data merge train.h5 study.h5 -o all.h5
    python ../../workflows/grambow.py card all.h5 train.json study.json --out sample
    phl train ../../workflows/grambow.toml -o model --members 3 --processes 2
    python ../../workflows/grambow.py bundle model/committee.safetensors test.h5
    phl evaluate model/committee.safetensors test.h5
    phl validate frequencies model/committee.safetensors test.h5
    phl validate ts model/committee.safetensors test.h5
    phl ts reference_guesses.xyz --with tblite -o tblite
    phl ts reference_guesses.xyz --with model/committee.safetensors -o model
    python ../../workflows/grambow.py wavenumbers reference.csv tblite.json model.json --json grambow.json

``phl reactions`` goes on where it was stopped, and says what failed and why. The 60 reactions of ``study.xyz`` get full
Hessians, for ``workflows/study_organic.toml``; they train models as well.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch
from ase.data import chemical_symbols
from ase.formula import Formula
from scipy.stats import bootstrap

from phl_ase.calculator import PHLCalculator
from phl_ase.datasets import open_dataset, write_dataset
from phl_ase.errors import PHLError
from phl_ase.potentials import load_model, read_card, save_committee
from phl_ase.potentials.cards import BUNDLED_FOLDER, members_of
from phl_ase.results import provenance, write_json
from phl_ase.scoring import ERRORS, frame_errors, mean_errors
from phl_ase.structures import atoms_from_frame
from phl_ase.trained_on import trained_on
from phl_ase.validators.uncertainty import validate_uncertainty

TESTED = 16
"""Reactions whose data test models; the others with reference values are left alone."""

STUDIED = 60
"""Reactions that train and get full Hessians."""

SIZES = range(8, 17)
"""Atoms of the reactions that test and of those that get full Hessians."""

SAMPLED = 10
"""Reactions of the sample that the card comes with: less than 1 MB."""

SAME = 0.5
"""Ratio of imaginary wavenumbers below which, or above whose inverse, another TS was found."""


def pick(guesses: Path, reference: Path, out: Path) -> None:
    """Write the guesses that train, that test, and all with reference values."""
    published = set(published_wavenumbers(reference))
    frames = ase.io.read(guesses, ":")
    for atoms in frames:
        atoms.calc = None
    train = [atoms for atoms in frames if atoms.info["reaction"] not in published]
    test = [atoms for atoms in frames if atoms.info["reaction"] in published]
    out.mkdir(parents=True, exist_ok=True)
    ase.io.write(out / "reference_guesses.xyz", test)
    shutil.copy(reference, out / "reference.csv")
    parts = {"train": train, "test": test}
    for part in parts.values():
        random.Random(0).shuffle(part)
    parts["test"] = [atoms for atoms in test if len(atoms) in SIZES][:TESTED]
    parts["study"] = [atoms for atoms in train if len(atoms) in SIZES][:STUDIED]
    studied = {atoms.info["reaction"] for atoms in parts["study"]}
    parts["train"] = [atoms for atoms in train if atoms.info["reaction"] not in studied]
    for name, part in parts.items():
        ase.io.write(out / f"{name}.xyz", part)
        print(f"{name}.xyz: {len(part)} reactions")


def card(source: Path, results: list[Path], out: Path) -> None:
    """Write a data card, made from data and results, and a sample of the data."""
    rows = [row for path in results for row in json.loads(path.read_text(encoding="utf-8"))["reactions"]]
    outcomes = Counter(row["outcome"] for row in rows)
    with open_dataset(source) as data:
        frames, meta, digest = list(data), data.meta, data.content_hash()
    kinds = Counter(frame.kind for frame in frames)
    forces = np.concatenate([frame.forces.ravel() for frame in frames])
    formulas = {
        Formula.from_list(sorted(chemical_symbols[z] for z in frame.numbers)).format("hill") for frame in frames
    }
    names = sorted({frame.reaction for frame in frames})
    chosen = set(random.Random(0).sample(names, SAMPLED))
    out.mkdir(parents=True, exist_ok=True)
    target = out / f"{NAME}.h5"
    write_dataset(target, [frame for frame in frames if frame.reaction in chosen], meta, compression=True)
    text = CARD.format(
        guesses=len(rows),
        reactions=len(names),
        frames=len(frames),
        sampled_reactions=SAMPLED,
        sampled=sum(frame.reaction in chosen for frame in frames),
        gradients=np.mean([row["gradients"] for row in rows]),
        seconds=np.mean([row["seconds"] for row in rows]),
        smallest=min(map(len, frames)),
        largest=max(map(len, frames)),
        typical=np.median([len(frame) for frame in frames]),
        formulas=len(formulas),
        force=np.sqrt(np.mean(forces**2)),
        strongest=np.abs(forces).max(),
        kinds="\n".join(f"| {kind} | {count} |" for kind, count in kinds.most_common()),
        outcomes="\n".join(f"| {name} | {count} |" for name, count in outcomes.most_common()),
        digest=digest,
    )
    (out / f"{NAME}.md").write_text(text, encoding="utf-8")
    print(text)


def bundle(committee: Path, test: Path, target: Path) -> None:
    """Write a committee into the package, its card with its purpose and its errors on reactions that it never saw."""
    made = read_card(committee)
    members = [load_model(f"{committee}#{k}", dtype=torch.float32) for k in range(1, (members_of(made) or 1) + 1)]
    calculator = PHLCalculator(str(committee), device="cpu", out_of_domain="ignore")
    with open_dataset(test) as data:
        frames, digest = list(data), data.content_hash()
    seen = trained_on(calculator).seen(frames, valid=True).tolist()
    frames = [frame for frame, known in zip(frames, seen, strict=True) if not known]
    predictions = calculator.evaluate([atoms_from_frame(f) for f in frames], ("energy", "forces", "hessian"))
    report = validate_uncertainty(frames, predictions, system=test.name, potential=target.stem)
    errors = mean_errors(frames, frame_errors(frames, predictions))
    card = {
        **made["provenance"],
        "data": f"{made['provenance']['data']} of workflows/grambow.py",
        "name": target.stem,
        "intended_use": USE,
        "test_errors": errors,
        "error_units": {name: kind.unit for name, kind in ERRORS.items()},
        "test_data": {"made_by": "workflows/grambow.py", "frames": len(frames), "data_hash": digest},
        "uncertainty": {metric.name: metric.value for metric in report.metrics},
    }
    path = save_committee(target, members, card, calculator.potential.calibration)
    print(json.dumps({"errors": errors["all"], **card["uncertainty"]}, indent=1, ensure_ascii=False))
    print(f"{path.name}, {path.stat().st_size / 2**20:.1f} MiB")


USE = (
    "Organic molecules of H, C, N and O with up to about 20 atoms and their reactions, at the level of GFN2-xTB: "
    "minima, transition states, reaction paths, hot samples; neutral closed shells. Learnt from 1,200 reactions, it is "
    "less accurate than GFN2-xTB itself, which takes milliseconds a gradient. What it has beyond that are derivatives "
    "of any order, batches, GPUs, and weights to fine-tune from. results['in_domain'] and a warning say where a "
    "structure is far from what it saw."
)

NAME = "organic_gfn2xtb_sample"
CARD = """# organic-gfn2xtb-sample

{sampled} frames of {sampled_reactions} organic reactions of H, C, N and O, as `phl reactions` finds and labels them
with GFN2-xTB (tblite): energy, forces and one random Hessian-vector product (Rademacher probe, central differences of
gradients). They are drawn at random from the {frames:,} frames of {reactions:,} reactions that `workflows/grambow.py`
makes; the whole set is too large to come with the package.

    from phl_ase.datasets import open_dataset
    dataset = open_dataset("organic-gfn2xtb-sample")

The TS guesses are a random sample of Grambow's reactions (doi:10.1038/s41597-020-0460-4), from patonlab/pyQRC (MIT
licence). Reactions whose published TS serves as a test are not among them.

## The whole set

{guesses:,} guesses, {gradients:.0f} gradients and {seconds:.1f} s each; {smallest} to {largest} atoms, half of the
frames with {typical:.0f} or more; {formulas} different formulas. Root mean square of the force components
{force:.2f} eV/Å, largest {strongest:.0f} eV/Å.

| outcome | guesses |
|---|---|
{outcomes}

`no path`: the TS was found, but an end of its path rests on a saddle point or does not relax; the TS and what lies
around it are in the data. `no transition state`: nothing of it is.

| kind of frame | frames |
|---|---|
{kinds}

`irc`: points of the reaction path; `nms`: normal-mode samples at TS and ends; `displaced`: at random, by 0.05 to 0.3 Å
(root mean square). Energies are total energies of GFN2-xTB, closed shell, neutral: at TSs with diradical character that
is another surface than nature's.

Content hash (sha256) of the whole set: `{digest}`
"""


def published_wavenumbers(reference: Path) -> dict[str, float]:
    """Reaction -> imaginary wavenumber of its TS, cm⁻¹, negative."""
    with reference.open(encoding="utf-8") as file:
        return {row["reaction"]: float(row["imaginary_wavenumber_cm-1"]) for row in csv.DictReader(file)}


def compared(searches: list[dict[str, Any]], published: list[float]) -> dict[str, Any]:
    """What the searches of one method found, beside the published TSs in the same order.

    Searches that find no TS have no error: their number stands beside the errors.
    """
    if len(searches) != len(published):
        raise PHLError(f"{len(searches)} searches for {len(published)} published wavenumbers; expected as many")
    errors, like = [], []
    for search, wavenumber in zip(searches, published, strict=True):
        if search["outcome"] != "converged":
            continue
        errors.append(abs(search["wavenumbers_cm-1"][0] - wavenumber))
        like.append(SAME < search["wavenumbers_cm-1"][0] / wavenumber < 1 / SAME)
    result: dict[str, Any] = {"searches": len(searches), "found": len(errors), "alike": int(np.sum(like))}
    if len(errors) > 1:
        limits = bootstrap((errors,), np.median, rng=0, method="percentile").confidence_interval
        result |= {"median_error_cm-1": float(np.median(errors)), "interval": [float(limits.low), float(limits.high)]}
    return result


def wavenumbers(reference: Path, files: list[Path], target: Path | None) -> None:
    """Show and keep a line for each method."""
    published = list(published_wavenumbers(reference).values())
    rows = {}
    print(f"{'method':28} {'found':>9} {'alike':>6}   median error / cm⁻¹")
    for file in files:
        row = compared(json.loads(file.read_text(encoding="utf-8"))["searches"], published)
        rows[file.stem] = row
        shown = "-"
        if "interval" in row:
            shown = f"{row['median_error_cm-1']:.0f} [{row['interval'][0]:.0f}, {row['interval'][1]:.0f}]"
        print(f"{file.stem:28} {row['found']:4}/{row['searches']:4} {row['alike']:6}   {shown}")
    if target is not None:
        write_json(target, {"command": __doc__, "rows": rows, "provenance": provenance()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    picked, carded, bundled, table = (commands.add_parser(name) for name in ("pick", "card", "bundle", "wavenumbers"))
    picked.add_argument("guesses", type=Path)
    picked.add_argument("reference", type=Path)
    picked.add_argument("--out", type=Path, required=True)
    carded.add_argument("data", type=Path)
    carded.add_argument("results", type=Path, nargs="+", help="JSON files of phl reactions")
    carded.add_argument("--out", type=Path, required=True)
    bundled.add_argument("committee", type=Path)
    bundled.add_argument("test", type=Path)
    bundled.add_argument("--target", type=Path, default=BUNDLED_FOLDER / "organic.safetensors")
    table.add_argument("reference", type=Path)
    table.add_argument("searches", type=Path, nargs="+", help="JSON files of phl ts, searches in the reference's order")
    table.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.command == "pick":
        pick(given.guesses, given.reference, given.out)
    elif given.command == "card":
        card(given.data, given.results, given.out)
    elif given.command == "bundle":
        bundle(given.committee, given.test, given.target)
    else:
        wavenumbers(given.reference, given.searches, given.json)


if __name__ == "__main__":
    main()
