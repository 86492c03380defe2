"""Every family against Hugging Face: logits, generation, encoded images, padding on both sides, saving and loading."""

import dataclasses

import pytest
import torch
from every_family import NAMES, Case, largest, scale_of
from measurements import record
from reference import at_real, picture
from transformers import AutoModelForImageTextToText
from transformers.utils import is_timm_available

from gaze_lens import HookedVLM, Video
from gaze_lens.errors import InputError
from gaze_lens.families import FAMILIES
from gaze_lens.model.capabilities import ALWAYS_REFUSED, VIDEO

SIZES = [(400, 11), (30, 350), (40, 9), (601, 433), (112, 84), (97, 61), (48, 80)]


@pytest.fixture(params=NAMES)
def case(request, shelf):
    return Case.of(request.param, shelf)


@pytest.mark.every_family
@torch.no_grad()
def test_logits_are_hugging_faces(case):
    inputs = case.inputs
    assert not inputs.tensors["attention_mask"][:, 0].all(), "a row is to be padded"
    expected = at_real(case.eager(**inputs.tensors).logits, inputs)
    default = at_real(case.plain(**inputs.tensors).logits, inputs)
    assert len(set(expected.argmax(-1).tolist())) > 8, "the outputs are to vary"
    hooked = at_real(case.model.run_with_hooks(inputs, fwd_hooks=case.hooks()), inputs)
    record(case.name, full_hooks_to_eager=largest(hooked - expected))
    assert torch.equal(hooked, expected)
    bare = at_real(case.model(inputs), inputs)
    record(case.name, no_hooks_to_default=largest(bare - default) / scale_of(default))
    torch.testing.assert_close(bare, default, atol=1e-5 * scale_of(default), rtol=0)
    some = at_real(case.model.run_with_hooks(inputs, fwd_hooks=case.hooks(layers=case.live[1::2])), inputs)
    record(case.name, some_hooks_to_default=largest(some - default) / scale_of(default))
    torch.testing.assert_close(some, default, atol=1e-5 * scale_of(default), rtol=0)


@pytest.mark.parametrize("hooked", [False, True], ids=["bare", "full hooks"])
@torch.no_grad()
def test_the_last_logits_alone_are_hugging_faces(case, hooked):
    """Where only these are asked for, Gemma 4's last layers leave out all other queries."""
    reference, hooks = (case.eager, case.hooks()) if hooked else (case.plain, [])
    inputs = case.model.prepare(picture(96, 64), "What?")
    expected = reference(**inputs.tensors, logits_to_keep=3, use_cache=True).logits
    found = case.model.run_with_hooks(inputs, fwd_hooks=hooks, logits_to_keep=3, use_cache=True)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=1e-5 * scale_of(expected), rtol=0)


@pytest.mark.parametrize("hooked", [False, True], ids=["bare", "full hooks"])
@torch.no_grad()
def test_greedy_generation_is_hugging_faces(case, hooked):
    reference = case.eager if hooked else case.plain
    expected = reference.generate(**case.inputs.tensors, max_new_tokens=5, do_sample=False)
    got = case.model.generate(case.inputs, fwd_hooks=case.hooks() if hooked else [], max_new_tokens=5)
    assert torch.equal(got.sequences, expected)
    record(case.name, **{f"generated_{'hooked' if hooked else 'bare'}": int(got.tokens.numel())})


@torch.no_grad()
def test_encoded_images_stand_for_pixels_exactly(case, monkeypatch):
    inputs = case.inputs
    encoded = case.model.encode(inputs)
    assert not set(case.model.family.pixel_names) & set(encoded.tensors)
    check_encoded(case, encoded, inputs, case.cannot("encode exactly where images repeat"))
    first, second = (tokens.image for tokens in inputs.image_tokens[1:])
    images = [inputs.pictures[1][index] for index in (second, first)]
    again = case.model.prepare([images, inputs.pictures[0]], ["another question", "and"])
    refuse = dataclasses.replace(case.model.family, encode=lambda *_: pytest.fail("the vision tower ran"))
    monkeypatch.setattr(case.model, "family", refuse)
    reused = case.model.encode(again, reuse=encoded)
    monkeypatch.undo()
    check_encoded(case, reused, again, case.cannot("encode exactly where images repeat"))
    single = case.model.prepare(picture(96, 64), "What?")
    check_encoded(case, case.model.encode(single), single)
    bare, got = (case.model.generate(given, max_new_tokens=4).sequences for given in (again, reused))
    assert torch.equal(bare, got)


def check_encoded(case, encoded, inputs, rounds=None):
    difference = largest(case.model(encoded) - case.model(inputs))
    record(case.name, encoded_to_pixels=difference)
    if rounds:
        assert 0 <= difference < 1e-5 * scale_of(case.model(inputs))
    else:
        assert difference == 0


@torch.no_grad()
def test_rows_padded_on_the_left_are_as_alone(case):
    inputs = case.inputs
    logits, plain = case.model(inputs), case.plain(**inputs.tensors).logits
    worst, in_hugging_face = 0.0, 0.0
    for row, (pictures, text) in enumerate(zip(inputs.pictures, ("What?", "a longer question"), strict=True)):
        single = case.model.prepare([list(pictures)], text)
        alone, plain_alone = case.model(single)[0], case.plain(**single.tensors).logits[0]
        worst = max(worst, largest(logits[row, -len(alone) :] - alone) / scale_of(alone))
        in_hugging_face = max(in_hugging_face, largest(plain[row, -len(alone) :] - plain_alone) / scale_of(alone))
    record(case.name, padded_to_alone=worst)
    if case.cannot("pad rows with fewer images"):
        assert worst == pytest.approx(in_hugging_face, rel=1e-3)
        assert in_hugging_face > 1e-3
    else:
        assert worst < max(2e-5, 2 * in_hugging_face)


