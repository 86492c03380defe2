"""Run a model from a layer on, exactly: the layers below hand over what they gave in an earlier run.

with keeping(model, [4, 8]) as streams:
    model(inputs)
with resuming(model, 8, streams[8]):
    model.run_with_hooks(inputs, fwd_hooks=hooks)     # computes layers 8, 9, ... only

Hugging Face's own code runs around the blocks, so that masks, rotary positions and DeepStack's additions between
blocks are as always. Hooks on the layers passed over do not fire.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from gaze_lens.errors import ModelError
from gaze_lens.model.live_hooks import SHARED


def cannot_resume(model: Any) -> str | None:
    """Why a model cannot be run from a layer on; None where it can."""
    if SHARED in model.silent.values():
        return "some of its layers take keys and values from earlier layers, which would not have run"
    return None


@contextmanager
def keeping(model: Any, layers: Iterable[int]) -> Iterator[dict[int, Float[Tensor, "batch pos d_model"]]]:
    """Keep what the block below each of these layers puts out, in a dictionary by layer; layer 0 needs nothing."""
    streams: dict[int, Tensor] = {}

    def keep(layer: int, output: Any) -> None:
        if not isinstance(output, Tensor):
            raise ModelError(
                f"Block {layer - 1} of this model puts out {type(output).__name__}, not one residual stream, so that "
                "it cannot be run from a layer on."
            )
        streams[layer] = output

    with ExitStack() as stack:
        for layer in {*layers} - {0}:
            block = model.blocks[layer - 1]
            handle = block.register_forward_hook(lambda _block, _given, output, layer=layer: keep(layer, output))
            stack.callback(handle.remove)
        yield streams


@contextmanager
def resuming(model: Any, layer: int, stream: Float[Tensor, "batch pos d_model"] | None) -> Iterator[None]:
    """Inside, forwards compute from `layer` on; `stream` is what the block below put out (None for layer 0).

    Raises ModelError for a model of which that would not be exact.
    """
    reason = cannot_resume(model)
    if layer > 0 and reason is not None:
        raise ModelError(f"This model cannot be run from layer {layer} on: {reason}. Run it from the start.")
    below = list(model.blocks)[:layer]
    with ExitStack() as stack:
        for block in below:
            last = block is below[-1]
            stack.enter_context(_putting_out(block, stream if last else None))
        yield


@contextmanager
def _putting_out(block: nn.Module, stream: Tensor | None) -> Iterator[None]:
    """A block gives back its input, or the stream given, instead of computing."""

    def forward(hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        return hidden_states if stream is None else stream

    before = block.__dict__.get("forward")
    block.__dict__["forward"] = forward
    try:
        yield
    finally:
        block.__dict__.pop("forward")
        if before is not None:
            block.__dict__["forward"] = before
