"""`gaze-lens evaluate` and `gaze-lens judge`: what they write, resume and refuse."""

import json
from typing import get_args

import pytest
from typer.testing import CliRunner

from gaze_lens import HeadSet, comics, score_heads
from gaze_lens.cli import commands, options, running
from gaze_lens.cli.arguments import SEED, STEERING
from gaze_lens.errors import InputError
from gaze_lens.evaluation.condition import NAMES
from gaze_lens.evaluation.protocols import PROTOCOLS

pytestmark = pytest.mark.usefixtures("tiny_model")


@pytest.fixture(scope="module")
def heads(tiny_model, tmp_path_factory):
    """heads.json with scores.safetensors beside it, as discover writes them."""
    folder = tmp_path_factory.mktemp("heads")
    scores = score_heads(tiny_model, comics.synthetic(3, seed=9), batch_size=3, progress=False)
    scores.save(folder / "scores.safetensors")
    scores.top(4).save(folder / "heads.json")
    return folder / "heads.json"


def test_a_file_says_how_answers_are_generated_and_steered(run, heads, tmp_path):
    (tmp_path / "run.toml").write_text(
        'where = "decode"\nn-targets = 1\nas-published = true\nrepetition-penalty = 1.2\nno-repeat-ngram = 3\n'
        "repeated-at = 0.5"
    )
    result = run("evaluate", "--strips", "synthetic:1", "--panels", 3, "--heads", heads, "--n-heads", 2, "--conditions",
                 "gaze,none", "--out", tmp_path / "out", "--config", tmp_path / "run.toml")  # fmt: skip
    assert result.exit_code == 0
    figures = json.loads((tmp_path / "out" / "results.json").read_text())
    protocol = figures["run"]["protocol"]
    assert protocol["where"] == ["decode"]
    expected = {"n_targets": 1, "as_published": True, "repetition_penalty": 1.2, "no_repeat_ngram": 3}
    assert {name: protocol[name] for name in expected} == expected
    assert [row["n"] for row in figures["conditions"]] == [1, 1]
    assert "of at least 0.5" in (tmp_path / "out" / "report.html").read_text()


