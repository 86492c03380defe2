"""Judges against slow versions, against one another, and on what cannot be judged."""

import itertools
import random
from dataclasses import dataclass

import pytest
import torch
from PIL import Image

from gaze_lens import HookedVLM, testing
from gaze_lens.comics.generator import synthetic
from gaze_lens.comics.questions import THIS
from gaze_lens.errors import InputError, JudgeError
from gaze_lens.evaluation import Condition, asking, generate_answers
from gaze_lens.evaluation.judges import (
    CaptionMatch,
    Description,
    ExactDescription,
    Judge,
    Judgement,
    LikelihoodJudge,
    NamesOnly,
)
from gaze_lens.evaluation.judges.captions import named
from gaze_lens.evaluation.judges.judge import crop
from gaze_lens.regions.picture import Picture, panels
from gaze_lens.regions.shapes import Box, Polygon
from gaze_lens.text.caption_matching import best_match, repeats, rouge_l, similarities, token_f1, words

CAPTIONS = {
    "panel 1": "red ring above pink bar.",
    "panel 2": "blue bar above red bar.",
    "panel 3": "black moon above red star.",
}
PICTURE = Picture(Image.new("RGB", (96, 32)), panels(3, 96, 32), CAPTIONS)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("red ring above pink bar.", "panel 1"),
        ("A RED ring, and a star", None),  # two words of the first, two of the third: "red" is in all
        ("a moon that is black", "panel 3"),
        ("black", None),  # one word is too few
        ("bar bar bar bar", None),  # one word, however often
        ("red above red above", None),  # words of all captions tell nothing
        ("blue bar above red bar", "panel 2"),
        ("", None),
        ("blue blue bar blue blue bar blue", "panel 2"),  # seven words: too few to call it junk
        ("blue blue bar blue blue bar blue blue blue", None),
        ("blue bar above red bar. blue bar above red bar.", "panel 2"),  # said twice
    ],
)
def test_forced_choice(text, name):
    assert best_match(text, CAPTIONS) == name
    assert CaptionMatch().judge(Description(text, "panel 1", PICTURE)).match == name


SAME_WORDS = {
    "panel 1": "A red ring above a pink bar.", "panel 2": "A pink ring above a red bar.",
    "panel 3": "A pink bar above a red ring.", "panel 4": "A blue moon above a green bar.",
    "panel 5": "A red ring above a pink bar.",
}  # fmt: skip


@pytest.mark.parametrize("judge", [CaptionMatch(), CaptionMatch("f1", margin=0.5), CaptionMatch("rouge-l")], ids=repr)
def test_a_caption_word_for_word_is_no_miss_where_another_has_the_same_words(judge):
    picture = Picture(Image.new("RGB", (160, 32)), panels(5, 160, 32), SAME_WORDS)
    for target in SAME_WORDS:
        for name, text in SAME_WORDS.items():
            description = Description(text.upper().rstrip("."), target, picture)
            expected = SAME_WORDS[target] == text  # nothing tells panels 1 and 5 apart
            assert judge.judge(description).correct == ExactDescription().judge(description).correct == expected
            if name in ("panel 2", "panel 3", "panel 4"):
                assert judge.judge(description).match == name
    assert best_match("A pink ring above a red bar", SAME_WORDS) == "panel 2"
    assert best_match("pink ring red bar", {name: SAME_WORDS[name] for name in ("panel 2", "panel 3")}) is None
    assert best_match("A red ring above a pink bar", SAME_WORDS) is None, "without a target nothing decides"
    assert best_match("", {"a": "", "b": "A cat."}) is None


def test_captions_of_one_word_of_their_own_can_be_chosen():
    assert best_match("a cat.", {"a": "A dog.", "b": "A cat."}) == "b"
    assert best_match("yellow star.", {"a": "yellow star.", "b": "yellow bar."}) == "a"
    assert best_match("yellow", {"a": "yellow star.", "b": "yellow bar."}) is None
    assert best_match("blue", {"a": "blue star.", "b": "yellow bar."}) is None, "one word of two is too few"


def test_forced_choice_among_one_or_none():
    assert best_match("red ring", {"only": "red ring."}) == "only"
    with pytest.raises(InputError, match="no captions to choose from"):
        best_match("red", {})


def slow_subsequence(first, second):
    """The longest common subsequence, by trying all of the first's."""
    for size in range(len(first), 0, -1):
        for subsequence in itertools.combinations(first, size):
            rest = iter(second)
            if all(word in rest for word in subsequence):
                return size
    return 0


