"""What a host offers a method in a vision-language model, against the model's own modules."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import test_llava
import test_vlm_macs
import tiny
import tiny_llava as small
import torch
from probes import named
from project import ROOT
from torch import Tensor

from asap_eval.errors import AsapEvalError, BadValueError, UnsupportedModelError
from asap_eval.hosts import install, llava_geometry
from asap_eval.method import Batch, Need, Reducer, View
from asap_eval.tokens import Reduction
from asap_eval.work.language import prefill_ledger

LANGUAGE = frozenset(
    {
        *(Need.FEATURES, Need.NORMED, Need.KEYS, Need.VALUES, Need.ROWS, Need.LOGITS),
        *(Need.INPUT, Need.MLP_INPUT, Need.OUT_PROJECTION),
    }
)


@dataclasses.dataclass
class Look(Reducer):
    """Keeps what it read in one block, and removes nothing."""

    block: int = 3
    tower = "language"

    def watch(self, block: int, state: Any) -> bool:
        return block == self.block

    def begin(self, batch: Batch) -> Any:
        self.batch = batch
        return None

    def rows(self, block: int, lengths: Tensor, state: Any) -> Tensor:
        return torch.stack([lengths - 1, lengths - 4, torch.full_like(lengths, -1)], 1)

    def decide(self, view: View, state: Any) -> Reduction | None:
        self.seen = {need: view.read(need) for need in self.needs}
        self.lengths = view.lengths
        return None


@dataclasses.dataclass
class Admit(Reducer):
    """Lets every third image token into the language model."""

    every: int = 3
    tower = "language"
    needs = frozenset({Need.FEATURES})

    def watch(self, block: int, state: Any) -> bool:
        return False

    def admit(self, view: View, state: Any) -> Reduction | None:
        place = view.image.long().cumsum(1) - 1
        return Reduction.keep((view.size > 0) & (~view.image | (place % self.every == 0)))


def run(name: str, reducer: Any, *samples: int) -> tuple[Tensor, Any]:
    """In fp64: logits and the trace."""
    loaded, given = small.vlm(name, "float64"), small.inputs(name, *samples, dtype="float64")
    with install(loaded.model, reducer) as trace:
        return small.logits(loaded, given), trace


def close(got: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(got.double(), expected.double(), rtol=0, atol=tolerance)


# --- a layer of the language model ----------------------------------------------------------------


def test_what_a_layer_is_read_as() -> None:
    """Against its own modules, run one by one on what entered it."""
    look = named(Look(), needs=LANGUAGE)
    run("llava_tiny", look, 1)
    text, seen = small.vlm("llava_tiny", "float64").model.model.language_model, look.seen
    layer, x = text.layers[2], seen[Need.INPUT]
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, repeat_kv

    with torch.no_grad():
        place = torch.arange(x.shape[1])[None]
        normed, attention = layer.input_layernorm(x), layer.self_attn
        q, k, v = (
            p(normed).view(1, x.shape[1], -1, attention.head_dim).transpose(1, 2)
            for p in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        q, k = apply_rotary_pos_emb(q, k, *text.rotary_emb(x, position_ids=place))
        close(seen[Need.KEYS], k)
        close(seen[Need.VALUES], v)
        groups = attention.num_key_value_groups
        scores = q @ repeat_kv(k, groups).mT * attention.head_dim**-0.5
        last = scores[:, :, [-1, -4]]
        close(seen[Need.LOGITS][:, :, :2], last)
        later = torch.arange(x.shape[1]) > torch.tensor([[x.shape[1] - 1], [x.shape[1] - 4]])
        close(seen[Need.ROWS][:, :, :2], last.masked_fill(later, -torch.inf).softmax(-1))
        assert not seen[Need.ROWS][:, :, 2].any()
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        heads = scores.masked_fill(later, -torch.inf).softmax(-1) @ repeat_kv(v, groups)
        assert torch.equal(seen[Need.OUT_PROJECTION], attention.o_proj.weight)
        between = x + heads.transpose(1, 2).flatten(2) @ seen[Need.OUT_PROJECTION].mT
        close(seen[Need.MLP_INPUT], layer.post_attention_layernorm(between))
        close(seen[Need.FEATURES], between + layer.mlp(layer.post_attention_layernorm(between)))
        close(seen[Need.NORMED], text.norm(seen[Need.FEATURES]))


def test_shared_keys_are_read_once() -> None:
    model = small.vlm("llava_tiny").model
    attention = model.model.language_model.layers[2].self_attn
    look = named(Look(), needs=frozenset({Need.KEYS, Need.VALUES, Need.ROWS}))
    run("llava_tiny", look, 1)
    heads = attention.q_proj.out_features // attention.head_dim
    shared = attention.k_proj.out_features // attention.head_dim
    assert look.seen[Need.KEYS].shape[1] == look.seen[Need.VALUES].shape[1] == shared
    assert look.seen[Need.ROWS].shape[1] == heads


@small.on_both
@pytest.mark.parametrize("site", ["before", "after"])
def test_reads_of_a_batch_are_its_samples_own_and_change_nothing(name: str, site: str) -> None:
    needs = LANGUAGE
    if site == "before":
        needs = needs - {Need.VALUES, Need.INPUT, Need.MLP_INPUT, Need.OUT_PROJECTION}
    together = named(Look(), needs=needs, site=site)
    got, trace = run(name, together)
    close(got, run(name, named(Look(), needs=frozenset()))[0], 1e-6)
    for sample in range(3):
        alone = named(Look(), needs=needs, site=site)
        _, one = run(name, alone, sample)
        n = int(alone.lengths)
        for need in needs - {Need.OUT_PROJECTION}:
            whole, own = together.seen[need][sample], alone.seen[need][0]
            tokens = whole[:n] if whole.dim() == 2 else whole[..., :n, :]
            rest = whole[n:] if whole.dim() == 2 else whole[..., n:, :]
            if need in (Need.ROWS, Need.LOGITS):
                tokens, rest = whole[..., :n], whole[..., n:]
            close(tokens, own)
            assert not rest.any(), f"{need}: padding is not zero"
        assert torch.equal(one.language.method_macs[0], trace.language.method_macs[sample])


@small.on_both
def test_rows_before_a_layer_are_those_it_would_make_and_are_counted(name: str) -> None:
    needs = frozenset({Need.ROWS, Need.KEYS, Need.LOGITS})
    before, after = (named(Look(), needs=needs, site=site) for site in ("before", "after"))
    run(name, before, 2)
    run(name, after, 2)
    for need in needs:
        close(before.seen[need], after.seen[need])
    loaded, given = small.vlm(name), small.inputs(name, 2)
    rows = named(Look(), needs=needs, site="before")
    rows.__class__.rows = lambda *args: args[2][:, None] - 1
    with install(loaded.model, rows) as trace:
        whole = test_vlm_macs.counted(
            lambda: loaded.model.generate(**given, max_new_tokens=1, do_sample=False)
        )
        ledger = prefill_ledger(llava_geometry(loaded.model), trace)
    assert float(ledger.method) > 0
    assert whole == float(ledger.total)


def test_before_a_layer_its_outcome_cannot_be_read() -> None:
    model = small.vlm("llava_tiny").model
    for need in (Need.VALUES, Need.INPUT, Need.MLP_INPUT, Need.ATTENTION, Need.PROJECTED):
        with pytest.raises(UnsupportedModelError, match=f"declares {need.value}"):
            install(model, named(Look(), needs=frozenset({need}), site="before"))


# --- what enters the language model ---------------------------------------------------------------


@small.on_both
@pytest.mark.parametrize("positions", ["kept", "renumbered"])
def test_admitted_tokens_are_a_shorter_prompt(name: str, positions: str) -> None:
    """As if the tower had handed on no more, in decoding too; a batch as its samples."""
    loaded, given = small.vlm(name, "float64"), small.inputs(name, dtype="float64")
    with install(loaded.model, named(Admit(), positions=positions)) as trace:
        got, ids = small.logits_and_ids(loaded, given)
    assert trace.language.fired.tolist() == [1, 1, 1]
    kept = (trace.handed_to_llm + 2) // 3
    text = trace.prompt_tokens - trace.handed_to_llm
    assert torch.equal(trace.language.attention_tokens, (text + kept).expand(18, -1))
    inner = loaded.model.model
    for sample in range(3):
        alone = small.inputs(name, sample, dtype="float64")
        sizes = (alone["image_sizes"],) if "image_sizes" in alone else ()
        with torch.no_grad(), install(loaded.model, named(Look(), needs=frozenset())):
            features = inner.get_image_features(alone["pixel_values"], *sizes).pooler_output
        embeds = inner.get_input_embeddings()(alone["input_ids"]).clone()
        image = alone["input_ids"] == 3
        embeds[image] = torch.cat(list(features))
        wanted = ~image[0] | ((image[0].long().cumsum(0) - 1) % 3 == 0)
        short = embeds[:, wanted]
        with torch.no_grad():
            out = loaded.model.generate(
                inputs_embeds=short,
                attention_mask=torch.ones(short.shape[:2], dtype=torch.long),
                max_new_tokens=6,
                do_sample=False,
                return_dict_in_generate=True,
                output_logits=True,
            )
        close(got[sample], out.logits[0][0])
        assert torch.equal(ids[sample, -6:], out.sequences[0, -6:])


def test_tokens_may_go_again_later_and_positions_are_then_kept() -> None:
    """Admitted tokens count from 0; what goes behind layer 3 leaves the others' numbers."""

    @dataclasses.dataclass
    class Twice(Admit):
        def watch(self, block: int, state: Any) -> bool:
            return block == 3

        def decide(self, view: View, state: Any) -> Reduction | None:
            return Reduction.keep((view.size > 0) & ~view.image)

    loaded, given = small.vlm("llava_tiny", "float64"), small.inputs("llava_tiny", dtype="float64")
    with install(loaded.model, named(Twice())) as trace:
        together, ids = small.logits_and_ids(loaded, given)
    assert not (trace.language.source >= 0).any()
    for sample in range(3):
        alone = small.inputs("llava_tiny", sample, dtype="float64")
        with install(loaded.model, named(Twice())):
            got, id_ = small.logits_and_ids(loaded, alone)
        close(got[0], together[sample], 1e-6)
        assert torch.equal(id_[0, -6:], ids[sample, -6:])


