"""Whether a job's benchmark, method, budget and speed fit each other; nothing is opened."""

from __future__ import annotations

from asap_eval.bench.bench import AnyBench, build_bench
from asap_eval.errors import BadValueError, BudgetError, UnsupportedModelError
from asap_eval.method import Reducer, build_from, method_class
from asap_eval.record import Job
from asap_eval.runner.latest_model import spec_of


def checked(job: Job) -> tuple[AnyBench, Reducer]:
    """Benchmark and method of a job, which fit each other.

    Raises:
        AsapEvalError: unknown names, or values that do not fit.
    """
    bench = build_bench(job.bench, **job.bench_params)
    _check_budget(job, bench)
    _check_place(job, bench)
    reducer = build_from(job.method, job.params, job.k)
    bench.accepts(reducer)
    if job.speed and bench.no_speed:
        raise BadValueError(f"speed=true is not for bench={job.bench}: {bench.no_speed}.")
    return bench, reducer


def _check_place(job: Job, bench: AnyBench) -> None:
    """Refuse what a classifier cannot show: its head reads the tower's tokens itself."""
    cls = method_class(job.method)
    if bench.accuracy and not bench.vlm and (cls.site == "output" or cls.tower == "language"):
        raise UnsupportedModelError(
            f"Method '{job.method}' acts on what a tower hands to a language model, or inside it; "
            f"bench={job.bench} classifies images. Use bench=vlm with a vision-language model "
            "(asap-eval ls models), or another method."
        )


def _check_budget(job: Job, bench: AnyBench) -> None:
    """Refuse a budget that this benchmark cannot count, or that this method cannot meet."""
    if job.budget is None:
        return
    if reason := bench.budgets.get(job.budget.kind):
        raise BudgetError(
            f"budget={job.budget.kind} is not for bench={job.bench}: {reason}. Use budget=macs."
        )
    cls = method_class(job.method)
    if job.budget.quantity == "handed" and cls.tower == "language" and not cls.admits():
        raise BudgetError(
            f"budget.count=handed counts tokens that the language model's first layer gets; "
            f"'{job.method}' acts behind it. Use budget.count=layer_mean (the mean over its "
            "layers) or budget=macs."
        )
    knob = cls.card.knob
    if knob is None:
        raise BudgetError(f"budget={job.budget.kind}: method '{job.method}' has no knob to turn.")
    if (given := job.params.get(knob)) is not None:
        wide = cls.card.widens[0] if isinstance(given, str) and cls.card.widens else None
        why = " (a budget searches a number; without one method.{wide}= sets the work)"
        raise BadValueError(
            f"method.{knob}={given} and budget={job.budget.kind} both set the knob of "
            f"'{job.method}': leave one of them out{why.format(wide=wide) if wide else ''}."
        )
    bench.check_budget(job.budget, spec_of(job), cls)
