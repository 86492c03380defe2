"""The command line: what it writes, what it refuses, and how a run that was broken off goes on."""

import html
import json
import os
import re
from io import BytesIO, TextIOWrapper

import datasets
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from gaze_lens import HeadSet, comics, data
from gaze_lens.cli import commands, discovery, running
from gaze_lens.cli.arguments import FINDING, whole_numbers
from gaze_lens.errors import GazeLensError, HeadError, ImageError, InputError, ModelError, RegionError
from gaze_lens.heads.head_scores import HeadScores

pytestmark = pytest.mark.usefixtures("tiny_model")


@pytest.fixture
def folder(tmp_path):
    """Three strips as single wide images."""
    (tmp_path / "strips").mkdir()
    for index, strip in enumerate(comics.synthetic(3, seed=50, panels=3)):
        strip.image.save(tmp_path / "strips" / f"s{index}.png")
    return tmp_path


def discover(run, folder, *more):
    return run(
        "discover", "--model", "tiny", "--strips", folder / "strips", "--panels", 3, "--out", folder / "out", *more
    )


def test_fit_reaches_discovery_and_evaluation(run, folder, tiny_model):
    from gaze_lens import score_heads

    assert discover(run, folder, "--fit", "96x32").exit_code == 0
    expected = score_heads(tiny_model, data.read_pages(folder / "strips", 3), fit=(96, 32), progress=False)
    scores = HeadScores.load(folder / "out" / "scores.safetensors")
    assert (scores.samples - expected.samples).abs().max() < 1e-6
    with pytest.raises(InputError, match="a run with other fit"):
        discover(run, folder, "--resume")
    with pytest.raises(InputError, match="--fit half was given"):
        discover(run, folder, "--fit", "half")
    result = run(
        "evaluate", "--model", "tiny", "--strips", "synthetic:1", "--fit", "96x32", "--conditions", "none",
        "--out", folder / "evaluated", "--max-new-tokens", 2,
    )  # fmt: skip
    assert result.exit_code == 0


def test_discover_asks_the_question_that_is_given(run, folder, tiny_model):
    from gaze_lens import score_heads

    template = "What happens in panel {n}?"
    discover(run, folder, "--question", template)
    pages = data.read_pages(folder / "strips", 3)
    asked = score_heads(tiny_model, pages, prompts=lambda k: f"What happens in panel {k + 1}?", progress=False)
    usual = score_heads(tiny_model, pages, progress=False)
    samples = HeadScores.load(folder / "out" / "scores.safetensors").samples
    assert (samples - asked.samples).abs().max() < 1e-6
    assert (samples - usual.samples).abs().max() > 1e-3
    assert json.loads((folder / "out" / "strips" / "run.json").read_text())["run"]["question"] == template
    assert discover(run, folder, "--question", template, "--resume").exit_code == 0
    for other in ((), ("--question", "What happens in the {ordinal} panel?")):
        with pytest.raises(InputError, match="a run with other question, questions"):
            discover(run, folder, "--resume", *other)
    with pytest.raises(InputError, match="where it names the panel"):
        discover(run, folder, "--question", "What happens?")


def test_a_run_from_before_there_was_a_question_is_resumed(run, folder):
    discover(run, folder)
    path = folder / "out" / "strips" / "run.json"
    record = json.loads(path.read_text())
    assert record["run"].pop("question") is None
    path.write_text(json.dumps(record))
    assert discover(run, folder, "--resume").exit_code == 0


def test_discover_writes_what_scoring_gives(run, folder, tiny_model):
    from gaze_lens import score_heads

    result = discover(run, folder, "--top", 5)
    assert result.exit_code == 0
    expected = score_heads(tiny_model, data.read_pages(folder / "strips", 3), progress=False)
    scores = HeadScores.load(folder / "out" / "scores.safetensors")
    assert (scores.samples - expected.samples).abs().max() < 1e-6
    heads = HeadSet.load(folder / "out" / "heads.json", model=tiny_model.cfg.model_name)
    assert list(heads) == list(expected.top(5))
    assert str(heads[0]) in result.output
    ranking = HeadSet.load(folder / "out" / "gaze_head_ranking.json")
    assert list(ranking[:5]) == list(heads)
    lines = (folder / "out" / "scores.csv").read_text().splitlines()
    assert len(lines) == 1 + tiny_model.cfg.n_layers * tiny_model.cfg.n_heads
    assert (folder / "out" / "scores.png").read_bytes().startswith(b"\x89PNG")


