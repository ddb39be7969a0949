"""Reading of the input, checks and naming of the output for the commands that compute something for a molecule."""

from __future__ import annotations

import re
import shlex
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from phl_ase.cli.inputs import check_inputs
from phl_ase.cli.output import check_target, save_figure, save_json, write_structures
from phl_ase.errors import DomainWarning, PHLError, unknown
from phl_ase.tables import text_table

if TYPE_CHECKING:
    from ase import Atoms

    from phl_ase.types import ASECalculator


_PASCAL = 101325.0
_HOTTEST = 1e4  # K
# a test compares them with the table, which takes a second to load
_MODELS = ("ideal gas", "quasi-harmonic", "quasi-RRHO")
_ENDINGS = (".xyz", ".extxyz", ".json", ".pdf", ".html", ".molden")  # of the files that are written beside each other
_KEPT = ("charge", "multiplicity", "spin")  # of what a file says of a structure


def thermochemistry_of(temperature: float, pressure: float, model: str) -> dict[str, Any]:
    """Return the options of :func:`phl_ase.tasks.frequencies` for a temperature (K), a pressure (atm) and a model.

    Raises:
        PHLError: For a temperature or pressure that is not positive or absurd, or an unknown treatment of soft modes.
    """
    if not pressure > 0:
        raise PHLError(f"--pressure is {pressure:g} atm; expected a positive number, for example 1")
    if not 0 < temperature <= _HOTTEST:
        raise PHLError(f"--temperature is {temperature:g} K; expected a number above 0 and up to {_HOTTEST:g}")
    if model not in _MODELS:
        raise unknown("treatment of soft modes (--thermo)", model, _MODELS)
    return {"temperature": temperature, "pressure": pressure * _PASCAL, "model": model}


_MANY = 12  # files of single structures are counted, not listed


@dataclass(frozen=True)
class Output:
    """Files of a task, named by one prefix; at the end they are listed, with what to type next.

    Attributes:
        prefix: Beginning of their names.
        method: The MODEL or METHOD that computes.
        settings: Its settings, as ``--set`` takes them.
        json: Another file for the results.
        written: Files so far.
    """

    prefix: Path
    method: str
    settings: Sequence[str] = ()
    json: Path | None = None
    written: list[Path] = field(default_factory=list)

    def path(self, suffix: str) -> Path:
        """Return the file with an ending: of ``water_freq`` and ``.json``, ``water_freq.json``."""
        return self.prefix.with_name(self.prefix.name + suffix)

    def numbered(self, place: int) -> Output:
        """Return the files of one structure of several, listed with the others."""
        return replace(self, prefix=self.path(f"_{place}"))

    def structures(self, suffix: str, structures: Sequence[Atoms]) -> Path:
        """Write structures as extended XYZ, and return the file."""
        self.written.append(self.path(suffix))
        write_structures(self.written[-1], structures)
        return self.written[-1]

    def bytes(self, suffix: str, content: bytes) -> Path:
        """Write a file of any other kind, and return it."""
        from phl_ase.files import write_atomic

        self.written.append(self.path(suffix))
        write_atomic(self.written[-1], content)
        return self.written[-1]

    def figure(self, draw: Callable[[Any], Any], content: Any, suffix: str = ".pdf") -> None:
        """Draw a figure."""
        self.written.append(self.path(suffix))
        save_figure(self.written[-1], draw, content)

    def results(self, content: Mapping[str, Any], **more: Any) -> None:
        """Write, or write anew, the numbers as JSON, with the method and provenance."""
        from phl_ase.results import provenance

        path = self.path(".json")
        for file in (path, self.json):
            save_json(file, {"method": self.method, **content, "provenance": provenance(method=self.method, **more)})
        self.written[:] = [*(file for file in self.written if file != path), path]

    def command(self, name: str, source: Path, *more: str) -> str:
        """Return what to type for a command on a file, with the same method and settings."""
        return command_line(name, source, self.method, self.settings, *more)

    def end(self, following: str = "") -> None:
        """Say what was written and what to type next."""
        of_one = re.compile(rf"{re.escape(self.prefix.name)}_\d")
        several = [file for file in self.written if of_one.match(file.name)]
        shown = self.written if len(several) < _MANY else [file for file in self.written if file not in several]
        rest = "" if shown is self.written else f"  and {len(several)} of single structures, {self.path('_NUMBER')}…"
        typer.echo("\nwritten: " + "  ".join(map(str, shown)) + rest)
        if following:
            typer.echo(f"next:    {following}")


