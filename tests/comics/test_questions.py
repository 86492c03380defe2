"""Questions from a text with a place for the panel."""

import pytest

from gaze_lens.comics.questions import ask, question_from
from gaze_lens.errors import InputError


def test_a_question_names_each_panel():
    question = question_from("Panel {n}, the {ordinal} {{of all}}?")
    assert [question(0), question(7)] == ["Panel 1, the first {of all}?", "Panel 8, the eighth {of all}?"]
    assert question_from("{n}?")(8) == "9?"
    assert question_from("What happens in the {ordinal} panel from the left?")(2) == ask(2)
    with pytest.raises(InputError, match="panel index 8; expected 0 to 7"):
        question_from("The {ordinal}?")(8)


@pytest.mark.parametrize(
    "template", ["", "What?", "{k}", "{n} {k}", "{}", "{0}", "{n", "n}", "{n:>3}", "{n!r}", "{n.x}"]
)
def test_other_texts_are_refused(template):
    with pytest.raises(InputError, match=r"write \{n\} or \{ordinal\}"):
        question_from(template)
