"""Loading checkpoints with Hugging Face's own classes, and saying clearly what is wrong with one."""

import os
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from packaging.version import Version
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from gaze_lens.errors import ModelError
from gaze_lens.families import Family, family_of
from gaze_lens.inputs.text_processor import TextProcessor
from gaze_lens.model.hub_errors import reason
from gaze_lens.model.peft_layers import WRAPPED, merged_weights

NARROW, SMALL = 8, 1_000_000  # width of the MLPs of a skeleton, and numbers in a parameter that it really has
UNLOADABLE = (OSError, ValueError, RuntimeError, ImportError, SafetensorError, UnpicklingError, EOFError, KeyError)
SPREAD = ("auto", "balanced", "balanced_low_0", "sequential")  # values of device_map that are no device
DTYPES = ("float32", "bfloat16", "float16", "float64")
HUB = (
    "token", "cache_dir", "local_files_only", "force_download", "proxies", "subfolder", "trust_remote_code",
    "gguf_file",
)  # fmt: skip


def load(
    name_or_folder: str, *, device: Any, dtype: Any, device_map: Any, revision: str | None, **options: Any
) -> tuple[nn.Module, Any]:
    """The model, in eval mode, and its processor. `options` go to the model; those about the hub, to all that is read.

    Raises ModelError for what cannot be loaded, and says why.
    """
    if device is not None and device_map is not None:
        raise ModelError("Both device and device_map were given; give device for one device, device_map for several.")
    _check_dtype(dtype)
    for one in (device, device_map):
        if one is not None and not isinstance(one, dict) and one not in SPREAD:
            _check_device(one)
    options = {"trust_remote_code": False, **options}  # None would ask on standard input
    name, hub = str(name_or_folder), {key: options[key] for key in HUB if key in options}
    config = _config(name, revision, **hub)
    processor = _processor(name, revision, family_of(config), **hub)
    auto_class: Any = AutoModelForCausalLM if family_of(config).text_only else AutoModelForImageTextToText
    options = {**options, "config": config, "dtype": dtype, "device_map": device_map, "revision": revision}
    try:
        loaded: Any = auto_class.from_pretrained(name, output_loading_info=True, **options)
    except UNLOADABLE as error:
        raise ModelError(f"{name} cannot be loaded: {reason(error)}{_note_on_gguf(hub)}") from error
    model, info = loaded
    missing = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if missing:
        raise ModelError(
            f"The checkpoint {name} lacks {len(missing)} weights of {type(model).__name__} (the first: {missing[0]}); "
            "they would be random. Download it again."
        )
    return (model if device is None else model.to(device)).eval(), processor


def _note_on_gguf(hub: Mapping[str, Any]) -> str:
    """What a GGUF file must be; "" for other checkpoints."""
    if "gguf_file" not in hub:
        return ""
    return (
        f" {hub['gguf_file']} must be a whole GGUF file, in a quantisation that the package gguf unpacks, such as F16, "
        "Q8_0 or Q4_K."
    )


def _check_dtype(dtype: Any) -> None:
    """ModelError for a dtype in which no model runs; a model is packed in fewer bits by quantization_config."""
    names = [*DTYPES, *(f"torch.{name}" for name in DTYPES)]
    if dtype is not None and str(dtype) not in ("auto", *names):
        raise ModelError(
            f"dtype={dtype!r} was given; a model runs in {', '.join(DTYPES)}, or in what its checkpoint says "
            '("auto"). Fewer bits are a quantization_config= of Hugging Face.'
        )


