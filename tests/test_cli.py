"""The command line: what it prints, what it refuses and how, sweeps, experiments, plans."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from omegaconf import OmegaConf
from pictures import CLASSES, TINY, picture_folder

from asap_eval.cli import main, planning
from asap_eval.cli.compose import composed
from asap_eval.cli.experiment import rows_of
from asap_eval.cli.groups import choices
from asap_eval.cli.overrides import check, parsed
from asap_eval.cli.report import main as report
from asap_eval.experiment import load
from asap_eval.method import methods
from asap_eval.models import model_names
from asap_eval.paths import PACKAGE, conf_dir
from asap_eval.record import Job, read_record, read_records

Run = Callable[..., tuple[int, list[str], str]]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return picture_folder(tmp_path_factory.mktemp("data") / "pictures", each=2)


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run the command line in an empty folder; its exit code, lines of output, and messages."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, list[str], str]:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out.splitlines(), err

    return run


# One job


def test_a_run_prints_a_table_and_last_the_record(
    command: Run, pictures: Path, tmp_path: Path
) -> None:
    code, out, err = command(*TINY, f"data={pictures}", "method=random", "k=0.5", "method.layer=2")
    assert code == 0
    assert "First the unpruned model on the same 6 samples" in err
    record = read_record(tmp_path / out[-1])
    assert (record.job.k, record.job.params["layer"]) == (0.5, 2)
    text = "\n".join(out)
    for part in ("none", "random", "k=0.5 layer=2", "random weights, not comparable"):
        assert part in text
    # Nothing of Hydra's is left behind.
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    assert record.provenance.config["batch_size"] == 32
    assert record.provenance.command.startswith("asap-eval model=test_vit weights=random data=")

    code, out, err = command(*TINY, f"data={pictures}", "method=random", "k=0.5", "method.layer=2")
    assert code == 0
    assert "Already done" in err
    assert read_record(tmp_path / out[-1]) == record


def test_the_baselines_command_is_its_own(command: Run, pictures: Path, tmp_path: Path) -> None:
    given = [*TINY, f"data={pictures}", "limit=2"]
    extra = ["method=random", "k=0.5", "method.layer=2", "seed=3"]
    assert command(*given, *extra)[0] == 0
    records = {r.job.method: r for _, r in read_records(tmp_path / "results")[0]}
    assert records["none"].provenance.command == " ".join(["asap-eval", *given])
    _, out, err = command(*given)
    assert "Already done" in err
    assert records["none"].key[:12] in out[-1]


def test_what_changes_no_number_makes_no_other_job(command: Run, pictures: Path) -> None:
    first = command(*TINY, f"data={pictures}", "limit=3")[1][-1]
    again = command(*TINY, f"data={pictures}", "limit=3", "workers=1", "debug=true")[1][-1]
    assert first == again
    os.symlink(pictures, "elsewhere")
    assert command(*TINY, "data=elsewhere", "limit=3")[1][-1] == first
    assert command(*TINY, f"data={pictures}", "limit=3", "batch_size=2")[1][-1] != first


def test_auto_is_the_job_of_its_values(
    command: Run, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, first, err = command(*TINY, f"data={pictures}", "--limit", 3)
    assert code == 0
    assert err.startswith("auto: device=cpu dtype=float32 batch_size=32 workers=0\n")
    given = ["device=cpu", "dtype=fp32", "batch-size=32", "--workers=0", "--plan=false"]
    code, again, err = command(*TINY, f"data={pictures}", "limit=3", *given)
    assert "auto:" not in err
    assert (code, again[-1]) == (0, first[-1])
    config = read_record(Path(first[-1])).provenance.config
    assert (config["device"], config["dtype"], config["workers"]) == ("cpu", "float32", 0)


def test_a_list_needs_no_brackets(command: Run, pictures: Path) -> None:
    code, out, _ = command(*TINY, f"data={pictures}", "limit=2", "methods=random,stride", "k=0.5")
    assert code == 0
    assert [read_record(Path(p)).job.method for p in out[-2:]] == ["random", "stride"]


def test_the_configuration_is_shown(command: Run, experiments: list[str]) -> None:
    code, out, _ = command("--cfg", "job", *TINY, "k=2", "--resolve")
    assert code == 0
    assert "k: 2" in out
    assert "results: results" in out
    code, out, _ = command("-c", "job", *experiments, "experiment=both")
    assert code == 0
    assert "rows:" in out
    assert not any("hydra" in line for line in out)


def test_what_hydra_cannot_compose_is_said(command: Run) -> None:
    code, _, err = command(*TINY, "data=x", "~method=nothing")
    assert code != 0
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_failed_images_are_said_and_the_run_is_done(command: Run, pictures: Path) -> None:
    shutil.copytree(pictures, "data")
    Path("data", CLASSES[1], "000.png").write_bytes(b"no picture")
    code, out, err = command(*TINY, "data=data")
    assert code == 0
    assert "1 of 6 samples failed and count as wrong" in err
    assert f"{CLASSES[1]}/000.png" in err
    assert "6 (1 failed)" in "\n".join(out)
    assert read_record(Path(out[-1])).status == "done"


def test_a_tau_that_never_fires_is_said(command: Run, pictures: Path) -> None:
    code, out, err = command(*TINY, f"data={pictures}", "method=asap", "method.tau=90")
    assert code == 0
    assert "no image was reduced" in err
    record = read_record(Path(out[-1]))
    assert record.fired is not None
    assert (record.fired.never, record.fired.mean) == (6, None)


def test_a_method_that_removes_nothing_is_not_said_to_do_nothing(
    command: Run, pictures: Path
) -> None:
    for options, acts in (
        (["method=tosa_reading", "k=0.5"], True),  # tokens skip blocks
        (["method=tosa_reading", "k=1"], False),
        (["method=sparsifiner", "method.by=local", "k=0.5"], True),  # attention is replaced
        (["method=sparsifiner", "method.by=local", "k=1"], False),
    ):
        code, out, err = command(*TINY, f"data={pictures}", *options)
        assert code == 0
        assert ("no image was reduced" not in err) == acts, (options, err)
        fired = read_record(Path(out[-1])).fired
        assert fired is not None
        assert not any(fired.histogram.values()), options


def test_a_knob_may_be_a_word_that_is_said_to_be_ours(command: Run, pictures: Path) -> None:
    given = [*TINY, f"data={pictures}", "method=asap", "method.tau=jump:1.01"]
    code, out, _ = command(*given, "k=otsu")
    assert code == 0
    assert "k=otsu (ours)" in " ".join("\n".join(out).split())
    record = read_record(Path(out[-1]))
    assert (record.job.k, record.knob, record.job.params["k"]) == (None, None, "otsu")
    assert record.job.params["tau"] == "jump:1.01"
    again = command(*given, "method.k=otsu")
    assert again[1][-1] == out[-1]
    assert "Already done" in again[2]


@pytest.mark.parametrize("name", ["llava_tiny", "llava15_7b"])
def test_a_vision_language_model_needs_a_benchmark_that_asks(
    command: Run, pictures: Path, name: str
) -> None:
    code, _, err = command(f"model={name}", f"data={pictures}")
    assert code != 0
    assert "is a vision-language model; this benchmark takes image models" in " ".join(err.split())


def test_any_timm_model_runs(command: Run, pictures: Path) -> None:
    for arguments in (["model.timm=test_vit2"], ["model=timm", "model.timm=test_vit2"]):
        code, out, _ = command(*arguments, "weights=random", f"data={pictures}", "limit=2")
        assert code == 0
        assert read_record(Path(out[-1])).job.model == "test_vit2"


def test_a_budget_is_met_and_shown(command: Run, pictures: Path) -> None:
    budget = ["budget=macs", "target=-20", "budget.samples=3"]
    given = (*TINY, f"data={pictures}", "limit=3", "method=random", "wide=true")
    code, out, err = command(*given, *budget)
    assert code == 0
    assert "Found k=" in err
    assert "macs -20" in "\n".join(out)


# Bad input: one message, an exit code, no record


@pytest.mark.parametrize(
    ("arguments", "says", "code"),
    [
        (["model=test_vti"], ["Unknown model 'test_vti'", "test_vit", "deit_tiny"], 2),
        (["method=assap"], ["Unknown method 'assap'", "Did you mean asap", "stride"], 2),
        (["method=asap", "method.taw=2"], ["'method.taw'", "method.tau", "method.anchor"], 2),
        (["method=asap", "method.anchor=mas"], ["asap.anchor", "mass", "cls_attention"], 2),
        (["method=asap", "method.tau=high"], ["asap.tau", "high"], 2),
        (["method=asap", "method.tau=jump:"], ["jump:'", "greater than 1", "jump:1.3"], 2),
        (["method=asap", "method.tau=jump:0.5"], ["jump:0.5", "greater than 1"], 2),
        (["method=asap", "method.tau=quantile:2"], ["quantile:2", "from 0 to 1"], 2),
        (["method=asap", "k=otsuu"], ["k='otsuu'", "a number", "otsu", "gap"], 2),
        (["method=asap", "method.k=otsuu"], ["otsuu", "Did you mean otsu", "a number"], 2),
        (["method=asap", "k=otsu", "method.k=gap"], ["k=otsu", "method.k=gap", "drop one"], 2),
        (["method=asap", "k=otsu", "method.m=2"], ["m=2 with k=otsu"], 2),
        (["method=asap", "k=otsu", "budget=macs", "target=-35"], ["k=otsu", "a number"], 2),
        (["method=tome", "k=otsu"], ["k='otsu'", "a number"], 2),
        (["method=asap", "k=1"], ["k=1", "greater than 1"], 2),
        (["method=random", "k=1.5"], ["k=1.5", "(0, 1]"], 2),
        (["k=2"], ["'none' has no knob"], 2),
        (["method=asap", "k=three"], ["k='three'", "a number"], 2),
        (["bench=imagnet"], ["Unknown bench 'imagnet'", "imagenet"], 2),
        (["experiment=exampel"], ["Unknown experiment 'exampel'", "example"], 2),
        (["budget=mac"], ["Unknown budget 'mac'", "macs"], 2),
        (["budgt=macs"], ["Unknown key 'budgt'", "budget"], 2),
        (["tau=2", "method=asap"], ["method.tau="], 2),
        (["+extra=1"], ["Unknown key 'extra'"], 2),
        (["limit=0"], ["limit=0", ">= 1"], 2),
        (["limit=many"], ["limit='many'", "whole number"], 2),
        (["limit=99"], ["limit=99", "6 images"], 2),
        (["sample=frist"], ["'frist'", "first", "spread"], 2),
        (["dtype=float33"], ["'float33'", "bfloat16"], 2),
        (["batch_size=0"], ["batch_size=0"], 2),
        (["speed=perhaps"], ["speed='perhaps'", "true or false"], 2),
        (["device=gpu"], ["device=cuda", "finds no GPU"], 2),
        (["device=tpu9"], ["device=tpu9 is not a device"], 2),
        (["budget=macs", "method=asap"], ["needs target="], 2),
        (["target=-35", "method=asap"], ["without a budget"], 2),
        (["budget=macs", "target=35", "method=asap"], ["between -100 and 0"], 2),
        (["budget=macs", "target=-35", "method=asap", "k=2"], ["both set the knob"], 2),
        (["budget=tokens", "target=64", "method=asap"], ["language model"], 1),
        (["method=asap,mass"], ["add -m"], 2),
        (["method"], ["cannot be read"], 2),
        (["weights=nowhere.safetensors"], ["nowhere.safetensors does not exist"], 1),
        (["data=nowhere"], ["data=nowhere does not exist"], 1),
        (["data=null", "bench=saliency"], ["data is missing"], 2),
        (["macs_convention=mine"], ["'mine'", "full", "paper"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_refused_in_words(
    command: Run, pictures: Path, arguments: list[str], says: list[str], code: int
) -> None:
    keys = {argument.split("=")[0] for argument in arguments}
    given = [text for text in (*TINY, f"data={pictures}") if text.split("=")[0] not in keys]
    exit_code, out, err = command(*given, *arguments)
    assert exit_code == code
    assert out == []
    assert err.split("\n", 1)[err.startswith("auto: ")].startswith("error: ")
    assert "Traceback" not in err
    for part in says:
        assert part in " ".join(err.split())
    assert not Path("results").exists()


@pytest.mark.parametrize("name", ["model", "data"])
def test_a_method_alone_asks_for_the_rest(command: Run, pictures: Path, name: str) -> None:
    given = {"model": [f"data={pictures}"], "data": [*TINY, "bench=saliency"]}[name]
    code, _, err = command("method=asap", *given)
    assert code == 2
    assert f"{name} is missing" in err


def test_a_gpu_that_is_not_there_is_said(
    command: Run, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, _, err = command(*TINY, f"data={pictures}", "device=cuda")
    assert code == 2
    assert "no GPU" in err


def test_debug_shows_where_it_happened(command: Run) -> None:
    code, _, err = command(*TINY, "data=nowhere", "debug=true")
    assert code == 1
    assert "Traceback" in err


def test_a_surprise_is_no_stack_trace(
    command: Run, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def surprise(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("asap_eval.cli.run.run", surprise)
    code, _, err = command(*TINY, f"data={pictures}")
    assert code == 1
    assert "unexpected ZeroDivisionError: oh" in err
    assert "debug=true" in err
    assert "Traceback" not in err


def test_a_results_folder_that_cannot_be_written_is_said(command: Run, pictures: Path) -> None:
    Path("results").write_text("a file")
    code, _, err = command(*TINY, f"data={pictures}")
    assert code == 2  # a bad value, found before anything is loaded
    assert "results" in err
    assert "Traceback" not in err


def test_a_user_who_always_joins_gets_a_gpu_of_their_own(
    command: Run, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same wherever ``launch=join`` is said: on the command line or in the user's file."""
    own = tmp_path / "config" / "asap-eval" / "config.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("launch: join\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    taken: list[str] = []
    monkeypatch.setattr("asap_eval.cli.run.take_gpu", lambda: taken.append("a GPU"))
    assert command(*TINY, f"data={pictures}", "plan=true")[0] == 0
    assert taken == ["a GPU"]


