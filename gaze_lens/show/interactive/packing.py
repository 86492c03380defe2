"""Attention as bytes for the viewer's JavaScript, which is `unpack` and `unpackRows` there.

arrays = packed(recording, regions, header)
text = packed_rows(recording.attention().mean(0))
"""

import base64
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from gaze_lens.show.interactive.recording import LEVELS, Recording

MAX_BYTES = 5_700_000  # of compressed levels, about: a page has a third more, as text
COARSER = (36, 24, 18, 12, 9, 8, 6, 5)  # levels of single heads where there are too many values
HALF = 15  # up to so many levels, two are in a byte
FINE, MEAN = 65535, 4095  # levels of numbers about heads, and of the mean over heads


def levels_for(recording: Recording) -> int:
    """In how many levels single heads are packed: fewer in a large recording, so that it stays a small file."""
    counts = np.bincount(recording.levels.ravel(), minlength=LEVELS + 1)
    for levels in (LEVELS, *COARSER):
        merged = np.bincount(_coarser(np.arange(LEVELS + 1), levels), weights=counts, minlength=levels + 1)
        shares = merged[merged > 0] / max(1, counts.sum())
        if -(shares * np.log2(shares)).sum() * counts.sum() / 8 <= MAX_BYTES:
            break
    return levels


def packed(recording: Recording, regions: Sequence[Sequence[int]], levels: int) -> bytes:
    """Scales, norms (if there are any), attention to regions (if levels are few), and levels, compressed.

    regions: the indices of their keys. levels: as `levels_for` says.
    """
    quantised = _coarser(recording.levels, levels)
    squares = np.square(quantised, dtype=np.uint16).sum(-1, dtype=np.int64)
    sums = recording.scales * np.square(recording.levels, dtype=np.uint16).sum(-1, dtype=np.int64)
    parts = [(sums / squares.clip(1)).astype("<f4")]
    if recording.norms is not None:
        most = recording.norms.max(-1, initial=1e-30)
        parts += [most.astype("<f4") / FINE, (FINE * recording.norms / most[:, None]).round().astype("<u2")]
    if levels > HALF:
        return _compressed([*parts, quantised])
    shares = np.stack([_on(recording, keys) for keys in regions], -1) if regions else np.zeros(0)
    return _compressed([*parts, (FINE * shares.clip(0, 1)).round().astype("<u2"), _halves(quantised)])


def packed_rows(rows: Float[np.ndarray, "word key"]) -> str:
    """The scale of each row, then its values as levels whose squares they scale; compressed, as text."""
    top = rows.max(-1, keepdims=True) if rows.shape[-1] else np.zeros((len(rows), 1))
    levels = (MEAN * np.sqrt(rows / np.maximum(top, 1e-30))).round().astype("<u2")
    scales = (top[:, 0] / MEAN**2).astype("<f4")
    return base64.b64encode(_compressed([scales, levels])).decode()


def _on(recording: Recording, keys: Sequence[int]) -> Float[np.ndarray, "head word"]:
    """Attention to some keys."""
    levels = recording.levels[..., list(keys)]
    return recording.scales * np.square(levels, dtype=np.uint16).sum(-1, dtype=np.int64)


def _coarser(values: np.ndarray, levels: int) -> np.ndarray:
    """The nearest of fewer levels."""
    table = ((2 * np.arange(LEVELS + 1) * levels + LEVELS) // (2 * LEVELS)).astype(np.uint8)
    return table[values]


def _halves(values: UInt8[np.ndarray, "head word key"]) -> UInt8[np.ndarray, " byte"]:
    """Two values in a byte, the first in the upper half."""
    flat = values.ravel()
    flat = np.append(flat, np.zeros(len(flat) % 2, np.uint8))
    return flat[::2] * 16 + flat[1::2]


def _compressed(parts: Sequence[np.ndarray]) -> bytes:
    """Of many values, the shorter of Huffman codes with and without runs: what else is tried takes long."""
    data = b"".join(part.tobytes() for part in parts)
    if len(data) < 4_000_000:
        return zlib.compress(data, 6)
    ways = (zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS, 9, way) for way in (zlib.Z_RLE, zlib.Z_HUFFMAN_ONLY))
    return min((way.compress(data) + way.flush() for way in ways), key=len)
