"""How much every head of a model looks at the panel that the question is about.

    scores = gl.score_heads(model, strips)
    print(scores)                                    # the best ten
    scores.top(100)                                  # HeadSet, by the paper's score; by="contrast" for another order
    scores.top(100, by="localization")               # or "image", "routing", "selectivity": see selectors.py
    scores.controls(100, seed=0)                     # as many random heads, of the lower half
    scores.interval("contrast")                      # bootstrap over strips
    scores.null("contrast")                          # p-values from permuted questions
    print(scores.verdict())                          # does the model have gaze heads at all?
    scores.table(); scores.to_csv("scores.csv"); scores.save("scores.safetensors")

Source: Gandikota and Bau 2026 (arXiv 2606.14703), gaze score. The score is raw attention mass: a head that looks at the
whole image, whatever the question is, has a score of up to one over the number of panels. The contrast and the
correlation separate it from a head that follows the question.
"""

import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gaze_lens.deprecation import renamed_fields
from gaze_lens.errors import HeadError
from gaze_lens.heads import published
from gaze_lens.heads.controls import band_controls, layer_controls, layer_lowest, low_controls
from gaze_lens.heads.head_set import Head, HeadSet, refuse_other, size_in
from gaze_lens.heads.selectors import SELECTORS
from gaze_lens.heads.statistics import STATISTICS, Statistic, chance, resampled
from gaze_lens.heads.verdict import Verdict, judge_samples
from gaze_lens.html_tables import html_table
from gaze_lens.runs.files import to_json, write_whole
from gaze_lens.runs.tensor_files import TensorFile
from gaze_lens.whole_numbers import is_count

if TYPE_CHECKING:
    from pandas import DataFrame

FILE = TensorFile("gaze_lens head scores 1", kind="head scores", writer="HeadScores.save(path)", error=HeadError)
ROUNDING = 0.02  # by which sums of attention in bfloat16 leave 0 to 1


