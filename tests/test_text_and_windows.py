"""Methods that read a question, windows or outliers, and readings: what no vector says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_llava as small
import torch
from cases import small_clip
from safetensors.torch import save_file

from asap_eval.errors import BadValueError, UnsupportedModelError, WeightsError
from asap_eval.hosts import install
from asap_eval.method import build
from asap_eval.methods.capa_reading import channelwise
from asap_eval.methods.cdpruner import conditional
from asap_eval.methods.holov import by_windows
from asap_eval.methods.parts.clip_text import text_side
from asap_eval.methods.parts.greedy import cosines
from asap_eval.methods.prumerge import outliers
from asap_eval.methods.todre_reading import on_image
from asap_eval.methods.topv_reading import stretched
from asap_eval.tokens import Reduction, Tokens, mixed


def run(method: str, name: str = "llava_tiny", **options: Any) -> Any:
    """The trace of one sample."""
    loaded, given = small.vlm(name), small.inputs(name, 0)
    with install(loaded.model, build(method, **options)) as trace:
        trace.name_questions(small.QUESTIONS[:1])
        small.logits(loaded, given)
    return trace


# --- cdpruner -------------------------------------------------------------------------------------


def test_without_a_text_tower_it_is_refused() -> None:
    with pytest.raises(BadValueError, match=r"method\.clip="):
        run("cdpruner", k=8)
    with pytest.raises(WeightsError, match="no CLIP checkpoint with a text tower"):
        run("cdpruner", k=8, clip="/nowhere/clip")


def test_without_a_question_it_is_refused() -> None:
    loaded, given = small.vlm("llava_tiny"), small.inputs("llava_tiny", 0)
    method = build("cdpruner", k=8, clip=small_clip())
    with (
        install(loaded.model, method),
        pytest.raises(BadValueError, match="name_questions"),
    ):
        small.logits(loaded, given)


def test_questions_decide() -> None:
    loaded, given = small.vlm("llava_tiny"), small.inputs("llava_tiny", 0)
    sources = []
    for question in ("Is there a dog?", "ZZZZZ ZZZ", "Is there a dog?"):
        with install(loaded.model, build("cdpruner", k=16, clip=small_clip())) as trace:
            trace.name_questions([question])
            small.logits(loaded, given)
            sources.append(trace.source)
    assert torch.equal(sources[0], sources[2])
    assert not torch.equal(sources[0], sources[1])


def test_past_the_rank_of_the_features_the_most_relevant_fill_up() -> None:
    """The authors' code takes the root of a negative number there, and keeps fewer."""
    g = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, 50, 6, generator=g), torch.rand(2, 50, generator=g)
    order, found = conditional(cosines(x), weight.double(), 20)
    assert found.tolist() == [6, 6]
    for row in range(2):
        chosen = order[row].tolist()
        assert len(set(chosen)) == 20
        rest = [t for t in weight[row].argsort(descending=True).tolist() if t not in chosen[:6]]
        assert chosen[6:] == rest[:14]
    trace = run("cdpruner", k=140, clip=small_clip())
    width = small.vlm("llava_tiny").model.config.text_config.hidden_size
    assert trace.notes["filled"].tolist() == [max(0, 140 - width)]
    assert (trace.source >= 0).sum() == 140


