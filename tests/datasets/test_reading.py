"""Files that others wrote: all frames are read, labels found under any key, what cannot be meant is refused."""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import subprocess
import sys

import ase.io
import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.units import Bohr, GPa, Hartree, kcal, kJ, mol
from typer.testing import CliRunner

from phl_ase.cli import app
from phl_ase.datasets import BUNDLED, import_dataset, merge, open_dataset, read_images, write_dataset
from phl_ase.errors import PHLError
from phl_ase.files import locked_folder, new_folder, replacing
from phl_ase.training import parse_config, prepare_data


@pytest.mark.parametrize("reader", ["open", "import"])
@pytest.mark.parametrize(
    ("name", "text", "numbers"),
    [
        ("blank lines", "1\n\nO 0 0 0\n\n\n1\n\nN 0 0 0\n  \n", [[8], [7]]),
        ("atomic numbers", "2\n\n8 0 0 0\n1 0 0 1\n", [[8, 1]]),
        ("labels of atoms", "2\n\nO1 0 0 0\nCL12 0 0 2\n", [[8, 17]]),
        ("isotopes", "3\n\nO 0 0 0\nD 0 0 1\nT 0 1 0\n", [[8, 1, 1]]),
        ("symbols in another column", "1\nProperties=pos:R:3:species:S:1\n0 0 1 D\n", [[1]]),
        ("a byte-order mark", "\ufeff1\n\nO 0 0 0\n", [[8]]),
        ("vectors of ADF", "1\nx\nO 0 0 0\nVEC1 9 0 0\nVEC2 0 9 0\nVEC3 0 0 9\n1\n\nN 0 0 0\n", [[8], [7]]),
    ],
)
def test_every_frame_and_atom_of_an_xyz_file_is_read(tmp_path, reader, name, text, numbers):
    path = tmp_path / "a.xyz"
    path.write_text(text, encoding="utf-8")
    if reader == "import":
        import_dataset(path, tmp_path / "a.h5")
        path = tmp_path / "a.h5"
    with open_dataset(path) as dataset:
        assert [frame.numbers.tolist() for frame in dataset] == numbers


def test_deuterium_keeps_its_mass_and_compressed_files_are_read(tmp_path):
    with gzip.open(tmp_path / "a.xyz.gz", "wt") as file:
        file.write("3\n\nO 0 0 0\nD 0 0 1\nH 0 1 0\n\n1\n\nH 0 0 0\n")
    first, second = read_images(tmp_path / "a.xyz.gz")
    np.testing.assert_allclose(first.get_masses(), [15.999, 2.014102, 1.008])
    assert len(second) == 1


