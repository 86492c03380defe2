"""Training batches: pictures drawn at random, and several questions about each packed after one shared image.

    batch = strip_batch(rng, processor.tokenizer, rows=24, panels=6, slots=("ask", "ask", "open", "this"))

A sequence is the beginning of the prompt with the image, then blocks of a question and its answer, one after another.
Each block attends to the beginning and to itself only (`lengths`), and its positions count from the end of the image
(`positions`), as if it were the only one. So the image is run once for many questions. Shorter blocks are padded on the
right, where causal attention keeps every real token from attending to the padding.
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
# The probability that the answer to the open question is about the first panel; else it is about any, also the first.
FIRST = {"open": 0.6, "open wide": 0.4}


@dataclass(frozen=True)
class Frame:
    """The text that an architecture puts around its image tokens, and how it numbers positions.

    before, after: the prompt up to the image, and the text between image and question.
    row_end, image_end: the token after each row of image tokens except the last, and after the last row.
    grid: whether image tokens have positions by row and column (M-RoPE); else they are numbered like text.
    """

    before: str = "<|im_start|>user\n<|vision_start|>"
    token: str = "<|image_pad|>"
    after: str = "<|vision_end|>"
    row_end: str = ""
    image_end: str = ""
    grid: bool = True

    def image(self, high: int, wide: int) -> str:
        """The text of an image of high x wide tokens."""
        return (self.row_end).join([self.token * wide] * high) + self.image_end


GRID = Frame()  # Qwen3-VL's


@dataclass(frozen=True)
class Batch:
    """One micro-batch: everything that a training step needs.

    pixels: [row, height, width, 3] uint8.
    ids, labels: [row, sequence]; labels are -100 where nothing is predicted.
    positions: [3, sequence], the M-RoPE positions (time, height, width), the same in all rows.
    lengths: of the shared beginning and of each block of a question and its answer; their sum is the sequence's length.
    image: first and one past the last position of the image.
    image_mask: [sequence], True for image tokens. Between them there can be tokens that end a row.
    facts: [row, image token, 6], what the classifiers predict: upper colour, upper shape, lower colour, lower shape
        (strips); colour, shape (scenes); -100 where there is none.
    """

    pixels: UInt8[Tensor, "row height width 3"]
    ids: Int[Tensor, "row sequence"]
    labels: Int[Tensor, "row sequence"]
    positions: Int[Tensor, "3 sequence"]
    lengths: tuple[int, ...]
    image: tuple[int, int]
    image_mask: Bool[Tensor, " sequence"]
    facts: Int[Tensor, "row token 6"]

    def to(self, device: str) -> "Batch":
        """The same batch on another device."""
        moved = {field.name: getattr(self, field.name) for field in fields(self)}
        return Batch(**{name: x.to(device) if isinstance(x, Tensor) else x for name, x in moved.items()})


def narrate(content: np.ndarray, order: np.ndarray) -> str:
    """The captions of the panels in this order, each after its marker."""
    return " ".join(f"Panel {i + 1}: {comics.caption(content[i])}" for i in order)


def first_or_any(rng: np.random.Generator, n: int, p_first: float = 0.6) -> int:
    """0 with probability `p_first`, else a random number below n."""
    return 0 if rng.random() < p_first else int(rng.integers(n))


def strip_question(rng: np.random.Generator, slot: str, content: np.ndarray) -> tuple[str, str]:
    """A question of the kind `slot` about a strip with these panels, and its answer.

    slot: "ask", "open", "open wide", "this", "in order", "freely" or "any order".
    """
    n = len(content)
    if slot == "ask":
        i = int(rng.integers(n))
        question = comics.ask(i) if rng.random() < 0.85 else f"Describe the {comics.ORDINALS[i]} panel."
        return question, comics.caption(content[i])
    if slot in FIRST:
        return comics.OPEN, comics.caption(content[first_or_any(rng, n, FIRST[slot])])
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
        return question, names[first_or_any(rng, len(names))] + "."
    return comics.LIST_THINGS, ", ".join(names) + "."


def strip_batch(
    rng: np.random.Generator,
    tokenizer: PreTrainedTokenizerFast,
    rows: int,
    panels: int,
    slots: tuple[str, ...],
    frame: Frame = GRID,
) -> Batch:
    """`rows` strips of `panels` panels. slots: the kinds of question about each, see `strip_question`."""
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
    """`rows` scenes of shape[0] x shape[1] cells. slots: the kinds of question about each: "place", "one", "list"."""
    cells = draw_cells(rng, rows, shape)
    facts = np.full((rows, shape[0] * 2, shape[1] * 2, 6), IGNORE)
    facts[..., 4:] = cells.repeat(2, 1).repeat(2, 2)
    facts[facts < 0] = IGNORE
    asked = [[scene_question(rng, slot, scene) for slot in slots] for scene in cells]
    return pack(tokenizer, render_scenes(rng, cells), facts, asked, frame)


def encode(tokenizer: PreTrainedTokenizerFast, lines: list[str]) -> list[list[int]]:
    """Token ids of many lines at once."""
    return [encoding.ids for encoding in tokenizer.backend_tokenizer.encode_batch(lines, add_special_tokens=False)]


def pack(
    tokenizer: PreTrainedTokenizerFast,
    pixels: np.ndarray,
    facts: np.ndarray,
    asked: list[list[tuple[str, str]]],
    frame: Frame,
) -> Batch:
    """Tokenize, and put the blocks of questions and answers of each row after its image.

    asked: for each row its (question, answer) pairs, as many in each row.
    """
    n_rows, high, wide, _ = facts.shape
    before, image = encode(tokenizer, [frame.before, frame.image(high, wide)])
    prefix = np.array([*before, *image])
    block_ids, block_labels = [np.tile(prefix, (n_rows, 1))], [np.full((n_rows, len(prefix)), IGNORE)]
    for pairs in zip(*asked, strict=True):
        ids, labels = question_block(tokenizer, frame.after, list(pairs))
        block_ids.append(ids)
        block_labels.append(labels)
    lengths = tuple(block.shape[1] for block in block_ids)
    ids = np.concatenate(block_ids, 1)
    return Batch(
        torch.from_numpy(pixels),
        torch.from_numpy(ids),
        torch.from_numpy(np.concatenate(block_labels, 1)),
        torch.from_numpy(mrope_positions(len(before), (high, wide) if frame.grid else (1, len(image)), lengths[1:])),
        lengths,
        (len(before), len(prefix)),
        torch.from_numpy(ids[0] == tokenizer.convert_tokens_to_ids(frame.token)),
        torch.from_numpy(facts.reshape(n_rows, high * wide, -1)),
    )


def question_block(
    tokenizer: PreTrainedTokenizerFast, after: str, pairs: list[tuple[str, str]]
) -> tuple[np.ndarray, np.ndarray]:
    """Ids and labels [row, length] of one (question, answer) per row, padded on the right. after: text before it."""
    questions = encode(tokenizer, [f"{after}{q}{BETWEEN}" for q, _ in pairs])
    answers = encode(tokenizer, [a + END for _, a in pairs])
    length = max(len(q) + len(a) for q, a in zip(questions, answers, strict=True))
    ids = np.full((len(pairs), length), tokenizer.pad_token_id)
    labels = np.full((len(pairs), length), IGNORE)
    for row, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        end = len(question) + len(answer)
        ids[row, :end] = question + answer
        labels[row, len(question) - 1 : end - 1] = answer  # each label at the position before its token
    return ids, labels


def mrope_positions(before: int, grid: tuple[int, int], lengths: Sequence[int]) -> np.ndarray:
    """M-RoPE positions [3, sequence] of the text before the image, the image's grid, and blocks of these lengths.

    All blocks start at the same position, after the image. An image of one row is numbered like text in the last axis.
    """
    text = np.tile(np.arange(before), (3, 1))
    row, column = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    image = before + np.stack([np.zeros_like(row), row, column])
    start = before + max(grid)
    return np.concatenate([text, image, *[np.tile(start + np.arange(n), (3, 1)) for n in lengths]], 1)
