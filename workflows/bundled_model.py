"""Train the bundled model ``default``, a committee, and write its card: what it may be used for, and its errors.

python workflows/bundled_model.py --out runs/default --processes 2 --members 3 --epochs 720 --out-of-domain 2
python workflows/bundled_model.py --out runs/more --processes 2 --members 3 --epochs 90 --start default \
    --beside fragments-wb97xd-631gd

The first line makes a committee from scratch. The second goes on from the one in the package, with the isolated
molecules of the second data set beside the reactions: it made the present one of its predecessor.

Members see the same frames but for the validation frames that each is watched on, and start from other weights. Two
parts of the data are held out from all of them: one calibrates the spread, the other judges. Everything is kept in the
folder, member by member and validator by validator; the same command goes on where it was stopped. With
``--out-of-domain`` a second committee of so many members learns from some of the reactions and is judged on the others:
its errors are those that the card states for molecules that ``default`` never saw.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phl_ase.calculator import PHLCalculator
from phl_ase.cli.error_handling import nothing_is_lost
from phl_ase.datasets import BaseDataset, MemoryDataset, Split, open_dataset, split
from phl_ase.errors import PHLError
from phl_ase.jobs import Task, digest, open_store, processes, run
from phl_ase.potentials import load_model, read_card, save_committee
from phl_ase.potentials.cards import BUNDLED_FOLDER
from phl_ase.results import read_reports, write_json
from phl_ase.scoring import ERRORS, frame_errors, mean_errors
from phl_ase.structures import Frame, atoms_from_frame
from phl_ase.structures.fingerprints import StructureSet
from phl_ase.study.config import FrequenciesSection, SearchSection, ValidatorsSection
from phl_ase.study.quantities import QUANTITIES
from phl_ase.study.validation import VALIDATORS, ValidationRequest
from phl_ase.trained_on import training_record
from phl_ase.training import RunData, Stopped, parse_config, train
from phl_ase.training.committee import draw_evenly, save_calibrated
from phl_ase.validators.uncertainty import validate_uncertainty

HELD_OUT = (0.08, 0.10)
"""Shares of the frames that calibrate and that judge."""

EXCLUDED = 0.2
"""Share of the reactions that the second committee never sees."""

VALID = 0.05
"""Share of the other frames that each member is watched on."""

DOWNSTREAM = ("frequencies", "ts", "irc")
"""Validators asked beside the errors of energies, forces and Hessians."""

SCALES = (0.8, 0.9, 1.2, 1.5)
"""Factors on all coordinates of the test frames, to see whether such structures are noticed."""


@dataclass(frozen=True)
class Settings:
    """What the command line says, as plain values that go to other processes."""

    out: str
    data: str
    beside: str
    start: str
    members: int
    channels: int
    epochs: int
    starts: int
    seed: int
    out_of_domain: int
    compile: bool


@dataclass(frozen=True)
class Job:
    """One committee: ``in-domain`` (it becomes ``default``) or ``out-of-domain``."""

    name: str
    settings: Settings

    @property
    def folder(self) -> Path:
        """Where everything of it is kept."""
        return Path(self.settings.out) / self.name

    @property
    def size(self) -> int:
        """Number of members."""
        return self.settings.members if self.name == "in-domain" else self.settings.out_of_domain

    @cached_property
    def sources(self) -> tuple[BaseDataset, ...]:
        """The reactions; for the model in the package also what is learnt beside them."""
        beside = (self.settings.beside,) if self.settings.beside and self.name == "in-domain" else ()
        return tuple(open_dataset(name) for name in (self.settings.data, *beside))

    @cached_property
    def dataset(self) -> BaseDataset:
        """The frames of all sources, one source after the other."""
        if len(self.sources) == 1:
            return self.sources[0]
        frames = [frame for source in self.sources for frame in source]
        return MemoryDataset(frames, self.sources[0].meta, name=" + ".join(source.name for source in self.sources))

    @cached_property
    def parts(self) -> dict[str, list[int]]:
        """Indices of the frames that members learn from (``pool``), that calibrate, that judge, and of the reactions
        that are ``excluded``.
        """
        seed = self.settings.seed
        named: dict[str, list[int]] = {"pool": [], "calibration": [], "test": [], "excluded": []}
        first = 0
        # each source by itself: what is learnt beside the reactions leaves their parts as they are
        for source in self.sources:
            everything, excluded = np.arange(len(source)), np.zeros(0, dtype=int)
            if self.name == "out-of-domain":
                reactions = split(source, "by-reaction", seed, fractions=(1 - EXCLUDED, 0.0, EXCLUDED))
                everything, excluded = np.array(reactions.train), np.array(reactions.test)
            calibration, test, pool = draw_evenly(source.kinds, everything, HELD_OUT, seed)
            for name, indices in zip(named, (pool, calibration, test, excluded), strict=True):
                named[name] += [first + int(i) for i in indices]
            first += len(source)
        return named

    def run_data(self, member: int) -> RunData:
        """What one member learns from and is watched on."""
        valid, learnt = draw_evenly(self.dataset.kinds, np.array(self.parts["pool"]), (VALID,), 1000 + member)
        held_out = [i for part in ("calibration", "test", "excluded") for i in self.parts[part]]
        return RunData(
            self.dataset.frames(learnt.tolist()),
            self.dataset.frames(valid.tolist()),
            self.frames("test"),
            self.split(f"member {member}", learnt.tolist(), valid.tolist(), held_out),
            {**self.provenance, "training_frames": len(learnt)},
        )

    def split(self, name: str, train: Sequence[int], valid: Sequence[int], test: Sequence[int]) -> dict[str, Any]:
        """A division of the frames as it is recorded: of the reactions alone, which come first."""
        hashed, count = self.provenance["data_hash"], len(self.sources[0])
        kept = (tuple(i for i in part if i < count) for part in (train, valid, sorted(test)))
        return Split(name, self.settings.seed, *kept, dataset=hashed).to_json()

    def frames(self, part: str) -> list[Frame]:
        """Frames of a part."""
        return list(self.dataset.frames(self.parts[part]))

    def unseen(self, part: str) -> list[Frame]:
        """Frames of a part that are no copies or mirror images of frames that members learn from."""
        frames = self.frames(part)
        copies = StructureSet.of(self.frames("pool")).contains(frames)
        return [frame for frame, is_copy in zip(frames, copies.tolist(), strict=True) if not is_copy]

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the labels come from."""
        first, *others = self.sources
        meta = first.meta
        beside = {"beside": {one.name: one.content_hash() for one in others}} if others else {}
        return {
            "data": first.name,
            "data_hash": first.content_hash(),
            **beside,
            "level_of_theory": meta.level_of_theory,
            "energy_reference": meta.energy_reference,
        }

    @property
    def file(self) -> Path:
        """The committee."""
        return self.folder / "committee.safetensors"


