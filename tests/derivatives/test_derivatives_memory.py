"""That Hessians do not fetch the same memory from the operating system again and again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HESSIANS = """
import resource
import torch
from ase.build import molecule
from phl_ase import PHLCalculator

torch.set_num_threads(1)
calculator, atoms = PHLCalculator("default#1"), molecule("C6H6")
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    calculator.get_hessian(atoms)
    atoms.rattle(1e-3)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(**variables: str) -> int:
    """Of a Hessian, the third of its process."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))} | variables
    command = [sys.executable, "-c", HESSIANS]
    return int(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_freed_memory_is_kept_unless_the_user_says_otherwise():
    asked = page_faults(MALLOC_TRIM_THRESHOLD_="131072", MALLOC_MMAP_THRESHOLD_="131072")
    assert page_faults() < 0.1 * asked
