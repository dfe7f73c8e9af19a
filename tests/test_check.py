"""`asap-eval check` and `asap-eval new`: ours pass, broken ones fail with the reason."""

from __future__ import annotations

import functools
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from cases import CASES, VISION
from project import ROOT
from test_plugins import forget

from asap_eval.cli import main
from asap_eval.errors import UnsupportedModelError
from asap_eval.method import method_class, methods
from asap_eval.registry import METHODS
from asap_eval.testing import DEMANDS, Finding, check, run
from asap_eval.testing.questions import Questions
from asap_eval.testing.subject import Images, Subject

BROKEN = ROOT / "tests" / "broken"

REASONS = {
    "by_place": ("order", r"A batch in the order \[2, 1, 3\] is treated otherwise: source differs"),
    "leaks": ("alone", r"source differs in \d+ of 36 places; a method may not look at its neigh"),
    "miscounts": (
        "MACs",
        r"macs\(\) says 20,160 for sample 0, .* do 41,472 \(41,472 in decide\(\)",
    ),
    "unseeded": ("seeds", r"draws from the global generator of torch: .*batch\.generator\(image\)"),
    "drops_class_token": ("prefix", r"token 0 \(the class token\) of the 1\. image is dropped"),
}
"""The check that finds what is broken in each file of tests/broken, and what it says."""


@pytest.fixture
def others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to be in; methods of others that are loaded there are gone afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(METHODS, "classes", METHODS.all())
    monkeypatch.setattr(sys, "path", [*sys.path])
    modules = {*sys.modules}
    yield tmp_path
    for name in (*REASONS, "broken_card"):
        sys.modules.pop(name, None)
    forget(modules)


@functools.cache
def classifier() -> Subject:
    """The least that shows everything: two images."""
    return Images(tiny.HOSTS["plain"](), tiny.images(2), "a small ViT")


@functools.cache
def llava() -> Subject:
    """Two questions, for methods that need a language model."""
    return Questions("llava_tiny", tokens=1)


@pytest.mark.parametrize("method", methods())
def test_every_method_of_ours_passes(method: str) -> None:
    cases = [case for case in CASES if case.method == method]
    vision = any(case in VISION for case in cases)
    subject, shape = (classifier(), (32, 2)) if vision else (llava(), (64, 4))
    params = {case.effect: case.params_for(*shape) for case in reversed(cases)}
    keep_all, options = params.get("nothing"), params.get("tokens", params.get("attention", {}))
    found = check(method, keep_all=keep_all, on=[subject], **options)
    assert [one.name for one in found] == list(DEMANDS)
    assert [str(one) for one in found if one.failed] == []
    passed = {one.name for one in found if one.verdict == "passed"}
    least = {"acts", "seeds", "alone", "order", "resume", "trace", "MACs", "16 bits"}
    least |= {"promoted"} if any(case.chooses for case in cases) else set()
    assert passed >= ({"keep all"} if keep_all is not None else set())
    assert passed >= (set() if method_class(method).idle else least)
    reads = any(case.declared.needs for case in cases)
    in_tower = method_class(method).tower == "vision" and method_class(method).site != "input"
    moves = in_tower and "tokens" in params
    assert ("needs" in passed, "prefix" in passed) == (reads, moves)