@small.on_both
def test_what_image_tokens_are_is_known(name: str) -> None:
    loaded, given = small.vlm(name), small.inputs(name, 0, 1)
    look = named(Look(), needs=frozenset({Need.CLS_ROW}), watch=lambda *_: False)
    with install(loaded.model, look) as trace:
        small.logits(loaded, given)
    prompt = look.batch.prompt
    assert prompt is not None
    assert prompt.cls_row is not None
    for sample in range(2):
        span = slice(int(prompt.start[sample]), int(prompt.start[sample] + prompt.count[sample]))
        crop, place = prompt.crop[sample, span], prompt.place[sample, span]
        outside = torch.ones(prompt.crop.shape[1], dtype=torch.bool)
        outside[span] = False
        assert (prompt.crop[sample, outside] == -1).all()
        assert not prompt.cls_row[sample][:, outside].any()
        base = crop == 0
        raster = torch.cartesian_prod(torch.arange(12), torch.arange(12))
        assert torch.equal(place[base], raster)
        newline = crop == -1
        assert not prompt.cls_row[sample][:, span][:, newline].any()
        assert (prompt.cls_row[sample][:, span][:, ~newline] > 0).all()
        if name == "llava_tiny":
            assert base.all()
            continue
        rows, columns = (place[~base].amax(0) + 1).tolist()  # newlines are the last column
        assert newline.sum() == rows
        grid = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
        assert torch.equal(place[~base], grid)
        assert (place[newline][:, 1] == columns - 1).all()
        crops = int((trace.sample == sample).sum())
        assert crop.amax() == crops - 1


