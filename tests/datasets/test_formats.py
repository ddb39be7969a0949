"""Foreign formats: written as their own tools write them, read back number for number; what is hostile is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import pickle
import subprocess
import sys
import types
from collections import OrderedDict
from pathlib import Path

import ase.io
import h5py
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.units import Bohr, Hartree
from test_datasets import assert_same, bare, full_frame

from phl_ase.datasets import (
    EXPORTERS,
    FORMATS,
    Dataset,
    DatasetMeta,
    MemoryDataset,
    import_dataset,
    merge,
    open_dataset,
    split,
    write_dataset,
    write_extxyz,
    write_split,
)
from phl_ase.datasets.formats import exporter_of, format_of
from phl_ase.datasets.formats.tensors import attributes, loads
from phl_ase.datasets.writer import dataset_writer
from phl_ase.errors import PHLError
from phl_ase.structures.frame import Frame

ENERGY, FORCES = "wB97x_6-31G(d).energy", "wB97x_6-31G(d).forces"


def molecules(count: int = 4, n: int = 3, seed: int = 0) -> list[Frame]:
    """Molecules with energy, forces and a symmetric Hessian; no two alike."""
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(count):
        hessian = rng.normal(size=(3 * n, 3 * n))
        labels = {"energy": rng.normal(), "forces": rng.normal(size=(n, 3)), "hessian": hessian + hessian.T}
        frames.append(Frame(numbers=np.array([8, 1, 1][:n]), positions=rng.normal(size=(n, 3)), **labels))
    return frames


def imported(source, tmp_path, **options) -> tuple[list[Frame], object]:
    report = import_dataset(source, tmp_path / "imported.h5", **options)
    with Dataset(tmp_path / "imported.h5") as dataset:
        dataset.verify()
        assert dataset.content_hash() == report.content_hash
        return dataset.frames(), report


def assert_labels(got: Frame, expected: Frame, tolerance: float = 0.0) -> None:
    np.testing.assert_array_equal(got.numbers, expected.numbers)
    for label in ("positions", "energy", "forces", "hessian"):
        np.testing.assert_allclose(getattr(got, label), getattr(expected, label), atol=tolerance, rtol=tolerance)


# ----------------------------------------------------------------------------------------------- writing in one pass


def test_a_streamed_file_is_the_file_that_is_written_at_once(tmp_path):
    rng = np.random.default_rng(1)
    frames = [full_frame(rng), bare(rng), full_frame(rng, n=1, k=5, kind="", reaction=""), bare(rng, n=4, energy=0.0)]
    meta = DatasetMeta("HF/STO-3G", "absolute")
    expected = write_dataset(tmp_path / "once.h5", frames, meta)
    with dataset_writer(tmp_path / "streamed.h5") as writer:
        for index, frame in enumerate(frames):
            writer.append(frame, f"frame {index}")
        assert writer.finish(meta) == expected
    with Dataset(tmp_path / "streamed.h5") as dataset:
        dataset.verify()
        for got, frame in zip(dataset, frames, strict=True):
            assert_same(got, frame)
    assert sorted(os.listdir(tmp_path)) == ["once.h5", "streamed.h5"]


def test_many_frames_and_names_cross_the_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("phl_ase.datasets.writer._BLOCK", 1000)
    monkeypatch.setattr("phl_ase.datasets.writer._TEXT", 17)
    frames = [dataclasses.replace(f, reaction=f"Å{i % 7}" * (i % 5)) for i, f in enumerate(molecules(60))]
    with dataset_writer(tmp_path / "a.h5") as writer:
        for frame in frames:
            writer.append(frame, "frame")
        writer.finish(DatasetMeta())
    with Dataset(tmp_path / "a.h5") as dataset:
        dataset.verify()
        assert dataset.reactions.tolist() == [frame.reaction for frame in frames]
        assert_same(dataset[59], frames[59])


@pytest.mark.parametrize("error", [KeyboardInterrupt, PHLError])
def test_an_import_that_ends_early_leaves_nothing(tmp_path, monkeypatch, error):
    def stop(self, *arguments):
        raise error

    (tmp_path / "a.h5").write_bytes(b"older")
    write_extxyz(tmp_path / "a.xyz", molecules(3))
    monkeypatch.setattr("phl_ase.datasets.writer.DatasetWriter.finish", stop)
    with pytest.raises(error):
        import_dataset(tmp_path / "a.xyz", tmp_path / "a.h5")
    (tmp_path / "a.xyz").unlink()
    assert os.listdir(tmp_path) == ["a.h5"]
    assert (tmp_path / "a.h5").read_bytes() == b"older"


# ------------------------------------------------------------------------------------------------------ ASE's formats


def test_extxyz_of_ours_comes_back(tmp_path):
    rng = np.random.default_rng(2)
    frames = [full_frame(rng, n=3), full_frame(rng, n=12, k=1, reaction="other"), bare(rng, n=10)]
    write_extxyz(tmp_path / "a.xyz", frames)
    got, report = imported(tmp_path / "a.xyz", tmp_path)
    assert report.format == "extxyz"
    assert report.coverage == {"energy": 2, "forces": 2, "stress": 2, "hessian": 2, "hvp": 2}
    for frame, expected in zip(got, frames, strict=True):
        for field in dataclasses.fields(Frame):
            a, b = getattr(frame, field.name), getattr(expected, field.name)
            if isinstance(b, np.ndarray):
                np.testing.assert_allclose(a, b, atol=1e-8, err_msg=field.name)  # the decimals of extxyz
            elif field.name not in ("frame_id", "energy", "stress"):
                assert a == b, field.name


def test_extxyz_of_mace_and_of_other_keys(tmp_path):
    atoms = Atoms("OH", positions=[[0, 0, 0], [0, 0, 0.97]])
    hessian = np.diag(np.arange(6.0))
    atoms.info = {"REF_energy": -1.5, "dft": -2.5, "REF_hessian": hessian.reshape(-1), "config_type": "Default"}
    atoms.arrays["REF_forces"] = np.ones((2, 3))
    ase.io.write(tmp_path / "a.xyz", [atoms, atoms], format="extxyz")
    (frame, _), report = imported(tmp_path / "a.xyz", tmp_path)
    assert frame.energy == -1.5
    np.testing.assert_array_equal(frame.hessian, hessian)
    assert report.meta.provenance["keys"]["energy"] == {"REF_energy": 2}
    assert report.meta.provenance["duplicates"]["pairs"] == [[0, 1]]
    (frame, _), _ = imported(tmp_path / "a.xyz", tmp_path, keys={"energy": "dft"})
    assert frame.energy == -2.5
    with pytest.raises(PHLError, match=r"no frame has 'nothing' for energy; keys seen: .*REF_forces"):
        import_dataset(tmp_path / "a.xyz", tmp_path / "b.h5", keys={"energy": "nothing"})
    with pytest.raises(PHLError, match="unknown label in the key mapping 'energies'"):
        import_dataset(tmp_path / "a.xyz", tmp_path / "b.h5", keys={"energies": "dft"})
    assert not (tmp_path / "b.h5").exists()


def test_units_are_converted(tmp_path):
    """A harmonic bond in atomic units is the same bond in ours: E = k d²/2, F = −k d, H = k, HVPs of unit probes."""
    stiffness, stretch = 0.3, 0.1  # Ha/Bohr², Bohr
    row = np.array([1.0, 0, 0, -1.0, 0, 0])
    hessian, forces = stiffness * np.outer(row, row), -stiffness * stretch * row.reshape(2, 3)
    probe = np.eye(6)[0].reshape(2, 3)
    atoms = Atoms("H2", positions=[[1.4 + stretch, 0, 0], [0, 0, 0]])
    atoms.info = {"REF_energy": stiffness * stretch**2 / 2, "REF_hessian": hessian.reshape(-1)}
    atoms.arrays |= {"REF_forces": forces, "hvp_dir": probe, "REF_hvp": (hessian @ probe.reshape(6)).reshape(2, 3)}
    ase.io.write(tmp_path / "a.xyz", atoms, format="extxyz")
    units = {"energy": "Ha", "forces": "Ha/Bohr", "hessian": "Ha/Bohr^2", "hvp": "Ha/Bohr²", "positions": "Bohr"}
    (frame,), report = imported(tmp_path / "a.xyz", tmp_path, units=units)
    curvature, distance = frame.hessian[0, 0], stretch * Bohr
    assert curvature == pytest.approx(stiffness * Hartree / Bohr**2, rel=1e-6)  # eight decimals in the file
    assert frame.energy == pytest.approx(curvature * distance**2 / 2, rel=1e-6)
    assert frame.forces[0, 0] == pytest.approx(-curvature * distance, rel=1e-6)
    assert frame.hvp[0, 0, 0] == pytest.approx(curvature, rel=1e-12)
    assert frame.positions[0, 0] == pytest.approx(1.5 * Bohr, rel=1e-7)
    assert report.meta.provenance["units_converted"] == units
    assert any("but energy Ha, forces Ha/Bohr" in line for line in report.lines)


def test_trajectory_and_database(tmp_path, monkeypatch):
    monkeypatch.setattr("phl_ase.datasets.formats.of_ase._PAGE", 2)
    frames = molecules(5)
    with connect(tmp_path / "a.db") as database, ase.io.Trajectory(tmp_path / "a.traj", "w") as trajectory:
        for frame in frames:
            atoms = Atoms(frame.numbers, frame.positions)
            atoms.calc = SinglePointCalculator(atoms, energy=frame.energy, forces=frame.forces)
            trajectory.write(atoms)
            database.write(atoms, data={"REF_hessian": frame.hessian.reshape(3, -1)})
    got, report = imported(tmp_path / "a.db", tmp_path)
    assert report.format == "ase-db"
    for frame, expected in zip(got, frames, strict=True):
        assert_labels(frame, expected)
    got, report = imported(tmp_path / "a.traj", tmp_path)
    assert (report.format, report.coverage["hessian"], report.coverage["forces"]) == ("ase", 0, 5)
    assert [frame.energy for frame in got] == [frame.energy for frame in frames]


# ------------------------------------------------------------------------------------------------------ LMDB: HORM


class _Plain:
    """Takes the place of a class of torch_geometric while a file is written."""


@contextlib.contextmanager
def torch_geometric():
    """torch_geometric's classes as far as pickles name them; gone when files are read."""
    names = {"data": ("Data", "DataEdgeAttr", "DataTensorAttr"), "storage": ("GlobalStorage",)}
    modules = {}
    for part, classes in names.items():
        module = types.ModuleType(f"torch_geometric.data.{part}")
        for name in classes:
            setattr(module, name, type(name, (_Plain,), {"__module__": module.__name__, "__qualname__": name}))
        modules[module.__name__] = module
    for parent in ("torch_geometric", "torch_geometric.data"):
        modules[parent] = types.ModuleType(parent)
    sys.modules.update(modules)
    try:
        yield modules["torch_geometric.data.data"], modules["torch_geometric.data.storage"]
    finally:
        for name in modules:
            del sys.modules[name]


