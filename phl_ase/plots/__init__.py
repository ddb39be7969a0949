"""Figures of validators' reports: each draws from ``Report.arrays`` and ``Report.metrics`` alone.

One module for each validator and one line in ``FIGURES``; ``style`` holds what they share.
"""
