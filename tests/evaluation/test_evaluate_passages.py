"""Evaluations on passages of text: answers as they are one by one, judges by captions, and what needs pictures."""

import json

import pytest

import gaze_lens as gl
from gaze_lens import evaluation
from gaze_lens.errors import HeadError, InputError, JudgeError
from gaze_lens.evaluation import Condition, dynamic_narration, generate_answers, question, static_narration
from gaze_lens.evaluation.judges import CaptionMatch, Description, ExactDescription, LikelihoodJudge

SETS = [
    gl.passages(["Anna lives in Paris.", "Ben lives in Rome.", "Cy"]),
    gl.passages(["Dora has a dog.", "Ed has none.", "Flo sings of it."], names=["a", "b", "c"]),
]
HEADS = gl.HeadSet(["L1H1", "L2H3", "L0H2"])
CONDITIONS = [Condition("gaze", HEADS), Condition("none")]
OPEN = "What is said in this segment?"


@pytest.fixture(scope="module", params=["LlamaForCausalLM", "Qwen3-VL"])
def model(request, shelf):
    if request.param == "LlamaForCausalLM":
        return gl.HookedVLM.wrap(*gl.testing.tiny(request.param))
    return shelf.get(request.param)[0]


@pytest.mark.parametrize("protocol", [question(OPEN, max_new_tokens=4), static_narration(OPEN, max_new_tokens=6)])
def test_answers_are_those_of_single_runs(model, protocol):
    answers = generate_answers(model, SETS, CONDITIONS, protocol=protocol, progress=False)
    assert len(answers.records) == 2 * 2 * 3
    for record in answers.records:
        inputs = model.prepare(SETS[int(record.picture)], OPEN)
        hooks = gl.steer(HEADS, inputs.region(record.targets[0])) if record.condition == "gaze" else []
        assert record.text == str(model.generate(inputs, fwd_hooks=hooks, max_new_tokens=protocol.max_new_tokens))
    assert len({record.text for record in answers.records}) > 2


def test_a_narration_changes_its_segment(model):
    protocol = dynamic_narration("Retell them.", every=3, max_new_tokens=9)
    (record, *_) = generate_answers(model, SETS[:1], CONDITIONS[:1], protocol=protocol, progress=False).records
    inputs = model.prepare(SETS[0], "Retell them.")
    assert sorted(record.targets) == list(SETS[0].names)
    schedule = [(step, inputs.region(name)) for step, name in zip(record.steps, record.targets, strict=False)]
    hooks = gl.steer(HEADS, schedule=schedule, where=["decode"])
    assert record.text == str(model.generate(inputs, fwd_hooks=hooks, max_new_tokens=9))


def test_a_run_is_written_judged_and_resumed(model, tmp_path):
    options = {"out": tmp_path, "progress": False}
    results = gl.evaluate(model, SETS, CONDITIONS, **options)
    assert results.generations.records[0].prompt == OPEN
    assert results.chance == pytest.approx(1 / 3)
    assert (tmp_path / "report.html").exists()
    again = gl.evaluate(model, SETS, CONDITIONS, resume=True, **options)
    assert again.table().equals(results.table())
    judged = gl.rejudge(tmp_path, ExactDescription(), progress=False)  # without the passages: the file has them
    assert judged.answers.correct.notna().all()
    lines = [json.loads(line) for line in (tmp_path / "generations.jsonl").read_text().splitlines()]
    first = next(line for line in lines if line.get("kind") == "picture")
    assert first["captions"] == SETS[0].captions
    assert gl.Passages.from_dict(first["passages"]) == SETS[0]
    with pytest.raises(InputError, match="another run|other pictures|another picture"):
        gl.evaluate(model, SETS[::-1], CONDITIONS, resume=True, **options)


def test_judges_compare_with_the_passages():
    for judge in (CaptionMatch(), ExactDescription()):
        for target, correct in (("segment 2", True), ("segment 1", False)):
            judgement = judge.judge(Description("Ben lives in Rome.", target, SETS[0]))
            assert (judgement.match, judgement.correct) == ("segment 2", correct)


def test_heads_chosen_on_the_passages_are_warned_of(model):
    heads = gl.score_heads(model, SETS[:1], progress=False).top(1)
    with pytest.warns(UserWarning, match="among those that the heads were chosen on"):
        gl.evaluate(model, SETS[:1], [Condition("gaze", heads)], progress=False)


@pytest.mark.parametrize("protocol", [question(), static_narration(), dynamic_narration(), evaluation.asking()])
def test_questions_about_pictures_are_refused(model, protocol):
    with pytest.raises(InputError, match="and passages of text were given; give it a question about them"):
        gl.evaluate(model, SETS, CONDITIONS, protocol=protocol, progress=False)


def test_what_needs_pictures_is_refused(model):
    with pytest.raises(InputError, match="'elsewhere' steers to another place of a picture"):
        gl.evaluate(model, SETS, [Condition("elsewhere", HEADS, elsewhere=True)], progress=False)
    with pytest.raises(InputError, match="LikelihoodJudge looks at pictures, and passages of text were given"):
        gl.evaluate(model, SETS, CONDITIONS, judge=LikelihoodJudge(model), progress=False)
    with pytest.raises(InputError, match="fit='whole' was given for passages"):
        gl.evaluate(model, SETS, CONDITIONS, fit="whole", progress=False)
    with pytest.raises(JudgeError, match="have no picture to look at"):
        LikelihoodJudge(model).judge(Description("Ben", "segment 1", SETS[0]))


def test_a_model_is_steered_with_the_heads_of_another():
    """Heads of another architecture are refused, unless they are given without their owner."""
    model, other = (gl.HookedVLM.wrap(*gl.testing.tiny(name)) for name in ("LlamaForCausalLM", "MistralForCausalLM"))
    theirs = gl.score_heads(other, SETS, progress=False).top(2)
    assert theirs.fingerprint != model.fingerprint
    options = {"protocol": question(OPEN, max_new_tokens=4), "progress": False}
    with pytest.raises(HeadError, match="heads of the architecture Mistral.*, expected Llama"):
        generate_answers(model, SETS[:1], [Condition("theirs", theirs)], **options)
    conditions = [Condition("ours", HEADS), Condition("theirs", gl.HeadSet(theirs))]
    answers = generate_answers(model, SETS[:1], conditions, **options)
    for record in answers.records:
        inputs = model.prepare(SETS[0], OPEN)
        heads = HEADS if record.condition == "ours" else gl.HeadSet(theirs)
        hooks = gl.steer(heads, inputs.region(record.targets[0]))
        assert record.text == str(model.generate(inputs, fwd_hooks=hooks, max_new_tokens=4))
    assert {record.condition for record in answers.records} == {"ours", "theirs"}