# ------------------------------------------------------------------------------------------------- in other processes


def train_member(job: Job, member: int) -> None:
    """Train a member, or go on with it."""
    torch.set_num_threads(1)
    settings = job.settings
    fresh = {"channels": settings.channels, "core": "zbl"}
    config = parse_config(
        {
            "data": {"source": settings.data, "split_seed": member},
            "potential": {"from": f"{settings.start}#{member + 1}"} if settings.start else fresh,
            "scheme": {"name": "E-F-HVP-random"},
            "training": {
                "epochs": settings.epochs,
                "learning_rate": 5e-4 if settings.start else 2e-3,
                # one displaced frame of the few dozen can outweigh all others in the validation loss
                "keep": "last",
                "validate_every": 10,
                "seed": member,
                "compile": settings.compile,
            },
        }
    )
    folder = _member(job, member)
    try:
        train(config, job.run_data(member), folder, resume=(folder / "last.ckpt").exists())
    except Stopped:
        raise KeyboardInterrupt from None


def ask(job: Job, validator: str) -> None:
    """Ask a committee what one validator asks; the reports go into the file :func:`_answers`."""
    torch.set_num_threads(1)
    judged = "excluded" if job.parts["excluded"] else "test"
    data = RunData(job.frames("pool"), job.frames("calibration"), job.unseen(judged))
    settings = ValidatorsSection(
        frequencies=FrequenciesSection(relaxed=False), ts=SearchSection(starts=job.settings.starts)
    )
    calculator = PHLCalculator(str(job.file), device="cpu", out_of_domain="ignore")
    reports = VALIDATORS[validator].validate(calculator, ValidationRequest(job.name, job.sources[0], data, settings))
    write_json(_answers(job, validator), reports)


def _member(job: Job, member: int) -> Path:
    return job.folder / f"member-{member}"


