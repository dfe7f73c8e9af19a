"""ASAP against a float64 reference that was written from the specification alone.

Every option is varied on a tiny model whose images fire at different blocks, some never. The
reference reports how near each decision came to its alternative; images with a decision within
rounding are left out, and on the others fired blocks, sinks and tokens must agree exactly.
"""

from __future__ import annotations

import copy
import functools
import sys
from typing import Any

import asap_reference
import pytest
import timm
import tiny
import torch
from asap_reference import Outcome, asap
from PIL import Image
from safetensors.torch import load_file
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn

import asap_eval
from asap_eval.errors import AsapEvalError, UnsupportedModelError
from asap_eval.kernels import walk
from asap_eval.methods.asap import ASAP
from asap_eval.methods.parts.adaptive import edge, jumps, outweighs
from asap_eval.methods.parts.selection import even_ranks, largest_remainders
from asap_eval.trace import Trace

SIZE, COUNT, SEED = 32, 12, 3
IDS = [f"image {i}" for i in range(COUNT)]
BASE: dict[str, Any] = {"k": 3.0, "tau": 2.5}

# Relative to the values compared. Measured on this model, fp32 moves masses and distances by 1e-6,
# normalised distances by 2e-6 and entries of the CLS row of C by 3e-6 of themselves.
SAFE = 1e-5

# The logits here are of size 1 to 5 after six fp32 blocks; unpruned fp32 and fp64 logits of this
# model differ by up to 5e-6.
FP32 = 3e-5

