"""`gl.patch` against single runs with hooks written out slowly, TransformerLens' own patching, and invariants."""

import json
import os
import signal
from functools import partial

import pytest
import torch
from processes import FORK, LIMIT
from reference import picture, tower_runs
from transformer_lens import patching as transformer_lens_patching

import gaze_lens as gl
from gaze_lens.errors import HeadError, HookError, InputError, RegionError
from gaze_lens.patching.donor import Donor
from gaze_lens.patching.image_features import hook_image_features
from gaze_lens.patching.sites import SITES
from gaze_lens.regions.picture import Picture, panels

STREAM = ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"]
BY_HEAD = ["z", "result", "q", "k", "v", "pattern", "scores"]
FAMILIES = ["LLaVA", "Gemma 3", "Gemma 4", "Llama 4", "Qwen3.5", "PaliGemma", "Qwen2.5-VL", "InternVL"]
ROUNDING = 1e-5  # of logits around 1; kernels round otherwise in batches of another size


def strip(seed):
    return Picture(picture(128, 64, seed), panels(2, 128, 64))


def prepared(model, seeds, words=("fourth", "second"), first="What is in the"):
    """Two rows of different lengths: the first is padded on the left."""
    prompts = [f"{first} {words[0]} panel?", f"Tell me, what is in the {words[1]} panel there?"]
    return model.prepare([strip(seed) for seed in seeds], prompts)


@pytest.fixture
def pair(qwen):
    return prepared(qwen, (0, 1)), prepared(qwen, (2, 3))


def metric(logits):
    """Some smooth function of every row's last logits."""
    return (logits[:, -1] * torch.linspace(-0.1, 0.1, logits.shape[-1])).sum(-1)


class Counted:
    """The metric, and how often it was asked for."""

    def __init__(self):
        self.calls = 0

    def __call__(self, logits):
        self.calls += 1
        return metric(logits)


def sweep(model, clean, corrupted, **options):
    return gl.patch(model, clean, corrupted, **{"metric": metric, "progress": False, **options})


def rows_of(inputs, name):
    """Positions of a group, by hand, row by row."""
    ids, mask = inputs.input_ids.tolist(), inputs.tensors["attention_mask"].tolist()
    every = [[p for p, seen in enumerate(row) if seen] for row in mask]
    if name == "every":
        return every
    if name == "last":
        return [[len(row) - 1] for row in ids]
    if name == "word":
        return [_word(inputs, row, positions) for row, positions in enumerate(every)]
    return [list(row) for row in inputs.region(name).positions]


def _word(inputs, row, positions):
    """The tokens that hold "fourth" or "second": their texts are put one after the other."""
    pieces = [(p, piece) for p in positions for piece in inputs.tokenizer.decode(int(inputs.input_ids[row, p]))]
    text = "".join(piece for _, piece in pieces)
    start = max(text.find("fourth"), text.find("second"))
    return sorted({p for p, _ in pieces[start : start + 6]})


@torch.no_grad()
def slow(model, clean, corrupted, name, layer, head, positions, axis=1):
    """One cell: one full run from the pixels, with one hook that goes through rows and positions."""
    held = {}
    model.run_with_hooks(clean, fwd_hooks=[(name, lambda tensor, hook: held.update(clean=tensor.clone()))])

    def edit(tensor, hook):  # noqa: ARG001
        tensor = tensor.clone()
        for row, columns in enumerate(positions):
            for p in columns:
                where = (row, p) if axis == 1 else (row, slice(None), p)
                if head is not None:
                    where = (row, p, head) if axis == 1 else (row, head, p)
                tensor[where] = held["clean"][where]
        return tensor

    return metric(model.run_with_hooks(corrupted, fwd_hooks=[(name, edit)]))


def groups_by_name(inputs):
    return {"panel 2": "panel 2", "word": inputs.span(["fourth", "second"]), "last": "last"}


