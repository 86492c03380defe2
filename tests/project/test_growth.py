"""How work and memory grow with strips, images and image tokens: counted in calls, pictures and bytes, not in time."""

import sys
import tracemalloc
import weakref

import numpy as np
import pytest
from PIL import Image

import gaze_lens as gl
from gaze_lens import comics
from gaze_lens.cli import discovery
from gaze_lens.data import Pictures
from gaze_lens.evaluation import generate, judging
from gaze_lens.evaluation.statistics import difference, mean, spearman
from gaze_lens.patching import sweep
from gaze_lens.regions import shapes
from gaze_lens.scoring.readings import membership


def calls(work):
    """How many Python functions `work` calls, after a first time that fills caches."""
    work()
    counted = [0]

    def count(frame, event, argument):
        counted[0] += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return counted[0]


def allocated(work):
    """The most bytes that numpy and Python hold during `work`, after a first time."""
    work()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class Reading:
    """Strips that are read when they are asked for, and how many of them were ever in memory at a time."""

    def __init__(self, number):
        self.alive, self.most = 0, 0
        self.strips = Pictures({f"strip {k}": lambda k=k: self.read(k) for k in range(number)})

    def read(self, index):
        (strip,) = comics.synthetic(1, seed=index, panels=3)
        self.alive += 1
        self.most = max(self.most, self.alive)
        weakref.finalize(strip, self.let_go)
        return strip

    def let_go(self):
        self.alive -= 1


def test_strips_are_let_go_one_after_another(model):
    reading = Reading(9)
    gl.score_heads(model, reading.strips, progress=False)
    assert reading.most <= 2
    assert reading.alive == 0
    reading = Reading(9)
    gl.score_heads(model, reading.strips, batch_size=3, progress=False)
    assert reading.most <= 3 + 3


def test_a_strip_costs_the_same_among_many(model):
    few, many = (calls(lambda n=n: gl.score_heads(model, Reading(n).strips, progress=False)) for n in (4, 12))
    assert many < 3.1 * few


def test_discovery_keeps_no_strip_and_no_sample_while_it_runs(model, tmp_path, monkeypatch):
    real, alive = discovery.read_strips, [0, 0]

    def score_strips(*given, **options):
        for sample in real(*given, **options):
            alive[0] += 1
            alive[1] = max(alive)
            weakref.finalize(sample, lambda: alive.__setitem__(0, alive[0] - 1))
            yield sample

    monkeypatch.setattr(discovery, "read_strips", score_strips)
    monkeypatch.setattr(discovery, "write_results", lambda *_, **__: None)
    reading = Reading(6)
    assert len(discovery.discover(model, reading.strips, tmp_path).samples) == 6
    assert reading.most <= 2
    assert alive[1] <= 2


@pytest.fixture
def bars(monkeypatch):
    """The progress bars that come up: [(where it began, where it is, where it ends)]."""
    made, real = [], discovery.Bar
    for module in (discovery, generate, judging, sweep):
        monkeypatch.setattr(module, "Bar", lambda **options: made.append(real(**options)) or made[-1])
    return lambda: [(bar.initial, bar.n, bar.total) for bar in made]


def test_the_bar_of_discovery_knows_how_much_there_is_and_begins_where_a_run_was(model, tmp_path, monkeypatch, bars):
    monkeypatch.setattr(discovery, "write_results", lambda *_, **__: None)
    discovery.discover(model, Reading(5).strips, tmp_path)
    for path in sorted((tmp_path / "strips").glob("*.safetensors"))[:2]:
        path.unlink()
    discovery.discover(model, Reading(5).strips, tmp_path, resume=True)
    assert bars() == [(0, 5, 5), (3, 5, 5)]


def test_the_bars_of_an_evaluation_do(model, tmp_path, bars):
    strips, conditions = comics.synthetic(2, seed=0, panels=3), [gl.evaluation.Condition("none")]
    for resume in (False, True):
        gl.evaluate(model, strips, conditions, out=tmp_path, resume=resume)
    assert bars() == [(0, 2, 2), (0, 6, 6), (2, 2, 2), (6, 6, 6)]  # pictures and answers, twice