def test_a_sweep_of_plans_composes_each_job_once(command: Run, pictures: Path) -> None:
    given = [*TINY, f"data={pictures}", "method=random,stride", "plan=true", "launch=local"]
    _, _, err = command(*given, "-m", "launch.workers=2")
    assert err.count("auto: ") == err.count("Job ") == 2


# Sweeps


def test_a_sweep_runs_its_jobs_in_turn(command: Run, pictures: Path, tmp_path: Path) -> None:
    code, out, err = command(*TINY, f"data={pictures}", "limit=2", "method=random,stride", "-m")
    assert code == 0
    assert "Job 0" in err
    assert "Job 1" in err
    methods_run = [read_record(Path(line)).job.method for line in out if line.endswith(".json")]
    assert methods_run == ["random", "stride"]
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    assert command("-m", *TINY, f"data={pictures}", "limit=2", "method=random,stride")[0] == 0


def test_one_failed_job_of_a_sweep_fails_the_command(command: Run, pictures: Path) -> None:
    code, out, err = command(*TINY, f"data={pictures}", "limit=2", "method=random", "k=2,0.5", "-m")
    assert code == 2
    assert "k=2" in err
    assert read_record(Path(out[-1])).job.k == 0.5


def test_a_sweep_over_methods_refuses_an_option_that_one_lacks(command: Run) -> None:
    code, _, err = command(*TINY, "data=x", "method=asap,mass", "method.tau=1.7", "-m")
    assert code == 2
    assert "method.tau: mass has no such option" in err