@pytest.mark.parametrize("what", STREAM + BY_HEAD)
def test_a_sweep_is_single_runs_with_hooks(request, qwen, pair, what):
    clean, corrupted = pair
    where = [0, 3] if what == "z" else [1]
    result = sweep(qwen, clean, corrupted, what=what, where=where, positions=groups_by_name(clean), batch_size=10)
    site = SITES[what]
    heads = [None] if what in STREAM else range(2 if what in "kv" else 4)
    cells = [(layer, head, name) for layer in where for head in heads for name in ("panel 2", "word", "last")]
    assert [tuple(row) for row in result.index_df.to_numpy()] == [
        tuple(c for c in cell if c is not None) for cell in cells
    ]
    previous = qwen.cfg.use_attn_result
    request.addfinalizer(lambda: qwen.set_use_attn_result(previous))
    qwen.set_use_attn_result(what == "result")
    for index, (layer, head, name) in enumerate(cells):
        expected = slow(qwen, clean, corrupted, site.hook_name(layer), layer, head, rows_of(clean, name), site.position)
        assert (result.values[index] - expected).abs().max() < ROUNDING, (layer, head, name)
    assert (result.effect().abs() > 1e-4).any()


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("what", ["resid_pre", "z", "q", "v"])
def test_a_sweep_is_single_runs_in_other_families(shelf, name, what):
    model = shelf.get(name)[0]
    clean, corrupted = prepared(model, (0, 1)), prepared(model, (2, 3))
    result = sweep(model, clean, corrupted, what=what, positions={"panel 2": "panel 2", "last": "last"})
    assert {int(layer) for layer in result.index_df["layer"]} == {
        layer for layer in range(model.cfg.n_layers) if SITES[what].hook_name(layer) in model.hook_dict
    }
    for index in range(0, len(result.index_df), 5):
        row = result.index_df.iloc[index]
        head = None if what == "resid_pre" else int(row.iloc[1])
        if name == "Qwen3.5" and what == "q":
            head *= 2  # every query is followed by its gate
        hook_name = SITES[what].hook_name(int(row["layer"]))
        expected = slow(model, clean, corrupted, hook_name, row["layer"], head, rows_of(clean, row["positions"]))
        assert (result.values[index] - expected).abs().max() < 5 * ROUNDING, dict(row)


def test_cross_attention_has_keys_of_its_own(shelf):
    model = shelf.get("Mllama")[0]
    clean, corrupted = prepared(model, (0, 1)), prepared(model, (2, 3))
    result = sweep(model, clean, corrupted, what="v", positions=["panel 2", "last"])
    cross_attention = [layer for layer in range(model.cfg.n_layers) if model.blocks[layer].attn.is_cross_attention]
    by_group = result.index_df.groupby("positions")["layer"].unique()
    assert sorted(by_group["panel 2"]) == cross_attention
    assert sorted(by_group["last"]) == sorted(set(range(model.cfg.n_layers)) - set(cross_attention))
    for index, row in result.index_df.iterrows():
        positions = clean.region("panel 2").positions if row["positions"] == "panel 2" else rows_of(clean, "last")
        name = SITES["v"].hook_name(row["layer"])
        expected = slow(model, clean, corrupted, name, row["layer"], row["kv_head"], positions)
        assert (result.values[index] - expected).abs().max() < ROUNDING
    with pytest.raises(RegionError, match="none of the positions .'panel 2'."):
        sweep(model, clean, corrupted, what="z", positions=["panel 2", "last"])
    with pytest.raises(RegionError, match=r"in layers \[0\]"):
        sweep(model, clean, corrupted, what="k", positions="image", where=[0, cross_attention[0]])


@pytest.mark.parametrize("what", [*STREAM, *BY_HEAD, "image"])
def test_clean_into_clean_changes_nothing(qwen, pair, what):
    result = sweep(qwen, pair[0], pair[0], what=what)
    bound = ROUNDING if what in ("pattern", "scores") else 0.0  # where eager meets SDPA
    assert result.effect().abs().max() <= bound
    assert (result.baseline - result.clean).abs().max() <= bound


