"""What scores know of a patch's worth: their AUC against a leave-one-out drop of the logit.

    python benchmarks/patch_importance.py --data imagenet/val --weights deit_tiny.safetensors

Of each image every patch is left out once: its token is removed after the embedding (patch and
position), before block 1, and all other tokens run through the unpruned model. The patch is worth
the fall of a logit: of the image's class (``label``), or of the class that the whole image gets
(``predicted``); ``size`` is how far the label's logit moves, up or down. Within an image each score
is then held against that worth: AUC of telling the quarter of patches worth most from the others
(0.5 = chance, 0 = exactly the wrong way round), and Spearman's rho. Means over images, with 95 %
intervals from a bootstrap over images: percentiles of 10 000 means, the same draws for all scores.

Scores after each block, larger = worth more: ``distance`` to the sink as ASAP takes it, ``moved``
the same in the walk without (1 - alpha)^l I, ``corner`` to the top left patch instead of the sink;
``cls_attention`` and ``mass``, the class token's row and the column sums of A_l; ``walk_mass``,
column sums of C_l; ``key_norm``, L2 norm of the keys, mean over heads. Scores of an image: a
``random`` one, minus the distance to the image's ``centre``, and what a ``place`` is worth in the
other images (mean rank of its worth): what position alone knows.

Leaving out is nearly all of the work: 196 passes an image. ``--kept`` names a file that holds each
finished image's worth, so that a run goes on where another stopped, and more images (of which those
of a divisor of ``--limit`` are a part) cost the new ones alone.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import contenders
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors import safe_open
from torch import Tensor, nn

import asap_eval.bench.walk.random_walk as walk
from asap_eval.data.images import image_batches, images_of
from asap_eval.errors import BadValueError
from asap_eval.files.tensors import save_tensors
from asap_eval.hosts import geometry_of, install
from asap_eval.method import Batch, Need, Reducer, View
from asap_eval.models import load_model
from asap_eval.timing.speed import backend
from asap_eval.tokens import Reduction

ALPHA = 0.5
"""Share of attention in a step of the walk: ASAP's default."""
SHARE = 0.25
"""Of the patches that count as important."""
DRAWS = 10_000
LOGITS = ("label", "predicted")
ONCE = ("random", "centre", "place")
"""Scores that no block changes."""


class LeaveOut(Reducer):
    """Removes one patch of each image, after the embedding.

    Attributes:
        patches: ``[B]`` patch of each image, from 0 without the prefix.
    """

    name = "leave_out"
    site = "before"

    def __init__(self, patches: Tensor) -> None:
        self.patches = patches

    def watch(self, block: int, state: Any) -> bool:
        return block == 1

    def decide(self, view: View, state: Any) -> Reduction:
        gone = view.prefix + self.patches.to(view.size.device)
        return Reduction.keep((view.size > 0).scatter(1, gone[view.images, None], False))


class Scores(Reducer):
    """Removes nothing, and notes scores ``[B, P]`` as ``<name> <block>``, and ``random``."""

    name = "scores"
    requires_cls = True

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.ATTENTION, Need.KEYS})

    def begin(self, batch: Batch) -> dict[str, Any]:
        drawn = [
            torch.rand(batch.patches, generator=batch.generator(image, self.name))
            for image in range(batch.count)
        ]
        chain = walk.start(batch.count, batch.tokens, batch.device)
        return {"chain": chain, "random": torch.stack(drawn)}

    def watch(self, block: int, state: dict[str, Any]) -> bool:
        return True

    def decide(self, view: View, state: dict[str, Any]) -> None:
        attention, prefix = view.attention.float(), view.prefix
        if view.block == 1:
            view.note("random", view.images, state["random"])
        state["chain"] = chain = walk.step(state["chain"], attention, ALPHA, "walk")
        still = (1 - ALPHA) ** view.block * torch.eye(chain.shape[1], device=chain.device)
        sink = chain[:, 0, prefix:].argmax(1)
        found = {
            "distance": walk.distances(chain, sink, prefix),
            "moved": walk.distances(chain - still, sink, prefix),
            "corner": walk.distances(chain, torch.zeros_like(sink), prefix),
            "cls_attention": attention[:, 0, prefix:],
            "mass": attention.sum(1)[:, prefix:],
            "walk_mass": walk.column_mass(chain)[:, prefix:],
            "key_norm": view.keys.float().norm(dim=3).mean(1)[:, prefix:],
        }
        for name, values in found.items():
            view.note(f"{name} {view.block}", view.images, values)


