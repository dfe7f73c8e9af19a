"""``asap-eval``: the command line."""

from asap_eval.cli.front import main

__all__ = ["main"]
