"""`gaze-lens evaluate` and `gaze-lens judge`: what they write, resume and refuse."""

import json

import pytest
from typer.testing import CliRunner

from gaze_lens import HeadSet, comics, score_heads
from gaze_lens.cli import commands
from gaze_lens.cli.arguments import SEED
from gaze_lens.errors import InputError

pytestmark = pytest.mark.usefixtures("tiny_model")


@pytest.fixture(scope="module")
def heads(tiny_model, tmp_path_factory):
    """heads.json with scores.safetensors beside it, as discover writes them."""
    folder = tmp_path_factory.mktemp("heads")
    scores = score_heads(tiny_model, comics.synthetic(3, seed=9), batch_size=3, progress=False)
    scores.save(folder / "scores.safetensors")
    scores.top(4).save(folder / "heads.json")
    return folder / "heads.json"


def test_evaluate_writes_figures_goes_on_and_is_judged_again(run, heads, tmp_path):
    out = tmp_path / "out"
    options = ("evaluate", "--strips", "synthetic:2", "--panels", 3, "--heads", heads, "--n-heads", 3, "--out", out,
               "--draws", 2, "--counts", "1,2", "--strengths", "3", "--seed", 5)  # fmt: skip
    result = run(*options)
    assert result.exit_code == 0
    figures = json.loads((out / "results.json").read_text())
    by_name = {row["condition"]: row for row in figures["conditions"]}
    assert list(by_name) == ["gaze", "random", "all", "none", "top 1", "top 2", "strength 3"]
    assert by_name["gaze"]["n"] == 6
    assert by_name["random"]["n"] == 12
    assert f"{by_name['gaze']['accuracy']:.1%}" in result.output
    assert figures["run"]["conditions"][0]["heads"] == [str(head) for head in HeadSet.load(heads)[:3]]
    lines = [json.loads(line) for line in (out / "generations.jsonl").read_text().splitlines()]
    strip = comics.synthetic(1, seed=SEED + 5, panels=3)[0]
    assert lines[1]["captions"] == strip.captions
    with pytest.raises(InputError, match="is there already; resume it"):
        run(*options)
    before = (out / "generations.jsonl").read_bytes()
    (out / "generations.jsonl").write_bytes(before[:-30])
    assert run(*options, "--resume").exit_code == 0
    assert (out / "generations.jsonl").read_bytes() == before
    judged = run("judge", out, "--judge", "exact")
    assert "judged by ExactDescription()" in judged.output
    (folder,) = (path for path in out.iterdir() if path.is_dir())
    assert (folder / "report.html").exists()
    assert run("judge", out, "--judge", "likelihood", "--model", "tiny", "--strips", "synthetic:2", "--panels", 3,
               "--seed", 5).exit_code == 0  # fmt: skip


def test_curves_of_strength_are_in_the_mode_asked_for(run, heads, tmp_path):
    run("evaluate", "--strips", "synthetic:1", "--panels", 2, "--heads", heads, "--out", tmp_path, "--conditions",
        "gaze", "--mode", "suppress-image", "--strengths", "3")  # fmt: skip
    chosen = json.loads((tmp_path / "generations.jsonl").read_text().splitlines()[0])["run"]["conditions"]
    assert [condition["mode"] for condition in chosen] == [[0.0, -10_000.0, 0.0, 0.0], [0.0, -3.0, 0.0, 0.0]]


def test_photographs_are_asked_about_and_judged_by_category(run, heads, tmp_path):
    scene = comics.scenes(1, seed=3, shape=(1, 2))[0]
    (tmp_path / "photos").mkdir()
    scene.image.resize((256, 128)).save(tmp_path / "photos" / "1.png")
    objects = [{"id": n, "image_id": 1, "category_id": n, "bbox": [128 * (n - 1), 0, 128, 128], "area": 128 * 128,
                "iscrowd": 0} for n in (1, 2)]  # fmt: skip
    written = {
        "images": [{"id": 1, "file_name": "1.png", "width": 256, "height": 128}], "annotations": objects,
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }  # fmt: skip
    (tmp_path / "coco.json").write_text(json.dumps(written))
    made = run("evaluate", "--strips", tmp_path / "photos", "--annotations", tmp_path / "coco.json", "--heads", heads,
               "--out", tmp_path / "out", "--conditions", "gaze")  # fmt: skip
    assert "Results of regions on 1 pictures, judged by NamesOnly()" in made.output
    assert "judged by NamesOnly()" in run("judge", tmp_path / "out").output


def test_ctrl_c_says_how_to_go_on(run, heads, tmp_path, monkeypatch, tiny_model):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(tiny_model), "generate", interrupted)
    result = run("evaluate", "--strips", "synthetic:2", "--heads", heads, "--out", tmp_path / "out")
    assert result.exit_code == 130
    assert "Add --resume to go on" in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--strips", "synthetic:many"), "write how many, as in synthetic:100"),
        (("--strips", "nowhere"), "nowhere"),
        (("--protocol", "quiz"), "give one of question, static, dynamic, regions, asking"),
        (("--every", 4), "give --protocol dynamic"),
        (("--protocol", "dynamic", "--every", 4, "--end", "."), "not both"),
        (("--conditions", "gaze,nobody"), "--conditions has 'nobody'; give a list out of gaze,random"),
        (("--mode", "boost"), "give one of boost-and-suppress"),
        (("--judge", "me"), "--judge me was given; give one of caption, f1"),
        (("--shard", "0/2"), "write i/n with i from 1 to n"),
    ],
)
def test_what_evaluate_refuses_before_a_model_is_loaded(tmp_path, monkeypatch, options, message):
    monkeypatch.setattr(commands, "_load", lambda *_: pytest.fail("loaded"))
    arguments = ["evaluate", "--out", str(tmp_path / "out"), *map(str, options)]
    with pytest.raises(InputError, match=message):
        raise CliRunner().invoke(commands.app, arguments).exception
    assert not (tmp_path / "out").exists()


def test_random_heads_need_scores(run, tmp_path, tiny_model):
    HeadSet(["L2H0"], model=tiny_model.cfg.model_name).save(tmp_path / "heads.json")
    with pytest.raises(InputError, match="'random' draws heads with low scores: give scores="):
        run("evaluate", "--strips", "synthetic:1", "--heads", tmp_path / "heads.json", "--out", tmp_path / "out")
    with pytest.raises(InputError, match="--counts takes the best heads by score"):
        run("evaluate", "--strips", "synthetic:1", "--heads", tmp_path / "heads.json", "--out", tmp_path / "out",
            "--conditions", "gaze", "--counts", "1,2")  # fmt: skip


def test_help_has_examples():
    for command in ("evaluate", "judge"):
        output = CliRunner().invoke(commands.app, [command, "--help"]).output
        assert "gaze-lens" in output.split("Example", 1)[1]
