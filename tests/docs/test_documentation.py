"""README and docs say what is true: every Python block runs and its chemistry is checked, every command is one.

A Python block needs a check: a function registered with ``@block(FILE, HEADING)`` that gets the names that the block
left behind. ``phl`` lines are read by the command line's own parser with the words of their options looked up in the
tables of the code; those named in ``RUN`` are run as well, on files that are made for them.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import itertools
import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import typer
from ase import Atoms
from ase.build import bulk, molecule
from typer.testing import CliRunner

from phl_ase import PHLCalculator
from phl_ase.adapters import ADAPTERS
from phl_ase.cli import app
from phl_ase.cli.app import COMMANDS, GROUPS
from phl_ase.datasets import SPLITS, DatasetMeta, open_dataset, reactions_of, write_dataset
from phl_ase.errors import PHLError
from phl_ase.objective import TERMS
from phl_ase.paths import STRATEGIES, rmsd
from phl_ase.potentials import ARCHITECTURES, bundled_models
from phl_ase.probes import FAMILIES
from phl_ase.reactions import SAMPLERS
from phl_ase.reference.labels import HESSIANS
from phl_ase.resolver import resolve_calculator
from phl_ase.results import Metric, Report, read_reports, write_json
from phl_ase.structures import Frame, atoms_from_frame
from phl_ase.structures.label import LABELS
from phl_ase.training import default_toml, read_config
from phl_ase.units import convert
from phl_ase.vibrations import harmonic_analysis
from phl_ase.vibrations.analysis import wavenumbers

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "examples/README.md", *sorted((ROOT / "docs").glob("*.md"))]
DATA = "reactions-wb97xd-631gd"


# ------------------------------------------------------------------------------------------------------- reading pages


@dataclass(frozen=True)
class Code:
    """A fenced block: its page, the heading above it, its place under that heading, language and text."""

    page: str
    heading: str
    number: int
    language: str
    text: str
    line: int

    @property
    def name(self) -> str:
        return f"{self.page}: {self.heading}" + (f" #{self.number}" if self.number > 1 else "")


def blocks(page: Path) -> list[Code]:
    """Every fenced block of a page."""
    found: list[Code] = []
    heading, opened, lines = "", None, []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if line.lstrip().startswith("```"):
            if opened is None:
                opened, lines = (line.strip().strip("`"), number), []
                continue
            language, start = opened
            place = 1 + sum(code.heading == heading and code.language == language for code in found)
            name = page.relative_to(ROOT).as_posix()
            found.append(Code(name, heading, place, language, "\n".join(lines) + "\n", start + 1))
            opened = None
        elif opened is not None:
            lines.append(line)
        elif line.startswith("#"):
            heading = line.lstrip("# ").strip()
    assert opened is None, f"{page.name}: a block is not closed"
    return found


def commands(page: Path) -> list[str]:
    """Every complete ``phl`` command of a page: lines of sh blocks, and spans of code in the text."""
    found = []
    for code in blocks(page):
        if code.language in ("sh", "bash", "console"):
            joined = code.text.replace("\\\n", " ")
            found += [line for line in joined.splitlines() if re.match(r"(\S+ .*)?phl\s", line)]
    prose = re.sub(r"^\s*```.*?^\s*```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    spans = (" ".join(span.split()) for span in re.findall(r"`(phl [^`]+)`", prose))
    return found + [span for span in spans if "…" not in span and "..." not in span and not is_mention(span)]


def is_mention(span: str) -> bool:
    """Whether a text only names a command: ``phl check``."""
    words = span.split()[1:]
    return len(words) == 1 if words[0] in COMMANDS else words[0] in GROUPS and len(words) <= 2


def words_of(line: str) -> list[str]:
    """The words after ``phl``, comments and launchers (torchrun …) left out."""
    words = shlex.split(line, comments=True)
    return words[words.index("phl") + 1 :]


ALL_BLOCKS = [code for page in PAGES for code in blocks(page)]
PYTHON = [code for code in ALL_BLOCKS if code.language in ("python", "py", "pycon")]
LINES = [(page.relative_to(ROOT).as_posix(), line) for page in PAGES for line in commands(page)]


def test_readme_and_docs_are_read():
    assert {code.page for code in PYTHON} >= {"README.md", "docs/potentials.md", "docs/validation.md"}
    assert len([line for page, line in LINES if page == "README.md"]) >= 10
    assert len(LINES) >= 40
    # a block without a language escapes every check
    assert [code.name for code in ALL_BLOCKS if not code.language] == []


# ------------------------------------------------------------------------------------------------------- Python blocks


@dataclass
class Ran:
    """A block that ran: the names it left, and what it printed."""

    names: dict[str, Any]
    printed: str = ""

    def __getitem__(self, name: str) -> Any:
        return self.names[name]


@dataclass
class Check:
    """What is done with a block: names that it may use, and a function of what it left behind."""

    after: Callable[[Ran], None]
    before: Callable[[Path], dict[str, Any]] = field(default=lambda folder: {})
    replaced: Callable[[Path], dict[str, str]] = field(default=lambda folder: {})


CHECKS: dict[str, Check] = {}


def block(page: str, heading: str, number: int = 1, **options: Any) -> Callable[[Callable[[Ran], None]], None]:
    """Register the check of a Python block by its page, the heading above it and its place there."""
    name = f"{page}: {heading}" + (f" #{number}" if number > 1 else "")

    def register(after: Callable[[Ran], None]) -> None:
        assert name not in CHECKS, f"two checks for {name}"
        CHECKS[name] = Check(after, **options)

    return register


def hcn() -> Any:
    """The reaction HCN → HNC of the bundled data."""
    return reactions_of(open_dataset(DATA), ["hcn_hnc"])["hcn_hnc"]


def is_the_ts_of_hcn(atoms: Atoms) -> None:
    """One imaginary mode, forces gone, and the structure is that of DFT."""
    forces = atoms.get_forces()
    assert np.linalg.norm(forces, axis=1).max() < 0.02
    analysis = harmonic_analysis(atoms, atoms.calc.get_hessian(atoms))
    assert analysis.n_imaginary == 1
    reference = hcn().transition_state
    expected = harmonic_analysis(atoms_from_frame(reference), reference.hessian)
    assert analysis.wavenumbers == pytest.approx(expected.wavenumbers, abs=15)
    distances = [np.sort(x.get_all_distances()[np.triu_indices(3, 1)]) for x in (atoms, atoms_from_frame(reference))]
    np.testing.assert_allclose(distances[0], distances[1], atol=0.02)


@block("README.md", "From Python")
def _(ran: Ran) -> None:
    atoms, hessian = ran["atoms"], ran["hessian"]
    assert atoms.get_chemical_formula() == "CHN"
    np.testing.assert_allclose(ran["hvp"].ravel(), hessian @ np.eye(3).ravel(), atol=1e-8)
    # HCN: the bend, twice, and the C–N stretch, by ωB97X-D/6-31G(d) 764 and 2218 cm⁻¹ at its own minimum
    lowest = wavenumbers(ran["eigenvalues"])
    np.testing.assert_allclose(lowest, harmonic_analysis(atoms, hessian).wavenumbers[:3], atol=0.01)
    assert lowest[0] == pytest.approx(lowest[1], abs=0.1)
    assert 650 < lowest[0] < 850 < 1900 < lowest[2] < 2400
    assert ran["modes"].shape == (3, 3, 3)


def foreign_file(folder: Path) -> dict[str, str]:
    """A model for ``mace:FILE`` where MACE is there."""
    if importlib.util.find_spec("mace") is None:
        return {}
    from foreign_models import VENDORS

    return {"mace:FILE": f"mace:{VENDORS['mace'].make(folder)}"}


def water(folder: Path) -> dict[str, Any]:
    return {"atoms": molecule("H2O"), "PHLCalculator": PHLCalculator}


@block("docs/potentials.md", "Potentials of other packages", before=water, replaced=foreign_file)
def _(ran: Ran) -> None:
    if importlib.util.find_spec("mace") is None:
        # the line itself is understood, and says what is missing
        assert isinstance(ran["error"], PHLError)
        assert re.search(r"mace|FILE", str(ran["error"]))
        return
    atoms = ran["atoms"]
    hvp = atoms.calc.get_hvp(np.eye(9)[0].reshape(3, 3), atoms)
    np.testing.assert_allclose(hvp.ravel(), atoms.calc.get_hessian(atoms)[0], atol=1e-6)


@block("docs/training.md", "A label of your own")
def _(ran: Ran) -> None:
    if importlib.util.find_spec("tblite") is None:
        assert "tblite" in str(ran["error"])
        return
    frames, last = ran["frames"], ran["result"].records[-1]
    assert last["valid_dipole"] < 0.6 * np.std([frame.label("dipole") for frame in frames[::2]])
    write_dataset("held_out.h5", frames[::2])
    shown = CliRunner().invoke(
        app, ["evaluate", "runs/dipole/best.safetensors", "held_out.h5", "--json", "errors.json"]
    )
    assert shown.exit_code == 0, shown.output
    assert re.search(r"dipole +0\.\d+ +0\.\d+ +e·Å +50", shown.output), shown.output
    (report,) = read_reports("errors.json")
    # what is kept is the epoch of the lowest validation loss
    best = next(r for r in ran["result"].records if r["epoch"] == ran["result"].best_epoch)
    assert report.metric("dipole RMSE").value == pytest.approx(best["valid_dipole"], rel=1e-3)
    assert report.metric("dipole MAE").unit == "e·Å"


@block("docs/validation.md", "In Python")
def _(ran: Ran) -> None:
    found, reaction = ran["found"], ran["reaction"]
    assert found.converged, found.sentence
    is_the_ts_of_hcn(found.atoms)
    assert reaction.converged, reaction.sentence
    # 49.5 and 34.2 kcal/mol by the DFT that the model learnt
    frames = hcn()
    expected = sorted(frames.transition_state.energy - end.energy for end in (frames.reactant, frames.product))
    barriers = sorted((reaction.barrier_forward, reaction.barrier_back))
    np.testing.assert_allclose(
        convert(np.array(barriers), "eV", "kcal/mol"), convert(np.array(expected), "eV", "kcal/mol"), atol=0.5
    )
    # and its ends are HCN and HNC
    ends = [
        min(rmsd(end.atoms, atoms_from_frame(x)) for x in (frames.reactant, frames.product)) for end in reaction.ends
    ]
    assert max(ends) < 0.05


def test_every_block_has_a_check():
    missing = [code.name for code in PYTHON if code.name not in CHECKS]
    assert not missing, f"no check is registered for {missing}: write one with @block(page, heading, number)"
    gone = [name for name in CHECKS if name not in {code.name for code in PYTHON}]
    assert not gone, f"checks of blocks that are gone: {gone}"


@pytest.fixture
def declarations():
    """Labels, loss terms and architectures that a block declares are taken away after it."""
    tables = (LABELS, TERMS, ARCHITECTURES)
    before = [dict(table) for table in tables]
    yield
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)


@pytest.mark.skipif("default" not in bundled_models(), reason="this version has no bundled model 'default'")
@pytest.mark.parametrize("code", PYTHON, ids=lambda code: code.name)
def test_block_is_right(code, tmp_path, monkeypatch, capsys, declarations):
    monkeypatch.chdir(tmp_path)
    check = CHECKS[code.name]
    text = code.text
    for old, new in check.replaced(tmp_path).items():
        assert old in text
        text = text.replace(old, new)
    ran = Ran(dict(check.before(tmp_path)))
    # its lines are those of the page in a traceback
    compiled = compile("\n" * (code.line - 1) + text, str(ROOT / code.page), "exec")
    try:
        exec(compiled, ran.names)
    except PHLError as error:
        ran.names["error"] = error
    ran.printed = capsys.readouterr().out
    check.after(ran)


# ------------------------------------------------------------------------------------------------------------ commands

# option -> the words that it takes, beside files and numbers
VALUES: dict[str, Callable[[], Any]] = {
    "--strategy": lambda: {*STRATEGIES, "all"},
    "--how": lambda: SAMPLERS,
    "--probes": lambda: FAMILIES,
    "--hessian": lambda: HESSIANS,
    "--by": lambda: SPLITS,
    "--split": lambda: {*SPLITS, "default"},
}
METHODS = ("--with", "--reference")


def parsed(words: list[str]) -> None:
    """Read a command as ``phl`` does, without running it.

    Raises:
        Exception: The parser's own, for an unknown command or option, a missing argument, a value that is none.
    """
    command, rest = typer.main.get_command(app), list(words)
    path = ["phl"]
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        assert name in command.commands, f"{' '.join(path)} has no command {name!r}: {', '.join(command.commands)}"
        command = command.commands[name]
        path.append(name)
    # --help would be shown, and end the parser
    if not hasattr(command, "commands") and rest != ["--help"]:
        command.make_context(" ".join(path), rest)


def check_values(words: list[str], folder: Path) -> None:
    """Names that options and arguments take are names of the tables in the code."""
    settings = []
    for option, value in zip(words, [*words[1:], ""], strict=True):
        allowed = VALUES.get(option)
        if allowed is not None and not value.startswith("-") and not Path(value).suffix:
            assert value in allowed(), f"{option} {value}: valid are {', '.join(sorted(allowed()))}"
        if option in METHODS:
            check_method(value)
        if option == "--set":
            settings.append(value)
    if words[0] == "train" and settings:
        config = folder / "defaults.toml"
        config.write_text(default_toml(), encoding="utf-8")
        read_config(config, settings)


def check_command(words: list[str], folder: Path) -> None:
    """Read a command, its options and their values."""
    parsed(words)
    check_values(words, folder)


def check_method(name: str) -> None:
    """A bundled name, a method that is built in, an adapter's prefix, a file, or a placeholder in capitals."""
    is_file = Path(name).suffix != "" or name.isupper()
    if not (is_file or name.partition(":")[0] in {*ADAPTERS, *bundled_models(), "ase", "pyscf", DATA}):
        resolve_calculator(name)


