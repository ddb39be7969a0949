"""Training: configuration, the loop, checkpoints and logs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phl_ase.lazy import lazy_exports

if TYPE_CHECKING:
    from phl_ase.derivatives import choose_device
    from phl_ase.errors import Stopped
    from phl_ase.training.committee import CommitteeResult, recorded_members, train_committee
    from phl_ase.training.config import TrainConfig, default_toml, parse_config, read_config
    from phl_ase.training.setup import RunData, prepare_data
    from phl_ase.training.trainer import TrainResult, train

__all__ = [
    "CommitteeResult",
    "RunData",
    "Stopped",
    "TrainConfig",
    "TrainResult",
    "choose_device",
    "default_toml",
    "parse_config",
    "prepare_data",
    "read_config",
    "recorded_members",
    "train",
    "train_committee",
]

_HOMES = {
    "phl_ase.derivatives": ("choose_device",),
    "phl_ase.errors": ("Stopped",),
    "committee": ("CommitteeResult", "recorded_members", "train_committee"),
    "config": ("TrainConfig", "default_toml", "parse_config", "read_config"),
    "setup": ("RunData", "prepare_data"),
    "trainer": ("TrainResult", "train"),
}

__getattr__ = lazy_exports(__name__, _HOMES)
