"""The test of token maps: paint inside one token's box, in the original picture, and look what reaches the decoder.

    eyes = Eyes.of("Gemma 3")                                   # tiny model, and a copy whose patches do not mix
    check_by_painting(eyes, [[noise(97, 61)]], "look", side=56)
    check_by_painting(eyes, [[a], [b, c]], ["long " * 9, "short"], at=(1, 0), side=56)     # a padded batch: image b

`side` is what a token measures in the resized picture that the vision tower sees (patch size times merge or pooling),
so that the check knows how far resampling carries. `taps` is the resampler's reach in pixels of the coarser of the two
pictures: 2 for bicubic, 1 for bilinear, 3 for Lanczos, the sum where the picture is resized twice. `leak` is what a
family mixes further, in tokens (LLaVA-OneVision interpolates features: 1). `add` is more reach, in pixels.

Checked, for tokens of every view: the painted token changes most in its view; tokens out of reach do not change, in
this and in the other images and rows, and are there at least once; tokens without a box and text do not change, ever.

Other checks that families share: `check_counts` (positions and placeholders) and `encoded_difference` (encode against
pixels, in Hugging Face's own model). Nothing here needs a TransformerLens adapter.
"""

import copy
import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from measurements import record
from PIL import Image
from torch import nn

OUTPUTS = ("o_proj", "out_proj", "proj", "projection_layer")  # how towers call attention's output projection
SIZES = {
    "very wide": (1900, 11),
    "very tall": (30, 700),
    "tiny": (70, 9),
    "larger than the limit": (601, 433),
    "exact multiple": (112, 84),
    "odd": (97, 61),
    "between two roundings": (48, 80),
}  # fmt: skip
STILL = 1e-4  # of the largest change: what counts as none


class Enough(Exception):
    """Raised to stop a forward where the language model would begin."""


def noise(width, height, seed=0):
    """Pixels that stay apart from their opposites after painting: [height, width, 3]."""
    return np.random.default_rng(seed).integers(60, 196, (height, width, 3), dtype=np.uint8)


def decoder_of(hf_model):
    """The module whose forward gets the embeddings; Llama 4's `get_decoder` still has a head on."""
    decoder = hf_model.get_decoder()
    return decoder.model if hasattr(decoder, "lm_head") else decoder


def blinded(hf_model):
    """A copy whose vision tower does not mix patches: a token then sees its own patches alone."""
    copied = copy.deepcopy(hf_model)
    text = set(decoder_of(copied).modules())
    found = 0
    for name, module in copied.named_modules():
        own = name.rpartition(".")[2] in ("attn", "self_attn", "attention")
        projection = next((getattr(module, output) for output in OUTPUTS if hasattr(module, output)), None)
        if own and projection is not None and module not in text:
            found += 1
            for parameter in projection.parameters():
                nn.init.zeros_(parameter)
    assert found, "no attention was found in the vision tower; see OUTPUTS"
    return copied


@dataclass(frozen=True, eq=False)
class Eyes:
    """plain: the Hugging Face model, not wrapped. blind: a copy whose patches do not mix."""

    family: Any
    processor: Any
    plain: nn.Module
    blind: nn.Module

    @staticmethod
    @functools.cache
    def of(name, **changes):
        """Of a tiny model by its name in `testing.BUILDERS`; built once."""
        from gaze_lens import testing
        from gaze_lens.families import family_of

        plain, processor = testing.tiny(name, **changes)
        return Eyes(family_of(plain.config), processor, plain, blinded(plain))

    def prepare(self, rows, prompts):
        """As `model.prepare`. rows: for each prompt, a list of [height, width, 3] arrays."""
        from gaze_lens.inputs.preparation import prepare

        nested = [[Image.fromarray(array) for array in row] for row in rows]
        return prepare(self.processor, self.family, nested, prompts, config=self.plain.config)


@torch.no_grad()
def entering(blind, inputs):
    """What enters the language model, DeepStack's additions too: [row, position, feature].

    Of a model whose image is reached by cross-attention: the keys of its cross layers, [row, key, feature].
    """
    seen = {}

    def keep(_module, args, kwargs):
        seen.update(kwargs)
        assert not args, "the decoder is called with keywords"
        raise Enough

    handle = decoder_of(blind).register_forward_pre_hook(keep, with_kwargs=True)
    try:
        blind(**inputs.tensors)
    except Enough:
        pass
    finally:
        handle.remove()
    if seen.get("cross_attention_states") is not None:
        states = seen["cross_attention_states"]
        return states.reshape(inputs.n_rows, -1, states.shape[-1])
    parts = [seen["inputs_embeds"]]
    for level in seen.get("deepstack_visual_embeds") or []:
        parts.append(torch.zeros_like(parts[0]))
        parts[-1][seen["visual_pos_masks"]] = level
    return torch.cat(parts, dim=-1)


def inside(start, end):
    """The whole pixels in the middle of a stretch, or in all of it where its middle holds none."""
    for edge in ((end - start) / 5, -1e-3):
        first, last = int(np.ceil(start + edge)), int(np.floor(end - edge))
        if first < last:
            return first, last
    return None


