"""Trained parts of single methods: what is learnt holds on images that were not trained on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file
from training import lend_backbone, twelve_pictures

import asap_eval
from asap_eval.checkpoint import read_metadata
from asap_eval.data.images import image_batches
from asap_eval.errors import AsapEvalError
from asap_eval.files.digests import file_sha256
from asap_eval.hosts import geometry_of, install
from asap_eval.method import build
from asap_eval.methods.asvit import AsVit
from asap_eval.methods.parts.learnt_counts import Counts
from asap_eval.methods.parts.predictors import TRAINED
from asap_eval.models.weights import tensors_sha256
from asap_eval.train.fits import fit_of
from asap_eval.train.fits.asvit import Thresholded, share_of_work
from asap_eval.train.fits.diffrate import DiffRateFit, Sorted, chances, expected, straight
from asap_eval.train.fits.diffrate import share_of_work as work_of_counts
from asap_eval.train.fits.fit import Asked, Fit
from asap_eval.train.fits.sparsifiner import rebuilt, untrained
from asap_eval.train.fits.watching import Seen
from asap_eval.train.method import TrainJob, loop, train
from asap_eval.train.method.setting import prepared
from asap_eval.work.macs import model_macs, unpruned_macs

BLOCKS = [2, 3]
SCORES = {"blocks": BLOCKS, "thresholds": [0.02, 0.02]}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return twelve_pictures(tmp_path_factory.mktemp("data"))


@pytest.fixture
def backbone(monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    return lend_backbone(monkeypatch)


def job(method: str, pictures: Path, out: Path, **changes: Any) -> TrainJob:
    keys: dict[str, Any] = {"model": "test_vit", "data": str(pictures), "out": str(out)}
    return TrainJob(**{"method": method, "batch_size": 6, **keys, **changes})


TRAININGS: dict[str, dict[str, Any]] = {
    "sparsifiner": {"epochs": 40, "lr": 1e-2},
    "tosa_reading": {"epochs": 20},
    "asvit": {"epochs": 20, "lr": 2e-3, "target": -25.0, "options": SCORES},
}
SEARCH: dict[str, Any] = {"epochs": 10, "lr": 0.1, "target": -30.0}


def held_out(parts: Fit, model: torch.nn.Module) -> float:
    """The loss on images that no training here sees."""
    with torch.no_grad():
        return float(parts.losses(model, tiny.images(8, seed=9), torch.Generator())[0])


def pixels(pictures: Path) -> torch.Tensor:
    """``[12, 3, 24, 24]`` a folder of pictures as a training sees them."""
    ready = prepared(job("tosa_reading", pictures, pictures / "p.safetensors"))
    return next(iter(image_batches(ready.images, ready.loaded.transform, 12))).pixels


def fresh(job: TrainJob, model: torch.nn.Module) -> Fit:
    return job.fit(Asked(model, job.built(), job.recipe, job.seed), tiny.images(1))


@pytest.mark.parametrize("method", TRAININGS)
def test_what_is_learnt_holds_on_other_images(
    method: str, backbone: torch.nn.Module, pictures: Path, tmp_path: Path
) -> None:
    before = tensors_sha256(backbone)
    asked = job(method, pictures, tmp_path / "p.safetensors", **TRAININGS[method])
    parts = fresh(asked, backbone)
    start = held_out(parts, backbone)
    said = read_metadata(train(asked, "asap-eval train …"))
    assert float(said["loss_last_epoch"]) < 0.9 * float(said["loss_first_epoch"])
    assert tensors_sha256(backbone) == before

    names = dict(zip(parts.tensors(), parts.parameters(), strict=False))
    learnt = load_file(tmp_path / "p.safetensors")
    if method == "asvit":
        parts.thresholds.data = torch.stack([learnt[name] for name in sorted(learnt)])
    else:
        assert learnt.keys() == names.keys()
        for name, value in names.items():
            value.data = learnt[name]
    assert held_out(parts, backbone) < 0.95 * start

    facts = {"trained": TRAINED, "method": method, "backbone_sha256": "0" * 64, "failed": "0"}
    facts |= {"images": "12", "command": "asap-eval train …", "lr": str(asked.recipe["lr"])}
    assert facts.items() <= said.items()


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("sparsifiner", {"k": 0.3, "least": 0.0}),
        ("tosa_reading", {"k": 0.5}),
        ("asvit", {"blocks": BLOCKS}),
    ],
)
def test_a_method_runs_from_its_file(
    method: str,
    options: dict[str, Any],
    backbone: torch.nn.Module,
    pictures: Path,
    tmp_path: Path,
) -> None:
    changes = {**TRAININGS[method], "epochs": 1}
    file = str(train(job(method, pictures, tmp_path / "p.safetensors", **changes)))
    built = build(method, checkpoint=file, **options)
    assert built.origin()["trained"] == TRAINED
    images = tiny.images(2)
    with asap_eval.reduce(backbone, method, checkpoint=file, **options):
        got = tiny.output(backbone, images)
    assert got.isfinite().all()
    assert (got - tiny.output(backbone, images)).abs().max() > 1e-4


@pytest.mark.parametrize("method", [*TRAININGS, "quantiles", "diffrate"])
def test_an_interruption_changes_nothing(
    method: str,
    backbone: torch.nn.Module,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quantiles = {"how": "quantiles", "options": {"blocks": BLOCKS}}
    others = {"quantiles": quantiles, "diffrate": SEARCH}
    changes = {**{**TRAININGS, **others}[method], "epochs": 2}
    name = "asvit" if method == "quantiles" else method
    suffix = ".json" if method == "diffrate" else ".safetensors"

    def trained(file: str) -> Any:
        made = train(job(name, pictures, tmp_path / f"{file}{suffix}", **changes))
        if suffix == ".safetensors":
            return {key: value.tolist() for key, value in load_file(made).items()}
        return next(iter(json.loads(made.read_text())["counts"].values()))

    straight, step, count = trained("a"), loop._step, 0

    def interrupted(*args: Any) -> None:
        nonlocal count
        count += 1
        if count == 4:
            raise KeyboardInterrupt
        step(*args)

    monkeypatch.setattr(loop, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained("b")
    again = trained("b")
    assert count == 5  # one of four steps was left
    assert again == straight


# --- single methods -------------------------------------------------------------------------------


def test_the_loss_of_masks_is_the_squared_error_of_the_patches_rows() -> None:
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 3, 9, 8, generator=g).unbind(0)
    predictor = untrained(9, 8, g)
    assert predictor.proj_n.shape == (9, 1)
    assert predictor.proj_c_q.weight.shape == (4, 8)
    active = torch.ones(1, 9, dtype=torch.bool)
    guess = predictor.coefficients(q, k, active, 1) @ predictor.proj_back_n.mT
    maps = torch.cat([torch.zeros(1, 3, 1, 9), guess + 0.5], 2)
    found = rebuilt(predictor, Seen(q, k, maps), 1)
    assert found.item() == pytest.approx(0.01 * 0.25 * guess.numel())


def test_an_untrained_selector_is_close_to_the_stand_in(backbone: torch.nn.Module) -> None:
    from asap_eval.train.fits.tosa_reading import untrained as selector
    from asap_eval.train.fits.watching import watched

    seen = watched(backbone, tiny.images(2))[0]
    scores = seen.q @ seen.k.mT * seen.q.shape[-1] ** -0.5
    assert scores.min() > -8
    made = selector(seen.q.shape[1], torch.Generator().manual_seed(0))
    assert (made(scores).exp() - seen.maps).abs().max() < 0.1


def test_masked_thresholds_decide_as_the_method_does(backbone: torch.nn.Module) -> None:
    """The same patches, logits near those of removal, and the work of the ledger."""
    images, thresholds = tiny.images(4), [0.024, 0.025]
    method = AsVit(blocks=BLOCKS, thresholds=thresholds)
    with install(backbone, method) as trace:
        hard = tiny.output(backbone, images)
    masked = Thresholded(method, torch.tensor(thresholds))
    with install(backbone, masked):
        soft = tiny.output(backbone, images)
    state, geometry = masked.state, geometry_of(backbone)
    assert state.policy.sum(1).tolist() == trace.lengths[-1].tolist()
    assert 1 < state.policy.sum(1).min() < 37
    torch.testing.assert_close(soft, hard, rtol=0, atol=2e-3)
    share = model_macs(geometry, trace).mean() / unpruned_macs(geometry)
    found = share_of_work(geometry, state.counts(geometry))
    assert float(found) == pytest.approx(float(share), rel=1e-6)


def test_trained_thresholds_meet_the_work(
    backbone: torch.nn.Module, pictures: Path, tmp_path: Path
) -> None:
    asked = job("asvit", pictures, tmp_path / "p.safetensors", **TRAININGS["asvit"])
    file = str(train(asked))
    with asap_eval.reduce(backbone, "asvit", checkpoint=file, blocks=BLOCKS) as trace:
        tiny.output(backbone, tiny.images(12, seed=9))
    geometry = geometry_of(backbone)
    share = float(model_macs(geometry, trace).mean() / unpruned_macs(geometry))
    assert share == pytest.approx(0.75, abs=0.04)


def test_calibrated_thresholds_leave_the_wanted_share(
    backbone: torch.nn.Module, pictures: Path, tmp_path: Path
) -> None:
    changes = {"how": "quantiles", "epochs": 2, "keep": 0.6, "options": {"blocks": BLOCKS}}
    asked = job("asvit", pictures, tmp_path / "p.safetensors", **changes)
    file = train(asked)
    said = read_metadata(file)
    assert (said["trained"], said["how"]) == ("thresholds calibrated (ours)", "quantiles")
    assert float(said["reaching_last_epoch"]) == pytest.approx(0.6, abs=1e-3)

    def left(**options: Any) -> list[float]:
        """Patches behind both places, mean over the images it was calibrated on."""
        with asap_eval.reduce(backbone, "asvit", blocks=BLOCKS, **options) as trace:
            tiny.output(backbone, pixels(pictures))
        return [float(trace.lengths[at - 1].float().mean()) - 1 for at in BLOCKS]

    found = left(checkpoint=str(file))
    assert found == pytest.approx([36 * 0.6, 36 * 0.36], abs=0.1)
    assert left(thresholds=[0.001, 0.002]) != pytest.approx(found, abs=1)


def test_a_masked_search_decides_as_the_method_does(backbone: torch.nn.Module) -> None:
    """The same logits as with tokens really pruned and merged, and the work of the ledger."""
    asked = job("diffrate", Path("nowhere"), Path("p.json"), **SEARCH)
    parts, images = fresh(asked, backbone), tiny.images(4)
    assert isinstance(parts, DiffRateFit)
    counts, geometry = parts.counts(), geometry_of(backbone)
    lists = {"prune": list(counts.prune), "merge": list(counts.merge)}
    assert counts.prune[0] == counts.merge[0] == 37
    assert all(
        2 < less < more for more, less in zip(counts.prune[1:], counts.merge[1:], strict=True)
    )
    with asap_eval.reduce(backbone, "diffrate", **lists) as trace:
        hard = tiny.output(backbone, images)
    with install(backbone, Sorted(parts.logits, geometry)):
        soft = tiny.output(backbone, images)
    torch.testing.assert_close(soft, hard, rtol=0, atol=1e-4)
    assert (hard - tiny.output(backbone, images)).abs().max() > 0.1
    share = float(model_macs(geometry, trace).mean() / unpruned_macs(geometry))
    assert float(work_of_counts(geometry, parts.expected().detach())) == pytest.approx(
        share, rel=1e-6
    )
    assert share == pytest.approx(0.7, abs=0.02)


def test_chances_are_of_counts_and_masks_pass_them_on() -> None:
    logits = torch.tensor([0.1, 0.2, 0.7]).log().requires_grad_()
    torch.testing.assert_close(chances(logits), torch.tensor([1.0, 0.9, 0.7]))
    assert expected(logits, 1).item() == 4  # 1 + 2.6 is rounded up
    rank = torch.tensor([[0, 3, 1, 2]])
    mask = straight(rank, 2, 3, chances(logits), 1)
    assert mask.tolist() == [[1, 1, 1, 0]]  # rank 3 was masked before: what it is does not change
    (mask[0, 3]).backward()
    assert logits.grad is not None
    assert logits.grad[0] < 0 < logits.grad[2]  # likelier large counts keep it


def test_searched_counts_beat_the_start_on_other_images(backbone: torch.nn.Module) -> None:
    asked = job("diffrate", Path("nowhere"), Path("p.json"), **SEARCH)
    parts, images = fresh(asked, backbone), tiny.images(12, seed=3)
    assert isinstance(parts, DiffRateFit)
    start = parts.counts()
    optimizer = torch.optim.AdamW(parts.parameters(), lr=0.1, weight_decay=0)
    for _ in range(20):
        for half in images.chunk(2):
            optimizer.zero_grad()
            parts.losses(backbone, half, torch.Generator())[0].backward()
            optimizer.step()

    others = tiny.images(32, seed=9)
    plain = tiny.output(backbone, others).log_softmax(-1)

    def lost(counts: Counts) -> tuple[float, float]:
        """Divergence from the unpruned model's classes, and the share of the work."""
        lists = {"prune": list(counts.prune), "merge": list(counts.merge)}
        with asap_eval.reduce(backbone, "diffrate", **lists) as trace:
            out = tiny.output(backbone, others).log_softmax(-1)
        share = float(model_macs(geometry_of(backbone), trace).mean())
        share /= unpruned_macs(geometry_of(backbone))
        return float((plain.exp() * (plain - out)).sum(-1).mean()), share

    (at_first, more), (learnt, work) = lost(start), lost(parts.counts())
    assert (more, work) == pytest.approx((0.7, 0.7), abs=0.01)
    assert learnt < 0.75 * at_first


