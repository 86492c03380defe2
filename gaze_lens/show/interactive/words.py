"""A prompt and its answer as a list of words, in which each image is one word.

for word in words_of(inputs, answer, queries): word.text, word.kind, word.row
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.text.token_texts import pieces


@dataclass(frozen=True)
class Word:
    """A token, or the run of an image's tokens.

    kind: "prompt", "answer" or "image". row: its index among the recorded queries, or None. special: whether it is a
        special token, such as the end of a turn.
    """

    text: str
    kind: str
    row: int | None
    special: bool = False


def words_of(inputs: VLMInputs, answer: Sequence[int], queries: Sequence[int]) -> list[Word]:
    """The words of a prompt's only row, then those of its answer.

    The row of a prompt word is that of its own position, the row of an answer word that of the position before it, from
    which it was predicted. So the last prompt token and the first word of the answer have the same row.
    """
    rows = {query: row for row, query in enumerate(queries)}
    start, ids = inputs.answers[0], inputs.input_ids[0].tolist()
    runs = _image_runs(inputs)
    positions = sorted({*inputs.text_positions[0], *runs})
    prompt = [p for p in positions if p < start and p not in runs]
    texts = dict(zip(prompt, pieces(inputs.tokenizer, [ids[p] for p in prompt]), strict=True))
    special = special_ids(inputs.tokenizer)
    words = []
    for p in positions:
        if p in texts:
            words.append(Word(texts[p], "prompt", rows.get(p), ids[p] in special))
        elif p in runs and runs[p]:
            words.append(Word(runs[p], "image", None))
    for step, text in enumerate(pieces(inputs.tokenizer, answer)):
        words.append(Word(text, "answer", rows.get(start - 1 + step), answer[step] in special))
    return words


def _image_runs(inputs: VLMInputs) -> dict[int, str]:
    """For each position of an image, the name of the run of tokens that begins there; "" inside a run."""
    if inputs.layout.cross_attention:
        places = inputs.layout.placeholders[0]
        return {p: f"image {i + 1}" if len(places) > 1 else "image" for i, p in enumerate(places)}
    owners = {p: tokens.image for tokens in inputs.image_tokens for p in tokens.positions.tolist()}
    runs = {}
    for position, image in sorted(owners.items()):
        runs[position] = ""
        if owners.get(position - 1) != image:
            end = next(p for p in count(position) if owners.get(p) != image)
            moment = inputs.image_tokens[image].moment
            name = moment.name if moment else f"image {image + 1}" if len(inputs.image_tokens) > 1 else "image"
            runs[position] = f"{name}: {end - position} tokens"
    return runs


def special_ids(tokenizer: Any) -> set[int]:
    """The ids of special tokens, which are no text."""
    added = {token for token, about in tokenizer.added_tokens_decoder.items() if about.special}
    return added | set(tokenizer.all_special_ids)
