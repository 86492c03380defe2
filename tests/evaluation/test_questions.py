"""Question sets: reading, judging, likelihoods of choices against single runs, paired tests, resuming."""

import itertools
import json

import pytest
import torch

import gaze_lens as gl
from gaze_lens import HeadSet, comics, evaluation
from gaze_lens.data import Question, read_questions
from gaze_lens.errors import InputError
from gaze_lens.evaluation import Condition, answering, question
from gaze_lens.evaluation.judges import AnswerMatch, Description
from gaze_lens.evaluation.paired_tests import mcnemar

GAZE = HeadSet(["L1H6", "L1H11"])
CONDITIONS = [Condition("gaze", GAZE), Condition("elsewhere", GAZE, elsewhere=True), Condition("none")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four questions about two strips; what the embedded model answers is the caption of the panel that it looks at."""
    path = tmp_path_factory.mktemp("set")
    lines = []
    for number, strip in enumerate(comics.synthetic(2, seed=60, panels=3)):
        strip.image.save(path / f"{number}.png")
        captions = [caption.rstrip(".") for caption in strip.captions.values()]
        common = {"image": f"{number}.png", "question": comics.OPEN}
        box = [32, 0, 64, 32]
        lines.append(
            {**common, "answer": captions[1], "choices": captions, "region": box, "wrong_region": [64, 0, 96, 32]}
        )
        lines.append({**common, "answer": captions[0], "region": None, "id": f"open {number}"})
    (path / "set.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def questions(folder):
    return read_questions(folder / "set.jsonl")


@pytest.fixture(scope="module")
def results(tiny_model, questions, folder):
    return gl.evaluate(tiny_model, questions, CONDITIONS, out=folder / "out", progress=False)


def test_the_file_is_read(questions, folder):
    assert questions.names == ("1", "open 0", "3", "open 1")
    first, second = questions[0], questions["open 0"]
    assert isinstance(first, Question)
    assert list(first.regions) == ["region", "wrong region"]
    assert len(first.choices) == 3
    assert second.regions["region"] == gl.Box(0, 0, 96, 32)
    assert second.choices == ()
    assert len(read_questions(folder / "set.jsonl", limit=2)) == 2
    assert isinstance(questions[:1].check()[0], Question)
    assert Question(first.image, prompt="Is it?", answer="Yes").choices == ("yes", "no")
    assert Question(first.image, prompt="Which?", answer="B", choices=("a cat", "a dog")).answer == "a dog"


def test_texts_and_likelihoods_are_those_of_single_runs(tiny_model, questions, results):
    frame = results.answers
    assert len(frame) == 12
    picture = questions[0]
    for record in (record for record in results.generations.records if record.picture == "1"):
        place = {"gaze": "region", "elsewhere": "wrong region", "none": None}[record.condition]
        inputs = tiny_model.prepare(picture, comics.OPEN)
        hooks = gl.steer(GAZE, inputs.region(place)) if place else []
        assert str(tiny_model.generate(inputs, fwd_hooks=hooks, max_new_tokens=15)) == record.text
        for choice, likelihood in zip(picture.choices, record.likelihoods, strict=True):
            alone = tiny_model.prepare(picture, comics.OPEN, answers=choice)
            hooks = gl.steer(GAZE, alone.region(place)) if place else []
            with torch.no_grad():
                logits = tiny_model.run_with_hooks(alone, fwd_hooks=hooks)[0].double().log_softmax(-1)
            start = alone.answers[0]
            columns = range(start, alone.layout.length)
            total = sum(logits[column - 1, alone.input_ids[0, column]] for column in columns)
            assert likelihood == pytest.approx(float(total), abs=2e-4)
    right = frame[(frame.condition == "gaze") & frame.picture.isin(["1", "3"])]
    assert right.correct.tolist() == [1.0, 1.0]


def test_figures(results, questions):
    table = results.table().set_index("condition")
    likely = results.by_likelihood
    assert len(likely) == 6
    gaze = likely[likely.condition == "gaze"]
    assert table.by_likelihood["gaze"] == gaze.correct.mean()
    for record in results.generations.records:
        if record.likelihoods:
            asked = questions[record.picture]
            best = max(zip(record.likelihoods, asked.choices, strict=True))[1]
            row = likely[(likely.picture == record.picture) & (likely.condition == record.condition)].iloc[0]
            assert (row.choice, bool(row.correct)) == (best, best == asked.answer)
    assert results.chance == pytest.approx((1 / 3 + 0 + 1 / 3 + 0) / 4)
    skipped = results.answers[results.answers.skipped.notna()]
    assert set(skipped.picture) == {"open 0", "open 1"}, "the whole picture has no place elsewhere"
    shift = results.shift("gaze", "elsewhere", "none")
    assert shift.between.value > 0
    assert results.mcnemar("gaze", "none", by="likelihood").n == 2
    test = results.mcnemar("gaze", "none")
    assert test.n == 4
    with pytest.raises(InputError, match="give 'text' or 'likelihood'"):
        results.mcnemar("gaze", "none", by="taste")


def test_a_run_goes_on_and_other_questions_are_refused(tiny_model, questions, results, folder, tmp_path):
    before = (folder / "out" / "generations.jsonl").read_bytes()
    (folder / "out" / "generations.jsonl").write_bytes(before[:-40])
    again = gl.evaluate(tiny_model, questions, CONDITIONS, out=folder / "out", resume=True, progress=False)
    assert (folder / "out" / "generations.jsonl").read_bytes() == before
    assert again.table().equals(results.table())
    assert gl.rejudge(folder / "out", progress=False).table().equals(results.table())
    other = (folder / "set.jsonl").read_text(encoding="utf-8").replace(comics.OPEN, "What?")
    (folder / "other.jsonl").write_text(other, encoding="utf-8")
    with pytest.raises(InputError, match="another picture of the name '1'"):
        gl.evaluate(tiny_model, read_questions(folder / "other.jsonl"), CONDITIONS, out=folder / "out", resume=True,
                    progress=False)  # fmt: skip


def test_lettered_choices_and_what_does_not_go_together(tiny_model, questions):
    picture = Question(questions[0].image, prompt="Which?", answer="a dog", choices=("a cat", "a dog"))
    protocol = answering("{question}\n{choices}")
    assert protocol.prompt_for(picture, "region") == "Which?\nA. a cat\nB. a dog"
    assert protocol.choices_of(picture) == ("A", "B")
    with pytest.raises(InputError, match="lists choices, and a question has none"):
        protocol.prompt_for(questions["open 0"], "region")
    with pytest.raises(InputError, match=r"go with gl.evaluation.answering\(\)"):
        question().prompt_for(picture, "region")
    with pytest.raises(InputError, match=r"go with gl.evaluation.answering\(\)"):
        answering().prompt_for(comics.synthetic(1, seed=0)[0], "panel 1")
    with pytest.raises(InputError, match="where the question goes"):
        answering("What is it?")
    kept = [Condition("kept", GAZE, mass=0.5, keep="image"), Condition("none")]
    results = gl.evaluate(tiny_model, [questions["open 0"]], kept, progress=False)
    assert results.answers.skipped.str.contains("whole picture").tolist()[0]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "Line 1 of .* is no JSON"),
        ("[1]", "no JSON object"),
        ({"image": "a.png", "question": "Is it?"}, "no image, question or answer"),
        ({"image": "a.png", "question": "Is it?", "answer": "no", "label": 1}, "unknown fields label"),
        ({"image": "a.png", "question": "Is it?", "answer": "x", "choices": ["a", "b"]}, "none of the choices"),
        ({"image": "a.png", "question": "Is it?", "answer": "a", "choices": ["a", "A"]}, "two or more that differ"),
        ({"image": "a.png", "question": "Is it?", "answer": "a", "choices": "ab"}, "give a list"),
        ({"image": "a.png", "question": "Is it?", "answer": "a", "region": [1, 2]}, r"give a box \[x0, y0, x1, y1\]"),
        ("", "has no lines"),
    ],
)
def test_lines_that_are_no_questions(tmp_path, line, said):
    (tmp_path / "set.jsonl").write_text(line if isinstance(line, str) else json.dumps(line), encoding="utf-8")
    with pytest.raises(InputError, match=said):
        read_questions(tmp_path / "set.jsonl")


@pytest.mark.parametrize(
    ("text", "choices", "given"),
    [
        ("Yes.", ("yes", "no"), "yes"),
        ("No, it is not.", ("yes", "no"), "no"),
        ("I think yes", ("yes", "no"), "yes"),
        ("yes or no", ("yes", "no"), "yes"),
        ("Perhaps yes, perhaps no", ("yes", "no"), None),
        ("nothing", ("yes", "no"), None),
        ("B", ("a cat", "a dog"), "a dog"),
        ("(B) a dog", ("a cat", "a dog"), "a dog"),
        ("A dog", ("a cat", "a dog"), "a dog"),
        ("A brown dog", ("a cat", "a dog"), None),
        ("E.", ("a cat", "a dog"), None),
        ("red ball", ("red", "red ball"), "red ball"),
        ("", ("yes", "no"), None),
    ],
)
def test_which_choice_a_text_gives(text, choices, given):
    image = comics.synthetic(1, seed=0)[0].image
    asked = Question(image, prompt="?", answer=choices[0], choices=choices)
    judgement = AnswerMatch().judge(Description(text, "region", asked))
    assert (judgement.match, judgement.correct) == (given, given == choices[0])


def test_open_answers():
    image = comics.synthetic(1, seed=0)[0].image
    asked = Question(image, prompt="?", answer="red ring")
    for text, loose, exact in (("A red ring.", True, False), ("Red ring", True, True), ("ring red", False, False)):
        assert AnswerMatch().judge(Description(text, "region", asked)).correct is loose
        assert AnswerMatch(exact=True).judge(Description(text, "region", asked)).correct is exact


@pytest.mark.parametrize(("b", "c"), [(0, 0), (5, 1), (1, 5), (4, 4), (8, 3), (0, 9)])
def test_mcnemars_exact_test_counts_the_splits_that_are_as_uneven(b, c):
    test = mcnemar([1] * b + [0] * c + [1, 0], [0] * b + [1] * c + [1, 0])
    assert (test.only_first, test.only_second, test.n) == (b, c, b + c + 2)
    splits = [abs(2 * sum(split) - b - c) for split in itertools.product((0, 1), repeat=b + c)]
    assert test.p == pytest.approx(sum(split >= abs(b - c) for split in splits) / len(splits))
    with pytest.raises(InputError, match="one or more"):
        mcnemar([], [])


def test_from_the_shell(run, folder, tmp_path, tiny_model):
    out = tmp_path / "out"
    result = run("evaluate", "--questions", folder / "set.jsonl", "--conditions", "none", "--out", out)
    assert result.exit_code == 0
    assert "judged by AnswerMatch" in result.output
    assert evaluation.Generations.read(out / "generations.jsonl").protocol == answering()
