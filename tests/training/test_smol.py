"""A vision tower in a frozen language model: what is trained, and that packed prompts are what the processor makes."""

import copy
import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

import gaze_lens as gl
from gaze_lens import comics
from gaze_lens.scoring.readings import membership, read_attention
from training import smol, smol_measure
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


@pytest.fixture(scope="module")
def hooked(built):
    model, processor = built
    return gl.HookedVLM.wrap(copy.deepcopy(model), copy.deepcopy(processor))


def test_scores_of_several_pictures_are_sums_of_the_pattern_over_each(hooked):
    strip = smol_measure.draw_strips(1, seed=3)[0]
    scores = smol_measure.score_panels(hooked, [strip])
    assert scores.samples.shape == (1, 2, 4, 6, 6)
    for asked in (0, 4):
        inputs = hooked.prepare([smol_measure.panel_pictures(strip)], comics.ask(asked))
        _, cache = hooked.run_with_cache(inputs)
        for layer in range(2):
            last = cache["pattern", layer][0, :, -1]
            for tokens in inputs.image_tokens:
                expected = last[:, tokens.positions].sum(-1)
                assert torch.allclose(scores.samples[0, layer, :, asked, tokens.image], expected, atol=1e-6)
        assert read_attention(hooked, inputs, "prompt", None, [1], [1])[0].mean_map is None


def test_regions_of_one_name_in_several_pictures_are_read_apart(hooked):
    panels = smol_measure.panel_pictures(smol_measure.draw_strips(1, seed=3)[0])
    named = [gl.Picture(picture.image, {"all": next(iter(picture.regions.values()))}) for picture in panels]
    first, second = (hooked.prepare([each], comics.OPEN) for each in (panels, named))
    assert torch.equal(membership(first), membership(second))
    assert membership(second)[0].sum(0).tolist() == [4.0] * 6


def test_heads_are_steered_to_one_of_several_pictures(hooked):
    strip = smol_measure.draw_strips(1, seed=3)[0]
    inputs = hooked.prepare([smol_measure.panel_pictures(strip)], comics.OPEN)
    region = inputs.region("panel 5")
    assert region.positions == (tuple(inputs.image_tokens[4].positions),)
    patterns = []
    name = "blocks.1.attn.hook_pattern"
    hooks = [*gl.steer([(1, 2)], region), (name, lambda pattern, hook: patterns.append(pattern[0, :, -1]))]
    hooked.run_with_hooks(inputs, fwd_hooks=hooks)
    on_panel = patterns[0][:, list(region.positions[0])].sum(-1)
    assert on_panel[2] > 0.999
    assert on_panel[:2].max() < 0.9


def test_a_model_of_several_pictures_is_measured_beside_the_same_panels_as_text(hooked, monkeypatch, tmp_path):
    monkeypatch.setattr(smol_measure, "COUNTS", (1, 2, 3))
    monkeypatch.setattr(smol_measure, "DRAWS", 1)
    figures = smol_measure.measure_smol(hooked, strips=2)
    assert {"pictures, by contrast", "text, by score", "none", "3 random heads", "all"} <= figures["steering"].keys()
    assert figures["answering"]["exact"]["n"] == 12
    assert [overlap["k"] for overlap in figures["compared"]["contrast"]["overlaps"]] == [1, 2, 3]
    assert json.loads(json.dumps(figures)) == figures


def test_a_model_is_loaded_with_what_was_trained(tmp_path, monkeypatch):
    trainer = smol.SmolTrainer(seed=3, size=SMALL, phase=PHASE, language=language)
    trainer.step()
    torch.save(trainer.state(), tmp_path / "state.pt")
    monkeypatch.setattr(smol_measure, "WIDE", SMALL)
    monkeypatch.setattr(smol_measure, "SmolTrainer", partial(smol.SmolTrainer, language=language))
    model, steps = smol_measure.load(tmp_path)
    assert steps == 1
    inputs = model.prepare([smol_measure.panel_pictures(smol_measure.draw_strips(1, seed=3)[0])], comics.OPEN)
    use_plain_attention(trainer.model)
    with torch.no_grad():
        expected = trainer.model.eval()(**inputs.tensors).logits
        assert torch.allclose(model.run_with_hooks(inputs), expected, atol=1e-5)
