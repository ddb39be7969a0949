"""The method of the PHL authors' notebook beside ours: same frames, same processor time, scored by the same code.

    pip install torchani==2.2.4        # its own environment: the extra [ani] takes another version
    python workflows/benchmarks/authors_method.py --out runs/authors_method --json workflows/results/authors_method.json
    python workflows/benchmarks/authors_method.py --data frames.h5 --split by-reaction --out … --json …

Theirs follows ``PHL_training.ipynb`` of github.com/Austinrg14/PHL (arXiv:2603.04523): ANI with the AEVs of ANI-1x and
one network 256-64-256, CELU(0.1), for each of H, C, N, O; Kaiming weights, zero biases; AdamW (rate 1e-3, weight decay
0.01) for weights and SGD (1e-3) for biases, both rates halved after 100 epochs without a lower validation RMSE of
energies, by which the best weights are chosen; batches of 400, put together once; energies less fitted energies of
atoms. In Hartree and Å

    loss = mean ΔE²/√n + 0.30 mean ‖ΔF‖²/(3n) + 0.09 mean ‖ΔH·v‖²/(3n)²

with v Gaussian, new in every step, and H·v by double back-propagation. Frames without a Hessian are learnt with the
HVPs that they record. Other than in the notebook: float32, as ours (there float64); energies of atoms are fitted to the
training frames alone; probes of a batch are drawn at once; validation takes energies alone, which is all that acts on
the training. ``--batch-size`` tries other batches than 400, which suit 100,000 frames and a GPU.

Ours: ``phl_ase.training`` at its defaults, with as many epochs as fit the time. Time is the processor's, one thread,
validation included. Theirs gets the time that ours really took where that is known. Finished runs stay in ``--out``.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import math
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.units import Hartree
from torch import Tensor, nn

from phl_ase.adapters.foreign import Foreign
from phl_ase.calculator import PHLCalculator
from phl_ase.errors import PHLError
from phl_ase.potentials import Model, load_model
from phl_ase.potentials.references import fit_reference_energies
from phl_ase.results import provenance, write_json
from phl_ase.scoring import frame_errors
from phl_ase.structures import Batch, Frame, atoms_from_frame
from phl_ase.training import RunData, TrainConfig, TrainResult, parse_config, prepare_data, train

SPECIES = (1, 6, 7, 8)
VERSION = "2.2.4"
RADIAL_CUTOFF, ANGULAR_CUTOFF = 5.2, 3.5  # Å
FORCE_COEFFICIENT, HESSIAN_COEFFICIENT = 0.30, 0.09
LEAST_RATE = 1e-5
PROBES = {"E-F": None, "E-F-HVP-onehot": "onehot", "E-F-HVP-random": "gaussian"}
"""Scheme -> the notebook's probes."""


# ------------------------------------------------------------------------------------------------------- their method


class AniEnergy(Foreign):
    """A TorchANI 2.2 model as a potential, with energies of atoms.

    Args:
        module: ``torchani.nn.Sequential(AEVComputer, ANIModel)``, energies in Hartree.
        atom_energies: Of ``SPECIES``, eV.
    """

    vendor = "ani"

    def __init__(self, module: nn.Module, atom_energies: np.ndarray) -> None:
        super().__init__(module, SPECIES, RADIAL_CUTOFF, RADIAL_CUTOFF)
        self.register_buffer("atom_energies", torch.from_numpy(atom_energies))

    def forward(self, batch: Batch) -> Tensor:
        """Energies in eV, float64."""
        sizes = torch.bincount(batch.system, minlength=batch.n_systems)
        place = torch.arange(len(batch.system)) - (torch.cumsum(sizes, 0) - sizes)[batch.system]
        kinds = torch.searchsorted(torch.tensor(SPECIES), batch.numbers)
        shape = (batch.n_systems, int(sizes.max()))
        species = torch.full(shape, -1).index_put((batch.system, place), kinds)
        coordinates = batch.positions.new_zeros(*shape, 3).index_put((batch.system, place), batch.positions)
        atoms = self.atom_energies.new_zeros(batch.n_systems).index_add(0, batch.system, self.atom_energies[kinds])
        return self.module((species, coordinates))[1].double() * Hartree + atoms


