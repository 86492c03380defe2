"""Models that tests share, and the check that no test leaves anything behind on them."""

import copy
import gc

import browsers
import datasets  # noqa: F401
import jaxtyping
import matplotlib.figure  # noqa: F401
import measurements
import pandas  # noqa: F401
import pytest
import torch
import torchvision  # noqa: F401
import transformer_lens  # noqa: F401
import transformers
from every_family import SAME_KIND
from hypothesis import HealthCheck, settings
from packaging.version import Version
from reference import QWENS, SLIDING
from typer.testing import CliRunner

# The imports that nothing here uses are large. jaxtyping's import hook hides compiled files while it loads a module, so
# that all that gaze_lens is the first to import is compiled from source.
torch.set_num_threads(1)  # the models are tiny, and threads that wait for one another cost more than they bring

NO_LLAMA_4 = Version(transformers.__version__) >= Version("5.24")


class Shelf:
    """Models built once per session; remembers them so that their state can be checked."""

    def __init__(self):
        self.models = {}

    def get(self, family="Qwen3-VL", **changes):
        """(wrapped model, an unwrapped copy) of a tiny random model."""
        from gaze_lens import HookedVLM, testing

        if family == "Llama 4" and NO_LLAMA_4:
            pytest.skip("Hugging Face's own Llama 4 raises an AttributeError in transformers 5.24")
        key = (family, tuple(sorted(changes.items())))
        if key not in self.models:
            hf_model, processor = testing.tiny(family, **changes)
            self.models[key] = HookedVLM.wrap(copy.deepcopy(hf_model), processor), hf_model
        return self.models[key]

    def state(self):
        """Everything that a test might leave behind: hooks on hook points, layouts, attention implementations."""
        return {key: _state(model) for key, (model, _) in self.models.items()}


def _state(model):
    names, hooks = _hooks(model)
    return {
        "hooks": [(name, len(some)) for name, some in zip(names, hooks, strict=True) if some] if any(hooks) else [],
        "layout": model.attention_backend.layout,
        "attention": model.config.get_text_config()._attn_implementation,
        "flags": (model.cfg.use_attn_result, model.cfg.use_split_qkv_input, model.cfg.use_attn_in),
    }


def _hooks(model):
    """Names of hook points, and PyTorch's dictionaries of their hooks; kept, as every test looks at all models."""
    points = model.hook_points()
    names, hooks = HOOKS.get(id(model), ([], []))
    if len(names) != 4 * len(points):
        names = [point.name for point in points for _ in range(4)]
        hooks = [
            hooks for point in points for hooks in (
                point._forward_hooks, point._forward_pre_hooks, point._backward_hooks, point._backward_pre_hooks
            )
        ]  # fmt: skip
        HOOKS[id(model)] = names, hooks
    return names, hooks


HOOKS = {}
SHELF = Shelf()


@pytest.fixture(scope="session")
def shelf():
    return SHELF


@pytest.fixture(scope="session")
def model(shelf):
    """A tiny random Qwen3-VL, wrapped."""
    return shelf.get("Qwen3-VL")[0]


@pytest.fixture(scope="session")
def qwen(shelf):
    """The same, for files whose `model` is each of several."""
    return shelf.get("Qwen3-VL")[0]


@pytest.fixture(params=QWENS)
def pair(request, shelf):
    """(wrapped model, an unwrapped copy) of each Qwen."""
    return shelf.get(request.param)


@pytest.fixture(scope="session")
def sliding(shelf):
    """A pair whose last layers have a sliding window."""
    return shelf.get("Qwen2.5-VL", **SLIDING)


@pytest.fixture(scope="session")
def strip():
    """A strip of three panels."""
    from gaze_lens.comics.generator import synthetic

    return synthetic(1, seed=5, panels=3)[0]


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; a test that needs one is skipped where there is none."""
    with browsers.chromium() as running:
        yield running


@pytest.fixture(scope="session")
def tiny_model():
    """The embedded model."""
    import gaze_lens as gl

    model = gl.load_tiny()
    SHELF.models["embedded"] = model, None
    return model


@pytest.fixture
def run(monkeypatch, tiny_model):
    """Run a command on the embedded model, which is loaded already; errors come through as they are."""
    from gaze_lens.cli import commands, running

    monkeypatch.setattr(running, "load", lambda *_: tiny_model)

    def run(*arguments):
        result = CliRunner().invoke(commands.app, [str(argument) for argument in arguments])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def as_users_run():
    """Without the type checks of the test suite, which would answer before the library does."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def nothing_left_behind():
    before = SHELF.state()
    yield
    after = SHELF.state()
    for key, state in after.items():
        clean = before.get(key, {**state, "hooks": [], "layout": None, "flags": (False, False, False)})
        assert state == clean, f"the test left something behind on {key}"


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What is imported and collected stays: to look through it for garbage takes a tenth of the time, for nothing."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marks
def pytest_collection_modifyitems(items):
    """Tests on a family of the kind of another are slow, but for its geometry and what every family is to show."""
    for item in items:
        parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
        repeats = any(isinstance(one, str) and one in SAME_KIND for one in parameters)
        if repeats and item.path.parent.name != "families" and not item.get_closest_marker("every_family"):
            item.add_marker(pytest.mark.slow)


def pytest_sessionfinish():
    measurements.write()


def pytest_terminal_summary(terminalreporter):
    browsers.report_skipped(terminalreporter)


# Examples are as slow as the machine is busy; a slow one is no failure.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")
