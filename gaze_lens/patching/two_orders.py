"""Prompts about the panels of strips in their usual order and in another, and what a direction between them does.

prompts = order_prompts(strips, comics.letter, comics.letter_reversed)      # labelled strips
prompts.answered(model)                      # does the model read the letters, in both orders?
direction = prompts.direction(model)         # from the usual order to the other, for each layer
order_prompts(others, comics.letter, comics.letter_reversed).flips(model, direction)

Gandikota and Bau 2026, section 4: the letter on the first panel, and the same after "read the comic in reverse".
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from gaze_lens.errors import InputError
from gaze_lens.inputs.position_groups import group
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.interventions.direction import Direction
from gaze_lens.model_protocol import Model
from gaze_lens.patching.layer_flips import flip_rates
from gaze_lens.patching.logits import first_tokens
from gaze_lens.regions.picture import Picture
from gaze_lens.runs.progress import Bar
from gaze_lens.whole_numbers import is_count

if TYPE_CHECKING:
    from pandas import DataFrame

Ask = Callable[[int], str]


@dataclass(frozen=True)
class Question:
    """One question about a strip. place: of the panel asked for, from 0. before, after: the answers in both orders."""

    strip: int
    place: int
    natural: str
    other: str
    before: str
    after: str


@dataclass(frozen=True, eq=False)
class OrderPrompts:
    """`prompts = order_prompts(strips, natural, other)`: questions about panels in two reading orders.

    strips: the pictures. questions: for all of them. positions: where directions are read and added.
    batch_size: prompts of one forward.
    """

    strips: Sequence[Picture]
    questions: tuple[Question, ...]
    positions: Any = "last"
    batch_size: int = 16

    def __len__(self) -> int:
        return len(self.questions)

    def _bar(self, batches: Iterator[VLMInputs], title: str, *, progress: bool) -> Iterator[VLMInputs]:
        total = -(-len(self) // self.batch_size)
        yield from Bar(batches, title, total=total, disable=not progress, unit="batch")

    def batches(self, model: Model, kind: str, questions: Sequence[Question] | None = None) -> Iterator[VLMInputs]:
        """The prompts, `batch_size` at a time. kind: "natural" or "other". questions: some of them."""
        asked = self.questions if questions is None else questions
        for start in range(0, len(asked), self.batch_size):
            some = asked[start : start + self.batch_size]
            inputs = model.prepare([self.strips[one.strip] for one in some], [getattr(one, kind) for one in some])
            yield model.encode(inputs) if inputs.maps else inputs

    @torch.no_grad()
    def answered(self, model: Model, *, progress: bool = True) -> "DataFrame":
        """What the model answers: a row for each question.

        Columns: strip, place; before, after, the answers expected; natural and other, whether the most probable next
        token is that of `before` and of `after`, in the prompt of that order.
        """
        import pandas

        table = pandas.DataFrame(
            [(one.strip, one.place, one.before, one.after) for one in self.questions],
            columns=["strip", "place", "before", "after"],
        )
        for kind, expected in (("natural", "before"), ("other", "after")):
            right: list[bool] = []
            for inputs in self._bar(self.batches(model, kind), f"asking, {kind} order", progress=progress):
                words = [getattr(one, expected) for one in self.questions[len(right) :][: inputs.n_rows]]
                right += [a == b for a, b in zip(top_tokens(model, inputs), tokens_of(model, words), strict=True)]
            table[kind] = right
        return table

    def direction(self, model: Model, *, layers: Any = None, progress: bool = True) -> Direction:
        """The mean over questions of the residual stream in the other order less that in the natural one, by layer.

        layers: one or several; by default all. It is what `gl.mean_difference` computes, batch by batch.
        """
        layers = range(model.cfg.n_layers) if layers is None else [layers] if isinstance(layers, int) else list(layers)
        means = []
        for kind in ("other", "natural"):
            batches = self._bar(self.batches(model, kind), f"reading, {kind} order", progress=progress)
            means.append(mean_states(model, batches, layers, self.positions))
        provenance = {"method": "mean difference of reading orders", "questions": len(self)}
        return Direction(means[0] - means[1], tuple(layers), model.fingerprint, provenance)

    def flips(
        self, model: Model, direction: Direction, *, bands: int | Sequence[range] = 1, scale: float = 1.0,
        progress: bool = True,
    ) -> "DataFrame":  # fmt: skip
        """`prompts.flips(model, direction)`: the share of answers that the direction flips, by layer or band.

        The questions are asked in the natural order. Those whose two answers begin with the same token cannot flip and
        are left out. Columns as for `gl.patching.flip_rates`. Raises InputError where no question is left.
        """
        tokens = zip(*(tokens_of(model, [getattr(one, key) for one in self.questions]) for key in KEYS), strict=True)
        asked = [one for one, (before, after) in zip(self.questions, tokens, strict=True) if before != after]
        if not asked:
            raise InputError(
                f"None of the {len(self)} questions has two answers that begin with different tokens; give strips "
                "whose panels differ, and an order other than the natural one."
            )
        words = ([getattr(one, key) for one in asked] for key in KEYS)
        options: dict[str, Any] = {"bands": bands, "scale": scale, "positions": self.positions, "progress": progress}
        batches = list(self.batches(model, "natural", asked))
        return flip_rates(model, batches, direction, *words, batch_size=self.batch_size, **options)


KEYS = ("before", "after")


def order_prompts(
    strips: Sequence[Picture],
    natural: Ask,
    other: Ask,
    *,
    places: Sequence[int] | None = (0,),
    order: Sequence[int] | None = None,
    positions: Any = "last",
    batch_size: int = 16,
) -> OrderPrompts:
    """`order_prompts(strips, comics.letter, comics.letter_reversed)`: questions in two reading orders.

    strips: pictures with a caption for each panel, all with as many panels: labels (`comics.labelled`), whose first
        token is the answer, or any captions that the model answers with.
    natural, other: from the place of a panel, from 0, to the question about it.
    places: which places are asked for; None for all. order: the panels in the other reading order, by 0-based index
        from the left; by default reversed. The answer to place k is the caption of panel k, and that of panel
        order[k].
    Raises InputError for strips without captions or of different numbers of panels, for places and orders that these
    do not have, and for no strips.
    """
    counts = {len(strip.regions) for strip in strips}
    if len(counts) != 1 or not is_count(batch_size):
        raise InputError(
            f"Strips of {sorted(counts)} panels and batch_size={batch_size!r} were given; give strips with equally "
            "many panels, and a batch of at least one prompt."
        )
    (n_panels,) = counts
    order = range(n_panels)[::-1] if order is None else order
    places = range(n_panels) if places is None else places
    if sorted(order) != list(range(n_panels)) or not places or not all(0 <= k < n_panels for k in places):
        raise InputError(f"order={list(order)} and places={list(places)} were given for strips of {n_panels} panels.")
    questions = []
    for index, strip in enumerate(strips):
        captions = [strip.captions.get(name, "") for name in strip.regions]
        if not all(captions):
            raise InputError(f"Strip {index} has panels without captions; draw labels with comics.labelled(strip).")
        questions += [
            Question(index, place, natural(place), other(place), captions[place], captions[order[place]])
            for place in places
        ]
    return OrderPrompts(strips, tuple(questions), positions, batch_size)


def tokens_of(model: Model, words: Sequence[str]) -> list[int]:
    """The first token of each answer."""
    return first_tokens(model.processor.tokenizer, list(words))


@torch.no_grad()
def top_tokens(model: Model, inputs: VLMInputs) -> list[int]:
    """For each row the most probable next token."""
    logits = model(inputs, return_type="logits", logits_to_keep=inputs.last_logits, use_cache=False)
    return logits[:, -1].argmax(-1).tolist()


@torch.no_grad()
def states(
    model: Model, inputs: VLMInputs, layers: Sequence[int], positions: Any = "last"
) -> Float[Tensor, "layer row d_model"]:
    """The residual stream before each layer, the mean over each row's positions in a group; in float32."""
    rows = group(inputs, positions).rows
    by_layer: dict[int, Tensor] = {}

    def keep(stream: Tensor, hook: Any) -> None:
        means = [row[list(columns)].float().mean(0) for row, columns in zip(stream, rows, strict=True)]
        by_layer[hook.layer()] = torch.stack(means).cpu()

    hooks = [(f"blocks.{layer}.hook_resid_pre", keep) for layer in layers]
    model.run_with_hooks(inputs, fwd_hooks=hooks, return_type=None, logits_to_keep=inputs.last_logits, use_cache=False)
    return torch.stack([by_layer[layer] for layer in layers])


def mean_states(
    model: Model, batches: Iterable[VLMInputs], layers: Sequence[int], positions: Any = "last"
) -> Float[Tensor, "layer d_model"]:
    """The mean of `states` over the rows of all batches."""
    sums, n_rows = torch.zeros(0), 0
    for inputs in batches:
        of_batch = states(model, inputs, layers, positions).sum(1)
        sums, n_rows = of_batch if n_rows == 0 else sums + of_batch, n_rows + inputs.n_rows
    return sums / n_rows
