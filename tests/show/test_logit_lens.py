"""Image tokens read as words, against Hugging Face's own hidden states, norm and head."""

import matplotlib
import numpy as np
import pytest
import torch

from gaze_lens import show
from gaze_lens.comics.generator import scenes
from gaze_lens.errors import InputError, ModelError
from gaze_lens.show.word_readings import _foremost


@pytest.mark.parametrize("family", ["Qwen3-VL", "Gemma 3", "Gemma 4", "LLaVA"])
@torch.no_grad()
def test_words_are_what_norm_and_head_make_of_hidden_states(shelf, strip, family):
    model, plain = shelf.get(family)
    inputs = model.prepare([strip, strip], ["What?", "What is it then?"])
    n_layers, row = model.cfg.n_layers, 0
    plot = show.logit_lens(model, inputs, layers=[0, n_layers - 2, -1], row=row)
    output = plain(**inputs.tensors, output_hidden_states=True)
    positions = inputs.image_tokens[0].positions.tolist()
    assert plot.data["positions"] == tuple(positions)
    assert plot.data["layers"] == (0, n_layers - 2, n_layers - 1)
    norm, head = plain.model.language_model.norm, plain.lm_head
    for index, layer in enumerate([0, n_layers - 2]):
        logits = head(norm(output.hidden_states[layer + 1][row, positions]))
        if cap := getattr(plain.config.get_text_config(), "final_logit_softcapping", None):
            logits = cap * torch.tanh(logits / cap)
        check(plot, index, logits)
    check(plot, 2, output.logits[row, positions])
    texts = tuple(inputs.tokenizer.decode([one]) for one in plot.data["ids"][2])
    assert plot.data["words"][2] == texts


def check(plot, index, logits):
    probabilities = logits.float().softmax(-1)
    ids, own = plot.data["ids"][index], plot.data["probabilities"][index]
    best = probabilities.max(-1).values.numpy()
    np.testing.assert_allclose(own, best, atol=1e-4)
    np.testing.assert_allclose(probabilities[range(len(ids)), ids].numpy(), best, atol=1e-5)


def test_the_second_image_and_its_layers_are_drawn(tiny_model, strip):
    scene = scenes(1, seed=0)[0]
    inputs = tiny_model.prepare([[strip, scene]], ["What?"])
    plot = show.logit_lens(tiny_model, inputs, image=1)
    n_tokens = len(inputs.image_tokens[1])
    assert plot.data["probabilities"].shape == (6, n_tokens)
    np.testing.assert_allclose(plot.data["boxes"], inputs.image_tokens[1].boxes)
    written = [text.get_text() for text in plot.figure.findobj(matplotlib.text.Text)]
    assert [text for text in written if text.startswith("after layer")] == [f"after layer {i}" for i in range(6)]
    assert f"layer 0: {plot.data['words'][0][0].strip()}" in str(plot)
    assert plot.render()[:4] == b"\x89PNG"


def test_hooks_that_come_along_are_seen(tiny_model, strip):
    inputs = tiny_model.prepare(strip, "What?")
    plain = show.logit_lens(tiny_model, inputs, layers=[-1]).data["probabilities"]
    hooks = [("blocks.2.hook_resid_post", lambda stream, hook: 2 * stream.flip(1))]
    changed = show.logit_lens(tiny_model, inputs, layers=[-1], fwd_hooks=hooks).data["probabilities"]
    assert not np.allclose(plain, changed)


def test_what_cannot_be_read_is_refused(shelf, model, strip, monkeypatch):
    inputs = model.prepare(strip, "What?")
    with pytest.raises(InputError, match=r"layers=\[4\] was given; expected some of 0 to 3"):
        show.logit_lens(model, inputs, layers=[4])
    with pytest.raises(InputError, match=r"layers=\[\]"):
        show.logit_lens(model, inputs, layers=[])
    with pytest.raises(InputError, match="no image 1; it has 1"):
        show.logit_lens(model, inputs, image=1)
    with pytest.raises(InputError, match="no row 1"):
        show.logit_lens(model, inputs, row=1)
    with pytest.raises(InputError, match="no image 0; it has 0"):
        show.logit_lens(model, model.prepare(None, "What?"))
    mllama = shelf.get("Mllama")[0]
    with pytest.raises(InputError, match="cross-attention"):
        show.logit_lens(mllama, mllama.prepare(strip, "What?"))
    monkeypatch.setattr("gaze_lens.show.word_readings.CLOSE", -1.0)
    with pytest.raises(ModelError, match="make other logits"):
        show.logit_lens(model, inputs)


def test_of_views_that_overlap_the_smaller_tokens_are_drawn():
    nan = [np.nan] * 4
    boxes = np.array([[0, 0, 20, 20], [0, 0, 10, 10], [10, 0, 20, 10], nan, [40, 0, 60, 20]], dtype=np.float32)
    assert _foremost(boxes) == [1, 2, 4]
