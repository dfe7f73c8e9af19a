"""How often each 95 % interval holds the truth, and a verdict is wrong: `docs/coverage.md`.

    python benchmarks/coverage.py --out docs/coverage.md

Pairs of right and wrong answers are not drawn: the probabilities of all counts of lost and won
images are summed. Scores that can be right in part are drawn, from a fixed seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy.special import ndtri
from scipy.stats import multinomial

from asap_eval.experiment import Published
from asap_eval.report.experiment.verdict import CANNOT_TELL, DIFFERS, verdict, word_of
from asap_eval.statistics import mean_interval, paired_interval, share_interval

COUNTS = (1, 2, 3, 5, 8, 12, 24, 50, 100, 200, 500, 1000)
RATES = np.linspace(0, 0.2, 41)
"""Shares of the images that only one of the two models gets right."""
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
"""What of them is won rather than lost; the rest of 0 to 1 mirrors it."""
DRAWS = 2000

Bounds = tuple[np.ndarray, np.ndarray]
Interval = Callable[[np.ndarray, np.ndarray, int], Bounds]


def tables(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts of lost and won images that any rate up to the last one can lead to."""
    most = min(count, int(max(RATES) * count + 10 * np.sqrt(max(RATES) * count) + 5))
    lost, won = (grid.ravel() for grid in np.mgrid[: most + 1, : most + 1])
    return lost[lost + won <= count], won[lost + won <= count]


def chances(lost: np.ndarray, won: np.ndarray, count: int, rate: float, share: float) -> np.ndarray:
    """Probability of every table."""
    cells = np.stack([lost, won, count - lost - won], axis=1)
    return multinomial.pmf(cells, count, [rate * (1 - share), rate * share, 1 - rate])


def bootstrap(lost: np.ndarray, won: np.ndarray, count: int) -> Bounds:
    """The limit of a paired bootstrap of many images: what was printed before."""
    delta = (won - lost) / count
    half = ndtri(0.975) * np.sqrt(((won + lost) / count - delta**2) / count)
    return delta - half, delta + half


def coverage(interval: Interval, count: int) -> list[float]:
    """Coverage at every rate and share."""
    lost, won = tables(count)
    low, high = interval(lost, won, count)
    found = []
    for rate in RATES:
        for share in SHARES:
            truth = rate * (2 * share - 1)
            holds = (low <= truth + 1e-12) & (truth - 1e-12 <= high)
            found.append(float(chances(lost, won, count, rate, share)[holds].sum()))
    return found


def verdicts(count: int, rate: float, loss: float, samples: int = 50_000) -> tuple[float, float]:
    """How often a method that loses ``loss`` (a share) "differs" from that, or "cannot tell".

    The published figure has the same truth and is printed with two decimals.
    """
    lost, won = tables(count)
    low, high = paired_interval(lost, won, count)
    published = Published(delta=round(-100 * loss, 2))
    words = np.array([
        word_of(verdict(published, delta=100 * (w - x) / count, low=100 * a, high=100 * b,
                        macs=None, n=count, samples=samples))
        for x, w, a, b in zip(lost, won, low, high, strict=True)
    ])  # fmt: skip
    weights = chances(lost, won, count, rate, (1 - loss / rate) / 2)
    return tuple(float(weights[words == word].sum()) for word in (DIFFERS, CANNOT_TELL))  # type: ignore[return-value]


SCORES = {
    "VQA accuracy, gains and losses": (
        [-1, -0.6, -0.3, 0.3, 0.6, 1],
        [0.2, 0.2, 0.3, 0.1, 0.1, 0.1],
    ),
    "VQA accuracy, losses alone": ([-1, -0.6, -0.3], [0.3, 0.3, 0.4]),
    "small losses, rare large ones": ([-0.1, -1], [0.9, 0.1]),
    "small losses, rare large gains": ([-0.1, 1], [0.95, 0.05]),
}
"""Changes of a score from 0 to 1 where it changes, and how often each."""


