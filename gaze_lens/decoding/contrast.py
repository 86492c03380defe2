"""Contrast decoding: the next token by the difference of branches that see, or attend to, different things.

    contrast = gl.contrast_decoding(model, inputs, plus=hooks, minus=others, strength=1.0, cut=0.1)
    model.generate(inputs, decoding=contrast)

Two branches: (1 + strength) plus - strength minus. Three: base + strength (plus - minus). Tokens that the first branch
finds less than `cut` times as probable as its best are left out. The branches write one text.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from gaze_lens.decoding.branch import Branch, OtherHooks
from gaze_lens.errors import InputError, ModelError
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.model.edit_checks import hook_list
from gaze_lens.model.generation import copies_of
from gaze_lens.model.hooked_vlm import HookedVLM


class ContrastDecoding(LogitsProcessor):
    """What `contrast_decoding` returns, for `model.generate(inputs, decoding=...)`.

    hooks: those of the first branch, which the generation itself runs. Around Hugging Face's own `generate`:
    `with gl.steering(model, contrast.hooks), contrast.running(): hf_model.generate(..., logits_processor=[contrast])`.
    """

    def __init__(
        self, model: HookedVLM, inputs: VLMInputs, hooks: list, branches: list[Branch], strength: float, cut: float
    ) -> None:
        self.model, self.inputs, self.hooks = model, inputs, hooks
        self.branches, self.strength, self.cut = branches, strength, cut
        self._others: OtherHooks | None = None
        self._ids: Tensor | None = None
        self._failed: Tensor | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around one generation: the other branches are attached, and begin with their prompts.

        Afterwards, an edit of theirs that did nothing is a HookError, and logits that are no numbers a ModelError.
        """
        with self.model.attention_backend.lock.hold(), ExitStack() as stack:
            for branch in self.branches:
                stack.enter_context(branch.attached())
            self._others, self._ids, self._failed = OtherHooks(self.model, self.hooks), None, None
            try:
                yield
            finally:
                failed, self._others, self._ids, self._failed = self._failed, None, None, None
        if failed is not None and bool(failed):
            raise ModelError("A branch of the contrast has logits that are NaN or infinite; try float32.")

    def prepared(self, model: Any, inputs: Any, hooks: list, options: dict[str, Any]) -> tuple[list, dict[str, Any]]:
        """Hooks and options of `generate` with those of the contrast. InputError for other inputs, and beams."""
        if model is not self.model or not isinstance(inputs, VLMInputs) or not _same(inputs, self.inputs):
            raise InputError("decoding= was made for another model or other inputs; make it with those that are run.")
        if copies_of(options) > 1:
            raise InputError("Contrast decoding writes one text for each row; leave out beams and return sequences.")
        processors = LogitsProcessorList([*(options.get("logits_processor") or ()), self])
        return [*self.hooks, *hooks], {**options, "logits_processor": processors}

    @torch.no_grad()
    def __call__(
        self, input_ids: Int[Tensor, "row position"], scores: Float[Tensor, "row token"]
    ) -> Float[Tensor, "row token"]:
        """The contrast of the branches, given what the first one says."""
        if self._others is None:
            raise InputError("Contrast decoding runs inside model.generate(decoding=...), or contrast.running().")
        last = None
        if self._ids is not None:
            if input_ids.shape[1] != self._ids.shape[1] + 1 or not torch.equal(input_ids[:, :-1], self._ids):
                raise InputError("The rows do not go on from the step before, as in beam search; leave that out.")
            last = input_ids[:, -1]
        if len(input_ids) != self.inputs.n_rows:
            raise InputError(f"{len(input_ids)} rows are run, and the contrast is for {self.inputs.n_rows}.")
        self._ids = input_ids
        with self._others.away():
            logits = [branch.logits(last).to(scores.device) for branch in self.branches]
        self._note(logits)
        plus, minus = (scores, logits[0]) if len(logits) == 1 else logits
        mixed = scores + self.strength * (plus - minus)
        mixed = torch.where(mixed.isfinite(), mixed, 0.0)  # reported at the end; until then it can be sampled
        limit = scores.amax(-1, keepdim=True) + (math.log(self.cut) if self.cut > 0 else -math.inf)
        return mixed.masked_fill((scores < limit) | (scores == -math.inf), -math.inf)

    def _note(self, logits: list[Tensor]) -> None:
        """Whether any logits were no numbers; looked up when the generation has ended."""
        failed = torch.stack([(one * 0).sum() != 0 for one in logits]).any()
        self._failed = failed if self._failed is None else self._failed | failed


