"""What every test shares: run-time shape and type checks, bounded threads, devices, random numbers.

``PHL_NO_TYPECHECK=1`` switches the checks of annotations off. torch.compile cannot trace them: a test that compiles
something of ours is marked ``no_typecheck`` and runs in a process of its own, where they are off.
"""

from __future__ import annotations

import os
import subprocess
import sys

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


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem) -> bool | None:
    """Hand a test marked ``no_typecheck`` to a child process; its failure is this test's failure."""
    if not TYPECHECK or pyfuncitem.get_closest_marker("no_typecheck") is None:
        return None
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "", pyfuncitem.nodeid]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    done = subprocess.run(
        command,
        cwd=pyfuncitem.config.rootpath,
        env=environment | {"PHL_NO_TYPECHECK": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"in a process without the checks of annotations:\n{done.stdout}{done.stderr}", pytrace=False)
    return True


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
