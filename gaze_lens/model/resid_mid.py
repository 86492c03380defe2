"""`hook_resid_mid` on the residual stream itself, as in HookedTransformer.

    put_on_stream(bridge)     # once, for a `TransformerBridge`

TransformerLens' bridges fire it where the MLP's norm reads the stream, so that an edit reaches the MLP alone, and a
gradient lacks what goes past the MLP. Hugging Face's layer keeps the stream in a variable that nothing can reach. So
what hooks add to the stream is added a second time, to the output of the layer.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from gaze_lens.attention.backend import n_hooks
from gaze_lens.errors import HookError

NAME = "hook_resid_mid"


@dataclass(eq=False)
class MiddleStream:
    """The hook point of one layer.

    continues: the layer goes on computing with the stream after its MLP, so that nothing may be added to its output.
    added: what the hooks added to the stream, until the layer ends.
    """

    point: HookPoint
    continues: bool
    added: Tensor | None = None

    def fire(self, _entry: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Before the first module that reads the stream after attention."""
        self.added = None
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
            self.added = edited - stream
        return edited, *others

    def end(self, _layer: nn.Module, _args: tuple, output: Any) -> Any:
        """After the layer."""
        added, self.added = self.added, None
        if added is None:
            return None
        return (output[0] + added, *output[1:]) if isinstance(output, tuple) else output + added


def put_on_stream(bridge: Any) -> None:
    """Give every block whose MLP reads the stream after attention its own `hook_resid_mid`."""
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
        layer, entry = block.original_component, block._modules[target.partition(".")[0]]
        middle = MiddleStream(point, continues=hasattr(layer, "layer_scalar"))  # Gemma 4's
        entry.__dict__["gaze_lens_points"] = (point,)
        entry.register_forward_pre_hook(middle.fire)
        layer.register_forward_hook(middle.end)


def _without_alias(block: Any) -> str | None:
    """Let the name be free for a hook point. Returns what it stood for."""
    target = block.hook_aliases.get(NAME)
    if target is not None:
        block.hook_aliases = {alias: path for alias, path in block.hook_aliases.items() if alias != NAME}
    return target