@torch.no_grad()
def test_long_questions_are_read_in_segments() -> None:
    side = text_side(small_clip(), torch.device("cpu"))
    short, long = side.segments("Hi"), side.segments("How many cats are there? " * 2)
    assert short.shape == (1, 20)
    assert long.shape[0] == -(-(2 + 50) // 20)
    assert short[0, 4:].sum() == 0
    embedded = side.embed("How many cats are there? " * 2)
    assert embedded.shape == (3, 24)
    assert 257 in short[0]
    assert 257 not in long[1]
    state = side.model.text_model(input_ids=long[1:2]).last_hidden_state
    own = side.model.text_projection(state[:, int(long[1].argmax())])
    torch.testing.assert_close(embedded[1:2], own)  # no end token: read at its highest id


# --- holov ----------------------------------------------------------------------------------------


def test_shares_larger_than_a_window_are_lost_and_counted() -> None:
    attention = torch.cat([torch.full((4,), 10.0), torch.arange(12.0) / 100])
    got = by_windows(attention, 4, 10)
    assert got[:4].tolist() == [0, 1, 2, 3]
    assert len(got) < 10
    loaded, given = small.vlm("llava_tiny"), small.inputs("llava_tiny")
    with install(loaded.model, build("holov", k=130, windows=6)) as trace:
        small.logits(loaded, given)
    left = (trace.language.source >= 0).sum(1)
    assert torch.equal(trace.language.notes["missing"], 130 - left)
    assert (left < 130).any()


def test_windows_hold_patches_of_all_crops_and_no_newlines() -> None:
    trace = run("holov", "llava_next_tiny", k=60)
    kept = trace.language.source[0] >= 0
    assert kept.sum() + trace.language.notes["missing"][0] == 60
    assert int(trace.handed_to_llm) == len(kept)


# --- prumerge -------------------------------------------------------------------------------------


def test_without_outliers_the_rest_alone_is_left() -> None:
    even = torch.full((144,), 1 / 144, dtype=torch.float64)
    assert outliers(even, False).tolist() == outliers(even, True).tolist() == []


def test_a_token_may_stand_in_several_slots() -> None:
    g = torch.Generator().manual_seed(0)
    x, size = torch.randn(2, 5, 3, generator=g), torch.ones(2, 5)
    mix = torch.tensor([[1.0, 0, 0, 0, 0], [0, 1, 0.5, 0, 0], [0, 0.25, 0.5, 1, 0]]).expand(2, 3, 5)
    torch.testing.assert_close(mixed(x, mix), mix @ x)
    group = torch.tensor([[0, 1, 1, 2, -1]]).expand(2, 5)
    tokens = Tokens(x, size, torch.arange(1, 5).expand(2, 4), 1)
    whole = Reduction(group, mix=mix)
    after = tokens.apply(whole)
    torch.testing.assert_close(after.x, mix @ x)
    assert after.size.tolist() == [[1, 2, 1]] * 2
    one = tokens.apply(Reduction(group[:1], mix=mix[:1]).within(torch.tensor([1]), size))
    assert torch.equal(one.x[0], x[0])
    torch.testing.assert_close(one.x[1, :3], after.x[1])


def test_a_tower_alone_cannot_run_what_reads_behind_it() -> None:
    import tiny

    for method in (build("prumerge"), build("cdpruner", clip=small_clip())):
        with pytest.raises(UnsupportedModelError, match="nothing there"):
            install(tiny.clip(5), method).__enter__()


# --- the readings ---------------------------------------------------------------------------------


def test_all_image_tokens_go_only_where_words_hardly_look() -> None:
    image = torch.tensor([False, True, True, False, False])
    rows = torch.tensor([[0.5, 0.1, 0.1, 0.3, 0.0], [0.4, 0.1, 0.0, 0.4, 0.1]])[None]
    assert float(on_image(rows, image, 2)) == pytest.approx(0.15)
    for tau, left in ((0.0, 12), (1.0, 0)):
        trace = run("todre_reading", k=12, tau=tau, layer=5)
        assert (trace.language.source >= 0).sum() == left
        text = int(trace.prompt_tokens - trace.handed_to_llm)
        assert trace.language.lengths[:, 0].tolist() == [text + 12] * 4 + [text + left] * 14


def test_the_base_crop_is_stretched_over_the_tiles() -> None:
    place = torch.tensor([[0, 0], [1, 1], [0, 0], [3, 5], [3, 6]])
    crop = torch.tensor([0, 0, 1, 2, -1])
    got = stretched(place, crop)
    assert got.tolist() == [[0.5, 1.0], [2.5, 4.0], [0, 0], [3, 5], [3, 6]]
    assert torch.equal(stretched(place[:2], crop[:2]), place[:2])


def test_an_mlp_is_replaced_by_its_fit(tmp_path: Path) -> None:
    """A file for layer 4: text keeps its MLP, and the ledger has a product a channel."""
    model = small.vlm("llava_tiny").model
    width = model.config.text_config.hidden_size
    file = tmp_path / "fit.safetensors"
    save_file({"scale.4": torch.full((width,), 0.1), "shift.4": torch.zeros(width)}, file)
    options = {"layers": [2], "keep": [50]}
    plain = run("capa_reading", **options)
    fitted = run("capa_reading", ffn=str(file), **options)
    text = plain.prompt_tokens - plain.handed_to_llm
    assert torch.equal(fitted.language.mlp_tokens[4], text)
    assert torch.equal(fitted.language.mlp_tokens[3], plain.language.mlp_tokens[3])
    more = fitted.language.method_macs - plain.language.method_macs
    assert more.tolist() == [50 * width]
    save_file(
        {"scale.4": torch.ones(3), "shift.4": torch.zeros(3)}, file := tmp_path / "b.safetensors"
    )
    with pytest.raises(BadValueError, match="3 channels"):
        run("capa_reading", ffn=str(file), **options)
    constant = torch.ones(5, 2)
    scale, shift = channelwise(constant, torch.arange(10.0).view(5, 2))
    assert scale.tolist() == [0, 0]
    assert shift.tolist() == [4, 5]


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        ("vtc_cls", {"k": 145}, "1 to 144"),
        ("vtc_cls", {"start": 23}, "0 to 22"),
        ("holov", {"k": 0}, "at least 1"),
        ("cdpruner", {"k": 0, "clip": "x"}, "1 to 144"),
        ("todre_reading", {"k": 4, "r": 0.5}, "drop r"),
        ("todre_reading", {"r": 0.0}, "share"),
        ("todre_reading", {"tau": 2.0}, r"\[0, 1\]"),
        ("todre_reading", {"layer": 19}, "1 to 18"),
        ("topv_reading", {"k": 0}, "k >= 1"),
        ("topv_reading", {"layer": 18}, "1 to 17"),
        ("topv_reading", {"epsilon": 0.0}, "positive"),
        ("capa_reading", {"keep": [3]}, "one number"),
        ("capa_reading", {"k": 0}, "at least one"),
    ],
)
def test_what_does_not_fit_is_refused(method: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadValueError, match=said):
        run(method, **options)