@pytest.mark.parametrize("name", REASONS)
def test_a_broken_method_fails_with_the_reason(
    name: str, others: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", f"method={name}", f"plugins={BROKEN / name}.py"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    printed = " ".join(" ".join(lines).split())
    failing, reason = REASONS[name]
    assert re.search(rf"{failing} failed On a small ViT, .*?{reason}", printed)
    found = {line[1:13].strip() for line in lines if re.search(" failed  +[A-Z]", line)}
    follows = {"leaks": {"order"}, "by_place": {"alone"}}
    follows |= {"drops_class_token": {"trace", "keep all", "MACs", "16 bits"}}
    assert {failing} <= found <= {failing} | follows.get(name, set())
    assert lines[0] == f"Checks of method={name}: {len(found)} of {len(DEMANDS)} checks failed"


def test_two_samples_have_an_order_and_one_has_none(others: Path) -> None:
    assert main(["check", "method=by_place", f"plugins={BROKEN / 'by_place.py'}"]) == 1
    found = {one.name: one for one in check("by_place", on=[classifier()])}
    assert re.search(r"in the order \[1, 0\] is treated otherwise", found["order"].why)
    alone = Images(tiny.HOSTS["plain"](), tiny.images(1), "one image")
    found = {one.name: one for one in check("stride", k=0.5, on=[alone])}
    assert str(found["order"]) == "order: does not apply, one sample has no order."


def test_a_named_model_and_the_keeping_setting(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["check", "asap", "k=3", "model=digits_vit", "keep_all=tau=1e9", "--wide"]
    assert main([*words, "method.tau=1.2"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Checks of method=asap: no check failed\n")
    assert re.search(r"acts +passed +digits_vit, random weights \(tau=1.2, k=3\)", out)
    assert re.search(r"keep all +passed +digits_vit, random weights \(tau=1e\+09\)", out)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["method=topk_cl"], "Did you mean topk_cls"),
        (["method=evit", "method.fues=true"], "Did you mean fuse"),
        (["method=evit", "k=2"], "k=2"),
        (["method=evit", "model=deit_tny"], "Did you mean deit_tiny"),
        (["method=evit", "weights=a.pth"], "name their model, too"),
        (["method=fastv", "model=llava15_7b"], "a check takes llava_tiny or llava_next_tiny"),
        (["method=evit", "keep_all=1"], "give option=value"),
        (["k=2"], "method is missing"),
    ],
    ids=" ".join,
)
def test_what_is_not_understood(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.count("\n") == 1


def test_without_the_extra_for_language_models(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent() -> None:
        raise UnsupportedModelError("pip install 'asap-eval[vlm]'")

    monkeypatch.setattr(run, "check_transformers", absent)
    assert main(["check", "fastv"]) == 1
    assert capsys.readouterr().err == "error: pip install 'asap-eval[vlm]'\n"
    assert main(["check", "average_pool", "wide=true"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "a language model was not tried. pip install 'asap-eval[vlm]'" in out
    assert "llava" not in out


def test_a_method_that_never_acts_or_stops_is_told_so(others: Path) -> None:
    text = (BROKEN / "unseeded.py").read_text()
    sys.path.append(str(BROKEN))  # its card
    Path("lazy.py").write_text(
        text.replace('"unseeded"', '"lazy"').replace(
            "    def score",
            "    def watch(self, block: int, state: Plan) -> bool:\n        return False\n\n"
            "    def score",
        )
    )
    Path("stops.py").write_text(
        text.replace('"unseeded"', '"stops"').replace("torch.rand(", "torch.rand(1, 2, 3).view(")
    )
    assert main(["check", "lazy", "plugins=lazy.py"]) == 1
    found = {one.name: one for one in check("lazy")}
    assert found["acts"].failed
    assert "nothing changes with its whole knob" in found["acts"].why
    assert found["alone"].verdict == "does not apply"
    assert main(["check", "stops", "plugins=stops.py"]) == 1
    found = {one.name: one for one in check("stops")}
    assert re.search(r"it stops with RuntimeError: .* \(stops\.py, line \d+\)", found["acts"].why)


def test_a_new_method_passes_as_it_is_written(
    others: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new", "method=key_power"]) == 0
    out, err = capsys.readouterr()
    assert out.split() == ["key_power.py", "test_key_power.py"]
    words = err.strip().partition("asap-eval ")[2].split()
    assert words == ["check", "method=key_power", "plugins=key_power.py"]
    assert main(words) == 0
    spec = importlib.util.spec_from_file_location("test_key_power", "test_key_power.py")
    assert spec is not None
    assert spec.loader is not None
    written = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(written)
    (mark,) = written.test_contract.pytestmark
    found: list[Finding] = mark.args[1]
    assert len(found) == len(DEMANDS)
    for one in found:
        written.test_contract(one)
    written.test_half_of_the_patches_stay()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("asap", "is there already"),
        ("json", "a module of Python's own"),
        ("My-Method", "lower-case letters"),
        ("class", "lower-case letters"),
        ("taken", "test_taken.py is there already"),
    ],
)
def test_names_that_cannot_be_new(
    name: str, says: str, others: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("test_taken.py").write_text("mine")
    assert main(["new", name]) == 2
    assert says in capsys.readouterr().err
    assert [path.name for path in others.iterdir()] == ["test_taken.py"]
