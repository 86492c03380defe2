"""What `model.generate` is given: inputs, text or ids, and the arguments of TransformerBridge's `generate`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import StoppingCriteriaList

from gaze_lens.errors import InputError
from gaze_lens.families.cache_argument import cache_in
from gaze_lens.inputs.typed_text import check_utf8
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.model.generation import Generation

RETURN_TYPES = (None, "input", "str", "tokens")
SAMPLING = {"temperature": (None, 0, 1), "top_k": (None,), "top_p": (None,)}  # with the values that change nothing
# TransformerBridge's arguments that are not served: the values that ask for nothing, and what to do instead.
REFUSED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "freq_penalty": ((None, 0), "Hugging Face's generate has repetition_penalty="),
    "return_cache": ((None, False), "names_filter= keeps activations; or run_with_cache(generation.sequences)"),
    "return_input_tokens": ((None, False), "generation.sequences begin with the prompt's tokens"),
    "device": ((None,), "the activations that names_filter= keeps stay on the model's device"),
    "padding_side": ((None, "left"), "text is padded on the left, and ids bring attention_mask="),
    "forced_bos_token_id": ((None,), "it is for models of encoder and decoder"),
}


@dataclass(frozen=True, eq=False)
class Prompt:
    """ids: `[row, position]`. arguments: the others of the forward. inputs: those of `model.prepare`, if any."""

    ids: Tensor
    arguments: dict[str, Any]
    inputs: VLMInputs | None = None
    is_text: bool = False


def prompt_of(model: Any, given: Any, *, chat_template: bool, prepend_bos: bool | None) -> Prompt:
    """What to go on from, whatever it was given as; InputError for what is none of these, and for no token."""
    texts = [given] if isinstance(given, str) else given
    is_text = isinstance(texts, list | tuple) and len(texts) > 0 and all(isinstance(text, str) for text in texts)
    if not is_text and (chat_template or prepend_bos is not None):
        raise InputError("chat_template= and prepend_bos= are for text; model.prepare and ids have said it already.")
    if chat_template and prepend_bos is not None:
        raise InputError("The chat template says whether a prompt begins with BOS; leave out prepend_bos=.")
    if is_text and chat_template:
        given = model.prepare(None, list(texts))
    elif is_text:
        return Prompt(*_tokenized(model, list(texts), prepend_bos), is_text=True)
    if isinstance(given, VLMInputs):
        return Prompt(given.input_ids, given.arguments(), given, is_text)
    is_ids = isinstance(given, Tensor) and not given.is_floating_point() and given.ndim in (1, 2) and given.numel() > 0
    if not is_ids:
        raise InputError(
            f"generate takes what model.prepare returns, a text, a list of texts, or token ids [row, position], not "
            f"{type(given).__name__}."
        )
    return Prompt(given.reshape(-1, given.shape[-1]).to(model._input_device()), {})


def check_ids(prompt: Prompt, given: Any, options: Mapping[str, Any]) -> None:
    """InputError where token ids come with a mask of another shape, or are to be padded, which they are already."""
    mask = options.get("attention_mask")
    ahead = cache_in(options) is not None  # then the mask is of the tokens in the cache, too
    if isinstance(mask, Tensor) and mask.ndim == 2 and not ahead and mask.shape != prompt.ids.shape:
        raise InputError(
            f"attention_mask is {tuple(mask.shape)}, and the prompt {tuple(prompt.ids.shape)}; give a 0 or 1 for every "
            "token of the prompt."
        )
    if isinstance(given, Tensor) and options.get("padding_side") is not None:
        raise InputError("padding_side= is for text; say which of the ids are padding with attention_mask=.")


def _tokenized(model: Any, texts: list[str], prepend_bos: bool | None) -> tuple[Tensor, dict[str, Tensor]]:
    """The ids of texts, padded on the left, and their attention mask."""
    for text in texts:
        check_utf8("text", text)
    rows = [model.to_tokens(text, prepend_bos=prepend_bos, truncate=False)[0].long() for text in texts]
    if not all(map(len, rows)):
        raise InputError(f"The text {texts[[len(row) for row in rows].index(0)]!r} has no token to go on from.")
    pad = model.tokenizer.pad_token_id or 0
    ids = pad_sequence(rows, batch_first=True, padding_value=pad, padding_side="left")
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side="left")
    return ids, {"attention_mask": mask}


def hugging_face_options(model: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Options of `generate`, TransformerBridge's as Hugging Face calls them; InputError for what is not served."""
    for name, (nothing, instead) in REFUSED.items():
        if options.get(name) not in nothing:
            raise InputError(f"{name}={options[name]!r} is not served by generate: {instead}.")
    selected = {name: value for name, value in options.items() if name not in REFUSED and name != "verbose"}
    if not selected.pop("stop_at_eos", True):
        selected["eos_token_id"] = None
    if "use_past_kv_cache" in selected:
        selected["use_cache"] = selected.pop("use_past_kv_cache")
    if not selected.get("stop_strings", True):
        del selected["stop_strings"]
    elif selected.get("stop_strings") is not None:
        selected.setdefault("tokenizer", model.tokenizer)
    if selected.get("stopping_criteria") is not None:
        selected["stopping_criteria"] = _criteria(selected["stopping_criteria"])
    if selected.get("output_logits"):
        selected["return_dict_in_generate"] = True
    if "do_sample" not in selected and selected.get("generation_config") is None:
        _refuse_idle_sampling(selected)
    return selected


def _criteria(given: Any) -> StoppingCriteriaList:
    """One of Hugging Face's stopping criteria, or several, as a list of them."""
    criteria = given if isinstance(given, list | tuple) else [given]
    for one in criteria:
        if not callable(one):
            raise InputError(f"stopping_criteria holds {one!r}; give a StoppingCriteria of Hugging Face, or a list.")
    return StoppingCriteriaList(criteria)


def _refuse_idle_sampling(options: dict[str, Any]) -> None:
    """InputError for what acts on sampling alone: TransformerBridge samples unless told not to; `generate` does not."""
    idle = [name for name, nothing in SAMPLING.items() if options.get(name) not in nothing]
    if idle:
        raise InputError(
            f"{idle[0]}={options[idle[0]]!r} acts on sampling, and generate takes the likeliest token; give "
            "do_sample=True."
        )
    options.pop("temperature", None)


def check_return_type(return_type: str | None, options: Mapping[str, Any]) -> None:
    """InputError for an unknown kind of result, and for one that has no place for the logits that are asked for."""
    if return_type not in RETURN_TYPES:
        raise InputError(
            f"return_type={return_type!r} was given; give 'tokens', 'str', 'input' (as TransformerBridge), or leave it "
            "out for a Generation."
        )
    if return_type is not None and options.get("output_logits"):
        raise InputError("output_logits=True puts logits into the Generation; leave out return_type=.")


def as_asked(generation: Generation, return_type: str | None, prompt: Prompt, tokenizer: Any) -> Any:
    """A generation, or prompt and answer in one as TransformerBridge returns them: ids, or text without special tokens.

    One text is a str, several are a list.
    """
    if return_type is None:
        return generation
    if return_type == "tokens" or (return_type == "input" and not prompt.is_text):
        return generation.sequences
    texts = tokenizer.batch_decode(generation.sequences, skip_special_tokens=True)
    return texts[0] if len(texts) == 1 else texts
