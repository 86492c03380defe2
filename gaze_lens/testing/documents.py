"""Tiny models of families that read documents: GLM-OCR, PaddleOCR-VL, LightOnOCR, Qianfan-OCR; and of VideoLLaMA 3."""

from typing import Any

from torch import nn
from transformers import (
    Glm46VImageProcessor,
    Glm46VProcessor,
    Glm46VVideoProcessor,
    GlmOcrConfig,
    GlmOcrForConditionalGeneration,
    GotOcr2ImageProcessor,
    LightOnOcrConfig,
    LightOnOcrForConditionalGeneration,
    LightOnOcrProcessor,
    PaddleOCRVLConfig,
    PaddleOCRVLForConditionalGeneration,
    PaddleOCRVLImageProcessor,
    PaddleOCRVLProcessor,
    PixtralImageProcessor,
    QianfanOCRConfig,
    QianfanOCRForConditionalGeneration,
    QianfanOCRProcessor,
    VideoLlama3Config,
    VideoLlama3ForConditionalGeneration,
    VideoLlama3ImageProcessor,
    VideoLlama3Processor,
    VideoLlama3VideoProcessor,
)

from gaze_lens.testing.parts import TEXT, byte_tokenizer, chat_template, text_config

CHAT = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
GLM = (
    "<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|begin_of_image|>", "<|image|>",
    "<|end_of_image|>", "<|begin_of_video|>", "<|video|>", "<|end_of_video|>",
)  # fmt: skip
# The parts of a message, with the image's tokens in the place of IMAGE.
PARTS = (
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
)
GLM_CHAT = (
    "[gMASK]<sop>{% for message in messages %}<|{{ message['role'] }}|>\n"
    + PARTS.replace("IMAGE", "<|begin_of_image|><|image|><|end_of_image|>")
    + "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
PADDLE = ("<unk>", "</s>", "<|begin_of_sentence|>", "<|IMAGE_START|>", "<|IMAGE_END|>", "<|video_pad|>")
PADDLE_CHAT = (
    "<|begin_of_sentence|>{% for message in messages %}{% if message['role'] == 'user' %}User: "
    + PARTS.replace("IMAGE", "<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>")
    + "{{ '\\n' }}{% elif message['role'] == 'assistant' %}Assistant:\n"
    + PARTS
    + "</s>{% else %}"
    + PARTS
    + "{{ '\\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}Assistant:\n{% endif %}"
)
M_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}
HALF_ROTATED = {**M_ROPE, "mrope_section": [2, 1, 1], "partial_rotary_factor": 0.5}
LONGEST = 140  # pixels of an image's longest side in LightOnOCR; larger images are resized


def _glm_ocr(changes: dict[str, Any]) -> tuple[nn.Module, Any]:
    tokenizer = byte_tokenizer(GLM, end="<|user|>")
    ids = dict(zip(GLM, tokenizer.convert_tokens_to_ids(list(GLM)), strict=True))
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 14, "image_size": 112,
        "out_hidden_size": TEXT["hidden_size"],
    }  # fmt: skip
    config = GlmOcrConfig(
        text_config=text_config(tokenizer, changes, rope_parameters=HALF_ROTATED), vision_config=vision,
        image_token_id=ids["<|image|>"], video_token_id=ids["<|video|>"],
        image_start_token_id=ids["<|begin_of_image|>"], image_end_token_id=ids["<|end_of_image|>"],
        video_start_token_id=ids["<|begin_of_video|>"], video_end_token_id=ids["<|end_of_video|>"],
    )  # fmt: skip
    size = {"shortest_edge": 2 * 4 * 14 * 14, "longest_edge": 2 * 64 * 14 * 14}  # an image counts as two frames
    processor = Glm46VProcessor(
        image_processor=Glm46VImageProcessor(size=size), tokenizer=tokenizer, video_processor=Glm46VVideoProcessor(),
        chat_template=GLM_CHAT,
    )  # fmt: skip
    return GlmOcrForConditionalGeneration(config), processor


