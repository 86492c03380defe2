"""Old names that still work for one version, with a DeprecationWarning that says the new one.

class Layout:
    crossed = renamed_attribute("crossed", "cross_attention")
"""

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

Class = TypeVar("Class", bound=type)
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
MOVED = {  # modules that the documents of version 0.1 named -> where they are
    "gaze_lens.cache": "gaze_lens.model.activation_cache",
    "gaze_lens.capabilities": "gaze_lens.model.capabilities",
    "gaze_lens.discovery": "gaze_lens.cli.discovery",
    "gaze_lens.distributed": "gaze_lens.scoring.across_processes",
    "gaze_lens.evaluation.run": "gaze_lens.evaluation.runner",
    "gaze_lens.evaluation.sharing": "gaze_lens.evaluation.merge",
    "gaze_lens.generation": "gaze_lens.model.generation",
    "gaze_lens.images": "gaze_lens.regions.reading",
    "gaze_lens.patching.changes": "gaze_lens.counterfactuals.changes",
    "gaze_lens.patching.features": "gaze_lens.counterfactuals.feature_changes",
    "gaze_lens.verdict": "gaze_lens.heads.verdict",
    "gaze_lens.wording": "gaze_lens.text.caption_matching",
}

PROGRAMS = {  # modules of version 0.1 that are no longer in the package -> the programs that took their place
    "gaze_lens.tiny.evaluate": "training.evaluate",
    "gaze_lens.tiny.train": "training.train",
    "gaze_lens.tiny.zoo": "training.zoo",
}


def warn_renamed(old: str, new: str, *, stacklevel: int = 3) -> None:
    """Warn that a name was used that will go; stacklevel 3 blames the caller of the function that calls this."""
    warnings.warn(f"{old} is now called {new}; the old name goes in version 0.3.", DeprecationWarning, stacklevel)


def renamed_attribute(old: str, new: str) -> property:
    """A property under an attribute's old name."""

    def read(self: Any) -> Any:
        warn_renamed(f"{type(self).__name__}.{old}", new)
        return getattr(self, new)

    return property(read, doc=f"The old name of `{new}`.")


def renamed_fields(**names: str) -> Callable[[Class], Class]:
    """A decorator of a dataclass whose fields had other names: `@renamed_fields(crossed="cross_attention")`.

    An old name works as a keyword argument and as an attribute. Where both names are given, the old one counts:
    `dataclasses.replace` gives them so.
    """

    def decorate(cls: Class) -> Class:
        construct = vars(cls)["__init__"]

        @wraps(construct)
        def init(self: Any, *args: Any, **fields: Any) -> None:
            for old in names.keys() & fields.keys():
                warn_renamed(f"{cls.__name__}({old}=)", f"{names[old]}=")
                fields[names[old]] = fields.pop(old)
            construct(self, *args, **fields)

        renamed = {old: renamed_attribute(old, new) for old, new in names.items()}
        for name, value in {"__init__": init, **renamed}.items():
            setattr(cls, name, value)
        return cls

    return decorate


def renamed_keyword(old: str, new: str) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """A decorator of a function whose keyword argument had another name: `@renamed_keyword("told", "regions")`."""

    def decorate(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        @wraps(function)
        def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            if old in kwargs:
                warn_renamed(f"{old}=", f"{new}=")
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate


def renamed_argument(old: str, new: str, given: Mapping[str, Any], value: Any) -> Any:
    """The value of an argument that may have come under its old name, among the keyword arguments `given`."""
    unknown = sorted(set(given) - {old})
    if unknown:
        raise TypeError(f"unexpected keyword arguments: {', '.join(unknown)}")
    if old not in given:
        return value
    warn_renamed(f"{old}=", f"{new}=", stacklevel=4)
    return given[old]


def renamed_names(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's `__getattr__` for names that it had: `__getattr__ = renamed_names(__name__, {"Place": "..."})`."""

    def read(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warn_renamed(f"{module}.{name}", names[name])
        return getattr(sys.modules[module], names[name])

    return read


class MovedModules(MetaPathFinder, Loader):
    """Imports of modules under their old names, of which Python's own finders know nothing."""

    def find_spec(self, fullname: str, _path: Any = None, _target: Any = None) -> ModuleSpec | None:
        """A spec for a module that has moved; None for any other; ImportError for one that is now a program."""
        if fullname in PROGRAMS:
            raise ImportError(
                f"{fullname} is not part of gaze_lens any more: run python -m {PROGRAMS[fullname]} in a checkout "
                "of the repository; the wheel does not contain it.",
                name=fullname,
            )
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        """Fill the module with what stands in the new one."""
        new = MOVED[module.__name__]
        warnings.warn(f"{module.__name__} is now {new}; the old name goes in version 0.3.", DeprecationWarning, 2)
        content = vars(importlib.import_module(new))
        vars(module).update({name: value for name, value in content.items() if not name.startswith("__")})
