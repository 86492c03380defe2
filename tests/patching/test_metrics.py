"""Metrics of patching against Hugging Face's own loss and slow loops, and what they say about the embedded model."""

import math

import pytest
import torch
from reference import picture, tower_runs

import gaze_lens as gl
from gaze_lens import metrics
from gaze_lens.errors import InputError

ANSWERS = ["a longer question", "What"]


@pytest.fixture(scope="module")
def pair(shelf):
    """A random model, an untouched copy, two rows with answers (the second padded on the left), and their logits."""
    model, plain = shelf.get()
    images = [picture(96, 64), picture(64, 64, seed=1)]
    inputs = model.prepare(images, ["What?", "a"], answers=ANSWERS)
    assert (inputs.tensors["attention_mask"] == 0).any()
    with torch.no_grad():
        return model, plain, images, inputs, model(inputs)


@pytest.fixture(scope="module")
def strip_and_heads(tiny_model):
    heads = gl.score_heads(tiny_model, gl.comics.synthetic(8, seed=1)).top(3)
    return gl.comics.synthetic(1, seed=5)[0], heads


def test_answer_log_probability_is_minus_hugging_faces_loss_of_each_row_alone(pair):
    model, plain, images, inputs, logits = pair
    values = metrics.answer_log_probability(inputs)(logits)
    means = metrics.answer_log_probability(inputs, per_token=True)(logits)
    for row, (image, prompt, answer) in enumerate(zip(images, ["What?", "a"], ANSWERS, strict=True)):
        alone = model.prepare(image, prompt, answers=answer)
        labels = torch.full_like(alone.input_ids, -100)
        labels[0, alone.answers[0] :] = alone.input_ids[0, alone.answers[0] :]
        with torch.no_grad():
            loss = plain(**alone.tensors, labels=labels).loss
        n_tokens = int((labels >= 0).sum())
        assert float(values[row]) == pytest.approx(-float(loss) * n_tokens, abs=2e-5)
        assert float(means[row]) == pytest.approx(-float(loss), abs=2e-5)


def test_logit_difference_equals_a_slow_loop_over_rows(pair):
    model, _, _, inputs, logits = pair
    ids = model.processor.tokenizer(["What", "a"])["input_ids"]
    first, second = ids[0][0], ids[1][0]
    values = metrics.logit_difference(model, "What", "a")(logits)
    columns = [row[0] for row in inputs.answer_positions]
    at_answers = metrics.logit_difference(model, ["What", "a"], [second, first], at=columns)(logits)
    for row in range(2):
        assert values[row] == logits[row, -1, first] - logits[row, -1, second]
        sign = 1 if row == 0 else -1
        column = columns[row]
        assert at_answers[row] == sign * (logits[row, column, first] - logits[row, column, second])


def test_kl_equals_torchs_and_is_zero_from_itself(pair):
    _, _, _, inputs, logits = pair
    other = logits.roll(1, 0) * 0.7
    assert metrics.kl(logits)(logits).abs().max() == 0
    values = metrics.kl(logits, at=inputs.answer_positions)(other)
    for row, columns in enumerate(inputs.answer_positions):
        terms = [
            torch.nn.functional.kl_div(
                other[row, c].log_softmax(-1), logits[row, c].log_softmax(-1), reduction="sum", log_target=True
            )
            for c in columns
        ]
        assert float(values[row]) == pytest.approx(sum(map(float, terms)) / len(terms), rel=1e-5)
    last = metrics.kl(logits)(other)
    p, q = logits[0, -1].double().softmax(-1), other[0, -1].double().softmax(-1)
    slow = sum(float(a) * math.log(float(a) / float(b)) for a, b in zip(p, q, strict=True))
    assert float(last[0]) == pytest.approx(slow, rel=1e-5)


def test_half_precision_logits_are_scored_in_float32(pair):
    model, _, _, inputs, logits = pair
    half = logits.bfloat16()
    makers = [
        metrics.answer_log_probability(inputs),
        metrics.logit_difference(model, "What", "a"),
        metrics.kl(logits),
    ]
    for metric in makers:
        assert metric(half).dtype == torch.float32
        assert torch.equal(metric(half), metric(half.float()))


def test_gradients_reach_the_logits_of_the_answers_positions_only(pair):
    _, _, _, inputs, logits = pair
    leaf = logits.clone().requires_grad_()
    metrics.answer_log_probability(inputs)(leaf).sum().backward()
    touched = leaf.grad.abs().sum(-1) > 0
    wanted = [[column in columns for column in range(inputs.layout.length)] for columns in inputs.answer_positions]
    assert touched.tolist() == wanted


def test_descriptions_are_a_row_for_each_caption_and_the_image_is_encoded_once(tiny_model):
    first, second = gl.comics.synthetic(1, seed=2, panels=3)[0], gl.comics.synthetic(1, seed=3, panels=2)[0]
    with tower_runs(tiny_model) as runs:
        inputs = metrics.descriptions(tiny_model, [first, second], gl.comics.ask(0))
    assert len(runs) == 1
    assert len({id(part) for part in inputs.features.images}) == 2
    said = [inputs.tokenizer.decode(inputs.input_ids[row, start:]) for row, start in enumerate(inputs.answers)]
    assert said == [*first.captions.values(), *second.captions.values()]


