"""How long the paper's tables take from a large folder: `asap-eval report all` on made records.

    python benchmarks/report_scale.py --records 5000

The records are copies of one of results/, each of another method, model or seed, so that they are
rows of the tables and of nothing; one in a hundred is torn. They go into a temporary folder.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import tempfile
import time
from pathlib import Path

from asap_eval.cli.report import main as report
from asap_eval.experiment import load
from asap_eval.method import build, options
from asap_eval.paper import TABLES, paper_table
from asap_eval.paths import conf_dir
from asap_eval.record import Budget, RunRecord, read_records, write_record

RESULTS = Path(__file__).resolve().parents[1] / "results" / "deit_tiny"
TORN = 100
"""Every so many records one is cut in half."""


def rows_of_the_tables() -> list[tuple[str, str, dict[str, object], float | None]]:
    """Model, method, options and target of every row that the experiments of the paper name."""
    found = []
    for name in TABLES:
        experiment = paper_table(name).experiment
        if not (conf_dir() / "experiment" / f"{experiment}.yaml").is_file():
            continue
        for entry in load(experiment).entries:
            if entry.bench != "imagenet" or entry.model is None:
                continue
            given = {
                key.partition(".")[2]: value
                for key, value in entry.overrides.items()
                if key.startswith("method.")
            }
            if "checkpoint" not in entry.needs and entry.method != "dynamicvit":
                target = entry.overrides.get("target")
                found.append((entry.model, entry.method, given, target))
    return found


def made(count: int, folder: Path) -> None:
    """Write that many records below a folder."""
    _, template = next(
        pair for pair in read_records(RESULTS)[0] if pair[1].paired and pair[1].status == "done"
    )
    rows = rows_of_the_tables()
    for number in range(count):
        model, method, given, target = rows[number % len(rows)]
        path = write_record(
            _record(template, number, len(rows), model, method, given, target), folder
        )
        if number % TORN == TORN - 1:
            path.write_text(path.read_text()[: path.stat().st_size // 2])


def _record(
    template: RunRecord,
    number: int,
    round_length: int,
    model: str,
    method: str,
    given: dict[str, object],
    target: float | None,
) -> RunRecord:
    reducer = build(method, **given)
    params = {name: getattr(reducer, name) for name, _, _ in options(type(reducer))}
    params.pop(reducer.card.knob or "", None)
    job = dataclasses.replace(
        template.job,
        model=model,
        method=method,
        params=json.loads(json.dumps(params)),
        k=None,
        budget=None if target is None else Budget("macs", float(target)),
        seed=number // round_length,
    )
    return dataclasses.replace(template, key=f"{number:012x}".ljust(64, "0"), job=job)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=5000)
    count = parser.parse_args().records
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = time.perf_counter()
        made(count, folder)
        print(f"{count} records made in {time.perf_counter() - start:.1f} s")
        for words in (["table=1"], ["all"]):
            start = time.perf_counter()
            errors, out = io.StringIO(), io.StringIO()
            with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(out):
                code = report([*words, f"results={folder}", "format=markdown"])
            took = time.perf_counter() - start
            skipped = errors.getvalue().count("skipped:")
            print(
                f"asap-eval report {words[0]}: {took:.1f} s, exit {code}, {skipped} files skipped, "
                f"{len(out.getvalue())} characters"
            )


if __name__ == "__main__":
    main()