def pickled(values: dict) -> bytes:
    """A ``Data`` as torch_geometric pickles it: attributes in the storage, which points back at its parent."""
    with torch_geometric() as (data, storage):
        graph, store = data.Data(), storage.GlobalStorage()
        vars(store).update(_mapping=values, _parent=graph)
        vars(graph).update(_edge_attr_cls=data.DataEdgeAttr, _tensor_attr_cls=data.DataTensorAttr, _store=store)
        return pickle.dumps(graph, protocol=4)


def horm_record(frame: Frame, **changes) -> bytes:
    n = len(frame)
    values = {
        "pos": torch.tensor(frame.positions, dtype=torch.float32),
        "rxn": torch.tensor(1),
        "energy": torch.tensor(frame.energy - 8000, dtype=torch.float32),
        "ae": torch.tensor(frame.energy, dtype=torch.float32),
        "forces": torch.tensor(frame.forces, dtype=torch.float32),
        "charges": torch.tensor(frame.numbers, dtype=torch.int32),
        "one_hot": torch.zeros(n, 5),
        "natoms": torch.tensor([n]),
        "hessian": torch.tensor(frame.hessian, dtype=torch.float32).reshape(-1),
    }
    return pickled({**values, **changes})


def write_lmdb(path: Path, records: dict[bytes, bytes], *, subdir: bool = False) -> Path:
    lmdb = pytest.importorskip("lmdb")
    with (
        lmdb.open(str(path), subdir=subdir, map_size=2**24, lock=False) as environment,
        environment.begin(write=True) as transaction,
    ):
        for key, value in records.items():
            transaction.put(key, value)
    return path