@torch.no_grad()
def test_embeddings_heads_and_mlps_together_restore_the_clean_logits(qwen, pair):
    """With DeepStack's additions among the embeddings; the texts differ, too."""
    clean, _ = pair
    corrupted = prepared(qwen, (2, 3), ("second", "fourth"))
    points = [f"blocks.{layer}.{point}" for layer in range(4) for point in ("attn.hook_z", "hook_mlp_out")]
    logits, cache = qwen.run_with_cache(clean, names_filter=[*points, "blocks.0.hook_resid_pre"])
    features = {}

    def put(tensor, hook):
        return features.setdefault(hook.name, tensor.clone())

    with hook_image_features(qwen, put):
        qwen(clean)
        edits = [(name, lambda tensor, hook, name=name: cache[name]) for name in points]
        restored = qwen.run_with_hooks(corrupted, fwd_hooks=edits)
    without = qwen.run_with_hooks(corrupted, fwd_hooks=edits)
    real = clean.tensors["attention_mask"].bool()
    assert len(features) == 3  # embeddings and two levels of DeepStack
    assert (restored - logits)[real].abs().max() < 1e-6
    assert (without - logits)[real].abs().max() > 1e-3


@torch.no_grad()
def test_all_image_features_make_the_clean_run(qwen, pair):
    result = sweep(qwen, *pair, what="image", positions=["image", "panel 1"])
    assert result.index_df.columns.tolist() == ["positions"]
    assert torch.equal(result.values[0], result.clean)
    assert result.recovery()[0] == 1.0
    assert (result.values[1] - result.baseline).abs().min() > 0


@pytest.mark.parametrize("name", [*FAMILIES, "Mllama", "Qwen3-VL"])
def test_features_of_a_region_are_the_clean_ones_where_they_enter(shelf, name):
    model = shelf.get(name)[0]
    clean, corrupted = prepared(model, (0, 1)), prepared(model, (2, 3))
    result = sweep(model, clean, corrupted, what="image")
    assert (result.values[0] - result.clean).abs().max() < ROUNDING
    region = sweep(model, clean, corrupted, what="image", positions="panel 2")
    assert (region.values[0] - by_parts(model, clean, corrupted)).abs().max() < ROUNDING


@torch.no_grad()
def by_parts(model, clean, corrupted):
    """The metric with the second panel's features taken from the clean run, by hand where the decoder is called."""
    seen = []
    decoder = model.original_model.get_decoder()
    handle = decoder.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True)
    model(clean)
    handle.remove()

    def enter(module, args, kwargs):  # noqa: ARG001
        name = "cross_attention_states" if corrupted.layout.cross_attention else "inputs_embeds"
        mixed, images = kwargs[name].clone(), corrupted.layout.images
        levels = [level.clone() for level in kwargs.get("deepstack_visual_embeds") or ()]
        for row, positions in enumerate(corrupted.region("panel 2").positions):
            for p in positions:
                mixed[row, p] = seen[0][name][row, p]
                for level, theirs in zip(levels, seen[0].get("deepstack_visual_embeds") or (), strict=True):
                    index = sum(map(len, images[:row])) + images[row].index(p)
                    level[index] = theirs[index]
        more = {"deepstack_visual_embeds": levels} if levels else {}
        return args, {**kwargs, name: mixed, **more}

    handle = decoder.register_forward_pre_hook(enter, with_kwargs=True)
    result = metric(model(corrupted))
    handle.remove()
    return result


def test_deepstack_reaches_layers_that_are_patched(qwen, pair):
    """After the last addition the stream is all there is; before it, the corrupted image is still to be added."""
    result = sweep(qwen, *pair, what="resid_pre", positions="every")
    assert (result.values[2:] - result.clean).abs().max() < 1e-6  # the tiny model adds after blocks 0 and 1
    assert (result.values[:2] - result.clean).abs().min() > 1e-4
    swapped = sweep(qwen, *pair, what="resid_post", where=[0], positions="every")
    assert (swapped.values - result.values[1]).abs().min() > 1e-4


