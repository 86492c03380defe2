"""What a `TransformerBridge` promises, kept on a vision-language model or refused.

model.state_dict()                              # every weight, the vision tower's too
model.tokens_to_residual_directions(" red")     # with the final norm's weight
model.half()                                    # and model.cfg.dtype says so

`HookedVLM` adds to it what images need.
"""

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from gaze_lens.errors import HookError, InputError, ModelError
from gaze_lens.model.peft_layers import WRAPPED, refuse_unmerged
from gaze_lens.model.readout import readout_factors


class VLMBridge(TransformerBridge):
    """A `TransformerBridge` whose inherited methods are right on vision-language models, or say what to call."""

    original_model: Any  # Hugging Face's

    @property
    def blocks(self) -> Any:
        """The bridges of the layers. A property, since from Python 3.12 on `isinstance(model, Model)` sees no children
        of modules."""
        return self._modules["blocks"]

    @property
    def config(self) -> Any:
        """The Hugging Face config."""
        return self.original_model.config

    def tokens_to_residual_directions(self, tokens: Any) -> Tensor:
        """The directions of the normed residual stream that give the logits of tokens: `[..., d_model]`.

        As in TransformerLens, with what the final norm multiplies by, so that no weights need to be folded: the dot
        product with a stream after `cache.apply_ln_to_stack` is the logit, before a soft cap.
        tokens: a text that is one token, an id, or a tensor of ids.
        """
        refuse_unmerged(self.unembed, "A direction")
        directions = super().tokens_to_residual_directions(tokens)
        return directions * readout_factors(self).to(directions)

    def state_dict(self, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """Every weight and buffer: under TransformerLens' names, or Hugging Face's where it has none.

        `load_state_dict` takes it. A checkpoint folder for `from_pretrained` is written by `save_pretrained`.
        """
        if destination is not None or prefix:
            return super().state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)
        weights = self.original_model.state_dict(keep_vars=keep_vars)
        return {name: weights[paths[0]] for name, paths in self._tl_key_to_actual_keys().items()}

    def _tl_key_to_actual_keys(self) -> dict[str, list[str]]:
        """Each name of `state_dict` -> all paths to its weight. TransformerLens' own has no name for some weights."""
        weights = self.original_model.state_dict(keep_vars=True)
        paths: dict[int, list[str]] = {}
        for path, weight in weights.items():
            paths.setdefault(id(weight), []).append(path)
        named = {}
        for name, (first, *_) in super()._tl_key_to_actual_keys().items():
            named[name] = paths.pop(id(weights[first]), [first])
        # Hugging Face's own name is the path that goes through what bridges wrap wherever it can.
        rest = [(max(group, key=lambda path: path.count(WRAPPED)), group) for group in paths.values()]
        return named | {path.replace(WRAPPED, ""): group for path, group in rest}

    def process_weights(self, *args: Any, **options: Any) -> None:
        """As in TransformerLens; ModelError for a model with adapters beside its weights."""
        refuse_unmerged(self.original_model, "What TransformerLens folds")
        super().process_weights(*args, **options)

    def _stack_block_params(self, attr_path: str, *args: Any, **options: Any) -> Tensor:
        """`W_Q`, `W_out` and their like; ModelError where adapters stand beside such weights."""
        refuse_unmerged(self.original_model, f"The stack of {attr_path}")
        return super()._stack_block_params(attr_path, *args, **options)

    def _validate_attention_fork_supported(self, flag_name: str) -> None:
        """Every layer serves per-head results and split inputs here; see `projections.py`. Weights that are packed, or
        that lack what an adapter adds, cannot."""
        refuse_unmerged(self.original_model, f"What set_{flag_name}(True) shows")
        if getattr(self.original_model, "is_quantized", False):
            raise HookError(
                f"set_{flag_name}(True) needs the weights of every head, and this model's are packed in few bits; load "
                "it without quantization_config. All other attention hooks work."
            )

    def to(self, *args: Any, **options: Any) -> "VLMBridge":
        """As PyTorch's `to`; `cfg.dtype` follows."""
        super().to(*args, **options)
        self.cfg.dtype = self.original_model.dtype
        return self

    def _apply(self, function: Callable, recurse: bool = True) -> "VLMBridge":
        """What `half`, `bfloat16`, `double` and `float` call; `cfg.dtype` follows."""
        self.original_model = self.original_model._apply(function, recurse)
        self.cfg.dtype = self.original_model.dtype
        return self

    @classmethod
    def boot_transformers(cls, *_args: Any, **_options: Any) -> NoReturn:
        """Refused: the bridge that TransformerLens boots has attention hooks whose edits are discarded."""
        raise ModelError(
            "boot_transformers makes a plain TransformerBridge, without live attention. "
            f"{cls.__name__}.from_pretrained(name) loads and wraps; {cls.__name__}.wrap(model, processor) wraps a "
            "loaded model, or a bridge that TransformerBridge.boot_transformers made."
        )

    boot_native = boot_tl_legacy = boot_transformers

    def generate_stream(self, *_args: Any, **_options: Any) -> NoReturn:
        """Not served: pass Hugging Face's `streamer=` to `generate`."""
        raise InputError("generate_stream does not see images; pass a Hugging Face streamer= to model.generate.")

    def hf_generate(self, *_args: Any, **_options: Any) -> NoReturn:
        """Not served: `generate` is Hugging Face's already."""
        raise InputError("hf_generate is not needed: model.generate(inputs, ...) is Hugging Face's, under hooks.")

    def _has_positions(self, name: str) -> bool:
        """Whether what a hook point holds can be sliced by position: the vision tower's patches cannot."""
        return not name.startswith("vision") and self._gated_hook_reason(name) is None

    def __setstate__(self, state: dict[str, Any]) -> None:
        """After a deepcopy: let the blocks attach their capture hooks anew, as the old ones point at the original."""
        super().__setstate__(state)
        for block in self.blocks:
            block._teardown_capture_hooks()

    def _input_device(self) -> Any:
        """Where inputs go: to the embedding's device, though accelerate may keep its weights elsewhere; or to that of
        the first weights that are anywhere. None for a model without weights."""
        brought = getattr(getattr(self.embed.original_component, "_hf_hook", None), "execution_device", None)
        devices = (weight.device for weight in self.original_model.parameters() if weight.device.type != "meta")
        return next(devices, None) if brought is None else torch.device(brought)

    def _accepts_derived_position_ids(self) -> bool:
        """Positions are Hugging Face's: TransformerLens' own would differ from them where rows are padded."""
        return False