@pytest.mark.parametrize("reader", ["open", "import"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1000000000000\n\nO 0 0 0\n", "the file ends after 1 of 1,000,000,000,000 atoms"),
        ("1\n\nXx 0 0 0\n", "atom 0 is 'Xx', which is no element"),
        ("1\n\nX 0 0 0\n", "remove ghost and dummy atoms"),
        ("1\n\n0 0 0 0\n", "atom 0 is '0', which is no element"),
        ("1\n\n119 0 0 0\n", "atom 0 is '119', which is no element"),
        ("1\ncharge=nan\nO 0 0 0\n", r"frame 0: atoms.info\['charge'\] is nan; expected a whole number"),
        ("1\nmultiplicity=inf\nO 0 0 0\n", r"frame 0: atoms.info\['multiplicity'\] is inf; expected a whole number"),
        ("1\ncharge=1e9\nO 0 0 0\n", "charge 1e[+]09; expected at most that of its nuclei, 8"),
        ('1\npbc="T T T"\nO 0 0 0\n', "a periodic lattice vector is zero; set the cell"),
        ('1\nLattice="3 0 0 6 0 0 0 0 3"\nO 0 0 0\n', "the periodic lattice vectors of the cell .* span no volume"),
        ('1\nLattice="3 0 0 0 3 0 3 3 0"\nO 0 0 0\n', "the periodic lattice vectors of the cell .* span no volume"),
        ("1\nenergy=1e300\nO 0 0 0\n", "energy as large as 1e[+]300 eV; expected at most 1e[+]07 eV an atom"),
        ("1\n\nO 0 0 1e300\n", "expected positions within 1e[+]06 Å of the origin"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_frame(tmp_path, reader, text, message):
    (tmp_path / "a.xyz").write_text(text, encoding="utf-8")
    with pytest.raises(PHLError, match=message) as caught:
        open_dataset(tmp_path / "a.xyz") if reader == "open" else import_dataset(tmp_path / "a.xyz", tmp_path / "a.h5")
    assert "frame 0" in str(caught.value)


@pytest.mark.parametrize("broken", ["charge=nan", "multiplicity=-inf", "charge=1e30", 'REF_energy="x"', "energy=1e300"])
def test_one_broken_frame_does_not_cost_the_import(tmp_path, broken):
    text = "".join(f"1\n{comment}\nO 0 0 {z}\n" for z, comment in enumerate(["", broken, ""]))
    (tmp_path / "a.xyz").write_text(text, encoding="utf-8")
    report = import_dataset(tmp_path / "a.xyz", tmp_path / "a.h5")
    assert (report.frames, report.refused) == (2, 1)
    assert report.meta.provenance["refusals"][0]["frame"] == "a.xyz: frame 1"


def test_a_slab_may_lack_the_vector_it_is_not_periodic_along(tmp_path):
    (tmp_path / "a.xyz").write_text('1\nLattice="3 0 0 0 3 0 0 0 0" pbc="T T F"\nO 0 0 0\n', encoding="utf-8")
    assert open_dataset(tmp_path / "a.xyz")[0].pbc.tolist() == [True, True, False]


def test_labels_that_ase_moves_into_results_are_found_by_their_keys(tmp_path):
    text = "1\nenergy=-2.5 free_energy=-3.5 total=7 Properties=species:S:1:pos:R:3:forces:R:3\nO 0 0 0 1 2 3\n"
    (tmp_path / "a.xyz").write_text(text, encoding="utf-8")
    plain = open_dataset(tmp_path / "a.xyz")
    assert plain[0].energy == -2.5
    assert plain.keys_not_read == ("free_energy", "total")
    for key, energy in {"energy": -2.5, "free_energy": -3.5, "total": 7.0}.items():
        dataset = open_dataset(tmp_path / "a.xyz", keys={"energy": key, "forces": "forces"})
        assert dataset[0].energy == energy
        np.testing.assert_array_equal(dataset[0].forces, [[1, 2, 3]])
        import_dataset(tmp_path / "a.xyz", tmp_path / "a.h5", keys={"energy": key})
        assert open_dataset(tmp_path / "a.h5")[0].energy == energy
    for read in (open_dataset, lambda path, keys: import_dataset(path, tmp_path / "b.h5", keys=keys)):
        with pytest.raises(
            PHLError, match="no frame has 'E' for energy; keys seen: energy, forces, free_energy, total"
        ):
            read(tmp_path / "a.xyz", keys={"energy": "E"})


def test_keys_of_a_bundled_data_set_and_of_a_giant_name_are_refused_shortly(tmp_path):
    with pytest.raises(PHLError, match="is a bundled data set, whose labels have fixed names; leave out the key"):
        open_dataset("reactions-wb97xd-631gd", keys={"energy": "E"})
    (tmp_path / "a.xyz").write_text("1\n\nO 0 0 0\n", encoding="utf-8")
    for keys in ({"energy": "E" * 5_000_000}, {"E" * 5_000_000: "energy"}):
        with pytest.raises(PHLError) as caught:
            open_dataset(tmp_path / "a.xyz", keys=keys)
        assert len(str(caught.value)) < 500


def test_training_and_evaluation_list_the_keys_that_were_not_read(tmp_path):
    text = "".join(f"2\ndft_energy=-1.5\nO 0 0 0\nH 0 0 {1 + 0.1 * k}\n" for k in range(5))
    (tmp_path / "a.xyz").write_text(text, encoding="utf-8")
    config = parse_config({"data": {"source": str(tmp_path / "a.xyz")}, "scheme": {"name": "E-F"}})
    with pytest.raises(PHLError, match="has a known key for energy; keys that were not read: dft_energy"):
        prepare_data(config)
    result = CliRunner().invoke(app, ["evaluate", "emt", str(tmp_path / "a.xyz")])
    assert result.exit_code == 2
    assert "keys that were not read: dft_energy" in result.stderr
    result = CliRunner().invoke(app, ["data", "info", str(tmp_path / "a.xyz")])
    assert "keys not read (a label under one: --key LABEL=KEY): dft_energy" in result.stdout


@pytest.mark.parametrize(
    ("label", "unit", "size"),
    [
        ("energy", "Hartree", Hartree),
        ("energy", "kcal/mol", kcal / mol),
        ("positions", "bohr", Bohr),
        ("positions", "nm", 10.0),
        ("forces", "kcal/mol/Å", kcal / mol),
        ("forces", "kcal/mol/\u212b", kcal / mol),
        ("forces", "kJ/mol/nm", 0.1 * kJ / mol),
        ("forces", "Ha/Å", Hartree),
        ("forces", "hartree/bohr", Hartree / Bohr),
        ("forces", "-Hartree/Bohr", -Hartree / Bohr),
        ("forces", "-eV/Angstrom", -1.0),
        ("stress", "kbar", 0.1 * GPa),
        ("stress", "-kbar", -0.1 * GPa),
        ("stress", "eV/A^3", 1.0),
        ("hessian", "kcal/mol/A^2", kcal / mol),
        ("hessian", "-Ha/Bohr**2", -Hartree / Bohr**2),
    ],
)
def test_units_and_signs_of_other_programs(tmp_path, label, unit, size):
    rng = np.random.default_rng(0)
    hessian = rng.normal(size=(6, 6))
    values = {"energy": -1.5, "forces": rng.normal(size=(2, 3)), "stress": np.eye(3), "hessian": hessian + hessian.T}
    atoms = Atoms("OH", positions=[[0, 0, 0], [0, 0, 1.0]], cell=[9.0, 9.0, 9.0], pbc=True)
    atoms.info.update(REF_energy=values["energy"], REF_stress=values["stress"])
    atoms.arrays.update(REF_forces=values["forces"], REF_hessian=values["hessian"].reshape(2, 18))
    ase.io.write(tmp_path / "a.xyz", atoms, format="extxyz")
    import_dataset(tmp_path / "a.xyz", tmp_path / "a.h5", units={label: unit})
    frame = open_dataset(tmp_path / "a.h5")[0]
    for name, value in {**values, "positions": atoms.positions}.items():
        expected = np.asarray(value) * (size if name == label else 1.0)
        np.testing.assert_allclose(getattr(frame, name), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("label", "unit", "message"),
    [
        ("energy", "-eV", "only forces, stress, hessian, hvp may be stored with another sign"),
        ("forces", "Ha", "unknown unit of force 'Ha'; valid: .*kcal/mol/Å"),
        ("forces", "furlong", "unknown unit 'furlong'; valid: .*Ha, .*energy/length"),
        ("hessian", "Ha/Bohr", "unknown unit of hessian 'Ha/Bohr'"),
    ],
)
def test_units_that_do_not_fit_are_refused(tmp_path, label, unit, message):
    (tmp_path / "a.xyz").write_text("1\n\nO 0 0 0\n", encoding="utf-8")
    with pytest.raises(PHLError, match=message):
        import_dataset(tmp_path / "a.xyz", tmp_path / "a.h5", units={label: unit})


# ------------------------------------------------------------------------------------------ what is no file of its kind


@pytest.mark.parametrize(
    ("name", "kind"), [("a.h5", "HDF5"), ("a.hdf5", "HDF5"), ("a.lmdb", "LMDB"), ("a.mdb", "LMDB")]
)
def test_garbage_is_told_by_the_kind_of_file_that_it_should_be(tmp_path, name, kind):
    (tmp_path / name).write_bytes(b"garbage" * 1000)
    for read in (open_dataset, lambda path: import_dataset(path, tmp_path / "b.h5")):
        with pytest.raises(PHLError, match=f"is (not an|no) {kind}") as caught:
            read(tmp_path / name)
        assert "ASE" not in str(caught.value)


def test_a_locked_file_is_not_called_damaged(tmp_path):
    shutil.copy(BUNDLED["reactions-wb97xd-631gd"], tmp_path / "a.h5")
    program = "import sys; from phl_ase.datasets import *; print(open_dataset(sys.argv[1]))"
    with h5py.File(tmp_path / "a.h5", "r+"):
        command = [sys.executable, "-c", program, str(tmp_path / "a.h5")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert "is locked: another program has it open for writing; wait until it has closed the file" in done.stderr


def test_our_files_are_opened_under_any_name_but_written_under_one_that_tells(tmp_path):
    shutil.copy(BUNDLED["reactions-wb97xd-631gd"], tmp_path / "a.dat")
    with open_dataset(tmp_path / "a.dat") as dataset:
        assert len(dataset) == 1023
        for write in (
            lambda path: write_dataset(path, dataset),
            lambda path: import_dataset(tmp_path / "a.dat", path),
            lambda path: merge([dataset, dataset], path),
        ):
            with pytest.raises(PHLError, match=r"x.txt: expected a name ending in .h5 or .hdf5"):
                write(tmp_path / "x.txt")
    assert os.listdir(tmp_path) == ["a.dat"]


# -------------------------------------------------------------------------------------------------------- writing fails


@pytest.mark.parametrize("name", ["a.xyz", "a.db", "deepmd", "a.h5"])
def test_an_export_to_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, name):
    """A disk that is really full, where a store into a mapped file would kill the process."""
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from phl_ase.datasets import EXPORTERS, exporter_of, open_dataset, write_dataset\n"
        "from phl_ase.errors import PHLError\n"
        "target = Path(sys.argv[1])\n"
        "with open_dataset('reactions-wb97xd-631gd') as dataset:\n"
        "    try:\n"
        "        write_dataset(target, dataset) if target.suffix == '.h5' else "
        "EXPORTERS[exporter_of(target)].write(dataset, target)\n"
        "    except PHLError as error:\n        print(error)\n"
        "print(os.listdir(target.parent))\n"
    )
    script = 'mount -t tmpfs -o size=200k tmpfs "$1" && exec "$2" -c "$3" "$1/$4"'
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh", str(tmp_path)]
    done = subprocess.run(
        [*command, sys.executable, program, name], capture_output=True, text=True, check=False, timeout=60
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("this system lets nobody mount a small disk")
    assert done.returncode == 0, done.stderr
    assert "cannot write" in done.stdout
    assert "full" in done.stdout
    assert done.stdout.splitlines()[1:] == ["[]"]


def test_what_fails_to_be_read_while_something_is_written_is_not_called_a_failure_to_write(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"input.dat"), replacing(tmp_path / "a.txt"):
        (tmp_path / "input.dat").read_bytes()
    with pytest.raises(OSError, match="a library said no"), replacing(tmp_path / "a.txt"):
        raise OSError("a library said no")
    with pytest.raises(ConnectionResetError), new_folder(tmp_path / "folder"):
        raise ConnectionResetError(errno.ECONNRESET, "connection reset by peer")
    with pytest.raises(PHLError, match=r"cannot write .*a.txt: the disk is full"), replacing(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with (
        pytest.raises(PHLError, match=r"cannot write .*: permission denied"),
        replacing(tmp_path / "a.txt") as file,
    ):
        raise PermissionError(errno.EACCES, "denied", str(file))
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_locked_is_not_called_in_use(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", no_locks)
    message = r"cannot be locked .*choose a work folder on another"
    with pytest.raises(PHLError, match=message), locked_folder(tmp_path / "work", ".lock", "work folder"):
        pass


def test_a_gaussian_input_keeps_its_charge_and_multiplicity(tmp_path):
    (tmp_path / "oh.gjf").write_text("#p b3lyp/6-31g(d) opt\n\ntitle\n\n2 3\nO 0.0 0.0 0.0\nH 0.0 0.0 0.97\n\n")
    (atoms,) = read_images(tmp_path / "oh.gjf")
    assert (atoms.info["charge"], atoms.info["multiplicity"]) == (2, 3)
    assert atoms.calc is None
    assert atoms.get_chemical_formula() == "HO"
    (frame,) = open_dataset(tmp_path / "oh.gjf")
    assert (frame.charge, frame.multiplicity) == (2, 3)
