"""Data sets: what is written comes back, what is broken or hostile is refused with one clear line."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import pickle
import subprocess
import sys
import time
from collections import Counter

import ase.io
import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect

from phl_ase.datasets import (
    BUNDLED,
    SPLITS,
    Dataset,
    DatasetMeta,
    MemoryDataset,
    Split,
    data_card,
    open_dataset,
    split,
    summarise,
    write_dataset,
    write_extxyz,
)
from phl_ase.datasets.schema import columns, pack_matrix, unpack_matrix
from phl_ase.errors import NonFiniteError, PHLError
from phl_ase.structures.frame import Frame

NAME = "reactions-wb97xd-631gd"
FRAMES, REACTIONS = 1023, 25
META = DatasetMeta("HF/STO-3G", "absolute", {"made": "in a test", "n": [1, 2.5]}, "notes with Å")


def full_frame(rng: np.random.Generator, n: int = 3, k: int = 2, **changes) -> Frame:
    """A frame with every label."""
    hessian = rng.normal(size=(3 * n, 3 * n))
    values = {
        "numbers": rng.integers(1, 9, n),
        "positions": rng.normal(size=(n, 3)),
        "cell": np.diag([9.0, 8.0, 7.0]),
        "pbc": np.array([True, False, True]),
        "charge": -1,
        "multiplicity": 2,
        "energy": float(rng.normal()) - 1e4,
        "forces": rng.normal(size=(n, 3)),
        "stress": rng.normal(size=(3, 3)),
        "hessian": hessian + hessian.T,
        "probes": rng.normal(size=(k, n, 3)),
        "hvp": rng.normal(size=(k, n, 3)),
        "kind": "ts",
        "reaction": "Ångström→2",
        "irc_s": -0.5,
        "temperature": 300.0,
    }
    return Frame(**{**values, **changes})


def bare(rng: np.random.Generator, n: int = 2, **changes) -> Frame:
    """A frame without labels."""
    return Frame(numbers=np.full(n, 6), positions=rng.normal(size=(n, 3)) + 3.0 * np.arange(n)[:, None], **changes)


def assert_same(a: Frame, b: Frame) -> None:
    for field in dataclasses.fields(Frame):
        left, right = getattr(a, field.name), getattr(b, field.name)
        if field.name == "frame_id":
            continue
        if left is None or right is None:
            assert left is right, field.name
        else:
            assert np.array_equal(left, right), field.name  # bit for bit


@pytest.fixture
def frames() -> list[Frame]:
    rng = np.random.default_rng(1)
    return [
        full_frame(rng),
        bare(rng),
        full_frame(rng, n=1, k=5, kind="", reaction=""),
        bare(rng, n=4, hessian=np.eye(12)),
        full_frame(rng, n=2, stress=None, energy=None, irc_s=None),
        bare(rng, n=3, energy=0.0, temperature=0.0, irc_s=0.0),
    ]


@pytest.fixture
def path(tmp_path, frames):
    write_dataset(tmp_path / "set.h5", frames, META)
    return tmp_path / "set.h5"


@pytest.fixture(scope="module")
def bundled():
    with open_dataset(NAME) as dataset:
        yield dataset


# --- round trip


@pytest.mark.parametrize("compression", [False, True])
def test_every_label_comes_back_bit_for_bit(tmp_path, frames, compression):
    write_dataset(tmp_path / "a.h5", frames, META, compression=compression)
    with Dataset(tmp_path / "a.h5") as dataset:
        assert len(dataset) == len(frames)
        assert dataset.meta == META
        for index in (3, 0, 5, 1, 4, 2, -1):
            frame = dataset[index]
            assert_same(frames[index], frame)
            assert frame.frame_id == index % len(frames)
            assert frame.hessian is None or np.array_equal(frame.hessian, frame.hessian.T)
        dataset.verify()


def test_columns_are_read_without_labels(path, frames):
    with Dataset(path) as dataset:
        memory = MemoryDataset(frames, META)
        assert dataset.kinds.tolist() == ["ts", "", "", "", "ts", ""]
        for name in ("kinds", "reactions", "temperatures", "irc_s", "sizes", "n_probes"):
            np.testing.assert_array_equal(getattr(dataset, name), getattr(memory, name), err_msg=name)
        for label, carried in dataset.coverage.items():
            np.testing.assert_array_equal(carried, memory.coverage[label], err_msg=label)
        assert dataset.coverage["hvp"].tolist() == [True, False, True, False, True, False]
        assert np.isnan(dataset.temperatures[1])
        assert dataset.temperatures[5] == 0.0
        with pytest.raises(ValueError, match="read-only"):
            dataset.sizes[0] = 3


def test_frames_in_the_order_asked_for(path):
    with Dataset(path) as dataset:
        assert [f.frame_id for f in dataset.frames([4, 0, 4])] == [4, 0, 4]
        assert [f.frame_id for f in dataset.frames()] == [f.frame_id for f in dataset] == list(range(6))
        with pytest.raises(IndexError, match="frame 6"):
            dataset[6]


def test_frames_are_the_callers_own(path):
    with Dataset(path) as dataset:
        dataset[0].pbc[:] = False
        dataset[0].positions[:] = 0
        assert dataset[0].pbc.tolist() == [True, False, True]
        assert dataset[0].positions.any()


def test_a_data_set_is_pickled_by_its_path(path):
    with Dataset(path) as dataset, pickle.loads(pickle.dumps(dataset)) as again:
        assert_same(dataset[0], again[0])


def test_a_closed_data_set_says_so(path):
    dataset = Dataset(path)
    dataset.close()
    with pytest.raises(PHLError, match="is closed"):
        dataset[0]


def test_hessian_packing():
    hessian = np.arange(36.0).reshape(6, 6)
    hessian += hessian.T
    assert pack_matrix(hessian).shape == (21,)
    assert np.array_equal(unpack_matrix(pack_matrix(hessian), 6), hessian)


def test_random_access_is_fast_and_reads_one_frame(tmp_path):
    rng = np.random.default_rng(0)
    template = full_frame(rng, n=12)
    write_dataset(tmp_path / "big.h5", [template] * 2000)
    with Dataset(tmp_path / "big.h5") as dataset:
        dataset[0]
        times = []
        for index in rng.integers(0, 2000, 200):
            start = time.perf_counter()
            dataset[index]
            times.append(time.perf_counter() - start)
    # 0.1 ms; a read of the whole file takes more than 10 ms. The median, for a machine that others use too
    assert np.median(times) < 2e-3


# --- content hash


def test_hash_is_that_of_the_content(tmp_path, frames):
    plain = write_dataset(tmp_path / "a.h5", frames, META)
    assert plain == write_dataset(tmp_path / "b.h5", iter(frames), META, compression=True)
    assert plain == MemoryDataset(frames, META).content_hash()
    with Dataset(tmp_path / "a.h5") as dataset:
        assert plain == dataset.content_hash() == write_dataset(tmp_path / "c.h5", dataset)
    assert plain == write_dataset(tmp_path / "d.h5", frames, dataclasses.replace(META, notes="other", provenance={}))
    assert plain != write_dataset(tmp_path / "e.h5", frames, dataclasses.replace(META, level_of_theory="PBE"))
    assert plain != write_dataset(tmp_path / "f.h5", frames[::-1], META)
    changed = [dataclasses.replace(frames[0], energy=np.nextafter(frames[0].energy, 0)), *frames[1:]]
    assert plain != write_dataset(tmp_path / "g.h5", changed, META)


def test_hash_is_the_same_for_ever():
    frame = Frame(
        numbers=np.array([1, 1]), positions=np.array([[0, 0, 0], [0, 0, 0.74]]), energy=-31.0, kind="reactant"
    )
    known = "51299a3aa7fc194b9fe3a871ef95982d8f1d20cc534037b2176f9631c956b2ab"
    assert MemoryDataset([frame], DatasetMeta("HF", "absolute")).content_hash() == known


def test_a_changed_file_is_found_out(path):
    with h5py.File(path, "r+") as file:
        file["forces"][0, 0] += 1e-9
    with Dataset(path) as dataset, pytest.raises(PHLError, match="changed or is damaged"):
        dataset.verify()


# --- writing


def broken(**changes):
    return dataclasses.replace(full_frame(np.random.default_rng(0)), **changes)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (broken(forces=np.zeros((2, 3))), r"frame 1: forces have|frame 1: forces has shape \(2, 3\)"),
        (broken(forces=np.full((3, 3), np.nan)), "frame 1: forces holds NaN"),
        (broken(energy=np.inf), "frame 1: energy holds NaN or infinity"),
        (broken(probes=None), "frame 1: probes and hvp"),
        (broken(numbers=np.array([1, 0, 1])), "frame 1: atomic number 0"),
        (broken(irc_s=np.nan), "frame 1: irc_s is nan"),
        (broken(multiplicity=0), "frame 1: multiplicity 0"),
        (broken(hessian=np.arange(81.0).reshape(9, 9)), "frame 1: the Hessian is asymmetric"),
        (broken(kind="x" * 300), "frame 1: kind"),
        (broken(cell=np.zeros(3)), "frame 1: cell"),
    ],
)
def test_broken_frames_are_not_written(tmp_path, frames, frame, message):
    with pytest.raises(PHLError, match=message):
        write_dataset(tmp_path / "a.h5", [frames[0], frame])
    assert os.listdir(tmp_path) == []


def test_noise_of_asymmetry_is_averaged(tmp_path):
    hessian = np.diag([10.0, 20.0, 30.0])
    hessian[0, 1], hessian[1, 0] = 1.0, 1.0007
    write_dataset(tmp_path / "a.h5", [bare(np.random.default_rng(0), n=1, hessian=hessian)])
    with Dataset(tmp_path / "a.h5") as dataset:
        assert dataset[0].hessian[0, 1] == dataset[0].hessian[1, 0] == pytest.approx(1.00035, abs=1e-12)


def test_what_cannot_be_written(tmp_path, frames):
    with pytest.raises(PHLError, match="no frames"):
        write_dataset(tmp_path / "a.h5", [])
    with pytest.raises(PHLError, match="does not exist"):
        write_dataset(tmp_path / "nowhere" / "a.h5", frames)
    (tmp_path / "folder.h5").mkdir()
    with pytest.raises(PHLError, match="is a folder"):
        write_dataset(tmp_path / "folder.h5", frames)
    (tmp_path / "folder.h5").rmdir()
    with pytest.raises(PHLError, match="provenance"):
        write_dataset(tmp_path / "a.h5", frames, DatasetMeta(provenance={"x": object()}))
    with pytest.raises(PHLError, match="notes of a data set are 70,000 bytes"):
        write_dataset(tmp_path / "a.h5", frames, DatasetMeta(notes="x" * 70_000))
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder(tmp_path, frames):
    tmp_path.chmod(0o500)
    with pytest.raises(PHLError, match="permission denied"):
        write_dataset(tmp_path / "a.h5", frames)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_refused_file_is_one_line(tmp_path, frames, monkeypatch, number):
    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PHLError, match=r"cannot write .*(permission denied|read-only).*nothing was written") as caught:
        write_dataset(tmp_path / "a.h5", frames)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("writable", [0, 3000, 20000])
@pytest.mark.parametrize("compression", [False, True])
def test_a_full_disk_leaves_the_old_file(path, frames, monkeypatch, writable, compression):
    before, write = path.read_bytes(), os.pwrite

    def full(descriptor, data, offset):
        if offset + len(data) > writable:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(PHLError, match=r"cannot write .*set\.h5: the disk is full") as caught:
        write_dataset(path, frames * 50, compression=compression)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["set.h5"]


def test_a_full_disk_does_not_crash_the_process(path):
    # HDF5 itself crashes when its file is closed after a write that failed: so a real limit, in a process of its own
    program = (
        "import resource, sys\n"
        "from phl_ase.datasets import Dataset, write_dataset\n"
        "frames = Dataset(sys.argv[1]).frames()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, resource.RLIM_INFINITY))\n"
        "try:\n    write_dataset(sys.argv[1], frames * 4)\n"
        "except ValueError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "nothing was written" in done.stdout
    assert os.listdir(path.parent) == ["set.h5"]


def test_an_interrupted_write_leaves_nothing(tmp_path, frames):
    def stopping():
        yield from frames
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "a.h5", stopping())
    assert os.listdir(tmp_path) == []


def test_a_data_set_can_be_rewritten_while_it_is_read(path, frames):
    with Dataset(path) as dataset:
        write_dataset(path, dataset, compression=True)
        assert_same(dataset[0], frames[0])
    with Dataset(path) as dataset:
        assert_same(dataset[0], frames[0])


# --- hostile and damaged files


def _replace(name, value):
    def change(file):
        del file[name]
        file[name] = value

    return change


def _link(name, link):
    return _replace(name, link)


def _virtual(file):
    del file["energy"]
    layout = h5py.VirtualLayout((4,), "<f8")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "x", (4,))
    file.create_virtual_dataset("energy", layout)


def _external(file):
    rows = file["energy"].shape
    del file["energy"]
    file.create_dataset("energy", rows, "<f8", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def _references(file):
    values = np.array([file["energy"].ref] * len(file["energy"]), dtype=h5py.ref_dtype)
    del file["energy"]
    file.create_dataset("energy", data=values, dtype=h5py.ref_dtype)


def _ragged(file):
    del file["kind"]
    file.create_dataset("kind", data=["ts"] * 6, dtype=h5py.string_dtype())


def _absurd(name, shape, dtype):
    def change(file):
        if name in file:
            del file[name]
        file.create_dataset(name, shape, dtype, chunks=(2**10, *shape[1:]), compression="gzip")

    return change


def _filtered(file):
    values = file["forces"][...]
    del file["forces"]
    file.create_dataset("forces", data=values, chunks=True, scaleoffset=3)


def _attribute(name, value):
    def change(file):
        file.attrs[name] = np.bytes_(value.encode()) if isinstance(value, str) else value

    return change


def _offsets(name, index, value):
    def change(file):
        file[name][index] = value

    return change


BAD = {
    "external link": (_link("energy", h5py.ExternalLink("elsewhere.h5", "/x")), "'energy' is an external link"),
    "soft link": (_link("energy", h5py.SoftLink("/forces")), "'energy' is a soft link"),
    "virtual": (_virtual, "'energy' is a virtual data set"),
    "external storage": (_external, "'energy' keeps its data in another file"),
    "references": (_references, "'energy' holds references"),
    "variable length": (_ragged, "'kind' holds references or data of variable length"),
    "group": (lambda file: file.move("energy", "old") or file.create_group("energy"), "old|'energy' is a group"),
    "group alone": (lambda file: file.pop("energy") and file.create_group("energy"), "'energy' is a group"),
    "stranger": (lambda file: file.create_dataset("virus", data=[1]), "'virus', which is no part"),
    "absurd rows": (_absurd("energy", (10**12,), "<f8"), "declares 1,000,000,000,000 elements"),
    "absurd frames": (_absurd("atoms_offsets", (10**11,), "<i8"), "'atoms_offsets' declares 100,000,000,000"),
    "filter": (_filtered, "HDF5 filters"),
    "type": (_replace("charge", np.zeros(6, "<f8")), "'charge' has type float64, expected int32"),
    "shape": (_replace("positions", np.zeros((15, 2))), r"'positions' has shape \(15, 2\)"),
    "rows": (_replace("charge", np.zeros(5, "<i4")), "'charge' has 5 rows, expected 6"),
    "missing": (lambda file: file.pop("numbers"), "lacks the arrays numbers"),
    "missing offsets": (lambda file: file.pop("forces_offsets"), "'forces' without 'forces_offsets'"),
    "missing column": (lambda file: file.pop("forces"), "'forces' has 0 rows"),
    "falling": (_offsets("atoms_offsets", 2, 1), "atoms_offsets do not rise"),
    "negative": (_offsets("atoms_offsets", 0, -3), "atoms_offsets do not rise"),
    "beyond": (_offsets("forces_offsets", 6, 10**6), "forces_offsets end at row 1000000"),
    "uneven": (_offsets("forces_offsets", slice(1, 3), 2), "forces_offsets give frame 0 2 rows"),
    "hessian size": (_offsets("hessian_offsets", slice(1, 3), 44), "hessian_offsets give frame 0 44 rows"),
    "newer": (_attribute("schema", 99), "schema version 99 is newer"),
    "older": (_attribute("schema", 0), "unknown schema version 0"),
    "schema text": (_attribute("schema", "one"), "no schema version"),
    "no format": (lambda file: file.attrs.pop("format"), "not a phl_ase data set"),
    "format": (_attribute("format", "something else"), "not a phl_ase data set"),
    "units": (_attribute("units", json.dumps({"positions": "Bohr"})), "positions is in 'Bohr', expected 'Å'"),
    "not json": (_attribute("provenance", "[" * 50_000), "'provenance' is not JSON"),
    "attribute": (_attribute("notes", [1, 2]), "'notes' is not plain text"),
    # HDF5 can hang on these when the file is damaged
    "attribute of variable length": (lambda file: file.attrs.update(notes="x"), "'notes' is not plain text of fixed"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused(path, case):
    change, message = BAD[case]
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(PHLError, match=message) as caught:
        open_dataset(path)
    assert "\n" not in str(caught.value)


def test_an_empty_data_set_is_refused(tmp_path, frames):
    write_dataset(tmp_path / "a.h5", frames[:1])
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        for name in ("pbc", "charge", "multiplicity", "kind", "reaction"):
            array = file[name]
            empty = array[:0]
            del file[name]
            file[name] = empty
    with pytest.raises(PHLError, match="is empty"):
        Dataset(tmp_path / "a.h5")


@pytest.mark.parametrize("label", ["positions", "forces", "energy", "stress", "hessian", "hvp", "cell", "temperature"])
def test_nan_is_reported_with_the_frame(path, label):
    with h5py.File(path, "r+") as file:
        file["products" if label == "hvp" else label][0] = np.nan  # its name on disk
    with Dataset(path) as dataset:
        with pytest.raises(NonFiniteError, match=f"frame 0: {label}"):
            dataset[0]
        dataset[3]


@pytest.mark.parametrize("part", [0, 1, 7, 100, 3000, -1])
def test_a_truncated_file(path, part):
    content = path.read_bytes()
    path.write_bytes(content[:part])
    with pytest.raises(PHLError, match=r"truncated|not an HDF5 file|cannot be opened") as caught:
        Dataset(path)
    assert "\n" not in str(caught.value)


def test_damaged_chunks_are_reported(tmp_path, frames):
    write_dataset(tmp_path / "a.h5", frames, compression=True)
    with h5py.File(tmp_path / "a.h5") as file:
        chunk = file["hessian"].id.get_chunk_info(0)
    content = bytearray((tmp_path / "a.h5").read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"x" * chunk.size
    (tmp_path / "a.h5").write_bytes(bytes(content))
    with Dataset(tmp_path / "a.h5") as dataset, pytest.raises(PHLError, match="'hessian' cannot be read"):
        dataset[0]


def test_random_damage_never_crashes(path):
    content = path.read_bytes()
    rng = np.random.default_rng(5)
    for _ in range(60):
        damaged = bytearray(content)
        for position in rng.integers(0, len(content), 8):
            damaged[position] = int(rng.integers(256))
        path.write_bytes(bytes(damaged))
        with contextlib.suppress(PHLError), Dataset(path) as dataset:
            dataset.frames()


def test_files_that_are_not_there_or_not_ours(tmp_path):
    with pytest.raises(PHLError, match=rf"no data set 'nothing'.*{NAME}"):
        open_dataset("nothing")
    with pytest.raises(PHLError, match="no such file"):
        Dataset(tmp_path / "nothing.h5")
    with pytest.raises(PHLError, match="is a folder"):
        open_dataset(tmp_path)
    (tmp_path / "a.h5").write_text("hello")
    with pytest.raises(PHLError, match="not an HDF5 file"):
        open_dataset(tmp_path / "a.h5")


# --- foreign files


def test_extxyz_round_trip(tmp_path, frames):
    named = [dataclasses.replace(frame, reaction=frame.reaction and "r1") for frame in frames]
    write_extxyz(tmp_path / "a.extxyz", named)
    again = open_dataset(tmp_path / "a.extxyz")
    assert len(again) == len(frames)
    for index, frame in enumerate(named):
        found = again[index]
        assert found.frame_id == index
        for field in dataclasses.fields(Frame):
            left, right = getattr(frame, field.name), getattr(found, field.name)
            if left is None or isinstance(left, str):
                assert left == right, field.name
            elif field.name not in ("frame_id", "extra"):
                np.testing.assert_allclose(right, left, atol=1e-7, rtol=0, err_msg=field.name)  # eight decimals
    assert again.meta.provenance["keys"]["hvp"] == "REF_hvp"
    assert again.coverage["hvp"].tolist() == [True, False, True, False, True, False]


def atoms_with_results() -> Atoms:
    atoms = Atoms("OH", positions=[[0, 0, 0], [0, 0, 1.0]], cell=[5, 5, 5], pbc=True)
    stress = np.array([1.0, 2, 3, 4, 5, 6]) * 1e-3
    atoms.calc = SinglePointCalculator(atoms, energy=-1.5, forces=[[0, 0, 1], [0, 0, -1]], stress=stress)
    atoms.info.update(charge=-1, spin=2, kind="md", temperature=300)
    return atoms


@pytest.mark.parametrize("suffix", ["extxyz", "xyz", "traj"])
def test_what_ase_reads(tmp_path, suffix):
    ase.io.write(tmp_path / f"a.{suffix}", [atoms_with_results()] * 2)
    dataset = open_dataset(tmp_path / f"a.{suffix}")
    frame = dataset[1]
    assert frame.energy == -1.5
    assert frame.forces[1, 2] == -1
    np.testing.assert_allclose(frame.stress, np.array([[1, 6, 5], [6, 2, 4], [5, 4, 3]]) * 1e-3)
    assert (frame.charge, frame.multiplicity, frame.kind, frame.temperature) == (-1, 2, "md", 300.0)
    assert dataset.meta.provenance["keys"]["energy"] == "calculator"


def test_a_data_base_of_ase(tmp_path):
    with connect(tmp_path / "a.db") as base:
        base.write(atoms_with_results(), kind="md", temperature=300, data={"REF_hessian": np.eye(6)})
    frame = open_dataset(tmp_path / "a.db")[0]
    assert (frame.energy, frame.kind, frame.temperature) == (-1.5, "md", 300.0)
    assert np.array_equal(frame.hessian, np.eye(6))


def test_key_mapping(tmp_path):
    atoms = Atoms("OH", positions=[[0, 0, 0], [0, 0, 1.0]])
    atoms.info.update(dft_energy=-2.0, REF_energy=-1.0, q=1, mult=2, REF_stress=np.eye(3), name="r7")
    atoms.arrays["dft_forces"] = np.ones((2, 3))
    ase.io.write(tmp_path / "a.extxyz", atoms)
    keys = {"energy": "dft_energy", "forces": "dft_forces", "charge": "q", "multiplicity": "mult", "reaction": "name"}
    frame = open_dataset(tmp_path / "a.extxyz", keys=keys)[0]
    assert (frame.energy, frame.charge, frame.multiplicity, frame.reaction) == (-2.0, 1, 2, "r7")
    assert np.array_equal(frame.stress, np.eye(3))
    assert frame.forces.sum() == 6
    assert open_dataset(tmp_path / "a.extxyz")[0].energy == -1.0
    with pytest.raises(PHLError, match="unknown label in the key mapping 'Energy'; valid: charge, energy"):
        open_dataset(tmp_path / "a.extxyz", keys={"Energy": "x"})
    with pytest.raises(PHLError, match=r"no frame has 'E' for energy; keys seen: .*dft_energy"):
        open_dataset(tmp_path / "a.extxyz", keys={"energy": "E"})
    with pytest.raises(PHLError, match="leave out the key mapping"):
        open_dataset(BUNDLED[NAME], keys={"energy": "E"})


def test_asymmetric_hessians_of_foreign_files(tmp_path):
    atoms = Atoms("H", positions=[[0, 0, 0]])
    hessian = np.diag([10.0, 20, 30])
    hessian[0, 1] = 7e-4
    atoms.arrays["REF_hessian"] = hessian.reshape(1, 9)
    ase.io.write(tmp_path / "a.extxyz", atoms)
    dataset = open_dataset(tmp_path / "a.extxyz")
    assert dataset[0].hessian[1, 0] == pytest.approx(3.5e-4)
    assert "asymmetric by up to 0.0007" in dataset.meta.notes


@pytest.mark.parametrize(
    ("arrays", "info", "message"),
    [
        ({"REF_hessian": np.zeros((2, 12))}, {}, "frame 0: 'REF_hessian' has shape"),
        ({"REF_forces": np.zeros((2, 2))}, {}, "frame 0: 'REF_forces' has shape"),
        ({"hvp_dir": np.zeros((2, 3))}, {}, "frame 0: probes and hvp"),
        ({"hvp_dir": np.zeros((2, 4)), "REF_hvp": np.zeros((2, 4))}, {}, r"expected \(n, 3K\)"),
        ({"REF_forces": np.full((2, 3), np.nan)}, {}, "frame 0: forces holds NaN"),
        ({}, {"REF_energy": "low"}, "'REF_energy' is 'low'; expected numbers"),
        ({}, {"charge": 0.5}, "whole number"),
    ],
)
def test_broken_labels_of_foreign_files(tmp_path, arrays, info, message):
    atoms = Atoms("OH", positions=[[0, 0, 0], [0, 0, 1.0]])
    atoms.arrays.update(arrays)
    atoms.info.update(info)
    ase.io.write(tmp_path / "a.extxyz", atoms)
    with pytest.raises(PHLError, match=message):
        open_dataset(tmp_path / "a.extxyz")


@pytest.mark.parametrize(
    ("name", "text"), [("a.extxyz", ""), ("a.extxyz", "2\nbroken"), ("a.traj", "x"), ("a.db", "x"), ("a.foo", "x")]
)
def test_unreadable_foreign_files(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(PHLError, match=r"cannot be read by ASE|holds no structures|it is truncated") as caught:
        open_dataset(tmp_path / name)
    assert "\n" not in str(caught.value)


# --- splits


@pytest.mark.parametrize("name", SPLITS)
def test_splits_are_complete_disjoint_and_repeatable(bundled, name):
    made = split(bundled, name, 3)
    assert sorted(made.train + made.valid + made.test) == list(range(len(bundled)))
    assert min(len(made.train), len(made.valid), len(made.test)) > 0
    assert made == split(bundled, name, 3)
    assert made.train != split(bundled, name, 4).train
    assert made == Split.from_json(json.loads(json.dumps(made.to_json()))).check(bundled)


def test_a_split_holds_for_the_same_structures_in_another_file(tmp_path, bundled):
    """Of another format, rounded, with other labels: what divides them is their structures and their order."""
    indices = range(0, len(bundled), 11)
    frames = bundled.frames(indices)
    write_dataset(tmp_path / "a.h5", frames, bundled.meta)
    write_extxyz(tmp_path / "a.extxyz", frames)
    with open_dataset(tmp_path / "a.h5") as dataset:
        recorded = Split.from_json(json.loads(json.dumps(split(dataset, "random", 1).to_json())))
    copy = open_dataset(tmp_path / "a.extxyz")
    single = [dataclasses.replace(f, positions=f.positions.astype(np.float32).astype(float)) for f in frames]
    relabelled = [dataclasses.replace(f, energy=0.0, forces=None, hessian=None) for f in frames]
    for same in (copy, MemoryDataset(single), MemoryDataset(relabelled)):
        assert same.content_hash() != recorded.dataset
        assert recorded.check(same) is recorded
    moved = [dataclasses.replace(frames[0], positions=frames[0].positions + 0.01), *frames[1:]]
    others = [
        [frames[1], frames[0], *frames[2:]],
        frames[:-1],
        moved,
        [dataclasses.replace(frames[0], numbers=frames[0].numbers % 8 + 1), *frames[1:]],
    ]
    for other in others:
        with pytest.raises(PHLError, match="was made for other data than frames; split it again"):
            recorded.check(MemoryDataset(other))
    with pytest.raises(PHLError, match="an older version recorded it"):
        dataclasses.replace(recorded, structures=()).check(copy)


def test_random_split_is_stratified(bundled):
    made = split(bundled, "random", 0)
    assert (len(made.train), len(made.valid), len(made.test)) == (819, 102, 102)
    for part in (made.valid, made.test):
        for kind, count in Counter(bundled.kinds.tolist()).items():
            assert (bundled.kinds[list(part)] == kind).sum() == pytest.approx(0.1 * count, abs=1.5), kind
    assert split(bundled, "random", 0, fractions=(1, 0, 0)).valid == ()


def test_stationary_split_trains_on_stationary_and_mild(bundled):
    made = split(bundled, "stationary", 0)
    for index in made.train + made.valid:
        assert bundled.kinds[index] in ("reactant", "product", "ts") or bundled.temperatures[index] <= 600
    for index in made.test:
        assert bundled.kinds[index] in ("irc", "displaced") or bundled.temperatures[index] > 600
    assert len(made.train) + len(made.valid) == REACTIONS * 9
    assert len(bundled) - len(split(bundled, "stationary", 0, mild=300).test) == REACTIONS * 6


def test_by_reaction_split_keeps_reactions_whole(bundled):
    made = split(bundled, "by-reaction", 0)
    parts = [set(bundled.reactions[list(part)]) for part in (made.train, made.valid, made.test)]
    assert sum(map(len, parts)) == REACTIONS
    assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]


def test_splits_that_cannot_be(bundled, frames):
    rng = np.random.default_rng(0)
    one = MemoryDataset([bare(rng, kind="ts", reaction="a")])
    with pytest.raises(PHLError, match="unknown split 'x'; valid: by-reaction, random, stationary"):
        split(bundled, "x", 0)
    for fractions in ((0.5, 0.5, 0.5), (0, 0.5, 0.5), (1, 0), (1.2, -0.1, -0.1)):
        with pytest.raises(PHLError, match="split fractions"):
            split(bundled, "random", 0, fractions=fractions)
    with pytest.raises(PHLError, match="split seed is -1"):
        split(bundled, "random", -1)
    with pytest.raises(PHLError, match=r"leaves nothing of .* to train on"):
        split(one, "random", 0)
    with pytest.raises(PHLError, match="IRC points or samples above 600 K"):
        split(one, "stationary", 0)
    with pytest.raises(PHLError, match="needs frames of kind reactant, product, ts, minimum; frames has: unknown"):
        split(MemoryDataset([bare(rng)]), "stationary", 0)
    with pytest.raises(PHLError, match="at least 3 reactions"):
        split(one, "by-reaction", 0)
    with pytest.raises(PHLError, match="reaction for every frame; 3 frames"):
        split(MemoryDataset([*frames[1:4], bare(rng, reaction="a")]), "by-reaction", 0)


def test_recorded_splits_are_checked(bundled):
    made = split(bundled, "random", 0)
    with pytest.raises(PHLError, match="names a frame twice"):
        Split.from_json({**made.to_json(), "test": [0, 1], "train": [0]})
    with pytest.raises(PHLError, match="recorded split is broken"):
        Split.from_json({"name": "random"})
    with pytest.raises(PHLError, match="other data"):
        dataclasses.replace(made, dataset="abc", structures=(1.0, 2.0, 3.0)).check(bundled)
    with pytest.raises(PHLError, match="does not cover"):
        dataclasses.replace(made, test=()).check(bundled)


# --- summary and bundled data


def test_bundled_data(bundled):
    assert len(bundled) == FRAMES
    assert bundled.name == NAME
    assert bundled.meta.level_of_theory == "wB97X-D/6-31G(d)"
    assert bundled.meta.provenance["method"] == "pyscf"
    bundled.verify()
    assert all(bundled.coverage[label].all() for label in ("energy", "forces", "hessian"))
    assert np.array_equal(~np.isnan(bundled.temperatures), bundled.kinds == "nms")
    card = data_card(NAME)
    assert bundled.content_hash() in card
    assert "Cartesian (6D) d functions" in card
    assert all(reaction in card for reaction in set(bundled.reactions))
    with pytest.raises(PHLError, match="unknown bundled data set"):
        data_card("x")


def test_summary_of_the_bundled_data(bundled):
    summary = summarise(bundled)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["frames"] == FRAMES
    kinds = {"displaced": 200, "irc": 298, "nms": 450, "product": 25, "reactant": 25, "ts": 25}
    assert summary["by_kind"] == kinds
    assert len(summary["by_reaction"]) == REACTIONS
    assert set(summary["elements"]) == {"H", "C", "N", "O"}
    assert summary["sizes"] == {"3": 41, "4": 490, "5": 410, "6": 82}
    assert summary["coverage"] == {"energy": FRAMES, "forces": FRAMES, "stress": 0, "hessian": FRAMES, "hvp": 0}
    assert summary["ranges"]["force_max"]["unit"] == "eV/Å"
    assert summary["ranges"]["hessian_asymmetry"]["max"] == 0
    # pushed far up the wall, but for one whose analytic Hessian violates the sum rule a little more than the others
    outliers = {name: found["frames"] for name, found in summary["outliers"].items()}
    up_the_wall = {"energy_above_lowest": [40, 735], "force_max": [204, 735, 817]}
    assert outliers == {**up_the_wall, "hessian_sum_rule": [772]}
    assert set(bundled.kinds[sorted({i for found in outliers.values() for i in found})]) == {"displaced"}
    assert summary["ranges"]["hessian_sum_rule"]["max"] == pytest.approx(0.115, abs=1e-3)


def test_summary_finds_outliers(frames):
    summary = summarise(MemoryDataset([*frames, bare(np.random.default_rng(0), forces=np.full((2, 3), 100.0))]))
    assert summary["outliers"]["force_max"] == {
        "limit": "> 50 eV/Å", "meaning": "largest force on an atom", "count": 1, "frames": [6],
    }  # fmt: skip
    assert 3 in summary["outliers"]["hessian_sum_rule"]["frames"]
    assert summary["coverage"]["hvp"] == 3
    assert json.dumps(summary, allow_nan=False)


def test_every_column_is_a_field_of_a_frame():
    fields = {field.name for field in dataclasses.fields(Frame)}
    names = {column.label.name if column.label else name for name, column in columns().items()}
    assert fields == names | {"frame_id", "extra"}
