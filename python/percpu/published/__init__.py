"""The published measurements of July 2017 beside the models.

`tables` has the milliseconds as they were published, `measure` runs the same workloads and counts work, `judge`
compares the shapes, `report` writes all of it as text. ``python -m percpu.published`` does the whole;
docs/published-comparison.md is its output.
"""

from percpu.published.runs import CASES, Case, measure
from percpu.published.shapes import explain, judge
from percpu.published.tables import fill_levels, plain

__all__ = ["CASES", "Case", "explain", "fill_levels", "judge", "measure", "plain"]
