"""Hugging Face's hub: where it is, and what an error of it means in one line.

Whatever fetches from the hub (weights, tokenizers, pictures, questions) turns the error into a
message here, so that a rate limit never reads like a broken cable::

    try:
        rows = datasets.load_dataset("lmms-lab/GQA", split="testdev")
    except Exception as error:  # clients of the hub share no base class
        where = hub.address("lmms-lab/GQA", "dataset")
        raise DataError(hub.explained(error, "The questions of gqa", where) + " Or ...") from error

The error may be any library's: what lies at the bottom of its chain decides.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Iterator
from http import HTTPStatus
from typing import Literal

Kind = Literal["model", "dataset"]


class DamagedFileError(OSError):
    """A file that is not what the hub says it has."""


SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
"""Environment variables that forbid the network."""


def address(repository: str, kind: Kind = "model") -> str:
    """The page of a repository at the endpoint that is set (``HF_ENDPOINT``)."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repository}"


def explained(error: BaseException, what: str, address: str) -> str:
    """Two sentences: what could not be fetched from where and why, and what to do about it.

    Args:
        error: of any client of the hub, with its chain of causes.
        what: at the beginning of a sentence, such as "The weights of deit_tiny".
        address: of `address`; it is printed as given.
    """
    why, remedy = _reason(error, address)
    return f"{what} could not be fetched from {address}: {why}. {remedy}"


def _reason(error: BaseException, address: str) -> tuple[str, str]:
    """Why, without a full stop, and what to do; the first that is known along the chain."""
    chain = list(_chain(error))
    for find in (_damaged, _answer, _offline, _machine):
        for link in chain:
            if (found := find(link, address)) is not None:
                return found
    first = str(error).strip().split("\n")[0].rstrip(".")
    return f"{type(error).__name__}: {first}", "Check the name and the connection."


def offline() -> bool:
    """Whether the network is forbidden."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE or _switched_on())


def _switched_on() -> list[str]:
    """Variables that forbid it."""
    return [
        name for name in SWITCHES if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")
    ]


def refuses(error: BaseException) -> bool:
    """Whether the hub was reached and denies what was asked for, so that no copy is an answer."""
    statuses = [getattr(getattr(e, "response", None), "status_code", None) for e in _chain(error)]
    return any(
        isinstance(status, int)
        and 400 <= status < 500
        and status not in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
        for status in statuses
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, what it was raised from, and so on: the hub's HTTP client hides its causes."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def _damaged(error: BaseException, address: str) -> tuple[str, str] | None:
    """What came is not what the hub has."""
    remedy = "Check the connection and the proxies on the way, and start again."
    if isinstance(error, DamagedFileError):
        return str(error), remedy
    if type(error).__name__ == "RemoteProtocolError":  # of the hub's HTTP client, as it retries
        return "the connection broke off before the file was whole, time and again", remedy
    return None


def _answer(error: BaseException, address: str) -> tuple[str, str] | None:
    """What the hub said, where it was reached."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return (
            "it is gated",
            f"Ask for access at {address}, then log in with `hf auth login`.",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            "there is no such repository, or it is private",
            "Check the name; for a private one log in with `hf auth login`.",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return "it has no such revision", "Check the revision."
    if isinstance(error, errors.RemoteEntryNotFoundError):
        place = getattr(error.response, "url", "")
        file = str(place).partition("?")[0].rpartition("/")[2] or "of that name"
        return f"it has no file {file}", "Check the name of the repository."
    status = getattr(getattr(error, "response", None), "status_code", None)
    if not isinstance(status, int) or status < 400:
        return None
    why = f"the server answers {status} ({_phrase(status)})"
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return why, "Wait some minutes and start again; `hf auth login` raises the limit."
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return why, "Log in with `hf auth login`, with a token that may read it."
    if status >= 500:
        return why, "The fault is the server's: start again later."
    return why, "Check the name of the repository."


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase.lower()
    except ValueError:
        return "no standard status"


def _offline(error: BaseException, address: str) -> tuple[str, str] | None:
    """The network was forbidden."""
    from huggingface_hub import errors

    on = _switched_on()
    missing = isinstance(error, (errors.LocalEntryNotFoundError, ConnectionError))
    if not (isinstance(error, errors.OfflineModeIsEnabled) or (missing and offline())):
        return None
    switch = " and ".join(f"{name}=1" for name in on) or "HF_HUB_OFFLINE=1"
    return (
        f"it is not in the local cache and {switch} forbids the network",
        "Unset that.",
    )


def _machine(error: BaseException, address: str) -> tuple[str, str] | None:
    """What failed on this side of the connection."""
    if isinstance(error, ConnectionRefusedError):
        return (
            "the connection is refused, nobody listens there",
            "Check HF_ENDPOINT and the proxy (HTTPS_PROXY).",
        )
    if isinstance(error, socket.gaierror):
        return (
            "the name of the host is not known here",
            "Check the network, its DNS and HF_ENDPOINT.",
        )
    if isinstance(error, ssl.SSLError):
        return (
            f"TLS failed ({error})",
            "Check the machine's certificates and its clock.",
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full", "Free space, or let HF_HOME name a larger disk."
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS):
        return (
            f"the cache cannot be written ({error.filename})",
            "Let HF_HOME name a folder of your own.",
        )
    if isinstance(error, TimeoutError) or "timeout" in type(error).__name__.lower():
        return (
            "the server does not answer in time",
            "Check the network and the proxy, or try later.",
        )
    return None
