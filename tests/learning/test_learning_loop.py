"""The loop of ``phl learn``: what it does where the model misleads it, and what its labels cost."""

from __future__ import annotations

from pathlib import Path

import ase.io
import pytest

from phl_ase.errors import PHLError
from phl_ase.jobs import open_store
from phl_ase.learning import LabelStore, LearnedCalculator, LearnOptions, learn_reaction, make_start
from phl_ase.paths import displaced

pytest.importorskip("tblite")


@pytest.fixture
def guess():
    from phl_ase.datasets import open_dataset, reactions_of
    from phl_ase.structures import atoms_from_frame

    with open_dataset("reactions-wb97xd-631gd") as dataset:
        return displaced(atoms_from_frame(reactions_of(dataset)["hcn_hnc"].transition_state), 0.05, 0)


def learnt(folder, guess, start="auto", budget=None, **options):
    from phl_ase.reference import difference_step
    from phl_ase.reference.methods import make_method

    calculator = LearnedCalculator(make_start(start, "tblite", guess))
    with open_store(folder) as kept:
        made = {"method": "tblite"}
        step = difference_step("tblite")
        store = LabelStore(kept, guess, lambda: make_method("tblite"), made, step=step, budget=budget)
        return learn_reaction(guess, None, store, calculator, LearnOptions(**{"ts_only": True, **options}))


def test_gradients_in_place_of_hvps_are_as_many_and_teach_no_hvp(tmp_path, guess):
    options = {"hvp": 1, "end_hvp": 1, "ts_only": False, "path_error": 10.0}
    stores = [learnt(tmp_path / kind, guess, labels=kind, **options).store for kind in ("hvp", "gradients")]
    assert [len(store.hvps) > 0 for store in stores] == [True, False]
    around = [[known for known in store.gradients if known.kind == "around"] for store in stores]
    assert [len(known) for known in around] == [0, 6]  # two for each of TS and ends
    assert len(stores[0].hvps) == 2 + 1 + 2 * (1 + 1)
    with pytest.raises(PHLError, match=r"'products'.*gradients, hvp"):
        LearnOptions(labels="products")


def test_where_the_model_misleads_the_search_goes_on_without_it(tmp_path, guess, monkeypatch):
    monkeypatch.setattr("phl_ase.learning.loop._Run._on_surrogate", lambda *_: None)
    found = learnt(tmp_path, guess)
    assert found.verified
    assert found.ts.label.fmax <= 0.02
    again = learnt(tmp_path, guess)  # all of it is there
    assert len(again.store) == len(found.store)
    assert len(again.store.hvps) == len(found.store.hvps)


def test_a_budget_ends_that_search_too(tmp_path, guess, monkeypatch):
    monkeypatch.setattr("phl_ase.learning.loop._Run._on_surrogate", lambda *_: None)
    found = learnt(tmp_path, guess, budget=5)
    assert found.outcome == "budget spent"
    assert len(found.store) <= 5


def test_where_the_model_leads_to_no_ts_the_reference_is_searched_on_from_the_guess(tmp_path, guess, monkeypatch):
    monkeypatch.setattr("phl_ase.learning.loop._Run._stationary", lambda *_: None)
    found = learnt(tmp_path, guess)
    assert found.verified
    assert found.ts.label.fmax <= 0.02
    assert found.ts.analysis.wavenumbers[0] < -900


def test_labels_beyond_the_memory_end_the_run(tmp_path, guess, monkeypatch):
    monkeypatch.setattr("phl_ase.learning.kernel.available_memory", lambda: 2000)
    found = learnt(tmp_path, guess)
    assert found.outcome == "out of memory"
    assert "--ts-only" in found.reason
    assert len(found.store) >= 1


def test_a_guess_leads_to_the_ts_beside_it(tmp_path):
    """The hydrogen transfer of malonaldehyde: the first corrected Hessian has no imaginary mode at the guess."""
    guess = ase.io.read(Path(__file__).parents[2] / "examples" / "structures" / "malonaldehyde_ts_guess.xyz")
    found = learnt(tmp_path / "work", guess)
    assert found.verified
    assert found.ts.analysis.wavenumbers[0] == pytest.approx(-1229, abs=30)
