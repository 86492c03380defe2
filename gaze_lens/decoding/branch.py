"""A branch of a decoding: a second run of the model, on its own inputs, under its own hooks, with its own cache.

It writes no text: it is told the tokens that the generation has chosen, and says which it would have chosen. The steps
are those of Hugging Face's own `generate`. Its hooks are attached all the time, and switched on for its forwards alone;
those of the generation are taken off meanwhile.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from gaze_lens.attention.score_edit import ScoreEdit
from gaze_lens.attention.step_condition import TokenWatch
from gaze_lens.attention.switchable_bias import SwitchableBias
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.model.edit_checks import checked_edits
from gaze_lens.model.hooked_vlm import HookedVLM

Hooks = list[tuple[Any, Callable]]


class Branch:
    """`with branch.attached(): branch.logits(tokens)`: its prefill with None, then a step for each token of a row."""

    def __init__(self, model: HookedVLM, inputs: VLMInputs, hooks: Hooks) -> None:
        self.model, self.inputs, self.hooks = model, inputs, hooks
        self.watch = TokenWatch()
        self._switches = [_switch(function) for _, function in hooks]
        self._arguments: dict[str, Any] = {}
        self._ids = inputs.input_ids

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Its hooks are attached inside, and switched off; afterwards an edit that did nothing is a HookError."""
        named = [(name, switch) for (name, _), switch in zip(self.hooks, self._switches, strict=True)]
        with checked_edits(self.model, self.hooks), TransformerBridge.hooks(self.model, named):
            self._begin()
            yield

    def _begin(self) -> None:
        """As at the beginning of Hugging Face's `generate`."""
        hf_model, self._ids = self.model.original_model, self.inputs.input_ids
        arguments = {**self.inputs.arguments(), "use_cache": True}
        arguments.setdefault("attention_mask", torch.ones_like(self._ids))
        if "position_ids" not in arguments:
            arguments["position_ids"] = hf_model._prepare_position_ids_for_generation(self._ids, arguments)
        if hf_model._supports_logits_to_keep():
            arguments["logits_to_keep"] = 1
        self._arguments, self._first = arguments, True

    def logits(self, tokens: Int[Tensor, " row"] | None) -> Float[Tensor, "row token"]:
        """The logits of the next token. tokens: those that the generation has chosen last; None for the prompt."""
        hf_model = self.model.original_model
        if tokens is not None:
            self._ids = torch.cat([self._ids, tokens[:, None]], dim=1)
        step = {"is_first_iteration": True} if tokens is None else {"next_sequence_length": 1}
        forward = hf_model.prepare_inputs_for_generation(self._ids, **step, **self._arguments)
        with self._on(), self.model._running(self.inputs):
            output = hf_model(**forward, return_dict=True)
        self._arguments = hf_model._update_model_kwargs_for_generation(output, self._arguments)
        return output.logits[:, -1].float()

    @contextmanager
    def _on(self) -> Iterator[None]:
        """Its hooks act inside, and its own logits are kept for its conditions."""
        backend = self.model.attention_backend
        before, backend.in_branch = backend.watch, True
        for switch in self._switches:
            switch.turn(on=True)
        try:
            if before is None:
                yield
                return
            backend.watch, before.paused = self.watch, True
            with self.watch.listening(self.model.original_model):
                yield
        finally:
            backend.watch, backend.in_branch = before, False
            if before is not None:
                before.paused = False
            for switch in self._switches:
                switch.turn(on=False)


class _EditSwitch(SwitchableBias):
    """An edit of scores that acts while it is on; the attention function knows it, and leaves the fast kernel on."""

    def __init__(self, edit: ScoreEdit | SwitchableBias) -> None:
        super().__init__(edit.heads)
        self.edit = edit

    def turn(self, *, on: bool) -> None:
        """Let it act, or not."""
        self.to(self.edit.current if on else None)


class _HookSwitch:
    """Any other hook function, which is called while it is on."""

    def __init__(self, function: Callable) -> None:
        self.function, self.is_on = function, False

    def turn(self, *, on: bool) -> None:
        """Let it act, or not."""
        self.is_on = on

    def __call__(self, tensor: Any, hook: Any) -> Any:
        return self.function(tensor, hook=hook) if self.is_on else None


def _switch(function: Callable) -> Any:
    if isinstance(function, ScoreEdit | SwitchableBias):
        return _EditSwitch(function)
    return _HookSwitch(function)


class OtherHooks:
    """The hooks of the generation: `with others.away(): ...` runs without them.

    These are the given ones, wherever they are attached, and those that are attached later.
    """

    def __init__(self, model: HookedVLM, hooks: Hooks) -> None:
        self.points: Sequence[HookPoint] = list({id(point): point for point in model.hook_dict.values()}.values())
        functions = {id(function) for _, function in hooks}
        self.known = {
            id(point): {*point._forward_hooks, *point._forward_pre_hooks}
            - {handle.hook.id for handle in point.fwd_hooks if id(handle.user_hook) in functions}
            for point in self.points
        }
        self._hooked: list[HookPoint] | None = None
        self._last_id: int | None = None

    @contextmanager
    def away(self) -> Iterator[None]:
        """They are off inside. Which points carry some is looked up once, as a generation attaches all of its own."""
        if self._hooked is None:
            self._hooked = [p for p in self.points if {*p._forward_hooks, *p._forward_pre_hooks} - self.known[id(p)]]
        before = [(point, dict(point._forward_hooks), dict(point._forward_pre_hooks)) for point in self._hooked]
        handles = [list(point.fwd_hooks) for point in self._hooked]
        try:
            for point in self._hooked:
                known = self.known[id(point)]
                for hooks in (point._forward_hooks, point._forward_pre_hooks):
                    for key in [key for key in hooks if key not in known]:
                        del hooks[key]
                point.fwd_hooks[:] = [handle for handle in point.fwd_hooks if handle.hook.id in known]
            yield
        finally:
            for (point, hooks, pre_hooks), lens_handles in zip(before, handles, strict=True):
                point._forward_hooks.update(hooks)
                point._forward_pre_hooks.update(pre_hooks)
                point.fwd_hooks[:] = lens_handles
            # `Bypass` decides anew which bridges are idle when a hook has been registered. If it did so meanwhile, it
            # did not see these hooks, and must do it again.
            if RemovableHandle.next_id != self._last_id:
                RemovableHandle.next_id += 1
            self._last_id = RemovableHandle.next_id
