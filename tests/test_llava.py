"""LLaVA models through the host: the untouched model's bits, every method, prompts, packing."""

from __future__ import annotations

import dataclasses
import functools
from functools import partial
from typing import Any

import pytest
import tiny_llava as small
import torch
from cases import CASES, Case
from probes import named
from torch import Tensor

import asap_eval
from asap_eval.errors import BadValueError, UnsupportedModelError, WeightsError
from asap_eval.hosts import install
from asap_eval.hosts.forward import BEHIND
from asap_eval.hosts.prompts import Prompts
from asap_eval.method import Batch, Need, Reducer, View, methods
from asap_eval.models import load_model, load_vlm
from asap_eval.packing import NEWLINE, Crops, Newline, spatial
from asap_eval.testing import contract
from asap_eval.testing.demands import ContractError
from asap_eval.testing.operators import like
from asap_eval.testing.questions import Questions
from asap_eval.testing.subject import Trial
from asap_eval.tokens import Reduction

VISION = [case for case in CASES if case.effect != "nothing" and case.declared.tower == "vision"]
"""Methods of the tower; their options count blocks below 6, which the small towers have."""

WIDTH, HEADS = 64, 4
"""Of the small towers."""

LANGUAGE = [case for case in CASES if case.declared.tower == "language"]
ACTING = [case for case in LANGUAGE if case.effect != "nothing"]

ROUNDING = 1e-6
"""Of logits computed in fp64, of a batch and of its samples; `generate` makes them fp32."""


# --- the small models ---------------------------------------------------------------------------


@small.on_both
def test_selection_has_margins(name: str) -> None:
    """Attention is peaked, and neighbours in its order are not within rounding of each other."""
    loaded, seen = small.vlm(name), {}

    @dataclasses.dataclass
    class Look(Output):
        def decide(self, view: View, state: Any) -> Reduction | None:
            seen["row"] = view.cls_row.mean(1)[:, 1:]
            return None

    with install(loaded.model, named(Look(), needs=frozenset({Need.CLS_ROW}))):
        small.logits(loaded, small.inputs(name))
    row = seen["row"]
    assert row.shape[1] == 144
    assert (row.amax(1) > 10 / 145).all()
    ordered = row.sort(dim=1, descending=True).values
    margin = ordered[:, 31] - ordered[:, 32]
    assert (margin > 1e-6).all(), margin


def test_small_models_are_the_seeds_and_marked_untrained() -> None:
    first, again = load_vlm("llava_tiny"), load_vlm("llava_tiny", weights="random")
    assert first.weights == again.weights
    assert not first.weights.trained
    with pytest.raises(BadValueError, match="vision-language"):
        load_model("llava_tiny")
    with pytest.raises(BadValueError, match="this takes vision-language models"):
        load_vlm("deit_tiny")
    with pytest.raises(WeightsError, match="no folder with a config"):
        load_vlm("llava_tiny", weights="/nowhere")


def test_saved_folders_load_again(tmp_path: Any) -> None:
    loaded = small.vlm("llava_next_tiny")
    loaded.model.save_pretrained(tmp_path)
    loaded.processor.save_pretrained(tmp_path)
    again = load_vlm("llava_next_tiny", weights=tmp_path)
    given = again.inputs(small.pictures()[:2], small.QUESTIONS[:2])
    expected = small.inputs("llava_next_tiny", 0, 1)
    assert all(torch.equal(given[key], expected[key]) for key in expected)
    assert torch.equal(small.generate(again, given), small.generate(loaded, expected))


# --- nothing removed ----------------------------------------------------------------------------


@small.on_both
@pytest.mark.parametrize("samples", [(0,), (3,), (0, 1, 2)])
def test_none_gives_the_untouched_models_bits_and_text(name: str, samples: tuple[int]) -> None:
    loaded, given = small.vlm(name), small.inputs(name, *samples)
    with torch.no_grad():
        plain, text = loaded.model(**given).logits, small.generate(loaded, given)
        with asap_eval.reduce(loaded.model, "none") as trace:
            assert torch.equal(loaded.model(**given).logits, plain)
            assert torch.equal(small.generate(loaded, given), text)
    full = (given["input_ids"] == loaded.model.config.image_token_id).sum(1)
    assert torch.equal(trace.handed_to_llm, full)
    assert torch.equal(trace.language.lengths, given["attention_mask"].sum(1).expand(18, -1))
    assert (trace.lengths == 145).all()
    assert trace.lengths.shape[0] == 23, "the block that nobody reads is not run"
    assert torch.equal(trace.sample.unique(), torch.arange(len(samples)))


