"""`VLMInputs` where token ids are expected: each use gives what the ids give, or says where the ids are."""

import copy
import pickle

import numpy as np
import pytest
import torch
from reference import padded
from transformer_lens import utilities as utils

from gaze_lens.errors import InputError


@pytest.fixture(scope="module")
def inputs(qwen):
    return padded(qwen)


INDICES = [0, -1, slice(0, 1), [0], [1, 0], (slice(None), slice(1, None)), (1, 3), (..., -1), None, torch.tensor([1])]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_an_index_is_that_of_the_ids(inputs, index):
    assert torch.equal(inputs[index], inputs.input_ids[index])


def test_sizes_and_comparisons_are_those_of_the_ids(inputs):
    ids = inputs.input_ids
    assert (inputs.shape, inputs.ndim, inputs.dtype, inputs.device) == (ids.shape, 2, torch.int64, ids.device)
    assert [row.tolist() for row in inputs] == ids.tolist()
    assert len(inputs) == 2
    assert np.asarray(inputs).tolist() == ids.tolist()
    token = ids[0, -1].item()
    for equal in (inputs == token, token == inputs, inputs == ids[0, -1], ids[0, -1] == inputs):
        assert torch.equal(equal, ids == token)
    assert torch.equal(inputs != token, ids != token)
    assert token in inputs
    assert 10**6 not in inputs
    other = copy.copy(inputs)
    assert inputs == inputs  # noqa: PLR0124
    assert inputs != other
    assert {inputs: 1, other: 2}[inputs] == 1


def test_a_name_is_that_of_a_tensor(qwen, inputs):
    for name, tensor in inputs.tensors.items():
        assert inputs[name] is tensor
        assert name in inputs
    assert set(dict(inputs)) == set(inputs.tensors)
    with pytest.raises(KeyError, match="hold no 'pixels'; they hold input_ids, .*pixel_values"):
        inputs["pixels"]
    assert "pixels" not in inputs
    encoded = qwen.encode(inputs)
    assert "pixel_values" not in encoded
    assert dict(encoded).keys() == {"input_ids", *encoded.arguments()}


def test_other_attributes_of_tensors_say_where_they_are(inputs):
    with pytest.raises(AttributeError, match="'squeeze'; that of the token ids is inputs.input_ids.squeeze"):
        inputs.squeeze()
    with pytest.raises(AttributeError, match=r"no attribute 'colour'\.$"):
        inputs.colour  # noqa: B018
    assert not hasattr(inputs, "squeeze")
    with pytest.raises(InputError, match=r"inputs do not change.*inputs.input_ids.clone\(\)"):
        inputs[0, 3] = 7


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda inputs: pickle.loads(pickle.dumps(inputs)), lambda i: i.clone()]
)
def test_copies_have_tensors_of_their_own(qwen, inputs, duplicate):
    for original in (inputs, qwen.encode(inputs)):
        twin = duplicate(original)
        assert dict(twin).keys() == dict(original).keys()
        before = qwen(original)
        assert torch.equal(qwen(twin), before)
        twin.input_ids.zero_()
        for image in twin.features.images if twin.features else ():
            image["tokens"].zero_()
        assert torch.equal(qwen(original), before)


def test_transformer_lens_functions_of_ids(qwen, inputs):
    logits, ids = qwen(inputs), inputs.input_ids
    assert torch.equal(utils.lm_accuracy(logits, inputs), utils.lm_accuracy(logits, ids))
    assert torch.equal(utils.lm_cross_entropy_loss(logits, inputs), utils.lm_cross_entropy_loss(logits, ids))
    with pytest.raises(ValueError, match=r"invalid type: <class .*VLMInputs'> \(of which inputs\.input_ids are"):
        utils.to_numpy(inputs)  # TransformerLens takes a closed list of types; np.asarray(inputs) works


@pytest.mark.parametrize("row", [0, 1])
def test_one_label_for_every_position(inputs, row):
    labels = inputs.str_tokens(row)
    assert len(labels) == inputs.shape[1]
    assert labels == [inputs.tokenizer.decode([token]) for token in inputs.input_ids[row].tolist()]
