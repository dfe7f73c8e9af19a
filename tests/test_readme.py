"""README and docs/ keep their word: code and commands run, files exist, tables are fresh."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import clips
import pytest
import timm
import torch
from pictures import CLASSES, picture_folder
from project import ROOT

import asap_eval
from asap_eval.cli import main
from asap_eval.cli.front import COMMANDS as NAMES
from asap_eval.cli.ls import filled, methods_table
from asap_eval.cli.overrides import check, parsed
from asap_eval.cli.words import read
from asap_eval.models import load_model
from asap_eval.models.video_head import Head, save_head
from asap_eval.plugins import own_of
from asap_eval.registry import METHODS
from asap_eval.report.experiment.verdict import word_of

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    path: path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "results" / "README.md", *ROOT.glob("docs/**/*.md"))
}
"""Everything that is there to be read."""
BASH = re.compile(r"```bash\n(.*?)```", re.DOTALL)
SMALL = "weights=random limit=2 batch_size=2"
FOUND = f"{SMALL} budget.samples=2"
FIRES = f"{FOUND} method.tau=1.0"
"""Attention of random weights is even: no column would ever reach the usual tau."""
CLIPS = "model=digits_vit bench.frames=2"
ASKED = "model=llava_tiny limit=1 bench.new_tokens=2"

TRIED = {
    "make example": "experiment=example limit=4 budget.samples=4",
    "IMAGENET=/data/imagenet/val asap-eval model=deit_base method=asap k=8": f"{SMALL} limit=1",
    "asap-eval model=deit_tiny methods=tome,asap budget=macs target=-35": FIRES,
    "asap-eval report": "",
    "asap-eval model=deit_tiny data=photos/val methods=tome,asap budget=macs target=-35": FIRES,
    "asap-eval model=deit_tiny data=flat labels=val.txt method=tome k=8": SMALL,
    "asap-eval model=vit_tiny_patch16_224 model.num_classes=10 weights=own.pth data=own/val "
    "methods=none,tome,asap budget=macs target=-35": f"{FIRES} weights=own.pth",
    "asap-eval plugins=my_method.py model=deit_tiny methods=key_norm,random budget=macs "
    "target=-35": FOUND,
    "asap-eval stage=train model=clip_vit_l14_336 bench=kinetics data=videos": f"{CLIPS} "
    "train.epochs=1",
    "asap-eval model=clip_vit_l14_336 bench=kinetics data=videos bench.head=head.safetensors "
    "methods=tome,asap budget=macs target=-35": f"{CLIPS} limit=2 budget.samples=2",
    "asap-eval strip clip.mp4 model=deit_tiny method=asap k=2 out=strip.png": "weights=random "
    "frames=2",
    "asap-eval model=llava15_7b bench=vlm data=questions tasks=pope,gqa method=visionzip "
    "budget=tokens target=64": f"{ASKED} budget.samples=1",
    "asap-eval model=llava15_7b bench=latency data=questions method=visionzip k=64": f"{ASKED} "
    "bench.warmup=1",
    "asap-eval strip photo.png model=llava15_7b method=visionzip k=64 out=crops.png": ""
    "model=llava_tiny",
}
"""Every command of the README, and the words that make it small: of a key, the last counts."""


def shell(text: str) -> list[str]:
    """The commands of a page as they are typed, without comments."""
    lines = "".join(BASH.findall(text)).replace("\\\n", " ").splitlines()
    return [found for line in lines if (found := re.sub(r"\s+#.*|^#.*", "", line).strip())]


def test_commands_are_the_same_words_in_zsh() -> None:
    """There brackets and question marks that are not quoted are patterns of files."""
    lines = [line for text in PAGES.values() for line in shell(text)]
    bare = [re.sub(r"'[^']*'|\"[^\"]*\"", "", line) for line in lines]
    assert lines
    assert [line for line in bare if "asap-eval" in line and re.search(r"[\[\]?*]", line)] == []


SHELL = [shlex.split(line) for text in PAGES.values() for line in shell(text)]
VARIABLE = re.compile(r"[A-Z_]+=")


def python(path: str) -> list[str]:
    """The Python of a page, block by block."""
    return re.findall(r"```python\n(.*?)```", PAGES[ROOT / path], re.DOTALL)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Methods registered by a test are gone after it, and so is the module of one's own."""
    monkeypatch.setattr(METHODS, "classes", METHODS.all())
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("my_method", None)
    own_of.cache_clear()