@small.on_both
def test_the_model_is_restored_after_an_exception_too(name: str) -> None:
    loaded, given = small.vlm(name), small.inputs(name, 0)
    before = small.generate(loaded, given)
    state = {key: value.clone() for key, value in loaded.model.state_dict().items()}

    def failing(*_: Any) -> bool:
        raise ZeroDivisionError

    for tower in ("vision", "language"):
        broken = named(LastRow(), tower=tower, begin=lambda *_: None, watch=failing)
        with install(loaded.model, broken), pytest.raises(ZeroDivisionError):
            small.generate(loaded, given)
    assert torch.equal(small.generate(loaded, given), before)
    assert all(torch.equal(v, state[k]) for k, v in loaded.model.state_dict().items())
    for module in loaded.model.modules():
        assert not {"forward", "generate", "get_image_features"} & module.__dict__.keys()


def test_eager_models_run_fused_inside_and_come_back() -> None:
    loaded, given = load_vlm("llava_tiny"), small.inputs("llava_tiny", 1)
    fused = small.logits(loaded, given)
    loaded.model.set_attn_implementation("eager")
    with asap_eval.reduce(loaded.model, "none"):
        torch.testing.assert_close(small.logits(loaded, given), fused, rtol=0, atol=1e-3)
    assert loaded.model.config.vision_config._attn_implementation == "eager"


# --- methods in the tower -----------------------------------------------------------------------


@functools.cache
def questions(name: str) -> Questions:
    return Questions(name)


def trial(name: str, case: Case) -> Trial:
    """A case on two samples of a small model, in double precision: in single, the order of sums
    moves logits of these models by 1e-4."""
    build = partial(asap_eval.method.build, case.method, **case.params_for(WIDTH, HEADS))
    return Trial(questions(name), build, case.effect, None, str(case))


@small.on_both
@pytest.mark.parametrize("case", VISION, ids=str)
def test_a_batch_equals_its_samples(name: str, case: Case) -> None:
    one = trial(name, case)
    assert one.whole.trace.fired.any() == (case.effect == "tokens")
    contract.decides_alone(one)


def test_every_method_has_a_case_that_acts() -> None:
    """Otherwise the tests of batches here and below would leave it out."""
    assert {case.method for case in (*VISION, *ACTING)} == set(methods()) - {"none"}


@small.on_both
def test_prompts_come_back_whole(name: str) -> None:
    given = small.inputs(name)
    _, ids, trace = small.reduced(name, "stride", k=0.25)
    length = given["input_ids"].shape[1]
    assert torch.equal(ids[:, :length], given["input_ids"])
    assert ids.shape[1] == length + 6
    text = given["attention_mask"].sum(1) - (given["input_ids"] == 3).sum(1)
    assert torch.equal(trace.language.lengths[0], text + trace.handed_to_llm)
    if name == "llava_tiny":
        assert trace.handed_to_llm.tolist() == [37] * 3  # 36 of 144 patches and the pooled token


def test_seeds_come_from_the_samples_names() -> None:
    loaded, given = small.vlm("llava_next_tiny"), small.inputs("llava_next_tiny", 0, 1)

    def sources(names: list[str] | None) -> Tensor:
        with asap_eval.reduce(loaded.model, "random", k=0.5) as trace:
            if names:
                trace.name_images(names)
            small.logits(loaded, given)
        return trace.source

    assert torch.equal(sources(["a", "b"]), sources(["a", "b"]))
    assert not torch.equal(sources(["a", "b"]), sources(["a", "c"]))
    assert torch.equal(sources(None), sources(None))
    crops = sources(["a", "a"])
    assert not torch.equal(crops[0], crops[1]), "crops of one sample draw for themselves"


@dataclasses.dataclass
class Output(Reducer):
    """Acts on what the tower hands on: keeps the patches of a mask, or none."""

    keep: tuple[int, ...] = ()
    site = "output"

    def decide(self, view: View, state: Any) -> Reduction | None:
        mask = torch.zeros_like(view.size, dtype=torch.bool)
        mask[:, [0, *(1 + patch for patch in self.keep)]] = True
        return Reduction.keep(mask)