GRID: dict[str, dict[str, Any]] = {
    "defaults": {},
    "alpha=0.1": {"alpha": 0.1, "tau": 1.6},
    "alpha=0.9": {"alpha": 0.9, "tau": 3.7},
    "order=rollout": {"order": "rollout", "tau": 2.3},
    "chain=patches": {"chain": "patches"},
    "chain=patches,rollout": {"chain": "patches", "order": "rollout", "tau": 2.3},
    "anchor=cls_attention": {"anchor": "cls_attention"},
    "anchor=mass": {"anchor": "mass"},
    "anchor=mass,patches": {"anchor": "mass", "chain": "patches"},
    "anchor=random": {"anchor": "random"},
    "anchor=pca": {"anchor": "pca"},
    "distance=weighted": {"distance": "weighted"},
    "normalise=with_sink": {"normalise": "with_sink", "k": 1.2},
    "k=1.2": {"k": 1.2},
    "k=2": {"k": 2.0},
    "k=2.5": {"k": 2.5},
    "k=8": {"k": 8.0},
    "m=2": {"m": 2},
    "m=2,k=2.5": {"m": 2, "k": 2.5},
    "reduce=prune": {"reduce": "prune"},
    "temperature=0.02": {"temperature": 0.02},
    "temperature=5": {"temperature": 5.0, "k": 2.0},
    "pool_weights=normalised": {"pool_weights": "normalised", "k": 2.0},
    "pool_weights=normalised,with_sink": {
        "pool_weights": "normalised",
        "normalise": "with_sink",
        "temperature": 0.3,
        "k": 1.1,
    },
    "accumulate=false": {"accumulate": False},
    "accumulate=false,mass": {"accumulate": False, "anchor": "mass"},
    "accumulate=false,pca": {"accumulate": False, "anchor": "pca"},
    "accumulate=false,weighted": {"accumulate": False, "distance": "weighted"},
    "never=block:4": {"never": "block:4"},
    "never=block:1": {"never": "block:1", "tau": 9.0},
    "never=block:6": {"never": "block:6", "order": "rollout", "tau": 2.3},
    "n=20": {"n": 20, "k": 6.0},
    "n=20,prune": {"n": 20, "reduce": "prune", "k": 6.0},
    "n=2": {"n": 2},
    "n=1,prune": {"n": 1, "reduce": "prune"},
    "n=2,m=2": {"n": 2, "m": 2, "k": 5.0},
    "n=62": {"n": 62, "k": 7.0},
    "n=17,k=7.3,weighted": {"n": 17, "k": 7.3, "distance": "weighted"},
    "algorithm2": {"stage2": "algorithm2", "n": 24},
    "algorithm2,prune": {"stage2": "algorithm2", "n": 16, "reduce": "prune"},
    "algorithm2,ratio=0": {"stage2": "algorithm2", "n": 9, "important_ratio": 0.0},
    "algorithm2,ratio=1": {"stage2": "algorithm2", "n": 12, "important_ratio": 1.0},
    "algorithm2,ratio=0.25,weighted": {
        "stage2": "algorithm2",
        "n": 15,
        "important_ratio": 0.25,
        "distance": "weighted",
    },
    "algorithm2,cls_attention": {"stage2": "algorithm2", "n": 18, "importance": "cls_attention"},
    "algorithm2,features": {"stage2": "algorithm2", "n": 19, "redundancy": "features"},
    "vispruner": {
        "stage2": "vispruner",
        "n": 25,
        "importance": "cls_attention",
        "redundancy": "features",
    },
    "vispruner,walk": {"stage2": "vispruner", "n": 26, "redundancy": "features"},
    "vispruner,diffusion": {"stage2": "vispruner", "n": 27, "importance": "cls_attention"},
    "vispruner,both,prune": {"stage2": "vispruner", "n": 21, "reduce": "prune"},
    "vispruner,ratio=0": {"stage2": "vispruner", "n": 23, "important_ratio": 0.0},
    "vispruner,ratio=1": {"stage2": "vispruner", "n": 22, "important_ratio": 1.0},
    "algorithm2,accumulate=false": {"stage2": "algorithm2", "n": 14, "accumulate": False},
    "k=otsu": {"k": "otsu"},
    "k=otsu,with_sink": {"k": "otsu", "normalise": "with_sink"},
    "k=otsu,weighted,prune": {"k": "otsu", "distance": "weighted", "reduce": "prune"},
    "k=otsu,n=9": {"k": "otsu", "n": 9},
    "k=otsu,accumulate=false": {"k": "otsu", "accumulate": False},
    "k=gap": {"k": "gap"},
    "k=gap,algorithm2": {"k": "gap", "stage2": "algorithm2", "n": 21},
    "tau=jump:1.2": {"tau": "jump:1.2"},
    "tau=jump:1.4,patches": {"tau": "jump:1.4", "chain": "patches"},
    "tau=jump:1.3,rollout": {"tau": "jump:1.3", "order": "rollout"},
    "tau=jump:1.6,never=block:5": {"tau": "jump:1.6", "never": "block:5"},
    "tau=quantile:0.5": {"tau": "quantile:0.5"},
    "tau=quantile:0.93": {"tau": "quantile:0.93"},
    "tau=quantile:0,patches": {"tau": "quantile:0", "chain": "patches", "alpha": 0.3},
    "tau=quantile:1": {"tau": "quantile:1", "alpha": 0.9},
    "jump,otsu": {"tau": "jump:1.25", "k": "otsu"},
    "quantile,gap": {"tau": "quantile:0.75", "k": "gap"},
    "anchor=corner": {"anchor": "corner"},
    "anchor=corner,accumulate=false": {"anchor": "corner", "accumulate": False},
    "distance=squared": {"distance": "squared"},
    "distance=squared,n=15": {"distance": "squared", "n": 15, "normalise": "with_sink", "k": 6.0},
    "normalise=rank": {"normalise": "rank", "k": 3.1},
    "normalise=rank,m=2": {"normalise": "rank", "k": 4.3, "m": 2, "pool_weights": "normalised"},
    "normalise=rank,n=18": {"normalise": "rank", "k": 5.1, "n": 18, "reduce": "prune"},
    "rank alone": {"normalise": "rank", "k": 2.3, "tau": 1e9, "never": "block:3"},
    "identity=false": {"identity": False},
    "identity=false,rollout": {"identity": False, "order": "rollout", "tau": 2.3},
    "identity=false,pca": {"identity": False, "anchor": "pca", "alpha": 0.3, "tau": 2.0},
    "identity=false,mass,weighted": {"identity": False, "anchor": "mass", "distance": "weighted"},
    "identity=false,algorithm2": {"identity": False, "stage2": "algorithm2", "n": 17},
    "identity=false,rank": {"identity": False, "normalise": "rank", "k": 1.7},
    "all at once": {
        "k": 4.7,
        "m": 2,
        "tau": 2.75,
        "alpha": 0.6,
        "chain": "patches",
        "anchor": "pca",
        "distance": "weighted",
        "normalise": "with_sink",
        "temperature": 0.1,
        "pool_weights": "normalised",
        "never": "block:5",
        "n": 13,
    },
}


