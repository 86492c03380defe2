"""Every family's heads: what hooks see, edits in prefill and decoding, gradients, scores, steering, projections."""

import pytest
import torch
from every_family import NAMES, Case, Recorder, largest, scale_of
from measurements import record
from reference import at_real, look, picture

import gaze_lens as gl
from gaze_lens.errors import HookError
from gaze_lens.regions.picture import Picture, panels

SIDE = 96  # pixels: the side of a panel
LOWEST = torch.finfo(torch.float32).min


@pytest.fixture(params=NAMES)
def case(request, shelf):
    return Case.of(request.param, shelf)


@pytest.fixture
def strip():
    return Picture(picture(2 * SIDE, SIDE, seed=3), panels(2, 2 * SIDE, SIDE))


def eager_patterns(case, tensors):
    """Layer -> Hugging Face's own attention weights, of the layers that have any."""
    output = case.eager(**tensors, output_attentions=True)
    weights = [pattern for pattern in output.attentions if pattern is not None]
    return dict(zip(case.live, weights, strict=True))


def keep(into):
    """A hook function that keeps what it sees, by hook name and in order."""

    def function(tensor, hook):
        into.setdefault(hook.name, []).append(tensor.detach().clone())

    return function


def rows(matrix, inputs):
    """`[row, head, query, key]` as `[query, head, key]`, of queries that are not padding."""
    return matrix.transpose(1, 2)[inputs.tensors["attention_mask"].bool()]


@torch.no_grad()
def test_scores_come_before_the_softmax_and_patterns_are_hugging_faces(case):
    seen = {}
    case.model.run_with_hooks(case.inputs, fwd_hooks=case.hooks(keep(seen)))
    worst = 0.0
    for layer, expected in eager_patterns(case, case.inputs.tensors).items():
        (scores,), (pattern,) = (seen[f"blocks.{layer}.attn.{name}"] for name in ("hook_attn_scores", "hook_pattern"))
        expected, scores, pattern = (rows(matrix, case.inputs) for matrix in (expected, scores, pattern))
        worst = max(worst, largest(pattern - expected))
        assert torch.equal(pattern, expected)
        assert (scores[scores < LOWEST / 2] == LOWEST).all(), "what is masked holds the lowest value"
        seeing = (scores > LOWEST / 2).any(-1)  # a text row of a cross-attention layer may see nothing at all
        torch.testing.assert_close(scores.softmax(-1)[seeing], pattern[seeing], atol=1e-6, rtol=0)
        assert (pattern[(scores == LOWEST) & seeing[..., None]] == 0).all()
    record(case.name, patterns_to_eager=worst)


def silence(head, steps):
    """Set a head's pattern to 0 in the prefill, in decode steps, or in both."""

    def function(pattern, hook):
        if gl.QueryKeyPositions.of(pattern, hook).step in steps:
            pattern[:, head] = 0
        return pattern

    return function


@pytest.mark.parametrize("steps", [range(1), range(1, 9)], ids=["prefill", "decode"])
@torch.no_grad()
def test_edited_patterns_act(case, steps):
    layer, outcomes = case.seeing[0], []
    for edit in (look, silence(1, steps)):
        seen, recorder = {}, Recorder()
        hooks = [*case.hooks(edit, [layer], ["hook_pattern"]), (f"blocks.{layer}.attn.hook_z", keep(seen))]
        case.model.generate(
            case.inputs, fwd_hooks=hooks, logits_processor=[recorder], max_new_tokens=3, min_new_tokens=3
        )
        outcomes.append((next(iter(seen.values())), recorder.scores))
    (plain_z, plain_scores), (edited_z, edited_scores) = outcomes
    assert len(plain_z) == 3
    for step, (plain, edited) in enumerate(zip(plain_z, edited_z, strict=True)):
        heads = [head for head in range(case.model.cfg.n_heads) if head != 1]
        if step in steps:
            assert (edited[:, :, 1] == 0).all()
            assert (plain[:, :, 1] != 0).any()
        if step <= steps[0]:
            assert torch.equal(plain[:, :, heads], edited[:, :, heads])
            changed = largest(plain_scores[step] - edited_scores[step])
            assert changed > 1e-4 if step in steps else changed == 0