@small.on_both
def test_no_visual_tokens_at_all(name: str) -> None:
    """The prompt without its placeholders, as a model without an image would read it."""
    loaded, given = small.vlm(name), small.inputs(name, 1)
    ids = given["input_ids"][given["input_ids"] != 3][None]
    with torch.no_grad():
        expected = loaded.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -1]
    with install(loaded.model, named(Output()), newline="none") as trace:
        got = small.logits(loaded, given)
    assert trace.handed_to_llm.tolist() == [0]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


@pytest.mark.usefixtures("torch_attention")
def test_output_site_hands_on_the_last_used_hidden_state() -> None:
    """Features are hidden state -2; kept rows are projected one by one, class token first."""
    loaded, given = small.vlm("llava_tiny"), small.inputs("llava_tiny", 0, 1)
    inner = loaded.model.model
    with torch.no_grad():
        states = inner.vision_tower(given["pixel_values"], output_hidden_states=True)
        rows = [0, 4, 8, 100]
        expected = inner.multi_modal_projector(states.hidden_states[-2][:, rows])
        with install(loaded.model, named(Output((3, 7, 99)), hands_cls=True)) as trace:
            got = inner.get_image_features(given["pixel_values"]).pooler_output
    torch.testing.assert_close(torch.stack(list(got)), expected, rtol=0, atol=1e-5)
    assert trace.fired.tolist() == [23, 23]
    assert (trace.source >= 0).sum(1).tolist() == [3, 3]


# --- methods in the language model --------------------------------------------------------------


@dataclasses.dataclass
class LastRow(Reducer):
    """FastV's rule: after ``block`` keep the image tokens the last token attends to most."""

    block: int = 2
    keep: int = 20
    tower = "language"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.ROWS, Need.FEATURES})

    def watch(self, block: int, state: Any) -> bool:
        return block == self.block

    def begin(self, batch: Batch) -> Any:
        assert batch.prompt is not None
        self.prompt = batch.prompt
        return None

    def rows(self, block: int, lengths: Tensor, state: Any) -> Tensor:
        return lengths[:, None] - 1

    def decide(self, view: View, state: Any) -> Reduction | None:
        score = view.rows.mean(1)[:, 0].masked_fill(~view.image, -1)
        rank = score.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        self.kept = (view.image & (rank < self.keep)) | (~view.image & (view.size > 0))
        self.seen = view
        return Reduction.keep(self.kept)


def masked_run(model: Any, ids: Tensor, features: Tensor, block: int, kept: Tensor) -> Tensor:
    """``[V]`` by another way: nothing is removed; later layers mask the columns of tokens gone."""
    inner, text = model.model, model.model.language_model
    embeds = inner.get_input_embeddings()(ids)
    place = torch.arange(ids.shape[1])[None]
    x = embeds.masked_scatter((ids == 3)[..., None], features)
    rotary = text.rotary_emb(x, position_ids=place)
    causal = torch.ones(len(place[0]), len(place[0]), dtype=torch.bool).tril()
    for number, layer in enumerate(text.layers, 1):
        seen = causal & kept if number > block else causal
        seen = seen | torch.eye(len(seen), dtype=torch.bool)
        x = layer(x, attention_mask=seen[None, None], position_embeddings=rotary)
    return model.lm_head(text.norm(x))[0, -1]


@small.on_both
def test_removing_in_the_language_model_equals_masking(name: str) -> None:
    """Position ids are kept: tokens gone and tokens nobody sees are the same; in decoding too."""
    loaded, given = small.vlm(name, "float64"), small.inputs(name, 1, dtype="float64")
    method, model = named(LastRow(block=3)), loaded.model
    with install(model, method) as trace:
        got, ids = small.logits(loaded, given), small.generate(loaded, given)
    assert trace.language.fired.tolist() == [3]
    text = int(given["attention_mask"].sum()) - int(trace.handed_to_llm)
    assert (
        trace.language.lengths[:, 0].tolist()
        == [*[text + int(trace.handed_to_llm)] * 2] + [text + 20] * 16
    )
    assert (trace.language.source >= 0).sum().item() == 20
    with torch.no_grad():
        sizes = (given["image_sizes"],) if "image_sizes" in given else ()
        features = torch.cat(
            list(model.model.get_image_features(given["pixel_values"], *sizes).pooler_output)
        )
        kept, sequence = method.kept[0], given["input_ids"]
        for step in range(6):
            expected = masked_run(model, sequence, features, 3, kept)
            if step == 0:
                torch.testing.assert_close(got[0], expected.float(), rtol=0, atol=1e-5)
            sequence = torch.cat([sequence, expected.argmax()[None, None]], 1)
            kept = torch.cat([kept, torch.ones(1, dtype=torch.bool)])
    assert torch.equal(ids, sequence)