# Experiments


@pytest.fixture
def experiments(pictures: Path, tmp_path: Path) -> list[str]:
    """A user's own folder of configuration with an experiment in it."""
    folder = tmp_path / "mine" / "experiment"
    folder.mkdir(parents=True)
    (folder / "both.yaml").write_text(
        f"# @package _global_\ncommon: {{model: test_vit, weights: random, data: '{pictures}'}}\n"
        "rows:\n  - {method: none}\n  - {method: random, k: 0.5, method.rest: drop}\n"
        "  - {method: stride, k: 0.5}\n"
    )
    (folder / "stray.yaml").write_text(
        "# @package _global_\nlimit: 2\ncommon: {model: test_vit}\nrows: [{method: none}]\n"
    )
    return ["--config-dir", str(tmp_path / "mine")]


def test_an_experiment_prints_one_table_of_all_rows(command: Run, experiments: list[str]) -> None:
    code, out, err = command(*experiments, "experiment=both", "limit=3", "wide=true")
    assert code == 0, err
    records = [read_record(Path(line)) for line in out[-3:]]
    assert [record.job.method for record in records] == ["none", "random", "stride"]
    assert records[1].job.params["rest"] == "drop"
    assert all(record.job.limit == 3 for record in records)
    assert len([line for line in out if "McNemar" in line]) == 1
    # Each row's command makes that row alone.
    words = records[1].provenance.command.split()[1:]
    code, out, err = command(*words)
    assert code == 0, err
    assert "Already done" in err
    assert read_record(Path(out[-1])).key == records[1].key


