"""Bad input from a picture file to a generated text: one clear error, and (the fixture looks) nothing left behind."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

import gaze_lens as gl
from gaze_lens.attention.attention_bias import AttentionBias
from gaze_lens.attention.positions import Positions
from gaze_lens.errors import GazeLensError, HeadError, HookError, ImageError, InputError, ModelError, RegionError
from gaze_lens.regions.picture import Picture, panels
from gaze_lens.regions.shapes import Box

IMAGE = {"type": "image"}
HEADS = ["L1H0"]


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def strip():
    return Picture(noise(96, 64), panels(3, 96, 64))


def says(text):
    return [{"role": "user", "content": text}]


def message_of(action):
    """The text of the one error of ours that an action gives; it must be a sentence a user can act on."""
    with pytest.raises(GazeLensError) as caught:
        action()
    text = str(caught.value)
    assert 40 < len(text) < 700, text
    assert not re.search(r"\(\s*pixels\)|\.\.[^.]| {2}|0x[0-9a-f]{6}", text.replace("...", "")), text
    return caught.type, text


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (
            "x <|image_pad|> y",
            r"prompt 'x <\|image_pad\|> y' holds the placeholder token <\|image_pad\|>.*Leave it out",
        ),
        (says("x <|image_pad|> y"), r"holds the placeholder token <\|image_pad\|>"),
        ("x <|video_pad|> y", r"holds the placeholder token <\|video_pad\|>"),
        (
            says([IMAGE, {"type": "text", "text": "x"}]),
            "messages have 1 image placeholders, and 0 images.*give an image for",
        ),
        (["fine", "x <|image_pad|>"], "holds the placeholder token"),
    ],
)
def test_no_image_where_the_prompt_needs_one(model, prompt, message):
    with pytest.raises(InputError, match=message):
        model.prepare(None, prompt)


def test_placeholders_that_do_not_fit_the_images(model):
    a = noise(64, 64)
    with pytest.raises(InputError, match="holds the placeholder token"):
        model.prepare(a, "look <|image_pad|>")
    with pytest.raises(
        InputError, match=r"have 1 image placeholders, and 2 images were given; write \{\"type\": \"image\"\}"
    ):
        model.prepare([[a, a]], says([IMAGE]))
    with pytest.raises(InputError, match="have 2 image placeholders, and 1 images were given; give an image for each"):
        model.prepare(a, says([IMAGE, IMAGE]))
    with pytest.raises(InputError, match="have 0 image placeholders, and 1 images were given; write"):
        model.prepare(a, says("hello"))
    with pytest.raises(InputError, match="have 1 image placeholders, and 2 images were given"):
        model.prepare(a, says([{"type": "image", "image": a}]))  # brought along and given


def test_sizes_at_the_edge(model):
    one = model.prepare(Image.new("RGB", (1, 1)), "What?")
    assert [len(tokens) for tokens in one.image_tokens] == [1]
    assert one.region((0, 0, 1, 1)).positions == (tuple(one.image_tokens[0].positions.tolist()),)
    assert model(one).isfinite().all()
    with pytest.raises(
        ImageError, match=r"refused the images \(20000 x 20 pixels\): .*aspect ratio.*1000.*Crop, pad or re"
    ):
        model.prepare(Image.new("RGB", (20000, 20)), "What?")
    with pytest.raises(ImageError, match="20 x 20000 pixels"):
        model.prepare([noise(64, 64), Image.new("RGB", (20, 20000))], "What?")
    with pytest.raises(ImageError, match="0 x 5 pixels was given"):
        model.prepare(Image.new("RGB", (0, 5)), "What?")
    wide = model.prepare(Image.new("RGB", (3980, 20)), "What?")  # the widest that the family takes
    assert sum(len(tokens) for tokens in wide.image_tokens) == int(wide.tensors["image_grid_thw"].prod()) // 4


def test_unreadable_images_name_themselves(model, tmp_path):
    noise(200, 200).save(tmp_path / "page.png")
    data = (tmp_path / "page.png").read_bytes()
    (tmp_path / "page.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "notes.txt").write_text("no picture")
    good = noise(64, 64)
    for images in (
        tmp_path / "page.png",
        str(tmp_path / "page.png"),
        [good, tmp_path / "page.png"],
        [[good, tmp_path / "page.png"]],
    ):
        with pytest.raises(ImageError, match=r"page\.png is damaged or cut short.*save it again"):
            model.prepare(images, "What?")
    with pytest.raises(ImageError, match=r"notes\.txt is not an image"):
        model.prepare(tmp_path / "notes.txt", "What?")
    with pytest.raises(ImageError, match=r"There is no image file .*gone\.png"):
        model.prepare(tmp_path / "gone.png", "What?")
    with pytest.raises(ImageError, match="NaN or infinity; clean it before"):
        model.prepare(np.full((64, 64, 3), np.nan), "What?")
    with pytest.raises(ImageError, match="NaN or infinity"):
        model.prepare([good, torch.full((64, 64, 3), torch.nan)], "What?")


def test_text_alone_has_nothing_to_steer_score_or_track(model):
    text = model.prepare(None, "No picture")
    for where in ("panel 1", (0, 0, 5, 5), (3, 3)):
        with pytest.raises(RegionError, match="Row 0 has no image, so it has no region.*Prepare it with an image"):
            text.region(where)
    with pytest.raises(InputError, match="no region to track"):
        gl.track(model, text, HEADS)
    with pytest.raises(InputError, match="no image to encode"):
        model.encode(text)
    with pytest.raises(RegionError, match="edit is for a Layout.*0 images, 0 image tokens"):
        model.generate(text, fwd_hooks=gl.steer(HEADS, model.prepare(strip(), "x").region("panel 1")))
    with pytest.raises(InputError, match="There is no image 0 in row 0; row 0 has 0 images"):
        text.heatmap(torch.zeros(text.shape[1]))
    mixed = model.prepare([strip(), None], ["x", "y"])
    with pytest.raises(RegionError, match="Row 1 has no image"):
        mixed.region("panel 1")


def test_regions_that_hold_nothing(model):
    inputs = model.prepare(strip(), "x")
    with pytest.raises(
        RegionError, match=r"lies outside the image: the image is 96 x 64 pixels.*x in 0\.\.96 and y in 0\.\.64"
    ):
        inputs.region((200, 0, 260, 60))
    with pytest.raises(RegionError, match=r"holds no image token.*a token covers 32 x 32 pixels.*rule='overlap'"):
        inputs.region((1, 1, 4, 4))
    assert len(inputs.region((1, 1, 4, 4), rule="overlap")) == 1
    with pytest.raises(RegionError, match="has a region 'panel 7'; it has .*'panel 1', 'panel 2', 'panel 3'"):
        inputs.region("panel 7")
    with pytest.raises(RegionError, match="point .* lies outside the image"):
        inputs.region((96, 10))
    small = Picture(noise(96, 64), {"dot": gl.Box(1, 1, 3, 3)})
    with pytest.raises(RegionError, match="Region 'dot' in row 0: .*holds no image token"):
        model.prepare(small, "x").region("dot")
    with pytest.raises(RegionError, match="Region 'away' .*lies outside the image of 96 x 64 pixels"):
        Picture(noise(96, 64), {"away": gl.Box(100, 0, 120, 20)})


def test_a_prompt_that_is_too_long(shelf):
    model, _ = shelf.get("Qwen3-VL", max_position_embeddings=40)
    with pytest.raises(
        InputError, match="has 1025 tokens, and the model's context holds 40; shorten the text or give sm"
    ):
        model.prepare(noise(64, 64), "x" * 1000)


@pytest.mark.parametrize(
    ("images", "prompts", "answers", "message"),
    [
        (7, "x", None, "Cannot read an image from int; give a path, a PIL image or an array"),
        ({"a": 1}, "x", None, "Cannot read an image from dict"),
        (b"bytes", "x", None, "of 5 bytes is not an image"),
        (7.5, "x", None, "Cannot read an image from float"),
        (None, None, None, "A prompt is a text or a list of chat messages; NoneType was given"),
        (None, 7, None, "list of chat messages; int was given"),
        (None, ["x", 7], None, "list of chat messages; int was given"),
        (None, [], None, "1 rows of images and 0 prompts were given; give equally many"),
        ([], "x", None, "0 rows of images and 1 prompts were given"),
        ([None] * 3, ["x", "y"], None, r"3 rows of images and 2 prompts.*prepare\(\[\[a, b\]\], prompt\)"),
        (None, [{"content": "x"}], None, r"chat message \{'content': 'x'\} was given; expected \{\"role\""),
        (None, [{"role": "user", "content": 7}], None, "chat message .* was given; expected"),
        (None, [{"role": "user", "content": ["x"]}], None, "chat message .* was given; expected"),
        (None, [{"role": "user", "content": "x"}, "y"], None, "chat message 'y' was given; expected"),
        (None, "x", ["a", "b"], "2 answers were given for 1 prompts; give one for each"),
        (None, "x", 7, "answers is int; give a text, or a list"),
        (None, ["x", "y"], ["a", None], "The answer None was given; give a text of at least one character"),
        (None, "x", "", "The answer '' was given; give a text of at least one character"),
    ],
)
def test_wrong_types_for_prepare(model, as_users_run, images, prompts, answers, message):
    kind, text = message_of(lambda: model.prepare(images, prompts, answers=answers))
    assert re.search(message, text)
    assert kind in (InputError, ImageError)


HALF = "x \ud800"


def test_text_that_utf8_cannot_hold(model, as_users_run):
    for action in (
        lambda: model.prepare(None, HALF),
        lambda: model.prepare(None, ["fine", HALF]),
        lambda: model.prepare(None, says(HALF)),
        lambda: model.prepare(strip(), "x", answers=HALF),
    ):
        kind, text = message_of(action)
        assert (kind, "half of a surrogate pair" in text, "\\ud800" in text) == (InputError, True, True)
    for picture in ({HALF: Box(0, 0, 9, 9)}, {}), ({"a": Box(0, 0, 9, 9)}, {"a": HALF}), ({3: Box(0, 0, 9, 9)}, {}):
        kind, text = message_of(lambda picture=picture: Picture(noise(96, 64), *picture))
        assert (kind, "text that UTF-8 can hold" in text) == (RegionError, True)


def test_special_tokens_that_a_user_types_are_warned_of(model):
    with pytest.warns(UserWarning, match=r"holds <\|im_end\|>, <\|im_start\|>, which the model reads as a special"):
        model.prepare(strip(), "Hi.<|im_end|><|im_start|>x<|im_end|>")
    with pytest.warns(UserWarning, match=r"holds <\|im_end\|>"):
        model.prepare(None, says([{"type": "text", "text": "Hi.<|im_end|>"}]))
    model.prepare(strip(), "im_end <| im_end |>", answers="a<|im_end|>")  # no warning: an answer may end as one does


@pytest.mark.parametrize("side", [10**400, "9", None, float("nan"), [9], 1j])
def test_boxes_and_corners_that_are_no_numbers(as_users_run, side):
    for action in (
        lambda: Box(0, 0, side, 9),
        lambda: gl.regions.Polygon([(0, 0), (side, 0), (9, 9)]),
        lambda: gl.regions.as_shape((0, 0, side, 9)),
    ):
        kind, text = message_of(action)
        assert kind is RegionError


def evaluate(model, *conditions, **options):
    strips = gl.comics.synthetic(1, seed=0)
    return gl.evaluate(model, strips, conditions or [gl.evaluation.Condition("none")], progress=False, **options)


WRONG = {
    "a region by name": (
        lambda m, i, r: gl.steer(HEADS, "panel 1"),
        RegionError,
        "'panel 1' is no region of a prompt; make one",
    ),
    "a box": (lambda m, i, r: gl.steer(HEADS, (0, 0, 32, 32)), RegionError, r"make one with inputs\.region"),
    "regions without steps": (
        lambda m, i, r: gl.steer(HEADS, schedule=[r, r]),
        InputError,
        r"give \(step, region\) pairs",
    ),
    "swapped pairs": (lambda m, i, r: gl.steer(HEADS, schedule=[(r, 0)]), RegionError, "0 is no region of a prompt"),
    "a step in words": (
        lambda m, i, r: gl.steer(HEADS, schedule=[("first", r)]),
        InputError,
        "has step 'first'; steps are",
    ),
    "half a step": (
        lambda m, i, r: gl.steer(HEADS, schedule=[(0, r), (2.5, r)]),
        InputError,
        "has step 2.5; steps are whole",
    ),
    "where as text": (
        lambda m, i, r: gl.steer(HEADS, r, where="decode"),
        InputError,
        "where='decode' was given; give a list",
    ),
    "a mode not called": (
        lambda m, i, r: gl.steer(HEADS, r, mode=gl.suppress_all),
        InputError,
        r"call it: mode=gl\.suppress_all\(\)",
    ),
    "a mode by name": (
        lambda m, i, r: gl.steer(HEADS, r, mode="boost"),
        InputError,
        "mode='boost' was given; give four",
    ),
    "a strength in words": (lambda m, i, r: gl.Mode("much", 0), InputError, "'much', which is no number"),
    "a strength as text": (lambda m, i, r: gl.boost_and_suppress("5"), InputError, "'5', which is no number"),
    "a strength beyond float32": (
        lambda m, i, r: gl.max_suppress_all(1e39),
        InputError,
        r"beyond 1e\+30; give smaller strengths",
    ),
    "a strength beyond floats": (lambda m, i, r: gl.suppress_image(10**400), InputError, "give smaller strengths"),
    "a bias as text": (
        lambda m, i, r: AttentionBias(gl.HeadSet(HEADS), Positions.everything(), Positions.of([1]), "5"),
        InputError,
        "'5', which is no number",
    ),
    "half a batch to score": (
        lambda m, i, r: gl.score_heads(m, [strip()], batch_size=2.5),
        InputError,
        "batch_size=2.5 was given",
    ),
    "half a batch to evaluate": (lambda m, i, r: evaluate(m, batch_size=2.5), InputError, "batch_size=2.5 was given"),
    "half a draw": (
        lambda m, i, r: gl.evaluation.conditions(m, gl.HeadSet(HEADS), ["none"], draws=2.5),
        InputError,
        "draws=2.5 was given",
    ),
    "half a strip": (lambda m, i, r: gl.comics.synthetic(2.5, seed=0), InputError, "n=2.5 must be a whole number"),
    "half a picture": (
        lambda m, i, r: gl.data.read_strips(".", limit=2.5),
        InputError,
        "limit=2.5 was given; give the number",
    ),
    "strengths as text": (
        lambda m, i, r: gl.evaluation.strengths(gl.HeadSet(HEADS), ["5"]),
        InputError,
        "'5', which is no number",
    ),
    "a scale as text": (
        lambda m, i, r: gl.Direction(torch.ones(1, 4), (1,)).hooks(scale="2"),
        InputError,
        "scale='2' was given",
    ),
    "a scale beyond float32": (
        lambda m, i, r: gl.Direction(torch.ones(1, 4), (1,)).hooks(scale=1e39),
        InputError,
        "give a finite number",
    ),
    "ids of another vocabulary": (
        lambda m, i, r: m.generate(torch.tensor([[15496, 11, 314]])),
        InputError,
        r"Token ids from 11 to 15496 were given; this model's are 0 to \d+",
    ),
    "an id that pads": (
        lambda m, i, r: m(torch.tensor([[1, -100]])),
        InputError,
        "Token ids from -100 to 1 were",
    ),
    "half a pair as tokens": (lambda m, i, r: m.to_tokens(["x", "x \ud800"]), InputError, "half of a surrogate pair"),
    "half a pair as texts": (lambda m, i, r: m.to_str_tokens("\ud800"), InputError, "half of a surrogate pair"),
    "half a pair, run": (lambda m, i, r: m("x \udc00"), InputError, "half of a surrogate pair"),
    "half a pair, one token": (lambda m, i, r: m.to_single_token("\ud800"), InputError, "half of a surrogate pair"),
    "half a pair, looked for": (lambda m, i, r: m.get_token_position("\ud800", i), InputError, "half of a surrogate"),
    "half a pair, direction": (lambda m, i, r: m.tokens_to_residual_directions("\ud800"), InputError, "half of a"),
    "half a pair to continue": (lambda m, i, r: m.generate("x \ud800"), InputError, "half of a surrogate pair"),
    "half a head": (
        lambda m, i, r: gl.score_heads(m, [strip()], progress=False).top(2.5),
        HeadError,
        "2.5 best heads were asked for",
    ),
    "half a control": (
        lambda m, i, r: gl.score_heads(m, [strip()], progress=False).controls(2.5, seed=0),
        HeadError,
        "2.5 control heads were asked for",
    ),
    "heads as text": (lambda m, i, r: gl.steer("L1H0", r), HeadError, r"not a list of heads.*HeadSet\(\['L1H0'\]\)"),
    "heads as numbers": (lambda m, i, r: gl.steer([3, 5], r), HeadError, '3 is not a head: expected "L20H3"'),
    "one strip": (
        lambda m, i, r: gl.score_heads(m, strip()),
        InputError,
        r"give at least one picture with regions: \[picture\]",
    ),
    "an image as strip": (
        lambda m, i, r: gl.score_heads(m, [noise(96, 64)]),
        RegionError,
        "Strip 0 has fewer than two named",
    ),
    "an image to track": (
        lambda m, i, r: gl.track(m, noise(96, 64), HEADS),
        InputError,
        "track takes what model.prepare returns",
    ),
    "an image to the viewer": (
        lambda m, i, r: gl.show.attention(m, noise(96, 64), HEADS),
        InputError,
        "viewer takes what model.prepare returns",
    ),
    "an image to generate": (
        lambda m, i, r: m.generate(noise(96, 64)),
        InputError,
        "the model runs on what model.prepare",
    ),
    "two names for one row": (
        lambda m, i, r: i.region(("panel 1", "panel 2")),
        RegionError,
        "is not a region: expected",
    ),
    "no region": (lambda m, i, r: i.region(None), RegionError, "None is not a region: expected a shape"),
    "a region as region": (lambda m, i, r: i.region(r), RegionError, "is not a region: expected a shape"),
    "a rule in American": (
        lambda m, i, r: i.region((0, 0, 40, 40), rule="center"),
        RegionError,
        "expected 'centre' or 'overlap'",
    ),
    "inputs as heads": (lambda m, i, r: gl.mean_ablate(m, i, i), HeadError, "A VLMInputs is not a list of heads"),
    "a folder as panels": (lambda m, i, r: gl.comics.strip("panels"), InputError, "needs a list of at least one panel"),
    "a name to wrap": (lambda m, i, r: gl.HookedVLM.wrap("Qwen", None), ModelError, "A str was given; wrap takes"),
    "no model to wrap": (
        lambda m, i, r: gl.HookedVLM.wrap(torch.nn.ReLU(), None),
        ModelError,
        "A ReLU was given; wrap",
    ),
    "a judge by name": (lambda m, i, r: evaluate(m, judge="f1"), InputError, "judge='f1' was given; give a judge"),
    "a judge not called": (
        lambda m, i, r: evaluate(m, judge=gl.evaluation.judges.NamesOnly),
        InputError,
        "NamesOnly.* was given; give a judge",
    ),
    "a protocol by name": (
        lambda m, i, r: evaluate(m, protocol="question"),
        InputError,
        r"protocol='question' was given; give what gl.evaluation.question\(\)",
    ),
    "a condition by name": (
        lambda m, i, r: evaluate(m, "gaze"),
        InputError,
        "'gaze' is no condition; give what gl.evaluation.conditions",
    ),
    "hooks not in pairs": (
        lambda m, i, r: m.run_with_hooks(i, fwd_hooks=[print]),
        HookError,
        "pairs, as gl.steer returns",
    ),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
def test_wrong_types_elsewhere(model, as_users_run, case):
    action, error, message = case
    inputs = model.prepare(strip(), "x")
    kind, text = message_of(lambda: action(model, inputs, inputs.region("panel 1")))
    assert kind is error
    assert re.search(message, text), text


def test_strips_without_captions_cannot_be_scored_at_the_answer(model):
    with pytest.raises(
        InputError, match=r"Strip 0 has no caption for \['panel 1', 'panel 2', 'panel 3'\]; at=\"answer\" needs"
    ):
        gl.score_heads(model, [strip()], at="answer", progress=False)


def test_an_error_in_a_hook_leaves_the_model_as_it_was(model):
    inputs = model.prepare(strip(), "x")
    before = model(inputs)

    def fail(pattern, hook):
        raise KeyError("mine")

    steering = gl.steer(HEADS, inputs.region("panel 1"))
    for run in (model.run_with_hooks, model.generate):
        with pytest.raises(KeyError, match="mine"):
            run(inputs, fwd_hooks=[*steering, ("blocks.2.attn.hook_pattern", fail)])
    with pytest.raises(KeyError, match="mine"):
        gl.track(model, inputs, HEADS, fwd_hooks=[("blocks.2.attn.hook_pattern", fail)])
    assert torch.equal(model(inputs), before)


def test_what_was_not_prepared_is_refused(model):
    picture = strip()
    for given in (picture, picture.image):
        for run in (model, model.run_with_cache, model.run_with_hooks):
            with pytest.raises(InputError, match=r"the model runs on what model.prepare\(picture, prompt\) returns"):
                run(given)
    inputs = model.prepare(picture, "What?")
    with pytest.raises(InputError, match="placeholders of an image, and no image came with them"):
        model(inputs.input_ids)
    text = model.prepare(None, "What?")
    assert torch.equal(model(text.input_ids), model(text))


def test_pictures_are_read_from_paths(tmp_path, as_users_run):
    strip().image.save(tmp_path / "a.png")
    read = Picture(tmp_path / "a.png", {"left": Box(0, 0, 8, 8)})
    assert read.image.tobytes() == strip().image.tobytes()
    with pytest.raises(ImageError, match="no image file"):
        Picture(tmp_path / "b.png")
