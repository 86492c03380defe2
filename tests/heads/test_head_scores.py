"""HeadScores against slow loops written here, its invariants, and its files."""

import itertools
import json
import math

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch import Tensor

from gaze_lens.errors import HeadError
from gaze_lens.heads.head_scores import HeadScores
from gaze_lens.heads.head_set import Head, HeadSet
from gaze_lens.heads.statistics import draws

STATISTICS = ("score", "contrast", "correlation")


def random_samples(n_strips: int = 9, n_panels: int = 4, *, ragged: bool = False, seed: int = 0) -> Tensor:
    """[strip, 3 layers, 4 heads, asked, attended]; if ragged, the strips after the first have 2 or more panels."""
    generator = torch.Generator().manual_seed(seed)
    samples = torch.rand(n_strips, 3, 4, n_panels, n_panels, generator=generator, dtype=torch.float64) / n_panels
    if ragged:
        for i in range(1, n_strips):
            n = 2 + i % (n_panels - 1)
            samples[i, :, :, n:] = samples[i, :, :, :, n:] = math.nan
    return samples


def slow_matrix(samples: Tensor) -> np.ndarray:
    """Mean over strips, entry by entry, of what is there."""
    result = np.zeros(samples.shape[1:])
    for index in itertools.product(*map(range, samples.shape[1:])):
        values = [float(strip[index]) for strip in samples if not math.isnan(strip[index])]
        result[index] = sum(values) / len(values) if values else math.nan
    return result


def slow(samples: Tensor, statistic: str) -> np.ndarray:
    """The statistic of every head, by its definition."""
    matrix = slow_matrix(samples)
    result = np.zeros(matrix.shape[:2])
    for layer, head in np.ndindex(*result.shape):
        cells = [
            (matrix[layer, head, k, j], float(k == j))
            for k, j in np.ndindex(*matrix.shape[2:])
            if not math.isnan(matrix[layer, head, k, j])
        ]
        on = [value for value, same in cells if same]
        off = [value for value, same in cells if not same]
        if statistic == "score":
            result[layer, head] = sum(on) / len(on)
        elif statistic == "contrast":
            result[layer, head] = sum(on) / len(on) - sum(off) / len(off)
        else:
            result[layer, head] = np.corrcoef(np.array(cells).T)[0, 1]
    return result


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("statistic", STATISTICS)
def test_statistics_equal_slow_loops(statistic, ragged):
    samples = random_samples(ragged=ragged)
    scores = HeadScores(samples)
    assert scores.matrix.numpy() == pytest.approx(slow_matrix(samples), abs=1e-12)
    assert getattr(scores, statistic).numpy() == pytest.approx(slow(samples, statistic), abs=1e-10)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("statistic", STATISTICS)
def test_bootstrap_equals_resampling_strip_by_strip(statistic, ragged):
    samples = random_samples(n_strips=5, ragged=ragged)
    drawn = draws(5, resamples=12, seed=3)
    assert drawn.shape == (12, 5)
    assert set(drawn.flatten().tolist()) == set(range(5))
    values = [slow(samples[strips], statistic) for strips in drawn]
    low, high = HeadScores(samples).interval(statistic, 0.8, resamples=12, seed=3)
    assert low.numpy() == pytest.approx(np.quantile(values, 0.1, axis=0), abs=1e-8)
    assert high.numpy() == pytest.approx(np.quantile(values, 0.9, axis=0), abs=1e-8)


