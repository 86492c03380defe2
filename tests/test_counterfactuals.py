"""Counterfactual pairs: what changes, what does not, against pictures drawn anew and the model's own embedding."""

import math

import numpy as np
import pytest
import torch
from every_family import NAMES, Case
from PIL import Image
from reference import picture, tower_runs

import gaze_lens as gl
from gaze_lens import changes, metrics
from gaze_lens.comics import ORDINALS, ask, caption, paint_gaps, scenes, synthetic
from gaze_lens.errors import InputError, RegionError
from gaze_lens.patching import aligned_groups, check_aligned
from gaze_lens.shapes import COLOURS, SIDE, draw_cells, draw_content, ground, render_panels

LEFT = gl.Box(0, 0, 48, 64)  # of a picture of 96 x 64 pixels


def values(picture):
    return np.asarray(picture.image).astype(int)


def crop(picture, name):
    box = picture.region(name)
    return values(picture)[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)]


@pytest.fixture(scope="module")
def strip():
    return synthetic(1, seed=1)[0]


# pictures


def test_swapped_panels_exchange_pixels_and_captions_and_nothing_else(strip):
    swapped = changes.swap("panel 1", "panel 4")(strip)
    moved = {"panel 1": "panel 4", "panel 4": "panel 1"}
    for name in strip.regions:
        assert (crop(swapped, name) == crop(strip, moved.get(name, name))).all()
        assert swapped.captions[name] == strip.captions[moved.get(name, name)]
    assert list(swapped.captions) == list(strip.captions)
    again = changes.swap("panel 4", "panel 1")(swapped)
    assert (values(again) == values(strip)).all()
    assert again.captions == strip.captions


def test_swapped_regions_of_different_sizes_are_resized_to_each_other():
    image = Image.new("RGB", (60, 20), "red")
    image.paste("blue", (40, 0, 60, 20))
    regions = {"large": gl.Box(0, 0, 30, 20), "small": gl.Box(40, 0, 60, 20)}
    swapped = changes.swap("large", "small")(gl.Picture(image, regions, {"large": "red."}))
    assert (crop(swapped, "large") == (0, 0, 255)).all()
    assert (crop(swapped, "small") == (255, 0, 0)).all()
    assert swapped.captions == {"small": "red."}


def test_a_panel_is_replaced_by_another_pictures_panel_or_by_an_image(strip):
    other = synthetic(1, seed=2)[0]
    replaced = changes.replace("panel 2", other, of="panel 5")(strip)
    assert (crop(replaced, "panel 2") == crop(other, "panel 5")).all()
    assert replaced.captions == {**strip.captions, "panel 2": other.captions["panel 5"]}
    assert list(replaced.captions) == list(strip.captions)
    plain = changes.replace("panel 2", Image.new("RGB", (7, 9), "red"), caption="red.")(strip)
    assert (crop(plain, "panel 2") == (255, 0, 0)).all()
    assert plain.captions["panel 2"] == "red."
    assert "panel 2" not in changes.replace("panel 2", np.zeros((4, 4, 3), np.uint8))(strip).captions
    with pytest.raises(InputError, match="names a region of a gl.Picture"):
        changes.replace("panel 2", strip.image, of="panel 5")


@pytest.mark.parametrize("seed", range(12))
def test_a_recoloured_shape_is_as_if_it_had_been_drawn_in_that_colour(seed):
    slot, new = seed % 2, (3 * seed) % len(COLOURS)
    drawn = synthetic(1, seed=seed)[0]
    rng = np.random.default_rng([seed, 0])
    content = draw_content(rng, 6)
    things = [text.removesuffix(".").split(" above ") for text in drawn.captions.values()]
    panel = next(k for k in range(6) if things[k][0] != things[k][1] and content[k, 2 * slot] != new)
    content[panel, 2 * slot] = new
    wanted = paint_gaps(np.concatenate(render_panels(rng, content), axis=1), [SIDE * k for k in range(1, 6)])
    name = f"panel {panel + 1}"
    found = changes.recolour(name, COLOURS[new], thing=things[panel][slot])(drawn)
    off = np.abs(values(found) - wanted).max(-1)
    assert off.max() <= 20  # of 255; 17 is the most that 300 seeds gave, at faint edges
    assert (off > 12).mean() < 0.001
    assert found.captions == {**drawn.captions, name: caption(content[panel])}


