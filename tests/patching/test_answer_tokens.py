"""Metrics of one-token answers against slow loops over float64 probabilities, and what they refuse."""

import math

import pytest
import torch

import gaze_lens as gl
from gaze_lens import metrics
from gaze_lens.errors import InputError

RATINGS = ["1", "2", "3", "4", "5"]


@pytest.fixture(scope="module")
def logits(tiny_model):
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(3, 4, tiny_model.cfg.d_vocab, generator=generator)


def ids_of(model, words):
    return [model.processor.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in words]


def chances(row, ids):
    """The probability of each listed token, by a loop in Python's float64."""
    total = sum(math.exp(value) for value in row.tolist())
    return [math.exp(float(row[token])) / total for token in ids]


@pytest.mark.parametrize("at", [-1, [0, 3, 1]])
@pytest.mark.parametrize("values", [None, [-2.0, 0.0, 0.5, 7.0, 1e3]])
def test_an_expected_score_is_the_mean_of_the_values_under_the_answers_own_probabilities(
    tiny_model, logits, at, values
):
    scores = metrics.expected_score(tiny_model, RATINGS, values=values, at=at)(logits)
    masses = metrics.answer_mass(tiny_model, RATINGS, at=at)(logits)
    for row in range(3):
        each = chances(logits[row, at if isinstance(at, int) else at[row]], ids_of(tiny_model, RATINGS))
        counts = values or [1, 2, 3, 4, 5]
        expected = sum(p * value for p, value in zip(each, counts, strict=True)) / sum(each)
        assert float(scores[row]) == pytest.approx(expected, rel=1e-5)
        assert float(masses[row]) == pytest.approx(sum(each), rel=1e-5)


def test_a_choice_is_right_where_it_is_strictly_the_best(tiny_model, logits):
    choices = ["A", "B", "C"]
    a, b, c = ids_of(tiny_model, choices)
    logits = logits.clone()
    logits[:, -1, [a, b, c]] = torch.tensor([[1.0, 2.0, 0.0], [2.0, 2.0, 0.0], [3.0, 2.0, 0.0]])
    logits[:, -1, ids_of(tiny_model, ["1"])[0]] = 50.0  # a token that is no choice does not count
    assert metrics.choice_accuracy(tiny_model, choices, "A")(logits).tolist() == [0.0, 0.0, 1.0]
    assert metrics.choice_accuracy(tiny_model, choices, ["B", "B", "B"])(logits).tolist() == [1.0, 0.0, 0.0]
    assert metrics.choice_accuracy(tiny_model, [a, b, c], [b, a, a])(logits).tolist() == [1.0, 0.0, 1.0]


def test_scores_shift_by_steps_that_do_not_depend_on_tokens_outside_the_list(tiny_model, logits):
    score = metrics.expected_score(tiny_model, RATINGS)
    other = logits.clone()
    keep = ids_of(tiny_model, RATINGS)
    outside = [token for token in range(logits.shape[-1]) if token not in keep]
    other[..., outside] -= 5
    assert torch.allclose(score(other), score(logits), atol=1e-6)
    assert (metrics.answer_mass(tiny_model, RATINGS)(other) > metrics.answer_mass(tiny_model, RATINGS)(logits)).all()


def test_gradients_reach_the_listed_tokens_at_the_column_only(tiny_model, logits):
    leaf = logits.clone().requires_grad_()
    metrics.expected_score(tiny_model, RATINGS, at=2)(leaf).sum().backward()
    touched = {(pos, token) for _, pos, token in leaf.grad.nonzero().tolist()}
    assert touched == {(2, token) for token in ids_of(tiny_model, RATINGS)}


def test_half_precision_is_computed_in_float32_and_large_logits_stay_finite(tiny_model, logits):
    makers = [metrics.expected_score(tiny_model, RATINGS), metrics.answer_mass(tiny_model, RATINGS)]
    for metric in makers:
        assert torch.equal(metric(logits.bfloat16()), metric(logits.bfloat16().float()))
        assert metric(logits * 1e4).isfinite().all()


@torch.no_grad()
def test_the_model_chooses_what_the_panel_shows_and_patching_takes_the_metrics(tiny_model):
    strip = gl.comics.synthetic(1, seed=2, panels=3)[0]
    words = [caption.split()[0] for caption in strip.captions.values()]
    said, others = words[0], sorted(set(words) - {words[0]})
    assert words[1] in others
    clean, corrupted = (tiny_model.prepare(strip, gl.comics.ask(index)) for index in (0, 1))
    logits = tiny_model(clean)
    assert metrics.choice_accuracy(tiny_model, [said, *others], said)(logits).tolist() == [1.0]
    assert metrics.choice_accuracy(tiny_model, [said, *others], words[1])(logits).tolist() == [0.0]
    metric = metrics.expected_score(tiny_model, [said, *others], values=[1] + [0] * len(others))
    result = gl.patch(tiny_model, clean, corrupted, what="resid_pre", positions="last", metric=metric)
    assert float(metric(logits)) > 0.5
    assert float(metric(tiny_model(corrupted))) < 0.5
    assert result.values.isfinite().all()


@pytest.mark.parametrize(
    ("answers", "options", "message"),
    [
        (["yes"], {}, "two or more answers"),
        ("yes", {}, "two or more answers"),
        (["1", "1"], {}, "begin with the same token"),
        (["1", "12"], {}, "begin with the same token"),
        (["yes", "no"], {}, "count what they say.*give values="),
        ([23, 24], {}, "an id is no rating"),
        (["yes", "no"], {"values": [1.0]}, "1 values were given for 2 answers"),
        (["yes", "no"], {"values": [1.0, math.nan]}, "not all finite"),
        (["1", "nan"], {}, "not all finite"),
        (["1", ""], {}, "empty text"),
    ],
)
def test_answers_that_make_no_score_are_refused(tiny_model, answers, options, message):
    with pytest.raises(InputError, match=message):
        metrics.expected_score(tiny_model, answers, **options)


def test_choices_and_logits_that_do_not_fit_are_refused(tiny_model, logits):
    with pytest.raises(InputError, match="right='maybe' was given"):
        metrics.choice_accuracy(tiny_model, ["yes", "no"], "maybe")
    with pytest.raises(InputError, match="2 words were given for 3 rows"):
        metrics.choice_accuracy(tiny_model, ["yes", "no"], ["yes", "no"])(logits)
    with pytest.raises(InputError, match="the logits are over"):
        metrics.answer_mass(tiny_model, [0, 10**6])(logits)
    with pytest.raises(InputError, match="one column for each row"):
        metrics.answer_mass(tiny_model, ["yes", "no"], at=[[0, 1], [0], [1]])(logits)
    with pytest.raises(InputError, match="Logits of shape"):
        metrics.answer_mass(tiny_model, ["yes", "no"])(logits[0])
