"""Numbers do not depend on the mode of torch that the caller is in: inference, no gradients, autocast, defaults."""

from __future__ import annotations

import contextlib
import copy

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.optimize import BFGS

from phl_ase.calculator import PHLCalculator
from phl_ase.conformance import check_potential
from phl_ase.curvature import curvature_of
from phl_ase.derivatives import evaluate
from phl_ase.errors import PHLError
from phl_ase.potentials import PaiNN, PaiNNConfig
from phl_ase.structures import Frame, collate, frame_from_atoms
from phl_ase.training import RunData, parse_config, train

pytestmark = pytest.mark.filterwarnings("ignore::phl_ase.errors.DomainWarning")


def painn(**settings) -> PaiNN:
    config = {"species": (1, 8), "channels": 8, "cutoff": 4.0, "n_basis": 5, "core": "zbl"} | settings
    return PaiNN(PaiNNConfig(**config), torch.Generator().manual_seed(0)).double().requires_grad_(False).eval()


def water() -> Atoms:
    atoms = molecule("H2O")
    atoms.rattle(0.1, seed=1)
    return atoms


def ice() -> Atoms:
    """Water in a small cell, which has a stress."""
    atoms = water()
    atoms.set_cell([3.1, 3.3, 3.6])
    atoms.pbc = True
    return atoms


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


MODES = {
    "inference": torch.inference_mode,
    "no gradients": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "anomalies": lambda: torch.autograd.set_detect_anomaly(True),
    "saved on cpu": torch.autograd.graph.save_on_cpu,
    "half precision": lambda: default_dtype(torch.float16),
    "double precision": lambda: default_dtype(torch.float64),
    "forward mode": torch.autograd.forward_ad.dual_level,
}


def everything(calculator: PHLCalculator) -> dict[str, np.ndarray]:
    """All that a calculator can be asked for; each on a structure of its own, so that nothing is remembered."""
    vectors = np.random.default_rng(0).normal(size=(2, 3, 3))
    curvature = curvature_of(calculator)
    evaluated = calculator.evaluate([water(), molecule("H2")], ("energy", "forces", "hessian"))
    return {
        "energy": calculator.get_property("energy", water()),
        "forces": calculator.get_property("forces", water()),
        "stress": calculator.get_property("stress", ice()),
        "hvp": calculator.get_hvp(vectors, water()),
        "hessian": calculator.get_hessian(ice()),
        "rows": calculator.get_hessian(water(), indices=[1]),
        "sparse": calculator.get_sparse_hessian(water()).toarray(),
        "operator": calculator.hessian_operator(water()) @ vectors[0].ravel(),
        "lowest modes": calculator.get_lowest_modes(water(), k=2)[0],
        "curvature": curvature.hvp(vectors, water()),
        **{f"evaluate {k} {name}": v for k, one in enumerate(evaluated) for name, v in one.items()},
    }


MADE = {
    "single": (lambda: painn(channels=4), "float64"),
    "committee": (lambda: [painn(channels=4), painn(channels=4, cutoff=3.5)], "float64"),
    "float32": (lambda: painn(channels=4), "float32"),
}


@pytest.fixture(scope="module", params=MADE)
def made(request):
    """A model, a dtype, and what its calculator says outside of every mode."""
    make, dtype = MADE[request.param]
    model = make()
    return model, dtype, everything(PHLCalculator(model, "cpu", dtype))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_numbers_do_not_depend_on_the_mode(mode, made):
    model, dtype, expected = made
    # other orders of the same operations, of a Hessian of some 50 eV/Å²; autocast was 0.07 off
    tolerance = 1e-9 if dtype == "float64" else 1e-3
    outside = PHLCalculator(model, "cpu", dtype)
    with MODES[mode]():
        inside = PHLCalculator(model, "cpu", dtype)
        found = [everything(outside), everything(inside)]
        kept = inside.get_hvp(np.ones((3, 3)), water())
    # what was made and kept inside is used outside
    np.testing.assert_allclose(inside.get_hvp(np.ones((3, 3)), water()), kept, atol=tolerance)
    for one in (*found, everything(inside)):
        for name, value in one.items():
            np.testing.assert_allclose(value, expected[name], atol=tolerance, err_msg=name)


def test_a_distorted_molecule_relaxes_in_inference_mode():
    """Forces of zero counted as converged after no step."""
    atoms = water()
    atoms.calc = PHLCalculator("default", device="cpu")
    with torch.inference_mode():
        optimiser = BFGS(atoms, logfile=None)
        assert np.abs(atoms.get_forces()).max() > 3.0
        assert optimiser.run(fmax=0.01, steps=50)
    assert optimiser.nsteps > 3
    assert atoms.get_angle(1, 0, 2) == pytest.approx(104, abs=5)


@pytest.mark.parametrize("needs", [("energy",), ("forces",), ("stress",), ("hvp",), ("hessian",)])
def test_batches_of_inference_mode_are_evaluated_everywhere(needs):
    potential, frames = painn(species=(10,)), [frame_from_atoms(bulk("Ne", a=3.0))]
    with torch.inference_mode():
        batch, _ = collate(frames, potential.cutoffs)
        probes = torch.ones(2, len(batch.numbers), 3, dtype=torch.float64)
        inside = evaluate(potential, batch, needs, probes=probes)
    outside = evaluate(potential, batch, needs, probes=probes)
    clean = evaluate(potential, collate(frames, potential.cutoffs)[0], needs, probes=probes.clone())
    for found in (inside, outside):
        assert torch.equal(getattr(found, needs[0]), getattr(clean, needs[0]))


def test_a_potential_made_in_inference_mode_is_copied_or_refused():
    with torch.inference_mode():
        strange = painn()
    expected = PHLCalculator(painn(), device="cpu").get_hessian(water())
    np.testing.assert_allclose(PHLCalculator(strange, device="cpu").get_hessian(water()), expected, atol=1e-12)
    with torch.inference_mode():
        np.testing.assert_allclose(PHLCalculator(strange, device="cpu").get_hessian(water()), expected, atol=1e-12)
    batch, _ = collate([frame_from_atoms(water())], strange.cutoffs)
    with pytest.raises(PHLError, match=r"made inside torch\.inference_mode\(\).*copy\.deepcopy"):
        evaluate(strange, batch, ("forces",))
    assert evaluate(copy.deepcopy(strange), batch, ("forces",)).forces is not None


def test_conformance_does_not_depend_on_the_mode():
    with torch.inference_mode():
        report = check_potential(painn(channels=4))
    assert [row.name for row in report.rows if not row.passed] == []


def test_training_does_not_depend_on_the_mode(tmp_path):
    generator = np.random.default_rng(0)
    frames = [
        Frame(
            numbers=water().numbers,
            positions=water().positions + generator.normal(scale=0.05, size=(3, 3)),
            energy=float(generator.normal()),
            forces=generator.normal(size=(3, 3)),
            frame_id=k,
        )
        for k in range(6)
    ]
    settings = {"scheme": {"name": "E-F"}, "potential": {"channels": 4}, "training": {"epochs": 2, "device": "cpu"}}
    data, config = RunData(frames[:4], frames[4:]), parse_config(settings)
    plain = train(config, data, tmp_path / "plain")
    for name in ("inference", "autocast"):
        with MODES[name]():
            assert train(config, data, tmp_path / name).best_loss == plain.best_loss
