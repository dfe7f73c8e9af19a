"""The options of ``asap-eval report``, and what its ``--help`` says."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass
class Asked:
    """Which records, and in which form."""

    results: Path = Path("results")  # folder of records
    table: str = ""  # a table of the paper beside the records: 1 to 11, alpha, all
    format: Literal["rich", "markdown", "csv"] = "rich"  # rich | markdown | csv (unrounded)
    wide: bool = False  # every column on a terminal, not those alone that fit 80 characters
    claims: bool = False  # a verdict on each claim of the ASAP paper that these records decide
    clustering: list[Path] = field(default_factory=list)  # with claims: of benchmarks/clustering.py
    experiment: str | None = None  # its table, published beside measured: of conf/ or a file
    beside: Path | None = None  # with experiment: records on other images, Δ in a column of its own
    model: str | None = None  # records of this model alone, and of an experiment its rows alone
    out: Path | None = None  # file to write instead of the terminal


ABOUT = """\
asap-eval report: the records of a folder as tables: one table for all that may be compared.

other reports (each with results=<folder>, and out=<file or folder>):
  asap-eval report html                 everything as one page in one file
  asap-eval report pictures             pictures as PNG and SVG
  asap-eval report table=1              the paper's Table 1 beside the records (1 to 11, alpha; all)
  asap-eval report audit                what of the paper does not recompute, or contradicts itself
  asap-eval report cases task=pope      questions whose answer a method fixed or broke
  asap-eval report diff before after    what moved between two folders of records

examples:
  asap-eval report results experiment=table1 model=deit_tiny
  asap-eval report results format=markdown out=tables.md
  asap-eval report table=1 results=results format=latex out=table1.tex
"""
