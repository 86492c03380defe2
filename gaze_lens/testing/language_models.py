"""Tiny language models without vision, one for each architecture that gaze_lens knows, and their tokenizers."""

from collections.abc import Callable
from functools import partial
from typing import Any

import transformers
from torch import nn
from transformers import PreTrainedTokenizerFast

from gaze_lens.testing.parts import byte_tokenizer, chat_template, text_config

MORE: dict[str, dict[str, Any]] = {  # beside what `text_config` gives
    "LlamaForCausalLM": {},
    "Qwen2ForCausalLM": {},
    "Qwen3ForCausalLM": {},
    "Qwen3MoeForCausalLM": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "Gemma2ForCausalLM": {"sliding_window": 16},
    "Gemma3ForCausalLM": {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "MistralForCausalLM": {"sliding_window": 40},
    "Olmo2ForCausalLM": {},
    "Olmo3ForCausalLM": {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "GraniteForCausalLM": {},
    "SmolLM3ForCausalLM": {},
    "Phi3ForCausalLM": {"pad_token_id": 0},
    "GptOssForCausalLM": {
        "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
}  # fmt: skip


def _build(architecture: str, changes: dict[str, Any]) -> tuple[nn.Module, PreTrainedTokenizerFast]:
    tokenizer = byte_tokenizer(("<|im_start|>",))
    tokenizer.chat_template = chat_template("")
    model_class = getattr(transformers, architecture)
    config = model_class.config_class(**text_config(tokenizer, changes, **MORE[architecture]))
    model = model_class(config)
    for name, parameter in model.named_parameters():
        if name.endswith("sinks"):  # which would be uninitialised memory
            nn.init.normal_(parameter)
    return model, tokenizer


LANGUAGE_MODELS: dict[str, Callable[[dict[str, Any]], tuple[nn.Module, Any]]] = {
    architecture: partial(_build, architecture) for architecture in MORE
}
