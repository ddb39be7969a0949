"""Streams that the command line writes to: a terminal of any encoding, a pipe, a full disk, or nothing at all."""

from __future__ import annotations

import codecs
import errno
import os
import sys

_ERRORS = "phl.plain"
_PLAIN = {
    "−": "-",
    "–": "-",
    "×": "x",
    "·": ".",
    "…": "...",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "±": "+-",
    "→": "->",
    "←": "<-",
    "↔": "<->",
    "√": "sqrt ",
    "²": "^2",
    "³": "^3",
    "⁻": "^-",
    "¹": "1",
    "½": "1/2",
    "ᵀ": "^T",
    "Å": "A",
    "°": " deg",
    "µ": "u",
    "Δ": "D",
    "Σ": "sum ",
    "‖": "||",
    "∂": "d",
    "σ": "sigma",
    "ω": "w",
    "„": '"',
    "“": '"',
    "”": '"',
    "’": "'",
    "█": "#",
}
"""Letter of our texts -> what is written where the encoding of the terminal lacks it; every other one is ``?``."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    words = error.object[error.start : error.end]
    return "".join(_PLAIN.get(letter, "?") for letter in words), error.end


def prepare_streams() -> None:
    """Let standard output and error take any text, also where they are closed or of a narrow encoding."""
    codecs.register_error(_ERRORS, _plain)
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # the next file that is opened would be taken for a closed stream, and be written into
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - as long as the process
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_ERRORS)


def is_full_output(error: OSError) -> bool:
    """Return whether an error is that of a standard stream on a full disk, and let no later one follow.

    What is still buffered would fail again when the process ends.
    """
    if error.filename is not None or error.errno not in _FULL:
        return False
    with open(os.devnull, "w", encoding="utf-8") as nothing:
        os.dup2(nothing.fileno(), 1)
    return True
