"""Whole attention patterns in CircuitsVis, made small: text tokens, and image tokens pooled by region.

view = gl.show.circuitsvis(model, inputs, heads)
view                                            # in Jupyter: hover over a head, hover over a cell
view.save("heads.html")                         # one file, which loads nothing from anywhere
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gaze_lens.attention.positions import Positions
from gaze_lens.attention.region_reader import RegionReader, sum_groups
from gaze_lens.errors import InputError
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.model_protocol import Model
from gaze_lens.runs.files import write_whole
from gaze_lens.show.pages.templates import render
from gaze_lens.show.pooled_tokens import Token, tokens_of

CHUNK = 256  # query rows read at a time
MAX_CELLS = 100_000  # of all heads together: each is an object in the browser
BLANK = "\u2800"  # looks like a space: CircuitsVis removes white space from the labels of its axes


@dataclass(frozen=True, eq=False, repr=False)
class CircuitsView:
    """A CircuitsVis view that shows itself in Jupyter and can be saved; its JavaScript is inside.

    data: "attention" [head, token, token], mass, 0-1; "heads"; "tokens", labels along both axes.
    text: the same as text.
    """

    data: Mapping[str, Any]
    text: str

    def to_html(self) -> str:
        """`view.to_html()`: a part of a page. Tokens go in as data, so nothing that is in them becomes HTML."""
        return render("circuits_view.html", **self._content())

    def save(self, path: str | os.PathLike[str]) -> None:
        """`view.save("heads.html")`: one file that loads nothing; complete or not there at all.

        Raises InputError for another suffix.
        """
        if Path(path).suffix.lower() != ".html":
            raise InputError(f"{path} cannot be written: expected a name that ends in .html.")
        write_whole(path, render("circuits.html", **self._content()).encode())

    def _content(self) -> dict[str, Any]:
        """What the templates are filled with."""
        attention, lines = self.data["attention"], self.text.splitlines()
        props = {
            "attention": attention.astype(float).round(4).tolist(),
            "attentionHeadNames": list(self.data["heads"]),
            "tokens": [label.replace(" ", BLANK) for label in self.data["tokens"]],
            "maxValue": round(float(attention.max()), 4) or 1.0,
            "maskUpperTri": False,  # image tokens lie row by row: a region also attends to some after it
        }
        name = f"circuits-{uuid4().hex}"
        return {"title": lines[0], "legend": "; ".join(lines[1:4]), "name": name, "props": props, "source": _source()}

    def _repr_html_(self) -> str:
        return self.to_html()

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"CircuitsView of {len(self.data['heads'])} heads x {len(self.data['tokens'])} tokens"


def circuitsvis(
    model: Model,
    inputs: VLMInputs,
    heads: Any,
    *,
    regions: Sequence[Any] | None = None,
    positions: Sequence[int] | None = None,
    row: int = 0,
    fwd_hooks: Sequence[tuple[Any, Any]] = (),
) -> CircuitsView:
    """`gl.show.circuitsvis(model, inputs, heads)`: which token attends to which, with one token for every region.

    heads: a HeadSet, or what makes one. regions: what image tokens are pooled by: names, boxes or points in original
        pixels, shapes, or `Region`s of these inputs; all named regions by default, or each whole image. Image tokens
        in no region are pooled as the rest of their image.
    positions: columns of the text tokens to show, negative from the end, such as range(-8, 0); all by default.
    row: of the batch. fwd_hooks: run under these, a steering for example.
    Attention to a region is the sum over its tokens, attention from it the mean over them. So a row adds up to 1 where
    all text is shown and no token lies in two regions. Patterns are pooled inside the hook; none is stored.
    Raises HeadError for no heads and for heads outside the model, InputError for positions that are no text, and for
    more than 100,000 cells, RegionError for regions without tokens.
    """
    heads = HeadSet.of(heads, model)
    tokens = tokens_of(inputs, regions, positions, row)
    cells = len(heads) * len(tokens) ** 2
    if cells > MAX_CELLS:
        raise InputError(
            f"{len(heads)} heads of {len(tokens)} x {len(tokens)} tokens are {cells} cells: expected at most "
            f"{MAX_CELLS}, which a browser can draw. Crop the text with positions=range(-20, 0), or show fewer heads."
        )
    values = _pooled(model, inputs, heads, tokens, row=row, fwd_hooks=fwd_hooks).numpy()
    labels = tuple(token.label for token in tokens)
    names = tuple(map(str, heads))
    return CircuitsView({"attention": values, "heads": names, "tokens": labels}, _words(values, names, labels))


@torch.no_grad()
def _pooled(
    model: Model,
    inputs: VLMInputs,
    heads: HeadSet,
    tokens: Sequence[Token],
    *,
    row: int,
    fwd_hooks: Sequence[tuple[Any, Any]],
) -> Float[Tensor, "head token token"]:
    keys, cross_attention, membership = _keys(tokens, inputs.layout.cross_attention)
    reader = RegionReader(heads, keys, cross_attention, sum_groups(membership), row=row)
    queries = sorted({position for token in tokens for position in token.queries})
    chunks = [queries[start : start + CHUNK] for start in range(0, len(queries), CHUNK)]
    hooks = [hook for chunk in chunks for hook in reader.hooks(Positions.of(chunk))]
    # Later layers of some models compute only the queries whose logits are requested.
    keep = inputs.layout.length - queries[0]
    model.run_with_hooks(inputs, fwd_hooks=[*fwd_hooks, *hooks], return_type=None, logits_to_keep=keep, use_cache=False)
    (masses,) = reader.values(queries)
    return torch.stack([_share(token.queries, queries) for token in tokens]) @ masses


def _keys(
    tokens: Sequence[Token], cross_attention: bool
) -> tuple[Int[Tensor, " key"], Bool[Tensor, " key"], Float[Tensor, "key token"]]:
    """The keys of all tokens, which of them cross-attention layers have, and which key belongs to which token."""
    pairs = [(key, index) for index, token in enumerate(tokens) for key in token.keys]
    keys, indices = torch.tensor(pairs).T
    pooled = torch.tensor([token.pooled for token in tokens])
    return keys, pooled[indices] & cross_attention, torch.eye(len(tokens))[indices]


def _share(queries: Sequence[int], positions: list[int]) -> Float[Tensor, " position"]:
    """What each of some positions adds to the mean over a token's queries."""
    return torch.isin(torch.tensor(positions), torch.tensor(queries, dtype=torch.long)) / max(1, len(queries))