@dataclass
class Ranked:
    """What was found of some images, in their order.

    Attributes:
        ids: of the images. scores: ``[n, P]`` by name. worth: ``[n, P]`` by target.
    """

    ids: list[str]
    scores: dict[str, Tensor]
    worth: dict[str, Tensor]


@torch.no_grad()
def worth(model: nn.Module, picture: Tensor, classes: Tensor, patches: int, size: int) -> Tensor:
    """``[len(classes), P]`` how far each class's logit falls where a patch is left out.

    Args:
        picture: ``[3, H, W]``. classes: ``[n]``. size: sequences that run together.
    """
    whole = model(picture[None])[0, classes]  # [n]
    parts = []
    for left_out in torch.arange(patches).split(size):
        with install(model, LeaveOut(left_out)):
            parts.append(model(picture.expand(len(left_out), -1, -1, -1))[:, classes])
    return (whole - torch.cat(parts)).T.cpu()


@torch.no_grad()
def ranked(
    model: nn.Module,
    pixels: Tensor,
    ids: list[str],
    labels: Tensor,
    *,
    size: int = 49,
    kept: Kept | None = None,
) -> Ranked:
    """Scores and worth of every patch of images ``[B, 3, H, W]``, whose classes are ``[B]``."""
    with install(model, Scores()) as trace:
        trace.name_images(ids)
        predicted = model(pixels).argmax(1).cpu()
    scores = {name: values.cpu() for name, values in trace.notes.items()}
    patches = trace.source.shape[1]
    scores["centre"] = -_from_centre(geometry_of(model).grid).expand(len(ids), -1)
    kept = kept or Kept()
    found = []
    for image, name in enumerate(ids):
        classes = torch.stack([labels[image], predicted[image]])
        make = partial(worth, model, pixels[image], classes, patches, size)
        seen = hashlib.sha256(pixels[image].float().cpu().numpy().tobytes()).hexdigest()
        found.append(kept.of(f"{name} {classes.tolist()} {seen}", make))
    return Ranked(ids, scores, dict(zip(LOGITS, torch.stack(found, 1), strict=True)))