@torch.no_grad()
def test_equal_to_transformer_lens_where_that_works(qwen):
    clean, corrupted = (qwen.prepare(strip(seed), "What is in the fourth panel?") for seed in (0, 1))
    _, cache = qwen.run_with_cache(clean)
    total = lambda logits: metric(logits).sum()  # noqa: E731
    by_head = transformer_lens_patching.get_act_patch_attn_head_out_all_pos(qwen, corrupted, cache, total)
    result = sweep(qwen, clean, corrupted, what="z")
    assert (result.values[:, 0].view(4, 4) - by_head).abs().max() < ROUNDING


def test_images_are_encoded_once(qwen, pair):
    with tower_runs(qwen) as runs:
        sweep(qwen, *pair, what="z", where=["L1H0", "L3H1"], positions=["image", "last"])
    assert len(runs) == 2  # once for the clean images, once for the corrupted ones
    with tower_runs(qwen) as runs:
        sweep(qwen, pair[0], pair[0], what="z", where=["L1H0"])
    assert len(runs) == 1


def test_only_what_is_needed_is_stored(qwen, pair, monkeypatch):
    stored = []
    patch = Donor.patch
    monkeypatch.setattr(Donor, "patch", lambda donor, *args: stored.append(donor.activations) or patch(donor, *args))
    sweep(qwen, *pair, what="z", where=["L2H0"], positions=["panel 1", "last"])
    expected = {"panel 1": len(pair[0].region("panel 1")), "last": 2}
    assert {name: len(tensor) for (_, name), tensor in stored[0].items()} == expected
    assert "tensor" not in repr(Donor(SITES["z"], [], stored[0]))  # TransformerLens takes a hook's repr, every time
    assert {point for point, _ in stored[0]} == {qwen.hook_dict["blocks.2.attn.hook_z"].name}


def test_hooks_around_a_sweep_act_in_all_of_its_runs(qwen, pair):
    clean, corrupted = pair
    hooks = gl.steer(["L1H2"], corrupted.region("panel 1"), mode=gl.suppress_image(2.0))
    with qwen.hooks(hooks):
        result = sweep(qwen, clean, corrupted, what="z", where=["L2H1"], positions="last")
        again = slow(qwen, clean, corrupted, "blocks.2.attn.hook_z", 2, 1, rows_of(clean, "last"))
    plain = sweep(qwen, clean, corrupted, what="z", where=["L2H1"], positions="last")
    assert (result.values[0] - again).abs().max() < ROUNDING
    assert (result.values - plain.values).abs().min() > 1e-5


def test_layouts_that_differ_are_aligned_on_request(qwen):
    clean = prepared(qwen, (0, 1))
    corrupted = prepared(qwen, (2, 3), first="Now what is there in the")
    word = (clean.span(["fourth", "second"]), corrupted.span(["fourth", "second"]))
    with pytest.raises(InputError, match="align=True"):
        sweep(qwen, clean, corrupted, what="z", positions="last")
    positions = {"panel": "panel 2", "word": word}
    result = sweep(qwen, clean, corrupted, what="z", where=["L1H3", "L2H0"], positions=positions, align=True)
    for index, row in result.index_df.iterrows():
        sides = [rows_of(inputs, {"panel": "panel 2"}.get(row["positions"], "word")) for inputs in (clean, corrupted)]
        expected = across(qwen, clean, corrupted, f"blocks.{row['layer']}.attn.hook_z", row["head"], *sides)
        assert (result.values[index] - expected).abs().max() < ROUNDING
    with pytest.raises(InputError, match="it needs equal layouts"):
        sweep(qwen, clean, corrupted, what="pattern", align=True)


@torch.no_grad()
def across(model, clean, corrupted, name, head, here, there):
    """One cell whose positions are others in the clean inputs (`here`) and the corrupted ones (`there`)."""
    clean_z = model.run_with_cache(clean, names_filter=name)[1][name]

    def edit(tensor, hook):  # noqa: ARG001
        for row, (from_, to) in enumerate(zip(here, there, strict=True)):
            for p, q in zip(from_, to, strict=True):
                tensor[row, q, head] = clean_z[row, p, head]
        return tensor

    return metric(model.run_with_hooks(corrupted, fwd_hooks=[(name, edit)]))


