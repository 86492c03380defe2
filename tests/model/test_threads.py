"""Several threads on one model: each gets what it would get alone, or an error at once."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from reference import picture

import gaze_lens as gl
from gaze_lens import HeadSet, HookedVLM, testing
from gaze_lens.errors import HookError

ROUNDS = 50


@pytest.fixture(scope="module")
def model():
    return HookedVLM.wrap(*testing.tiny("Qwen3-VL"))


def work(model, questions=("What?", "a longer question", "And this one is longer still")):
    """Kinds of runs, each a function without arguments that returns a tensor."""
    first, second, third = (model.prepare(picture(96, 64, seed), text) for seed, text in enumerate(questions))
    hooks = gl.steer(HeadSet(["L1H0", "L2H3"]), first.region((0, 0, 48, 64)))
    name = "blocks.2.attn.hook_pattern"
    hf_model = model.original_model
    return [
        lambda: model.generate(second, max_new_tokens=3).tokens,
        lambda: hf_model.generate(input_ids=third.input_ids, **third.arguments(), max_new_tokens=3, do_sample=False),
        lambda: model.generate(first, fwd_hooks=hooks, max_new_tokens=3).tokens,
        lambda: model.run_with_cache(second, names_filter=name)[1][name],
        lambda: model.run_with_hooks(first, fwd_hooks=hooks),
        lambda: model(third),
    ]


@torch.no_grad()
def test_runs_in_four_threads_are_those_of_one(model):
    runs = work(model)
    expected = [run() for run in runs]

    def several(thread):
        with torch.no_grad():
            kinds = [(thread + n) % len(runs) for n in range(ROUNDS)]
            return sum(not torch.equal(runs[kind](), expected[kind]) for kind in kinds)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(several, range(4))) == [0, 0, 0, 0]


@torch.no_grad()
def test_a_run_beside_an_open_block_of_hooks_is_an_error_at_once(model):
    runs, errors = work(model), []

    def other():
        for run in runs:
            with pytest.raises(HookError, match="Another thread has hooks on this model") as error:
                run()
            errors.append(error)

    with model.hooks([("blocks.0.hook_resid_post", lambda t, hook: None)]):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        runs[-1]()
    assert len(errors) == len(runs)
    thread = threading.Thread(target=runs[-1])
    thread.start()
    thread.join(timeout=60)
    assert not thread.is_alive()


def test_a_copy_of_a_model_has_a_lock_of_its_own(model):
    import copy

    other, results = copy.deepcopy(model), []
    with model.hooks([("blocks.0.hook_resid_post", lambda t, hook: None)]):
        thread = threading.Thread(target=lambda: results.append(work(other)[-1]()))
        thread.start()
        thread.join()
    assert len(results) == 1