@functools.cache
def model(double: bool = False) -> nn.Module:
    return copy.deepcopy(model()).double() if double else tiny.large(0)


@functools.cache
def pictures() -> Tensor:
    return tiny.images(COUNT, SIZE, SEED)


@functools.cache
def expected(case: str) -> list[Outcome]:
    """The reference on all images."""
    options = BASE | GRID[case]
    pairs = zip(pictures(), IDS, strict=True)
    return [asap(model(True), x, name, 0, **options) for x, name in pairs]


def compare(case: str, network: nn.Module, x: Tensor, atol: float) -> None:
    """The implementation on the images of which no decision lies within rounding."""
    outcomes = expected(case)
    clear = [i for i, o in enumerate(outcomes) if o.margin > SAFE]
    assert len(clear) >= 8
    result = run(network, x[clear], BASE | GRID[case], [IDS[i] for i in clear])
    check([outcomes[i] for i in clear], result, atol)


def run(
    network: nn.Module, x: Tensor, options: dict[str, Any], ids: list[str] | None = None
) -> tuple[Tensor, Trace, Tensor]:
    """Logits, trace and the padded sequence ``[B, N, D]`` that leaves the last block."""
    last: list[Tensor] = []
    handle = network.norm.register_forward_pre_hook(lambda _, args: last.append(args[0]))
    try:
        with asap_eval.reduce(network, "asap", seed=0, **options) as trace, torch.no_grad():
            trace.name_images(ids if ids is not None else IDS)
            logits = network(x)
    finally:
        handle.remove()
    return logits, trace, last[0]


def check(
    outcomes: list[Outcome],
    got: tuple[Tensor, Trace, Tensor],
    atol: float,
    feature_atol: float | None = None,
) -> None:
    logits, trace, last = got
    prefix, patches = 1, trace.source.shape[1]
    assert trace.fired.tolist() == [o.fired for o in outcomes]
    sinks = trace.notes.get("sink", torch.full_like(trace.fired, -1))
    assert sinks.tolist() == [o.sink for o in outcomes]
    lengths = trace.lengths.tolist()
    for i, o in enumerate(outcomes):
        assert o.final is not None
        assert trace.source[i].tolist() == o.source(patches, prefix)
        for block, row in enumerate(lengths, start=1):
            reduced = 0 < o.fired <= block
            assert row[i] == (len(o.final) if reduced else patches + prefix)
        same = functools.partial(torch.testing.assert_close, rtol=0.0, check_dtype=False)
        same(last[i, : len(o.final)], o.final, atol=feature_atol or atol)
        same(logits[i], o.logits, atol=atol)


def test_the_reference_without_firing_is_the_model() -> None:
    for x in pictures():
        plain = model(True)(x[None].double())[0]
        out = asap(model(True), x, tau=1e9)
        torch.testing.assert_close(out.logits, plain, rtol=0, atol=1e-12)
        assert (out.fired, out.sink) == (0, -1)


def test_the_images_fire_at_different_blocks_and_some_never() -> None:
    for case in ("defaults", "alpha=0.1", "alpha=0.9", "order=rollout", "chain=patches"):
        fired = {o.fired for o in expected(case)}
        assert 0 in fired, case
        assert len(fired) >= 4, (case, fired)


