"""Guesses of transition states from reactant and product."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, fcc100, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from clusters import Broken, raises
from scipy.spatial.transform import Rotation

from phl_ase.curvature import curvature_of
from phl_ase.errors import PHLError
from phl_ase.paths import PATH_METHODS, guess_transition_state, rmsd, search
from phl_ase.paths import guess as guess_module
from phl_ase.resolver import resolve_calculator


def hcn():
    return Atoms("CNH", [[0, 0, 0], [0, 0, 1.153], [0, 0, -1.066]])


def hnc():
    """On a line with HCN, but turned away and elsewhere."""
    atoms = Atoms("CNH", [[0, 0, 0], [0, 0, 1.170], [0, 0, 2.170]])
    atoms.positions = atoms.positions @ Rotation.from_euler("x", 70, degrees=True).as_matrix().T + 2.0
    return atoms


@pytest.fixture(scope="module")
def gfn2():
    return resolve_calculator("tblite")


@pytest.mark.parametrize("method", PATH_METHODS)
def test_guess_leads_to_the_transition_state(method, gfn2):
    reactant, product = hcn(), hnc()
    before = product.positions.copy()
    guess = guess_transition_state(reactant, product, gfn2, method=method)
    assert (guess.method, len(guess.path), guess.force_calls, guess.reason) == (method, 11, 11, "")
    assert guess.atoms.calc is gfn2
    assert guess.index == 1 + np.argmax(guess.energies[1:-1])
    assert rmsd(guess.path[0], reactant) < 1e-6
    assert rmsd(guess.path[-1], product) < 1e-6
    np.testing.assert_array_equal(product.positions, before)
    # the hydrogen goes round: no image has atoms on top of each other
    assert min(image.get_all_distances()[np.triu_indices(3, 1)].min() for image in guess.path) > 0.7
    found = search(guess.atoms, "hessian-3", curvature_of(gfn2))
    assert found.converged, found.sentence
    # GFN2-xTB puts the hydrogen between the two, at 70° to the C-N axis seen from carbon
    assert 55 < found.atoms.get_angle(1, 0, 2) < 90
    assert found.analysis.wavenumbers[0] < -500


def test_elastic_band_improves_the_guess(gfn2):
    plain = guess_transition_state(hcn(), hnc(), gfn2, method="idpp", n_images=7)
    band = guess_transition_state(hcn(), hnc(), gfn2, method="idpp", n_images=7, neb_steps=15)
    assert band.reason == ""
    assert plain.energies[plain.index] - band.energies[band.index] > 0.3
    # each step moves the five between the ends; the ends are asked once
    assert 7 < band.force_calls <= 5 * 16 + 2
    np.testing.assert_allclose(band.path[0].positions, plain.path[0].positions, atol=1e-12)


def test_without_a_calculator_it_is_the_middle():
    guess = guess_transition_state(hcn(), hnc(), method="idpp", n_images=5)
    assert (guess.index, guess.energies, guess.force_calls, guess.atoms.calc) == (2, None, 0, None)
    again = guess_transition_state(hcn(), hnc(), method="idpp", n_images=5)
    np.testing.assert_array_equal(guess.atoms.positions, again.atoms.positions)


def test_geodesics_repeat_and_leave_the_global_generator_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = (guess_transition_state(hcn(), hnc(), method="geodesic") for _ in range(2))
    np.testing.assert_array_equal(first.atoms.positions, second.atoms.positions)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_hop_of_an_adatom():
    """Periodic, with fixed atoms: over the bridge between two hollows."""
    ends = []
    for hollow in ((0.5, 0.5), (1.5, 0.5)):
        atoms = fcc100("Cu", (2, 2, 2), vacuum=6)
        add_adsorbate(atoms, "Cu", 1.6, position=np.array(hollow) @ (atoms.cell[:2, :2] / 2))
        atoms.set_constraint(FixAtoms(range(8)))
        ends.append(atoms)
    guess = guess_transition_state(*ends, EMT())
    assert guess.method == "idpp"
    np.testing.assert_allclose(guess.atoms.positions[:8], ends[0].positions[:8], atol=1e-9)
    assert guess.energies[guess.index] == max(guess.energies)
    with pytest.raises(PHLError, match="periodic: take 'idpp'"):
        guess_transition_state(*ends, method="geodesic")


def test_automatic_choice(monkeypatch):
    assert guess_transition_state(hcn(), hnc(), n_images=3).method == "geodesic"
    monkeypatch.setattr(guess_module.importlib.util, "find_spec", lambda name: None)
    assert guess_transition_state(hcn(), hnc(), n_images=3).method == "idpp"
    with pytest.raises(PHLError, match=r"pip install 'phl-ase\[geodesic\]'"):
        guess_transition_state(hcn(), hnc(), method="geodesic")


@pytest.mark.parametrize(
    ("product", "options", "message"),
    [
        (molecule("H2O"), {}, "same atoms in the same order"),
        (hnc()[[1, 0, 2]], {}, "same atoms in the same order"),
        (hnc(), {"method": "geodesics"}, "unknown way to guess a path 'geodesics'; valid: auto, geodesic, idpp"),
        (hnc(), {"n_images": 2}, "at least 3"),
        (hnc(), {"neb_steps": 5}, "calculator"),
        (hnc(), {"neb_steps": -1}, "0 or more"),
        (hnc(), {"calculator": Broken(raises)}, "no energy for any image .*SCF did not converge"),
    ],
)
def test_mistakes(product, options, message):
    with pytest.raises(PHLError, match=message) as error:
        guess_transition_state(hcn(), product, **options)
    assert "\n" not in str(error.value)


def test_a_calculator_that_fails_at_an_image(gfn2):
    """That image is passed over; an elastic band that runs into it leaves the path as it was."""
    whole = guess_transition_state(hcn(), hnc(), gfn2, method="idpp", n_images=5)

    def fails_at_the_top(atoms):
        if rmsd(atoms, whole.path[whole.index]) < 1e-3:
            raise RuntimeError("SCF did not converge")
        copy = atoms.copy()
        copy.calc = gfn2
        return {"energy": copy.get_potential_energy(), "forces": copy.get_forces()}

    guess = guess_transition_state(hcn(), hnc(), Broken(fails_at_the_top), method="idpp", n_images=5, neb_steps=2)
    assert np.isnan(guess.energies[whole.index])
    assert guess.index != whole.index
    assert guess.reason == "RuntimeError: SCF did not converge"
    np.testing.assert_allclose(guess.path[2].positions, whole.path[2].positions, atol=1e-12)