def write_horm(path: Path, frames: list[Frame]) -> Path:
    records = {str(i).encode(): horm_record(frame) for i, frame in enumerate(frames)}
    return write_lmdb(path, {**records, b"length": pickle.dumps(len(frames), protocol=4)})


def test_horm(tmp_path):
    frames = molecules(12)  # more than ten: LMDB sorts "10" before "2"
    skewed = frames[3].hessian.copy()
    skewed[0, 1] += 6e-4
    frames[3] = dataclasses.replace(frames[3], hessian=skewed)
    got, report = imported(write_horm(tmp_path / "a.lmdb", frames), tmp_path)
    assert "torch_geometric" not in sys.modules
    assert report.format == "horm"
    assert report.meta.level_of_theory == "wB97X/6-31G(d)"
    removed = report.meta.provenance["asymmetry_removed"]
    assert removed["largest"] == pytest.approx(6e-4, rel=1e-2)  # float32 of numbers near 1
    assert removed["frame"].endswith("record 3")
    for frame, expected in zip(got, frames, strict=True):
        symmetric = dataclasses.replace(expected, hessian=(expected.hessian + expected.hessian.T) / 2)
        assert_labels(frame, symmetric, 1e-6)  # float32 in the file
    assert report.meta.provenance["sum_rule"]["broken"] == 12  # random Hessians


def test_horm_that_is_not_as_expected(tmp_path):
    frames = molecules(3)
    records = [
        horm_record(frames[0]),
        horm_record(frames[1], pos=torch.zeros(7, 3)),
        horm_record(frames[2], charges=None),
    ]
    path = write_lmdb(tmp_path / "a.lmdb", {str(i).encode(): record for i, record in enumerate(records)})
    got, report = imported(path, tmp_path)
    assert (len(got), report.refused) == (1, 2)
    reasons = [refusal["reason"] for refusal in report.meta.provenance["refusals"]]
    assert "'pos' has shape (7, 3); expected (3, 3)" in reasons[0]
    assert "has no numbers (charges, atomic_numbers); it has: ae" in reasons[1]
    assert "2 of 3 frames of the source were refused" in report.meta.notes


