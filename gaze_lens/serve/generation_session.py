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
from gaze_lens.attention.score_edit import ScoreEdit
from gaze_lens.attention.switchable_bias import SwitchableBias
from gaze_lens.decoding.contrast import contrast_decoding
from gaze_lens.errors import HeadError, InputError, RegionError
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.interventions.steering import boost_and_suppress, steer
from gaze_lens.model.finite_logits import ends_of
from gaze_lens.model_protocol import Model
from gaze_lens.regions.image_tokens import ImageTokens
from gaze_lens.regions.layout import Region
from gaze_lens.serve.request_bodies import AnswerRequest, Target

Event = dict[str, Any]
UNFINISHED = "\ufffd"  # what a tokenizer writes for the first bytes of a character


class GenerationSession(StoppingCriteria):
    """One answer, from the prompt to the last word. `run` is for the model's thread, the rest for any thread.

    Where the request asks for the baseline, a batch of two rows is generated: the first is steered, the second never.

    emit: called in the model's thread with each event: {"kind": "started", ...}, then "word", "baseline" (a word of the
        unsteered answer), "target" (a new one is applied), "refused" (a target that cannot be applied) and "dropped" (a
        region without a token of the picture), and "done".
    """

    def __init__(self, model: Model, heads: HeadSet, request: AnswerRequest, emit: Callable[[Event], None]) -> None:
        self.model, self.request, self.emit = model, request, emit
        self.heads, self.switch = heads, SwitchableBias(heads)
        self._cancelled = threading.Event()
        self._requested: deque[Target | None] = deque(maxlen=1)  # append and pop are atomic; only the last one counts
        self._target: Target | None = None
        self._texts = [""] * (1 + request.baseline)
        self._ends = frozenset(ends_of(model, {}).tolist())

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
        request, n_rows = self.request, len(self._texts)
        prepared = self.model.prepare([request.picture] * n_rows, [request.prompt] * n_rows)
        self.inputs: VLMInputs = self.model.encode(prepared, reuse=reuse)
        self.regions = self._regions_with_tokens()
        self.readers = [
            RegionReader.of_prompt(self.heads, self.inputs.layout, keep_rows, row=row) for row in range(n_rows)
        ]
        self._steer_to(request.target)
        self._apply_requested()
        self.emit(
            {
                "kind": "started",
                "prompt_tokens": self.inputs.layout.length,
                "image_tokens": len(self.inputs.image_tokens[0]),
                "token": token_size(self.inputs.image_tokens[0]),
            }
        )
        queries = Positions.since(self.inputs.last_position)
        steering, decoding = self.switch.hooks(), None
        if request.contrast:
            decoding = contrast_decoding(self.model, self.inputs, plus=steering, strength=request.contrast)
        reading = [hook for reader in self.readers for hook in reader.hooks(queries)]
        generation = self.model.generate(
            self.inputs,
            fwd_hooks=[*([] if decoding else steering), *reading],
            decoding=decoding,
            max_new_tokens=request.max_new_tokens,
            stopping_criteria=StoppingCriteriaList([self]),
        )
        n_tokens = len(self._to_end(generation.tokens[0].tolist()))
        full = n_tokens >= request.max_new_tokens
        reason = "stopped" if self._cancelled.is_set() else "full" if full else "finished"
        self.emit({"kind": "done", "reason": reason, "tokens": n_tokens})
        return self.inputs

    def _regions_with_tokens(self) -> dict[str, tuple[int, ...]]:
        """The positions of each region. One that holds no token is left out, and told: the question can do without."""
        regions = {}
        for name in self.request.picture.regions:
            try:
                regions[name] = self.inputs.positions_of(name)
            except RegionError as error:
                self.emit({"kind": "dropped", "region": name, "message": f"{name} is left out. {error}"})
        return regions

    def __call__(self, input_ids: Int[Tensor, "row position"], _scores: Any, **_options: Any) -> Bool[Tensor, " row"]:
        """Between two forwards: emit the new words, wait, and apply a new target."""
        for row, ids in enumerate(input_ids[:, self.inputs.layout.length :].tolist()):
            self._emit_word(row, ids)
        if self.request.pause:
            self._cancelled.wait(self.request.pause)
        self._apply_requested()
        return torch.full((len(input_ids),), self._cancelled.is_set(), device=input_ids.device)

    def _to_end(self, ids: list[int]) -> list[int]:
        """A row's tokens up to the one that ends it; after that it is padded while the other row is written."""
        return ids[: next((index + 1 for index, token in enumerate(ids) if token in self._ends), None)]

    def _emit_word(self, row: int, ids: list[int]) -> None:
        """Emit the text that the newest token added, with the attention by which it was chosen."""
        attention = self._attention(row)
        if len(self._to_end(ids)) < len(ids):
            return
        text = self.inputs.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if text.endswith(UNFINISHED):
            return
        new, self._texts[row] = text[len(self._texts[row]) :], text
        if new:
            mass = {name: _sum(attention, positions) for name, positions in self.regions.items()}
            image = _sum(attention, self.inputs.layout.images[0])
            word = {"kind": "baseline" if row else "word", "step": len(ids) - 1, "text": new, "mass": mass,
                    "image": image}  # fmt: skip
            self.emit(word if row else {**word, "target": self._target.name if self._target else None})

    def _attention(self, row: int) -> Float[Tensor, " key"]:
        """The mean attention of the heads that are steered, or of all where none are, to every key of the prompt.

        From the query that the newest token was chosen by.
        """
        reader = self.readers[row]
        (rows,) = reader.values(reader.queries[-1:])
        reader.clear()
        return rows[: self._target.n_heads if self._target else None, 0].mean(0)

    def _apply_requested(self) -> None:
        """Apply the target that was requested meanwhile, or emit why it cannot be; then the old one stays."""
        if not self._requested:
            return
        target = self._requested.pop()
        try:
            self._steer_to(target)
        except (HeadError, InputError, RegionError) as error:
            self.emit({"kind": "refused", "message": str(error)})
        else:
            self.emit({"kind": "target", "target": target.name if target else None})

    def _steer_to(self, target: Target | None) -> None:
        """Switch the bias. A new box is among the regions from now on."""
        if target is None:
            self.switch.to(None)
        else:
            region = self.inputs.region(target.shape)
            self.switch.to(self._edit(target, region))
            self.regions[target.name] = region.positions[0]
        self._target = target

    def _edit(self, target: Target, region: Region) -> ScoreEdit:
        """The edit of scores for a target, of the row that is steered."""
        heads = self.heads[: target.n_heads]
        if target.n_heads is not None and len(heads) < target.n_heads:
            raise HeadError(f"{target.n_heads} heads were asked for; there are {len(self.heads)}. Ask for fewer.")
        mode = None if target.strength is None else boost_and_suppress(target.strength)
        ((_, edit), *_) = steer(heads, region, mode=mode, mass=target.mass, rows=[0])
        return edit


def token_size(tokens: ImageTokens) -> dict[str, float]:
    """The median width and height of what the tokens of a picture show, in its pixels."""
    width, height = (tokens.boxes[:, 2:] - tokens.boxes[:, :2]).nanmedian(0).values.tolist()
    return {"width": width, "height": height}


def _sum(attention: Float[Tensor, " key"], positions: tuple[int, ...]) -> float:
    """Attention mass on some keys, 0-1."""
    return round(attention[list(positions)].sum().item(), 4)
