"""Conformance: does a potential do what everything built on it takes for granted? What ``phl check MODEL`` runs.

Every check measures one number and holds it to a tolerance; a new one is a function and a line in ``RULES``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from phl_ase.conformance import invariance, slopes, smoothness
from phl_ase.conformance.costs import costs
from phl_ase.conformance.report import Check, ConformanceReport, Cost, Measured, first_line, markdown
from phl_ase.conformance.subject import Subject, default_frames
from phl_ase.derivatives import own_modes
from phl_ase.structures import Frame, Potential

__all__ = ["RULES", "Check", "ConformanceReport", "Cost", "Rule", "check_potential", "default_frames", "markdown"]

Measure = Callable[[Subject], float | Measured | None]


@dataclass(frozen=True)
class Rule:
    """One thing to check.

    Attributes:
        name: Of the row.
        measure: The number; ``None`` where the check does not apply.
        tolerance: The largest number that passes in float64.
        single_precision: The same in float32: only gross errors show.
        unit: Of both.
        consequence: What goes wrong for a user where it fails.
    """

    name: str
    measure: Measure
    tolerance: float
    single_precision: float
    unit: str
    consequence: str


# Tolerances: 0 where the number must vanish or counts something; 1e-12 where only the order of sums differs; 1e-9 where
# rotated or rearranged input is rounded; 1e-6 for finite differences (their own error is some 1e-8) and 1e-4 for
# integrals along paths that run through a cutoff; kinks and wrong signs give 1e-2 and more.
RULES: tuple[Rule, ...] = (
    Rule("energies", invariance.energies, 0.0, 0.0, "number not finite", "nothing can be computed with this potential"),
    Rule("inputs unchanged", invariance.inputs, 0.0, 0.0, "tensors changed", "a second evaluation gives other numbers"),
    Rule("batch = single", invariance.batching, 1e-12, 1e-4, "relative", "results depend on what else is in the batch"),
    Rule("no crosstalk", invariance.crosstalk, 0.0, 0.0, "eV/Å", "systems of a batch exert forces on each other"),
    Rule("translation", invariance.translation, 1e-9, 1e-3, "relative", "drifting atoms change their energy"),
    Rule(
        "rotation", invariance.rotation, 1e-9, 1e-3, "relative", "energies depend on orientation; modes are not rigid"
    ),
    Rule("permutation", invariance.permutation, 1e-9, 1e-3, "relative", "energies depend on the order of the atoms"),
    Rule("separation", invariance.separation, 1e-9, 1e-3, "relative", "molecules feel each other at any distance"),
    Rule("forces", slopes.forces, 1e-6, 1e-2, "relative", "optimisers stall and dynamics does not conserve energy"),
    Rule("stress", slopes.stress, 1e-6, 1e-2, "relative", "cells relax to a wrong volume or shape"),
    Rule("HVP", slopes.hvps, 1e-6, 1e-2, "relative", "curvature is wrong: frequencies, saddle points, training"),
    Rule("u·Hv = v·Hu", slopes.symmetry, 1e-9, 1e-3, "relative", "the Hessian is no second derivative of an energy"),
    Rule("Hessian = HVP", slopes.hessian, 1e-9, 1e-3, "relative", "Hessians and HVPs disagree"),
    Rule("Hessian sums", slopes.acoustic, 1e-9, 1e-3, "relative", "translations get a frequency"),
    Rule(
        "mode batched", slopes.batched_mode, 1e-9, 1e-3, "relative", "declared but wrong; leave out of derivative_modes"
    ),
    Rule("mode func", slopes.func_mode, 1e-9, 1e-3, "relative", "declared but wrong; leave out of derivative_modes"),
    Rule(
        "smooth along a path", smoothness.path, 1e-4, 1e-2, "relative", "a kink, or a surface too rough: HVPs mislead"
    ),
    Rule(
        "smooth at symmetry",
        smoothness.symmetric,
        1e-4,
        1e-2,
        "relative",
        "a spike of curvature at symmetric structures",
    ),
    Rule(
        "curvature jumps",
        smoothness.jumps,
        1e-6,
        5e-2,
        "relative jump",
        "frequencies jump along a path, and a gradient of an HVP loss misses the jumps",
    ),
    *(
        Rule(
            f"cutoff: {name}",
            partial(smoothness.crossing, order=order),
            1e-6,
            5e-2,
            "relative jump",
            consequence,
        )
        for order, (name, consequence) in enumerate(
            zip(
                smoothness.ORDERS,
                (
                    "energy is not conserved when atoms cross the cutoff",
                    "forces jump when atoms cross the cutoff: optimisers and dynamics fail",
                    "frequencies jump when atoms cross the cutoff",
                    "gradients of an HVP loss jump when atoms cross the cutoff: training on curvature is noisy",
                ),
                strict=True,
            )
        )
    ),
    Rule("zero vectors", slopes.degenerate, 0.0, 0.0, "number not finite", "training on curvature yields NaN"),
    Rule(
        "parameter gradient",
        slopes.parameters,
        1e-6,
        5e-2,
        "relative",
        "training on curvature follows a wrong gradient",
    ),
)


def check_potential(
    potential: Potential, frames: Sequence[Frame] | None = None, *, dtype: torch.dtype = torch.float64
) -> ConformanceReport:
    """Check a potential: invariances, derivatives against finite differences, smoothness, derivative modes.

    The potential itself is not touched: a copy is checked, in the dtype, its reference energies set to zero so that
    relative errors are errors of the interaction energy.

    Args:
        potential: Any potential.
        frames: Structures to check it on, molecules of two or more atoms and cells; by default a few of its species.
        dtype: float64, or float32 with tolerances that only show gross errors.

    Returns:
        A row for each check that applies; one that the potential answered with an exception has failed.

    Raises:
        PHLError: For another dtype, or frames with species that the potential does not know.
    """
    with own_modes(torch.device("cpu")):
        subject = Subject(potential, frames, dtype)
        rows = []
        for rule in RULES:
            tolerance = rule.tolerance if subject.dtype == torch.float64 else rule.single_precision
            try:
                measured = rule.measure(subject)
                value, note = (measured.value, measured.note) if isinstance(measured, Measured) else (measured, "")
            except Exception as error:  # a potential that cannot do it is a result
                value, note = float("nan"), first_line(error)
            if value is not None:
                passed = bool(value <= tolerance)
                rows.append(Check(rule.name, passed, value, tolerance, rule.unit, rule.consequence, note))
        return ConformanceReport(getattr(potential, "name", type(potential).__name__), tuple(rows), costs(subject))
