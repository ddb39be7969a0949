"""``phl check``: whether a potential keeps the laws that its users rely on."""

from __future__ import annotations

import typer

from phl_ase.cli.options import Model, Trust
from phl_ase.errors import PHLError


def check(model: Model, trust: Trust = False) -> None:
    """Check a potential: invariances, forces and Hessian-vector products against finite differences, smoothness.

    The exit code is 1 when a check fails.

    phl check run/best.safetensors
    """
    from phl_ase.conformance import check_potential
    from phl_ase.resolver import resolve_calculator

    calculator = resolve_calculator(model, device="cpu", dtype="float64", trust=trust)
    potential = getattr(calculator, "potential", None)
    if potential is None:
        raise PHLError(
            f"{model} is an ASE calculator ({type(calculator).__name__}); expected a potential, which gives energies "
            "that can be differentiated: a bundled name, a .safetensors file or an adapter"
        )
    report = check_potential(potential)
    typer.echo(report.table())
    if not report.passed:
        raise typer.Exit(1)