def _answers(job: Job, validator: str) -> Path:
    # of these very weights and questions: what was asked of others is asked again; a calibration changes no answer
    digest = hashlib.sha256(f"{job.settings.starts}".encode())
    for member in range(job.size):
        digest.update((_member(job, member) / "best.safetensors").read_bytes())
    return job.folder / f"{validator}-{digest.hexdigest()[:12]}.json"


# -------------------------------------------------------------------------------------------------------- in this one


def main() -> None:
    """Train (or go on), calibrate, judge, write the model into the package."""
    settings, workers, asked, target = _arguments()
    torch.set_num_threads(1)
    jobs = [Job("in-domain", settings)]
    if settings.out_of_domain:
        jobs.append(Job("out-of-domain", settings))
    names = [(job, member) for job in jobs for member in range(job.size)]
    _together({f"{job.name}, member {m}": (train_member, (job, m)) for job, m in names}, workers, settings.out)
    for job in jobs:
        _calibrate(job)
    _together(
        {
            f"{job.name}, {name}": (ask, (job, name))
            for job in jobs
            for name in asked
            if not _answers(job, name).exists()
        },
        workers,
        settings.out,
    )
    cards = {job.name: _judged(job, asked) for job in jobs}
    if settings.start and not settings.out_of_domain:
        before = read_card(settings.start)["provenance"].get("out_of_domain")
        if before:  # what a committee like this one does on molecules that it never saw; its frames were the same
            cards["out-of-domain"] = {**before, "of": "the committee that this one started from"}
    write_json(Path(settings.out) / "card.json", cards)
    members = _members(jobs[0])
    calibration = PHLCalculator(str(jobs[0].file), device="cpu").potential.calibration
    path = save_committee(target, members, _card(jobs[0], cards), calibration)
    print(f"{path.name}, {path.stat().st_size / 2**20:.1f} MiB")
    for name, card in cards.items():
        print(f"{name}:", json.dumps(card, indent=1, ensure_ascii=False))


def _arguments() -> tuple[Settings, int, tuple[str, ...], Path]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder of the runs")
    parser.add_argument("--data", default="reactions-wb97xd-631gd", help="bundled name or file")
    parser.add_argument("--beside", default="", help="learnt beside it: bundled name or file of the same level")
    parser.add_argument("--start", default="", metavar="COMMITTEE", help="members go on from those of this one")
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--starts", type=int, default=2, help="TS searches for each reaction")
    parser.add_argument("--seed", type=int, default=0, help="of the parts that are held out")
    parser.add_argument("--out-of-domain", type=int, default=0, metavar="N", help="members of the second committee")
    parser.add_argument("--compile", action="store_true", help="training.compile of every member")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument(
        "--ask", nargs="*", default=list(DOWNSTREAM), choices=DOWNSTREAM, help="validators beside errors"
    )
    parser.add_argument(
        "--target", type=Path, default=BUNDLED_FOLDER / "default.safetensors", help="where the committee goes"
    )
    given = parser.parse_args()
    for name, size in (("--members", given.members), ("--out-of-domain", given.out_of_domain or 2)):
        if size < 2:
            parser.error(f"{name} {size}: a committee has two members at least")
    names = [one.name for one in fields(Settings)]
    return Settings(**{n: getattr(given, n) for n in names}), given.processes, tuple(given.ask), given.target


def _together(work: dict[str, Any], workers: int, out: str) -> None:
    """Do pieces of work in processes; what fails is said, and ends the command when the others are done."""
    tasks = [Task(name, digest(name), payload) for name, payload in work.items()]
    with nothing_is_lost(Path(out)), open_store(Path(out) / "jobs") as store:
        store.forget(task.key for task in tasks)  # whoever calls knows what is done
        run(tasks, _start, store, executor=processes(workers), title=Path(out).name, lines=True)
        failed = [(task.name, record.failure) for task in tasks if (record := store.get(task.key)) is not None]
    reasons = [f"{name}: {failure.reason}" for name, failure in failed if failure is not None]
    if reasons:
        sys.exit("\n".join(reasons))


def _start() -> Callable[[tuple[Callable[..., None], tuple[Any, ...]]], None]:
    """Return what does a piece of work in another process."""
    return lambda work: work[0](*work[1])


def _calibrate(job: Job) -> None:
    """Put the members together, with factors from the frames held out for that."""
    members = _members(job)
    pool, held_out = job.frames("pool"), job.frames("calibration")
    save_calibrated(job.file, members, pool, held_out, {**job.provenance, **training_record(pool, held_out)})