def spot_in(box):
    """Pixels to paint in a token's box: (left, top, right, bottom), or None where it holds no whole pixel."""
    if any(np.isnan(box)):
        return None
    x, y = inside(box[0], box[2]), inside(box[1], box[3])
    return None if x is None or y is None else (x[0], y[0], x[1], y[1])


def painted(pixels, spot):
    """The picture with a spot turned to its opposite."""
    left, top, right, bottom = spot
    pixels = pixels.copy()
    pixels[top:bottom, left:right] = (pixels[top:bottom, left:right].astype(int) + 128) % 256
    return pixels


def far_from(spot, boxes, *, side, taps, leak, add):
    """Which tokens of a view lie beyond the reach of resampling; those without a box always do."""
    known = ~np.isnan(boxes[:, 0])
    if not known.any():
        return ~known
    width, height = (boxes[known, 2:] - boxes[known, :2]).max(axis=0)
    reach_x = taps * max(1, width / side) + 1 + leak * width + add
    reach_y = taps * max(1, height / side) + 1 + leak * height + add
    left, top, right, bottom = spot
    beside = (boxes[:, 0] > right + reach_x) | (boxes[:, 2] < left - reach_x)
    return ~known | beside | (boxes[:, 1] > bottom + reach_y) | (boxes[:, 3] < top - reach_y)


def chosen_in(boxes, view):
    """A few tokens to paint: of at most three views the first, the last and two between, of those that hold a pixel."""
    paintable = np.array([spot_in(box) is not None for box in boxes])
    views = np.unique(view[paintable])
    assert len(views) == len(np.unique(view[~np.isnan(boxes[:, 0])])), "give a size whose tokens are larger than pixels"
    for one in sorted({views[0], views[len(views) // 2], views[-1]}):
        members = np.flatnonzero(paintable & (view == one))
        yield from sorted({members[0], members[-1], members[len(members) // 2], members[len(members) // 3]})


def check_by_painting(eyes, rows, prompts, at=(0, 0), *, side, taps=2, leak=0, add=0):
    """Paint a few tokens of the image `at` (row, image in the row), and look what changes in the whole batch."""
    row, image = at
    inputs = eyes.prepare(rows, prompts)
    before = entering(eyes.blind, inputs)
    tokens = next(tokens for tokens in inputs.image_tokens if (tokens.row, tokens.image) == at)
    boxes, view = tokens.boxes.double().numpy(), tokens.view.numpy()
    reach = {"side": side, "taps": taps, "leak": leak, "add": add}
    n_far = 0
    for chosen in chosen_in(boxes, view):
        spot = spot_in(boxes[chosen])
        changed = [list(pictures) for pictures in rows]
        changed[row][image] = painted(rows[row][image], spot)
        change = (entering(eyes.blind, eyes.prepare(changed, prompts)) - before).norm(dim=-1)
        mine = change[row, tokens.positions]
        same_view = np.flatnonzero(view == view[chosen])
        assert same_view[int(mine[same_view].argmax())] == chosen
        far = np.zeros(len(tokens), dtype=bool)
        for one in np.unique(view):
            far[view == one] = far_from(spot, boxes[view == one], **reach)
        untouched = torch.ones(change.shape, dtype=torch.bool)
        untouched[row, tokens.positions] = torch.from_numpy(far)
        assert change[untouched].max() < STILL * mine[chosen]
        n_far += int((far & ~np.isnan(boxes[:, 0])).sum())
    assert n_far > 0, "every token was in reach; give a size with more tokens"
    record(eyes.family.name, painted=["{} x {}".format(*tokens.size)])


def check_counts(eyes, inputs):
    """Image positions are the placeholders of `input_ids`, and every image's tokens lie in order among them."""
    ids, attended = inputs.input_ids, inputs.tensors["attention_mask"].bool()
    for row in range(inputs.n_rows):
        placeholders = torch.nonzero((ids[row] == eyes.plain.config.image_token_id) & attended[row])[:, 0]
        mine = [tokens.positions for tokens in inputs.image_tokens if tokens.row == row]
        assert torch.equal(torch.cat(mine), placeholders)


@torch.no_grad()
def encoded_difference(eyes, inputs, *, apart=False):
    """The largest difference between logits from pixels and from encoded images, in Hugging Face's own model.

    apart: encode the images one by one, last first, rather than together.
    """
    n_images = len(inputs.image_tokens)
    lists = [[index] for index in reversed(range(n_images))] if apart else [list(range(n_images))]
    parts = {}
    for kept in lists:
        made = eyes.family.encode(eyes.plain, inputs.tensors, inputs.maps, kept)
        parts.update(zip(kept, made, strict=True))
    rest = {name: tensor for name, tensor in inputs.tensors.items() if name not in eyes.family.pixel_names}
    counts = {"counts": [len(pictures) for pictures in inputs.pictures]} if eyes.family.cross_attention else {}
    images = eyes.family.to_forward_kwargs([parts[index] for index in range(n_images)], **counts)
    return float((eyes.plain(**inputs.tensors).logits - eyes.plain(**rest, **images).logits).abs().max())
