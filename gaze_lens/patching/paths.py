"""Path patching: the direct effect of heads on later heads, with everything between them as in the corrupted run.

    result = gl.path_patch(model, clean, corrupted, None, gaze_heads, into="q", positions="last", metric=metric)
    hooks = gl.path_hooks(model, clean, corrupted, ["L1H5"], gaze_heads, into="q", positions="last")

Wang et al. 2022, "Interpretability in the Wild". A sender adds something else to the residual stream in the clean run
than in the corrupted run. Patching a path adds this difference to the stream of the corrupted run, for the receiver
alone: its queries, keys or values are computed from that stream by its own norm and projection, and all that lies
between sender and receiver stays as it was. So two runs are enough. The modules are those of the model, so that norms
of attention's output, biases, and gates among the queries are included.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gaze_lens.errors import InputError
from gaze_lens.heads.head_set import Head, HeadSet
from gaze_lens.inputs.alignment import check_aligned
from gaze_lens.inputs.position_groups import Group, group
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.interventions.edits import Hooks, position_mask
from gaze_lens.model_protocol import Model
from gaze_lens.patching.sites import SITES, check_layer, layers_with

LOGITS = "logits"
Stream = Float[Tensor, "batch pos d_model"]


@dataclass(frozen=True, eq=False)
class Reader:
    """Where paths end: the queries ("q"), keys ("k") or values ("v") of heads of one layer, or the final stream.

    letter: "q", "k" or "v"; "" for the final stream, whose layer is the number of layers.
    heads: query heads for "q", KV heads for "k" and "v". n_heads: how many of these the layer has.
    """

    layer: int
    letter: str = ""
    heads: tuple[int, ...] = ()
    n_heads: int = 0

    def __str__(self) -> str:
        heads = ", ".join(str(Head(self.layer, head)) for head in self.heads)
        return f"{self.letter} of {'' if self.letter == 'q' else 'KV heads '}{heads}" if self.letter else LOGITS

    @property
    def hook_name(self) -> str:
        """The hook point that is patched."""
        point = f"{self.layer}.attn.hook_{self.letter}" if self.letter else f"{self.layer - 1}.hook_resid_post"
        return f"blocks.{point}"

    @property
    def stream_name(self) -> str:
        """The hook point of the residual stream that the reader reads."""
        return f"blocks.{self.layer}.hook_resid_pre" if self.letter else self.hook_name

    def read(self, model: Model, stream: Stream) -> Tensor:
        """The reader's queries, keys or values of a residual stream: `[batch, pos, head, d_head]`.

        The final stream is returned as it is.
        """
        if not self.letter:
            return stream
        block = model.blocks[self.layer]
        projected = getattr(block.attn, self.letter).original_component(block.ln1.original_component(stream))
        return self.of(projected)

    def of(self, projected: Tensor) -> Float[Tensor, "batch pos head d_head"]:
        """Of all queries, keys or values of the layer, those of the reader's heads; a gate follows its head's query."""
        return projected.flatten(2).unflatten(-1, (self.n_heads, -1))[:, :, list(self.heads)]


@dataclass(frozen=True, eq=False)
class Paths:
    """The activations of two runs where paths begin and end.

    clean, corrupted: layer -> `hook_z`, for each layer that has a sender.
    streams: layer -> the residual stream of the corrupted run before it, for each layer that has a receiver; the final
        stream is under the number of layers.
    """

    model: Model
    readers: tuple[Reader, ...]
    clean: dict[int, Float[Tensor, "batch pos head d_head"]]
    corrupted: dict[int, Float[Tensor, "batch pos head d_head"]]
    streams: dict[int, Stream]

    def __str__(self) -> str:
        return f"paths into {', '.join(map(str, self.readers))}"

    def added(self, layer: int, heads: Sequence[int], where: Group) -> Stream:
        """What heads of a layer add to the stream in the clean run, minus what they add in the corrupted one."""
        z = self.corrupted[layer]
        mask = position_mask(where, z)
        if mask is None:
            raise InputError(f"A run of one position has no {where}; paths are patched in whole prompts.")
        patched = z.clone()
        for head in heads:
            patched[:, :, head] = torch.where(mask[..., None], self.clean[layer][:, :, head], z[:, :, head])
        return written(self.model, layer, patched) - written(self.model, layer, z)

    def value(self, reader: Reader, senders: HeadSet, where: Group) -> Tensor:
        """The reader's values with the paths into it patched: `[batch, pos, head, d_head]`, or the final stream."""
        below = [(layer, heads) for layer, heads in senders.by_layer().items() if layer < reader.layer]
        stream = sum((self.added(layer, heads, where) for layer, heads in below), start=self.streams[reader.layer])
        return reader.read(self.model, stream)

    def hooks(self, cells: Sequence[tuple[HeadSet, Group]]) -> Hooks:
        """Hooks for one forward with a copy of every row for each cell, which is its senders and their positions."""
        hooks: Hooks = []
        for reader in self.readers:
            values = [self.value(reader, senders, where) for senders, where in cells]
            replace = partial(_replace, reader=reader, values=torch.stack(values, dim=1).flatten(0, 1))
            hooks.append((reader.hook_name, replace))
        return hooks


def written(model: Model, layer: int, z: Float[Tensor, "batch pos head d_head"]) -> Stream:
    """What the attention of a layer adds to the residual stream, from the outputs `z` of its heads."""
    block = model.blocks[layer]
    out = block.attn.o.original_component(z.flatten(-2))
    return block.ln1_post.original_component(out) if "ln1_post" in block._modules else out