def command_line(name: str, source: Path, method: str, settings: Sequence[str] = (), *more: str) -> str:
    """Return what to type for a command on a file."""
    chosen = [word for setting in settings for word in ("--set", setting)]
    return shlex.join(["phl", name, str(source), "--with", method, *chosen, *more])


def output_of(
    command: str,
    out: str | None,
    json: Path | None,
    method: str,
    settings: Sequence[str] | None,
    trust: bool,
    *sources: Path | None,
) -> Output:
    """Return where a command writes, after checking what it was given.

    Args:
        command: Its name.
        out: Prefix of all files; by default that of the first source. The ending of a file that is written is cut off.
        json: Another file for the results.
        method: The MODEL or METHOD that is to compute.
        settings: Its settings.
        trust: Whether code that the method names may run.
        *sources: Files of structures.

    Raises:
        PHLError: For a file or method that does not exist, or a folder that cannot be written to.
    """
    check_target(json, "JSON file")
    for source in sources:
        if source is not None and not source.is_file():
            raise PHLError(f"no file {source}: give a file of a structure (.xyz, .cif, .gjf, …)")
    check_inputs(methods=[method], trust=trust)
    default = f"{sources[0].stem if sources[0] else ''}_{command}"
    prefix = Path(default if out is None else out)
    if prefix.suffix in _ENDINGS:  # the name of one file was given: the others are named like it
        prefix = prefix.with_suffix("")
    if out is not None and (prefix.is_dir() or out.endswith("/")):
        prefix = prefix / default
    if (not out and out is not None) or prefix.name in ("", ".", ".."):
        raise PHLError(f"got --out {out!r}; expected the beginning of a file name, for example results/{default}")
    output = Output(prefix, method, tuple(settings or ()), json)
    results = output.path(".json")
    check_target(results, "results")
    if results.exists():
        typer.echo(f"note: {results} and the files beside it will be replaced; --out PREFIX names others", err=True)
    return output


def read_structures(source: Path, charge: int | None, multiplicity: int | None, fixed: str | None) -> list[Atoms]:
    """Return the structures of a file, with charge and multiplicity where calculators look for them.

    Raises:
        PHLError: For a file that cannot be read, or atoms to fix that there are not.
    """
    import numpy as np
    from ase.constraints import FixAtoms

    from phl_ase.datasets import read_images
    from phl_ase.structures.atoms import charge_and_multiplicity

    found: list[Atoms] = []
    for atoms in read_images(source):
        copy = atoms.copy()
        # free text in the comment of an XYZ file comes as keys: what is written would carry them on
        copy.info = {key: atoms.info[key] for key in _KEPT if key in atoms.info}
        if charge is not None:
            copy.info["charge"] = charge
        if multiplicity is not None:
            copy.info["multiplicity"] = multiplicity
        if not np.isfinite(copy.positions).all():
            raise PHLError(f"{source}: structure {len(found)} has positions that are NaN or infinite; mend them first")
        q, spin = charge_and_multiplicity(copy)
        copy.info.update(charge=q, multiplicity=spin)
        if fixed is not None:
            copy.set_constraint([*copy.constraints, FixAtoms(indices=atom_numbers(fixed, len(copy)))])
        found.append(copy)
    return found


