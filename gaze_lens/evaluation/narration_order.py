"""In which order does a narration go through the panels: as they stand, or in reverse?

plain = narrate_in_order(model, strips, comics.NARRATE_LABELS)                   # labelled strips
hooked = narrate_in_order(model, strips, comics.NARRATE_LABELS, direction=direction, band=range(20, 29))
plain.rho(); hooked.rho()             # Spearman's rho with the reversed order: -1 is as they stand, 1 reversed
hooked.begins_with_last()

Gandikota and Bau 2026, B.1: a direction from "read in reverse", added in layers 20 to 28 at every generated token.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gaze_lens.comics.labels import NARRATE_LABELS
from gaze_lens.errors import InputError, JudgeError
from gaze_lens.evaluation.judges import Description, Judge
from gaze_lens.evaluation.statistics import Estimate, mean
from gaze_lens.heads.rank_correlation import rank_correlation
from gaze_lens.inputs.position_groups import group
from gaze_lens.interventions.direction import Direction
from gaze_lens.model_protocol import Model
from gaze_lens.regions.picture import Picture
from gaze_lens.runs.progress import Bar
from gaze_lens.text.sentences import sentences
from gaze_lens.whole_numbers import is_count

if TYPE_CHECKING:
    from pandas import DataFrame

LEAST = 3  # panels that a text must mention for a rank correlation: of two it is always -1 or 1


@dataclass(frozen=True)
class NarrationOrders:
    """What `narrate_in_order` returns: texts, and the panels that each mentions, in the order of first mention.

    mentions: 0-based panels from the left. n_panels: of each strip.
    """

    texts: tuple[str, ...]
    mentions: tuple[tuple[int, ...], ...]
    n_panels: tuple[int, ...]

    def table(self) -> "DataFrame":
        """A row for each strip.

        Columns: strip; text; mentions; mentioned, how many panels; rho, Spearman's rho of the order of mention with the
        reversed order (NaN where fewer than three panels are mentioned); begins_with_last (1, 0; NaN without mentions).
        """
        import pandas

        rows = []
        for strip, (text, panels, n) in enumerate(zip(self.texts, self.mentions, self.n_panels, strict=True)):
            begins = float(panels[0] == n - 1) if panels else float("nan")
            rows.append((strip, text, panels, len(panels), reversed_rho(panels), begins))
        return pandas.DataFrame(rows, columns=["strip", "text", "mentions", "mentioned", "rho", "begins_with_last"])

    def rho(self) -> Estimate | None:
        """The mean over strips of Spearman's rho with the reversed order; None where no text mentions three panels."""
        return self._mean("rho")

    def begins_with_last(self) -> Estimate | None:
        """The share of texts that mention the last panel first, among those that mention one; None for no mention."""
        return self._mean("begins_with_last")

    def _mean(self, column: str) -> Estimate | None:
        rows = self.table().dropna(subset=column)
        return None if rows.empty else mean(rows[column].to_numpy(), rows.strip.tolist())


def reversed_rho(panels: Sequence[int]) -> float:
    """`reversed_rho([5, 4, 2])` is 1.0: Spearman's rho of an order of mention with the reversed order.

    panels: 0-based, in the order of mention. NaN for fewer than three.
    """
    if len(panels) < LEAST:
        return float("nan")
    return float(rank_correlation(np.arange(len(panels)), -np.array(panels)))


def narrate_in_order(
    model: Model,
    strips: Sequence[Picture],
    prompt: str = NARRATE_LABELS,
    *,
    direction: Direction | None = None,
    band: range | None = None,
    scale: float = 1.0,
    judge: Judge | None = None,
    max_new_tokens: int = 300,
    batch_size: int = 8,
    progress: bool = True,
) -> NarrationOrders:
    """`narrate_in_order(model, strips)`: free narrations, and the order in which they mention the panels.

    direction: added in the layers of `band` (by default all of the direction), `scale` times, at the last prompt token
    and at every generated one; None: the model as it is.
    judge: reads the sentences one by one, and the panel that it finds is mentioned there. By default a panel is
    mentioned where its caption stands as a word of its own, case-sensitive: for `comics.labelled` strips, whose
    captions are letters. Label them without A and I, which are words of English.
    Raises InputError for strips without captions where there is no judge, and JudgeError where a judge fails.
    """
    if not len(strips) or not is_count(batch_size):
        raise InputError(f"{len(strips)} strips, batch_size={batch_size!r}: give one strip or more, one row or more.")
    texts: list[str] = []
    for start in Bar(range(0, len(strips), batch_size), "narrating", disable=not progress, unit="batch"):
        some = [strips[n] for n in range(start, min(start + batch_size, len(strips)))]
        inputs = model.encode(model.prepare(some, [prompt] * len(some)))
        hooks = [] if direction is None else direction.hooks(band, scale=scale, positions=group(inputs, "last"))
        texts += model.generate(inputs, fwd_hooks=hooks, max_new_tokens=max_new_tokens).texts
    pairs = zip(texts, strips, strict=True)
    mentions = [by_captions(text, strip) if judge is None else by_judge(text, strip, judge) for text, strip in pairs]
    return NarrationOrders(tuple(texts), tuple(mentions), tuple(len(strip.regions) for strip in strips))


def by_captions(text: str, strip: Picture) -> tuple[int, ...]:
    """The panels in the order in which their captions first stand in the text, as words of their own."""
    places = {}
    for index, name in enumerate(strip.regions):
        caption = strip.captions.get(name)
        if caption is None:
            raise InputError(f"'{name}' has no caption to look for; draw labels with comics.labelled, or give judge=.")
        found = re.search(rf"(?<!\w){re.escape(caption)}(?!\w)", text)
        if found:
            places[index] = found.start()
    return tuple(sorted(places, key=places.__getitem__))


def by_judge(text: str, strip: Picture, judge: Judge) -> tuple[int, ...]:
    """The panels in the order in which a judge first finds them in the sentences of the text."""
    names = list(strip.regions)
    parts = [text[one.start : one.stop] for one in sentences(text)]
    judgements = judge.judge_all([Description(part, names[0], strip) for part in parts], progress=False)
    errors = [judgement.error for judgement in judgements if judgement.error]
    if errors:
        raise JudgeError(f"{len(errors)} of {len(parts)} sentences could not be judged: {errors[0]}")
    matches = [judgement.match for judgement in judgements if judgement.match is not None]
    return tuple(names.index(name) for name in dict.fromkeys(matches))
