"""Reference methods and what they label.

``methods`` has the table of names, ``pyscf_method`` density functional theory as an ASE calculator, ``dispersion`` the
pair dispersion of ωB97X-D, ``labels`` the labels of one frame, ``campaign`` those of a data set. The names below are
loaded when they are first used: naming a method must not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phl_ase.jobs import Failure
    from phl_ase.reference.campaign import LabelMethod, LabelResult, label_dataset
    from phl_ase.reference.dispersion import Dispersion, chai_head_gordon
    from phl_ase.reference.labels import (
        FAILURES,
        HESSIANS,
        LabelledFrame,
        LabelRequest,
        Probes,
        choose_step,
        label_frame,
    )
    from phl_ase.reference.methods import (
        METHODS,
        Method,
        difference_step,
        energy_reference,
        level_of_theory,
        make_method,
    )
    from phl_ase.reference.pyscf_method import PySCFCalculator
    from phl_ase.reference.scf import SCFNotConverged

__all__ = [
    "FAILURES",
    "HESSIANS",
    "METHODS",
    "Dispersion",
    "Failure",
    "LabelMethod",
    "LabelRequest",
    "LabelResult",
    "LabelledFrame",
    "Method",
    "Probes",
    "PySCFCalculator",
    "SCFNotConverged",
    "chai_head_gordon",
    "choose_step",
    "difference_step",
    "energy_reference",
    "label_dataset",
    "label_frame",
    "level_of_theory",
    "make_method",
]

_HOME = {
    **dict.fromkeys(("LabelMethod", "LabelResult", "label_dataset"), "campaign"),
    **dict.fromkeys(("Dispersion", "chai_head_gordon"), "dispersion"),
    **dict.fromkeys(
        ("FAILURES", "HESSIANS", "LabelRequest", "LabelledFrame", "Probes", "choose_step", "label_frame"),
        "labels",
    ),
    **dict.fromkeys(
        ("METHODS", "Method", "difference_step", "energy_reference", "level_of_theory", "make_method"), "methods"
    ),
    "Failure": "labels",
    "PySCFCalculator": "pyscf_method",
    "SCFNotConverged": "scf",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