def _words(values: Float[np.ndarray, "head token token"], heads: Sequence[str], labels: Sequence[str]) -> str:
    n_heads = f"{len(heads)} heads" if len(heads) > 1 else heads[0]
    lines = [f"Attention of {n_heads} between {len(labels)} tokens"]
    lines += ["rows look (destination), columns are looked at (source)"]
    lines += ["a region is summed over its image tokens as a column, averaged over them as a row"]
    lines += [f"white is 0, blue {values.max():.2f} of a row's attention; (n) counts the tokens shown"]
    return "\n".join([*lines, *_strongest(values, heads, labels)])


def _strongest(
    values: Float[np.ndarray, "head token token"], heads: Sequence[str], labels: Sequence[str]
) -> Iterator[str]:
    """The three tokens that the last token attends to most, head by head."""
    for head, pattern in zip(heads, values, strict=True):
        best = pattern[-1].argsort()[::-1][:3]
        yield f"{head:>8}  {labels[-1]!r} looks at " + ", ".join(f"{labels[i]!r} {pattern[-1, i]:.2f}" for i in best)


@cache
def _source() -> str:
    """The JavaScript of the installed CircuitsVis, whose own Python would load it from the internet."""
    file = files("circuitsvis") / "dist" / "cdn" / "iife.js"
    if not file.is_file():
        raise InputError(
            f"The installed CircuitsVis {version('circuitsvis')} has no dist/cdn/iife.js, without which its views need "
            "the internet: expected CircuitsVis 1.43 or later. Run pip install 'circuitsvis>=1.43'."
        )
    source = file.read_text(encoding="utf-8").replace("</script", "<\\/script")
    return "\n".join(line for line in source.splitlines() if not line.startswith("//# sourceMappingURL"))
