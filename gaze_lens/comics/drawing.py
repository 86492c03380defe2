"""Coloured shapes on a light ground, drawn with numpy: what the synthetic comics and scenes are made of.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> content = draw_content(rng, 6)             # [6, 4]: upper colour, upper shape, lower colour, lower shape
    >>> render_panels(rng, content, width=32).shape
    (6, 32, 32, 3)

Pixels are uint8 RGB, x right, y down. All functions depend only on their arguments, the random generator among them.
"""

from functools import cache
from typing import SupportsIndex

import numpy as np
from jaxtyping import Float, Int, UInt8

PALETTE = {
    "red": (214, 38, 38),
    "orange": (255, 140, 10),
    "yellow": (236, 208, 10),
    "green": (30, 150, 60),
    "blue": (30, 90, 222),
    "purple": (135, 48, 175),
    "pink": (246, 135, 195),
    "black": (24, 24, 24),
}
COLOURS = tuple(PALETTE)
SHAPES = ("circle", "square", "triangle", "cross", "ring", "bar", "star", "moon")
SIDE = 32  # pixels: the height of a panel, and the side of a scene's cell
SMALL = (12, 13, 14)  # pixels: sides of a shape in a panel, where two share the height
LARGE = (20, 22, 24, 26)  # pixels: sides of a shape in a scene, where one has a cell to itself


def describe(colour: SupportsIndex, shape: SupportsIndex) -> str:
    """`describe(0, 4)` is "red ring"."""
    return f"{COLOURS[colour]} {SHAPES[shape]}"


def inside(shape: str, u: Float[np.ndarray, "*grid"], v: Float[np.ndarray, "*grid"]) -> np.ndarray:
    """Which points (u right, v down, both in -1..1) lie inside the named shape; boolean, of the same shape as `u`."""
    radius = np.hypot(u, v)
    turn = 2 * np.pi / 5
    angle = np.abs((np.arctan2(u, -v) + turn / 2) % turn - turn / 2)  # from the nearest tip of a five-pointed star
    tips = np.sin(0.33) / np.sin(np.clip(angle, 0, turn / 2) + 0.33)
    return {
        "circle": radius <= 1,
        "square": np.maximum(np.abs(u), np.abs(v)) <= 0.9,
        "triangle": (np.abs(u) <= (v + 1) / 2) & (v <= 0.9),
        "cross": (np.abs(u) <= 0.32) | (np.abs(v) <= 0.32),
        "ring": (radius <= 1) & (radius >= 0.58),
        "bar": np.abs(v) <= 0.36,
        "star": radius <= tips,
        "moon": (radius <= 1) & (np.hypot(u - 0.5, v) >= 0.8),
    }[shape]


@cache
def coverage(sizes: tuple[int, ...]) -> Float[np.ndarray, "shape size y x"]:
    """The covered part (0-1) of each pixel, for every shape and size, centred in a square of the largest size."""
    side, fine = max(sizes), 6
    bank = np.zeros((len(SHAPES), len(sizes), side, side), np.float32)
    for j, size in enumerate(sizes):
        line = (np.arange(size * fine) + 0.5) / (size * fine) * 2 - 1
        u, v = np.meshgrid(line, line)
        start = (side - size) // 2
        for i, shape in enumerate(SHAPES):
            cells = inside(shape, u, v).reshape(size, fine, size, fine).mean((1, 3))
            bank[i, j, start : start + size, start : start + size] = cells
    bank.setflags(write=False)
    return bank


def paint(
    canvas: Float[np.ndarray, "n height width 3"],
    rows: Int[np.ndarray, " m"],
    colour: Float[np.ndarray, "m 3"],
    alpha: Float[np.ndarray, "m side side"],
    corner: Int[np.ndarray, "m 2"],
) -> None:
    """Paint m shapes onto the canvases `rows`, in place; `corner` is (y, x) of each shape's upper left pixel."""
    reach = np.arange(alpha.shape[-1])
    index = (rows[:, None, None], corner[:, 0, None, None] + reach[:, None], corner[:, 1, None, None] + reach)
    weight = alpha[..., None]
    canvas[index] = canvas[index] * (1 - weight) + colour[:, None, None] * weight