def ani_model(seed: int) -> nn.Module:
    """Return an untrained network of the notebook, float32.

    Raises:
        PHLError: Where TorchANI 2.2 is not installed.
    """
    try:
        found = importlib.metadata.version("torchani")
    except importlib.metadata.PackageNotFoundError:
        found = "none"
    if not found.startswith("2.2"):
        raise PHLError(
            f"TorchANI {found} is installed, but the notebook needs {VERSION}: pip install torchani=={VERSION}"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torchani
    aevs = torchani.AEVComputer(
        RADIAL_CUTOFF,
        ANGULAR_CUTOFF,
        EtaR=torch.tensor([16.0]),
        ShfR=0.9 + 0.26875 * torch.arange(16),
        EtaA=torch.tensor([8.0]),
        Zeta=torch.tensor([32.0]),
        ShfA=0.9 + 0.65 * torch.arange(4),
        ShfZ=math.pi / 16 * (1 + 2 * torch.arange(8)),
        num_species=len(SPECIES),
    )
    generator = torch.Generator().manual_seed(seed)
    widths = (aevs.aev_length, 256, 64, 256, 1)
    networks = []
    for _ in SPECIES:
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layer = nn.Linear(before, after)
            nn.init.kaiming_normal_(layer.weight, a=1.0, generator=generator)
            nn.init.zeros_(layer.bias)
            layers += [layer, nn.CELU(0.1)]
        networks.append(nn.Sequential(*layers[:-1]))
    return torchani.nn.Sequential(aevs, torchani.ANIModel(networks))


@dataclass(frozen=True)
class PaddedBatch:
    """Frames of one batch in Hartree and Å, smaller ones padded; float32.

    Attributes:
        species: Index in ``SPECIES`` ``(systems, atoms)``, −1 where padded.
        coordinates: ``(systems, atoms, 3)``.
        energies: Less the energies of atoms ``(systems,)``.
        forces: ``(systems, atoms, 3)``.
        hessians: ``(systems, 3 atoms, 3 atoms)``, where the frames carry them.
        probes: Recorded ones ``(systems, atoms, 3)``, where they do not.
        hvps: With them ``(systems, atoms, 3)``.
    """

    species: Tensor
    coordinates: Tensor
    energies: Tensor
    forces: Tensor
    hessians: Tensor | None = None
    probes: Tensor | None = None
    hvps: Tensor | None = None

    @property
    def sizes(self) -> Tensor:
        """Atoms of each system ``(systems,)``."""
        return (self.species >= 0).sum(1)


def padded(frames: Sequence[Frame], atom_energies: np.ndarray) -> PaddedBatch:
    """Return frames as a batch; of several recorded HVPs the first.

    Raises:
        PHLError: For a frame without energy or forces, or where some frames alone carry Hessians or HVPs.
    """
    for frame in frames:
        if frame.energy is None or frame.forces is None:
            raise PHLError(f"frame {frame.frame_id} has no energy or forces; expected both on every frame")
    most = max(len(frame) for frame in frames)
    kinds = [np.searchsorted(SPECIES, frame.numbers) for frame in frames]
    energies = [f.energy - atom_energies[kind].sum() for f, kind in zip(frames, kinds, strict=True)]
    curvature: dict[str, Tensor] = {}
    if all(frame.hessian is not None for frame in frames):
        curvature["hessians"] = _stacked([f.hessian for f in frames], (3 * most, 3 * most)) / Hartree
    elif all(frame.hvp is not None for frame in frames):
        curvature["probes"] = _stacked([f.probes[0] for f in frames], (most, 3))
        curvature["hvps"] = _stacked([f.hvp[0] for f in frames], (most, 3)) / Hartree
    elif any(frame.hessian is not None or frame.hvp is not None for frame in frames):
        raise PHLError("only some frames carry Hessians or HVPs; expected one of the two on every frame")
    return PaddedBatch(
        (_stacked([kind + 1 for kind in kinds], (most,)) - 1).long(),
        _stacked([f.positions for f in frames], (most, 3)),
        torch.tensor(energies).float() / Hartree,
        _stacked([f.forces for f in frames], (most, 3)) / Hartree,
        **curvature,
    )


def _stacked(arrays: Sequence[np.ndarray], shape: tuple[int, ...]) -> Tensor:
    result = np.zeros((len(arrays), *shape), dtype=np.float32)
    for row, array in zip(result, arrays, strict=True):
        row[tuple(slice(n) for n in array.shape)] = array
    return torch.from_numpy(result)


def curvature_targets(batch: PaddedBatch, family: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return probes and HVPs of a batch, ``(systems, atoms, 3)`` each: new ones of its Hessians, or the recorded ones.

    Raises:
        PHLError: Where the frames carry neither.
    """
    if batch.hessians is None:
        if batch.probes is None or batch.hvps is None:
            raise PHLError("the frames carry neither Hessians nor HVPs; use --scheme E-F")
        return batch.probes, batch.hvps
    present = batch.species >= 0
    if family == "gaussian":
        probes = torch.randn(batch.coordinates.shape, generator=generator) * present.unsqueeze(-1)
    else:
        column = (torch.rand(len(present), generator=generator) * 3 * batch.sizes).long()
        probes = nn.functional.one_hot(column, batch.hessians.shape[-1]).float().view(batch.coordinates.shape)
    return probes, torch.bmm(batch.hessians, probes.flatten(1).unsqueeze(-1)).view(probes.shape)


def notebook_loss(model: nn.Module, batch: PaddedBatch, family: str | None, generator: torch.Generator) -> Tensor:
    """Return the loss of the notebook, Hartree and Å.

    Args:
        model: A network of :func:`ani_model`.
        batch: The systems.
        family: ``gaussian``; ``onehot``, unit vectors, the loss divided by 3n; or ``None`` for E-F.
        generator: Of the probes.
    """
    coordinates, sizes = batch.coordinates.clone().requires_grad_(), batch.sizes
    energies = model((batch.species, coordinates))[1]
    forces = -torch.autograd.grad(energies.sum(), coordinates, create_graph=True)[0]
    loss = ((energies - batch.energies).square() / sizes.sqrt()).mean()
    loss = loss + FORCE_COEFFICIENT * ((forces - batch.forces).square().sum((1, 2)) / (3 * sizes)).mean()
    if family is None:
        return loss
    probes, targets = curvature_targets(batch, family, generator)
    hvps = -torch.autograd.grad(forces, coordinates, grad_outputs=probes, create_graph=True)[0]
    divisor = 3 * sizes if family == "onehot" else 9 * sizes.square()
    return loss + HESSIAN_COEFFICIENT * ((hvps - targets).square().sum((1, 2)) / divisor).mean()


def train_authors(
    data: RunData, scheme: str, seconds: float, *, batch_size: int, seed: int
) -> tuple[AniEnergy, dict[str, Any]]:
    """Train as the notebook does for some processor time.

    Args:
        data: Frames to learn from and to choose by.
        scheme: Key of ``PROBES``.
        seconds: Processor time, validation included.
        batch_size: Systems per step.
        seed: Of weights, batches and probes.

    Returns:
        The model with the lowest validation error of energies, and what a row of the table says of the run.
    """
    atom_energies = fit_reference_energies(data.train, SPECIES)
    model, generator = ani_model(seed), torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data.train), generator=generator).tolist()
    batches = [
        padded([data.train[i] for i in order[start : start + batch_size]], atom_energies)
        for start in range(0, len(order), batch_size)
    ]
    held_out = [padded(data.valid[start : start + 50], atom_energies) for start in range(0, len(data.valid), 50)]
    weights, biases = ([p for name, p in model.named_parameters() if name.endswith(end)] for end in ("weight", "bias"))
    optimisers = [torch.optim.AdamW(weights), torch.optim.SGD(biases, lr=1e-3)]
    plateaus = [
        torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.5, patience=100, threshold=0)
        for optimiser in optimisers
    ]
    best, best_epoch, steps, in_steps = model.state_dict(), 0, 0, 0.0
    lowest, curve = math.inf, []
    begun = time.process_time()

    def judged(epoch: int) -> None:
        nonlocal best, best_epoch, lowest
        with torch.no_grad():
            errors = [model((b.species, b.coordinates))[1] - b.energies for b in held_out]
        rmse = float(torch.cat(errors).square().mean().sqrt())
        if rmse < lowest:
            best = {name: value.clone() for name, value in model.state_dict().items()}
            best_epoch, lowest = epoch, rmse
        curve.append([epoch, round(time.process_time() - begun, 1), rmse * Hartree])
        for plateau in plateaus:
            plateau.step(rmse)

    for epoch in itertools.count():
        judged(epoch)
        rate = optimisers[0].param_groups[0]["lr"]
        if time.process_time() - begun >= seconds or rate < LEAST_RATE:
            break
        for batch in batches:
            started = time.process_time()
            loss = notebook_loss(model, batch, PROBES[scheme], generator)
            for optimiser in optimisers:
                optimiser.zero_grad()
            loss.backward()
            for optimiser in optimisers:
                optimiser.step()
            steps, in_steps = steps + 1, in_steps + time.process_time() - started
            if time.process_time() - begun >= seconds:
                break
    record = {
        "cpu_seconds": time.process_time() - begun,
        "epochs": steps / len(batches),
        "steps": steps,
        "seconds_per_step": in_steps / steps,
        "best_epoch": best_epoch,
        "final_learning_rate": rate,
        "parameters": sum(p.numel() for p in model.parameters()),
        "validation": curve[:: max(1, len(curve) // 50)],
    }
    model.load_state_dict(best)
    return AniEnergy(model, atom_energies), record


# -------------------------------------------------------------------------------------------------------------- ours


def configuration(data: dict[str, Any], scheme: str, epochs: int, seed: int, **training: Any) -> TrainConfig:
    """Configuration of our run: the defaults but for the number of epochs."""
    settings = {"epochs": epochs, "seed": seed, "device": "cpu", "warmup_epochs": min(5, epochs - 1), **training}
    return parse_config({"data": data, "scheme": {"name": scheme}, "training": settings})


def train_ours(
    data: RunData, source: dict[str, Any], scheme: str, seconds: float, *, seed: int
) -> tuple[Model, dict[str, Any]]:
    """Train with ``phl_ase.training`` for about some processor time; a cosine needs the number of epochs beforehand."""
    size, every = TrainConfig().training.batch_size, TrainConfig().training.validate_every
    few = RunData(data.train[: 20 * size], data.valid)
    steps = math.ceil(len(data.train) / size)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # recorded HVPs are learnt as recorded

        def timed(name: str, config: TrainConfig, data: RunData) -> tuple[float, TrainResult]:
            started = time.process_time()
            result = train(config, data, Path(folder) / name)
            return time.process_time() - started, result

        times = [
            timed(str(number), configuration(source, scheme, epochs, seed, validate_every=each), few)[0]
            for number, (epochs, each) in enumerate(((1, 9), (1, 9), (3, 9), (3, 1)))  # the first one loads much
        ]
        step = (times[2] - times[1]) / 2 / math.ceil(len(few.train) / size)
        validation = max(0.0, (times[3] - times[2]) / 2)
        epochs = max(2, int(seconds / (step * steps + validation / every)))
        spent, result = timed("run", configuration(source, scheme, epochs, seed), data)
        model = load_model(result.model)
    record = {
        "cpu_seconds": spent,
        "epochs": epochs,
        "steps": epochs * steps,
        "seconds_per_step": (spent - validation * (epochs // every)) / (epochs * steps),
        "best_epoch": result.best_epoch,
        "pilot": {"seconds_per_step": step, "validation_seconds": validation},
        "parameters": sum(p.numel() for p in model.parameters()),
        "validation": [[r["epoch"], r["seconds"], r["valid_energy"]] for r in result.records if "valid_loss" in r],
    }
    return model, record


# ------------------------------------------------------------------------------------------------------------ scoring


def scored(potential: Model, frames: Sequence[Frame]) -> dict[str, list[float]]:
    """Return the errors of a model on each frame, by name: see ``phl_ase.scoring``; derivatives in float64."""
    calculator = PHLCalculator(potential, device="cpu", out_of_domain="ignore")
    atoms = [atoms_from_frame(frame) for frame in frames]
    whole = all(frame.hessian is not None for frame in frames)
    predictions = calculator.evaluate(atoms, ("energy", "forces", *(("hessian",) if whole else ())))
    if not whole:
        for frame, structure, predicted in zip(frames, atoms, predictions, strict=True):
            if frame.probes is not None:
                predicted["hvp"] = calculator.get_hvp(frame.probes, structure)
    errors = frame_errors(frames, predictions)
    return {name: values.tolist() for name, values in errors.items() if np.isfinite(values).any()}


METHODS = ("phl_ase", "authors")


def run(arguments: argparse.Namespace) -> None:
    """Every run that is asked for and not finished."""
    source = {"source": arguments.data, "split": arguments.split, "split_seed": arguments.split_seed}
    config = configuration(source, arguments.scheme, 2, arguments.seed)
    data = prepare_data(config)
    name = Path(arguments.data).stem
    seconds = 60.0 * arguments.minutes
    ours = arguments.out / f"{name}-{arguments.scheme}-phl_ase-{seconds:.0f}s-s{arguments.seed}.json"
    jobs: list[tuple[Path, dict[str, Any]]] = []
    if "phl_ase" in arguments.methods:
        jobs.append((ours, {"method": "phl_ase"}))
    if "authors" in arguments.methods:
        jobs += [
            (
                ours.with_name(ours.name.replace("-phl_ase-", f"-authors{size}-")),
                {"method": "authors", "batch_size": size},
            )
            for size in arguments.batch_size
        ]
    for path, labels in jobs:
        if path.exists():
            continue
        potential: Model
        if labels["method"] == "phl_ase":
            potential, record = train_ours(data, source, arguments.scheme, seconds, seed=arguments.seed)
        else:
            limit = json.loads(ours.read_text())["cpu_seconds"] if ours.exists() else seconds
            size = labels["batch_size"]
            potential, record = train_authors(data, arguments.scheme, limit, batch_size=size, seed=arguments.seed)
        errors = scored(potential, data.test)
        row = {
            **labels,
            "scheme": arguments.scheme,
            "data": name,
            "data_hash": data.provenance["data_hash"],
            "split": source["split"],
            "split_seed": source["split_seed"],
            "frames": {part: len(getattr(data, part)) for part in ("train", "valid", "test")},
            "seed": arguments.seed,
            "asked_seconds": seconds,
            **record,
            "errors": {name: float(np.mean(values)) for name, values in errors.items()},
            "frame_errors": {name: [float(f"{value:.4g}") for value in values] for name, values in errors.items()},
        }
        write_json(path, row)
        print(text([row]), flush=True)


def text(rows: Sequence[dict[str, Any]]) -> str:
    """Return one line for each run."""
    return "\n".join(
        f"{row['data']} {row['method']} {row.get('batch_size', '')} seed {row['seed']}: {row['cpu_seconds']:.0f} s, "
        f"{row['steps']} steps of {1e3 * row['seconds_per_step']:.0f} ms; "
        + ", ".join(f"{name} {value:.3g}" for name, value in row["errors"].items())
        for row in rows
    )


def collected(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the finished runs of a folder without the errors of single frames."""
    for path in sorted(folder.glob("*.json")):
        row = json.loads(path.read_text(encoding="utf-8"))
        row.pop("frame_errors")
        yield row


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line, run, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="reactions-wb97xd-631gd", help="bundled name, HDF5, or what ase.io reads")
    parser.add_argument("--split", default="random", help="random or by-reaction")
    parser.add_argument("--split-seed", type=int, default=0)
    parser.add_argument("--scheme", choices=PROBES, default="E-F-HVP-random")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--batch-size", type=int, nargs="+", default=[400], help="of theirs")
    parser.add_argument("--minutes", type=float, default=5.0, help="processor time of each training")
    parser.add_argument("--seed", type=int, default=0, help="of weights, batches and probes")
    parser.add_argument("--out", type=Path, required=True, help="folder of finished runs")
    parser.add_argument("--json", type=Path, help="all finished runs of the folder")
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    run(arguments)
    rows = list(collected(arguments.out))
    print(text(rows))
    if arguments.json:
        write_json(arguments.json, {"provenance": provenance(threads=1, torchani=VERSION), "rows": rows})


if __name__ == "__main__":
    main()