def test_interval_covers_and_is_seeded():
    scores = HeadScores(random_samples(40))
    low, high = scores.interval()
    assert (low < scores.score).all()
    assert (scores.score < high).all()
    assert torch.equal(scores.interval(seed=1), scores.interval(seed=1))
    assert not torch.equal(scores.interval(seed=1), scores.interval(seed=2))
    assert HeadScores(scores.samples[:1]).interval().isnan().all()
    narrow = scores.interval(level=0.5)
    assert (narrow[1] - narrow[0] < high - low).all()


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("statistic", STATISTICS)
def test_null_equals_all_permutations(statistic, ragged):
    """With two strips of three panels all 36 relabellings can be written down; sampling comes close to their share."""
    samples = random_samples(2, 3, ragged=ragged, seed=5)
    observed, larger, n = slow(samples, statistic), 0, 0
    sizes = [int((~strip[0, 0, :, 0].isnan()).sum()) for strip in samples]
    for orders in itertools.product(*(itertools.permutations(range(size)) for size in sizes)):
        permuted = samples.clone()
        for strip, order in enumerate(orders):
            permuted[strip, :, :, : len(order)] = samples[strip][:, :, list(order)]
        larger = larger + (slow(permuted, statistic) >= observed - 1e-9)
        n += 1
    p = HeadScores(samples).null(statistic, 4000, seed=0)
    assert p.numpy() == pytest.approx(larger / n, abs=0.04)
    assert torch.equal(p, HeadScores(samples).null(statistic, 4000, seed=0))


def test_null_tells_a_gaze_head_from_an_even_one():
    samples = random_samples(12) * 0.5
    samples[:, 1, 2] += 0.3 * torch.eye(4)
    samples[:, 0, 0] = 0.25
    p = HeadScores(samples).null(permutations=199)
    assert p[1, 2] == pytest.approx(1 / 200)
    assert p[0, 0] == 1
    assert (p > 0).all()
    assert (p <= 1).all()


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(4)), st.integers(0, 100), st.booleans())
def test_permuting_the_panels_jointly_changes_nothing(order, seed, ragged):
    samples = random_samples(ragged=ragged, seed=seed)
    moved = samples[:, :, :, order][:, :, :, :, order]
    for statistic in STATISTICS:
        before, after = (getattr(HeadScores(each), statistic) for each in (samples, moved))
        assert torch.allclose(before, after, atol=1e-12)


def test_an_even_head_has_no_contrast():
    samples = random_samples().float()
    samples[:, 2, 1] = 1 / 6
    samples[:, 2, 2] = 0
    scores = HeadScores(samples)
    assert scores.score[2, 1] == pytest.approx(1 / 6)
    assert scores.contrast[2, 1] == pytest.approx(0, abs=1e-7)
    assert scores.correlation[2, 1] == 0
    assert scores.correlation[2, 2] == 0
    uneven = samples.clone()
    uneven[:, 2, 1] += 1e-3 * torch.eye(4)
    assert HeadScores(uneven).correlation[2, 1] == pytest.approx(1, abs=1e-4)


def scores_with_values(values: list[list[float]]) -> HeadScores:
    """A score for each [layer, head], with nothing off the diagonal."""
    return HeadScores(torch.tensor(values)[None, :, :, None, None] * torch.eye(3), model="m", provenance={"strips": 1})


def test_ranking_top_and_ties():
    scores = scores_with_values([[0.1, 0.5, 0.5], [0.9, 0.1, 0.5]])
    assert [str(head) for head in scores.ranked()] == ["L1H0", "L0H1", "L0H2", "L1H2", "L0H0", "L1H1"]
    top = scores.top(2)
    assert top == HeadSet(["L1H0", "L0H1"])
    assert top.model == "m"
    assert top.provenance == {"strips": 1, "rank_by": "score", "top": 2}
    assert scores.top(6, "contrast").provenance["rank_by"] == "contrast"
    for k in (0, 7):
        with pytest.raises(HeadError, match=rf"The {k} best heads.*1 to 6"):
            scores.top(k)


