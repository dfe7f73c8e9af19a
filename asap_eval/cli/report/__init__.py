"""``asap-eval report``: every report that records allow, a module for each."""

from asap_eval.cli.report.command import main

__all__ = ["main"]
