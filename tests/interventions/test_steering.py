"""Steering against a softmax written out by hand, and every way in which it can be told nonsense."""

import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image

import gaze_lens as gl
from gaze_lens import testing
from gaze_lens.errors import HeadError, HookError, InputError, RegionError
from gaze_lens.interventions.steering import MODES, Mode
from gaze_lens.regions.picture import Picture, panels

HEADS = ["L1H0", "L1H3", "L2H2"]
FIRST = "blocks.1.attn"
STEPS = {"max_new_tokens": 6, "min_new_tokens": 6}
EVERY = gl.Positions.everything()


def picture(n=3, seed=0):
    """n panels of one token by two."""
    pixels = np.random.default_rng(seed).integers(0, 256, (64, n * 32, 3), dtype=np.uint8)
    return Picture(Image.fromarray(pixels), panels(n, n * 32, 64))


@pytest.fixture
def inputs(model):
    return model.prepare(picture(), "What is going on?")


@pytest.fixture
def batch(model):
    """Two rows, the second padded on the left by four tokens and more."""
    return model.prepare([picture(4), picture(3, seed=1)], ["What is going on here?", "What?"])


def kinds(inputs, region, row, n_keys):
    """For each key: which of the mode's numbers it gets, from the token ids alone."""
    ids = inputs.input_ids[row].tolist()
    attended = inputs.tensors["attention_mask"][row].tolist()
    image_id = inputs.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    names = []
    for key in range(n_keys):
        if key >= len(ids):
            names.append("generated")
        elif not attended[key]:
            names.append("padding")
        elif ids[key] == image_id:
            names.append("target" if key in region.positions[row] else "others")
        else:
            names.append("prompt")
    return names


def by_hand(scores, bias):
    """Softmax of scores plus a bias, in double precision."""
    scores = scores.double() + bias
    return torch.softmax(scores, dim=-1)


def saver(name, into):
    """A hook pair that keeps what a hook point held when it was reached."""
    return name, lambda tensor, hook: into.append(tensor.detach().clone())


def biases(inputs, region, mode, row, n_keys):
    """What a mode adds to each key of a row, as a tensor."""
    names = kinds(inputs, region, row, n_keys)
    return torch.tensor([0.0 if name == "padding" else getattr(mode, name) for name in names], dtype=torch.double)


WHERES = {
    "both": ["prefill", "decode"],
    "prefill": ["prefill"],
    "after image": ["after image"],
    "after image and decode": ["after image", "decode"],
    "decode": ["decode"],
}


@pytest.mark.parametrize("where", WHERES.values(), ids=WHERES)
@pytest.mark.parametrize(
    "mode", [*(make(3.0) for make in MODES), Mode(1.5, -0.5, 2.0, -4.0)], ids=lambda m: str(m)[5:-1]
)
@pytest.mark.parametrize("as_published", [False, True])
def test_every_step_is_the_softmax_of_scores_and_bias(model, batch, mode, where, as_published):
    region = batch.region(["panel 2", "panel 3"])
    before = []
    steering = gl.steer(HEADS, region, mode=mode, where=where, as_published=as_published)
    generation = model.generate(
        batch, fwd_hooks=[saver(f"{FIRST}.hook_attn_scores", before), *steering],
        names_filter=f"{FIRST}.hook_pattern", **STEPS,
    )  # fmt: skip
    patterns = generation.activations[f"{FIRST}.hook_pattern"]
    assert len(patterns) == len(before) == 6
    length = batch.shape[1]
    for step, (scores, pattern) in enumerate(zip(before, patterns, strict=True)):
        for row in range(2):
            added = biases(batch, region, mode, row, pattern.shape[-1])
            real = [q for q in range(pattern.shape[2]) if step or batch.tensors["attention_mask"][row, q]]
            last_image = max(batch.layout.images[row])
            for head in range(4):
                for query in real:
                    position = query if step == 0 else length - 1 + step
                    acts = "decode" in where if step else "prefill" in where or (
                        "after image" in where and position > last_image
                    )  # fmt: skip
                    bias = added if acts and head in (0, 3) else torch.zeros_like(added)
                    expected = by_hand(scores[row, head, query], bias)
                    torch.testing.assert_close(pattern[row, head, query].double(), expected, atol=2e-6, rtol=0)


