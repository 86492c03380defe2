"""CircuitsVis views: pooled attention against a slow sum, what is refused, and what a browser without network draws."""

import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from gaze_lens import Box, Picture, show, steer
from gaze_lens.comics.generator import scenes
from gaze_lens.errors import HeadError, InputError, RegionError
from gaze_lens.show.circuits import CircuitsView

HEADS = ["L2H1", "L0H3", "L2H0"]


def slow(model, inputs, head, groups, row=0):
    """The pattern of a head, summed over keys and averaged over queries, group by group."""
    name = f"blocks.{head[0]}.attn.hook_pattern"
    _, cache = model.run_with_cache(inputs, names_filter=name)
    pattern = cache[name][row, head[1]].double().numpy()
    out = np.zeros((len(groups), len(groups)))
    for i, queries in enumerate(groups):
        for j, keys in enumerate(groups):
            out[i, j] = sum(pattern[q, k] for q in queries for k in keys) / len(queries)
    return out


def groups_of(inputs, names, row=0):
    """Text tokens one by one and the regions where the image is, as (label or None, positions)."""
    regions = [list(inputs.positions_of(name, row=row)) for name in names]
    first = min(position for region in regions for position in region)
    before = [[p] for p in inputs.text_positions[row] if p < first]
    return before + regions + [[p] for p in inputs.text_positions[row] if p > first]


# --- what is shown ------------------------------------------------------------------------------------------------


def test_attention_is_summed_over_a_regions_keys_and_averaged_over_its_queries(model, strip):
    inputs = model.prepare(strip, "What is this?")
    view = show.circuitsvis(model, inputs, HEADS)
    groups = groups_of(inputs, strip.regions)
    assert view.data["attention"].shape == (3, len(groups), len(groups))
    for index, head in enumerate([(2, 1), (0, 3), (2, 0)]):
        np.testing.assert_allclose(view.data["attention"][index], slow(model, inputs, head, groups), atol=1e-5)
    np.testing.assert_allclose(view.data["attention"].sum(-1), 1, atol=1e-5)
    assert view.data["heads"] == ("L2H1", "L0H3", "L2H0")
    at = view.data["tokens"].index("[panel 1]")
    assert view.data["tokens"][at : at + 3] == ("[panel 1]", "[panel 2]", "[panel 3]")
    assert view.data["tokens"][at - 1] == "<|vision_start|>"
    assert len(view.data["tokens"]) == len(groups)


def test_long_prompts_are_read_in_pieces_with_the_same_result(model, strip, monkeypatch):
    inputs = model.prepare(strip, "What is this?")
    whole = show.circuitsvis(model, inputs, HEADS).data["attention"]
    monkeypatch.setattr("gaze_lens.show.circuits.CHUNK", 5)
    np.testing.assert_allclose(show.circuitsvis(model, inputs, HEADS).data["attention"], whole, atol=1e-6)


def test_a_cropped_view_keeps_chosen_text_and_given_regions_and_the_rest_of_the_image(model, strip):
    inputs = model.prepare(strip, "What is this?")
    second = inputs.region("panel 2")
    view = show.circuitsvis(model, inputs, ["L1H0"], regions=[(0, 0, 32, 32), second], positions=range(-3, 0))
    assert view.data["tokens"][:3] == ("[box 0 0 32 32]", "[panel 2]", "[rest]")
    last = inputs.last_position
    regions = [list(inputs.region(name).positions[0]) for name in strip.regions]
    groups = [*regions, [last - 2], [last - 1], [last]]
    np.testing.assert_allclose(view.data["attention"][0], slow(model, inputs, (1, 0), groups), atol=1e-5)


def test_a_padded_row_two_images_and_a_picture_without_names(model, strip):
    scene, plain = scenes(1, seed=0)[0], Picture(strip.image.resize((64, 64)))
    inputs = model.prepare([[strip, scene], [plain]], ["What?", "What is this, do you think?"])
    labels = show.circuitsvis(model, inputs, ["L1H0"]).data["tokens"]
    assert {"[panel 1]", "[rest of image 2]", *(f"[{name}]" for name in scene.regions)} < set(labels)  # and the rest
    view = show.circuitsvis(model, inputs, ["L1H0"], row=1)
    groups = [list(inputs.image_tokens[2].positions.tolist())] + [[p] for p in inputs.text_positions[1]]
    groups.sort(key=min)
    assert view.data["tokens"][groups.index(max(groups, key=len))] == "[image]"
    np.testing.assert_allclose(view.data["attention"][0], slow(model, inputs, (1, 0), groups, row=1), atol=1e-5)


