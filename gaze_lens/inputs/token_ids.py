"""What lets `VLMInputs` stand where TransformerLens, or code written for it, expects token ids.

inputs[0]; inputs[:, 1:]; inputs["pixel_values"]; inputs == token; model(**inputs); np.asarray(inputs)
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from gaze_lens.errors import InputError

OF_TENSORS = frozenset(name for name in dir(Tensor) if not name.startswith("_"))


class NamesTokenIds(type):
    """The type of `VLMInputs`: an error of another library that names a type it does not take says where ids are."""

    def __repr__(cls) -> str:
        return f"{super().__repr__()} (of which inputs.input_ids are the token ids)"


class ActsAsTokenIds(metaclass=NamesTokenIds):
    """Indices, comparisons and sizes are those of `input_ids`; names are those of the arguments of the model's forward.

    An attribute of tensors that is not here is an AttributeError which says where it is: the inputs hold several
    tensors, and most operations on the ids alone would lose the image.
    """

    tensors: Mapping[str, Tensor]
    if TYPE_CHECKING:

        def arguments(self) -> dict[str, Any]:
            """The arguments of the model's forward, other than `input_ids`."""

    else:

        def __getattr__(self, name: str) -> NoReturn:
            """Called for what is nowhere else; AttributeError, so that hasattr, copy and pickle see that it is not."""
            where = f"; that of the token ids is inputs.input_ids.{name}" if name in OF_TENSORS else ""
            raise AttributeError(f"{type(self).__name__} has no attribute '{name}'{where}.")

    @property
    def shape(self) -> torch.Size:
        """(rows, positions), as of a tensor of tokens."""
        return self.tensors["input_ids"].shape

    @property
    def ndim(self) -> int:
        """2, as of a batch of tokens."""
        return self.tensors["input_ids"].ndim

    @property
    def dtype(self) -> torch.dtype:
        """That of the token ids."""
        return self.tensors["input_ids"].dtype

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self.tensors["input_ids"].device

    def keys(self) -> list[str]:
        """The names of the arguments of the model's forward, so that `**inputs` passes them."""
        return ["input_ids", *self.arguments()]

    def __getitem__(self, index: Any) -> Any:
        """A name: that argument of the model's forward; anything else indexes the token ids."""
        if not isinstance(index, str):
            return self.tensors["input_ids"][index]
        if index in self.tensors:
            return self.tensors[index]
        arguments = self.arguments()
        if index not in arguments:
            raise KeyError(f"These inputs hold no '{index}'; they hold {', '.join(self.keys())}.")
        return arguments[index]

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        raise InputError(
            "These inputs do not change; prepare the other prompt, or edit inputs.input_ids.clone() where tokens alone "
            "are wanted."
        )

    def __contains__(self, item: Any) -> bool:
        """Whether there is an argument of this name, or a token of this id."""
        return item in self.keys() if isinstance(item, str) else item in self.tensors["input_ids"]

    def __eq__(self, other: Any) -> Any:
        """Token by token with an id or with ids; with anything else, whether it is the same object."""
        return self.tensors["input_ids"] == other if isinstance(other, int | Tensor) else NotImplemented

    def __ne__(self, other: Any) -> Any:
        """As `==`, the other way round."""
        return self.tensors["input_ids"] != other if isinstance(other, int | Tensor) else NotImplemented

    __hash__ = object.__hash__

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The token ids as an array."""
        return np.array(self.tensors["input_ids"].cpu().numpy(), dtype=dtype, copy=copy)
