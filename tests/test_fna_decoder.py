"""FNA in the language model: a second computation of it, its limits, work, refusals."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import test_vlm_macs
import tiny_llava as small
import torch
from probes import named
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

import asap_eval
from asap_eval.errors import BadValueError, UnsupportedModelError
from asap_eval.hosts import install, llava_geometry
from asap_eval.method import Reducer, View, build
from asap_eval.models import load_vlm
from asap_eval.tokens import Reduction
from asap_eval.work.language import decode_macs, prefill_ledger

BLOCKS = [4, 5, 11]


def farthest(x: Tensor, count: int) -> list[int]:
    """Rows of ``[n, d]``: the first, then each the farthest from its nearest chosen one."""
    chosen = [0]
    while len(chosen) < count:
        apart = (x[:, None] - x[chosen]).norm(dim=2).amin(1)
        chosen.append(int(apart.argmax()))
    return chosen


def softmax(scores: Tensor, seen: Tensor) -> Tensor:
    weights = torch.where(seen, (scores - scores.amax(-1, keepdim=True)).exp(), 0)
    return weights / weights.sum(-1, keepdim=True)


class Reference:
    """The language model written out, one token of the cache after the other, fp64, one sample."""

    def __init__(self, model: Any, m: int, causal: bool, mixed: bool) -> None:
        self.model, self.text = model, model.model.language_model
        self.m, self.causal, self.mixed = m, causal, mixed
        self.cache: dict[int, tuple[Tensor, Tensor]] = {}
        self.landmarks: list[int] = []

    def heads(self, layer: Any, x: Tensor, first: int) -> tuple[Tensor, Tensor, Tensor]:
        rotary = self.text.rotary_emb(x, position_ids=torch.arange(first, first + x.shape[1])[None])
        h, a = layer.input_layernorm(x), layer.self_attn
        q, k, v = (
            p(h).unflatten(-1, (4, 16)).transpose(1, 2) for p in (a.q_proj, a.k_proj, a.v_proj)
        )
        return (*(t[0] for t in apply_rotary_pos_emb(q, k, *rotary)), v[0])

    def nystroem(self, number: int, q: Tensor, k: Tensor, v: Tensor, image: Tensor) -> Tensor:
        if not self.landmarks:
            words = (~image).nonzero().flatten().tolist()[: self.m]
            places = image.nonzero().flatten()
            picked = (
                farthest(q.float().mean(0)[places], self.m - len(words))
                if self.m > len(words)
                else []
            )
            self.landmarks = words + places[picked].tolist()
        at = torch.tensor(self.landmarks)
        place = torch.arange(q.shape[1])
        seen = (place <= place[:, None]) | (not self.causal)
        scores = q @ k.mT / 4
        a = softmax(scores[:, at][:, :, at], seen[at][:, at])
        z = a.mT / a.sum(1).amax(1)[:, None, None]
        eye = torch.eye(len(at), dtype=a.dtype)
        for _ in range(6):
            az = a @ z
            z = 0.25 * z @ (13 * eye - az @ (15 * eye - az @ (7 * eye - az)))
        values = z @ softmax(scores[:, at], seen[at]) @ v
        self.cache[number] = k[:, at], values
        out = softmax(scores[:, :, at], seen[:, at]) @ values
        if self.mixed:
            return out.reshape(q.shape[1], -1)
        return out.transpose(0, 1).flatten(1)

    def exact(self, number: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if number in self.cache:
            before = self.cache[number]
            k, v = torch.cat([before[0], k], 1), torch.cat([before[1], v], 1)
        self.cache[number] = k, v
        new, held = q.shape[1], k.shape[1]
        seen = torch.arange(held) <= torch.arange(held - new, held)[:, None]
        return (softmax(q @ k.mT / 4, seen) @ v).transpose(0, 1).flatten(1)

    def step(self, x: Tensor, first: int, image: Tensor | None) -> Tensor:
        """``[V]`` logits behind new tokens ``[1, N, D]``; ``image [N]`` with the prompt alone."""
        for number, layer in enumerate(self.text.layers):
            q, k, v = self.heads(layer, x, first)
            if image is not None and number in BLOCKS:
                out = self.nystroem(number, q, k, v, image)
            else:
                out = self.exact(number, q, k, v)
            x = x + layer.self_attn.o_proj(out[None])
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return self.model.lm_head(self.text.norm(x))[0, -1]


def reference(
    name: str, m: int, causal: bool, mixed: bool, steps: int = 5
) -> tuple[Tensor, list[int]]:
    """Logits behind the prompt, and the tokens generated."""
    model, given = small.vlm(name, "float64").model, small.inputs(name, 1, dtype="float64")
    ids = given["input_ids"]
    image = ids[0] == 3
    sizes = (given["image_sizes"],) if "image_sizes" in given else ()
    features = torch.cat(
        list(model.model.get_image_features(given["pixel_values"], *sizes).pooler_output)
    )
    embed = model.model.get_input_embeddings()
    run = Reference(model, m, causal, mixed)
    x = embed(ids).masked_scatter(image[None, :, None], features)
    logits = run.step(x, 0, image)
    said = [int(logits.argmax())]
    for place in range(len(image), len(image) + steps - 1):
        said.append(int(run.step(embed(torch.tensor([said[-1:]])), place, None).argmax()))
    return logits, said


@small.on_both
@pytest.mark.parametrize(("causal", "mixed"), [(True, False), (False, False), (False, True)])
@pytest.mark.parametrize("m", [60, 9])
def test_logits_and_text_are_those_of_a_second_computation(
    name: str, m: int, causal: bool, mixed: bool
) -> None:
    """With 9 landmarks, words alone; positions go on behind the prompt though caches are short."""
    options = {"m": m, "blocks": BLOCKS, "causal": causal, "mixed": mixed}
    with torch.no_grad():
        expected, said = reference(name, m, causal, mixed)
    loaded, given = small.vlm(name, "float64"), small.inputs(name, 1, dtype="float64")
    with asap_eval.reduce(loaded.model, "fna_decoder", **options) as trace:
        got, ids = small.logits(loaded, given), small.generate(loaded, given, 5)
    torch.testing.assert_close(got[0], expected.float(), rtol=0, atol=1e-5)
    assert ids[0, -5:].tolist() == said
    length = int(given["attention_mask"].sum())
    held = [m if number in BLOCKS else length for number in range(18)]
    assert trace.language.cached_tokens[:, 0].tolist() == held
    assert (trace.language.lengths == length).all()
    assert not trace.language.fired.any()


def test_all_tokens_as_landmarks_and_a_converged_inverse_are_exact_attention() -> None:
    """The unpruned model's logits behind prompts of different lengths; six steps are near, and
    without the causal mask it is another model."""
    plain, text, _ = small.reduced("llava_tiny", "none", dtype="float64")
    every = {"dtype": "float64", "m": 10**6, "blocks": BLOCKS}
    got, ids, trace = small.reduced("llava_tiny", "fna_decoder", iterations=24, **every)
    torch.testing.assert_close(got, plain, rtol=0, atol=1e-5)
    assert torch.equal(ids[:, :-5], text[:, :-5]), "prompts and the first token"
    assert torch.equal(trace.language.cached_tokens, trace.language.attention_tokens)
    six, *_ = small.reduced("llava_tiny", "fna_decoder", **every)
    open_, *_ = small.reduced("llava_tiny", "fna_decoder", causal=False, iterations=24, **every)
    assert 1e-5 < (six - plain).abs().max() < (open_ - plain).abs().max()


@dataclasses.dataclass
class Exact(Reducer):
    """Replaces attention by itself and says nothing of caches."""

    tower = "language"

    def attends(self, block: int, state: Any) -> bool:
        return block % 3 == 0

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, state: Any) -> Tensor:
        assert bias is not None
        return scaled_dot_product_attention(q, k, v, attn_mask=bias)

    def watch(self, block: int, state: Any) -> bool:
        return False

    def decide(self, view: View, state: Any) -> Reduction | None:
        return None


@small.on_both
def test_without_a_cache_of_its_own_a_method_decodes_with_the_prompts(name: str) -> None:
    plain, text, _ = small.reduced(name, "none", dtype="float64")
    loaded, given = small.vlm(name, "float64"), small.inputs(name, dtype="float64")
    with install(loaded.model, named(Exact())) as trace:
        got, ids = small.logits(loaded, given), small.generate(loaded, given)
    torch.testing.assert_close(got, plain, rtol=0, atol=1e-6)
    assert torch.equal(ids, text)
    assert torch.equal(trace.language.cached_tokens, trace.language.attention_tokens)


@small.on_both
def test_work_is_what_torch_counts(name: str) -> None:
    """Choosing landmarks is no matrix product, so torch does not see it."""
    loaded, given = small.vlm(name), small.inputs(name, 2)
    geometry, m = llava_geometry(loaded.model), 40

    def run(tokens: int) -> float:
        return test_vlm_macs.counted(
            lambda: loaded.model.generate(
                **given, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False
            )
        )

    with install(loaded.model, build("fna_decoder", m=m, blocks=BLOCKS)) as trace:
        prompt = run(1)
        ledger, new = prefill_ledger(geometry, trace), decode_macs(geometry, trace, 5)
        assert run(6) - prompt == float(new)
    image = int(trace.handed_to_llm)
    words = int(trace.prompt_tokens) - image
    assert float(ledger.total) == prompt + (m - words) * image * 16
    n = image + words
    own = 4 * n * m * 64 + 2 * m**2 * 64 + 24 * 4 * m**3
    assert float(ledger.method) == 3 * (own - 2 * n**2 * 64) + (m - words) * image * 16


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"m": 0}, "at least 1"),
        ({"iterations": 0}, "at least 1"),
        ({"blocks": [0, 4]}, "begin with 1"),
        ({"blocks": [18]}, "0 to 17"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadValueError, match=said):
        small.reduced("llava_tiny", "fna_decoder", 0, **options)


def test_a_prompt_that_begins_with_its_image_needs_a_landmark_there() -> None:
    loaded, given = small.vlm("llava_tiny"), small.inputs("llava_tiny", 0)
    first = int((given["input_ids"][0] == 3).long().argmax())
    given |= {key: given[key][:, first:] for key in ("input_ids", "attention_mask")}
    with (
        asap_eval.reduce(loaded.model, "fna_decoder", m=2),
        pytest.raises(BadValueError, match="begins with its image"),
    ):
        small.logits(loaded, given)
    with asap_eval.reduce(loaded.model, "fna_decoder", m=2, causal=False):
        assert small.logits(loaded, given).isfinite().all()


def test_models_and_caches_it_cannot_run_in_are_refused() -> None:
    loaded, given = load_vlm("llava_tiny"), small.inputs("llava_tiny", 0)
    with asap_eval.reduce(loaded.model, "fna_decoder"):
        with pytest.raises(UnsupportedModelError, match="dynamic cache"):
            loaded.model.generate(**given, max_new_tokens=2, cache_implementation="static")
        loaded.model.model.language_model.layers[8].self_attn.num_key_value_groups = 2
        with pytest.raises(UnsupportedModelError, match="share their keys"):
            small.logits(loaded, given)
