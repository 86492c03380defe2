"""States under several questions: the silhouette and the main axes against slow loops and known values."""

import numpy as np
import pytest
import torch

from gaze_lens import comics
from gaze_lens.errors import InputError
from gaze_lens.patching.question_clusters import principal_axes, question_states, silhouette


def slow_silhouette(points, labels):
    values = []
    for i, label in enumerate(labels):
        own = [np.linalg.norm(points[i] - points[j]) for j in range(len(points)) if j != i and labels[j] == label]
        others = [
            np.mean([np.linalg.norm(points[i] - points[j]) for j in range(len(points)) if labels[j] == other])
            for other in set(labels) - {label}
        ]
        values.append((min(others) - np.mean(own)) / max(min(others), np.mean(own)) if own else 0.0)
    return np.mean(values)


def test_the_silhouette_is_that_of_its_definition():
    rng = np.random.default_rng(0)
    labels = [0, 0, 1, 1, 1, 2, 4, 4]
    points = rng.normal(size=(8, 3)) + np.array(labels)[:, None]
    value = silhouette(torch.tensor(points), torch.tensor(labels))
    assert value == pytest.approx(slow_silhouette(points, labels), abs=1e-12)
    line = torch.tensor([[0.0], [1.0], [4.0], [6.0]])
    # by hand: 1 - a / b of each point
    assert silhouette(line, torch.tensor([0, 0, 1, 1])) == pytest.approx((0.8 + 0.75 + 3 / 7 + 7 / 11) / 4)
    assert silhouette(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1])) == 0
    with pytest.raises(InputError, match="there is one"):
        silhouette(line, torch.zeros(4, dtype=torch.long))


def test_the_main_axes_are_those_of_the_covariance():
    rng = np.random.default_rng(1)
    points = rng.normal(size=(30, 4)) * [5, 2, 1, 0.5]
    found, shares = principal_axes(torch.tensor(points))
    values, axes = np.linalg.eigh(np.cov(points.T))
    np.testing.assert_allclose(shares, values[::-1][:2] / values.sum(), atol=1e-10)
    expected = (points - points.mean(0)) @ axes[:, ::-1][:, :2]
    np.testing.assert_allclose(np.abs(found.numpy()), np.abs(expected), atol=1e-9)


def test_states_are_those_of_single_prompts_and_cluster_by_question(tiny_model):
    strips, questions = comics.synthetic(4, seed=3, panels=3), [comics.ask(k) for k in range(3)]
    found = question_states(tiny_model, strips, questions, batch_size=5, progress=False)
    assert found.states.shape[:2] == (6, 12)
    assert found.question.tolist() == [0, 1, 2] * 4
    _, cache = tiny_model.run_with_cache(tiny_model.prepare(strips[2], questions[1]))
    for layer in range(6):
        expected = cache[f"blocks.{layer}.hook_resid_pre"][0, -1]
        torch.testing.assert_close(found.states[layer, 7], expected, atol=1e-4, rtol=1e-4)
    table = found.silhouette()
    assert table.layer.tolist() == list(range(6))
    assert table.silhouette[1:].max() > 0.3
    plane = found.plane(2)
    assert plane.question.tolist() == found.question.tolist()
    assert 0 < plane.share_y[0] <= plane.share_x[0] <= 1
    with pytest.raises(InputError, match="layer=9"):
        found.plane(9)
    with pytest.raises(InputError, match="two different questions"):
        question_states(tiny_model, strips, [comics.ask(0)] * 2, progress=False)
