"""The cache is found under the names of every version of transformers; a model that has another name is refused."""

import pytest
import torch
from torch import nn
from transformers import DynamicCache

from gaze_lens.errors import ModelError
from gaze_lens.families.cache_argument import NAMES, cache_argument, cache_in


@pytest.mark.parametrize("name", NAMES)
def test_a_cache_is_found_under_every_name(name):
    cache = DynamicCache()
    assert cache_in({name: cache, "input_ids": None}) is cache
    assert cache_in({name: None}) is None


def test_the_name_that_a_forward_has():
    class Older(nn.Module):
        def forward(self, input_ids, past_key_values=None):
            return input_ids, past_key_values

    class Newer(nn.Module):
        def forward(self, input_ids, cache=None):
            return input_ids, cache

    assert cache_argument(Older().forward) == "past_key_values"
    assert cache_argument(Newer().forward) == "cache"


def test_a_forward_without_a_known_name_is_refused():
    with pytest.raises(ModelError, match=r"takes no argument 'past_key_values' or 'cache'.*version of transformers"):
        cache_argument(lambda input_ids, memory=None: input_ids)


@pytest.mark.parametrize(("family", "mixer"), [("Qwen3.5", "linear_attn"), ("LFM2-VL", "conv")])
@torch.no_grad()
def test_layers_without_softmax_under_a_hook_go_on_from_their_cache(shelf, family, mixer):
    model, plain = shelf.get(family)
    ids, logits = torch.arange(3, 11)[None], []
    for one in (model.original_model, plain):
        cache = DynamicCache(config=plain.config.text_config)
        one.model.rope_deltas = None  # Hugging Face keeps those of the last prompt with an image
        with model.hooks([(f"blocks.0.{mixer}.hook_out", lambda tensor, hook: tensor)]):
            one(input_ids=ids[:, :6], use_cache=True, past_key_values=cache)
            logits.append(one(input_ids=ids[:, 6:], use_cache=True, past_key_values=cache).logits)
    torch.testing.assert_close(*logits, atol=1e-5, rtol=0)
