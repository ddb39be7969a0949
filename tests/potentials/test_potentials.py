"""Potentials: closed-form Hessians, sums, committees; and conformance: the wrong fails, and where it should."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from surfaces import ANALYTIC, POTENTIALS, cluster, crystal, mixed, morse, painn
from torch import nn

from phl_ase.conformance import RULES, check_potential, default_frames
from phl_ase.derivatives import evaluate
from phl_ase.errors import PHLError
from phl_ase.potentials import Committee, Harmonic, LennardJones, Morse, PaiNN, PaiNNConfig, Sum
from phl_ase.potentials.radial import bessel_basis, envelope
from phl_ase.structures import Frame, Potential, collate
from phl_ase.structures.blocks import blocked

every_potential = pytest.mark.parametrize("name", POTENTIALS)
every_analytic = pytest.mark.parametrize("name", ANALYTIC)


# ------------------------------------------------------------------------------------------------------- closed forms


@every_analytic
def test_closed_form_hessian(name, rng, device):
    potential = ANALYTIC[name]().to(device)
    batch = collate([*mixed(rng), crystal(rng, 1), crystal(rng, 2)], potential.cutoffs)[0].to(device)
    got = evaluate(potential, batch, ("hessian",)).hessian
    expected = potential.closed_form_hessian(batch)
    # both are exact: only rounding is left, relative to the stiffest pair
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12 * expected.abs().max().item())


@every_analytic
def test_slopes_of_pairs(name, float64):
    """The hand-derived φ′ and φ″ against automatic differentiation of φ."""
    potential = ANALYTIC[name]()
    r = float64(np.linspace(0.8, 3.4, 9)).requires_grad_()
    (first,) = torch.autograd.grad(potential.pair_energy(r).sum(), r, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), r)
    torch.testing.assert_close(potential.pair_slopes(r), (first, second), rtol=1e-12, atol=1e-12)


def test_pair_energies_by_hand(float64):
    """One pair and its envelope, from the textbook."""
    r, cutoff = 1.5, 4.0
    frame = Frame(numbers=np.array([1, 1]), positions=np.array([[0, 0, 0], [0, 0, r]], dtype=float))
    u = 1 - 84 * (r / cutoff) ** 6 + 216 * (r / cutoff) ** 7 - 189 * (r / cutoff) ** 8 + 56 * (r / cutoff) ** 9
    expected = {
        Harmonic(stiffness=3.0, length=1.2, cutoff=cutoff): 0.5 * 3.0 * 0.3**2,
        Morse(depth=0.9, steepness=1.6, length=1.3, cutoff=cutoff): 0.9 * ((1 - np.exp(-1.6 * 0.2)) ** 2 - 1),
        LennardJones(epsilon=0.3, sigma=1.1, cutoff=cutoff): 1.2 * ((1.1 / r) ** 12 - (1.1 / r) ** 6),
    }
    for potential, energy in expected.items():
        batch, _ = collate([frame], potential.cutoffs)
        assert potential(batch).item() == pytest.approx(energy * u, rel=1e-12)


def test_envelope_vanishes_with_three_derivatives():
    x = torch.ones(1, dtype=torch.float64, requires_grad=True)
    value = envelope(x)
    for _ in range(4):
        assert abs(value.item()) < 1e-9  # rounding of coefficients of some 1e4
        (value,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    assert value.item() == pytest.approx(6 * 7 * 8 * 9)


def test_bessel_basis_is_finite_and_vanishes_at_the_cutoff(float64):
    values = bessel_basis(float64([0.5, 3.0, 4.0 - 1e-9]), 4.0, 5)
    assert values.shape == (3, 5)
    assert torch.isfinite(values).all()
    assert values[-1].abs().max() < 1e-20


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_parameters_are_positive_numbers(value):
    with pytest.raises(PHLError, match=r"LennardJones epsilon is .*; expected a positive number"):
        LennardJones(epsilon=value, sigma=1.0, cutoff=3.0)
    with pytest.raises(PHLError, match="Morse cutoff is"):
        morse(value)


# ------------------------------------------------------------------------------------------------ the protocol, PaiNN


@every_potential
def test_protocol(name, rng, device):
    potential = POTENTIALS[name]().to(device)
    assert isinstance(potential, Potential)
    batch = collate(mixed(rng), potential.cutoffs)[0].to(device)
    energy = potential(batch)
    assert energy.shape == (4,)
    assert energy.dtype == torch.float64
    single = potential.float()(batch.to(dtype=torch.float32))
    assert single.dtype == torch.float64
    torch.testing.assert_close(single, energy, rtol=1e-4, atol=1e-4)


@every_potential
def test_masked_atoms_do_not_count(name, rng):
    import dataclasses

    potential = POTENTIALS[name]()
    batch, _ = collate([cluster(rng, 1), cluster(rng, 1)], potential.cutoffs)
    mask = torch.tensor([True, False])
    energy = potential(dataclasses.replace(batch, atom_mask=mask))
    assert energy[1] == 0
    assert energy[0] == potential(batch)[0]


def test_painn_adds_reference_energies_in_float64(rng):
    model = painn().float()
    frame = cluster(rng, 4)
    batch = collate([frame], model.cutoffs)[0].to(dtype=torch.float32)
    bare = model(batch)
    model.set_references(torch.tensor([-13.0, -1e6, -2e6]), 1.0)
    shift = sum({1: -13.0, 6: -1e6, 8: -2e6}[z] for z in frame.numbers.tolist())
    assert (model(batch) - bare).item() == pytest.approx(shift, abs=1e-8)


@pytest.mark.parametrize("setting", ["channels", "layers", "cutoff", "n_basis"])
def test_painn_settings_are_positive(setting):
    with pytest.raises(PHLError, match=f"PaiNN {setting} is 0; expected "):
        PaiNNConfig((1,), **{setting: 0})


def test_painn_needs_species():
    with pytest.raises(PHLError, match="at least one species"):
        PaiNNConfig(())


def test_painn_weights_come_from_the_generator():
    weights = [
        PaiNN(PaiNNConfig((1,), channels=4), torch.Generator().manual_seed(seed)).embedding for seed in (1, 1, 2)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


# ------------------------------------------------------------------------------------------------ sums and committees


class NotAModule:
    """A potential that is plain Python."""

    species = (1, 8)
    cutoffs = (3.0,)
    receptive_field = 9.0
    derivative_modes = ("loop", "batched")
    takes_charge = True

    def __call__(self, batch):
        return batch.positions.new_zeros(batch.n_systems).index_add(0, batch.system, batch.positions.square().sum(-1))


@pytest.mark.parametrize("plain", [False, True])
def test_sum(plain, rng):
    model, pair = painn(cutoff=4.0), NotAModule() if plain else morse(5.0)
    total = Sum([model, pair])
    assert isinstance(total, Potential)
    assert total.species == ((1, 8) if plain else (1, 6, 8))
    assert total.cutoffs == ((3.0, 4.0) if plain else (4.0, 5.0))
    assert total.receptive_field == (9.0 if plain else 8.0)
    assert total.derivative_modes == (("batched", "loop") if plain else ("func", "batched", "loop"))
    assert total.takes_charge is plain
    batch, _ = collate([cluster(rng, 3, species=(1, 8)), cluster(rng, 5, species=(1, 8))], total.cutoffs)
    torch.testing.assert_close(total(batch), model(batch) + pair(batch), rtol=1e-14, atol=0)
    assert len(list(total.parameters())) == len(list(model.parameters())) + (0 if plain else 3)


def test_hessian_of_a_sum_of_pairs(rng):
    parts = [ANALYTIC["morse"](), ANALYTIC["lennard-jones"]()]
    batch, _ = collate(mixed(rng), (4.0,))
    expected = sum(p.closed_form_hessian(batch) for p in parts)
    torch.testing.assert_close(evaluate(Sum(parts), batch, ("hessian",)).hessian, expected, rtol=0, atol=1e-10)


def test_committee(rng):
    members = [painn(k) for k in range(3)]
    committee = Committee(members)
    assert isinstance(committee, Potential)
    assert list(committee.members) == members
    batch, _ = collate(mixed(rng), committee.cutoffs)
    torch.testing.assert_close(committee(batch), sum(m(batch) for m in members) / 3, rtol=1e-13, atol=0)
    forces = [evaluate(m, batch, ("forces",)).forces for m in members]
    torch.testing.assert_close(evaluate(committee, batch, ("forces",)).forces, sum(forces) / 3, rtol=1e-10, atol=1e-12)


def test_state_of_a_combination_can_be_stored():
    one, other = Sum([painn(1), morse()]), Sum([painn(2), morse()])
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.members[0].embedding, other.members[0].embedding)


def stated(model, **provenance):
    model.provenance = provenance
    return model


def test_committee_members_agree():
    Committee([stated(painn(1), level_of_theory="DFT"), painn(2)])  # one says nothing
    Committee([stated(painn(1), level_of_theory="DFT"), stated(painn(2), level_of_theory="DFT")])
    with pytest.raises(PHLError, match=r"differ in species: \(1, 6\), \(1, 8\)"):
        Committee([painn(species=(1, 6)), painn(species=(1, 8))])
    with pytest.raises(PHLError, match="differ in level_of_theory: DFT, xTB"):
        Committee([stated(painn(1), level_of_theory="DFT"), stated(painn(2), level_of_theory="xTB")])
    with pytest.raises(PHLError, match="differ in energy_reference: absolute, atoms"):
        Committee([stated(painn(1), energy_reference="absolute"), stated(painn(2), energy_reference="atoms")])


@pytest.mark.parametrize("kind", [Sum, Committee])
def test_no_members(kind):
    with pytest.raises(PHLError, match=f"a {kind.__name__} needs at least one potential"):
        kind([])


def test_sum_without_common_species():
    with pytest.raises(PHLError, match=r"\[1, 6\], \[8\] have none in common"):
        Sum([painn(species=(1, 6)), painn(species=(8,))])


# -------------------------------------------------------------------------------------------------------- conformance


@every_potential
def test_every_potential_conforms(name):
    report = check_potential(POTENTIALS[name]())
    assert report.passed, "\n" + report.table()
    assert [row.name for row in report.rows] == [rule.name for rule in RULES]


def test_conformance_in_single_precision():
    report = check_potential(painn(), dtype=torch.float32)
    assert report.passed, "\n" + report.table()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@every_potential
def test_every_potential_conforms_on_a_gpu(name):
    report = check_potential(POTENTIALS[name]().to("cuda"))
    # sums are atomic additions in any order there: a rounding error more
    failed = [row for row in report.rows if not row.passed and not row.value < 1e-9]
    assert not failed, "\n" + report.table()


def test_conformance_leaves_the_potential_alone():
    model = POTENTIALS["painn"]()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.requires_grad_(False)
    check_potential(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(p.requires_grad for p in model.parameters())


def test_conformance_is_the_same_at_every_call():
    assert check_potential(morse()) == check_potential(morse())


def test_rows_that_do_not_apply_are_left_out(rng):
    report = check_potential(NotAModule(), [cluster(rng, 3, species=(1, 8))])
    names = {row.name for row in report.rows}
    assert names == {rule.name for rule in RULES} - {"stress", "mode func", "parameter gradient"}
    assert not report.row("translation").passed
    with pytest.raises(PHLError, match="unknown check 'stress'; valid: "):
        report.row("stress")


def test_table_says_what_a_failure_means():
    report = check_potential(Broken("leak"))
    table = report.table()
    assert "no crosstalk" in table
    assert "FAILED" in table
    assert "systems of a batch exert forces on each other" in table
    assert "frequencies jump" not in table


def test_default_frames():
    frames = default_frames((1, 8))
    assert [len(f) for f in frames] == [2, 4, 6, 4]
    assert {z for f in frames for z in f.numbers.tolist()} == {1, 8}
    assert [f.pbc.all() for f in frames] == [False, False, False, True]
    for frame in frames:
        batch, _ = collate([frame], (5.0,))
        assert batch.vectors(5.0).norm(dim=-1).min() > 0.9


def test_conformance_refuses_unknown_species_and_dtypes(rng):
    with pytest.raises(PHLError, match=r"atomic numbers \[8\]; the potential knows 1, 6"):
        check_potential(painn(species=(1, 6)), [Frame(numbers=np.array([8, 1]), positions=np.eye(3)[:2])])
    with pytest.raises(PHLError, match=r"unknown dtype of a conformance check torch.float16; valid: torch.float32"):
        check_potential(painn(), dtype=torch.float16)


# ----------------------------------------------------------------------------------- what is broken fails the right row


def pair_terms(batch, r):
    return 0.9 * (torch.exp(-3.2 * (r - 1.3)) - 2 * torch.exp(-1.6 * (r - 1.3)))


class Broken(nn.Module):
    """A Morse surface with one defect."""

    species = ()
    cutoffs = (4.0,)
    receptive_field = 4.0
    derivative_modes = ("func", "batched", "loop")
    takes_charge = False

    def __init__(self, defect: str) -> None:
        super().__init__()
        self.defect = defect
        self.weight = nn.Parameter(torch.linspace(-1, 1, 24, dtype=torch.float64))

    def forward(self, batch):
        pairs, vectors = batch.neighbours[4.0], batch.vectors(4.0)
        r = vectors.square().sum(-1).sqrt()
        x = r / 4.0
        atoms = lambda values: values.new_zeros(len(batch.numbers), *values.shape[1:]).index_add(0, pairs.i, values)  # noqa: E731
        systems = lambda values: values.new_zeros(batch.n_systems).index_add(0, batch.system, values)  # noqa: E731
        smooth = envelope(x)
        cut = {"no envelope": 1.0, "second order": 1 + x**5 * (-21 + x * (35 - 15 * x))}.get(self.defect, smooth)
        weight = self.weight.detach() if self.defect == "detached weight" else self.weight
        energy = systems(atoms(pair_terms(batch, r) * (cut * (1.0 + 0.1 * self.weight.square().mean()))))
        energy = energy + getattr(self, "_" + self.defect.replace(" ", "_"), lambda *_: 0.0)(
            batch, vectors, r, smooth, atoms, systems
        )
        if self.defect == "detached weight":
            energy = energy + systems(atoms(smooth * weight.sum().sin() * (self.weight[0] - 1).exp()))
        return energy

    def _leak(self, batch, vectors, r, u, atoms, systems):
        return 0.1 * systems(atoms(u)).mean()

    def _relu(self, batch, vectors, r, u, atoms, systems):
        hidden = torch.relu(atoms(u * r).unsqueeze(-1) - torch.linspace(0, 6, 24, dtype=r.dtype)) * self.weight
        return systems(hidden.sum(-1))

    def _celu(self, batch, vectors, r, u, atoms, systems):
        hidden = torch.celu(atoms(u * r).unsqueeze(-1) - torch.linspace(0, 6, 24, dtype=r.dtype)) * self.weight
        return systems(hidden.sum(-1))

    def _kinked_norm(self, batch, vectors, r, u, atoms, systems):
        dipole = atoms(vectors * (u / r).unsqueeze(-1))
        return systems(torch.sqrt(dipole.square().sum(-1) + 1e-10))

    def _bare_norm(self, batch, vectors, r, u, atoms, systems):
        return systems(atoms(vectors * (self.weight[0] * u / r).unsqueeze(-1)).square().sum(-1).sqrt())

    def _field(self, batch, vectors, r, u, atoms, systems):
        return systems(atoms(vectors[:, 0].square() * u))

    def _wall(self, batch, vectors, r, u, atoms, systems):
        return systems(batch.positions[:, 2].square())

    def _order(self, batch, vectors, r, u, atoms, systems):
        return systems(atoms(u) * batch.slot)

    def _detached(self, batch, vectors, r, u, atoms, systems):
        return systems(atoms(u * r.detach()))

    def _fixed_volume(self, batch, vectors, r, u, atoms, systems):
        # a long-range term that forgets the strain of the cell
        return (
            0.5 * (torch.linalg.det(batch.cell.detach()) - 30.0).square() * 0
            + systems(atoms(u)) * batch.cell.sum((1, 2)).detach().sin()
        )

    def _inplace(self, batch, vectors, r, u, atoms, systems):
        batch.cell.add_(0.1)
        return 0.0

    def _own_gradient(self, batch, vectors, r, u, atoms, systems):
        vectors.detach().clone().requires_grad_()  # what torch.func refuses
        return 0.0

    def _all_pairs(self, batch, vectors, r, u, atoms, systems):
        mean = systems(batch.positions[:, 0]) / batch.sizes()
        return systems((batch.positions[:, 0] - mean[batch.system]).square())

    def _raises(self, batch, vectors, r, u, atoms, systems):
        raise RuntimeError("out of ideas")


DEFECTS = {
    "no envelope": {"cutoff: energy", "cutoff: force", "cutoff: Hessian", "cutoff: third derivative"},
    "second order": {"cutoff: third derivative"},
    "leak": {"batch = single", "no crosstalk"},
    "relu": {"smooth along a path"},
    "celu": {"smooth along a path"},
    "kinked norm": {"smooth at symmetry"},
    "bare norm": {"zero vectors"},
    "field": {"rotation"},
    "wall": {"translation", "Hessian sums"},
    "order": {"permutation"},
    "detached": {"forces"},
    "fixed volume": {"stress"},
    "inplace": {"inputs unchanged"},
    "own gradient": {"mode func"},
    "all pairs": {"separation"},
    "detached weight": {"parameter gradient"},
    "raises": {rule.name for rule in RULES},
}


def test_the_surface_without_a_defect_conforms():
    report = check_potential(Broken("none"))
    assert report.passed, "\n" + report.table()


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_fails_its_rows(defect):
    report = check_potential(Broken(defect))
    failed = {row.name for row in report.rows if not row.passed}
    assert DEFECTS[defect] <= failed, "\n" + report.table()
    assert not report.passed


def test_only_the_third_derivative_suffers_from_an_envelope_of_second_order():
    report = check_potential(Broken("second order"))
    assert {row.name for row in report.rows if not row.passed} == {"cutoff: third derivative"}


def test_an_error_is_a_row():
    report = check_potential(Broken("raises"))
    row = report.row("forces")
    assert np.isnan(row.value)
    assert row.note == "RuntimeError: out of ideas"


def test_features_of_painn_are_those_of_atoms(rng):
    """Invariant under rotation, and the same where the batch is in blocks."""
    model = painn()
    batch = collate([cluster(rng, 3), cluster(rng, 5)], model.cutoffs)[0]
    found = model.features(batch)
    assert found.shape == (8, model.config.channels)
    rotation = torch.from_numpy(np.linalg.qr(rng.normal(size=(3, 3)))[0])
    torch.testing.assert_close(model.features(batch.moved(batch.positions @ rotation)), found, rtol=0, atol=1e-12)
    spread, place = blocked(batch)
    torch.testing.assert_close(model.features(spread)[place], found, rtol=0, atol=1e-12)