def test_model_and_method_filter_the_rows(command: Run, experiments: list[str]) -> None:
    code, out, _ = command(*experiments, "experiment=both", "limit=3", "method=stride")
    assert code == 0
    assert [read_record(Path(p)).job.method for p in out if p.endswith(".json")] == ["stride"]
    code, _, err = command(*experiments, "experiment=both", "method=asap")
    assert code == 2
    assert "Unknown method of this experiment 'asap'" in err
    assert "stride" in err


@pytest.fixture
def compared(pictures: Path, tmp_path: Path) -> list[str]:
    """An experiment with published figures, rows that cannot run, and sweeps."""
    folder = tmp_path / "mine" / "experiment"
    folder.mkdir(parents=True)
    (folder / "paper.yaml").write_text(
        "# @package _global_\n"
        "about: {paper: Table 9, asks: 'Does it work?', samples: 50000, layout: grid}\n"
        "common: {model: digits_vit, data: example}\n"
        "rows:\n"
        "  - {method: dynamicvit, needs: {method.checkpoint: trained predictors},\n"
        "     published: {row: Learned, baseline: 96, acc: 95.5}}\n"
        "  - {method: asap, method.tau: 99, budget: macs, target: -35}\n"
        "  - {method: mass, budget: macs, target: -20,\n"
        "     published: {row: Heavy, baseline: 96, acc: 20, macs: -20}}\n"
        "  - {method: random, sweep: {k: [0.5, 0.7], seed: [0, 1]}}\n"
        "  - {model: test_vit, data: x, method: none}\n"
    )
    return ["--config-dir", str(tmp_path / "mine"), "experiment=paper", "model=digits_vit"]