def run(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    return names


def test_the_api_example_runs() -> None:
    names = run(python("README.md")[1])
    assert names["logits"].shape == (2, 1000)
    assert names["trace"].lengths.shape == (12, 2)
    assert names["trace"].source.shape == (2, 196)


def test_the_features_example_runs() -> None:
    names = run(python("docs/features.md")[0])
    assert names["dense"].shape == (2, 16, 16, 384)
    assert names["mean"].shape == (2, 384)
    assert [each.shape for each in names["maps"]] == [(2, 384, 16, 16)] * 2
    assert names["kept"].shape[:2] == (2, names["tokens"].shape[1] - names["prefix"])


def test_the_llava_example_runs() -> None:
    names = run(python("docs/vlm.md")[0])
    assert names["trace"].lengths.shape == (23, 1)
    assert names["trace"].handed_to_llm.tolist() == [37]
    assert names["trace"].language.lengths.shape == (18, 1)
    assert names["ids"].shape[1] == names["inputs"]["input_ids"].shape[1] + 8


@pytest.mark.usefixtures("registry")
def test_the_example_method_runs() -> None:
    names = run(python("README.md")[1]) | run(python("README.md")[0])
    with asap_eval.reduce(names["model"], "key_norm", k=0.5) as trace, torch.inference_mode():
        names["model"](names["images"])
    assert trace.lengths[:, 0].tolist() == [197] * 3 + [1 + 98 + 1] * 9


class Understood(BaseException):
    """The words of a command were read."""


COMMANDS = [[name] for name in NAMES]
RUNS = [
    words
    for words in SHELL
    if words[:1] == ["asap-eval"] and words[1:2] not in COMMANDS and " ".join(words) not in TRIED
]
OTHERS = [words for words in SHELL if words[:1] == ["asap-eval"] and words[1:2] in COMMANDS]


@pytest.mark.parametrize("command", RUNS, ids=" ".join)
def test_commands_name_things_that_exist(command: list[str]) -> None:
    check(parsed([word for word in command[1:] if not word.startswith("-")]))


@pytest.mark.parametrize("command", OTHERS, ids=" ".join)
def test_the_other_commands_can_be_asked_for(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their words are read; nothing is done."""

    def understood(*given: Any, **how: Any) -> None:
        read(*given, **how)
        raise Understood

    monkeypatch.setattr("asap_eval.cli.words.read", understood)
    if {"--help", "completion", "doctor"} & set(command):
        assert main(command[1:]) == 0
    else:
        with pytest.raises(Understood):
            main(command[1:])


def test_every_command_of_the_readme_is_tried() -> None:
    assert shell(README) == list(TRIED)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, questions: Path) -> Path:
    """A folder that has what the README's commands name, as little of it as will do."""
    root = tmp_path_factory.mktemp("readme")
    picture_folder(root / "photos" / "val", each=2)
    picture_folder(root / "own" / "val", each=1, classes=[f"kind {at}" for at in range(10)])
    (root / "flat").mkdir()
    for at, picture in enumerate(sorted((root / "photos" / "val").glob("*/*.png"))):
        shutil.copy(picture, root / "flat" / f"{at}.png")
    (root / "val.txt").write_text("".join(f"{at}.png {CLASSES[at // 2]}\n" for at in range(6)))
    shutil.copy(root / "flat" / "0.png", root / "photo.png")
    own = timm.create_model("vit_tiny_patch16_224", num_classes=10)
    torch.save(own.state_dict(), root / "own.pth")
    (root / "my_method.py").write_text(python("README.md")[0])
    clips.folder(root / "videos" / "train", 1)
    clips.folder(root / "videos" / "val", 1, seed=500)
    clips.write(root / "clip.mp4", clips.moving("disc", 3))
    width = load_model("digits_vit").model.num_features
    kinds = sorted(clips.CLASSES)
    head = Head(torch.rand(len(kinds), width), torch.zeros(len(kinds)), kinds, {})
    save_head(head, root / "head.safetensors")
    (root / "questions").symlink_to(questions)
    shutil.copytree(ROOT / "results" / "video", root / "results")
    return root


def typed(command: str) -> list[str]:
    """The words of a command; of a target of the Makefile those of the last line that it runs."""
    words = shlex.split(command)
    if words[0] == "make":
        # A make above this one (`make test`) would have it say where it enters and leaves.
        alone = {name: text for name, text in os.environ.items() if not name.startswith("MAKE")}
        done = subprocess.run(
            ["make", "-n", *words[1:]],
            cwd=ROOT,
            env=alone,
            capture_output=True,
            text=True,
            check=True,
        )
        words = shlex.split(done.stdout.splitlines()[-1])
        words[0] = Path(words[0]).name
    return words


def key(word: str) -> str:
    return word.partition("=")[0]


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("command", TRIED, ids=str)
def test_a_command_of_the_readme_runs(
    command: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it is typed, but for the words that make it small."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("IMAGENET", str(place / "photos" / "val"))
    words = typed(command)
    if VARIABLE.match(words[0]):
        assert key(words.pop(0)) == "IMAGENET"
    assert words.pop(0) == "asap-eval"
    small = shlex.split(TRIED[command])
    if "model" in map(key, small) and words[0] not in NAMES:
        check(parsed(words))
    kept = [word for word in words if key(word) not in map(key, small)]
    seen = {key(word): word for word in small}
    assert main([*kept, *seen.values()]) == 0, capsys.readouterr().err


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = {command[1] for command in SHELL if command[:1] == ["make"]}
    assert {"example", "test"} <= named
    for target in named:
        experiment = ROOT / "conf" / "experiment" / f"{target}.yaml"
        assert experiment.is_file() or re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_the_table_of_methods_is_fresh() -> None:
    path = ROOT / "docs" / "methods.md"
    fresh = filled(path, "methods", [methods_table()])
    assert fresh == PAGES[path], "run: asap-eval ls methods --into docs/methods.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_it_links_to_exist(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", PAGES[page]):
        assert (page.parent / target).exists(), target


def test_every_page_and_picture_is_in_the_index() -> None:
    index = PAGES[ROOT / "docs" / "README.md"]
    linked = {(ROOT / "docs" / target).resolve() for target in re.findall(r"\]\(([^)#]+)", index)}
    pages = {path for path in PAGES if path.parent == ROOT / "docs"} - {ROOT / "docs" / "README.md"}
    assert pages | set(ROOT.glob("docs/*.png")) | set(ROOT.glob("docs/figures/*.png")) <= linked


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_its_findings_are_those_of_the_records() -> None:
    """Every line of their first table is a line of results/table1.md, number by number."""
    said_there = PAGES[ROOT / "docs" / "findings.md"]
    first = said_there[said_there.index("| method | top-1 %") :].split("\n\n")[0].splitlines()[2:]
    table = (ROOT / "results" / "table1.md").read_text(encoding="utf-8")
    lines = [line for line in table.splitlines() if line.startswith("|")]
    head, rows = cells(lines[0]), [cells(line) for line in lines[2:]]
    names = ("top-1 %", "Δ [95 %]", "published Δ", "verdict", "MACs %: all (model)")
    names = (*names, "Δ on imagenet, n=400")
    said = []
    for row in rows:
        top1, delta, printed, word, macs, before = (row[head.index(name)] for name in names)
        short = [top1.split()[0], delta, printed.split()[0], word_of(word), macs.split()[0]]
        said.append([*short, before])
    assert [cells(line)[1:] for line in first] == said