def test_discover_ranks_by_what_is_asked(run, folder, tmp_path):
    discover(run, folder, "--top", 5, "--rank-by", "image")
    scores = HeadScores.load(folder / "out" / "scores.safetensors")
    assert HeadSet.load(folder / "out" / "heads.json") == scores.top(5, by="image")
    for option in (("--as-published",), ("--height", 32)):
        with pytest.raises(InputError, match=f"{option[0]} cuts panels that are files"):
            discover(run, folder, *option)


def test_discover_on_synthetic_strips_finds_the_embedded_models_heads(run, tmp_path, tiny_model):
    from gaze_lens import score_heads

    result = run("discover", "--model", "tiny", "--strips", "synthetic:4", "--out", tmp_path, "--top", 4)
    scores = HeadScores.load(tmp_path / "scores.safetensors")
    expected = score_heads(tiny_model, comics.synthetic(4, seed=FINDING), progress=False)
    assert (scores.samples - expected.samples).abs().max() < 1e-6
    assert "knows drawn panels" not in result.output
    heads = HeadSet.load(tmp_path / "heads.json")
    assert heads == scores.top(4)
    assert heads.provenance["verdict"] == str(scores.verdict())


def test_panels_of_another_scale_are_told_of_and_height_mends_it(run, tmp_path, strip_file):
    for index, strip in enumerate(comics.synthetic(3, seed=50)):
        (tmp_path / "comics" / f"c{index}").mkdir(parents=True)
        for k in range(6):
            strip.image.crop((32 * k, 0, 32 * k + 32, 32)).save(tmp_path / "comics" / f"c{index}" / f"p{k + 1}.png")
    command = ("discover", "--model", "tiny", "--strips", tmp_path / "comics", "--top", 2, "--out")
    other = run(*command, tmp_path / "other")
    assert "this picture has 256 pixels" in other.output
    assert "None found" in other.output
    right = run(*command, tmp_path / "right", "--height", 32)
    assert "this picture has" not in right.output
    assert "track the region" in right.output
    steered = steer(run, strip_file, tmp_path / "other" / "heads.json", "--panel", 1, "--panels", 6)
    assert "holds no gaze heads" in steered.output
    assert "None found" in steered.output


def test_discover_takes_other_layouts_of_strips(run, tmp_path):
    strip = comics.synthetic(1, seed=50, panels=3)[0].image
    panels = [strip.crop((32 * k, 0, 32 * k + 32, 32)).resize((256, 256)) for k in range(3)]
    wide = comics.strip(panels, gap=20).image
    for name in ("wide", "corpus/7"):
        (tmp_path / name).mkdir(parents=True)
    wide.save(tmp_path / "wide" / "strip.png")
    comics.synthetic(1, seed=50, panels=2)[0].image.save(tmp_path / "wide" / "two panels.png")
    for k, panel in enumerate(panels):
        panel.save(tmp_path / "corpus" / "7" / f"0_{k}.png")
    files = [[(tmp_path / "corpus" / "7" / f"0_{k}.png").read_bytes()] for k in range(3)]
    table = {f"panel_{k + 1}": column for k, column in enumerate(files)}
    datasets.Dataset.from_dict(table).save_to_disk(tmp_path / "saved")
    layouts = [
        (tmp_path / "wide", "--panels", 3, "--detect"),
        (tmp_path / "corpus", "--windows", 3, "--seed", 2),
        (f"hf:{tmp_path / 'saved'}",),
    ]
    for index, (source, *more) in enumerate(layouts):
        result = run("discover", "--model", "tiny", "--strips", source, "--out", tmp_path / f"{index}", *more)
        assert "1 pictures from" in result.output
        assert (tmp_path / f"{index}" / "heads.json").exists()
    for more in (("--detect",), ("--panels", 3, "--windows", 3)):
        with pytest.raises(InputError, match="Give --panels N"):
            run("discover", "--model", "tiny", "--strips", tmp_path / "wide", "--out", tmp_path / "none", *more)


