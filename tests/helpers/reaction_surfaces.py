"""Surfaces whose reaction path is known in closed form: an arc of a circle with a double well along it."""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from phl_ase.paths.quadratic import Expansion

BARRIER, WELL, RADIUS = 1.0, 0.6, 1.1  # eV, rad from the TS to either minimum, Å


def double_well(angle):
    """Energy along the arc, eV; zero in the wells."""
    return BARRIER * ((angle / WELL) ** 2 - 1) ** 2


def double_well_slope(angle):
    return 4 * BARRIER / WELL * ((angle / WELL) ** 3 - angle / WELL)


def double_well_curvature(angle):
    return 4 * BARRIER / WELL**2 * (3 * (angle / WELL) ** 2 - 1)


def expand_arc(x: np.ndarray, stiffness: float = 30.0) -> Expansion:
    """E(r, θ) = double well of θ + ½ k (r − R)²: r and θ are orthogonal, so the circle r = R is a gradient line."""
    radius, angle = np.hypot(*x), np.arctan2(x[1], x[0])
    outward = x / radius
    along = np.array([-outward[1], outward[0]])
    slope, curvature = double_well_slope(angle), double_well_curvature(angle)
    pull = stiffness * (radius - RADIUS)
    cross = np.outer(outward, along) + np.outer(along, outward)
    return Expansion(
        point=x.copy(),
        energy=float(double_well(angle) + 0.5 * stiffness * (radius - RADIUS) ** 2),
        gradient=pull * outward + slope / radius * along,
        hessian=stiffness * np.outer(outward, outward)
        + (pull / radius + curvature / radius**2) * np.outer(along, along)
        - slope / radius**2 * cross,
    )


class Swing(Calculator):
    """H on an arc about C, seen from a CN bond too heavy to move: two stiff bonds, a double well of the angle.

    With the heavy atoms at rest the path is the arc: arc length √m_H · R · (angle − 90°), as closed a form as above.
    """

    implemented_properties = ["energy", "forces"]  # noqa: RUF012
    stiffness = 40.0
    bond = 1.15

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        h, c, n = atoms.positions
        short, long = np.linalg.norm(h - c), np.linalg.norm(n - c)
        to_h, to_n = (h - c) / short, (n - c) / long
        cosine = to_h @ to_n
        sine = np.sqrt(1 - cosine**2)
        angle = np.arccos(cosine) - np.pi / 2
        slope = double_well_slope(angle)
        on_h = self.stiffness * (short - RADIUS) * to_h + slope * (cosine * to_h - to_n) / (short * sine)
        on_n = self.stiffness * (long - self.bond) * to_n + slope * (cosine * to_n - to_h) / (long * sine)
        energy = double_well(angle) + 0.5 * self.stiffness * ((short - RADIUS) ** 2 + (long - self.bond) ** 2)
        self.results = {"energy": energy, "forces": -np.array([on_h, -on_h - on_n, on_n])}


def swing() -> Atoms:
    """The transition state of :class:`Swing`: a right angle."""
    atoms = Atoms("HCN", [[0, RADIUS, 0], [0, 0, 0], [Swing.bond, 0, 0]])
    atoms.set_masses([1.008, 1e6, 1e6])
    atoms.calc = Swing()
    return atoms


class Wing(Calculator):
    """A swing with a second H, whose planar place is a minimum on one side of the TS and a flat saddle on the other.

    ½ k (½ − angle / well) q² + c q⁴ of its height q over the plane: at +well the curvature is −k/2, and the minima lie
    at q = ±``height``. In the plane nothing pushes it out, and forces near it stay below 10⁻³ eV/Å.
    """

    implemented_properties = ["energy", "forces"]  # noqa: RUF012
    curvature, height = 0.003, 0.4  # eV/Å², Å

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        x = torch.tensor(atoms.positions, requires_grad=True)
        h, n, wing = x[0] - x[1], x[2] - x[1], x[3] - x[1]
        angle = torch.arccos(h @ n / (h.norm() * n.norm())) - np.pi / 2
        normal = torch.linalg.cross(h, n)
        q = wing @ normal / normal.norm()
        bonds = torch.stack([h.norm() - RADIUS, n.norm() - Swing.bond, wing.norm() - 1.1, (wing - n).norm() - 1.8])
        floating = 0.5 * self.curvature * (0.5 - angle / WELL) * q**2 + self.curvature / 8 / self.height**2 * q**4
        energy = double_well(angle) + 0.5 * Swing.stiffness * (bonds**2).sum() + floating
        energy.backward()
        self.results = {"energy": energy.item(), "forces": -x.grad.numpy()}


def wing() -> Atoms:
    """The transition state of :class:`Wing`: planar, a right angle."""
    along = (1.1**2 + Swing.bond**2 - 1.8**2) / (2 * Swing.bond)
    atoms = Atoms("HCNH", [*swing().positions, [along, -np.sqrt(1.1**2 - along**2), 0]])
    atoms.set_masses([1.008, 1e6, 1e6, 1.008])
    atoms.calc = Wing()
    return atoms
