"""Photographs: accuracy by size of the target, lists steered to parts, names of categories."""

import numpy as np
import pytest
from PIL import Image

import gaze_lens as gl
from gaze_lens import comics
from gaze_lens.errors import InputError
from gaze_lens.evaluation import accuracy_by_size, conditions, evaluate, in_parts, objects_named, regions
from gaze_lens.evaluation.condition import Condition
from gaze_lens.evaluation.generate import generate_answers
from gaze_lens.evaluation.judges import Description, NamesOnly
from gaze_lens.evaluation.protocols import question
from gaze_lens.evaluation.records import Generations, Record, picture_line
from gaze_lens.evaluation.results import Results


def photo(boxes, captions, size=(200, 100)):
    names = [f"object {k + 1}" for k in range(len(boxes))]
    shapes = {name: gl.Box(*box) for name, box in zip(names, boxes, strict=True)}
    return gl.Picture(Image.new("RGB", size), shapes, dict(zip(names, captions, strict=True)))


def answered(picture, texts, protocol=None, condition="gaze"):
    """The generations of a run on one picture, whose answers are these texts, by target."""
    run = {
        "pictures": 1, "seed": 0, "protocol": (protocol or question()).to_dict(),
        "conditions": [Condition(condition, gl.HeadSet(["L0H0"])).to_dict()],
    }  # fmt: skip
    generations = Generations(run)
    generations.add(picture_line("0", picture, len(texts)))
    for target, text in texts.items():
        generations.add(Record("0", condition, 0, (target,), "?", 0, text=text, pieces=(text,)).to_line())
    return generations


def test_accuracy_by_size_of_a_small_case():
    boxes = [(0, 0, 31, 33), (0, 0, 32, 32), (50, 0, 150, 96), (190, 0, 220, 40)]  # 1023, 1024, 9600, clipped to 400
    picture = photo(boxes, "abcd")
    generations = answered(picture, dict.fromkeys(picture.regions, "x"))
    right = dict(zip(picture.regions, (1, 1, 0, 0), strict=True))
    judgements = {
        record.key: [{"match": None, "correct": bool(right[record.targets[0]]), "margin": None, "error": None}]
        for record in generations.records
    }
    table = accuracy_by_size(Results(generations, "by hand", judgements))
    assert table["size"].tolist() == ["large", "medium", "small", "all"]
    by_size = table.set_index("size")
    assert by_size.n.to_dict() == {"large": 1, "medium": 1, "small": 2, "all": 4}
    assert by_size.accuracy.to_dict() == {"large": 0, "medium": 1, "small": 0.5, "all": 0.5}
    huge = accuracy_by_size(Results(generations, "by hand", judgements), sizes={"any": np.inf})
    assert huge.n.tolist() == [4, 4]
    for sizes in ({}, {"small": 5.0}, {"a": 9.0, "b": 3.0, "c": np.inf}):
        with pytest.raises(InputError, match="give ascending areas"):
            accuracy_by_size(Results(generations, "by hand", judgements), sizes=sizes)


def test_sizes_on_scenes(tiny_model):
    scenes = comics.scenes(2, seed=4)
    heads = gl.score_heads(tiny_model, comics.synthetic(3, seed=1), progress=False).top(2)
    some = conditions(tiny_model, heads, ["gaze", "none"])
    results = evaluate(tiny_model, scenes, some, protocol=regions(max_new_tokens=6), progress=False)
    table = accuracy_by_size(results).set_index(["condition", "size"])
    assert table.n["gaze", "medium"] == table.n["gaze", "all"] == sum(len(scene.regions) for scene in scenes)
    assert table.accuracy["gaze", "all"] == pytest.approx(results.accuracy("gaze").value)
    assert table.n["gaze", "small"] == 0


def test_parts_of_a_picture():
    picture = photo([(0, 0, 10, 10)], ["dog"])
    assert in_parts(picture).regions == {"left": gl.Box(0, 0, 100, 100), "right": gl.Box(100, 0, 200, 100)}
    assert list(in_parts(picture, (2, 2)).regions) == ["top left", "top right", "bottom left", "bottom right"]
    assert list(in_parts(picture, (3, 1)).regions) == ["top", "middle", "bottom"]
    assert len(in_parts(picture, (3, 3)).regions) == 9
    for shape in ((1, 1), (0, 2), (4, 2)):
        with pytest.raises(InputError, match="two parts or more"):
            in_parts(picture, shape)