@pytest.mark.parametrize("case", GRID)
def test_every_option_agrees_with_the_reference(case: str) -> None:
    compare(case, model(), pictures(), FP32)


@pytest.mark.parametrize(
    ("case", "atol"),
    [
        # Without a pooled token nothing is summed outside the model: fp64 to the end.
        ("reduce=prune", 1e-9),
        ("algorithm2,prune", 1e-9),
        ("vispruner,both,prune", 1e-9),
        # The chain and the sum that makes a pooled token are fp32 by design: steps 3 and 9.
        ("defaults", 5e-6),
        ("all at once", 5e-6),
    ],
)
def test_a_float64_model_agrees_closer(case: str, atol: float) -> None:
    compare(case, model(True), pictures().double(), atol)


@pytest.mark.parametrize(
    "case", ["defaults", "order=rollout", "algorithm2", "accumulate=false", "identity=false"]
)
def test_room_for_tensor_cores_changes_nothing(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU C and its maps have rows and columns of zeros behind them; here on a CPU."""
    for module in (walk, sys.modules[ASAP.__module__]):
        monkeypatch.setattr(module, "room", lambda columns, _: -(-columns // 8) * 8 + 8)
    compare(case, model(), pictures(), FP32)


def test_options_matter() -> None:
    """Each case of the grid gives its own result: none of them is an option that nobody reads."""
    seen: dict[tuple[Any, ...], str] = {}
    for case in GRID:
        key = tuple(
            (o.fired, o.sink, tuple(o.kept), *(o.logits * 1e6).round().tolist())
            for o in expected(case)
            if o.logits is not None
        )
        assert key not in seen, f"{case} gives what {seen[key]} gives"
        seen[key] = case


def test_bins_appear_one_by_one_as_m_grows() -> None:
    options = BASE | {"k": 5.4}
    outcomes = [asap(model(True), x, **options) for x in pictures()]
    clear = [o.bins is not None and o.margin > SAFE for o in outcomes]
    assert sum(clear) >= 6
    assert len({b for o in outcomes if o.bins is not None for b in o.bins.tolist()}) == 6
    for m in range(1, 6):
        _, trace, _ = run(model(), pictures(), options | {"m": m})
        for i, o in enumerate(outcomes):
            if clear[i]:
                pooled = trace.source[i] == trace.lengths[-1, i] - 1
                assert pooled.tolist() == (o.bins < m).tolist()


def test_shares_and_ranks_are_exact() -> None:
    # 12 * 2 / 63 and 12 * 23 / 63 leave the same remainder: the lower bin wins.
    assert list(largest_remainders([2, 38, 23], 12)) == [1, 7, 4]
    for size in range(1, 40):
        for count in range(1, size + 1):
            picked = list(even_ranks(size, count))
            assert picked == asap_reference.ranks(size, count)
            assert len(set(picked)) == count


@pytest.mark.parametrize("order", ["walk", "rollout"])
def test_two_rows_of_the_chain_suffice_to_fire(order: str) -> None:
    """m_l = m_(l-1) T_l and c_l = c_(l-1) T_l are the column sums and the CLS row of the walk."""
    g = torch.Generator().manual_seed(0)
    count = 9
    chain = torch.eye(count, dtype=torch.float64)
    mass, row = torch.ones(count, dtype=torch.float64), chain[0]
    for _ in range(6):
        attention = torch.randn(count, count, generator=g, dtype=torch.float64).softmax(1)
        move = 0.3 * attention + 0.7 * torch.eye(count, dtype=torch.float64)
        chain = chain @ move if order == "walk" else move @ chain
        mass, row = mass @ move, row @ move
    same = torch.allclose(chain.sum(0), mass, rtol=0, atol=1e-12) and torch.allclose(
        chain[0], row, rtol=0, atol=1e-12
    )
    assert same == (order == "walk")  # the rollout has no such identity


@pytest.mark.parametrize(
    "case",
    [
        *("defaults", "anchor=random", "algorithm2", "n=20", "vispruner"),
        *("jump,otsu", "quantile,gap", "identity=false,rank", "distance=squared,n=15"),
    ],
)
@pytest.mark.parametrize("size", [1, 7, COUNT])
def test_batches_in_any_order_decide_alike(case: str, size: int) -> None:
    options = BASE | GRID[case]
    whole, trace, _ = run(model(), pictures(), options)
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(size)).tolist()
    for start in range(0, COUNT, size):
        picked = order[start : start + size]
        logits, part, _ = run(model(), pictures()[picked], options, [IDS[i] for i in picked])
        assert part.fired.tolist() == trace.fired[picked].tolist()
        assert torch.equal(part.lengths, trace.lengths[:, picked])
        assert torch.equal(part.source, trace.source[picked])
        assert torch.equal(part.method_macs, trace.method_macs[picked])
        assert torch.equal(logits.argmax(1), whole[picked].argmax(1))
        torch.testing.assert_close(logits, whole[picked], rtol=0, atol=2e-5)


def test_the_random_anchor_follows_seed_and_id_alone() -> None:
    options = BASE | {"anchor": "random", "never": "block:1"}
    _, first, _ = run(model(), pictures(), options)
    _, again, _ = run(model(), pictures().flip(0), options)
    assert torch.equal(first.notes["sink"], again.notes["sink"])  # same ids, other pixels
    _, renamed, _ = run(model(), pictures(), options, [f"other {i}" for i in range(COUNT)])
    assert not torch.equal(first.notes["sink"], renamed.notes["sink"])


@pytest.mark.parametrize(
    "options",
    [
        {"k": 1.0},
        {"k": 0.0},
        {"k": float("nan")},
        {"m": 0},
        {"m": 3},
        {"alpha": 1.5},
        {"alpha": -0.1},
        {"tau": float("nan")},
        {"tau": "high"},
        {"tau": "jump:"},
        {"tau": "jump:0.5"},
        {"tau": "jump:inf"},
        {"tau": "quantile:2"},
        {"tau": "quantile:-0.1"},
        {"tau": "quantile:nan"},
        {"k": "otsuu"},
        {"m": 2, "k": "otsu"},
        {"temperature": 0.0},
        {"never": "block:7"},
        {"never": "block:0"},
        {"never": "sometimes"},
        {"n": 0, "reduce": "prune"},
        {"n": 1},
        {"important_ratio": 1.2, "stage2": "algorithm2", "n": 9},
        {"anchor": "clss"},
        {"order": "run"},
        {"normalise": "rank", "k": "otsu"},
        {"identity": False, "accumulate": False},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(AsapEvalError) as error:
        run(model(), pictures(), BASE | options)
    assert str(next(iter(options.values()))) in str(error.value)


@pytest.mark.parametrize("rule", ["otsu", "gap"])
def test_classes_of_distances_are_those_of_the_reference(rule: Any) -> None:
    g = torch.Generator().manual_seed(0)
    rows = torch.rand(40, 17, generator=g)
    rows[::3] = (rows[::3] * 4).round()  # many ties, in values and in gaps
    found = edge(rows, rule)[:, 0].tolist()
    for row, value in zip(rows, found, strict=True):
        assert value == asap_reference.parted(Outcome(), row.tolist(), rule)
        assert value == edge(row[None], rule).item()


def test_nothing_is_parted_where_distances_are_equal_or_one() -> None:
    for values in (torch.full((2, 5), 0.3), torch.zeros(3, 1), torch.zeros(2, 0)):
        for rule in ("otsu", "gap"):
            assert edge(values, rule).tolist() == [[-torch.inf]] * len(values)  # type: ignore[arg-type]
    assert edge(torch.tensor([[1.0, 1.0, 4.0]]), "otsu").item() == 1
    assert edge(torch.tensor([[0.0, 1.0, 2.0]]), "gap").item() == 0  # of equal gaps the lowest


def test_equal_distances_leave_the_sink_alone_in_the_background() -> None:
    alike = torch.full((2, 4), 0.5).scatter_(1, torch.tensor([[1], [3]]), 0)
    sink = torch.tensor([1, 3])
    for k in ("otsu", "gap"):
        bins = ASAP(k=k)._bins(alike, alike, sink)  # type: ignore[arg-type]
        assert bins.tolist() == [[1, 0, 1, 1], [1, 1, 1, 0]]
        assert ASAP(k=k)._bins(alike[:, :1], alike[:, :1], sink * 0).tolist() == [[0], [0]]  # type: ignore[arg-type]


@pytest.mark.parametrize("anchor", ["cls", "corner", "random"])
def test_ranks_leave_every_image_as_many_patches(anchor: str) -> None:
    """The order by distance alone: neither the block nor the count is the image's own."""
    alone = {"normalise": "rank", "tau": 1e9, "never": "block:3", "k": 1.96, "anchor": anchor}
    _, trace, _ = run(model(), pictures(), alone)
    assert trace.fired.tolist() == [3] * COUNT
    patches = trace.source.shape[1]
    near = sum(1.96 * place < patches - 1 for place in range(patches))
    assert trace.lengths[-1].tolist() == [1 + patches - near + 1] * COUNT  # class token, pooled one
    distance, sink = trace.notes["distance"], trace.notes["sink"]
    for source, of, own in zip(trace.source, distance, sink, strict=True):
        pooled = source == source[own]
        assert int(pooled.sum()) == near
        assert of[pooled].max() <= of[~pooled].min()
    assert len({tuple(source.tolist()) for source in trace.source}) > 1


def test_ranks_of_equal_distances_go_from_the_sink_in_image_order() -> None:
    alike = torch.full((2, 5), 0.5).scatter_(1, torch.tensor([[3], [0]]), 0)
    alike[1, 2] = 0  # as far as the sink itself, which comes first
    scaled = ASAP(normalise="rank")._scaled(alike, torch.tensor([3, 0]))
    assert (scaled * 4).tolist() == [[1, 2, 3, 0, 4], [0, 2, 1, 3, 4]]
    assert ASAP(normalise="rank")._scaled(alike[:, :1], torch.zeros(2).long()).tolist() == [
        [0],
        [0],
    ]


@pytest.mark.parametrize("order", ["walk", "rollout"])
def test_the_part_that_never_moved_is_taken_out(order: Any) -> None:
    """With the least alpha nearly all of C is that part, with the largest nothing is."""
    options = {
        "order": order,
        "identity": False,
        "tau": 1e9,
        "never": "block:2",
        "anchor": "corner",
    }
    _, trace, _ = run(model(), pictures(), BASE | options | {"alpha": 1.0})
    _, whole, _ = run(model(), pictures(), BASE | options | {"alpha": 1.0, "identity": True})
    assert torch.equal(trace.notes["distance"], whole.notes["distance"])  # (1 - 1)^2 I is nothing
    _, trace, _ = run(model(), pictures(), BASE | options | {"alpha": 1e-4})
    _, whole, _ = run(model(), pictures(), BASE | options | {"alpha": 1e-4, "identity": True})
    others = slice(1, None)
    assert trace.notes["distance"][:, others].max() < 4e-4  # what moved is about 2e-4 of a row
    torch.testing.assert_close(
        whole.notes["distance"][:, others],
        torch.full_like(whole.notes["distance"][:, others], 2**0.5),
        rtol=4e-4,
        atol=0,
    )


def test_jumps_need_a_block_before_and_outweighing_needs_others() -> None:
    heaviest, nothing = torch.tensor([5.0, 1.0]), torch.zeros(2)
    assert jumps(heaviest, nothing, 1, 1.1).tolist() == [False, False]
    assert jumps(heaviest, torch.tensor([6.0, 2.0]), 3, 1.5).tolist() == [True, False]
    assert jumps(torch.ones(1), torch.ones(1), 2, 1.0).tolist() == [False]  # equal is no jump
    assert outweighs(torch.tensor([[9.0]]), 0.5).tolist() == [False]
    assert outweighs(torch.tensor([[4.0, 9.0], [9.0, 9.0]]), 0.5).tolist() == [True, False]
    mass = torch.tensor([[1.0, 2.0, 3.0, 8.0]])
    assert outweighs(mass, 1.0).tolist() == [True]
    assert outweighs(torch.tensor([[1.0, 2.0, 4.0, 8.0]]), 1.0).tolist() == [False]


@pytest.mark.parametrize("kind", ["jump:1.3", "quantile:0.8"])
def test_firing_alone_decides_as_in_a_batch(kind: str) -> None:
    """Not one bit of a criterion depends on the other images."""
    options = BASE | {"tau": kind, "k": "otsu"}
    _, whole, _ = run(model(), pictures(), options)
    for i in range(COUNT):
        _, alone, _ = run(model(), pictures()[i : i + 1], options, IDS[i : i + 1])
        assert torch.equal(alone.source[0], whole.source[i])
        assert alone.fired[0] == whole.fired[i]
        assert alone.method_macs[0] == whole.method_macs[i]


def test_anchors_that_read_the_class_token_need_one() -> None:
    without = tiny.HOSTS["avg_without_cls"]()
    for anchor in ("cls", "cls_attention"):
        with (
            pytest.raises(UnsupportedModelError, match="class token"),
            asap_eval.reduce(without, "asap", anchor=anchor),
        ):
            pass


@pytest.mark.parametrize("name", ["distilled", "layerscale", "registers", "qk_norm", "pre_norm"])
def test_other_families_agree_with_the_reference(name: str) -> None:
    network = tiny.HOSTS[name]()
    double = copy.deepcopy(network).double()
    options = {"k": 2.5, "tau": 2.3, "anchor": "cls"}
    x = tiny.images(6, seed=5)
    outcomes = [asap(double, image, **options) for image in x]
    assert min(o.margin for o in outcomes) > SAFE
    assert len({o.fired for o in outcomes}) > 1
    logits, trace, last = run(network, x, options, [str(i) for i in range(6)])
    prefix = tiny.PREFIX.get(name, 1)
    assert trace.fired.tolist() == [o.fired for o in outcomes]
    for i, o in enumerate(outcomes):
        assert o.final is not None
        assert o.logits is not None
        assert trace.source[i].tolist() == o.source(trace.source.shape[1], prefix)
        torch.testing.assert_close(last[i, : len(o.final)].double(), o.final, rtol=0, atol=FP32)
        torch.testing.assert_close(logits[i].double(), o.logits, rtol=0, atol=FP32)


@pytest.mark.golden("data/weights/deit_tiny_patch16_224.safetensors")
def test_deit_tiny_on_photographs_agrees_with_the_reference(shared: Any) -> None:
    network = timm.create_model("deit_tiny_patch16_224").eval().requires_grad_(False)
    weights = load_file(shared / "data/weights/deit_tiny_patch16_224.safetensors")
    network.load_state_dict({name: value.float() for name, value in weights.items()})
    transform = create_transform(**resolve_model_data_config(network), is_training=False)
    files = sorted((shared / "data/imagenet").glob("*/*.JPEG"))[:24]
    ids = [file.name for file in files]
    x = torch.stack([transform(Image.open(file).convert("RGB")) for file in files])
    options = {"k": 2.0, "tau": 1.7}

    double = copy.deepcopy(network).double()
    outcomes = [asap(double, image, **options) for image in x]
    # Some distance of 196 patches always lies near a border of the bins; these images were
    # looked at, none lies within rounding.
    assert min(o.margin for o in outcomes) > 1e-6
    assert len({o.fired for o in outcomes}) > 3
    # Unpruned, fp32 alone moves logits (up to 10) by 1.2e-5 and features (up to 26) by 1.1e-3.
    check(outcomes, run(network, x, options, ids), 1e-4, feature_atol=2e-3)
