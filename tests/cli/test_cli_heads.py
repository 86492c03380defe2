"""Which heads a command steers: a file of all heads of the model needs a number, or recommends one."""

import json

import pytest

from gaze_lens import HeadScores, HeadSet, comics, score_heads, steer
from gaze_lens.cli import arguments, discovery
from gaze_lens.data import Pictures
from gaze_lens.errors import HeadError, InputError
from gaze_lens.evaluation import conditions


@pytest.fixture(scope="module")
def discovered(tiny_model, tmp_path_factory):
    """What discover writes where the model has fewer heads than were asked for."""
    folder = tmp_path_factory.mktemp("heads")
    strips = dict(zip("abcd", comics.synthetic(4, seed=9), strict=True))
    readers = {name: lambda strip=strip: strip for name, strip in strips.items()}
    discovery.discover(tiny_model, Pictures(readers, source="here"), folder)
    return folder


def test_a_ranking_of_all_heads_recommends_a_number(discovered, tiny_model, capsys):
    scores = HeadScores.load(discovered / "scores.safetensors")
    n_heads = len(scores.verdict().heads)
    assert 1 < n_heads < 72
    for name in ("heads.json", "scores.safetensors"):
        heads = arguments.head_set_of(tiny_model, discovered / name, None, force=False)
        assert heads == scores.top(n_heads)
        assert f"Taking the first {n_heads} of 72 heads, as" in capsys.readouterr().err
        assert arguments.head_set_of(tiny_model, discovered / name, 3, force=False) == scores.top(3)
        assert capsys.readouterr().err == ""


def test_a_ranking_without_a_recommendation_needs_a_number(discovered, tiny_model, run, tmp_path):
    ranking = discovered / "gaze_head_ranking.json"
    with pytest.raises(InputError, match=r"has all 72 heads of the model.*say with --n-heads how many"):
        run(
            "evaluate", "--strips", "synthetic:1", "--heads", ranking, "--conditions", "gaze", "--out", tmp_path / "out"
        )
    comics.synthetic(1, seed=3)[0].image.save(tmp_path / "strip.png")
    command = (
        "steer",
        "--model",
        "tiny",
        "--image",
        tmp_path / "strip.png",
        "--panel",
        2,
        "--panels",
        6,
        "--heads",
        ranking,
    )
    with pytest.raises(InputError, match="--n-heads"):
        run(*command)
    assert "steered to panel 2" in run(*command, "--n-heads", 2).output


def test_a_whole_ranking_does_not_steer_in_python_either(discovered, tiny_model):
    inputs = tiny_model.prepare(comics.synthetic(1, seed=3)[0], comics.OPEN)
    region = inputs.region("panel 2")
    for name in ("heads.json", "gaze_head_ranking.json"):
        ranking = HeadSet.load(discovered / name)
        with pytest.raises(HeadError, match=r"ranking of all 72 heads of the model.*the best, for example heads\[:"):
            tiny_model.generate(inputs, fwd_hooks=steer(ranking, region), max_new_tokens=2)
        with pytest.raises(HeadError, match="ranking of all 72 heads"):
            conditions(tiny_model, ranking, ["gaze"])
        tiny_model.generate(inputs, fwd_hooks=steer(ranking[:2], region), max_new_tokens=2)
    every = HeadSet(list(ranking))
    tiny_model.generate(inputs, fwd_hooks=steer(every, region), max_new_tokens=2)
    with pytest.raises(HeadError, match=r"A HeadScores is not a list of heads.*best of them: scores\.top\(10\)"):
        HeadSet.of(HeadScores.load(discovered / "scores.safetensors"))


def test_evaluate_warns_of_the_pictures_of_the_discovery(run, tiny_model, tmp_path):
    strips = comics.synthetic(2, seed=arguments.SEED, panels=2)
    score_heads(tiny_model, strips[:1], progress=False).top(2).save(tmp_path / "heads.json")
    command = ("evaluate", "--strips", "synthetic:2", "--panels", 2, "--heads", tmp_path / "heads.json", "--conditions",
               "gaze", "--out")  # fmt: skip
    message = "1 of the 2 pictures are among those that the heads were chosen on"
    with pytest.warns(UserWarning, match=message):
        result = run(*command, tmp_path / "out")
    assert f"Warning: {message}" in result.output
    assert json.loads((tmp_path / "out" / "results.json").read_text())["chosen on"] == ["0"]
