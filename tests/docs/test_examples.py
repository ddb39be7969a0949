"""The examples run as they are, with the bundled model, and say what they promise."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import ase.io
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from phl_ase.datasets import DatasetMeta, open_dataset, reactions_of, write_dataset
from phl_ase.errors import DomainWarning
from phl_ase.paths import relax
from phl_ase.potentials.cards import bundled_models
from phl_ase.resolver import resolve_calculator
from phl_ase.structures import Frame, atoms_from_frame
from phl_ase.vibrations import finite_difference_hessian

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PACKAGE = EXAMPLES.parent / "phl_ase"

# example -> what its output must hold, with the bundled model and its own structure
PROMISES = {
    "reactions.py": ("hcn_hnc_guess: finished", "transition state: converged", "frames, labels of", "md: 3 structures"),
    "relax.py": ("converged after", "relaxed / Å", "O0-C1           1.277        1.20"),
    "frequencies.py": (
        "CHN ts: the structure has as many imaginary modes",
        "frequency MAE",
        "imaginary modes (beyond 10i cm^-1): 1",
        "Gibbs energy",
        "1 imaginary mode left out",
    ),
    "hessian.py": ("Hessian (12, 12)", "the first two atoms alone (2, 2, 3, 3)"),
    "phonons.py": (
        "relaxed cell: 3.5898  3.5898  3.5898",
        "108 atoms in the supercell, 1 in the primitive cell",
        "imaginary: 0",
        "heat capacity",
    ),
    "irc.py": ("path converged:", "reaction converged: the path leads both ways to two minima", "barrier forward"),
    "recipes.py": (
        "ts: +0.000 eV; the forces are below the threshold and exactly one mode is imaginary (",
        "freq: +0.000 eV; <HarmonicAnalysis CHN: 3 modes, 1 imaginary; 118",
        "irc: +0.000 eV; both directions: the path ends",
        "side +1: -",
        "side -1: -",
    ),
    "batched.py": ("50 molecules, 226 atoms; largest force 0.0", "after 25 fs at 300 K"),
    "path_integrals.py": (
        "8 beads, 40 steps; the conserved energy drifts by 0.00",
        "kinetic energy (centroid virial): 0.",
    ),
    "transition_state.py": (
        "converged: ",
        "imaginary modes (beyond 10i cm^-1): 1",
        "barrier from there 49.5 kcal/mol",
        "barrier from there 34.2 kcal/mol",
    ),
}

# example -> the marks of what it needs besides this package
NEEDS = {
    "batched.py": [pytest.mark.foreign, pytest.mark.torch_sim],
    "path_integrals.py": [pytest.mark.foreign, pytest.mark.ipi],
}


def vinylidene(path: Path) -> None:
    """A guess of the transition state from acetylene to vinylidene."""
    frame = reactions_of(open_dataset("reactions-wb97xd-631gd"), ["hcch_vinylidene"])["hcch_vinylidene"]
    atoms = atoms_from_frame(frame.transition_state)
    atoms.rattle(0.03, seed=2)
    ase.io.write(path, Atoms(atoms.symbols, atoms.positions))


def aluminium(path: Path) -> None:
    ase.io.write(path, bulk("Al"))


def acetylene(path: Path) -> None:
    ase.io.write(path, molecule("C2H2"))


def labelled_water(path: Path) -> None:
    """Water with its GFN2-xTB forces and Hessian."""
    atoms = molecule("H2O")
    atoms.calc = resolve_calculator("tblite")
    atoms = relax(atoms, 1e-3).atoms
    frame = Frame(
        numbers=atoms.numbers,
        positions=atoms.positions,
        energy=atoms.get_potential_energy(),
        forces=atoms.get_forces(),
        hessian=finite_difference_hessian(atoms),
    )
    write_dataset(path, [frame], DatasetMeta(level_of_theory="GFN2-xTB"))


SLOW = pytest.mark.slow
# example -> file of the user's, what writes it, what the output must hold then
OF_THE_USER = {
    "relax.py": ("mine.xyz", acetylene, ("converged after", "C0-C1"), ()),
    "hessian.py": ("mine.xyz", acetylene, ("Hessian (12, 12)",), ()),
    "transition_state.py": ("mine.xyz", vinylidene, ("imaginary modes (beyond 10i cm^-1): 1", "side: converged"), ()),
    "phonons.py": ("mine.cif", aluminium, ("27 atoms in the supercell, 1 in the primitive cell", "imaginary: 0"), ()),
    "frequencies.py": ("mine.h5", labelled_water, ("H2O", "mean mode overlap             1.000"), ()),
    "irc.py": ("mine.xyz", vinylidene, ("reaction converged: the path leads both ways to two minima",), SLOW),
    "recipes.py": ("mine.xyz", vinylidene, ("C2H2: 6 modes, 1 imaginary", "irc: +0.000 eV; both directions"), SLOW),
    "reactions.py": ("mine.xyz", vinylidene, ("mine: finished",), SLOW),
    "batched.py": ("mine.xyz", acetylene, ("1 molecules, 4 atoms",), NEEDS["batched.py"]),
    "path_integrals.py": ("mine.xyz", acetylene, ("8 beads, 40 steps",), NEEDS["path_integrals.py"]),
}

NO_MODEL = pytest.mark.skipif("default" not in bundled_models(), reason="this version has no bundled model 'default'")


def test_every_example_is_tested_and_listed():
    examples = {path.name for path in EXAMPLES.glob("*.py")}
    assert examples == set(PROMISES) == set(OF_THE_USER)
    overview = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert [name for name in sorted(examples) if f"]({name})" not in overview] == []
    readme = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    assert "](examples/README.md)" in readme


def test_an_example_is_a_program(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-W", "error::DeprecationWarning:phl_ase", str(EXAMPLES / "hessian.py")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert PROMISES["hessian.py"][0] in done.stdout


@pytest.mark.parametrize("name", PROMISES)
def test_is_short_and_says_how_it_is_called(name):
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    # every one takes a file of the user's and a model, or a method
    usage = next(line for line in text.splitlines() if line.startswith(f"python {name} ["))
    assert usage.count("[") == 2
    assert 'Atoms("' not in text
    assert "molecule(" not in text


@NO_MODEL
@pytest.mark.parametrize("name", [pytest.param(name, marks=NEEDS.get(name, [])) for name in PROMISES])
def test_example(name, run):
    found = run(name)
    for promise in PROMISES[name]:
        assert promise in found


@NO_MODEL
@pytest.mark.parametrize("name", [pytest.param(name, marks=case[3]) for name, case in OF_THE_USER.items()])
def test_example_on_a_file_of_the_user(name, run):
    file, write, promises, _ = OF_THE_USER[name]
    write(Path(file))
    found = run(name, file)
    for promise in promises:
        assert promise in found


def _is_ours(warned: warnings.WarningMessage) -> bool:
    """A deprecation that this package or an example ran into."""
    file = Path(warned.filename).resolve()
    return issubclass(warned.category, DeprecationWarning) and (EXAMPLES in file.parents or PACKAGE in file.parents)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs an example in a folder of its own: what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        said = capsys.readouterr()
        # what other packages warn of among themselves is theirs
        ours = [str(one.message) for one in warned if issubclass(one.category, DomainWarning) or _is_ours(one)]
        # of a structure of the user's the model may warn, not of its own
        assert arguments or not (said.err or ours), (said.err, ours)
        assert "nan" not in said.out.lower()
        return said.out

    return run


@pytest.mark.slow
def test_phonopy_goes_on_as_the_example_says(run, tmp_path):
    """The last line that ``phonons.py`` prints is a command; it runs as it is, in the folder of its files."""
    command = run("phonons.py").strip().splitlines()[-1].partition("files: ")[2].split()
    program = Path(sys.executable).with_name(command[0])
    done = subprocess.run(
        [str(program), *command[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "thermal_properties.yaml").exists()
