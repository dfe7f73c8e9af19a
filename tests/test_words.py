"""From words to options: one grammar for every command."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from asap_eval.cli.index import COMMANDS, _class
from asap_eval.cli.words import Count, comments_of, help_of, read, settings
from asap_eval.errors import AsapEvalError


@dataclass
class Options:
    """What a command might want."""

    source: Path  # where from
    more: list[Path] = field(default_factory=list)  # also
    batch_size: int = 4  # how many
    rate: float | None = None  # how much
    quick: bool = False  # no patience
    form: Literal["rich", "plain"] = "rich"  # rich | plain
    most: Count = 8  # at most
    options: dict[str, Any] = field(default_factory=dict)  # of the method


def options(*words: str) -> Options:
    return read(words, Options, "try", places=["source", "more"])


@pytest.mark.parametrize(
    "words",
    [
        ["source=a", "batch_size=16", "quick=true", "rate=0.5"],
        ["a", "--batch-size", "16", "--quick", "--rate", "0.5"],
        ["a", "--batch_size=16", "--quick=true", "--rate=0.5"],
        ["--quick", "true", "batch-size=16", "--source", "a", "rate=5e-1"],
        ["--batch-size", "16", "--quick", "a", "--rate", ".5"],
    ],
)
def test_all_forms_mean_the_same(words: list[str]) -> None:
    assert options(*words) == Options(Path("a"), batch_size=16, rate=0.5, quick=True)


def test_values_have_types() -> None:
    assert options("a", "b", "c").more == [Path("b"), Path("c")]
    for more in (["more=b,c"], ["more=[b,c]"], ["--more", "b", "c"], ["more=b", "more=c"]):
        assert options("a", *more).more == [Path("b"), Path("c")]
    assert options("a", "rate=null").rate is None
    assert options("a", "--rate", "-3").rate == -3
    assert options("a", "most=0").most == 0
    assert options("~/x").source == Path.home() / "x"
    assert options("./a=b").source == Path("a=b")
    given = options("a", "method.blocks=[2,3]", "--method.tau", "1.5", "method.reduce=prune")
    assert given.options == {"blocks": [2, 3], "tau": 1.5, "reduce": "prune"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["a", "batch=3"], "Did you mean batch_size"),
        (["a", "batch_size=1.5"], "batch_size='1.5': give a whole number."),
        (["a", "rate=fast"], "rate='fast': give a number."),
        (["a", "form=pretty"], "Unknown value of form 'pretty'"),
        (["a", "most=-1"], "most=-1: give a number, 0 for all."),
        (["a", "quick=1"], "quick='1': give true or false."),
        (["a", "--rate"], "--rate stands without a value: give --rate <value> or rate=<value>."),
        (["a", "--rate", "--quick"], "--rate stands without a value"),
        (["a", "source=b"], "source is given twice: a and b."),
        (["source="], "stands without a value"),
        ([], "source is missing. asap-eval try --help lists the keys."),
    ],
)
def test_what_is_wrong_is_said(words: list[str], says: str) -> None:
    with pytest.raises(AsapEvalError) as error:
        options(*words)
    assert says in str(error.value)


def test_words_of_a_run() -> None:
    words = [
        "+a=1",
        "~b",
        "--k",
        "2",
        "-m",
        "++model.kwargs.x-y=1",
        "--config-dir",
        "c",
        "-c",
        "job",
    ]
    assert settings(words, {"multirun"}) == [
        *("+a=1", "~b", "k=2", "multirun=true", "++model.kwargs.x-y=1"),
        *("config_dir=c", "cfg=job"),
    ]


def test_help_shows_defaults_and_what_they_mean() -> None:
    text = help_of(Options, "try", "``try``: one line.\n\nMore.", ["source"])
    assert text.splitlines() == [
        "try: one line.",
        "",
        "  asap-eval try <source> [key=value ...]",
        "",
        "More.",
        "",
        "  <source>          where from",
        "  more=             also",
        "  batch_size=4      how many",
        "  rate=             how much",
        "  quick=false       no patience",
        "  form=rich         rich | plain",
        "  most=8            at most",
        "  method.<option>=  of the method",
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_every_command_says_what_it_is(command: str) -> None:
    cls = _class(COMMANDS[command])
    assert set(comments_of(cls)) == set(cls.__dataclass_fields__)
