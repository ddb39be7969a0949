"""Studies: training methods compared on the same data, from one configuration to a report.

``config``: the TOML file → ``plan``: the runs → ``run``: their tasks (done by ``worker`` and ``validation``;
``older`` reads what earlier versions left) → ``outcomes``, ``results``, ``claims``: what was found → ``report`` and
``figures``. ``quantities`` says what is compared. ``phl demo`` is the study ``demo.toml``.

Names are imported when first used: worker processes come through here, and want to train, not to draw.
"""

from phl_ase.lazy import lazy_exports

_HOMES = {
    "config": ("StudyConfig", "parse_study", "read_demo", "read_study"),
    "report": ("write_report",),
    "results": ("Results",),
    "run": ("run_study",),
}

__all__ = [name for names in _HOMES.values() for name in names]

__getattr__ = lazy_exports(__name__, _HOMES)
