"""Training of predictors: masks, losses, the loop, what its file says, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import golden_vit as g
import pytest
import timm
import tiny
import torch
from cases import checkpoint, trainable
from pictures import TINY, picture_folder
from safetensors.torch import load_file, save_file
from torch.nn.functional import linear
from training import lend_backbone, twelve_pictures

import asap_eval
from asap_eval.checkpoint import read_metadata
from asap_eval.cli import main as evaluate
from asap_eval.cli import train as cli
from asap_eval.cli.train import Asked
from asap_eval.cli.words import read
from asap_eval.errors import AsapEvalError, BadValueError, UnsupportedModelError, WeightsError
from asap_eval.files.digests import file_sha256
from asap_eval.hosts import install
from asap_eval.method import Need, View, build
from asap_eval.methods.parts.learned import Stages
from asap_eval.methods.parts.predictors import TRAINED, Predictor
from asap_eval.methods.spot import attention_statistics, standard_scores
from asap_eval.models.weights import tensors_sha256
from asap_eval.record import read_record
from asap_eval.train.fits.losses import ce_loss, kl_loss, ratio_loss
from asap_eval.train.fits.masked import Masked, check_output, gumbel_choice, softmax_policy
from asap_eval.train.method import TrainJob, loop, setting, train

METHODS = ("dynamicvit", "spot")
KEEP = 0.4


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return twelve_pictures(tmp_path_factory.mktemp("data"))


@pytest.fixture
def backbone(monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    return lend_backbone(monkeypatch)


def job(method: str, pictures: Path, out: Path, **changes: Any) -> TrainJob:
    keys: dict[str, Any] = {"keep": KEEP, "epochs": 2, "batch_size": 4, "lr": 3e-3}
    keys |= {"options": {"blocks": [2, 3]}, "data": str(pictures), "out": str(out)}
    return TrainJob(**{**keys, "method": method, "model": "test_vit", **changes})


# --- masks ----------------------------------------------------------------------------------------


@g.files("dynamicvit", "fn_*")
def test_masked_attention_is_the_authors(stem: str) -> None:
    golden = g.read("dynamicvit", stem)
    policy = golden["policy"][..., 0]
    assert 0 < policy.mean() < 1
    g.close(softmax_policy(golden["logits"], policy), golden["softmax_policy"])
    ones = softmax_policy(golden["logits"], torch.ones_like(policy))
    g.close(ones, golden["softmax_policy_ones"])

    qkv = linear(golden["x"], golden["attn.qkv.weight"], golden["attn.qkv.bias"])
    q, k, v = qkv.unflatten(-1, (3, golden.metadata["num_heads"], -1)).permute(2, 0, 3, 1, 4)
    masked = Masked(trainable("dynamicvit"), {}, torch.Generator())
    state: Any = type("State", (), {"policy": policy})()
    out = masked.attend(q, k, v, None, state).transpose(1, 2).flatten(2)
    projected = linear(out, golden["attn.proj.weight"], golden["attn.proj.bias"])
    g.close(projected, golden["attn_policy_out"])


def test_draws_follow_the_probabilities_and_pass_gradients() -> None:
    wanted = torch.tensor([0.2, 0.7])
    logits = torch.stack([wanted.log(), (1 - wanted).log()], -1).expand(20000, 2, 2)
    logits = logits.clone().requires_grad_()
    drawn = gumbel_choice(logits, torch.Generator().manual_seed(0))
    assert drawn.unique().tolist() == pytest.approx([0, 1], abs=1e-6)
    torch.testing.assert_close(drawn.mean(0), wanted, rtol=0, atol=0.02)
    drawn.sum().backward()
    assert (logits.grad[..., 0] > 0).any()
    assert torch.equal(drawn, gumbel_choice(logits, torch.Generator().manual_seed(0)))


class Fixed(Predictor):
    """Keeps the patches that a list names, whatever it reads; seen is what it read."""

    def __init__(self, kept: list[int]) -> None:
        super().__init__()
        self.kept = kept

    def forward(self, weight: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        self.sizes = tuple(value.shape[-1] for value in values)
        self.read = values
        place = torch.arange(weight.shape[1])
        score = torch.where(torch.isin(place, torch.tensor(self.kept)), 50.0, -50.0)
        return torch.stack([score, -score], -1).expand(len(weight), -1, -1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["plain", "distilled", "registers"])
def test_a_masked_pass_is_the_pruned_one(method: str, name: str) -> None:
    """With decisions that leave no doubt, masks give the logits of removal, and what the second
    predictor reads of the patches still there is the same in both."""
    kept = [1, 4, 9, 16, 25]
    model, x = tiny.HOSTS[name](), tiny.images(2)
    built = build(method, k=(5.5 / 36), blocks=[2])
    first = Fixed(kept)
    masked = Masked(built, {2: first}, torch.Generator().manual_seed(0))
    with install(model, masked):
        soft = tiny.output(model, x)
    assert masked.masks.kept[0].tolist() == pytest.approx([5 / 36] * 2)

    pruned = type("Pruned", (type(built),), {
        "check": type(built).check_options,
        "begin": lambda self, batch: self.stages(batch, {2: first}),
    })(**vars(built))  # fmt: skip
    read = first.read
    first.sizes = tuple(value.shape[-1] for value in read)
    with install(model, pruned) as trace:
        hard = tiny.output(model, x)
    assert (trace.lengths[-1] - trace.lengths[0] < 0).all()
    torch.testing.assert_close(soft, hard, rtol=0, atol=2e-3)
    assert (hard - tiny.output(model, x)).abs().max() > 0.1
    for masked_value, value in zip(read, first.read, strict=True):
        torch.testing.assert_close(masked_value, value, rtol=0, atol=1e-5)


def test_statistics_of_masked_patches_are_those_of_the_rest() -> None:
    maps = torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    weight = torch.tensor([[1, 0, 1, 1, 0, 1, 1.0]]).expand(2, -1)
    there = weight[0] > 0
    whole = attention_statistics(maps, 2, weight)
    keep = torch.cat([torch.tensor([True, True]), there])
    rest = attention_statistics(maps[:, :, keep][..., keep], 2, torch.ones(2, 5))
    torch.testing.assert_close(whole[:, there], rest)
    scores = standard_scores(whole, weight)[:, there]
    torch.testing.assert_close(scores, standard_scores(rest, torch.ones(2, 5)))
    torch.testing.assert_close(scores.mean(1), torch.zeros(2, 18), rtol=0, atol=1e-5)
    torch.testing.assert_close(scores.var(1, correction=0), torch.ones(2, 18))

    block = maps[1, 2, 2:, 2:][there][:, there]
    expected = [
        maps[1, 2, 0, 2:][there],
        maps[1, 2, 2:, 0][there],
        block.mean(1),
        block.var(1, correction=0),
        block.mean(0),
        block.var(0, correction=0),
    ]
    torch.testing.assert_close(rest[1, :, 12:], torch.stack(expected, -1))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("left", [0, 1])
def test_an_image_with_hardly_a_patch_left_can_be_learned_from(left: int, method: str) -> None:
    draws = torch.Generator().manual_seed(0)
    maps = torch.rand(1, 2, 6, 6, generator=draws).requires_grad_()
    features = torch.randn(1, 6, 8, generator=draws).requires_grad_()
    policy = (torch.arange(6)[None] <= left).float().requires_grad_()
    reads = {Need.FEATURES: features, Need.HEAD_ATTENTION: maps}
    view = View(2, torch.arange(1), policy, 1, lambda *_: None, reads)
    built = trainable(method)
    inputs = built.inputs(view, Stages({built.place(2): 1}, {}))
    assert inputs is not None
    predictor = built.untrained(inputs)
    predictor(*inputs)[..., 0].sum().backward()
    learned = [features, *predictor.parameters(), maps, policy]
    assert all(p.grad is None or p.grad.isfinite().all() for p in learned)
    assert features.grad is not None
    assert features.grad.any()


def test_a_head_that_reads_patches_is_refused() -> None:
    check_output(tiny.vit(1), tiny.images(1))
    with pytest.raises(UnsupportedModelError, match="reads patches"):
        check_output(tiny.HOSTS["avg_with_cls"](), tiny.images(1))


# --- losses ---------------------------------------------------------------------------------------


def test_losses_have_their_values() -> None:
    teacher = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    student = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    p = teacher.softmax(-1)
    apart = (p[0] * (p[0].log() - torch.tensor(0.5).log())).sum()
    torch.testing.assert_close(kl_loss(student, teacher), apart / 2)
    right = -torch.tensor([0.5, p[1, 1]]).log()
    torch.testing.assert_close(ce_loss(student, teacher), right.mean())
    kept = [torch.tensor([0.5, 0.7]), torch.tensor([0.25, 0.25])]
    assert ratio_loss(kept, 0.5).item() == pytest.approx((0.04 / 2 + 0) / 2)


# --- the loop -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_training_lowers_the_loss_and_leaves_the_backbone(
    method: str, backbone: torch.nn.Module, pictures: Path, tmp_path: Path
) -> None:
    before, plain = tensors_sha256(backbone), tiny.output(backbone, tiny.images(2))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    weights = {"ce": 0.0, "kl": 0.5, "ratio": 5.0, "keep": 0.2, "lr": 1e-2}
    asked = job(method, pictures, tmp_path / "p.safetensors", epochs=20, batch_size=12, **weights)
    out = train(asked, "asap-eval train …")
    said = read_metadata(out)
    assert float(said["loss_last_epoch"]) < 0.6 * float(said["loss_first_epoch"])
    assert tensors_sha256(backbone) == before
    assert not any(p.requires_grad for p in backbone.parameters())
    assert torch.equal(tiny.output(backbone, tiny.images(2)), plain)
    assert torch.equal(torch.get_rng_state(), state)
    assert [path.name for path in tmp_path.iterdir()] == ["p.safetensors"]

    assert said["trained"] == TRAINED
    facts = {"method": method, "backbone_sha256": "0" * 64, "blocks": "[2, 3]", "steps": "20"}
    facts |= {"images": "12", "data": str(pictures), "command": "asap-eval train …", "failed": "0"}
    assert facts.items() <= said.items()

    with asap_eval.reduce(backbone, method, k=KEEP, blocks=[2, 3], checkpoint=str(out)) as trace:
        pruned = tiny.output(backbone, tiny.images(2))
    kept = [int(36 * KEEP), int(36 * KEEP**2)]
    assert trace.lengths[-1].tolist() == [1 + kept[1]] * 2
    assert trace.method_macs.min() > 0
    assert pruned.isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_decides_and_an_interruption_changes_nothing(
    method: str,
    backbone: torch.nn.Module,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def trained(name: str, **changes: Any) -> dict[str, torch.Tensor]:
        return load_file(train(job(method, pictures, tmp_path / f"{name}.safetensors", **changes)))

    def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
        return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)

    straight = trained("a")
    assert equal(straight, trained("b"))
    assert not equal(straight, trained("c", seed=1))

    step, count = loop._step, 0

    def interrupted(*args: Any) -> None:
        nonlocal count
        count += 1
        if count == 5:
            raise KeyboardInterrupt
        step(*args)

    monkeypatch.setattr(loop, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained("d")
    left = tmp_path / "d.safetensors.resume"
    assert left.exists()
    assert not (tmp_path / "d.safetensors").exists()
    with pytest.raises(BadValueError, match=r"another|other options"):
        trained("d", lr=1e-4)
    count = 100
    assert equal(trained("d"), straight)
    assert count == 102  # two of six steps were left
    assert not left.exists()


def test_unreadable_images_are_left_out_and_counted(
    backbone: torch.nn.Module, pictures: Path, tmp_path: Path
) -> None:
    folder = picture_folder(tmp_path / "some", each=2)
    bad = sorted(folder.rglob("*.png"))[-1]
    bad.write_bytes(b"no picture")
    out = train(job("dynamicvit", folder, tmp_path / "p.safetensors"))
    assert read_metadata(out)["failed"] == "1"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "random"}, "asvit, .*spot and tosa_reading have"),
        ({"out": "p.pth"}, r"\.safetensors"),
        ({"out": f"{__file__}/p.safetensors"}, "is a file"),
        ({"keep": 1.0}, "keep=1"),
        ({"epochs": 0}, "epochs=0"),
        ({"lr": -1.0}, "lr=-1"),
        ({"options": {"checkpoint": "x"}}, "what training makes"),
        ({"options": {"blocks": []}}, "nothing to train"),
        ({"method": "spot", "options": {"blocks": [1], "history": 2}}, "history=2"),
        ({"method": "spot", "options": {"blocks": [2], "hidden": 1}}, "hidden=1"),
        ({"options": {"block": [1]}}, "blocks"),
        ({"limit": 99}, "12 images"),
    ],
)
@pytest.mark.usefixtures("backbone")
def test_what_cannot_be_trained_is_refused(
    changes: dict[str, Any], said: str, pictures: Path, tmp_path: Path
) -> None:
    with pytest.raises(AsapEvalError, match=said):
        train(job(**{"method": "dynamicvit", "out": tmp_path / "p.safetensors", **changes},
                  pictures=pictures))  # fmt: skip
    assert not list(tmp_path.iterdir())


# --- checkpoints ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_method_without_a_checkpoint_names_the_command(method: str) -> None:
    with (
        pytest.raises(BadValueError, match=f"asap-eval train method={method} "),
        asap_eval.reduce(model := tiny.vit(1), method, blocks=[2]),
    ):
        tiny.output(model, tiny.images(1))


def test_a_checkpoint_for_something_else_is_named(
    backbone: torch.nn.Module, pictures: Path, tmp_path: Path
) -> None:
    files = {
        method: str(train(job(method, pictures, tmp_path / f"{method}.safetensors", epochs=1)))
        for method in METHODS
    }
    wider, heads = tiny.vit(1, width=48), tiny.vit(1, heads=4)
    cases: list[tuple[Any, str, dict[str, Any], str]] = [
        (wider, "spot", {}, r"read 32 \+ 24 .* has 48 \+ 24"),
        (heads, "spot", {}, r"read 32 \+ 24 .* has 32 \+ 48"),
        (backbone, "spot", {"history": 1}, r"read 32 \+ 24 .* has 32 \+ 12"),
        (backbone, "spot", {"blocks": [2, 4]}, r"trained for method\.blocks=\[2, 3\]"),
        (backbone, "dynamicvit", {"blocks": [2]}, r"trained for method\.blocks=\[2, 3\]"),
        (wider, "dynamicvit", {}, "read 32 features .* has 48"),
        (backbone, "spot", {"checkpoint": files["dynamicvit"]}, "predictors of method=dynamicvit"),
    ]
    for model, method, options, said in cases:
        given = {"blocks": [2, 3], "checkpoint": files[method], **options}
        with (
            pytest.raises(AsapEvalError, match=said),
            asap_eval.reduce(model, method, k=0.5, **given),
        ):
            tiny.output(model, tiny.images(1))

    # Without the metadata the shapes still tell.
    bare = tmp_path / "bare.safetensors"
    save_file(load_file(files["dynamicvit"]), bare)
    with (
        pytest.raises(WeightsError, match="does not fit spot"),
        asap_eval.reduce(backbone, "spot", blocks=[2, 3], checkpoint=str(bare)),
    ):
        tiny.output(backbone, tiny.images(1))


# --- the command ----------------------------------------------------------------------------------


def test_trained_predictors_run_through_the_command_line(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "p.safetensors"
    words = [*TINY, f"data={pictures}", "method.blocks=[3]"]
    words += ["limit=4", "epochs=1", "batch_size=2"]
    assert cli.main(["method=spot", f"out={file}", "keep=0.5", *words]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [str(file)]
    assert "epoch 1/1: loss" in err
    assert read_metadata(file)["command"].startswith("asap-eval train method=spot out=")
    assert json.loads(read_metadata(file)["options"]) == {
        "history": 2,
        "hidden": None,
        "remap": None,
    }

    words = [*TINY, f"data={pictures}", "method=spot", "k=0.5", "method.blocks=[3]"]
    words += [f"method.checkpoint={file}", f"results={tmp_path / 'results'}", "limit=4"]
    words += ["wide=true"]
    assert evaluate(words) == 0
    out, err = capsys.readouterr()
    assert f"spot ({TRAINED})" in out
    assert "not a fair one" in err
    assert "other weights" not in err
    record = read_record(Path(out.splitlines()[-1]))
    assert record.provenance.method["sha256"] == file_sha256(file)
    assert record.provenance.method["trained"] == TRAINED
    assert (record.tokens.kept_min, record.tokens.kept_max) == (50, 50)

    assert cli.main(["method=spot", f"out={file}", *words[:3]]) == 2
    assert "exists" in capsys.readouterr().err
    assert file_sha256(file) == record.provenance.method["sha256"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["method=spot", "kep=0.5"], "Did you mean keep"),
        (["method=spot", "epochs=many"], "epochs='many': give a whole number"),
        (["method"], "give key=value"),
        (["method=spot", "model=deit_tiny", "out=x.safetensors"], "data is missing"),
    ],
)
def test_bad_command_lines(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    assert said in capsys.readouterr().err


def test_help_lists_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for key in TrainJob.__dataclass_fields__:
        assert (f"\n  {key}=" in text) == (key not in ("options", "model_options"))
    for key in ("plugins=", "device=auto", "method.<option>=", "model.<option>="):
        assert f"\n  {key}" in text


def test_options_of_the_method_are_read() -> None:
    words = ["method=spot", "lr=3e-4", "method.blocks=[2,3]", "method.history=1", "limit=5"]
    found = read([*words, "--model.num_classes", "10", "workers=auto"], Asked, "train").job()
    assert found.model_options == {"num_classes": 10}
    assert (found.device == "cpu", found.workers == 0) == (not torch.cuda.is_available(),) * 2
    assert (found.method, found.lr, found.limit) == ("spot", 3e-4, 5)
    assert found.options == {"blocks": [2, 3], "history": 1}


def test_weights_with_predictors_serve_model_and_method(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file as DynamicViT's authors save it: backbone and predictors together."""
    torch.manual_seed(0)
    model = timm.create_model("test_vit")
    maker: Callable[..., Predictor] = trainable("dynamicvit").untrained
    made = maker((torch.ones(1, 1), torch.zeros(1, 1, model.embed_dim))).state_dict()
    both = {**model.state_dict(), **{f"score_predictor.0.{k}": v for k, v in made.items()}}
    file = tmp_path / "both.pth"
    torch.save({"model": both}, file)
    words = ["model=test_vit", f"weights={file}", f"data={pictures}", "method=dynamicvit"]
    words += [f"method.checkpoint={file}", "method.blocks=[3]", f"results={tmp_path}", "limit=4"]
    assert evaluate(words) == 0
    out, err = capsys.readouterr()
    assert "10 tensors of token predictors (score_predictor.*) are not part of the model" in err
    assert TRAINED not in out
    record = read_record(Path(out.splitlines()[-1]))
    assert record.provenance.weights["left_out"].startswith("10 tensors")
    assert record.tokens.kept_max == 70

    with pytest.raises(WeightsError, match="missing"):
        setting.load_model("test_vit", weights=checkpoint(1))


def test_spot_reads_a_patch_and_the_mean_of_those_that_count() -> None:
    """Another patch moves every score through the global half; a masked one moves none."""
    patches, statistics = torch.randn(1, 6, 32), torch.randn(1, 6, 24)
    predictor = build("spot", remap=8).untrained((torch.ones(1, 6), patches, statistics))  # type: ignore[attr-defined]
    assert predictor.remap.weight.shape == (8, 32)
    weight = torch.tensor([[1.0, 1, 1, 1, 1, 0]])
    with torch.no_grad():
        before = predictor(weight, patches, statistics)
        other, masked = patches.clone(), patches.clone()
        other[0, 1] += torch.randn(32)
        masked[0, 5] += torch.randn(32)
        assert (predictor(weight, other, statistics) - before)[0, 0].abs().max() > 0
        assert torch.equal(predictor(weight, masked, statistics)[0, :5], before[0, :5])
    again = type(build("spot")).restored(predictor.state_dict())  # type: ignore[attr-defined]
    again.load_state_dict(predictor.state_dict(), strict=True)
    assert again.sizes == predictor.sizes == (32, 24)
