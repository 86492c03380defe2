"""Evaluations: answers as they are one by one, figures as a slow loop gives them, judges that fail, and the page."""

import json
import re
from functools import partial

import numpy as np
import pandas
import pytest
from PIL import Image

import gaze_lens as gl
from gaze_lens import Box, HeadSet, Picture, comics, evaluation, show
from gaze_lens.errors import InputError, JudgeError
from gaze_lens.evaluation import (
    Condition,
    Generations,
    dynamic_narration,
    generate_answers,
    question,
    rejudge,
    statistics,
)
from gaze_lens.evaluation.judges import (
    CaptionMatch,
    Description,
    ExactDescription,
    Judge,
    Judgement,
    LikelihoodJudge,
    NamesOnly,
)
from gaze_lens.evaluation.records import Record, picture_line
from gaze_lens.evaluation.results import Results
from gaze_lens.evaluation.runner import save

GAZE = HeadSet(["L1H6", "L1H11", "L1H7"])
CONDITIONS = [
    Condition("gaze", GAZE), Condition("random", HeadSet(["L4H1", "L3H2"])),
    Condition("random", HeadSet(["L4H3"]), draw=1), Condition("none"),
]  # fmt: skip


@pytest.fixture(scope="module")
def strips():
    return comics.synthetic(2, seed=60, panels=3)


@pytest.fixture(scope="module")
def answers(tiny_model, strips):
    return generate_answers(tiny_model, strips, CONDITIONS, protocol=question(), progress=False)


def test_answers_of_a_batch_are_those_of_single_runs(tiny_model, strips, answers):
    assert len(answers.records) == 2 * 4 * 3
    expected = [(str(n), c.name, c.draw, (name,)) for n in (0, 1) for c in CONDITIONS for name in strips[n].regions]
    assert [record.key for record in answers.records] == expected
    heads = {condition.key: condition.heads for condition in CONDITIONS}
    for record in answers.records[::3] + answers.records[1:7]:
        inputs = tiny_model.prepare(strips[int(record.picture)], comics.OPEN)
        head_set = heads[record.condition, record.draw]
        hooks = gl.steer(head_set, inputs.region(record.targets[0])) if head_set else []
        assert str(tiny_model.generate(inputs, fwd_hooks=hooks, max_new_tokens=15)) == record.text
    assert len({record.text for record in answers.records}) > 4
    small = generate_answers(tiny_model, strips, CONDITIONS, protocol=question(), batch_size=5, progress=False)
    assert [record.text for record in small.records] == [record.text for record in answers.records]


def test_every_steered_answer_has_its_mean_exposure(tiny_model, strips, answers, tmp_path):
    heads = {condition.key: condition for condition in CONDITIONS}
    for record in answers.records[1::4]:
        condition = heads[record.condition, record.draw]
        if condition.heads is None:
            assert record.exposure is None
            continue
        inputs = tiny_model.prepare(strips[int(record.picture)], comics.OPEN)
        hooks = gl.steer(condition.heads, inputs.region(record.targets[0]), mode=condition.mode)
        alone = tiny_model.generate(inputs, fwd_hooks=hooks, exposure=True, max_new_tokens=64).exposure.mean()
        assert record.exposure == pytest.approx(alone, abs=1e-4)
        assert record.exposure["mass"] > record.exposure["mass_without"]
    path = tmp_path / "generations.jsonl"
    generate_answers(tiny_model, strips[:1], CONDITIONS[-2:], protocol=question(), path=path, progress=False)
    read = Generations.read(path).records
    assert [record.exposure is None for record in read] == [record.condition == "none" for record in read]
    assert [record.exposure for record in read if record.exposure] == [
        pytest.approx(record.exposure, abs=1e-4) for record in answers.records
        if (record.picture, record.condition, record.draw) == ("0", "random", 1)
    ]  # fmt: skip


def test_an_image_is_encoded_once_for_everything(tiny_model, strips):
    tower, runs = tiny_model.original_model.model.visual, []
    handle = tower.register_forward_pre_hook(lambda module, args, kwargs: runs.append(1), with_kwargs=True)
    try:
        generate_answers(tiny_model, strips, CONDITIONS, protocol=question(), batch_size=5, progress=False)
    finally:
        handle.remove()
    assert len(runs) == len(strips)


