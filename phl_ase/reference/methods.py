"""Reference methods by name: one function and one line each. Nothing heavy is imported before a method is made."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from phl_ase.errors import PHLError, missing_package, shortened, unknown
from phl_ase.types import ASECalculator


@dataclass(frozen=True)
class Setting:
    """A setting of a method beside its name.

    Attributes:
        read: From its text to its value; a ``ValueError`` where the text is none.
        expected: What the text should have been, for an error.
    """

    read: Callable[[str], Any]
    expected: str


STEP = 0.002
"""Å: the displacement of the atom that moves most in a central difference. The error grows as its square (0.01 eV/Å² of
an HVP at 0.005 Å), the noise of the self-consistent field as its inverse (0.003 eV/Å² at 0.0005 Å)."""


@dataclass(frozen=True)
class Method:
    """A reference method.

    Attributes:
        make: From what follows the name and a colon (empty for nothing), and settings, to a new ASE calculator.
        description: One line for a user.
        settings: Name -> setting, for keyword arguments of ``make``.
        package: The package that computes.
        step: Displacement in its central differences, Å, where truncation and noise are least together;
            ``workflows/label_figures.py`` measures it.
    """

    make: Callable[..., Any]
    description: str
    settings: Mapping[str, Setting] = field(default_factory=dict)
    package: str = "ase"
    step: float = STEP


def _number(kind: Callable[[str], float], low: float, *, open_: bool = False) -> Callable[[str], Any]:
    """Reads a finite number from a limit on; ``open_`` leaves the limit itself out."""

    def read(text: str) -> float:
        value = kind(text)
        if not math.isfinite(value) or value < low or (open_ and value == low):
            raise ValueError(text)
        return value

    return read


_WHOLE = Setting(_number(int, 1), "a whole number, at least 1")
_POSITIVE = Setting(_number(float, 0.0, open_=True), "a number above 0")
_TEMPERATURE = Setting(_number(float, 0.0), "a temperature in K, 0 or more")
_YES = Setting(lambda text: {"yes": True, "true": True, "no": False, "false": False}[text.lower()], "yes or no")


def _emt(rest: str) -> Any:
    from ase.calculators.emt import EMT

    if rest:
        raise PHLError(f"got 'emt:{rest}'; 'emt' stands alone")
    return EMT()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Let OpenMP use one thread, unless OMP_NUM_THREADS says how many.

    A gradient of a small molecule takes milliseconds: threads that wait for one another, or for other programs, made
    runs a hundred times slower. The variable is too late here: torch may have loaded the library, and shares it.
    """
    library = None if "OMP_NUM_THREADS" in os.environ else _openmp()
    if library is None:
        yield
        return
    before = library.omp_get_max_threads()
    library.omp_set_num_threads(1)
    try:
        yield
    finally:
        library.omp_set_num_threads(before)