def _check_device(device: Any) -> None:
    """ModelError for a device that is not here, before anything is read."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:  # AssertionError: PyTorch without CUDA
        raise ModelError(
            f"The device {str(device)!r} was given, and PyTorch cannot use it here ({reason(error)}); give one that "
            'this machine has, such as "cpu".'
        ) from error


def _config(name: str, revision: str | None, **hub: Any) -> Any:
    try:
        return _thinker(AutoConfig.from_pretrained(name, revision=revision, **hub))
    except (OSError, ValueError, ImportError, StrictDataclassError) as error:
        note = _note_on_gguf(hub) or (_newer(name, revision, **hub) if isinstance(error, ValueError) else "")
        if "trust_remote_code" in str(error):
            note = " Its code is run only with from_pretrained(..., trust_remote_code=True)."
        why = f"{reason(error)}{note}"
        raise ModelError(f"{name} is no model that Hugging Face can load (config.json): {why}") from error


def _thinker(config: Any) -> Any:
    """Of an Omni model's config, that of its thinker, which reads pictures and writes text; the other parts speak.

    Hugging Face's class of the thinker finds its own weights in the whole model's checkpoint.
    """
    thinker: Any = deepcopy(getattr(config, "thinker_config", None))
    if getattr(thinker, "model_type", None) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return config
    thinker.architectures = [MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[thinker.model_type]]
    thinker.dtype = thinker.dtype or config.dtype
    return thinker


def _newer(name: str, revision: str | None, **hub: Any) -> str:
    """A remark on a config.json that a newer transformers wrote."""
    try:
        written = Version(PreTrainedConfig.get_config_dict(name, revision=revision, **hub)[0]["transformers_version"])
    except (OSError, ValueError, KeyError, TypeError):  # the error that led here tells more
        return ""
    if written <= Version(transformers.__version__):
        return ""
    return f" Its config.json was written by transformers {written}, and {transformers.__version__} is installed."


def _tokenizer(name: str, revision: str | None, **hub: Any) -> Any:
    """The tokenizer of a language model."""
    try:
        return AutoTokenizer.from_pretrained(name, revision=revision, **hub)
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(
            f"{name} has no tokenizer that Hugging Face can load: {reason(error)} Save one beside the weights: "
            "tokenizer.save_pretrained(folder)."
        ) from error


def _processor(name: str, revision: str | None, family: Family, **hub: Any) -> Any:
    if family.text_only:
        return TextProcessor(_tokenizer(name, revision, **hub))
    try:
        processor = AutoProcessor.from_pretrained(name, revision=revision, **hub)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{name} has no processor that Hugging Face can load ({reason(error)}). Save one beside the weights: "
            "processor.save_pretrained(folder)."
        ) from error
    except ImportError as error:  # SmolVLM's needs num2words
        raise ModelError(f"The processor of {name} lacks a package: {error}") from error
    if not hasattr(processor, "image_processor"):
        raise ModelError(
            f"{name} has a {type(processor).__name__} but no image processor. Save the model's full processor beside "
            "the weights: processor.save_pretrained(folder)."
        )
    if not family.no_chat_template and getattr(processor, "chat_template", None) is None:
        raise ModelError(
            f"{name} has a processor without a chat template; prompts cannot be written as the model knows them. Put "
            "chat_template.jinja beside the weights."
        )
    return processor


def save(hf_model: Any, processor: Any, folder: str | os.PathLike[str]) -> None:
    """Write a bridged model as a Hugging Face checkpoint folder, under the names that its weights had before.

    What PEFT's adapters add is merged into the weights that are written. ModelError where a weight is not found.
    """
    with torch.device("meta"):
        names = set(type(hf_model)(hf_model.config).state_dict())
    state = {key.replace(WRAPPED, ""): weight for key, weight in hf_model.state_dict().items()}
    for layer, weights in merged_weights(hf_model).items():
        state |= {f"{layer}.{name}": weight for name, weight in weights.items()}
    missing = sorted(names - set(state))
    if missing:
        raise ModelError(
            f"{len(missing)} weights of {type(hf_model).__name__} are not where Hugging Face has them (the first: "
            f"{missing[0]}), and the folder could not be read again. If an adapter took their place, wrap the model "
            "after peft_model.merge_and_unload()."
        )
    hf_model.save_pretrained(folder, state_dict={name: weight for name, weight in state.items() if name in names})
    processor.save_pretrained(folder)


def short_name(name_or_folder: str | Path) -> str:
    """A model's name for files of heads: a folder's own name, wherever it stands on this machine; else the hub's."""
    path = Path(name_or_folder)
    return path.resolve().name if path.is_dir() else str(name_or_folder)


def skeleton(name_or_folder: str, *, revision: str | None = None) -> tuple[nn.Module, Any]:
    """The layers of a model without its weights, and its processor; errors as for `load`.

    All is on the meta device but small parameters, which are 0: TransformerLens cuts some families' fused MLP weights
    in two while it bridges. For that they are narrow here; what attention is made of has its true shape.
    """
    config = _config(str(name_or_folder), revision, trust_remote_code=False)
    family = family_of(config)
    processor = _processor(str(name_or_folder), revision, family, trust_remote_code=False)
    config = deepcopy(config)
    text = config.get_text_config()
    by_layer = isinstance(text.intermediate_size, list | tuple)  # Gemma 3n
    text.intermediate_size = [NARROW] * len(text.intermediate_size) if by_layer else NARROW
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.numel() <= SMALL:
                setattr(module, name, nn.Parameter(torch.zeros_like(parameter, device="cpu"), requires_grad=False))
    return model.eval(), processor
