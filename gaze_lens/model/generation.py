"""What a generation leaves: its text, its tokens, what was captured on the way, and which edits were reached."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Int
from torch import Tensor

from gaze_lens.attention.score_edit import ScoreEdit
from gaze_lens.errors import HookError, InputError
from gaze_lens.html_tables import html_table
from gaze_lens.model.exposure import Exposure
from gaze_lens.model.live_hooks import filter_function
from gaze_lens.model.memory_limit import check_memory
from gaze_lens.model_protocol import Model
from gaze_lens.whole_numbers import is_count

LENGTHS = ("max_new_tokens", "max_length")
ASSISTED = ("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp")
COPIES = ("num_beams", "num_return_sequences")


@dataclass(frozen=True, eq=False)
class Generation:
    """The record of `model.generate`; `str(generation)` is the text.

    texts: one per returned sequence (rows x return sequences), without special tokens.
    tokens: the generated ids only, `[sequence, step]`; step 0 is the token that the prefill produced.
    sequences: prompt and generated ids, `[sequence, position]`.
    activations: for each hook name asked for, one tensor per forward: the prefill, then every decode step.
    unreached: the edits of a schedule that the text ended before.
    acted: for each `ScoreEdit` that acted, in how many forwards it changed the scores of each layer.
    logits: with `output_logits=True`, for each step, the model's logits as Hugging Face returns them.
    exposure: with `exposure=True`, the attention of every edited head with and without the edits, at every step.
    """

    texts: tuple[str, ...]
    tokens: Int[Tensor, "sequence step"]
    sequences: Int[Tensor, "sequence position"]
    activations: dict[str, list[Tensor]] = field(default_factory=dict, repr=False)
    unreached: tuple[ScoreEdit, ...] = ()
    acted: dict[ScoreEdit, dict[int, int]] = field(default_factory=dict, repr=False)
    logits: tuple[Tensor, ...] | None = field(default=None, repr=False)
    exposure: Exposure | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return "\n".join(self.texts)

    def _repr_html_(self) -> str:
        return html_table(f"Generation of {self.n_steps} tokens", ["sequence", "text"], enumerate(self.texts))

    @property
    def n_steps(self) -> int:
        """Tokens generated in the longest sequence."""
        return self.tokens.shape[1]


def generation_options(options: dict[str, Any], max_new_tokens: int | None) -> dict[str, Any]:
    """The options for Hugging Face's `generate`: greedy and 64 new tokens, where the caller does not say otherwise.

    InputError for a length that is no whole number from 1.
    """
    check_length("max_new_tokens", max_new_tokens)
    check_length("max_length", options.get("max_length"))
    selected, config = dict(options), options.get("generation_config")
    if config is None and not selected.setdefault("do_sample", False):
        selected = {"temperature": None, "top_p": None, "top_k": None, **selected}
    lengths = max_new_tokens, options.get("max_length"), *(getattr(config, name, None) for name in LENGTHS)
    if all(length is None for length in lengths):
        max_new_tokens = 64
    return selected if max_new_tokens is None else {**selected, "max_new_tokens": max_new_tokens}


def check_length(name: str, length: Any) -> None:
    """InputError unless a length is a whole number from 1, or None."""
    if length is not None and not is_count(length):
        raise InputError(f"{name}={length!r} was given; give a whole number of tokens, 1 or more.")


def refuse_assisted(model: Model, options: dict[str, Any]) -> None:
    """InputError for draft tokens where the image is read by cross-attention: Hugging Face cuts the image's keys when
    it takes drafts back."""
    configs = options.get("generation_config"), model.original_model.generation_config
    asked = [name for name in ASSISTED if option(name, options, *configs) not in (None, False)]
    if asked and model.family.cross_attention and model.family.brings_images(options):
        raise InputError(
            f"{asked[0]} was given, and {model.family.name} reads the image by cross-attention: when Hugging Face "
            "takes draft tokens back, it cuts as many keys of the image from the cache. Generate without it; the "
            "tokens are the same."
        )


def option(name: str, options: dict[str, Any], *configs: Any) -> Any:
    """An option of `generate` as it is given, or as the first config has it."""
    values = [options.get(name), *(getattr(config, name, None) for config in configs)]
    return next((value for value in values if value is not None), None)


def copies_of(options: dict[str, Any]) -> int:
    """How often Hugging Face's `generate` runs every row: as beams, or as sequences to return."""
    config = options.get("generation_config")
    return max(options.get(name) or getattr(config, name, None) or 1 for name in COPIES)


def capturing(
    model: Model, inputs: Any, names_filter: Any, max_bytes: float | None, copies: int = 1
) -> tuple[dict[str, list[Tensor]], list[tuple[str, Callable]]]:
    """Lists that fill as a model generates, and the hooks that fill them; HookError where the filter lets none pass."""
    if names_filter is None:
        return {}, []
    check_memory(model, inputs, max_bytes, names_filter=names_filter, copies=copies)
    keep = filter_function(model, names_filter)
    matched = {name: model._gated_hook_reason(name) for name in model.hook_dict if keep(name)}
    names = [name for name, switch in matched.items() if switch is None]
    if not names:
        off = sorted({switch for switch in matched.values() if switch is not None})
        switches = " and ".join(f"model.set_{switch}(True)" for switch in off)
        way = f"call {switches} first" if switches else "see model.hook_dict for the names"
        raise HookError(f"names_filter {names_filter!r} matches no hook point that is on; {way}.")
    captured: dict[str, list[Tensor]] = {name: [] for name in names}

    def save(name: str) -> Callable:
        return lambda tensor, hook: captured[name].append(tensor.detach().clone())  # noqa: ARG005

    return captured, [(name, save(name)) for name in names]
