"""One answer under a target that moves, against schedules that say the same beforehand."""

import threading
import time

import pytest
import torch
from PIL import Image
from reference import tower_runs

from gaze_lens import Box, HeadSet, Picture, boost_and_suppress, comics, contrast_decoding, steer, track
from gaze_lens.errors import RegionError
from gaze_lens.serve.generation_session import GenerationSession, SwitchableBias
from gaze_lens.serve.request_bodies import AnswerRequest, Target, TargetBody

HEADS = HeadSet(["L1H6", "L1H11"])
STRENGTH = 10_000.0


@pytest.fixture(scope="module")
def strip():
    return comics.synthetic(1, seed=5)[0]


def target_at(strip, name):
    return Target(name, strip.regions[name], STRENGTH)


def answer(model, strip, target=None, *, at=None, **changes):
    """Run a session without a server; `at`: step -> what to do with the session when that word has been written."""
    events = []

    def emit(event):
        events.append(event)
        if event["kind"] == "word" and event["step"] in (at or {}):
            at[event["step"]](session)

    options = {"max_new_tokens": 40, "pause": 0.0, **changes}
    session = GenerationSession(model, HEADS, AnswerRequest(strip, comics.NARRATE_FREELY, target, **options), emit)
    session.run()
    return events


def said(events):
    return "".join(event["text"] for event in events if event["kind"] == "word")


def kinds(events):
    return [event["kind"] for event in events if event["kind"] != "word"]


@pytest.mark.parametrize("step", [0, 3, 10])
def test_a_switch_in_mid_sentence_is_the_schedule_with_that_step(tiny_model, strip, step):
    events = answer(
        tiny_model,
        strip,
        target_at(strip, "panel 2"),
        at={step: lambda session: session.set_target(target_at(strip, "panel 5"))},
    )
    inputs = tiny_model.prepare(strip, comics.NARRATE_FREELY)
    schedule = [(0, inputs.region("panel 2")), (step + 1, inputs.region("panel 5"))]
    expected = tiny_model.generate(inputs, fwd_hooks=steer(HEADS, schedule=schedule), max_new_tokens=40)
    assert said(events) == str(expected)
    words = [event for event in events if event["kind"] == "word"]
    assert [event["target"] for event in words] == ["panel 2" if e["step"] <= step else "panel 5" for e in words]


def test_without_a_target_it_says_what_the_model_says_and_letting_go_lets_go(tiny_model, strip):
    free = answer(tiny_model, strip)
    inputs = tiny_model.prepare(strip, comics.NARRATE_FREELY)
    assert said(free) == str(tiny_model.generate(inputs, max_new_tokens=40))
    held = answer(tiny_model, strip, target_at(strip, "panel 2"))
    let_go = answer(tiny_model, strip, target_at(strip, "panel 2"), at={8: lambda session: session.set_target(None)})
    assert said(held).startswith(strip.captions["panel 2"])
    assert said(held).count(strip.captions["panel 2"]) >= 3 > said(free).count(strip.captions["panel 2"])
    assert said(let_go)[:20] == said(held)[:20]
    assert said(let_go) != said(held)


def test_masses_are_those_of_track(tiny_model, strip):
    events = answer(tiny_model, strip, target_at(strip, "panel 3"), max_new_tokens=8)
    inputs = tiny_model.prepare(strip, comics.NARRATE_FREELY)
    hooks = steer(HEADS, inputs.region("panel 3"))
    expected = track(tiny_model, inputs, HEADS, fwd_hooks=hooks, max_new_tokens=8)
    words = [event for event in events if event["kind"] == "word"]
    assert len(words) == 8
    for event in words:
        mass = torch.tensor([event["mass"][name] for name in expected.regions])
        assert (mass - expected.mean[event["step"]]).abs().max() < 1e-4
        assert event["mass"]["panel 3"] > 0.9
        assert event["image"] == pytest.approx(mass.sum().item(), abs=1e-3), "panels cover the strip"


def test_a_box_that_is_drawn_in_mid_sentence_is_watched_from_then_on(tiny_model, strip):
    box = Target("box 1", Box(129, 1, 158, 30), STRENGTH)
    events = answer(tiny_model, strip, at={4: lambda session: session.set_target(box)})
    words = [event for event in events if event["kind"] == "word"]
    assert all(("box 1" in event["mass"]) == (event["step"] > 4) for event in words)
    assert words[-1]["mass"]["box 1"] > 0.9
    assert strip.captions["panel 5"] in said(events)


