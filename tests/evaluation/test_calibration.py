"""A judge is tried out on captions that are known before it judges."""

import pytest

import gaze_lens as gl
from gaze_lens import Picture, comics
from gaze_lens.cli.arguments import judge_of
from gaze_lens.errors import InputError, JudgeError
from gaze_lens.evaluation.judges import ExactDescription, Judge, Judgement, LikelihoodJudge, calibrated, recognised


@pytest.fixture(scope="module")
def strips():
    return comics.synthetic(2, seed=77, panels=3)


def test_the_embedded_model_judges_what_it_is_shown(tiny_model, strips):
    judge = LikelihoodJudge(tiny_model)
    assert calibrated(judge, strips) is judge
    assert recognised(judge, strips) >= 0.9


def test_a_model_that_knows_nothing_is_refused(strips):
    random = gl.HookedVLM.wrap(*gl.testing.tiny("Qwen3-VL"))
    with pytest.raises(JudgeError, match="of the captions of 2 pictures, expected 90% or more"):
        calibrated(LikelihoodJudge(random), strips)


class First(Judge):
    """Every text describes panel 1; of panel 3 it says nothing."""

    def judge(self, description):
        if description.target == "panel 3":
            raise JudgeError("no")
        return Judgement("panel 1", description.target == "panel 1")


def test_the_share_is_counted_and_errors_are_misses(strips):
    assert recognised(First(), strips) == pytest.approx(1 / 3)
    assert recognised(ExactDescription(), strips) == 1
    assert isinstance(calibrated(First(), strips, least=0.3), First)


def test_pictures_without_captions_calibrate_nothing(strips):
    bare = [Picture(strip.image, strip.regions) for strip in strips]
    with pytest.raises(InputError, match="the pictures have none"):
        calibrated(ExactDescription(), bare)


def test_the_command_line_calibrates_a_second_model(tiny_model, strips):
    judge = judge_of("likelihood:other", load=lambda name: {"other": tiny_model}[name], known=strips)
    assert isinstance(judge, LikelihoodJudge)
    with pytest.raises(InputError, match="pictures with captions: --strips"):
        judge_of("likelihood:other")
