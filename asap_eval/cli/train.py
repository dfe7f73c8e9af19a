"""``asap-train``: fit the predictors of a method on a frozen backbone."""

from __future__ import annotations

import inspect
import re
import shlex
import sys
import traceback
from collections.abc import Sequence

from asap_eval.errors import AsapEvalError, BadValueError, UnknownNameError
from asap_eval.record import Job
from asap_eval.runner.machine_errors import explaining
from asap_eval.runner.progress import say
from asap_eval.train.predictors.job import TrainJob, parse
from asap_eval.train.predictors.loop import train

FAILED, USAGE, INTERRUPTED = 1, 2, 130
"""Exit codes."""

HELP = """\
asap-train: fit the predictors of dynamicvit or spot on a frozen backbone. The teacher is the same
model unpruned, so labels are not used.

  asap-train method=dynamicvit model=deit_tiny data=<folder> out=<file>.safetensors keep=0.7
  asap-eval method=dynamicvit model=deit_tiny data=<other images> method.checkpoint=<file> k=0.7

Do not evaluate on images it was trained on. The same command goes on after an interruption.
Options of the method are method.<name>= (asap-eval-ls --options). Keys and defaults:

"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; standard output gets the path of the file, the rest standard error."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or {"-h", "--help"} & set(words):
        print(HELP + keys())
        return 0 if words else USAGE
    job = TrainJob()
    try:
        job = parse(words)
        machine = Job(job.model, batch_size=max(1, job.batch_size), device=job.device)
        with explaining(machine):
            print(train(job, shlex.join(["asap-train", *words])))
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        expected = isinstance(error, AsapEvalError)
        text = str(error) if expected else f"unexpected {type(error).__name__}: {error}"
        say(f"error: {text}", style="red")
        if job.debug:
            traceback.print_exception(error)
        elif not expected:
            say("debug=true shows where it happened.")
        return USAGE if isinstance(error, (UnknownNameError, BadValueError)) else FAILED
    return 0


def keys() -> str:
    """The keys with their defaults and what they mean, as the source says them."""
    found = re.findall(r"^    (\w+): .* = (.+?)  # (.+)$", inspect.getsource(TrainJob), re.M)
    # As a person would type them.
    typed = str.maketrans({'"': None})
    lines = (f"{name}={default.translate(typed)}" for name, default, _ in found)
    shown = (line.replace("None", "null").replace("False", "false") for line in lines)
    return "\n".join(f"  {key:20} {said}" for key, (_, _, said) in zip(shown, found, strict=True))


if __name__ == "__main__":
    sys.exit(main())
