"""What a method counts (`Reducer.tallies`): from the trace into rows, records and tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import test_cli
import tiny
import tiny_llava as small
from cases import small_clip
from test_cli import Run

from asap_eval.bench.video import rows as videos
from asap_eval.hosts import geometry_of, install
from asap_eval.method import Reducer, View, build
from asap_eval.record import Counted, read_record
from asap_eval.record.journal import Journal
from asap_eval.report.experiment.lines import MEANS, over_seeds
from asap_eval.report.layouts.columns import counted_notes
from asap_eval.testing.operators import like
from asap_eval.tokens import Reduction
from asap_eval.work.rows import counted_block, work_of

command = test_cli.command

WORDS = {"odd": "odd patches", "never": "things that are never noted"}


def counting(method: str, **options: Any) -> Reducer:
    """The method, which also notes the number of each watched image but the first."""
    reducer = build(method, **options)

    def decide(self: Reducer, view: View, state: Any) -> Reduction | None:
        later = view.images[view.images > 0]
        view.note("odd", later, 10 * later)
        view.note("sink", view.images, view.images)  # a place: no count
        return type(reducer).decide(self, view, state)

    return like(reducer, tallies=WORDS, decide=decide)


def test_an_image_s_row_has_what_its_method_counted() -> None:
    model = tiny.HOSTS["plain"]()
    with install(model, counting("stride", k=0.5)) as trace:
        tiny.output(model, tiny.images(3))
    rows = [row | {"error": None} for row in work_of(trace, geometry_of(model))]
    assert [row["counted"] for row in rows] == [{"odd": n, "never": 0} for n in (0, 10, 20)]
    arrived = trace.arriving()()
    assert arrived.counted["odd"].tolist() == [0, 10, 20]
    lost = {"error": "no image"}
    assert counted_block(WORDS, [*rows, lost]) == {
        "odd": Counted("odd patches", 30, 2, 3),
        "never": Counted("things that are never noted", 0, 0, 3),
    }
    with install(model, build("stride", k=0.5)) as trace:
        tiny.output(model, tiny.images(3))
    assert "counted" not in work_of(trace, geometry_of(model))[0]
    assert counted_block({}, rows) is None


def test_a_video_s_row_has_the_sum_over_its_frames() -> None:
    assert videos._counted([{"counted": {"odd": 2}}, {"counted": {"odd": 5}}]) == {
        "counted": {"odd": 7}
    }
    assert videos._counted([{"fired": 0}]) == {}


def test_a_sample_s_count_is_of_all_its_crops() -> None:
    """Of the first sample's crops all but the first note their number."""
    loaded, given = small.vlm("llava_next_tiny"), small.inputs("llava_next_tiny", 0, 1)
    with install(loaded.model, counting("vispruner", k=20)) as trace:
        small.logits(loaded, given)
    of_sample = trace.sample.tolist()
    expected = [sum(10 * n for n, at in enumerate(of_sample) if at == one) for one in (0, 1)]
    assert len(of_sample) > 2
    assert trace.counted["odd"].tolist() == expected
    assert trace.counted["never"].tolist() == [0, 0]


def test_a_prompt_s_count_is_its_sample_s() -> None:
    loaded, given = small.vlm("llava_tiny"), small.inputs("llava_tiny", 0, 1)
    with install(loaded.model, counting("fastv", k=20)) as trace:
        small.logits(loaded, given)
    assert trace.counted["odd"].tolist() == [0, 10]


HOLOV = ("method=holov", "k=130", "method.windows=6")


def test_gaps_stand_in_record_and_table(command: Run, questions: Path) -> None:
    given = ("model=llava_tiny", "bench=vlm", "bench.new_tokens=1", f"data={questions}")
    code, out, err = command(*given, "tasks=gqa", "limit=4", *HOLOV)
    assert code == 0, err
    path = Path(out[-1])
    record = read_record(path)
    assert record.counted is not None
    found = record.counted["missing"]
    rows = Journal(path.with_name(f"{path.stem}.samples.jsonl")).read()
    gaps = [130 - row["handed_to_llm"] for row in rows]
    assert [row["counted"] for row in rows] == [{"missing": gap} for gap in gaps]
    assert (found.total, found.samples, found.of) == (sum(gaps), sum(map(bool, gaps)), 4)
    assert found.total > 0
    note = f"holov k=130 windows=6: {found.total} image tokens fewer than the budget, where a"
    printed = " ".join(" ".join(out).split())
    assert note in printed
    assert f"in {found.samples} of 4 samples" in printed
    whole = read_record(next(path.parent.glob("llava_tiny-none-*.json")))
    assert whole.counted is None
    code, out, _ = command(*given, "tasks=gqa", "limit=4", "method=holov", "k=6")
    assert code == 0
    none = read_record(Path(out[-1])).counted
    assert none is not None
    assert none["missing"].total == 0
    assert "fewer than the budget" not in " ".join(" ".join(out).split())


def test_tokens_past_the_rank_stand_in_record_and_table(command: Run, questions: Path) -> None:
    """The authors' code gives numbers that are none there."""
    given = ("model=llava_tiny", "bench=vlm", "bench.new_tokens=1", f"data={questions}")
    more = ("tasks=gqa", "limit=2", "method=cdpruner", "k=140", f"method.clip={small_clip()}")
    code, out, err = command(*given, *more)
    assert code == 0, err
    record = read_record(Path(out[-1]))
    width = small.vlm("llava_tiny").model.config.text_config.hidden_size
    assert record.counted is not None
    found = record.counted["filled"]
    rows = Journal(Path(out[-1]).with_name(f"{record.stem}.samples.jsonl")).read()
    filled = [row["counted"]["filled"] for row in rows]
    assert min(filled) >= 140 - width
    assert (found.total, found.samples, found.of) == (sum(filled), 2, 2)
    printed = " ".join(" ".join(out).split())
    assert f"{found.total} image tokens taken by relevance alone" in printed


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_line_of_several_seeds_has_what_all_of_them_counted(seeds: int) -> None:
    names = (*MEANS, "k", "failed", "top1", "delta_top1", "random_top1", "seed")
    row: dict[Any, Any] = {**dict.fromkeys(names), "method": "holov", "options": "{}"}
    each = [
        {"missing": {"says": "gaps", "total": seed + 1, "samples": 1, "of": 4}}
        for seed in range(seeds)
    ]
    line = over_seeds([row | {"counted": json.dumps(counted)} for counted in each])
    total = {1: 1, 3: 6}[seeds]
    assert counted_notes([line]) == [f"holov: {total} gaps, in {seeds} of {4 * seeds} samples"]
