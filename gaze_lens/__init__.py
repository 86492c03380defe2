"""Find, watch and steer the attention heads that track what a vision-language model is describing.

import gaze_lens as gl
model = gl.load_tiny()      # or gl.HookedVLM.from_pretrained("Qwen/Qwen3-VL-2B-Instruct", device="cuda")
model = gl.load_smollm2()   # a language model; or gl.HookedVLM.from_pretrained("meta-llama/Llama-3.2-1B-Instruct")

A public name is imported when it is first used; `__init__.pyi` lists them all.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import lazy_loader

from gaze_lens.deprecation import MovedModules, warn_renamed

__version__ = "0.2.0"
RENAMED = {"Place": "QueryKeyPositions"}
sys.meta_path.append(MovedModules())
_import_public, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    """A public name, or a module or package inside this one."""
    if name in RENAMED:
        warn_renamed(f"gaze_lens.{name}", RENAMED[name])
        return _import_public(RENAMED[name])
    path = Path(__file__).parent / name
    if name in __all__:
        return _import_public(name)
    if not name.startswith("_") and (path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()):
        return import_module(f"gaze_lens.{name}")
    raise AttributeError(f"module 'gaze_lens' has no attribute {name!r}")
