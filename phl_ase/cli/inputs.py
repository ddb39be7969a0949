"""Inputs checked before anything heavy is imported: a mistyped name must not cost seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def check_inputs(
    *, methods: Sequence[str | None] = (), files: Sequence[str | Path | None] = (), trust: bool = False
) -> None:
    """Check that models, methods, data sets and structure files exist; ``None`` stands for one that was not given.

    Args:
        methods: MODELs and METHODs, as :func:`phl_ase.resolver.resolve_calculator` takes them.
        files: Bundled data sets or files.
        trust: Whether code that a method names may run.

    Raises:
        PHLError: For the first that does not exist.
    """
    if any(files):
        from phl_ase.datasets.readers import find_dataset

        for file in files:
            if file is not None:
                find_dataset(file)
    if any(methods):
        from phl_ase.resolver import check_method

        for method in methods:
            if method is not None:
                check_method(method, trust=trust)