def test_fairchem_and_the_older_layout(tmp_path):
    """Attributes in the object itself (torch_geometric 1), in an LMDB folder; structures of a periodic crystal."""
    cell = np.diag([4.0, 4.0, 4.0])
    values = {
        "pos": torch.zeros(1, 3),
        "atomic_numbers": torch.tensor([29.0]),
        "cell": torch.tensor(cell).reshape(1, 3, 3),
        "y": -3.5,
        "force": torch.zeros(1, 3),
        "natoms": 1,
    }
    with torch_geometric() as (data, _):
        graph = data.Data()
        vars(graph).update(values)
        record = pickle.dumps(graph, protocol=2)
    (frame,), report = imported(write_lmdb(tmp_path / "train", {b"0": record}, subdir=True), tmp_path)
    assert (report.format, report.meta.level_of_theory) == ("fairchem", "")
    assert (frame.numbers.tolist(), frame.energy, frame.pbc.tolist()) == ([29], -3.5, [True] * 3)
    np.testing.assert_array_equal(frame.cell, cell)


def test_the_missing_package_is_named(tmp_path, monkeypatch):
    path = write_horm(tmp_path / "a.lmdb", molecules(1))
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(PHLError, match=r"pip install 'phl-ase\[lmdb\]'"):
        import_dataset(path, tmp_path / "b.h5")


class _Malicious:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_a_malicious_pickle_is_refused_and_nothing_runs(tmp_path):
    marker = tmp_path / "it ran"
    nested = io.BytesIO()
    torch.save(_Malicious(os.system, f"touch '{marker}'"), nested, _use_new_zipfile_serialization=False)
    for evil in (
        pickle.dumps(_Malicious(os.system, f"touch '{marker}'")),
        pickle.dumps(_Malicious(eval, f"open({str(marker)!r}, 'w')")),
        pickle.dumps({"pos": _Malicious(os.mkdir, str(marker))}),
        # torch's own loader of nested storages would unpickle this a second time, unguarded
        pickle.dumps(_Malicious(torch.storage._load_from_bytes, nested.getvalue())),
        pickle.dumps(_Malicious(torch.load, str(marker))),
    ):
        path = write_lmdb(tmp_path / "a.lmdb", {b"0": evil, b"length": pickle.dumps(1)})
        with pytest.raises(PHLError, match=r"names .*refused, nothing was run"):
            import_dataset(path, tmp_path / "b.h5")
        with pytest.raises(PHLError, match="refused, nothing was run"):
            attributes(evil, "record 0")
        assert not marker.exists()
        path.unlink()
    # the first record decides what format it is, the others are no safer
    path = write_lmdb(tmp_path / "a.lmdb", {b"0": horm_record(molecules(1)[0]), b"1": evil})
    with pytest.raises(PHLError, match=r"record 1: the pickle names torch\.serialization.load"):
        import_dataset(path, tmp_path / "b.h5")
    assert sorted(os.listdir(tmp_path)) == ["a.lmdb"]


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.int64, torch.int32, torch.int16, torch.uint8, torch.bool],
)
def test_tensors_are_read_as_torch_wrote_them(dtype):
    tensor = (torch.arange(24).reshape(2, 3, 4) % 7).to(dtype)
    view = tensor[1:]  # a part of a storage
    got = loads(pickle.dumps({"a": tensor, "b": view, "n": 3}), "test")
    np.testing.assert_array_equal(got["a"], tensor.numpy())
    np.testing.assert_array_equal(got["b"], view.numpy())
    assert got["n"] == 3


@pytest.mark.parametrize(
    ("evil", "message"),
    [
        (torch.zeros(1).expand(10**12), "expected a contiguous one"),  # 4 bytes that claim 4 TB
        (torch.zeros(3, 4).T, "expected a contiguous one"),
        (
            _Malicious(torch._utils._rebuild_tensor_v2, torch.zeros(2).untyped_storage(), 0, (9,), (1,), False, None),
            "names",
        ),
        (_Malicious(OrderedDict, [("a", 1)]), "backward hooks"),
    ],
)
def test_absurd_tensors_are_refused(evil, message):
    with pytest.raises(PHLError, match=message):
        loads(pickle.dumps(evil), "record 0")


def test_a_pickle_that_is_cut_off_is_refused():
    whole = horm_record(molecules(1)[0])
    for length in (0, 1, 50, 500, len(whole) - 1):
        with pytest.raises(PHLError, match="record 7: "):
            attributes(whole[:length], "record 7")