def test_a_run_that_was_broken_off_goes_on_with_resume(run, folder, monkeypatch):
    real, calls = discovery.read_strips, []

    def interrupted(model, strips, **options):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(strips)
        return real(model, strips, **options)

    monkeypatch.setattr(discovery, "read_strips", interrupted)
    result = discover(run, folder)
    assert result.exit_code == 130
    assert "Add --resume to go on" in result.output
    assert not (folder / "out" / "heads.json").exists()
    assert len(list((folder / "out" / "strips").glob("*.safetensors"))) == 2

    with pytest.raises(InputError, match="add --resume, or choose another"):
        discover(run, folder)
    calls.clear()
    done = sorted((folder / "out" / "strips").glob("*.safetensors"))[0]
    done.write_bytes(done.read_bytes()[:100])  # as a full disk would leave it
    assert discover(run, folder, "--resume").exit_code == 0
    assert len(calls) == 2, "the third strip and the damaged one, and nothing twice"
    assert all(load_file(path)["sample"].shape[-1] == 3 for path in (folder / "out" / "strips").glob("*.safetensors"))

    broken = HeadScores.load(folder / "out" / "scores.safetensors")
    monkeypatch.setattr(discovery, "read_strips", real)
    run("discover", "--model", "tiny", "--strips", folder / "strips", "--panels", 3, "--out", folder / "complete")
    assert (broken.samples == HeadScores.load(folder / "complete" / "scores.safetensors").samples).all()


def test_resume_refuses_other_strips(run, folder):
    discover(run, folder)
    (folder / "strips" / "s2.png").unlink()
    with pytest.raises(InputError, match="holds a run with other digest, strips; choose another folder"):
        discover(run, folder, "--resume")


@pytest.fixture
def strip_file(tmp_path):
    (strip,) = comics.synthetic(1, seed=51)
    strip.image.save(tmp_path / "strip.png")
    return tmp_path / "strip.png"


@pytest.fixture
def heads_file(tmp_path, tiny_model):
    heads = HeadSet(["L3H1", "L4H0"], model=tiny_model.cfg.model_name, fingerprint=tiny_model.fingerprint)
    heads.save(tmp_path / "heads.json")
    return tmp_path / "heads.json"


def steer(run, strip_file, heads_file, *more):
    return run("steer", "--model", "tiny", "--image", strip_file, "--heads", heads_file, *more)


def test_steer_prints_both_answers(run, strip_file, heads_file, tiny_model):
    from gaze_lens import steer as steering

    result = steer(run, strip_file, heads_file, "--panel", 4, "--panels", 6, "--max-new-tokens", 12)
    inputs = tiny_model.prepare(data.read_page(strip_file, 6), comics.OPEN)
    hooks = steering(["L3H1", "L4H0"], inputs.region("panel 4"))
    assert str(tiny_model.generate(inputs, max_new_tokens=12)) in result.output
    assert str(tiny_model.generate(inputs, fwd_hooks=hooks, max_new_tokens=12)) in result.output
    boxed = steer(run, strip_file, heads_file, "--box", "96,0,128,32", "--max-new-tokens", 12)
    assert boxed.output.splitlines()[-1] == result.output.splitlines()[-1]
    sized = steer(run, strip_file, heads_file, "--box", "xywh:96,0,32,32", "--max-new-tokens", 12)
    assert sized.output == boxed.output


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ((), InputError, "--box x0,y0,x1,y1 or as --panel K --panels N"),
        (("--panel", 7, "--panels", 6), InputError, "--panel from 1 to N"),
        (("--panel", 2), InputError, "give --panels N"),
        (("--box", "1,2,3"), InputError, "x0,y0,x1,y1, with x0 < x1"),
        (("--box", "96,0,32,32"), InputError, "x0,y0,x1,y1, with x0 < x1"),
        (("--box", "5000,0,5010,10"), RegionError, "."),
    ],
)
def test_steer_refuses_targets_that_are_none(run, strip_file, heads_file, options, error, message):
    with pytest.raises(error, match=message):
        steer(run, strip_file, heads_file, *options)


def test_heads_of_another_model_are_refused_unless_forced(run, strip_file, tmp_path):
    HeadSet(["L3H1"], model="another/model", fingerprint="Other-36x32x8x128").save(tmp_path / "other.json")
    with pytest.raises(HeadError, match="another/model"):
        steer(run, strip_file, tmp_path / "other.json", "--panel", 1, "--panels", 6)
    assert steer(run, strip_file, tmp_path / "other.json", "--panel", 1, "--panels", 6, "--force").exit_code == 0
    HeadSet(["L30H1"]).save(tmp_path / "outside.json")
    with pytest.raises(HeadError, match="L30H1"):
        steer(run, strip_file, tmp_path / "outside.json", "--panel", 1, "--panels", 6)


