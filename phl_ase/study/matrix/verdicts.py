"""What a study says: means and ratios with intervals, and each claim of arXiv:2603.04523: seen, not seen, undecided."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from phl_ase.scoring.paired import MARGIN, Estimate, Observations, mean_estimate, ratio_change, ratio_estimate
from phl_ase.study.matrix.budget import cost_key, speed_ratio
from phl_ase.study.matrix.cells import FULL, ONE_HOT, PLAIN, RANDOM, Arm, Method
from phl_ase.study.matrix.gather import QUANTITIES, CellResult, observations

SEEN, NOT_SEEN, UNDECIDED, NOT_ASKED = "seen", "not seen", "undecided", "not asked"
SHOWN = "for comparison"
FASTER = 24.0
"""How many times faster an epoch of E-F-HVP is than one of E-F-H, as the paper has it."""

PROPERTIES = ("energy", "forces", "hessian")


@dataclass(frozen=True)
class Row:
    """One quantity of one arm.

    Attributes:
        arm: Whose.
        quantity: Key of ``QUANTITIES``.
        group: What it is averaged over.
        mean: Its mean.
        ratio: Its ratio to E-F-H on the same frames and seeds; ``None`` without E-F-H, and for shares.
    """

    arm: Arm
    quantity: str
    group: str
    mean: Estimate
    ratio: Estimate | None = None


@dataclass(frozen=True)
class Evidence:
    """One number that a claim rests on.

    Attributes:
        what: What it is.
        estimate: The ratio and its interval.
        verdict: ``seen``, ``not seen``, ``undecided``, or ``for comparison`` where the claim does not rest on it.
    """

    what: str
    estimate: Estimate
    verdict: str


@dataclass(frozen=True)
class Claim:
    """One claim in one setting.

    Attributes:
        text: The claim.
        where: Split and budget.
        evidence: What it rests on.
        note: What a reader must know.
    """

    text: str
    where: str
    evidence: tuple[Evidence, ...]
    note: str = ""

    @property
    def verdict(self) -> str:
        """Seen where all the evidence is, not seen where some of it is against, else undecided."""
        verdicts = {one.verdict for one in self.evidence} - {SHOWN}
        if not verdicts:
            return NOT_ASKED
        return NOT_SEEN if NOT_SEEN in verdicts else SEEN if verdicts == {SEEN} else UNDECIDED


def rows(arms: Mapping[Arm, Sequence[CellResult]]) -> list[Row]:
    """Every quantity of every arm, those that nobody has left out."""
    found = []
    for key, quantity in QUANTITIES.items():
        for group in quantity.groups:
            seen = {arm: observations(quantity, group, results) for arm, results in arms.items()}
            for arm, observed in seen.items():
                if not len(observed):
                    continue
                best = seen.get(Arm(_full(), arm.split, arm.fraction, arm.budget))
                ratio = None
                if best is not None and len(best) and not quantity.is_share and arm.method.scheme != FULL:
                    ratio = ratio_estimate(observed, best)
                mean = mean_estimate(observed, most=100.0 if quantity.unit == "%" else None)
                found.append(Row(arm, key, group, mean, ratio))
    return found


def _full() -> Method:
    return Method(FULL, probes="complete")


def claims(arms: Mapping[Arm, Sequence[CellResult]], step_seconds: Mapping[str, Sequence[float]]) -> list[Claim]:
    """The paper's claims in every split and budget of a study, at all training frames."""
    settings = dict.fromkeys((arm.split, arm.budget) for arm in sorted(arms) if arm.fraction == 1)
    found = []
    for split, budget in sorted(settings, key=lambda pair: (pair[1], pair[0] != "random", pair[0])):
        here = {arm.method: arms[arm] for arm in arms if arm == Arm(arm.method, split, 1.0, budget)}
        where = f"{split} split, equal {budget}"
        found += [_matches(here, where), _beats(here, where)]
    return [*found, _faster(step_seconds)]