@renamed_fields(found="provenance")
@dataclass(frozen=True, eq=False, repr=False)
class HeadScores:
    """`gl.score_heads(model, strips)`: where every head looked, for every strip and every question.

    samples: [strip, layer, head, asked, attended], attention mass (0-1) on panel `attended`, summed over its image
        tokens, when the question was about panel `asked`; not renormalised. NaN where a strip has fewer panels than
        the widest; every statistic leaves these out. On the CPU, in float32 at least.
    model, fingerprint: the model that the heads belong to, if known.
    provenance: how they were made (method, strips, at, seed ...); anything JSON can hold.
    image_mass: [strip, layer, head, asked], mass on the whole image, or on all passages; None where it was not read.
    mean_map: [layer, head, row, column], mean attention to each cell of the image's grid, over strips and questions;
        None where it was not read, or there is no one grid.
    Raises HeadError for no strips, fewer than two panels, what is no mass (infinite, complex, not within 0 to 1), NaN
    in some heads only (broken weights), and another number of layers or heads than the fingerprint has.
    """

    samples: Float[Tensor, "strip layer head asked attended"]
    model: str | None = None
    fingerprint: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    image_mass: Float[Tensor, "strip layer head asked"] | None = None
    mean_map: Float[Tensor, "layer head row column"] | None = None

    def __post_init__(self) -> None:
        samples = self.samples.detach().cpu()
        if samples.is_complex():
            raise HeadError(
                f"Samples of {samples.dtype} were given: expected attention mass, real numbers from 0 to 1."
            )
        samples = samples.to(torch.promote_types(samples.dtype, torch.float32))
        is_square = samples.ndim == 5 and min(samples.shape) > 0 and samples.shape[3] == samples.shape[4] > 1
        if not is_square:
            raise HeadError(
                f"Samples of shape {tuple(samples.shape)} cannot be scored: expected [strip, layer, head, asked, "
                "attended] with at least one strip, and the same two or more panels asked about and attended to."
            )
        is_nan = samples.isnan()
        if samples.isinf().any() or (is_nan != is_nan[:, :1, :1]).any():
            raise HeadError(
                "The samples hold infinities, or NaN in some heads and not in others: expected attention mass, and "
                "NaN only for panels that a strip does not have. Look for NaN in the weights, or run in float32."
            )
        if is_nan.all(0).any() or is_nan.flatten(1).all(1).any():
            raise HeadError(
                "A whole strip is NaN, or some pair of panels is NaN in every strip: expected a number in each. "
                "Leave out such strips, cut the samples to the widest strip, or look for NaN in the model's weights."
            )
        _check_mass(samples)
        _check_size(samples, self.fingerprint)
        object.__setattr__(self, "samples", samples)
        self._check_image()

    def _check_image(self) -> None:
        """Raises HeadError where what was read of the whole image does not fit the samples."""
        sizes = {"image_mass": self.samples.shape[:4], "mean_map": (*self.samples.shape[1:3], -1, -1)}
        for name, expected in sizes.items():
            values = getattr(self, name)
            if values is None:
                continue
            fits = values.ndim == 4 and all(n in (-1, m) for n, m in zip(expected, values.shape, strict=True))
            missing = self.samples.diagonal(dim1=-2, dim2=-1).isnan() if name == "image_mass" else False
            if not fits or values.isinf().any() or (values.isnan() != missing).any():
                raise HeadError(
                    f"{name} of shape {tuple(values.shape)} does not fit samples of {tuple(self.samples.shape)}: "
                    "expected attention mass, [strip, layer, head, asked] and [layer, head, row, column], and NaN "
                    "in image_mass only, where a strip has no such panel."
                )

    @cached_property
    def matrix(self) -> Float[Tensor, "layer head asked attended"]:
        """The mean over the strips that have the panels: mass on panel `attended` when asked about panel `asked`."""
        return self.samples.nanmean(0)

    @property
    def score(self) -> Float[Tensor, "layer head"]:
        """Mean mass on the panel that is asked about, 0-1, not renormalised (Gandikota and Bau 2026, gaze score)."""
        return STATISTICS["score"](self.matrix)

    @property
    def contrast(self) -> Float[Tensor, "layer head"]:
        """Mean mass on the panel that is asked about minus the mean mass on another panel; -1 to 1."""
        return STATISTICS["contrast"](self.matrix)

    @property
    def correlation(self) -> Float[Tensor, "layer head"]:
        """Pearson correlation of the (asked, attended) matrix with the identity; 0 where the matrix is constant."""
        return STATISTICS["correlation"](self.matrix)

    def interval(
        self, statistic: str = "score", level: float = 0.95, *, resamples: int = 1000, seed: int = 0
    ) -> Float[Tensor, "2 layer head"]:
        """`low, high = scores.interval("contrast")`: percentile bootstrap over strips, for each head.

        NaN for a single strip, which says nothing about others.
        Raises HeadError for an unknown statistic, a level that is not between 0 and 1, or no resamples.
        """
        if not 0 < level < 1 or not is_count(resamples):
            raise HeadError(
                f"level={level}, resamples={resamples}: expected a level between 0 and 1, such as 0.95, and a whole "
                "number of resamples, such as 1000."
            )
        if len(self.samples) < 2:
            return self.samples.new_full((2, *self.score.shape), torch.nan)
        values = resampled(self.samples, _statistic(statistic), resamples=resamples, seed=seed)
        ends = np.nanquantile if values.isnan().any() else np.quantile
        low_and_high = ends(values.numpy(), [(1 - level) / 2, (1 + level) / 2], axis=0)
        return torch.from_numpy(low_and_high).to(self.samples.dtype)

    def null(
        self, statistic: str = "contrast", permutations: int = 1000, *, seed: int = 0
    ) -> Float[Tensor, "layer head"]:
        """`scores.null() < 0.01`: p-values, one-sided, from permuting which panel was asked about within each strip.

        p = (1 + number of permutations with a statistic at least as large) / (1 + number of permutations). It is for
        each head alone: correct for the number of heads. Raises HeadError for an unknown statistic, or no permutations.
        """
        if not is_count(permutations):
            raise HeadError(f"permutations={permutations}: expected at least one, such as 1000.")
        return chance(self.samples, _statistic(statistic), permutations=permutations, seed=seed)

    def verdict(self, *, level: float = 0.05, least: float = 0.01, seed: int = 0) -> Verdict:
        """`print(scores.verdict())`: how many heads track the panel that is asked about, or "None found".

        See `Verdict`. level: the share of false discoveries. least: the smallest contrast that counts. seed: of the
        split halves, and of the relabellings where there are too many to try all.
        Raises HeadError for a level that is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise HeadError(f"level={level}: expected a share of false discoveries between 0 and 1, such as 0.05.")
        tracks, figures = judge_samples(self.samples, level=level, least=least, seed=seed)
        heads = [head for head in self.ranked("contrast") if tracks[head]]
        return Verdict(self._set(heads, {"verdict": "contrast", "level": level, "least": least}), **figures)

    def values(self, by: str = "score") -> Float[Tensor, "layer head"]:
        """`scores.values("routing")`: what heads are ranked by, larger is better; NaN for a head that is not eligible.

        by: "score", "contrast", "correlation", "selectivity", "routing", "image" or "localization"; `docs/scores.md`
            says what they are. Raises HeadError for another name, and where the scores lack what it is computed from.
        """
        if by in SELECTORS:
            return SELECTORS[by](self.samples, self.image_mass, self.mean_map)
        return _statistic(by, (*STATISTICS, *SELECTORS))(self.matrix)

    def ranked(self, by: str = "score") -> list[Head]:
        """`scores.ranked("contrast")`: all heads that are eligible, best first; ties by layer and head."""
        values = self.values(by)
        order = values.flatten().nan_to_num(-torch.inf, neginf=-torch.inf).argsort(descending=True, stable=True)
        eligible = values.flatten().isnan().logical_not()[order]
        return [Head(*divmod(index, values.shape[1])) for index in order[eligible].tolist()]

    def top(self, k: int, by: str = "score") -> HeadSet:
        """`scores.top(100)`: the k best heads, best first. Raises HeadError where fewer are eligible."""
        heads = self.ranked(by)
        if not heads:
            raise HeadError(f"No head of the model is eligible for the ranking {by!r}; use another one.")
        if not (is_count(k) and k <= len(heads)):
            every = self.score.numel()
            which = "all heads of the model" if len(heads) == every else f"those of {every} heads that {by!r} ranks"
            raise HeadError(f"The {k!r} best heads were asked for: expected 1 to {len(heads)}, {which}.")
        return self._set(heads[:k], {"rank_by": by, "top": k})

    def weights(self, heads: Iterable[Any], by: str = "score") -> dict[Head, float]:
        """`gl.steer(heads, region, weights=scores.weights(heads))`: each head's value over the largest of these heads.

        heads: a HeadSet, or what makes one. Raises HeadError for a head whose value is 0 or less or not a number.
        """
        heads, values = HeadSet.of(heads), self.values(by)
        heads.check(*values.shape)
        own = {head: float(values[head]) for head in heads}
        for head, value in own.items():
            if not value > 0:  # NaN, too
                raise HeadError(
                    f"Head {head} has {by} {value:g}, 0 or less, and so no weight; leave it out of the set."
                )
        return {head: value / max(own.values()) for head, value in own.items()}

    def controls(
        self, k: int, *, seed: int, below: float | int = 50.0, by: str = "score", at_most: bool = False
    ) -> HeadSet:
        """`scores.controls(100, seed=0)`: k random heads at or below the percentile `below` of the statistic.

        They are drawn without replacement; the code of the paper's authors draws from the lowest 5 % (`below=5`).
        at_most: where fewer than k heads are that low (5 % of 36 x 32 heads are 58), take these, with a warning;
        otherwise that is a HeadError.
        """
        drawn = low_controls(k, self._finite(by).numpy(), seed=seed, below=below, by=by, at_most=at_most)
        if len(drawn) < k:
            message = (
                f"{k} control heads were asked for, and {len(drawn)} are at or below percentile {below:g}: all taken."
            )
            warnings.warn(message, stacklevel=2)
        return self._set(drawn, {"rank_by": by, "controls": len(drawn), "seed": seed, "below": below})

    def layer_controls(self, heads: HeadSet, *, seed: int, below: float | int = 50.0, by: str = "score") -> HeadSet:
        """`scores.layer_controls(heads, seed=0)`: random heads, in every layer as many as `heads` has there.

        They are drawn without replacement from those heads of the layer that are not in `heads`, and at or below the
        layer's percentile `below` of the statistic (100: from all others). Raises HeadError where a layer has too few
        of these.
        """
        drawn = layer_controls(heads, self._finite(by).numpy(), seed=seed, below=below, by=by)
        return self._set(drawn, {"rank_by": by, "layer controls": len(heads), "seed": seed, "below": below})

    def layer_lowest(self, heads: HeadSet, *, by: str = "score") -> HeadSet:
        """`scores.layer_lowest(heads)`: in every layer as many others as `heads` has there, the lowest of the layer.

        Raises HeadError where a layer has too few others.
        """
        lowest = layer_lowest(heads, self._finite(by).numpy())
        return self._set(lowest, {"rank_by": by, "layer lowest": len(heads)})

    def band_controls(self, heads: HeadSet, *, seed: int, layers: tuple[int, int] | None = None) -> HeadSet:
        """`scores.band_controls(heads, seed=0)`: as many random heads from a band of layers, none of them in `heads`.

        layers: the first and the last layer of the band, such as (20, 35), which the paper takes; by default the first
        and last layer of `heads`. Raises HeadError where the band has too few others.
        """
        n_layers, n_heads = self.score.shape
        drawn = band_controls(heads, (n_layers, n_heads), seed=seed, layers=layers)
        return self._set(drawn, {"band controls": len(heads), "seed": seed, "layers": list(layers) if layers else None})

    def _finite(self, by: str) -> Float[Tensor, "layer head"]:
        """The values, with those of heads that are not eligible, or last, below all others."""
        values = self.values(by)
        finite = values[values.isfinite()]
        low = float(finite.min()) - 1 if len(finite) else 0.0
        return values.nan_to_num(low, neginf=low)

    def _set(self, heads: list[Head], how: dict[str, Any]) -> HeadSet:
        provenance = {**self.provenance, **how}
        return HeadSet(heads, model=self.model, fingerprint=self.fingerprint, provenance=provenance)

    def table(self, by: str = "score") -> "DataFrame":
        """`scores.table()`: a pandas DataFrame with a row for each head, best first.

        Columns: layer, head, name, score, contrast, correlation, score_low, score_high (95 %, bootstrap over strips).
        """
        import pandas

        heads = self.ranked(by)
        index = tuple(torch.tensor(heads).T)
        low, high = self.interval("score")
        numbers = {name: STATISTICS[name](self.matrix) for name in STATISTICS} | {"score_low": low, "score_high": high}
        names = {"layer": [h.layer for h in heads], "head": [h.head for h in heads], "name": list(map(str, heads))}
        return pandas.DataFrame(names | {name: values[index].numpy() for name, values in numbers.items()})

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """`scores.to_csv("scores.csv")`: the table; complete or not there at all."""
        write_whole(path, self.table().to_csv(index=False).encode())

    def save_ranking(self, path: str | os.PathLike[str], by: str = "score") -> None:
        """`scores.save_ranking("gaze_head_ranking.json")`: all heads, best first, for the paper's authors' scripts.

        A JSON list of {"layer":, "head":, "score":}, of the heads with a finite value; complete or not there at all.
        """
        values = self.values(by)
        ranked = [(head, values[head].item()) for head in self.ranked(by) if values[head].isfinite()]
        entries = [{"layer": head.layer, "head": head.head, "score": value} for head, value in ranked]
        write_whole(path, to_json(entries).encode())

    def save_published(self, folder: str | os.PathLike[str]) -> None:
        """`scores.save_published("out")`: gaze_head_ranking.json, gaze_scores.npy and mean_panel_attention.npy.

        They are what the paper's authors' discovery writes; `published.py` has their layouts.
        """
        self.save_ranking(Path(folder) / published.RANKING)
        published.write_array(Path(folder) / published.SCORES, self.score.numpy())
        published.write_array(Path(folder) / published.ATTENTION, self.matrix.permute(2, 0, 1, 3).numpy())

    def save(self, path: str | os.PathLike[str]) -> None:
        """`scores.save("scores.safetensors")`: all there is to know; the file is complete or not there at all."""
        about = {"model": self.model, "fingerprint": self.fingerprint, "provenance": self.provenance}
        tensors = {"samples": self.samples, "image_mass": self.image_mass, "mean_map": self.mean_map}
        FILE.write(path, {name: tensor for name, tensor in tensors.items() if tensor is not None}, about)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        model: str | None = None,
        fingerprint: str | None = None,
        force: bool = False,
    ) -> "HeadScores":
        """`HeadScores.load("scores.safetensors")`: what `save` wrote.

        `HeadScores.load("mean_panel_attention.npy")` reads what the paper's authors' discovery wrote. It is a mean, so
        that there is a single sample: intervals are NaN, and only rankings that need no more can be had.
        model, fingerprint: of the model that the scores are for; scores of another one are an error unless `force`.
        Raises HeadError for a file that cannot be read, or that belongs to another model.
        """
        if Path(path).suffix == ".npy":
            mean = torch.from_numpy(published.read_mean_attention(path))
            source = {"method": "gaze score", "file": Path(path).name}
            return cls(mean[None], model=model, fingerprint=fingerprint, provenance=source)
        with FILE.reading(path) as (tensors, about):
            provenance = about["found" if "found" in about else "provenance"]  # version 0.1 wrote the first
            image = tensors.get("image_mass"), tensors.get("mean_map")  # new in version 0.2
            scores = cls(tensors["samples"], about["model"], about["fingerprint"], provenance, *image)
        if not force:
            refuse_other(os.fspath(path), scores, model=model, fingerprint=fingerprint)
        return scores

    def __repr__(self) -> str:
        n_strips, n_layers, n_heads, n_panels, _ = self.samples.shape
        best = self.ranked()[0]
        size = f"{n_layers} layers x {n_heads} heads, {n_strips} strips of up to {n_panels} panels"
        return f"HeadScores of {size}; best {best} with score {self.score[best]:.3f}"

    def _repr_html_(self) -> str:
        numbers = (self.score, self.contrast, self.correlation)
        rows = ([str(head), *(float(values[head]) for values in numbers)] for head in self.ranked()[:10])
        return html_table(repr(self), ["head", "score", "contrast", "correlation"], rows)

    def __str__(self) -> str:
        lines = [repr(self), f"{'head':>8} {'score':>8} {'contrast':>9} {'correlation':>12}"]
        for head in self.ranked()[:10]:
            numbers = self.score[head], self.contrast[head], self.correlation[head]
            lines.append("{!s:>8} {:8.3f} {:9.3f} {:12.3f}".format(head, *map(float, numbers)))
        return "\n".join(lines)


def _check_mass(samples: Tensor) -> None:
    least, largest = samples.nan_to_num(0.5).aminmax()
    if least < -ROUNDING or largest > 1 + ROUNDING:
        raise HeadError(
            f"The samples go from {least:.4g} to {largest:.4g}: expected attention mass, which is 0 to 1. Give "
            "attention after the softmax, summed over a panel's tokens."
        )


def _check_size(samples: Tensor, fingerprint: str | None) -> None:
    size, (n_layers, n_heads) = size_in(fingerprint), samples.shape[1:3]
    if size is not None and size != (n_layers, n_heads):
        raise HeadError(
            f"Samples of {n_layers} layers and {n_heads} heads have the fingerprint {fingerprint}: expected {size[0]} "
            f"layers and {size[1]} heads. Give the fingerprint of their model."
        )


def _statistic(name: str, expected: Iterable[str] = STATISTICS) -> Statistic:
    if name not in STATISTICS:
        raise HeadError(f"The statistic {name!r} is not known: expected one of {', '.join(map(repr, expected))}.")
    return STATISTICS[name]