def test_a_truncated_lmdb_is_refused_and_does_not_kill(tmp_path):
    path = write_horm(tmp_path / "a.lmdb", molecules(40, seed=5))
    whole = path.read_bytes()
    code = "import sys; from phl_ase.datasets import import_dataset; import_dataset(*sys.argv[1:], format='horm')"
    for length in (len(whole) // 2, 5000, 100, 0):
        path.write_bytes(whole[:length])
        with pytest.raises(PHLError, match=r"truncated|are no LMDB|is not an LMDB"):
            import_dataset(path, tmp_path / "b.h5", format="horm")
    # in a process of its own, which a read beyond the end would kill with SIGBUS
    path.write_bytes(whole[: len(whole) - 4096])
    done = subprocess.run([sys.executable, "-c", code, path, tmp_path / "b.h5"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "PHLError" in done.stderr
    assert "truncated" in done.stderr


def test_an_lmdb_without_our_keys(tmp_path):
    path = write_lmdb(tmp_path / "a.lmdb", {b"cat": pickle.dumps({"a": 1}), b"dog": pickle.dumps(3)})
    for format in ("horm", "fairchem"):
        with pytest.raises(PHLError, match="record 0 is absent; expected records 0, 1"):
            import_dataset(path, tmp_path / "b.h5", format=format)
    path = write_lmdb(tmp_path / "c.lmdb", {b"0": pickle.dumps([1, 2])})
    with pytest.raises(PHLError, match="holds list; expected a torch_geometric Data object"):
        import_dataset(path, tmp_path / "b.h5", format="horm")
    path = write_lmdb(tmp_path / "d.lmdb", {b"length": pickle.dumps(10**12), b"0": b""})
    with pytest.raises(PHLError, match="says that it holds 1000000000000 frames among 2 records"):
        import_dataset(path, tmp_path / "b.h5", format="horm")


# ------------------------------------------------------------------------------------------------ MLFF-distill, LMDB


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_force_jacobians_are_minus_the_hessian(tmp_path, dtype):
    frames = molecules(11)
    bare_frames = [dataclasses.replace(frame, hessian=None) for frame in frames]
    write_dataset(tmp_path / "structures.h5", bare_frames)
    write_extxyz(tmp_path / "structures.xyz", bare_frames)
    labels = {str(i).encode(): (-f.hessian).reshape(3, 3, 3, 3).astype(dtype).tobytes() for i, f in enumerate(frames)}
    path = write_lmdb(tmp_path / "force_jacobians.lmdb", labels, subdir=True)
    for name, tolerance in (("structures.xyz", 1e-8), ("structures.h5", 0.0)):  # decimals of extxyz
        got, report = imported(path, tmp_path, structures=tmp_path / name)
        assert report.format == "mlff-distill"
        for frame, expected in zip(got, frames, strict=True):
            assert_labels(frame, expected, 1e-6 if dtype is np.float32 else tolerance)  # float32 labels
    with pytest.raises(PHLError, match="name the file that the teacher labelled: --structures"):
        import_dataset(path, tmp_path / "b.h5")
    write_extxyz(tmp_path / "few.xyz", bare_frames[:4])
    with pytest.raises(PHLError, match="has 11 labels, of which 4 belong to one of the 4 structures"):
        import_dataset(path, tmp_path / "b.h5", structures=tmp_path / "few.xyz")
    write_extxyz(tmp_path / "other.xyz", [dataclasses.replace(f, hessian=None) for f in molecules(11, n=2)])
    with pytest.raises(PHLError, match=r"all 11 frames were refused; the first, .* with 2 atoms; expected 144"):
        import_dataset(path, tmp_path / "b.h5", structures=tmp_path / "other.xyz")


# ------------------------------------------------------------------------------------------------- Transition1x, HDF5


def write_transition1x(path: Path, frames: list[Frame]) -> Path:
    """Three stationary points, then the images of the band: as the release is laid out."""

    def put(group: h5py.Group, chosen: list[Frame]) -> None:
        group["atomic_numbers"] = chosen[0].numbers
        group["positions"] = np.stack([frame.positions for frame in chosen])
        group[ENERGY] = np.array([frame.energy for frame in chosen])
        group[FORCES] = np.stack([frame.forces for frame in chosen])

    with h5py.File(path, "w") as file:
        reaction = file.create_group("data/H2O/rxn0007")
        put(reaction, frames[3:])
        for name, frame in zip(("reactant", "transition_state", "product"), frames, strict=False):
            put(reaction.create_group(name), [frame])
        file["train/H2O/rxn0007"] = h5py.SoftLink("/data/H2O/rxn0007")  # the splits of the release repeat the data
    return path


def test_transition1x(tmp_path):
    frames = molecules(300)  # more than one block
    got, report = imported(write_transition1x(tmp_path / "a.h5", frames), tmp_path)
    assert report.format == "transition1x"
    assert report.meta.energy_reference == "absolute"
    assert [frame.kind for frame in got[:4]] == ["reactant", "ts", "product", "neb"]
    assert {frame.reaction for frame in got} == {"rxn0007"}
    for frame, expected in zip(got, frames, strict=True):
        assert_labels(dataclasses.replace(frame, hessian=expected.hessian), expected)
        assert frame.hessian is None


def _external_link(file, reaction, folder):
    del reaction["positions"]
    reaction["positions"] = h5py.ExternalLink("other.h5", "/a")


def _external_storage(file, reaction, folder):
    del reaction[ENERGY]
    reaction.create_dataset(ENERGY, (2,), "<f8", external=[(str(folder / "secret"), 0, 16)])


def _absurd(file, reaction, folder):
    del reaction["positions"]
    reaction.create_dataset("positions", (2**40, 3, 3), "<f8", chunks=(8, 3, 3))


def _without_energy(file, reaction, folder):
    del reaction[ENERGY]


def _objects(file, reaction, folder):
    del reaction["atomic_numbers"]
    reaction.create_dataset("atomic_numbers", (3,), h5py.string_dtype())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_external_link, "positions is an external link; refused"),
        (_external_storage, "keeps its data in another file; refused"),
        (_absurd, "refused: the file is incomplete or made to exhaust memory"),
        (_without_energy, "is absent; expected data/FORMULA/REACTION"),
        (_objects, "has type object; expected numbers"),
    ],
)
def test_a_spoilt_transition1x_is_refused(tmp_path, spoil, message):
    path = write_transition1x(tmp_path / "a.h5", molecules(5))
    with h5py.File(path, "r+") as file:
        spoil(file, file["data/H2O/rxn0007"], tmp_path)
    with pytest.raises(PHLError, match=message):
        import_dataset(path, tmp_path / "b.h5")
    assert os.listdir(tmp_path) == ["a.h5"]