@torch.no_grad()
def test_description_probability_is_a_softmax_over_each_pictures_own_answers(tiny_model):
    strips = [gl.comics.synthetic(1, seed=2, panels=3)[0], gl.comics.synthetic(1, seed=3, panels=2)[0]]
    questions = [gl.comics.ask(0), gl.comics.ask(1)]
    inputs = metrics.descriptions(tiny_model, strips, questions)
    values = metrics.description_probability(inputs)(tiny_model(inputs)).tolist()
    slow = []
    for strip, question in zip(strips, questions, strict=True):
        scores = []
        for caption in strip.captions.values():
            alone = tiny_model.prepare(strip, question, answers=caption)
            chances = tiny_model(alone)[0].double().log_softmax(-1)
            answer = range(alone.answers[0], alone.layout.length)
            scores.append(sum(float(chances[p - 1, alone.input_ids[0, p]]) for p in answer))
        total = sum(math.exp(score) for score in scores)
        slow += [math.exp(score) / total for score in scores]
    assert values == pytest.approx(slow, abs=1e-4)
    assert sum(values[:3]) == pytest.approx(1)
    assert [values[:3].index(max(values[:3])), values[3:].index(max(values[3:]))] == [0, 1]  # the panels asked about


@torch.no_grad()
def test_steering_to_a_panel_makes_its_description_the_best(tiny_model, strip_and_heads):
    strip, heads = strip_and_heads
    inputs = metrics.descriptions(tiny_model, strip, gl.comics.OPEN)
    for name in strip.regions:
        success, margin = metrics.steering_success(inputs, name), metrics.description_margin(inputs, name)
        hooks = gl.steer(heads, inputs.region(name))
        before, after = tiny_model(inputs), tiny_model.run_with_hooks(inputs, fwd_hooks=hooks)
        assert success(after).tolist() == [1.0] * len(strip.regions)
        assert (margin(after) > margin(before)).all()
    assert sum(float(metrics.steering_success(inputs, name)(before)[0]) for name in strip.regions) == 1


@torch.no_grad()
def test_margins_of_several_pictures_have_a_target_each(tiny_model):
    strips = gl.comics.synthetic(2, seed=4, panels=3)
    inputs = metrics.descriptions(tiny_model, strips, gl.comics.ask(1))
    logits = tiny_model(inputs)
    scores = metrics.answer_log_probability(inputs)(logits).tolist()
    values = metrics.description_margin(inputs, ["panel 2", "panel 1"])(logits).tolist()
    assert values[:3] == pytest.approx([scores[1] - max(scores[0], scores[2])] * 3)
    assert values[3:] == pytest.approx([scores[3] - max(scores[4], scores[5])] * 3)
    assert metrics.steering_success(inputs, ["panel 2", "panel 1"])(logits).tolist() == [1.0] * 3 + [0.0] * 3


@pytest.mark.parametrize("shape", [(2, 7), (1, 7, 5), (2, 6, 5), (2, 7, 5, 1)])
def test_logits_of_another_shape_are_refused_in_words(pair, shape):
    _, _, _, inputs, logits = pair
    wrong = torch.zeros(shape)
    for metric in (metrics.answer_log_probability(inputs), metrics.kl(logits)):
        with pytest.raises(InputError, match=r"Logits of shape .* expected .*rows and positions"):
            metric(wrong)


def test_words_that_cannot_be_told_apart_are_refused(pair):
    model, _, _, _, logits = pair
    with pytest.raises(InputError, match="begin with the same token"):
        metrics.logit_difference(model, "What", ["a", "What"])
    with pytest.raises(InputError, match="empty text"):
        metrics.logit_difference(model, "", "a")
    with pytest.raises(InputError, match="3 words were given for 2 rows"):
        metrics.logit_difference(model, ["What"] * 3, "a")(logits)
    with pytest.raises(InputError, match=r"2 words .* for 3 rows|3 rows"):
        metrics.logit_difference(model, ["What"] * 3, ["a"] * 2)
    for at in (10**6, [0], [0, -(10**6)]):
        with pytest.raises(InputError, match=r"expected a column from 0 to"):
            metrics.logit_difference(model, "What", "a", at=at)(logits)
    with pytest.raises(InputError, match="one column for each row"):
        metrics.logit_difference(model, "What", "a", at=[[0, 1], [0]])(logits)


def test_inputs_without_answers_or_descriptions_are_refused(tiny_model):
    (strip,) = gl.comics.synthetic(1, seed=2, panels=3)
    with pytest.raises(InputError, match="no answer to score"):
        metrics.answer_log_probability(tiny_model.prepare(strip, "What?"))
    with pytest.raises(InputError, match="not one for each caption"):
        metrics.description_probability(tiny_model.prepare(strip, "What?", answers="red"))
    with pytest.raises(InputError, match="no captions"):
        metrics.descriptions(tiny_model, gl.Picture(strip.image, strip.regions), "What?")
    with pytest.raises(InputError, match="2 prompts were given for 1 pictures"):
        metrics.descriptions(tiny_model, strip, ["What?", "Where?"])
    inputs = metrics.descriptions(tiny_model, strip, "What?")
    with pytest.raises(InputError, match="'panel 9' was given.*'panel 1'"):
        metrics.description_margin(inputs, "panel 9")
    with pytest.raises(InputError, match="2 targets were given for 1 pictures"):
        metrics.steering_success(inputs, ["panel 1", "panel 2"])
    twins = gl.Picture(strip.image, strip.regions, {"panel 1": "red ring.", "panel 2": "red ring."})
    with pytest.raises(InputError, match="'panel 1' and 'panel 2' have the same description"):
        metrics.description_probability(metrics.descriptions(tiny_model, twins, "What?"))
