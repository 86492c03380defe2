"""Scores over passages of text equal those of a slow loop, whether or not prompts share their beginning."""

import pytest
import torch

import gaze_lens as gl
from gaze_lens.errors import InputError, RegionError
from gaze_lens.scoring.readings import SharedPrefixBatch

SETS = [
    gl.passages(["Anna lives in Paris.", "Ben lives in Rome, é中.", "Cy"]),
    gl.passages(["Dora has a dog.", "Ed has none.", "Flo sings of it."], labels="({k})", separator=" / "),
]
LANGUAGE = ["LlamaForCausalLM", "MistralForCausalLM", "GptOssForCausalLM", "Gemma3ForCausalLM"]


@pytest.fixture(scope="module", params=[*LANGUAGE, "Qwen3-VL", "Gemma 3", "Mllama", "InternVL"])
def reader(request, shelf):
    if request.param in LANGUAGE:
        return gl.HookedVLM.wrap(*gl.testing.tiny(request.param))
    return shelf.get(request.param)[0]


def ask(k):
    return f"Who is number {k + 1}?"


@torch.no_grad()
def slowly(model, passages, question, *, at):
    """[strip, layer, head, asked, attended], one prompt and one region at a time."""
    samples = torch.zeros(len(passages), model.cfg.n_layers, model.cfg.n_heads, 3, 3)
    for strip, one in enumerate(passages):
        for asked, name in enumerate(one.names):
            answer = one.captions[name] if at == "answer" else None
            inputs = model.prepare(one, question(asked), answers=answer)
            _, cache = model.run_with_cache(inputs)
            queries = list(inputs.answer_positions[0]) if answer else [-1]
            for layer in range(model.cfg.n_layers):
                pattern = cache.cache_dict.get(f"blocks.{layer}.attn.hook_pattern")
                if pattern is None or pattern.shape[-1] != inputs.layout.length:
                    continue  # a layer of cross-attention has no text among its keys
                for attended, other in enumerate(one.names):
                    columns = list(inputs.region(other).positions[0])
                    mass = pattern[0][:, queries][:, :, columns].sum(-1).mean(1)
                    samples[strip, layer, :, asked, attended] = mass
    return samples


@pytest.mark.parametrize("at", ["prompt", "answer"])
def test_scores_are_those_of_a_slow_loop(reader, at):
    expected = slowly(reader, SETS, ask, at=at)
    assert expected.sum() > 1
    for options in ({}, {"share_prefix": False}, {"batch_size": 2}, {"batch_size": 2, "share_prefix": False}):
        scores = gl.score_heads(reader, SETS, prompts=ask, at=at, progress=False, **options)
        torch.testing.assert_close(scores.samples, expected, atol=1e-5, rtol=0)


def test_prompts_do_share_their_beginning(reader):
    inputs = reader.prepare([SETS[0]] * 3, [ask(k) for k in range(3)])
    split = SharedPrefixBatch.of(inputs, 3, [inputs.last_position] * 3)
    assert split.shared[0] > max(inputs.layout.all_segments[0]) - split.padding[0]
    shorter = SharedPrefixBatch.of(inputs, 3, [min(inputs.layout.segments[row][2]) for row in range(3)])
    assert shorter is None, "a passage would be left out of the shared part"


def test_the_default_question_is_about_the_segment(shelf):
    model = shelf.get("Qwen3-VL")[0]
    scores = gl.score_heads(model, SETS, progress=False)
    expected = slowly(model, SETS, lambda k: f"What is said in segment {k + 1}?", at="prompt")
    torch.testing.assert_close(scores.samples, expected, atol=1e-5, rtol=0)
    assert len(scores.top(1).chosen_on) == 2
    assert scores.top(1).chosen_on == gl.score_heads(model, SETS[::-1], progress=False).top(1).chosen_on


def test_pictures_before_change_nothing(shelf, strip):
    """Qwen3-VL keeps how far positions lag behind tokens since the last picture; text alone has no lag."""
    model = shelf.get("Qwen3-VL")[0]
    before = gl.score_heads(model, SETS, progress=False)
    gl.score_heads(model, [strip], progress=False)
    assert torch.equal(gl.score_heads(model, SETS, progress=False).samples, before.samples)


def test_sets_of_different_sizes(shelf):
    model = shelf.get("Qwen3-VL")[0]
    sets = [SETS[0], gl.passages(["One.", "Two."])]
    alone = [gl.score_heads(model, [one], progress=False).samples[0] for one in sets]
    for shared in (True, False):
        both = gl.score_heads(model, sets, batch_size=2, share_prefix=shared, progress=False).samples
        torch.testing.assert_close(both[0], alone[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(both[1, ..., :2, :2], alone[1], atol=1e-5, rtol=0)
        assert both[1, ..., 2].isnan().all()


def test_bad_sets(shelf, strip):
    model = shelf.get("Qwen3-VL")[0]
    with pytest.raises(InputError, match="Pictures, passages or videos were given together"):
        gl.score_heads(model, [strip, SETS[0]])
    with pytest.raises(RegionError, match=r"fewer than two named regions; .* gl\.passages"):
        gl.score_heads(model, [gl.passages(["Alone."])])
    with pytest.raises(InputError, match="fit='whole' was given for passages of text"):
        gl.score_heads(model, SETS, fit="whole")


def test_questions_that_depend_on_the_passages_are_a_list_for_each(reader):
    questions = [
        ["Where is Anna?", "Where is Ben?", "Who is Cy?"],
        ["Whose is the dog?", "Who has none?", "Who sings?"],
    ]
    pairs = zip(SETS, questions, strict=True)
    alone = [gl.score_heads(reader, [one], prompts=q, progress=False).samples for one, q in pairs]
    for batch_size in (1, 2):
        scores = gl.score_heads(reader, SETS, prompts=questions, batch_size=batch_size, progress=False)
        torch.testing.assert_close(scores.samples, torch.cat(alone), atol=1e-5, rtol=0)
    assert not torch.allclose(alone[1], gl.score_heads(reader, SETS[1:], prompts=questions[0], progress=False).samples)


def test_too_few_questions_for_a_strip_are_refused(shelf):
    model = shelf.get("Qwen3-VL")[0]
    with pytest.raises(InputError, match="1 lists of prompts were given for 2 strips"):
        gl.score_heads(model, SETS, prompts=[["a", "b", "c"]], progress=False)
    with pytest.raises(InputError, match="prompts is a list of 2, and strip 1 has 3 regions"):
        gl.score_heads(model, SETS, prompts=[["a", "b", "c"], ["a", "b"]], progress=False)
