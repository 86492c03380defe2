"""Steps at which an edit acts: a condition on the logits that chose the newest token.

    hooks = gl.steer(heads, region, when=lambda logits: ...)     # a bool for each row; logits are None in the prefill

The condition is asked once in a forward, and its answer is a gate on the device: nothing waits for it. Whether an edit
acted at all is looked up when its run has ended.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gaze_lens.errors import HookError, InputError

When = Callable[[Any], Any]  # of logits [row, token], or None; returns a bool for each row
REORDERED = "beam search and the like reorder rows between steps"


@dataclass(frozen=True)
class TokenWritten:
    """A condition on the newest token itself: whether it is one of `ids`. prefill: what holds before there is one."""

    ids: tuple[int, ...]
    prefill: bool = False

    def __call__(self, tokens: Int[Tensor, " row"] | None) -> Any:
        """A bool for each row."""
        return self.prefill if tokens is None else torch.isin(tokens, torch.tensor(self.ids, device=tokens.device))


@dataclass(eq=False)
class NewestTokens:
    """What a forward knows of the tokens that it goes on from.

    logits: those that chose the newest token of each row; None in the prefill. tokens: these tokens.
    missing: why they are not known, "" where they are.
    """

    logits: Float[Tensor, "row token"] | None = None
    tokens: Int[Tensor, " row"] | None = None
    missing: str = ""
    _gates: dict[tuple[Any, torch.device], Bool[Tensor, " row"]] = field(default_factory=dict)

    def gate(self, when: When, n_rows: int, device: torch.device) -> Bool[Tensor, " row"]:
        """In which rows of the batch an edit with this condition acts now; the condition is asked once in a forward.

        HookError where the tokens are not known; InputError for an answer that is no bool for each row.
        """
        if (when, device) not in self._gates:
            if self.missing:
                raise HookError(f"when= decides by the newest token, and {self.missing}.")
            answer = when(self.tokens if isinstance(when, TokenWritten) else self.logits)
            if isinstance(answer, bool):
                answer = torch.full((n_rows,), answer)
            if not isinstance(answer, Tensor) or answer.dtype != torch.bool or answer.shape not in ((), (n_rows,)):
                given = f"{answer.dtype} {tuple(answer.shape)}" if isinstance(answer, Tensor) else repr(answer)
                raise InputError(
                    f"when= returned {given}; return a bool for each of the {n_rows} rows (a tensor), or one for all."
                )
            self._gates[when, device] = answer.detach().expand(n_rows).to(device, non_blocking=True)
        return self._gates[when, device]


@dataclass(eq=False)
class TokenWatch:
    """Keeps what each forward of a model leaves for the conditions of the next one: `with watch.attached(hf_model)`.

    paused: another branch of the decoding is running, which has a watch of its own.
    reordered: whether rows change places between forwards. defaults: the model's own options of `generate`.
    """

    logits: Tensor | None = None
    tokens: Tensor | None = None
    paused: bool = False
    reordered: bool = False
    defaults: Any = None

    @contextmanager
    def attached(self, hf_model: Any) -> Iterator[None]:
        """Watch every forward inside; what was seen is forgotten afterwards."""
        self.defaults = hf_model.generation_config
        with self.listening(hf_model):
            yield
        self.logits = self.tokens = None

    @contextmanager
    def listening(self, hf_model: Any) -> Iterator[None]:
        """Watch every forward inside, and remember the last one."""
        handles = [
            hf_model.register_forward_pre_hook(self._before, with_kwargs=True),
            hf_model.register_forward_hook(self._after),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _before(self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.paused:
            return
        ids = kwargs.get("input_ids", args[0] if args else None)
        self.tokens = ids[:, -1] if isinstance(ids, Tensor) and ids.ndim == 2 else None

    def _after(self, _module: Any, _args: Any, output: Any) -> None:
        if self.paused:
            return
        logits = output.logits[:, -1].detach()
        self.logits = logits.clone() if output.logits.shape[1] > 1 else logits  # a view would keep all of the prompt's

    @contextmanager
    def generating(self, options: dict[str, Any]) -> Iterator[None]:
        """Around Hugging Face's `generate`: whether it reorders rows."""
        configs = options.get("generation_config"), self.defaults
        given = [options.get("num_beams"), *(getattr(config, "num_beams", None) for config in configs)]
        self.reordered = next((number for number in given if number is not None), 1) > 1
        try:
            yield
        finally:
            self.reordered = False

    def newest(self, n_rows: int, n_tokens: int, *, prefill: bool) -> NewestTokens:
        """What a forward over so many rows and tokens knows."""
        if prefill:
            return NewestTokens()
        if n_tokens > 1:
            return NewestTokens(missing=f"{n_tokens} tokens are run at once, as drafts are; generate them one by one")
        if self.reordered:
            return NewestTokens(missing=f"{REORDERED}; generate greedily, or sample")
        if self.logits is None:
            return NewestTokens(missing="the forward that chose it was not run under these hooks; run the prompt, too")
        if len(self.logits) != n_rows or self.tokens is None:
            return NewestTokens(
                missing=f"the forward before had {len(self.logits)} rows of logits and this one has {n_rows} rows; run "
                "token ids of the same rows"
            )
        return NewestTokens(self.logits, self.tokens)


def check_when(when: Any) -> None:
    """InputError unless a condition is a function, or None."""
    if when is not None and (not callable(when) or isinstance(when, type)):
        raise InputError(
            f"when={when!r} was given; give a function of the logits that chose the newest token, such as "
            "gl.when.entropy_above(1.0)."
        )