@small.on_both
@pytest.mark.parametrize("positions", ["kept", "renumbered"])
def test_in_the_language_model_a_batch_equals_its_samples(name: str, positions: str) -> None:
    loaded = small.vlm(name, "float64")
    method = named(LastRow(), positions=positions)
    given = small.inputs(name, dtype="float64")
    with install(loaded.model, method) as trace:
        together, ids = small.logits(loaded, given), small.generate(loaded, given)
        prompt, view = method.prompt, method.seen
    lengths = given["attention_mask"].sum(1)
    assert torch.equal(prompt.lengths, lengths)
    assert torch.equal(view.lengths, lengths)
    assert torch.equal(view.image.sum(1), prompt.count)
    assert torch.equal(view.image.long().argmax(1), prompt.start)
    total = view.rows.sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total))
    for sample in range(3):
        alone = small.inputs(name, sample, dtype="float64")
        with install(loaded.model, method) as one:
            got, id_ = small.logits(loaded, alone), small.generate(loaded, alone)
        torch.testing.assert_close(got[0], together[sample], rtol=0, atol=1e-6)
        assert torch.equal(id_[0, -6:], ids[sample, -6:])
        assert torch.equal(one.language.lengths[:, 0], trace.language.lengths[:, sample])


@small.on_both
@pytest.mark.parametrize("case", ACTING, ids=str)
def test_language_methods_decide_sample_by_sample(name: str, case: Case) -> None:
    one = trial(name, case)
    contract.accounts_for_tokens(one)
    contract.decides_alone(one)
    reducer, trace = case.build(), one.whole.trace
    assert (trace.language.cached_tokens.amin(0) < trace.prompt_tokens).all()
    if reducer.site != "before":
        admits = type(reducer).admit is not Reducer.admit
        entered = trace.language.attention_tokens[0]
        assert (entered < trace.prompt_tokens).eq(admits).all()


@pytest.mark.usefixtures("torch_attention")
@pytest.mark.parametrize("case", [c for c in LANGUAGE if c.effect == "nothing"], ids=str)
def test_language_methods_that_remove_nothing_change_nothing(case: Case) -> None:
    plain, text, _ = small.reduced("llava_tiny", "none")
    got, ids, trace = small.reduced("llava_tiny", case.method, **case.params)
    assert torch.equal(got, plain)
    assert torch.equal(ids, text)
    assert not trace.language.fired.any()


BEHIND_TOWER = [case for case in VISION if case.declared.needs & BEHIND]
"""Methods that read what only a vision-language model has."""
READING = [case for case in (*ACTING, *BEHIND_TOWER) if case.declared.needs]


@pytest.mark.parametrize("method", sorted({case.method for case in READING}))
def test_every_need_of_a_language_method_is_read(method: str) -> None:
    acting = [case for case in READING if case.method == method]
    contract.reads_its_needs([trial("llava_tiny", acting[0])])


def test_a_class_row_that_nobody_reads_is_found() -> None:
    """It is in the prompt, where no view can see who reads it."""
    assert "holov" in {case.method for case in READING}
    idle = like(asap_eval.method.build("fastv", k=20), needs=frozenset({Need.ROWS, Need.CLS_ROW}))
    with pytest.raises(ContractError, match="needs holds cls_row, which the host computes"):
        contract.reads_its_needs([Trial(questions("llava_tiny"), lambda: idle)])


def test_positions_matter() -> None:
    """Otherwise the two conventions would be one, and the tests above would see neither."""
    loaded, given = small.vlm("llava_tiny"), small.inputs("llava_tiny", 0)
    got = []
    for positions in ("kept", "renumbered"):
        with install(loaded.model, named(LastRow(), positions=positions)):
            got.append(small.logits(loaded, given))
    assert (got[0] - got[1]).abs().max() > 1e-2