def test_a_token_in_two_regions_counts_in_both(model, strip):
    picture = Picture(strip.image, {"left": Box(0, 0, 64, 32), "right": Box(32, 0, 96, 32)})
    inputs = model.prepare(picture, "What?")
    view = show.circuitsvis(model, inputs, ["L1H0"])
    groups = groups_of(inputs, picture.regions)
    np.testing.assert_allclose(view.data["attention"][0], slow(model, inputs, (1, 0), groups), atol=1e-5)
    assert view.data["attention"][0, -1].sum() > 1


def test_cross_attention_has_regions_as_columns_only_and_text_only_in_other_layers(shelf, strip):
    model = shelf.get("Mllama")[0]
    inputs = model.prepare(strip, "What is this?")
    cross_attention = next(
        layer for layer in range(model.cfg.n_layers) if layer in model.config.text_config.cross_attention_layers
    )
    own = next(layer for layer in range(model.cfg.n_layers) if layer != cross_attention)
    view = show.circuitsvis(model, inputs, [(cross_attention, 0), (own, 1)])
    n_regions = len(view.data["tokens"]) - len(inputs.text_positions[0])
    assert n_regions >= 3
    across, among = view.data["attention"]
    assert (across[:, n_regions:] == 0).all()
    assert (across[:n_regions] == 0).all()
    assert across[-1, :n_regions].sum() == pytest.approx(1, abs=1e-4)
    assert (among[:, :n_regions] == 0).all()
    np.testing.assert_allclose(among[n_regions:].sum(-1), 1, atol=1e-5)
    masses = show.attention_map(model, inputs, [(cross_attention, 0)]).data["on_regions"][0]
    np.testing.assert_allclose(across[-1, :3], masses, atol=1e-5)


def test_steering_shows(model, strip):
    inputs = model.prepare(strip, "What?")
    hooks = steer(["L1H0"], inputs.region("panel 2"))
    view = show.circuitsvis(model, inputs, ["L1H0"], fwd_hooks=hooks)
    assert view.data["attention"][0, -1, view.data["tokens"].index("[panel 2]")] == pytest.approx(1, abs=1e-4)
    assert "'[panel 2]' 1.00" in str(view)


def test_what_cannot_be_shown_is_refused(model, strip):
    inputs = model.prepare(strip, "What?")
    with pytest.raises(HeadError, match="set of heads is empty"):
        show.circuitsvis(model, inputs, [])
    with pytest.raises(HeadError, match="L9H9 lie outside"):
        show.circuitsvis(model, inputs, ["L9H9"])
    with pytest.raises(InputError, match="no row 1"):
        show.circuitsvis(model, inputs, ["L0H0"], row=1)
    image = int(inputs.image_tokens[0].positions[0])
    with pytest.raises(
        InputError, match=rf"Positions \[{image}\] are no text tokens of row 0: expected .* 0 to {image - 1} and"
    ):
        show.circuitsvis(model, inputs, ["L0H0"], positions=[image])
    with pytest.raises(InputError, match="at least one"):
        show.circuitsvis(model, inputs, ["L0H0"], positions=[])
    with pytest.raises(RegionError, match="no regions? 'panel 9'|'panel 9'"):
        show.circuitsvis(model, inputs, ["L0H0"], regions=["panel 9"])
    long = model.prepare(strip, "What is this? " * 80)
    with pytest.raises(InputError, match=r"expected at most 100000, .* positions=range\(-20, 0\)"):
        show.circuitsvis(model, long, ["L0H0"])
    assert len(show.circuitsvis(model, long, ["L0H0"], positions=range(-20, 0)).data["tokens"]) == 23


# --- the page -----------------------------------------------------------------------------------------------------


def view_of(attention, tokens, text="Attention of L0H0 between tokens\nlegend"):
    return CircuitsView({"attention": attention, "heads": ("L0H0",), "tokens": tuple(tokens)}, text)