def tint(rng: np.random.Generator, colours: Int[np.ndarray, " m"]) -> Float[np.ndarray, "m 3"]:
    """The colours' RGB, each channel changed by up to 12 of 255, so that no exact pixel value identifies a colour."""
    base = np.array(list(PALETTE.values()), np.float32)[colours]
    return np.clip(base + rng.uniform(-12, 12, base.shape), 0, 255).astype(np.float32)


def ground(rng: np.random.Generator, n: int, height: int, width: int) -> Float[np.ndarray, "n height width 3"]:
    """n light canvases, each of one tone with faint noise."""
    tone = rng.uniform(218, 250, (n, 1, 1, 3)) + rng.normal(0, 1.5, (n, height, width, 1))
    return tone.astype(np.float32)


def draw_content(rng: np.random.Generator, n: int) -> Int[np.ndarray, "n 4"]:
    """n different panel contents: upper colour, upper shape, lower colour, lower shape, as indices."""
    codes = rng.choice(len(COLOURS) ** 2 * len(SHAPES) ** 2, n, replace=False)
    return np.stack(np.unravel_index(codes, (len(COLOURS), len(SHAPES)) * 2), 1)


def draw_cells(rng: np.random.Generator, rows: int, shape: tuple[int, int]) -> Int[np.ndarray, "scene rows columns 2"]:
    """Scenes' content [rows, *shape, 2]: colour and shape of each cell, -1 where it is empty; all different."""
    cells = np.full((rows, shape[0] * shape[1], 2), -1)
    for scene in cells:
        count = int(rng.integers(2, min(7, len(scene)) + 1))
        index = np.sort(rng.choice(len(scene), count, replace=False))
        scene[index] = np.stack(np.divmod(rng.choice(64, count, replace=False), 8), 1)
    return cells.reshape(rows, *shape, 2)


def render_panels(
    rng: np.random.Generator, content: Int[np.ndarray, "n 4"], width: int = SIDE
) -> UInt8[np.ndarray, "n height width 3"]:
    """n panels of 32 x `width` pixels, each with one shape above another, placed near the middle."""
    n, bank = len(content), coverage(SMALL)
    canvas, side = ground(rng, n, SIDE, width), bank.shape[-1]
    for slot in range(2):
        alpha = bank[content[:, 2 * slot + 1], rng.integers(len(SMALL), size=n)]
        y = slot * SIDE // 2 + 1 + rng.integers(-1, 2, size=n)
        x = (width - side) // 2 + rng.integers(-5, 6, size=n)
        paint(canvas, np.arange(n), tint(rng, content[:, 2 * slot]), alpha, np.stack([y, x], 1))
    return np.clip(canvas, 0, 255).astype(np.uint8)


def render_scenes(
    rng: np.random.Generator, content: Int[np.ndarray, "n rows columns 2"]
) -> UInt8[np.ndarray, "n height width 3"]:
    """n pictures of rows x columns cells of 32 pixels; a cell holds (colour, shape), or nothing where colour is -1."""
    n, rows, columns, _ = content.shape
    bank = coverage(LARGE)
    canvas, side = ground(rng, n, rows * SIDE, columns * SIDE), bank.shape[-1]
    picture, row, column = np.nonzero(content[..., 0] >= 0)
    colour, shape = content[picture, row, column].T
    alpha = bank[shape, rng.integers(len(LARGE), size=len(shape))]
    corner = np.stack([row, column], 1) * SIDE + (SIDE - side) // 2 + rng.integers(-3, 4, size=(len(shape), 2))
    paint(canvas, picture, tint(rng, colour), alpha, corner)
    return np.clip(canvas, 0, 255).astype(np.uint8)
