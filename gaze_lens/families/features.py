"""What a vision tower made of images, kept image by image, so that prompts about the same image can share it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

Part = Mapping[str, Any]  # of one image: tensors, or lists of tensors, by name


@dataclass(frozen=True, eq=False)
class Features:
    """parts: one per image, in the order of the inputs. arrange: makes of them what the model's forward takes.

    counted: `arrange` is also told how many images each row has, `counts=`.
    """

    parts: tuple[Part, ...]
    arrange: Callable[..., dict[str, Any]]
    counted: bool = False

    def arguments(self, rows: Sequence[Sequence[int]]) -> dict[str, Any]:
        """The keyword arguments of the model's forward that stand for the pixels.

        rows: for each row to be run, which of the parts it shows.
        """
        parts = [self.parts[index] for row in rows for index in row]
        return self.arrange(parts, counts=[len(row) for row in rows]) if self.counted else self.arrange(parts)

    def to(self, device: Any) -> "Features":
        """The same on another device."""
        return replace(self, parts=tuple(_moved(part, device) for part in self.parts))


def _moved(held: Any, device: Any) -> Any:
    """Tensors in dicts, lists and tuples, on another device."""
    if isinstance(held, Tensor):
        return held.to(device)
    if isinstance(held, Mapping):
        return {name: _moved(part, device) for name, part in held.items()}
    return type(held)(_moved(part, device) for part in held) if isinstance(held, list | tuple) else held


def image_by_image(parts: Sequence[Part]) -> dict[str, Any]:
    """For models that take a sequence with one `[token, d_model]` per image, "tokens" of every part."""
    pooled = tuple(part["tokens"] for part in parts)
    return {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=pooled)}}


def encode_each(
    model: nn.Module, tensors: Mapping[str, Tensor], _maps: Any, kept: Sequence[int], **more: Any
) -> list[Part]:
    """The vision tower's output on the images `kept`, for models whose pixels come an image to a row.

    more: further arguments of the model's `get_image_features`.
    """
    chosen = {name: tensors[name][list(kept)] for name in ("pixel_values", "image_sizes") if name in tensors}
    made = model.model.get_image_features(**chosen, **more, return_dict=True)
    return [{"tokens": tokens} for tokens in made.pooler_output]