@torch.no_grad()
def test_edited_scores_act(case):
    layer, inputs = case.seeing[-1], case.inputs
    key, seen = inputs.layout.images[1][1], {}

    def knock_out(scores, hook):
        scores[1, 2, :, key] = LOWEST
        return scores

    edit = case.hooks(knock_out, [layer], ["hook_attn_scores"])
    before = case.model.run_with_hooks(inputs, fwd_hooks=case.hooks(keep(seen), [layer], ["hook_pattern"]))
    after = case.model.run_with_hooks(inputs, fwd_hooks=edit + case.hooks(keep(seen), [layer], ["hook_pattern"]))
    plain, edited = seen[f"blocks.{layer}.attn.hook_pattern"]
    real = inputs.tensors["attention_mask"][1].bool()
    one, other = plain[1, 2, real], edited[1, 2, real]
    assert (one[:, key] > 0).any()
    left = one.clone()
    left[:, key] = 0
    sees_more = left.sum(-1) > 1e-3
    assert (other[sees_more][:, key] == 0).all()
    left = left / left.sum(-1, keepdim=True).clamp(min=1e-9)
    torch.testing.assert_close(other[sees_more], left[sees_more], atol=1e-6, rtol=1e-3)
    plain[1, 2] = edited[1, 2]
    assert torch.equal(plain, edited), "other heads and rows are as before"
    assert largest(at_real(after - before, inputs)) > 1e-5


def test_gradients_flow_through_an_edited_pattern(case):
    layer, direction = case.seeing[-1], torch.tensor([1.0, -0.5, 2.0, 0.3])

    def answer(factors):
        def scale(pattern, hook):
            return pattern * factors[:, None, None]

        logits = case.model.run_with_hooks(case.inputs, fwd_hooks=case.hooks(scale, [layer], ["hook_pattern"]))
        return logits[:, -1, 40:80].pow(2).mean()

    factors = torch.ones(4, requires_grad=True)
    answer(factors).backward()
    case.model.original_model.zero_grad()
    got = float((factors.grad * direction).sum())
    step = 2e-3  # small, so that no router of experts changes its mind
    with torch.no_grad():
        up, down = (float(answer(1 + sign * step * direction)) for sign in (1, -1))
    expected = (up - down) / (2 * step)
    assert abs(expected) > 1e-3
    assert got == pytest.approx(expected, rel=2e-2)


@torch.no_grad()
def test_head_scores_are_what_a_slow_loop_over_full_attentions_gives(case, strip):
    scores = gl.score_heads(case.model, [strip], progress=False).samples[0]
    assert scores.shape == (case.model.cfg.n_layers, case.model.cfg.n_heads, 2, 2)
    worst = 0.0
    for asked in range(2):
        inputs = case.model.prepare(strip, gl.comics.ask(asked))
        (tokens,) = inputs.image_tokens
        x = (tokens.boxes[:, 0] + tokens.boxes[:, 2]) / 2
        for layer, pattern in eager_patterns(case, inputs.tensors).items():
            if layer not in case.seeing:
                continue
            for head in range(case.model.cfg.n_heads):
                masses = [0.0, 0.0]
                for position, centre in zip(tokens.positions.tolist(), x.tolist(), strict=True):
                    if centre == centre:  # tokens without a box have none
                        masses[int(centre >= SIDE)] += float(pattern[0, head, -1, position])
                worst = max(worst, largest(scores[layer, head, asked] - torch.tensor(masses)))
    record(case.name, scores_to_slow_loop=worst)
    assert worst < 2e-5
    assert scores[list(case.seeing)].min() >= 0
    assert scores[list(case.seeing)].max() > 0.02


