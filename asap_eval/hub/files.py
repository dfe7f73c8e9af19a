"""Files of Hugging Face's hub as the hub has them.

Its client keeps each file under the hash that the hub gives for it: sha256 of a large file, git's
sha1 of a small one. It looks at the length of what arrives and never at the hash, and takes what is
in its cache as it finds it. Here both are held against the hash, and a file that is another is
fetched again.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from asap_eval.files.digests import file_sha256
from asap_eval.hub.errors import DamagedFileError, Kind


@dataclass(frozen=True)
class HubFile:
    """A file of a repository.

    Attributes:
        path: in the local cache. commit: of the repository that it is of.
    """

    path: Path
    commit: str


def fetch(
    repository: str,
    file: str,
    kind: Kind = "model",
    revision: str | None = None,
    *,
    again: bool = False,
) -> HubFile:
    """A file of the hub, from the local cache where it is there whole.

    Args:
        revision: a commit, branch or tag; None = the main branch, of which the hub is asked, or
            the cache where it cannot be. again: do not take the copy that is there.

    Raises:
        DamagedFileError: what arrives is not what the hub says it has.
        Exception: whatever the hub's client raises; see `hub.explained`.
    """
    path, fault = _once(repository, file, kind, revision, again=again)
    if path is None or fault:
        path, fault = _once(repository, file, kind, revision, again=True)
    if path is None or fault:
        raise DamagedFileError(f"{file} came {fault}, twice")
    return HubFile(path, commit_of(path))


@dataclass(frozen=True)
class Place:
    """Where a file of a data set lies on the hub; ``revision`` None = its main branch."""

    repository: str
    file: str
    revision: str | None


def parts_of(url: str) -> Place | None:
    """What the address of a data set's file means; None = it is no such address.

    Args:
        url: ``hf://datasets/<repository>[@<revision>]/<file>``, or as a browser shows it.
    """
    from huggingface_hub import constants

    pages = f"{re.escape(constants.ENDPOINT)}/datasets"
    for form in (
        r"hf://datasets/(?P<repository>[^@]+)@(?P<revision>[^/]+)/(?P<file>[^@]+)",
        r"hf://datasets/(?P<repository>[^/@]+/[^/@]+)(?P<revision>)/(?P<file>[^@]+)",
        rf"{pages}/(?P<repository>[^?]+)/resolve/(?P<revision>[^/?]+)/(?P<file>[^?]+).*",
    ):
        if (found := re.fullmatch(form, url)) is not None:
            revision = unquote(found["revision"]) or None
            web = url.startswith(constants.ENDPOINT)
            file = unquote(found["file"]) if web else found["file"]
            return Place(found["repository"], file, revision)
    return None


def _once(
    repository: str, file: str, kind: Kind, revision: str | None, *, again: bool
) -> tuple[Path | None, str]:
    """The file, and what is wrong with it: nothing, or a few words."""
    import huggingface_hub

    try:
        found = huggingface_hub.hf_hub_download(
            repository, file, repo_type=kind, revision=revision, force_download=again
        )
    except OSError as error:
        if "Consistency check failed" not in str(error):
            raise
        return None, "cut off"
    path = Path(found)
    hub_hash = _hash_of_hub(path)
    if hub_hash is None or hub_hash == (_git_sha1 if len(hub_hash) == 40 else file_sha256)(path):
        return path, ""
    return path, f"with another hash than the hub's, {hub_hash[:12]}…"


def _hash_of_hub(path: Path) -> str | None:
    """The hash under which the cache keeps a file; None where it keeps copies without one (file
    systems that have no links)."""
    name = Path(os.readlink(path)).name if path.is_symlink() else ""
    return name if re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{40}", name) else None


def _git_sha1(path: Path) -> str:
    """The hash of a file that lies in git itself, which large ones do not."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def commit_of(path: Path) -> str:
    """The commit in the path of a cached file: ``.../snapshots/<commit>/<file>``."""
    parts = path.parts
    return parts[len(parts) - 1 - parts[::-1].index("snapshots") + 1]
