"""The model run on packed batches, fast on a CPU: Hugging Face's own modules, with two shortcuts.

The vision tower sees a whole batch of equally large pictures at once (Hugging Face's loops over pictures), and the
text model's attention knows that the questions behind an image do not see one another. Both give what the plain forward
gives for each question by itself; the tests compare them.
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
    """Let the text model attend as packed batches need it; save it only after `use_plain_attention`."""
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
    """Causal attention of questions side by side: each sees the shared beginning and itself.

    options: `lengths` of the blocks, `scaling`, `image` (first and one past the last image position), and a list
    `looks`, to which is appended how much of its attention each head gives to the image at every position of the
    questions, 0-1, mean over rows: [head, position].
    """
    lengths, (rows, heads, _, width), groups = options["lengths"], query.shape, key.shape[1]
    queries = (query.reshape(rows, groups, heads // groups, -1, width) * options["scaling"]).split(lengths, 3)
    keys, values = key.split(lengths, 2), value.split(lengths, 2)
    out, looks = [], []
    for block, n in enumerate(lengths):
        k = torch.cat([keys[0], keys[block]], 2) if block else keys[0]
        v = torch.cat([values[0], values[block]], 2) if block else values[0]
        scores = (queries[block].reshape(rows, groups, -1, width) @ k.transpose(2, 3)).view(rows, heads, n, -1)
        unseen = torch.full((n, k.shape[2]), -math.inf, dtype=scores.dtype, device=scores.device)
        weights = (scores + unseen.triu(k.shape[2] - n + 1)).softmax(-1)
        if block:
            looks.append(weights[..., slice(*options["image"])].sum(-1).mean(0))
        grouped = weights.to(v.dtype).view(rows, groups, -1, k.shape[2])
        out.append((grouped @ v).view(rows, heads, n, width))
    options["looks"].append(torch.cat(looks, 1))
    return torch.cat(out, 2).transpose(1, 2), None


def read(architecture: Architecture, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Logits where there is something to learn [answer, vocabulary], the image tokens [row, token, d_model], and how
    much each head looks at the image [layer, head, position] (see `packed_attention`)."""
    looks: list[Tensor] = []
    tokens, deep = architecture.look(model, batch.pixels)
    text = model.model.language_model
    embedded, visible = text.embed_tokens(batch.ids), batch.visible.expand_as(batch.ids)
    positions = batch.positions[:, None].expand(3, len(batch.ids), -1)
    options = {"visual_pos_masks": visible, "deepstack_visual_embeds": [x.flatten(0, 1) for x in deep]} if deep else {}
    hidden = text(
        inputs_embeds=embedded.masked_scatter(visible[..., None], tokens.to(embedded.dtype)),
        position_ids=positions if architecture.frame.grid else positions[-1],
        attention_mask=torch.zeros(1, 1, 1, 1, device=batch.ids.device),  # unused, but keeps masks from being built
        use_cache=False,
        lengths=batch.lengths,
        image=batch.image,
        looks=looks,
        **options,
    ).last_hidden_state
    return model.lm_head(hidden[batch.labels != IGNORE]), tokens, torch.stack(looks)
