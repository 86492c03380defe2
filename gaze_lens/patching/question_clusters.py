"""Do the hidden states at the end of a prompt tell which panel is asked about? By layer: clusters and their plane.

found = question_states(model, strips, [comics.letter(k) for k in range(6)])
found.silhouette()        # by layer, -1 to 1: how far the states of one question lie apart from those of the others
found.plane(22)           # the states of a layer on their two main axes

Gandikota and Bau 2026, B.4: in Qwen3-VL-8B, clusters in layers 20 to 28, the silhouette largest at layer 23.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaze_lens.errors import InputError
from gaze_lens.model_protocol import Model
from gaze_lens.patching.two_orders import states
from gaze_lens.regions.picture import Picture
from gaze_lens.runs.progress import Bar
from gaze_lens.whole_numbers import is_count

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, eq=False)
class QuestionStates:
    """`question_states(model, strips, questions)`: the residual stream before each layer, at one place of each prompt.

    states: in float32. question: of each row, the index of the question. layers: along the first axis.
    """

    states: Float[Tensor, "layer row d_model"]
    question: Int[Tensor, " row"]
    layers: tuple[int, ...]

    def silhouette(self) -> "DataFrame":
        """The mean silhouette of the states, whose clusters are the questions. Columns: layer, silhouette, n."""
        import pandas

        values = [silhouette(points, self.question) for points in self.states]
        return pandas.DataFrame({"layer": self.layers, "silhouette": values, "n": len(self.question)})

    def plane(self, layer: int) -> "DataFrame":
        """The states of a layer on their first two principal axes.

        Columns: question, x, y; share_x and share_y, each axis' share of the variance.
        Raises InputError for a layer that was not read.
        """
        import pandas

        if layer not in self.layers:
            raise InputError(f"layer={layer!r} was given; the states are of layers {list(self.layers)}.")
        points, shares = principal_axes(self.states[self.layers.index(layer)])
        columns = {"question": self.question.tolist(), "x": points[:, 0].tolist(), "y": points[:, 1].tolist()}
        return pandas.DataFrame(columns | {"share_x": float(shares[0]), "share_y": float(shares[1])})


def question_states(
    model: Model,
    strips: Sequence[Picture],
    questions: Sequence[str],
    *,
    layers: Sequence[int] | None = None,
    positions: Any = "last",
    batch_size: int = 16,
    progress: bool = True,
) -> QuestionStates:
    """`question_states(model, strips, [comics.ask(k) for k in range(6)])`: every question about every strip.

    layers: by default all. positions: of the prompt, as for `gl.patching.group`; a mean where there are several.
    batch_size: prompts of one forward. Kept in memory are layers x strips x questions x d_model numbers of four bytes.
    Raises InputError for fewer than two questions, and no strips.
    """
    if len(set(questions)) < max(2, len(questions)) or not len(strips) or not is_count(batch_size):
        raise InputError(
            f"{len(questions)} questions, {len(strips)} strips and batch_size={batch_size!r} were given; give at least "
            "two different questions, one strip and one prompt a batch."
        )
    layers = tuple(range(model.cfg.n_layers) if layers is None else layers)
    rows = [(strip, index) for strip in strips for index in range(len(questions))]
    parts = []
    starts = range(0, len(rows), batch_size)
    for start in Bar(starts, "reading states", disable=not progress, unit="batch"):
        some = rows[start : start + batch_size]
        inputs = model.prepare([strip for strip, _ in some], [questions[index] for _, index in some])
        parts.append(states(model, model.encode(inputs) if inputs.maps else inputs, layers, positions))
    return QuestionStates(torch.cat(parts, 1), torch.tensor([index for _, index in rows]), layers)


def silhouette(points: Float[Tensor, "point axis"], labels: Int[Tensor, " point"]) -> float:
    """The mean over points of (b - a) / max(a, b), -1 to 1 (Rousseeuw 1987), as scikit-learn's `silhouette_score`.

    a: the mean distance to the other points of the own cluster. b: the least mean distance to those of another cluster.
    A point that is alone in its cluster counts 0. Raises InputError for fewer than two clusters.
    """
    member = (labels[:, None] == labels.unique()).double()  # [point, cluster]
    if member.shape[1] < 2:
        raise InputError("A silhouette compares clusters, and there is one; give points of two clusters or more.")
    distances = torch.cdist(points.double(), points.double(), compute_mode="donot_use_mm_for_euclid_dist")
    sums, sizes = distances @ member, member.sum(0)
    own = member.bool()
    alone = sizes[member.argmax(1)] == 1
    a = sums[own] / (sizes[member.argmax(1)] - 1).clamp(min=1)
    b = (sums / sizes).masked_fill(own, torch.inf).amin(1)
    largest = torch.maximum(a, b)
    values = torch.where(largest > 0, (b - a) / largest.clamp(min=torch.finfo(largest.dtype).tiny), 0 * a)
    return float(values.masked_fill(alone, 0).mean())


def principal_axes(
    points: Float[Tensor, "point axis"], n: int = 2
) -> tuple[Float[Tensor, "point n"], Float[Tensor, " n"]]:
    """Points on their first n principal axes, and each axis' share of the variance.

    The sign of an axis is arbitrary: here its largest loading is positive.
    """
    centred = points.double() - points.double().mean(0)
    _, scales, axes = torch.linalg.svd(centred, full_matrices=False)
    axes = axes[:n]
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    variances = scales**2
    return centred @ axes.T, variances[:n] / variances.sum().clamp(min=torch.finfo(variances.dtype).tiny)
