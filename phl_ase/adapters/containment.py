"""Foreign code kept from changing the process: environment, default dtype, random numbers, warnings, standard output.

MACE's import sets ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD``, which turns off torch's safe loading for everybody.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import random
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import torch

from phl_ase.errors import missing_package


@contextlib.contextmanager
def contained(dtype: torch.dtype | None = None) -> Iterator[None]:
    """Run foreign code, then set back what it may have changed of the process. Modules that it makes are on the CPU.

    Args:
        dtype: torch's default dtype inside, for code that builds modules in it; by default as it is.
    """
    environment, default = dict(os.environ), torch.get_default_dtype()
    python, numpy, level = random.getstate(), np.random.get_state(), logging.getLogger().level  # noqa: NPY002
    quiet = contextlib.redirect_stdout(io.StringIO())
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), quiet, torch.device("cpu"):
        warnings.simplefilter("ignore")
        try:
            if dtype is not None:
                torch.set_default_dtype(dtype)
            yield
        finally:
            torch.set_default_dtype(default)
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
            logging.getLogger().setLevel(level)
            for name in os.environ.keys() - environment.keys():
                del os.environ[name]
            os.environ.update({name: v for name, v in environment.items() if os.environ.get(name) != v})


def vendor(module: str, package: str, extra: str) -> ModuleType:
    """Import a module of an optional package, contained.

    Args:
        module: What to import.
        package: The name that pip knows.
        extra: The extra of this package that brings it.

    Raises:
        PHLError: When the package is not installed, naming the line that installs it.
    """
    if (loaded := sys.modules.get(module)) is not None:
        return loaded
    try:
        with contained():
            return importlib.import_module(module)
    except ImportError as error:
        raise missing_package(package, extra, f"{extra}:FILE") from error