def allowed(mode_name):
    """Which kinds of keys a saturated mode leaves: everything else gets nothing."""
    return {
        "boost_and_suppress": {"target"},
        "suppress_image": {"target", "prompt", "generated"},
        "suppress_all": {"target", "generated"},
        "max_suppress_all": {"target"},
    }[mode_name]


@pytest.mark.parametrize("make", MODES, ids=lambda make: make.__name__)
def test_saturated_modes_leave_the_allowed_keys_as_the_model_weighs_them(model, batch, make):
    region = batch.region(["panel 1", "panel 2"])
    before = []
    hooks = [saver(f"{FIRST}.hook_attn_scores", before), *gl.steer(HEADS, region, mode=make())]
    generation = model.generate(batch, fwd_hooks=hooks, names_filter=f"{FIRST}.hook_pattern", **STEPS)
    for scores, pattern in zip(before, generation.activations[f"{FIRST}.hook_pattern"], strict=True):
        for row in range(2):
            stays = torch.tensor(
                [name in allowed(make.__name__) for name in kinds(batch, region, row, pattern.shape[-1])]
            )
            for head in (0, 3):
                expected = torch.softmax(scores[row, head, -1].double(), -1) * stays
                expected = expected / expected.sum()
                torch.testing.assert_close(pattern[row, head, -1].double(), expected, atol=1e-6, rtol=1e-5)


def test_the_four_numbers_end_where_they_should(model, inputs):
    region = inputs.region("panel 2")
    target = list(region.positions[0])

    def last_row(hooks):
        with model.hooks(hooks):
            _, cache = model.run_with_cache(inputs, names_filter=lambda name: name.endswith("attn.hook_pattern"))
        return {layer: cache["pattern", layer][0, :, -1] for layer in range(4)}

    plain = last_row([])
    boosted, weak = (
        last_row(gl.steer(HEADS, region)),
        last_row(gl.steer(HEADS, region, mode=gl.boost_and_suppress(1.0))),
    )
    assert (plain[1][:, target].sum(-1) < 0.9).all()
    for layer, heads in ((1, [0, 3]), (2, [2])):
        assert (boosted[layer][heads][:, target].sum(-1) > 0.9999).all()
    assert (weak[1][[0, 3]][:, target].sum(-1) > plain[1][[0, 3]][:, target].sum(-1)).all()
    assert torch.equal(boosted[0], plain[0])
    assert torch.equal(boosted[1][[1, 2]], plain[1][[1, 2]]), "other heads of the layer are untouched"
    assert not torch.equal(boosted[3], plain[3]), "and later layers read what the steered heads wrote"


def test_the_fast_path_gives_the_full_paths_results(model, batch):
    region = batch.region(["panel 2", "panel 3"])
    touch = [(f"blocks.{layer}.attn.hook_attn_scores", lambda scores, hook: scores) for layer in range(4)]
    for make, where in itertools.product(MODES, (["prefill"], ["after image", "decode"])):
        hooks = gl.steer(HEADS, region, mode=make(3.0), where=where)
        real = batch.tensors["attention_mask"].bool()
        if "prefill" in where:
            fast = model.run_with_hooks(batch, fwd_hooks=hooks)
            full = model.run_with_hooks(batch, fwd_hooks=[*touch, *hooks])
            torch.testing.assert_close(fast[real], full[real], atol=1e-5, rtol=1e-4)
            plain = model(batch)
            assert (fast[real] - plain[real]).abs().max() > 1e-3
        fast, full = (model.generate(batch, fwd_hooks=h, **STEPS).tokens for h in (hooks, [*touch, *hooks]))
        assert torch.equal(fast, full)


