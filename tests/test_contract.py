"""What every method keeps on every supported family of models, on a CPU and offline."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import asap_reference
import pytest
import timm
import tiny
import torch
from cases import CASES, VISION, Case, batch, pairs, run, trial
from timm.models import vision_transformer
from torch import Tensor, nn
from torch.nn.attention import SDPBackend

import asap_eval
from asap_eval.errors import AsapEvalError, UnsupportedModelError
from asap_eval.hosts import attention, geometry_of, gpu_attention, install
from asap_eval.hosts.forward import READABLE
from asap_eval.hosts.layout import Layout
from asap_eval.method import Need, Reducer, Site, View, build, methods
from asap_eval.testing import contract
from asap_eval.testing.operators import like
from asap_eval.tokens import Reduction
from asap_eval.trace import Trace

host = functools.cache(lambda name: tiny.HOSTS[name]())
host64 = functools.cache(lambda name: tiny.HOSTS[name]().double())
ACTING = [case for case in VISION if case.effect != "nothing"]
on_every_host = pytest.mark.parametrize("name", tiny.HOSTS)


def on_every_pair(*effects: str) -> Callable[..., Any]:
    return pytest.mark.parametrize(
        ("name", "case"), [pytest.param(n, c, id=f"{n}-{c}") for n, c in pairs(*effects)]
    )


def test_every_method_has_cases() -> None:
    for name in methods():
        effects = {case.effect for case in CASES if case.method == name}
        if methods()[name].card.knob is not None or name == "none":
            assert "nothing" in effects, f"tests/cases.py: '{name}' has no case that does nothing"
        if name != "none":
            assert effects - {"nothing"}, f"tests/cases.py: '{name}' has no case that does anything"


@on_every_host
def test_geometry_says_what_the_model_is(name: str) -> None:
    geometry = geometry_of(host(name))
    assert geometry.depth == 5
    assert geometry.patches == 36
    assert geometry.grid == (6, 6)
    assert geometry.prefix == tiny.PREFIX.get(name, 1)
    assert geometry.has_cls == (name not in tiny.WITHOUT_CLS)
    assert geometry.width == 32


# --- doing nothing ------------------------------------------------------------------------------


@on_every_host
@pytest.mark.parametrize("count", [1, 5])
def test_none_gives_the_untouched_models_bits(name: str, count: int) -> None:
    x = batch()[:count]
    plain = tiny.output(host(name), x)
    got, trace = run(host(name), Case("none"), x)
    assert torch.equal(got, plain)
    assert torch.equal(trace.lengths, torch.full((5, count), 36 + tiny.PREFIX.get(name, 1)))
    assert not trace.fired.any()
    assert not trace.method_macs.any()


@on_every_pair("nothing")
def test_zero_budget_equals_none(name: str, case: Case) -> None:
    contract.keeps_all(trial(name, case))


# --- what is left -------------------------------------------------------------------------------


@on_every_pair("tokens")
def test_tokens_are_accounted_for(name: str, case: Case) -> None:
    contract.accounts_for_tokens(trial(name, case))


@on_every_pair("attention")
def test_replaced_attention_keeps_the_tokens(name: str, case: Case) -> None:
    contract.accounts_for_tokens(trial(name, case))
    contract.replaces_attention(trial(name, case))


@pytest.mark.parametrize(
    ("name", "case"),
    [  # a method that acts on the input decides nothing about tokens; see test_downsample.py
        pytest.param(n, c, id=f"{n}-{c}")
        for n, c in pairs("tokens")
        if c.build().site != "input" and tiny.PREFIX.get(n, 1)
    ],
)
def test_prefix_tokens_stay_in_front_untouched(name: str, case: Case) -> None:
    contract.keeps_prefix(trial(name, case))


@on_every_pair("tokens", "attention")
def test_a_batch_equals_its_images(name: str, case: Case) -> None:
    contract.decides_alone(trial(name, case))
    contract.ignores_order(trial(name, case))


@pytest.mark.parametrize("case", ACTING, ids=str)
def test_batches_cut_elsewhere_give_the_same_rows(case: Case) -> None:
    contract.resumes(trial("plain", case))


@pytest.mark.parametrize("name", ["plain", "registers"])
@pytest.mark.parametrize("case", ACTING, ids=str)
def test_macs_are_what_torch_counts(name: str, case: Case) -> None:
    contract.counts_macs(trial(name, case))


@pytest.mark.parametrize("case", ACTING, ids=str)
def test_named_images_decide_by_name_and_seed(case: Case) -> None:
    contract.is_seeded(trial("plain", case))
    random = case.method == "random" or case.options.get("anchor") == "random"
    assert contract.depends_on_seed(trial("plain", case)) == random


def test_a_wrong_number_of_names_is_refused() -> None:
    with asap_eval.reduce(host("plain"), "none") as trace:
        trace.name_images(["a", "b"])
        with pytest.raises(AsapEvalError, match="2 image ids"):
            tiny.output(host("plain"), batch())


# --- clean before and after ---------------------------------------------------------------------


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """What an install could leave behind, module by module."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_state_dict_hooks")
    found: dict[str, Any] = {"keys": list(model.state_dict())}
    for name, module in model.named_modules():
        found[name] = (
            type(module),
            sorted(module.__dict__),
            module.training,
            getattr(module, "fused_attn", None),
            [list(getattr(module, hook)) for hook in hooks],
        )
    if hasattr(model, "config"):
        found["attention"] = model.config._attn_implementation
    return found


