"""Sentences of a text."""

import pytest

from gaze_lens.text.sentences import sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A dog. It runs! Why?", ["A dog.", "It runs!", "Why?"]),
        ("no end", ["no end"]),
        ("  1.5 metres of rope.\n\n- a bullet\n* \nand more", ["1.5 metres of rope.", "- a bullet", "and more"]),
        ('He said "stop." Then he left...', ['He said "stop."', "Then he left..."]),
        ("犬です。猫です。", ["犬です。", "猫です。"]),
        ("", []),
        (" \n . ", []),
    ],
)
def test_sentences(text, expected):
    assert [text[one.start : one.stop] for one in sentences(text)] == expected
