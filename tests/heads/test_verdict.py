"""The verdict against slow versions, on made-up null and planted heads, on random weights and on the embedded model."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save
from typer.testing import CliRunner

from gaze_lens import HeadSet, HookedVLM, comics, score_heads, testing
from gaze_lens.cli import commands, running
from gaze_lens.errors import HeadError
from gaze_lens.heads.head_scores import HeadScores
from gaze_lens.heads.statistics import contrast
from gaze_lens.heads.verdict import concentration, discoveries, labellings, relabelled, split_half, tracking

FAMILIES = ["Qwen3-VL", "InternVL", "PaliGemma", "Idefics3"]
SEEDS = range(3)


def random_matrices(*shape, n=6, seed=0):
    """[*shape, n, n]: what heads do that follow the question in arbitrary ways."""
    return torch.rand(*shape, n, n, generator=torch.Generator().manual_seed(seed)) / n


def planted(heads, n_strips=4, n_layers=5, n_heads=12, n=6, seed=0):
    """Samples [strip, layer, head, asked, attended] of arbitrary heads, some of which track: {(layer, head): mass}."""
    samples = 0.1 * random_matrices(n_layers, n_heads, n=n, seed=seed).expand(n_strips, -1, -1, -1, -1).clone()
    samples += 0.01 * random_matrices(n_strips, n_layers, n_heads, n=n, seed=seed + 1)
    for (layer, head), mass in heads.items():
        samples[:, layer, head] += mass * torch.eye(n)
    return samples


def slow_discoveries(p, level):
    """Benjamini and Hochberg, as they wrote it: the largest k with p(k) <= level k / m."""
    ordered = sorted(p)
    ranks = [k for k in range(1, len(p) + 1) if ordered[k - 1] <= level * k / len(p)]
    return [value <= ordered[max(ranks) - 1] if ranks else False for value in p]


@pytest.mark.parametrize("seed", range(6))
def test_discoveries_are_those_of_benjamini_and_hochberg(seed):
    p = torch.rand(60, generator=torch.Generator().manual_seed(seed)) ** (1 + seed)
    assert discoveries(p, 0.2).tolist() == slow_discoveries(p.tolist(), 0.2)
    assert torch.equal(discoveries(p.reshape(5, 12), 0.2).flatten(), discoveries(p, 0.2))
    assert not discoveries(torch.ones(4), 0.05).any()


def test_relabelled_contrasts_are_contrasts_of_relabelled_matrices():
    matrix = random_matrices(3, 2, n=4)
    orders = labellings(4, seed=0)
    assert sorted(map(tuple, orders.tolist())) == sorted(itertools.permutations(range(4)))[1:]
    contrasts = relabelled(matrix, orders)
    for row, order in enumerate(orders.tolist()):
        # The question in the place of asked panel k is question order[k]: its attention stands in row k.
        expected = contrast(matrix[:, :, :, [order.index(j) for j in range(4)]])
        torch.testing.assert_close(contrasts[..., row], expected, atol=1e-6, rtol=0)


def test_many_panels_are_relabelled_at_random_and_never_rightly():
    orders = labellings(9, seed=1)
    assert 5000 < len(orders) <= 5039
    assert (orders.sort(-1).values == torch.arange(9)).all()
    assert not (orders == torch.arange(9)).all(-1).any()
    assert torch.equal(orders, labellings(9, seed=1))


def test_p_values_count_the_layer_s_other_contrasts():
    matrix = random_matrices(2, 3, n=4, seed=4)
    values, null = contrast(matrix), relabelled(matrix, labellings(4, seed=0))
    _, p = tracking(values, null, level=1e-9, least=0.0)
    for layer, head in itertools.product(range(2), range(3)):
        larger = sum(float(other) >= float(values[layer, head]) for other in null[layer].flatten())
        assert p[layer, head] == pytest.approx((1 + larger) / (1 + 3 * 23))


@pytest.mark.parametrize("together", [False, True])
def test_made_up_null_models_are_rarely_found(together):
    """300 models whose heads follow the question arbitrarily; `together`: all heads of a layer nearly the same."""
    n_found = 0
    for seed in range(300):
        matrix = random_matrices(3, 1 if together else 8, seed=seed).expand(3, 8, 6, 6).clone()
        matrix += 0.02 * random_matrices(3, 8, seed=1000 + seed)
        n_found += HeadScores(matrix[None]).verdict(least=-1.0).found
    assert n_found <= 25  # 15 are expected at most; more than 25 come with probability 0.006


def test_planted_heads_are_found_and_few_others():
    heads = {(2, 1): 0.6, (2, 5): 0.3, (2, 6): 0.2, (2, 7): 0.1, (3, 0): 0.05}
    verdict = HeadScores(planted(heads)).verdict()
    assert {tuple(head) for head in verdict.heads} >= set(heads)
    assert len(verdict.heads) <= 6
    assert tuple(verdict.heads[0]) == (2, 1)
    assert verdict.largest == pytest.approx(0.6, abs=0.02)
    assert (verdict.n_heads, verdict.n_strips, verdict.n_regions) == (60, 4, 6)
    assert str(verdict).startswith(f"{len(verdict.heads)} of 60 heads track the region asked about (5 % false")
    assert str(verdict).endswith("The largest contrast is 0.6, of L2H1.")


def test_one_head_and_several_are_said_in_good_grammar():
    verdict = HeadScores(planted({(2, 1): 0.6})).verdict()
    one = dataclasses.replace(verdict, heads=HeadSet([(2, 1)]))
    assert str(one).startswith("1 of 60 heads tracks the region asked about (")
    many = dataclasses.replace(verdict, heads=HeadSet([(2, 1), (0, 0)]))
    assert str(many).startswith("2 of 60 heads track the region asked about (")


def test_a_contrast_that_is_too_small_does_not_count():
    samples = planted({(1, 1): 0.2, (2, 2): 0.2}) / 50
    assert not HeadScores(samples).verdict().found
    assert len(HeadScores(samples).verdict(least=0.001).heads) == 2


def test_heads_that_always_look_at_one_panel_or_at_none_do_not_track():
    samples = 1e-3 * random_matrices(3, 4, 12)
    samples[:, 1, :, :, 2] += 0.5
    samples[:, 2] = 0.0
    samples[:, 3] = 1 / 6
    verdict = HeadScores(samples).verdict(least=0.0)
    assert not verdict.found
    assert (verdict.p[2:] == 1).all()
    assert str(verdict).startswith("None found: no head of 48 tracks the region asked about")


def test_short_strips_are_not_decided():
    verdict = HeadScores(planted({(0, 0): 0.9}, n=3)).verdict()
    assert not verdict.found
    assert not verdict.decidable
    # One p-value can be no less than 1 / (1 + 5 x 12), and the k-th of 60 has to be 0.05 k / 60 or less.
    assert verdict.fewest == 20
    assert str(verdict).startswith("Cannot tell: strips of 3 regions allow so few labellings")
    assert "fewer than 20 of 60 heads could not be found" in str(verdict)
    assert HeadScores(planted({(0, 0): 0.9, (1, 1): 0.5}, n=5)).verdict().found
    assert HeadScores(planted({(0, 0): 0.9}, n=8)).verdict().found


@pytest.mark.parametrize(("n", "layers", "heads"), [(4, 28, 16), (5, 28, 16), (5, 36, 32), (4, 6, 12), (6, 36, 32)])
def test_as_many_heads_as_it_says_can_be_found_and_fewer_cannot(n, layers, heads):
    def judged(count):
        clear = {(k % layers, k // layers): 0.9 for k in range(count)}
        verdict = HeadScores(planted(clear, n_layers=layers, n_heads=heads, n=n)).verdict()
        return len(verdict.heads), verdict

    fewest = judged(0)[1].fewest
    assert fewest > 1
    few, verdict = judged(fewest // 2)  # random heads may make up for some
    assert few == 0
    assert str(verdict).startswith("Cannot tell" if fewest > max(1, layers * heads // 100) else "None found")
    assert judged(2 * fewest)[0] >= fewest


def test_strips_of_unequal_length_count_where_they_have_panels():
    samples = planted({(2, 1): 0.5, (1, 4): 0.2}, n_strips=6)
    samples[3:, :, :, 4:] = samples[3:, :, :, :, 4:] = torch.nan
    assert {tuple(head) for head in HeadScores(samples).verdict().heads} == {(2, 1), (1, 4)}


def test_concentration_by_hand():
    values = torch.tensor([4.0, 1.0, 1.0, -7.0, 0, 0, 0, 0, 0, 0])
    share, effective = concentration(values)
    assert share == pytest.approx(4 / 6)
    assert effective == pytest.approx(36 / 18)
    assert concentration(torch.full((20,), 0.3)) == pytest.approx((0.1, 20))
    assert concentration(torch.full((3,), -1.0)) == (0, 0)


def test_split_halves_rank_alike_where_strips_agree():
    steady = planted({}, n_strips=6)
    assert split_half(steady, seed=0) > 0.9
    noise = random_matrices(6, 20, 20)
    assert abs(split_half(noise, seed=0)) < 0.25
    assert split_half(steady, seed=1) == split_half(steady, seed=1)
    assert split_half(steady[:1], seed=0) is None
    assert "halves" not in str(HeadScores(steady[:1]).verdict())


@pytest.fixture(scope="module")
def random_scores():
    """Scores of random weights, by family and seed."""
    strips = comics.synthetic(3, seed=3)
    return {
        (family, seed): score_heads(
            HookedVLM.wrap(*testing.tiny(family, seed=seed)), strips, batch_size=3, progress=False
        )
        for family in FAMILIES
        for seed in SEEDS
    }


def test_random_weights_have_no_mechanism(random_scores):
    with_heads = {key: str(scores.verdict()) for key, scores in random_scores.items() if scores.verdict().found}
    assert with_heads == {}
    assert all(scores.verdict().decidable for scores in random_scores.values())


def test_random_weights_follow_the_question_all_the_same(random_scores):
    """Why all strips are relabelled in one way: a null that relabels each by itself finds heads in random weights."""
    deceived = [bool(discoveries(scores.null(permutations=400), 0.05).any()) for scores in random_scores.values()]
    assert sum(deceived) >= 2


@pytest.fixture(scope="module")
def embedded(tiny_model):
    return score_heads(tiny_model, comics.synthetic(8, seed=1), batch_size=4, progress=False)


def test_the_embedded_model_has_one(embedded):
    verdict = embedded.verdict()
    assert verdict.found
    assert list(verdict.heads)[:2] == list(embedded.top(2, by="contrast"))
    assert len(verdict.heads) <= 6
    assert verdict.share > 0.95
    assert verdict.effective < 3
    assert verdict.heads.fingerprint == embedded.fingerprint


def test_relabelled_answers_of_the_embedded_model_have_none(embedded):
    for order in np.random.default_rng(0).permutation(list(itertools.permutations(range(6))))[:10]:
        if not (order == np.arange(6)).any():
            assert not HeadScores(embedded.samples[..., order.tolist(), :]).verdict().found


def test_files_of_scores_from_before_have_a_verdict(embedded, tmp_path):
    about = {"model": "m", "fingerprint": "f", "found": {"method": "gaze score", "at": "prompt", "strips": 8}}
    header = {"format": "gaze_lens head scores 1", "about": json.dumps(about)}
    (tmp_path / "old.safetensors").write_bytes(save({"samples": embedded.samples}, metadata=header))
    assert str(HeadScores.load(tmp_path / "old.safetensors").verdict()) == str(embedded.verdict())


def test_a_verdict_is_saved_as_json(embedded, tmp_path):
    verdict = embedded.verdict()
    verdict.save(tmp_path / "verdict.json")
    content = json.loads((tmp_path / "verdict.json").read_text())
    assert content["verdict"] == str(verdict)
    assert content["found"] is True
    assert content["heads"] == [str(head) for head in verdict.heads]
    assert content["stability"] == pytest.approx(verdict.stability)


def test_a_level_is_a_share(embedded):
    with pytest.raises(HeadError, match="level=5: expected a share of false discoveries between 0 and 1"):
        embedded.verdict(level=5)


def test_discover_prints_and_writes_the_verdict(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "load", lambda *_: tiny_model)
    (tmp_path / "strips").mkdir()
    for index, strip in enumerate(comics.synthetic(2, seed=50)):
        strip.image.save(tmp_path / "strips" / f"{index}.png")
    arguments = ["discover", "--model", "tiny", "--strips", tmp_path / "strips", "--panels", 6, "--out", tmp_path / "o"]
    result = CliRunner().invoke(commands.app, [str(argument) for argument in arguments])
    verdict = str(HeadScores.load(tmp_path / "o" / "scores.safetensors").verdict())
    assert verdict in result.output
    assert json.loads((tmp_path / "o" / "verdict.json").read_text())["verdict"] == verdict