@functools.cache
def pristine(name: str) -> dict[str, Any]:
    """A host that no test has touched: leftovers of an earlier test cannot hide here."""
    model = tiny.HOSTS[name]()
    tiny.output(model, batch())
    return fingerprint(model)


@on_every_pair("tokens", "attention", "nothing")
def test_clean_after_exit(name: str, case: Case) -> None:
    model, x = host(name), batch()
    before, plain = pristine(name), tiny.output(model, x)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    with asap_eval.reduce(model, case.method, **case.params) as trace:
        assert list(model.state_dict()) == before["keys"]
        tiny.output(model, x)
    assert fingerprint(model) == before
    assert torch.equal(tiny.output(model, x), plain)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert trace.lengths.shape == (5, len(x))  # the trace outlives the with


@on_every_host
def test_clean_after_an_exception(name: str) -> None:
    model, x, case = host(name), batch(), CASES[2]
    before, plain = pristine(name), tiny.output(model, x)
    expected, _ = run(model, case, x)

    def fail_inside() -> None:
        with asap_eval.reduce(model, case.method, **case.params):
            tiny.output(model, x)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert fingerprint(model) == before

    def trip(*_: object) -> None:
        raise ZeroDivisionError

    block = block_of(model, 3)
    with asap_eval.reduce(model, case.method, **case.params):
        handle = block.register_forward_pre_hook(trip)
        with pytest.raises(ZeroDivisionError):  # halfway through a pass, tokens already fewer
            tiny.output(model, x)
        handle.remove()
        assert torch.equal(tiny.output(model, x), expected)
    assert fingerprint(model) == before
    assert torch.equal(tiny.output(model, x), plain)


def block_of(model: nn.Module, index: int) -> nn.Module:
    blocks = getattr(model, "blocks", None)
    if blocks is None:
        blocks = next(m for n, m in model.named_modules() if n.endswith("encoder")).layers
    block: nn.Module = blocks[index]
    return block


def test_eager_attention_is_given_back() -> None:
    """Reading needs fused attention; what the owner had chosen comes back."""
    model = tiny.HOSTS["plain"]()
    for block in model.blocks:
        block.attn.fused_attn = False
    plain = tiny.output(model, batch())
    got, trace = run(model, Case("asap", {"k": 2.0, "tau": 2.2}), batch())
    fused, same = run(host("plain"), Case("asap", {"k": 2.0, "tau": 2.2}), batch())
    assert torch.equal(trace.source, same.source)
    assert torch.equal(got, fused)
    assert not any(block.attn.fused_attn for block in model.blocks)
    assert torch.equal(tiny.output(model, batch()), plain)

    tower = tiny.clip(11)
    tower.set_attn_implementation("eager")
    before, plain = fingerprint(tower), tiny.output(tower, batch())
    got, _ = run(tower, CASES[2], batch())
    assert torch.equal(got, run(host("clip"), CASES[2], batch())[0])
    assert fingerprint(tower) == before
    assert torch.equal(tiny.output(tower, batch()), plain)