@pytest.mark.parametrize("seed", range(20))
def test_scores_equal_slow_versions(seed):
    rng = random.Random(seed)
    text_words, caption = ([rng.choice("abcd") for _ in range(rng.randint(1, 8))] for _ in range(2))
    both = sum(min(text_words.count(word), caption.count(word)) for word in "abcd")
    precision, recall = both / len(text_words), both / len(caption)
    assert token_f1(text_words, caption) == pytest.approx(2 * precision * recall / (precision + recall) if both else 0)
    longest = slow_subsequence(text_words, caption)
    assert rouge_l(text_words, caption) == pytest.approx(2 * longest / (len(text_words) + len(caption)))


def test_f1_counts_length_and_rouge_l_counts_order():
    lengths = {"long": "cat dog hen fox owl bat", "short": "cat dog elk", "other": "sun sea"}
    assert best_match("cat dog", lengths) is None  # as many shared words in both
    assert best_match("cat dog", lengths, score="f1") == "short"
    orders = {"one": "cat dog elk", "other": "elk dog cat", "third": "sun sea"}
    assert best_match("elk dog cat bat", orders, score="f1") is None
    assert best_match("elk dog cat bat", orders, score="rouge-l") == "other"
    assert best_match("elk dog cat", orders, score="f1") == "other", "it is the caption, word for word"
    assert similarities("elk cat dog", orders, "f1") == {"one": 1.0, "other": 1.0, "third": 0.0}


def test_margins_make_close_calls_no_match():
    description = Description("blue bar above pink bar", "panel 2", PICTURE)
    close = CaptionMatch("f1").judge(description)
    assert close.margin == pytest.approx(
        sorted(close.detail["f1"].values())[-1] - sorted(close.detail["f1"].values())[-2]
    )
    strict = CaptionMatch("f1", margin=close.margin + 0.01).judge(description)
    assert strict.match is None
    assert strict.correct is False
    with pytest.raises(InputError, match="score='bleu'.*'shared words', 'f1', 'rouge-l'"):
        CaptionMatch("bleu")
    with pytest.raises(InputError, match="margin of 0 or more"):
        CaptionMatch(margin=-1)


@pytest.mark.parametrize(
    "text", ["Red ring above pink bar", " red  RING above\npink bar . ", "red ring above pink bar."]
)
def test_exact_is_but_for_case_space_and_full_stop(text):
    judged = ExactDescription().judge(Description(text, "panel 1", PICTURE))
    assert judged == Judgement("panel 1", correct=True)
    other = ExactDescription().judge(Description(text, "panel 2", PICTURE))
    assert (other.match, other.correct) == ("panel 1", False)


@pytest.mark.parametrize("text", ["red ring", "red ring above pink bar. And more.", ""])
def test_exact_is_the_whole_caption(text):
    assert ExactDescription().judge(Description(text, "panel 1", PICTURE)) == Judgement(None, correct=False)


def test_repeating_the_baseline_is_told_by_words():
    baseline = "a b c d e f g h i j k l m n o p q r s t"
    assert repeats(baseline.upper() + "!", baseline)
    assert repeats(baseline + " u v w", baseline)  # 20 of 23: 0.87
    assert not repeats(baseline + " u v w x", baseline)  # 20 of 24: 0.83
    assert repeats("", "")
    assert words("It's a 2nd-rate Ring.") == ["it", "s", "a", "2nd", "rate", "ring"]


@dataclass
class Moody(Judge):
    """Raises what it is told to on some texts."""

    error: type[Exception] = JudgeError

    def judge(self, description):
        if description.text == "bad":
            raise self.error("cannot")
        return Judgement(description.target, correct=True)


def test_a_judge_s_failure_is_an_error_on_its_line_and_no_miss():
    descriptions = [Description(text, "panel 1", PICTURE) for text in ("good", "bad", "good")]
    judgements = Moody().judge_all(descriptions, progress=False)
    assert [judged.correct for judged in judgements] == [True, None, True]
    assert [judged.error for judged in judgements] == [None, "cannot", None]
    assert judgements[1].to_dict() == {"match": None, "correct": None, "margin": None, "detail": {}, "error": "cannot"}
    with pytest.raises(KeyError):
        Moody(KeyError).judge_all(descriptions, progress=False)