def test_broken_files_are_named(run, strip_file, heads_file, tmp_path):
    (tmp_path / "half.png").write_bytes(strip_file.read_bytes()[:60])
    with pytest.raises(ImageError, match="half.png"):
        steer(run, tmp_path / "half.png", heads_file, "--panel", 1, "--panels", 6)
    (tmp_path / "half.json").write_text(heads_file.read_text()[:20])
    with pytest.raises(HeadError, match="half.json"):
        steer(run, strip_file, tmp_path / "half.json", "--panel", 1, "--panels", 6)


def test_info_reads_no_weights(run, tmp_path, tiny_model, monkeypatch):
    result = run("info", "tiny", "--size", "192x32")
    for expected in ("Qwen3-VL", "24 (2 x 12) for 192 x 32 pixels", "hook_attn_scores", str(tiny_model.cfg.n_layers)):
        assert expected in result.output
    with pytest.raises(InputError, match="1536x256"):
        run("info", "tiny", "--size", "wide")
    with pytest.raises(ModelError):
        run("info", tmp_path)


def test_an_empty_folder_is_refused_before_a_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "load", lambda *_: pytest.fail("loaded"))
    arguments = ["discover", "--model", "tiny", "--strips", str(tmp_path), "--out", str(tmp_path / "out")]
    with pytest.raises(GazeLensError, match="There are no pictures in"):
        raise CliRunner().invoke(commands.app, arguments).exception
    assert not (tmp_path / "out").exists()


