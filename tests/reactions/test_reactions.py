"""Reactions built from guesses: closed forms on an analytic surface, nothing computed twice, failures kept."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from reaction_surfaces import BARRIER, RADIUS, WELL, Swing, double_well_curvature, swing

from phl_ase.datasets import open_dataset
from phl_ase.errors import PHLError
from phl_ase.jobs import open_store
from phl_ase.reactions import ReactionGuess, ReactionSettings, build_reactions, read_strategy
from phl_ase.reactions.memory import LABEL_FILE, Memory, remembering
from phl_ase.reference import LabelMethod, LabelRequest, Probes
from phl_ase.resolver import resolve_calculator
from phl_ase.structures import atoms_from_frame
from phl_ase.units import wavenumbers

QUICK = ReactionSettings(temperatures=(300.0, 600.0), irc_points=3)
TINY = ReactionSettings(temperatures=(), irc_points=1)


class LoggedSwing(Swing):
    """The swing, which writes down what it computes, may be slow, stop, fail or refuse."""

    def __init__(self, log: str, *, stops: int = -1, seconds: float = 0.0, refuses: bool = False):
        super().__init__()
        self.log, self.stops, self.seconds, self.refuses = Path(log), stops, seconds, refuses

    def calculate(self, atoms=None, *arguments, **options):
        if self.refuses:
            raise PHLError("the swing takes no such molecule")
        with self.log.open("a") as file:
            file.write(atoms.positions.tobytes().hex() + "\n")
        time.sleep(self.seconds)
        if len(self.log.read_text().splitlines()) == self.stops:
            raise KeyboardInterrupt
        super().calculate(atoms, *arguments, **options)


def guess(name: str = "swing", degrees: float = 80.0) -> ReactionGuess:
    """The TS of the swing, displaced along its arc."""
    atoms = swing()
    angle = np.radians(degrees)
    atoms.positions[0] = [RADIUS * np.cos(angle), RADIUS * np.sin(angle), 0.0]
    return ReactionGuess(name, (atoms,))


def built(folder: Path, *, make=Swing, guesses=None, name="swing", settings=QUICK, out="out.h5", **options):
    method = LabelMethod(make, name)
    return build_reactions(guesses or [guess()], method, folder / out, settings=settings, **options)


@pytest.fixture(scope="module")
def reaction(tmp_path_factory):
    """One reaction of the swing with Hessians: the result, its frames, its folder."""
    folder = tmp_path_factory.mktemp("swing")
    result = built(folder, request=LabelRequest(hessian="differences"))
    with open_dataset(folder / "out.h5") as dataset:
        return result, list(dataset), dataset.meta, folder


# --------------------------------------------------------------------------------------------------- what is built


def test_numbers_are_those_of_the_closed_form(reaction):
    result, frames, _, _ = reaction
    found = result.reactions[0]
    assert (found.outcome, found.sentence) == ("finished", "")
    # forces below 0.005 eV/Å on a curvature of some eV/Å²: energies to 1e-5 eV
    assert found.barriers == pytest.approx((BARRIER, BARRIER), abs=1e-4)
    # the heavy atoms rest: a pendulum of hydrogen; its Hessian comes from differences of 0.005 Å
    exact = float(wavenumbers(double_well_curvature(0.0) / (1.008 * RADIUS**2)))
    assert found.imaginary == pytest.approx(exact, rel=2e-3)
    kinds = [frame.kind for frame in frames]
    assert {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)} == {
        "reactant": 1,
        "irc": 6,
        "ts": 1,
        "product": 1,
        "nms": 6,
    }
    ends = [frame.irc_s for frame in frames if frame.kind in ("reactant", "product")]
    length = np.sqrt(1.008) * RADIUS * WELL
    # the path stops where forces fall below 0.01 eV/Å, up to 0.03 Å before the minimum
    assert ends == pytest.approx([-length, length], abs=0.04)
    along = [frame.irc_s for frame in frames[: kinds.index("nms")]]
    assert along == sorted(along)
    # equally spaced, to half a step of the integrator
    assert np.diff(along) == pytest.approx(length / 4, abs=0.1)
    assert [frame.temperature for frame in frames if frame.kind == "nms"] == [300.0, 600.0] * 3


def test_labels_are_those_of_direct_calls(reaction):
    _, frames, meta, _ = reaction
    for frame in frames:
        atoms = atoms_from_frame(frame)
        atoms.calc = Swing()
        assert frame.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-12)
        np.testing.assert_allclose(frame.forces, atoms.get_forces(), atol=1e-12)
        assert frame.hessian.shape == (9, 9)
        assert frame.reaction == "swing"
    assert meta.level_of_theory == "Swing"
    assert "Hessians (central differences of 0.002 Å)" in meta.notes
    assert (meta.provenance["reactions"], meta.provenance["failed_reactions"]) == (1, 0)
    assert meta.provenance["settings"]["irc_points"] == 3


def test_the_log_tells_a_chemist(reaction):
    result, _, _, folder = reaction
    text = Path(result.reactions[0].log).read_text()
    assert folder / "out.h5.work" in Path(result.reactions[0].log).parents
    for words in ("transition state: converged", "1.0000 eV = 23.06 kcal/mol", "i, ", "points kept: 6", "gradients"):
        assert words in text
    exact = -float(wavenumbers(double_well_curvature(0.0) / (1.008 * RADIUS**2)))
    assert f"{exact:.0f}"[:3] in text


def test_other_labels_of_the_same_structures(reaction, tmp_path):
    result, frames, _, folder = reaction
    request = LabelRequest(probes=Probes("gaussian", 2, 3))
    again = built(folder, request=request, out="hvps.h5", work=folder / "out.h5.work")
    # two gradients an HVP, and energies and forces are known
    assert again.reactions[0].gradients == result.reactions[0].gradients + 4 * len(frames)
    with open_dataset(folder / "hvps.h5") as dataset:
        for one, other in zip(frames, dataset, strict=True):
            np.testing.assert_array_equal(one.positions, other.positions)
            exact = np.tensordot(other.probes, one.hessian.reshape(3, 3, 3, 3), axes=([1, 2], [2, 3]))
            # second order in 0.002 Å, on fourth derivatives of 1e3 eV/Å⁴
            np.testing.assert_allclose(other.hvp, exact, atol=2e-2)
        assert len({frame.probes.tobytes() for frame in dataset}) > len(frames) // 2
    assert built(folder, request=LabelRequest(hessian="differences"), work=folder / "out.h5.work").frames == len(frames)


@pytest.mark.parametrize("reverse", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_pair_becomes_a_reaction(tmp_path, reverse):
    ends = [guess("x", 90 - sign * np.degrees(WELL)).structures[0] for sign in (-1, 1)]
    pair = ReactionGuess("pair", tuple(ends[:: -1 if reverse else 1]))
    settings = ReactionSettings(temperatures=(), irc_points=1, guess="idpp")
    result = built(tmp_path, guesses=[pair], settings=settings)
    assert result.reactions[0].outcome == "finished"
    with open_dataset(tmp_path / "out.h5") as dataset:
        kinds = {frame.kind: frame for frame in dataset}
    for end, kind in zip(pair.structures, ("reactant", "product"), strict=True):
        found = atoms_from_frame(kinds[kind])
        # the relaxed one, in whatever frame: told by the angle
        assert found.get_angle(0, 1, 2) == pytest.approx(end.get_angle(0, 1, 2), abs=0.5)
    assert kinds["reactant"].irc_s < 0 < kinds["product"].irc_s


def test_a_path_to_other_ends_is_said(tmp_path):
    ends = [guess("x", degrees).structures[0] for degrees in (90 + np.degrees(WELL), 100.0)]
    result = built(tmp_path, guesses=[ReactionGuess("pair", tuple(ends))], settings=TINY)
    assert result.reactions[0].outcome == "other ends"
    assert result.frames > 3


def test_a_path_to_radicals_is_said_and_no_part_of_the_data(tmp_path, monkeypatch):
    monkeypatch.setattr("phl_ase.reactions.stages.radicals", lambda atoms: "CH3 + CH3")
    result = built(tmp_path, settings=TINY)
    assert result.reactions[0].outcome == "radicals"
    assert "an end of the path is CH3 + CH3" in result.reactions[0].sentence
    with open_dataset(tmp_path / "out.h5") as dataset:
        assert not {"reactant", "product", "irc"} & {frame.kind for frame in dataset}
    ion = guess()
    ion.structures[0].info["charge"] = 1
    assert built(tmp_path, guesses=[ion], settings=TINY, out="ion.h5").reactions[0].outcome == "finished"


# ----------------------------------------------------------------------------------------------- stopped and continued


def geometries(log: Path) -> list[str]:
    return log.read_text().splitlines()


def test_interrupted_and_continued_nothing_is_computed_twice(tmp_path):
    whole = built(tmp_path, make=partial(LoggedSwing, str(tmp_path / "whole")), out="whole.h5")
    total = len(geometries(tmp_path / "whole"))
    log = tmp_path / "log"
    stops = [5, total // 2, total - 3]
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            built(tmp_path, make=partial(LoggedSwing, str(log), stops=stop))
        assert not (tmp_path / "out.h5").exists()
    result = built(tmp_path, make=partial(LoggedSwing, str(log)))
    # each stop lost the one calculation that it was in
    assert len(geometries(log)) == total + len(stops)
    assert len(set(geometries(log))) == len(set(geometries(tmp_path / "whole")))
    assert result.reactions[0].gradients == whole.reactions[0].gradients
    with open_dataset(tmp_path / "whole.h5") as one, open_dataset(tmp_path / "out.h5") as other:
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a.positions, b.positions)
            np.testing.assert_array_equal(a.forces, b.forces)
    before = geometries(log)
    built(tmp_path, make=partial(LoggedSwing, str(log)))
    assert geometries(log) == before


def test_half_a_line_is_dropped(tmp_path):
    memory = Memory(tmp_path / LABEL_FILE)
    atoms = swing()
    for _ in range(2):
        atoms.rattle(0.01, seed=len(memory.path.read_bytes()) if memory.path.exists() else 0)
        atoms.calc = remembering(Swing(), memory)
        atoms.get_forces()
    content = memory.path.read_bytes()
    memory.path.write_bytes(content[:-7])
    again = Memory(memory.path)
    assert again.count("energy") == 1
    assert memory.path.read_bytes() == content[: content.index(b"\n") + 1]
    memory.path.write_bytes(b'{"energy": 1}\n')
    with pytest.raises(PHLError, match=r"line 1 of .* is damaged; delete it"):
        Memory(memory.path)


def test_a_full_disk_is_no_failed_search(tmp_path, monkeypatch):
    opened = Path.open

    def full(self, mode="r", *arguments, **options):
        if mode == "a" and self.name == LABEL_FILE:
            raise OSError(28, "No space left on device")
        return opened(self, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(PHLError, match="No space left on device"):
        built(tmp_path)
    assert not list(tmp_path.glob("*/??/*.*"))


SCRIPT = """
import sys
sys.path[:0] = {tests!r}
from functools import partial
from pathlib import Path
from test_reactions import TINY, LoggedSwing, built, guess
if __name__ == "__main__":
    built(
        Path({folder!r}), make=partial(LoggedSwing, {log!r}, seconds={seconds}), workers={workers},
        guesses=[guess("one"), guess("two", 85.0)], settings=TINY,
    )
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_and_continued(tmp_path, workers):
    """kill -9 in the middle loses one calculation of each worker; workers end with who started them."""
    log, script = tmp_path / "log", tmp_path / "run.py"
    known = {
        "tests": [str(Path(__file__).parent), str(Path(__file__).parents[1] / "helpers")],
        "folder": str(tmp_path),
        "log": str(log),
        "workers": workers,
    }

    def started(seconds: float) -> subprocess.Popen:
        script.write_text(SCRIPT.format(**known, seconds=seconds))
        return subprocess.Popen([sys.executable, str(script)], env=os.environ | {"OMP_NUM_THREADS": "1"})

    process = started(0.1)
    deadline = time.monotonic() + 400
    while not (log.exists() and len(geometries(log)) > 40) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1.0)
    killed = geometries(log)
    time.sleep(1.0)
    assert geometries(log) == killed  # no orphan goes on
    assert started(0.0).wait() == 0
    repeated = len(geometries(log)) - len(set(geometries(log)))
    assert repeated <= workers
    with open_dataset(tmp_path / "out.h5") as dataset:
        assert sorted(set(dataset.reactions.tolist())) == ["one", "two"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_workers_give_the_same_numbers(tmp_path):
    """GFN2-xTB; each reaction has a calculator of its own, so that the order of reactions does not matter."""
    hcn = Atoms("CNH", [[0, 0, 0], [0, 0, 1.19], [0, 1.15, 0.3]])
    h2co = Atoms("OCH2", [[0, 0, 0.7], [0.1, 0, -0.5], [1.2, 0, 0.1], [-0.9, 0, -1.0]])
    guesses = [ReactionGuess("hcn", (hcn,)), ReactionGuess("h2co", (h2co,))]
    results = [
        built(
            tmp_path,
            make=partial(resolve_calculator, "tblite"),
            name="tblite",
            guesses=guesses,
            out=f"{workers}.h5",
            workers=workers,
            request=LabelRequest(probes=Probes()),
            settings=ReactionSettings(temperatures=(500.0,), irc_points=2),
        )
        for workers in (1, 2)
    ]
    assert [r.outcome for r in results[0].reactions] == [r.outcome for r in results[1].reactions]
    assert results[0].frames == results[1].frames > 12
    with open_dataset(tmp_path / "1.h5") as one, open_dataset(tmp_path / "2.h5") as other:
        for a, b in zip(one, other, strict=True):
            # bits but for the order of sums in threads
            np.testing.assert_allclose(a.positions, b.positions, atol=1e-4)
            assert a.energy == pytest.approx(b.energy, abs=1e-5)
            np.testing.assert_array_equal(a.probes, b.probes)


# -------------------------------------------------------------------------------------------- what fails, and settings


class Choosy(Swing):
    """A swing that refuses guesses whose hydrogen starts on the left, and breaks down for those that start lower."""

    def calculate(self, atoms=None, *arguments, **options):
        if atoms.get_angle(0, 1, 2) > 150:
            raise PHLError("the swing takes no such molecule")
        if atoms.get_angle(0, 1, 2) < 50:
            raise RuntimeError("rope torn")
        super().calculate(atoms, *arguments, **options)


def test_failures_are_kept_and_reported(tmp_path):
    resting = 90 - np.degrees(WELL)
    guesses = [guess("good"), guess("left", 160.0), guess("torn", 45.0), guess("resting", resting)]
    result = built(tmp_path, make=Choosy, guesses=guesses)
    outcomes = {r.name: (r.outcome, r.sentence) for r in result.reactions}
    assert outcomes["good"] == ("finished", "")
    assert outcomes["left"] == ("refused", "the swing takes no such molecule")
    assert outcomes["torn"][0] == "no transition state"
    assert "rope torn" in outcomes["torn"][1]
    assert outcomes["resting"][0] == "minimum"
    assert "the guess is a minimum" in outcomes["resting"][1]
    with open_dataset(tmp_path / "out.h5") as dataset:
        assert set(dataset.reactions.tolist()) == {"good"}
        recorded = dataset.meta.provenance
        assert "3 of 4 reactions are not finished" in dataset.meta.notes
    assert {f["reaction"]: f["outcome"] for f in recorded["failures"]} == {
        "left": "refused",
        "torn": "no transition state",
        "resting": "minimum",
    }
    assert "rope torn" in Path(result.reactions[2].log).read_text()


def test_what_failed_is_tried_again_when_asked(tmp_path):
    log = tmp_path / "log"
    refusing = partial(LoggedSwing, str(log), refuses=True)
    assert built(tmp_path, make=refusing, settings=TINY).path is None
    options = {"make": partial(LoggedSwing, str(log)), "settings": TINY}
    assert built(tmp_path, **options).reactions[0].outcome == "refused"
    assert built(tmp_path, **options, retry=True).reactions[0].outcome == "finished"


def test_another_guess_after_a_failure(tmp_path):
    resting = [guess("swing", 90 - np.degrees(WELL))]
    assert built(tmp_path, guesses=resting, settings=TINY).reactions[0].outcome == "minimum"
    assert built(tmp_path, settings=TINY).reactions[0].outcome == "finished"


@pytest.mark.parametrize(
    ("change", "more"),
    [
        # two points more on each side; those of another number lie elsewhere on a path that is known
        ({"settings": ReactionSettings(temperatures=(), irc_points=5)}, 0),
        ({"settings": ReactionSettings(temperatures=(300.0,), irc_points=1)}, 3),
        ({"guesses": [guess(degrees=81.0)]}, None),
        ({"name": "another"}, None),
    ],
)
def test_a_work_folder_serves_several_settings(tmp_path, change, more):
    """Nothing is refused; what is computed anew is what depends on the change, and no calculation is repeated."""
    log = tmp_path / "log"
    make = partial(LoggedSwing, str(log))
    first = built(tmp_path, make=make, settings=TINY)
    before = geometries(log)
    other = built(tmp_path, make=make, **{"settings": TINY, **change}, out="other.h5", work=tmp_path / "out.h5.work")
    assert other.reactions[0].outcome == "finished"
    added = len(geometries(log)) - len(before)
    assert added == more if more is not None else added > 0
    again = built(tmp_path, make=make, settings=TINY)
    assert (again.frames, len(geometries(log))) == (first.frames, len(before) + added)


def test_other_settings_of_samples_draw_samples_alone_anew(tmp_path):
    """A data set grows by displaced structures; nothing that was computed is computed again."""
    log = tmp_path / "log"
    make = partial(LoggedSwing, str(log))
    first = built(tmp_path, make=make)
    before = log.read_text().splitlines()
    settings = dataclasses.replace(QUICK, displacements=(0.05, 0.1, 0.15))
    second = built(tmp_path, make=make, settings=settings)
    with open_dataset(tmp_path / "out.h5") as dataset:
        frames = list(dataset)
    assert len(log.read_text().splitlines()) == len(before) + 3
    assert second.frames == first.frames + 3
    assert [frame.kind for frame in frames[-3:]] == ["displaced"] * 3
    ts = next(frame for frame in frames if frame.kind == "ts")
    sizes = [np.sqrt(((frame.positions - ts.positions) ** 2).sum(axis=1).mean()) for frame in frames[-3:]]
    assert sizes == pytest.approx([0.05, 0.1, 0.15])
    third = built(tmp_path, make=make, settings=QUICK)
    assert third.frames == first.frames
    assert len(log.read_text().splitlines()) == len(before) + 3


def test_the_second_of_two_runs_is_refused(tmp_path):
    with open_store(tmp_path / "out.h5.work"), pytest.raises(PHLError, match="in use by another run"):
        built(tmp_path, settings=TINY)
    assert built(tmp_path, settings=TINY).frames > 0


def test_results_that_are_damaged_are_named(tmp_path):
    built(tmp_path, settings=TINY)
    for file in sorted(tmp_path.glob("out.h5.work/??/*.npz")):
        content = file.read_bytes()
        file.write_bytes(content[:50])
        with pytest.raises(PHLError, match=rf"{file.name} is damaged .*delete it"):
            built(tmp_path, settings=TINY)
        file.write_bytes(content)


# ------------------------------------------------------------------------------------------------------------ mistakes

OVERLAPPING = Atoms("HCN", [[0, 0, 0], [0, 0, 0.2], [0, 0, 1.3]])


@pytest.mark.parametrize(
    ("name", "structures", "words"),
    [
        ("..", (swing(),), "expected a name of letters or digits"),
        ("x", (), "expected a TS guess, or both ends"),
        ("x", (Atoms("H"),), "a reaction needs at least 2"),
        ("x", (Atoms("H2", [[0, 0, 0], [0, 0, 0.7]], cell=[9, 9, 9], pbc=True),), "is periodic"),
        ("x", (OVERLAPPING,), r"atoms 0 \(H\) and 1 \(C\) overlap, 0.20 Å apart"),
        ("x", (Atoms("H2", [[0, 0, np.nan], [0, 0, 0.7]]),), "expected finite numbers"),
        ("x", (swing(), swing()[[1, 0, 2]]), "expected the same atoms in one order"),
        ("x", (swing(), OVERLAPPING), "x, product: atoms 0"),
        ("x", (Atoms("H2", [[0, 0, 0], [0, 0, 0.7]], info={"multiplicity": 0.5}),), "expected a whole number"),
    ],
)
def test_guesses_that_cannot_be(name, structures, words):
    with pytest.raises(PHLError, match=words):
        ReactionGuess(name, structures)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"guesses": [guess("a"), guess("a")]}, "two reactions are called 'a'"),
        ({"guesses": [guess("a b"), guess("a/b")]}, "which share a folder"),
        ({"out": "out.xyz"}, r"expected a name ending in \.h5"),
        ({"out": "nowhere/out.h5"}, "does not exist"),
        ({"workers": 0}, "expected at least 1"),
    ],
)
def test_requests_that_cannot_be(tmp_path, options, words):
    with pytest.raises(PHLError, match=words):
        built(tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_an_output_that_exists(tmp_path):
    (tmp_path / "out.h5").write_text("mine")
    with pytest.raises(PHLError, match=r"out\.h5 exists; choose another name"):
        built(tmp_path)
    assert (tmp_path / "out.h5").read_text() == "mine"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"strategies": (("fast", None),)}, "unknown Sella strategy 'fast'"),
        ({"guess": "magic"}, "unknown way to guess a path"),
        ({"irc_method": "euler"}, "unknown integrator"),
        ({"ts_fmax": 0.0}, "ts_fmax is 0.0"),
        ({"temperatures": (300.0, -1.0)}, "expected positive numbers in K"),
        ({"temperatures": (300.0, 300.0)}, "expected each once"),
        ({"samples": -1}, "samples is -1"),
        ({"displacements": (0.0,)}, "expected positive numbers in Å"),
    ],
)
def test_settings_that_cannot_be(settings, words):
    with pytest.raises(PHLError, match=words):
        ReactionSettings(**settings)


def test_ways_are_read():
    assert read_strategy("hessian-3") == ("hessian-3", None)
    assert read_strategy("gradients:cartesian") == ("gradients", False)
    with pytest.raises(PHLError, match="unknown kind of coordinates 'polar'"):
        read_strategy("gradients:polar")