def read_one(source: Path, charge: int | None, multiplicity: int | None, fixed: str | None = None) -> Atoms:
    """Return the one structure of a file.

    Raises:
        PHLError: For a file of several, and what :func:`read_structures` refuses.
    """
    found = read_structures(source, charge, multiplicity, fixed)
    if len(found) != 1:
        raise PHLError(
            f"{source} holds {len(found)} structures; expected one: write the one that is meant into a file of its own"
        )
    return found[0]


def check_electrons(atoms: Atoms, charge: int, multiplicity: int) -> None:
    """Refuse a multiplicity that a molecule's number of electrons cannot have.

    Raises:
        PHLError: For an even number of electrons with an even multiplicity, an odd with an odd, or too few electrons.
    """
    electrons = int(atoms.numbers.sum()) - charge
    formula = atoms.get_chemical_formula()
    if any(atoms.pbc):
        return  # the cell is one of many: its electrons need not pair up
    if electrons < multiplicity - 1 or (electrons - multiplicity) % 2 == 0:
        wanted = "odd: 1, 3, …" if electrons % 2 == 0 else "even: 2, 4, …"
        raise PHLError(
            f"{formula} with charge {charge} has {electrons} electrons; multiplicity {multiplicity} is impossible, "
            f"expected {wanted}; give --charge or --multiplicity"
        )


def atom_numbers(text: str, n_atoms: int) -> list[int]:
    """Return the atoms that a list such as ``0,1,5-8`` names.

    Raises:
        PHLError: For something else, or an atom that there is not.
    """
    chosen: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not (first.isdigit() and (last.isdigit() or not dash)) or int(last or first) < int(first):
            raise PHLError(f"got atoms {text!r}; expected numbers from 0 and ranges, for example 0,1,5-8")
        if int(last or first) >= n_atoms:
            raise PHLError(f"got atoms {text!r}; the structure has {n_atoms} atoms, numbered from 0")
        chosen += range(int(first), int(last or first) + 1)
    return sorted(set(chosen))


def calculator_of(output: Output, structures: Sequence[Atoms], device: str, trust: bool) -> Any:
    """Return the calculator of an output's MODEL or METHOD, after checking that it can answer for all structures.

    Raises:
        PHLError: For an unknown method or setting, an element or charge that the model does not know, or a
            multiplicity that the number of electrons rules out.
    """
    from phl_ase.cli.labelling import label_method

    method = output.method
    calculator = label_method(method, output.settings, device, trust).make()
    known = getattr(getattr(calculator, "potential", None), "species", None)
    if known is not None:
        from ase.data import chemical_symbols

        foreign = sorted({z for atoms in structures for z in atoms.numbers.tolist()} - {int(z) for z in known})
        if foreign:
            names, has = (", ".join(chemical_symbols[z] for z in zs) for zs in (foreign, sorted(known)))
            raise PHLError(
                f"{method} does not know {names}; it knows {has}. --with tblite (GFN2-xTB, elements to Rn) or "
                "--with pyscf would do"
            )
    for atoms in structures:
        charge, multiplicity = atoms.info["charge"], atoms.info["multiplicity"]
        if charge and getattr(getattr(calculator, "potential", None), "takes_charge", True) is False:
            raise PHLError(
                f"{method} does not know about charge, and the structure has {charge:+d}; --with tblite or --with "
                "pyscf does"
            )
        check_electrons(atoms, charge, multiplicity)
    return calculator


@contextmanager
def domain_watched() -> Iterator[list[str]]:
    """Hold back a model's warnings of structures outside of its domain, and yield what they found.

    A search passes such structures on its way to one that is inside.
    """
    held: list[str] = []
    shown = warnings.showwarning

    def hold(message: Warning | str, *rest: Any, **more: Any) -> None:
        if isinstance(message, DomainWarning):
            held.append(message.finding)
        else:
            shown(message, *rest, **more)

    with warnings.catch_warnings():
        warnings.simplefilter("always", DomainWarning)
        warnings.showwarning = hold
        yield held


