"""FNA against vectors made by its authors' code, and what it does inside a model."""

from __future__ import annotations

import golden_vit as g
import golden_vlm
import pytest
import tiny
import torch
from torch.nn.functional import scaled_dot_product_attention

import asap_eval
from asap_eval.errors import BadValueError
from asap_eval.methods.parts import nystroem


@g.files("fna", "fn_*")
def test_functions(stem: str) -> None:
    golden = g.read("fna", stem)
    q, k, v, index = (golden[name] for name in ("q", "k", "v", "landmark_idx"))
    assert torch.equal(nystroem.farthest_points(q.mean(1), index.shape[1]), index)
    g.close(nystroem.attention(q, k, v, index), golden["out"])
    g.close(scaled_dot_product_attention(q, k, v), golden["exact_attention_out"])

    at = index[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[3])
    queries, keys = q.gather(2, at), k.gather(2, at)
    assert torch.equal(keys, golden["k_landmarks"])
    a = nystroem.landmark_attention(queries, keys)
    g.close(a, golden["A"])
    inverse = nystroem.pseudo_inverse(a)
    g.close(inverse, golden["A_inv"])
    g.close(inverse @ scaled_dot_product_attention(queries, k, v), golden["v_landmarks"])


@golden_vlm.files("fna", "fn_*")
def test_shapes_of_a_clip_tower(stem: str) -> None:
    """The landmarks are given: the file says nothing of how they are chosen."""
    golden = golden_vlm.read(f"fna/{stem}")
    q, k, v, index = (golden[name] for name in ("q", "k", "v", "sample_indices"))
    at = index[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[3])
    a = nystroem.landmark_attention(q.gather(2, at), k.gather(2, at))
    assert torch.equal(k.gather(2, at), golden["k_landmark"])
    heads = golden["A"].shape[1]  # the wide file holds the matrices of the first head alone
    golden_vlm.close(a[:, :heads], golden["A"])
    inverse = nystroem.pseudo_inverse(a)
    golden_vlm.close(inverse[:, :heads], golden["A_inv"])
    gathered = scaled_dot_product_attention(q.gather(2, at), k, v)
    golden_vlm.close(inverse @ gathered, golden["v_landmark"])
    golden_vlm.close(nystroem.attention(q, k, v, index), golden["out"])


def test_in_a_model_it_replaces_the_listed_blocks_and_removes_nothing() -> None:
    # fp64: the inverse it takes blows up what two ways of summing attention differ by.
    model, x = tiny.large(5).double(), tiny.images(3, size=32, seed=5).double()
    seen = {}
    for number, block in enumerate(model.blocks):
        block.attn.proj.register_forward_pre_hook(lambda _, a, n=number: seen.update({n: a[0]}))
    with asap_eval.reduce(model, "fna", m=9, blocks=[2, 4]) as trace:
        got = tiny.output(model, x)
    assert (trace.lengths == 65).all()
    assert not trace.fired.any()

    index, y = None, model._pos_embed(model.patch_embed(x))
    for number, block in enumerate(model.blocks):
        qkv = block.attn.qkv(block.norm1(y)).unflatten(-1, (3, 3, 16))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        if number in (2, 4):
            if index is None:
                index = nystroem.farthest_points(q.mean(1), 9)
            out = nystroem.attention(q, k, v, index)
        else:
            out = scaled_dot_product_attention(q, k, v)
        out = out.transpose(1, 2).flatten(2)
        torch.testing.assert_close(seen[number], out, rtol=0, atol=1e-10)
        y = y + block.attn.proj(out)
        y = y + block.mlp(block.norm2(y))
    torch.testing.assert_close(got, model.head(model.norm(y)[:, 0]), rtol=0, atol=1e-10)

    own = 4 * 65 * 9 * 48 + 2 * 9**2 * 48 + 24 * 3 * 9**3
    expected = 2 * (own - 2 * 65**2 * 48) + 9 * 65 * 16
    assert trace.method_macs.tolist() == [expected] * 3
    assert expected < 0


@pytest.mark.parametrize(
    ("options", "said"),
    [({"m": 0}, "1 to 37"), ({"m": 38}, "1 to 37"), ({"m": 4, "blocks": [5]}, "0 to 4")],
)
def test_what_does_not_fit_is_refused(options: dict[str, object], said: str) -> None:
    model = tiny.vit(1)
    with (
        pytest.raises(BadValueError, match=said),
        asap_eval.reduce(model, "fna", **options),  # type: ignore[arg-type]
    ):
        tiny.output(model, tiny.images(1))


def test_every_token_a_landmark_is_close_to_exact_attention() -> None:
    """With all tokens as landmarks the approximation is as good as the inverse."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 12, 8, generator=generator, dtype=torch.float64) for _ in "qkv")
    every = torch.arange(12)[None]
    a = nystroem.landmark_attention(q, k)
    exact = a @ torch.linalg.inv(a) @ (a @ v)
    torch.testing.assert_close(exact, scaled_dot_product_attention(q, k, v))
    left = nystroem.attention(q, k, v, every) - exact
    residual = a @ nystroem.pseudo_inverse(a) - torch.eye(12, dtype=torch.float64)
    torch.testing.assert_close(left, residual @ (a @ v))
