"""A vision tower in a frozen language model: what is trained, and that packed prompts are what the processor makes."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

import gaze_lens as gl
from gaze_lens import comics
from training import smol
from training.batches import IGNORE
from training.packed_forward import packed_forward, use_packed_attention, use_plain_attention
from training.phases import Phase
from training.recipe import Size, build_tokenizer, greedy, text_config

SMALL = Size(width=32, layers=2, heads=4, kv_heads=2, head_width=16, mlp=48, vision_width=32, vision_mlp=48)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", smol.IMAGE, smol.ROW_END, smol.IMAGE_END)
PHASE = Phase("smol", 3, 1e-2, 1e-2, end=1.0, question_rows=2)


def language():
    """A tiny random Llama in SmolLM2's place."""
    tokenizer = build_tokenizer(704, SPECIAL)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**text_config(SMALL, tokenizer), bos_token_id=None))
    model.generation_config = greedy(tokenizer)
    return model, tokenizer


@pytest.fixture(scope="module")
def built():
    model, processor = smol.build(SMALL, 0, language=language)
    return model.eval(), processor


def panels_of(batch, row):
    strip = batch.pixels[row].numpy()
    return [Image.fromarray(strip[:, x : x + 32]) for x in range(0, strip.shape[1], 32)]


@torch.no_grad()
def test_packed_prompts_get_the_logits_that_hugging_face_gives_the_chat(built):
    model, processor = built
    batch = smol.panels_batch(np.random.default_rng(0), processor.tokenizer, 2, 3, ("this", "in order"))
    use_packed_attention(model)
    packed = packed_forward(smol.architecture(language), model, batch)[0]
    use_plain_attention(model)
    learned = batch.labels != IGNORE
    expected = torch.zeros(*learned.shape, packed.shape[1])
    for row in range(2):
        for slot in (1, 2):
            start = sum(batch.lengths[:slot])
            span = slice(start, start + batch.lengths[slot])
            ids = torch.cat([batch.ids[row, : batch.lengths[0]], batch.ids[row, span]])[None]
            images = processor.image_processor(panels_of(batch, row), return_tensors="pt")
            logits = model(input_ids=ids, **images).logits
            expected[row, span] = logits[0, batch.lengths[0] :]
    assert torch.allclose(packed, expected[learned], atol=1e-5)


def test_a_packed_prompt_is_what_six_pictures_in_one_prompt_are_made_into(built):
    model, processor = built
    batch = smol.panels_batch(np.random.default_rng(0), processor.tokenizer, 1, 6, ("this",))
    hooked = gl.HookedVLM.wrap(copy.deepcopy(model), copy.deepcopy(processor))
    inputs = hooked.prepare([panels_of(batch, 0)], comics.THIS)
    ids = inputs.input_ids[0].tolist()
    assert batch.ids[0, : len(ids)].tolist() == ids
    assert "Panel 6: <filename>" in processor.tokenizer.decode(ids)
    positions = [position for tokens in inputs.image_tokens for position in tokens.positions]
    assert batch.image_mask.nonzero()[:, 0].tolist() == positions
    assert batch.labels[0, len(ids) - 1] != IGNORE
    assert (batch.labels[0, : len(ids) - 1] == IGNORE).all()


@pytest.mark.parametrize("frozen", [False, True])
def test_only_tower_and_projector_are_trained(frozen):
    trainer = smol.SmolTrainer(seed=0, size=SMALL, phase=PHASE, frozen=frozen, language=language)
    before = {name: parameter.clone() for name, parameter in trainer.model.named_parameters()}
    trainer.step()
    for name, parameter in trainer.model.named_parameters():
        trained = "projector" in name or ("vision_tower" in name and not frozen)
        assert parameter.equal(before[name]) != trained, name
    decoder = language()[0]
    assert all(value.equal(decoder.state_dict()[name]) for name, value in decoder.state_dict().items())
    ours = trainer.model.model.language_model.state_dict()
    assert all(value.equal(ours[name]) for name, value in decoder.model.state_dict().items())


def test_a_training_that_is_continued_goes_on_as_it_would_have_and_keeps_only_its_own_weights():
    first, second = (smol.SmolTrainer(seed=2, size=SMALL, phase=PHASE, language=language) for _ in range(2))
    first.step()
    state = first.state()
    assert not any("language_model" in name or "lm_head" in name for name in state["model"])
    second.load(state)
    assert first.step() == second.step()