@pytest.mark.parametrize("name", ["plain", "avg_with_cls", "map", "clip"])
def test_a_second_install_on_one_model_is_refused(name: str) -> None:
    model, case = host(name), Case("random", {"k": 0.3, "layer": 1})
    before, expected = pristine(name), run(model, case, batch())[0]
    with asap_eval.reduce(model, case.method, **case.params):
        with (
            pytest.raises(AsapEvalError, match="already"),
            asap_eval.reduce(model, "stride", k=0.5),
        ):
            pass
        assert torch.equal(tiny.output(model, batch()), expected)  # the first one still works
    assert fingerprint(model) == before


@pytest.mark.parametrize("first_out", [0, 1])
def test_two_installs_do_not_see_each_other(first_out: int) -> None:
    models = [tiny.vit(21), tiny.vit(22, global_pool="avg")]
    cases = [Case("asap", {"k": 2.0, "tau": 2.2}), Case("random", {"k": 0.3, "layer": 2})]
    x = [batch(), tiny.images(3, seed=9)]
    plain = [tiny.output(m, images) for m, images in zip(models, x, strict=True)]
    alone = [run(m, c, images) for m, c, images in zip(models, cases, x, strict=True)]
    stacks = [ExitStack(), ExitStack()]
    traces: list[Trace] = [
        stack.enter_context(asap_eval.reduce(m, c.method, **c.params))
        for stack, m, c in zip(stacks, models, cases, strict=True)
    ]
    for i in (0, 1, 1, 0, 1):
        assert torch.equal(tiny.output(models[i], x[i]), alone[i][0])
    for trace, (_, expected) in zip(traces, alone, strict=True):
        assert torch.equal(trace.source, expected.source)
        assert torch.equal(trace.lengths, expected.lengths)
    stacks[first_out].close()
    left = 1 - first_out
    assert torch.equal(tiny.output(models[left], x[left]), alone[left][0])
    assert torch.equal(tiny.output(models[first_out], x[first_out]), plain[first_out])
    stacks[left].close()
    assert torch.equal(tiny.output(models[left], x[left]), plain[left])


def test_one_method_object_serves_two_models() -> None:
    reducer = build("asap", k=2.0, tau=2.2)
    models = [tiny.vit(21), tiny.vit(22)]
    expected = [run(m, Case("asap", {"k": 2.0, "tau": 2.2}), batch())[1] for m in models]
    with install(models[0], reducer) as first, install(models[1], reducer) as second:
        for model in (*models, *models):
            tiny.output(model, batch())
    assert torch.equal(first.source, expected[0].source)
    assert torch.equal(second.source, expected[1].source)


# --- needs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", sorted({case.method for case in VISION} - {"none"}))
def test_every_declared_need_is_read(method: str) -> None:
    """Without any one of its needs a method fails in at least one of its cases."""
    trials = [trial("plain", case) for case in CASES if case.method == method]
    if any(one.build().needs for one in trials):
        contract.reads_its_needs(trials)


@dataclasses.dataclass
class Reader(Reducer):
    """Reads one thing at block 2 without reducing; the test looks at what it saw."""

    def watch(self, block: int, state: Any) -> bool:
        return block == 2

    def rows(self, block: int, lengths: Tensor, state: Any) -> Tensor:
        return torch.tensor([[3, -1, 0]]).repeat(len(lengths), 1)

    def decide(self, view: View, state: Any) -> Reduction | None:
        self.seen = {need: view.read(need) for need in self.reads}
        return None


def reader(needs: set[Need], reads: set[Need], site: Site = "after") -> Any:
    return like(Reader(), name="reader", needs=frozenset(needs), reads=reads, site=site)


@on_every_host
@pytest.mark.parametrize("need", sorted(READABLE))
def test_reading_more_than_declared_is_an_error(name: str, need: Need) -> None:
    if name in tiny.WITHOUT_CLS and need is Need.CLS_ROW:
        return
    probe = reader(READABLE - {need, Need.CLS_ROW}, {need})
    with pytest.raises(AsapEvalError, match="declares"), install(host(name), probe):
        tiny.output(host(name), batch())