def test_what_the_language_model_cannot_do_is_refused() -> None:
    loaded, given = small.vlm("llava_tiny"), small.inputs("llava_tiny", 0)
    for options in ({"use_cache": False}, {"num_beams": 2}):
        with install(loaded.model, named(LastRow())), pytest.raises(BadValueError, match="cache"):
            loaded.model.generate(**given, max_new_tokens=2, **options)
    needs = frozenset({Need.ATTENTION})
    with pytest.raises(UnsupportedModelError, match="declares attention"):
        install(loaded.model, named(LastRow(), needs=needs))
    tower = loaded.model.model.vision_tower
    with pytest.raises(UnsupportedModelError, match="acts in a language model"):
        install(tower, named(LastRow())).__enter__()


# --- prompts ------------------------------------------------------------------------------------


def prompts(rows: list[list[int]], counts: list[int]) -> Prompts:
    """Image token 9, padding 0."""
    ids = torch.tensor(rows)
    return Prompts.of(ids, (ids != 0).long(), image=9, counts=counts, pad=0)


def test_surplus_placeholders_go_and_padding_moves() -> None:
    got = prompts([[0, 1, 9, 9, 9, 2], [1, 3, 9, 9, 9, 2]], [1, 2])
    assert got.ids.tolist() == [[0, 0, 1, 9, 2], [1, 3, 9, 9, 2]]
    assert got.mask.tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]
    assert got.start.tolist() == [1, 2]
    assert got.lengths.tolist() == [3, 5]
    given = torch.tensor([[1, 9, 9, 2]])
    same = Prompts.of(given, torch.ones_like(given), image=9, counts=[2], pad=0)
    assert same.ids is given


@pytest.mark.parametrize(
    ("rows", "counts", "message"),
    [
        ([[1, 2, 3]], [2], "Prompt 0 has no image"),
        ([[1, 9, 2, 9]], [1], "images in several places"),
        ([[1, 9, 2]], [1, 1], "2 images for 1 prompts"),
    ],
)
def test_prompts_without_exactly_one_image(
    rows: list[list[int]], counts: list[int], message: str
) -> None:
    with pytest.raises(BadValueError, match=message):
        prompts(rows, counts)


def test_arguments_that_would_change_their_meaning_are_refused() -> None:
    loaded, given = small.vlm("llava_tiny"), small.inputs("llava_tiny", 0)
    with asap_eval.reduce(loaded.model, "random", k=0.5):
        with pytest.raises(BadValueError, match="max_length"):
            loaded.model.generate(**given, max_length=300)
        with pytest.raises(BadValueError, match="labels"):
            loaded.model(**given, labels=given["input_ids"])
        with pytest.raises(BadValueError, match="by position"):
            loaded.model(given.pop("input_ids"), **given)
        with pytest.raises(BadValueError, match="by name"):
            loaded.model(**given)
        words = torch.tensor([[1, 50, 60]])  # no image: the plain model
        out = loaded.model.generate(
            input_ids=words, attention_mask=torch.ones_like(words), max_new_tokens=2
        )
    assert out.shape == (1, 5)


# --- packing ------------------------------------------------------------------------------------


def crops_of(kept: Tensor, tiles: tuple[int, int], padding: tuple[int, int]) -> Crops:
    """Crops of 2 x 3 patches with one class token each; ``kept`` is ``[C, 6]`` bool."""
    place = kept.long().cumsum(1)
    source = torch.where(kept, place, -1)
    pairs = [(c, s) for c, n in enumerate(kept.sum(1).tolist()) for s in range(1, n + 1)]
    crop, slot = torch.tensor(pairs).T
    return Crops(crop, slot, source, (2, 3), tiles, padding)


