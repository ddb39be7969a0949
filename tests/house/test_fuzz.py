"""Any structure, any call: a finite right answer or a ``PHLError``, within ten seconds, and never a signal.

The calls run in a process of their own (``fuzzed_calls.py``), which also says what a right answer is.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from fuzzed_calls import CALLS, CONSTRAINTS, LIMIT, MODES, POTENTIALS
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

SCRIPT = Path(__file__).parents[1] / "helpers" / "fuzzed_calls.py"

DEFAULT, DEEP = 3, 150
"""Rounds of a hundred cases."""


class Worker:
    """A process that answers cases; another one is started where it died."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def ask(self, case: dict) -> dict:
        """What became of a case: ``right``, ``refused`` or ``wrong``, and why."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, str(SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            assert self.process.stdout.readline(), "the process that answers did not start"
        self.process.stdin.write(json.dumps(case) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if answer:
            return json.loads(answer)
        number, self.process = -self.process.wait(), None
        if number == signal.SIGPROF:
            return {"outcome": "wrong", "reason": f"took more than {LIMIT:g} s of processor"}
        return {"outcome": "wrong", "reason": f"the process ended by signal {number}"}

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.communicate()


@pytest.fixture(scope="module")
def worker():
    started = Worker()
    yield started
    started.close()


# ------------------------------------------------------------------------------------------------------- what is drawn

INFO = [{"charge": 1}, {"charge": 0.5}, {"charge": float("nan")}, {"multiplicity": 3}, {"spin": "singlet"}]
LENGTHS = [0.0, 1e-7, 0.05, 0.5, 2.0, 3.0, 5.0, 9.0, 40.0, 1e3, 1e6, 1e8]
TEMPERED = st.floats(-1.0, 1.0, allow_subnormal=False)


@st.composite
def cells(draw):
    """Ordinary, tiny, long, flat, skewed, left-handed and impossible ones."""
    kind = draw(st.sampled_from(["none", "cubic", "box", "skewed", "flat", "any", "in a plane", "not finite"]))
    length = draw(st.sampled_from([2.0, 3.0, 5.0, 9.0]))
    cell = {
        "none": lambda: np.zeros((3, 3)),
        "cubic": lambda: draw(st.sampled_from(LENGTHS)) * np.eye(3),
        "box": lambda: np.diag([draw(st.sampled_from(LENGTHS)) for _ in range(3)]),
        "skewed": lambda: length * np.array([[1, 0, 0], [draw(st.integers(-2000, 2000)), 1, 0], [0, 0, 1]]),
        "flat": lambda: length * np.array([[1, 0, 0], [1, 10.0 ** -draw(st.integers(0, 9)), 0], [0, 0, 1]]),
        "any": lambda: length * np.array([[draw(TEMPERED) for _ in range(3)] for _ in range(3)]),
        "in a plane": lambda: length * np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0]]),
        "not finite": lambda: np.diag([3.0, 3.0, draw(st.sampled_from([np.nan, np.inf]))]),
    }[kind]()
    return cell[draw(st.permutations(range(3)))].tolist()


@st.composite
def positions(draw, n: int):
    """A chain of atoms 0.7 to 2 Å apart; one of them now and then far off, upon another, or nowhere."""
    chain = [np.zeros(3)]
    for _ in range(n - 1):
        step = np.array([draw(TEMPERED), draw(TEMPERED), 1.0 + draw(TEMPERED) / 2.0])
        chain.append(chain[-1] + step / np.linalg.norm(step) * draw(st.floats(0.7, 2.0)))
    chain = np.array(chain)
    what = draw(st.sampled_from(["whole"] * 4 + ["far", "upon", "near", "not finite"]))
    if what == "far":
        chain[-1, draw(st.integers(0, 2))] += draw(st.sampled_from([-1, 1])) * 10.0 ** draw(st.integers(1, 16))
    elif what in ("upon", "near") and n > 1:
        chain[-1] = chain[0] + (0.0 if what == "upon" else draw(st.floats(0.005, 0.4)))
    elif what == "not finite":
        chain[-1, 0] = draw(st.sampled_from([np.nan, np.inf]))
    return chain.tolist()


@st.composite
def cases(draw):
    n = draw(st.integers(1, 5))
    return {
        "numbers": draw(st.lists(st.sampled_from([1, 1, 6, 7, 8] * 6 + [29, 92, 0]), min_size=n, max_size=n)),
        "positions": draw(positions(n)),
        "cell": draw(cells()),
        "pbc": draw(st.sampled_from([[False] * 3, [False] * 3, [True] * 3, [True, True, False], [False, False, True]])),
        "info": draw(st.sampled_from([*[{}] * 8, *INFO])),
        "constraint": draw(st.sampled_from(["none"] * 6 + list(CONSTRAINTS))),
        "potential": draw(st.sampled_from(list(POTENTIALS))),
        "mode": draw(st.sampled_from(["usual"] * 6 + list(MODES))),
        "call": draw(st.sampled_from(list(CALLS))),
    }


def draw(rounds: Iterable[int], worker: Worker) -> list[dict]:
    """Ask a hundred cases in each round; its number is their seed.

    Returns:
        The wrong answers, each with its case.
    """
    wrong, counts = [], Counter()

    @given(cases())
    @settings(
        max_examples=100,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def ask(case):
        answer = worker.ask(case)
        counts[answer["outcome"]] += 1
        if answer["outcome"] == "wrong":
            wrong.append({**answer, "case": case})

    for number in rounds:
        seed(number)(ask)()
    assert counts["right"] > 0, counts
    assert counts["refused"] > 0, counts
    return wrong


def said(wrong: list[dict]) -> str:
    """Each wrong answer with the case that gives it again."""
    return "\n".join(f"{one['reason'].strip()}\n{json.dumps(one['case'])}\n" for one in wrong[:5])


def test_any_structure_any_call(worker):
    wrong = draw(range(DEFAULT), worker)
    assert not wrong, said(wrong)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_any_structure_any_call_for_long(worker):
    wrong = draw(range(1_000, 1_000 + DEEP), worker)
    assert not wrong, said(wrong)


ORDINARY = {
    "numbers": [8, 1, 1],
    "positions": [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]],
    "cell": np.zeros((3, 3)).tolist(),
    "pbc": [False] * 3,
    "info": {},
    "constraint": "none",
    "potential": "bundled",
    "mode": "usual",
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("call", [call for call in CALLS if call != "stress"])
def test_an_ordinary_molecule_has_right_answers(worker, call, mode):
    """Without it a package that refuses everything would pass."""
    answer = worker.ask({**ORDINARY, "call": call, "mode": mode})
    assert answer == {"outcome": "right"}, answer


COPPER = {**ORDINARY, "numbers": [29, 29], "positions": [[0, 0, 0], [0, 0, 9e5]], "potential": "network"}
KNOWN = {
    "far off a slab": (COPPER | {"cell": [[3, 0, 0], [0, 3, 0], [0, 0, 3]], "pbc": [True, True, False]}, "right"),
    "a long cell": (
        COPPER
        | {"positions": [[0, 0, 0], [0, 0, 2.0]], "cell": [[3, 0, 0], [0, 3, 0], [0, 0, 1e6]], "pbc": [True] * 3},
        "right",
    ),
    "a flat cell": (
        COPPER
        | {"positions": [[0, 0, 0], [0, 0, 1.5]], "cell": [[3, 0, 0], [3, 1e-5, 0], [0, 0, 3]], "pbc": [True] * 3},
        "refused",
    ),
    "a thin cell": (COPPER | {"cell": [[3, 0, 0], [0, 3, 0], [0, 0, 1e-7]], "pbc": [True] * 3}, "refused"),
}


@pytest.mark.parametrize("call", ["energy", "forces", "hvp", "hessian"])
@pytest.mark.parametrize("name", KNOWN)
def test_what_once_killed_the_process(worker, name, call):
    case, outcome = KNOWN[name]
    answer = worker.ask({**case, "call": call})
    assert answer["outcome"] == outcome, answer
