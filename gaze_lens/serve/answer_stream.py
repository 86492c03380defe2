"""One answer, and the target that may change while it is written.

    turn = Turn(model, heads, ask, tell)
    turn.run()                   # in the model's thread, until the text ends
    turn.aim(Aim(...))           # from any thread: the next token is written under the new target
    turn.cancel()                # from any thread: no further token is written

`generate` calls a stopping criterion between two forwards. A turn is one: there, and only there, in the model's
thread, it hands on the word, takes up a new target, and stops. Hooks and model are never touched from elsewhere.
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
from gaze_lens.serve.ask_requests import Aim, Ask

Event = dict[str, Any]
UNFINISHED = "\ufffd"  # what a tokenizer writes for the first bytes of a character


class Turn(StoppingCriteria):
    """One question, from the prompt to the last word. `run` is for the model's thread, `aim` and `cancel` for any.

    tell: called in the model's thread with each event: {"kind": "started", ...}, then "word", "target" (a new one has
        been taken up) and "refused" (a target that cannot be), and "done".
    """

    def __init__(self, model: Any, heads: HeadSet, ask: Ask, tell: Callable[[Event], None]) -> None:
        self.model, self.ask, self.tell = model, ask, tell
        self.heads, self.switch = heads, SwitchableBias(heads)
        self._cancelled = threading.Event()
        self._wish: deque[Aim | None] = deque(maxlen=1)  # its append and pop are atomic; only the last wish counts
        self._target: Aim | None = None
        self._shown = ""

    def aim(self, target: Aim | None) -> None:
        """Steer elsewhere from the next token on; None lets go."""
        self._wish.append(target)

    def cancel(self) -> None:
        """Write no further token."""
        self._cancelled.set()

    def run(self, before: VLMInputs | None = None) -> VLMInputs:
        """Answer, and return the inputs with the picture encoded.

        before: what an earlier turn returned: the same picture is not encoded again.
        Raises GazeLensError where picture, prompt or the first target cannot be used.
        """
        prepared = self.model.prepare(self.ask.picture, self.ask.prompt)
        self.inputs: VLMInputs = self.model.encode(prepared, reuse=before)
        self.regions = {name: self.inputs.positions_of(name) for name in self.ask.picture.regions}
        self.reader = RegionReader.of_prompt(self.heads, self.inputs.layout, keep_rows)
        self._point(self.ask.target)
        self._take_wish()
        self.tell({"kind": "started", "prompt_tokens": self.inputs.layout.length,
                   "image_tokens": len(self.inputs.image_tokens[0])})  # fmt: skip
        generation = self.model.generate(
            self.inputs,
            fwd_hooks=[*self.switch.hooks(), *self.reader.hooks(Positions.since(self.inputs.last_position))],
            max_new_tokens=self.ask.max_new_tokens,
            stopping_criteria=StoppingCriteriaList([self]),
        )
        full = generation.n_steps >= self.ask.max_new_tokens
        reason = "stopped" if self._cancelled.is_set() else "full" if full else "finished"
        self.tell({"kind": "done", "reason": reason, "tokens": generation.n_steps})
        return self.inputs

    def __call__(self, input_ids: Int[Tensor, "row position"], _scores: Any, **_options: Any) -> Bool[Tensor, " row"]:
        """Between two forwards: hand on what was written, and get ready for what comes."""
        self._hand_on(input_ids[0, self.inputs.layout.length :].tolist())
        if self.ask.pause:
            self._cancelled.wait(self.ask.pause)
        self._take_wish()
        return torch.full((len(input_ids),), self._cancelled.is_set(), device=input_ids.device)

    def _hand_on(self, ids: list[int]) -> None:
        """Tell the text that the newest token brought, with the attention by which it was chosen."""
        attention = self._attention()
        text = self.inputs.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if text.endswith(UNFINISHED):
            return
        new, self._shown = text[len(self._shown) :], text
        if new:
            mass = {name: _sum(attention, positions) for name, positions in self.regions.items()}
            image = _sum(attention, self.inputs.layout.images[0])
            target = self._target.name if self._target else None
            step = len(ids) - 1
            self.tell({"kind": "word", "step": step, "text": new, "mass": mass, "image": image, "target": target})

    def _attention(self) -> Float[Tensor, " key"]:
        """The heads' mean attention, from the query that the newest token was chosen by, to every key of the prompt."""
        (rows,) = self.reader.values(self.reader.queries[-1:])
        self.reader.clear()
        return rows[:, 0].mean(0)

    def _take_wish(self) -> None:
        """Take up the target that was wished for since, or tell why it cannot be; then the old one stays."""
        if not self._wish:
            return
        target = self._wish.pop()
        try:
            self._point(target)
        except (RegionError, InputError) as error:
            self.tell({"kind": "refused", "message": str(error)})
        else:
            self.tell({"kind": "target", "target": target.name if target else None})

    def _point(self, target: Aim | None) -> None:
        """Steer elsewhere; a box that is new is read from now on."""
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
