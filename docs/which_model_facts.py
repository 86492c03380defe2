"""Facts of docs/which_model.md that are not measured: ids on the hub, and billions of parameters, rounded.

They were written down from the models' names and pages. Correct a number by the model's own:
`sum(p.numel() for p in hf_model.parameters()) / 1e9`.
"""

from typing import NamedTuple


class Checkpoint(NamedTuple):
    """An id on the hub, and its parameters, vision tower and all experts included."""

    id: str
    billions: float


def _all(*given: tuple[str, float]) -> tuple[Checkpoint, ...]:
    return tuple(Checkpoint(*one) for one in given)


SAME_PICTURES = {"Qwen3-VL-MoE": "Qwen3-VL", "Qwen3.5-MoE": "Qwen3.5", "GLM-4V-MoE": "GLM-4V"}  # one image processor
PUBLISHED: dict[str, tuple[Checkpoint, ...]] = {
    "Qwen2-VL": _all(("Qwen/Qwen2-VL-2B-Instruct", 2.2), ("Qwen/Qwen2-VL-7B-Instruct", 8.3)),
    "Qwen2.5-VL": _all(
        ("Qwen/Qwen2.5-VL-3B-Instruct", 3.8), ("Qwen/Qwen2.5-VL-7B-Instruct", 8.3),
        ("Qwen/Qwen2.5-VL-32B-Instruct", 33), ("Qwen/Qwen2.5-VL-72B-Instruct", 73),
    ),
    "Qwen3-VL": _all(
        ("Qwen/Qwen3-VL-2B-Instruct", 2.1), ("Qwen/Qwen3-VL-4B-Instruct", 4.4), ("Qwen/Qwen3-VL-8B-Instruct", 8.8),
        ("Qwen/Qwen3-VL-32B-Instruct", 33),
    ),
    "Qwen3-VL-MoE": _all(("Qwen/Qwen3-VL-30B-A3B-Instruct", 31), ("Qwen/Qwen3-VL-235B-A22B-Instruct", 236)),
    "Qwen3.5": _all(("Qwen/Qwen3.5-9B", 9), ("Qwen/Qwen3.5-27B", 27)),
    "Qwen3.5-MoE": _all(("Qwen/Qwen3.5-35B-A3B", 35), ("Qwen/Qwen3.5-397B-A17B", 397)),
    "GLM-4V": _all(("zai-org/GLM-4.1V-9B-Thinking", 10)),
    "GLM-4.6V": _all(("zai-org/GLM-4.6V-Flash", 10)),
    "GLM-4V-MoE": _all(("zai-org/GLM-4.5V", 108)),
    "Qwen2.5-Omni": _all(("Qwen/Qwen2.5-Omni-3B", 4.7), ("Qwen/Qwen2.5-Omni-7B", 8.9)),  # the thinker alone
    "Qwen3-Omni": _all(("Qwen/Qwen3-Omni-30B-A3B-Instruct", 32)),  # the thinker alone
    "GLM-OCR": _all(("zai-org/GLM-OCR", 0.9)),
    "PaddleOCR-VL": _all(("PaddlePaddle/PaddleOCR-VL", 0.9)),
    "VideoLLaMA 3": _all(("lkhl/VideoLLaMA3-2B-Image-HF", 2.0)),
    "LightOnOCR": _all(("lightonai/LightOnOCR-1B-1025", 1.0)),
    "Qianfan-OCR": _all(("baidu/Qianfan-OCR", 4.7)),
    "VipLlava": _all(("llava-hf/vip-llava-7b-hf", 7.1), ("llava-hf/vip-llava-13b-hf", 13.4)),
    "DeepSeek-VL": _all(("deepseek-community/deepseek-vl-1.3b-chat", 2.0)),
    "MiniCPM-V 4.6": _all(("openbmb/MiniCPM-V-4.6", 1.3)),
    "MiniCPM-V 4.7": _all(("openbmb/MiniCPM-V-4.7-1B", 1)),
    "LFM2-VL": _all(("LiquidAI/LFM2-VL-450M", 0.45), ("LiquidAI/LFM2-VL-1.6B", 1.6)),
    "Ovis2": _all(("thisisiron/Ovis2-1B-hf", 1.3), ("thisisiron/Ovis2-2B-hf", 2.5)),
    "PaliGemma": _all(
        ("google/paligemma-3b-mix-224", 2.9), ("google/paligemma2-3b-pt-224", 3.0),
        ("google/paligemma2-10b-pt-224", 9.7),
    ),
    "Gemma 3n": _all(("google/gemma-3n-E2B-it", 5.4), ("google/gemma-3n-E4B-it", 7.8)),
    "Gemma 4": _all(("google/gemma-4-E2B-it", 5.1), ("google/gemma-4-E4B-it", 8)),
    "Pixtral": _all(("mistral-community/pixtral-12b", 12.7)),
    "LLaVA": _all(("llava-hf/llava-1.5-7b-hf", 7.1), ("llava-hf/llava-1.5-13b-hf", 13.4)),
    "Mistral3": _all(("mistralai/Mistral-Small-3.1-24B-Instruct-2503", 24)),
    "LLaVA-NeXT": _all(
        ("llava-hf/llava-v1.6-mistral-7b-hf", 7.6), ("llava-hf/llava-v1.6-vicuna-7b-hf", 7.1),
        ("llava-hf/llava-v1.6-34b-hf", 35),
    ),
    "LLaVA-OneVision": _all(
        ("llava-hf/llava-onevision-qwen2-0.5b-ov-hf", 0.9), ("llava-hf/llava-onevision-qwen2-7b-ov-hf", 8.0),
    ),
    "InternVL": _all(
        ("OpenGVLab/InternVL3-1B-hf", 0.9), ("OpenGVLab/InternVL3-2B-hf", 2.1), ("OpenGVLab/InternVL3-8B-hf", 7.9),
        ("OpenGVLab/InternVL3-14B-hf", 15),
    ),
    "AyaVision": _all(("CohereLabs/aya-vision-8b", 8.6), ("CohereLabs/aya-vision-32b", 33)),
    "Cohere2Vision": _all(("CohereLabs/command-a-vision-07-2025", 112)),
    "Idefics3": _all(
        ("HuggingFaceM4/Idefics3-8B-Llama3", 8.5), ("HuggingFaceTB/SmolVLM-256M-Instruct", 0.26),
        ("HuggingFaceTB/SmolVLM-Instruct", 2.2), ("ibm-granite/granite-docling-258M", 0.26),
    ),
    "SmolVLM": _all(
        ("HuggingFaceTB/SmolVLM2-256M-Video-Instruct", 0.26), ("HuggingFaceTB/SmolVLM2-500M-Video-Instruct", 0.51),
        ("HuggingFaceTB/SmolVLM2-2.2B-Instruct", 2.2),
    ),
    "Gemma 3": _all(("google/gemma-3-4b-it", 4.3), ("google/gemma-3-12b-it", 12.2), ("google/gemma-3-27b-it", 27.4)),
    "Llama 4": _all(("meta-llama/Llama-4-Scout-17B-16E-Instruct", 109)),
    "Molmo2": _all(("allenai/Molmo2-4B", 4.9), ("allenai/Molmo2-8B", 8.7)),
    "Mllama": _all(
        ("meta-llama/Llama-3.2-11B-Vision-Instruct", 10.7), ("meta-llama/Llama-3.2-90B-Vision-Instruct", 89),
    ),
}  # fmt: skip
