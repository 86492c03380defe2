"""What `run_with_cache` returns for a vision-language model.

    logits, cache = model.run_with_cache(inputs)
    cache.decompose_resid(return_labels=True)      # embed, 0_attn_out, ..., image, 0_deepstack, ...

TransformerLens' own decompositions know only embeddings, attention and MLPs; an image adds to the stream beside them.
"""

from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.hook_points import HookPoint
from transformer_lens.utilities import Slice

from gaze_lens.errors import InputError
from gaze_lens.html_tables import html_table
from gaze_lens.model.gradient_cache import (
    check_gradients,
    head_gradients,
    holds_gradients,
    injection_gradients,
    refuse_gradients,
)
from gaze_lens.model.mixers import MIXERS, mixer_of
from gaze_lens.model.peft_layers import refuse_unmerged
from gaze_lens.model.readout import epsilon_of
from gaze_lens.model.vlm_bridge import VLMBridge
from gaze_lens.model_protocol import Model


class VLMActivationCache(ActivationCache):
    """An `ActivationCache` whose decompositions add up on image prompts.

    Image features enter the residual stream after the token embedding ("image"), and again between the first blocks
    where the model has DeepStack ("0_deepstack", ...). `decompose_resid` and `get_full_resid_decomposition` list them
    as components of their own; everything that takes a stack (`logit_attrs`, `apply_ln_to_stack`) works on it.

    Where the blocks of a model do more than add what attention and MLP put out (gates, multipliers, embeddings of each
    layer), a decomposition would be wrong and is an InputError; so are heads as components where their sum is normed
    before it is added. `logit_attrs` of a whole decomposition sums to the logit, whether the final norm's weight was
    folded or not; where the model has a soft cap, to the logit before it.

    Activations are found under every name of their hook point, so that a dictionary that hooks filled will do. One that
    backward hooks filled makes a cache of gradients: `decompose_resid`, `stack_head_results` and `accumulated_resid`
    give the gradients of the parts that they give of activations; what makes no sense of gradients is an InputError.
    `transformer_lens.ActivationCache(dictionary, model)` of a `HookedVLM` is such a cache.
    """

    model: Any  # a `Model`; TransformerLens' own protocol has no `hook_dict`

    def __init__(self, cache_dict: dict[str, Tensor], model: Any, has_batch_dim: bool = True) -> None:
        super().__init__(cache_dict, model, has_batch_dim)
        self.has_embed = self.has_embed or "embed.hook_out" in cache_dict

    def _repr_html_(self) -> str:
        rows = ([name, list(values.shape), str(values.dtype)] for name, values in self.cache_dict.items())
        size = sum(values.nbytes for values in self.cache_dict.values()) / 1e6
        title = f"Cache of {len(self.cache_dict)} activations, {size:,.1f} MB"
        return html_table(title, ["hook point", "shape", "precision"], rows)

    def __getitem__(self, key: Any) -> Tensor:
        """As in TransformerLens; KeyError where the hook point was cached under none of its names."""
        try:
            return super().__getitem__(key)
        except KeyError as error:
            point = self._points.get(error.args[0])
            names = [name for name, other in self._points.items() if other is point and name in self.cache_dict]
            if point is None or not names:
                raise
            return self.cache_dict[names[0]]

    @cached_property
    def _points(self) -> dict[str, HookPoint]:
        """The model's hook points by all their names."""
        return dict(self.model.hook_dict)

    @cached_property
    def holds_gradients(self) -> bool:
        """Whether backward hooks filled it."""
        return holds_gradients(self)

    def _refuse_ln(self, apply_ln: bool) -> None:
        if apply_ln and self.holds_gradients:
            refuse_gradients("apply_ln=True", "A gradient is not normed; leave it out.")

    @classmethod
    def from_cache(cls, cache: ActivationCache, model: Model) -> "VLMActivationCache":
        """The same activations with this class's decompositions."""
        return cls(cache.cache_dict, model, has_batch_dim=cache.has_batch_dim)

    def apply_slice_to_batch_dim(self, batch_slice: Any) -> "VLMActivationCache":
        """As TransformerLens' method of this name."""
        return self.from_cache(super().apply_slice_to_batch_dim(batch_slice), self.model)

    def decompose_resid(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        mode: Literal["all", "mlp", "attn"] = "all",
        apply_ln: bool = False,
        pos_slice: Any = None,
        incl_embeds: bool = True,
        return_labels: bool = False,
    ) -> Any:
        """As TransformerLens' `decompose_resid`, with "image" and "L_deepstack" components at the end.

        incl_embeds: whether to list the embeddings, and with them everything that the image adds.
        """
        self._refuse_ln(apply_ln)
        self.check_blocks(layer, mlp_input)
        stack, labels = super().decompose_resid(
            layer, mlp_input, mode, False, pos_slice=pos_slice, incl_embeds=incl_embeds, return_labels=True
        )
        if incl_embeds:
            stack, labels = self._with_injections(stack, labels, layer, pos_slice)
        if apply_ln:
            stack = self.apply_ln_to_stack(stack, _depth(self.model, layer), pos_slice=pos_slice, mlp_input=mlp_input)
        return (stack, labels) if return_labels else stack

    def get_full_resid_decomposition(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        expand_neurons: bool = True,
        apply_ln: bool = False,
        pos_slice: Any = None,
        return_labels: bool = False,
        project_output_onto: Tensor | None = None,
    ) -> Any:
        """As TransformerLens' method of this name, with "image" and "L_deepstack" components at the end."""
        if self.holds_gradients:
            refuse_gradients("this decomposition", "Use decompose_resid and stack_head_results.")
        self.check_blocks(layer, mlp_input)
        self._check_heads(layer)
        stack, labels = super().get_full_resid_decomposition(
            layer, mlp_input, expand_neurons, apply_ln, pos_slice, True, project_output_onto
        )
        added, added_labels = self._injections(layer, pos_slice)
        if apply_ln:
            added = self.apply_ln_to_stack(added, _depth(self.model, layer), pos_slice=pos_slice, mlp_input=mlp_input)
        if project_output_onto is not None:
            added = added @ project_output_onto
        stack, labels = torch.cat([stack, added]), labels + added_labels
        return (stack, labels) if return_labels else stack

    def get_neuron_results(self, *args: Any, **options: Any) -> Tensor:
        """As TransformerLens' method of this name."""
        refuse_unmerged(self.model.original_model, "What neurons add to the stream")
        return super().get_neuron_results(*args, **options)

    def stack_head_results(
        self,
        layer: int | None = -1,
        return_labels: bool = False,
        incl_remainder: bool = False,
        pos_slice: Any = None,
        apply_ln: bool = False,
    ) -> Any:
        """As TransformerLens' method of this name."""
        self._check_heads(layer)
        if not self.holds_gradients:
            return super().stack_head_results(layer, return_labels, incl_remainder, pos_slice, apply_ln)  # type: ignore[arg-type]
        self._refuse_ln(apply_ln)
        depth = _depth(self.model, layer)
        check_gradients(self, depth, mlp_input=False)
        stack, labels = head_gradients(self, depth, incl_remainder, _slice(pos_slice))
        return (stack, labels) if return_labels else stack

    def accumulated_resid(
        self, layer: int | None = None, incl_mid: bool = False, apply_ln: bool = False, *args: Any, **options: Any
    ) -> Any:
        """As TransformerLens' method of this name."""
        self._refuse_ln(apply_ln)
        self._kept("resid_pre", 0)
        return super().accumulated_resid(layer, incl_mid, apply_ln, *args, **options)

    def compute_head_results(self) -> None:
        """As TransformerLens' method of this name."""
        self._check_heads(None)
        if self.holds_gradients:
            refuse_gradients("what heads put out", "stack_head_results gives the gradients of it.")
        super().compute_head_results()

    def _get_cached_ln_scale(
        self, layer: int | None, mlp_input: bool, pos_slice: Slice, batch_slice: Slice | None = None
    ) -> Tensor:
        """As in TransformerLens; the final norm's, from the stream where it was not cached (Gemma 4 has no hook)."""
        if self.holds_gradients:
            refuse_gradients("the scale of a norm", "Multiply gradients by activations instead.")
        if _depth(self.model, layer) < self.model.cfg.n_layers or "ln_final.hook_scale" in self.cache_dict:
            return super()._get_cached_ln_scale(layer, mlp_input, pos_slice, batch_slice)
        stream = pos_slice.apply(self._kept("resid_post", self.model.cfg.n_layers - 1).float(), dim=-2)
        if self._uses_ln_centering(layer):
            stream = stream - stream.mean(-1, keepdim=True)
        scale = (stream.square().mean(-1, keepdim=True) + epsilon_of(self.model)).sqrt()
        return scale if batch_slice is None or not self.has_batch_dim else batch_slice.apply(scale)

    def check_blocks(self, layer: int | None = None, mlp_input: bool = False) -> None:
        """InputError where what attention and MLP put out is not what a block adds to the stream."""
        depth = _depth(self.model, layer)
        if mlp_input and f"blocks.{depth}.hook_resid_mid" not in self.model.hook_dict:
            raise InputError("Attention and MLP of this model's blocks read the same stream; leave out mlp_input=True.")
        if self.holds_gradients:
            check_gradients(self, depth, mlp_input)
            return
        for block in range(depth + mlp_input):
            parts = [self._kept("resid_pre", block), self._kept("attn_out", block)]
            if block < depth:
                parts.append(self._kept("mlp_out", block))
            expected = self._kept("resid_post" if block < depth else "resid_mid", block)
            slack = 4 * torch.finfo(expected.dtype).eps * sum(part.abs() for part in parts)
            if bool(((sum(parts) - expected).abs() > slack).any()):
                raise InputError(
                    f"The residual stream cannot be decomposed: block {block} adds something else than its attention "
                    "and MLP outputs (gates, multipliers, or embeddings of its own; or a hook edited the stream). "
                    "cache.accumulated_resid() gives the stream at every layer."
                )

    def _check_heads(self, layer: int | None) -> None:
        """InputError where heads are no components of the stream; ModelError where their weights lack an adapter's."""
        refuse_unmerged(self.model.original_model, "What heads and neurons add to the stream")
        for index, block in enumerate(self.model.blocks[: _depth(self.model, layer)]):
            mixer = mixer_of(block)
            if mixer is not None:
                raise InputError(f"Layer {index} has {MIXERS[mixer]} and no heads; use decompose_resid instead.")
            if "ln1_post" in block._modules or block.attn.is_cross_attention:
                raise InputError(
                    f"Block {index} norms or gates the sum of its heads before it adds it, so that heads are no "
                    "components of the stream; use decompose_resid or accumulated_resid instead."
                )

    def _with_injections(self, stack: Tensor, labels: list[str], layer: int | None, pos_slice: Any) -> tuple:
        added, added_labels = self._injections(layer, pos_slice)
        return torch.cat([stack, added]), labels + added_labels

    def _injections(self, layer: int | None, pos_slice: Any) -> tuple[Tensor, list[str]]:
        """What enters the residual stream beside embeddings, attention and MLPs: `[component, ..., d_model]`."""
        parts, labels = self._added(_depth(self.model, layer))
        sliced = _slice(pos_slice)
        return torch.stack([sliced.apply(part, dim=-2) for part in parts]), labels

    def _added(self, depth: int) -> tuple[list[Tensor], list[str]]:
        if self.holds_gradients:
            return injection_gradients(self, depth)
        added, labels = [self._kept("resid_pre", 0) - self._kept("embed")], ["image"]
        for block in range(min(depth, self.model.cfg.n_layers - 1)):
            difference = self._kept("resid_pre", block + 1) - self._kept("resid_post", block)
            if difference.abs().max() > 0:
                added.append(difference)
                labels.append(f"{block}_deepstack")
        return added, labels

    def _kept(self, name: str, *layer: int) -> Tensor:
        """A cached activation; InputError where the names filter left it out."""
        try:
            return self[(name, *layer)]
        except KeyError as error:
            if error.args[0] in self.model.silent:
                raise InputError(
                    f"There is no residual stream to decompose: {self.model.silent[error.args[0]]}."
                ) from error
            raise InputError(
                f"This decomposition needs {error} in the cache, to see what the image adds and that the parts add up. "
                "Keep hook_embed and every block's hook_resid_pre, hook_attn_out, hook_mlp_out and hook_resid_post "
                "when you filter names."
            ) from error


def _depth(model: Model, layer: int | None) -> int:
    """The layer whose input is decomposed; the last one's output by default, as in TransformerLens."""
    return model.cfg.n_layers if layer is None or layer == -1 else layer


def _slice(positions: Any) -> Slice:
    """Positions as TransformerLens' methods take them: one of them leaves out the dimension."""
    return positions if isinstance(positions, Slice) else Slice(positions)


def _of_its_model(cls: type[ActivationCache], _cache_dict: Any = None, model: Any = None, *_: Any, **__: Any) -> Any:
    """TransformerLens' class, called with a model of ours, makes a cache that knows of images: the plain one would
    leave out what they add, without a word."""
    return object.__new__(VLMActivationCache if cls is ActivationCache and isinstance(model, VLMBridge) else cls)


ActivationCache.__new__ = staticmethod(_of_its_model)  # type: ignore[assignment]