def test_the_bar_of_a_sweep_does(model, tmp_path, bars):
    clean, corrupted = (model.prepare(picture(96, 32), question) for question in ("What?", "That?"))
    for layers in ([0, 1], [0, 1, 2, 3]):
        options = {"where": layers, "metric": lambda logits: logits[:, -1, 65], "resume": tmp_path / "sweep.jsonl"}
        gl.patch(model, clean, corrupted, what="resid_pre", **options)
    assert bars() == [(0, 2, 2), (2, 4, 4)]


def picture(width, height, n_regions=3):
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return gl.Picture(Image.fromarray(pixels), gl.panels(n_regions, width, height))


def look_up(inputs):
    """Every region of every image, and every token as text."""
    for (pictures,) in [inputs.pictures]:
        for index, each in enumerate(pictures):
            for name in each.regions:
                inputs.positions_of(name, image=index)
    inputs.str_tokens(), inputs.str_tokens(collapse=True)


def test_work_grows_with_the_number_of_images_of_a_prompt(model):
    pictures = [picture(96, 32) for _ in range(20)]
    prepare = lambda n: model.prepare([pictures[:n]], "What is there?")  # noqa: E731
    assert calls(lambda: prepare(20)) < 2.2 * calls(lambda: prepare(10))
    ten, twenty = prepare(10), prepare(20)
    assert [len(tokens) for tokens in twenty.image_tokens[:10]] == [len(tokens) for tokens in ten.image_tokens]
    assert calls(lambda: look_up(twenty)) < 2.2 * calls(lambda: look_up(ten))


def test_a_shape_inside_its_picture_is_not_measured_when_it_is_prepared_and_looked_up(model, monkeypatch):
    image = picture(96, 32).image
    inside = gl.Polygon([(0, 0), (96, 0), (40, 32)])
    beyond = gl.Polygon([(0, 0), (200, 0), (40, 32)])
    measured, measure = [], shapes._measure
    monkeypatch.setattr(shapes, "_measure", lambda shape, boxes: measured.append(shape) or measure(shape, boxes))
    model.prepare(gl.Picture(image, {"a": inside}), "What is there?").region("a")
    assert measured == []
    model.prepare(gl.Picture(image, {"a": beyond}), "What is there?").region("a")
    assert set(measured) == {beyond}


def test_work_grows_with_the_number_of_rows(model):
    one = picture(96, 32)
    few, many = (model.prepare(one, ["What is there?"] * n) for n in (8, 32))
    assert calls(lambda: membership(many)) < 4.2 * calls(lambda: membership(few))


@pytest.fixture
def roomy():
    """A tiny random model that takes large images, and prompts of 10,000 tokens."""
    hf_model, processor = gl.testing.tiny("Qwen3-VL")
    hf_model.config.text_config.max_position_embeddings = 10_000
    processor.image_processor.size = {"shortest_edge": 32 * 32, "longest_edge": 4096 * 2048}
    return gl.HookedVLM.wrap(hf_model, processor)


def test_work_grows_with_the_number_of_image_tokens(roomy):
    made = [picture(1024, 2048, 6), picture(4096, 2048, 6)]
    few, many = (roomy.prepare(each, "What is there?") for each in made)
    assert (len(few.image_tokens[0]), len(many.image_tokens[0])) == (2048, 8192)
    assert calls(lambda: look_up(many)) < 4.4 * calls(lambda: look_up(few))
    assert allocated(lambda: look_up(many)) < 4.4 * allocated(lambda: look_up(few))
    assert allocated(lambda: membership(many)) < 4.4 * allocated(lambda: membership(few))
    prepared = [calls(lambda each=each: roomy.prepare(each, "What is there?")) for each in made]
    assert prepared[1] < 4.4 * prepared[0]


@pytest.mark.parametrize("figure", [mean, difference, spearman])
def test_a_bootstrap_holds_no_more_for_more_resamples_and_strips(figure):
    def held(n_strips, resamples):
        strips = np.repeat(np.arange(n_strips), 2).tolist()
        columns = [np.arange(2 * n_strips) * k % 7 for k in ((1,) if figure is mean else (1, 3))]
        return allocated(lambda: figure(*columns, strips, resamples=resamples))

    least = held(4000, 400)
    assert held(4000, 1600) < 1.2 * least
    assert held(16_000, 400) < 1.5 * least