@pytest.mark.parametrize("moves", [{"end": "."}, {"every": 7}], ids=["ends", "steps"])
def test_narrations_of_a_batch_follow_their_own_schedules(tiny_model, strips, moves):
    protocol = dynamic_narration(max_new_tokens=40, where=("prefill", "decode"), **moves)
    narrations = generate_answers(tiny_model, strips[:1], CONDITIONS[:2], protocol=protocol, progress=False)
    for record, condition in zip(narrations.records, CONDITIONS, strict=False):
        inputs = tiny_model.prepare(strips[0], comics.NARRATE_ANY_ORDER)
        schedule = [(step, inputs.region(name)) for step, name in zip(record.steps, record.targets, strict=False)]
        alone = tiny_model.generate(inputs, fwd_hooks=gl.steer(condition.heads, schedule=schedule), max_new_tokens=40)
        assert str(alone) == record.text
        assert sorted(record.targets) == sorted(strips[0].regions)
        pieces = " ".join(record.pieces)
        assert pieces.replace(" ", "") in record.text.replace(" ", "")
        if moves == {"end": "."}:
            assert all(piece.count(".") == 1 and piece.endswith(".") for piece in record.pieces[:-1])
        else:
            assert record.steps == (0, 7, 14)


def test_targets_without_a_token_and_pictures_that_cannot_be_read_are_counted_apart(tiny_model, strips):
    tiny = Picture(strips[0].image, {**strips[0].regions, "speck": gl.Box(0, 0, 1, 1)}, strips[0].captions)
    long = Picture(Image.new("RGB", (9000, 9)), gl.panels(2, 9000, 9))
    answers = generate_answers(tiny_model, [tiny, long], CONDITIONS[:1], protocol=question(), progress=False)
    assert list(answers.skipped) == ["1"]
    assert "9000 x 9" in answers.skipped["1"]
    assert {record.targets[0]: bool(record.skipped) for record in answers.records} == {
        "panel 1": False, "panel 2": False, "panel 3": False, "speck": True,
    }  # fmt: skip
    assert "'speck'" in answers.records[0].skipped
    results = rejudge(answers, progress=False)
    assert results.accuracy("gaze").n == 3
    assert results.missing == 0
    assert results.table().skipped.tolist() == [1]
    assert results.answers.skipped.notna().sum() == 1


def generations(*, seed=0, pictures=9):
    """Made-up records of three conditions, and judgements of them: right or wrong at random, some with an error."""
    rng, (strip,) = np.random.default_rng(seed), comics.synthetic(1, seed=1, panels=3)
    conditions = [Condition("gaze", GAZE), Condition("random", GAZE[:1]), Condition("random", GAZE[1:2], draw=1),
                  Condition("none")]  # fmt: skip
    run = {
        "protocol": question().to_dict(), "conditions": [c.to_dict() for c in conditions], "pictures": pictures + 1,
        "seed": 0, "model": "m", "architecture": "a", "weights": "w", "digest": "d",
    }  # fmt: skip
    answers, judged, names = Generations(run), {}, list(strip.regions)
    for n in range(pictures):
        answers.add(picture_line(f"p{n}", strip, 12))
        for condition in conditions:
            for name in names[: 1 + n % 3]:
                record = Record(f"p{n}", condition.name, condition.draw, (name,), "?", 0, condition.digest,
                                text=f"words of {name} {n}", pieces=("x",), steps=(0,))  # fmt: skip
                answers.add(record.to_line())
                match = names[rng.integers(3)] if condition.name != "gaze" or rng.random() < 0.5 else name
                wrong = rng.random() < 0.1
                judged[record.key] = [
                    {"match": None, "correct": None, "margin": None, "error": "no answer"} if wrong else
                    {"match": match, "correct": match == name, "margin": 1.0, "error": None}
                ]  # fmt: skip
    return answers, judged


