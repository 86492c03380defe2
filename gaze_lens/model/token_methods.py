"""TransformerBridge's methods on tokens, on `VLMInputs` and on what a processor returns.

model.to_string(inputs); model.get_token_position("?", inputs); model.loss_fn(logits, inputs)
model(**inputs); model.run_with_cache(processor(text=..., images=..., return_tensors="pt"))
"""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from torch import Tensor

from gaze_lens.errors import InputError
from gaze_lens.inputs.typed_text import check_utf8
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.model.vlm_bridge import VLMBridge

GIVEN = ("input", "inputs", "input_ids")  # what the first argument of a run may be called


def unpacking(run: Callable) -> Callable:
    """A method whose first argument may be a mapping of tensors, or its `input_ids` with the others by name."""

    @wraps(run)
    def unpacked(self: Any, *args: Any, **options: Any) -> Any:
        names = [name for name in GIVEN if name in options]
        if len(args[:1]) + len(names) != 1:
            raise InputError(
                f"{run.__name__} runs on one argument, which comes first: what model.prepare returns, text, or token "
                f"ids (then input_ids= does, too). Given: {', '.join(['the first', *names] if args else names)}."
            )
        given, *rest = args or [options.pop(names[0])]
        if isinstance(given, Mapping):
            if "input_ids" not in given:
                raise InputError(f"input_ids is missing; the {type(given).__name__} given has {', '.join(given)}.")
            options = {**{name: value for name, value in given.items() if name != "input_ids"}, **options}
            given = given["input_ids"]
        return run(self, given, *rest, **options)

    return unpacked


def _ids(tokens: Any) -> Any:
    return tokens.input_ids if isinstance(tokens, VLMInputs) else tokens


class TokenMethods(VLMBridge):
    """The methods of `TransformerBridge` that read tokens and run no model: each takes `VLMInputs`, too."""

    def to_tokens(self, input: Any, *args: Any, **options: Any) -> Tensor:
        """As in TransformerLens; of `VLMInputs`, their token ids, without the image."""
        if isinstance(input, VLMInputs):
            return input.input_ids
        for text in [input] if isinstance(input, str) else input if isinstance(input, list | tuple) else []:
            if isinstance(text, str):
                check_utf8("text", text)
        return super().to_tokens(input, *args, **options)

    def to_string(self, tokens: Any) -> str | list[str]:
        """As in TransformerLens; of `VLMInputs`, a text for every row, padding and image tokens included."""
        return super().to_string(_ids(tokens))

    def to_str_tokens(self, input: Any, *args: Any, **options: Any) -> list[str] | list[list[str]]:
        """As in TransformerLens, one text for every position; of `VLMInputs` with one row."""
        if isinstance(input, VLMInputs) and input.n_rows != 1:
            raise InputError(
                f"to_str_tokens takes one row, and these inputs have {input.n_rows}; inputs.str_tokens(row=0) has one "
                "text for every position of a row."
            )
        return super().to_str_tokens(_ids(input), *args, **options)

    def get_token_position(self, single_token: Any, input: Any, *args: Any, **options: Any) -> int:
        """As in TransformerLens, in a text, ids or `VLMInputs` of one row."""
        return super().get_token_position(single_token, _ids(input), *args, **options)

    def tokens_to_residual_directions(self, tokens: Any) -> Tensor:
        """As in TransformerLens, of a text, an id, ids or `VLMInputs`; with the final norm's weight."""
        return super().tokens_to_residual_directions(_ids(tokens))

    def loss_fn(
        self, logits: Tensor, tokens: Any, attention_mask: Tensor | None = None, per_token: bool = False
    ) -> Tensor:
        """As in TransformerLens; of `VLMInputs`, the loss that `return_type="loss"` gives: padding is left out."""
        if isinstance(tokens, VLMInputs) and attention_mask is None:
            attention_mask = tokens.tensors.get("attention_mask")
        return super().loss_fn(logits, _ids(tokens), attention_mask, per_token)

    def input_to_embed(self, input: Any, *args: Any, **options: Any) -> tuple[Tensor, Tensor, None, Tensor | None]:
        """As in TransformerLens; of `VLMInputs`, the stream that enters block 0, image features in place."""
        if not isinstance(input, VLMInputs):
            return super().input_to_embed(input, *args, **options)
        if args or options:
            raise InputError("input_to_embed(inputs) takes nothing else: model.prepare has padded and masked the rows.")
        return self(input, stop_at_layer=0), input.input_ids, None, input.tensors.get("attention_mask")
