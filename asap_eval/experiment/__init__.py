"""Experiment files: a table of a paper, or one of ours, as rows to run and figures to compare."""

from asap_eval.experiment.file import About, Experiment, bench_defaults, experiments, load, parse
from asap_eval.experiment.published import Published
from asap_eval.experiment.rows import Entry, without_seed

__all__ = [
    "About",
    "Entry",
    "Experiment",
    "Published",
    "bench_defaults",
    "experiments",
    "load",
    "parse",
    "without_seed",
]
