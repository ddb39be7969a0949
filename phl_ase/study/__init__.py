"""Studies: several schemes trained alike and scored alike, and what becomes of that in tables, figures and reports."""

from phl_ase.study.compare import Trained, train_schemes
from phl_ase.study.demo import run_demo
from phl_ase.study.report import render_report, render_reports

__all__ = ["Trained", "render_report", "render_reports", "run_demo", "train_schemes"]