@pytest.mark.parametrize("judge", [ExactDescription(), CaptionMatch()])
def test_a_target_without_a_caption_is_an_error(judge):
    partly = Picture(PICTURE.image, PICTURE.regions, {"panel 1": "red ring."})
    (judgement,) = judge.judge_all([Description("red ring", "panel 2", partly)], progress=False)
    assert "no caption for 'panel 2' (it has for panel 1)" in judgement.error
    bare = Picture(PICTURE.image, PICTURE.regions)
    with pytest.raises(JudgeError, match="it has for no region"):
        judge.judge(Description("red ring", "panel 1", bare))


def test_a_crop_is_the_region_and_no_more():
    image = Image.new("RGB", (10, 6))
    image.putdata([(x, y, 0) for y in range(6) for x in range(10)])
    corner = Polygon([(8, 4), (30, 4), (8, 30)])
    picture = Picture(image, {"whole": Box(-5, -5, 50, 50), "part": Box(2.2, 1, 4.5, 3), "corner": corner})
    assert crop(picture, "whole").size == (10, 6)
    assert crop(picture, "part").size == (3, 2)
    assert crop(picture, "part").getpixel((0, 0)) == (2, 1, 0)
    assert crop(picture, "corner").size == (2, 2)


@pytest.fixture(scope="module")
def strips():
    return synthetic(3, seed=4242)


@pytest.fixture(scope="module")
def likelihood(tiny_model):
    return LikelihoodJudge(tiny_model)


def test_the_likelihood_judge_agrees_with_the_exact_judge(tiny_model, likelihood, strips):
    """On clear cases: every caption, and what the model itself says of every panel, where that is a caption."""
    descriptions = [Description(strip.captions[name], name, strip) for strip in strips for name in strip.regions]
    records = generate_answers(tiny_model, strips, [Condition("none")], protocol=asking(), progress=False).records
    descriptions += [Description(record.text, record.targets[0], strips[int(record.picture)]) for record in records]
    exact = ExactDescription().judge_all(descriptions, progress=False)
    own = likelihood.judge_all(descriptions, progress=False)
    clear = [pair for pair in zip(exact, own, strict=True) if pair[0].match]
    assert len(clear) >= 33
    assert sum(one.match == other.match for one, other in clear) >= 0.95 * len(clear)
    assert all(judged.error is None for judged in own)


@torch.no_grad()
def slow_log_probability(model, image, text):
    """One forward for each token of the text, from all text before it."""
    total, ids = 0.0, model.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    prompt = model.prepare(image, THIS)
    for k, token in enumerate(ids):
        inputs = {**prompt.arguments(), "input_ids": torch.cat([prompt.input_ids, torch.tensor([ids[:k]]).long()], 1)}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        kinds = inputs.get("mm_token_type_ids")
        if kinds is not None:
            inputs["mm_token_type_ids"] = torch.cat([kinds, torch.zeros(1, k, dtype=kinds.dtype)], 1)
        total += float(model.original_model(**inputs).logits[0, -1].log_softmax(-1)[token])
    return total


def test_log_probabilities_equal_one_forward_a_token(tiny_model, likelihood, strips):
    texts = ["blue", strips[0].captions["panel 3"]]
    rows = likelihood.log_probabilities(strips[0], texts)
    for row, text in zip(rows, texts, strict=True):
        for k in (2, 5):
            expected = slow_log_probability(tiny_model, crop(strips[0], f"panel {k + 1}"), text)
            assert float(row[k]) == pytest.approx(expected, abs=1e-3)


def test_batches_of_any_size_judge_the_same_and_in_order(tiny_model, likelihood, strips):
    descriptions = [
        Description(text, "panel 1", strip)
        for strip in (strips[0], synthetic(1, seed=8, panels=3)[0], strips[0])
        for text in (strip.captions["panel 2"], "  ", "red red red", strip.captions["panel 1"])
    ]
    together = likelihood.judge_all(descriptions, progress=False)
    assert [judged.match for judged in together[:4:3]] == ["panel 2", "panel 1"]
    assert (together[1].match, together[1].correct, together[1].error) == (None, False, None)
    assert [len(judged.detail["log-probability"]) for judged in together[::4]] == [6, 3, 6]
    for judged, one in zip(
        together, LikelihoodJudge(tiny_model, batch_size=1).judge_all(descriptions, progress=False), strict=True
    ):
        assert (judged.match, judged.error) == (one.match, one.error)
        assert judged.margin == pytest.approx(one.margin, abs=1e-3) if judged.margin is not None else one.margin is None


def test_junk_is_a_miss_however_likely(likelihood, strips):
    (judged,) = likelihood.judge_all([Description("red " * 8, "panel 1", strips[0])], progress=False)
    assert (judged.match, judged.correct, judged.error) == (None, False, None)


