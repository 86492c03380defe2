"""Every image token read as a word, layer by layer, over the picture.

gl.show.logit_lens(model, inputs, layers=[0, 8, 16, 24])
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from torch import Tensor

from gaze_lens.errors import InputError, ModelError
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.model_protocol import Model
from gaze_lens.regions.image_tokens import ImageTokens
from gaze_lens.show.labels import visible
from gaze_lens.show.map_figure import HEAT, MAX_HEIGHT
from gaze_lens.show.picture_axes import Sheet
from gaze_lens.show.plot import WIDTH, Plot, axes_at, figure_style, new_figure, write_at

SHOWN = 6  # layers, unless they are given
BLOCK = 4_000_000  # logits at once
CLOSE = 0.02  # of the largest logit: how far ours may be from the model's own


def logit_lens(
    model: Model,
    inputs: VLMInputs,
    *,
    layers: Iterable[int] | None = None,
    image: int = 0,
    row: int = 0,
    fwd_hooks: Sequence[tuple[Any, Any]] = (),
) -> Plot:
    """`gl.show.logit_lens(model, inputs, layers=[8, 16, 24])`: the word that each image token is read as.

    The residual stream after a layer goes through the model's own final norm and unembedding (nostalgebraist 2020), as
    if the later layers did nothing; of early layers, and of models whose image tokens predict nothing, the words may
    mean little.
    layers: six over the depth, with the last, unless given; negative from the end. image: zero-based, of the row.
    fwd_hooks: run under these.
    data: "words" [layer, token], tuples of texts; "ids" [layer, token]; "probabilities" [layer, token], of that word;
        "layers"; "positions" and "boxes" [token], of the image's tokens.
    Raises InputError for layers, images and rows that are not there, and where the image is reached by cross-attention,
    so that its tokens are not in the stream; ModelError for a model whose own logits are not what norm and unembedding
    make of its last layer.
    """
    chosen = _layers(layers, model.cfg.n_layers)
    tokens = _tokens(inputs, image, row)
    ids, probabilities = _read(model, inputs, chosen, tokens.positions.tolist(), row, fwd_hooks)
    words = tuple(tuple(inputs.tokenizer.batch_decode([[one] for one in layer])) for layer in ids.tolist())
    title = "Image tokens read as words, through the unembedding"
    sheet = Sheet.of([inputs.pictures[row][image]])
    with figure_style():
        figure = _draw(sheet, tokens, chosen, words, probabilities.numpy(), title)
    data = {"words": words, "ids": ids.numpy(), "probabilities": probabilities.numpy(), "layers": chosen}
    data |= {"positions": tuple(tokens.positions.tolist()), "boxes": tokens.boxes.cpu().numpy()}
    return Plot(figure, data, _text(chosen, words, title))


def _layers(layers: Iterable[int] | None, n_layers: int) -> tuple[int, ...]:
    if layers is None:
        return tuple(dict.fromkeys(np.linspace(0, n_layers - 1, SHOWN).round().astype(int).tolist()))
    chosen = tuple(layers)
    unknown = [layer for layer in chosen if layer not in range(-n_layers, n_layers)]
    if unknown or not chosen:
        raise InputError(f"layers={list(chosen)} was given; expected some of 0 to {n_layers - 1}, or negative.")
    return tuple(layer % n_layers for layer in chosen)


def _tokens(inputs: VLMInputs, image: int, row: int) -> ImageTokens:
    if not 0 <= row < inputs.n_rows:
        raise InputError(f"There is no row {row} in these inputs: expected 0 to {inputs.n_rows - 1}.")
    tokens = [tokens for tokens in inputs.image_tokens if tokens.row == row]
    if not 0 <= image < len(tokens):
        raise InputError(f"Row {row} has no image {image}; it has {len(tokens)} images, counted from 0.")
    if inputs.layout.cross_attention:
        raise InputError("This model reads its image by cross-attention: image tokens are not in its residual stream.")
    return tokens[image]


@torch.no_grad()
def _read(
    model: Model,
    inputs: VLMInputs,
    layers: Sequence[int],
    positions: Sequence[int],
    row: int,
    fwd_hooks: Sequence[tuple[Any, Any]],
) -> tuple[Int[Tensor, "layer token"], Float[Tensor, "layer token"]]:
    """The most likely token after each layer, and its probability."""
    last = model.cfg.n_layers - 1
    streams: dict[int, Tensor] = {}

    def keep(stream: Tensor, hook: Any) -> None:
        streams[hook.layer()] = stream[row, [*positions, -1]] if hook.layer() == last else stream[row, list(positions)]

    hooks = [(f"blocks.{layer}.hook_resid_post", keep) for layer in {*layers, last}]
    logits = model.run_with_hooks(
        inputs, fwd_hooks=[*fwd_hooks, *hooks], logits_to_keep=inputs.last_logits, use_cache=False
    )
    _check(model, streams[last][-1:], logits[row, -1:])
    streams[last] = streams[last][:-1]
    read = [_most_likely(model, streams[layer]) for layer in layers]
    return torch.stack([ids for ids, _ in read]), torch.stack([probabilities for _, probabilities in read])


def _logits(model: Model, stream: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_vocab"]:
    """The model's own final norm and unembedding, and what it does to its logits after them."""
    norm, head = model.ln_final.original_component, model.unembed.original_component  # type: ignore[attr-defined]
    logits = head(norm(stream[None].to(_device_of(norm, stream))))[0]
    return model.adapter.apply_output_logits_transform(logits)  # type: ignore[attr-defined]