def test_keys_and_values_are_patched_by_kv_head(qwen, pair):
    result = sweep(qwen, *pair, what="v", where=["L1H0", "L1H1", "L3H3"], positions="last")
    assert result.index_df.to_dict("list") == {"layer": [1, 3], "kv_head": [0, 1], "positions": ["last", "last"]}
    with pytest.raises(InputError, match="KV heads, which query heads share"):
        result.top(1)
    assert result.grid().shape == (4, 2)


def test_tables(qwen, pair, tmp_path):
    result = sweep(qwen, *pair, what="z", positions=["image", "last"])
    by_hand = (result.values.mean(1) - result.baseline.mean()) / (result.clean.mean() - result.baseline.mean())
    assert torch.allclose(result.recovery(), by_hand)
    table = result.table()
    assert table.columns.tolist() == ["layer", "head", "positions", "mean", "low", "high", "recovery"]
    assert (table["low"] <= table["mean"] + 1e-6).all()
    assert (table["mean"] <= table["high"] + 1e-6).all()
    result.save(tmp_path / "patching.csv")
    lines = (tmp_path / "patching.csv").read_text().splitlines()
    assert lines[0] == "layer,head,positions,mean,low,high,recovery"
    assert len(lines) == 33


def test_top_and_grid(qwen, pair):
    result = sweep(qwen, *pair, what="z", where=[1, 2], positions=["image", "last"])
    table = result.table()
    best = table[table["positions"] == "last"].sort_values("recovery", ascending=False).iloc[:3]
    top = result.top(3, positions="last")
    assert list(top) == [(row.layer, row.head) for row in best.itertuples()]
    assert top.fingerprint == qwen.fingerprint
    assert top.provenance == {"method": "patching z", "positions": "last", "metric": "metric"}
    grid = result.grid("last")
    assert grid.isnan().all(1).tolist() == [True, False, False, True]
    assert grid[top[0]] == grid[1:3].max()
    with pytest.raises(InputError, match=r"\['image', 'last'\]"):
        result.top(3)
    stream = sweep(qwen, *pair, what="mlp_out", where=[1])
    assert stream.grid().shape == (4,)
    with pytest.raises(InputError, match="no heads"):
        stream.top(1)


def test_several_metrics(qwen, pair):
    two = {"end": metric, "start": lambda logits: logits[:, 0, 0]}
    result = sweep(qwen, *pair, what="z", where=["L2H0"], positions=["image", "last"], metric=two)
    assert result.values.shape == (2, 2, 2)
    assert result.clean.shape == result.baseline.shape == (2, 2)
    alone = sweep(qwen, *pair, what="z", where=["L2H0"], positions=["image", "last"])
    assert torch.equal(result["end"].values, alone.values)
    assert torch.equal(result["end"].clean, alone.clean)
    assert result.table()["metric"].tolist() == ["end", "end", "start", "start"]
    assert torch.allclose(result["end"].recovery(), result.recovery()[0])
    with pytest.raises(InputError, match="choose one"):
        result.grid("last")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda logits: logits[:, -1, 0] / 0, "finite"),
        (lambda logits: logits[:, -1, 0] * float("nan"), "returned .nan, nan. for the clean run"),
        (lambda logits: logits[:, -1, 0].mean(), r"returned shape \(\) for a batch of 2 rows"),
        (lambda logits: logits[:, -1], r"returned shape \(2, "),
        (lambda logits: 3.0, "returned float"),
        ("logits", "expected a function of logits"),
        ({}, "expected a function of logits"),
    ],
)
def test_metrics_that_cannot_be_used(qwen, pair, bad, message):
    with pytest.raises(InputError, match=message):
        sweep(qwen, *pair, what="z", where=["L1H0"], metric=bad)


def test_a_metric_that_fails_in_a_patched_run(qwen, pair):
    """The third call is the first patched cell; the message says which, and nothing stays attached (conftest)."""
    calls = []

    def bad(logits):
        calls.append(1)
        return metric(logits) * (float("nan") if len(calls) == 3 else 1)

    with pytest.raises(InputError, match=r"Cell\(layer=1, head=0, positions='last'\)"):
        sweep(qwen, *pair, what="z", where=["L1H0"], positions="last", metric=bad)
    assert not any("forward" in block.__dict__ or block._forward_hooks for block in qwen.blocks)
    calls.clear()
    with pytest.raises(InputError, match="nan"):
        sweep(qwen, *pair, what="result", where=["L1H0"], positions="last", metric=bad)


