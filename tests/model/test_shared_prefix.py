"""What prompts share is run once: scores are those of whole prompts, in every family where it is on."""

import numpy as np
import pytest
import torch
from every_family import NAMES, Case
from PIL import Image
from reference import SLIDING, picture

import gaze_lens as gl
from gaze_lens.attention.forward_state import ForwardState
from gaze_lens.families import FAMILIES
from gaze_lens.inputs.concatenation import concatenated
from gaze_lens.model import shared_prefix
from gaze_lens.model.shared_prefix import SharedPrefixBatch, cannot_share
from gaze_lens.regions.picture import Picture, panels

WHOLE = {"PaliGemma", "PaliGemma 2", "Mllama"}


@pytest.fixture(params=NAMES)
def case(request, shelf):
    return Case.of(request.param, shelf)


def question(index):
    return f"What is in panel {index + 1}, or {'about ' * index}there?"


def strip(n, seed=0, width=96, height=64):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    regions = panels(n, width, height)
    return Picture(Image.fromarray(pixels), regions, {name: "a cat " * (k + 1) for k, name in enumerate(regions)})


STRIPS = [strip(3), strip(2, 1, 64)]


@pytest.fixture
def splits(monkeypatch):
    """Every split that is run."""
    found, run = [], SharedPrefixBatch.run
    monkeypatch.setattr(SharedPrefixBatch, "run", lambda self, *given: (found.append(self), run(self, *given)))
    return found


def scores(model, *, strips=STRIPS, prompts=question, **options):
    return gl.score_heads(model, strips, prompts=prompts, progress=False, **options).samples


def check(model, **options):
    """Scores with sharing, of strips one by one and in a batch, are those without; Gemma 4 rounds more than others."""
    atol = 3e-5 if model.family.name == "Gemma 4" else 1e-5
    whole = scores(model, batch_size=2, share_prefix=False, **options)
    assert whole.nan_to_num().std() > 0.005, "a model that looks nowhere tests nothing"
    for batch_size in (1, 2):
        shared = scores(model, batch_size=batch_size, **options)
        torch.testing.assert_close(shared, whole, atol=atol, rtol=0, equal_nan=True)


@pytest.mark.parametrize("at", ["prompt", "answer"])
def test_scores_are_those_of_whole_prompts(case, splits, at):
    check(case.model, at=at)
    assert len(splits) == (0 if case.name in WHOLE else 3)
    assert case.capabilities.whole == cannot_share(case.model)
    assert bool(case.capabilities.whole) == (case.name in WHOLE)
    said = "each is run from the start" if case.name in WHOLE else "all go on from one run of the picture"
    assert said in str(case.capabilities)


@pytest.mark.parametrize(
    ("family", "changes"),
    [("Qwen2.5-VL", SLIDING), ("Gemma 3", {"sliding_window": 8}), ("Llama 4", {"attention_chunk_size": 16})],
)
def test_windows_and_chunks_shorter_than_what_is_shared(shelf, splits, family, changes):
    model, _ = shelf.get(family, **changes)
    check(model)
    assert min(splits[0].shared) > 16


def test_where_image_tokens_read_the_question_sharing_would_be_wrong(shelf, monkeypatch):
    model, _ = shelf.get("PaliGemma")
    whole = scores(model)
    monkeypatch.setattr("gaze_lens.scoring.gaze_score.cannot_share", lambda _model: "")
    assert (scores(model) - whole).abs().nan_to_num().max() > 1e-2


def test_a_family_that_says_nothing_is_run_whole():
    assert {family.name for family in FAMILIES if family.prefix_sharing_blocker} == {"PaliGemma", "Mllama"}
    known = FAMILIES[0]
    bare = gl.families.Family("Star-VL", (), known.token_maps, known.encode, known.to_forward_kwargs)
    assert "it is not known" in bare.prefix_sharing_blocker


def test_questions_before_the_picture_are_run_whole(shelf):
    model, _ = shelf.get("Qwen3-VL")
    inputs = model.prepare(
        [picture(64, 64)] * 2,
        [[{"role": "user", "content": [{"type": "text", "text": text}, {"type": "image"}]}] for text in ("a b", "c")],
    )
    assert SharedPrefixBatch.of(inputs, 2, [inputs.last_position] * 2) is None
    assert SharedPrefixBatch.of(inputs, 1, [inputs.last_position] * 2) is not None


