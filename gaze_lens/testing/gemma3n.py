"""A tiny Gemma 3n; its vision tower needs the package timm (`pip install "gaze-lens[gemma3n]"`)."""

from typing import Any

from torch import nn
from transformers import (
    Gemma3nAudioFeatureExtractor,
    Gemma3nConfig,
    Gemma3nForConditionalGeneration,
    Gemma3nProcessor,
    SiglipImageProcessor,
)

from gaze_lens.testing.parts import byte_tokenizer, text_config

# In the order of their ids: those from <end_of_image> on belong to pictures, from <end_of_audio> on to sound.
NAMED = {
    "start_token": "<start_of_turn>", "boi_token": "<start_of_image>", "boa_token": "<start_of_audio>",
    "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>", "eoa_token": "<end_of_audio>",
    "audio_token": "<audio_soft_token>",
}  # fmt: skip
CHAT = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>"
    "{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image_soft_token>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
SIDE, STRIDE = 64, 16  # pixels of the picture, and of a token
N_TOKENS = (SIDE // STRIDE) ** 2
VISION = {  # all layers of the published tower, with 8 channels or a few more
    "architecture": "mobilenetv5_300m_enc", "hidden_size": 2048,
    "model_args": {"channel_multiplier": 0.02, "msfa_output_resolution": SIDE // STRIDE},
}  # fmt: skip


def _gemma3n(changes: dict[str, Any]) -> tuple[nn.Module, Any]:
    """Three streams, of which layers compute on one; layers 2 and 3 take their keys from layers 0 and 1."""
    tokenizer = byte_tokenizer((), end="<end_of_turn>", pad="<pad>", bos_token="<bos>", extra_special_tokens=NAMED)
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in NAMED.items()}
    n_layers = changes.get("num_hidden_layers", 4)
    own = {
        "layer_types": (["sliding_attention", "full_attention"] * n_layers)[:n_layers], "sliding_window": 32,
        "num_kv_shared_layers": min(2, n_layers - 2), "hidden_size_per_layer_input": 8, "laurel_rank": 8,
        "vocab_size_per_layer_input": ids["eoi_token"], "altup_num_inputs": 3,
        "activation_sparsity_pattern": [0.5, *[0.0] * (n_layers - 1)],
    }  # fmt: skip
    text = {**text_config(tokenizer, changes, **own), "bos_token_id": tokenizer.bos_token_id}
    audio = {
        "conf_num_hidden_layers": 1, "hidden_size": 32, "conf_num_attention_heads": 2, "sscp_conv_channel_size": (4, 4),
        "input_feat_size": 16, "vocab_offset": ids["eoa_token"], "vocab_size": 2,
    }  # fmt: skip
    config = Gemma3nConfig(
        text_config=text, audio_config=audio,
        vision_config={**VISION, "vocab_offset": ids["eoi_token"], "vocab_size": 2},
        vision_soft_tokens_per_image=N_TOKENS, **{f"{name}_id": ids[name] for name in NAMED if name != "start_token"},
    )  # fmt: skip
    images = SiglipImageProcessor(size={"height": SIDE, "width": SIDE}, image_mean=[0.0] * 3, image_std=[1.0] * 3)
    processor = Gemma3nProcessor(
        feature_extractor=Gemma3nAudioFeatureExtractor(feature_size=16), image_processor=images, tokenizer=tokenizer,
        chat_template=CHAT, image_seq_length=N_TOKENS, audio_seq_length=4,
    )  # fmt: skip
    model = Gemma3nForConditionalGeneration(config)
    for name, parameter in model.named_parameters():
        if "layer_scale" in name or "correct_output_scale" in name:  # near 0 at initialization, so that nothing counts
            nn.init.constant_(parameter, 0.5)
    return model, processor


BUILDERS = {"Gemma 3n": _gemma3n}