def test_what_and_where_that_do_not_exist(qwen, pair, shelf):
    bad = partial(sweep, qwen, *pair)
    with pytest.raises(InputError, match="what='zz' was given; what can be patched is 'resid_pre', .*'image'"):
        bad(what="zz")
    with pytest.raises(HeadError, match="L9H0"):
        bad(what="z", where=["L9H0"])
    with pytest.raises(HookError, match="layers 0 to 3"):
        bad(what="z", where=[7])
    with pytest.raises(InputError, match="has no heads; give where= a list of layers"):
        bad(what="mlp_out", where=["L1H0"])
    with pytest.raises(InputError, match="leave out where="):
        bad(what="image", where=[1])
    with pytest.raises(InputError, match="no heads and no layers"):
        bad(what="z", where=[])
    with pytest.raises(HeadError, match="architecture"):
        bad(what="z", where=gl.HeadSet(["L1H0"], fingerprint="another"))
    with pytest.raises(RegionError, match="no image tokens"):
        bad(what="image", positions="last")
    with pytest.raises(InputError, match="batch_size=0"):
        bad(what="z", batch_size=0)


def test_layers_without_such_a_point(shelf):
    model = shelf.get("Qwen3.5")[0]
    inputs = model.prepare(strip(0), "What?")
    with pytest.raises(HookError, match="layer 0 has no softmax attention"):
        sweep(model, inputs, inputs, what="z", where=["L0H1"])
    parallel = shelf.get("Cohere2Vision")[0]
    inputs = parallel.prepare(strip(0), "What?")
    with pytest.raises(HookError, match="no layer .attention and MLP may read the same stream"):
        sweep(parallel, inputs, inputs, what="resid_mid", where=[1])
    with pytest.raises(HookError, match="no layer .attention and MLP may read the same stream"):
        sweep(parallel, inputs, inputs, what="resid_mid")


def test_inputs_that_do_not_fit(qwen, pair, shelf):
    clean, _ = pair
    with pytest.raises(InputError, match="clean is Tensor"):
        sweep(qwen, clean.input_ids, clean, what="z")
    other = shelf.get("LLaVA")[0]
    with pytest.raises(InputError, match="another model"):
        sweep(qwen, prepared(other, (0, 1)), prepared(other, (0, 1)), what="z")
    with pytest.raises(InputError, match="rows"):
        sweep(qwen, clean, qwen.prepare(strip(0), "What?"), what="z")
    wide = qwen.prepare(Picture(picture(192, 64), panels(2, 192, 64)), "What?")
    with pytest.raises(InputError, match="pixels|tokens"):
        sweep(qwen, qwen.prepare(strip(0), "What?"), wide, what="z")


def test_prompts_without_images(qwen):
    clean, corrupted = (qwen.prepare(None, f"What is in the {word} panel?") for word in ("fourth", "second"))
    result = sweep(qwen, clean, corrupted, what="resid_pre", where=[0, 2])
    assert torch.allclose(result.values, result.clean.expand(2, 1), atol=1e-6)


# ---------------------------------------------------------------------------------------------- interrupted sweeps

OPTIONS = {"what": "z", "where": ["L1H0", "L1H3", "L3H2"], "positions": ["image", "last"], "batch_size": 2}


def test_a_finished_file_is_the_result(qwen, pair, tmp_path):
    path = tmp_path / "new" / "sweep.jsonl"
    first = sweep(qwen, *pair, **OPTIONS, resume=path)
    lines = path.read_text().splitlines()
    assert len(lines) == 7
    assert json.loads(lines[1]) == {"layer": 1, "head": 0, "positions": "image", "values": [first.values[0].tolist()]}
    counted = Counted()
    again = sweep(qwen, *pair, **OPTIONS, resume=path, metric=counted)
    assert torch.equal(again.values, first.values)
    assert counted.calls == 2  # the unpatched runs
    assert path.read_text().splitlines() == lines
    more = sweep(qwen, *pair, **{**OPTIONS, "where": ["L1H3", "L2H2"]}, resume=path)
    assert torch.equal(more.values[:2], first.values[2:4])
    assert len(path.read_text().splitlines()) == 9