@pytest.mark.every_family
@torch.no_grad()
def test_steering_moves_exactly_the_chosen_heads(case, strip):
    first, last = case.seeing[0], case.seeing[-1]
    inputs = case.model.prepare([strip, strip], ["What?", "a longer question"])
    region = inputs.region(["panel 2", "panel 1"])
    hooks = gl.steer([(first, 1), (last, 2)], region)
    before, after = {}, {}
    case.model.run_with_hooks(inputs, fwd_hooks=case.hooks(keep(before), points=["hook_pattern"]))
    case.model.run_with_hooks(inputs, fwd_hooks=hooks + case.hooks(keep(after), points=["hook_pattern"]))
    before, after = ({name: kept[0] for name, kept in seen.items()} for seen in (before, after))
    for layer in [layer for layer in case.live if layer <= first]:
        name = f"blocks.{layer}.attn.hook_pattern"
        others = [head for head in range(case.model.cfg.n_heads) if (layer, head) != (first, 1)]
        assert torch.equal(before[name][:, others], after[name][:, others])
    least = 1.0
    for layer, head in ((first, 1), (last, 2)):
        name = f"blocks.{layer}.attn.hook_pattern"
        for row, target in enumerate(region.positions):
            could = before[name][row, head][:, list(target)].sum(-1) > 0
            could &= inputs.tensors["attention_mask"][row].bool()
            assert could.any()
            mass = after[name][row, head][could][:, list(target)].sum(-1)
            least = min(least, float(mass.min()))
    record(case.name, least_mass_on_target=-least)
    assert least > 0.999
    plain, steered = (case.model.generate(inputs, fwd_hooks=given, max_new_tokens=2) for given in ([], hooks))
    assert plain.sequences.shape == steered.sequences.shape


SWITCHES = {
    "attn_result": ["hook_result"],
    "split_qkv_input": ["hook_q_input", "hook_k_input", "hook_v_input"],
    "attn_in": ["hook_attn_in"],
}


def check_refused(case, name):
    """A hook point that a layer cannot have is an error that says why."""
    with pytest.raises((HookError, NotImplementedError), match=f"{name} .*: .{{10}}"):
        case.model.run_with_hooks(case.inputs, fwd_hooks=[(name, look)])


@pytest.mark.parametrize("point", ["hook_rot_q", "hook_rot_k"])
@torch.no_grad()
def test_rotated_queries_and_keys_are_editable_or_refused(case, point):
    expected = case.model(case.inputs)
    for layer in range(case.model.cfg.n_layers):
        name = f"blocks.{layer}.attn.{point}"
        if point in case.capabilities.layers[layer].hooks:
            got = case.model.run_with_hooks(case.inputs, fwd_hooks=[(name, lambda tensor, hook: tensor * -2)])
            assert largest(at_real(got - expected, case.inputs)) > 1e-4, f"{name} changed nothing"
        else:
            check_refused(case, name)


@pytest.mark.parametrize("switch", SWITCHES)
@torch.no_grad()
def test_results_and_split_inputs_work_or_are_refused(case, switch):
    expected, turn = case.model(case.inputs), getattr(case.model, f"set_use_{switch}")
    names = {
        f"blocks.{layer}.attn.{name}": name in case.capabilities.layers[layer].hooks
        for layer in range(case.model.cfg.n_layers)
        for name in SWITCHES[switch]
    }
    live, fired, changed = [name for name, there in names.items() if there], set(), {}
    assert live
    turn(True)
    try:
        hooks = [(name, lambda tensor, hook: fired.add(hook.name)) for name in live]
        split = at_real(case.model.run_with_hooks(case.inputs, fwd_hooks=hooks), case.inputs)
        for name in live:
            shifted = case.model.run_with_hooks(case.inputs, fwd_hooks=[(name, lambda t, hook: t.roll(1, dims=1))])
            changed[name] = largest(at_real(shifted - expected, case.inputs))
        for name in set(names) - set(live):
            check_refused(case, name)
    finally:
        turn(False)
    torch.testing.assert_close(split, at_real(expected, case.inputs), atol=2e-5 * scale_of(expected), rtol=0)
    assert fired == set(live)
    assert min(changed.values()) > 1e-4, changed
