"""Frequencies and thermochemistry against a frequency job of Gaussian 16, read with cclib."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.units import Bohr, Hartree, kcal, mol

from phl_ase.vibrations import harmonic_analysis, symmetry_number, thermochemistry

cclib = pytest.importorskip("cclib")

JOB = Path(__file__).parent / "data" / "divinylbenzene_gaussian16.fchk"
# of the log of the same job: 298.15 K, 1 atm, rotational symmetry number 2; corrections in Hartree
LOWEST = (53.1981, 84.7415, 149.4005, 179.3403)
ZERO_POINT, ENTHALPY, GIBBS = 0.177132, 0.186960, 0.143352


@pytest.fixture(scope="module")
def analysis():
    job = cclib.io.ccread(str(JOB), loglevel=logging.ERROR)
    atoms = Atoms(job.atomnos, job.atomcoords[-1])
    atoms.set_masses(job.atommasses)
    return harmonic_analysis(atoms, job.hessian * Hartree / Bohr**2)


def test_wavenumbers_are_gaussians(analysis):
    assert len(analysis.wavenumbers) == 54
    assert np.allclose(analysis.wavenumbers[:4], LOWEST, atol=1e-3)


def test_thermochemistry_is_gaussians(analysis):
    number = symmetry_number(analysis.atoms)
    assert number == 2
    found = thermochemistry(analysis, 0.0, symmetry_number=number)
    unit = kcal / mol
    assert found.zero_point_energy / unit == pytest.approx(ZERO_POINT * Hartree / unit, abs=0.01)
    assert found.enthalpy / unit == pytest.approx(ENTHALPY * Hartree / unit, abs=0.01)
    assert found.gibbs_energy / unit == pytest.approx(GIBBS * Hartree / unit, abs=0.01)