def test_a_truncated_transition1x_is_refused(tmp_path):
    path = write_transition1x(tmp_path / "a.h5", molecules(5))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(PHLError, match="is truncated"):
        import_dataset(path, tmp_path / "b.h5")


def test_our_own_format_with_another_level(tmp_path):
    frames = molecules(2)
    write_dataset(tmp_path / "a.h5", frames, DatasetMeta("", "absolute", {"by": "us"}, "Å."))
    got, report = imported(tmp_path / "a.h5", tmp_path, level="HF")
    assert (report.meta.level_of_theory, report.meta.energy_reference) == ("HF", "absolute")
    assert (report.meta.notes, report.meta.provenance["before"]) == ("Å.", {"by": "us"})
    for frame, expected in zip(got, frames, strict=True):
        assert_same(frame, expected)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file.attrs["schema"] = 99
    with pytest.raises(PHLError, match="schema version 99 is newer than"):
        import_dataset(tmp_path / "a.h5", tmp_path / "b.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["numbers"] = [1, 2]
    with pytest.raises(
        PHLError, match="is HDF5 of no known layout: expected data/FORMULA/REACTION as in Transition1x, or"
    ):
        import_dataset(tmp_path / "other.h5", tmp_path / "b.h5")


# ------------------------------------------------------------------------------------------------------------ DeePMD


def write_deepmd(folder: Path, frames: list[Frame], *, box: np.ndarray | None = None) -> Path:
    """Two sets, as dpdata writes ``deepmd/npy``."""
    folder.mkdir()
    (folder / "type_map.raw").write_text("H\nO\n")
    (folder / "type.raw").write_text("\n".join("1" if z == 8 else "0" for z in frames[0].numbers))
    if box is None:
        (folder / "nopbc").touch()
    for place, chosen in enumerate((frames[:2], frames[2:])):
        (folder / f"set.{place:03d}").mkdir()
        columns = {
            "coord": [f.positions.reshape(-1) for f in chosen],
            "energy": [f.energy for f in chosen],
            "force": [f.forces.reshape(-1) for f in chosen],
            "hessian": [f.hessian.reshape(-1) for f in chosen],
        }
        if box is not None:
            columns["box"] = [box.reshape(-1) for _ in chosen]
            columns["virial"] = [-np.linalg.det(box) * 0.01 * np.eye(3).reshape(-1) for _ in chosen]
        for name, values in columns.items():
            np.save(folder / f"set.{place:03d}" / f"{name}.npy", np.array(values))
    return folder


def test_deepmd(tmp_path):
    frames = molecules(5)
    (tmp_path / "all").mkdir()
    write_deepmd(tmp_path / "all" / "a", frames)
    write_deepmd(tmp_path / "all" / "b", frames, box=np.diag([5.0, 6.0, 7.0]))
    got, report = imported(tmp_path / "all", tmp_path)
    assert (report.format, report.coverage["hessian"], report.coverage["stress"]) == ("deepmd", 10, 5)
    for frame, expected in zip(got, frames + frames, strict=True):
        assert_labels(frame, expected)
    np.testing.assert_allclose(got[5].stress, 0.01 * np.eye(3), rtol=1e-12)
    assert got[5].pbc.all()
    assert not got[0].pbc.any()


def test_frames_of_a_periodic_deepmd_without_a_box_are_refused(tmp_path):
    folder = write_deepmd(tmp_path / "a", molecules(4), box=np.diag([5.0, 6.0, 7.0]))
    boxes = np.load(folder / "set.001" / "box.npy")
    boxes[1] = 0.0
    np.save(folder / "set.001" / "box.npy", boxes)
    got, report = imported(folder, tmp_path)
    assert (len(got), report.refused) == (3, 1)
    refusal = report.meta.provenance["refusals"][0]
    assert refusal["frame"] == "a/set.001: frame 1"
    assert "a periodic lattice vector is zero; set the cell" in refusal["reason"]


def _object_array(folder):
    np.save(
        folder / "set.000" / "energy.npy", np.array([_Malicious(os.mkdir, str(folder / "it ran")), 1], dtype=object)
    )


def _cut(folder):
    file = folder / "set.000" / "hessian.npy"
    file.write_bytes(file.read_bytes()[:-8])


def _absurd_shape(folder):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (2, 2**50)})
    (folder / "set.000" / "coord.npy").write_bytes(header.getvalue() + bytes(64))


