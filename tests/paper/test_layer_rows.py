"""Rows 1 to 5 and 17 to 19 on the embedded model, and what they do on a model that reads letters."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import gaze_lens as gl
from gaze_lens import comics, paper
from gaze_lens.errors import InputError
from gaze_lens.evaluation.judges import NamesOnly
from gaze_lens.paper import layer_rows, photo_rows
from gaze_lens.paper.bar_figures import bars_of
from gaze_lens.paper.context import Context
from gaze_lens.paper.layer_probes import Labels, OwnWords, Reading, first_panels, probe_of, reads_labels
from gaze_lens.paper.row import Figure, Settings
from gaze_lens.tracking import track_maps

NAMES = ["fig1", "fig10", "fig11", "fig12", "fig13", "fig7", "fig9", "tab1"]


@pytest.fixture(scope="module")
def context(tiny_model, tmp_path_factory):
    """Six strips of three panels each, and the two best heads."""
    sets = {name: comics.synthetic(6, seed=seed, panels=3) for name, seed in (("discovery", 1), ("strips", 3))}
    sets["choosing"] = comics.synthetic(3, seed=2, panels=3)
    scores = gl.score_heads(tiny_model, sets["discovery"], progress=False)
    settings = Settings(6, 6, 3, 3, 6, 12, chosen=2, draws=1)
    out = tmp_path_factory.mktemp("rows")
    return Context(tiny_model, settings, out, scores=scores, heads=scores.top(2), progress=False, **sets)


@pytest.fixture(scope="module")
def results(context):
    rows = [row for row in paper.ROWS if row.name in NAMES]
    assert [row.number for row in rows] == [1, 2, 3, 4, 5, 17, 18, 19]
    return {row.name: row.reason(context) or row.run(context) for row in rows}


def figure(result, name):
    (found,) = [one for one in result.figures if one.name == name]
    return found


def test_the_embedded_model_runs_with_its_own_words_and_says_so(context, results):
    assert not reads_labels(context).reads
    assert isinstance(probe_of(context), OwnWords)
    assert "does not read letters" in results["fig11"], "orders cannot be asked for"
    for name in ("fig1", "fig10", "fig12", "fig13"):
        assert "does not read letters" in results[name].notes[0]
    assert (
        figure(results["fig1"], "best layer").value == figure(results["fig13"], "layer of the largest silhouette").value
    )
    assert figure(results["fig1"], "answers that flip at the best layer").value > 50
    assert figure(results["fig10"], "rho with the reversed order, unsteered").value == -1
    assert [one.name for one in results["fig12"].figures] == ["3 panels", "wording 1", "wording 2"]


def test_flips_of_row_1_are_those_of_the_library(context, results):
    prompts = OwnWords().prompts(context.strips)
    direction = OwnWords().prompts(context.discovery).direction(context.model, progress=False)
    table = prompts.flips(context.model, direction, progress=False)
    found = figure(results["fig1"], "answers that flip at the best layer")
    assert found.value == pytest.approx(100 * table.flipped.max())
    assert found.n_strips == table.n[0]


def test_rows_about_pictures(context, results):
    for name in ("fig7", "fig9", "tab1"):
        assert "Synthetic scenes" in results[name].notes[0]
        assert all((context.out / path).exists() for path in results[name].artefacts)
        assert len(set(results[name].artefacts)) == len(results[name].artefacts)
    assert figure(results["fig7"], "gaze, most on the object described").value > 80
    only = {name: figure(results["fig9"], f"{name}, named that are in the part").value for name in ("gaze", "none")}
    assert only["gaze"] > only["none"]
    assert figure(results["tab1"], "gaze, medium").value > figure(results["tab1"], "random, medium").value
    assert "No object is large, or small." in results["tab1"].notes


def test_letters_are_asked_for_where_a_model_reads_them(context):
    reading = replace(context)
    reading.kept["labels"] = Reading(1.0, 1.0)
    probe = probe_of(reading)
    assert isinstance(probe, Labels)
    assert layer_rows.no_order_in_words(reading) is None
    pictures = probe.pictures(context.strips)
    assert all(len(set(one.captions.values())) == 3 for one in pictures)
    assert pictures[0].captions != pictures[1].captions
    questions = probe.prompts(context.strips).questions
    assert questions[0].other.endswith(questions[0].natural)
    assert [questions[2].before, questions[2].after] == [pictures[2].captions[f"panel {k}"] for k in (1, 3)]
    result = layer_rows.orders(reading)  # of random answers, but of the right shape
    assert figure(result, "as a direction, reverse").n_strips == 6
    assert (context.out / "fig11" / "orders.csv").read_text().count("\n") == 6
    assert "digits" in [one.name for one in layer_rows.variants(reading).figures]


def test_a_model_that_answers_nothing_has_no_probe(context):
    silent = replace(context)
    silent.kept.update({"labels": Reading(0.0, 0.0), "own words": Reading(0.4, 1.0)})
    assert probe_of(silent) is None
    assert "Its own answers" in layer_rows.nothing_to_ask(silent)
    with pytest.raises(InputError, match="Its own answers"):
        layer_rows.asked(silent)
    assert Reading(None, None).said == "Letters do not fit on the panels."


def test_strips_are_cut_to_their_first_panels():
    strip = comics.strip([Image.new("RGB", (64, 64), (40 * k, 0, 0)) for k in range(4)], captions=list("abcd"))
    cut = first_panels(strip, 2)
    assert (cut.image.size, list(cut.captions.values())) == ((512, 256), ["a", "b"])
    assert cut.regions == {name: strip.regions[name] for name in ("panel 1", "panel 2")}
    np.testing.assert_array_equal(np.asarray(cut.image), np.asarray(strip.image)[:, :512])
    page = comics.grid([Image.new("RGB", (64, 64))] * 4, (2, 2))
    with pytest.raises(InputError, match="cannot be cut to its first 1"):
        first_panels(page, 1)


def test_looks_are_of_objects_that_one_region_has(tiny_model):
    scene = comics.scenes(1, seed=3)[0]
    maps = track_maps(tiny_model, tiny_model.prepare(scene, comics.LIST_THINGS), ["L1H6"], max_new_tokens=60)
    spans = maps.over(maps.phrases(["purple cross", "yellow circle, orange square", "purple moon"]))
    found = photo_rows.looked_at(spans, scene, {})
    assert len(found) == 2, "a span that names two objects does not count"
    table = spans.on_regions()
    means = table[table.span == 0].attention  # all regions have as many tokens
    assert found[0] == (bool(means.argmax() == 0), pytest.approx(means.iloc[0] / means.sum()))
    speck = {**scene.regions, "speck": gl.Box(1, 1, 2, 2)}
    small = gl.Picture(scene.image, speck, {**scene.captions, "speck": "blue dot."})
    some = maps.over(maps.phrases(["purple cross"]))
    assert photo_rows.looked_at(replace(some, pictures=(small,)), small, {}) == found[:1], "it has no token"
    twice = gl.Picture(scene.image, scene.regions, {**scene.captions, "object 2": "purple cross."})
    assert photo_rows.looked_at(maps.over(maps.phrases(["purple cross"])), twice, {}) == []


def test_photographs_are_judged_by_categories_and_need_names(context):
    bare = replace(context, pictures=[gl.Picture(Image.new("RGB", (64, 64)))])
    assert "no objects with names" in photo_rows.no_named_objects(bare)
    photo = comics.scenes(1, seed=1)[0]
    named = replace(context, pictures=[photo])
    assert photo_rows.no_named_objects(named) is None
    assert photo_rows.synonyms_of(named) == dict(gl.data.COCO_SYNONYMS)
    photos = replace(context, out=context.out / "photos", pictures=comics.scenes(2, seed=4))
    result = photo_rows.sizes(photos)
    assert result.judge == repr(NamesOnly(synonyms=gl.data.COCO_SYNONYMS, others=True))
    assert not any("Synthetic" in note for note in result.notes)


def test_bars_are_the_figures():
    figures = [Figure("gaze, only", 80.0, 70.0, 90.0, 9, "%"), Figure("none, only", None), Figure("gaze, all", 20.0)]
    plot = bars_of(figures, title="t")
    assert plot.data["groups"] == ("only", "all")
    assert plot.data["y"].tolist() == [[0.8], [0.2]]
    assert np.isnan(plot.data["low"][1, 0])


def test_the_command_reads_the_papers_objects_of_coco(run, tmp_path):
    scenes, records, objects = comics.scenes(2, seed=4), [], []
    (tmp_path / "images").mkdir()
    for index, scene in enumerate(scenes):
        scene.image.save(tmp_path / "images" / f"{index}.png")
        records.append({"id": index, "file_name": f"{index}.png", "width": 96, "height": 96})
        boxes = [(0, 0, 32, 32), (32, 0, 27, 27), (64, 0, 27, 28)]  # 1,024, 729 and 756 square pixels
        for category, box in enumerate(boxes):
            place = {"image_id": index, "category_id": category, "bbox": list(box), "iscrowd": 0}
            objects.append({"id": len(objects), "area": 500.0, **place})
    categories = [{"id": n, "name": name} for n, name in enumerate(("dog", "cup", "cat"))]
    annotations = tmp_path / "instances.json"
    annotations.write_text(json.dumps({"images": records, "annotations": objects, "categories": categories}))
    run(
        "paper", "tab1", "--coco", annotations, "--images", tmp_path / "images", "--discovery", "synthetic:3",
        "--choosing", 1, "--strips", "synthetic:1", "--n-heads", 2, "--draws", 1, "--out", tmp_path / "out",
    )  # fmt: skip
    table = (tmp_path / "out" / "tab1" / "accuracy.csv").read_text().splitlines()
    assert [line.rsplit(",", 2)[-2] for line in table if line.startswith("gaze")] == ["0", "2", "2", "4"]
