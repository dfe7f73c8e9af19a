"""Local copies of files of the hub or another server: fetched once, kept as they were sent.

The name of a server's copy holds its sha256; a copy that has another by now is fetched again.
"""

from __future__ import annotations

import re
import shutil
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from http.client import HTTPException, IncompleteRead
from pathlib import Path

from asap_eval.errors import DataError, reraised
from asap_eval.files.digests import file_sha256
from asap_eval.files.placed import part_of, put
from asap_eval.hub import errors as hub
from asap_eval.hub import files as hub_files

TIMEOUT = 60
"""Seconds without a byte after which a server is given up."""


@dataclass(frozen=True)
class Fetched:
    """A local copy.

    Attributes:
        url: where it is from: http, https, file, ``hf://datasets/<repository>@<revision>/<file>``.
        path: of this disk. commits: of the hub's repository, by its name; {} = another server.
    """

    url: str
    path: Path
    commits: Mapping[str, str] = field(default_factory=dict)


def fetch_all(urls: Sequence[str]) -> Iterator[Fetched]:
    """Local copies of files; those of one revision of the hub are of one commit.

    Raises:
        DataError: a file cannot be fetched, or does not arrive whole.
    """
    commits: dict[tuple[str, str | None], str] = {}
    for url in urls:
        place = hub_files.parts_of(url)
        if place is None:
            yield _of_server(url, again=False)
            continue
        asked = place.repository, place.revision
        found = _of_hub(url, place, commits.get(asked, place.revision), again=False)
        commits[asked] = found.commits[place.repository]
        yield found


def fetch_again(copy: Fetched) -> Fetched:
    """A new copy in the place of one that is not what it should be; errors as `fetch_all`."""
    place = hub_files.parts_of(copy.url)
    if place is None:
        return _of_server(copy.url, again=True)
    return _of_hub(copy.url, place, copy.commits[place.repository], again=True)


def _of_hub(url: str, place: hub_files.Place, revision: str | None, *, again: bool) -> Fetched:
    page = hub.address(place.repository, "dataset")
    with reraised(DataError, lambda error: hub.explained(error, f"The file {place.file}", page)):
        found = hub_files.fetch(place.repository, place.file, "dataset", revision, again=again)
    return Fetched(url, found.path, {place.repository: found.commit})


def _of_server(url: str, *, again: bool) -> Fetched:
    import torch

    folder = Path(torch.hub.get_dir()) / "asap_eval_shards"
    key, name = sha256(url.encode()).hexdigest()[:16], url.rsplit("/", 1)[-1]
    old = [path for path in folder.glob(f"{key}-*") if path.name.endswith(f"-{name}")]
    if not again and (whole := next(filter(_is_whole, old), None)) is not None:
        return Fetched(url, whole)
    try:
        with part_of(folder / key) as part:
            cut = _download(url, part) and _download(url, part)  # once more where it is cut off
            if cut:
                raise DataError(
                    f"{url} did not arrive whole, twice: {cut}. Check the connection and the file "
                    "on the server."
                )
            path = folder / f"{key}-{file_sha256(part)}-{name}"
            put(part, path)
        for other in old:
            if other != path:
                other.unlink(missing_ok=True)
    except (OSError, ValueError, HTTPException) as error:
        raise DataError(
            f"{url} could not be fetched: {error}. Check the address and the connection."
        ) from error
    return Fetched(url, path)


def _is_whole(path: Path) -> bool:
    """Whether a copy is what was sent."""
    found = re.match(r"[0-9a-f]{16}-([0-9a-f]{64})-", path.name)
    return found is not None and file_sha256(path) == found[1]


def _download(url: str, path: Path) -> str:
    """Write a file as it comes; says what is missing of it, nothing where it is whole."""
    with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, path.open("wb") as file:
        announced = answer.headers.get("Content-Length")
        try:
            shutil.copyfileobj(answer, file)
        except (IncompleteRead, ConnectionError, TimeoutError) as error:
            return f"{error} after {file.tell()} bytes"
        size = file.tell()
    return "" if announced in (None, str(size)) else f"{size} of {announced} bytes came"