def test_objects_named_in_a_small_case():
    picture = photo(
        [(0, 0, 40, 40), (20, 50, 60, 90), (150, 0, 190, 40), (90, 0, 140, 40)], ["dog", "cup", "cat", "dog"]
    )
    texts = {"left": "Two dogs and a kitten.", "right": "Nothing."}
    table = objects_named(answered(in_parts(picture), texts), [picture], synonyms={"cat": ["kitten"]})
    left, right = table.to_dict("records")
    assert (left["inside"], left["outside"], left["there"]) == (1, 1, 2)
    assert (left["precision"], left["recall"], left["only"]) == (0.5, 0.5, 0)
    assert (right["inside"], right["outside"], right["there"], right["recall"], right["only"]) == (0, 0, 2, 0, 0)
    assert np.isnan(right["precision"])
    texts = {"left": "A dog, a cup and a pizza", "right": "cat"}
    table = objects_named(answered(in_parts(picture), texts), {"0": picture}, names=["pizza"])
    assert table.only.tolist() == [0, 1]
    assert table.precision.tolist() == pytest.approx([2 / 3, 1])
    with pytest.raises(InputError, match="no captions"):
        objects_named(answered(in_parts(picture), texts), [gl.Picture(picture.image, picture.regions)])
    with pytest.raises(InputError, match="2 pictures were given for a run on 1"):
        objects_named(answered(in_parts(picture), texts), [picture, picture])


def test_lists_of_the_embedded_model_are_steered_to_parts(tiny_model):
    scenes = comics.scenes(3, seed=8)
    heads = gl.score_heads(tiny_model, comics.synthetic(3, seed=1), progress=False).top(2)
    parts = [in_parts(scene, (3, 1)) for scene in scenes]
    options = {"protocol": regions(comics.LIST_THINGS, max_new_tokens=40), "progress": False}
    generations = generate_answers(tiny_model, parts, conditions(tiny_model, heads, ["gaze", "none"]), **options)
    table = objects_named(generations, scenes)
    assert len(table) == 18
    means = table.groupby("condition").precision.mean()
    assert means["gaze"] > means["none"]
    steered = generations.records[0]
    inputs = tiny_model.prepare(parts[0], comics.LIST_THINGS)
    hooks = gl.steer(heads, inputs.region(steered.targets[0]))
    assert steered.text == str(tiny_model.generate(inputs, fwd_hooks=hooks, max_new_tokens=40))


def test_names_with_synonyms():
    picture = photo([(0, 0, 40, 40), (100, 0, 140, 40)], ["person", "dog"])
    plain, known = NamesOnly(), NamesOnly(synonyms={"person": ["man", "woman"], "dog": ["puppy"]})
    text = Description("Two women on a bench.", "object 1", picture)
    assert not plain.judge(text).correct
    assert known.judge(text).correct
    both = Description("A man and his puppies.", "object 2", picture)
    assert not known.judge(both).correct
    lenient = NamesOnly(synonyms={"person": ["man"], "dog": ["puppy"]}, others=True)
    assert lenient.judge(both).correct
    assert lenient.judge(both).detail == {"named": ["dog", "person"]}
    assert repr(plain) == "NamesOnly()", "what version 0.2 stored judgements under"
    assert len({repr(plain), repr(known), repr(lenient), repr(NamesOnly(others=True))}) == 4
    with pytest.raises(InputError, match="a text in place of a list"):
        NamesOnly(synonyms={"person": "man"})


def test_synonyms_of_coco_are_of_one_category_each():
    listed = [other for others in gl.data.COCO_SYNONYMS.values() for other in others]
    assert len(set(listed)) == len(listed)
    assert not set(listed) & set(gl.data.COCO_SYNONYMS)
    picture = photo([(0, 0, 40, 40), (100, 0, 140, 40)], ["bear", "teddy bear"])
    judge = NamesOnly(synonyms=gl.data.COCO_SYNONYMS)
    assert judge.judge(Description("a stuffed bear", "object 2", picture)).correct