def _narrow(folder):
    np.save(folder / "set.000" / "force.npy", np.zeros((2, 8)))


def _no_box(folder):
    (folder / "nopbc").unlink()


def _no_type_map(folder):
    (folder / "type_map.raw").unlink()


def _bad_types(folder):
    (folder / "type.raw").write_text("0 1 2")


def _no_npy(folder):
    (folder / "set.000" / "energy.npy").write_bytes(b"nothing of the kind")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_object_array, "holds Python objects, which would be unpickled; refused"),
        (_cut, "hessian.npy: declares shape .* it is truncated"),
        (_absurd_shape, "coord.npy: declares shape"),
        (_narrow, r"force.npy: has shape \(2, 8\); expected \(2, 9\) for 3 atoms"),
        (_no_box, "lacks box.npy; a system without a cell needs a file nopbc"),
        (_no_type_map, "has no type_map.raw, so nothing says which elements its types 0, 1 are; write that file"),
        (_bad_types, "type.raw: holds '2'; expected a number from 0 to 1"),
        (_no_npy, "energy.npy: is not a .npy file"),
    ],
)
def test_a_spoilt_deepmd_is_refused(tmp_path, spoil, message):
    folder = write_deepmd(tmp_path / "a", molecules(4))
    spoil(folder)
    with pytest.raises(PHLError, match=message):
        import_dataset(folder, tmp_path / "b.h5")
    assert os.listdir(tmp_path) == ["a"]
    assert not (folder / "it ran").exists()


# ------------------------------------------------------------------------------------------------- refusals and files


def test_broken_frames_are_refused_recorded_and_the_others_taken(tmp_path):
    rng = np.random.default_rng(4)
    frames = molecules(3)
    images = []
    for frame in frames:
        atoms = Atoms(frame.numbers, frame.positions)
        atoms.info["REF_energy"] = frame.energy
        atoms.info["REF_hessian"] = frame.hessian.reshape(-1)
        images.append(atoms)
    images[1].info["REF_hessian"] = rng.normal(size=81)  # no Hessian at all
    ase.io.write(tmp_path / "a.xyz", images, format="extxyz")
    text = (tmp_path / "a.xyz").read_text().splitlines()
    text[-1] = "H 0.0 nonsense 0.0"
    (tmp_path / "a.xyz").write_text("\n".join(text) + "\n")
    got, report = imported(tmp_path / "a.xyz", tmp_path)
    assert len(got) == 1
    refusals = report.meta.provenance["refusals"]
    assert [refusal["frame"] for refusal in refusals] == ["a.xyz: frame 1", "a.xyz: frame 2"]
    assert "asymmetric by" in refusals[0]["reason"]
    assert "cannot be read by ASE" in refusals[1]["reason"]
    assert any("refused a.xyz: frame 1" in line for line in report.lines)
    with open_dataset(tmp_path / "imported.h5") as dataset:
        assert dataset.meta.provenance["refusals"] == refusals


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xyz", b"3\n\nO 0 0 0\nH 0 0 1\n", "the file ends after 2 of 3 atoms: it is truncated"),
        ("a.xyz", b"", "holds no structures"),
        ("a.xyz", b"three\n", "starts with 'three'; expected the number of its atoms"),
        ("a.xyz", b"1\n\xff\xfe\nO 0 0 0\n", "is not UTF-8 text"),
        ("a.db", b"not a data base" * 100, "cannot be read as a data base of ASE"),
        ("a.traj", b"not a trajectory", "cannot be read by ASE at image 0"),
        ("a.weird", b"\x00\x01\x02", "cannot be read by ASE"),
    ],
)
def test_files_that_are_not_what_they_seem(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PHLError, match=message) as caught:
        import_dataset(tmp_path / name, tmp_path / "b.h5")
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == [name]


def test_names_of_formats(tmp_path):
    with pytest.raises(PHLError, match="unknown format 'xyzzy'; valid: ase, ase-db, deepmd"):
        format_of(tmp_path, "xyzzy")
    with pytest.raises(PHLError, match="no file or folder"):
        format_of(tmp_path / "none")
    with pytest.raises(PHLError, match="is a folder of no known format"):
        format_of(tmp_path)
    with pytest.raises(PHLError, match=r"no format has the suffix '\.png'"):
        exporter_of(tmp_path / "a.png")
    with pytest.raises(PHLError, match="unknown format to export to 'horm'"):
        exporter_of(tmp_path / "a.lmdb", "horm")
    write_deepmd(tmp_path / "a", molecules(3))
    with pytest.raises(PHLError, match="deepmd has keys of its own"):
        import_dataset(tmp_path / "a", tmp_path / "b.h5", keys={"energy": "dft"})
    with pytest.raises(PHLError, match="deepmd holds its own structures"):
        import_dataset(tmp_path / "a", tmp_path / "b.h5", structures=tmp_path / "a")


