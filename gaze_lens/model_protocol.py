"""What functions want of a model: `HookedVLM` has it, and so may anything else.

def score_heads(model: Model, ...): ...
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from gaze_lens.attention.backend import AttentionBackend
    from gaze_lens.families import Family
    from gaze_lens.inputs.vlm_inputs import VLMInputs
    from gaze_lens.model.capabilities import Capabilities
    from gaze_lens.model.generation import Generation

Hooks = Iterable[tuple[Any, Callable[..., Any]]]  # (hook name or name filter, function)


@runtime_checkable
class ModelShape(Protocol):
    """What heads are checked against."""

    cfg: Any

    @property
    def fingerprint(self) -> str:
        """The shape that heads belong to."""


@runtime_checkable
class Model(ModelShape, Protocol):
    """A vision-language model under TransformerLens hooks.

    cfg: TransformerLens' config (`n_layers`, `n_heads`, `model_name`, ...). config: Hugging Face's.
    processor: what makes tensors of pictures and prompts. original_model: the Hugging Face model.
    silent: hook points that never fire, and why.
    """

    processor: Any
    original_model: Any
    family: "Family"
    silent: dict[str, str]
    attention_backend: "AttentionBackend"

    @property
    def config(self) -> Any:
        """Hugging Face's config."""

    @property
    def blocks(self) -> Any:
        """The bridges of the layers."""

    @property
    def hook_dict(self) -> Mapping[str, Any]:
        """Name -> hook point."""

    def __call__(self, input: Any, /, *args: Any, **options: Any) -> Any:
        """Run the model."""

    def prepare(self, images: Any, prompts: Any, *, answers: Any = None, fit: Any = None) -> "VLMInputs":
        """Make inputs of pictures and prompts."""

    def encode(self, inputs: "VLMInputs", *, reuse: "VLMInputs | None" = None) -> "VLMInputs":
        """Run the vision tower once."""

    def generate(self, inputs: "VLMInputs", *, fwd_hooks: Hooks = (), **options: Any) -> "Generation":
        """Write an answer under hooks."""

    def run_with_hooks(self, input: Any, fwd_hooks: Hooks = (), *args: Any, **options: Any) -> Any:
        """Run the model under hooks."""

    def run_with_cache(self, input: Any, *args: Any, **options: Any) -> Any:
        """Run the model and keep activations."""

    def hooks(self, fwd_hooks: Hooks = (), *args: Any, **options: Any) -> AbstractContextManager[Any]:
        """Attach hooks for the forwards inside."""

    def set_use_attn_result(self, use_attn_result: bool) -> None:
        """Compute what every head adds to the residual stream, or not."""

    def capabilities(self, size: tuple[int, int] = ...) -> "Capabilities":
        """What can be done with the model."""

    def _gated_hook_reason(self, hook_point_name: str) -> str | None:
        """TransformerLens' own: the switch that a hook point waits for, where it is off."""

    def _input_device(self) -> Any:
        """TransformerLens' own: where inputs go."""
