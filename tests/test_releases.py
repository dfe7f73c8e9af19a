"""Releases of transformers: those that were tried, and no others."""

from __future__ import annotations

import importlib

import pytest
from project import ROOT, read_toml

from asap_eval.errors import UnsupportedModelError
from asap_eval.models import load_vlm
from asap_eval.models.vlm import TRIED


@pytest.mark.parametrize("release", ["4.57.6", "5.0.0", "5.8.1", "5.17.0", "6.0.0", "6.1.0.dev0"])
def test_other_releases_are_refused(release: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # As it is now: a test that ran before may have loaded it anew.
    transformers = importlib.import_module("transformers")
    monkeypatch.setattr(transformers, "__version__", release)
    with pytest.raises(UnsupportedModelError, match=rf"{release} is installed.*>=5\.18,<6"):
        load_vlm("llava_tiny")


def test_the_installation_wants_the_same_releases() -> None:
    extras = read_toml(ROOT / "pyproject.toml")["project"]["optional-dependencies"]
    (first, second), (end, _) = TRIED
    assert f"transformers>={first}.{second},<{end}" in extras["vlm"]