def test_a_figure_is_bootstrapped_once_whatever_asks_for_it(monkeypatch):
    asked, mean = [], statistics.mean
    monkeypatch.setattr("gaze_lens.evaluation.results.mean", lambda *a, **b: asked.append(a) or mean(*a, **b))
    answers, judged = generations()
    results = Results(answers, "made up", judged)
    first = results.to_dict()
    assert len(asked) == 3 + 3 * 3  # conditions, and targets of each
    assert json.dumps(results.to_dict()) == json.dumps(first)
    str(results), results.table(), results.by_target()
    assert len(asked) == 3 + 3 * 3


def test_figures_are_those_of_a_slow_loop():
    answers, judged = generations()
    results = Results(answers, "made up", judged)
    by_condition = {name: {} for name in results.names}
    errors = dict.fromkeys(results.names, 0)
    for record in answers.records:
        (judgement,) = judged[record.key]
        if judgement["error"]:
            errors[record.condition] += 1
        else:
            place = by_condition[record.condition].setdefault((record.picture, record.targets[0]), [])
            place.append(judgement["correct"])
    table = results.table().set_index("condition")
    assert sum(errors.values()) > 2
    for name, values in by_condition.items():
        every = [value for place in values.values() for value in place]
        assert results.accuracy(name).value == pytest.approx(np.mean(every))
        assert table.n[name] == len(every)
        assert table.errors[name] == errors[name]
        assert table.low[name] <= table.accuracy[name] <= table.high[name]
        only = [value for (_, target), place in values.items() if target == "panel 2" for value in place]
        assert results.accuracy(name, target="panel 2").value == pytest.approx(np.mean(only))
    gaze, random = by_condition["gaze"], by_condition["random"]
    pairs = [np.mean(gaze[key]) - np.mean(random[key]) for key in gaze if key in random]
    difference = results.compare("gaze", "random")
    assert difference.value == pytest.approx(np.mean(pairs))
    assert difference.n == len(pairs)
    assert 0 < difference.p <= 1
    draws = results.answers[results.answers.condition == "random"].groupby("draw").correct.mean()
    assert (table.least["random"], table.most["random"]) == (draws.min(), draws.max())
    assert results.missing == 7, "every third picture has its twelve answers, and one was not begun"
    assert results.chance == pytest.approx(1 / 3)
    with pytest.raises(InputError, match="no condition 'all'; there are 'gaze', 'random', 'none'"):
        results.accuracy("all")


def test_where_a_condition_stands_among_the_draws_of_a_control():
    answers, judged = generations()
    results = Results(answers, "made up", judged)

    def accuracy(condition, draw):
        records = [one for one in answers.records if (one.condition, one.draw) == (condition, draw)]
        correct = [judged[one.key][0]["correct"] for one in records if not judged[one.key][0]["error"]]
        return sum(correct) / len(correct)

    draws = [accuracy("random", draw) for draw in (0, 1)]
    assert results.draws("random").tolist() == pytest.approx(draws)
    for name in ("gaze", "none"):
        own = accuracy(name, 0)
        expected = 50 * sum((draw < own) + (draw == own) / 2 for draw in draws)
        assert results.percentile(name, "random") == expected
    assert results.percentile("gaze", "gaze") == 50
    nothing = {key: [{"match": None, "correct": None, "margin": None, "error": "no answer"}] for key in judged}
    assert Results(answers, "made up", nothing).percentile("gaze", "random") is None


def test_an_answer_that_repeats_the_unsteered_one_is_counted_as_in_the_paper():
    answers, judged = generations()
    results = Results(answers, "made up", judged)
    table = results.table().set_index("condition")
    assert table.repeats["gaze"] == 1, "all texts of a place are the same"
    assert table.without_repeats["gaze"] == 0
    assert np.isnan(table.repeats["none"])


def test_from_which_share_of_words_an_answer_repeats_another_can_be_said():
    answers, judged = generations()
    for record in answers.records:
        if record.condition == "gaze":
            object.__setattr__(record, "text", f"{record.text} too")  # 4 of 5 words are those of the unsteered answer
    assert Results(answers, "made up", judged).table().repeats[0] == 0
    results = Results(answers, "made up", judged, repeated_at=0.8)
    assert results.table().repeats[0] == 1
    assert results.accuracy("gaze").value > 0
    assert results.accuracy("gaze", repeats_as_misses=True).value == 0
    with pytest.raises(InputError, match="repeated_at=2"):
        Results(answers, "made up", judged, repeated_at=2)


