"""Layout of an experiment over several tasks: a column for each, measured beside published."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from asap_eval.report.experiment.columns import ROW_OF_PAPER, SETTINGS_OF_SEEDS, VERDICT
from asap_eval.report.experiment.tasks import FULL, contradiction
from asap_eval.report.experiment.verdict import CANNOT_TELL, DIFFERS, REPRODUCED, TELLING, word_of
from asap_eval.report.layouts.columns import (
    CHANGE,
    LLM_COST,
    METHOD,
    Column,
    Row,
    laid_out,
    number,
    numbers,
    present,
)
from asap_eval.report.sheet import DASH, Sheet

SIGNS = {REPRODUCED: "=", DIFFERS: "≠", CANNOT_TELL: "?"}
"""What stands behind a change that agrees with the published one, does not, or cannot tell."""

LEFT = [
    ROW_OF_PAPER,
    METHOD,
    SETTINGS_OF_SEEDS,
    VERDICT,
]


def scores(
    title: str,
    tasks: Sequence[str],
    lines: Sequence[Row],
    about: Sequence[str] = (),
    commands: Sequence[tuple[str, ...]] = (),
) -> Sheet:
    """Scores of every task, the printed ones in brackets.

    Args:
        about: notes above those of the scores. commands: behind each line.
    """
    columns = [
        *LEFT,
        Column("tokens to the language model", _tokens),
        *LLM_COST[1:],
        *(Column(task, _score(task), wide=True) for task in tasks),
        Column("Avg", _beside("avg", "published_avg", "{:.2f}", "({:.1f})")),
        Column("Rel %", _beside("rel", "published_rel", "{:.2f}", "({:.1f})")),
        CHANGE,
    ]
    note = "measured (published); Avg with MME / 20; Rel = Avg in % of the unpruned model's"
    return laid_out(title, columns, lines, notes=[*about, note, *_said(lines)], commands=commands)


def changes(title: str, tasks: Sequence[str], lines: Sequence[Row]) -> Sheet | None:
    """Changes from the unpruned model; None where none was measured."""
    lines = [line for line in lines if any(present(line[f"delta_{task}"]) for task in tasks)]
    if not lines:
        return None
    columns = [*LEFT, *(Column(task, _change(task)) for task in tasks)]
    note = (
        "measured [95 %], published, measured − published; = the published change lies inside the "
        f"interval, ? inside one of more than {TELLING:g} points of 100, ≠ outside"
    )
    return laid_out(f"{title} · change from the unpruned model", columns, lines, notes=[note])


def _said(lines: Sequence[Row]) -> list[str]:
    """What the rows themselves have to say: their readings, and printed means that contradict."""
    said = [
        f"reading of {row['published_row'] or row['method']}: {row['reading']}"
        for row in lines
        if present(row["reading"])
    ]
    said += [note for row in lines if (note := contradiction(row))]
    return list(dict.fromkeys(said))


def _beside(measured: str, published: str, form: str, printed_form: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        own, printed = number(row[measured], form), number(row[published], printed_form)
        return " ".join(part for part in (own, printed) if part != DASH) or DASH

    return cell


_tokens = _beside("handed_to_llm", "published_tokens", "{:.1f}", "({:g})")


def _score(task: str) -> Callable[[Row], str]:
    """Papers print percentages with one decimal, MME's points with none."""
    wide = FULL.get(task, 100.0) > 100
    forms = ("{:.1f}", "({:.0f})") if wide else ("{:.2f}", "({:.1f})")
    return _beside(f"score_{task}", f"published_{task}", *forms)


def _change(task: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        own = numbers(
            row, "{:+.2f} [{:+.2f}, {:+.2f}]", f"delta_{task}", f"low_{task}", f"high_{task}"
        )
        if own == DASH:
            return DASH
        printed = numbers(
            row, ", {:+.1f}, {:+.2f}", f"published_delta_{task}", f"difference_{task}"
        )
        verdict = row[f"verdict_{task}"] or ""
        word, mark = word_of(verdict), verdict.partition(" †")[1].strip()
        sign = f" {SIGNS[word]}{mark}" if word in SIGNS else ""
        return own + ("" if printed == DASH else printed) + sign

    return cell