def without_exposure(out):
    """The lines of a run; means of attention differ in their last digits where batches do."""
    lines = [json.loads(line) for line in (out / "generations.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "exposure"} for line in lines]


def test_evaluate_writes_figures_goes_on_and_is_judged_again(run, heads, tmp_path):
    out = tmp_path / "out"
    (tmp_path / "run.toml").write_text("draws = 2")
    command = ("evaluate", "--strips", "synthetic:2", "--panels", 3, "--heads", heads, "--n-heads", 3, "--out", out,
               "--config", tmp_path / "run.toml", "--counts", "1,2", "--strengths", "3", "--seed", 5)  # fmt: skip
    result = run(*command)
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
        run(*command)
    whole = (out / "generations.jsonl").read_bytes()
    before = without_exposure(out)
    (out / "generations.jsonl").write_bytes(whole[:-30])
    assert run(*command, "--resume").exit_code == 0
    assert without_exposure(out) == before
    judged = run("judge", out, "--judge", "exact")
    assert "judged by ExactDescription()" in judged.output
    (folder,) = (path for path in out.iterdir() if path.is_dir())
    assert (folder / "report.html").exists()
    assert run("judge", out, "--judge", "likelihood", "--model", "tiny", "--strips", "synthetic:2", "--panels", 3,
               "--seed", 5).exit_code == 0  # fmt: skip


def test_curves_of_strength_are_in_the_mode_asked_for(run, heads, tmp_path):
    run("evaluate", "--strips", "synthetic:1", "--panels", 2, "--heads", heads, "--out", tmp_path, "--conditions",
        "gaze", "--mode", "suppress-image", "--strengths", "3")  # fmt: skip
    conditions = run_of(tmp_path)["conditions"]
    assert [condition["mode"] for condition in conditions] == [[0.0, -10_000.0, 0.0, 0.0], [0.0, -3.0, 0.0, 0.0]]


def test_masses_take_the_place_of_a_bias(run, heads, tmp_path):
    command = ("evaluate", "--strips", "synthetic:1", "--panels", 2, "--heads", heads, "--conditions", "gaze")
    run(*command, "--out", tmp_path / "a", "--mass", 0.8, "--keep", "image", "--masses", "0.3")
    conditions = run_of(tmp_path / "a")["conditions"]
    assert [(c["name"], c["mass"], c["keep"]) for c in conditions] == [
        ("gaze", 0.8, "image"),
        ("mass 0.3", 0.3, "image"),
    ]
    run(*command, "--out", tmp_path / "b", "--at-least", 0.5, "--counts", "1")
    assert [condition["at_least"] for condition in run_of(tmp_path / "b")["conditions"]] == [0.5, 0.5]
    for refused, why in ((("--keep", "image"), "what a mass is a share of"), (("--mass", 2), "between 0 and 1"),
                         (("--mass", 0.5, "--mode", "suppress-all"), "by logits, or to a mass")):  # fmt: skip
        with pytest.raises(InputError, match=why):
            run(*command, "--out", tmp_path / "c", *refused)


def run_of(out):
    """The settings of the run in a folder."""
    return json.loads((out / "generations.jsonl").read_text().splitlines()[0])["run"]


RARE = {"max-new-tokens": 12, "every": 6, "mode": "suppress-image", "strength": 5, "draws": 1, "below": 60.0,
        "batch-size": 3}  # fmt: skip


@pytest.mark.parametrize("kind", ["toml", "json"])
def test_a_file_holds_options_and_the_command_line_comes_first(run, heads, tmp_path, kind):
    options = {**RARE, "strips": "synthetic:1", "panels": 2, "heads": str(heads), "protocol": "dynamic",
               "conditions": ["gaze", "random"], "counts": [1, 2], "n_heads": 3, "seed": 5}  # fmt: skip
    lines = [f"{name} = {json.dumps(value)}" for name, value in options.items()]
    path = tmp_path / f"run.{kind}"
    path.write_text("\n".join(lines) if kind == "toml" else json.dumps(options))
    result = run("evaluate", "--config", path, "--out", tmp_path / "file", "--seed", 4)
    assert result.exit_code == 0
    assert result.stderr.count("Deprecation") == 0
    rare = [part for name, value in RARE.items() for part in (f"--{name}", value)]
    result = run("evaluate", "--strips", "synthetic:1", "--panels", 2, "--heads", heads, "--protocol", "dynamic",
                 "--conditions", "gaze,random", "--counts", "1,2", "--n-heads", 3, "--seed", 4, *rare,
                 "--out", tmp_path / "line")  # fmt: skip
    warnings = [line for line in result.stderr.splitlines() if line.startswith("DeprecationWarning: ")]
    assert [line.split()[1].removeprefix("--") for line in warnings] == list(RARE)
    assert all("write it into a file: --config FILE" in line for line in warnings)
    one, other = ((tmp_path / name / "generations.jsonl").read_bytes() for name in ("file", "line"))
    assert one == other
    settings = run_of(tmp_path / "file")
    assert (settings["seed"], settings["protocol"]["every"], settings["protocol"]["max_new_tokens"]) == (4, 6, 12)
    names = [(condition["name"], condition["mode"]) for condition in settings["conditions"]]
    assert names == [(name, [0.0, -5.0, 0.0, 0.0]) for name in ("gaze", "random", "top 1", "top 2")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.toml", "draws = ", "run.toml cannot be read (Invalid value"),
        ("run.json", "{", "run.json cannot be read (Expecting property name"),
        ("run.json", "[1]", "run.json holds no options; write them by name, as in draws = 10"),
        ("run.toml", "drawings = 2", "run.toml has 'drawings'; give options out of out, model, strips"),
        ("run.toml", "config = 'other.toml'", "has 'config'; give options out of"),
        ("run.toml", "[draws]\nrandom = 2", "run.toml has 'draws'; give options out of"),
        ("run.toml", "draws = 'many'", "Invalid value for '--draws'"),
        ("run.toml", "mode = 'boost'", "'boost' is not one of 'boost-and-suppress', 'suppress-image'"),
        ("run.toml", "conditions = ['gaze', 'nobody']", "'nobody' is not one of 'gaze', 'random'"),
        ("missing.toml", None, "missing.toml cannot be read"),
    ],
)
def test_a_file_that_holds_no_options_is_refused(tmp_path, monkeypatch, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    assert message in refusal(monkeypatch, "--config", tmp_path / name, "--out", tmp_path / "out")


def refusal(monkeypatch, *arguments):
    """What the command line says, in one line without its box, when it refuses options before a model is loaded."""
    monkeypatch.setattr(running, "load", lambda *_: pytest.fail("loaded"))
    result = CliRunner(env={"COLUMNS": "400"}).invoke(commands.app, ["evaluate", *map(str, arguments)])
    assert result.exit_code == 2
    return " ".join(result.output.replace("│", " ").split())


@pytest.mark.parametrize(
    ("option", "value", "names"),
    [
        ("--protocol", "quiz", "'question', 'static', 'dynamic', 'regions', 'asking', 'answers'"),
        ("--conditions", "gaze,nobody", ", ".join(map(repr, NAMES))),
        ("--mode", "boost", "'boost-and-suppress', 'suppress-image', 'suppress-all', 'max-suppress-all'"),
        ("--dtype", "int8", "'auto', 'float32', 'bfloat16', 'float16'"),
    ],
)
def test_what_is_no_choice_is_refused_with_the_choices(tmp_path, monkeypatch, option, value, names):
    message = refusal(monkeypatch, option, value, "--out", tmp_path / "out")
    assert f"Invalid value for '{option}': " in message
    assert f"'{value.split(',')[-1]}' is not one of {names}." in message
    assert not (tmp_path / "out").exists()


def test_choices_are_those_of_the_library():
    protocols, _ = get_args(get_args(options.Protocol)[0])
    assert list(get_args(protocols)) == list(PROTOCOLS)
    assert list(get_args(get_args(options.Mode)[0])) == list(STEERING)


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
    result = run("evaluate", "--strips", tmp_path / "photos", "--annotations", tmp_path / "coco.json", "--heads", heads,
               "--out", tmp_path / "out", "--conditions", "gaze")  # fmt: skip
    assert "Results of regions on 1 pictures, judged by NamesOnly()" in result.output
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
        (("--every", 4), "give --protocol dynamic"),
        (("--protocol", "dynamic", "--every", 4, "--end", "."), "not both"),
        (("--judge", "me"), "--judge me was given; give one of answer, caption, f1"),
        (("--shard", "0/2"), "write i/n with i from 1 to n"),
    ],
)
def test_what_evaluate_refuses_before_a_model_is_loaded(tmp_path, monkeypatch, options, message):
    monkeypatch.setattr(running, "load", lambda *_: pytest.fail("loaded"))
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
