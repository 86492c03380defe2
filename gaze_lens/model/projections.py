"""`hook_result` and the split query, key and value inputs on bridges that delegate attention to Hugging Face.

    model.set_use_attn_result(True)        # blocks.L.attn.hook_result: [batch, pos, head, d_model]
    model.set_use_split_qkv_input(True)    # blocks.L.hook_q_input and its like: [batch, pos, head, d_model]

TransformerLens has the arithmetic on every attention bridge, but fires it only where it re-implements attention.
Hugging Face calls the bridged projections, so the arithmetic can stand there instead.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge.generalized_components import LinearBridge


class InputProjection(LinearBridge):
    """A query, key or value projection that reads one copy of the residual stream per head where asked to.

    A query projection may also hold a gate for every head, after the head's query, for `hook_q_gate`.
    """

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """`[batch, pos, d_model]` to `[batch, pos, head * d_head]`."""
        attention, letter = self.gaze_lens_owner
        config, n_heads = attention.config, n_heads_of(attention, letter)
        if getattr(config, "use_split_qkv_input", False):
            forked = _fork(attention, letter, input, getattr(attention, f"hook_{letter}_input"), n_heads)
        elif getattr(config, "use_attn_in", False) and letter in _readers(attention):
            forked = self._shared_fork(input, n_heads)
        else:
            return self._gated(super().forward(input, *args, **kwargs))
        linear: Any = self.original_component
        d_head = linear.out_features // n_heads
        return self._gated(attention._project_per_head_qkv(self, forked, n_heads, d_head).flatten(-2))

    def _shared_fork(self, input: Tensor, n_heads: int) -> Tensor:
        """The copies that queries, keys and values share: Hugging Face projects queries first, values last."""
        attention, letter = self.gaze_lens_owner
        if letter == "q":
            attention.__dict__["gaze_lens_fork"] = _fork(attention, letter, input, attention.hook_attn_in, n_heads)
        forked = attention.__dict__["gaze_lens_fork"][..., :n_heads, :]
        if letter == _readers(attention)[-1]:
            del attention.__dict__["gaze_lens_fork"]
        return forked

    def _gated(self, projected: Tensor) -> Tensor:
        """Fire `hook_q_gate` on the gates among queries."""
        attention, letter = self.gaze_lens_owner
        point = attention._modules.get("hook_q_gate")
        if letter != "q" or point is None:
            return projected
        queries, gates = projected.unflatten(-1, (n_heads_of(attention, "q"), 2, -1)).unbind(-2)
        hooked = point(gates.flatten(-2)).view_as(gates)
        return projected if hooked is gates else torch.stack([queries, hooked], dim=-2).flatten(-3)


def n_heads_of(attention: Any, letter: str) -> int:
    """How many heads a layer's queries ("q", "o") or keys and values have; layers of one model may differ."""
    projection = attention._modules["o" if letter in "qo" else letter].original_component
    width = projection.in_features if letter in "qo" else projection.out_features
    return width // attention.original_component.head_dim


def _readers(attention: Any) -> str:
    """The projections of a layer that read the residual stream, in order; those of cross-attention read the image."""
    return "q" if attention.is_cross_attention else "".join(letter for letter in "qkv" if letter in attention._modules)


def _fork(attention: Any, letter: str, normed: Tensor, point: HookPoint, n_heads: int) -> Tensor:
    """The residual stream before the norm, once per head, through a hook point and the norm; the image as it is."""
    if letter not in _readers(attention):
        return point(normed.unsqueeze(2).repeat(1, 1, n_heads, 1))
    residual = attention._captured_pre_ln_residual
    return attention._fork_and_norm_per_head(normed if residual is None else residual, point, n_heads)


class OutputProjection(LinearBridge):
    """The output projection, head by head where `use_attn_result` is on."""

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """`[batch, pos, head * d_head]` to `[batch, pos, d_model]`."""
        attention, _ = self.gaze_lens_owner
        if not getattr(attention.config, "use_attn_result", False):
            return super().forward(input, *args, **kwargs)
        z = self.hook_in(input)
        n_heads, d_head = n_heads_of(attention, "o"), attention.original_component.head_dim
        result = attention._compute_per_head_result(z.unflatten(-1, (n_heads, d_head)), n_heads, d_head)
        return self.hook_out(result)


def make_projections_live(bridges: Iterable[nn.Module]) -> None:
    """Switch the projections of delegating attention bridges to the classes above, in place."""
    for bridge in bridges:
        for letter in "qkvo":
            projection = bridge._modules.get(letter)
            if projection is None:  # some layers take keys and values from elsewhere
                continue
            projection.__class__ = OutputProjection if letter == "o" else InputProjection
            projection.__dict__["gaze_lens_owner"] = (bridge, letter)
