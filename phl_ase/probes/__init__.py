"""Probe vectors for stochastic curvature: families with E[v vᵀ] = I, drawn without state.

A probe is a function of (seed, epoch, frame id, k, component) through a counter-based hash, never of the order of
draws: resuming, another batch order or several processes see the same probes.
"""

from phl_ase.probes.families import FAMILIES, ProbeDraw, ProbeFamily, check_family, draw_probes

__all__ = ["FAMILIES", "ProbeDraw", "ProbeFamily", "check_family", "draw_probes"]
