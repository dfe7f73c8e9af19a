"""Between softmax and V; and tokens that skip a block."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import tiny
import torch
from probes import named
from torch import Tensor

from asap_eval.errors import AsapEvalError
from asap_eval.hosts import install
from asap_eval.hosts.projections import fuse_maps
from asap_eval.method import Batch, Need, Reducer, View
from asap_eval.tokens import Reduction, Tokens


@dataclasses.dataclass
class Inside(Reducer):
    """Merges tokens 3 and 4 of block 2 into token 5, or looks at them alone."""

    site = "inside"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.HEAD_ATTENTION, Need.FEATURES})

    def watch(self, block: int, state: Any) -> bool | Tensor:
        return block == 2

    def decide(self, view: View, state: Any) -> Reduction | None:
        self.maps, self.x = view.head_attention, view.features
        return self.reduction(view)

    def reduction(self, view: View) -> Reduction | None:
        return None


@pytest.mark.parametrize("name", tiny.HOSTS)
def test_looking_inside_changes_nothing(name: str) -> None:
    model, x = tiny.HOSTS[name]().double(), tiny.images(3).double()
    plain, probe = tiny.output(model, x), named(Inside())
    with install(model, probe):
        got = tiny.output(model, x)
    torch.testing.assert_close(got, plain, rtol=0, atol=1e-12)
    torch.testing.assert_close(probe.maps.sum(-1), torch.ones_like(probe.maps[..., 0]))


@pytest.mark.parametrize("fuses", [True, False])
def test_fusing_inside(fuses: bool) -> None:
    """Maps of the block are fused with its input, values are those of the fused tokens."""
    model, x = tiny.HOSTS["layerscale"]().double(), tiny.images(2).double()
    group = torch.arange(37)
    group[[3, 4]] = 5
    group = torch.where(group > 4, group - 2, group).expand(2, -1)

    def merge(self: Any, view: View) -> Reduction:
        return Reduction(group)

    probe = named(Inside(), reduction=merge, fuses=fuses, proportional=True)
    with install(model, probe) as trace:
        got = tiny.output(model, x)
    y = model.blocks[0](model._pos_embed(model.patch_embed(x)))
    torch.testing.assert_close(probe.x, y, rtol=0, atol=1e-12)
    after = Tokens.start(y, 1).apply(Reduction(group))
    size = after.size[0]
    assert size[3] == 3
    block = model.blocks[1]
    qkv = block.attn.qkv(block.norm1(after.x)).unflatten(-1, (3, 2, 16)).permute(2, 0, 3, 1, 4)
    weight = 1 / size.gather(0, group[0]).expand(2, -1).double()
    maps = fuse_maps(probe.maps, group, weight, 35)
    if not fuses:
        maps = (qkv[0] @ qkv[1].mT / 4 + size.log()).softmax(-1)
    out = block.attn.proj((maps @ qkv[2]).transpose(1, 2).flatten(2))
    y = after.x + block.ls1(out)
    y = y + block.ls2(block.mlp(block.norm2(y)))
    for block in model.blocks[2:]:
        qkv = block.attn.qkv(block.norm1(y)).unflatten(-1, (3, 2, 16)).permute(2, 0, 3, 1, 4)
        maps = (qkv[0] @ qkv[1].mT / 4 + size.log()).softmax(-1)
        y = y + block.ls1(block.attn.proj((maps @ qkv[2]).transpose(1, 2).flatten(2)))
        y = y + block.ls2(block.mlp(block.norm2(y)))
    torch.testing.assert_close(got, model.forward_head(model.norm(y)), rtol=0, atol=1e-6)
    assert trace.attention_tokens[:, 0].tolist() == [37, 35, 35, 35, 35]


def test_rows_and_columns_of_fused_maps() -> None:
    maps = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6]])[None, None]
    fused = fuse_maps(maps, torch.tensor([[0, 1, 1]]), torch.tensor([[1.0, 0.25, 0.75]]), 2)
    torch.testing.assert_close(fused, torch.tensor([[0.5, 0.5], [0.175, 0.825]])[None, None])
    dropped = fuse_maps(maps, torch.tensor([[0, -1, 1]]), torch.ones(1, 3), 2)
    torch.testing.assert_close(dropped, torch.tensor([[0.5, 0.2], [0.2, 0.6]])[None, None])


def test_what_cannot_be_inside_is_refused() -> None:
    model, x = tiny.vit(1), tiny.images(3)
    needs = frozenset({Need.KEYS})
    with (
        pytest.raises(AsapEvalError, match="features, head_attention"),
        install(model, named(Inside(), needs=needs)),
    ):
        pass

    def some(self: Any, block: int, state: Any) -> Tensor:
        return torch.tensor([0, 2])

    with pytest.raises(AsapEvalError, match="watched"), install(model, named(Inside(), watch=some)):
        tiny.output(model, x)

    def mixes(self: Any, view: View) -> Reduction:
        identity = Reduction.identity(view.size)
        mix = torch.eye(37).expand(3, -1, -1)
        return dataclasses.replace(identity, mix=mix, acted=torch.ones(3, dtype=torch.bool))

    with (
        pytest.raises(AsapEvalError, match="fused by a mix"),
        install(model, named(Inside(), reduction=mixes)),
    ):
        tiny.output(model, x)


@dataclasses.dataclass
class Shrinking(Reducer):
    """Leaves all tokens where they are; one of them counts for half from block 1 on."""

    site = "after"
    proportional = True

    def watch(self, block: int, state: Any) -> bool:
        return block == 1

    def decide(self, view: View, state: Any) -> Reduction:
        share = torch.ones_like(view.size)
        share[:, 5] = 0.5
        return dataclasses.replace(Reduction.identity(view.size), share=share)


def test_a_share_of_a_token_alone_counts() -> None:
    """It is the bias of every later attention, as that of a merged token."""
    model, x = tiny.HOSTS["layerscale"]().double(), tiny.images(2).double()
    with install(model, named(Shrinking())):
        got = tiny.output(model, x)
    size = torch.ones(37, dtype=torch.float64)
    size[5] = 0.5
    y = model.blocks[0](model._pos_embed(model.patch_embed(x)))
    for block in model.blocks[1:]:
        qkv = block.attn.qkv(block.norm1(y)).unflatten(-1, (3, 2, 16)).permute(2, 0, 3, 1, 4)
        maps = (qkv[0] @ qkv[1].mT / 4 + size.log()).softmax(-1)
        y = y + block.ls1(block.attn.proj((maps @ qkv[2]).transpose(1, 2).flatten(2)))
        y = y + block.ls2(block.mlp(block.norm2(y)))
    torch.testing.assert_close(got, model.forward_head(model.norm(y)), rtol=0, atol=1e-6)
    assert (got - tiny.output(model, x)).abs().max() > 1e-4


@dataclasses.dataclass
class Skipping(Reducer):
    """Lets a few tokens of each image run block 3."""

    def begin(self, batch: Batch) -> list[list[int]]:
        return [[0, *range(1 + i, 36, 2)][:12] for i in range(batch.count)]

    def watch(self, block: int, state: Any) -> bool:
        return False

    def runs(self, block: int, state: Any) -> Tensor | None:
        return torch.tensor(state) if block == 3 else None


@pytest.mark.parametrize("name", ["plain", "layerscale", "qk_norm", "avg_with_cls"])
def test_tokens_skip_a_block_and_come_back(name: str) -> None:
    model, x = tiny.HOSTS[name]().double(), tiny.images(3).double()
    method = named(Skipping())
    with install(model, method) as trace:
        got = tiny.output(model, x)
    y = model._pos_embed(model.patch_embed(x))
    for number, block in enumerate(model.blocks, 1):
        if number == 3:
            for image, chosen in enumerate(method.begin(Counted(3))):
                y[image, chosen] = block(y[image : image + 1, chosen])[0]
        else:
            y = block(y)
    torch.testing.assert_close(got, model.forward_head(model.norm(y)), rtol=0, atol=1e-12)
    assert trace.attention_tokens[:, 0].tolist() == [37, 37, 12, 37, 37]
    assert trace.mlp_tokens[:, 0].tolist() == [37, 37, 12, 37, 37]
    assert trace.lengths[:, 0].tolist() == [37] * 5
    assert not trace.fired.any()


@dataclasses.dataclass
class Counted:
    """What `Skipping.begin` reads of a batch."""

    count: int


def test_a_block_that_tokens_skip_cannot_be_watched() -> None:
    model = tiny.vit(1)

    def watch(self: Any, block: int, state: Any) -> bool:
        return True

    with (
        pytest.raises(AsapEvalError, match="some of its tokens skip it"),
        install(model, named(Skipping(), watch=watch, decide=lambda *_: None)),
    ):
        tiny.output(model, tiny.images(3))
