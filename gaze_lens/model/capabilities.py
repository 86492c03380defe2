"""What gaze_lens can do with a model: which hooks of each layer are live, and how a picture becomes tokens.

    print(model.capabilities())
    model.capabilities(size=(1536, 256)).image.tokens      # how many tokens a picture of that size makes
    model.capabilities().live                              # the layers whose attention heads can be watched and edited

`gaze-lens info MODEL` prints the same from a model's config and processor, without its weights.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from textwrap import fill
from typing import Any

from PIL import Image

from gaze_lens.errors import InputError
from gaze_lens.inputs.fitting import seen
from gaze_lens.inputs.preparation import prepare
from gaze_lens.model_protocol import Model
from gaze_lens.regions.image_tokens import ImageTokens

CUT = 0.98  # share of a picture: where less has image tokens, the processor cuts something off
CONVOLUTION = "convolution"
HOOKS = (
    "hook_attn_scores", "hook_pattern", "hook_q", "hook_k", "hook_v", "hook_rot_q", "hook_rot_k", "hook_z",
    "hook_result", "hook_q_input", "hook_k_input", "hook_v_input", "hook_attn_in",
)  # fmt: skip
VIDEO = "video (where its tokens lie is not known)"
ALWAYS_REFUSED = (
    "audio (pictures, frames and text only)",
    "output_attentions (read blocks.L.attn.hook_pattern)",
    "start_at_layer",
    "generate_stream (pass streamer= to generate)",
)


@dataclass(frozen=True)
class LayerCapabilities:
    """One layer. attention: "full", "sliding", "chunked", "cross" or "linear", or "convolution" where a layer has that
    instead. hooks: the attention hook points that fire and whose edits take effect; empty where a layer has no softmax,
    and so no heads."""

    layer: int
    attention: str
    hooks: tuple[str, ...]

    @property
    def live(self) -> bool:
        """Whether the layer has heads whose scores and pattern can be watched and edited."""
        return bool(self.hooks)


@dataclass(frozen=True)
class View:
    """How a picture is seen once: a grid of `rows` x `columns` tokens, over the `whole` picture or a part of it."""

    rows: int
    columns: int
    whole: bool


@dataclass(frozen=True)
class ImageCapabilities:
    """How a picture of a `size` (width, height) becomes tokens.

    layout: the shape of the layout: "grid", "tiles", ...
    tokens: image tokens in all; unplaced: those of them that cover nothing of the picture (separators, padding).
    between: tokens of other kinds among them, such as line breaks.
    prompt: tokens of a prompt that has only the picture.
    cross_attention: the tokens are keys of cross-attention layers, not positions of the prompt.
    deepstack: image features are added again between the first blocks.
    seen: (x0, y0, x1, y1) in pixels, the part of the picture that the processor keeps.
    """

    size: tuple[int, int]
    layout: str
    tokens: int
    unplaced: int
    between: int
    views: tuple[View, ...]
    prompt: int
    cross_attention: bool
    deepstack: bool
    seen: tuple[float, float, float, float]


@dataclass(frozen=True)
class Capabilities:
    """What gaze_lens can do with a model; `print(model.capabilities())` shows it.

    heads, kv_heads: in each layer. image: None for a language model, which sees no pictures.
    video: whether the model takes `gl.Video`, and where its tokens lie is known.
    whole: why `score_heads` runs every question about a picture from the start; empty where they go on from one run of
        the picture. unsupported: what is refused, with the reason.
    """

    model: str
    family: str
    architecture: str
    heads: int
    kv_heads: int
    layers: tuple[LayerCapabilities, ...]
    image: ImageCapabilities | None
    whole: str
    video: bool
    unsupported: tuple[str, ...]

    @property
    def live(self) -> tuple[int, ...]:
        """The layers whose attention heads can be watched and edited."""
        return tuple(layer.layer for layer in self.layers if layer.live)

    @property
    def seeing(self) -> tuple[int, ...]:
        """The live layers that can attend to image tokens: cross-attention layers where there are any, else all."""
        cross_attention = self.image is not None and self.image.cross_attention
        return tuple(
            layer.layer for layer in self.layers if layer.live and (layer.attention == "cross") == cross_attention
        )

    def __str__(self) -> str:
        lines = [(f"{name}:".ljust(21) if name else " " * 21, value) for name, value in self._lines()]
        return "\n".join(fill(value, 110, initial_indent=name, subsequent_indent=" " * 21) for name, value in lines)

    def _lines(self) -> Iterable[tuple[str, str]]:
        yield "model", self.model
        yield "family", self.family
        yield "class", self.architecture
        yield "layers", f"{len(self.layers)}, heads 0 to {self.heads - 1} in each ({self.kv_heads} KV heads)"
        yield "heads", str(len(self.live) * self.heads)
        for kind in dict.fromkeys((layer.attention, layer.hooks) for layer in self.layers):
            layers = [layer.layer for layer in self.layers if (layer.attention, layer.hooks) == kind]
            hooks = ", ".join(kind[1]) or "no heads: nothing of its attention is live"
            yield _mixing(kind[0]), f"layers {_ranges(layers)}: {hooks}"
        if self.image is None:
            yield "pictures", "none: a language model, which model.prepare(None, prompt) makes inputs for"
        else:
            yield from _image_lines(self.image)
        if self.video:
            yield "video", "model.prepare(gl.Video(frames, fps=8), prompt)"
        shared = "all go on from one run of the picture"
        yield "questions", f"each is run from the start: {self.whole}" if self.whole else shared
        for index, refused in enumerate(self.unsupported):
            yield "" if index else "not supported", refused


def capabilities(model: Model, size: tuple[int, int]) -> Capabilities:
    """What `HookedVLM.capabilities` returns, which documents it."""
    layers = tuple(
        LayerCapabilities(index, kind, _hooks(model, index))
        for index, kind in enumerate(_kinds(model.config.get_text_config(), model.cfg.n_layers))
    )
    model.attention_backend.check_in_use()
    return Capabilities(
        model=model.cfg.model_name,
        family=model.family.name,
        architecture=model.cfg.architecture,
        heads=model.cfg.n_heads,
        kv_heads=model.cfg.n_key_value_heads or model.cfg.n_heads,
        layers=layers,
        image=None if model.family.text_only else _image(model, size),
        whole=model.family.prefix_sharing_blocker,
        video=model.family.video_maps is not None,
        unsupported=(*_missing(model, layers), *((VIDEO,) if model.family.video_maps is None else ()), *ALWAYS_REFUSED),
    )


def _kinds(text: Any, n_layers: int) -> list[str]:
    """The kind of attention of every layer, in one word, from a text model's config."""
    cross_attention = getattr(text, "cross_attention_layers", None) or ()
    named = getattr(text, "layer_types", None) or ["full_attention"] * n_layers
    return [
        "cross" if index in cross_attention else {"conv": CONVOLUTION}.get(kind, kind.removesuffix("_attention"))
        for index, kind in enumerate(named)
    ]