def _members(job: Job) -> list[Any]:
    """The members as they were trained; of the models that they started from the frames are recorded, too."""
    members = [load_model(_member(job, m) / "best.safetensors", dtype=torch.float32) for m in range(job.size)]
    if job.settings.start and job.name == "in-domain":
        split = Split.from_json(read_card(job.settings.start)["provenance"]["split"]).check(job.sources[0])
        seen = training_record(*(list(job.sources[0].frames(part)) for part in (split.train, split.valid)))
        for member in members:
            member.provenance["started_from"] = {**member.provenance["started_from"], **seen}
    return members


def _judged(job: Job, asked: Sequence[str]) -> dict[str, Any]:
    """Everything that is known of a committee, in plain values."""
    calculator = PHLCalculator(str(job.file), device="cpu", out_of_domain="ignore")
    known = {part: job.unseen(part) for part in ("test", "excluded") if job.parts[part]}
    answer = {name: _accuracy(calculator, frames, job, name) for name, frames in known.items()}
    answer["calibration"] = calculator.potential.calibration.to_json()
    answer["noticed"] = _noticed(calculator, known["test"])
    groups: dict[str, dict[str, Any]] = {}
    for name in asked:
        reports = read_reports(_answers(job, name))
        for quantity in [q for q in QUANTITIES.values() if q.validator == name]:
            found: dict[str, list[float]] = {}
            for _, _, group, value in quantity.values(reports):
                found.setdefault(group, []).append(value)
            groups[quantity.name] = {
                group: {"mean": float(np.mean(values)), "number": len(values), "unit": quantity.unit}
                for group, values in found.items()
            }
    return {**answer, "downstream": groups}


def _accuracy(calculator: PHLCalculator, frames: Sequence[Frame], job: Job, part: str) -> dict[str, Any]:
    """Mean absolute errors by kind of geometry, and uncertainties against errors."""
    answered = [frame for frame in frames if set(frame.numbers.tolist()) <= set(calculator.potential.species)]
    predictions = calculator.evaluate([atoms_from_frame(f) for f in answered], ("energy", "forces", "hessian"))
    report = validate_uncertainty(answered, predictions, system=part, potential=job.name)
    write_json(job.folder / f"uncertainty-{part}.json", report)
    return {
        "errors": mean_errors(answered, frame_errors(answered, predictions)),
        "uncertainty": {metric.name: metric.value for metric in report.metrics},
        "refused for their elements": len(frames) - len(answered),
    }


def _noticed(calculator: PHLCalculator, frames: Sequence[Frame]) -> dict[str, float]:
    """Share of the test frames that is said to be outside when all coordinates are multiplied, %."""
    shares = {}
    for scale in SCALES:
        structures = [atoms_from_frame(frame) for frame in frames]
        for atoms in structures:
            atoms.positions *= scale
        inside = [one["in_domain"] for one in calculator.evaluate(structures, ("energy", "forces"))]
        shares[f"coordinates times {scale}"] = 100.0 * (1.0 - float(np.mean(inside)))
    return shares


def _card(job: Job, cards: dict[str, Any]) -> dict[str, Any]:
    data, *beside = job.sources
    sizes = np.asarray(data.sizes)
    more = "".join(f" and of the molecules in {one.name}" for one in beside)
    use = (
        f"Gas-phase reactions of the bundled data set ({len(set(data.reactions))} reactions, {sizes.min()} to "
        f"{sizes.max()} atoms){more} near the geometries it holds: minima, transition states, reaction paths, hot "
        "samples. Not to be trusted for other molecules, charged systems, radicals and periodic systems: "
        "results['in_domain'] and a warning say where a structure is far from what it saw."
    )
    return {
        **job.provenance,
        "name": "default",
        "intended_use": use,
        "training_frames": len(job.parts["pool"]),
        "scheme": {"name": "E-F-HVP-random"},
        # valid: what calibrates; the frames that members are watched on are drawn from those to train on
        "split": job.split("committee", *(job.parts[part] for part in ("pool", "calibration", "test"))),
        "test_errors": cards["in-domain"]["test"]["errors"],
        "error_units": {name: kind.unit for name, kind in ERRORS.items()},
        **{name.replace("-", "_"): card for name, card in cards.items()},
        # the members' own cards record what each has learnt from
        **training_record(job.frames("pool"), job.frames("calibration")),
    }


if __name__ == "__main__":
    try:
        main()
    except PHLError as error:
        sys.exit(str(error))
