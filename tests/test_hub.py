"""What an error of the hub means, one kind at a time, and what to do about it."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants, errors

from asap_eval.hub import errors as hub

PLACE = "https://hub.example/timm/x"


def _http(status: int, kind: type[Exception] | None = None) -> Exception:
    response: Any = SimpleNamespace(status_code=status, headers={}, request=None)
    return (kind or errors.HfHubHTTPError)(f"{status} Client Error.", response=response)  # type: ignore[call-arg]


class ReadTimeout(Exception):
    """Of the hub's HTTP client, whose name depends on the release."""


def _wrapped(cause: BaseException) -> Exception:
    """As the hub's library and transformers hand it on: the cause lies two links deep."""
    try:
        try:
            raise errors.LocalEntryNotFoundError("check your connection") from cause
        except errors.LocalEntryNotFoundError as middle:
            raise OSError("We couldn't connect\nto the hub") from middle
    except OSError as error:
        return error


KINDS: dict[str, tuple[BaseException, str]] = {
    "gated": (
        _http(403, errors.GatedRepoError),
        f"gated. Ask for access at {PLACE}.*hf auth login",
    ),
    "private": (_http(401, errors.RepositoryNotFoundError), "no such repository.*hf auth login"),
    "revision": (_http(404, errors.RevisionNotFoundError), "no such revision"),
    "file": (_http(404, errors.RemoteEntryNotFoundError), "no file of that name"),
    "token": (_http(401), "401 .unauthorized.*hf auth login"),
    "rate": (_http(429), "429 .too many requests.*Wait"),
    "server": (_http(500), "500 .internal server error.*later"),
    "teapot": (_http(418), "418 "),
    "unheard": (_http(499), "499 "),
    "offline": (errors.OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE=1 forbids.*Unset"),
    "refused": (ConnectionRefusedError(111, "Connection refused"), "refused.*HF_ENDPOINT"),
    "unknown host": (socket.gaierror(-2, "Name or service not known"), "not known here.*DNS"),
    "certificate": (ssl.SSLError(1, "certificate verify failed"), "TLS failed.*certificates"),
    "slow": (ReadTimeout("timed out"), "in time.*later"),
    "full": (OSError(errno.ENOSPC, "No space left on device"), "disk is full.*HF_HOME"),
    "read-only": (PermissionError(errno.EACCES, "denied", "/cache"), "/cache.*HF_HOME"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrap", [lambda error: error, _wrapped], ids=["bare", "wrapped"])
def test_every_kind_says_what_it_is(kind: str, wrap: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _online(monkeypatch)
    error, pattern = KINDS[kind]
    said = hub.explained(wrap(error), "The weights of x", PLACE)
    assert said.startswith(f"The weights of x could not be fetched from {PLACE}: ")
    assert "\n" not in said
    assert re.search(pattern, said), said


def _online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in hub.SWITCHES:
        monkeypatch.delenv(name, raising=False)


def test_the_switch_that_is_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries hide it: what is left of it is that the cache has no such file."""
    _online(monkeypatch)
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    said = hub.explained(errors.LocalEntryNotFoundError("check"), "It", PLACE)
    assert "TRANSFORMERS_OFFLINE=1 forbids the network" in said


def test_an_unknown_error_keeps_its_first_line(monkeypatch: pytest.MonkeyPatch) -> None:
    _online(monkeypatch)
    said = hub.explained(KeyError("features\nmany lines"), "It", PLACE)
    assert "KeyError: 'features" in said


def test_the_address_is_that_of_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://mirror.example")
    assert hub.address("timm/x") == "http://mirror.example/timm/x"
    assert hub.address("lmms-lab/GQA", "dataset") == "http://mirror.example/datasets/lmms-lab/GQA"
