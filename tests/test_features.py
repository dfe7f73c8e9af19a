"""What can be read of a reduced model beside its logits: padded, by patch, or refused."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import timm
import tiny
import torch
from cases import Case, batch, pairs, run
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn

import asap_eval
from asap_eval.errors import AsapEvalError, BadValueError, UnsupportedModelError
from asap_eval.trace import Trace

host = functools.cache(lambda name: tiny.HOSTS[name]())

TIMM = [name for name in tiny.HOSTS if name not in ("clip", "lv_vit")]
TIMM_PAIRS = [
    pytest.param(name, case, id=f"{name}-{case}")
    for name, case in pairs("tokens")
    if name in ("plain", "registers")
]

ATS = Case("ats", {"k": 24, "blocks": [1, 2, 4]}, conserves=False)
"""Every image keeps another number of tokens."""
ASAP = Case("asap", {"k": 2.0, "tau": 2.2, "never": "block:4"})
"""Images are reduced after different blocks."""
POOLED = Case("random", {"k": 0.4, "layer": 3})
RESIZED = Case("downsample", {"k": 0.55})
UNCHANGED = Case("none", effect="nothing")
PER_IMAGE = [ASAP, ATS, Case("ppt", {"r": 8, "threshold": 1e9}), RESIZED]


def needs_cls(name: str, case: Case) -> bool:
    return name in tiny.WITHOUT_CLS and case.build().requires_cls


def reduced(model: nn.Module, case: Case) -> Any:
    return asap_eval.reduce(model, case.method, **case.params)


def patches_of(tokens: Tensor, source: Tensor, fill: float = 0.0) -> Tensor:
    """``[6, 6, D]`` of one image, patch after patch, from its tokens ``[N, D]``."""
    rows = [tokens[slot] if slot >= 0 else torch.full_like(tokens[0], fill) for slot in source]
    return torch.stack(rows).view(6, 6, -1)


# --- tokens -------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize(("name", "case"), TIMM_PAIRS)
def test_features_are_padded_and_zero_behind_the_mask(name: str, case: Case) -> None:
    model, x = host(name), batch()
    with reduced(model, case) as trace:
        features, mask, lengths = model.forward_features(x), trace.mask(), trace.lengths[-1]
        assert torch.equal(mask.sum(1), lengths)
        assert features.shape[:2] == mask.shape == (5, int(lengths.max()))
        assert not features[~mask].any()
        for i, image in enumerate(x):
            alone = model.forward_features(image[None])[0]
            torch.testing.assert_close(features[i, : lengths[i]], alone, rtol=0, atol=2e-5)


@torch.no_grad()
def test_a_towers_hidden_states_are_padded_and_zero_behind_the_mask() -> None:
    model, x = tiny.clip(11), batch()
    for config in (False, True):  # asked for in the call, or in the configuration
        model.config.output_hidden_states = config
        asked = {} if config else {"output_hidden_states": True}
        with reduced(model, ATS) as trace:
            out = model(x, **asked)
            for block, states in enumerate(out.hidden_states[1:], 1):
                mask = trace.mask(block)
                assert states.shape == (*mask.shape, 32)
                assert torch.equal(mask.sum(1), trace.lengths[block - 1])
                assert not states[~mask].any()
            assert len(set(trace.lengths[-1].tolist())) > 1
            assert torch.equal(out.hidden_states[-1], out.last_hidden_state)
            for i, image in enumerate(x):
                alone = model(image[None], **asked).hidden_states[-1][0]
                torch.testing.assert_close(states[i, : len(alone)], alone, rtol=0, atol=2e-5)
            assert torch.equal(model(x).pooler_output, out.pooler_output)
    model.config.output_hidden_states = False


def test_attention_weights_of_a_tower_are_refused() -> None:
    model = tiny.clip(11)
    with reduced(model, ATS), pytest.raises(UnsupportedModelError, match="output_attentions"):
        model(batch(), output_attentions=True)
    model.set_attn_implementation("eager")
    model.config.output_attentions = True
    with pytest.raises(UnsupportedModelError, match="output_attentions"), reduced(model, ATS):
        pass


@torch.no_grad()
@pytest.mark.parametrize("case", [ASAP, ATS, POOLED], ids=str)
@pytest.mark.parametrize("name", ["plain", "clip", "lv_vit"])
def test_hooks_on_blocks_see_padded_tokens(name: str, case: Case) -> None:
    model, x = host(name), batch()
    blocks = model.encoder.layers if name == "clip" else model.blocks
    expected = run(model, case, x)[0]
    seen: dict[int, Tensor] = {}
    inputs: dict[int, Tensor] = {}

    def look(block: int, trace: Trace) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
            inputs[block], seen[block] = args[0], out
            mask = trace.mask(block)  # while the pass is running
            assert out.shape[:2] == mask.shape
            assert not out[~mask].any()
            by_patch = trace.unmerge(out)
            assert torch.equal(by_patch, trace.unmerge(out.clone(), block=block))

        return hook

    with reduced(model, case) as trace:
        handles = [
            blocks[block - 1].register_forward_hook(look(block, trace)) for block in (1, 3, 4)
        ]
        got = tiny.output(model, x)
        for handle in handles:
            handle.remove()
        assert torch.equal(got, expected)
        assert torch.equal(inputs[4], seen[3])
        for block, out in seen.items():
            for i, image in enumerate(x):
                alone: list[Tensor] = []
                handle = blocks[block - 1].register_forward_hook(
                    lambda _module, _args, out, alone=alone: alone.append(out)
                )
                tiny.output(model, image[None])
                handle.remove()
                length = alone[0].shape[1]
                torch.testing.assert_close(out[i, :length], alone[0][0], rtol=0, atol=2e-5)


@torch.no_grad()
def test_a_hook_may_change_a_blocks_tokens() -> None:
    model, x = host("plain"), batch()
    shift = torch.linspace(-1, 1, 32)

    def output(images: Tensor) -> Tensor:
        handles = [
            model.blocks[i].register_forward_hook(lambda _module, _args, out: out + shift)
            for i in (1, 4)
        ]
        try:
            return run(model, ATS, images)[0]
        finally:
            for handle in handles:
                handle.remove()

    whole = output(x)
    assert (whole - run(model, ATS, x)[0]).abs().max() > 1e-2
    for i, image in enumerate(x):
        torch.testing.assert_close(whole[i], output(image[None])[0], rtol=0, atol=2e-5)

    handle = model.blocks[1].register_forward_hook(lambda _module, _args, out: out[:, :-1])
    with reduced(model, ATS), pytest.raises(BadValueError, match="keep their number"):
        model(x)
    handle.remove()


@torch.no_grad()
@pytest.mark.parametrize(
    ("block", "part"),  # ATS acts inside block 2, between its attention and its MLP
    [(2, "mlp"), (4, "norm1"), (4, "attn"), (4, "attn.qkv"), (4, "mlp")],
)
def test_hooks_inside_blocks_are_refused_where_images_are_packed(block: int, part: str) -> None:
    model, x = tiny.vit(1), batch()
    shapes: list[int] = []
    model.blocks[block - 1].get_submodule(part).register_forward_hook(
        lambda _module, _args, out: shapes.append(out.shape[0])
    )
    said = f"'{part}' of block {block}"
    with reduced(model, ATS), pytest.raises(UnsupportedModelError, match=said):
        model(x)
    assert not shapes
    # Where images have one length nothing is packed.
    for case, images in ((ATS, x[:1]), (POOLED, x), (UNCHANGED, x)):
        run(model, case, images)
    assert shapes == [1, 5, 5]


@torch.no_grad()
def test_blocks_called_by_hand_give_padded_tokens() -> None:
    model, x = host("avg_with_cls"), batch()
    expected = run(model, ATS, x)[0]
    with reduced(model, ATS) as trace:
        y = model.norm_pre(model._pos_embed(model.patch_embed(x)))
        for number, block in enumerate(model.blocks, 1):
            y = block(y)
            assert y.shape[:2] == trace.mask(number).shape
            assert not y[~trace.mask(number)].any()
        features = model.norm(y)
        assert not features[~trace.mask()].any()
        assert torch.equal(model.forward_head(features), expected)


# --- by patch -----------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize(("name", "case"), TIMM_PAIRS)
def test_unmerge_gives_every_patch_its_token(name: str, case: Case) -> None:
    model, x, prefix = host(name), batch(), tiny.PREFIX.get(name, 1)
    with reduced(model, case) as trace:
        features = model.forward_features(x)
        for given in (features, features.clone(), features[:, prefix:]):
            dense = trace.unmerge(given)
            filled = trace.unmerge(given, fill=7.0)
            assert dense.shape == (5, 6, 6, 32)
            for i in range(5):
                source = trace.source[i]
                assert torch.equal(dense[i], patches_of(features[i], source))
                assert torch.equal(filled[i], patches_of(features[i], source, 7.0))
    if case.conserves:
        assert torch.equal(dense, filled)


@torch.no_grad()
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("case", [*PER_IMAGE, POOLED, UNCHANGED], ids=str)
@pytest.mark.parametrize("name", TIMM)
def test_intermediates_are_padded_or_by_patch(name: str, case: Case, norm: bool) -> None:
    if needs_cls(name, case):
        return
    model, x, prefix = host(name), batch(), tiny.PREFIX.get(name, 1)
    with reduced(model, case) as trace:
        ask = functools.partial(model.forward_intermediates, x, norm=norm)
        last, tokens = ask(indices=[1, 3], output_fmt="NLC")
        assert torch.equal(last, model.forward_features(x))
        images = ask(indices=[1, 3], output_fmt="NCHW", intermediates_only=True)
        for block, each, image in zip((2, 4), tokens, images, strict=True):
            mask = trace.mask(block)[:, prefix:]
            assert each.shape == (*mask.shape, 32)
            assert not each[~mask].any()
            assert image.shape == (5, 32, 6, 6)
            assert torch.equal(image.permute(0, 2, 3, 1), trace.unmerge(each))
            assert torch.equal(image.permute(0, 2, 3, 1), trace.unmerge(each.clone(), block=block))
        for i in range(5):
            alone = model.forward_intermediates(
                x[i : i + 1], [1, 3], norm=norm, intermediates_only=True
            )
            for image, single in zip(images, alone, strict=True):
                torch.testing.assert_close(image[i], single[0], rtol=0, atol=2e-5)
    if case is UNCHANGED:
        plain = model.forward_intermediates(x, [1, 3], norm=norm, intermediates_only=True)
        assert all(map(torch.equal, images, plain))


@torch.no_grad()
def test_every_way_to_ask_for_intermediates_gives_the_same() -> None:
    model, x = host("registers"), batch()
    with reduced(model, ATS) as trace:
        expected = model.forward_intermediates(x, [0, 2, 4], intermediates_only=True)
        with_prefix = model.forward_intermediates(
            x, [0, 2, 4], intermediates_only=True, return_prefix_tokens=True
        )
        as_dict = model.forward_intermediates(
            x, [0, 2, 4], output_dict=True, return_prefix_tokens=True
        )
        dino = model.get_intermediate_layers(x, [0, 2, 4], reshape=True)
        early = model.forward_intermediates(x, [0, 2], stop_early=True, intermediates_only=True)
        assert trace.lengths.shape == (3, 5)  # of the blocks that ran
        assert trace.mask().shape == (5, int(trace.lengths[-1].max()))
        reached = model.forward_intermediates(x, 2, intermediates_only=True)  # the last two
    for at, one in enumerate(expected):
        assert torch.equal(with_prefix[at][0], one)
        assert with_prefix[at][1].shape == (5, 5, 32)
        assert torch.equal(as_dict["image_intermediates"][at], one)
        assert torch.equal(as_dict["image_intermediates_prefix"][at], with_prefix[at][1])
        assert torch.equal(dino[at], one)
    assert all(map(torch.equal, early, expected[:2]))
    assert torch.equal(reached[1], expected[2])


@torch.no_grad()
@pytest.mark.parametrize("output_fmt", ["NCHW", "NLC"])
def test_timms_feature_wrapper_is_reduced(output_fmt: str) -> None:
    torch.manual_seed(0)
    inside = timm.create_model("vit_tiny_patch16_224", img_size=32)
    wrapper = FeatureGetterNet(inside, out_indices=[3, 5], output_fmt=output_fmt).eval()
    x = tiny.images(3, 32)
    plain = wrapper(x)
    with asap_eval.reduce(wrapper, "random", k=0.5, layer=2, rest="drop") as trace:
        got = wrapper(x)
    assert (trace.lengths[-1] == 3).all()
    assert trace.lengths.shape[0] == 6, "timm has removed the blocks behind"
    assert got[0].shape == (plain[0].shape if output_fmt == "NCHW" else (3, 2, 192))
    if output_fmt == "NCHW":
        assert torch.equal(got[1] != 0, (trace.source >= 0).view(3, 1, 2, 2).expand_as(got[1]))
    assert all(map(torch.equal, wrapper(x), plain))


def test_unmerge_of_other_tokens_is_refused() -> None:
    model, x = host("plain"), batch()
    early: list[Tensor] = []
    with torch.no_grad(), reduced(model, POOLED) as trace:
        hook = model.blocks[0].register_forward_hook(lambda _m, _a, out: early.append(out))
        features = model.forward_features(x)
        hook.remove()
        with pytest.raises(BadValueError, match="after block 5 there are"):
            trace.unmerge(early[0].clone())
        with pytest.raises(BadValueError, match="after block 1, not after block 5"):
            trace.unmerge(early[0], block=5)
        with pytest.raises(BadValueError, match="blocks 1 to 5 have run"):
            trace.mask(6)
        with pytest.raises(BadValueError, match="after block 5 there are"):
            trace.unmerge(features[:3])
        # The very tensor is known, also when another pass has run.
        again = trace.unmerge(features)
        model(x[:2])
        assert torch.equal(trace.unmerge(features), again)


# --- pooling, and passes that do not end ----------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("case", [ATS, POOLED], ids=str)
@pytest.mark.parametrize("name", ["avg_with_cls", "avg_without_cls", "map", "plain", "distilled"])
def test_a_head_pools_the_features_it_is_given(name: str, case: Case) -> None:
    if needs_cls(name, case):
        return
    model, x = host(name), batch()
    expected = run(model, case, x)[0]
    with reduced(model, case):
        features = model.forward_features(x)
        model.forward_features(x.flip(0))  # another pass, of as many tokens
        assert torch.equal(model.forward_head(features), expected)
        if name in ("plain", "distilled"):  # only the first tokens are read
            assert torch.equal(model.forward_head(features.clone()), expected)
        else:
            with pytest.raises(AsapEvalError, match="forward_features returned"):
                model.forward_head(features.clone())


@torch.no_grad()
@pytest.mark.parametrize("name", ["plain", "clip"])
def test_a_pass_that_was_stopped_says_so(name: str) -> None:
    model, x = host(name), batch()
    blocks = model.encoder.layers if name == "clip" else model.blocks

    def trip(*_: object) -> None:
        raise ZeroDivisionError

    with reduced(model, ATS) as trace:
        tiny.output(model, x)
        handle = blocks[3].register_forward_pre_hook(trip)
        with pytest.raises(ZeroDivisionError):
            tiny.output(model, x)
        handle.remove()
        for value in ("lengths", "fired", "source", "method_macs", "mlp_tokens", "notes"):
            with pytest.raises(AsapEvalError, match=rf"after block 3 of 5, so trace\.{value}"):
                getattr(trace, value)
        with pytest.raises(AsapEvalError, match="after block 3 of 5"):
            trace.mask()
        tiny.output(model, x)
        assert trace.lengths.all()


@torch.no_grad()
def test_blocks_run_once_in_order() -> None:
    model, x = host("plain"), batch()
    with reduced(model, POOLED):
        y = model._pos_embed(model.patch_embed(x))
        y = model.blocks[0](y)
        with pytest.raises(AsapEvalError, match="Block 3 ran after block 1"):
            model.blocks[2](y)
        y = model.blocks[1](y)
        with pytest.raises(AsapEvalError, match="Block 2 ran after block 2"):
            model.blocks[1](y)
