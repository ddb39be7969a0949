"""What a study is made of: methods (scheme, regime, probes) and cells (method, split, fraction, budget, seed)."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from phl_ase.datasets import SPLITS
from phl_ase.objective import SCHEMES
from phl_ase.probes.families import FAMILIES
from phl_ase.study.matrix.config import CellSection, MatrixSection, StudyConfig

RANDOM, ONE_HOT, FULL, PLAIN = "E-F-HVP-random", "E-F-HVP-onehot", "E-F-H", "E-F"
"""Schemes that the paper's claims are about."""


@dataclass(frozen=True, order=True)
class Method:
    """How a model learns.

    Attributes:
        scheme: Key of ``SCHEMES``.
        regime: ``fresh`` or ``fixed``; empty where there are no probes to draw.
        n_probes: K; 0 where there are no probes to draw.
        probes: Probe family; empty where curvature is not supervised.
        products: How a product of the model is taken along a probe that is drawn: ``exact`` or ``differences``.
    """

    scheme: str
    regime: str = ""
    n_probes: int = 0
    probes: str = ""
    products: str = "exact"

    @property
    def label(self) -> str:
        """Its name in tables and figures."""
        family = f" ({self.probes})" if self.draws and self.probes != SCHEMES[self.scheme].probes else ""
        if self.regime == "fixed":
            count = f", fixed K={self.n_probes}"
        else:
            count = f", K={self.n_probes}" if self.n_probes > 1 else ""
        return f"{self.scheme}{family}{count}{'' if self.products == 'exact' else ', by differences'}"

    @property
    def draws(self) -> bool:
        """Whether it draws probes."""
        return draws_probes(self.scheme)

    @property
    def directions(self) -> int | None:
        """Hessian-vector products for each frame and step; ``None`` for all 3n."""
        return self.n_probes if self.draws else 0 if not self.probes else None


@dataclass(frozen=True)
class Cell:
    """One training run and everything that is asked of its model.

    Attributes:
        method: How it learns.
        split: Key of ``SPLITS``.
        fraction: Of the training frames.
        budget: ``epochs`` or ``time``.
        seed: Of split, weights, batches and probes.
    """

    method: Method
    split: str
    fraction: float
    budget: str
    seed: int

    @property
    def name(self) -> str:
        """Its folder."""
        parts = [self.split, self.method.label, f"f{self.fraction:g}", self.budget, f"s{self.seed}"]
        return "-".join(re.sub(r"[^A-Za-z0-9.=]+", "-", part).strip("-") for part in parts)

    @property
    def arm(self) -> Arm:
        """What its seeds are averaged in."""
        return Arm(self.method, self.split, self.fraction, self.budget)


@dataclass(frozen=True, order=True)
class Arm:
    """A cell without its seed; see :class:`Cell`."""

    method: Method
    split: str
    fraction: float
    budget: str


@dataclass(frozen=True)
class Impossible:
    """A cell that was asked for by name and cannot be.

    Attributes:
        name: What was asked for.
        reason: Why it cannot be.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """The cells of a study.

    Attributes:
        cells: Each once, in the order of the configuration.
        impossible: Those that were asked for by name and cannot be.
    """

    cells: tuple[Cell, ...]
    impossible: tuple[Impossible, ...]


def draws_probes(scheme: str) -> bool:
    """Whether a scheme draws probes: not without curvature, nor where it takes all directions."""
    family = SCHEMES[scheme].probes
    return family is not None and not FAMILIES[family].complete


def plan(config: StudyConfig) -> Plan:
    """The cells of a configuration: its blocks' combinations that exist, then those asked for by name."""
    cells = [cell for block in config.matrix for cell in _product(block)]
    impossible = []
    for asked in config.cell:
        reason = _why_not(asked)
        if reason:
            impossible.append(Impossible(_name(asked), reason))
        else:
            cells.append(_named(asked))
    return Plan(tuple(dict.fromkeys(cells)), tuple(impossible))


def _product(block: MatrixSection) -> Iterator[Cell]:
    """Seeds outermost: an early stop leaves whole comparisons."""
    for seed, split, fraction, budget in itertools.product(block.seeds, block.splits, block.fractions, block.budgets):
        for method in methods(block):
            cell = Cell(method, split, fraction, budget, seed)
            if not _why_not(_section(cell)):
                yield cell


def methods(block: MatrixSection) -> list[Method]:
    """The methods of a block, each once."""
    found = []
    for scheme in block.schemes:
        own = SCHEMES[scheme].probes
        if not draws_probes(scheme):
            found.append(Method(scheme, probes=own or ""))
            continue
        families = block.probes if scheme == RANDOM else (str(own),)
        for regime, family, products in itertools.product(block.regimes, families, block.products):
            counts = block.n_probes if regime == "fixed" else (1,)
            found += [Method(scheme, regime, count, family, products) for count in counts]
    return list(dict.fromkeys(found))


def _named(asked: CellSection) -> Cell:
    own = SCHEMES[asked.scheme].probes or ""
    drawn = draws_probes(asked.scheme)
    method = (
        Method(
            asked.scheme,
            asked.regime or "fresh",
            asked.n_probes or 1,
            asked.probes or own,
            asked.products or "exact",
        )
        if drawn
        else Method(asked.scheme, probes=own)
    )
    return Cell(method, asked.split, asked.fraction, asked.budget, asked.seed)


def _section(cell: Cell) -> CellSection:
    """A cell as it would be asked for by name."""
    method = cell.method
    return CellSection(
        scheme=method.scheme,
        regime=method.regime or None,
        n_probes=method.n_probes or None,
        probes=method.probes if method.draws else None,
        products=method.products if method.draws else None,
        split=cell.split,
        seed=cell.seed,
        fraction=cell.fraction,
        budget=cell.budget,
    )


def _why_not(asked: CellSection) -> str:
    """Why a cell cannot be; empty where it can."""
    if asked.scheme not in SCHEMES:
        return f"unknown scheme {asked.scheme!r}; valid: {', '.join(SCHEMES)}"
    if asked.split not in SPLITS:
        return f"unknown split {asked.split!r}; valid: {', '.join(sorted(SPLITS))}"
    if not 0 < asked.fraction <= 1:
        return f"fraction is {asked.fraction:g}; expected more than 0, up to 1"
    given = [key for key in ("regime", "n_probes", "probes", "products") if getattr(asked, key) is not None]
    if not draws_probes(asked.scheme):
        why = "learns no curvature" if SCHEMES[asked.scheme].probes is None else "takes the whole Hessian"
        return f"{asked.scheme} {why}: it has no {', '.join(given)}" if given else ""
    return _why_no_probes(asked)


def _why_no_probes(asked: CellSection) -> str:
    random = [name for name, family in FAMILIES.items() if not family.complete and name != SCHEMES[ONE_HOT].probes]
    valid = random if asked.scheme == RANDOM else [str(SCHEMES[asked.scheme].probes)]
    if asked.probes is not None and asked.probes not in valid:
        return f"{asked.scheme} has no probes {asked.probes!r}; valid: {', '.join(valid)}"
    if asked.n_probes is not None and asked.n_probes < 1:
        return f"n_probes is {asked.n_probes}; expected at least 1"
    return ""


def _name(asked: CellSection) -> str:
    words = [
        asked.scheme,
        asked.regime,
        None if asked.n_probes is None else f"K={asked.n_probes}",
        asked.probes,
        asked.products,
        asked.split,
        f"f{asked.fraction:g}",
        asked.budget,
        f"s{asked.seed}",
    ]
    return " ".join(word for word in words if word)
