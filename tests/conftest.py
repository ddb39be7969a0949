"""What every test shares: run-time shape and type checks, bounded threads, devices, random numbers.

``PHL_NO_TYPECHECK=1`` switches the checks of annotations off. torch.compile cannot trace them: a test that compiles
something of ours is marked ``no_typecheck`` and runs in another process, where they are off.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

TYPECHECK = os.environ.get("PHL_NO_TYPECHECK") != "1"

if TYPECHECK:
    from jaxtyping import install_import_hook

    if "phl_ase" in sys.modules:  # the hook would silently do nothing
        raise RuntimeError("phl_ase was imported before tests/conftest.py; import it in test modules only")
    install_import_hook("phl_ase", "annotation_checks.check")

torch.set_num_threads(1)

# torch counts the devices when it first differentiates: whatever is made up must be there before
try:
    import another_device as _another
except ImportError:  # a torch that takes no devices made in Python
    _another = None

CUDA = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")],
)


UNCHECKED = pytest.StashKey[subprocess.Popen]()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem) -> bool | None:
    """Hand a test marked ``no_typecheck`` to the process without checks; its failure is this test's failure."""
    if not TYPECHECK or pyfuncitem.get_closest_marker("no_typecheck") is None:
        return None
    stash = pyfuncitem.config.stash
    if UNCHECKED not in stash:
        stash[UNCHECKED] = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "helpers" / "unchecked_tests.py")],
            cwd=pyfuncitem.config.rootpath,
            env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | {"PHL_NO_TYPECHECK": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    process = stash[UNCHECKED]
    try:
        process.stdin.write(json.dumps(pyfuncitem.nodeid) + "\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
    except BaseException:  # it died, or its time is over: the next test has a new one
        del stash[UNCHECKED]
        process.kill()
        raise
    if answer["code"]:
        pytest.fail(f"in a process without the checks of annotations:\n{answer['said']}", pytrace=False)
    return True


def pytest_sessionfinish(session) -> None:
    """End the process without checks."""
    if UNCHECKED in session.config.stash:
        session.config.stash[UNCHECKED].communicate()


@pytest.fixture(params=["cpu", "another", CUDA])
def device(request) -> torch.device:
    """Each device in turn; the CUDA case runs under ``-m gpu`` where there is one, one that is made up everywhere."""
    return request.getfixturevalue("another_device") if request.param == "another" else torch.device(request.param)


@pytest.fixture
def another_device(monkeypatch) -> torch.device:
    """A device other than the CPU, which :mod:`another_device` makes of the CPU's memory."""
    if _another is None:
        pytest.skip("this torch takes no devices made in Python")
    monkeypatch.setattr("phl_ase.derivatives.device.TYPES", ("cpu", "cuda", _another.NAME))
    # modules give numbers of another type to the parameters that they have; such a tensor holds its own
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    yield _another.DEVICE
    torch.__future__.set_overwrite_module_params_on_conversion(before)


@pytest.fixture
def rng() -> np.random.Generator:
    """NumPy random numbers, the same at every run."""
    return np.random.default_rng(20260304)


@pytest.fixture
def generator() -> torch.Generator:
    """Torch random numbers on the CPU, the same at every run."""
    return torch.Generator().manual_seed(20260304)


@pytest.fixture
def float64():
    """A function that makes a float64 tensor of anything array-like, on any device."""

    def convert(values, device: torch.device | str = "cpu") -> torch.Tensor:
        return torch.as_tensor(np.asarray(values), dtype=torch.float64, device=device)

    return convert
