"""Where passages stand in the tokens of prompts.

conversation = with_passages(conversation, passages)      # before the question
inputs = with_segments(inputs, [passages], [prompt])      # their positions are in inputs.layout.segments

The tokenizer says which characters each token of a prompt's text has. A processor puts more tokens in: those of images,
padding, an answer. So the tokens of all passages are searched in the processor's, and must be there exactly once.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gaze_lens.errors import InputError
from gaze_lens.inputs.chat_template import Message
from gaze_lens.inputs.prompts import rewritten
from gaze_lens.inputs.typed_text import special_in
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.regions.segments import Passages


def taken_out(sources: Sequence[Any]) -> tuple[list[Any], Passages | None]:
    """The pictures and the passages of one prompt; InputError for several Passages."""
    passages = [source for source in sources if isinstance(source, Passages)]
    if len(passages) > 1:
        raise InputError(
            f"{len(passages)} Passages were given for one prompt; give all its texts in one: gl.passages([...]). A "
            "list of Passages makes a batch, and needs no list around it."
        )
    return [source for source in sources if not isinstance(source, Passages)], next(iter(passages), None)


def with_passages(tokenizer: Any, conversation: list[Message], passages: Passages | None) -> list[Message]:
    """A conversation with passages before its question, which is the last text of the user's last message."""
    if passages is None:
        return conversation
    if special := special_in(tokenizer, passages.text):
        raise InputError(
            f"The passages hold {', '.join(special)}, which the model reads as a special token of its chat template "
            "and not as text; take it out of the passages, labels and separator."
        )
    written = rewritten(conversation, lambda question: passages.text + question)
    if written == rewritten(conversation, str):
        raise InputError("Passages stand before the user's question, and the chat messages have no text of a user.")
    return written


def with_segments(inputs: VLMInputs, passages: Sequence[Passages | None], prompts: Sequence[str]) -> VLMInputs:
    """The inputs with the positions of passages. prompts: the text of each row, without its answer."""
    if all(one is None for one in passages):
        return inputs
    segments = tuple(
        () if one is None else _positions(inputs, row, one, prompt)
        for row, (one, prompt) in enumerate(zip(passages, prompts, strict=True))
    )
    return replace(inputs, layout=replace(inputs.layout, segments=segments), passages=tuple(passages))


def _positions(inputs: VLMInputs, row: int, passages: Passages, prompt: str) -> tuple[tuple[int, ...], ...]:
    """The positions of each passage's tokens in a row."""
    ids, segments = _tokens(inputs.tokenizer, passages, prompt)
    first, end = segments[0].start, segments[-1].stop
    begin = min(inputs.layout.text[row])
    known = inputs.input_ids[row, begin : inputs.answers[row]].tolist()
    run = ids[first:end]
    starts = [at for at in range(len(known) - len(run) + 1) if known[at : at + len(run)] == run]
    if len(starts) != 1:
        raise InputError(
            f"The tokens of the passages are {len(starts)} times in the prompt that the model's processor makes, so "
            "that their positions are not known. Give passages and labels that do not stand in the question."
        )
    shift = begin + starts[0] - first
    return tuple(tuple(token + shift for token in segment) for segment in segments)


def _tokens(tokenizer: Any, passages: Passages, prompt: str) -> tuple[list[int], list[range]]:
    """The tokens of a prompt's text, and for each passage the indices of those that have characters of it."""
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"The model's tokenizer, {type(tokenizer).__name__}, does not say where its tokens stand in the text; give "
            "one that is fast (AutoTokenizer.from_pretrained(folder, use_fast=True)) for passages."
        )
    start = _start(passages, prompt)
    encoded = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
    offsets = encoded["offset_mapping"]
    segments: list[range] = []
    for name, characters in passages.characters.items():
        begin, end = start + characters.start, start + characters.stop
        tokens = [token for token, (left, right) in enumerate(offsets) if left < end and right > begin]
        if not tokens or (segments and tokens[0] < segments[-1].stop):
            raise InputError(
                f"The passage {name!r} shares a token with the one before it, or has none of its own; give a separator "
                "or labels that the tokenizer does not merge with the passages, such as separator='\\n'."
            )
        segments.append(range(tokens[0], tokens[-1] + 1))
    return encoded["input_ids"], segments


def _start(passages: Passages, prompt: str) -> int:
    """The character at which the passages begin in a prompt."""
    block = passages.text.removesuffix(passages.separator)
    start = prompt.find(block)
    if start < 0 or prompt.rfind(block) != start:
        where = "changed by the model's chat template" if start < 0 else "in the prompt more than once"
        raise InputError(f"The passages are {where}; give others, or other labels: {block[:60]!r}.")
    return start
