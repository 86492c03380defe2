"""Training batches: pictures drawn on the fly, several questions about each packed behind one shared image.

    batch = strip_batch(rng, processor.tokenizer, rows=24, panels=6, slots=("ask", "ask", "open", "this"))

A sequence is the prompt's beginning with the image, then the questions with their answers side by side: each sees the
image and itself only (`lengths`) and counts its positions from the image's end (`positions`), just as if it stood
alone. So one image serves many questions. Ragged ends are padding that nothing real can see.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from gaze_lens import comics
from gaze_lens.comics.drawing import SIDE, describe, draw_cells, draw_content, render_panels, render_scenes

BETWEEN = "<|im_end|>\n<|im_start|>assistant\n"
END = "<|im_end|>"
TOKEN = 16  # pixels: side of the square that an image token covers
IGNORE = -100
FIRST = {"open": 0.6, "open wide": 0.4}  # how often the open question is surely about the first panel


@dataclass(frozen=True)
class Frame:
    """What an architecture writes around its image tokens, and how it counts positions.

    before, after: the prompt's beginning up to the image, and what stands between image and question.
    row_end, image_end: a token behind every row of image tokens but the last, and behind the last.
    grid: whether image tokens are placed by row and column (M-RoPE); else they count on like text.
    """

    before: str = "<|im_start|>user\n<|vision_start|>"
    token: str = "<|image_pad|>"
    after: str = "<|vision_end|>"
    row_end: str = ""
    image_end: str = ""
    grid: bool = True

    def image(self, high: int, wide: int) -> str:
        """An image of high x wide tokens."""
        return (self.row_end).join([self.token * wide] * high) + self.image_end


GRID = Frame()  # Qwen3-VL's


@dataclass(frozen=True)
class Batch:
    """One micro-batch, everything that a training step needs.

    pixels: [row, height, width, 3] uint8.
    ids, labels: [row, sequence]; labels hold -100 where nothing is to be learned.
    positions: [3, sequence], the M-RoPE positions (time, height, width), alike in all rows.
    lengths: of the shared beginning and of every question's slot; they add up to the sequence.
    image: first and one past the last position of the image.
    visible: [sequence], the image tokens; in between may be ends of rows.
    facts: [row, image token, 6]: upper colour, upper shape, lower colour, lower shape (strips); colour, shape (scenes).
    """

    pixels: UInt8[Tensor, "row height width 3"]
    ids: Int[Tensor, "row sequence"]
    labels: Int[Tensor, "row sequence"]
    positions: Int[Tensor, "3 sequence"]
    lengths: tuple[int, ...]
    image: tuple[int, int]
    visible: Bool[Tensor, " sequence"]
    facts: Int[Tensor, "row token 6"]

    def to(self, device: str) -> "Batch":
        """The same batch on another device."""
        moved = {field.name: getattr(self, field.name) for field in fields(self)}
        return Batch(**{name: x.to(device) if isinstance(x, Tensor) else x for name, x in moved.items()})


def narrate(content: np.ndarray, order: np.ndarray) -> str:
    """The panels in the given order, each behind its marker."""
    return " ".join(f"Panel {i + 1}: {comics.caption(content[i])}" for i in order)


def favour_first(rng: np.random.Generator, n: int, odds: float = 0.6) -> int:
    """0 with probability `odds`, else any of n."""
    return 0 if rng.random() < odds else int(rng.integers(n))


def strip_question(rng: np.random.Generator, slot: str, content: np.ndarray) -> tuple[str, str]:
    """A question of the kind `slot` about a strip whose panels hold `content`, and its answer."""
    n = len(content)
    if slot == "ask":
        i = int(rng.integers(n))
        question = comics.ask(i) if rng.random() < 0.85 else f"Describe the {comics.ORDINALS[i]} panel."
        return question, comics.caption(content[i])
    if slot in FIRST:
        return comics.OPEN, comics.caption(content[favour_first(rng, n, FIRST[slot])])
    if slot == "this":
        return comics.THIS, comics.caption(content[rng.integers(n)])
    if slot == "in order":
        return comics.NARRATE, narrate(content, np.arange(n))
    if slot == "freely":
        return comics.NARRATE_FREELY, " ".join(comics.caption(row) for row in rng.permutation(content))
    return comics.NARRATE_ANY_ORDER, narrate(content, rng.permutation(n))


def scene_question(rng: np.random.Generator, slot: str, cells: np.ndarray) -> tuple[str, str]:
    """A question of the kind `slot` about a scene [rows, columns, 2], and its answer."""
    rows, columns = np.nonzero(cells[..., 0] >= 0)
    names = [describe(*cells[r, c]) for r, c in zip(rows, columns, strict=True)]
    if slot == "place":
        i = int(rng.integers(len(names)))
        return comics.ask_place(comics.place(int(rows[i]), int(columns[i]), cells.shape[:2])), names[i] + "."
    if slot == "one":
        question = comics.ONE_THING if rng.random() < 0.7 else comics.OPEN
        return question, names[favour_first(rng, len(names))] + "."
    return comics.LIST_THINGS, ", ".join(names) + "."


def strip_batch(
    rng: np.random.Generator,
    tokenizer: PreTrainedTokenizerFast,
    rows: int,
    panels: int,
    slots: tuple[str, ...],
    frame: Frame = GRID,
) -> Batch:
    """`rows` strips of as many panels, each asked `slots`: "ask", "open", "this", "in order", "any order"."""
    content = np.stack([draw_content(rng, panels) for _ in range(rows)])
    width = int(rng.choice((SIDE, SIDE, SIDE, 48))) if panels <= 6 else SIDE
    drawn = render_panels(rng, content.reshape(-1, 4), width).reshape(rows, panels, SIDE, width, 3)
    pixels = comics.paint_gaps(
        drawn.transpose(0, 2, 1, 3, 4).reshape(rows, SIDE, panels * width, 3), [width * k for k in range(1, panels)]
    )
    facts = np.full((rows, SIDE // TOKEN, panels * width // TOKEN, 6), IGNORE)
    facts[..., :4] = content.repeat(width // TOKEN, 1)[:, None]
    asked = [[strip_question(rng, slot, row) for slot in slots] for row in content]
    return pack(tokenizer, pixels, facts, asked, frame)


def scene_batch(
    rng: np.random.Generator,
    tokenizer: PreTrainedTokenizerFast,
    rows: int,
    shape: tuple[int, int],
    slots: tuple[str, ...],
    frame: Frame = GRID,
) -> Batch:
    """`rows` scenes of shape[0] x shape[1] cells, each asked `slots`: "place", "one", "list"."""
    cells = draw_cells(rng, rows, shape)
    facts = np.full((rows, shape[0] * 2, shape[1] * 2, 6), IGNORE)
    facts[..., 4:] = cells.repeat(2, 1).repeat(2, 2)
    facts[facts < 0] = IGNORE
    asked = [[scene_question(rng, slot, scene) for slot in slots] for scene in cells]
    return pack(tokenizer, render_scenes(rng, cells), facts, asked, frame)


def encode(tokenizer: PreTrainedTokenizerFast, lines: list[str]) -> list[list[int]]:
    """Token ids of many lines at once."""
    return [found.ids for found in tokenizer.backend_tokenizer.encode_batch(lines, add_special_tokens=False)]


def pack(
    tokenizer: PreTrainedTokenizerFast,
    pixels: np.ndarray,
    facts: np.ndarray,
    asked: list[list[tuple[str, str]]],
    frame: Frame,
) -> Batch:
    """Tokenise, lay the questions of each row behind its image, and say who may see whom."""
    n_rows, high, wide, _ = facts.shape
    before, image = encode(tokenizer, [frame.before, frame.image(high, wide)])
    prefix = np.array([*before, *image])
    blocks_ids, blocks_labels = [np.tile(prefix, (n_rows, 1))], [np.full((n_rows, len(prefix)), IGNORE)]
    for slot in zip(*asked, strict=True):
        ids, labels = lay(tokenizer, frame.after, list(slot))
        blocks_ids.append(ids)
        blocks_labels.append(labels)
    lengths = tuple(block.shape[1] for block in blocks_ids)
    ids = np.concatenate(blocks_ids, 1)
    return Batch(
        torch.from_numpy(pixels),
        torch.from_numpy(ids),
        torch.from_numpy(np.concatenate(blocks_labels, 1)),
        torch.from_numpy(place_positions(len(before), (high, wide) if frame.grid else (1, len(image)), lengths[1:])),
        lengths,
        (len(before), len(prefix)),
        torch.from_numpy(ids[0] == tokenizer.convert_tokens_to_ids(frame.token)),
        torch.from_numpy(facts.reshape(n_rows, high * wide, -1)),
    )


def lay(tokenizer: PreTrainedTokenizerFast, after: str, asked: list[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
    """Ids and labels [row, length] of one question and answer per row, padded at the right."""
    questions = encode(tokenizer, [f"{after}{q}{BETWEEN}" for q, _ in asked])
    answers = encode(tokenizer, [a + END for _, a in asked])
    length = max(len(q) + len(a) for q, a in zip(questions, answers, strict=True))
    ids = np.full((len(asked), length), tokenizer.pad_token_id)
    labels = np.full((len(asked), length), IGNORE)
    for row, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        end = len(question) + len(answer)
        ids[row, :end] = question + answer
        labels[row, len(question) - 1 : end - 1] = answer  # at the position that has to predict it
    return ids, labels


def place_positions(before: int, grid: tuple[int, int], lengths: Sequence[int]) -> np.ndarray:
    """M-RoPE positions [3, sequence]: text counts on, the image spreads over its grid, questions all start alike.

    An image of one row counts on like text along the last axis.
    """
    text = np.tile(np.arange(before), (3, 1))
    row, column = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    image = before + np.stack([np.zeros_like(row), row, column])
    start = before + max(grid)
    return np.concatenate([text, image, *[np.tile(start + np.arange(n), (3, 1)) for n in lengths]], 1)
