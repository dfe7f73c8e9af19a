"""Weights of a model: fit strictly, hashed, and what of a checkpoint is not the model's."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asap_eval.checkpoint import read_checkpoint
from asap_eval.errors import WeightsError, some_of
from asap_eval.files.digests import file_sha256

PREDICTORS = "score_predictor."
"""Keys of DynamicViT's predictors, which its authors save with the backbone: a method reads them
from the same file, no model has them."""

_SHOWN, _MORE = 5, " and {} more"
"""Keys named in an error before "and n more"."""


@dataclass(frozen=True)
class WeightsInfo:
    """Which weights a model has.

    Attributes:
        name: path of the file, ``hub:<repo>/<file>``, ``bundled:<file>`` or ``random:seed=0``.
        sha256: of the file, or of all files of a folder that are read; of the tensors
            (`tensors_sha256`) where there is none.
        trained: False for random initialisation.
        entry: key of the checkpoint the weights were nested under, "" = none.
        head_sha256: of the file of a zero-shot head, "" = none.
        left_out: what of the file is knowingly not loaded into the model, "" = nothing.
        commit: of the hub's repository, "" = not from a hub.
        resampled: what of the file was brought to another image size, "" = nothing.
    """

    name: str
    sha256: str
    trained: bool
    entry: str = ""
    head_sha256: str = ""
    left_out: str = ""
    commit: str = ""
    resampled: str = ""


def load_weights(model: nn.Module, path: Path, name: str, *, resize: bool = False) -> WeightsInfo:
    """Fill a model from a file; every key and shape must fit, values take the model's dtype.

    Token predictors saved with a backbone are left out, and the result says so.

    Args:
        resize: whether position embeddings of another image size are resampled, as timm does.
    """
    state, entry = read_checkpoint(path)
    own = {key: value for key, value in state.items() if not key.startswith(PREDICTORS)}
    count = len(state) - len(own)
    left_out = f"{count} tensors of token predictors ({PREDICTORS}*)" if count else ""
    own, inside, rest = _unwrapped(own, model, name)
    if rest:
        left_out = f"{len(rest)} tensors beside {inside}* ({some_of(rest, _SHOWN, _MORE)})"
    resampled = _resample(own, model) if resize else ""
    fit(model, own, name)
    return WeightsInfo(
        name,
        file_sha256(path),
        trained=True,
        entry=".".join(part for part in (entry, inside.rstrip(".")) if part),
        left_out=left_out,
        resampled=resampled,
    )


def _unwrapped(
    state: dict[str, Tensor], model: nn.Module, name: str
) -> tuple[dict[str, Tensor], str, list[str]]:
    """The model's own tensors, what stood before their names, and the names of all others.

    Training frameworks keep a model as an attribute of something larger (Lightning: ``model.`` or
    whatever the module calls it), beside losses and averaged copies. An averaged copy wins, as in
    timm.

    Raises:
        WeightsError: several copies that are not told apart.
    """
    wanted = set(model.state_dict())
    if wanted & set(state):
        return state, "", []
    some = next(iter(wanted))
    found = [key.removesuffix(some) for key in state if key.endswith(f".{some}")]
    found = [before for before in found if all(f"{before}{key}" in state for key in wanted)]
    averaged = [before for before in found if "ema" in before]
    if not found:
        return state, "", []
    if len(found) > 1 and len(averaged) != 1:
        raise WeightsError(
            f"The weights {name} hold {len(found)} models of this kind ({', '.join(found)}): save "
            "one of them alone, torch.save(model.state_dict(), file)."
        )
    before = averaged[0] if averaged else found[0]
    own = {key.removeprefix(before): state[key] for key in state if key.startswith(before)}
    return own, before, [key for key in state if not key.startswith(before)]


def _resample(state: dict[str, Tensor], model: nn.Module) -> str:
    """Bring position embeddings ``[1, N, D]`` to the model's grid; says what was done, or ""."""
    from timm.layers import resample_abs_pos_embed

    given, own = state.get("pos_embed"), getattr(model, "pos_embed", None)
    grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if given is None or own is None or grid is None or given.shape[2:] != own.shape[2:]:
        return ""  # fitting says what is wrong
    side = _side(model, given)
    if side is None or (side, side) == tuple(grid):
        return ""
    if given.shape == own.shape:
        raise WeightsError(
            f"The position embeddings are as many for {side} x {side} as for {grid[0]} x {grid[1]} "
            "patches, and a file does not say for which: give a model.img_size with another number "
            "of patches, or leave it out."
        )
    state["pos_embed"] = resample_abs_pos_embed(
        given, list(grid), [side, side], num_prefix_tokens=_prefix(model)
    )
    return f"position embeddings from {side} x {side} to {grid[0]} x {grid[1]} patches"


