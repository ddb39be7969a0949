"""The claims of a study's configuration, judged on its results: seen, not seen, or undecided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from phl_ase.scoring.paired import Estimate, Observations, ratio_change, ratio_estimate
from phl_ase.study.config import ClaimSection
from phl_ase.study.outcomes import RunResult, observations
from phl_ase.study.plan import Series, TrainingMethod
from phl_ase.study.quantities import QUANTITIES

SEEN, NOT_SEEN, UNDECIDED, NOT_ASKED = "seen", "not seen", "undecided", "not asked"
COMPARISON = "for comparison"


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
        ratio: Whose ratios the evidence holds.
        evidence: What it rests on.
        note: What a reader must know.
    """

    text: str
    where: str
    ratio: str
    evidence: tuple[Evidence, ...] = ()
    note: str = ""

    @property
    def about(self) -> str:
        """Return where it is judged, and by which ratios."""
        return "; ".join(filter(None, (self.where, f"ratios {self.ratio}")))

    @property
    def verdict(self) -> str:
        """Seen where all the evidence is, not seen where some of it is against, else undecided."""
        verdicts = {one.verdict for one in self.evidence} - {COMPARISON}
        if not verdicts:
            return NOT_ASKED
        return NOT_SEEN if NOT_SEEN in verdicts else SEEN if verdicts == {SEEN} else UNDECIDED


def judge(
    claims: Sequence[ClaimSection],
    series: Mapping[Series, Sequence[RunResult]],
    step_seconds: Mapping[str, Sequence[float]],
) -> list[Claim]:
    """Judge claims in every split and budget of a study, at all training frames; those of speed once."""
    found = []
    for split, budget in settings_of(series):
        here = {one.method: runs for one, runs in series.items() if one == Series(one.method, split, 1.0, budget)}
        where = f"{split} split, equal {budget}"
        found += [_of_errors(claim, here, where) for claim in claims if claim.expect != "faster"]
    return [*found, *(_of_speed(claim, step_seconds) for claim in claims if claim.expect == "faster")]


def settings_of(series: Mapping[Series, object]) -> list[tuple[str, str]]:
    """Return (split, budget) of series with all training frames, equal epochs and the random split first."""
    pairs = dict.fromkeys((one.split, one.budget) for one in series if one.fraction == 1)
    return sorted(pairs, key=lambda pair: (pair[1], pair[0] != "random", pair[0]))


def _of_errors(claim: ClaimSection, here: Mapping[TrainingMethod, Sequence[RunResult]], where: str) -> Claim:
    of, to = TrainingMethod.of(claim.of), TrainingMethod.of(claim.to)
    pair = f"{of.label} : {to.label}"

    def both(name: str, group: str, *methods: TrainingMethod) -> tuple[Observations, Observations]:
        one, other = methods or (of, to)
        quantity = QUANTITIES[name]
        return observations(quantity, group, here.get(one, ())), observations(quantity, group, here.get(other, ()))

    def are_known(*methods: TrainingMethod) -> bool:
        return all(any("accuracy" in run.reports for run in here.get(method, ())) for method in methods)

    if not are_known(of, to):
        return Claim(claim.text, where, pair)
    notes = []
    if claim.control is not None:
        # where models trained without any curvature have the same Hessian errors, equal errors say nothing
        control, supervised = TrainingMethod.of(claim.control), of if claim.expect == "smaller" else to
        if are_known(control, supervised) and ratio_estimate(*both("hessian", "all", control, supervised)).matches:
            notes.append(
                f"{control.label}, without any curvature, has the same Hessian error: these models cannot tell "
                "schemes apart"
            )
    evidence = []
    for name in claim.properties:
        estimate = ratio_estimate(*both(name, "all"))
        verdict = _verdict(claim, estimate, blind=bool(notes), smaller=claim.expect == "smaller")
        evidence.append(Evidence(f"{QUANTITIES[name].name} error", estimate, verdict))
    for name in claim.properties if claim.change else ():
        groups = claim.change or ("", "")
        first, second = (both(name, group) for group in groups)
        if all(map(len, (*first, *second))):
            what = f"{QUANTITIES[name].name} error, "
            for group, side in zip(groups[::-1], (second, first), strict=True):
                evidence.append(Evidence(what + group, ratio_estimate(*side), COMPARISON))
            change = ratio_change(first, second)
            verdict = _verdict(claim, change, blind=bool(notes), smaller=True)
            evidence.append(Evidence(what + " : ".join(groups), change, verdict))
    capped = next((run.facts for run in here[to] if run.facts.get("capped_from")), None)
    if capped is not None:
        epochs = f"{capped['epochs']} of {capped['capped_from']} epochs"
        notes.append(f"{to.label} was stopped by the cap on steps after {epochs}")
    return Claim(claim.text, where, pair, tuple(evidence), "; ".join(notes))


def _verdict(claim: ClaimSection, estimate: Estimate, *, blind: bool, smaller: bool) -> str:
    """Return what a ratio says of a claim.

    Args:
        claim: The claim.
        estimate: The ratio.
        blind: Whether models without curvature are as good, so that equal errors say nothing.
        smaller: Whether the ratio should be below 1, where it is not as good as 1; else that the errors match.
    """
    if smaller:
        if estimate.better:
            return SEEN
        return NOT_SEEN if estimate.worse or (estimate.matches and not blind) else UNDECIDED
    low, high = claim.margin
    matches = estimate.decides and low <= estimate.low and estimate.high <= high
    # smaller errors than those that should match are more than was claimed
    if matches or (estimate.better and estimate.high < low):
        return UNDECIDED if blind else SEEN
    return NOT_SEEN if estimate.worse and estimate.low > high else UNDECIDED


def _of_speed(claim: ClaimSection, step_seconds: Mapping[str, Sequence[float]]) -> Claim:
    of, to = TrainingMethod.of(claim.of), TrainingMethod.of(claim.to)
    pair = f"{to.label} : {of.label}"
    fast, slow = step_seconds.get(of.cost_key), step_seconds.get(to.cost_key)
    if not fast or not slow:
        return Claim(claim.text, "", pair)
    found = speed_ratio(slow, fast)
    verdict = SEEN if found.low > claim.factor else NOT_SEEN if found.high < claim.factor else UNDECIDED
    note = "the ratio is that of these molecules and grows with their size"
    return Claim(claim.text, "timed in turn", pair, (Evidence("seconds of a step", found, verdict),), note)


def speed_ratio(slow: Sequence[float], fast: Sequence[float]) -> Estimate:
    """Return how many times as long the one takes, with a 95 % t interval of the logarithm over the rounds."""
    from scipy.stats import t as student

    rounds = min(len(slow), len(fast))
    logs = np.log(np.array(slow[:rounds]) / np.array(fast[:rounds]))
    half = student.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs)) if len(logs) > 1 else np.nan
    value, low, high = np.exp([logs.mean(), logs.mean() - half, logs.mean() + half])
    return Estimate(float(value), float(low), float(high), units=len(logs), unit="rounds", pairs=len(logs))
