"""What can be patched: the names of activations, their hook points, and the axes of their tensors.

site_of("z").hook_name(3)        # "blocks.3.attn.hook_z"
site_of("z").heads_in(model, 3)  # 12
layers_with(model, site_of("k")) # the layers that have their own keys
"""

from dataclasses import dataclass

from gaze_lens.errors import HookError, InputError
from gaze_lens.model.live_hooks import explain
from gaze_lens.model.projections import n_heads_of
from gaze_lens.model_protocol import Model


@dataclass(frozen=True)
class Site:
    """An activation that `what=` names.

    point: the hook point under `blocks.L.`; None for the image features, which are injected before the first layer.
    position: the axis of positions in its tensor; rows are on axis 0.
    heads: whether it has heads; they are on axis 2, or on axis 1 where positions are on axis 2.
    kv: its heads are KV heads, of which there may be fewer than query heads. Its positions are keys: in a
        cross-attention layer those of the image.
    """

    what: str
    point: str | None
    position: int = 1
    heads: bool = False
    kv: bool = False

    def hook_name(self, layer: int | None) -> str:
        """`site_of("z").hook_name(3)`: "blocks.3.attn.hook_z"."""
        return f"blocks.{layer}.{self.point}"

    def heads_in(self, model: Model, layer: int | None) -> int:
        """How many heads the tensor has in a layer: query heads, or KV heads."""
        return n_heads_of(model.blocks[layer].attn, "k" if self.kv else "q")

    def cross_attention_in(self, model: Model, layer: int) -> bool:
        """Whether positions of this site in a layer are keys of the image rather than columns of the prompt."""
        return self.kv and model.blocks[layer].attn.is_cross_attention


SITES: dict[str, Site] = {
    site.what: site
    for site in (
        Site("resid_pre", "hook_resid_pre"),
        Site("resid_mid", "hook_resid_mid"),
        Site("resid_post", "hook_resid_post"),
        Site("attn_out", "hook_attn_out"),
        Site("mlp_out", "hook_mlp_out"),
        Site("z", "attn.hook_z", heads=True),
        Site("result", "attn.hook_result", heads=True),
        Site("q", "attn.hook_q", heads=True),  # before norm and rotary embedding, as are keys
        Site("k", "attn.hook_k", heads=True, kv=True),
        Site("v", "attn.hook_v", heads=True, kv=True),
        Site("pattern", "attn.hook_pattern", position=2, heads=True),  # positions are queries; all keys come along
        Site("scores", "attn.hook_attn_scores", position=2, heads=True),
        Site("image", None),
    )
}


def site_of(what: str) -> Site:
    """`site_of("z")`: the activation of this name. Raises InputError for an unknown name."""
    if what not in SITES:
        raise InputError(f"what={what!r} was given; what can be patched is {', '.join(map(repr, SITES))}.")
    return SITES[what]


def layers_with(model: Model, site: Site) -> list[int]:
    """The layers with such an activation: some have no softmax attention, some take their keys from other layers."""
    return [layer for layer in range(model.cfg.n_layers) if site.hook_name(layer) in model.hook_dict]


def check_layer(model: Model, site: Site, layer: int) -> None:
    """Raises HookError, with the reason, where the model has no such layer, or the layer no such activation."""
    if not 0 <= layer < model.cfg.n_layers:
        raise HookError(f"Layer {layer} was given; the model has layers 0 to {model.cfg.n_layers - 1}.")
    name = site.hook_name(layer)
    explain(model, name)
    if name not in model.hook_dict:
        layers = layers_with(model, site)
        raise HookError(
            f"{name} does not exist in this model: what={site.what!r} is there in "
            + (f"layers {layers}." if layers else "no layer (attention and MLP may read the same stream).")
        )
