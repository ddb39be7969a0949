"""Repulsive cores: closed forms, derivatives up to the third, cutoffs of pairs, and models that stand on them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from ase.data import covalent_radii
from ase.units import Bohr, Hartree
from safetensors import safe_open
from safetensors.torch import save_file
from surfaces import painn

from phl_ase.conformance import check_potential, default_frames
from phl_ase.conformance.subject import moved
from phl_ase.datasets import open_dataset
from phl_ase.derivatives import evaluate
from phl_ase.errors import PHLError
from phl_ase.potentials import CORES, ZBL, PaiNN, PaiNNConfig, load_model, save_model
from phl_ase.potentials.model import KeepsFloat64
from phl_ase.potentials.radial import envelope
from phl_ase.potentials.registry import build_model
from phl_ase.potentials.repulsion import core_named
from phl_ase.structures import Frame, collate

every_core = pytest.mark.parametrize("name", [name for name, kind in CORES.items() if kind])
PAIRS = [(1, 1), (1, 8), (6, 7), (8, 8), (29, 79)]


class Alone(KeepsFloat64):
    """A core as a potential, its list as long as its own cutoff: conformance looks at the jump there."""

    derivative_modes = ("func", "batched", "loop")
    takes_charge = False

    def __init__(self, name: str, z: int) -> None:
        super().__init__()
        reach = float(ZBL((z,), 5.0).pair_cutoffs[z, z])
        self.species, self.cutoffs, self.receptive_field = (z,), (reach,), reach
        self.core = core_named(name, self.species, 5.0)

    def forward(self, batch):
        (cutoff,) = self.cutoffs
        pairs = batch.neighbours[cutoff]
        r = batch.vectors(cutoff).square().sum(-1).sqrt()
        halves = 0.5 * self.core(r, batch.numbers[pairs.i], batch.numbers[pairs.j])
        return halves.new_zeros(batch.n_systems).index_add(0, batch.system[pairs.i], halves)


def pair(z: tuple[int, int], r: float) -> Frame:
    """Two atoms, askew."""
    axis = np.array([2.0, -1.0, 2.0]) / 3.0
    return Frame(numbers=np.array(z), positions=np.stack([np.zeros(3), r * axis]))


def compressed(species, factor: float = 0.62) -> list[Frame]:
    """The structures of ``phl check``, their nearest neighbours inside cores: 0.56 to 0.87 Å apart."""
    frames = default_frames(species)
    molecules = moved(frames[:3], [(factor - 1) * f.positions for f in frames[:3]])
    cell = frames[3]
    squeezed = Frame(numbers=cell.numbers, positions=factor * cell.positions, cell=factor * cell.cell, pbc=cell.pbc)
    return [*molecules, squeezed]


# ------------------------------------------------------------------------------------------------------- closed forms


@pytest.mark.parametrize("z", PAIRS)
@pytest.mark.parametrize("fraction", [0.02, 0.2, 0.6, 0.95])
def test_zbl_by_the_textbook(z, fraction, float64):
    """In atomic units, term by term, with the envelope in its expanded form."""
    reach = 0.8 * (covalent_radii[z[0]] + covalent_radii[z[1]])
    r = fraction * reach
    x = (r / Bohr) * (z[0] ** 0.23 + z[1] ** 0.23) / 0.8854
    screening = (
        0.18175 * np.exp(-3.1998 * x)
        + 0.50986 * np.exp(-0.94229 * x)
        + 0.28022 * np.exp(-0.4029 * x)
        + 0.02817 * np.exp(-0.20162 * x)
    )
    u = 1 - 84 * fraction**6 + 216 * fraction**7 - 189 * fraction**8 + 56 * fraction**9
    expected = Hartree * z[0] * z[1] / (r / Bohr) * screening * u
    got = ZBL(z, 5.0)(float64([r]), torch.tensor([z[0]]), torch.tensor([z[1]]))
    assert got.item() == pytest.approx(expected, rel=1e-9)  # the expanded envelope loses digits near the cutoff


def test_screening_is_complete_at_the_nucleus(float64):
    """At r → 0 the bare Coulomb law: e²/(4πε₀) = 14.3996 eV Å."""
    r = 1e-6
    energy = ZBL((6, 8), 5.0)(float64([r]), torch.tensor([6]), torch.tensor([8])).item()
    assert energy * r == pytest.approx(14.3996454 * 48, rel=2e-5)


@every_core
@pytest.mark.parametrize("z", PAIRS)
def test_three_derivatives(name, z, float64):
    """φ′, φ″ and φ‴ by differences of the order below, from deep inside to the cutoff."""
    core = core_named(name, tuple(sorted(set(z))), 5.0)
    reach = float(core.pair_cutoffs[z])
    first, second = torch.tensor(z).repeat(7, 1).T

    def ladder(r):
        r = r.clone().requires_grad_()
        values = [core(r, first, second)]
        for _ in range(3):
            values += torch.autograd.grad(values[-1].sum(), r, create_graph=True)
        return [value.detach() for value in values]

    r = float64(np.linspace(0.15, 0.97, 7)) * reach
    h = 1e-4 * reach
    exact = ladder(r)
    near = {k: ladder(r + k * h) for k in (-2, -1, 1, 2)}
    for order in range(3):
        slope = (8 * (near[1][order] - near[-1][order]) - (near[2][order] - near[-2][order])) / (12 * h)
        # rounding: 1e-16 / 1e-4 of the largest value; the error of the formula, h⁴ φ⁗, is smaller
        atol = 1e-10 * exact[order].abs().max().item() / reach
        torch.testing.assert_close(slope, exact[order + 1], rtol=1e-8, atol=atol)


@every_core
def test_repulsive_and_nothing_but_repulsive(name, float64):
    core = core_named(name, (1, 6, 7, 8), 5.0)
    r = torch.linspace(0.02, 3.0, 400, dtype=torch.float64, requires_grad=True)
    for z in ((1, 1), (1, 8), (6, 8)):
        first, second = torch.tensor(z).repeat(len(r), 1).T
        energy = core(r, first, second)
        (slope,) = torch.autograd.grad(energy.sum(), r)
        outside = r.detach() >= 0.8 * covalent_radii[list(z)].sum()
        assert (energy >= 0).all()
        assert (slope <= 0).all()
        assert not energy[outside].any()
        assert not slope[outside].any()


def test_a_core_ends_with_the_neighbour_list(float64):
    short = ZBL((6, 8), 0.9)
    numbers = torch.tensor([6]), torch.tensor([8])
    assert short(float64([0.9]), *numbers).item() == 0
    assert 0 < short(float64([0.85]), *numbers).item() < 0.1
    expected = ZBL((6, 8), 5.0).bare(float64([0.6]), *numbers) * envelope(float64([0.6 / 0.9]))
    assert short(float64([0.6]), *numbers).item() == pytest.approx(expected.item(), rel=1e-12)


@every_core
def test_bonds_feel_no_core(name):
    """The shortest distances of the bundled data but for what was pushed up the wall: the core adds 0.01 eV at most."""
    core = core_named(name, (1, 6, 7, 8), 5.0)
    dataset = open_dataset("reactions-wb97xd-631gd")
    for frame in dataset.frames(np.flatnonzero(dataset.kinds != "displaced").tolist()):
        i, j = np.triu_indices(len(frame), 1)
        r = torch.as_tensor(np.linalg.norm(frame.positions[i] - frame.positions[j], axis=1))
        numbers = torch.as_tensor(frame.numbers)
        assert core(r, numbers[i], numbers[j]).sum() < 0.011


# ------------------------------------------------------------------------------------------------------- conformance


@every_core
@pytest.mark.parametrize("z", [1, 6])
def test_a_core_alone_conforms(name, z):
    """Smooth at the cutoff of its pairs among others: list and core end at the same distance here."""
    potential = Alone(name, z)
    report = check_potential(potential, compressed((z,), potential.cutoffs[0] / 1.3))
    assert report.passed, "\n" + report.table()


@every_core
def test_a_model_on_a_core_conforms(name):
    """Inside cores: batches, cells, derivatives, and the parameter gradient of an HVP loss."""
    report = check_potential(painn(core=name), compressed((1, 6, 8)))
    assert report.passed, "\n" + report.table()


@every_core
def test_the_core_is_added_to_the_network(name):
    """And is most of the energy where atoms all but meet."""
    bare, model = painn(), painn(core=name)
    model.load_state_dict(bare.state_dict())
    frames = [pair((6, 8), 0.05), pair((6, 8), 0.9), pair((6, 8), 1.13)]
    batch, _ = collate(frames, model.cutoffs)
    core = core_named(name, (6, 8), 4.0)
    expected = core(torch.tensor([0.05, 0.9, 1.13], dtype=torch.float64), torch.tensor([6] * 3), torch.tensor([8] * 3))
    torch.testing.assert_close(model(batch) - bare(batch), expected, rtol=1e-9, atol=1e-9)
    assert expected[0] > 5e3


@every_core
@pytest.mark.parametrize("r", [0.011, 0.1, 0.5])
def test_single_precision_at_tiny_distances(name, r):
    model = painn(core=name)
    batch, _ = collate([pair((6, 8), r), pair((1, 1), r)], model.cutoffs)
    exact = evaluate(model, batch, ("energy", "forces", "hessian"))
    single = evaluate(model.float(), batch.to(dtype=torch.float32), ("energy", "forces", "hessian"))
    for name_ in ("energy", "forces", "hessian"):
        got, expected = getattr(single, name_).double(), getattr(exact, name_)
        assert torch.isfinite(got).all()
        # rounding of positions and weights alone, relative to the largest component
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-5 * expected.abs().max().item())


@every_core
def test_precision_survives_a_change_of_dtype(name):
    core = core_named(name, (1, 8), 5.0)
    before = {key: value.clone() for key, value in core.named_buffers()}
    core.float().double()
    assert all(torch.equal(value, before[key]) for key, value in core.named_buffers())


def test_reference_energies_survive_a_change_of_dtype():
    model = PaiNN(PaiNNConfig((1, 8), channels=4))
    model.set_references(torch.tensor([-13.6, -2041.123456789], dtype=torch.float64), 1.23456789012)
    model.double().float()
    assert model.reference_energies.tolist() == [-13.6, -2041.123456789]
    assert model.scale.item() == 1.23456789012


# ------------------------------------------------------------------------------------------------------ names, files


@pytest.mark.parametrize("name", CORES)
def test_the_card_says_the_core(tmp_path, name):
    model = painn(core=name)
    assert model.card()["config"]["core"] == name
    assert not [key for key in model.state_dict() if key.startswith("core")]
    back = load_model(save_model(tmp_path / "m", model, {}))
    batch, _ = collate([pair((6, 8), 0.7), *compressed((1, 6, 8))], model.cutoffs)
    assert torch.equal(back(batch), model.requires_grad_(False)(batch))


def test_a_file_without_a_core_keeps_its_meaning(tmp_path):
    """Files written before there were cores do not say ``core``."""
    model = painn()
    path = save_model(tmp_path / "old", model, {})
    with safe_open(path, framework="pt") as file:
        card = json.loads(file.metadata()["phl_ase"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    del card["config"]["core"]
    save_file(tensors, path, metadata={"phl_ase": json.dumps(card)})
    batch, _ = collate([pair((6, 8), 0.7)], model.cutoffs)
    back = load_model(path)
    assert back.config.core == "none"
    assert torch.equal(back(batch), model.requires_grad_(False)(batch))


def test_an_unknown_core_is_said():
    with pytest.raises(PHLError, match=r"unknown core 'hard'; valid: none, zbl"):
        PaiNNConfig((1,), core="hard")
    with pytest.raises(PHLError, match=r"unknown core 'hard'; valid: none, zbl"):
        build_model("painn", {"species": (1, 8), "core": "hard"})


@every_core
def test_an_element_without_a_radius_is_said(name):
    with pytest.raises(PHLError, match=r"no covalent radius is known of Og; expected core = 'none' with it"):
        build_model("painn", {"species": (1, 118), "channels": 4, "core": name})
    assert build_model("painn", {"species": (1, 118), "channels": 4}).species == (1, 118)
