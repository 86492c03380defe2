"""`HookedVLM` is the TransformerBridge that TransformerLens users know, and takes images wherever it takes tokens."""

import copy
import inspect

import pandas as pd
import pytest
import torch
from reference import QWENS, at_real, eager, full, look, padded, picture
from transformer_lens import patching
from transformer_lens.model_bridge import TransformerBridge
from typing_extensions import get_protocol_members

from gaze_lens import HookedVLM, testing
from gaze_lens.errors import InputError
from gaze_lens.model_protocol import Model


def test_a_model_is_one_to_type_checkers(pair):
    model, untouched = pair
    assert isinstance(model, Model)
    assert not isinstance(untouched, Model)
    hidden = object()  # from Python 3.12 on, isinstance looks members up without `__getattr__`
    members = get_protocol_members(Model)
    assert [name for name in members if inspect.getattr_static(model, name, hidden) is hidden] == []


# TransformerLens' idioms


def test_weights_and_config_are_where_they_are_in_transformer_lens(pair):
    model, untouched = pair
    assert isinstance(model, TransformerBridge)
    layers = untouched.model.language_model.layers
    shapes = (model.cfg.n_layers, model.cfg.n_heads, model.cfg.n_key_value_heads, model.cfg.d_head, model.cfg.d_model)
    assert shapes == (4, 4, 2, 16, 64)
    assert model.cfg.d_vocab == len(model.processor.tokenizer) == model.W_U.shape[1]
    for layer in range(4):
        attention = layers[layer].self_attn
        for letter, heads in (("q", 4), ("k", 2), ("v", 2)):
            weight = getattr(attention, f"{letter}_proj").weight.reshape(heads, 16, 64).transpose(1, 2)
            assert torch.equal(getattr(model, f"W_{letter.upper()}")[layer], weight)
        assert torch.equal(model.W_O[layer], attention.o_proj.weight.T.reshape(4, 16, 64))
    assert torch.equal(model.W_E, untouched.model.language_model.embed_tokens.weight)
    assert torch.equal(model.W_U, untouched.lm_head.weight.T)


@torch.no_grad()
def test_text_and_tokens_run_as_ever(pair):
    model, untouched = pair
    tokens = model.to_tokens("some words")
    assert tokens.tolist() == model.processor.tokenizer("some words", return_tensors="pt")["input_ids"].tolist()
    assert model.to_str_tokens("ab") == ["a", "b"]
    assert model.to_string(tokens[0]) == "some words"
    expected = untouched(input_ids=tokens).logits
    assert torch.equal(model(tokens), expected)
    assert torch.equal(model("some words"), expected)
    full_run = model.run_with_hooks("some words", fwd_hooks=full())
    assert torch.equal(full_run, eager(untouched)(input_ids=tokens).logits)
    logits, cache = model.run_with_cache("some words")
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    assert cache["pattern", 0].shape == (1, 4, 10, 10)
    loss = torch.nn.functional.cross_entropy(expected[0, :-1], tokens[0, 1:])
    torch.testing.assert_close(model(tokens, "loss"), loss)
    torch.testing.assert_close(model(tokens, return_type="both")[1], loss)


@torch.no_grad()
def test_hooks_come_and_go(model):
    inputs, seen = padded(model), []
    note = [("blocks.2.hook_resid_pre", lambda tensor, hook: seen.append(hook.name))]
    with model.hooks(note) as inside:
        assert inside is model
        inside(inputs)
        with model.hooks([("blocks.2.hook_resid_pre", lambda tensor, hook: seen.append("inner"))]):
            model(inputs)
        model.run_with_hooks(inputs, fwd_hooks=note)
    model(inputs)
    assert seen == ["blocks.2.hook_in"] * 2 + ["inner"] + ["blocks.2.hook_in"] * 2
    model.add_hook("blocks.1.attn.hook_pattern", lambda pattern, hook: pattern * 0)
    silenced = model(inputs)
    model.reset_hooks()
    assert (at_real(silenced, inputs) - at_real(model(inputs), inputs)).abs().max() > 0.1
    with pytest.raises(KeyError, match="nowhere"):
        model.run_with_hooks(inputs, fwd_hooks=[("nowhere", look)])


@torch.no_grad()
def test_a_run_can_stop_early(model):
    inputs, reached = padded(model), []
    _, cache = model.run_with_cache(inputs)
    note = [
        (f"blocks.{layer}.hook_resid_post", lambda tensor, hook: reached.append(hook.layer())) for layer in range(4)
    ]
    for stop in (0, 2, -1):
        expected = cache["resid_pre", stop % 4]
        got = model.run_with_hooks(inputs, fwd_hooks=full(), stop_at_layer=stop)
        assert torch.equal(got, expected)
    with model.hooks(note):
        early = model(inputs, stop_at_layer=2)
    torch.testing.assert_close(at_real(early, inputs), at_real(cache["resid_pre", 2], inputs), atol=1e-5, rtol=0)
    assert reached == [0, 1]
    assert model(inputs).shape == (2, 50, model.cfg.d_vocab)


