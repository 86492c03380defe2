"""Ways of decoding in every family: Hugging Face's tokens, or, where Hugging Face has none, an error as there."""

import pytest
import torch
from every_family import NAMES, Case
from measurements import record
from reference import full, padded, picture

from gaze_lens.errors import InputError

STEPS = {"max_new_tokens": 4, "min_new_tokens": 4}
REPEATED = "what what what what what"
WAYS = {
    "beams": {"num_beams": 2},
    "a static cache": {"cache_implementation": "static"},
    "prompt lookup": {"prompt_lookup_num_tokens": 2},
    "an assistant": {"assistant_model": None},
}
STATEFUL = "Hugging Face refuses drafts where attention is linear"
CUT = "Hugging Face's model fails: it cuts image keys when it takes drafts back"
COPIED = "Hugging Face's model fails where a draft copies image tokens"  # in any family, by what a model writes
REASONS = {  # (way, what the error of plain Hugging Face begins with) -> the reason, for docs/families.md
    ("beams", "Image features and image tokens do not match"): (
        "Hugging Face's model fails: its pixels are not repeated for beams"
    ),
    ("a static cache", "'dict' object has no attribute 'ndim'"): (
        "Hugging Face's model fails: it takes no mask for each kind of layer"
    ),
    ("prompt lookup", "Image features and image tokens do not match"): COPIED,
    ("prompt lookup", "assisted generation is not supported with stateful models"): STATEFUL,
    ("an assistant", "assisted generation is not supported with stateful models"): STATEFUL,
    ("prompt lookup", "The size of tensor a"): CUT,
    ("an assistant", "The size of tensor a"): CUT,
}  # fmt: skip
SURE = (
    ("Llama 4", "beams"), ("PaliGemma 2", "a static cache"), ("Qwen3-VL", "prompt lookup"),
    ("InternVL", "prompt lookup"),
)  # fmt: skip


@pytest.fixture(params=NAMES)
def case(request, shelf):
    return Case.of(request.param, shelf)


def outcome(run):
    """The tokens, or the error's text."""
    try:
        return run()
    except (ValueError, RuntimeError, AttributeError, TypeError, InputError) as error:
        return error


@pytest.mark.parametrize("way", WAYS)
def test_tokens_are_hugging_faces_or_there_are_none(case, way):
    model, options = case.model, {**STEPS, **WAYS[way]}
    if "assistant_model" in options:
        options["assistant_model"] = case.plain
    drafts = way in ("prompt lookup", "an assistant")  # these take one row
    inputs = model.prepare(picture(96, 64), REPEATED) if drafts else padded(model)
    expected = outcome(lambda: case.plain.generate(**inputs.tensors, **options, do_sample=False))
    found = outcome(lambda: model.generate(inputs, **options).sequences)
    hooked = outcome(lambda: model.generate(inputs, fwd_hooks=full(case.live), **options).sequences)
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
        assert torch.equal(hooked, expected)
        return
    [reason] = [reason for (of, start), reason in REASONS.items() if of == way and str(expected).startswith(start)]
    for error in (found, hooked):
        assert isinstance(error, InputError) or str(error) == str(expected)
    assert case.name == "Mllama" or type(found) is type(expected)
    if reason != COPIED:
        record(case.name, cannot=[f"{way}: {reason}"])


@pytest.mark.parametrize(("name", "way"), SURE)
def test_what_the_document_says_of_hugging_face_is_true(shelf, name, way):
    case = Case.of(name, shelf)
    inputs = case.model.prepare(picture(96, 64), REPEATED)
    with pytest.raises((ValueError, AttributeError)):
        case.plain.generate(**inputs.tensors, **STEPS, **WAYS[way], do_sample=False)
