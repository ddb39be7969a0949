"""The bundled model ``organic``: molecules and a reaction that it never saw, against GFN2-xTB itself."""

from __future__ import annotations

import warnings
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from phl_ase.calculator import DomainWarning, PHLCalculator
from phl_ase.datasets import open_dataset
from phl_ase.paths import find_transition_state, relax
from phl_ase.potentials import read_card
from phl_ase.resolver import resolve_calculator
from phl_ase.trained_on import trained_on
from phl_ase.vibrations import finite_difference_hessian, harmonic_analysis

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "structures"


@pytest.fixture(scope="module")
def organic():
    return PHLCalculator("organic", device="cpu", out_of_domain="ignore")


@pytest.fixture(scope="module")
def xtb():
    return resolve_calculator("tblite", device="cpu", trust=False)


def with_calculator(atoms: Atoms, calculator) -> Atoms:
    atoms = atoms.copy()
    atoms.calc = calculator
    return atoms


@pytest.mark.parametrize(
    ("name", "inside"), [("CH3CH2OH", True), ("C2H6NH", True), ("C6H6", True), ("CH3CONH2", True), ("CH3", False)]
)
def test_what_it_knows(organic, name, inside):
    """Ethanol, dimethylamine, benzene, acetamide; but no radical."""
    assert organic.evaluate([molecule(name)], ("energy", "forces"))[0]["in_domain"] is inside


def test_default_names_the_model_that_would_know():
    atoms = with_calculator(molecule("CH3CH2OH"), PHLCalculator("default", device="cpu"))
    with pytest.warns(DomainWarning, match=r"\(bundled models that know it: organic \(GFN2-xTB\)\)"):
        atoms.get_potential_energy()
    known = with_calculator(molecule("CH3CH2OH"), PHLCalculator("organic", device="cpu"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", DomainWarning)
        known.get_potential_energy()


@pytest.mark.parametrize("name", ["CH3CH2OH", "C2H6NH", "CH3CONH2"])
def test_minima_and_frequencies_of_molecules(organic, xtb, name):
    """Ordinary bonds: smaller errors than along reaction paths."""
    atoms = relax(with_calculator(molecule(name), xtb), 0.005).atoms
    own = relax(with_calculator(atoms, organic), 0.005).atoms
    bonded = atoms.get_all_distances() < 1.7
    assert np.abs(own.get_all_distances() - atoms.get_all_distances())[bonded].max() < 0.02
    expected = harmonic_analysis(atoms, finite_difference_hessian(with_calculator(atoms, xtb))).wavenumbers
    found = harmonic_analysis(own, organic.get_hessian(own)).wavenumbers
    assert np.abs(found - expected).mean() < 40.0


def test_the_proton_transfer_of_malonaldehyde(organic, xtb):
    guess = ase.io.read(EXAMPLES / "malonaldehyde_ts_guess.xyz")
    wavenumbers = []
    for calculator in (organic, xtb):
        found = find_transition_state(with_calculator(guess, calculator))
        assert found.outcome == "converged"
        wavenumbers.append(found.analysis.wavenumbers[0])
    assert all(wavenumber < -600 for wavenumber in wavenumbers)
    assert wavenumbers[0] == pytest.approx(wavenumbers[1], rel=0.4)


def test_the_card_says_what_it_is_and_what_it_has_seen(organic):
    card = read_card("organic")["provenance"]
    assert card["level_of_theory"] == "GFN2-xTB"
    assert card["intended_use"]
    assert 0.0 < card["test_errors"]["all"]["hessian"] < 0.4
    frames = list(open_dataset("organic-gfn2xtb-sample"))
    assert trained_on(organic).seen(frames, valid=True).all()
