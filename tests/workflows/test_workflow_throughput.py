"""``workflows/benchmarks/throughput.py``: every part runs, on the CPU and elsewhere, and says what did not fit."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "workflows" / "benchmarks"


@pytest.fixture
def throughput(monkeypatch):
    """The script, for small molecules."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("throughput")
    monkeypatch.setattr(module, "ATOMS", 5)
    monkeypatch.setattr(module, "WATERS", 1)
    yield module
    for name in ("throughput", "training_step", "training_step_vendors", "hessian_inference"):
        sys.modules.pop(name, None)


def test_every_part(throughput, device, tmp_path):
    file = tmp_path / "found.json"
    sizes = ["--batches", "2", "3", "--precisions", "high", "--full", "--molecules", "2", "--cells", "8"]
    throughput.main(["--device", str(device), "--json", str(file), *sizes])
    found = json.loads(file.read_text())
    assert [row["systems"] for row in found["training"]] == [2, 3]
    for row in found["training"]:
        assert row["share of E-F"]["E-F"] == 1.0
        assert all(share > 0.0 for share in row["share of E-F"].values())  # of a busy machine times say no more
    for row in found["hessians"]:
        assert row["Hessian of many in force calls of many"] > 1.0
    assert [row["dtype"] for row in found["cells"]] == ["float32", "float64"]
    assert all(row["HVP s"] > 0.0 for row in found["cells"])
    assert torch.get_float32_matmul_precision() == "highest"


def test_what_does_not_fit_is_said_in_its_row(throughput):
    def crowded():
        raise torch.OutOfMemoryError("out of memory\nat line 3")

    seconds, failure = throughput.tried(crowded)
    assert seconds != seconds
    assert failure == "out of memory"
