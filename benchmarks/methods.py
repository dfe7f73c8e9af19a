"""What arrives of each method's saving, at its authors' setting and at one MACs budget.

    python benchmarks/methods.py --data imagenet/val --weights deit_tiny.safetensors

Every row times its contenders in turns on the same real images (asap_eval/timing/speed.py): the
untouched model with torch's fused attention, the unpruned model with our kernel where there is one,
the model that reads what the method reads and removes nothing, and the method. The headline is over
the faster of the first two; the ideal is MACs over MACs with the method's own products left out.

DeiT-Tiny runs with its weights and every method. Other shapes have random weights here, where only
methods whose token counts do not depend on the image can be timed fairly.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import contenders
import torch
from rich.console import Console
from rich.table import Table

import asap_eval  # noqa: F401  (registers the methods)
from asap_eval.cli.authors import ABOUT, KIND
from asap_eval.cli.entries import entries
from asap_eval.errors import AsapEvalError
from asap_eval.hosts import install
from asap_eval.method import Reducer, View, build, method_class
from asap_eval.models import LoadedModel, load_model
from asap_eval.timing.speed import Pixels, backend, measure_speed
from asap_eval.tokens import Reduction

AUTHORS = "authors'"

Key = tuple[str, str, bool, dict[str, Any]]
"""What a row times: model, method, whether at the budget (its knob is found), options."""

SETTINGS_OF = "deit_small"
"""Model whose authors' settings hold for all DeiT here: most papers name it and no other."""

AT_BUDGET: dict[str, list[dict[str, Any]]] = {
    "random": [{}],
    "stride": [{}],
    "downsample": [{}],
    "mass": [{"of": "layer"}, {"of": "walk"}],
    "topk_cls": [{}],
    "tome": [{}],
    "ppt": [{}],
    "evit": [{}],
    "ats": [{}],
    "zero_tprune": [{}],
    "asap": [{"tau": 1.4}, {"tau": 1.7}],
    "diffrate": [{}],
    "pitome": [{}],
    "tofu": [{}],
    "mctf": [{}],
    "atc": [{}],
    "atm_reading": [{}],
    "ailurus_reading": [{}],
    "tosa_reading": [{}],
    "asvit": [{}],
}
"""Methods and options that a budget is met with."""

AT_AUTHORS = ("tome", "ppt", "evit", "ats", "zero_tprune")
"""Methods whose authors' own setting can be run without a checkpoint or a guess."""

APART: dict[str, list[dict[str, Any]]] = {"ppt": [{"threshold": 0.0}, {"threshold": 1.0}]}
"""Options beside the authors' that part what a batch may mix: PPT prunes, or pools, all images."""


def main() -> None:
    options = _options()
    torch.set_grad_enabled(False)
    if options.cpu_seconds:
        torch.set_num_threads(1)
    where = {"device": options.device, "dtype": options.dtype}
    report: dict[str, Any] = {"rows": []}
    if options.resume and options.out.exists():
        report = json.loads(options.out.read_text())
        report["earlier"] = [*report.get("earlier", []), report["command"]]
    for name in options.models:
        # Only DeiT-Tiny's weights can be given; other shapes are timed with random ones.
        weights = options.weights if name == "deit_tiny" else "random"
        model = load_model(name, weights=weights, **where)
        batches = contenders.batches_of(options.data, model, options.batches, options.batch_size)
        report["machine"] = backend(batches[0].images)
        timed = [_key(row) for row in report["rows"]]
        for row in _rows(options, model, batches, timed):
            report["rows"].append(row)
            print(_line(row), file=sys.stderr)
            contenders.write(report, options, "methods")  # what there is, should it be stopped
    _print(report)
    print(contenders.write(report, options, "methods"))


def _options() -> argparse.Namespace:
    parser = contenders.parser(__doc__, rounds=30)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--batches", type=int, default=4, help="different batches to take turns on")
    parser.add_argument("--target", type=float, default=-35.0, help="MACs change in %%")
    parser.add_argument("--methods", nargs="+", default=list(AT_BUDGET))
    parser.add_argument("--models", nargs="+", default=["deit_tiny", "deit_small"])
    parser.add_argument("--resume", action="store_true", help="keep the rows that the file has")
    parser.add_argument(
        "--cpu-seconds",
        action="store_true",
        help="CPU seconds of one thread, where other work on the machine cannot be stopped",
    )
    options = parser.parse_args()
    options.out = options.out or contenders.beside("methods", options)
    return options