def step_masses(model, inputs, hooks, names, **options):
    """For each step, each sequence, the mass of the last query of head L1H0 on each of the named regions."""
    generation = model.generate(inputs, fwd_hooks=hooks, names_filter=f"{FIRST}.hook_pattern", **{**STEPS, **options})
    regions = [inputs.region(name) for name in names]
    patterns = generation.activations[f"{FIRST}.hook_pattern"]
    n_rows = inputs.n_rows
    return generation, [
        [
            [float(pattern[b, 0, -1, list(region.positions[b * n_rows // len(pattern)])].sum()) for region in regions]
            for b in range(len(pattern))
        ]
        for pattern in patterns
    ]  # fmt: skip


def test_a_schedule_switches_at_its_steps(model, inputs):
    names = ["panel 1", "panel 2", "panel 3"]
    one, two, three = (inputs.region(name) for name in names)
    hooks = gl.steer(HEADS, schedule=[(0, two), (2, three), (5, one)])
    generation, masses = step_masses(model, inputs, hooks, names)
    assert generation.unreached == ()
    for step, expected in enumerate([1, 1, 2, 2, 2, 0]):
        assert masses[step][0][expected] > 0.999, f"step {step}"
    late, masses = step_masses(model, inputs, gl.steer(HEADS, schedule=[(3, two)], where=["decode"]), names)
    _, plain = step_masses(model, inputs, [], names)
    assert masses[:3] == plain[:3]
    assert all(masses[step][0][1] > 0.999 for step in (3, 4, 5))
    assert late.unreached == ()


def test_entries_after_the_end_of_the_text_are_reported(model, inputs):
    one, two = inputs.region("panel 1"), inputs.region("panel 2")
    hooks = gl.steer(HEADS, schedule=[(0, one), (5, two), (6, one), (50, two)])
    late = [hooks[index * 2][1] for index in (2, 3)]  # two layers to an entry
    assert list(model.generate(inputs, fwd_hooks=hooks, **STEPS).unreached) == late
    assert model.generate(inputs, fwd_hooks=hooks[:4], **STEPS).unreached == ()


def test_decode_only_leaves_the_prefill_alone_and_prefill_only_the_decoding(model, inputs):
    names = ["panel 1", "panel 2", "panel 3"]
    region = inputs.region("panel 2")
    _, plain = step_masses(model, inputs, [], names)
    _, decode = step_masses(model, inputs, gl.steer(HEADS, region, where=["decode"]), names)
    _, prefill = step_masses(model, inputs, gl.steer(HEADS, region, where=["prefill"]), names)
    assert decode[0] == plain[0]
    assert all(masses[0][1] > 0.999 for masses in decode[1:])
    assert prefill[0][0][1] > 0.999
    assert all(masses[0][1] < 0.99 for masses in prefill[1:])


@pytest.mark.parametrize(
    "options",
    [{}, {"num_beams": 3}, {"do_sample": True, "num_return_sequences": 3, "temperature": 3.0},
     {"num_beams": 4, "num_return_sequences": 2}, {"cache_implementation": "static"}],
    ids=["greedy", "beams", "samples", "beams returned", "static cache"],
)  # fmt: skip
def test_every_row_keeps_its_target(model, batch, options):
    torch.manual_seed(0)
    names, targets = ["panel 1", "panel 2", "panel 3"], [0, 2]
    hooks = gl.steer(HEADS, batch.region([names[target] for target in targets]))
    generation, masses = step_masses(model, batch, hooks, names, **options)
    copies = options.get("num_beams", options.get("num_return_sequences", 1))
    for step in masses:
        assert len(step) == 2 * copies
        for index, sequence in enumerate(step):
            assert sequence[targets[index // copies]] > 0.999
    assert len(generation.texts) == 2 * options.get("num_return_sequences", 1)


def test_a_row_of_a_batch_is_steered_as_it_is_alone(model):
    pictures, prompts = [picture(4), picture(3, seed=1)], ["What is going on here?", "What?"]
    batch = model.prepare(pictures, prompts)
    together = model.generate(batch, fwd_hooks=gl.steer(HEADS, batch.region(["panel 2", "panel 3"])), **STEPS)
    for row, name in enumerate(["panel 2", "panel 3"]):
        alone = model.prepare(pictures[row], prompts[row])
        generation = model.generate(alone, fwd_hooks=gl.steer(HEADS, alone.region(name)), **STEPS)
        assert torch.equal(generation.tokens[0], together.tokens[row])
        assert generation.texts[0] == together.texts[row]


@pytest.mark.parametrize("make", MODES)
@pytest.mark.parametrize("as_published", [False, True])
def test_rows_that_are_not_named_are_left_alone(model, batch, make, as_published):
    options = {"mode": make(2.0), "as_published": as_published}
    first = gl.steer(HEADS, batch.region("panel 2"), rows=[0], **options)
    second = gl.steer(HEADS[1:], batch.region("panel 3"), rows=[1], **options)
    names = [f"{FIRST}.hook_pattern", "blocks.2.attn.hook_pattern"]

    def run(hooks):
        return model.generate(batch, fwd_hooks=hooks, names_filter=names, **STEPS).activations

    plain, both = run([]), run([*first, *second])
    only = [run(first), run(second)]
    whole = [run(gl.steer(HEADS, batch.region("panel 2"), **options)),
             run(gl.steer(HEADS[1:], batch.region("panel 3"), **options))]  # fmt: skip
    for name in names:
        for step in range(2):  # later steps follow from what these produced
            for row in (0, 1):
                near = {"atol": 1e-6, "rtol": 1e-5}
                torch.testing.assert_close(only[1 - row][name][step][row], plain[name][step][row], **near)
                torch.testing.assert_close(both[name][step][row], whole[row][name][step][row], **near)
    assert not torch.equal(both[names[0]][0][0], plain[names[0]][0][0])


def test_steering_composes_with_other_hooks_in_any_order(model, inputs):
    region, read = inputs.region("panel 2"), []

    def silence(pattern, hook):
        pattern[:, 1] = 0.0
        return pattern

    def lift(scores, hook):
        scores[:, 2, :, list(region.positions[0])] += 2.0
        return scores

    reader = gl.RowReader(gl.Positions.of([inputs.last_position]), lambda rows, *_: read.append(rows.clone()))
    groups = [gl.steer(["L1H0", "L1H3"], region, mode=gl.suppress_all(3.0)), [(f"{FIRST}.hook_pattern", silence)],
              [(f"{FIRST}.hook_attn_scores", lift)]]  # fmt: skip
    results = []
    for order in itertools.permutations(groups):
        results.append(
            model.run_with_hooks(inputs, fwd_hooks=[*itertools.chain(*order), (f"{FIRST}.hook_pattern", reader)])
        )
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], atol=1e-5, rtol=1e-5)
    _, cache = model.run_with_cache(inputs, names_filter=f"{FIRST}.hook_attn_scores")
    scores, mode = cache[f"{FIRST}.hook_attn_scores"][0, :, -1], gl.suppress_all(3.0)
    added = biases(inputs, region, mode, 0, scores.shape[-1])
    lifted = torch.zeros_like(added)
    lifted[list(region.positions[0])] = 2.0
    for rows in read:
        assert rows[0, 1, 0].eq(0).all()
        torch.testing.assert_close(rows[0, 2, 0].double(), by_hand(scores[2], lifted), atol=1e-6, rtol=0)
        for head in (0, 3):
            torch.testing.assert_close(rows[0, head, 0].double(), by_hand(scores[head], added), atol=1e-6, rtol=0)


def test_two_steerings_add_up(model, inputs):
    region = inputs.region("panel 1")
    twice = gl.steer(HEADS, region, mode=Mode(1.0, -1.0)) + gl.steer(HEADS, region, mode=Mode(0.5, 0.0, 1.0))
    once = gl.steer(HEADS, region, mode=Mode(1.5, -1.0, 1.0))
    both = [model.run_with_hooks(inputs, fwd_hooks=hooks) for hooks in (twice, once)]
    torch.testing.assert_close(*both, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("as_published", [False, True])
def test_the_same_number_for_all_keys_changes_nothing(model, inputs, as_published):
    region, plain = inputs.region("panel 1"), model(inputs)

    def run(*numbers):
        hooks = gl.steer(HEADS, region, mode=Mode(*numbers), as_published=as_published)
        return model.run_with_hooks(inputs, fwd_hooks=hooks)

    torch.testing.assert_close(run(3, 3, 3, 3), plain, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(run(2, -1, 0, 0), run(4, 1, 2, 2), atol=1e-4, rtol=1e-4)
    assert (run(2, -1, 0, 0) - plain).abs().max() > 1e-2


def within_target(model, inputs, region, as_published):
    """The pattern of L1H0's last row inside the target, scaled to 1, and what the model's own scores say of it."""
    before = []
    hooks = [saver(f"{FIRST}.hook_attn_scores", before), *gl.steer(HEADS, region, as_published=as_published)]
    with model.hooks(hooks):
        _, cache = model.run_with_cache(inputs, names_filter=f"{FIRST}.hook_pattern")
    target = list(region.positions[0])
    seen = cache[f"{FIRST}.hook_pattern"][0, 0, -1, target].double()
    return seen / seen.sum(), torch.softmax(before[0][0, 0, -1, target].double(), -1)


def test_relative_keeps_the_models_preferences_and_as_published_rounds_them(model, inputs):
    region = inputs.region((0, 0, 64, 64))
    exact, own = within_target(model, inputs, region, False)
    rounded, same = within_target(model, inputs, region, True)
    assert torch.equal(own, same)
    assert own.max() / own.min() > 1.1
    assert (exact / own - 1).abs().max() < 1e-5
    assert 1e-6 < (rounded / own - 1).abs().max() < 1.5e-3  # paper.md: about 7e-4 in float32


def test_in_bfloat16_as_published_equalises_and_relative_does_not():
    hf_model, processor = testing.tiny("Qwen3-VL")
    model = gl.HookedVLM.wrap(hf_model.bfloat16(), processor)
    inputs = model.prepare(picture(), "What is going on?")
    region = inputs.region((0, 0, 64, 64))
    exact, own = within_target(model, inputs, region, False)
    flat, _ = within_target(model, inputs, region, True)
    assert own.max() / own.min() > 1.1
    assert torch.equal(flat, torch.full_like(flat, 1 / 4))
    assert (exact / own - 1).abs().max() < 0.02


def test_the_same_hooks_serve_many_runs(model, inputs):
    hooks = gl.steer(HEADS, inputs.region("panel 3"))
    first, second = (model.run_with_hooks(inputs, fwd_hooks=hooks) for _ in range(2))
    assert torch.equal(first, second)
    encoded = model.encode(inputs)
    torch.testing.assert_close(model.run_with_hooks(encoded, fwd_hooks=hooks), first, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda r: gl.steer([], r), HeadError, r"set of heads is empty; choose at least one head.*scores\.top"),
        (lambda r: gl.steer(HEADS), InputError, "a region or a schedule of .*exactly one of them"),
        (lambda r: gl.steer(HEADS, r, schedule=[(0, r)]), InputError, "exactly one of them"),
        (lambda r: gl.steer(HEADS, schedule=[]), InputError, "The schedule is empty; give at least one"),
        (lambda r: gl.steer(HEADS, schedule=[(4, r), (2, r)]), InputError, r"steps are \[4, 2\]; they must ascend"),
        (lambda r: gl.steer(HEADS, schedule=[(4, r), (4, r)]), InputError, r"steps are \[4, 4\].*each step once"),
        (lambda r: gl.steer(HEADS, schedule=[(-1, r)]), InputError, "has step -1; steps are whole numbers from 0"),
        (lambda r: gl.steer(HEADS, r, where=["everywhere"]), InputError,
         r"where=\['everywhere'\] was given; give a list with one or more of prefill, after image, decode"),
        (lambda r: gl.steer(HEADS, r, where=[]), InputError, r"where=\[\] was given; give a list"),
        (lambda r: gl.steer(HEADS, schedule=[(0, r), (5, r)], where=["prefill"]), InputError,
         "from step 5 to step inf would never act: step 0 is the prefill.*Add \"prefill\" or \"decode\""),
        (lambda r: gl.steer(HEADS, schedule=[(0, r), (1, r)], where=["decode"]), InputError,
         "from step 0 to step 1 would never act"),
        (lambda r: gl.steer(HEADS, r, rows=[1]), InputError, r"rows=\[1\] was given; .*the batch's rows, 0 to 0"),
        (lambda r: gl.steer(HEADS, r, rows=[]), InputError, r"rows=\[\] was given"),
        (lambda r: gl.steer(HEADS, r, mode=gl.suppress_image(0)), InputError, "are 0: it would do nothing. Give a str"),
        (lambda r: gl.steer(HEADS, r, mode=gl.suppress_all(math.nan)), InputError, "nan.*give finite strengths"),
        (lambda r: gl.steer(HEADS, r, mode=gl.boost_and_suppress(math.inf)), InputError, "infinities of both signs"),
    ],
)  # fmt: skip
def test_what_steer_refuses(inputs, make, error, message):
    with pytest.raises(error, match=message):
        make(inputs.region("panel 1"))


@pytest.mark.parametrize("make", MODES, ids=lambda make: make.__name__)
def test_no_mode_takes_strength_zero(make):
    with pytest.raises(InputError, match="it would do nothing"):
        make(0)


def test_suppressing_nothing_is_refused(inputs):
    with pytest.raises(
        InputError, match="nothing to act on: region 'box 0 0 96 64' is the whole image.*smaller region"
    ):
        gl.steer(HEADS, inputs.region((0, 0, 96, 64)), mode=gl.suppress_image())
    assert gl.steer(HEADS, inputs.region((0, 0, 96, 64)))


def test_regions_of_two_prompts_are_refused(model, inputs):
    other = model.prepare(picture(4), "What is going on?")
    with pytest.raises(RegionError, match="belong to different prompts; make them on the same inputs"):
        gl.steer(HEADS, schedule=[(0, inputs.region("panel 1")), (3, other.region("panel 1"))])
    hooks = gl.steer(HEADS, other.region("panel 1"))
    for run in (model.run_with_hooks, model.generate):
        with pytest.raises(RegionError, match=r"(?s)for a Layout of 1 rows.*the inputs being run are.*inputs\.region"):
            run(inputs, fwd_hooks=hooks)
    text = model.prepare(None, "No picture at all")
    with pytest.raises(RegionError, match="0 images, 0 image tokens"):
        model.run_with_hooks(text, fwd_hooks=hooks)


def test_heads_outside_the_model_are_refused(model, inputs):
    for heads, named in ((["L9H0"], "L9H0"), (["L1H0", "L0H4"], "L0H4")):
        with pytest.raises(HeadError, match=f"^{named} lie outside the model: expected layers 0 to 3 and heads 0 to 3"):
            model.run_with_hooks(inputs, fwd_hooks=gl.steer(heads, inputs.region("panel 1")))


def test_a_steering_that_never_acted_is_an_error(model, inputs):
    region = inputs.region("panel 1")
    decode = gl.steer(HEADS, region, where=["decode"])
    with pytest.raises(HookError, match=r"did nothing in layers \[1, 2\].*in the phase \(prefill, decode\)"):
        model.run_with_hooks(inputs, fwd_hooks=decode)
    with pytest.raises(HookError, match="did nothing"):
        model.generate(inputs, fwd_hooks=decode, max_new_tokens=1)
    with pytest.raises(HookError, match="did nothing"):
        model.generate(inputs, fwd_hooks=gl.steer(HEADS, schedule=[(50, region)]), max_new_tokens=3)
    with pytest.raises(HookError, match=r"did nothing in layers \[2\].*as far as these layers"):
        model.run_with_hooks(inputs, fwd_hooks=gl.steer(["L2H0"], region), stop_at_layer=1)
    with pytest.raises(HookError, match="did nothing"), model.hooks(gl.steer(HEADS, region)):
        pass


def raw_tokens(model, inputs):
    """The words about the image alone, as someone's own tokens would be."""
    return inputs.input_ids[inputs.input_ids != model.config.image_token_id][None]


@torch.no_grad()
def test_raw_tokens_have_no_regions(model, inputs):
    tokens = raw_tokens(model, inputs)
    hooks = gl.steer(HEADS, inputs.region("panel 1"))
    box = gl.steer(HEADS, inputs.region(gl.Box(0, 0, 32, 64)), where=["decode"])
    for bound in (hooks, box):
        with pytest.raises(RegionError, match="raw tokens are being run, which have no regions"):
            model.run_with_hooks(tokens, fwd_hooks=bound)
        with pytest.raises(RegionError, match="Run the inputs that its regions were made on"), model.hooks(bound):
            model.run_with_cache(tokens, names_filter=[])
    model.run_with_hooks(tokens, fwd_hooks=gl.AttentionBias(gl.HeadSet(HEADS), EVERY, EVERY, 1.0).hooks())
    with model.hooks(hooks):  # raw tokens may go on from what these inputs began
        _, cache = model(inputs, return_type="logits_and_cache", use_cache=True)
        first = cache.get_seq_length()
        steered = model(torch.tensor([[65]]), past_key_values=cache)
    assert (first, cache.get_seq_length()) == (inputs.layout.length, inputs.layout.length + 1)
    assert steered.isfinite().all()


@pytest.mark.parametrize("family", ["Qwen3.5", "Mllama"])
def test_raw_tokens_are_refused_where_some_layers_have_no_heads_or_are_crossed(shelf, family):
    model = shelf.get(family)[0]
    inputs = model.prepare(picture(), "What?")
    layer = model.capabilities((96, 64)).seeing[-1]
    tokens = raw_tokens(model, inputs)
    assert model(tokens).isfinite().all()
    with pytest.raises(RegionError, match="raw tokens"):
        model.run_with_hooks(tokens, fwd_hooks=gl.steer([(layer, 0)], inputs.region("panel 1")))
