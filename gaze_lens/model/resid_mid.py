"""`hook_resid_mid` on the residual stream itself, as in HookedTransformer.

    put_on_stream(bridge, text_model)     # once, for a `TransformerBridge`

TransformerLens' bridges fire it where the MLP's norm reads the stream, so that an edit reaches the MLP alone, and a
gradient lacks what goes past the MLP. Hugging Face's layer keeps the stream in a variable that nothing can reach. So
what hooks add to the stream is added a second time, to the output of the layer, before `hook_resid_post` fires.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from gaze_lens.attention.backend import n_hooks
from gaze_lens.attention.forward_context import run_in_context
from gaze_lens.errors import HookError

NAME = "hook_resid_mid"


@dataclass(eq=False)
class Additions:
    """What hooks added to the stream of layers that have not ended yet.

    levels: one for each forward that is running, as a hook may run the model; the first is for layers that are called
        by themselves. Each has what was added, by the layer's hook point.
    """

    levels: list[dict[HookPoint, Tensor]] = field(default_factory=lambda: [{}])

    @contextmanager
    def forward(self, _kwargs: dict[str, Any]) -> Iterator[None]:
        """Around a forward; what is left where it was interrupted is forgotten."""
        self.levels.append({})
        try:
            yield
        finally:
            self.levels.pop()

    def take(self, point: HookPoint) -> Tensor | None:
        """What was added in a layer of the innermost forward, once."""
        return self.levels[-1].pop(point, None)


@dataclass(eq=False)
class MiddleStream:
    """The hook point of one layer.

    continues: the layer goes on computing with the stream after its MLP, so that nothing may be added to its output.
    had_gradients: whether gradients were recorded when hooks last added something.
    """

    point: HookPoint
    additions: Additions
    continues: bool
    had_gradients: bool = True

    def fire(self, _entry: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Before the first module that reads the stream after attention."""
        self.additions.take(self.point)
        if not n_hooks(self.point):
            return None
        stream, *others = args
        edited = self.point(stream)
        if edited is not stream and self.continues:
            raise HookError(
                f"{self.point.name} can be read only: this layer goes on with the stream after its MLP in a way of its "
                "own. An edit or a gradient can have hook_attn_out, which enters the stream there."
            )
        if edited is not stream:
            self.additions.levels[-1][self.point] = edited - stream
            self.had_gradients = torch.is_grad_enabled()
        return edited, *others

    def end(self, _layer: nn.Module, _args: tuple, output: Any) -> Any:
        """After Hugging Face's layer."""
        added = self.additions.take(self.point)
        if added is None:
            return None
        if torch.is_grad_enabled() and not self.had_gradients:
            raise HookError(
                f"An edit at {self.point.name} under reentrant gradient checkpointing would have wrong gradients: the "
                "layer ran without any. Use gradient_checkpointing_enable({'use_reentrant': False})."
            )
        return (output[0] + added, *output[1:]) if isinstance(output, tuple) else output + added


def put_on_stream(bridge: Any, text_model: nn.Module) -> None:
    """Give every block whose MLP reads the stream after attention its own `hook_resid_mid`."""
    additions = Additions()
    run_in_context(text_model, additions.forward)
    _without_alias(bridge.adapter.component_mapping["blocks"])
    for index, block in enumerate(bridge.blocks):
        target = _without_alias(block)
        if target is None:  # attention and MLP read the same stream
            continue
        block._hook_alias_registry.pop(NAME, None)
        block.__dict__.pop(NAME, None)
        point = HookPoint().train(block.training)
        setattr(block, NAME, point)
        point.name = f"blocks.{index}.{NAME}"
        bridge._hook_registry[point.name] = point
        entry = block._modules[target.partition(".")[0]]
        layer = block.original_component
        middle = MiddleStream(point, additions, continues=hasattr(layer, "layer_scalar"))  # Gemma 4's goes on
        entry.__dict__["gaze_lens_points"] = (point,)
        entry.register_forward_pre_hook(middle.fire)
        layer.register_forward_hook(middle.end)


def _without_alias(block: Any) -> str | None:
    """Let the name be free for a hook point. Returns what it stood for."""
    target = block.hook_aliases.get(NAME)
    if target is not None:
        block.hook_aliases = {alias: path for alias, path in block.hook_aliases.items() if alias != NAME}
    return target
