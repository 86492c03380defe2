"""Tiny models of the families whose processor reports a grid: Qwen-VL and GLM-V."""

from collections.abc import Callable
from typing import Any

from torch import nn
from transformers import (
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    Glm4vImageProcessor,
    Glm4vMoeConfig,
    Glm4vMoeForConditionalGeneration,
    Glm4vProcessor,
    Glm4vVideoProcessor,
    Glm46VConfig,
    Glm46VForConditionalGeneration,
    Glm46VImageProcessor,
    Glm46VProcessor,
    Glm46VVideoProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from gaze_lens.testing.parts import (
    TEXT,
    byte_tokenizer,
    chat_template,
    text_config,
    texts_but_for_users,
    trimmed,
    with_video,
)

Builder = Callable[[dict[str, Any]], tuple[nn.Module, Any]]
QWEN = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>",
)  # fmt: skip
QWEN_IMAGE = with_video("<|vision_start|><|image_pad|><|vision_end|>", "<|vision_start|><|video_pad|><|vision_end|>")
QWEN2_CHAT = chat_template(QWEN_IMAGE, system="You are a helpful assistant.")
QWEN_CHAT = chat_template(QWEN_IMAGE)
QWEN3_5_CHAT = chat_template(QWEN_IMAGE, trimmed, answer="<think>\n\n</think>\n\n")
M_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}
QWEN3_VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 16,
    "out_hidden_size": TEXT["hidden_size"], "num_position_embeddings": 64,
}  # fmt: skip
QWEN3_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
GLM = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_image|>", "<|image|>", "<|end_of_image|>",
    "<|begin_of_video|>", "<|video|>", "<|end_of_video|>", "[gMASK]", "<sop>",
)  # fmt: skip
GLM_CHAT = chat_template(
    with_video("<|begin_of_image|><|image|><|end_of_image|>", "<|begin_of_video|><|video|><|end_of_video|>"),
    texts_but_for_users, begin="[gMASK]<sop>",
)  # fmt: skip
HALF_ROTATED = {**M_ROPE, "mrope_section": [2, 1, 1], "partial_rotary_factor": 0.5}
GLM_EXPERTS = {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_shared_experts": 1,
    "first_k_dense_replace": 1,
}  # fmt: skip
LINEAR = {
    "full_attention_interval": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "rope_parameters": {**HALF_ROTATED, "mrope_interleaved": True},
}  # fmt: skip


def _special_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    ids = dict(zip(QWEN, tokenizer.convert_tokens_to_ids(list(QWEN)), strict=True))
    return {
        "image_token_id": ids["<|image_pad|>"], "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"], "vision_end_token_id": ids["<|vision_end|>"],
    }  # fmt: skip


def _image_processor(patch: int) -> Qwen2VLImageProcessor:
    size = {"shortest_edge": 4 * patch * patch, "longest_edge": 64 * patch * patch}
    return Qwen2VLImageProcessor(patch_size=patch, merge_size=2, size=size)


def _video_size(patch: int, *, frames: int) -> dict[str, Any]:
    """The size of a video processor. frames: 1 where its limits are for each frame, more where they are for all."""
    least, most = 4 * patch * patch, 64 * patch * patch
    return {"size": {"shortest_edge": frames * least, "longest_edge": frames * most}, "cap_pixels_per_frame": False}


def _qwen3_processor(tokenizer: PreTrainedTokenizerFast, chat: str) -> Qwen3VLProcessor:
    """The processor of Qwen3-VL and Qwen3.5."""
    return Qwen3VLProcessor(
        image_processor=_image_processor(16), tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(patch_size=16, **_video_size(16, frames=6)), chat_template=chat,
    )  # fmt: skip


def _qwen3(changes: dict[str, Any], moe: bool = False) -> tuple[nn.Module, Any]:
    tokenizer = byte_tokenizer(QWEN)
    vision = {**QWEN3_VISION, "depth": 3, "deepstack_visual_indexes": [0, 1]}
    experts = {**QWEN3_EXPERTS, "decoder_sparse_step": 1}
    config_class = Qwen3VLMoeConfig if moe else Qwen3VLConfig
    model_class = Qwen3VLMoeForConditionalGeneration if moe else Qwen3VLForConditionalGeneration
    text = text_config(tokenizer, changes, rope_parameters=M_ROPE, **(experts if moe else {}))
    config = config_class(text_config=text, vision_config=vision, **_special_ids(tokenizer))
    return model_class(config), _qwen3_processor(tokenizer, QWEN_CHAT)


def _qwen3_moe(changes: dict[str, Any]) -> tuple[nn.Module, Any]:
    return _qwen3(changes, moe=True)


