"""Spans of text in tokens that have several characters."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from gaze_lens.errors import RegionError
from gaze_lens.text.spans import span_of

PIECES = ["Ġthe", "Ġred", "Ġcar", "pet", ".", "Ġé", "ä", "¸", "Ń"]


@pytest.fixture(scope="module")
def tokenizer():
    model = models.WordPiece({piece: index for index, piece in enumerate(PIECES)}, unk_token=".")
    made = Tokenizer(model)
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made)


IDS = [0, 1, 2, 3, 4, 0, 2, 4, 6, 7, 8, 4]  # " the red carpet. the car.中."


@pytest.mark.parametrize(
    ("text", "expected"),
    [("red", range(1, 2)), (" red carpet", range(1, 4)), ("pet.", range(3, 5)), ("car.", range(6, 8)),
     ("中", range(8, 11)), ("red carpet. the", range(1, 6))],
)  # fmt: skip
def test_whole_tokens_are_a_span(tokenizer, text, expected):
    assert span_of(tokenizer, IDS, text) == expected


@pytest.mark.parametrize(
    ("text", "options", "tokens", "instead"),
    [
        ("ed", {}, "[' red']", "'red'"),
        ("the r", {"occurrence": 0}, "[' the', ' red']", "'the red'"),
        ("he car", {}, "[' the', ' car']", "'the car'"),
        ("pe", {}, "['pet']", "'pet'"),
    ],
)
def test_a_span_that_cuts_a_token_in_two_is_told_with_the_tokens(tokenizer, text, options, tokens, instead):
    with pytest.raises(RegionError) as caught:
        span_of(tokenizer, IDS, text, **options)
    assert f"{text!r} cuts a token in two: it stands in the tokens {tokens}" in str(caught.value)
    assert str(caught.value).endswith(f"Give the text of whole tokens, {instead}.")


def test_the_beginning_of_a_word_of_two_tokens_is_a_span(tokenizer):
    assert span_of(tokenizer, IDS, "car", occurrence=0) == range(2, 3)
    assert span_of(tokenizer, IDS, "car", occurrence=1) == range(6, 7)