def test_an_experiment_compares_with_the_paper(
    command: Run, compared: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")  # a row is a line
    small = ("limit=30", "sample=spread", "budget.samples=4", "wide=true")
    code, out, err = command(*compared, *small)
    text = "\n".join(out)
    # Neither missing predictors nor a budget that no knob meets is a failure.
    assert code == 0, err
    assert "not run: it needs method.checkpoint= (trained predictors)" in " ".join(err.split())
    assert "not run: The target -35 % cannot be met" in " ".join(err.split())
    assert text.startswith("Table 9 · digits_vit · imagenet · example · 30 samples")
    assert "Does it work?" in text
    learned = [line for line in out if line.startswith("  Learned")]
    assert learned
    assert all("not run: it needs" in line for line in learned)
    heavy = [line for line in out if line.startswith("  Heavy")]
    assert all("differs †" in line for line in heavy)
    assert any("-76.00 (96.00 → 20.00)" in line for line in heavy)
    assert sum("k=0.5 · 2 seeds" in line for line in out) >= 1
    made = [read_record(Path(line)).job for line in out if line.endswith(".json")]
    assert [(j.method, j.k, j.seed) for j in made] == [
        ("mass", None, 0),
        *(("random", k, seed) for k in (0.5, 0.7) for seed in (0, 1)),
    ]
    # The same table from the records alone.
    experiment = compared[1] + "/experiment/paper.yaml"
    assert report(["results", "--experiment", experiment]) == 0


def test_the_command_line_narrows_a_sweep(command: Run, compared: list[str]) -> None:
    given = [*compared, "limit=4", "method=random", "plan=true"]
    assert "\n".join(command(*given)[1]).count("digits_vit random k=") == 4
    text = "\n".join(command(*given, "k=[0.6,0.8]", "seed=0")[1])
    assert "random k=0.6" in text
    assert "random k=0.8" in text
    assert text.count("digits_vit random k=") == 2
    # Rows that do not sweep the key are left as they are.
    code, out, _ = command(*given[:-2], "k=[0.6]", "plan=true")
    assert code == 0
    assert "digits_vit mass on imagenet" in "\n".join(out)
    assert "\n".join(out).count("digits_vit random k=0.6") == 2


def test_an_option_is_for_the_rows_that_have_it(command: Run, compared: list[str]) -> None:
    _, out, _ = command(*compared, "limit=4", "plan=true", "method.layer=2", "budget.samples=3")
    text = "\n".join(out)
    assert text.count("layer=2") == 5
    assert text.count("searched on up to 3 images") == 2
    code, _, err = command(*compared, "method.inflection=1")
    assert code == 2
    assert "No row left of this experiment has the option method.inflection" in err
    code, _, err = command(
        *compared, "limit=4", "method=dynamicvit", "method.checkpoint=nowhere.pt"
    )
    assert code == 1
    assert "method.checkpoint=nowhere.pt does not exist" in err


def test_a_model_chooses_rows_or_takes_those_that_name_none(
    command: Run, compared: list[str], pictures: Path
) -> None:
    def models(*given: str) -> set[str]:
        out = command(*compared[:3], "plan=true", f"data={pictures}", *given)[1]
        return {line.split()[0] for line in out if " on imagenet" in line}

    assert models("weights=random") == {"digits_vit", "test_vit"}
    assert models("model=test_vit", "weights=random") == {"test_vit"}
    assert models("model=timm", "model.timm=test_vit2", "weights=random") == {"test_vit2"}


def test_a_failed_row_does_not_stop_the_others(command: Run, experiments: list[str]) -> None:
    code, out, err = command(*experiments, "experiment=both", "limit=3", "k=0.5")
    assert code == 2
    assert "'none' has no knob" in err
    assert "1 of 3 rows failed" in err
    assert len([line for line in out if line.endswith(".json")]) == 2


def test_a_failed_row_stays_in_the_table(
    command: Run, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = command(
        *TINY, f"data={pictures}", "methods=[none,tome,random]", "k=2", "limit=4"
    )
    assert code == 2
    assert "Methods without a knob run as they are: none." in err
    assert "1 of 3 rows failed" in err
    rows = [line.split() for line in out if line.startswith((" none", " tome", " random"))]
    assert [row[0] for row in rows] == ["none", "tome", "random"]
    assert rows[2][2:] == ["failed"] * 3
    assert any(line.startswith("  random k=2 failed: ") for line in out)
    assert all(len(line) <= 80 for line in out if line.startswith(" "))


def test_k_for_methods_of_which_none_has_a_knob_is_refused(command: Run, pictures: Path) -> None:
    code, _, err = command(*TINY, f"data={pictures}", "methods=[none]", "k=2")
    assert code == 2
    assert "'none' has no knob" in err


def test_wide_shows_every_column(command: Run, pictures: Path) -> None:
    words = (*TINY, f"data={pictures}", "method=tome", "k=2", "limit=4", "results=r")
    _, out, _ = command(*words)
    assert "kept:" not in "\n".join(out)
    assert out[-2] == "  wide=true shows every column and note."
    _, wide, _ = command(*words, "wide=true")
    assert "kept:" in "\n".join(wide)
    assert "wide=true" not in "\n".join(wide)
    assert wide[-1] == out[-1]
    assert "kept:" in "\n".join(command("report", "r", "wide=true")[1])


def test_an_experiment_file_is_its_rows(command: Run, experiments: list[str]) -> None:
    Path("mine/experiment/torn.yaml").write_text("rows: [")
    code, _, err = command(*experiments, "experiment=torn")
    assert code == 2
    assert "torn.yaml cannot be read" in err
    code, _, err = command(*experiments, "experiment=stray", "data=x")
    assert code == 2
    assert "Unknown key of the experiment file 'stray' 'limit'" in err


def test_choosing_a_method_takes_its_rows_alone() -> None:
    _, rows = rows_of(composed(["experiment=table1", "model=deit_tiny", "method=asap"]))
    assert len(rows) == 2
    assert all(row.entry.published for row in rows)


@pytest.mark.parametrize("name", sorted(p.stem for p in conf_dir().glob("experiment/*.yaml")))
def test_every_experiment_composes(name: str) -> None:
    given = [f"experiment={name}"]
    if any(entry.model is None for entry in load(name).entries):
        given.append("model=deit_tiny")
    experiment, rows = rows_of(composed(given))
    assert len(rows) == len(experiment.entries)
    for row in rows:
        assert row.settings is not None or row.entry.needs
        assert row.model in model_names()


def test_without_arguments_the_example_runs(command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def instead(job: object, **how: object) -> None:
        asked.append(f"{job.model} {job.method} {job.data}")  # type: ignore[attr-defined]
        raise ZeroDivisionError

    monkeypatch.setattr("asap_eval.cli.run.run", instead)
    command()
    assert asked == [f"digits_vit {m} example" for m in ("none", "asap", "mass", "random")]
    asked.clear()
    command("batch_size=8", "method=none", "experiment=example")
    assert asked == ["digits_vit none example"]


# Plans and help


def test_a_plan_says_all_and_runs_nothing(command: Run, pictures: Path, tmp_path: Path) -> None:
    given = [*TINY, f"data={pictures}", "method=asap", "k=4"]
    code, out, err = command(*given, "plan=true")
    text = "\n".join(out)
    assert code == 0, err
    assert "test_vit asap k=4" in text
    assert "6 samples" in text
    assert "GMACs per image" in text
    assert text.count("will be written") == 2
    assert not (tmp_path / "results").exists()
    command(*given)
    text = "\n".join(command(*given, "plan=true")[1])
    assert text.count("is finished and will be reused") == 2
    code, out, _ = command(*given[:2], "data=nowhere", "plan=true")
    assert code == 1
    assert "missing: data=nowhere does not exist" in "\n".join(out)


@pytest.mark.parametrize(
    "more",
    [
        ["model=deit_tiny"],
        ["model=deit_tiny", "bench=kinetics", "stage=train"],
        ["model=clip_vit_l14_336_hf", "bench=kinetics", "stage=train"],
    ],
    ids=["eval", "train", "clip"],
)
def test_a_plan_fetches_no_weights(
    more: list[str], command: Run, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("hf_hub_download", "snapshot_download"):
        monkeypatch.setattr(huggingface_hub, name, lambda *_, **__: pytest.fail("fetched"))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr("asap_eval.bench.plan.cached", lambda *_: False)
    monkeypatch.setattr("asap_eval.models.clip_tower.load_published", lambda *_: pytest.fail("is"))
    code, out, err = command(*more, f"data={pictures}", "plan=true")
    text = "\n".join(out)
    assert code == 1, err
    assert "missing: weights: " in text
    assert "is not in the local cache. A run fetches it" in text
    assert ("1.254 GMACs per image" in text) == (len(more) == 1)
    assert "will be written" not in text


@pytest.mark.parametrize("data", ["hfds/owner/name@val", "wds/https://host/{0..9}.tar"])
def test_a_plan_fetches_no_data(data: str, command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asap_eval.bench.plan.cached", lambda *_: False)
    monkeypatch.setattr("asap_eval.data.images.open_images", lambda *_, **__: pytest.fail("is"))
    code, out, _ = command(*TINY, f"data='{data}'", "plan=true")
    assert code == 1
    assert f"missing: data: {data} is not in the local cache" in "\n".join(out)


def test_a_plan_keeps_the_hubs_libraries_from_the_network(
    command: Run, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a model or data set asks for, only what is here already is found."""
    import datasets

    places = (huggingface_hub.constants, datasets.config)
    for place in places:
        monkeypatch.setattr(place, "HF_HUB_OFFLINE", False)
    seen: list[bool] = []
    prepare = planning.prepare

    def watched(job: Job, **options: Any) -> Any:
        seen.extend(place.HF_HUB_OFFLINE for place in places)
        return prepare(job, **options)

    monkeypatch.setattr(planning, "prepare", watched)
    command(*TINY, f"data={pictures}", "plan=true")
    assert seen == [True, True]
    assert [place.HF_HUB_OFFLINE for place in places] == [False, False]


# Options of a model's constructor


@pytest.mark.parametrize("model", [name for name in choices("model") if name != "timm"])
def test_every_model_hands_keys_to_its_constructor(model: str) -> None:
    check(parsed([f"model={model}", "model.kwargs.img_size=96"]))


@pytest.mark.parametrize("more", [["method=random"], ["methods=[random]"], []], ids=str)
def test_a_model_of_another_size_sees_pictures_of_its_size(
    more: list[str], command: Run, pictures: Path
) -> None:
    given = (f"data={pictures}", "limit=2", "weights=random", "model.kwargs.img_size=[96,64]")
    code, out, err = command("model.timm=test_vit", *given, *more)
    assert code == 0, err
    record = read_record(Path(out[-1]))
    assert record.job.model_params["kwargs"] == {"img_size": [96, 64]}
    assert record.macs is not None
    assert 0 < record.macs.baseline_g < 0.5 * 0.0376


def test_keys_that_a_constructor_does_not_have_are_said(command: Run, pictures: Path) -> None:
    given = (f"data={pictures}", "weights=random")
    code, _, err = command("model=deit_tiny", *given, "model.kwargs.im_size=96")
    assert code == 2
    assert "unexpected keyword argument 'im_size'" in " ".join(err.split())


def test_help_lists_groups_and_keys(command: Run) -> None:
    code, out, _ = command("--help")
    text = "\n".join(out)
    assert code == 0
    for part in (*methods(), "deit_tiny", "batch_size", "asap-eval ls"):
        assert part in text


def test_every_key_has_a_type_and_a_default() -> None:
    from dataclasses import fields

    from asap_eval.cli.groups import root_keys
    from asap_eval.cli.settings import Keys

    config = OmegaConf.load(conf_dir() / "config.yaml")
    assert {key.name for key in fields(Keys)} == set(root_keys())
    assert config.data is None
    assert (PACKAGE.parent / "conf") == conf_dir() or conf_dir().parent == PACKAGE


def test_the_program_is_found_by_its_name(command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The console script calls main without arguments."""
    monkeypatch.setattr(sys, "argv", ["asap-eval", "model=nothing"])
    assert main() == 2