def test_a_page_names_no_server_and_no_token_becomes_html(tmp_path):
    bad = "</script><script>document.title='owned'</script>\u2028<b>"
    view = view_of(np.eye(2, dtype=np.float32), [bad, "ok"], text=f"{bad}\nlegend")
    page = view.to_html()
    assert page.count("</script>") == 1  # our own; those inside strings of CircuitsVis are written <\/script>
    assert "unpkg" not in page
    assert "sourceMappingURL" not in page
    assert not re.search(r'(src|href|import)\s*=?\s*"https?:', page)
    assert "<b>" not in page.split("<script", 1)[0]


def test_it_is_saved_as_html_or_not_at_all(tmp_path):
    view = view_of(np.eye(2, dtype=np.float32), ["a", "b"])
    with pytest.raises(InputError, match="ends in .html"):
        view.save(tmp_path / "heads.png")
    view.save(tmp_path / "heads.html")
    assert (tmp_path / "heads.html").stat().st_size < 2_000_000


def test_a_circuitsvis_without_its_javascript_is_refused(tmp_path, monkeypatch):
    from gaze_lens.show import circuits

    circuits._source.cache_clear()
    monkeypatch.setattr(circuits, "files", lambda _: tmp_path)
    with pytest.raises(InputError, match=r"has no dist/cdn/iife.js.*pip install"):
        view_of(np.eye(2, dtype=np.float32), ["a", "b"]).to_html()
    circuits._source.cache_clear()


@pytest.fixture
def page(browser):
    """A page of a browser that has no network, and a list of what went wrong on it."""
    context = browser.new_context(offline=True, viewport={"width": 1000, "height": 1200})
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: wrong.append(request.url) if not request.url.startswith("file:") else None)
    yield page, wrong
    context.close()


def blue(png):
    """Boxes (x0, y0, x1, y1) of the fully blue cells, one for each run of rows, the uppermost first."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    full = (pixels[..., 2] > 240) & (pixels[..., :2].max(-1) < 12)
    rows = np.flatnonzero(full.any(1))
    boxes = []
    for part in np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1) if rows.size else []:
        columns = np.flatnonzero(full[part].any(0))
        boxes.append((columns[0], part[0], columns[-1] + 1, part[-1] + 1))
    return boxes


def drawn(page, canvas, *, seconds=60):
    """The two fully blue cells, once they are drawn."""
    for _ in range(10 * seconds):
        boxes = blue(canvas.screenshot())
        if len(boxes) == 2:
            return boxes
        page.wait_for_timeout(100)
    raise AssertionError(f"{boxes} after {seconds} s; two blue cells were expected")


def test_a_browser_without_network_draws_the_strongest_cells_where_they_are(page, tmp_path):
    page, wrong = page
    attention = np.zeros((1, 4, 4), np.float32)
    attention[0, 0, 0] = attention[0, 3, 1] = 1.0
    view_of(attention, ["<img src=x onerror=alert(1)>", "[panel 1]", "b", "c"]).save(tmp_path / "heads.html")
    page.goto((tmp_path / "heads.html").as_uri())
    page.wait_for_selector("text=L0H0 Zoomed")
    canvases = page.locator("canvas")
    assert canvases.count() == 2
    upper, lower = drawn(page, canvases.nth(1))
    width, height = upper[2] - upper[0], upper[3] - upper[1]
    assert min(width, height) > 40
    assert (lower[0] - upper[0]) / width == pytest.approx(1, abs=0.1)
    assert (lower[1] - upper[1]) / height == pytest.approx(3, abs=0.1)
    assert page.locator("img").count() == 0
    assert wrong == []


def test_a_view_of_a_model_opens_without_network(page, tmp_path, model, strip):
    page, wrong = page
    show.circuitsvis(model, model.prepare(strip, "What is this?"), HEADS).save(tmp_path / "heads.html")
    page.goto((tmp_path / "heads.html").as_uri())
    page.wait_for_selector("text=L2H1 Zoomed")
    page.get_by_text("L0H3", exact=True).first.hover()
    page.wait_for_selector("text=L0H3 Zoomed")
    assert page.locator("canvas").count() == 4
    assert wrong == []


def test_data_are_tensors_of_the_model_and_no_grad(model, strip):
    view = show.circuitsvis(model, model.prepare(strip, "What?"), ["L0H0"])
    assert isinstance(view.data["attention"], np.ndarray)
    assert torch.is_grad_enabled()
    assert repr(view).startswith("CircuitsView of 1 heads")
