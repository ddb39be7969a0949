"""``workflows/benchmarks/authors_method.py``: the notebook's loss in closed form, and short runs."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.units import Hartree

from phl_ase.datasets import open_dataset, write_dataset
from phl_ase.errors import PHLError
from phl_ase.structures import Frame

BENCHMARKS = Path(__file__).resolve().parents[2] / "workflows" / "benchmarks"
STIFFNESS = 0.3  # Hartree/Å²


def torchani_version() -> str:
    try:
        return importlib.metadata.version("torchani")
    except importlib.metadata.PackageNotFoundError:
        return ""


needs_torchani = pytest.mark.skipif(not torchani_version().startswith("2.2"), reason="needs torchani==2.2.4")


@pytest.fixture
def workflow(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("authors_method")
    sys.modules.pop("authors_method", None)


@pytest.fixture
def frames(rng):
    """Two molecules of 3 and 2 atoms with random labels."""
    made = []
    for numbers in ((8, 1, 1), (6, 7)):
        n = len(numbers)
        half = rng.normal(size=(3 * n, 3 * n))
        positions, forces = rng.normal(size=(2, n, 3))
        made.append(Frame(np.array(numbers), positions, energy=rng.normal(), forces=forces, hessian=half + half.T))
    return made


def springs(inputs):
    """Every atom on a spring to the origin; padded atoms, at the origin, add nothing."""
    species, coordinates = inputs
    return species, 0.5 * STIFFNESS * coordinates.square().sum((1, 2))


@pytest.mark.parametrize("family", [None, "gaussian", "onehot"])
def test_the_loss_is_the_notebooks(workflow, frames, family):
    batch = workflow.padded(frames, np.zeros(4))
    loss = workflow.notebook_loss(springs, batch, family, torch.Generator().manual_seed(3))
    probes, _ = workflow.curvature_targets(batch, family or "gaussian", torch.Generator().manual_seed(3))
    expected = []
    for frame, padded in zip(frames, probes.numpy().astype(float), strict=True):
        n, x = len(frame), frame.positions
        assert not padded[n:].any()
        energy = 0.5 * STIFFNESS * (x**2).sum() - frame.energy / Hartree
        forces = -STIFFNESS * x - frame.forces / Hartree
        curvature = (STIFFNESS * np.eye(3 * n) - frame.hessian / Hartree) @ padded[:n].ravel()
        terms = energy**2 / np.sqrt(n) + 0.30 * (forces**2).sum() / (3 * n)
        if family:
            terms += 0.09 * (curvature**2).sum() / (3 * n if family == "onehot" else (3 * n) ** 2)
        expected.append(terms)
    assert float(loss.detach()) == pytest.approx(np.mean(expected), rel=1e-5)  # float32


def test_recorded_hvps_are_learnt_as_recorded(workflow, frames):
    probes = [np.ones((1, len(frame), 3)) for frame in frames]
    recorded = [
        Frame(f.numbers, f.positions, energy=f.energy, forces=f.forces, probes=p, hvp=3.0 * p)
        for f, p in zip(frames, probes, strict=True)
    ]
    found, hvps = workflow.curvature_targets(workflow.padded(recorded, np.zeros(4)), "gaussian", torch.Generator())
    assert found.sum() == 3 * 5
    torch.testing.assert_close(hvps, 3.0 * found / Hartree)
    with pytest.raises(PHLError, match="only some frames"):
        workflow.padded([frames[0], recorded[1]], np.zeros(4))


@pytest.mark.skipif(torchani_version().startswith("2.2"), reason="TorchANI 2.2 is there")
def test_another_torchani_is_refused(workflow):
    with pytest.raises(PHLError, match=r"pip install torchani==2\.2\.4"):
        workflow.ani_model(0)


def test_ours_runs_and_is_kept(workflow, tmp_path):
    check(workflow, tmp_path, ["phl_ase"], [])


@needs_torchani
def test_theirs_runs_and_is_kept(workflow, tmp_path):
    check(workflow, tmp_path, ["authors"], ["--batch-size", "400", "8"])


def check(workflow, folder, methods, options) -> None:
    """A few steps on a few frames; a finished run is not made again."""
    path, table = folder / "few.h5", folder / "table.json"
    with open_dataset("reactions-wb97xd-631gd") as dataset:
        write_dataset(path, dataset.frames(range(0, len(dataset), 34)), dataset.meta)
    command = ["--data", str(path), "--minutes", "0.002", "--out", str(folder / "out"), "--json", str(table)]
    command += ["--methods", *methods, *options]
    workflow.main(command)
    rows = json.loads(table.read_text())["rows"]
    assert [row["method"] for row in rows] == methods * max(1, len(options) - 1)
    for row in rows:
        assert row["steps"] > 0
        assert row["seconds_per_step"] > 0
        assert {"energy", "forces", "hessian"} <= set(row["errors"])
        assert np.isfinite(list(row["errors"].values())).all()
    workflow.main(command)
    assert json.loads(table.read_text())["rows"] == rows