@pytest.mark.parametrize(
    "line",
    [
        "phl validat ts default mine.xyz",
        "phl validate tss default mine.xyz",
        "phl validate ts default mine.xyz --wya hvp",
        "phl validate ts default mine.xyz --strategy hvvp",
        "phl evaluate default",
        "phl label mine.xyz --with tbllite -o mine.h5",
        "phl sample mine.xyz --with default --how mdd -o hot.xyz",
        "phl sample mine.xyz --with default --count many -o hot.xyz",
        "phl train train.toml --out run --set training.epoch=3",
    ],
)
def test_commands_that_are_none_are_found(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = words_of(line)
    provide(words, tmp_path)
    with pytest.raises(Exception, match=r".+"):
        check_command(words, tmp_path)


def test_blocks_and_commands_are_found_where_they_stand(tmp_path, monkeypatch):
    monkeypatch.setattr("test_documentation.ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "# One\n```python\na = 1\n```\n```sh\nphl models  # list\ntorchrun x phl train a.toml\nls\n```\n"
        "## Two\nSee `phl data\ninfo a.h5`, `phl check` and `phl label …`.\n- item\n\n  ```python\nb\n  ```\n"
    )
    assert [(code.heading, code.language) for code in blocks(page)] == [
        ("One", "python"),
        ("One", "sh"),
        ("Two", "python"),
    ]
    assert [words_of(line) for line in commands(page)] == [["models"], ["train", "a.toml"], ["data", "info", "a.h5"]]


@pytest.mark.parametrize(("page", "line"), LINES, ids=[f"{page}: {line[:70]}" for page, line in LINES])
def test_command_is_one(page, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = words_of(line)
    provide(words, tmp_path)
    check_command(words, tmp_path)


def test_examples_in_the_help_are_commands(tmp_path, monkeypatch):
    """Lines of ``phl COMMAND --help`` that begin with phl."""
    monkeypatch.chdir(tmp_path)
    known = [*COMMANDS.values(), *(command for _, group in GROUPS.values() for command in group.values())]
    lines = [
        line.strip()
        for command in known
        for line in (command.__doc__ or "").splitlines()
        if line.strip().startswith("phl ")
    ]
    assert len(lines) > 20
    for line in lines:
        words = words_of(re.split(r"\s{2,}", line)[0])
        if "…" in line or words[-1:] == ["--help"]:
            continue
        provide(words, tmp_path)
        try:
            check_command(words, tmp_path)
        except Exception as error:
            pytest.fail(f"{line}: {error}")


def labelled(atoms: Atoms, **known: Any) -> Frame:
    """A structure with the labels of the bundled model."""
    calculator = PHLCalculator()
    (found,) = calculator.evaluate([atoms], ("energy", "forces", "hessian"))
    return Frame(
        numbers=atoms.numbers,
        positions=atoms.positions,
        energy=found["energy"],
        forces=found["forces"],
        hessian=found["hessian"],
        **known,
    )


@functools.cache
def small_frames() -> tuple[Frame, ...]:
    frames = []
    for k in range(8):
        atoms = molecule("HCN" if k % 2 else "H2CO")
        atoms.rattle(0.02, seed=k)
        frames.append(labelled(atoms, kind="nms", reaction=f"r{k % 4}"))
    return tuple(frames)


def small_set(path: Path) -> None:
    write_dataset(path, small_frames(), DatasetMeta(level_of_theory="the bundled model"))


def small_xyz(path: Path) -> None:
    atoms = molecule("H2O" if "water" in path.name else "HCN")
    ase.io.write(path, atoms)


def small_report(path: Path) -> None:
    report = Report("HCN", "a model", "agrees", metrics=(Metric("ZPE", 440.0, "meV"),), validator="frequencies")
    write_json(path, [report])


MAKE: dict[str, Callable[[Path], None]] = {
    ".h5": small_set,
    ".xyz": small_xyz,
    ".extxyz": small_xyz,
    ".cif": lambda path: ase.io.write(path, bulk("Cu", cubic=True)),
    ".toml": lambda path: path.write_text(default_toml(), encoding="utf-8") and None,
    ".json": small_report,
}
OUTPUTS = ("-o", "--out", "--output", "--json", "--plot", "--write", "--reliability")


def provide(words: list[str], folder: Path, *, real: bool = False) -> None:
    """Make the files that a command reads: real ones, or empty ones for its parser."""
    for before, word in zip(["", *words], words, strict=False):
        path = folder / word
        is_output = before in OUTPUTS or "--init" in words
        if path.suffix in MAKE and not is_output and not path.exists() and "=" not in word:
            path.parent.mkdir(parents=True, exist_ok=True)
            MAKE[path.suffix](path) if real else path.touch()


# how a line begins -> what must be in its output, with the files that it reads made by provide()
RUN: dict[str, tuple[str, ...]] = {
    "models": ("default",),
    "models default": ("default",),
    "train --init": ("wrote train.toml",),
    "study --init": ("wrote study.toml",),
    "data info": ("frames",),
    "data split": ("train",),
    "data export": ("8 frames",),
    "label molecules.xyz --with tblite": ("1",),
    "sample ts.xyz --with default --how displaced": ("8",),
    "report": ("report.html",),
}

RUNNABLE = [
    (line, RUN[max(fits, key=len)])
    for _, line in LINES
    if (fits := [start for start in RUN if " ".join(words_of(line)).startswith(start)])
]


def test_every_line_to_run_is_there():
    texts = [" ".join(words_of(line)) for page, line in LINES]
    gone = [start for start in RUN if not any(text.startswith(start) for text in texts)]
    assert not gone, f"no line of README or docs begins like {gone}"


@pytest.mark.parametrize(("line", "expected"), RUNNABLE, ids=[line[:70] for line, _ in RUNNABLE])
def test_cheap_commands_run(line, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = words_of(line)
    provide(words, tmp_path, real=True)
    result = CliRunner().invoke(app, words, prog_name="phl")
    assert result.exit_code == 0, result.output
    for text in expected:
        assert text in result.output
    for before, word in itertools.pairwise(words):
        if before in OUTPUTS:
            assert (tmp_path / word).exists(), f"{word} was not written"


def test_structures_that_are_sampled_and_labelled_are_read_again(tmp_path, monkeypatch):
    """What one line writes, the next takes: samples, labels, a split."""
    monkeypatch.chdir(tmp_path)
    ase.io.write("water.xyz", molecule("H2O"))
    runner = CliRunner()
    for line in (
        "sample water.xyz --with tblite --relax --how normal-mode --temperature 300 --count 3 -o hot.xyz",
        "label hot.xyz --with tblite --hvp 1 -o cheap.h5",
        "data info cheap.h5",
    ):
        result = runner.invoke(app, shlex.split(line), prog_name="phl")
        assert result.exit_code == 0, result.output
    frames = list(open_dataset("cheap.h5"))
    assert len(frames) == 3
    relaxed = min(frame.energy for frame in frames)
    for frame in frames:
        assert frame.hvp.shape == frame.probes.shape == (1, 3, 3)
        # water at 300 K: three modes of kT/2 each, and no more than some kT above
        assert 0 <= frame.energy - relaxed < 0.5


STORY = "Your own molecule, from nothing"
# what the quick test changes in the story's commands
QUICK = {
    "--count 150 --interval 50": "--count 16 --interval 5 --equilibration 20",
    "-o runs/mine": "-o runs/mine --set training.epochs=3 --set potential.channels=8",
}


@pytest.mark.parametrize("changes", [QUICK, pytest.param({}, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_the_story_runs_as_it_stands(changes, tmp_path, monkeypatch):
    """The README's commands for one's own molecule, from two structures to a TS of the model trained."""
    monkeypatch.chdir(tmp_path)
    told = [code for code in ALL_BLOCKS if code.page == "README.md" and code.heading == STORY]
    lines = [line for code in told if code.language == "sh" for line in code.text.splitlines()]
    copies = [shlex.split(line) for line in lines if line.startswith("cp ")]
    assert [words[2] for words in copies] == ["mine.xyz", "guess.xyz"]
    for _, source, name in copies:
        (tmp_path / name).write_bytes((ROOT / source).read_bytes())
    lines = [line for line in lines if not line.startswith("cp ")]
    assert [words_of(line)[0] for line in lines] == ["sample", "label", "train", "freq", "ts"]
    for line in lines:
        for old, new in changes.items():
            line = line.replace(old, new)
        result = CliRunner().invoke(app, words_of(line), prog_name="phl")
        # a model of three epochs need not have a TS
        assert result.exit_code == 0 or (changes and line.startswith(("phl ts", "phl freq"))), result.output
    frames = list(open_dataset("mine.h5"))
    assert {frame.hvp.shape for frame in frames} == {(1, 9, 3)}
    if changes:
        return
    assert len(frames) == 150
    (minimum,) = json.loads(Path("mine_freq.json").read_text(encoding="utf-8"))["structures"]
    (search,) = json.loads(Path("guess_ts.json").read_text(encoding="utf-8"))["searches"]
    # GFN2-xTB: minimum without and TS with an imaginary mode, 1229i; barrier 3.76 kcal/mol
    assert minimum["imaginary_modes"] == 0
    assert search["wavenumbers_cm-1"][0] == pytest.approx(-1229, abs=150)
    barrier = convert(np.array(search["energy_eV"] - minimum["energy_eV"]), "eV", "kcal/mol")
    assert barrier == pytest.approx(3.76, abs=0.3)


# ---------------------------------------------------------------------------------------------------- what else is said


def test_the_table_of_malonaldehyde_is_that_of_its_workflow(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "workflows"))
    script = importlib.import_module("malonaldehyde_table")
    results = script.read(ROOT / "workflows" / "results" / "malonaldehyde.json")
    assert script.markdown(results) in (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    # HVPs on the same frames, each seed: half of the Hessian error, better forces and frequencies
    for seed in script.SEEDS:
        without, beside = (results["runs"][f"{kind}{seed}"] for kind in ("ef", "hvp"))
        assert beside["Hessian, eV/Å²"] < 0.55 * without["Hessian, eV/Å²"]
        assert beside["forces, meV/Å"] < 0.7 * without["forces, meV/Å"]
        assert beside["minimum, cm⁻¹"] < without["minimum, cm⁻¹"]
        # frames of the reaction: the TS, too
        reaction = results["runs"][f"both{seed}"]
        assert abs(reaction["imaginary mode, cm⁻¹"] + results["reference"]["ts"][0]) < 30
        assert abs(reaction["barrier, kcal/mol"] - results["reference"]["barrier"]) < 0.1


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_links_lead_somewhere():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if "://" in target:
                continue
            file, _, anchor = target.partition("#")
            linked = page.parent / file if file else page
            assert linked.exists(), f"{page.name} links to {target}"
            if anchor:
                assert anchor in anchors(linked), f"{page.name} links to {target}"


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_make_targets_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    named = {
        name
        for page in PAGES
        for name in re.findall(r"(?:^|`)make ([\w-]+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    }
    assert named
    assert named <= targets


def test_settings_that_are_named_exist():
    """``training.keep`` and the like in the text are keys of the configuration."""
    config = read_config_of_defaults()
    sections = {name: set(section) for name, section in config.items() if isinstance(section, dict)}
    for page in PAGES:
        for section, key in re.findall(r"`(\w+)\.(\w+)(?=[ `=])", page.read_text(encoding="utf-8")):
            if section in sections:
                assert key in sections[section], f"{page.name}: {section}.{key}"


def read_config_of_defaults() -> dict[str, Any]:
    from phl_ase.training import TrainConfig

    return TrainConfig().to_json()


def test_every_name_in_the_glossary_exists():
    page = (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`(phl_ase[\w.]*)`", page))
    assert len(names) > 25
    for name in names:
        parts = name.split(".")
        found: Any = importlib.import_module("phl_ase")
        for depth, part in enumerate(parts[1:], 2):
            fields = getattr(found, "__dataclass_fields__", {})
            if not hasattr(found, part) and part not in fields:
                importlib.import_module(".".join(parts[:depth]))
            found = getattr(found, part, fields.get(part))