def _paddleocr_vl(changes: dict[str, Any]) -> tuple[nn.Module, Any]:
    """The chat template writes the begin token."""
    tokenizer = byte_tokenizer(
        PADDLE, end="</s>", pad="<unk>", bos_token="<|begin_of_sentence|>",
        extra_special_tokens={"image_token": "<|IMAGE_PLACEHOLDER|>"},
    )  # fmt: skip
    text = text_config(tokenizer, changes, rope_parameters=M_ROPE, tie_word_embeddings=False)
    config = PaddleOCRVLConfig(
        text_config={**text, "bos_token_id": tokenizer.bos_token_id}, tie_word_embeddings=False,
        vision_config={**VISION, "patch_size": 14, "image_size": 112}, image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|IMAGE_START|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|IMAGE_END|>"),
    )  # fmt: skip
    size = {"shortest_edge": 4 * 14 * 14, "longest_edge": 64 * 14 * 14}
    processor = PaddleOCRVLProcessor(
        image_processor=PaddleOCRVLImageProcessor(size=size), tokenizer=tokenizer, chat_template=PADDLE_CHAT
    )
    return PaddleOCRVLForConditionalGeneration(config), processor


def _lighton_ocr(changes: dict[str, Any]) -> tuple[nn.Module, Any]:
    named = {
        "image_token": "<|image_pad|>", "image_break_token": "<|vision_pad|>", "image_end_token": "<|vision_end|>"
    }  # fmt: skip
    tokenizer = byte_tokenizer(CHAT, extra_special_tokens=named)
    config = LightOnOcrConfig(
        text_config={"model_type": "qwen3", **text_config(tokenizer, changes)}, image_token_id=tokenizer.image_token_id,
        vision_config={
            **VISION, "model_type": "pixtral", "head_dim": 16, "patch_size": 14, "image_size": LONGEST + 2 * 14
        },
        spatial_merge_size=2, tie_word_embeddings=False,
    )  # fmt: skip
    processor = LightOnOcrProcessor(
        image_processor=PixtralImageProcessor(size={"longest_edge": LONGEST}, patch_size=28), tokenizer=tokenizer,
        patch_size=14, spatial_merge_size=2, chat_template=chat_template("<|image_pad|>"),
    )  # fmt: skip
    return LightOnOcrForConditionalGeneration(config), processor


def _qianfan_ocr(changes: dict[str, Any]) -> tuple[nn.Module, Any]:
    """Tiles of 32 pixels in patches of 8, four of which make a token."""
    named = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    tokenizer = byte_tokenizer(CHAT, extra_special_tokens=named)
    config = QianfanOCRConfig(
        text_config={"model_type": "qwen3", **text_config(tokenizer, changes)},
        vision_config={**VISION, "image_size": (32, 32), "patch_size": (8, 8)}, image_seq_length=4,
        image_token_id=tokenizer.context_image_token_id,
    )  # fmt: skip
    images = GotOcr2ImageProcessor(size={"height": 32, "width": 32}, min_patches=1, max_patches=6)
    processor = QianfanOCRProcessor(
        image_processor=images, tokenizer=tokenizer, image_seq_length=4, chat_template=chat_template("<image>\n")
    )
    return QianfanOCRForConditionalGeneration(config), processor


def _video_llama_3(changes: dict[str, Any]) -> tuple[nn.Module, Any]:
    """Every patch of a picture is a token; those of a video's frames are merged."""
    named = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    tokenizer = byte_tokenizer(CHAT, extra_special_tokens=named)
    config = VideoLlama3Config(
        text_config={"model_type": "qwen2", **text_config(tokenizer, changes)},
        vision_config={**VISION, "patch_size": 14}, image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.video_token_id,
    )  # fmt: skip
    size = {"shortest_edge": 4 * 14 * 14, "longest_edge": 36 * 14 * 14}
    processor = VideoLlama3Processor(
        image_processor=VideoLlama3ImageProcessor(size=size), tokenizer=tokenizer,
        video_processor=VideoLlama3VideoProcessor(), chat_template=chat_template("<|image_pad|>\n"),
    )  # fmt: skip
    return VideoLlama3ForConditionalGeneration(config), processor


BUILDERS = {
    "GLM-OCR": _glm_ocr, "PaddleOCR-VL": _paddleocr_vl, "LightOnOCR": _lighton_ocr, "Qianfan-OCR": _qianfan_ocr,
    "VideoLLaMA 3": _video_llama_3,
}  # fmt: skip