def test_what_is_not_served_says_so(model):
    inputs = padded(model)
    for run in (model, model.run_with_hooks, model.run_with_cache):
        with pytest.raises(InputError, match="output_attentions is not served.*hook_pattern"):
            run(inputs, output_attentions=True)
        with pytest.raises(InputError, match="start_at_layer loses image positions"):
            run(inputs, start_at_layer=1)


# TransformerLens' patching


@pytest.fixture(scope="module")
def clean_and_corrupted(shelf):
    model, _ = shelf.get("Qwen3-VL", num_hidden_layers=2)
    clean, corrupted = (model.prepare(picture(32, 64, seed), text) for seed, text in ((0, "Hi"), (1, "Ho")))
    logits, cache = model.run_with_cache(clean)
    return model, clean, corrupted, logits, cache


def metric(logits):
    return logits[:, -1, 65].sum()


WHOLE = ("resid_pre", "resid_mid", *(f"attn_head_{part}_all_pos" for part in ("out", "q", "k", "v", "pattern")))
BY_POSITION = (*(f"attn_head_{part}_by_pos" for part in ("out", "q", "k", "v", "pattern")), "attn_out", "mlp_out")


@pytest.mark.parametrize("name", WHOLE + BY_POSITION)
@torch.no_grad()
def test_clean_patched_into_clean_changes_nothing(clean_and_corrupted, name):
    model, clean, _, logits, cache = clean_and_corrupted
    patch, more = getattr(patching, f"get_act_patch_{name}"), {}
    if name in BY_POSITION:
        cells = pd.DataFrame([(0, 3, 1), (1, 8, 0), (1, clean.last_position, 1)], columns=["layer", "pos", "head"])
        cells = cells[["layer", "head", "pos"]] if "pattern" in name else cells
        more = {"index_axis_names": None, "index_df": cells if "head" in name else cells[["layer", "pos"]]}
    results = patch(model, clean, cache, metric, **more)
    torch.testing.assert_close(results, metric(logits).expand_as(results), atol=2e-5, rtol=0)


@torch.no_grad()
def test_patching_into_a_corrupted_run_does_what_its_name_says(clean_and_corrupted, shelf):
    model, clean, corrupted, logits, cache = clean_and_corrupted
    assert clean.shape == corrupted.shape
    worse = metric(model(corrupted))
    assert (worse - metric(logits)).abs() > 0.01
    setter, axes = patching.layer_pos_patch_setter, ("layer", "pos")
    results = patching.generic_activation_patch(model, corrupted, cache, metric, setter, "resid_post", axes)
    torch.testing.assert_close(results[-1, -1], metric(logits), atol=2e-5, rtol=0)
    torch.testing.assert_close(results[-1, :-1], worse.expand(clean.last_position), atol=2e-5, rtol=0)
    reference, kept = eager(shelf.get("Qwen3-VL", num_hidden_layers=2)[1]), []
    projection = reference.model.language_model.layers[1].self_attn.o_proj
    handle = projection.register_forward_pre_hook(lambda _, args: kept.append(args[0].clone()))
    reference(**clean.tensors)
    handle.remove()

    def exchange(_, args):
        args[0][..., 32:48] = kept[0][..., 32:48]

    projection.register_forward_pre_hook(exchange)
    results = patching.get_act_patch_attn_head_out_all_pos(model, corrupted, cache, metric)
    torch.testing.assert_close(results[1, 2], metric(reference(**corrupted.tensors).logits), atol=2e-5, rtol=0)
    assert (results[1, 2] - worse).abs() > 1e-4


# Encoded images


class Tower:
    """Counts the images that a model's vision tower runs on."""

    def __init__(self, model):
        self.images = 0
        self.handle = model.original_model.model.visual.register_forward_pre_hook(self.count, with_kwargs=True)

    def count(self, _module, _args, kwargs):
        self.images += len(kwargs["grid_thw"])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.handle.remove()


@torch.no_grad()
def test_encoded_images_equal_pixels(pair):
    model, _ = pair
    inputs = padded(model)
    with Tower(model) as tower:
        encoded = model.encode(inputs)
        assert tower.images == 2, "three images, two of them the same"
        assert torch.equal(model(encoded), model(inputs))
        hooked = [model.run_with_hooks(either, fwd_hooks=full()) for either in (encoded, inputs)]
        assert torch.equal(*hooked)
        tower.images = 0
        for _ in range(2):
            logits, _ = model.run_with_cache(encoded, names_filter="blocks.0.attn.hook_pattern")
        assert model.encode(encoded) is encoded
        generated = model.generate(encoded, max_new_tokens=4, num_beams=2)
        assert tower.images == 0
    torch.testing.assert_close(at_real(logits, inputs), at_real(model(inputs), inputs), atol=1e-5, rtol=0)
    assert torch.equal(generated.sequences, model.generate(inputs, max_new_tokens=4, num_beams=2).sequences)


