"""A process that runs tests without the checks of annotations, one after the other: ``conftest.py`` asks it.

Reads node ids as lines and answers each with a line of JSON: the exit code and what pytest said. One process for all
imports torch once.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys

import pytest


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    for line in sys.stdin:
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = pytest.main(["-q", "-p", "no:cacheprovider", "-m", "", json.loads(line)])
        print(json.dumps({"code": int(code), "said": said.getvalue()}), file=answers, flush=True)


if __name__ == "__main__":
    main()
