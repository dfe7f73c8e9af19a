"""Lines of progress where standard error is no terminal, by a clock that the test turns."""

from __future__ import annotations

import io
import sys

import pytest

from asap_eval.runner.progress import Lines, bar


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def lines_of(total: int | None, steps: list[tuple[float, int]], done: int = 0) -> list[str]:
    """What is printed of steps, each after some seconds."""
    clock, printed = Clock(), list[str]()
    lines = Lines("evaluating", total, done, clock=clock, write=printed.append)
    for seconds, count in steps:
        clock.now += seconds
        lines.advance(count)
    lines.end()
    return printed


def test_a_line_every_thirty_seconds_and_one_at_the_end() -> None:
    assert lines_of(100, [(10, 10)] * 10) == [
        "evaluating: 30/100, 1.0/s, 0:01:10 left",
        "evaluating: 60/100, 1.0/s, 0:00:40 left",
        "evaluating: 90/100, 1.0/s, 0:00:10 left",
        "evaluating: 100/100, 1.0/s",
    ]


def test_short_work_prints_nothing() -> None:
    assert lines_of(100, [(2, 10)] * 10) == []


def test_what_is_said_is_not_said_again_at_the_end() -> None:
    assert lines_of(2, [(30, 1), (30, 1)]) == [
        "evaluating: 1/2, 30.0 s each, 0:00:30 left",
        "evaluating: 2/2, 30.0 s each",
    ]


def test_an_unknown_total_has_no_time_left() -> None:
    assert lines_of(None, [(40, 80), (1, 2)]) == ["evaluating: 80, 2.0/s", "evaluating: 82, 2.0/s"]


def test_the_rate_leaves_out_what_was_there_before() -> None:
    assert lines_of(100, [(30, 30)], done=40) == ["evaluating: 70/100, 1.0/s, 0:00:30 left"]


def test_steps_of_no_length_have_no_rate() -> None:
    assert lines_of(10, [(31, 0), (31, 0)]) == ["evaluating: 0/10, 0.0/s"] * 2


def test_a_pause_is_one_line_and_not_several() -> None:
    assert lines_of(10, [(95, 1), (1, 1), (29, 1)]) == [
        "evaluating: 1/10, 95.0 s each, 0:14:15 left",
        "evaluating: 3/10, 41.7 s each, 0:04:52 left",
    ]


def test_work_within_work_tells_each_by_its_title() -> None:
    clock, printed = Clock(), list[str]()
    outer = Lines("searching k", None, clock=clock, write=printed.append)
    for _ in range(2):
        inner = Lines("trying", 4, clock=clock, write=printed.append)
        for _ in range(4):
            clock.now += 10
            inner.advance(1)
        inner.end()
        outer.advance(1)
    outer.end()
    assert printed == [
        "trying: 3/4, 10.0 s each, 0:00:10 left",
        "trying: 4/4, 10.0 s each",
        "searching k: 1, 40.0 s each",
        "trying: 3/4, 10.0 s each, 0:00:10 left",
        "trying: 4/4, 10.0 s each",
        "searching k: 2, 40.0 s each",
    ]


def test_the_bar_prints_lines_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    monkeypatch.setattr("asap_eval.runner.progress.monotonic", clock)
    with bar("evaluating", 10) as advance:
        clock.now += 31
        advance(5)
        clock.now += 1
        advance(1)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "evaluating: 5/10, 6.2 s each, 0:00:31 left",
        "evaluating: 6/10, 5.3 s each, 0:00:21 left",
    ]


def test_a_terminal_has_the_bar_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("asap_eval.runner.progress.EVERY", 0.0)
    with bar("evaluating", 2) as advance:
        advance(2)
    shown = screen.getvalue()
    assert "2/2" in shown
    assert "evaluating: " not in shown
