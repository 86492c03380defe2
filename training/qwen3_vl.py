"""The embedded model's architecture: Hugging Face's `Qwen3VLForConditionalGeneration`, patch 8, merge 2."""

from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)
from transformers.models.qwen3_vl.modeling_qwen3_vl import rotate_half
from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

from training.batches import GRID, TOKEN
from training.recipe import Architecture, Size, build_tokenizer, greedy, text_config

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_processor(size: Size) -> Qwen3VLProcessor:
    """Processor for pictures of 16 x 16 to 1,024 x 1,024 pixels; sides that are multiples of 16 stay as they are."""
    pixels = {
        "patch_size": size.patch,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "size": {"shortest_edge": 16 * 16, "longest_edge": 1024 * 1024},
    }
    tokenizer = build_tokenizer(size.vocabulary, SPECIAL)
    return Qwen3VLProcessor(
        Qwen2VLImageProcessor(**pixels), tokenizer, Qwen3VLVideoProcessor(**pixels), chat_template=CHAT
    )


def vision_config(size: Size) -> dict[str, Any]:
    """The vision tower's part of the configuration."""
    return {
        "depth": size.vision_layers,
        "hidden_size": size.vision_width,
        "intermediate_size": size.vision_mlp,
        "num_heads": size.vision_heads,
        "patch_size": size.patch,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": size.width,
        "num_position_embeddings": 256,
        "deepstack_visual_indexes": [0],
    }


def build_config(size: Size, tokenizer: PreTrainedTokenizerFast) -> Qwen3VLConfig:
    """The Hugging Face configuration for these sizes."""
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    third = size.head_width // 6
    return Qwen3VLConfig(
        text_config=text_config(
            size, tokenizer, mrope_section=[size.head_width // 2 - 2 * third, third, third], mrope_interleaved=True
        ),
        vision_config=vision_config(size),
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def build(size: Size, seed: int) -> tuple[Qwen3VLForConditionalGeneration, Qwen3VLProcessor]:
    """An untrained model in float32 with its processor; greedy decoding is its default."""
    processor = build_processor(size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3VLForConditionalGeneration(build_config(size, processor.tokenizer))
    model.generation_config = greedy(processor.tokenizer)
    return model, processor


def normalise(pixels: UInt8[Tensor, "row height width 3"]) -> Float[Tensor, "row patch values"]:
    """Pixels as the processor makes them for the vision tower: patches in the order in which they are merged.

    The processor doubles the frame of a still picture; here it is there once.
    """
    side = TOKEN // 2
    row, height, width, _ = pixels.shape
    parts = pixels.reshape(row, height // TOKEN, 2, side, width // TOKEN, 2, side, 3)
    patches = parts.permute(0, 1, 4, 2, 5, 7, 3, 6).reshape(row, -1, 3 * side * side)
    return patches.float() / 127.5 - 1


def encode_images(
    model: nn.Module, pixels: UInt8[Tensor, "row height width 3"]
) -> tuple[Float[Tensor, "row token d_model"], list[Tensor]]:
    """Image tokens of a batch of pictures of one size, and DeepStack's features of the same shape.

    Hugging Face's tower takes the pictures one by one.
    """
    visual = model.model.visual
    config, side = visual.config, TOKEN // 2
    grid = torch.tensor([[1, pixels.shape[1] // side, pixels.shape[2] // side]], device=pixels.device)
    index, weight = get_vision_interpolation_indices_and_weights(
        grid, num_grid_per_side=visual.num_grid_per_side, mode="bilinear", align_corners=True, spatial_merge_size=2
    )
    conv = visual.patch_embed.proj
    hidden = F.linear(normalise(pixels), conv.weight.sum(2).flatten(1), conv.bias)  # sum: both frames are the same
    hidden = hidden + (visual.pos_embed(index) * weight[:, :, None]).sum(1)
    rotary = visual.rotary_pos_emb(hidden, get_vision_position_ids(grid, 2))
    rows, n, _ = hidden.shape
    deep = []
    for layer, block in enumerate(visual.blocks):
        hidden = hidden + picture_attention(block.attn, block.norm1(hidden), rotary)
        hidden = hidden + block.mlp(block.norm2(hidden))
        if layer in config.deepstack_visual_indexes:
            deep.append(visual.deepstack_merger_list[len(deep)](hidden).view(rows, n // 4, -1))
    return visual.merger(hidden).view(rows, n // 4, -1), deep


def picture_attention(attention: nn.Module, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Attention of one layer of the vision tower, within each picture; float32 has the fastest kernel on a CPU.

    rotary: cosines and sines of the rotary embedding.
    """
    rows, n, width = hidden.shape
    mixed = attention.qkv(hidden).float().view(rows, n, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    query, key = (x * rotary[0] + rotate_half(x) * rotary[1] for x in mixed[:2])
    with torch.autocast(hidden.device.type, enabled=False):
        out = F.scaled_dot_product_attention(query, key, mixed[2])
    return attention.proj(out.transpose(1, 2).reshape(rows, n, width))


def tower_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The vision tower's parameters, without the mergers."""
    return [p for name, p in model.model.visual.named_parameters() if "merger" not in name]


QWEN3_VL = Architecture("Qwen3-VL", build, GRID, encode_images, tower_parameters)
