"""Families that read documents: settings of their processors that a published checkpoint may have."""

import dataclasses

import pytest
import torch
from painting import Example, check_by_painting, check_counts, encoded_difference, entering, noise

from gaze_lens.errors import ImageError, InputError


@pytest.fixture
def unmerged(monkeypatch):
    """LightOnOCR whose processor resizes pictures to whole patches, which need not make whole tokens."""
    example = Example.of("LightOnOCR")
    monkeypatch.setattr(example.processor.image_processor, "patch_size", 14)
    return example


@pytest.mark.parametrize("size", [(97, 61), (601, 433), (130, 40)], ids=str)
def test_lighton_ocr_with_patches_left_over(unmerged, size):
    check_by_painting(unmerged, [[noise(*size)]], ["look"], side=28)
    inputs = unmerged.prepare([[noise(*size), noise(60, 60, seed=1)]], ["look"])
    check_counts(unmerged, inputs)
    assert encoded_difference(unmerged, inputs) == 0


def test_lighton_ocr_sees_nothing_of_the_patches_left_over(unmerged):
    """A picture of 98 x 70 pixels has 7 x 5 patches: the last column and row make no token."""
    pixels = noise(98, 70)
    inputs = unmerged.prepare([[pixels]], ["look"])
    (tokens,) = inputs.image_tokens
    assert tokens.grid == (2, 3)
    assert tokens.boxes[-1].tolist() == [56, 28, 84, 56]
    before = entering(unmerged.unmixed, inputs)
    pixels = pixels.copy()
    pixels[56:], pixels[:, 84:] = 0, 0
    assert torch.equal(entering(unmerged.unmixed, unmerged.prepare([[pixels]], ["look"])), before)


def test_a_picture_too_thin_for_any_token_is_an_error(unmerged):
    with pytest.raises(ImageError, match="130 x 10 pixels makes no image token: one is 28 pixels"):
        unmerged.prepare([[noise(130, 10)]], ["look"])


@pytest.mark.parametrize("size", [(97, 61), (601, 433)], ids=str)
def test_video_llama_3_with_merged_patches(monkeypatch, size):
    example = Example.of("VideoLLaMA 3")
    monkeypatch.setattr(example.processor.image_processor, "merge_size", 2)
    check_by_painting(example, [[noise(*size)]], ["look"], side=28)
    inputs = example.prepare([[noise(*size), noise(60, 60, seed=1)]], ["look"])
    check_counts(example, inputs)
    assert encoded_difference(example, inputs) == 0


def test_video_llama_3_encodes_with_the_merging_of_each_image():
    example = Example.of("VideoLLaMA 3")
    inputs = example.prepare([[noise(84, 56)]], ["look"])
    merged = dataclasses.replace(inputs, tensors={**inputs.tensors, "image_merge_sizes": torch.tensor([2])})
    (part,) = example.family.encode(example.hf_model, merged.tensors, merged.maps, [0])
    assert len(part["tokens"]) == len(inputs.image_tokens[0]) // 4


def test_the_placeholder_of_qianfan_ocr_is_refused_in_a_prompt():
    with pytest.raises(InputError, match="holds the placeholder token <image>"):
        Example.of("Qianfan-OCR").prepare([[noise(60, 60)]], ["what does <image> mean?"])


def test_the_begin_token_of_paddleocr_stands_once():
    example = Example.of("PaddleOCR-VL")
    ids = example.prepare([[noise(60, 60)]], ["look"]).input_ids[0]
    assert int((ids == example.processor.tokenizer.bos_token_id).sum()) == 1
    assert ids[0] == example.processor.tokenizer.bos_token_id