def _replace(activation: Tensor, hook: Any, *, reader: Reader, values: Tensor) -> Tensor:
    """The hook function: `values` in place of the reader's own."""
    if activation.shape[:2] != values.shape[:2]:
        raise InputError(
            f"Paths were patched for {values.shape[0]} rows x {values.shape[1]} positions, and {hook.name} has "
            f"{activation.shape[0]} x {activation.shape[1]}. Run the corrupted inputs that the hooks were made for, in "
            "one forward."
        )
    if not reader.letter:
        return values
    edited = activation.flatten(2).unflatten(-1, (reader.n_heads, -1)).clone()
    edited[:, :, list(reader.heads)] = values
    return edited.view_as(activation)


def readers_of(model: Model, receivers: HeadSet | Sequence[Any] | str, into: str | Sequence[str]) -> tuple[Reader, ...]:
    """The readers of receivers: of `LOGITS`, or of heads, whose queries, keys or values `into` names.

    Query heads that share a KV head share its keys and values. Where only some of them are receivers, a warning names
    the others, which are patched with them.
    """
    if isinstance(receivers, str):
        if receivers != LOGITS:
            raise InputError(f"receivers={receivers!r} was given; expected heads, or {LOGITS!r} for the final stream.")
        return (Reader(model.cfg.n_layers),)
    if not into or set(into) - set("qkv"):
        raise InputError(f"into={into!r} was given; expected 'q', 'k', 'v' or several of them, such as 'kv'.")
    by_layer = HeadSet.of(receivers, model).by_layer()
    return tuple(_reader(model, layer, letter, heads) for layer, heads in by_layer.items() for letter in into)


def _reader(model: Model, layer: int, letter: str, heads: tuple[int, ...]) -> Reader:
    check_layer(model, SITES[letter], layer)
    if SITES[letter].cross_attention_in(model, layer):
        raise InputError(
            f"Layer {layer} is cross-attention: its keys and values read the image, not the residual stream; no path "
            "from a head leads there. Patch into its queries: into='q'."
        )
    n_heads = SITES[letter].heads_in(model, layer)
    share = SITES["q"].heads_in(model, layer) // n_heads
    patched = tuple(sorted({head // share for head in heads}))
    sharing = [head for kv_head in patched for head in range(kv_head * share, (kv_head + 1) * share)]
    others = HeadSet((layer, head) for head in sharing if head not in heads)
    if len(others):
        receivers = HeadSet((layer, head) for head in heads)
        warnings.warn(
            f"{receivers} share KV heads with {others}: into={letter!r} patches KV heads {list(patched)} of layer "
            f"{layer}, which are those of all of them.",
            stacklevel=2,
        )
    return Reader(layer, letter, patched, n_heads)


def paths_between(
    model: Model,
    clean: VLMInputs,
    corrupted: VLMInputs,
    senders: HeadSet | Sequence[Any] | None,
    receivers: HeadSet | Sequence[Any] | str,
    into: str | Sequence[str],
) -> tuple[HeadSet, Paths]:
    """The senders (for None all heads before the last receiver), and the paths from them to the receivers.

    Raises InputError where a sender has no receiver after it, where the two inputs do not have the same layout, and for
    models whose blocks do more than add the outputs of attention and MLP: in these there are no direct paths.
    """
    check_aligned(clean, corrupted)
    readers = readers_of(model, receivers, into)
    last = max(reader.layer for reader in readers)
    if senders is None:
        layers = [layer for layer in layers_with(model, SITES["z"]) if layer < last]
        senders = [(layer, head) for layer in layers for head in range(SITES["z"].heads_in(model, layer))]
    heads = HeadSet.of(senders, model)
    late = HeadSet(head for head in heads if head.layer >= last)
    if len(late):
        raise InputError(f"No receiver comes after {late}, so there is no path; the last ones are in layer {last}.")
    points = [SITES["z"].hook_name(layer) for layer in heads.by_layer()]
    streams = {reader.layer: reader.stream_name for reader in readers}
    _check_blocks(model, corrupted, last)
    with torch.no_grad():
        _, of_clean = model.run_with_cache(clean, names_filter=points)
        _, of_corrupted = model.run_with_cache(corrupted, names_filter=points + list(streams.values()))
    clean_z, corrupted_z = (
        {layer: run[SITES["z"].hook_name(layer)] for layer in heads.by_layer()} for run in (of_clean, of_corrupted)
    )
    of_streams = {layer: of_corrupted[name] for layer, name in streams.items()}
    return heads, Paths(model, readers, clean_z, corrupted_z, of_streams)


@torch.no_grad()
def _check_blocks(model: Model, inputs: VLMInputs, depth: int) -> None:
    """Raises InputError where the blocks below `depth` do more than add; only the last position is checked."""
    points = ("resid_pre", "attn_out", "mlp_out", "resid_post")
    names = [SITES[point].hook_name(layer) for layer in range(depth) for point in points]
    _, cache = model.run_with_cache(inputs, names_filter=names, pos_slice=-1)
    try:
        cache.check_blocks(depth)
    except InputError as error:
        raise InputError(f"Direct paths are not defined in this model. {error}") from error


def path_hooks(
    model: Model,
    clean: VLMInputs,
    corrupted: VLMInputs,
    senders: HeadSet | Sequence[Any],
    receivers: HeadSet | Sequence[Any] | str,
    *,
    into: str | Sequence[str] = "q",
    positions: Any = "every",
) -> Hooks:
    """`gl.path_hooks(model, clean, corrupted, ["L1H5"], gaze_heads)`: hooks for one forward of `corrupted`.

    They patch the paths from all senders to all receivers together. Arguments and errors as for `path_patch`.
    """
    senders, paths = paths_between(model, clean, corrupted, senders, receivers, into)
    with torch.no_grad():
        return paths.hooks([(senders, group(corrupted, positions))])