def _matches(here: Mapping[Method, Sequence[CellResult]], where: str) -> Claim:
    fresh = Method(RANDOM, "fresh", 1, "rademacher")
    text = "Fresh random probes match full-Hessian training in energy, forces and Hessian"
    both = _both(here, fresh, _full())
    blind = _blind(here, _full())
    evidence = []
    for name in PROPERTIES if both else ():
        estimate = ratio_estimate(*_pair(both, name, "all"))
        # smaller errors than with full Hessians are more than was claimed
        if estimate.matches or (estimate.better and estimate.high < MARGIN[0]):
            verdict = UNDECIDED if blind else SEEN
        else:
            verdict = NOT_SEEN if estimate.worse and estimate.low > MARGIN[1] else UNDECIDED
        evidence.append(Evidence(f"{QUANTITIES[name].name} error, {RANDOM} : {FULL}", estimate, verdict))
    notes = [blind] if blind and evidence else []
    capped = [cell for cell in here.get(_full(), ()) if cell.facts.get("capped_from")]
    if capped:
        facts = capped[0].facts
        notes.append(f"{FULL} was stopped by the cap on steps after {facts['epochs']} of {facts['capped_from']} epochs")
    return Claim(text, where, tuple(evidence), "; ".join(notes))


def _beats(here: Mapping[Method, Sequence[CellResult]], where: str) -> Claim:
    text = "One fixed random product for each frame beats one fixed Hessian column, most of all far from equilibrium"
    random, column = Method(RANDOM, "fixed", 1, "rademacher"), Method(ONE_HOT, "fixed", 1, "onehot")
    both = _both(here, random, column)
    if not both:
        return Claim(text, where, ())
    blind = _blind(here, random)
    evidence = []
    for name in PROPERTIES:
        estimate = ratio_estimate(*_pair(both, name, "all"))
        what = f"{QUANTITIES[name].name} error, random : column"
        evidence.append(Evidence(what, estimate, _smaller(estimate, blind)))
    for name in PROPERTIES:
        near, far = (_pair(both, name, region) for region in ("near", "far"))
        if not all(len(side) for side in (*near, *far)):
            continue
        for region, pair in (("near", near), ("far", far)):
            what = f"{QUANTITIES[name].name} error {region}, random : column"
            evidence.append(Evidence(what, ratio_estimate(*pair), SHOWN))
        change = ratio_change(far, near)
        what = f"{QUANTITIES[name].name} error, (random : column far) : (the same near)"
        evidence.append(Evidence(what, change, _smaller(change, blind)))
    return Claim(text, where, tuple(evidence), blind)


def _blind(here: Mapping[Method, Sequence[CellResult]], method: Method) -> str:
    """Why nothing follows from equal errors: training without curvature gives the same Hessians; empty otherwise."""
    both = _both(here, Method(PLAIN), method)
    if both and ratio_estimate(*_pair(both, "hessian", "all")).matches:
        return f"{PLAIN}, without any curvature, has the same Hessian error: these models cannot tell schemes apart"
    return ""


def _smaller(estimate: Estimate, blind: str) -> str:
    """Whether a ratio is below 1: not seen where it is above, or as good as 1."""
    if estimate.better:
        return SEEN
    return NOT_SEEN if estimate.worse or (estimate.matches and not blind) else UNDECIDED


def _faster(step_seconds: Mapping[str, Sequence[float]]) -> Claim:
    text = f"Epochs are more than {FASTER:.0f} times as fast as with full Hessians"
    product, full = (step_seconds.get(key) for key in (cost_key(Method(RANDOM, "fresh", 1)), FULL))
    if not product or not full:
        return Claim(text, "", ())
    estimate = speed_ratio(full, product)
    verdict = SEEN if estimate.low > FASTER else NOT_SEEN if estimate.high < FASTER else UNDECIDED
    note = "the ratio grows with the number of atoms: it is that of these molecules"
    return Claim(text, "timed in turn", (Evidence(f"seconds of a step, {FULL} : {RANDOM}", estimate, verdict),), note)


def _both(
    here: Mapping[Method, Sequence[CellResult]], one: Method, other: Method
) -> tuple[Sequence[CellResult], Sequence[CellResult]] | None:
    """The cells of two methods; ``None`` unless both have accuracy to compare."""
    cells = here.get(one, ()), here.get(other, ())
    return cells if all(any("accuracy" in c.reports for c in part) for part in cells) else None


def _pair(
    both: tuple[Iterable[CellResult], Iterable[CellResult]] | None, name: str, group: str
) -> tuple[Observations, Observations]:
    one, other = both or ((), ())
    return observations(QUANTITIES[name], group, one), observations(QUANTITIES[name], group, other)
