"""Changes of pictures, compared pixel by pixel with newly drawn pictures."""

import numpy as np
import pytest
from PIL import Image

import gaze_lens as gl
from gaze_lens import changes
from gaze_lens.comics.drawing import COLOURS, SIDE, draw_cells, draw_content, ground, render_panels
from gaze_lens.comics.generator import caption, scenes, synthetic
from gaze_lens.comics.strips import paint_gaps
from gaze_lens.errors import InputError, RegionError


def values(picture):
    return np.asarray(picture.image).astype(int)


def crop(picture, name):
    box = picture.region(name)
    return values(picture)[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)]


@pytest.fixture(scope="module")
def strip():
    return synthetic(1, seed=1)[0]


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
    expected = paint_gaps(np.concatenate(render_panels(rng, content), axis=1), [SIDE * k for k in range(1, 6)])
    name = f"panel {panel + 1}"
    changed = changes.recolour(name, COLOURS[new], thing=things[panel][slot])(drawn)
    off = np.abs(values(changed) - expected).max(-1)
    assert off.max() <= 20  # of 255; the largest value of 300 seeds was 17, at faint edges
    assert (off > 12).mean() < 0.001
    assert changed.captions == {**drawn.captions, name: caption(content[panel])}


def test_a_removed_object_leaves_the_ground_and_the_rest(strip):
    for seed in range(6):
        (scene,) = scenes(1, seed=seed)
        rng = np.random.default_rng([seed, 0])
        draw_cells(rng, 1, (3, 3))
        bare = gl.Picture(Image.fromarray(ground(rng, 1, 96, 96)[0].astype(np.uint8)), scene.regions)
        removed = changes.remove("object 1")(scene)
        grain = np.abs(crop(removed, "object 1") - crop(bare, "object 1"))
        assert grain.max() < 15  # the noise has a standard deviation of 1.5, and faint edges remain
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


def test_filled_regions_have_the_new_pixels_and_lose_their_captions(strip):
    whole, named = values(strip), crop(strip, "panel 4")
    edge = np.concatenate([whole[0], whole[-1], whole[:, 0], whole[:, -1]])
    cases = {
        "background": (changes.blank("panel 4"), np.median(edge, axis=0)),
        "colour": (changes.blank("panel 4", colour=(1, 2, 3)), (1, 2, 3)),
        "mean": (changes.mean("panel 4"), whole.reshape(-1, 3).mean(0)),
        "own mean": (changes.mean("panel 4", over="panel 4"), named.reshape(-1, 3).mean(0)),
    }
    for change, expected in cases.values():
        changed = change(strip)
        assert np.abs(crop(changed, "panel 4") - np.array(expected)).max() <= 0.5
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
    assert changed.captions == strip.captions  # most of panel 4 is unchanged


def test_regions_that_cannot_be_moved_are_refused(strip):
    with pytest.raises(RegionError, match="no region 'panel 9'"):
        changes.swap("panel 1", "panel 9")(strip)
    lying = {"a": gl.Box(0, 0, 20, 20), "b": gl.Box(10, 10, 40, 30), "c": gl.Polygon([(50, 0), (60, 0), (60, 9)])}
    shapes = gl.Picture(strip.image, lying)
    with pytest.raises(RegionError, match="'a' and 'b' overlap"):
        changes.swap("a", "b")(shapes)
    with pytest.raises(RegionError, match="'c' is a Polygon"):
        changes.swap("a", "c")(shapes)
