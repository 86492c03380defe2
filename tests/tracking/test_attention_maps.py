"""Maps of attention over spans of a text, against whole patterns of a teacher-forced run."""

import pytest
import torch

import gaze_lens as gl
from gaze_lens import comics
from gaze_lens.errors import InputError
from gaze_lens.text.token_spans import Span, by_phrases, by_sentences
from gaze_lens.tracking import track_maps

HEADS = [(2, 3), (4, 0), (4, 7)]


@pytest.fixture(scope="module")
def scene():
    return comics.scenes(1, seed=3)[0]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("family", ["embedded", "Qwen2.5-VL", "Gemma 3", "Mllama", "LLaVA-NeXT"])
def test_maps_are_those_of_whole_patterns(family, weighted, shelf, tiny_model, scene):
    model = tiny_model if family == "embedded" else shelf.get(family)[0]
    inputs = model.prepare(scene, comics.LIST_THINGS)
    heads = gl.HeadSet([(layer, head) for layer, head in HEADS if layer < model.cfg.n_layers] + [(1, 1), (0, 0)])
    if family == "Mllama":
        heads = gl.HeadSet([(layer, 1) for layer in range(model.cfg.n_layers)])
    maps = track_maps(model, inputs, heads, weighted=weighted, max_new_tokens=6)
    assert maps.generation.texts == model.generate(inputs, max_new_tokens=6).texts
    keys = torch.cat([tokens.positions for tokens in inputs.image_tokens])
    assert maps.maps.shape == (maps.generation.n_steps, len(keys))
    names = [f"blocks.{layer}.attn.{point}" for layer, _ in heads for point in ("hook_pattern", "hook_v")]
    kept = model.generate(inputs, max_new_tokens=6, names_filter=names).activations
    for step in range(maps.generation.n_steps):
        expected = torch.zeros(len(keys))
        for layer, head in heads:
            pattern = kept[f"blocks.{layer}.attn.hook_pattern"][step][0, head, -1]
            cross = bool(getattr(model.blocks[layer].attn, "is_cross_attention", False))
            if cross != inputs.layout.cross_attention:
                continue
            n_keys = len(pattern) if cross else inputs.layout.length + step
            full = torch.cat([torch.zeros(n_keys - len(pattern)), pattern.float()])  # a sliding window has the last
            row = full[keys]
            if weighted:
                values = kept[f"blocks.{layer}.attn.hook_v"][0][0].float()
                group = model.cfg.n_heads // values.shape[1]
                row = row * values[keys, head // group].norm(dim=-1)
            expected += row
        torch.testing.assert_close(maps.maps[step], expected / len(heads), atol=1e-5, rtol=1e-4)


def test_spans_have_means_and_regions(tiny_model, scene):
    inputs = tiny_model.prepare(scene, comics.LIST_THINGS)
    heads = gl.score_heads(tiny_model, comics.synthetic(3, seed=1), progress=False).top(2)
    maps = track_maps(tiny_model, inputs, heads, max_new_tokens=60)
    text = "".join(maps.tokens)
    phrases = [caption.rstrip(".") for caption in scene.captions.values()]
    assert all(phrase in text for phrase in phrases)
    spans = maps.over(maps.phrases(phrases))
    for index, span in enumerate(spans.spans):
        assert "".join(maps.tokens[span.start : span.stop]).strip(" ,.") == phrases[index]
        torch.testing.assert_close(spans.maps[index], maps.maps[span.start : span.stop].mean(0))
    table = spans.on_regions()
    first = table[table.span == 0].set_index("region").attention
    (tokens,) = inputs.image_tokens
    for name, shape in scene.regions.items():
        inside = torch.isin(tokens.positions, tokens.select(shape))
        assert first[name] == pytest.approx(spans.maps[0][inside].sum().item(), rel=1e-5)
    assert table[table.largest].groupby("span").size().eq(1).all()
    rows = spans.table()
    assert len(rows) == len(phrases) * len(tokens)
    assert rows[rows.span == 1].attention.tolist() == pytest.approx(spans.maps[1].tolist())
    assert rows.columns[-1] == "attention"
    for wrong in ([], [Span("", 3, 3)], [Span("a", 0, 999)]):
        with pytest.raises(InputError, match="as spans of a text of"):
            maps.over(wrong)


def test_spans_of_a_text():
    tokens = ["A", " d", "og", ".", " It", " sees a", " cat", ", a dog", "!"]
    assert by_sentences(tokens) == (Span("A dog.", 0, 4), Span("It sees a cat, a dog!", 4, 9))
    expected = (Span("A dog", 0, 3), Span("cat", 6, 7), Span("a dog", 7, 8))
    assert by_phrases(tokens, ["a dog", "Cat", "a Dog"]) == expected
    with pytest.raises(InputError, match="The phrase 'a bird' is not in the text"):
        by_phrases(tokens, ["a bird"])
    with pytest.raises(InputError, match="No phrases were given"):
        by_phrases(tokens, [])
    with pytest.raises(InputError, match="no sentence"):
        by_sentences([" ", "."])


def test_several_rows_are_refused(tiny_model, scene):
    with pytest.raises(InputError, match="follows one text about a picture"):
        track_maps(tiny_model, tiny_model.prepare([scene] * 2, ["?"] * 2), HEADS)
