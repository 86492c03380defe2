"""Run a model from a layer on, with exactly the result of a full run: the layers below are not computed again.

with cache_residuals(model, [4, 8]) as streams:
    model(inputs)
with run_from_layer(model, 8, streams[8]):
    model.run_with_hooks(inputs, fwd_hooks=hooks)     # computes layers 8, 9, ... only

Hugging Face's code around the blocks runs as always, so that masks, rotary positions and what DeepStack adds between
blocks stay right. Hooks on the skipped layers do not fire.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from gaze_lens.errors import ModelError
from gaze_lens.families.altup import STREAMS
from gaze_lens.model.live_hooks import SHARED
from gaze_lens.model_protocol import Model


def cannot_run_from_layer(model: Model) -> str | None:
    """The reason why a model cannot be run from a layer on; None where it can."""
    if SHARED in model.silent.values():
        return "some of its layers take keys and values from earlier layers, which would not have run"
    if STREAMS in model.silent.values():
        return STREAMS
    return None


@contextmanager
def cache_residuals(model: Model, layers: Iterable[int]) -> Iterator[dict[int, Float[Tensor, "batch pos d_model"]]]:
    """A dictionary that a run inside fills: layer -> the residual stream before it. Layer 0 is left out."""
    streams: dict[int, Tensor] = {}
    if {*layers} - {0} and STREAMS in model.silent.values():
        raise ModelError(f"The residual stream cannot be cached: {STREAMS}.")

    def cache(layer: int, output: Any) -> None:
        if not isinstance(output, Tensor):
            raise ModelError(
                f"Block {layer - 1} of this model returns {type(output).__name__}, not one residual stream, so that "
                "it cannot be run from a layer on."
            )
        streams[layer] = output

    with ExitStack() as stack:
        for layer in {*layers} - {0}:
            block = model.blocks[layer - 1]
            handle = block.register_forward_hook(lambda _block, _args, output, layer=layer: cache(layer, output))
            stack.callback(handle.remove)
        yield streams


@contextmanager
def run_from_layer(model: Model, layer: int, stream: Float[Tensor, "batch pos d_model"] | None) -> Iterator[None]:
    """Forwards inside compute `layer` and those after it.

    stream: the residual stream before `layer`, as `cache_residuals` has it; None for layer 0.
    Raises ModelError for a model whose result would differ from that of a full run.
    """
    reason = cannot_run_from_layer(model)
    if layer > 0 and reason is not None:
        raise ModelError(f"This model cannot be run from layer {layer} on: {reason}. Run it from the start.")
    below = list(model.blocks)[:layer]
    with ExitStack() as stack:
        for block in below:
            stack.enter_context(_skipped(block, stream if block is below[-1] else None))
        yield


@contextmanager
def _skipped(block: nn.Module, output: Tensor | None) -> Iterator[None]:
    """The block computes nothing: it returns `output`, or its input where that is None."""

    def forward(hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        return hidden_states if output is None else output

    before = block.__dict__.get("forward")
    block.__dict__["forward"] = forward
    try:
        yield
    finally:
        block.__dict__.pop("forward")
        if before is not None:
            block.__dict__["forward"] = before
