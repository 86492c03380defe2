"""A pytest plugin: TransformerLens' own tests get a model of ours where they would download one.

python -m pytest -p stand_in --stand-in ours --outcomes ours.json TESTS

--stand-in: "plain", the embedded model under TransformerLens' bridge; "ours", under `HookedVLM`; "image", where a text
is a question about a picture, and `to_tokens` of a whole prompt returns `VLMInputs`.
The outcomes of the tests that used the model, and of no other, are written as JSON.
"""

import copy
import functools
import importlib
import json
import math
import signal
import time
from pathlib import Path
from typing import Any

import pytest

# Models in TransformerLens' tests that stand for any text model; tests of other names are about that architecture.
ANY_MODEL = {
    "gpt2", "gpt2-small", "openai-community/gpt2", "distilgpt2", "hf-internal-testing/tiny-random-gpt2",
    "hyper-accel/tiny-random-gpt2", "EleutherAI/pythia-14m", "EleutherAI/pythia-70m", "roneneldan/TinyStories-1M",
}  # fmt: skip
SECONDS = 20  # of the processor, for one test
WAITING = 180  # seconds on the clock, for one test


def pytest_addoption(parser: Any) -> None:
    """The options of this plugin."""
    parser.addoption("--stand-in", choices=("plain", "ours", "image"), required=True)
    parser.addoption("--outcomes", type=Path, required=True)
    parser.addoption("--minutes", type=float, default=math.inf, help="of the processor, after which no test is begun")


@functools.cache
def _parts() -> tuple[Any, Any]:
    """The embedded model's Hugging Face model and processor; to be copied, not wrapped."""
    from gaze_lens.model import loading
    from gaze_lens.tiny import FOLDER

    return loading.load(str(FOLDER), device="cpu", dtype="float32", device_map=None, revision=None)


class StandIn:
    """Puts the model in place, and keeps account of who used it."""

    def __init__(self, kind: str, outcomes: Path, minutes: float) -> None:
        self.kind, self.outcomes, self.booted = kind, outcomes, 0
        self.end = time.process_time() + 60 * minutes
        self.fixtures: set[Any] = set()  # definitions whose value has the model in it
        self.used: set[Any] = set()  # those of the present test
        self.results: dict[str, dict[str, Any]] = {}

    def boot(self, original: Any, name: Any, *args: Any, **options: Any) -> Any:
        """In place of `TransformerBridge.boot_transformers`."""
        if name not in ANY_MODEL or options.get("hf_model") is not None:
            return original(name, *args, **options)
        self.booted += 1
        hf_model, processor = copy.deepcopy(_parts())
        hf_model.to(options.get("dtype") or hf_model.dtype)
        return self._bridge(hf_model, processor, name)

    def _bridge(self, hf_model: Any, processor: Any, name: str) -> Any:
        from gaze_lens.model.wrapping import bridge_of

        if self.kind == "plain":
            return bridge_of(hf_model, processor, name)
        models = importlib.import_module("models")
        cls = models.AsTransformerBridge if self.kind == "ours" else models.AskedAboutAPicture
        return cls.wrap(hf_model, processor, name=name)

    def install(self) -> None:
        """Replace what boots and loads models, for the names in `ANY_MODEL`."""
        import transformers
        from transformer_lens.model_bridge import TransformerBridge

        TransformerBridge.boot_transformers = staticmethod(  # type: ignore[method-assign]
            functools.partial(self.boot, TransformerBridge.boot_transformers)
        )
        for name, part in (("AutoModelForCausalLM", 0), ("AutoTokenizer", 1)):
            cls = getattr(transformers, name)
            cls.from_pretrained = classmethod(_loader(cls.from_pretrained, part))

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Any:
        """A fixture that boots the model, or is made of one that does, has it."""
        before = self.booted
        yield
        used = [request._get_active_fixturedef(name) for name in fixturedef.argnames if name != "request"]
        if self.booted > before or not self.fixtures.isdisjoint(used):
            self.fixtures.add(fixturedef)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Any:
        """Run one test within its time; keep its outcome if it used the model."""
        before = self.booted
        yield
        if self.booted == before and self.fixtures.isdisjoint(self.used):
            self.results.pop(item.nodeid, None)
        if time.process_time() > self.end:
            item.session.shouldstop = "time is up"
            for later in item.session.items[item.session.items.index(item) + 1 :]:
                self.results[later.nodeid] = {"outcome": "not begun", "error": "", "seconds": 0}

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_setup(self, item: Any) -> Any:
        """See which fixtures a test has, those that failed included."""
        yield
        self.used = set(item._request._fixture_defs.values())

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self) -> Any:
        """A test that takes too long is stopped."""

        def too_long(*_: Any) -> None:
            raise TooLong(f"took more than {SECONDS} s of the processor, or {WAITING} s in all")

        limits = ((signal.SIGPROF, signal.ITIMER_PROF, SECONDS), (signal.SIGALRM, signal.ITIMER_REAL, WAITING))
        for number, timer, seconds in limits:
            signal.signal(number, too_long)
            signal.setitimer(timer, seconds)
        yield
        for _, timer, _ in limits:
            signal.setitimer(timer, 0)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: Any, call: Any) -> Any:
        """Note how a test ended: the first phase that did not pass says why."""
        report = (yield).get_result()
        known = self.results.get(item.nodeid)
        if known is None or known["outcome"] == "passed":
            seconds = (known["seconds"] if known else 0) + report.duration
            self.results[item.nodeid] = {"outcome": report.outcome, "error": "", "seconds": round(seconds, 2)}
            if call.excinfo:
                self.results[item.nodeid] |= _failure(call.excinfo)

    def pytest_sessionfinish(self) -> None:
        """Write the outcomes."""
        self.outcomes.write_text(json.dumps(self.results, indent=1))


class TooLong(Exception):
    """A test took more than its time."""


def _failure(raised: pytest.ExceptionInfo) -> dict[str, str]:
    """What a test raised, and where: the last lines of the trace, for whoever looks for the reason."""
    failure = {
        "error": f"{raised.type.__module__}.{raised.type.__name__}: {raised.value}",
        "trace": "\n".join(str(raised.getrepr(style="short")).splitlines()[-40:]),
    }
    return {**failure, "outcome": "stopped"} if raised.type is TooLong else failure


def _loader(original: Any, part: int) -> Any:
    """In place of `from_pretrained` of a model or a tokenizer."""

    def from_pretrained(_cls: Any, name: Any, *args: Any, **options: Any) -> Any:
        if name not in ANY_MODEL:
            return original(name, *args, **options)
        loaded = copy.deepcopy(_parts()[part])
        return loaded.tokenizer if part else loaded

    return from_pretrained


def pytest_configure(config: Any) -> None:
    """Put the model in place before tests are collected."""
    stand_in = StandIn(*(config.getoption(name) for name in ("--stand-in", "--outcomes", "--minutes")))
    stand_in.install()
    config.pluginmanager.register(stand_in)
