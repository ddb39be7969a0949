"""``phl check``: a potential is smooth, invariant and correctly differentiated."""

from __future__ import annotations

from typing import Annotated

import typer

from phl_ase.cli import options as opt
from phl_ase.cli.inputs import check_inputs
from phl_ase.cli.options import argument, option
from phl_ase.errors import PHLError

Models = Annotated[
    list[str],
    argument(
        "MODEL...",
        "Bundled names, .safetensors files, foreign models (mace:FILE, ani:FILE, aimnet:FILE, "
        "hippynn:FOLDER, graph-pes:FILE).",
    ),
]


def check(
    models: Models,
    markdown: Annotated[bool, option("--markdown", "One table, potential × what works.")] = False,
    trust: opt.Trust = False,
) -> None:
    """Check a potential: invariances, forces and Hessian-vector products against finite differences, smoothness, costs.

    The exit code is 1 when a check fails.

    phl check run/best.safetensors

    phl check mace:MACE.model ani:ani.pt --markdown
    """
    check_inputs(methods=models, trust=trust)
    from phl_ase.conformance import check_potential
    from phl_ase.conformance import markdown as table_of
    from phl_ase.resolver import resolve_calculator

    reports = []
    for model in models:
        calculator = resolve_calculator(model, device="cpu", dtype="float64", trust=trust)
        potential = getattr(calculator, "potential", None)
        if potential is None:
            raise PHLError(
                f"{model} is an ASE calculator ({type(calculator).__name__}); expected a potential, which gives "
                "energies that can be differentiated: a bundled name, a .safetensors file or an adapter"
            )
        reports.append(check_potential(potential))
        if not markdown:
            typer.echo(reports[-1].table())
    if markdown:
        typer.echo(table_of(reports))
    if not all(report.passed for report in reports):
        raise typer.Exit(1)
