"""Inputs with one row for each description of a picture, for metrics that compare descriptions.

inputs = descriptions(model, strip, "What happens in the fourth panel from the left?")
blocks_of(inputs)               # [("panel 1", ..., "panel 6")]
"""

from collections.abc import Sequence
from typing import Any

from gaze_lens.errors import InputError
from gaze_lens.inputs.prompts import each_prompt
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.model_protocol import Model
from gaze_lens.regions.segments import Source

Block = tuple[str, ...]  # the described regions of one picture, one a row


def descriptions(model: Model, pictures: Source | Sequence[Source], prompts: Any) -> VLMInputs:
    """`descriptions(model, strip, question)`: one row for each caption, the caption being the answer; encoded.

    pictures: one with captions, or a list; or `gl.passages`. prompts: a question, or a list with one for each picture.
    The rows of a picture follow one another, in the order of its captions; its image is encoded once.
    Raises InputError where a picture has no captions, or their number differs from that of the prompts.
    """
    pictures = [pictures] if isinstance(pictures, Source) else list(pictures)
    prompts = each_prompt(prompts, len(pictures))
    if len(prompts) != len(pictures):
        raise InputError(f"{len(prompts)} prompts were given for {len(pictures)} pictures; give one, or one for each.")
    for picture in pictures:
        if not isinstance(picture, Source) or not picture.captions:
            raise InputError(f"{picture!r} has no captions; give gl.Picture(image, regions, captions), or gl.passages.")
    pairs = zip(pictures, prompts, strict=True)
    rows = [(picture, prompt, text) for picture, prompt in pairs for text in picture.captions.values()]
    images, questions, answers = (list(column) for column in zip(*rows, strict=True))
    inputs = model.prepare(images, questions, answers=answers)
    return model.encode(inputs) if inputs.maps else inputs


def blocks_of(inputs: VLMInputs) -> list[Block]:
    """For each picture the names of the regions that its rows describe.

    Raises InputError unless each picture has as many rows as captions, and all its answers differ.
    """
    blocks: list[Block] = []
    row = 0
    while row < inputs.n_rows:
        block = tuple(inputs.sources[row][0].captions) if inputs.sources[row] else ()
        _check(inputs, row, block)
        blocks.append(block)
        row += len(block)
    return blocks


def _check(inputs: VLMInputs, first: int, block: Block) -> None:
    """Raises InputError unless the rows from `first` on show one picture and have a different answer for each name."""
    rows = inputs.sources[first : first + len(block)]
    same = all(len(pictures) == 1 and pictures[0] is rows[0][0] for pictures in rows)
    if not block or len(rows) < len(block) or not same:
        raise InputError(
            f"The rows from {first} on are not one for each caption of one picture ({len(block)} captions). Make the "
            "inputs with gl.metrics.descriptions(model, pictures, prompts)."
        )
    answers = [inputs.input_ids[row, inputs.answers[row] :].tolist() for row in range(first, first + len(block))]
    for index, answer in enumerate(answers):
        if answer in answers[:index]:
            raise InputError(
                f"{block[answers.index(answer)]!r} and {block[index]!r} have the same description; one cannot be told "
                "from the other. Choose a picture whose captions all differ."
            )
