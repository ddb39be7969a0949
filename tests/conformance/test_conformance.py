"""What ``phl check`` says beyond pass or fail: where curvature jumps, how wrong gradients are, what modes cost."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from surfaces import morse
from torch import nn
from typer.testing import CliRunner

from phl_ase.cli.app import app
from phl_ase.conformance import RULES, Check, ConformanceReport, check_potential, default_frames, markdown
from phl_ase.conformance.costs import costs
from phl_ase.conformance.invariance import inputs
from phl_ase.conformance.slopes import parameters
from phl_ase.conformance.smoothness import jumps
from phl_ase.conformance.subject import Subject
from phl_ase.potentials.radial import envelope

CUTOFF, PLACE, STIFFNESS = 4.0, 2.3, 5.0


class Spring(nn.Module):
    """A smooth pair surface, and beyond a distance a spring of power ``power``: its second derivative jumps for 2."""

    species = (1,)
    cutoffs = (CUTOFF,)
    receptive_field = CUTOFF
    derivative_modes = ("batched", "loop")
    takes_charge = False

    def __init__(self, power: int) -> None:
        super().__init__()
        self.power = power
        self.weight = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

    def forward(self, batch):
        pairs = batch.neighbours[CUTOFF]
        r = batch.vectors(CUTOFF).square().sum(-1).sqrt()
        energy = 4.0 * (torch.exp(-3.2 * (r - 1.3)) - 2 * torch.exp(-1.6 * (r - 1.3))) * envelope(r / CUTOFF)
        beyond = torch.relu(r - PLACE) ** self.power
        # half of each pair from either side; the spring fades before the cutoff
        energy = 0.5 * self.weight * (energy + 0.5 * STIFFNESS * beyond * envelope(r / CUTOFF))
        system = batch.system.index_select(0, pairs.i)
        return energy.new_zeros(batch.n_systems).index_add(0, system, energy)


def subject(potential):
    return Subject(potential, None, torch.float64)


def test_a_jump_of_the_curvature_is_found_and_placed():
    found = jumps(subject(Spring(2)))
    # by hand: along the axis one pair crosses PLACE, its second derivative jumps by STIFFNESS times the envelope there
    expected = STIFFNESS * envelope(torch.tensor([PLACE / CUTOFF])).item()
    assert f"jumps by {expected:.2g} eV/Å²" in found.note
    # the pair's own distance, or that at which the moving atom is PLACE from one of the two others
    near = float(found.note.rpartition("r = ")[2].split()[0])
    rest = np.array([[0.0, 0.0, 0.0], [1.0, 0.35, 0.0], [0.2, 1.0, 0.35]])
    moving = -near * np.array([2.0, 2.0, 1.0]) / 3.0
    assert np.abs(np.linalg.norm(rest - moving, axis=1) - PLACE).min() < 0.01
    assert found.value > 1e-3


@pytest.mark.parametrize("potential", [Spring(3), Spring(4), morse()], ids=["3", "4", "Morse"])
def test_what_does_not_jump_passes(potential):
    # with power 3 the third derivative jumps: the limit of no width leaves nothing of it but rounding
    assert jumps(subject(potential)).value < 1e-6


class Halved(Spring):
    """Half of the parameter gradient is lost on the way."""

    def forward(self, batch):
        energy = super().forward(batch)
        return 0.5 * energy + 0.5 * energy / self.weight * self.weight.detach()


def test_a_wrong_gradient_is_named_with_its_factor():
    found = parameters(subject(Halved(4)))
    assert found.value == pytest.approx(0.5, abs=1e-3)
    assert found.note == "E-F-HVP gradients of this model are 0.5 × what they should be"
    assert parameters(subject(Spring(4))).value < 1e-6


def test_costs_of_the_modes():
    rows = {cost.name: cost for cost in costs(subject(Spring(4)))}
    assert list(rows) == ["energies", "forces", "HVP, loop", "HVP, batched", "HVP, func"]
    assert rows["HVP, func"].note == "not declared"
    assert all(0 < cost.milliseconds < 1e5 for cost in rows.values())


class OwnGradient(Spring):
    """What torch.func refuses."""

    def forward(self, batch):
        batch.positions.requires_grad_()
        return super().forward(batch)


def test_a_mode_that_fails_is_a_line():
    (row,) = (cost for cost in costs(subject(OwnGradient(4))) if cost.name == "HVP, func")
    assert math.isnan(row.milliseconds)
    assert row.note == "not offered by this potential"


def test_a_potential_over_all_pairs_is_checked_on_molecules_alone():
    class AllPairs(Spring):
        cutoffs = (CUTOFF, math.inf)
        receptive_field = math.inf

    assert all(not frame.pbc.any() for frame in subject(AllPairs(4)).frames)
    assert any(frame.pbc.any() for frame in default_frames((1,)))
    assert jumps(subject(AllPairs(4))).value < 1e-6


def test_the_table_of_several_potentials():
    report = check_potential(morse(), default_frames((1, 6))[:2])
    assert report.passed, report.table()
    assert "cost, all frames together" in report.table()
    assert {rule.name for rule in RULES} >= {row.name for row in report.rows}
    empty = ConformanceReport("other", ())
    lines = markdown([report, empty]).splitlines()
    assert lines[0].startswith("| potential | energies, forces |")
    assert lines[2] == "| `Morse` | yes | – | yes | yes | yes | yes |"
    assert lines[3] == "| `other` | – | – | – | – | – | – |"
    assert len(lines) == 4


def test_the_table_says_how_much_is_wrong_and_what_it_means():
    checks = [
        Check("curvature jumps", False, 0.02, 1e-6, "relative jump", "frequencies jump", "by 1 eV/Å²"),
        Check("cutoff: Hessian", False, 0.3, 1e-6, "relative jump", "frequencies jump"),
        Check("zero vectors", False, math.nan, 0.0, "number not finite", "training yields NaN", "ValueError: no"),
        Check("HVP", True, 1e-9, 1e-6, "relative", "curvature is wrong"),
    ]
    _, _, row, empty, below = markdown([ConformanceReport("rough", tuple(checks))]).splitlines()
    assert row == "| `rough` | – | – | yes | – | no (3e-01) | no (2e-02) |"
    nearly = ConformanceReport("nearly", (dataclasses.replace(checks[0], value=5e-3), checks[3]))
    assert nearly.summary()["smooth Hessian"] == nearly.summary()["training on HVPs"] == "nearly (5e-03)"
    assert ConformanceReport("NaN", (checks[2],)).summary()["training on HVPs"] == "no"
    assert not empty
    assert below == (
        "- `rough`: curvature jumps 2e-02 [by 1 eV/Å²], cutoff: Hessian 3e-01, zero vectors nan [ValueError: no]: "
        "frequencies jump; training yields NaN"
    )


def test_the_table_in_the_docs_is_that_of_its_workflow(monkeypatch):
    root = Path(__file__).resolve().parents[2]
    monkeypatch.syspath_prepend(str(root / "workflows"))
    script = importlib.import_module("potential_table")
    rows = json.loads(script.RESULTS.read_text(encoding="utf-8"))["rows"]
    assert [row["potential"] for row in rows] == [*script.OURS, *script.FOREIGN]
    page = script.PAGE.read_text(encoding="utf-8")
    assert script.with_table(page, script.table_part(rows)) == page


class Noted(Spring):
    """Keeps something else than tensors in its state, as graph-pes does."""

    def get_extra_state(self):
        return {"seen": [1]}

    def set_extra_state(self, state):
        pass


def test_states_that_are_no_tensors():
    assert inputs(subject(Noted(4))) == 0.0


def test_the_command_makes_it(monkeypatch):
    report = ConformanceReport("a", ())
    monkeypatch.setattr("phl_ase.conformance.check_potential", lambda potential: report)
    monkeypatch.setattr("phl_ase.resolver.resolve_calculator", lambda model, **_: SimpleNamespace(potential=model))
    result = CliRunner().invoke(app, ["check", "default", "default#1", "--markdown"])
    assert result.exit_code == 0, result.output
    assert result.output.count("| `a` |") == 2


def test_no_graph_of_third_derivatives_holds_many_atoms():
    """A path of a thousand frames at once took 8 to 12 GB with a model of 128 channels."""
    largest = 0

    class Counting(Spring):
        def forward(self, batch):
            nonlocal largest
            largest = max(largest, len(batch.numbers))
            return super().forward(batch)

    assert check_potential(Counting(3)).rows
    assert largest <= 96