def test_controls_come_from_below():
    values = torch.rand(6, 8, generator=torch.Generator().manual_seed(0))
    scores = scores_with_values(values.tolist())
    lower = {head for head in scores.ranked() if values[head] <= np.percentile(values, 50)}
    assert len(lower) == 24
    drawn = scores.controls(10, seed=4)
    assert set(drawn) <= lower
    assert len(drawn) == 10
    assert drawn == scores.controls(10, seed=4)
    assert drawn != scores.controls(10, seed=5)
    assert drawn.provenance == {"strips": 1, "rank_by": "score", "controls": 10, "seed": 4, "below": 50.0}
    assert set(scores.controls(24, seed=0)) == lower
    assert not set(scores.controls(24, seed=0)) & set(scores.top(24))
    with pytest.raises(HeadError, match=r"25 control heads .* 24 of 48 heads .* percentile 50 .* raise below="):
        scores.controls(25, seed=0)
    with pytest.raises(HeadError, match="not a percentile"):
        scores.controls(2, seed=0, below=101)
    with pytest.raises(HeadError, match="below=200 is not a percentile"):
        scores.layer_controls(HeadSet(["L0H0"]), seed=0, below=200)


def test_unknown_statistics_and_numbers():
    scores = HeadScores(random_samples())
    for call in (scores.ranked, scores.interval, scores.null, scores.table):
        with pytest.raises(HeadError, match="'mass' is not known: expected one of 'score', 'contrast', 'correlation'"):
            call("mass")
    with pytest.raises(HeadError, match="between 0 and 1"):
        scores.interval(level=95.0)
    with pytest.raises(HeadError, match="at least one"):
        scores.null(permutations=0)


def test_samples_that_cannot_be_scored():
    for shape in [(0, 1, 1, 2, 2), (1, 1, 1, 2, 3), (1, 1, 1, 1, 1), (1, 0, 1, 2, 2)]:
        with pytest.raises(HeadError, match="cannot be scored"):
            HeadScores(torch.zeros(shape))
    with pytest.raises((HeadError, TypeCheckError)):
        HeadScores(torch.zeros(1, 1, 2, 2))
    broken = random_samples()
    broken[0, 1, 1] = math.nan
    with pytest.raises(HeadError, match="NaN in some heads and not in others"):
        HeadScores(broken)
    with pytest.raises(HeadError, match="infinities"):
        HeadScores(torch.full((1, 1, 1, 2, 2), torch.inf))
    missing = random_samples()
    missing[:, :, :, 3] = math.nan
    with pytest.raises(HeadError, match="some pair of panels is NaN in every strip"):
        HeadScores(missing)
    empty = random_samples()
    empty[2] = math.nan
    with pytest.raises(HeadError, match="A whole strip is NaN"):
        HeadScores(empty)


def test_samples_that_are_no_attention_mass():
    for factor in (7.0, -0.5, 1.03):
        with pytest.raises(HeadError, match="expected attention mass, which is 0 to 1"):
            HeadScores(torch.full((1, 3, 4, 2, 2), factor))
    HeadScores(torch.full((1, 3, 4, 2, 2), 1.004))  # as sums in bfloat16 may be
    with pytest.raises((HeadError, TypeCheckError), match=r"complex64|samples"):
        HeadScores(torch.zeros(1, 3, 4, 2, 2, dtype=torch.complex64))


def test_samples_fit_their_fingerprint():
    HeadScores(random_samples(), fingerprint="X-3x4x2x8")
    with pytest.raises(HeadError, match="3 layers and 4 heads have the fingerprint X-6x12x4x32: expected 6 layers"):
        HeadScores(random_samples(), fingerprint="X-6x12x4x32")


def test_half_precision_is_widened():
    scores = HeadScores(random_samples().bfloat16())
    assert scores.samples.dtype == torch.float32
    assert scores.score.dtype == torch.float32


def test_table_and_csv(tmp_path):
    scores = HeadScores(random_samples())
    table = scores.table()
    columns = ["layer", "head", "name", "score", "contrast", "correlation", "score_low", "score_high"]
    assert list(table.columns) == columns
    assert len(table) == 12
    assert table["name"].tolist() == [str(head) for head in scores.ranked()]
    assert table["score"].is_monotonic_decreasing
    low, high = scores.interval()
    for row in table.to_dict("records"):
        head = Head(row["layer"], row["head"])
        for name in STATISTICS:
            assert row[name] == getattr(scores, name)[head].item()
        assert (row["score_low"], row["score_high"]) == (low[head].item(), high[head].item())
    scores.to_csv(tmp_path / "scores.csv")
    assert pandas.read_csv(tmp_path / "scores.csv")["name"].tolist() == table["name"].tolist()
    assert scores.table("contrast")["contrast"].is_monotonic_decreasing