def say_reliability(
    calculator: ASECalculator,
    structures: Sequence[Atoms],
    names: Sequence[str] = (),
    *,
    found: Path | None = None,
    passed: Sequence[str] = (),
) -> list[str]:
    """Say how far a model may be wrong at structures, and return which are outside of what it was trained on.

    A calibrated committee states the errors to expect. A single model only notices new molecules and distances: of what
    a search found it is said how to check it.

    Args:
        calculator: What computed; a method that is no model is trusted.
        structures: At which it did.
        names: Of the structures; by default their numbers.
        found: File of the stationary point that a search found.
        passed: What was found outside on the way of a search that failed.
    """
    for finding in passed[:1]:
        typer.echo(f"warning: on the way, {finding}", err=True)
    model: Any = calculator if hasattr(calculator, "warn_again") else None
    if model is None or not structures:  # no model of ours, or nothing found
        return []
    model.warn_again()
    with domain_watched() as findings:
        answers = model.evaluate([atoms.copy() for atoms in structures], ("energy", "forces"))
    names = names or [f"structure {k}" for k in range(len(structures))]
    calibration = getattr(model.potential, "calibration", None)
    if calibration is not None:
        from phl_ase.potentials.calibration import largest_on_an_atom
        from phl_ase.units import convert

        rows = []
        for name, one in zip(names, answers, strict=True):
            forces, size = (largest_on_an_atom(one[key]) for key in ("forces_std", "forces"))
            energy = float(convert(one["energy_std"], "eV", "kcal/mol"))
            more = ">" if one.get("in_domain") is False else ""  # calibrated where training was
            rows.append((name, f"{more}{energy:.2g}", f"{more}{forces:.2g}", f"{calibration.limit(size):.2g}"))
        if len(rows) == 1:
            _, of_energy, of_forces, usual = rows[0]
            typer.echo(
                f"errors to expect: E {of_energy} kcal/mol, F {of_forces} eV/Å (usual in training: up to {usual})"
            )
        else:
            typer.echo(text_table(("errors to expect", "E / (kcal/mol)", "F / (eV/Å)", "usual F, up to"), rows))
    outside = [name for name, one in zip(names, answers, strict=True) if one.get("in_domain") is False]
    check = "" if found is None else f"check it: {command_line('freq', found, reference_of(model))}"
    if outside:
        who = ", ".join(outside) if len(answers) > 1 else structures[0].get_chemical_formula()
        what = findings[0].partition(" is ")[2]  # after the name that it has in the call
        verb = "is" if len(outside) == 1 else "are"
        typer.echo(f"warning: {who} {verb} {what}; {check or 'check it with another method'}", err=True)
    elif found is not None and answers[0].get("in_domain") and "energy_std" not in answers[0]:
        typer.echo(
            "note: a single model does not notice a conformation that is new to it, a committee does ('phl train "
            f"--members 3'); {check}",
            err=True,
        )
    return outside


def reference_of(model: Any) -> str:
    """Return what ``--with`` takes for the method that a model was trained on; ``METHOD`` where that is not known."""
    level = str((getattr(model.potential, "provenance", None) or {}).get("level_of_theory"))
    return {"GFN2-xTB": "tblite", "GFN1-xTB": "tblite:GFN1-xTB", "wB97X-D/6-31G(d)": "pyscf"}.get(level, "METHOD")


def check_pair(reactant: Atoms, product: Atoms) -> None:
    """Refuse a reactant and a product that no path leads between, and say where their atoms look exchanged.

    Raises:
        PHLError: As :func:`phl_ase.tasks.check_ends`.
    """
    from phl_ase.paths.end_points import order_doubts
    from phl_ase.tasks import check_ends

    check_ends(reactant, product)
    for doubt in order_doubts(reactant, product):
        typer.echo(f"note: {doubt}", err=True)