@pytest.mark.parametrize("name", ["plain", "distilled", "registers", "layerscale", "qk_norm"])
def test_needs_hold_what_they_promise(name: str) -> None:
    model, x = host(name), batch()
    probe = reader(READABLE, READABLE)
    with install(model, probe):
        tiny.output(model, x)
    seen = probe.seen
    for i, image in enumerate(x):
        y = model.norm_pre(model._pos_embed(model.patch_embed(image[None])))[0]
        y, _ = asap_reference.run_block(model.blocks[0], y)
        attn = model.blocks[1].attn
        qkv = attn.qkv(model.blocks[1].norm1(y)).view(len(y), 3, 2, 16)
        q, k = (
            norm(qkv[:, i].transpose(0, 1)) for i, norm in enumerate((attn.q_norm, attn.k_norm))
        )
        scores = q @ k.mT / 4  # the square root of a head's width of 16
        y, maps = asap_reference.run_block(model.blocks[1], y)
        for need, expected in {
            Need.FEATURES: y,
            Need.KEYS: attn.k_norm(qkv[:, 1].transpose(0, 1)),
            Need.VALUES: qkv[:, 2].transpose(0, 1),
            Need.HEAD_ATTENTION: maps,
            Need.ROWS: torch.stack([maps[:, 3], torch.zeros_like(maps[:, 0]), maps[:, 0]], 1),
            Need.LOGITS: torch.stack(
                [scores[:, 3], torch.zeros_like(scores[:, 0]), scores[:, 0]], 1
            ),
            Need.ATTENTION: maps.mean(0),
            Need.CLS_ROW: maps[:, 0],
            Need.HEAD_NORMS: (maps @ qkv[:, 2].transpose(0, 1)).norm(dim=-1),
        }.items():
            torch.testing.assert_close(seen[need][i], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("need", [Need.ATTENTION, Need.HEAD_ATTENTION, Need.CLS_ROW, Need.KEYS])
def test_reading_does_not_change_the_output(need: Need) -> None:
    for name in tiny.HOSTS:
        if name in tiny.WITHOUT_CLS and need is Need.CLS_ROW:
            continue
        with install(host(name), reader({need}, {need})):
            got = tiny.output(host(name), batch())
        torch.testing.assert_close(got, tiny.output(host(name), batch()), rtol=0, atol=1e-5)


CROPS: dict[Need, Callable[[slice], tuple[Any, ...]]] = {
    Need.FEATURES: lambda valid: (valid,),
    Need.KEYS: lambda valid: (slice(None), valid),
    Need.VALUES: lambda valid: (slice(None), valid),
    Need.CLS_ROW: lambda valid: (slice(None), valid),
    Need.ATTENTION: lambda valid: (valid, valid),
    Need.HEAD_ATTENTION: lambda valid: (slice(None), valid, valid),
    Need.HEAD_NORMS: lambda valid: (slice(None), valid),
    Need.ROWS: lambda valid: (slice(None), slice(None), valid),
    Need.LOGITS: lambda valid: (slice(None), slice(None), valid),
}
"""Where an image's own tokens lie in what it reads, without the batch's padding."""


@dataclasses.dataclass
class Ragged(Reducer):
    """Keeps a number of patches that the image's name gives, at block 1; reads all at block 3."""

    def begin(self, batch: Any) -> Any:
        self.seen: dict[str, dict[Need, Tensor]] = {}
        return batch

    def watch(self, block: int, state: Any) -> bool | Tensor:
        return block in (1, 3)

    def rows(self, block: int, lengths: Tensor, state: Any) -> Tensor:
        return torch.stack([lengths - 1, torch.zeros_like(lengths)], 1)

    def decide(self, view: View, state: Any) -> Reduction | None:
        names = [state.id_of(i) for i in view.images.tolist()]
        if view.block == 1:
            keep = torch.tensor([int(name) + view.prefix for name in names])
            mask = torch.arange(view.size.shape[1]) < keep[:, None]
            return Reduction.keep(mask, pool=~mask if self.pools else None)
        for row, name in enumerate(names):
            length = int(view.lengths[row])
            self.seen[name] = {}
            for need in self.needs:
                full = view.read(need)[row]
                at = CROPS[need](slice(length))
                rest = full.clone()
                rest[at] = 0
                assert not rest.any(), f"{need}: padding is not zero"
                self.seen[name][need] = full[at]
        return None


@pytest.mark.parametrize("site", ["before", "between", "after"])
@pytest.mark.parametrize("proportional", [False, True])
@pytest.mark.parametrize("name", ["plain", "registers", "avg_without_cls", "map", "clip", "lv_vit"])
def test_ragged_batches_read_and_run_like_single_images(
    name: str, proportional: bool, site: Site
) -> None:
    needs = frozenset(READABLE) - ({Need.CLS_ROW} if name in tiny.WITHOUT_CLS else set())
    if site == "before":  # this block's attention has not run yet
        needs = frozenset({Need.FEATURES})
    members = {"needs": needs, "site": site, "proportional": proportional, "name": "ragged"}

    def outputs(ids: list[str], x: Tensor) -> tuple[Tensor, Any]:
        probe = like(Ragged(), pools=proportional, **members)
        with install(host(name), probe) as trace:
            trace.name_images(ids)
            return tiny.output(host(name), x), probe.seen

    ids = ["5", "30", "36", "12", "6"]
    whole, seen = outputs(ids, batch())
    for i, image in enumerate(batch()):
        got, alone = outputs([ids[i]], image[None])
        torch.testing.assert_close(got[0], whole[i], rtol=0, atol=2e-5)
        for need, values in alone[ids[i]].items():
            torch.testing.assert_close(seen[ids[i]][need], values, rtol=0, atol=2e-5)


@pytest.mark.parametrize("with_bias", [False, True])
def test_one_padded_call_attends_like_image_by_image(
    with_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU runs on a ragged batch equals what a CPU runs, around its kernel."""

    def efficient(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        assert mask is not None
        logits = q @ k.mT / 2 + mask[:, None, None]
        return logits.softmax(-1) @ v, logits.logsumexp(-1)

    monkeypatch.setattr(gpu_attention, "_efficient", efficient)
    g = torch.Generator().manual_seed(0)
    layout = Layout((5, 9, 2, 9))
    q, k, v = torch.randn(3, 1, 2, layout.total, 4, generator=g)
    bias = torch.randn(layout.total, generator=g) if with_bias else None
    on_cpu = attention.attend(q, k, v, layout, bias)
    flat, sums, packed = gpu_attention.attend_packed(
        *map(attention.by_token, (q, k, v)), layout, bias, SDPBackend.EFFICIENT_ATTENTION
    )
    padded = layout.shaped(flat).transpose(1, 2)
    assert not packed
    torch.testing.assert_close(padded, on_cpu, rtol=0, atol=2e-6)
    for start, length in zip(layout.starts, layout.lengths, strict=True):
        at = slice(start, start + length)
        logits = q[0, :, at] @ k[0, :, at].mT / 2 + (0 if bias is None else bias[at])
        image = layout.starts.index(start)
        torch.testing.assert_close(sums[image, :, :length], logits.logsumexp(-1), rtol=0, atol=2e-6)
        alone = logits.softmax(-1) @ v[0, :, at]
        torch.testing.assert_close(on_cpu[0, :, at], alone, rtol=0, atol=2e-6)


@pytest.mark.parametrize("site", ["before", "between", "after"])
def test_a_site_is_where_it_says(site: Site) -> None:
    """In fp64: what fp32 rounds differs from processor to processor."""
    model, x = host64("layerscale"), batch()[:1].double()
    mask = torch.arange(37) < 20

    @dataclasses.dataclass
    class First(Reducer):
        def watch(self, block: int, state: Any) -> bool:
            return block == 2

        def decide(self, view: View, state: Any) -> Reduction | None:
            return Reduction.keep(mask[None])

    with install(model, like(First(), site=site, name="first")) as trace:
        got = tiny.output(model, x)

    y = model.norm_pre(model._pos_embed(model.patch_embed(x)))
    for number, block in enumerate(model.blocks, 1):
        if number == 2 and site == "before":
            y = y[:, mask]
        y = y + block.ls1(block.attn(block.norm1(y)))
        if number == 2 and site == "between":
            y = y[:, mask]
        y = y + block.ls2(block.mlp(block.norm2(y)))
        if number == 2 and site == "after":
            y = y[:, mask]
    torch.testing.assert_close(got, model.forward_head(model.norm(y)), rtol=0, atol=1e-12)
    entered = {"before": (20, 20), "between": (37, 20), "after": (37, 37)}[site]
    assert (int(trace.attention_tokens[1, 0]), int(trace.mlp_tokens[1, 0])) == entered
    assert trace.lengths[:, 0].tolist() == [37, 20, 20, 20, 20]


@pytest.mark.parametrize("heads", ["token", "avg"])
def test_proportional_attention_makes_merging_of_equal_tokens_exact(heads: str) -> None:
    """On an image of one colour, without positions, all patches are one patch many times over."""
    model = tiny.vit(31, pos_embed="none", global_pool=heads)
    x = torch.full((2, 3, 24, 24), 0.3)
    plain = tiny.output(model, x)

    @dataclasses.dataclass
    class Merge(Reducer):
        def watch(self, block: int, state: Any) -> bool:
            return block in (1, 3)

        def decide(self, view: View, state: Any) -> Reduction | None:
            count = view.size.shape[1]
            pairs = torch.arange(count - 1) // 3 + 1
            return Reduction(torch.cat([torch.zeros(1).long(), pairs]).expand(2, -1))

    members = {"name": "merge", "site": "before"}
    with install(model, like(Merge(), proportional=True, **members)) as trace:
        got = tiny.output(model, x)
    assert trace.lengths[-1].tolist() == [5, 5]
    torch.testing.assert_close(got, plain, rtol=0, atol=1e-5)
    with install(model, like(Merge(), proportional=False, **members)):
        assert (tiny.output(model, x) - plain).abs().max() > 1e-3


def test_average_pooling_is_a_mean_over_patches() -> None:
    """Tokens merged after the last block change nothing: each counts for the patches it holds."""
    model, x = host("avg_without_cls"), batch()
    assert isinstance(model.norm, nn.Identity)  # the norm comes after the pooling
    got, trace = run(model, Case("random", {"k": 0.3, "layer": 5}), x)
    assert (trace.lengths[-1] == 12).all()
    torch.testing.assert_close(got, tiny.output(model, x), rtol=0, atol=5e-6)


# --- refused by name ----------------------------------------------------------------------------


def with_blocks(block: type[nn.Module]) -> nn.Module:
    return tiny.vit(0, block_fn=block)


UNSUPPORTED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "parallel scaling": (
        lambda: with_blocks(vision_transformer.ParallelScalingBlock),
        "ParallelScalingBlock",
    ),
    "parallel things": (
        lambda: with_blocks(vision_transformer.ParallelThingsBlock),
        "ParallelThingsBlock",
    ),
    "post-norm": (lambda: with_blocks(vision_transformer.ResPostBlock), "ResPostBlock"),
    "rotary": (
        lambda: timm.models.eva.Eva(
            img_size=24, patch_size=4, embed_dim=32, depth=2, num_heads=2, use_rot_pos_emb=True
        ),
        "Eva",
    ),
    "convolutional": (lambda: timm.create_model("resnet10t"), "ResNet"),
    "hierarchical": (
        lambda: timm.models.swin_transformer.SwinTransformer(
            img_size=32, patch_size=4, embed_dim=8, depths=(1,), num_heads=(2,), window_size=4
        ),
        "SwinTransformer",
    ),
    "max pooling": (lambda: tiny.vit(0, global_pool="max"), "max"),
    "not a model": (lambda: nn.Linear(3, 3), "Linear"),
}


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_unsupported_models_are_refused_by_name(kind: str) -> None:
    make, said = UNSUPPORTED[kind]
    model = make().eval()
    before = fingerprint(model)
    for attempt in (
        lambda: geometry_of(model),
        lambda: asap_eval.reduce(model, "none").__enter__(),
    ):
        with pytest.raises(UnsupportedModelError, match=said):
            attempt()
    assert fingerprint(model) == before


@pytest.mark.parametrize("name", sorted(tiny.WITHOUT_CLS))
def test_methods_that_read_the_class_token_are_refused_without_one(name: str) -> None:
    refused = [case for case in VISION if case.build().requires_cls]
    assert refused
    for case in refused:
        with pytest.raises(UnsupportedModelError, match=case.method):
            run(host(name), case, batch())
        assert fingerprint(host(name)) == pristine(name)


def test_training_mode_is_refused() -> None:
    model = tiny.vit(0).train()
    with pytest.raises(AsapEvalError, match="eval"):
        run(model, CASES[2], batch())


def test_images_of_another_size_are_refused() -> None:
    model = tiny.vit(0, dynamic_img_size=True)
    with pytest.raises(AsapEvalError, match="50 tokens"):
        run(model, CASES[2], tiny.images(2, 28))


def test_a_trace_is_empty_before_the_first_pass() -> None:
    with (
        asap_eval.reduce(host("plain"), "none") as trace,
        pytest.raises(AsapEvalError, match="run the model"),
    ):
        _ = trace.lengths
