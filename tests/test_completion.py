"""Completion: what may follow on a line, and that bash and zsh are told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from project import ROOT

from asap_eval.cli.candidates import candidates
from asap_eval.cli.completion import BASH, ZSH
from asap_eval.cli.groups import choices


@pytest.mark.parametrize(
    ("line", "some", "none"),
    [
        ("asap-eval ", ["ls", "report", "model=", "k="], ["--help"]),
        ("asap-eval mod", ["model="], ["method="]),
        ("asap-eval model=deit_t", ["model=deit_tiny"], ["model=deit_base"]),
        ("asap-eval k=2 ", ["method="], ["ls"]),
        ("asap-eval run method=as", ["method=asap"], []),
        ("asap-eval method=asap method.", ["method.tau="], ["method.r="]),
        ("asap-eval method.", ["method.tau=", "method.r="], []),
        ("asap-eval method=asap method.reduce=", ["method.reduce=pool"], []),
        ("asap-eval bench=vlm bench.", ["bench.tasks="], ["bench.head="]),
        ("asap-eval budget=macs budget.", ["budget.samples="], []),
        ("asap-eval methods=asap,to", ["methods=asap,tome"], []),
        ("asap-eval methods=[asap,to", ["methods=[asap,tome"], []),
        ("asap-eval speed=", ["speed=true", "speed=false"], []),
        ("asap-eval --", ["--help", "--config-dir", "--batch_size"], []),
        ("asap-eval help st", ["strip"], []),
        ("asap-eval ls ", ["methods", "options=", "format="], []),
        ("asap-eval ls format=", ["format=rich", "format=markdown"], []),
        ("asap-eval report ", ["diff", "html", "results=", "table="], []),
        ("asap-eval report diff ", ["out="], ["html"]),
        ("asap-eval train method=", ["method=spot"], []),
        ("asap-eval check method=as", ["method=asap"], ["method=ats"]),
        ("asap-eval check ", ["keep_all=", "plugins="], ["budget="]),
        ("asap-eval ne", ["new"], []),
        ("asap-eval train --ep", ["--epochs"], []),
        ("asap-eval data=", [], []),
        ("asap-eval nonsense=", [], []),
    ],
)
def test_candidates(line: str, some: list[str], none: list[str]) -> None:
    found = candidates(line)
    assert set(some) <= set(found)
    assert not set(none) & set(found)
    begun = line.rpartition(" ")[2]
    assert all(word.startswith(begun) for word in found)
    if not some:
        assert found == []


def test_every_choice_of_every_group_is_offered() -> None:
    for group in ("model", "method", "bench", "experiment", "budget"):
        assert candidates(f"asap-eval {group}=") == [f"{group}={n}" for n in choices(group)]


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PATH on which asap-eval is this checkout's."""
    command = tmp_path / "asap-eval"
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m asap_eval "$@"\n')
    command.chmod(0o755)
    return f"{tmp_path}:{os.environ['PATH']}"


@pytest.mark.parametrize(
    ("line", "replies"),
    [
        ("asap-eval recom", ["recompute"]),
        ("asap-eval model=deit_s", ["deit_small", "deit_small_distilled"]),
        ("asap-eval method=asap method.tau", ["method.tau="]),
    ],
)
def test_bash_completes(line: str, replies: list[str], path: str) -> None:
    script = (
        'compopt() { :; }\neval "$(asap-eval completion bash)"\n'
        f"COMP_LINE={line!r} COMP_POINT={len(line)}\n"
        "_asap_eval\nprintf '%s\\n' \"${COMPREPLY[@]}\"\ncomplete -p asap-eval"
    )
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    assert done.stdout.splitlines()[:-1] == replies, done.stderr
    assert done.stdout.splitlines()[-1] == "complete -o default -F _asap_eval asap-eval"


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh here")
@pytest.mark.parametrize(
    ("words", "replies"),
    [
        (["asap-eval", "recom"], "recompute"),
        (["asap-eval", "model=deit_s"], "model=deit_small model=deit_small_distilled"),
        (["asap-eval", "method=asap", "method.tau"], "method.tau="),
    ],
)
def test_zsh_completes(words: list[str], replies: str, path: str) -> None:
    """The function is called as zsh does, with what it offers printed."""
    script = (
        "compdef() { :; }\ncompadd() { print -r -- ${(P)@[-1]} }\n_files() { :; }\n"
        'eval "$(asap-eval completion zsh)"\n'
        f"words=({' '.join(words)}) CURRENT={len(words)}\n_asap_eval"
    )
    done = subprocess.run(
        ["zsh", "-fc", script], capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    assert " ".join(done.stdout.split()) == replies, done.stderr


@pytest.mark.parametrize(("shell", "script"), [("bash", BASH), ("zsh", ZSH)])
def test_the_scripts_parse(shell: str, script: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    subprocess.run([shell, "-n"], input=script, text=True, check=True)