def _mixing(kind: str) -> str:
    """A layer's kind of attention, or what it has instead, in words."""
    return kind if kind == CONVOLUTION else f"{kind} attention"


def _hooks(model: Model, layer: int) -> tuple[str, ...]:
    """The live attention hook points of a layer, none where it has no softmax attention."""
    attention = getattr(model.blocks[layer], "attn", None)
    if not hasattr(getattr(attention, "original_component", None), "gaze_lens_layer"):
        return ()
    return tuple(name for name in HOOKS if f"blocks.{layer}.attn.{name}" in model.hook_dict)


def _missing(model: Model, layers: Iterable[LayerCapabilities]) -> list[str]:
    """What some layers cannot do that others, or other models, can, and why."""
    missing: dict[tuple[str, str], list[int]] = {}
    for layer in layers:
        if not layer.live:
            missing.setdefault((f"{_mixing(layer.attention)} has no heads to hook", ""), []).append(layer.layer)
            continue
        for name in HOOKS:
            if name not in layer.hooks:
                reason = model.silent.get(f"blocks.{layer.layer}.attn.{name}", "its bridge has no such hook point")
                missing.setdefault((name, f": {reason}"), []).append(layer.layer)
    return [f"{name}, in layers {_ranges(layers)}{reason}" for (name, reason), layers in missing.items()]


