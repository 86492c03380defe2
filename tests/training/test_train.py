"""The embedded model's trainer: packed batches give what the plain model gives, and a run can be continued."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen3VLProcessor

import gaze_lens as gl
from gaze_lens import comics
from training.batches import IGNORE, TOKEN, draw_cells, scene_batch, strip_batch
from training.llava import LLAVA
from training.packed_forward import packed_forward, use_packed_attention, use_plain_attention
from training.phases import Phase
from training.qwen3_vl import QWEN3_VL
from training.recipe import Size, texts
from training.train import Trainer, image_attention_penalty

SMALL = Size(width=32, layers=2, heads=4, kv_heads=2, head_width=16, mlp=48, vision_width=32, vision_mlp=48)


@pytest.fixture(scope="module")
def untrained():
    model, processor = QWEN3_VL.build(SMALL, 0)
    return model.eval(), processor


@pytest.fixture(scope="module", params=[QWEN3_VL, LLAVA], ids=lambda architecture: architecture.name)
def built(request):
    model, processor = request.param.build(SMALL, 0)
    return request.param, model.eval(), processor


def pictures_of(batch):
    return [Image.fromarray(pixels) for pixels in batch.pixels.numpy()]


def alone(processor, picture, batch, row, slot):
    """Model inputs of one question of a packed batch, and which of its positions have something to learn."""
    start = sum(batch.lengths[:slot])
    span = slice(start, start + batch.lengths[slot])
    ids = torch.cat([batch.ids[row, : batch.lengths[0]], batch.ids[row, span]])[None]
    labels = torch.cat([batch.labels[row, : batch.lengths[0]], batch.labels[row, span]])
    image = dict(processor.image_processor([picture], return_tensors="pt"))
    if isinstance(processor, Qwen3VLProcessor):
        image["mm_token_type_ids"] = (ids == processor.image_token_id).int()
    return dict(image, input_ids=ids), labels != IGNORE


@pytest.mark.parametrize("kind", ["strip", "scene"])
@torch.no_grad()
def test_packed_questions_get_the_logits_that_they_get_alone(built, kind):
    architecture, model, processor = built
    rng, frame = np.random.default_rng(0), architecture.frame
    if kind == "strip":
        batch = strip_batch(rng, processor.tokenizer, 2, 3, ("ask", "in order", "freely"), frame)
    else:
        batch = scene_batch(rng, processor.tokenizer, 2, (2, 3), ("place", "list"), frame)
    use_packed_attention(model)
    packed, _, image_mass = packed_forward(architecture, model, batch)
    use_plain_attention(model)
    assert image_mass.shape == (2, 4, sum(batch.lengths[1:]))
    expected = torch.zeros(*batch.labels.shape, packed.shape[1])
    for row, picture in enumerate(pictures_of(batch)):
        for slot in range(1, len(batch.lengths)):
            inputs, learned = alone(processor, picture, batch, row, slot)
            start = sum(batch.lengths[:slot]) - batch.lengths[0]
            where = learned.nonzero()[:, 0]
            expected[row, where + start] = model(**inputs).logits[0, where]
    assert torch.allclose(packed, expected[batch.labels != IGNORE], atol=1e-5)


def test_a_packed_question_is_what_the_processor_makes_of_the_chat(built):
    architecture, model, processor = built
    batch = strip_batch(np.random.default_rng(0), processor.tokenizer, 1, 3, ("this",), architecture.frame)
    inputs = gl.HookedVLM.wrap(copy.deepcopy(model), processor).prepare(pictures_of(batch)[0], comics.THIS)
    assert batch.ids[0, : inputs.layout.length].tolist() == inputs.input_ids[0].tolist()
    assert batch.image_mask.nonzero()[:, 0].tolist() == list(inputs.image_tokens[0].positions)


@torch.no_grad()
def test_the_batched_vision_tower_is_hugging_faces(built):
    architecture, model, processor = built
    images = [picture.image for picture in comics.synthetic(2, seed=0, panels=4)]
    inputs = processor.image_processor(images, return_tensors="pt")
    expected = model.model.get_image_features(**inputs)
    tokens, deep = architecture.encode_images(model, torch.from_numpy(np.stack([np.array(image) for image in images])))
    assert torch.allclose(tokens, torch.stack(list(expected.pooler_output)), atol=1e-5)
    for features, expected_features in zip(deep, getattr(expected, "deepstack_features", []), strict=True):
        assert torch.allclose(features, torch.stack(expected_features), atol=1e-5)


def test_facts_are_those_of_the_panel_that_a_token_lies_in(untrained):
    batch = strip_batch(np.random.default_rng(3), untrained[1].tokenizer, 2, 4, ("in order",))
    width = batch.pixels.shape[2] // 4 // TOKEN
    facts = batch.facts.view(2, 2, 4, width, 6)[..., :4]
    text = untrained[1].tokenizer.decode(batch.labels[0][batch.labels[0] != IGNORE], skip_special_tokens=True)
    assert (facts == facts[:, :1, :, :1]).all()
    assert text == " ".join(f"Panel {k + 1}: {comics.caption(facts[0, 0, k, 0].numpy())}" for k in range(4))


def test_scenes_never_hold_the_same_thing_twice():
    for cells in draw_cells(np.random.default_rng(0), 50, (3, 3)):
        things = [tuple(cell) for cell in cells.reshape(-1, 2) if cell[0] >= 0]
        assert len(set(things)) == len(things)


def test_every_word_of_the_recipe_is_one_token(untrained):
    tokenizer = untrained[1].tokenizer
    for line in sorted(set(texts())):
        words = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(line)
        assert len(tokenizer(line).input_ids) == len(words), line
    strange = "Zwölf Boxkämpfer, 日本 <|oops|>"
    assert tokenizer.decode(tokenizer(strange).input_ids) == strange


def test_the_penalty_rises_with_heads_that_attend_to_the_image_and_not_with_how_often_they_do():
    mass = torch.zeros(1, 4, 20)
    once, often, many = mass.clone(), mass.clone(), mass.clone()
    once[0, 0, :5] = 1
    often[0, 0, :10] = 1
    many[0, :, :5] = 0.5
    assert image_attention_penalty(often, 8) - image_attention_penalty(once, 8) < 0.1 * (
        image_attention_penalty(once, 8) - image_attention_penalty(mass, 8)
    )
    assert image_attention_penalty(many, 8) > image_attention_penalty(once, 8)


def test_the_penalty_is_higher_in_late_layers():
    nothing = image_attention_penalty(torch.zeros(6, 4, 20), 4)
    penalties = []
    for layer in range(6):
        mass = torch.zeros(6, 4, 20)
        mass[layer, 0] = 1
        penalties.append(float(image_attention_penalty(mass, 4) - nothing))
    assert penalties == pytest.approx([penalties[0] * factor for factor in (1, 1, 1, 4, 8, 8)], rel=1e-4)


def test_equal_phases_have_equal_rates_that_rise_and_fall():
    small = Size(width=32, layers=1, heads=2, kv_heads=1, head_width=16, mlp=48, vision_width=32, vision_mlp=48)
    trainer, rates = Trainer(seed=0, size=small, phases=(Phase("practise", 300, 2e-3, 1e-3, end=0.1),) * 2), []
    for trainer.step_index in range(600):
        trainer.set_rates(trainer.phase)
        rates.append([optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers])
    assert rates[:300] == rates[300:]
    assert rates[0][0] < rates[299][0] < rates[99][0] < 1e-3


def test_a_run_that_is_continued_ends_as_if_it_had_never_stopped(tmp_path):
    phases = (Phase("vision", 2, 0.0, 1e-3, end=1.0), Phase("learn", 3, 1e-3, 1e-3, end=0.1, image_penalty=0.01))
    phases = tuple(
        Phase(**{**vars(phase), "question_rows": 2, "narration_rows": 1, "scene_rows": 1}) for phase in phases
    )
    straight = Trainer(seed=1, size=SMALL, phases=phases)
    for _ in range(4):
        straight.step()
    torch.save(straight.state(), tmp_path / "state.pt")
    last = straight.step()
    continued = Trainer(seed=1, size=SMALL, phases=phases)
    continued.load(torch.load(tmp_path / "state.pt"))
    assert continued.step() == last
    assert continued.phase is None
    continued.export(tmp_path / "checkpoint")
    assert (tmp_path / "checkpoint" / "model.safetensors").exists()


@pytest.mark.parametrize("architecture", [QWEN3_VL, LLAVA], ids=lambda architecture: architecture.name)
def test_a_frozen_tower_stays_as_it_was_and_all_else_is_trained(architecture):
    phase = Phase("learn", 2, 1e-2, 1e-2, end=1.0, question_rows=2, narration_rows=1, scene_rows=1)
    trainer = Trainer(seed=1, size=SMALL, phases=(phase,), architecture=architecture, frozen=True)
    before = {name: parameter.clone() for name, parameter in trainer.model.named_parameters()}
    tower = {id(parameter) for parameter in architecture.tower_parameters(trainer.model)}
    trainer.step()
    for name, parameter in trainer.model.named_parameters():
        assert parameter.equal(before[name]) == (id(parameter) in tower), name
