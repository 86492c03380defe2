"""Tests token maps: paint inside one token's box in the original picture, and compare the inputs of the decoder.

    example = Example.of("Gemma 3")                                   # tiny model, and a copy whose patches do not mix
    check_by_painting(example, [[noise(97, 61)]], "look", side=56)
    check_by_painting(example, [[a], [b, c]], ["long " * 9, "short"], at=(1, 0), side=56)     # a padded batch: image b

The following arguments give the distance in which a painted spot may change tokens (their reach). `side`: pixels of a
token's side in the resized picture that the vision tower gets (patch size times merge or pooling). `taps`: the reach of
the resampling filter in pixels of the coarser picture: 2 for bicubic, 1 for bilinear, 3 for Lanczos, the sum where the
picture is resized twice. `leak`: tokens that a family mixes in addition (1 in LLaVA-OneVision, which interpolates
features). `add`: additional reach in pixels.

Checked for tokens of every view: the painted token changes most in its view; tokens out of reach do not change, in this
and in the other images and rows, and there is at least one such token; tokens without a box and text never change.

Other checks for all families: `check_counts` (positions and placeholders) and `encoded_difference` (encoded images
against pixels, in Hugging Face's own model). Nothing here needs a TransformerLens adapter.
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

OUTPUTS = ("o_proj", "out_proj", "proj", "projection_layer")  # names of attention's output projection in vision towers
SIZES = {
    "very wide": (1900, 11),
    "very tall": (30, 700),
    "tiny": (70, 9),
    "larger than the limit": (601, 433),
    "exact multiple": (112, 84),
    "odd": (97, 61),
    "between two roundings": (48, 80),
}  # fmt: skip
UNCHANGED = 1e-4  # part of the largest change: smaller changes count as none


class StopForward(Exception):
    """Raised to stop a forward before the language model."""


def noise(width, height, seed=0):
    """Random pixels that painting changes by 128: [height, width, 3]."""
    return np.random.default_rng(seed).integers(60, 196, (height, width, 3), dtype=np.uint8)


def decoder_of(hf_model):
    """The module whose forward gets the embeddings; Llama 4's `get_decoder` returns it with the head."""
    decoder = hf_model.get_decoder()
    return decoder.model if hasattr(decoder, "lm_head") else decoder


def without_mixing(hf_model):
    """A copy whose vision tower does not mix patches, so that a token depends only on its own patches."""
    copied = copy.deepcopy(hf_model)
    text = set(decoder_of(copied).modules())
    count = 0
    for name, module in copied.named_modules():
        own = name.rpartition(".")[2] in ("attn", "self_attn", "attention")
        projection = next((getattr(module, output) for output in OUTPUTS if hasattr(module, output)), None)
        if own and projection is not None and module not in text:
            count += 1
            for parameter in projection.parameters():
                nn.init.zeros_(parameter)
    assert count, "no attention was found in the vision tower; see OUTPUTS"
    return copied


@dataclass(frozen=True, eq=False)
class Example:
    """A tiny model. hf_model: from Hugging Face, not wrapped. unmixed: a copy that does not mix patches."""

    family: Any
    processor: Any
    hf_model: nn.Module
    unmixed: nn.Module

    @staticmethod
    @functools.cache
    def of(name, **changes):
        """The tiny model with a name of `testing.BUILDERS`; built once."""
        from gaze_lens import testing
        from gaze_lens.families import family_of

        hf_model, processor = testing.tiny(name, **changes)
        return Example(family_of(hf_model.config), processor, hf_model, without_mixing(hf_model))

    def prepare(self, rows, prompts):
        """As `model.prepare`. rows: for each prompt, a list of [height, width, 3] arrays."""
        from gaze_lens.inputs.preparation import prepare

        nested = [[Image.fromarray(array) for array in row] for row in rows]
        return prepare(self.processor, self.family, nested, prompts, config=self.hf_model.config)


@torch.no_grad()
def entering(hf_model, inputs):
    """The inputs of the language model, with DeepStack's additions: [row, position, feature].

    For a model that reads the image by cross-attention: the keys of its cross-attention layers, [row, key, feature].
    """
    recorded = {}

    def keep(_module, args, kwargs):
        recorded.update(kwargs)
        assert not args, "the decoder is called with keywords"
        raise StopForward

    handle = decoder_of(hf_model).register_forward_pre_hook(keep, with_kwargs=True)
    try:
        hf_model(**inputs.tensors)
    except StopForward:
        pass
    finally:
        handle.remove()
    if recorded.get("cross_attention_states") is not None:
        states = recorded["cross_attention_states"]
        return states.reshape(inputs.n_rows, -1, states.shape[-1])
    parts = [recorded["inputs_embeds"]]
    for level in recorded.get("deepstack_visual_embeds") or []:
        parts.append(torch.zeros_like(parts[0]))
        parts[-1][recorded["visual_pos_masks"]] = level
    return torch.cat(parts, dim=-1)


def inside(start, end):
    """The whole pixels in the middle of an interval, or in all of it where the middle contains none."""
    for edge in ((end - start) / 5, -1e-3):
        first, last = int(np.ceil(start + edge)), int(np.floor(end - edge))
        if first < last:
            return first, last
    return None