def _image(model: Model, size: tuple[int, int]) -> ImageCapabilities:
    """Prepare a picture of a size and look where its tokens lie."""
    if len(size) != 2 or min(size) < 1:
        raise InputError(f"size={size!r} was given; give (width, height) in pixels, as in (1536, 256).")
    picture = Image.new("RGB", (int(size[0]), int(size[1])))
    inputs = prepare(model.processor, model.family, picture, "", config=model.config)
    tokens = inputs.image_tokens[0]
    cross_attention = getattr(inputs.layout, "cross_attention", False)
    span = int(tokens.positions[-1]) - int(tokens.positions[0]) + 1
    return ImageCapabilities(
        size=picture.size,
        layout=_layout(model.family.token_maps),
        tokens=len(tokens),
        unplaced=int(tokens.boxes[:, 0].isnan().sum()),
        between=0 if cross_attention else span - len(tokens),
        views=_views(tokens),
        prompt=inputs.layout.length,
        cross_attention=cross_attention,
        deepstack=model.family.deepstack,
        seen=seen(tokens.boxes, picture.size),
    )


def _layout(token_maps: Any) -> str:
    """The shape of a layout in words: families share functions by it."""
    module = getattr(token_maps, "func", token_maps).__module__  # a row of the table may fill in arguments
    return module.rpartition(".")[2].replace("_", " ") if module.startswith("gaze_lens.families.") else "its own"


def _views(tokens: ImageTokens) -> tuple[View, ...]:
    """The grids of an image, in order, those that show the whole of it marked."""
    placed, views = ~tokens.boxes[:, 0].isnan(), []
    for view in tokens.view[placed].unique().tolist():
        selected = placed & (tokens.view == view)
        rows, columns = (tokens.cells[selected].max(0).values - tokens.cells[selected].min(0).values + 1).tolist()
        box = tokens.bounds(tokens.positions[selected])
        shown = (box.x1 - box.x0) * (box.y1 - box.y0) / (tokens.size[0] * tokens.size[1])
        views.append(View(rows, columns, bool(shown > 0.9)))
    return tuple(views)


def _image_lines(image: ImageCapabilities) -> Iterable[tuple[str, str]]:
    """What `Capabilities` prints about pictures."""
    where = "keys of the cross-attention layers" if image.cross_attention else "at the input"
    yield "image features", f"{where}, added again between the first blocks (DeepStack)" if image.deepstack else where
    grids = Counter((view.rows, view.columns, view.whole) for view in image.views)
    views = [
        f"{n} x " * (n > 1) + f"{rows} x {columns}" + (" over the whole picture" if whole else "") * (len(grids) > 1)
        for (rows, columns, whole), n in grids.items()
    ]
    parts = ", ".join(views) or "nothing placed"
    yield "image tokens", f"{image.tokens} ({parts}) for {image.size[0]} x {image.size[1]} pixels"
    yield from _cut(image)
    yield "layout", image.layout
    if image.unplaced or image.between:
        yield "separators", f"{image.unplaced} image tokens without a place, {image.between} other tokens among them"
    yield "prompt", f"{image.prompt} tokens with that image and no text"


def _cut(image: ImageCapabilities) -> Iterable[tuple[str, str]]:
    """What part of the picture is seen, where the processor cuts some of it off."""
    (x0, y0, x1, y1), (width, height) = image.seen, image.size
    share = (x1 - x0) * (y1 - y0) / (width * height)
    if share < CUT:
        part = f"x {x0:.0f} to {x1:.0f}, y {y0:.0f} to {y1:.0f}"
        yield "seen", f"{part}: {share:.0%} of the picture; fit='whole' keeps all of it"


def _ranges(numbers: list[int]) -> str:
    """`[0, 1, 2, 5]` as "0 to 2, 5"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)