def test_junk_is_what_describes_no_region():
    answers, judged = generations()
    keys = [record.key for record in answers.records if record.condition == "gaze"]
    done = [key for key in keys if not judged[key][0]["error"]]
    for key in done[:4]:
        judged[key][0] |= {"match": None, "correct": False}
    assert Results(answers, "made up", judged).junk("gaze").value == pytest.approx(4 / len(done))


def test_spearman_by_picture_is_the_mean_of_those_of_the_pictures():
    (strip,) = comics.synthetic(1, seed=1, panels=3)
    run = {"protocol": dynamic_narration().to_dict(), "conditions": [Condition("gaze", GAZE).to_dict()],
           "pictures": 3, "seed": 0, "model": "m", "architecture": "a", "weights": "w", "digest": "d"}  # fmt: skip
    answers, judged, names = Generations(run), {}, list(strip.regions)
    described = {"a": (2, 0, 1), "b": (0, 1, 2), "c": (1, 1, 1)}  # where (2, 0, 1) was scheduled; c has no rho
    for picture, places in described.items():
        answers.add(picture_line(picture, strip, 1))
        targets = tuple(names[place] for place in (2, 0, 1))
        record = Record(picture, "gaze", 0, targets, "?", 0, "x", text="", pieces=("x",) * 3, steps=(0, 1, 2))
        answers.add(record.to_line())
        judged[record.key] = [
            {"match": names[place], "correct": names[place] == target, "margin": 1.0, "error": None}
            for place, target in zip(places, targets, strict=True)
        ]
    estimate = Results(answers, "made up", judged).spearman_by_picture("gaze")
    assert (estimate.value, estimate.n) == (pytest.approx((1 + -0.5) / 2), 2)


def test_spearman_is_that_of_places_scheduled_and_described():
    answers, judged = generations(pictures=30)
    answers.run["protocol"] = dynamic_narration().to_dict()
    results = Results(answers, "made up", judged)
    names = ["panel 1", "panel 2", "panel 3"]
    pairs = [
        (names.index(record.targets[0]), names.index(judged[record.key][0]["match"]))
        for record in answers.records if record.condition == "gaze" and judged[record.key][0]["match"]
    ]  # fmt: skip
    expected = pandas.DataFrame(pairs).rank().corr().iloc[0, 1]
    assert results.spearman("gaze").value == pytest.approx(expected)
    assert results.table().rho[0] == pytest.approx(expected)


class Moody(Judge):
    """Fails where it is told to; known again by its name."""

    def __init__(self, fails):
        self.fails, self.asked = fails, []

    def __repr__(self):
        return "Moody()"

    def judge(self, description):
        self.asked.append(description)
        if self.fails and description.target == "panel 2":
            raise JudgeError("the service is down")
        return Judgement("panel 1", description.target == "panel 1")


@pytest.fixture
def folder(tiny_model, strips, tmp_path):
    """What evaluate leaves."""
    results = gl.evaluate(tiny_model, strips, CONDITIONS, out=tmp_path / "out", progress=False)
    return tmp_path / "out", results


def test_a_judges_error_is_no_miss_and_is_tried_again(folder, strips):
    out, _ = folder
    first = rejudge(out, Moody(True), pictures=strips, progress=False)
    assert first.accuracy("gaze").value == 0.5, "right for panel 1, wrong for panel 3, and nothing for panel 2"
    assert first.table().errors.tolist() == [2, 4, 2]
    assert first.answers.error.dropna().unique().tolist() == ["the service is down"]
    judge = Moody(False)
    second = rejudge(out, judge, pictures=strips, progress=False)
    assert {description.target for description in judge.asked} == {"panel 2"}
    assert len(judge.asked) == 8
    assert second.table().errors.sum() == 0
    assert second.accuracy("gaze").value == pytest.approx(1 / 3)
    judge.asked.clear()
    rejudge(out, judge, pictures=strips, progress=False)
    assert not judge.asked