def test_main_says_in_one_line_what_is_wrong(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(
        "sys.argv", ["gaze-lens", "discover", "--model", "tiny", "--strips", str(tmp_path), "--out", "x"]
    )
    with pytest.raises(SystemExit) as stop:
        commands.main()
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("gaze-lens: There are no pictures in")
    assert "Traceback" not in error


def command(monkeypatch, capsys, *arguments):
    """The one line that a command ends with."""
    monkeypatch.setattr("sys.argv", ["gaze-lens", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        commands.main()
    assert stop.value.code == 1
    error = capsys.readouterr().err
    (line,) = [line for line in error.splitlines() if line.startswith("gaze-lens: ")]
    assert "Traceback" not in error
    return line


def test_what_goes_wrong_is_one_line(monkeypatch, capsys, tmp_path, strip_file, heads_file, tiny_model, folder):
    (tmp_path / "file").write_text("")
    steering = ("steer", "--model", "tiny", "--image", strip_file, "--heads", heads_file, "--panel", 1, "--panels", 6)
    discovery = ("discover", "--model", "tiny", "--strips", folder / "strips", "--panels", 3)
    evaluation = ("evaluate", "--strips", "synthetic:1", "--heads", heads_file, "--conditions", "gaze,none")
    if not torch.cuda.is_available():
        assert "The device 'cuda' was given" in command(monkeypatch, capsys, *steering, "--device", "cuda")
    monkeypatch.setattr(running, "load", lambda *_: tiny_model)
    for length in (0, -3):
        line = command(monkeypatch, capsys, *steering, "--max-new-tokens", length)
        assert f"--max-new-tokens {length} was given; give a whole number" in line
    for strength in ("nan", "1e39"):
        assert "strength" in command(monkeypatch, capsys, *steering, "--strength", strength)
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        line = command(monkeypatch, capsys, *discovery, "--out", out)
        assert "cannot be written (" in line
        line = command(monkeypatch, capsys, *evaluation, "--out", out)
        assert "cannot be written (" in line
        assert "cannot be written (" in command(monkeypatch, capsys, "demo", "--out", out)
    with pytest.raises(InputError, match="--counts 1,2.5 was given"):
        whole_numbers("1,2.5", "--counts")
    monkeypatch.setattr(running, "load", lambda *_: (tmp_path / "gone" / "line one\nline two").read_bytes())
    assert "No such file or directory" in command(monkeypatch, capsys, *steering)


def test_a_folder_whose_name_is_no_utf8_is_refused_before_a_strip_is_scored(monkeypatch, capsys, folder, tiny_model):
    monkeypatch.setattr(running, "load", lambda *_: tiny_model)
    monkeypatch.setattr(discovery, "read_strips", lambda *_, **__: pytest.fail("scored"))
    arguments = ("discover", "--model", "tiny", "--strips", folder / "strips", "--panels", 3, "--out")
    line = command(monkeypatch, capsys, *arguments, folder / os.fsdecode(b"caf\xe9"))
    assert r"caf\xe9 cannot be written: its name is not UTF-8" in line


def test_files_and_folders_are_checked_before_a_model_is_loaded(monkeypatch, capsys, tmp_path, strip_file):
    monkeypatch.setattr(running, "load", lambda *_: pytest.fail("loaded"))
    gone, file = tmp_path / "gone.json", tmp_path / "file"
    file.write_text("")
    for arguments, message in (
        (("steer", "--model", "tiny", "--image", strip_file, "--heads", gone, "--panel", 1, "--panels", 6), "no file"),
        (("evaluate", "--strips", "synthetic:1", "--heads", gone, "--out", tmp_path), "There is no file"),
        (("serve", "--heads", gone), "There is no file"),
        (("evaluate", "--strips", "synthetic:1", "--out", file / "below"), "below cannot be written (Not a directory)"),
        (("discover", "--model", "tiny", "--strips", "synthetic:1", "--out", file), "file cannot be written ("),
    ):
        assert message in command(monkeypatch, capsys, *arguments)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("It draws heads: give scores=, as gl.score_heads makes them.", "give --scores, as gl.score_heads makes them."),
        ("max_new_tokens=0 was given", "--max-new-tokens 0 was given"),
        ("raise below=.", "raise --below."),
        (
            "mode=gl.suppress_image(3.0), layers=3, a.top=4, x==1",
            "mode=gl.suppress_image(3.0), layers=3, a.top=4, x==1",
        ),
    ],
)
def test_messages_name_the_options_of_the_command_line(message, shown):
    assert shown in commands._in_options(message)


def test_what_the_terminal_cannot_write_is_written_all_the_same(monkeypatch):
    output = TextIOWrapper(BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr("sys.stdout", output)
    monkeypatch.setattr(commands, "app", lambda: print("caf\u00e9", os.fsdecode(b"caf\xe9")))  # noqa: T201
    commands.main()
    output.flush()
    assert output.buffer.getvalue() == b"caf\\xe9 caf\\udce9\n"


def test_demo_writes_a_report_that_needs_nothing_else(run, tmp_path, monkeypatch):
    from gaze_lens.cli import demo

    monkeypatch.setattr(demo, "SCORED", 3)
    monkeypatch.setattr(demo, "STEERED", 2)
    result = run("demo", "--out", tmp_path / "demo", "--seed", 4)
    assert result.exit_code == 0
    written = {path.name for path in (tmp_path / "demo").iterdir()}
    assert {"report.html", "attention.html", "heads.json", "scores.csv", "scores.png", "steering.png"} <= written
    page = (tmp_path / "demo" / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 5
    assert "http" not in re.sub(r"data:image/png;base64,[^\"]*|http-equiv", "", page)
    heads = json.loads((tmp_path / "demo" / "heads.json").read_text())
    assert str(HeadSet.load(tmp_path / "demo" / "heads.json")) in page, heads
    assert 'href="attention.html"' in page
    inside = html.unescape(re.search('srcdoc="([^"]*)"', page)[1])
    assert inside == (tmp_path / "demo" / "attention.html").read_text()


def test_help_has_examples():
    for command in ("demo", "discover", "steer", "info"):
        output = CliRunner().invoke(commands.app, [command, "--help"]).output
        assert "Example: gaze-lens" in output.replace("\n", " ")


def test_a_truncated_strip_in_the_folder_is_left_out_and_told(run, folder):
    Image.new("RGB", (96, 32)).save(folder / "strips" / "z.png")
    written = (folder / "strips" / "z.png").read_bytes()
    (folder / "strips" / "z.png").write_bytes(written[: len(written) // 2])
    result = discover(run, folder)
    assert "3 pictures" in result.output
    assert "left out: an image cannot be read (1)" in result.output
    assert len(HeadScores.load(folder / "out" / "scores.safetensors").samples) == 3


@pytest.mark.parametrize(("given", "dtype"), [("auto", torch.float32), ("bfloat16", torch.bfloat16)])
def test_the_embedded_model_is_loaded_in_the_precision_that_is_asked_for(given, dtype):
    assert running.load("tiny", None, given).cfg.dtype is dtype