def test_equal_questions_keep_their_last_token(shelf, splits):
    model, _ = shelf.get("Qwen3-VL")
    check(model, prompts=lambda _index: "What is there?")
    inputs_length = model.prepare(STRIPS[0], "What is there?").layout.length
    assert splits[0].shared == (inputs_length - 1,)


def test_hooks_that_are_attached_see_whole_prompts(shelf, splits):
    model, _ = shelf.get("Qwen3-VL")
    seen = []
    with model.hooks([("blocks.1.hook_resid_pre", lambda stream, hook: seen.append(stream.shape[:2]))]):  # noqa: ARG005
        assert "hooks are attached" in cannot_share(model)
        scores(model, strips=STRIPS[:1])
    assert not splits
    longest = max(model.prepare(STRIPS[0], question(k)).layout.length for k in range(3))
    assert seen == [(3, longest)]


def test_one_prefill_serves_all_questions(shelf):
    model, _ = shelf.get("Qwen3-VL")
    counts = []
    layer = model.original_model.model.language_model.layers[1]
    handle = layer.register_forward_pre_hook(
        lambda _m, args, kwargs: counts.append((args or kwargs)[0].shape[:2]), with_kwargs=True
    )
    scores(model, strips=STRIPS[:1])
    handle.remove()
    lengths = [model.prepare(STRIPS[0], question(k)).layout.length for k in range(3)]
    shared, ends = counts
    assert shared[0] == 1
    assert ends[0] == 3
    assert shared[1] + ends[1] == max(lengths)
    assert shared[1] > model.prepare(STRIPS[0], "").layout.length - 10


def test_what_is_shared_is_copied_for_no_question(shelf, monkeypatch):
    model, _ = shelf.get("Qwen3-VL")
    kept, keys, lend, place = [], [], shared_prefix.share_cache, ForwardState.positions
    monkeypatch.setattr(shared_prefix, "share_cache", lambda cache, owners: (kept.append(cache), lend(cache, owners)))
    monkeypatch.setattr(ForwardState, "positions", lambda *given: (keys.append(given[2]), place(*given))[1])
    scores(model, strips=STRIPS[:1])
    lengths = [model.prepare(STRIPS[0], question(k)).layout.length for k in range(3)]
    (cache,) = kept
    assert {tuple(layer.keys.shape[:3]) for layer in cache.layers} == {(1, model.cfg.n_key_value_heads, keys[0])}
    assert keys[-1] == keys[0] + 3 * (max(lengths) - keys[0])


def test_nothing_behind_the_last_pattern_is_run(shelf):
    model, _ = shelf.get("Qwen3-VL")
    inputs, ran = model.prepare(STRIPS[0], "x"), []
    before = model(inputs)
    after = model.original_model.model.language_model.layers[-1].mlp, model.original_model.lm_head
    handles = [module.register_forward_pre_hook(lambda *_given: ran.append(1)) for module in after]
    scores(model)
    assert not ran
    scores(model, share_prefix=False)
    assert ran
    for handle in handles:
        handle.remove()
    assert not cannot_share(model)
    assert torch.equal(model(inputs), before)


def test_rows_that_are_joined_are_those_prepared_together(case):
    pictures = [picture(96, 64), picture(64, 64, seed=1)]
    texts = ["What?", "a longer question"]
    together = case.model.encode(case.model.prepare(pictures, texts))
    parts = [case.model.encode(case.model.prepare(one, text)) for one, text in zip(pictures, texts, strict=True)]
    ours = concatenated(parts)
    assert ours.layout == together.layout
    assert (ours.prompts, ours.answers) == (together.prompts, together.answers)
    assert ours.tensors.keys() == together.tensors.keys()
    for name, tensor in together.tensors.items():
        assert torch.equal(ours.tensors[name], tensor), name
    for mine, theirs in zip(ours.image_tokens, together.image_tokens, strict=True):
        assert torch.equal(mine.positions, theirs.positions)
        assert (mine.row, mine.image, mine.size) == (theirs.row, theirs.image, theirs.size)
    difference = case.model(ours) - case.model(together)
    assert difference[together.tensors["attention_mask"].bool()].abs().max() < 1e-3