def _device_of(norm: torch.nn.Module, stream: Tensor) -> torch.device:
    """Where the norm's weights are; where it has none, where the stream is."""
    return next((parameter.device for parameter in norm.parameters()), stream.device)


def _check(model: Model, stream: Float[Tensor, "1 d_model"], own: Float[Tensor, "1 d_vocab"]) -> None:
    ours, own = _logits(model, stream).float().cpu(), own.float().cpu()
    furthest = (ours - own).abs().max().item()
    if not furthest <= CLOSE * own.abs().max().item():
        raise ModelError(
            f"The final norm and unembedding make other logits of the last layer than {model.cfg.model_name} itself: "
            f"they differ by up to {furthest:.3g}. The words of a logit lens would be wrong."
        )


def _most_likely(model: Model, stream: Float[Tensor, "token d_model"]) -> tuple[Tensor, Tensor]:
    """[token] ids and probabilities, some tokens at a time."""
    parts = stream.split(max(1, BLOCK // max(1, model.cfg.d_vocab)))
    best = [_logits(model, part).float().softmax(-1).max(-1) for part in parts]
    return torch.cat([one.indices.cpu() for one in best]), torch.cat([one.values.cpu() for one in best])


def _draw(
    sheet: Sheet,
    tokens: ImageTokens,
    layers: Sequence[int],
    words: Sequence[Sequence[str]],
    probabilities: Float[np.ndarray, "layer token"],
    title: str,
) -> Any:
    """One picture for each layer; strips one below the other."""
    columns = 1 if sheet.aspect >= 2.5 else 2
    width = min((WIDTH - 0.1 - 0.2 * (columns - 1)) / columns, MAX_HEIGHT * sheet.aspect)
    height = width / sheet.aspect + 0.42
    figure = new_figure(0.4 + height * math.ceil(len(layers) / columns) + 0.55, layout=None)
    write_at(figure, 0.05, 0.08, title, fontsize=10, weight="bold")
    scale = ScalarMappable(Normalize(0, 1), HEAT)
    for index, layer in enumerate(layers):
        row, column = divmod(index, columns)
        x, y = 0.05 + column * (width + 0.2), 0.4 + row * height
        write_at(figure, x, y, f"after layer {layer}", fontsize=8.5)
        axes = axes_at(figure, x, y + 0.2, width=width, height=width / sheet.aspect)
        sheet.draw(axes, faded=True)
        _write(axes, tokens, words[index], probabilities[index], scale, width / sheet.size[0])
    _bar(figure, scale)
    return figure


def _write(
    axes: Axes,
    tokens: ImageTokens,
    words: Sequence[str],
    probabilities: Float[np.ndarray, " token"],
    scale: ScalarMappable,
    inches: float,
) -> None:
    """Every word in its token's box, as large as fits, over the colour of its probability."""
    boxes = tokens.boxes.cpu().numpy()
    for index in _foremost(boxes):
        x0, y0, x1, y1 = boxes[index]
        axes.fill([x0, x1, x1, x0], [y0, y0, y1, y1], color=scale.to_rgba(probabilities[index]), linewidth=0)
        word = visible(words[index])
        size = min(8.0, 72 * (x1 - x0) * inches / (0.66 * max(len(word), 1)), 72 * (y1 - y0) * inches / 1.4)
        axes.text((x0 + x1) / 2, (y0 + y1) / 2, word, fontsize=size, ha="center", va="center")


def _foremost(boxes: Float[np.ndarray, "token 4"]) -> list[int]:
    """Of views that overlap, the tokens in whose box no smaller one has its centre."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    foremost = []
    for index, (x0, y0, x1, y1) in enumerate(boxes):
        inside = (x0 <= x) & (x < x1) & (y0 <= y) & (y < y1) & (areas < 0.9 * areas[index])
        if np.isfinite(x0) and not inside.any():
            foremost.append(index)
    return foremost


def _bar(figure: Any, scale: ScalarMappable) -> None:
    axes = axes_at(figure, 0.2, figure.get_size_inches()[1] - 0.5, width=3.2, height=0.1)
    bar = figure.colorbar(scale, cax=axes, orientation="horizontal")
    bar.set_label("probability of the word, 0-1", fontsize=7.5)
    bar.ax.tick_params(labelsize=7, pad=1)


def _text(layers: Sequence[int], words: Sequence[Sequence[str]], title: str) -> str:
    texts = [" ".join(map(visible, of_layer)) for of_layer in words]
    return "\n".join([title, *(f"  layer {layer}: {text}" for layer, text in zip(layers, texts, strict=True))])
