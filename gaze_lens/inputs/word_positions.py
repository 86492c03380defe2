"""From which positions heads look for a word.

word_positions(inputs, "dog")           # one tuple of positions for each occurrence
"""

from gaze_lens.errors import InputError
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.regions.layout import Group
from gaze_lens.text.spans import word_spans


def word_positions(
    inputs: VLMInputs, word: str | Group, *, row: int = 0, occurrence: int | None = None
) -> tuple[tuple[int, ...], ...]:
    """For each occurrence of a word in one row, the queries of its tokens.

    A token of an answer is predicted at the position before it: that is its query. A token of the prompt is its own.
    word: a word or several, looked for in the answer where the row has one, else in the prompt; or a span of either,
        `inputs.span("dog")`, which is one occurrence. occurrence: only this one, zero-based; -1 is the last.
    Raises RegionError where the word is not there, or is a part of a token; InputError for an occurrence that is not
    there, or for one of a span.
    """
    answer = inputs.answers[row]
    if isinstance(word, Group):
        if occurrence is not None:
            raise InputError("occurrence= was given with a span, which says itself which one it is; leave it out.")
        word.check(inputs.layout)
        if word.cross_attention:
            raise InputError(f"{word!r} was given as a word; expected a span of text, inputs.span('dog').")
        return (tuple(position - (position >= answer) for position in word.rows[row]),)
    answered = answer < inputs.layout.length
    positions = tuple(range(answer, inputs.layout.length)) if answered else inputs.layout.text[row]
    spans = word_spans(inputs.tokenizer, inputs.input_ids[row, list(positions)].tolist(), word)
    found = [tuple(positions[i] - answered for i in span) for span in spans]
    if occurrence is None:
        return tuple(found)
    if not -len(found) <= occurrence < len(found):
        raise InputError(f"{word!r} is {len(found)} times in the text; there is no occurrence={occurrence}.")
    return (found[occurrence],)
