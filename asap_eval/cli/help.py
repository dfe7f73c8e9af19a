"""What ``asap-eval --help`` says."""

from __future__ import annotations

from asap_eval.cli.groups import GROUPS, choices
from asap_eval.paths import conf_dir

TEXT = """\
asap-eval: what token reduction in vision transformers really buys.

  asap-eval                                                   the bundled example, offline
  asap-eval model=deit_base method=asap k=8                   on ImageNet, where it is found
  asap-eval model=deit_tiny data=<folder> method=asap k=2     one run
  asap-eval model=deit_tiny data=<folder> methods=asap,random budget=macs target=-35
  asap-eval model=deit_tiny data=<folder> method=asap plan=true   cost first; runs nothing
  asap-eval experiment=table1 model=deit_tiny data=<folder>   a table of the paper, row by row
  asap-eval -m model=deit_tiny data=<folder> method=asap k=2,4,8   a sweep, job by job

Other commands (`asap-eval help <command>` says more):

  ls         what every model, method and benchmark is, and their options
  jobs       what runs in a folder of results, and what failed there
  report     records as tables, pictures and one page
  train      the trained parts of a method, on a frozen backbone
  head       a zero-shot classifier from class names and prompts
  strip      pictures of what a method keeps of a video or a picture
  cases      pictures of the answers that a method fixed or broke
  check      whether a method, ours or your own, keeps what every method has to
  new        a method of your own to start from, with its test
  recompute  today's intervals for records of an earlier version
  doctor     this machine and installation, to paste into an issue
  completion the script that lets bash or zsh complete all this

Keys you will want (key=value, --key=value and --key value are the same):

  model=     which model; data= a folder with one folder per class, a name or an address
  method=    what reduces tokens; k= its main knob; method.<name>= its other options
  budget=    macs or tokens: finds k for target= (macs: change in percent, such as -35)
  weights=   a file; left out = the published ones
  limit=     the first n samples; sample=spread takes them evenly
  device=    auto, cpu, cuda; dtype= auto, float32, bfloat16, float16; speed=true times the run too
  launch=    local: one worker a visible GPU; join: this process is one more (torchrun, srun)
  results=   folder of the records; asap-eval report makes tables of it

Options: -m, --multirun: every combination of k=2,4,8 in turn; --cfg job: the composed
configuration; --config-dir <folder>: more models and experiments; --version.

`asap-eval ls` says what every model, method and benchmark below is, and with --options what
their options are. docs/README.md has the rest.
"""


def text() -> str:
    """The examples, then everything there is to choose, and every key with its default."""
    groups = [f"{group}: {', '.join(choices(group))}" for group in sorted(GROUPS)]
    return "\n".join(
        [
            TEXT,
            "== What there is to choose (group=name) ==",
            *groups,
            "",
            "== Every key with its default (key=value) ==",
            *_keys(),
        ]
    )


def _keys() -> list[str]:
    """The lines of ``conf/config.yaml`` that are for the command line."""
    lines = (conf_dir() / "config.yaml").read_text(encoding="utf-8").splitlines()
    first = lines.index("# What is measured.")
    last = next(at for at, line in enumerate(lines) if line.startswith("# Filled by"))
    keys = lines[first:last]
    return [line.replace(": ", "=", 1) if line[:1].isalpha() else line for line in keys]
