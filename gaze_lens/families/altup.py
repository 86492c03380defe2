"""Gemma 3n: layers that carry several residual streams side by side (AltUp).

A layer predicts every stream from all of them, computes attention and MLP on one, and corrects all by the result. What
attention and MLP add is as in other models; there is no one residual stream before and after a layer, so that its hook
points are taken away.
"""

from typing import Any

from torch import nn
from transformer_lens.model_bridge.generalized_components import (
    AltUpBlockBridge,
    AttentionBridge,
    GatedMLPBridge,
    LinearBridge,
)
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent
from transformer_lens.model_bridge.supported_architectures.gemma3n import _SparsityPreservingGatedMLPBridge

from gaze_lens.errors import InputError
from gaze_lens.families.adapters import Components, PathAdapter, Paths

STREAM = ("hook_in", "hook_out", "hook_resid_pre", "hook_resid_post")
STREAMS = "the layer carries several residual streams side by side (AltUp); hook_attn_out and hook_mlp_out are there"


class TowerBridge(GeneralizedComponent):
    """A vision tower whose output Hugging Face's model multiplies in place, which gradients at a hook do not bear."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the tower, with an output of its own."""
        output = super().forward(*args, **kwargs)
        output.last_hidden_state = output.last_hidden_state.clone()
        return output


class StackedBlockBridge(AltUpBlockBridge):
    """A layer of several streams, without hook points on them."""

    silent = dict.fromkeys((*STREAM, "hook_resid_mid"), STREAMS)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for name in STREAM:
            del self._modules[name]
            self._hook_registry.pop(name, None)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Hugging Face's layer; attention and MLP within it fire their own hook points."""
        if getattr(self, "_stop_at_layer_idx", None) is not None:
            raise InputError(f"stop_at_layer was given, which returns the residual stream: {STREAMS}.")
        layer: Any = self.original_component
        return layer(*args, **kwargs)


class Gemma3nAdapter(PathAdapter):
    """Gemma 3n, with its pictures; in TransformerLens' own adapter there are none, and edits do not reach attention."""

    paths = Paths(projector="model.embed_vision")

    def prepare_model(self, hf_model: nn.Module) -> None:
        """Describe the modules of the model that is to be bridged."""
        super().prepare_model(hf_model)
        self.components["vision_encoder"] = TowerBridge(name=self.paths.vision)

    def _block(self, name: str, submodules: Components) -> GeneralizedComponent:
        return StackedBlockBridge(name=name, config=self.cfg, submodules=submodules)

    def _attention(self) -> AttentionBridge:
        """The last layers take keys and values from earlier ones."""
        parts: Components = {letter: LinearBridge(name=f"{letter}_proj", optional=letter in "kv") for letter in "qkvo"}
        norms: Components = {name: self._norm(name, optional=True) for name in ("q_norm", "k_norm")}
        return AttentionBridge("self_attn", self.cfg, parts | norms, maintain_native_attention=True)

    def _gated_mlp(self, *args: Any, **options: Any) -> GatedMLPBridge:
        """The first layers' MLPs cut their activations off, which only Hugging Face's own code does."""
        plain = super()._gated_mlp(*args, **options)
        return _SparsityPreservingGatedMLPBridge(plain.name, self.cfg, submodules=plain.submodules)
