"""``workflows/data_card.py``: the card says of each reaction what its structures and energies say."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from phl_ase.datasets import data_card, open_dataset, reactions_of

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
NAME = "reactions-wb97xd-631gd"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(WORKFLOWS))
    yield importlib.import_module("data_card")
    sys.modules.pop("data_card", None)


@pytest.fixture(scope="module")
def bundled():
    with open_dataset(NAME) as dataset:
        yield dataset


def test_the_card_in_the_package_is_that_of_the_data(script, bundled):
    assert data_card(NAME) == script.card(bundled)


@pytest.mark.parametrize(
    ("name", "higher", "lower"),
    [
        # which of two isomers is the stable one is chemistry that needs no calculation
        ("hcch_vinylidene", "H2CC", "HCCH"),
        ("hcn_hnc", "HNC", "HCN"),
        ("h2co_hcoh", "HCOH", "H2CO"),
        ("ch3nc_ch3cn", "CH3NC", "CH3CN"),
        ("nh2oh_nh3o", "NH3O", "NH2OH"),
        ("hnco_hocn", "HOCN", "HNCO"),
        ("hnnh_h2nn", "H2NN", "HNNH"),
        ("h2cnh_shift", "HCNH2", "H2CNH"),
        ("hcooh_h2o_co", "C(OH)2", "CO + H2O"),
    ],
)
def test_barriers_belong_to_the_end_that_they_are_measured_from(script, bundled, name, higher, lower):
    reaction = reactions_of(bundled)[name]
    ends = {script.formula(reaction.reactant): 0, script.formula(reaction.product): 1}
    assert set(ends) == {higher, lower}
    barriers = script.barriers(reaction)
    assert barriers[ends[higher]] < barriers[ends[lower]]
    (row,) = [line for line in script.reaction_rows(bundled)[0] if line.startswith(f"| {name} |")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    start, end = cells[1].split(" → ")
    there, back, difference = map(float, cells[3:])
    assert (there < back) == (start == higher)
    assert (difference < 0) == (end == lower)


def test_published_values_stand_beside_the_barrier_of_their_molecule(script, bundled):
    ours = {}
    for row in script.published_rows(bundled):
        name, start, _, published, here, _ = (cell.strip() for cell in row.strip("|").split("|"))
        ours[name, start] = float(published.split()[0]), float(here)
    # methyl isocyanide to acetonitrile: 38.4 kcal/mol observed; the way back is 23 higher
    assert ours["ch3nc_ch3cn", "CH3NC"] == pytest.approx((38.4, 41.3), abs=0.1)
    # classical barriers of W4 theory, which this functional meets within 2 kcal/mol
    for start in ("HCN", "HNC"):
        assert np.diff(ours["hcn_hnc", start])[0] == pytest.approx(0.0, abs=2.0)


def test_constitutions_are_told_apart(script):
    acid = molecule("HCOOH")
    assert script.species_of(acid) == (("HCOOH", "formic acid"),)
    water_and_co = molecule("H2O")
    far = molecule("CO")
    far.positions += 5.0
    assert script.species_of(water_and_co + far) == (("CO", "carbon monoxide"), ("H2O", "water"))
    with pytest.raises(SystemExit, match="not in SPECIES"):
        script.species_of(Atoms("CH", [[0, 0, 0], [0, 0, 1.1]]))


def test_turned_is_the_dihedral_that_changes(script):
    trans = molecule("H2O2")
    cis = trans.copy()
    cis.set_dihedral(2, 0, 1, 3, 30.0, indices=[3])
    start = round(trans.get_dihedral(2, 0, 1, 3))
    assert script.turned(trans, cis) in (f"H–O–O–H {start}° → 30°", f"H–O–O–H {360 - start}° → 330°")
    assert script.turned(trans, trans) == ""