class Mine(Judge):
    """A judge of one's own, without a name that tells it from others of its class."""

    def __init__(self, answer):
        self.answer = answer

    def judge(self, description):
        return Judgement(description.target if self.answer else None, self.answer)


def test_a_judge_that_cannot_be_told_by_its_name_is_asked_anew(folder, strips):
    out, _ = folder
    for answer in (True, False, True):
        results = rejudge(out, Mine(answer), pictures=strips, progress=False)
        assert results.judge == "Mine"
        assert results.accuracy("gaze").value == answer
    assert len(list(out.glob("judgements-mine*"))) == 1


def test_judges_with_other_weights_have_other_names(shelf):
    names = [repr(LikelihoodJudge(shelf.get("Qwen3-VL", **changes)[0])) for changes in ({}, {}, {"seed": 1})]
    assert names[0] == names[1] != names[2]


def test_pictures_without_captions_are_refused_before_anything_runs(tiny_model, strips, tmp_path, monkeypatch):
    monkeypatch.setattr(tiny_model, "generate", lambda *_, **__: pytest.fail("ran"))
    without = [Picture(strip.image, strip.regions) for strip in strips]
    for judge in (None, CaptionMatch(), ExactDescription(), NamesOnly()):
        with pytest.raises(InputError, match="no captions.*judge=gl.evaluation.judges.LikelihoodJudge"):
            gl.evaluate(tiny_model, without, CONDITIONS, judge=judge, out=tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_run_goes_on_with_its_own_pictures_only(tiny_model, tmp_path):
    def lazy(strips):
        """Pictures that are known by their names and read late, as from a folder."""
        return gl.data.Pictures({str(n): partial(strips.__getitem__, n) for n in range(len(strips))})

    strips = comics.synthetic(2, seed=1, panels=4)
    without = [Picture(strip.image, strip.regions, {**strip.captions, "panel 1": "red"}) for strip in strips]
    moved = [Picture(strip.image, {**strip.regions, "panel 1": Box(0, 0, 30, 30)}, strip.captions) for strip in strips]
    options = {"out": tmp_path / "out", "progress": False}
    results = gl.evaluate(tiny_model, lazy(strips), CONDITIONS[:1], **options)
    before = (tmp_path / "out" / "generations.jsonl").read_bytes()
    for pictures in map(lazy, (comics.synthetic(2, seed=2, panels=4), without, moved)):
        for again in (
            partial(gl.evaluate, tiny_model, pictures, CONDITIONS[:1], resume=True, **options),
            partial(rejudge, tmp_path / "out", Moody(False), pictures=pictures, progress=False),
        ):
            with pytest.raises(InputError, match="another picture of the name '0'"):
                again()
    assert (tmp_path / "out" / "generations.jsonl").read_bytes() == before
    assert str(gl.evaluate(tiny_model, lazy(strips), CONDITIONS[:1], resume=True, **options)) == str(results)


def test_a_protocol_brings_its_judge(tiny_model, tmp_path):
    scenes = comics.scenes(1, seed=3, shape=(1, 2))
    results = gl.evaluate(
        tiny_model, scenes, CONDITIONS[:1], protocol=evaluation.regions(), out=tmp_path, progress=False
    )
    assert results.judge == rejudge(tmp_path, progress=False).judge == "NamesOnly()"


@pytest.mark.parametrize("end", [". ", "e "], ids=repr)
def test_an_end_may_be_longer_than_a_token(tiny_model, strips, end):
    protocol = dynamic_narration(max_new_tokens=60, where=("prefill", "decode"), end=end)
    narrations = generate_answers(tiny_model, strips, [CONDITIONS[-1]], protocol=protocol, progress=False)
    tokenizer, moved = tiny_model.processor.tokenizer, 0
    for n, record in enumerate(narrations.records):
        inputs = tiny_model.prepare(strips[n], protocol.prompt)
        ids = tiny_model.generate(inputs, max_new_tokens=60).tokens[0].tolist()
        steps, turn = [0], []
        for step, token in enumerate(ids, 1):
            turn.append(token)
            if end in tokenizer.decode(turn, skip_special_tokens=True) and len(steps) < 3:
                steps.append(step)
                turn = []
        assert list(record.steps) == steps
        moved += len(steps) - 1
        assert all(end.strip() in piece for piece in record.pieces[: len(steps) - 1])
    assert moved > 1


def test_rejudging_needs_no_pictures_unless_the_judge_may_look(folder, strips, tiny_model):
    out, results = folder
    for judge in (CaptionMatch(), ExactDescription()):
        blind, seeing = (rejudge(out, judge, pictures=p, progress=False) for p in (None, strips))
        assert blind.judgements == seeing.judgements
    assert rejudge(out, progress=False).judgements == results.judgements
    with pytest.raises(InputError, match=r"LikelihoodJudge\(.*may look at the pictures; give those of the run"):
        rejudge(out, LikelihoodJudge(tiny_model))
    with pytest.raises(InputError, match="not the pictures of the run"):
        rejudge(out, pictures=strips[::-1])
    with pytest.raises(InputError, match=r"generations\.jsonl cannot be read"):
        rejudge(out / "nowhere")


def test_evaluate_writes_all_down_and_does_the_same_again(folder, tiny_model, strips, tmp_path):
    out, results = folder
    tables = ["answers.csv", "accuracy.csv", "by_target.csv", "comparisons.csv"]
    assert {*tables, "results.json", "report.html", "generations.jsonl"} <= {path.name for path in out.iterdir()}
    assert len(pandas.read_csv(out / "answers.csv")) == 24
    figures = json.loads((out / "results.json").read_text())
    assert figures["conditions"][0]["accuracy"] == pytest.approx(results.accuracy("gaze").value)
    assert figures["unfinished"] == 0
    gl.evaluate(tiny_model, strips, CONDITIONS, out=tmp_path / "again", progress=False)
    for name in [*tables, "results.json", "generations.jsonl", "report.html"]:
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes(), name
    in_memory = gl.evaluate(tiny_model, strips, CONDITIONS, progress=False)
    assert str(in_memory) == str(results)
    assert in_memory.to_dict() == results.to_dict()
    with pytest.raises(InputError, match="is there already; resume it"):
        gl.evaluate(tiny_model, strips, CONDITIONS, out=out, progress=False)


def test_the_page_loads_nothing_and_shows_what_models_say_as_text(folder):
    out, results = folder
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert not re.search(r"https?://", page)
    for text in ("gaze: 3 heads", "Chance is 33.3%", results.answers.text[0], "weights"):
        assert text in page


def test_a_text_that_matches_no_region_is_told_so(folder, tmp_path):
    results = rejudge(folder[0], CaptionMatch(score="f1", margin=1.0), progress=False)
    assert results.answers.match.isna().any()
    save(results, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert ">none<" in page
    assert ">nan<" not in page


def test_figures_show_the_tables(folder):
    _, results = folder
    plot, table = show.accuracies(results), results.table()
    assert plot.data["conditions"] == ("gaze", "random", "none")
    np.testing.assert_array_equal(plot.data["accuracy"], table.accuracy)
    assert plot.figure.axes[0].get_xlabel() == "answers that describe their target, %"
    targets = show.accuracies_by_target(results)
    assert targets.data["accuracy"].shape == (3, 3)
    assert targets.data["accuracy"][0].mean() == pytest.approx(results.accuracy("gaze").value)
    with pytest.raises(InputError, match="no curve along 'heads'"):
        show.accuracy_curve(results, "heads")


def test_objects_of_scenes_are_named_and_places_elsewhere_are_not_theirs(tiny_model):
    scenes = comics.scenes(2, seed=5)
    conditions = [Condition("gaze", GAZE), Condition("elsewhere", GAZE, elsewhere=True)]
    results = gl.evaluate(tiny_model, scenes, conditions, protocol=evaluation.regions(), progress=False)
    assert "NamesOnly" in results.judge
    assert results.accuracy("gaze").value > results.accuracy("elsewhere").value
    boxes = [record.steered_to for record in results.generations.records if record.condition == "elsewhere"]
    assert all(len(box) == 4 for (box,) in boxes)


@pytest.mark.parametrize(
    ("text", "match", "correct"),
    [
        ("Two Dogs, sleeping.", "dog", True), ("A dog and a teddy  bear.", None, False), ("a bear", "bear", False),
        ("the teddy bear", "teddy bear", False), ("hotdog", None, False), ("", None, False),
        ("A dog, a cat", "dog", True),
    ],
)  # fmt: skip
def test_a_photographs_answer_names_the_targets_category_and_no_others(strips, text, match, correct):
    boxes = {name: gl.Box(0, 0, 20, 20) for name in ("dog", "dog 2", "bear", "teddy bear")}
    photo = Picture(strips[0].image, boxes, {name: name.removesuffix(" 2") for name in boxes})
    judgement = NamesOnly().judge(Description(text, "dog", photo))
    assert (judgement.match, judgement.correct) == (match, correct)
    if correct:
        assert NamesOnly().judge(Description(text, "dog 2", photo)).correct, "nothing tells the two dogs apart"


def test_masses_and_their_curve(tiny_model, strips, tmp_path):
    conditions = [Condition("gaze", GAZE, mass=0.9), *evaluation.masses(GAZE, [0.1, 0.6]), Condition("none")]
    results = gl.evaluate(tiny_model, strips, conditions, out=tmp_path, progress=False)
    records = [record for record in results.generations.records if record.condition == "gaze"]
    for record in records[:3]:
        inputs = tiny_model.prepare(strips[int(record.picture)], comics.OPEN)
        hooks = gl.steer(GAZE, inputs.region(record.targets[0]), mass=0.9)
        assert str(tiny_model.generate(inputs, fwd_hooks=hooks, max_new_tokens=15)) == record.text
    assert {(record.mass, record.mode) for record in records} == {(0.9, ())}
    table = results.table().set_index("condition")
    assert table.mass.tolist()[:3] == [0.9, 0.1, 0.6]
    assert table.strength.isna().all()
    curve = show.accuracy_curve(results, "mass")
    assert curve.data["x"].tolist() == [0.1, 0.6]
    assert "mass" in (tmp_path / "report.html").read_text(encoding="utf-8")
    again = gl.evaluate(tiny_model, strips, conditions, out=tmp_path, resume=True, progress=False)
    assert [r.text for r in again.generations.records] == [r.text for r in results.generations.records]
    lines = (tmp_path / "generations.jsonl").read_text(encoding="utf-8").splitlines()
    assert all("mass" not in json.loads(line) for line in lines if '"condition": "none"' in line)


def test_a_condition_contrasts_the_steered_with_the_unsteered_model(tiny_model, strips):
    conditions = [Condition("contrast", GAZE, mass=0.6, contrast=1.5), Condition("gaze", GAZE), Condition("none")]
    results = gl.evaluate(tiny_model, strips[:1], conditions, progress=False)
    records = [record for record in results.generations.records if record.condition == "contrast"]
    assert [record.contrast for record in records] == [1.5] * 3
    for record in records:
        inputs = tiny_model.prepare(strips[0], comics.OPEN)
        hooks = gl.steer(GAZE, inputs.region(record.targets[0]), mass=0.6)
        decoding = gl.contrast_decoding(tiny_model, inputs, plus=hooks, strength=1.5)
        assert str(tiny_model.generate(inputs, decoding=decoding, max_new_tokens=15)) == record.text
    alone = gl.evaluate(tiny_model, strips[:1], conditions[1:], progress=False)
    others = [record.text for record in results.generations.records if record.condition != "contrast"]
    assert others == [record.text for record in alone.generations.records]
    assert [c.contrast for c in results.generations.conditions] == [1.5, None, None]
    with pytest.raises(InputError, match="has contrast=0"):
        Condition("mine", GAZE, contrast=0)
    with pytest.raises(InputError, match="A condition contrasts"):
        generate_answers(tiny_model, strips, conditions, protocol=dynamic_narration(end="."), progress=False)
