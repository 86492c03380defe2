"""The other architecture: Hugging Face's `LlavaForConditionalGeneration` with a Pixtral vision tower, patch 16.

A vision tower, a projector of two layers, and a Llama as decoder: no DeepStack, no M-RoPE, no norms of queries and
keys. A Pixtral tower takes pictures of any shape; a CLIP tower takes square ones, and would distort a strip.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PixtralImageProcessor,
    PixtralProcessor,
    PixtralVisionConfig,
)

from training.batches import TOKEN, Frame
from training.recipe import Architecture, Size, build_tokenizer, greedy, text_config

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "[IMG]", "[IMG_BREAK]", "[IMG_END]")
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}[IMG]{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FRAME = Frame("<|im_start|>user\n", "[IMG]", "", "[IMG_BREAK]", "[IMG_END]", grid=False)
LONGEST = 1024  # pixels: larger pictures are shrunk to it


def build_processor(size: Size) -> PixtralProcessor:
    """Processor for pictures of up to 1,024 x 1,024 pixels; sides that are multiples of 16 stay as they are."""
    images = PixtralImageProcessor(
        size={"longest_edge": LONGEST}, patch_size=TOKEN, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    tokenizer = build_tokenizer(size.vocabulary, SPECIAL)
    return PixtralProcessor(images, tokenizer, patch_size=TOKEN, chat_template=CHAT)


def vision_config(size: Size) -> PixtralVisionConfig:
    """The vision tower's part of the configuration."""
    return PixtralVisionConfig(
        hidden_size=size.vision_width,
        intermediate_size=size.vision_mlp,
        num_hidden_layers=size.vision_layers,
        num_attention_heads=size.vision_heads,
        patch_size=TOKEN,
        image_size=LONGEST,
        rope_parameters={"rope_type": "axial", "rope_theta": 100.0},
    )


def build(size: Size, seed: int, *, projector: str = "gelu") -> tuple[LlavaForConditionalGeneration, PixtralProcessor]:
    """An untrained model in float32 with its processor; greedy decoding is its default.

    projector: the activation between the projector's two layers; "linear": none.
    """
    processor = build_processor(size)
    tokenizer = processor.tokenizer
    config = LlavaConfig(
        vision_config=vision_config(size),
        text_config=LlamaConfig(**text_config(size, tokenizer), bos_token_id=None),
        image_token_index=processor.image_token_id,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        projector_hidden_act=projector,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
    model.generation_config = greedy(tokenizer)
    return model, processor


def encode_images(
    model: nn.Module, pixels: UInt8[Tensor, "row height width 3"]
) -> tuple[Float[Tensor, "row token d_model"], list[Tensor]]:
    """Image tokens of a batch of pictures of one size, and an empty list, as there is no DeepStack."""
    return model.model.multi_modal_projector(tower_features(model, pixels)), []


def tower_features(
    model: nn.Module, pixels: UInt8[Tensor, "row height width 3"]
) -> Float[Tensor, "row token vision_width"]:
    """The vision tower's output on a batch of pictures of one size. Hugging Face's puts them into one sequence."""
    vision = model.model.vision_tower
    patches = vision.patch_conv(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1)
    hidden = vision.ln_pre(patches.flatten(2).transpose(1, 2))
    cells = torch.cartesian_prod(*(torch.arange(n, device=hidden.device) for n in patches.shape[-2:]))
    rotary = vision.patch_positional_embedding(hidden, cells)
    return vision.transformer(hidden, position_embeddings=rotary).last_hidden_state


def tower_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The vision tower's parameters, without the projector."""
    return list(model.model.vision_tower.parameters())


LLAVA = Architecture("LLaVA", build, FRAME, encode_images, tower_parameters)
