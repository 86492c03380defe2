"""The vision tower's output, image by image, so that prompts about the same image can share it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from gaze_lens.deprecation import renamed_fields, renamed_names

EncodedImage = Mapping[str, Any]  # the features of one image: tensors, or lists of tensors, by name
__getattr__ = renamed_names(__name__, {"Part": "EncodedImage"})


@renamed_fields(parts="images", arrange="to_forward_kwargs")
@dataclass(frozen=True, eq=False)
class Features:
    """The encoded images of a batch.

    images: one per image, in the order of the inputs. to_forward_kwargs: the family's function of that name.
    takes_counts: that function also takes the number of images in each row, `counts=`.
    """

    images: tuple[EncodedImage, ...]
    to_forward_kwargs: Callable[..., dict[str, Any]]
    takes_counts: bool = False

    def arguments(self, rows: Sequence[Sequence[int]]) -> dict[str, Any]:
        """The keyword arguments of the model's forward that replace the pixels.

        rows: for each row of the forward, the indices of its images.
        """
        images = [self.images[index] for row in rows for index in row]
        counts = {"counts": [len(row) for row in rows]} if self.takes_counts else {}
        return self.to_forward_kwargs(images, **counts)

    def to(self, device: Any) -> "Features":
        """The same features on another device."""
        return replace(self, images=tuple(_with_tensors(image, lambda t: t.to(device)) for image in self.images))

    def clone(self) -> "Features":
        """The same features in tensors of their own."""
        return replace(self, images=tuple(_with_tensors(image, Tensor.clone) for image in self.images))


def _with_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A value with every tensor changed, also those in dicts, lists and tuples."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _with_tensors(item, change) for name, item in value.items()}
    return type(value)(_with_tensors(item, change) for item in value) if isinstance(value, list | tuple) else value


def image_by_image(images: Sequence[EncodedImage]) -> dict[str, Any]:
    """A family's `to_forward_kwargs`, where the model takes one tensor `[token, d_model]` ("tokens") per image."""
    pooled: Any = tuple(image["tokens"] for image in images)  # Hugging Face declares a tensor and makes a tuple
    return {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=pooled)}}


def encode_each(
    model: Any, tensors: Mapping[str, Tensor], _maps: Any, selected: Sequence[int], **options: Any
) -> list[EncodedImage]:
    """The vision tower's output for the images `selected`, where row i of `pixel_values` is image i.

    options: further arguments of the model's `get_image_features`.
    """
    rows = {name: tensors[name][list(selected)] for name in ("pixel_values", "image_sizes") if name in tensors}
    output = model.model.get_image_features(**rows, **options, return_dict=True)
    return [{"tokens": tokens} for tokens in output.pooler_output]
