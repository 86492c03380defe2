"""Steering on a schedule: the target moves on while the model narrates.

The text is cut where the narration passes from panel to panel, and each piece is judged against the target of its
turn.
"""

from collections.abc import Sequence
from typing import Any

from gaze_lens.comics.questions import NARRATE
from gaze_lens.evaluation.answers import Answer, answer
from gaze_lens.evaluation.condition import Condition
from gaze_lens.evaluation.protocols import dynamic_narration
from gaze_lens.evaluation.steered_rows import Row, cut, narrate
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.interventions.steering import Mode, boost_and_suppress
from gaze_lens.model.generation import Generation
from gaze_lens.regions.picture import Picture


def switch_at_panel_ends(
    model: Any,
    picture: Picture,
    heads: HeadSet,
    order: Sequence[str],
    *,
    end: str,
    prompt: str = NARRATE,
    mode: Mode | None = None,
    where: Sequence[str] = ("prefill", "decode"),
    max_new_tokens: int = 100,
) -> tuple[Generation, list[int], list[str]]:
    """Narrate with the target moved on whenever a piece of text ends: (generation, switch steps, pieces).

    end: the text that closes a panel's description ("."). mode, where: as for `gl.steer`.
    """
    inputs = model.encode(model.prepare(picture, prompt))
    protocol = dynamic_narration(prompt, end=end, max_new_tokens=max_new_tokens, where=where)
    condition = Condition("steered", heads, mode or boost_and_suppress())
    generation, (steps,) = narrate(model, protocol, inputs, [Row(condition, tuple(order), prompt, tuple(order))])
    text = cut(model, protocol, str(generation), generation.tokens[0].tolist(), steps)
    return generation, steps, list(text.pieces)


def judge_pieces(index: int, picture: Picture, order: Sequence[str], pieces: Sequence[str]) -> list[Answer]:
    """Each piece against its turn's target; a piece that never came is an empty text, and a miss."""
    padded = list(pieces) + [""] * (len(order) - len(pieces))
    return [answer(index, picture, name, piece) for name, piece in zip(order, padded, strict=True)]
