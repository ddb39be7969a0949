"""Devices that derivatives are computed on."""

from __future__ import annotations

import torch

from phl_ase.errors import PHLError

TYPES = ("cpu", "cuda")
"""Types of devices that potentials are run on."""


def choose_device(name: str) -> torch.device:
    """Return the device of a name; ``"auto"`` takes a CUDA device where there is one.

    Raises:
        PHLError: For CUDA without a CUDA device, a device that the machine lacks, or an unknown name.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in TYPES:
        raise PHLError(f"unknown device {name!r}; expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise PHLError(f"device {name!r} was asked for, but torch finds no CUDA device; use device='cpu' or 'auto'")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise PHLError(f"device {name!r} was asked for, but there are {torch.cuda.device_count()}, counted from cuda:0")
    return device
