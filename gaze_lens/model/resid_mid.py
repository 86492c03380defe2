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

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformer_lens.hook_points import HookPoint

from gaze_lens.attention.backend import n_hooks
from gaze_lens.attention.forward_context import run_in_context
from gaze_lens.errors import HookError

NAME = "hook_resid_mid"


@dataclass(eq=False)
class Additions:
    """What hooks added to the stream of layers that have not ended yet.

    levels: one for each forward that is running, as a hook may run the model; the first is for layers that are called
        by themselves. Each has, by the layer's hook point, what was added, and the handle of the hook that adds it.
    """

    levels: list[dict[HookPoint, tuple[Tensor, RemovableHandle]]] = field(default_factory=lambda: [{}])

    @contextmanager
    def forward(self, _kwargs: dict[str, Any]) -> Iterator[None]:
        """Around a forward; what is left where it was interrupted is forgotten."""
        self.levels.append({})
        try:
            yield
        finally:
            for _, handle in self.levels.pop().values():
                handle.remove()

    def take(self, point: HookPoint) -> Tensor | None:
        """What was added in a layer of the innermost forward, once."""
        added, handle = self.levels[-1].pop(point, (None, None))
        if handle is not None:
            handle.remove()
        return added


@dataclass(eq=False)
class MiddleStream:
    """The hook point of one layer.

    output: the hook point of the layer's output, which carries a hook of ours only while there is something to add.
    continues: the layer goes on computing with the stream after its MLP, so that nothing may be added to its output.
    """

    point: HookPoint
    output: HookPoint
    additions: Additions
    continues: bool

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
            handle = self.output.register_forward_pre_hook(self.end)
            self.additions.levels[-1][self.point] = edited - stream, handle
        return edited, *others

    def end(self, _output: HookPoint, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """After the layer."""
        added = self.additions.take(self.point)
        return args if added is None else (args[0] + added, *args[1:])


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
        continues = hasattr(block.original_component, "layer_scalar")  # Gemma 4
        entry.__dict__["gaze_lens_points"] = (point,)
        entry.register_forward_pre_hook(MiddleStream(point, block.hook_out, additions, continues).fire)


def _without_alias(block: Any) -> str | None:
    """Let the name be free for a hook point. Returns what it stood for."""
    target = block.hook_aliases.get(NAME)
    if target is not None:
        block.hook_aliases = {alias: path for alias, path in block.hook_aliases.items() if alias != NAME}
    return target