def of_scores(changes: Sequence[float], weights: Sequence[float], count: int, rate: float) -> float:
    """Coverage of the interval of a mean change of scores that can be right in part."""
    generator = np.random.default_rng(count)
    truth, held = rate * float(np.dot(changes, weights)), 0
    for _ in range(DRAWS):
        moved = generator.random(count) < rate
        values = np.where(moved, generator.choice(changes, size=count, p=weights), 0)
        bounds = mean_interval(values.tolist(), (-1, 1))
        assert bounds is not None
        held += bounds[0] <= truth <= bounds[1]
    return held / DRAWS


def of_shares(count: int) -> float:
    """Least coverage of the interval of a share of images."""
    hits = np.arange(count + 1)
    low, high = np.array([share_interval(int(hit), count) for hit in hits]).T
    least = 1.0
    for share in np.linspace(0, 0.5, 101):
        cells = np.stack([hits, count - hits], axis=1)
        held = (low <= share) & (share <= high)
        least = min(least, float(multinomial.pmf(cells, count, [share, 1 - share])[held].sum()))
    return least


def page() -> Iterator[str]:
    """The lines of docs/coverage.md."""
    yield "# How often the intervals hold the truth"
    yield ""
    yield (
        "Made by `python benchmarks/coverage.py --out docs/coverage.md`. A 95 % interval has to "
        "hold the truth in at least 94 % of runs, for any number of images."
    )
    yield ""
    yield "## Paired differences of right and wrong"
    yield ""
    yield (
        "Exact, over 41 shares of images that only one model gets right (0 to 20 %) and six mixes "
        "of lost and won ones. Beside it the paired bootstrap that was used before; width in "
        "points where nothing is lost or won, and where 2 % are lost and 1 % won."
    )
    yield ""
    yield "| images | least coverage | mean | bootstrap: least | mean | width, none | width, 3 % |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for count in COUNTS:
        ours, before = (coverage(one, count) for one in (paired_interval, bootstrap))
        lost, won = tables(count)
        low, high = paired_interval(lost, won, count)
        weights = chances(lost, won, count, 0.03, 1 / 3)
        wide = float((weights * (high - low)).sum() / weights.sum())
        none = float((high - low)[(lost == 0) & (won == 0)][0])
        cells = (min(ours), np.mean(ours), min(before), np.mean(before))
        text = " | ".join(f"{100 * cell:.1f} %" for cell in cells)
        yield f"| {count} | {text} | {100 * none:.1f} | {100 * wide:.1f} |"
    yield ""
    yield "## Verdicts on a method that loses what is published"
    yield ""
    yield "| images | loss, points | images lost or won | differs | cannot tell |"
    yield "| --- | --- | --- | --- | --- |"
    for count in (24, 100, 200, 400, 1000):
        for loss, rate in ((0.005, 0.01), (0.01, 0.04), (0.03, 0.1)):
            differs, cannot = verdicts(count, rate, loss)
            yield (
                f"| {count} | {100 * loss:g} | {100 * rate:g} % | {100 * differs:.1f} % | "
                f"{100 * cannot:.1f} % |"
            )
    yield ""
    yield "## Scores that can be right in part"
    yield ""
    yield (
        f"{DRAWS} draws each (worth half a point); 1, 5 and 20 % of the answers change their score."
    )
    yield ""
    yield "| changes | questions | 1 % | 5 % | 20 % |"
    yield "| --- | --- | --- | --- | --- |"
    for name, (changes, weights) in SCORES.items():
        for count in (5, 24, 100, 300, 1000):
            found = [of_scores(changes, weights, count, rate) for rate in (0.01, 0.05, 0.2)]
            yield f"| {name} | {count} | " + " | ".join(f"{100 * c:.1f} %" for c in found) + " |"
    yield ""
    yield "## Shares of images"
    yield ""
    yield "Exact, least over shares from 0 to 50 %."
    yield ""
    yield "| images | " + " | ".join(map(str, COUNTS)) + " |"
    yield "| --- |" + " --- |" * len(COUNTS)
    yield "| least coverage | " + " | ".join(f"{100 * of_shares(n):.1f} %" for n in COUNTS) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="file to write instead of the terminal")
    out = parser.parse_args().out
    text = "\n".join(page()) + "\n"
    if out is None:
        print(text, end="")
    else:
        out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