def _prefix(model: nn.Module) -> int:
    """Tokens before the patches that have position embeddings."""
    tokens: Any = getattr(model, "num_prefix_tokens", 1)
    return 0 if getattr(model, "no_embed_class", False) else int(tokens)


def _side(model: nn.Module, embeddings: Tensor) -> int | None:
    """Patches of a side in position embeddings ``[1, N, D]``; None where they are no square."""
    patches = embeddings.shape[1] - _prefix(model)
    side = math.isqrt(max(patches, 0))
    return side if side * side == patches else None


def fit(model: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Load a state dict strictly; the error names the first keys that do not fit."""
    own = model.state_dict()
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    shapes = [
        f"{key} {list(state[key].shape)} instead of {list(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    kinds = [
        f"{key} {state[key].dtype} instead of {own[key].dtype}"
        for key in own
        if key in state and state[key].is_floating_point() != own[key].is_floating_point()
    ]
    if missing or unexpected or shapes or kinds:
        raise misfit(name, missing, unexpected, shapes, kinds, instead=_hint(model, state))
    model.load_state_dict(dict(state), strict=True)


def misfit(
    name: str,
    missing: Sequence[str],
    unexpected: Sequence[str],
    shapes: Sequence[str] = (),
    kinds: Sequence[str] = (),
    instead: str = "",
) -> WeightsError:
    """The error for weights that leave a gap in a model or have no place in it.

    Args:
        missing, unexpected: keys. shapes, kinds: keys with both shapes, or types, in words.
        instead: what to do, where it is known.
    """
    faults = {
        "missing": missing,
        "unexpected": unexpected,
        "of another shape": shapes,
        "of another type": kinds,
    }
    found = [
        f"{len(keys)} {fault}: {some_of(keys, _SHOWN, _MORE)}"
        for fault, keys in faults.items()
        if keys
    ]
    return WeightsError(
        f"The weights {name} do not fit the model. Keys {'; '.join(found)}. "
        + (instead or "Check that `model=` names the architecture these weights were trained for.")
    )


def _hint(model: nn.Module, state: Mapping[str, Tensor]) -> str:
    """What to do where only the number of classes, or the size of the images, is another."""
    own = model.state_dict()
    if set(own) != set(state):
        return ""
    other = {key for key in own if own[key].shape != state[key].shape}
    heads = {f"{head}.{kind}" for head in ("head", "head_dist") for kind in ("weight", "bias")}
    said = []
    if other & heads and (rows := state.get("head.bias", state.get("head.weight"))) is not None:
        said.append(f"model.num_classes={len(rows)}")
    if "pos_embed" in other and state["pos_embed"].shape[2:] == own["pos_embed"].shape[2:]:
        patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
        side = _side(model, state["pos_embed"])
        if patch and side:
            said.append(f"model.img_size={side * patch[0]}")
    if not said or other - heads - {"pos_embed"}:
        return ""
    return f"They were trained for another number of classes or size: add {' '.join(said)}."


def tensors_sha256(model: nn.Module) -> str:
    """Hex digest over names, dtypes, shapes and values of a model's state dict."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(f"{key} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