def contrast_decoding(
    model: Any,
    inputs: VLMInputs,
    plus: Iterable[Any] = (),
    minus: Iterable[Any] = (),
    *,
    minus_inputs: VLMInputs | None = None,
    base: Iterable[Any] | None = None,
    strength: float = 1.0,
    cut: float = 0.1,
) -> ContrastDecoding:
    """`model.generate(inputs, decoding=gl.contrast_decoding(model, inputs, plus=hooks, strength=1.0))`.

    plus, minus: hooks of two branches, each with a cache of its own; none: the model as it is.
    minus_inputs: what the second branch sees instead: other pixels, or no image, with the same question.
    base: hooks of a third branch, such as () for the model as it is: base + strength (plus - minus). Without it,
        (1 + strength) plus - strength minus.
    strength: 0 or more; at 0, the first branch alone decides.
    cut: tokens whose probability in the first branch (base, or plus) is below cut times its largest are left out, 0-1.
    Raises InputError for branches that are the same, of different questions, or with other numbers of rows.
    """
    plus, minus = hook_list(plus), hook_list(minus)
    for name, value, most in (("strength", strength, math.inf), ("cut", cut, 1.0)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most or value == math.inf:
            expected = "a number of 0 or more" if name == "strength" else "a number from 0 to 1"
            raise InputError(f"{name}={value!r} was given; give {expected}.")
    if not plus and not minus and minus_inputs is None:
        raise InputError(
            "The branches are the same, so that nothing is contrasted; give plus=, minus= or minus_inputs=."
        )
    seen = inputs if minus_inputs is None else minus_inputs
    _check_text(inputs, seen)
    branches = [Branch(model, seen, minus)]
    if base is None:
        return ContrastDecoding(model, inputs, plus, branches, float(strength), float(cut))
    branches = [Branch(model, inputs, plus), *branches]
    return ContrastDecoding(model, inputs, hook_list(base), branches, float(strength), float(cut))


def _check_text(inputs: VLMInputs, other: VLMInputs) -> None:
    """InputError unless two prompts have the same words, image and template apart."""
    if inputs.n_rows != other.n_rows:
        raise InputError(f"The branches have {inputs.n_rows} and {other.n_rows} rows; give the same prompts.")
    for row, (mine, theirs) in enumerate(zip(_words(inputs), _words(other), strict=True)):
        if mine != theirs:
            raise InputError(
                f"The branches have different texts in row {row}: {mine[-60:]!r} and {theirs[-60:]!r}. They may differ "
                "in their images alone, as they write one text."
            )


def _words(inputs: VLMInputs) -> list[str]:
    """The text of each row, without special tokens, spaces and passages of text."""
    hidden = inputs.layout.all_segments or ((),) * inputs.n_rows
    rows = zip(inputs.input_ids.tolist(), inputs.layout.text, hidden, strict=True)
    tokens = ([ids[position] for position in text if position not in set(gone)] for ids, text, gone in rows)
    return ["".join(inputs.tokenizer.decode(row, skip_special_tokens=True).split()) for row in tokens]


def _same(inputs: VLMInputs, other: VLMInputs) -> bool:
    """Whether two inputs are the same prompts; one of them may have been encoded."""
    return inputs is other or (inputs.layout == other.layout and torch.equal(inputs.input_ids, other.input_ids))
