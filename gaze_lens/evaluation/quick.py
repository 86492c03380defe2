"""One question about the whole picture, steered to every region in turn; and the plain question about every region.

answers = steer_to_every_panel(model, strips, heads)
print(accuracy(answers))

The engine's protocols with one condition, in memory; `gl.evaluate` runs several and keeps what they say.
"""

from collections.abc import Callable, Sequence
from typing import Any

from gaze_lens.comics.questions import OPEN, ask
from gaze_lens.evaluation.answers import Answer, answer
from gaze_lens.evaluation.condition import Condition
from gaze_lens.evaluation.generate import generate_answers
from gaze_lens.evaluation.protocols import Protocol, asking, question
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.interventions.steering import Mode, boost_and_suppress
from gaze_lens.regions.picture import Picture


def steer_to_every_panel(
    model: Any,
    pictures: Sequence[Picture],
    heads: HeadSet | None,
    *,
    prompt: str = OPEN,
    mode: Mode | None = None,
    max_new_tokens: int = 15,
    batch_size: int = 24,
    progress: bool = True,
) -> list[Answer]:
    """The answers to one question, with every region of every picture as the target once.

    heads: the heads to steer, or None for the unsteered answers. mode: as for `gl.steer`.
    A region that no image token belongs to is no target, and has no answer.
    Gandikota and Bau 2026, "Question steering": 15 new tokens, greedy, every (strip, target) pair.
    """
    condition = Condition("steered" if heads else "none", heads, mode or boost_and_suppress())
    protocol = question(prompt, max_new_tokens=max_new_tokens)
    return _answers(model, pictures, condition, protocol, batch_size=batch_size, progress=progress)


def ask_every_panel(
    model: Any,
    pictures: Sequence[Picture],
    *,
    prompts: Callable[[int], str] = ask,
    max_new_tokens: int = 15,
    batch_size: int = 24,
    progress: bool = True,
) -> list[Answer]:
    """The unsteered answers to the question about each region. prompts: the question for region k, zero-based."""
    most = max((len(picture.regions) for picture in pictures), default=0)
    protocol = asking([prompts(index) for index in range(most)], max_new_tokens=max_new_tokens)
    return _answers(model, pictures, Condition("none"), protocol, batch_size=batch_size, progress=progress)


def _answers(
    model: Any, pictures: Sequence[Picture], condition: Condition, protocol: Protocol, **options: Any
) -> list[Answer]:
    made = generate_answers(model, list(pictures), [condition], protocol=protocol, **options)
    numbers = ((int(record.picture), record) for record in made.records if not record.skipped)
    return [answer(n, pictures[n], record.targets[0], record.text) for n, record in numbers]
