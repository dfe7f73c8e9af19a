"""Lists without brackets, where a key takes one and nothing is swept."""

from __future__ import annotations

import pytest

from asap_eval.cli.compose import swept
from asap_eval.cli.lists import with_brackets


@pytest.mark.parametrize(
    ("words", "bracketed"),
    [
        (["methods=asap,random"], ["methods=[asap,random]"]),
        (["methods=[asap,random]"], ["methods=[asap,random]"]),
        (["bench=vlm", "tasks=pope,gqa"], ["bench=vlm", "tasks=[pope,gqa]"]),
        (["bench=vlm", "bench.tasks=pope,gqa"], ["bench=vlm", "bench.tasks=[pope,gqa]"]),
        (["method=tome", "method.r=8,4"], ["method=tome", "method.r=[8,4]"]),
        (["method=asap", "method.tau=1,2"], ["method=asap", "method.tau=1,2"]),
        (["++model.kwargs.img_size=96,64"], ["++model.kwargs.img_size=[96,64]"]),
        (["experiment=fig6", "k=2,4"], ["experiment=fig6", "k=[2,4]"]),
        (["k=2,4"], ["k=2,4"]),
        (["k=choice(2,4)", "method=asap,tome"], ["k=choice(2,4)", "method=asap,tome"]),
    ],
)
def test_a_list_is_what_was_meant(words: list[str], bracketed: list[str]) -> None:
    assert with_brackets(words, multirun=False) == bracketed


def test_a_sweep_stays_one() -> None:
    words = ["tasks=pope,gqa", "k=2,4", "methods=asap,tome"]
    assert with_brackets(words, multirun=True) == ["tasks=pope,gqa", "k=2,4", "methods=[asap,tome]"]


def test_the_last_key_of_a_sweep_turns_fastest() -> None:
    assert swept(["method=asap,tome", "data=x", "+k=range(2,4)", "~budget"]) == [
        [f"method={method}", "data=x", f"+k={k}", "~budget"]
        for method in ("asap", "tome")
        for k in (2, 3)
    ]
