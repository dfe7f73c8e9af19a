"""The closed form of work at full size beside the paper's figures, without weights.

    python benchmarks/llm_ledger.py

The 7B models are built whole on the meta device: every shape, no memory. The paper's Table 9 prints
operations (2 x MACs) for LLaVA-NeXT at three numbers of image tokens; it says neither how long its
prompts were nor whether the tower is in them. The ledger's range runs from the language model alone
with no text to the whole model (tower of five unpruned crops, projector, language model) with 60
tokens of text, about what LLaVA's prompt has on POPE. A figure inside it fits; for one above, the
fewest image tokens that would reach it are printed, for one below, the most that would not pass it.
"""

from __future__ import annotations

import argparse
import json
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

import asap_eval  # noqa: F401  (its first import decides the order of the others)
from asap_eval.hosts import LlavaGeometry, llava_geometry
from asap_eval.models import model_specs
from asap_eval.models.vlm import shape_of
from asap_eval.work.language import unpruned_prefill

MODELS = ("llava15_7b", "llava_next_7b")

PUBLISHED = [
    ("LLaVA-NeXT", 2880, 43.6),
    ("+ ASAP Pooling", 1050, 20.1),
    ("+ ASAP Stage 2", 160, 3.8),
]
"""Table 9: row, image tokens (a mean in the second), operations in T."""

TEXT = 60
"""Tokens beside the image's: system sentence, question and instruction."""

CROPS = 5
ROUNDING = 0.05
"""Half of the last printed digit."""


@dataclass(frozen=True)
class Line:
    """One published figure; operations in T.

    Attributes:
        alone: the language model with no text. whole: tower, projector and language model with no
            text. most: the same with `TEXT` tokens. needed: of a figure above the range the fewest
            image tokens whose ``most`` reaches it, of one below the most whose ``alone`` does not
            pass it; None where it fits.
    """

    row: str
    image_tokens: int
    published: float
    alone: float
    whole: float
    most: float
    needed: int | None

    @property
    def verdict(self) -> str:
        if self.needed is None:
            return "fits"
        side = "more" if self.published > self.most else "fewer"
        return f"does not fit: it takes {self.needed} image tokens or {side}"


def line_of(geometry: LlavaGeometry, row: str, tokens: int, published: float) -> Line:
    """One published figure beside the ledger's."""
    ledger = unpruned_prefill(geometry, tokens, 0, CROPS)
    alone, whole = (2 * float(part) / 1e12 for part in (ledger.prefill, ledger.total))
    most, needed = _most(geometry, tokens), None
    if published > most + ROUNDING:
        needed = _first(lambda n: _most(geometry, n) >= published)
    elif published < alone - ROUNDING:
        needed = _first(lambda n: _alone(geometry, n) > published) - 1
    return Line(row, tokens, published, alone, whole, most, needed)


def lines(geometry: LlavaGeometry) -> list[Line]:
    """The published figures beside the ledger's."""
    return [line_of(geometry, *figure) for figure in PUBLISHED]


def _alone(geometry: LlavaGeometry, tokens: int) -> float:
    return 2 * float(unpruned_prefill(geometry, tokens, 0, CROPS).prefill) / 1e12


def _most(geometry: LlavaGeometry, tokens: int) -> float:
    return 2 * float(unpruned_prefill(geometry, tokens, TEXT, CROPS).total) / 1e12


def _first(reached: Callable[[int], bool]) -> int:
    """Fewest image tokens at which something that grows with them is reached."""
    return bisect_left(range(10_000), True, key=reached)


def sizes(name: str) -> dict[str, float]:
    """Parameters in billions, GB of them in fp16, MB of the cache per token in fp16."""
    model = shape_of(model_specs()[name])
    count = sum(p.numel() for p in model.parameters())
    text = model.config.text_config
    width = text.num_key_value_heads * (text.hidden_size // text.num_attention_heads)
    cache = 2 * text.num_hidden_layers * width * 2
    return {"parameters_b": count / 1e9, "fp16_gb": 2 * count / 1e9, "cache_mb": cache / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=None, help="JSON file")
    out = parser.parse_args().out
    report = {"models": {name: sizes(name) for name in MODELS}}
    found = lines(llava_geometry(shape_of(model_specs()["llava_next_7b"])))
    table = Table(
        *("row of Table 9", "image tokens", "published T", "language model alone"),
        *("whole, no text", f"whole, {TEXT} tokens of text", "verdict"),
        title="Operations to the first logits (2 x MACs), LLaVA-NeXT 7B",
    )
    for line in found:
        numbers = (line.published, line.alone, line.whole, line.most)
        table.add_row(
            line.row, str(line.image_tokens), *(f"{n:.2f}" for n in numbers), line.verdict
        )
    console = Console(width=140)
    for name, size in report["models"].items():
        console.print(
            f"{name}: {size['parameters_b']:.3f} B parameters, {size['fp16_gb']:.2f} GB in fp16, "
            f"{size['cache_mb']:.3f} MB of cache per token"
        )
    console.print(table)
    if out is not None:
        rows = [asdict(line) | {"verdict": line.verdict} for line in found]
        out.write_text(json.dumps(report | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
