"""How long the value vectors of a prompt are: attention to a token brings no more than they hold.

    norms = ValueNorms(model, layers=[2, 5], n_keys=inputs.layout.n_keys)
    model.generate(inputs, fwd_hooks=norms.hooks())
    norms.of(5)                                     # [head, key]

Attention times the norm of the value vector is the weighting of Gandikota and Bau 2026, "Tracking": that of the vector
itself, as attention mixes it. Kobayashi et al. 2020, whom they follow, take the norm after the output projection.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaze_lens.model_protocol import Model


class ValueNorms:
    """Hooks that keep the norms of one prompt's value vectors, and the norms.

    After the prompt they remove themselves: a hook keeps a bridge in use, which costs time in every decode step.

    layers: whose values are wanted. n_keys: keys of the prompt; those after it are generated.
    silent: the layers that have no values of their own, and why; running their hooks is a HookError.
    """

    def __init__(self, model: Model, layers: Iterable[int], *, n_keys: int) -> None:
        self.n_heads, self.n_keys = model.cfg.n_heads, n_keys
        self.points = {layer: _point(model, layer) for layer in layers}
        self.silent = {layer: model.silent[point] for layer, point in self.points.items() if point in model.silent}
        self._parts: dict[int, list[Tensor]] = {layer: [] for layer in self.points}

    def hooks(self) -> list[tuple[str, Any]]:
        """`(hook name, function)` pairs to run with."""
        return [(point, self._keep) for point in self.points.values()]

    def _keep(self, values: Tensor, hook: Any) -> None:
        """Values `[batch, pos, kv_head, d_head]` of one forward; a prompt may take several."""
        parts = self._parts[hook.layer()]
        norms = values[0].detach().float().norm(dim=-1).T
        parts.append(norms.repeat_interleave(self.n_heads // norms.shape[0], 0))
        if sum(part.shape[1] for part in parts) >= self.n_keys:
            for handle in hook.fwd_hooks:
                if handle.user_hook == self._keep:
                    handle.hook.remove()

    def of(self, layer: int) -> Float[Tensor, "head key"]:
        """The norms in a layer that was run, repeated for the query heads of each KV group."""
        return torch.cat(self._parts[layer], dim=1)

    def weigh(
        self, layer: int, heads: Sequence[int], rows: Float[Tensor, "head query key"], keys: Int[Tensor, " key"]
    ) -> Float[Tensor, "head query key"]:
        """Attention of some heads of a layer to some keys, times the norms of these keys' values.

        A layer that has none of the keys has no norms either: there all attention is 0, and stays so.
        """
        if not rows.any():
            return rows
        return rows * self.of(layer).to(rows.device)[list(heads)][:, None, keys.to(rows.device)]


def _point(model: Model, layer: int) -> str:
    """The hook point where values pass that attention mixes: some models norm them once more (Gemma 4)."""
    normed, plain = f"blocks.{layer}.attn.v_norm.hook_out", f"blocks.{layer}.attn.hook_v"
    return normed if normed in model.hook_dict and plain not in model.silent else plain
