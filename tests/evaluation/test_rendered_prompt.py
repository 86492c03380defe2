"""A run that is taken up again under another prompt, such as one with the next day's date, is refused."""

import json

import pytest

import gaze_lens as gl
from gaze_lens.errors import InputError
from gaze_lens.evaluation import Condition, question
from gaze_lens.inputs.preparation import prompt_digest


@pytest.fixture
def dated(model, monkeypatch):
    """A function that sets the date that the chat template writes."""
    template = model.processor.chat_template

    def set_date(date):
        monkeypatch.setattr(model.processor, "chat_template", f"Today is {date}. {template}")

    return set_date


def evaluate(model, out, **options):
    strips = gl.comics.synthetic(1, seed=5, panels=2)
    return gl.evaluate(
        model, strips, [Condition("none")], protocol=question(max_new_tokens=1), out=out, progress=False, **options
    )


def test_another_date_is_another_run(model, dated, tmp_path):
    dated("26 November")
    digests = {prompt_digest(model.processor, model.family)}
    evaluate(model, tmp_path)
    evaluate(model, tmp_path, resume=True)
    dated("27 November")
    assert prompt_digest(model.processor, model.family) not in digests
    with pytest.raises(InputError, match=r"with other rendered_prompt; choose another folder.*some write today's date"):
        evaluate(model, tmp_path, resume=True)


def test_a_run_that_says_nothing_of_its_prompt_goes_on(model, tmp_path):
    evaluate(model, tmp_path)
    path = tmp_path / "generations.jsonl"
    lines = path.read_text().splitlines()
    header = json.loads(lines[0])
    assert header["run"].pop("rendered_prompt") == prompt_digest(model.processor, model.family)
    path.write_text("\n".join([json.dumps(header), *lines[1:]]) + "\n")
    for judgements in tmp_path.glob("judgements*"):  # they hold a digest of the header
        judgements.unlink()
    evaluate(model, tmp_path, resume=True)
