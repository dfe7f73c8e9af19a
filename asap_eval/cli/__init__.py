"""``asap-eval``: the command line."""

from asap_eval.cli.command import main

__all__ = ["main"]