# --- an MLP of the method's -----------------------------------------------------------------------


@dataclasses.dataclass
class Feed(Reducer):
    """Replaces the MLP of image tokens in layer 4."""

    mlp: Any = None
    tower = "language"

    def watch(self, block: int, state: Any) -> bool:
        return False

    def decide(self, view: View, state: Any) -> Reduction | None:
        return None

    def feeds(self, block: int, state: Any) -> bool:
        return block == 4

    def feed(self, block: int, x: Tensor, state: Any) -> Tensor:
        self.given = x
        return torch.zeros_like(x) if self.mlp is None else self.mlp(x)


def test_an_mlp_may_be_the_methods() -> None:
    loaded = small.vlm("llava_tiny", "float64")
    own = type(loaded.model.model.language_model.layers[3].mlp).forward
    mlp = loaded.model.model.language_model.layers[3].mlp
    plain, _ = run("llava_tiny", named(Feed(), feeds=lambda *_: False))
    same, trace = run("llava_tiny", named(Feed(lambda x: own(mlp, x))))
    close(same, plain, 1e-6)
    changed, _ = run("llava_tiny", named(Feed()))
    assert (changed - plain).abs().max() > 1e-3
    text = trace.prompt_tokens - trace.handed_to_llm
    assert torch.equal(trace.language.mlp_tokens[3], text)
    assert torch.equal(trace.language.mlp_tokens[2], trace.prompt_tokens)


def test_a_replaced_mlp_is_no_work_of_the_model() -> None:
    loaded, given = small.vlm("llava_tiny"), small.inputs("llava_tiny", 2)
    with install(loaded.model, named(Feed())) as trace:
        whole = test_vlm_macs.counted(
            lambda: loaded.model.generate(**given, max_new_tokens=1, do_sample=False)
        )
        assert whole == float(prefill_ledger(llava_geometry(loaded.model), trace).total)


# --- what the tower hands on ----------------------------------------------------------------------


@dataclasses.dataclass
class Tower(test_llava.Output):
    """Reads at the site ``output``, of a few blocks too."""

    blocks: tuple[int, ...] = ()

    def begin(self, batch: Batch) -> dict[int, Tensor]:
        self.batch = batch
        return {}

    def observes(self, block: int, state: Any) -> bool:
        return block in self.blocks

    def observe(self, view: View, state: dict[int, Tensor]) -> None:
        state[view.block] = view.cls_row

    def decide(self, view: View, state: dict[int, Tensor]) -> Reduction | None:
        self.seen, self.rows_of = {need: view.read(need) for need in self.needs}, state
        return super().decide(view, state) if self.keep else None


