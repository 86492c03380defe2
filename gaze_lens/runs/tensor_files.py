"""Safetensors files with a JSON header that describes the tensors.

FILE = TensorFile("gaze_lens direction 1", kind="a direction", writer="Direction.save(path)", error=ModelError)
FILE.write("reading.safetensors", {"vectors": vectors}, {"layers": [3, 4]})
with FILE.reading("reading.safetensors") as (tensors, about):
    direction = Direction(tensors["vectors"], tuple(about["layers"]))
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gaze_lens.errors import GazeLensError
from gaze_lens.runs.files import to_json, write_whole

UNREADABLE = (OSError, SafetensorError, GazeLensError, LookupError, TypeError, ValueError, RecursionError)


@dataclass(frozen=True)
class TensorFile:
    """A kind of file.

    format: its name and version, in the header. kind, writer: what it holds, and what writes it, for error messages.
    error: the type of the errors.
    """

    format: str
    kind: str
    writer: str
    error: type[GazeLensError]

    def write(self, path: str | os.PathLike[str], tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Write tensors, and their description (anything JSON can hold); the file is complete or not there at all."""
        header = {"format": self.format, "about": to_json(about)}
        write_whole(path, save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, header))

    @contextmanager
    def reading(self, path: str | os.PathLike[str]) -> Iterator[tuple[dict[str, Tensor], dict[str, Any]]]:
        """`with FILE.reading(path) as (tensors, about)`: the tensors of a file, and their description.

        Raises this kind's error for a file that cannot be read, and where the code inside the `with` fails on its
        content: a missing name, a wrong type, a value that does not fit.
        """
        try:
            with safe_open(path, "pt") as file:
                header = file.metadata() or {}
                if header.get("format") != self.format:
                    raise ValueError(f"its format is {header.get('format')!r}, not {self.format!r}")
                about = json.loads(header["about"])
                if not isinstance(about, dict):
                    raise ValueError(f"its description 'about' is {type(about).__name__}, not a JSON object")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (a file is no mapping)
            yield tensors, about
        except UNREADABLE as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else error
            raise self.error(
                f"{path} cannot be read as {self.kind} ({reason}): expected a file written by {self.writer}."
            ) from error
