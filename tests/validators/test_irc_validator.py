"""Validated reaction paths: GFN2-xTB against itself, closed forms against one another, and what is wrong on purpose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase.build import molecule
from reaction_surfaces import BARRIER, RADIUS, WELL, Swing, swing

from phl_ase.errors import PHLError
from phl_ase.paths import Reaction, find_reaction
from phl_ase.plots.irc import draw
from phl_ase.plots.style import to_png
from phl_ase.results import read_reports, render_table, write_json
from phl_ase.units import convert
from phl_ase.validators import ReferencePath, StationaryPoint, validate_irc
from phl_ase.validators.irc import IRC_OUTCOMES


class Scaled(Swing):
    """The same path, all energies 10 % larger."""

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        self.results = {name: 1.1 * value for name, value in self.results.items()}


@pytest.fixture(scope="module")
def reaction() -> Reaction:
    return find_reaction(swing())


@pytest.fixture(scope="module")
def reference(reaction) -> ReferencePath:
    return ReferencePath.of(reaction)


def validate(reference, calculator=None, ts=None, **options):
    names = {"system": "swing", "potential": "closed form"}
    return validate_irc(ts or swing(), calculator or Swing(), None, reference, **names, **options)


def value(report, name):
    return report.metric(name).value


def test_a_potential_agrees_with_itself(reference):
    report = validate(reference)
    assert report.outcome == "connects"
    assert value(report, "profile RMSE") < 1e-6
    assert value(report, "largest deviation") < 1e-6
    barrier = convert(BARRIER, "eV", "kcal/mol")
    for name in ("barrier forward", "barrier back"):
        assert value(report, name) == pytest.approx(barrier, abs=0.01)
        assert report.metric(name).reference == pytest.approx(barrier, abs=0.01)
        assert value(report, f"{name} error") == pytest.approx(0, abs=1e-6)
    assert value(report, "reaction energy") == pytest.approx(0, abs=1e-3)
    assert value(report, "first step overlap") > 0.999
    assert value(report, "Hessian calls") == 1
    assert value(report, "compared length") == pytest.approx(2 * np.sqrt(1.008) * RADIUS * WELL, abs=0.02)
    assert report.provenance["curvature"] == "finite differences of forces"
    assert report.validator == "irc"


def test_energies_that_are_a_tenth_too_large(reference):
    """10 % of every energy above the wells, at the same arc lengths."""
    report = validate(reference, Scaled())
    assert report.outcome == "connects"
    assert value(report, "barrier forward error") == pytest.approx(0.1 * convert(BARRIER, "eV", "kcal/mol"), rel=0.01)
    arrays = report.arrays
    lengths = arrays["reference_arc_length"]
    inside = (lengths >= arrays["arc_length"][0]) & (lengths <= arrays["arc_length"][-1]) & (lengths != 0)
    expected = np.sqrt(np.mean((0.1 * arrays["reference_energies"][inside]) ** 2))
    assert value(report, "profile RMSE") == pytest.approx(expected, rel=0.03)
    # stiffer in all directions alike: the path is the same
    assert value(report, "largest deviation") < 0.01


def test_direction_is_matched(reference):
    """The reference told from its other end, and with its minima exchanged."""
    turned = validate(reference.turned())
    assert turned.outcome == "connects"
    assert value(turned, "profile RMSE") < 1e-6
    exchanged = validate(replace(reference, reactant=reference.product, product=reference.reactant))
    assert exchanged.outcome == "connects"
    assert value(exchanged, "profile RMSE") < 1e-6
    np.testing.assert_allclose(exchanged.arrays["arc_length"], -turned.arrays["arc_length"][::-1])
    assert np.all(np.diff(exchanged.arrays["arc_length"]) > 0)


def test_points_past_a_minimum_are_left_out(reference):
    """As integrators leave them that overstep: uphill again."""
    beyond = swing()
    angle = np.pi / 2 + 1.4 * WELL * (1 if reference.structures[-1].get_angle(0, 1, 2) > 90 else -1)
    beyond.positions[0] = RADIUS * np.array([np.cos(angle), np.sin(angle), 0])
    longer = replace(
        reference,
        structures=(*reference.structures, beyond),
        energies=np.append(reference.energies, beyond.get_potential_energy()),
    )
    report = validate(longer)
    assert report.provenance["reference_points_past_a_minimum"] == 1
    assert value(report, "profile RMSE") < 1e-6


def test_unknown_energies_of_the_ends(reference):
    unknown = replace(
        reference, reactant=StationaryPoint(reference.reactant.atoms), product=StationaryPoint(reference.product.atoms)
    )
    report = validate(unknown)
    assert report.metric("barrier forward").reference is None
    assert np.isnan(value(report, "barrier forward error"))
    assert value(report, "barrier forward") > 0


def test_other_end_points(reference):
    far = reference.product.atoms.copy()
    far.positions[0] *= 1.5
    report = validate(replace(reference, product=StationaryPoint(far)))
    assert report.outcome == "one end"
    assert "0.15 Å" in report.sentence or "other bonds" in report.sentence


def test_no_transition_state(reference, tmp_path):
    """A minimum: the report says so, holds NaN where there is nothing, and can be shown, stored and drawn."""
    minimum = swing()
    minimum.positions[0] = RADIUS * np.array([-np.sin(WELL), np.cos(WELL), 0])
    report = validate(reference, ts=minimum)
    assert report.outcome == "no transition state"
    assert "0 imaginary modes" in report.sentence
    for name in ("profile RMSE", "barrier forward", "RMSD of reactant", "first step overlap"):
        assert np.isnan(value(report, name))
    assert value(report, "steps") == 0
    write_json(tmp_path / "report.json", report)
    (again,) = read_reports(tmp_path / "report.json")
    assert again.outcome == report.outcome
    assert "no transition state" in render_table([again])
    assert to_png(draw, [again, validate(reference)])[:4] == b"\x89PNG"


def test_points_run_out(reference):
    report = validate(reference, max_points=2)
    assert report.outcome == "not converged"
    assert value(report, "compared length") < 0.5


def test_figure():
    figure = draw([])
    assert len(figure.axes) == 1


def test_figure_has_a_panel_for_each_reaction(reference):
    reports = [validate(reference)]
    reports += [replace(reports[0], potential="other"), replace(reports[0], system="another", outcome="same end")]
    panels = [axes for axes in draw(reports).axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == ["swing", "another"]
    assert [len(axes.lines) for axes in panels] == [3, 2]
    assert "kcal" in panels[0].get_ylabel()
    assert "√amu" in panels[0].get_xlabel()
    assert "same end" in panels[1].texts[0].get_text()


def test_mistakes(reference):
    with pytest.raises(PHLError, match="same atoms"):
        validate(reference, ts=molecule("H2O"))
    with pytest.raises(PHLError, match="energies of shape"):
        validate(replace(reference, energies=reference.energies[1:]))
    with pytest.raises(PHLError, match="inside the path"):
        validate(replace(reference, ts_index=0))
    periodic = swing()
    periodic.set_cell([9, 9, 9])
    periodic.pbc = True
    with pytest.raises(PHLError, match="periodic"):
        validate(reference, ts=periodic)


def test_reference_needs_a_path():
    minimum = swing()
    minimum.positions[0] = RADIUS * np.array([-np.sin(WELL), np.cos(WELL), 0])
    with pytest.raises(PHLError, match="no path in both directions"):
        ReferencePath.of(find_reaction(minimum))


def test_every_outcome_has_a_sentence():
    assert all(IRC_OUTCOMES.values())
    assert "connects" in IRC_OUTCOMES
    assert "right bonds" not in IRC_OUTCOMES  # the same reaction, in another conformation