@pytest.mark.usefixtures("torch_attention")
def test_rows_of_several_blocks_of_the_tower() -> None:
    several = named(Tower(blocks=(5, 11, 23)), needs=frozenset({Need.CLS_ROW}))
    got, _ = run("llava_tiny", several)
    assert list(several.rows_of) == [5, 11, 23]
    for block in (5, 11, 23):
        one = named(Look(block), needs=frozenset({Need.CLS_ROW}), tower="vision")
        run("llava_tiny", one)
        close(several.rows_of[block], one.seen[Need.CLS_ROW], 1e-12)
    assert torch.equal(several.rows_of[23], several.seen[Need.CLS_ROW])
    close(got, run("llava_tiny", named(Tower(), needs=frozenset()))[0], 1e-6)


def test_queries_and_keys_of_the_block_behind_the_last_used_one() -> None:
    needs = frozenset({Need.NEXT_QUERIES, Need.NEXT_KEYS, Need.FEATURES})
    tower = named(Tower(), needs=needs)
    _, trace = run("llava_tiny", tower)
    model = small.vlm("llava_tiny", "float64").model
    layer = model.model.vision_tower.encoder.layers[23]
    with torch.no_grad():
        normed = layer.layer_norm1(tower.seen[Need.FEATURES])
        for need, linear in (
            (Need.NEXT_QUERIES, layer.self_attn.q_proj),
            (Need.NEXT_KEYS, layer.self_attn.k_proj),
        ):
            close(tower.seen[need].transpose(1, 2).flatten(2), linear(normed), 1e-9)
    assert (trace.method_macs == 145 * 2 * normed.shape[2] ** 2).all()


@small.on_both
def test_behind_the_projector(name: str) -> None:
    """Every patch is projected, once; what is handed on is a choice of these."""
    needs = frozenset({Need.PROJECTED, Need.FEATURES})
    tower = named(Tower(keep=(3, 7, 99)), needs=needs)
    loaded, given = small.vlm(name), small.inputs(name, 0, 2)
    with install(loaded.model, tower) as trace, torch.no_grad():
        small.logits(loaded, given)
        sizes = (given["image_sizes"],) if "image_sizes" in given else ()
        handed = loaded.model.model.get_image_features(given["pixel_values"], *sizes).pooler_output
    projector = loaded.model.model.multi_modal_projector
    with torch.no_grad():
        close(tower.seen[Need.PROJECTED], projector(tower.seen[Need.FEATURES][:, 1:]))
    assert (trace.projected == 144).all()
    assert torch.equal(handed[0][:3], tower.seen[Need.PROJECTED][0, [3, 7, 99]])
    assert torch.equal(tower.batch.sample, trace.sample)
    given = small.inputs(name, 2)
    with install(loaded.model, tower) as trace:
        whole = test_vlm_macs.counted(
            lambda: loaded.model.generate(**given, max_new_tokens=1, do_sample=False)
        )
        assert whole == float(prefill_ledger(llava_geometry(loaded.model), trace).total)


def test_a_tower_alone_has_nothing_behind_it() -> None:
    for need in (Need.NEXT_KEYS, Need.PROJECTED):
        probe = named(Tower(), needs=frozenset({need}))
        with pytest.raises(UnsupportedModelError, match="nothing there"):
            install(tiny.clip(5), probe).__enter__()
    after = named(Look(), needs=frozenset({Need.NORMED}), tower="vision")
    with pytest.raises(UnsupportedModelError, match="declares normed"):
        install(tiny.clip(5), after).__enter__()


def test_questions_are_said_before_the_model_runs() -> None:
    loaded, given = small.vlm("llava_next_tiny"), small.inputs("llava_next_tiny", 0, 1)
    tower = named(Tower(), needs=frozenset())
    with install(loaded.model, tower) as trace:
        trace.name_questions(["What?", "Who?"])
        small.logits(loaded, given)
        assert [tower.batch.question(i) for i in range(2)] == ["What?", "Who?"]
        small.logits(loaded, given)
        with pytest.raises(BadValueError, match="name_questions"):
            tower.batch.question(0)
        trace.name_questions(["What?"])
        with pytest.raises(AsapEvalError, match="1 questions were named for 2"):
            small.logits(loaded, given)


def test_the_page_of_the_contract_names_everything() -> None:
    page = (ROOT / "docs" / "contract.md").read_text()
    asked = {n for n, v in vars(Reducer).items() if callable(v) and not n.startswith("_")}
    missing = [name for name in sorted(asked) if f"`{name}" not in page]
    missing += [need.name for need in Need if f"`{need.name}`" not in page]
    assert missing == []