def test_a_removed_object_leaves_the_ground_and_the_rest(strip):
    for seed in range(6):
        (scene,) = scenes(1, seed=seed)
        rng = np.random.default_rng([seed, 0])
        draw_cells(rng, 1, (3, 3))
        bare = gl.Picture(Image.fromarray(ground(rng, 1, 96, 96)[0].astype(np.uint8)), scene.regions)
        removed = changes.remove("object 1")(scene)
        grain = np.abs(crop(removed, "object 1") - crop(bare, "object 1"))
        assert grain.max() < 15  # the grain's standard deviation is 1.5, faint edges remain
        untouched = [name for name in scene.regions if name != "object 1"]
        assert all((crop(removed, name) == crop(scene, name)).all() for name in untouched)
        assert list(removed.captions) == untouched
    upper, lower = strip.captions["panel 4"].removesuffix(".").split(" above ")
    removed = changes.remove("panel 4", thing=upper)(strip)
    assert removed.captions["panel 4"] == f"{lower}."
    assert (crop(removed, "panel 4")[SIDE // 2 :] == crop(strip, "panel 4")[SIDE // 2 :]).all()


def test_things_that_cannot_be_found_are_refused(strip):
    with pytest.raises(InputError, match="name exactly one of its things"):
        changes.recolour("panel 4", "red")(strip)
    with pytest.raises(InputError, match="thing='blue zebra' was given"):
        changes.remove("panel 4", thing="blue zebra")(strip)
    with pytest.raises(InputError, match="'teal' was given; expected one of red"):
        changes.recolour("panel 4", "teal")
    photo = gl.Picture(Image.new("RGB", (64, 64)), {"cat": gl.Box(0, 0, 32, 32)}, {"cat": "a cat asleep."})
    with pytest.raises(InputError, match="has the caption 'a cat asleep.'; expected that of a synthetic"):
        changes.remove("cat")(photo)
    lying = gl.Picture(photo.image, photo.regions, {"cat": "red ring."})
    with pytest.raises(InputError, match="No red pixels on a light ground"):
        changes.recolour("cat", "blue")(lying)


def test_filled_regions_are_what_they_are_called_and_lose_their_captions(strip):
    whole, named = values(strip), crop(strip, "panel 4")
    edge = np.concatenate([whole[0], whole[-1], whole[:, 0], whole[:, -1]])
    made = {
        "background": (changes.blank("panel 4"), np.median(edge, axis=0)),
        "colour": (changes.blank("panel 4", colour=(1, 2, 3)), (1, 2, 3)),
        "mean": (changes.mean("panel 4"), whole.reshape(-1, 3).mean(0)),
        "own mean": (changes.mean("panel 4", over="panel 4"), named.reshape(-1, 3).mean(0)),
    }
    for change, wanted in made.values():
        changed = change(strip)
        assert np.abs(crop(changed, "panel 4") - np.array(wanted)).max() <= 0.5
        assert (crop(changed, "panel 3") == crop(strip, "panel 3")).all()
        assert set(strip.captions) - set(changed.captions) == {"panel 4"}
    noisy = [values(changes.noise("panel 4", seed=seed)(strip)) for seed in (0, 0, 1)]
    assert (noisy[0] == noisy[1]).all()
    assert (noisy[0] != noisy[2]).any()
    assert np.abs(noisy[0][:, 96:128].mean((0, 1)) - whole.mean((0, 1))).max() < 12


def test_a_round_region_is_filled_within_its_shape_only(strip):
    mask = np.zeros((32, 192), bool)
    mask[5:9, 100:104] = True
    changed = changes.blank(gl.Mask(mask), colour=(0, 0, 0))(strip)
    assert ((values(changed) != values(strip)).any(-1) <= mask).all()
    assert (values(changed)[mask] == 0).all()
    assert changed.captions == strip.captions  # most of panel 4 is as it was


def test_regions_that_cannot_be_moved_are_refused(strip):
    with pytest.raises(RegionError, match="no region 'panel 9'"):
        changes.swap("panel 1", "panel 9")(strip)
    lying = {"a": gl.Box(0, 0, 20, 20), "b": gl.Box(10, 10, 40, 30), "c": gl.Polygon([(50, 0), (60, 0), (60, 9)])}
    shapes = gl.Picture(strip.image, lying)
    with pytest.raises(RegionError, match="'a' and 'b' overlap"):
        changes.swap("a", "b")(shapes)
    with pytest.raises(RegionError, match="'c' is a Polygon"):
        changes.swap("a", "c")(shapes)


# pairs


@torch.no_grad()
@pytest.mark.parametrize("seed", range(4))
def test_swapping_panels_flips_the_answer(tiny_model, seed):
    (strip,) = synthetic(1, seed=seed)
    question, change = ask(3), changes.swap("panel 1", "panel 4")
    pair = gl.counterfactual(tiny_model, strip, question, change)
    assert str(tiny_model.generate(pair.clean)) == strip.captions["panel 4"]
    assert str(tiny_model.generate(pair.corrupted)) == strip.captions["panel 1"]
    first, fourth = (
        gl.counterfactual(tiny_model, strip, question, change, answers=strip.captions[name])
        for name in ("panel 1", "panel 4")
    )
    scores = [
        [float(metrics.answer_log_probability(side)(tiny_model(side))) for side in pair] for pair in (first, fourth)
    ]
    assert scores[1][0] - scores[0][0] > 5  # clean: panel 4's caption
    assert scores[0][1] - scores[1][1] > 5  # corrupted: panel 1's


def test_every_ordinal_makes_an_equal_layout(tiny_model, strip):
    for to in ORDINALS:
        if to != "fourth":
            pair = gl.counterfactual(tiny_model, strip, ask(3), changes.ordinal(to))
            assert pair.clean.layout == pair.corrupted.layout
            assert repr(pair).splitlines()[1] == f"  row 0: position 33 ' fourth' -> ' {to}'"
    with pytest.raises(InputError, match="leaves row 0 as it is"):
        gl.counterfactual(tiny_model, strip, ask(3), changes.ordinal("fourth"))
    with pytest.raises(InputError, match="holds 0 ordinals"):
        gl.counterfactual(tiny_model, strip, "What is this?", changes.ordinal("fourth"))
    with pytest.raises(InputError, match=r"ordinal\('ninth'\) was given"):
        changes.ordinal("ninth")


def test_every_row_can_have_a_change_and_an_answer_of_its_own(tiny_model, strip):
    rows = [changes.swap("panel 1", "panel 2"), changes.ordinal("sixth"), lambda one: changes.blank("panel 3")(one)]
    answers = list(strip.captions.values())[:3]
    pair = gl.counterfactual(tiny_model, strip, [ask(0), ask(1), ask(2)], rows, answers=answers)
    lines = repr(pair).splitlines()
    assert lines[1:] == [
        "  row 0: image 0 differs in panel 1, panel 2",
        "  row 1: position 33 ' second' -> ' sixth'",
        "  row 2: image 0 differs in panel 3",
    ]
    assert pair.clean.answers == pair.corrupted.answers
    with tower_runs(tiny_model) as runs:
        encoded = pair.encoded(tiny_model)
    assert len(runs) == 2  # the clean picture, then the two changed ones together
    assert encoded.corrupted.features.parts[1] is encoded.clean.features.parts[1]
    assert torch.equal(tiny_model(pair.corrupted), tiny_model(encoded.corrupted))


def test_in_chat_messages_the_users_last_text_is_changed_and_images_stay(tiny_model, strip):
    asked = [{"type": "image", "image": strip}, {"type": "text", "text": "the first"}, {"type": "text", "text": ask(3)}]
    messages = [
        {"role": "user", "content": asked[:2]},
        {"role": "assistant", "content": "the first"},
        {"role": "user", "content": asked[2:]},
    ]
    pair = gl.counterfactual(tiny_model, None, messages, changes.ordinal("second"))
    said = ["".join(side.str_tokens()) for side in pair]
    assert said[1] == said[0].replace("fourth", "second")
    assert "fourth" in said[0]
    assert [tokens.size for tokens in pair.corrupted.image_tokens] == [strip.image.size]


def test_unequal_texts_are_refused_by_name_or_aligned_by_region(tiny_model, strip):
    longer = changes.question("What happens in the very fourth panel from the left?")
    with pytest.raises(InputError, match=r"Text span 1 of row 0 has \d+ tokens .* part at position 33 \(' fourth'\)"):
        gl.counterfactual(tiny_model, strip, ask(3), longer)
    pair = gl.counterfactual(tiny_model, strip, ask(3), longer, align=True)
    clean, corrupted = pair
    found = aligned_groups(clean, corrupted, ["panel 4", "last", clean.region("panel 2")][:2])
    for ours, theirs in found:
        for mine, other in zip(ours.rows[0], theirs.rows[0], strict=True):
            assert clean.input_ids[0, mine] == corrupted.input_ids[0, other]
    words = aligned_groups(clean, corrupted, {"word": (clean.span("fourth"), corrupted.span("fourth"))})
    ((ours, theirs),) = words
    assert ours.name == theirs.name == "word"
    assert clean.input_ids[0, ours.rows[0][0]] == corrupted.input_ids[0, theirs.rows[0][0]]
    assert ours.rows != theirs.rows
    with pytest.raises(InputError, match=r"Group 'text' has \d+ positions in row 0 of the clean inputs and \d+ in the"):
        aligned_groups(clean, corrupted, "text")
    with pytest.raises(RegionError, match="was made for"):
        aligned_groups(clean, corrupted, clean.region("panel 2"))


def test_layouts_that_differ_are_named(tiny_model, shelf, strip):
    clean = tiny_model.prepare([strip, strip], [ask(0), ask(1)])
    with pytest.raises(InputError, match="2 rows and the corrupted ones 1"):
        check_aligned(clean, tiny_model.prepare(strip, ask(0)))
    small = synthetic(1, seed=1, panels=5)[0]
    with pytest.raises(InputError, match=r"Image 0 of row 1 has 24 tokens \(192 x 32 pixels\) .* 20 tokens"):
        check_aligned(clean, tiny_model.prepare([strip, small], [ask(0), ask(1)]))
    with pytest.raises(InputError, match="Row 1 has 1 images .* and 2 in"):
        check_aligned(clean, tiny_model.prepare([[strip], [strip, strip]], [ask(0), ask(1)]))
    with pytest.raises(InputError, match="different models"):
        gl.Pair(clean, shelf.get("LLaVA")[0].prepare([picture(64, 64)] * 2, ["a", "What?"]), align=True)
    answered = [tiny_model.prepare(strip, ask(0), answers=text) for text in ("red ring.", "red ring above blue bar.")]
    with pytest.raises(InputError, match=r"Text span 1 of row 0 has \d+ tokens .* part at position"):
        check_aligned(*answered)
    check_aligned(clean, tiny_model.prepare([small.image.resize((192, 32)), strip], [ask(4), ask(2)]))


def test_images_at_other_places_and_other_padding_are_named(tiny_model, strip):
    part = {"type": "image"}
    around = [
        [{"role": "user", "content": [{"type": "text", "text": before}, part, {"type": "text", "text": after}]}]
        for before, after in (("the left panel", "What"), ("What", "the left panel"))
    ]
    with pytest.raises(InputError, match="Text span 0 of row 0 has"):
        check_aligned(*(tiny_model.prepare(strip, messages) for messages in around))
    one = tiny_model.prepare([strip, strip], [ask(0), ask(0)])
    padded = tiny_model.prepare([strip] * 3, [ask(0), ask(0), ask(0) + " " + ask(1)])
    first = tiny_model.prepare([strip, strip], [ask(0), ask(0) + " " + ask(1)])
    assert padded.layout.length == first.layout.length != one.layout.length
    with pytest.raises(InputError, match="Text span 1 of row 1 has"):
        check_aligned(one, first)


def test_which_of_several_images_is_changed_must_be_said(tiny_model, strip):
    other = synthetic(1, seed=2)[0]
    change = changes.blank(gl.Box(0, 0, 32, 32))
    with pytest.raises(InputError, match="Row 0 has 2 images and image=None"):
        gl.counterfactual(tiny_model, [[strip, other]], "What?", change)
    pair = gl.counterfactual(tiny_model, [[strip, other]], "What?", change, image=1)
    assert repr(pair).splitlines()[1] == "  row 0: image 1 differs in panel 1"
    with pytest.raises(InputError, match="Row 0 has 0 images"):
        gl.counterfactual(tiny_model, None, "What?", change)


def test_what_is_no_change_is_refused(tiny_model, strip):
    with pytest.raises(InputError, match="3 changes were given for 1 rows"):
        gl.counterfactual(tiny_model, strip, "What?", [changes.blank("panel 1")] * 3)
    with pytest.raises(InputError, match="is no change; expected"):
        gl.counterfactual(tiny_model, strip, "What?", "blank")
    with pytest.raises(InputError, match="The change returned Image; expected a gl.Picture"):
        gl.counterfactual(tiny_model, strip, "What?", lambda one: one.image)
    with pytest.raises(InputError, match="Image 0 of row 0 has 24 tokens .* and 4 tokens"):
        gl.counterfactual(tiny_model, strip, "What?", lambda one: gl.Picture(one.image.crop((0, 0, 32, 32))))
    with pytest.raises(InputError, match="leaves row 0 as it is"):
        gl.counterfactual(tiny_model, strip, "What?", lambda one: one)
    with pytest.raises(InputError, match="space='tokens' was given"):
        changes.blank("panel 1", space="tokens")
    with pytest.raises(InputError, match="a region has no colour"):
        changes.blank("panel 1", colour=(0, 0, 0), space="features")


# image features


@torch.no_grad()
def entering(model, inputs):
    """What enters the first layer that sees the image, by key of the prompt `[row, position, ...]`."""
    if inputs.layout.crossed:
        layer = model.config.text_config.cross_attention_layers[0]
        return model.run_with_cache(inputs, names_filter=f"blocks.{layer}.attn.hook_v")[1][
            f"blocks.{layer}.attn.hook_v"
        ]
    name = "blocks.0.hook_resid_pre"
    return model.run_with_cache(inputs, names_filter=name)[1][name]


@pytest.mark.parametrize("name", NAMES)
def test_features_change_at_the_regions_tokens_and_nowhere_else(name, shelf):
    model = Case.of(name, shelf).model
    first, second = picture(96, 64), picture(64, 64, seed=1)
    given = model, [[first], [first, second]], ["What?", "a longer question"]
    for change in (changes.mean, changes.blank, changes.noise):
        if name == "Mllama":
            given = model, [[first], [first]], ["What?", "a longer question"]
        pair = gl.counterfactual(*given, change(LEFT, space="features"), image=0)
        before, after = (entering(model, side) for side in pair)
        inside = torch.zeros(before.shape[:2], dtype=torch.bool)
        for row in range(2):
            inside[row, list(pair.clean.positions_of(LEFT, row=row, image=0))] = True
        assert torch.equal(after[~inside], before[~inside])
        assert (after[inside] != before[inside]).flatten(1).any(1).all()
        for row in range(2):
            tokens = next(t for t in pair.clean.image_tokens if (t.row, t.image) == (row, 0))
            seen = before[row, tokens.positions[~tokens.boxes[:, 0].isnan()]].flatten(1)
            new = after[row][inside[row]].flatten(1)
            if change is changes.mean:  # all that follows the features is linear
                assert (new - seen.mean(0)).abs().max() < 1e-5 * max(1, seen.abs().max())
            elif change is changes.blank and name != "Molmo2":
                assert new.abs().max() == 0
            elif change is changes.blank:  # Molmo2 adds the features to the placeholder's embedding
                ids = pair.clean.input_ids[row, inside[row]]
                assert torch.equal(new, model.original_model.get_input_embeddings()(ids))


@pytest.mark.parametrize("name", ["Qwen3-VL", "Qwen3-VL-MoE"])
def test_deepstacks_additions_change_with_the_features(name, shelf):
    model = Case.of(name, shelf).model
    change = changes.mean(LEFT, space="features")
    pair = gl.counterfactual(model, picture(96, 64), "What?", change)
    kept = []

    def keep(_module, _args, kwargs):
        kept.append([level.clone() for level in kwargs["deepstack_visual_embeds"]])

    handle = model.original_model.model.language_model.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        for side in pair:
            model(side)
    finally:
        handle.remove()
    tokens = pair.clean.image_tokens[0]
    chosen = torch.isin(tokens.positions, torch.tensor(pair.clean.positions_of(LEFT)))
    assert len(kept[0]) == 2
    for before, after in zip(*kept, strict=True):
        assert torch.equal(after[~chosen], before[~chosen])
        assert (after[chosen] - before.mean(0)).abs().max() < 1e-6


def test_means_over_other_inputs_and_over_a_region(tiny_model, strip):
    others = tiny_model.encode(tiny_model.prepare(synthetic(3, seed=9), "What?"))
    pair = gl.counterfactual(tiny_model, strip, ask(3), changes.mean("panel 4", over=others, space="features"))
    slow = torch.stack([row for part in others.features.parts for row in part["tokens"]]).mean(0)
    positions = list(pair.clean.positions_of("panel 4"))
    assert torch.allclose(entering(tiny_model, pair.corrupted)[0, positions], slow.expand(4, -1), atol=1e-6)
    pair = gl.counterfactual(tiny_model, strip, ask(3), changes.mean("panel 4", over="panel 2", space="features"))
    source = entering(tiny_model, pair.clean)[0, list(pair.clean.positions_of("panel 2"))].mean(0)
    assert torch.allclose(entering(tiny_model, pair.corrupted)[0, positions], source.expand(4, -1), atol=1e-6)
    assert pair.corrupted.pictures == pair.clean.pictures
    raw = tiny_model.prepare(strip, "What?")
    with pytest.raises(InputError, match="not encoded"):
        gl.counterfactual(tiny_model, strip, ask(3), changes.mean("panel 4", over=raw, space="features"))


def test_noise_in_features_is_seeded_and_of_their_own_scale(tiny_model, strip):
    def rows(seed):
        pair = gl.counterfactual(tiny_model, strip, ask(3), changes.noise(whole, seed=seed, space="features"))
        image = list(pair.clean.image_tokens[0].positions)
        return [entering(tiny_model, side)[0, image] for side in pair]

    whole = gl.Box(0, 0, 192, 32)
    (before, first), (_, again), (_, other) = rows(0), rows(0), rows(1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    score = (first - before.mean(0)) / before.std(0, correction=0)
    assert abs(float(score.mean())) < 4 / math.sqrt(score.numel())
    assert abs(float(score.std()) - 1) < 4 / math.sqrt(2 * score.numel())


def test_changed_features_are_not_taken_for_the_pictures_own(tiny_model, strip):
    pair = gl.counterfactual(tiny_model, strip, ask(3), changes.blank("panel 4", space="features"))
    assert repr(pair).splitlines()[1] == "  row 0: image 0 has other features in 4 tokens"
    fresh = tiny_model.prepare(strip, ask(3))
    assert torch.equal(tiny_model(tiny_model.encode(fresh, reuse=pair.corrupted)), tiny_model(pair.clean))


def test_features_with_other_rows_than_tokens_are_refused(tiny_model, strip, monkeypatch):
    real = tiny_model.family.encode

    def pooled(*args):
        return [{**part, "tokens": part["tokens"][:5]} for part in real(*args)]

    def with_more(*args):
        return [{**part, "summary": part["tokens"][0]} for part in real(*args)]

    change = changes.blank("panel 4", space="features")
    for encode, words in ((pooled, r"holds \[5"), (with_more, "summary")):
        monkeypatch.setitem(tiny_model.family.__dict__, "encode", encode)
        with pytest.raises(InputError, match=f"{words}.*expected a row for each token"):
            gl.counterfactual(tiny_model, strip, ask(3), change)