def test_a_file_of_counts_runs_and_says_where_it_is_from(
    backbone: torch.nn.Module, pictures: Path, tmp_path: Path
) -> None:
    before = tensors_sha256(backbone)
    file = train(job("diffrate", pictures, tmp_path / "found.json", **SEARCH), "asap-eval train …")
    assert tensors_sha256(backbone) == before
    content = json.loads(file.read_text())
    facts = {"trained": "counts learnt by us", "method": "diffrate", "backbone_sha256": "0" * 64}
    facts |= {"images": "12", "target": "-30.0", "command": "asap-eval train …"}
    assert facts.items() <= content["made"].items()
    origin = build("diffrate", counts=str(file)).origin()
    assert (origin["sha256"], origin["trained"]) == (file_sha256(file), "counts learnt by us")

    def work(**options: Any) -> float:
        with asap_eval.reduce(backbone, "diffrate", counts=str(file), **options) as trace:
            tiny.output(backbone, tiny.images(2))
        assert trace.lengths[-1].max() < 37
        return float(model_macs(geometry_of(backbone), trace).mean()) / 1e9

    (found,) = content["counts"].values()
    ((gmacs, counts),) = found["budgets"].items()
    assert work() == pytest.approx(float(gmacs), rel=1e-4)
    assert [len(counts[name]) for name in ("prune", "merge")] == [5, 5]
    # Between the learnt budget and the whole work counts are interpolated, as between published.
    half = (float(gmacs) + found["unpruned"]) / 2
    assert float(gmacs) < work(k=half) < found["unpruned"]


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "tome"}, "nothing to train; asvit, .*tosa_reading have"),
        ({"method": "sparsifiner", "keep": 0.7}, "keep=0.7 is no key of the training of method=sp"),
        ({"method": "tosa_reading", "how": "quantiles"}, "value of how for method=tosa_reading"),
        ({"method": "asvit", "target": 35.0}, "target=35 is a change"),
        ({"method": "asvit", "options": {**SCORES, "k": 2.0}}, "method.k=2 scales"),
        ({"method": "asvit", "options": {"thresholds": [0.1]}}, "1 thresholds for blocks"),
        ({"method": "asvit", "how": "quantiles", "epochs": 1}, "one pass for each of the"),
        ({"method": "asvit", "how": "quantiles", "keep": 1.5}, "keep=1.5"),
        ({"method": "tosa_reading", "options": {"checkpoint": "x"}}, "what training makes"),
        ({"method": "diffrate"}, r"ends in \.json"),
        (
            {"method": "diffrate", "out": "x.json", "options": {"counts": "x"}},
            "what training makes",
        ),
        ({"method": "diffrate", "out": "x.json", "options": {"k": 1.0}}, "give target=<percent>"),
        ({"method": "diffrate", "out": "x.json", "target": -99.0}, "reach .* % at most"),
        ({"method": "sparsifiner", "data": "nowhere"}, "nowhere does not exist"),
    ],
)
@pytest.mark.usefixtures("backbone")
def test_what_cannot_be_trained_is_refused(
    changes: dict[str, Any], said: str, pictures: Path, tmp_path: Path
) -> None:
    with pytest.raises(AsapEvalError, match=said) as caught:
        train(job(**{"out": tmp_path / "p.safetensors", "pictures": pictures, **changes}))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def files(backbone: torch.nn.Module, pictures: Path, tmp_path: Path) -> Callable[[str], str]:
    """A file of each method, after a short training."""

    def made(method: str) -> str:
        changes = {**TRAININGS[method], "epochs": 1}
        return str(train(job(method, pictures, tmp_path / f"{method}.safetensors", **changes)))

    return made