def test_the_tables_say_what_each_format_is():
    assert all(format.describes and format.units for format in FORMATS.values())
    assert all(exporter.describes for exporter in EXPORTERS.values())


# ------------------------------------------------------------------------------------------------------------ exports


@pytest.mark.parametrize(
    ("name", "target", "tolerance"), [("extxyz", "a.xyz", 1e-8), ("ase-db", "a.db", 0.0), ("deepmd", "a", 0.0)]
)
def test_what_is_exported_is_imported_again(tmp_path, name, target, tolerance):
    frames = [*molecules(3), *molecules(2, n=2)]
    frames[1] = dataclasses.replace(
        frames[1], cell=np.diag([4.0, 5.0, 6.0]), pbc=np.ones(3, dtype=bool), stress=np.eye(3)
    )
    dataset = MemoryDataset(frames)
    assert exporter_of(tmp_path / target) == name
    EXPORTERS[name].write(dataset, tmp_path / target)
    got, report = imported(tmp_path / target, tmp_path)
    assert (report.format, report.frames) == (name, 5)
    key = lambda frame: frame.energy  # noqa: E731 - DeePMD sorts by composition
    for frame, expected in zip(sorted(got, key=key), sorted(frames, key=key), strict=True):
        assert_labels(frame, expected, tolerance)
        np.testing.assert_allclose(frame.cell, expected.cell, atol=1e-12)
        if expected.stress is not None:
            np.testing.assert_allclose(frame.stress, expected.stress, rtol=1e-12)


def test_a_folder_that_exists_is_not_written_over(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(PHLError, match="it exists; name a folder that does not"):
        EXPORTERS["deepmd"].write(MemoryDataset(molecules(1)), tmp_path / "a")


# --------------------------------------------------------------------------------------------------- merging, splitting


def test_merging(tmp_path):
    meta = DatasetMeta("HF/STO-3G", "absolute", notes="Å")
    first, second = molecules(3), molecules(4, seed=9)
    datasets = [MemoryDataset(first, meta, name="one"), MemoryDataset([*second, first[1]], meta, name="two")]
    content_hash, statistics = merge(datasets, tmp_path / "a.h5")
    assert content_hash == write_dataset(tmp_path / "b.h5", [*first, *second, first[1]], meta)
    assert statistics.duplicates() == (1, [[1, 7]])
    with Dataset(tmp_path / "a.h5") as merged:
        assert (merged.meta.level_of_theory, merged.meta.notes) == ("HF/STO-3G", "Å")
        assert [source["frames"] for source in merged.meta.provenance["merged"]] == [3, 5]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (DatasetMeta("B3LYP", "absolute"), "differ in level of theory .one: HF; two: B3LYP"),
        (DatasetMeta("HF", "atomisation"), "differ in energy reference .one: absolute; two: atomisation"),
        (DatasetMeta("", "absolute"), "differ in level of theory .one: HF; two: unknown"),
    ],
)
def test_different_levels_do_not_merge_by_accident(tmp_path, other, words):
    datasets = [
        MemoryDataset(molecules(1), DatasetMeta("HF", "absolute"), name="one"),
        MemoryDataset(molecules(1, seed=3), other, name="two"),
    ]
    with pytest.raises(PHLError, match=words):
        merge(datasets, tmp_path / "a.h5")
    assert os.listdir(tmp_path) == []
    merge(datasets, tmp_path / "a.h5", allow_mixed=True)
    with Dataset(tmp_path / "a.h5") as merged:
        assert f"{merged.meta.level_of_theory} {merged.meta.energy_reference}".count("mixed: ") == 1
    with pytest.raises(PHLError, match="expected two or more"):
        merge(datasets[:1], tmp_path / "b.h5")


def test_a_split_is_written_as_files(tmp_path):
    dataset = MemoryDataset(molecules(20), DatasetMeta("HF"))
    divided = split(dataset, "random", 0)
    assert write_split(dataset, divided, tmp_path / "parts") == {"train": 16, "valid": 2, "test": 2}
    for part in ("train", "valid", "test"):
        with Dataset(tmp_path / "parts" / f"{part}.h5") as written:
            assert written.meta.level_of_theory == "HF"
            assert written.meta.provenance["split"]["part"] == part
            for frame, index in zip(written, getattr(divided, part), strict=True):
                assert_same(frame, dataset[index])
    with pytest.raises(PHLError, match="made for other data"):
        write_split(MemoryDataset(molecules(20, seed=3)), divided, tmp_path / "parts")
    with pytest.raises(PHLError, match="cannot make the folder"):
        write_split(dataset, divided, tmp_path / "none" / "parts")
