"""Models that transformers saved, in a folder or on the hub: opened, checked and loaded whole.

transformers fills what a checkpoint lacks with random values and leaves out what it does not know;
here either is an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from asap_eval.checkpoint import check_safetensors, read_checkpoint
from asap_eval.errors import WeightsError, first_line, reraised
from asap_eval.files.digests import file_sha256, files_sha256
from asap_eval.models.published import published_folder
from asap_eval.models.weights import WeightsInfo, misfit

SETUP = (
    *("config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json"),
)
"""What stands beside the weights and is read: shape, tokenizer, processor, prompts."""

_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")
"""What a tokenizer is made from; one of them has to be there."""

_FORMATS = ("model.safetensors", "pytorch_model.bin")
"""Whole weights, or listed in parts in ``<name>.index.json``; the first that is there counts."""

COPY = (
    "Copy the files of the model's repository beside the weights: tokenizer*.json, "
    "*processor_config.json, chat_template*."
)
"""What to do where one of them is missing."""

_QUANTISED = ("quantization_config", "quantize_config.json", "quant_config.json")
"""Signs of quantised weights: an entry of the configuration, or a file of GPTQ's or AWQ's tools."""


@dataclass(frozen=True)
class Pretrained:
    """A folder that transformers can load.

    Attributes:
        folder: where it is; the hub's lie in its cache. name: ``hub:<repository>``, or the path.
        commit: of the hub's, "" = of no hub. config: its ``config.json``.
        weights: files of the weights, all there.
    """

    folder: Path
    name: str
    commit: str
    config: Mapping[str, Any]
    weights: tuple[Path, ...]

    def state(self) -> dict[str, Tensor]:
        """All tensors by the names they have in the files."""
        return {
            key: value for path in self.weights for key, value in read_checkpoint(path)[0].items()
        }

    def info(self, *, setup: bool) -> WeightsInfo:
        """Which weights these are.

        Args:
            setup: whether configuration, tokenizer and processor are read, too, and are hashed.
        """
        beside = [self.folder / name for name in SETUP if setup and (self.folder / name).is_file()]
        files = [*self.weights, *beside]
        digest = file_sha256(files[0]) if len(files) == 1 else files_sha256(files)
        return WeightsInfo(self.name, digest, trained=True, commit=self.commit)


def open_pretrained(place: str | Path, what: str, instead: str) -> Pretrained:
    """A folder as ``save_pretrained`` writes it, or such a repository of the hub.

    Args:
        what: the model, for errors. instead: what to do with it when it was fetched elsewhere,
            such as "give its folder as weights=<folder>".

    Raises:
        WeightsError: it is not there, cannot be fetched, is quantised or lacks a file.
    """
    if Path(place).expanduser().is_dir():
        return open_folder(place)
    found = published_folder(str(place), _wanted, f"The weights of {what}", instead)
    return _opened(found.path, f"hub:{place}", found.commit)


def open_folder(place: str | Path) -> Pretrained:
    """A folder as ``save_pretrained`` writes it.

    Raises:
        WeightsError: it is not there, is quantised or lacks a file.
    """
    return _opened(Path(place).expanduser(), str(place), "")


def _opened(folder: Path, name: str, commit: str) -> Pretrained:
    config = _config(folder, name)
    present = [path.name for path in folder.iterdir()]
    _check_unquantised(config, present, name)
    weights = tuple(folder / file for file in _weights(present, folder, name))
    for path in weights:
        if path.suffix == ".safetensors":
            check_safetensors(path, "weights")
    return Pretrained(folder, name, commit, config, weights)


def load_whole(kind: Any, given: Pretrained, **options: Any) -> Any:
    """A model whose parameters all come from the files, and that takes all that is in the files.

    transformers' own renames of old keys and its tied weights are no gaps.

    Args:
        kind: a class of transformers with ``from_pretrained``. options: for it.

    Raises:
        WeightsError: keys are missing, unexpected or of another shape, or nothing can be read.
    """

    def refused(error: BaseException) -> str:
        return f"{given.name} cannot be loaded ({first_line(error)})."

    with reraised(WeightsError, refused), _quiet():
        model, report = kind.from_pretrained(
            given.folder,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, with all the others
            **options,
        )
    shapes = [
        f"{key} {list(found)} instead of {list(wanted)}"
        for key, found, wanted in sorted(report["mismatched_keys"])
    ]
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if missing or unexpected or shapes:
        raise misfit(given.name, missing, unexpected, shapes)
    return model


def load_beside(kind: Any, given: Pretrained, noun: str, *, words: bool = False) -> Any:
    """A configuration, tokenizer or processor from beside the weights.

    Args:
        noun: what it is, for errors. words: whether it reads texts.

    Raises:
        WeightsError: it is not there, or cannot be read.
    """
    if words:
        _check_tokenizer(given)

    def refused(error: BaseException) -> str:
        return f"{given.name} has no {noun} that can be read ({first_line(error)}). {COPY}"

    with reraised(WeightsError, refused):
        return kind.from_pretrained(given.folder, local_files_only=True)


def _check_tokenizer(given: Pretrained) -> None:
    """Refuse a folder without the tokenizer's files.

    transformers would make a tokenizer all the same, which splits texts otherwise or knows no word.
    """
    if not any((given.folder / name).is_file() for name in _VOCABULARIES):
        raise WeightsError(
            f"{given.name} has no vocabulary: none of {', '.join(_VOCABULARIES)}. {COPY}"
        )
    if not (given.folder / "tokenizer_config.json").is_file():
        raise WeightsError(f"{given.name} has no tokenizer_config.json. {COPY}")


def _config(folder: Path, name: str) -> Mapping[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise WeightsError(
            f"weights={name} is no folder with a config.json. Give what save_pretrained wrote: "
            "configuration, safetensors and processor."
        ) from error
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder / 'config.json'} cannot be read ({error}).") from error
    if not isinstance(config, dict):
        raise WeightsError(f"{folder / 'config.json'} is no configuration of a model.")
    return config


def _check_unquantised(config: Mapping[str, Any], present: Sequence[str], name: str) -> None:
    """Refuse weights that are not what the model computes with."""
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    said = [part[key] for part in parts for key in _QUANTISED if part.get(key)]
    files = [file for file in _QUANTISED if file in present]
    if said or files:
        how = said[0].get("quant_method") if said and isinstance(said[0], dict) else None
        raise WeightsError(
            f"{name} is quantised ({how or 'its files say so'}): give the checkpoint in 16 or 32 "
            "bit that it was made from."
        )


def _wanted(names: Sequence[str]) -> list[str]:
    """Which of a repository's files are read; the weights in one format only."""
    setup = [name for name in names if name in SETUP or name in _QUANTISED]
    for whole in _FORMATS:
        stem, ending = whole.split(".")
        parts = [name for name in names if name.startswith(f"{stem}-") and name.endswith(ending)]
        if whole in names:
            return [*setup, whole]
        if f"{whole}.index.json" in names:
            return [*setup, f"{whole}.index.json", *parts]
    return setup


def _weights(present: Sequence[str], folder: Path, name: str) -> list[str]:
    """Files of the weights in a folder, as transformers picks them."""
    for whole in _FORMATS:
        if whole in present:
            return [whole]
        if (index := f"{whole}.index.json") in present:
            parts = sorted(set(_parts(folder / index)))
            if lacking := [part for part in parts if part not in present]:
                raise WeightsError(
                    f"{name} lacks {lacking[0]}, one of {len(parts)} files that {index} lists. "
                    "Fetch it again."
                )
            return parts
    raise WeightsError(
        f"{name} has no weights: neither {' nor '.join(_FORMATS)}, whole or in parts."
    )


def _parts(index: Path) -> list[str]:
    try:
        return list(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{index} is no index of weights ({error}).") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' page on keys that do not fit: our error is one line."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