@torch.no_grad()
def test_other_prompts_about_the_same_images_reuse_them(model):
    image, other = picture(96, 64), picture(96, 64, 1)
    first = model.encode(model.prepare([image, other], "What?"))
    again = model.prepare([image, other], "What is left out?")
    with Tower(model) as tower:
        reused = model.encode(again, reuse=first)
        assert tower.images == 0
        assert torch.equal(model(reused), model(again))
        tower.images = 0
        swapped = model.prepare([other, image], "What?")
        assert torch.equal(model(model.encode(swapped, reuse=first)), model(swapped))
        assert tower.images == 2, "run from pixels once, and not encoded again for another order"
    with pytest.raises(InputError, match="no image to encode"):
        model.encode(model.prepare(None, "Only text."))


# Copies and processed weights


@torch.no_grad()
def test_a_copy_lives_on_its_own(model):
    inputs, seen = padded(model), {}
    before = model(inputs)
    other = copy.deepcopy(model)
    assert torch.equal(other(inputs), before)
    assert other.attention_backend is not model.attention_backend
    other.blocks[1].attn.o.original_component.weight.zero_()
    changed = other(inputs)
    assert torch.equal(model(inputs), before)
    silenced = model.run_with_hooks(inputs, fwd_hooks=[("blocks.1.attn.hook_pattern", lambda p, hook: p * 0)])
    torch.testing.assert_close(at_real(changed, inputs), at_real(silenced, inputs), atol=1e-5, rtol=0)
    other.set_use_split_qkv_input(True)
    assert not model.cfg.use_split_qkv_input
    names = ("blocks.1.hook_q_input", "blocks.1.hook_resid_pre")
    keep = [(name, lambda tensor, hook, name=name: seen.update({name: tensor})) for name in names]
    other.run_with_hooks(inputs, fwd_hooks=keep)
    assert torch.equal(seen[names[0]][:, :, 2], seen[names[1]])


@pytest.mark.parametrize("name", QWENS[:2])
@pytest.mark.parametrize("options", [{"no_processing": True}, {"center_unembed": False}, {}], ids=str)
@torch.no_grad()
def test_compatibility_mode_keeps_the_seam_alive(name, options):
    untouched, processor = testing.tiny(name, num_hidden_layers=2)
    for module in untouched.model.language_model.modules():
        if "RMSNorm" in type(module).__name__:
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    model = HookedVLM.wrap(copy.deepcopy(untouched), processor)
    model.enable_compatibility_mode(**options)
    inputs = padded(model)
    expected = at_real(eager(untouched)(**inputs.tensors).logits, inputs).log_softmax(-1)
    got = at_real(model.run_with_hooks(inputs, fwd_hooks=full(range(2))), inputs).log_softmax(-1)
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=0)
    _, cache = model.run_with_cache(inputs)
    attentions = eager(untouched)(**inputs.tensors, output_attentions=True).attentions
    real = inputs.tensors["attention_mask"].bool()
    torch.testing.assert_close(
        cache["pattern", 1].transpose(1, 2)[real], attentions[1].transpose(1, 2)[real], atol=1e-5, rtol=0
    )
    edited = model.run_with_hooks(inputs, fwd_hooks=[("blocks.1.attn.hook_pattern", lambda p, hook: p * 0)])
    assert (at_real(edited, inputs).log_softmax(-1) - expected).abs().max() > 0.1


def test_one_encoding_serves_other_prompts_orders_and_repeats_of_its_images(shelf):
    model, _ = shelf.get("Qwen3-VL")
    first, second = picture(96, 64, seed=1), picture(64, 64, seed=2)
    encoded = model.encode(model.prepare([[first, second]], "What is here?"))
    inputs = model.prepare([[second, first], [first], [first, first]], ["One?", "Two?", "And three?"])
    calls = []
    handle = model.original_model.model.visual.register_forward_hook(lambda *_: calls.append(1))
    try:
        logits = model(model.encode(inputs, reuse=encoded))
    finally:
        handle.remove()
    assert not calls, "the vision tower ran again"
    attended = inputs.tensors["attention_mask"].bool()
    assert (logits - model(inputs))[attended].abs().max() < 1e-5
    other = model.prepare(picture(64, 64, seed=3), "What?")
    assert (model(model.encode(other, reuse=encoded)) - model(other)).abs().max() < 1e-5


@torch.no_grad()
def test_positions_that_pad_are_those_of_the_kernel_that_runs_and_nothing_else_sees_them(pair):
    model, untouched = pair
    inputs = padded(model)
    pads = ~inputs.tensors["attention_mask"].bool()
    assert pads.any()
    default, cached = model(inputs), model.run_with_cache(inputs)[0]
    assert torch.equal(default[pads], untouched(**inputs.tensors).logits[pads])
    assert torch.equal(cached[pads], eager(untouched)(**inputs.tensors).logits[pads])
    torch.testing.assert_close(cached[~pads], default[~pads], atol=2e-5, rtol=0)
    noise = [("hook_embed", lambda embedded, hook: embedded + 100.0 * pads[..., None])]
    torch.testing.assert_close(model.run_with_hooks(inputs, noise)[~pads], default[~pads], atol=2e-5, rtol=0)
    loss = model(inputs, return_type="loss")
    torch.testing.assert_close(model.run_with_cache(inputs, return_type="loss")[0], loss)
