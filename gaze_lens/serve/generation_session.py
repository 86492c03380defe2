"""One answer, whose target may change while it is written.

    session = GenerationSession(model, heads, request, emit)
    session.run()                       # in the model's thread, until the text ends
    session.set_target(Target(...))     # from any thread: the next token is written under the new target
    session.cancel()                    # from any thread: no further token is written

`generate` calls a stopping criterion between two forwards. A session is one. Only there, in the model's thread, does it
emit the new word, apply a new target and stop: no other thread touches the model or its hooks.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from gaze_lens.attention.positions import Positions
from gaze_lens.attention.region_reader import RegionReader, keep_rows
from gaze_lens.attention.switchable_bias import SwitchableBias
from gaze_lens.errors import InputError, RegionError
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.interventions.steering import boost_and_suppress, steer
from gaze_lens.model_protocol import Model
from gaze_lens.serve.request_bodies import AnswerRequest, Target

Event = dict[str, Any]
UNFINISHED = "\ufffd"  # what a tokenizer writes for the first bytes of a character


class GenerationSession(StoppingCriteria):
    """One answer, from the prompt to the last word. `run` is for the model's thread, the rest for any thread.

    emit: called in the model's thread with each event: {"kind": "started", ...}, then "word", "target" (a new one is
        applied) and "refused" (a target that cannot be applied), and "done".
    """

    def __init__(self, model: Model, heads: HeadSet, request: AnswerRequest, emit: Callable[[Event], None]) -> None:
        self.model, self.request, self.emit = model, request, emit
        self.heads, self.switch = heads, SwitchableBias(heads)
        self._cancelled = threading.Event()
        self._requested: deque[Target | None] = deque(maxlen=1)  # append and pop are atomic; only the last one counts
        self._target: Target | None = None
        self._text = ""

    def set_target(self, target: Target | None) -> None:
        """Steer elsewhere from the next token on; None leaves the heads alone."""
        self._requested.append(target)

    def cancel(self) -> None:
        """Write no further token."""
        self._cancelled.set()

    def run(self, reuse: VLMInputs | None = None) -> VLMInputs:
        """Write the answer, and return the inputs with the picture encoded.

        reuse: what an earlier session returned: the same picture is not encoded again.
        Raises GazeLensError where picture, prompt or the first target cannot be used.
        """
        request, prepared = self.request, self.model.prepare(self.request.picture, self.request.prompt)
        self.inputs: VLMInputs = self.model.encode(prepared, reuse=reuse)
        self.regions = {name: self.inputs.positions_of(name) for name in request.picture.regions}
        self.reader = RegionReader.of_prompt(self.heads, self.inputs.layout, keep_rows)
        self._steer_to(request.target)
        self._apply_requested()
        self.emit({"kind": "started", "prompt_tokens": self.inputs.layout.length,
                   "image_tokens": len(self.inputs.image_tokens[0])})  # fmt: skip
        generation = self.model.generate(
            self.inputs,
            fwd_hooks=[*self.switch.hooks(), *self.reader.hooks(Positions.since(self.inputs.last_position))],
            max_new_tokens=request.max_new_tokens,
            stopping_criteria=StoppingCriteriaList([self]),
        )
        full = generation.n_steps >= request.max_new_tokens
        reason = "stopped" if self._cancelled.is_set() else "full" if full else "finished"
        self.emit({"kind": "done", "reason": reason, "tokens": generation.n_steps})
        return self.inputs

    def __call__(self, input_ids: Int[Tensor, "row position"], _scores: Any, **_options: Any) -> Bool[Tensor, " row"]:
        """Between two forwards: emit the new word, wait, and apply a new target."""
        self._emit_word(input_ids[0, self.inputs.layout.length :].tolist())
        if self.request.pause:
            self._cancelled.wait(self.request.pause)
        self._apply_requested()
        return torch.full((len(input_ids),), self._cancelled.is_set(), device=input_ids.device)

    def _emit_word(self, ids: list[int]) -> None:
        """Emit the text that the newest token added, with the attention by which it was chosen."""
        attention = self._attention()
        text = self.inputs.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if text.endswith(UNFINISHED):
            return
        new, self._text = text[len(self._text) :], text
        if new:
            mass = {name: _sum(attention, positions) for name, positions in self.regions.items()}
            image = _sum(attention, self.inputs.layout.images[0])
            target = self._target.name if self._target else None
            step = len(ids) - 1
            self.emit({"kind": "word", "step": step, "text": new, "mass": mass, "image": image, "target": target})

    def _attention(self) -> Float[Tensor, " key"]:
        """The heads' mean attention, from the query that the newest token was chosen by, to every key of the prompt."""
        (rows,) = self.reader.values(self.reader.queries[-1:])
        self.reader.clear()
        return rows[:, 0].mean(0)

    def _apply_requested(self) -> None:
        """Apply the target that was requested meanwhile, or emit why it cannot be; then the old one stays."""
        if not self._requested:
            return
        target = self._requested.pop()
        try:
            self._steer_to(target)
        except (RegionError, InputError) as error:
            self.emit({"kind": "refused", "message": str(error)})
        else:
            self.emit({"kind": "target", "target": target.name if target else None})

    def _steer_to(self, target: Target | None) -> None:
        """Switch the bias. A new box is among the regions from now on."""
        if target is None:
            self.switch.to(None)
        else:
            region = self.inputs.region(target.box)
            ((_, bias), *_) = steer(self.heads, region, mode=boost_and_suppress(target.strength))
            self.switch.to(bias)
            self.regions[target.name] = region.positions[0]
        self._target = target


def _sum(attention: Float[Tensor, " key"], positions: tuple[int, ...]) -> float:
    """Attention mass on some keys, 0-1."""
    return round(attention[list(positions)].sum().item(), 4)
