"""Files of the paper's authors' scripts: what their discovery writes, and their steering reads.

gaze_head_ranking.json     a list, best first, of {"layer":, "head":, "score":}
gaze_scores.npy            [layer, head], float32
mean_panel_attention.npy   [asked, layer, head, attended], float32: the mean over strips
"""

import io
import os
from pathlib import Path

import numpy as np
from jaxtyping import Float

from gaze_lens.errors import HeadError
from gaze_lens.runs.files import write_whole

SCORES, ATTENTION, RANKING = "gaze_scores.npy", "mean_panel_attention.npy", "gaze_head_ranking.json"
EXPECTED = f"{SCORES}, [layer, head], or {ATTENTION}, [asked, layer, head, attended], of finite numbers"


def write_array(path: str | os.PathLike[str], values: Float[np.ndarray, "..."]) -> None:
    """Write numbers as float32; the file is complete or not there at all."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(values, dtype=np.float32))
    write_whole(path, buffer.getvalue())


def read_array(path: str | os.PathLike[str], ndim: int) -> Float[np.ndarray, "..."]:
    """The numbers of a file. Raises HeadError where it cannot be read, or has another number of dimensions."""
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise HeadError(f"{path} cannot be read ({error}); expected {EXPECTED}.") from error
    is_array = isinstance(values, np.ndarray) and values.dtype.kind == "f" and values.size > 0
    if not is_array or values.ndim != ndim or not np.isfinite(values).all():
        what = f"{values.dtype} of shape {values.shape}" if isinstance(values, np.ndarray) else "several arrays"
        raise HeadError(f"{path} holds {what}; expected {EXPECTED}, here with {ndim} dimensions.")
    return values


def read_mean_attention(path: str | os.PathLike[str]) -> Float[np.ndarray, "layer head asked attended"]:
    """The mean matrix of each head. Raises HeadError where the gaze scores beside it, if any, are not its own."""
    matrix = read_array(path, 4).transpose(1, 2, 0, 3)
    if matrix.shape[2] != matrix.shape[3]:
        raise HeadError(f"{path} has {matrix.shape[2]} questions and {matrix.shape[3]} panels; expected {EXPECTED}.")
    beside = Path(path).with_name(SCORES)
    if beside.exists():
        scores, expected = read_array(beside, 2), matrix.diagonal(axis1=2, axis2=3).mean(-1)
        if scores.shape != expected.shape or np.abs(scores - expected).max() > 1e-4:
            raise HeadError(f"{beside} are not the gaze scores of {path}: expected the files of one run of discovery.")
    return matrix


def ranking_in(path: str | os.PathLike[str]) -> list[tuple[int, int]]:
    """All heads, (layer, head), by the gaze score in a file of either kind, best first; ties by layer and head."""
    if Path(path).name == ATTENTION:
        scores = read_mean_attention(path).diagonal(axis1=2, axis2=3).mean(-1)
    else:
        scores = read_array(path, 2)
    order = np.argsort(-scores, axis=None, kind="stable")
    return [(int(index) // scores.shape[1], int(index) % scores.shape[1]) for index in order]
