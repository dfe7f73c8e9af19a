"""Weights from Hugging Face's hub: whole and of one commit, or an error that says what to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from asap_eval.errors import WeightsError, reraised
from asap_eval.hub.errors import address, explained
from asap_eval.hub.files import HubFile, commit_of, fetch

WEIGHTS = (".safetensors", ".bin")
"""Endings of files of weights."""


def published_file(repository: str, file: str, what: str, instead: str) -> HubFile:
    """One file of a repository; where the cache has it whole no network is needed.

    Args:
        what: for errors, at the beginning of a sentence, such as "The weights of deit_tiny".
        instead: what to do with a file fetched elsewhere, such as "give it as weights=<file>".

    Raises:
        WeightsError: it cannot be fetched, or comes damaged twice.
    """
    import huggingface_hub

    cached = huggingface_hub.try_to_load_from_cache(repository, file)
    commit = commit_of(Path(cached)) if isinstance(cached, str) else None
    if commit is not None:  # then only a copy that is not whole asks the hub
        what = f"{what} are damaged in the local cache, and"
    with _explaining(repository, what, instead):
        return fetch(repository, file, revision=commit)


def published_folder(
    repository: str, wanted: Callable[[Sequence[str]], list[str]], what: str, instead: str
) -> HubFile:
    """A folder with files of a repository, all of the newest commit; where the hub cannot be asked,
    of the one in the cache.

    Args:
        wanted: picks from the names of all files, without those in folders.
        what, instead: as for `published_file`.

    Raises:
        WeightsError: they cannot be fetched, or come damaged twice.
    """
    with _explaining(repository, what, instead):
        first = fetch(repository, "config.json")
        folder = first.path.parent
        for name in wanted(_names(repository, first.commit, folder)):
            fetch(repository, name, revision=first.commit)
    return HubFile(folder, first.commit)


def _names(repository: str, commit: str, folder: Path) -> list[str]:
    """Names of a commit's files; where the hub cannot be asked, of those in the cache.

    Raises:
        Exception: the hub's client's, where no weights lie in the cache.
    """
    from huggingface_hub import HfApi, constants

    try:
        listed = HfApi(endpoint=constants.ENDPOINT).list_repo_files(repository, revision=commit)
    except MemoryError:
        raise
    except Exception:  # clients of the hub share no base class
        cached = [path.name for path in folder.iterdir() if path.is_file()]
        if not any(name.endswith(WEIGHTS) for name in cached):
            raise
        return cached
    return [name for name in listed if "/" not in name]


def _explaining(repository: str, what: str, instead: str) -> AbstractContextManager[None]:
    """Errors of the hub's clients in our words."""

    def says(error: BaseException) -> str:
        said = explained(error, what, address(repository))
        return f"{said} Or fetch it elsewhere and {instead}."

    return reraised(WeightsError, says)