def spot_in(box):
    """Pixels to paint in a token's box: (left, top, right, bottom), or None where it contains no whole pixel."""
    if any(np.isnan(box)):
        return None
    x, y = inside(box[0], box[2]), inside(box[1], box[3])
    return None if x is None or y is None else (x[0], y[0], x[1], y[1])


def painted(pixels, spot):
    """The picture with 128 added to the pixels of a spot, modulo 256."""
    left, top, right, bottom = spot
    pixels = pixels.copy()
    pixels[top:bottom, left:right] = (pixels[top:bottom, left:right].astype(int) + 128) % 256
    return pixels


def far_from(spot, boxes, *, side, taps, leak, add):
    """Which tokens of a view are out of the reach of resampling; tokens without a box always are."""
    has_box = ~np.isnan(boxes[:, 0])
    if not has_box.any():
        return ~has_box
    width, height = (boxes[has_box, 2:] - boxes[has_box, :2]).max(axis=0)
    reach_x = taps * max(1, width / side) + 1 + leak * width + add
    reach_y = taps * max(1, height / side) + 1 + leak * height + add
    left, top, right, bottom = spot
    beside = (boxes[:, 0] > right + reach_x) | (boxes[:, 2] < left - reach_x)
    return ~has_box | beside | (boxes[:, 1] > bottom + reach_y) | (boxes[:, 3] < top - reach_y)


def targets_in(boxes, view):
    """A few tokens to paint: of at most three views, the first, the last and two others that contain a pixel."""
    paintable = np.array([spot_in(box) is not None for box in boxes])
    views = np.unique(view[paintable])
    assert len(views) == len(np.unique(view[~np.isnan(boxes[:, 0])])), "give a size whose tokens are larger than pixels"
    for one in sorted({views[0], views[len(views) // 2], views[-1]}):
        members = np.flatnonzero(paintable & (view == one))
        yield from sorted({members[0], members[-1], members[len(members) // 2], members[len(members) // 3]})


def check_by_painting(example, rows, prompts, at=(0, 0), *, side, taps=2, leak=0, add=0):
    """Paint a few tokens of the image `at` (row, image in the row), and check the changes in the whole batch."""
    row, image = at
    inputs = example.prepare(rows, prompts)
    before = entering(example.unmixed, inputs)
    tokens = next(tokens for tokens in inputs.image_tokens if (tokens.row, tokens.image) == at)
    boxes, view = tokens.boxes.double().numpy(), tokens.view.numpy()
    reach = {"side": side, "taps": taps, "leak": leak, "add": add}
    n_far = 0
    for target in targets_in(boxes, view):
        spot = spot_in(boxes[target])
        changed = [list(pictures) for pictures in rows]
        changed[row][image] = painted(rows[row][image], spot)
        change = (entering(example.unmixed, example.prepare(changed, prompts)) - before).norm(dim=-1)
        own = change[row, tokens.positions]
        same_view = np.flatnonzero(view == view[target])
        assert same_view[int(own[same_view].argmax())] == target
        far = np.zeros(len(tokens), dtype=bool)
        for one in np.unique(view):
            far[view == one] = far_from(spot, boxes[view == one], **reach)
        untouched = torch.ones(change.shape, dtype=torch.bool)
        untouched[row, tokens.positions] = torch.from_numpy(far)
        assert change[untouched].max() < UNCHANGED * own[target]
        n_far += int((far & ~np.isnan(boxes[:, 0])).sum())
    assert n_far > 0, "every token was in reach; give a size with more tokens"
    record(example.family.name, painted=["{} x {}".format(*tokens.size)])


def check_counts(example, inputs):
    """Check that image positions are the placeholders of `input_ids`, divided among the images in order."""
    ids, attended = inputs.input_ids, inputs.tensors["attention_mask"].bool()
    for row in range(inputs.n_rows):
        placeholders = torch.nonzero((ids[row] == example.hf_model.config.image_token_id) & attended[row])[:, 0]
        mine = [tokens.positions for tokens in inputs.image_tokens if tokens.row == row]
        assert torch.equal(torch.cat(mine), placeholders)


@torch.no_grad()
def encoded_difference(example, inputs, *, apart=False):
    """The largest difference between logits from pixels and from encoded images, in Hugging Face's own model.

    apart: encode the images one by one, last first, rather than together.
    """
    n_images = len(inputs.image_tokens)
    lists = [[index] for index in reversed(range(n_images))] if apart else [list(range(n_images))]
    parts = {}
    for selected in lists:
        outputs = example.family.encode(example.hf_model, inputs.tensors, inputs.maps, selected)
        parts.update(zip(selected, outputs, strict=True))
    rest = {name: tensor for name, tensor in inputs.tensors.items() if name not in example.family.pixel_names}
    counts = {"counts": [len(pictures) for pictures in inputs.pictures]} if example.family.cross_attention else {}
    images = example.family.to_forward_kwargs([parts[index] for index in range(n_images)], **counts)
    return float((example.hf_model(**inputs.tensors).logits - example.hf_model(**rest, **images).logits).abs().max())
