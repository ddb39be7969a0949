"""OpenREACT-CHON-EFH: files made to its layout from frames of ours come back; what is inconsistent is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from phl_ase.cli.app import app
from phl_ase.datasets import Dataset, import_dataset, open_dataset
from phl_ase.datasets.formats import format_of, openreact
from phl_ase.datasets.schema import units as inside
from phl_ase.errors import PHLError
from phl_ase.scoring import geometries
from phl_ase.structures.frame import Frame
from phl_ase.study.config import read_study
from phl_ase.study.plan import plan_runs
from phl_ase.units import convert

STORED = {"positions": "Å", "energy": "Ha", "forces": "Ha/Å", "hessian": "Ha/Å²"}
NAMES = {"positions": "coordinates", "energy": "energies", "forces": "forces", "hessian": "hessian"}


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    """Frames of two reactions, of every kind."""
    with open_dataset("reactions-wb97xd-631gd") as dataset:
        names = sorted(set(dataset.reactions.tolist()))
        return [frame for frame in dataset if frame.reaction in names[:2]]


def of_kind(frames: list[Frame], *kinds: str) -> list[Frame]:
    return [frame for frame in frames if frame.kind in kinds]


def write_openreact(path: Path, groups: dict[str, list[Frame]], **units: str) -> Path:
    """One group for each name, compressed as pyanitools does, beside an array that no program of theirs reads."""
    stored = {**STORED, **units}
    with h5py.File(path, "w") as file:
        for name, members in groups.items():
            group = file.create_group(name)
            symbols = members[0].numbers
            group["species"] = np.array([{1: b"H", 6: b"C", 7: b"N", 8: b"O"}[z] for z in symbols.tolist()])
            group["iform"] = np.array([b"0"])
            for label, unit in stored.items():
                plain = unit.lstrip("-")
                values = np.stack([np.asarray(getattr(frame, label)) for frame in members])
                values = convert(values, inside()[label], plain) * (-1 if plain != unit else 1)
                group.create_dataset(NAMES[label], data=values, compression="gzip", compression_opts=6)
    return path


def by_reaction(frames: list[Frame], named: bool = True) -> dict[str, list[Frame]]:
    groups: dict[str, list[Frame]] = {}
    for frame in frames:
        groups.setdefault(f"{frame.reaction}_{frame.kind}" if named else frame.reaction, []).append(frame)
    return groups


def imported(path: Path, **options) -> tuple[list[Frame], object]:
    report = import_dataset(path, path.parent / "imported.h5", **options)
    with Dataset(path.parent / "imported.h5") as dataset:
        dataset.verify()
        return dataset.frames(), report


def assert_labels(got: Frame, expected: Frame) -> None:
    np.testing.assert_array_equal(got.numbers, expected.numbers)
    for label in STORED:
        np.testing.assert_allclose(getattr(got, label), getattr(expected, label), rtol=1e-12, atol=1e-9)


# ------------------------------------------------------------------------------------------------------------ reading


@pytest.mark.parametrize("block", [1, 2**25])
def test_frames_come_back(tmp_path, monkeypatch, frames, block):
    monkeypatch.setattr(openreact, "_BLOCK", block)
    groups = by_reaction(of_kind(frames, "reactant", "product", "ts", "irc", "nms"))
    path = write_openreact(tmp_path / "molecules.h5", groups)
    with h5py.File(path, "r+") as file:  # atomic numbers do as well
        first = file[next(iter(groups))]
        del first["species"]
        first["species"] = next(iter(groups.values()))[0].numbers
    got, report = imported(path)
    expected = [frame for name in sorted(groups) for frame in groups[name]]
    assert (report.format, report.refused) == ("openreact", 0)
    assert (report.meta.level_of_theory, report.meta.energy_reference) == ("wB97X-D/6-31G(d)", "absolute")
    assert report.meta.provenance["rotational_rule"]["broken"] == 0
    assert any("rotational rule" in line and " 0 Hessians" in line for line in report.lines)
    assert [(frame.kind, frame.reaction) for frame in got] == [(frame.kind, frame.reaction) for frame in expected]
    for frame, original in zip(got, expected, strict=True):
        assert_labels(frame, original)


@pytest.mark.parametrize(
    ("group", "file", "kind", "reaction"),
    [
        ("/rxn0001_ts", "molecules-RTP.h5", "ts", "rxn0001"),
        ("/rxn0001/reactant", "molecules-RTP.h5", "reactant", "rxn0001"),
        ("/rxn0001_P", "molecules-RTP.h5", "product", "rxn0001"),
        ("/irc/rxn0001", "a.h5", "irc", "rxn0001"),
        ("/TS_rxn0001", "a.h5", "ts", "rxn0001"),
        ("/rxn0001", "54948347_molecules-IRC.h5", "irc", "rxn0001"),
        ("/rxn0001", "molecules-NMS.h5", "nms", "rxn0001"),
        ("/C2H4O", "molecules-RTP.h5", "", "C2H4O"),
        ("/r2_0017", "a.h5", "", "r2_0017"),
    ],
)
def test_names_say_kind_and_reaction(group, file, kind, reaction):
    assert openreact._named(group, Path(file)) == (kind, reaction)


def test_the_hessian_says_the_kind_where_no_name_does(tmp_path, frames):
    chosen = of_kind(frames, "reactant", "product", "ts", "nms")
    got, report = imported(write_openreact(tmp_path / "molecules-RTP.h5", by_reaction(chosen, named=False)))
    expected = [frame for _, members in sorted(by_reaction(chosen, named=False).items()) for frame in members]
    for frame, original in zip(got, expected, strict=True):
        assert frame.kind == {"reactant": "minimum", "product": "minimum", "ts": "ts", "nms": ""}[original.kind]
    assert "kinds (ts, minimum) of 6 stationary points were found from their Hessians" in report.meta.notes
    assert int(geometries(got)["stationary"].sum()) == 6  # minima train in the split 'stationary'


def test_charge_and_multiplicity(tmp_path, frames):
    path = write_openreact(tmp_path / "a.h5", by_reaction(of_kind(frames, "irc")))
    with h5py.File(path, "r+") as file:
        for group in file.values():
            group.attrs["crg"], group.attrs["mult"] = -1, np.array([2])
    assert {(frame.charge, frame.multiplicity) for frame in imported(path)[0]} == {(-1, 2)}


def test_formats_are_told_apart_by_their_content(tmp_path, frames):
    write_openreact(tmp_path / "a.h5", {"data/H2O/rxn0001": of_kind(frames, "ts")[:1]})
    assert format_of(tmp_path / "a.h5") == "openreact"
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["data/H2O/rxn0001/atomic_numbers"] = [8, 1, 1]
        file["train"] = h5py.SoftLink("/data")
    assert format_of(tmp_path / "b.h5") == "transition1x"
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["entry/numbers"] = [1, 2]
        file["notes"] = [3]
    with pytest.raises(PHLError) as caught:
        import_dataset(tmp_path / "c.h5", tmp_path / "d.h5")
    assert str(caught.value).endswith(
        "is HDF5 of no known layout: expected data/FORMULA/REACTION as in Transition1x, or groups of species, "
        "coordinates, energies, forces and hessian as in OpenREACT-CHON-EFH; found '/entry', '/notes', '/entry/numbers'"
    )


# -------------------------------------------------------------------------------------------------------------- units


@pytest.mark.parametrize(
    ("kinds", "units", "words"),
    [
        ("nms", {"hessian": "eV/Å²"}, r"is 27\.2 times ω × ∇E, expected 1, as of hessian in eV/Å²"),
        ("nms", {"hessian": "Ha/Bohr²"}, r"is 0\.28 times ω × ∇E, expected 1, as of hessian in Ha/Bohr²"),
        ("nms", {"forces": "Ha/Bohr"}, r"is 1\.89 times ω × ∇E, expected 1, as of forces in Ha/Bohr"),
        ("nms", {"forces": "eV/Å"}, r"is 0\.0367 times ω × ∇E"),
        ("nms", {"forces": "-Ha/Å"}, r"is -1 times ω × ∇E, expected 1, as of forces in -Ha/Å"),
        ("nms", {"hessian": "Ha/Bohr²", "forces": "Ha/Bohr"}, r"is 0\.529 times ω × ∇E"),
        ("nms", {"hessian": "Ha/Bohr²", "forces": "-Ha/Bohr"}, r"is -0\.529 times ω × ∇E"),
        ("nms", {"energy": "eV"}, r"times that of the free atoms, expected 1, as of energy in eV"),
        ("ts", {"energy": "kcal/mol"}, r"as of energy in kcal/mol"),
        ("nms", {"positions": "Bohr"}, r"expected a bond below 1\.65 Å, as of positions in Bohr"),
        ("stationary", {"hessian": "Ha/Bohr²"}, r"bonds to hydrogen are 0\.2\d+ times as stiff .* of hessian in Ha/B"),
        ("stationary", {"hessian": "eV/Å²"}, r"bonds to hydrogen are 2\d\.\d times as stiff .* of hessian in eV/Å²"),
    ],
)
def test_other_units_are_found_and_said(tmp_path, frames, kinds, units, words):
    chosen = of_kind(frames, *(("reactant", "product", "ts") if kinds == "stationary" else (kinds,)))
    path = write_openreact(tmp_path / "a.h5", by_reaction(chosen), **units)
    with pytest.raises(PHLError, match=words) as caught:
        import_dataset(path, tmp_path / "b.h5")
    assert "\n" not in str(caught.value)
    assert "is not in the stated units" in str(caught.value)
    assert all(f"--unit {label}={unit}" in str(caught.value) for label, unit in units.items())
    assert os.listdir(tmp_path) == ["a.h5"]
    got, report = imported(path, units=units)
    assert report.refused == 0
    for frame, original in zip(got, [f for _, m in sorted(by_reaction(chosen).items()) for f in m], strict=True):
        assert_labels(frame, original)


def test_a_unit_that_is_said_wrongly_is_found_too(tmp_path, frames):
    path = write_openreact(tmp_path / "a.h5", by_reaction(of_kind(frames, "nms")))
    with pytest.raises(PHLError, match="as of hessian in Ha/Å²: say --unit hessian=Ha/Å²"):
        import_dataset(path, tmp_path / "b.h5", units={"hessian": "Ha/Bohr^2"})


def test_relative_energies_are_taken_when_they_are_said_to_be(tmp_path, frames):
    chosen = [dataclasses.replace(frame, energy=-1.0) for frame in of_kind(frames, "nms")]
    path = write_openreact(tmp_path / "a.h5", by_reaction(chosen))
    with pytest.raises(PHLError, match="energies that are not absolute: --energy-reference TEXT"):
        import_dataset(path, tmp_path / "b.h5")
    assert imported(path, energy_reference="atoms")[1].refused == 0


# ---------------------------------------------------------------------------------------------------------- bad input


def test_a_hessian_of_another_geometry_is_refused_and_the_rest_taken(tmp_path, frames):
    chosen = of_kind(frames, "reactant", "ts", "product", "irc")
    ts = next(index for index, frame in enumerate(chosen) if frame.kind == "ts")
    other = next(f for f in chosen if f.reaction == chosen[ts].reaction and f.kind == "reactant")
    chosen[ts] = dataclasses.replace(chosen[ts], hessian=other.hessian)
    got, report = imported(write_openreact(tmp_path / "a.h5", by_reaction(chosen)))
    assert (len(got), report.refused) == (len(chosen) - 1, 1)
    (refusal,) = report.meta.provenance["refusals"]
    assert refusal["frame"] == f"a.h5: /{chosen[ts].reaction}_ts, structure 0"
    assert "the Hessian is not of this geometry and these forces" in refusal["reason"]


def _without(name):
    def spoil(file, group):
        del group[name]

    return spoil


def _replaced(name, change):
    def spoil(file, group):
        values = group[name][...]
        del group[name]
        group[name] = change(values)

    return spoil


def _nan(values):
    values[0, 1] = np.nan
    return values


def _asymmetric(values):
    values[:, 0, 4] += 1.0
    return values


@pytest.mark.parametrize(
    ("spoil", "reason", "refused"),
    [
        (_without("hessian"), "lacks hessian; expected species, coordinates, energies, forces, hessian", 1),
        (_without("species"), "lacks species", 1),
        (_replaced("forces", lambda v: v[:-1]), "forces has shape", 1),
        (_replaced("coordinates", lambda v: v[..., :2]), "coordinates has shape", 1),
        (_replaced("hessian", lambda v: v.reshape(len(v), -1)), "hessian has shape", 1),
        (_replaced("species", lambda v: np.array([b"Xx"] * len(v))), "species holds 'Xx'; expected symbols", 1),
        (_replaced("coordinates", _nan), "positions holds NaN or infinity", 1),
        (_replaced("forces", _nan), "forces holds NaN or infinity", 1),
        (_replaced("hessian", _nan), "hessian holds NaN or infinity", 1),
        (_replaced("hessian", _asymmetric), "the Hessian is asymmetric by", 2),
    ],
)
def test_what_is_broken_is_refused_and_the_rest_taken(tmp_path, frames, spoil, reason, refused):
    chosen = of_kind(frames, "ts", "nms")
    groups = by_reaction(chosen)
    name = next(name for name in groups if name.endswith("nms"))
    path = write_openreact(tmp_path / "a.h5", groups)
    with h5py.File(path, "r+") as file:
        spoil(file, file[name])
    got, report = imported(path)
    assert report.refused == (len(groups[name]) if refused > 1 else 1)
    assert reason in report.meta.provenance["refusals"][0]["reason"]
    assert report.meta.provenance["refusals"][0]["frame"].startswith(f"a.h5: /{name}")
    whole = "shape" in reason or "lacks" in reason or "species" in reason or refused > 1
    assert len(got) == len(chosen) - (len(groups[name]) if whole else 1)


def _external_link(file, group):
    del group["hessian"]
    group["hessian"] = h5py.ExternalLink("other.h5", "/a")


def _soft_link(file, group):
    file["again"] = h5py.SoftLink(group.name)


def _objects(file, group):
    del group["species"]
    group.create_dataset("species", (3,), h5py.string_dtype())


def _absurd(file, group):
    shape = group["hessian"].shape
    del group["hessian"]
    group.create_dataset("hessian", (2**40, *shape[1:]), "<f8", chunks=(1, *shape[1:]))


def _virtual(file, group):
    shape = group["forces"].shape
    layout = h5py.VirtualLayout(shape, "<f8")
    layout[...] = h5py.VirtualSource("other.h5", "a", shape)
    del group["forces"]
    group.create_virtual_dataset("forces", layout)


def _shared(file, group):
    for index in range(50):  # each a group of its own, all with the same arrays
        for name in ("species", *NAMES.values()):
            file[f"copies/{index}/{name}"] = group[name]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_external_link, "hessian is an external link; refused"),
        (_soft_link, "/again is a soft link; refused"),
        (_objects, "species has type object; expected numbers or text of fixed length"),
        (_absurd, "refused: the file is incomplete or made to exhaust memory"),
        (_virtual, "is a virtual data set"),
        (_shared, "its arrays claim more bytes than the file has"),
    ],
)
def test_a_hostile_file_is_refused(tmp_path, frames, spoil, message):
    groups = by_reaction(of_kind(frames, "ts", "nms"))
    path = write_openreact(tmp_path / "a.h5", groups)
    with h5py.File(path, "r+") as file:
        spoil(file, file[max(groups, key=lambda name: len(groups[name]))])
    with pytest.raises(PHLError, match=message) as caught:
        import_dataset(path, tmp_path / "b.h5")
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["a.h5"]


def test_groups_that_are_linked_twice_or_in_a_circle_are_read_once(tmp_path, frames):
    groups = by_reaction(of_kind(frames, "ts"))
    path = write_openreact(tmp_path / "a.h5", groups)
    with h5py.File(path, "r+") as file:
        file["zz/again"] = file[next(iter(groups))]
        file["zz/circle"] = file["/"]
    assert len(imported(path)[0]) == len(groups)


def test_a_value_that_no_calculation_gives_is_refused(tmp_path, frames):
    chosen = of_kind(frames, "ts")
    chosen[0] = dataclasses.replace(chosen[0], hessian=np.full_like(chosen[0].hessian, 1e300))
    got, report = imported(write_openreact(tmp_path / "a.h5", by_reaction(chosen)))
    assert (len(got), report.refused) == (len(chosen) - 1, 1)
    assert "hessian as large as" in report.meta.provenance["refusals"][0]["reason"]


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_a_file_that_is_cut_short_is_refused(tmp_path, frames, kept):
    path = write_openreact(tmp_path / "a.h5", by_reaction(of_kind(frames, "ts", "nms")))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(PHLError, match="is truncated"):
        import_dataset(path, tmp_path / "b.h5")
    assert os.listdir(tmp_path) == ["a.h5"]


def test_damaged_bytes_end_in_no_traceback(tmp_path, frames):
    path = write_openreact(tmp_path / "a.h5", by_reaction(of_kind(frames, "ts", "irc")))
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(40):
        damaged = bytearray(content)
        for place in rng.integers(8, len(content), size=20):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(PHLError):  # anything else is a traceback for the user
            import_dataset(path, tmp_path / "b.h5")


# ---------------------------------------------------------------------------------------------------- the paper's study


def test_the_study_of_the_paper_is_planned(tmp_path, monkeypatch, frames):
    workflow = Path(__file__).resolve().parents[2] / "workflows" / "paper.toml"
    config = read_study(workflow)
    runs = plan_runs(config)
    labels = {run.method.label for run in runs}
    assert labels == {
        "E-F", "E-F-H", "E-F-HVP-onehot", "E-F-HVP-random", "E-F-HVP-onehot, fixed K=1", "E-F-HVP-random, fixed K=1"
    }  # fmt: skip
    assert all(len({run.seed for run in runs if run.method.label == label}) >= 3 for label in labels)
    assert [claim.expect for claim in config.claim] == ["match", "match", "smaller", "faster"]
    monkeypatch.chdir(tmp_path)
    command = CliRunner()
    for name, kinds in (("RTP", ("reactant", "ts", "product")), ("IRC", ("irc",)), ("NMS", ("nms",))):
        write_openreact(tmp_path / f"molecules-{name}.h5", by_reaction(of_kind(frames, *kinds), named=False))
        done = command.invoke(app, ["data", "import", f"molecules-{name}.h5", "-o", f"{name}.h5"])
        assert done.exit_code == 0, done.output
    done = command.invoke(app, ["data", "merge", "RTP.h5", "IRC.h5", "NMS.h5", "-o", "openreact.h5"])
    assert done.exit_code == 0, done.output
    small = [word for key in ("potential.channels=4", "training.batch_size=2") for word in ("--set", key)]
    done = command.invoke(app, ["study", str(workflow), "--plan", *small])
    assert done.exit_code == 0, done.output
    assert "36 runs" in done.output