def test_a_file_of_another_method_or_model_is_named(
    backbone: torch.nn.Module, files: Callable[[str], str]
) -> None:
    made = {method: files(method) for method in TRAININGS}
    heads, large = tiny.vit(1, heads=4), tiny.large()
    cases: list[tuple[Any, str, str, dict[str, Any], str]] = [
        (backbone, "sparsifiner", "asvit", {}, "trained for method=asvit, not for sparsifiner"),
        (backbone, "asvit", "tosa_reading", {}, "trained for method=tosa_reading, not for asvit"),
        (backbone, "tosa_reading", "sparsifiner", {}, "method=sparsifiner, not of tosa_reading"),
        (heads, "tosa_reading", "tosa_reading", {}, "read 2 heads, this model has 4"),
        (large, "tosa_reading", "tosa_reading", {}, "2 selectors in .* for 3 pairs"),
        (large, "sparsifiner", "sparsifiner", {}, "6 blocks and 65 tokens"),
        (backbone, "asvit", "asvit", {"blocks": [1, 4]}, r"made for method.blocks=\[2, 3\]"),
        (backbone, "asvit", "asvit", {"thresholds": [0.1]}, "leave method.thresholds out"),
    ]
    for model, method, file, options, said in cases:
        side = 32 if model is large else 24
        given = {"blocks": BLOCKS, **options} if method == "asvit" else options
        with (
            pytest.raises(AsapEvalError, match=said) as caught,
            asap_eval.reduce(model, method, checkpoint=made[file], **given),
        ):
            tiny.output(model, tiny.images(1, side))
        assert "\n" not in str(caught.value)


