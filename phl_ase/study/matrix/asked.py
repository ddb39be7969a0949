"""The part of a study's configuration that says what every model is asked."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A section that knows its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FrequenciesSection(Section):
    """Harmonic frequencies at the reference's stationary points."""

    relaxed: bool = Field(False, description="at the model's own stationary points too")
    kinds: tuple[Literal["reactant", "product", "ts"], ...] = ("reactant", "product", "ts")


class SearchSection(Section):
    """TS searches with Sella from displaced TSs."""

    displacement: float = Field(0.1, gt=0, description="RMS, Å")
    starts: int = Field(2, ge=1, description="for each TS")
    seed: int = Field(0, ge=0)
    way: str | None = Field(None, description="as in phl validate ts; by default what suits the calculator")
    max_steps: int = Field(200, ge=1)
    follow: bool = Field(True, description="follow the reaction path from each TS found")


class PathSection(Section):
    """Reaction paths from the model's own TSs."""

    method: str = Field("sella", description="sella or quadratic")
    step: float = Field(0.1, gt=0, description="√amu·Å")


class PhononsSection(Section):
    """Phonons of a crystal."""

    crystal: str = Field("", description="a file of the unit cell")
    supercell: tuple[int, ...] = (3, 3, 3)
    reference: str = Field("emt", description="METHOD")
    mesh: tuple[int, int, int] = (10, 10, 10)


class ValidatorsSection(Section):
    """What every model is asked."""

    run: tuple[str, ...] = ("accuracy", "frequencies", "ts", "irc")
    reactions: tuple[str, ...] = Field((), description="to search and follow; by default all with test frames")
    frequencies: FrequenciesSection = FrequenciesSection()
    ts: SearchSection = SearchSection()
    irc: PathSection = PathSection()
    phonons: PhononsSection = PhononsSection()