def test_a_file_cut_anywhere_goes_on(qwen, pair, tmp_path):
    path = tmp_path / "sweep.jsonl"
    first = sweep(qwen, *pair, **OPTIONS, resume=path)
    content = path.read_bytes()
    ends = [index + 1 for index, byte in enumerate(content) if byte == ord("\n")]
    for cut in [0, 1, ends[0] - 1, ends[0], ends[2] + 9, len(content) - 1]:
        path.write_bytes(content[:cut])
        counted = Counted()
        again = sweep(qwen, *pair, **OPTIONS, resume=path, metric=counted)
        assert torch.equal(again.values, first.values)
        assert counted.calls == 2 + 6 - max(0, content[:cut].count(b"\n") - 1), cut
        assert [json.loads(line) for line in path.read_text().splitlines()][1:] == [
            json.loads(line) for line in content.splitlines()
        ][1:]


def test_files_of_other_runs_are_refused_and_left_alone(qwen, pair, tmp_path):
    path = tmp_path / "sweep.jsonl"
    sweep(qwen, *pair, **OPTIONS, resume=path)
    content = path.read_bytes()
    others = [
        ({"what": "v"}, "what"),
        ({"positions": ["image", "every"]}, "positions"),
        ({"metric": {"other": metric}}, "metrics"),
        ({"metric": lambda logits: metric(logits) + 1}, "values of the metric"),
    ]
    for change, message in others:
        with pytest.raises(InputError, match=f"belongs to another run; its {message} differ"):
            sweep(qwen, *pair, **{**OPTIONS, **change}, resume=path)
    with pytest.raises(InputError, match="its clean inputs, corrupted inputs differ"):
        sweep(qwen, pair[1], pair[0], **OPTIONS, resume=path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", ["my notes", "my notes\n", '{"a": 1}\nmore', "[1]\n", '{"format": "gaze_lens h'])
def test_files_that_no_sweep_wrote_are_left_alone(qwen, pair, tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_text(content)
    with pytest.raises(InputError, match="holds no patching sweep|cannot be read|no entry of a patching sweep"):
        sweep(qwen, *pair, **OPTIONS, resume=path)
    assert path.read_text() == content


def test_a_line_that_is_broken_is_named(qwen, pair, tmp_path):
    path = tmp_path / "sweep.jsonl"
    sweep(qwen, *pair, **OPTIONS, resume=path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], "{broken\n", *lines[3:]]))
    with pytest.raises(InputError, match="Line 3 of .* cannot be read"):
        sweep(qwen, *pair, **OPTIONS, resume=path)
    path.write_text("".join([*lines[:2], '{"layer": 1}\n', *lines[3:]]))
    with pytest.raises(InputError, match="Line 3 of .* has no 'head'"):
        sweep(qwen, *pair, **OPTIONS, resume=path)


class Killed(Counted):
    """A metric that ends its process at the seventh call."""

    def __call__(self, logits):
        if self.calls == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(logits)


def test_a_killed_process_loses_only_the_cell_in_work(qwen, pair, tmp_path):
    path = tmp_path / "sweep.jsonl"
    options = {**OPTIONS, "metric": Killed(), "resume": path}
    process = FORK.Process(target=sweep, args=(qwen, *pair), kwargs=options)
    process.start()
    process.join(LIMIT)
    assert process.exitcode == -signal.SIGKILL
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 5  # the head, and 7 - 2 - 1 cells
    counted = Counted()
    result = sweep(qwen, *pair, **OPTIONS, resume=path, metric=counted)
    assert counted.calls == 2 + 2
    assert torch.allclose(result.values, sweep(qwen, *pair, **OPTIONS).values, atol=ROUNDING)