def test_panels_that_look_the_same_are_no_match(tiny_model):
    (strip,) = synthetic(1, seed=9, panels=1)
    twins = Image.new("RGB", (64, 32))
    for x in (0, 32):
        twins.paste(strip.image, (x, 0))
    picture = Picture(twins, panels(2, 64, 32))
    judged = LikelihoodJudge(tiny_model).judge(Description(strip.captions["panel 1"], "panel 1", picture))
    assert judged.match is None
    assert judged.correct is False
    assert judged.margin == pytest.approx(0, abs=1e-3)


def test_every_region_is_encoded_once(tiny_model, strips):
    patches = []
    tower = tiny_model.original_model.model.visual
    handle = tower.register_forward_pre_hook(lambda _m, args, _k: patches.append(len(args[0])), with_kwargs=True)
    descriptions = [Description(text, "panel 1", strips[1]) for text in strips[1].captions.values()]
    judge = LikelihoodJudge(tiny_model, batch_size=12)
    judge.judge_all(descriptions, progress=False)
    judge.judge(descriptions[0])
    handle.remove()
    assert sum(patches) == 6 * 4 * 4  # six panels of 32 pixels, in patches of 8


def test_what_the_model_cannot_be_shown_is_an_error_of_its_line_only(tiny_model, likelihood, strips):
    texts = [strips[2].captions["panel 2"], "<|image_pad|> red ring", strips[2].captions["panel 4"]]
    judgements = likelihood.judge_all([Description(text, "panel 2", strips[2]) for text in texts], progress=False)
    assert [judged.match for judged in judgements] == ["panel 2", None, "panel 4"]
    assert [judged.correct for judged in judgements] == [True, None, False]
    assert judgements[1].error.startswith("The model cannot be shown this: ")
    lonely = Picture(strips[0].image, {"all": Box(0, 0, 192, 32)})
    with pytest.raises(JudgeError, match="has 1 named regions; a choice needs two"):
        likelihood.judge(Description("red ring", "all", lonely))


@pytest.mark.parametrize("family", ["LLaVA", "Gemma 3", "PaliGemma", "Mllama", "InternVL"])
def test_the_likelihood_judge_works_on_other_families(family):
    model = HookedVLM.wrap(*testing.tiny(family))
    image = Image.effect_noise((240, 80), 90).convert("RGB")
    picture = Picture(image, panels(3, 240, 80))
    descriptions = [Description(text, "panel 1", picture) for text in ("a red dog", "cat")]
    judgements = LikelihoodJudge(model, margin=0).judge_all(descriptions, progress=False)
    alone = LikelihoodJudge(model, margin=0, batch_size=1).judge_all(descriptions, progress=False)
    for judged, one in zip(judgements, alone, strict=True):
        assert judged.error is None
        scores = judged.detail["log-probability"]
        assert scores == pytest.approx(one.detail["log-probability"], abs=1e-3)
        assert all(value < 0 for value in scores.values())


def test_broken_weights_are_an_error(shelf):
    model = shelf.get("Qwen3-VL")[0]
    picture = Picture(Image.new("RGB", (128, 64)), panels(2, 128, 64))

    def poison(residual, hook):
        return residual * torch.nan

    with model.hooks([("blocks.1.hook_resid_pre", poison)]):
        (judgement,) = LikelihoodJudge(model).judge_all([Description("red", "panel 1", picture)], progress=False)
    assert "no numbers (NaN or infinite); try float32" in judgement.error
    with pytest.raises(InputError, match="batch_size=0"):
        LikelihoodJudge(model, batch_size=0)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Two people skiing.", ["person"]),
        ("Three knives and a sheep", ["knife", "sheep"]),
        ("Berries on two buses", ["berry", "bus"]),
        ("a personal bus", ["bus"]),
        ("A toy.", []),
    ],
)
def test_names_are_found_in_the_plural(text, names):
    assert named(text, {"person", "knife", "sheep", "bus", "berry", "to"}) == names


@pytest.mark.parametrize("judge", [CaptionMatch(), ExactDescription(), NamesOnly()], ids=str)
def test_an_empty_caption_is_none(judge):
    picture = Picture(
        Image.new("RGB", (20, 10)), {"a": Box(0, 0, 10, 10), "b": Box(10, 0, 20, 10)}, {"a": " ", "b": "x"}
    )
    assert picture.captions == {"b": "x"}
    with pytest.raises(JudgeError, match="no caption for 'a'"):
        judge.judge(Description("", "a", picture))
