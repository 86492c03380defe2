"""Trajectories over segments of text, against full patterns that are summed by hand."""

import numpy as np
import pytest
import torch
from painting import noise
from PIL import Image

import gaze_lens as gl
from gaze_lens.errors import InputError

HEADS = ["L2H1", "L0H3"]
TEXTS = gl.passages(["Anna lives in Paris.", "Ben lives in Rome.", "Cy"])
PICTURE = gl.Picture(Image.fromarray(noise(96, 64)), gl.panels(3, 96, 64))


@pytest.fixture(scope="module", params=["LlamaForCausalLM", "Qwen3-VL", "Mllama"])
def model(request, shelf):
    if request.param == "LlamaForCausalLM":
        return gl.HookedVLM.wrap(*gl.testing.tiny(request.param))
    return shelf.get(request.param)[0]


@torch.no_grad()
@pytest.mark.parametrize("weighted", [False, True])
def test_masses_are_those_of_full_patterns(model, weighted):
    inputs = model.prepare(TEXTS, "Who?")
    steps = {"max_new_tokens": 4, "min_new_tokens": 4}
    trajectory = gl.track(model, inputs, HEADS, weighted=weighted, **steps)
    assert trajectory.regions == TEXTS.names
    assert trajectory.captions == TEXTS.captions
    kept = model.generate(inputs, names_filter=lambda name: name.endswith(("hook_pattern", "hook_v")), **steps)
    for step in range(4):
        for index, (layer, head) in enumerate([(2, 1), (0, 3)]):
            row = kept.activations[f"blocks.{layer}.attn.hook_pattern"][step][0, head, -1]
            if weighted:
                values = kept.activations[f"blocks.{layer}.attn.hook_v"][0][0]
                row = row[: len(values)] * values[:, head * values.shape[1] // model.cfg.n_heads].norm(dim=-1)
            segments = [row[list(inputs.region(name).positions[0])] for name in TEXTS.names]
            sums = torch.stack([segment.sum() for segment in segments])
            torch.testing.assert_close(trajectory.mass[step, index], sums, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(trajectory.on_image[step, index], sums.sum(), atol=1e-5, rtol=1e-5)
            shares = torch.cat(segments) / sums.sum()
            entropy = float(-(shares * shares.log2()).sum())
            assert np.isclose(float(trajectory.entropy[step, index]), entropy, atol=1e-4)
    agreement = trajectory.described_in([(range(2), "segment 1")])
    assert agreement[:2] == ("segment 1",) * 2


def test_steered_heads_look_at_their_segment(model):
    inputs = model.prepare(TEXTS, "Who?")
    hooks = gl.steer(["L0H3"], schedule=[(0, inputs.region("segment 3")), (2, inputs.region("segment 1"))])
    trajectory = gl.track(model, inputs, ["L0H3"], fwd_hooks=hooks, max_new_tokens=4, min_new_tokens=4)
    assert trajectory.looked_at == ("segment 3",) * 2 + ("segment 1",) * 2
    assert (trajectory.mass[:2, 0, 2] > 0.99).all()
    assert (trajectory.mass[2:, 0, 0] > 0.99).all()


@torch.no_grad()
def test_a_segment_is_knocked_out(model):
    inputs = model.prepare(TEXTS, "Who?")
    hooks = gl.knockout(["L0H3"], gl.patching.group(inputs, "last"), inputs.region("segment 2"))
    name = "blocks.0.attn.hook_pattern"
    with model.hooks(hooks):
        pattern = model.run_with_cache(inputs, names_filter=name)[1][name]
    last = pattern[0, 3, -1]
    assert last[list(inputs.region("segment 2").positions[0])].sum() == 0
    assert last[list(inputs.region("segment 1").positions[0])].sum() > 0


def test_regions_of_different_things_are_not_tracked_together(shelf):
    model = shelf.get("Qwen3-VL")[0]
    inputs = model.prepare([[PICTURE, TEXTS]], "Who?")
    with pytest.raises(InputError, match=r"'panel 1' and 'segment 1' are parts of different things"):
        gl.track(model, inputs, HEADS, max_new_tokens=2)
    tracked = gl.track(model, inputs, HEADS, regions=["segment 1", "segment 2"], max_new_tokens=2)
    assert tracked.regions == ("segment 1", "segment 2")
    assert gl.track(model, inputs, HEADS, regions=list(PICTURE.regions), max_new_tokens=2).mass.sum() > 0
    spans = [inputs.region(inputs.span(text)) for text in ("Anna", "Ben")]
    with pytest.raises(InputError, match="are parts of different things"):
        gl.track(model, inputs, HEADS, regions=spans, max_new_tokens=2)
    spans = [inputs.region(inputs.span(text), around="text") for text in ("Anna", "Ben")]
    assert gl.track(model, inputs, HEADS, regions=spans, max_new_tokens=2).mass.sum() > 0