@torch.no_grad()
def test_raw_tensors_padded_on_the_right_run_as_in_hugging_face(case):
    inputs = case.inputs
    tensors = {name: padded_right(tensor, inputs) for name, tensor in inputs.tensors.items()}
    real = tensors["attention_mask"].bool()
    assert not real[:, -1].all(), "a row is to be padded on the right"
    rest = {name: tensor for name, tensor in tensors.items() if name != "input_ids"}
    hooked = case.model.run_with_hooks(tensors["input_ids"], fwd_hooks=case.hooks(), **rest)
    assert torch.equal(hooked[real], case.eager(**tensors).logits[real])
    default = case.plain(**tensors).logits[real]
    bare = case.model(tensors["input_ids"], **rest)[real]
    torch.testing.assert_close(bare, default, atol=1e-5 * scale_of(default), rtol=0)


def padded_right(tensor, inputs):
    """A tensor `[row, position, ...]` with the padding of each row moved to its end; any other as it is."""
    if tensor.shape[:2] != inputs.shape:
        return tensor
    n_padding = (inputs.tensors["attention_mask"] == 0).sum(1).tolist()
    return torch.stack([row.roll(-n, dims=0) for row, n in zip(tensor, n_padding, strict=True)])


@torch.no_grad()
def test_a_checkpoint_folder_gives_the_same_logits(case, tmp_path):
    case.model.save_pretrained(tmp_path)
    loaded = HookedVLM.from_pretrained(str(tmp_path))
    inputs = loaded.prepare(picture(96, 64), "What?")
    expected = case.plain(**inputs.tensors).logits
    again = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype="auto")
    assert torch.equal(again(**inputs.tensors).logits, expected)
    record(case.name, loaded_to_default=largest(loaded(inputs) - expected) / scale_of(expected))
    torch.testing.assert_close(loaded(inputs), expected, atol=1e-5 * scale_of(expected), rtol=0)


def test_odd_sizes_make_as_many_tokens_as_the_prompt_has_placeholders(case):
    for size in SIZES:
        inputs = case.model.prepare(picture(*size), "look")
        (tokens,) = inputs.image_tokens
        placeholders = int((inputs.input_ids == case.model.config.image_token_id).sum())
        assert placeholders == (1 if inputs.layout.cross_attention else len(tokens))
        assert len(tokens) == len(inputs.layout.images[0])
        boxes = tokens.boxes[~tokens.boxes[:, 0].isnan()]
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] <= torch.tensor(size) + 1e-3).all()
        record(case.name, sizes=[f"{size[0]} x {size[1]}: {len(tokens)}"])


def test_a_video_that_is_no_video_of_gaze_lens_is_refused(case):
    model, inputs = case.model, case.inputs
    for part, error in (
        ({"type": "video"}, "1 video placeholders, and 0 videos were given"),
        ({"type": "video", "video": "clip.mp4"}, "takes video as gl.Video alone"),
    ):
        message = [{"role": "user", "content": [part, {"type": "text", "text": "What?"}]}]
        for image in (None, picture(96, 64)):
            with pytest.raises(InputError, match=f"{error}|1 images were given"):
                model.prepare(image, message)
    frames = torch.zeros(4, 8)
    for run in (model, model.run_with_hooks, model.run_with_cache, model.generate):
        with pytest.raises(InputError, match="pixel_values_videos.*takes video as gl.Video alone"):
            run(inputs, pixel_values_videos=frames)


def test_a_video_is_taken_or_refused_with_the_name_of_the_family(case):
    video = Video([picture(96, 64, seed) for seed in range(4)], fps=2)
    if case.model.family.video_maps is None:
        with pytest.raises(InputError, match=f"a model of the family {case.model.family.name}, and gaze_lens does not"):
            case.model.prepare(video, "What?")
        assert VIDEO in case.capabilities.unsupported
    else:
        inputs = case.model.prepare(video, "What?")
        assert all(tokens.moment is not None for tokens in inputs.image_tokens)
        assert "gl.Video" in str(case.capabilities)
    record(case.name, video="yes" if case.model.family.video_maps else "no")


def test_capabilities_are_the_same_without_weights(case, tmp_path):
    from gaze_lens.model.loading import skeleton

    case.model.save_pretrained(tmp_path)
    hf_model, processor = skeleton(str(tmp_path))
    assert all(parameter.is_meta or not parameter.any() for parameter in hf_model.parameters()), "no weights are read"
    bare, mine = HookedVLM.wrap(hf_model, processor).capabilities((96, 64)), case.capabilities
    same = dataclasses.replace(bare, model="") == dataclasses.replace(mine, model="")
    assert same != bool(case.cannot("save its settings"))
    headless = [layer.layer for layer in mine.layers if layer.attention in ("linear", "convolution")]
    assert sorted([*mine.live, *headless]) == list(range(case.model.cfg.n_layers))
    assert all({"hook_attn_scores", "hook_pattern"} <= set(mine.layers[layer].hooks) for layer in mine.live)
    kinds = [layer.attention for layer in mine.layers]
    record(
        case.name,
        architecture=mine.architecture,
        family=mine.family,
        layout=mine.image.layout,
        layers=", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)),
        hooks=sorted({name for layer in mine.layers for name in layer.hooks}),
        missing=[line for line in mine.unsupported[: -len(ALWAYS_REFUSED)] if line != VIDEO],
        refused=list(ALWAYS_REFUSED),
        whole=mine.whole,
    )


def test_every_family_of_the_table_has_a_tiny_model():
    without_timm = set() if is_timm_available() else {"Gemma 3n"}
    assert {family.name for family in FAMILIES} <= {*NAMES, *without_timm}