@pytest.mark.parametrize("newline", ["kept", "all", "none"])
@pytest.mark.parametrize("seed", range(6))
def test_spatial_packing_is_the_models_with_tokens_left_out(newline: Newline, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    tiles = [(1, 2), (2, 1), (2, 2), (3, 1), (1, 3), (2, 2)][seed]
    padding = [(0, 0), (1, 0), (0, 2), (2, 0), (0, 1), (1, 0)][seed]
    kept = torch.rand(1 + tiles[0] * tiles[1], 6, generator=g) < 0.4
    kept[:, 0] = True
    crops = crops_of(kept, tiles, padding)
    index = {
        (int(c), int(p)): place
        for place, (c, p) in enumerate(kept.nonzero().tolist())  # crop by crop, raster order
    }
    expected = [index[0, p] for p in range(6) if (0, p) in index]
    rows, columns = tiles[0] * 2, tiles[1] * 3
    for row in range(padding[0], rows - padding[0]):
        found = []
        for column in range(padding[1], columns - padding[1]):
            tile = 1 + (row // 2) * tiles[1] + column // 3
            found += [index[key] for key in [(tile, row % 2 * 3 + column % 3)] if key in index]
        expected += found
        if newline == "all" or (newline == "kept" and found):
            expected.append(NEWLINE)
    assert spatial(crops, newline).tolist() == expected


def test_tokens_of_several_patches_come_last_tile_by_tile() -> None:
    source = torch.tensor([[1, 2, 2, 3, -1, -1], [2, -1, 1, -1, 2, -1], [1, 1, -1, 1, 2, 3]])
    crop = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    slot = torch.tensor([1, 2, 3, 1, 2, 1, 2, 3])
    crops = Crops(crop, slot, source, (2, 3), (1, 2), (0, 0))
    assert spatial(crops, "none").tolist() == [0, 1, 2, 3, 6, 7, 4, 5]
    padded = Crops(crop, slot, source, (2, 3), (1, 2), (1, 0))  # both rows of the tiles
    assert spatial(padded, "all").tolist() == [0, 1, 2]


def test_rectangles_of_patches_stand_where_they_begin() -> None:
    """Halves of tiles, as average pooling or a smaller image makes them."""
    halves = torch.tensor([1, 1, 2, 1, 1, 2])  # two columns and one column
    source = halves.repeat(5, 1)
    crop = torch.arange(5).repeat_interleave(2)
    crops = Crops(crop, torch.tensor([1, 2] * 5), source, (2, 3), (2, 2), (0, 0))
    assert crops.place.tolist() == [-1, -1, 0, 2, 3, 5, 12, 14, 15, 17]
    row, below = [2, 3, 4, 5, NEWLINE], [6, 7, 8, 9, NEWLINE]
    assert spatial(crops).tolist() == [0, 1, *row, *below]
    assert spatial(crops, "all").tolist() == [0, 1, *row, NEWLINE, *below, NEWLINE]
    padded = Crops(crop, torch.tensor([1, 2] * 5), source, (2, 3), (2, 2), (1, 0))
    assert spatial(padded, "all").tolist() == [0, 1, *row, *below]


def test_a_method_may_pack_by_itself() -> None:
    loaded, given = small.vlm("llava_next_tiny"), small.inputs("llava_next_tiny", 0, 2)
    seen = []

    def pack(_: Reducer, crops: Crops) -> Tensor:
        seen.append(crops)
        return torch.arange(len(crops.crop)).flip(0)

    with install(loaded.model, named(Output((5, 6)), hands_cls=True, pack=pack)) as trace:
        small.generate(loaded, given)
    assert [crops.tiles for crops in seen] == [(2, 2), (2, 2)]
    assert trace.handed_to_llm.tolist() == [15, 15]
    assert seen[0].slot.tolist() == [0, 1, 2] * 5
    assert seen[0].place.tolist()[:9] == [-1, -1, -1, -1, 5, 6, -1, 17, 18]


@torch.no_grad()
@pytest.mark.parametrize("case", ACTING, ids=str)
def test_a_prompt_without_images_runs_as_it_is_after_one_with(case: Case) -> None:
    loaded, given = small.vlm("llava_tiny"), small.inputs("llava_tiny", 0)
    text = {name: given[name][:, -6:] for name in ("input_ids", "attention_mask")}
    plain, ids = loaded.model(**text).logits, small.generate(loaded, text)
    with asap_eval.reduce(loaded.model, case.method, **case.params_for(WIDTH, HEADS)):
        expected = small.generate(loaded, given)
        for _ in range(2):
            assert torch.equal(loaded.model(**text).logits, plain)
            assert torch.equal(small.generate(loaded, text), ids)
            assert torch.equal(small.generate(loaded, given), expected)


@torch.no_grad()
def test_the_towers_unused_block_is_refused_not_run_on_padding() -> None:
    model, given = small.vlm("llava_tiny").model, small.inputs("llava_tiny", 0)
    tower, pixels = model.model.vision_tower, given["pixel_values"]
    plain = tower(pixels).pooler_output
    with (
        asap_eval.reduce(model, "ats", k=24, blocks=[1, 2, 4]),
        pytest.raises(UnsupportedModelError, match="no method runs it"),
    ):
        tower(pixels)
    assert torch.equal(tower(pixels).pooler_output, plain)