def _rows(
    options: argparse.Namespace, loaded: LoadedModel, batches: list[Pixels], timed: list[Key]
) -> Iterator[dict[str, Any]]:
    """Every row of a model that is not timed yet."""
    for name, at_budget, k, params in _contenders(options, loaded):
        if (loaded.name, name, at_budget, params) in timed:
            continue
        setting = AUTHORS
        if at_budget:
            try:
                found = contenders.meet(loaded, name, params, batches, options.target)
            except AsapEvalError as error:
                print(f"{loaded.name} {name}: {error}", file=sys.stderr)
                continue
            setting, k = f"{found.reached:.1f} %", found.knob
        reducer = build(name, k=k, **params)
        clock = time.process_time if options.cpu_seconds else time.perf_counter
        speed = measure_speed(loaded.model, reducer, batches, rounds=options.rounds, clock=clock)
        yield {
            "model": loaded.name,
            "weights": loaded.weights.name,
            "method": name,
            "setting": setting,
            "k": k,
            "params": params,
            "share_of_ideal_torch": contenders.over_torch(speed)[1],
            "deciding_ms": _deciding(loaded, reducer, batches[0], clock),
            **speed,
        }


def _deciding(
    loaded: LoadedModel,
    reducer: Reducer,
    pixels: Pixels,
    clock: Callable[[], float],
    passes: int = 5,
) -> float:
    """Milliseconds of a batch in the method's `decide`: matching, sorting, clustering. Median."""
    decide, taken = reducer.decide, list[float]()

    def timed(view: View, state: Any) -> Reduction | None:
        begin = clock()
        found = decide(view, state)
        taken[-1] += clock() - begin
        return found

    with patch.object(reducer, "decide", timed), torch.inference_mode():
        for _ in range(passes):
            taken.append(0.0)
            with install(loaded.model, reducer) as trace:
                trace.name_images(pixels.ids)
                loaded.model(pixels.images)
    return 1e3 * statistics.median(taken)


def _key(row: dict[str, Any]) -> Key:
    return row["model"], row["method"], row["setting"] != AUTHORS, row["params"]


def _contenders(
    options: argparse.Namespace, loaded: LoadedModel
) -> Iterator[tuple[str, bool, float | None, dict[str, Any]]]:
    """Method, whether a budget finds its knob, the knob otherwise, and options of every row."""
    settings = entries(KIND, SETTINGS_OF)
    for name in options.methods:
        card = method_class(name).card
        if not loaded.weights.trained and not card.fixed_count:
            continue
        if name in AT_AUTHORS:
            given = {key: v for key, v in settings[name].items() if key not in ABOUT}
            k = given.pop(card.knob or "", None)
            for apart in [{}, *APART.get(name, [])]:
                yield name, False, k, {**given, **apart}
        for params in AT_BUDGET[name]:
            yield name, True, None, params


def _line(row: dict[str, Any]) -> str:
    return " ".join(_cells(row))


def _cells(row: dict[str, Any]) -> list[str]:
    speedup = row["speedup"]
    knob = [f"k={row['k']:.4g}"] if row["k"] is not None else []
    shown = {k: v for k, v in row["params"].items() if k in ("tau", "of", "threshold")}
    return [
        row["model"],
        row["method"],
        row["setting"],
        " ".join([*knob, *(f"{key}={value}" for key, value in shown.items())]) or "-",
        f"{row['fused_img_s']:.1f}",
        f"{row['matched_img_s']:.1f}",
        f"{row['method_img_s']:.1f}",
        f"{speedup['median']:.3f} [{speedup['p10']:.3f}, {speedup['p90']:.3f}]",
        f"{row['ideal']:.3f}",
        f"{row['share_of_ideal']:.3f}",
        f"{row['share_of_ideal_torch']:.3f}",
        f"{row['deciding_ms']:.1f}" if "deciding_ms" in row else "-",
    ]


def _print(report: dict[str, Any]) -> None:
    table = Table("model", "method", "setting", "knob", "img/s fused", "matched", "method",
                  "speed-up [p10, p90]", "ideal", "share", "torch's", "decide ms",
                  title="Speed")  # fmt: skip
    for row in report["rows"]:
        table.add_row(*_cells(row))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
