"""Studies: several schemes trained alike and scored alike, and what becomes of that in tables, figures and reports.

Names are imported when first used: worker processes come through here, and want to train, not to draw.
"""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "Trained": "phl_ase.study.compare",
    "render_report": "phl_ase.study.report",
    "render_reports": "phl_ase.plots.page",
    "run_demo": "phl_ase.study.demo",
    "train_schemes": "phl_ase.study.compare",
}

__all__ = ["Trained", "render_report", "render_reports", "run_demo", "train_schemes"]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'phl_ase.study' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)