class Kept:
    """What patches of finished images are worth, ``[2, P]`` by image and classes; in a file, if
    one is named."""

    def __init__(self, path: Path | None = None, model: str = "") -> None:
        """
        Args:
            model: what the numbers depend on, in words; a file of another is refused.
        """
        self.path, self.notes = path, {"model": model}
        self.found: dict[str, Tensor] = {}
        if path is None or not path.exists():
            return
        with safe_open(path, "pt") as file:
            if file.metadata() != self.notes:
                raise BadValueError(
                    f"--kept {path} is of {file.metadata()}, this run of {self.notes}: "
                    "name another file."
                )
            self.found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def of(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """The image's, made and kept where it is not there."""
        if name not in self.found:
            self.found[name] = make()
            if self.path is not None:
                save_tensors(self.found, self.path, self.notes)
        return self.found[name]


def _from_centre(grid: tuple[int, int]) -> Tensor:
    """``[P]`` distance of each patch from the middle of the grid, in patches."""
    rows, columns = (torch.arange(n).double() - (n - 1) / 2 for n in grid)
    return torch.hypot(rows[:, None], columns[None]).flatten()


def joined(parts: list[Ranked]) -> Ranked:
    """Of all images, with the worth ``size``, and what position alone knows: ``place`` for each
    target is in ``scores`` as ``place <target>``."""
    scores = {name: torch.cat([part.scores[name] for part in parts]) for name in parts[0].scores}
    worths = {name: torch.cat([part.worth[name] for part in parts]) for name in LOGITS}
    worths["size"] = worths["label"].abs()
    for name, values in worths.items():
        ranks = walk.ranks(values)
        scores[f"place {name}"] = (ranks.sum(0) - ranks) / max(1, len(ranks) - 1)
    return Ranked([i for part in parts for i in part.ids], scores, worths)


def auc(scores: Tensor, important: Tensor) -> Tensor:
    """``[n]`` share of pairs of an important and another patch that the scores order rightly.

    Equal scores count half: Mann and Whitney's statistic, from ranks.

    Args:
        scores: ``[n, P]``. important: ``[n, P]`` bool, some of each kind in every row.
    """
    count = important.sum(1)
    least = count * (count + 1) / 2
    total = (walk.ranks(scores) * important).sum(1)
    return (total - least) / (count * (important.shape[1] - count))


def most(values: Tensor) -> Tensor:
    """``[n, P]`` bool: the `SHARE` of patches worth most in each row; equals in image order."""
    count = round(SHARE * values.shape[1])
    order = values.argsort(dim=1, descending=True, stable=True)
    return torch.zeros_like(values, dtype=torch.bool).scatter(1, order[:, :count], True)


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of ``values [n]``, drawn from a fixed seed."""
    drawn = np.random.default_rng(0).integers(len(values), size=(DRAWS, len(values)))
    low, high = np.percentile(values[drawn].mean(1), [2.5, 97.5])
    return float(low), float(high)


def summary(found: Ranked, depth: int) -> dict[str, Any]:
    """Of every target: ``{score: [{block auc auc_ci95 spearman spearman_ci95}]}``, block None for
    scores that have none, and how large the falls are."""
    blocks = {name.rpartition(" ")[0] for name in found.scores if name[-1].isdigit()}
    return {
        target: {
            "mean_fall": float(values.mean()),
            "mean_sd_in_image": float(values.std(1).mean()),
            "share_that_falls": float((values > 0).double().mean()),
            "scores": {
                **{
                    name: [
                        {"block": block} | _held(found.scores[f"{name} {block}"], values)
                        for block in range(1, depth + 1)
                    ]
                    for name in sorted(blocks)
                },
                **{
                    name: [
                        {"block": None}
                        | _held(
                            found.scores[name if name != "place" else f"place {target}"], values
                        )
                    ]
                    for name in ONCE
                },
            },
        }
        for target, values in found.worth.items()
    }


def _held(scores: Tensor, values: Tensor) -> dict[str, Any]:
    """One score against one worth, both ``[n, P]``."""
    measured = {
        "auc": auc(scores, most(values)),
        "spearman": walk.rank_correlation(scores.double(), values.double()),
    }
    row: dict[str, Any] = {}
    for name, per_image in measured.items():
        row[name] = round(float(per_image.mean()), 4)
        row[f"{name}_ci95"] = [round(end, 4) for end in interval(per_image.numpy())]
    return row


def main() -> None:
    options = _options()
    if options.limit < 2:
        raise BadValueError(f"--limit {options.limit}: an interval needs at least 2 images.")
    loaded = load_model(
        options.model, weights=options.weights, device=options.device, dtype=options.dtype
    )
    images = images_of(loaded, options.data, limit=options.limit, sample="spread")
    first = next(loaded.model.parameters())
    depth = geometry_of(loaded.model).depth
    kept = Kept(options.kept, f"{loaded.name} {loaded.weights.sha256} {options.dtype}")
    parts, machine = [], {}
    for batch in image_batches(images, loaded.transform, 10):
        if batch.failures or None in batch.labels:
            raise BadValueError(
                f"{sorted(batch.failures.values()) or batch.labels}: every image has to be "
                "readable and labelled; mend or drop those."
            )
        pixels = batch.pixels.to(first.device, first.dtype)
        labels = torch.tensor(batch.labels)
        parts.append(ranked(loaded.model, pixels, batch.ids, labels, size=options.size, kept=kept))
        machine = backend(pixels[:1].expand(options.size, -1, -1, -1))
        print(f"{sum(len(part.ids) for part in parts)} of {len(images)}", file=sys.stderr)
    found = joined(parts)
    report = {
        "model": loaded.name,
        "images": len(found.ids),
        "images_sha256": images.digest,
        "patches": next(iter(found.worth.values())).shape[1],
        "important": int(most(found.worth["label"])[0].sum()),
        "targets": summary(found, depth),
        "machine": machine,
    }
    _print(report["targets"])
    print(contenders.write(report, options, "patch_importance"))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True, help="folder with a folder per class")
    parser.add_argument("--weights", help="file with the model's weights; timm's hub without it")
    parser.add_argument("--model", default="deit_tiny")
    parser.add_argument("--limit", type=int, default=100, help="images, spread over the folder")
    parser.add_argument("--size", type=int, default=49, help="sequences that run together")
    parser.add_argument("--kept", type=Path, help="file that finished images go to and come from")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--out", type=Path, help="JSON file; one beside the script without it")
    return parser.parse_args()


def _print(targets: dict[str, Any]) -> None:
    for target, measured in targets.items():
        table = Table("score", "block", "AUC [95 %]", "Spearman [95 %]", title=target)
        for name, rows in measured["scores"].items():
            for row in rows:
                table.add_row(name, str(row["block"] or ""), *_cells(row))
        Console().print(table)


def _cells(row: dict[str, Any]) -> Iterator[str]:
    for name in ("auc", "spearman"):
        low, high = row[f"{name}_ci95"]
        yield f"{row[name]:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