def test_a_file_of_counts_for_something_else_is_named(
    backbone: torch.nn.Module, pictures: Path, tmp_path: Path
) -> None:
    made = str(train(job("diffrate", pictures, tmp_path / "found.json", **SEARCH | {"epochs": 1})))
    other, broken = tmp_path / "other.json", tmp_path / "broken.json"
    other.write_text("{}")
    broken.write_text("{")
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (backbone, {"counts": str(other)}, "no file of counts"),
        (backbone, {"counts": str(broken)}, "cannot be read"),
        (backbone, {"counts": str(tmp_path / "gone.json")}, "cannot be read"),
        (backbone, {"counts": made, "k": 0.0001}, "for found"),
        (tiny.large(), {"counts": made}, "counts=found were not learnt for 6 blocks"),
    ]
    for model, options, said in cases:
        side = 24 if model is backbone else 32
        with (
            pytest.raises(AsapEvalError, match=said) as caught,
            asap_eval.reduce(model, "diffrate", **options),
        ):
            tiny.output(model, tiny.images(1, side))
        assert "\n" not in str(caught.value)


def test_every_training_says_what_the_loop_reads() -> None:
    for method in ("dynamicvit", "diffrate", *TRAININGS):
        assert {"epochs", "batch_size", "lr", "weight_decay"} <= fit_of(method).recipe.keys()
    assert {"epochs", "batch_size"} <= fit_of("asvit", "quantiles").recipe.keys()


def test_masks_without_a_file_name_the_command(backbone: torch.nn.Module) -> None:
    with (
        pytest.raises(AsapEvalError, match=r"asap-eval train method=sparsifiner .*by=attention"),
        asap_eval.reduce(backbone, "sparsifiner"),
    ):
        tiny.output(backbone, tiny.images(1))
