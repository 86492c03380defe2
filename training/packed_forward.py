"""The forward on packed batches, fast on a CPU: Hugging Face's own modules, with two shortcuts.

The vision tower runs a whole batch of pictures of one size at once (Hugging Face's runs them one by one). And the text
model's attention leaves out the scores between different questions about one image. The results are those of the plain
forward on each question alone; the tests compare them.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface

from training.batches import IGNORE, Batch
from training.recipe import Architecture

NAME = "gaze_lens_packed"


def use_packed_attention(model: nn.Module) -> None:
    """Give the text model the attention for packed batches. Call `use_plain_attention` before you save the model."""
    AttentionInterface.register(NAME, packed_attention)
    model.config.get_text_config()._attn_implementation = NAME


def use_plain_attention(model: nn.Module) -> None:
    """Hugging Face's default again."""
    model.config.get_text_config()._attn_implementation = "sdpa"


def packed_attention(
    _module: nn.Module,
    query: Float[Tensor, "row head sequence width"],
    key: Float[Tensor, "row group sequence width"],
    value: Float[Tensor, "row group sequence width"],
    _mask: Any,
    **options: Any,
) -> tuple[Float[Tensor, "row sequence head width"], None]:
    """Causal attention of packed questions: each attends to the shared beginning and to itself.

    options: `lengths` of the blocks, `scaling`, `image` (first and one past the last image position), and a list
    `image_mass`. Each layer appends to it its heads' attention mass on the image at every position of the questions,
    0-1, mean over rows: [head, position].
    """
    lengths, (rows, heads, _, width), groups = options["lengths"], query.shape, key.shape[1]
    queries = (query.reshape(rows, groups, heads // groups, -1, width) * options["scaling"]).split(lengths, 3)
    keys, values = key.split(lengths, 2), value.split(lengths, 2)
    out, image_mass = [], []
    for block, n in enumerate(lengths):
        k = torch.cat([keys[0], keys[block]], 2) if block else keys[0]
        v = torch.cat([values[0], values[block]], 2) if block else values[0]
        scores = (queries[block].reshape(rows, groups, -1, width) @ k.transpose(2, 3)).view(rows, heads, n, -1)
        hidden_keys = torch.full((n, k.shape[2]), -math.inf, dtype=scores.dtype, device=scores.device)
        weights = (scores + hidden_keys.triu(k.shape[2] - n + 1)).softmax(-1)
        if block:
            image_mass.append(weights[..., slice(*options["image"])].sum(-1).mean(0))
        grouped = weights.to(v.dtype).view(rows, groups, -1, k.shape[2])
        out.append((grouped @ v).view(rows, heads, n, width))
    options["image_mass"].append(torch.cat(image_mass, 1))
    return torch.cat(out, 2).transpose(1, 2), None


def packed_forward(architecture: Architecture, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Logits at the positions with a label [answer, vocabulary], the image tokens [row, token, d_model], and each
    head's attention mass on the image [layer, head, position] (see `packed_attention`)."""
    image_mass: list[Tensor] = []
    tokens, deep = architecture.encode_images(model, batch.pixels)
    text = model.model.language_model
    embedded, image_mask = text.embed_tokens(batch.ids), batch.image_mask.expand_as(batch.ids)
    positions = batch.positions[:, None].expand(3, len(batch.ids), -1)
    deepstack = {"visual_pos_masks": image_mask, "deepstack_visual_embeds": [x.flatten(0, 1) for x in deep]}
    hidden = text(
        inputs_embeds=embedded.masked_scatter(image_mask[..., None], tokens.to(embedded.dtype)),
        position_ids=positions if architecture.frame.grid else positions[-1],
        attention_mask=torch.zeros(1, 1, 1, 1, device=batch.ids.device),  # not used; without it a mask would be built
        use_cache=False,
        lengths=batch.lengths,
        image=batch.image,
        image_mass=image_mass,
        **(deepstack if deep else {}),
    ).last_hidden_state
    return model.lm_head(hidden[batch.labels != IGNORE]), tokens, torch.stack(image_mass)