def test_a_target_that_cannot_be_is_told_and_the_old_one_stays(tiny_model, strip):
    outside = Target("box 1", Box(500, 0, 600, 30), STRENGTH)
    events = answer(tiny_model, strip, target_at(strip, "panel 2"), at={2: lambda session: session.set_target(outside)})
    assert kinds(events) == ["started", "refused", "done"]
    assert said(events) == said(answer(tiny_model, strip, target_at(strip, "panel 2")))
    with pytest.raises(RegionError):
        answer(tiny_model, strip, outside)


def test_cancelling_writes_no_further_token_and_cuts_a_pause_short(tiny_model, strip):
    events = answer(tiny_model, strip, at={3: lambda session: session.cancel()})
    assert events[-1] == {"kind": "done", "reason": "stopped", "tokens": 4}
    start = time.monotonic()
    late = {0: lambda session: threading.Timer(0.05, session.cancel).start()}
    events = answer(tiny_model, strip, at=late, pause=30.0)
    assert events[-1]["reason"] == "stopped"
    assert time.monotonic() - start < 29


def test_only_the_last_of_many_wishes_counts_whatever_thread_they_come_from(tiny_model, strip):
    def flood(session):
        threads = [
            threading.Thread(target=session.set_target, args=(target_at(strip, f"panel {n}"),))
            for n in (1, 3, 4, 6) * 5
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        session.set_target(target_at(strip, "panel 5"))

    events = answer(tiny_model, strip, target_at(strip, "panel 2"), at={3: flood})
    once = answer(
        tiny_model,
        strip,
        target_at(strip, "panel 2"),
        at={3: lambda session: session.set_target(target_at(strip, "panel 5"))},
    )
    assert said(events) == said(once)
    assert [event["target"] for event in events if event["kind"] == "target"] == ["panel 5"]


def test_a_switch_on_the_full_matrix_does_what_its_bias_does(shelf):
    model, _ = shelf.get("Qwen3-VL")
    inputs = model.prepare(Image.new("RGB", (64, 64), "red"), "Hi")
    heads = HeadSet(["L1H0", "L1H2"])
    ((name, bias), *_) = steer(heads, inputs.region((0, 0, 32, 64)))
    switch, look = SwitchableBias(heads), [("blocks.1.attn.hook_pattern", lambda pattern, hook: None)]
    free, steered = model(inputs), model.run_with_hooks(inputs, fwd_hooks=[(name, bias), *look])
    assert torch.equal(model.run_with_hooks(inputs, fwd_hooks=switch.hooks()), free)
    switch.to(bias)
    assert torch.equal(model.run_with_hooks(inputs, fwd_hooks=[*switch.hooks(), *look]), steered)
    assert not torch.allclose(steered, free)
    switch.to(None)
    assert torch.equal(model.run_with_hooks(inputs, fwd_hooks=switch.hooks()), free)
    assert switch.current is None


def test_questions_about_one_picture_encode_it_once(tiny_model, strip):
    def ask(prompt, before=None):
        events = []
        session = GenerationSession(
            tiny_model, HEADS, AnswerRequest(strip, prompt, None, max_new_tokens=8, pause=0.0), events.append
        )
        return session.run(before), said(events)

    with tower_runs(tiny_model) as runs:
        encoded, _ = ask(comics.OPEN)
        _, text = ask(comics.ask(2), encoded)
        assert len(runs) == 1
    assert text == str(tiny_model.generate(tiny_model.prepare(strip, comics.ask(2)), max_new_tokens=8))


def test_the_baseline_beside_is_what_the_model_says_and_changes_nothing(tiny_model, strip):
    """Two rows are generated: the second is never steered, and the first is what it is alone."""
    moves = {3: lambda session: session.set_target(target_at(strip, "panel 5"))}
    alone = answer(tiny_model, strip, target_at(strip, "panel 2"), at=moves)
    beside = answer(tiny_model, strip, target_at(strip, "panel 2"), at=moves, baseline=True)
    free = answer(tiny_model, strip)
    assert said(beside) == said(alone) != said(free)
    baseline = [event for event in beside if event["kind"] == "baseline"]
    assert "".join(event["text"] for event in baseline) == said(free)
    expected = [event for event in free if event["kind"] == "word"]
    for event, other in zip(baseline, expected, strict=True):
        assert event["mass"] == pytest.approx(other["mass"], abs=2e-3)
    assert beside[-1] == alone[-1]


def test_a_row_that_ends_first_is_not_padded_with_words(tiny_model, strip):
    def of(prompt, **changes):
        events = []
        request = AnswerRequest(strip, prompt, target_at(strip, "panel 2"), 40, 0.0, **changes)
        GenerationSession(tiny_model, HEADS, request, events.append).run()
        return events

    alone, beside = of(comics.OPEN), of(comics.OPEN, baseline=True)
    assert (said(beside), beside[-1]) == (said(alone), alone[-1])
    assert beside[-1]["reason"] == "finished"
    free = tiny_model.generate(tiny_model.prepare(strip, comics.OPEN), max_new_tokens=40)
    assert "".join(event["text"] for event in beside if event["kind"] == "baseline") == str(free)


def test_a_mass_and_a_number_of_heads_are_those_of_steer(tiny_model, strip):
    box = strip.regions["panel 3"]
    events = answer(tiny_model, strip, Target("panel 3", box, mass=0.6), max_new_tokens=6)
    for event in (event for event in events if event["kind"] == "word"):
        assert event["mass"]["panel 3"] == pytest.approx(0.6, abs=1e-3)
    events = answer(tiny_model, strip, Target("panel 3", box, mass=0.6, n_heads=1), max_new_tokens=6)
    inputs = tiny_model.prepare(strip, comics.NARRATE_FREELY)
    hooks = steer(HEADS[:1], inputs.region("panel 3"), mass=0.6)
    assert said(events) == str(tiny_model.generate(inputs, fwd_hooks=hooks, max_new_tokens=6))
    assert events[1]["mass"]["panel 3"] == pytest.approx(0.6, abs=1e-3), "read from the head that is steered"
    many = {0: lambda session: session.set_target(Target("panel 3", box, mass=0.6, n_heads=3))}
    (refused,) = [event for event in answer(tiny_model, strip, at=many) if event["kind"] == "refused"]
    assert "3 heads were asked for; there are 2" in refused["message"]


def test_a_disc_is_the_tokens_whose_centre_it_holds(tiny_model, strip):
    target = TargetBody(name="spotlight", disc=(112.0, 16.0, 12.0), strength=STRENGTH).to_target()
    inputs = tiny_model.prepare(strip, comics.NARRATE_FREELY)
    tokens = inputs.image_tokens[0]
    centres = (tokens.boxes[:, :2] + tokens.boxes[:, 2:]) / 2
    near = ((centres - torch.tensor([112.0, 16.0])) ** 2).sum(1) < 12.0**2
    assert inputs.positions_of(target.shape) == tuple(tokens.positions[near].tolist())
    assert 1 < near.sum() < len(near)
    assert strip.captions["panel 4"] in said(answer(tiny_model, strip, target))


def test_a_region_without_a_token_is_left_out_and_told(tiny_model, strip):
    small = Picture(strip.image, {**strip.regions, "box 1": Box(40.1, 0.1, 40.4, 0.4)})
    events = answer(tiny_model, small)
    assert kinds(events) == ["dropped", "started", "done"]
    assert (events[0]["region"], "at least a token's size" in events[0]["message"]) == ("box 1", True)
    assert said(events) == said(answer(tiny_model, strip))


def test_a_contrast_with_the_unsteered_model(tiny_model, strip):
    events = answer(tiny_model, strip, Target("panel 2", strip.regions["panel 2"], strength=3.0), contrast=1.5)
    inputs = tiny_model.prepare(strip, comics.NARRATE_FREELY)
    hooks = steer(HEADS, inputs.region("panel 2"), mode=boost_and_suppress(3.0))
    decoding = contrast_decoding(tiny_model, inputs, plus=hooks, strength=1.5)
    assert said(events) == str(tiny_model.generate(inputs, decoding=decoding, max_new_tokens=40))
    assert len([event for event in events if event["kind"] == "word"]) > 3
