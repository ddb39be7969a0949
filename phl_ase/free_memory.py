"""Memory that a process can still have, so that what grows with its input is bounded by a budget."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def available_memory() -> int:
    """Return the bytes that this process can still have; 4 GiB where nobody says."""
    limits = []
    with suppress(OSError, ValueError, StopIteration):  # Linux
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        limits.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]))
    group = Path("/sys/fs/cgroup")  # a container's own limit, "max" where there is none; its file cache can be dropped
    with suppress(OSError, ValueError, StopIteration):
        total = int((group / "memory.max").read_text(encoding="ascii"))
        lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
        limits.append(total - int(next(line for line in lines if line.startswith("anon ")).split()[1]))
    return max(min(limits, default=4 * 2**30), 0)