def _openmp() -> Any:
    """Return the OpenMP library that this process has loaded; ``None`` where there is none by a known name."""
    for name in ("libgomp.so.1", "libomp.dylib"):
        with contextlib.suppress(OSError, AttributeError):
            return ctypes.CDLL(name, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    return None


def _tblite(rest: str, **settings: Any) -> Any:
    """GFN2-xTB, or the method that follows (C. Bannwarth et al., doi:10.1021/acs.jctc.8b01176)."""
    from ase.calculators.calculator import CalculationFailed, InputError, SCFError

    try:
        from tblite.ase import TBLite
    except ImportError:
        raise missing_package("tblite", "reference", "the method tblite (GFN-xTB)") from None
    method = rest or "GFN2-xTB"
    valid = ("GFN2-xTB", "GFN1-xTB", "IPEA1-xTB")
    if method not in valid:
        raise PHLError(f"unknown tblite method {method!r}; valid: {', '.join(f'tblite:{m}' for m in valid)}")
    import numpy as np

    from phl_ase.reference.distances import check_distances
    from phl_ase.structures import charge_and_multiplicity

    class InfoTBLite(TBLite):
        """TBLite that takes charge and multiplicity from ``atoms.info``, like everything here."""

        def check_state(self, atoms, tol=1e-15):
            charge, multiplicity = charge_and_multiplicity(atoms)
            # without one in info, xTB's own: the lowest that the number of electrons allows
            stated = {"multiplicity", "spin"} & set(atoms.info)
            self.set(charge=charge, multiplicity=multiplicity if stated else None)
            return super().check_state(atoms, tol)

        def calculate(self, atoms=None, *arguments, **options) -> None:
            structure = self.atoms if atoms is None else atoms
            multiplicity = self.parameters["multiplicity"]
            if structure is not None and np.all(np.isfinite(structure.positions)):
                check_distances(structure, structure.get_chemical_formula())
            if structure is not None and multiplicity is not None and not structure.pbc.any():
                charge = self.parameters["charge"]
                electrons = int(structure.numbers.sum()) - charge
                if (electrons - multiplicity) % 2 == 0:  # xTB would take another without a word
                    raise PHLError(
                        f"{structure.get_chemical_formula()} with charge {charge} has {electrons} electrons, which "
                        f"cannot have multiplicity {multiplicity} (2S+1): set atoms.info['charge'] and "
                        "atoms.info['multiplicity'], in an XYZ file charge=… multiplicity=… in the comment"
                    )
            try:
                with _one_thread():
                    super().calculate(atoms, *arguments, **options)
            except CalculationFailed as problem:
                raise (SCFError if "SCF" in str(problem) else CalculationFailed)(str(problem)) from None
            except InputError as problem:
                raise PHLError(f"tblite: {problem}") from None

    # at the usual accuracy (1.0) the noise of the forces puts 4e-3 eV/Å² on a numerical Hessian, here 3e-5; no slower
    return InfoTBLite(method=method, verbosity=0, **{"accuracy": 0.01, **settings})


def _pyscf(rest: str, **settings: Any) -> Any:
    """ωB97X-D/6-31G(d), or FUNCTIONAL/BASIS."""
    from phl_ase.reference.pyscf_method import PySCFCalculator

    if not rest:
        return PySCFCalculator(**settings)
    functional, _, basis = rest.partition("/")
    if not (functional and basis):
        raise PHLError(f"got 'pyscf:{rest}'; expected pyscf:FUNCTIONAL/BASIS, for example pyscf:b3lyp/def2-svp")
    return PySCFCalculator(functional, basis, **settings)


METHODS: dict[str, Method] = {
    "emt": Method(_emt, "effective medium theory for metals (ASE): for trying things out"),
    "tblite": Method(
        _tblite,
        "GFN2-xTB, or tblite:GFN1-xTB, tblite:IPEA1-xTB",
        {"accuracy": _POSITIVE, "electronic_temperature": _TEMPERATURE, "max_iterations": _WHOLE},
        "tblite",
        0.0005,
    ),
    "pyscf": Method(
        _pyscf,
        "wB97X-D/6-31G(d), or pyscf:FUNCTIONAL/BASIS",
        {"cartesian": _YES, "grid_level": _WHOLE, "threads": _WHOLE, "max_memory": _WHOLE},
        "pyscf",
    ),
}
"""Name -> method."""


def make_method(text: str, settings: Mapping[str, str] | None = None) -> Any:
    """Return a new ASE calculator of a method such as ``tblite:GFN1-xTB``.

    Args:
        text: Name, and what follows it after a colon.
        settings: Name of a setting of the method -> its text, as ``{"grid_level": "5"}``.

    Raises:
        PHLError: For an unknown name or setting, a text that the method does not read, or a missing package.
    """
    name, _, rest = text.partition(":")
    if name not in METHODS:
        raise unknown("reference method", name, METHODS)
    known, values = METHODS[name].settings, {}
    for key, given in (settings or {}).items():
        if not known:
            raise PHLError(f"got the setting {key!r}; the method {name} has none")
        if key not in known:
            raise unknown(f"setting of {name}", key, known)
        try:
            values[key] = known[key].read(given)
        except (KeyError, ValueError, OverflowError):
            raise PHLError(f"{name}: {key} is {shortened(given)}; expected {known[key].expected}") from None
    return METHODS[name].make(rest, **values)


def difference_step(text: str) -> float:
    """Return the displacement in central differences of a method or any other calculator, Å."""
    method = METHODS.get(text.partition(":")[0])
    return STEP if method is None else method.step


def level_of_theory(calculator: ASECalculator) -> str:
    """Return what a data set writes as the level of theory of a calculator's labels."""
    parameters = getattr(calculator, "parameters", None) or {}
    stated = getattr(calculator, "level_of_theory", None) or parameters.get("method")
    learnt = _provenance(calculator).get("level_of_theory")
    if not stated and learnt:
        stated = f"{type(calculator).__name__} trained on {learnt}"
    return str(stated or type(calculator).__name__)


def energy_reference(calculator: ASECalculator) -> str:
    """Return what the energies of a calculator are relative to: what a model's training data say, else ``absolute``."""
    return str(_provenance(calculator).get("energy_reference") or "absolute")


def _provenance(calculator: ASECalculator) -> Mapping[str, Any]:
    """Return what a trained model says of its data; nothing for any other calculator."""
    return getattr(getattr(calculator, "potential", None), "provenance", None) or {}