def _qwen3_5(changes: dict[str, Any], moe: bool = False) -> tuple[nn.Module, Any]:
    tokenizer = byte_tokenizer(QWEN)
    vision = {**QWEN3_VISION, "depth": 2}
    experts = {**QWEN3_EXPERTS, "shared_expert_intermediate_size": 32}
    config_class = Qwen3_5MoeConfig if moe else Qwen3_5Config
    model_class = Qwen3_5MoeForConditionalGeneration if moe else Qwen3_5ForConditionalGeneration
    text = text_config(tokenizer, changes, **LINEAR, **(experts if moe else {}))
    config = config_class(text_config=text, vision_config=vision, **_special_ids(tokenizer))
    return model_class(config), _qwen3_processor(tokenizer, QWEN3_5_CHAT)


def _qwen3_5_moe(changes: dict[str, Any]) -> tuple[nn.Module, Any]:
    return _qwen3_5(changes, moe=True)


def _qwen2(changes: dict[str, Any]) -> tuple[nn.Module, Any]:
    tokenizer = byte_tokenizer(QWEN)
    vision = {
        "depth": 2, "embed_dim": 32, "mlp_ratio": 2, "num_heads": 2, "patch_size": 14,
        "hidden_size": TEXT["hidden_size"],
    }  # fmt: skip
    text = text_config(tokenizer, changes, rope_parameters=M_ROPE)
    config = Qwen2VLConfig(text_config=text, vision_config=vision, **_special_ids(tokenizer))
    return Qwen2VLForConditionalGeneration(config), _qwen2_processor(Qwen2VLProcessor, tokenizer)


def _qwen2_5(changes: dict[str, Any]) -> tuple[nn.Module, Any]:
    tokenizer = byte_tokenizer(QWEN)
    vision = {
        "depth": 3, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 14, "window_size": 56,
        "out_hidden_size": TEXT["hidden_size"], "fullatt_block_indexes": [1],
    }  # fmt: skip
    text = text_config(tokenizer, changes, rope_parameters=M_ROPE)
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **_special_ids(tokenizer))
    return Qwen2_5_VLForConditionalGeneration(config), _qwen2_processor(Qwen2_5_VLProcessor, tokenizer)


def _qwen2_processor(kind: type, tokenizer: Any) -> Any:
    video = Qwen2VLVideoProcessor(patch_size=14, **_video_size(14, frames=1))
    images = _image_processor(14)
    return kind(image_processor=images, tokenizer=tokenizer, video_processor=video, chat_template=QWEN2_CHAT)


def _glm(config_class: type, model_class: type, processor_classes: tuple[type, type, type]) -> Builder:
    """A builder of one of the GLM-V families, which differ only in their classes."""

    def build(changes: dict[str, Any]) -> tuple[nn.Module, Any]:
        tokenizer = byte_tokenizer(GLM)
        ids = dict(zip(GLM, tokenizer.convert_tokens_to_ids(list(GLM)), strict=True))
        vision = {
            "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 14,
            "image_size": 112, "out_hidden_size": TEXT["hidden_size"],
        }  # fmt: skip
        own = {"rope_parameters": HALF_ROTATED, **(GLM_EXPERTS if config_class is Glm4vMoeConfig else {})}
        config = config_class(
            text_config=text_config(tokenizer, changes, **own), vision_config=vision,
            image_token_id=ids["<|image|>"], video_token_id=ids["<|video|>"],
            image_start_token_id=ids["<|begin_of_image|>"], image_end_token_id=ids["<|end_of_image|>"],
            video_start_token_id=ids["<|begin_of_video|>"], video_end_token_id=ids["<|end_of_video|>"],
        )  # fmt: skip
        processor_class, image_class, video_class = processor_classes
        # The limits on pixels count an image as two frames.
        size = {"shortest_edge": 2 * 4 * 14 * 14, "longest_edge": 2 * 64 * 14 * 14}
        processor = processor_class(
            image_processor=image_class(size=size), tokenizer=tokenizer, video_processor=video_class(),
            chat_template=GLM_CHAT,
        )  # fmt: skip
        return model_class(config), processor

    return build


GLM_4V = (Glm4vProcessor, Glm4vImageProcessor, Glm4vVideoProcessor)
GLM_46V = (Glm46VProcessor, Glm46VImageProcessor, Glm46VVideoProcessor)
BUILDERS = {
    "Qwen2-VL": _qwen2,
    "Qwen2.5-VL": _qwen2_5,
    "Qwen3-VL": _qwen3,
    "Qwen3-VL-MoE": _qwen3_moe,
    "Qwen3.5": _qwen3_5,
    "Qwen3.5-MoE": _qwen3_5_moe,
    "GLM-4V": _glm(Glm4vConfig, Glm4vForConditionalGeneration, GLM_4V),
    "GLM-4.6V": _glm(Glm46VConfig, Glm46VForConditionalGeneration, GLM_46V),
    "GLM-4V-MoE": _glm(Glm4vMoeConfig, Glm4vMoeForConditionalGeneration, GLM_4V),
}
