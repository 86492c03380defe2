"""Patching at segments of text, and metrics over descriptions of them."""

import pytest
import torch

import gaze_lens as gl
from gaze_lens.errors import RegionError

CLEAN = gl.passages(["Anna lives in Paris.", "Ben has a dog."])
CORRUPTED = gl.passages(["Emma lives in Paris.", "Ben has a dog."])


@pytest.fixture(scope="module")
def llama():
    return gl.HookedVLM.wrap(*gl.testing.tiny("LlamaForCausalLM"))


@torch.no_grad()
def test_cells_are_those_of_a_slow_loop(llama):
    pair = gl.Pair(*(llama.prepare(texts, "Who?") for texts in (CLEAN, CORRUPTED))).encoded(llama)
    metric = gl.metrics.logit_difference(llama, "A", "B")
    result = gl.patch(llama, *pair, what="resid_pre", positions=["segment 1", "segment 2", "last"], metric=metric)
    table = result.table()
    name = "blocks.1.hook_resid_pre"
    donor = llama.run_with_cache(pair.clean, names_filter=name)[1][name]
    for position in ("segment 1", "segment 2", "last"):
        columns = list(gl.patching.group(pair.clean, position).rows[0])

        def put(value, hook, columns=columns):
            value[0, columns] = donor[0, columns]
            return value

        logits = llama.run_with_hooks(pair.corrupted, fwd_hooks=[(name, put)])
        row = table[(table.layer == 1) & (table.positions == position)]
        assert len(row) == 1
        expected = logits[0, -1, llama.tokenizer.convert_tokens_to_ids(["A", "B"])]
        assert abs(float(row.iloc[0]["mean"]) - float(expected[0] - expected[1])) < 1e-4, row


def test_a_pair_of_other_lengths_is_refused(llama):
    longer = llama.prepare(gl.passages(["Annabel lives in Paris.", "Ben has a dog."]), "Who?")
    with pytest.raises(gl.GazeLensError, match="align"):
        gl.Pair(llama.prepare(CLEAN, "Who?"), longer)
    moved = llama.prepare(gl.passages(["Anna lives in Pari.", "Benn has a dog."]), "Who?")
    with pytest.raises(gl.GazeLensError):
        gl.Pair(llama.prepare(CLEAN, "Who?"), moved)


def test_image_features_of_text_are_refused(llama):
    pair = [llama.prepare(texts, "Who?") for texts in (CLEAN, CORRUPTED)]
    with pytest.raises(RegionError, match="no image tokens"):
        gl.patch(
            llama, *pair, what="image", positions=["segment 1"], metric=gl.metrics.logit_difference(llama, "A", "B")
        )


@torch.no_grad()
def test_descriptions_are_the_passages(llama):
    inputs = gl.metrics.descriptions(llama, CLEAN, "What is said in segment 1?")
    answered = [
        inputs.tokenizer.decode(ids[start:]) for ids, start in zip(inputs.input_ids, inputs.answers, strict=True)
    ]
    assert answered == list(CLEAN.texts)
    value = gl.metrics.description_probability(inputs)(llama(inputs))
    assert 0 <= float(value.mean()) <= 1