def test_ranking_file_is_read_back_as_heads(tmp_path):
    scores = HeadScores(random_samples())
    path = tmp_path / "gaze_head_ranking.json"
    scores.save_ranking(path)
    entries = json.loads(path.read_text())
    assert entries[0].keys() == {"layer", "head", "score"}
    assert len(entries) == 12
    assert entries[0]["score"] == scores.score.max().item()
    assert HeadSet.load(path)[:5] == scores.top(5)


def test_files_round_trip(tmp_path):
    path = tmp_path / "scores.safetensors"
    scores = HeadScores(random_samples(ragged=True).float(), "m", "f", {"method": "gaze score", "seed": 3})
    scores.save(path)
    back = HeadScores.load(path, model="m", fingerprint="f")
    assert torch.equal(back.samples.nan_to_num(-1), scores.samples.nan_to_num(-1))
    assert (back.model, back.fingerprint, back.provenance) == (scores.model, scores.fingerprint, scores.provenance)
    with pytest.raises(HeadError, match="of the model m, expected other"):
        HeadScores.load(path, model="other")
    assert HeadScores.load(path, model="other", force=True).model == "m"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_files_that_cannot_be_read(tmp_path):
    path = tmp_path / "scores.safetensors"
    HeadScores(random_samples()).save(path)
    whole = path.read_bytes()
    for content in (b"", b"{}", whole[:50], whole[:-8]):
        path.write_bytes(content)
        with pytest.raises(HeadError, match="cannot be read as head scores"):
            HeadScores.load(path)
    from safetensors.torch import save_file

    ours = {"format": "gaze_lens head scores 1"}
    about = {"model": None, "fingerprint": None, "provenance": {}}
    save_file({"samples": random_samples()}, path, metadata={**ours, "about": json.dumps(about)})
    assert torch.equal(HeadScores.load(path).samples, random_samples())
    faults = [None, {"about": "{"}, {"about": "[]"}, ours, *({**ours, "about": text} for text in (
        "{", "[]", "7", "null", "[" * 200_000, "{}", json.dumps({**about, "fingerprint": "X-60x4x2x8"})))]  # fmt: skip
    for metadata in faults:
        save_file({"samples": random_samples()}, path, metadata=metadata)
        with pytest.raises(HeadError, match="cannot be read as head scores"):
            HeadScores.load(path)
    for samples in (random_samples() * 50, random_samples().to(torch.complex64)):
        save_file({"samples": samples}, path, metadata={**ours, "about": json.dumps(about)})
        with pytest.raises(HeadError, match=r"scores.safetensors cannot be read as head scores"):
            HeadScores.load(path)
    with pytest.raises(HeadError, match="cannot be read as head scores"):
        HeadScores.load(tmp_path / "missing.safetensors")


def test_a_failed_save_leaves_nothing(tmp_path):
    scores = HeadScores(random_samples(), provenance={"score": math.nan})
    with pytest.raises(HeadError, match="cannot be written as JSON"):
        scores.save(tmp_path / "scores.safetensors")
    assert not list(tmp_path.iterdir())


def test_text():
    scores = scores_with_values([[0.1, 0.5], [0.9, 0.1]])
    assert repr(scores) == "HeadScores of 2 layers x 2 heads, 1 strips of up to 3 panels; best L1H0 with score 0.900"
    assert str(scores).splitlines()[2].split() == ["L1H0", "0.900", "0.900", "1.000"]
    assert len(str(HeadScores(random_samples())).splitlines()) == 12
