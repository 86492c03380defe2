"""Head and HeadSet: forms, set operations, files."""

import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import gaze_lens as gl
from gaze_lens.errors import HeadError
from gaze_lens.heads.head_set import Head, HeadSet
from gaze_lens.runs.files import write_whole

PROVENANCE = {"method": "gaze score", "strips": 20, "rank_by": "score", "seed": 0}


@pytest.mark.parametrize(
    "text",
    ["L20H3", "l20h3", " L20H3 ", "20.3", (20, 3), [20, 3], Head(20, 3), np.array([20, 3]), torch.tensor([20, 3])],
)
def test_forms_of_a_head(text):
    assert Head.parse(text) == Head(20, 3) == (20, 3)
    assert str(Head.parse(text)) == f"{Head(20, 3)}" == "L20H3"


@pytest.mark.parametrize(
    "text", ["", "L20", "H3L20", "20,3", "L-1H0", (-1, 0), (1,), (1, 2, 3), (1.5, 2), (True, 1, 2), (True, 1), 7, None]
)
def test_other_forms_are_refused(text):
    with pytest.raises(HeadError, match=r'is not a head: expected "L20H3", "20.3" or \(20, 3\)'):
        Head.parse(text)


def test_a_set_keeps_its_order():
    heads = HeadSet(["L5H1", (2, 7), "2.0"], model="m", fingerprint="f", provenance=PROVENANCE)
    assert [str(head) for head in heads] == ["L5H1", "L2H7", "L2H0"]
    assert len(heads) == 3
    assert heads[0] == Head(5, 1)
    assert heads[-1] == (2, 0)
    assert "L2H7" in heads
    assert (2, 7) in heads
    assert Head(9, 9) not in heads
    assert heads.by_layer() == {2: (0, 7), 5: (1,)}
    assert isinstance(heads[:2], HeadSet)
    assert str(heads[:2]) == "L5H1, L2H7"
    assert (heads[:2].model, heads[:2].fingerprint, heads[:2].provenance) == ("m", "f", PROVENANCE)
    assert heads == HeadSet([(5, 1), (2, 7), (2, 0)])
    assert heads != HeadSet([(2, 7), (5, 1), (2, 0)])
    assert len({heads, HeadSet(heads)}) == 1
    assert repr(heads) == "HeadSet of 3 heads of m: L5H1, L2H7, L2H0"
    assert str(HeadSet([])) == "no heads"
    assert repr(HeadSet((0, i) for i in range(30))).endswith("L0H11, ... (30 in all)")
    with pytest.raises(AttributeError):
        heads.model = "other"


def test_the_heads_that_a_function_takes():
    model = SimpleNamespace(cfg=SimpleNamespace(n_layers=4, n_heads=8), fingerprint="4x8")
    heads = HeadSet(["L3H7"], model="m", fingerprint="4x8")
    assert HeadSet.of(heads, model) is heads
    assert HeadSet.of(["L3H7"], model) == heads
    assert HeadSet.of([(9, 9)]) == HeadSet(["L9H9"])
    with pytest.raises(HeadError, match="set of heads is empty; choose at least one head"):
        HeadSet.of([])
    with pytest.raises(HeadError, match="L4H0 lie outside the model: expected layers 0 to 3 and heads 0 to 7"):
        HeadSet.of([(4, 0)], model)
    with pytest.raises(HeadError, match="heads of the architecture 9x9, expected 4x8"):
        HeadSet.of(HeadSet(["L3H7"], fingerprint="9x9"), model)


def test_a_set_refuses_repeats_and_single_heads():
    with pytest.raises(HeadError, match="L1H0 given more than once"):
        HeadSet(["L1H0", "L2H0", (1, 0)])
    with pytest.raises(HeadError, match=r"Write HeadSet\(\['L1H0'\]\)"):
        HeadSet("L1H0")
    with pytest.raises(HeadError, match="not a list of heads"):
        HeadSet(Head(1, 0))


def test_set_operations_against_pythons_sets():
    rng = np.random.default_rng(0)
    for _ in range(30):
        left, right = ([tuple(row) for row in np.unique(rng.integers(0, 4, (n, 2)), axis=0).tolist()] for n in (6, 9))
        a, b = HeadSet(left), HeadSet(right)
        assert set(a | b) == set(left) | set(right)
        assert set(a & b) == set(left) & set(right)
        assert set(a - b) == set(left) - set(right)
        assert (a | b)[: len(a)] == a  # the left side's order comes first


def test_set_operations_keep_what_is_known():
    a = HeadSet(["L1H0"], model="m", provenance={"seed": 1})
    b = HeadSet(["L2H0"], fingerprint="f", provenance={"seed": 2})
    assert ((a | b).model, (a | b).fingerprint) == ("m", "f")
    assert (a | b).provenance == {"operation": "|", "of": [{"seed": 1}, {"seed": 2}]}
    assert (a | a).provenance == {"seed": 1}
    with pytest.raises(HeadError, match="of the model other, expected m"):
        a | HeadSet(["L1H1"], model="other")


def test_check_names_heads_and_ranges():
    heads = HeadSet(["L3H7", "L4H0", "L0H8"], model="big")
    heads.check(5, 9)
    with pytest.raises(HeadError, match=r"L4H0, L0H8 lie outside.*layers 0 to 3 and heads 0 to 7.*found in big"):
        heads.check(4, 8)


def test_files_round_trip(tmp_path):
    heads = HeadSet(["L5H1", "L2H7"], model="Qwen/x", fingerprint="28x16", provenance=PROVENANCE)
    path = tmp_path / "new" / "heads.json"
    heads.save(path)
    back = HeadSet.load(path, model="Qwen/x", fingerprint="28x16")
    assert back == heads
    assert (back.model, back.fingerprint, back.provenance) == ("Qwen/x", "28x16", PROVENANCE)
    assert json.loads(path.read_text())["heads"] == ["L5H1", "L2H7"]
    assert [file.name for file in path.parent.iterdir()] == ["heads.json"]


@pytest.mark.parametrize("other", [{"model": "Qwen/y"}, {"fingerprint": "36x32"}])
def test_files_of_another_model_are_refused(tmp_path, other):
    path = tmp_path / "heads.json"
    HeadSet(["L5H1"], model="Qwen/x", fingerprint="28x16").save(path)
    with pytest.raises(HeadError, match=r"heads.json holds heads of the .*, expected .*force=True"):
        HeadSet.load(path, **other)
    forced = HeadSet.load(path, **other, force=True)
    assert {"model": forced.model, "fingerprint": forced.fingerprint}.items() >= other.items()


ENTRIES = [
    [[5, 10], [0, 14]],
    [[5, 10, 0.15], [0, 14, 0.09]],
    [{"layer": 5, "head": 10, "score": 0.15}, {"layer": 0, "head": 14, "score": 0.09}],
    [{"layer": 5, "head": 10}, {"layer": 0, "head": 14}],
    ["L5H10", "0.14"],
]


@pytest.mark.parametrize("entries", ENTRIES)
@pytest.mark.parametrize("key", [None, "ranking", "heads", "ranked_heads", "gaze_heads"])
def test_rankings_of_others_are_read(tmp_path, entries, key):
    path = tmp_path / "gaze_head_ranking.json"
    path.write_text(json.dumps({key: entries, "model_id": "x"} if key else entries))
    heads = HeadSet.load(path, model="any", fingerprint="any")
    assert str(heads) == "L5H10, L0H14"
    assert heads.model is None
    assert heads.provenance == {"file": "gaze_head_ranking.json"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "3",
        "null",
        '"L1H0"',
        "{}",
        '{"heads": 3}',
        "[[1]]",
        '[{"layer": 1}]',
        "[[1, 2], [1, 2]]",
        "[[1, 2, 3, 4]]",
    ]
    + [
        '{"heads": [[1, 2]], "model": 3}',
        '{"heads": [[1, 2]], "found": []}',
        '{"heads": [[1, 2]], "provenance": 1}',
        "[null]",
        '{"format": "gaze_lens heads 99", "heads": ["L1H0"]}',
        '{"format": 99, "heads": ["L1H0"]}',
        '{"format": null, "heads": ["L1H0"]}',
        '{"fingerprint": "Qwen3VLForConditionalGeneration-6x12x4x32", "heads": ["L1H0", "L59H0"]}',
        '{"fingerprint": "Qwen3VLForConditionalGeneration-6x12x4x32", "heads": ["L1H12"]}',
        '{"heads": ["L' + "1" * 5000 + 'H0"]}',
        '{"heads": [' + "1" * 5000 + "]}",
        "[" * 200_000,
        '{"heads": ["L1H0"], "provenance": ' + '{"of": [' * 100_000,
    ],
    ids=lambda text: text[:60],
)
def test_malformed_files(tmp_path, text):
    path = tmp_path / "heads.json"
    path.write_text(text)
    with pytest.raises(HeadError, match="heads.json .*expected"):
        HeadSet.load(path)


def test_many_heads_are_handled_in_a_moment(tmp_path):
    """Quadratic code took minutes for as many."""
    many = [f"L{index % 200}H{index // 200}" for index in range(20_000)]
    (tmp_path / "heads.json").write_text(json.dumps(many + many))
    begin = time.process_time()
    with pytest.raises(HeadError, match=r"L0H0, L0H1, .* \(20000 in all\) given more than once"):
        HeadSet.load(tmp_path / "heads.json")
    heads = HeadSet(many)
    assert heads | heads == heads == heads & heads
    assert len(heads - heads) == 0
    assert sum(map(len, heads.by_layer().values())) == len(many)
    assert time.process_time() - begin < 5


def test_heads_fit_their_fingerprint():
    with pytest.raises(HeadError, match="L6H0 lie outside the model: expected layers 0 to 5 and heads 0 to 11"):
        HeadSet(["L6H0"], fingerprint="X-6x12x4x32")
    assert len(HeadSet(["L5H11"], fingerprint="X-6x12x4x32")) == 1
    nested = {"images": "a b"}
    for _ in range(100_000):
        nested = {"operation": "|", "of": [nested]}
    assert HeadSet(["L0H0"], provenance=nested).chosen_on == {"a", "b"}


def test_an_empty_set_is_one_error(model, strip):
    """Whatever takes heads says the same of none."""
    inputs, none = model.prepare(strip, "x"), HeadSet([])
    metric = gl.metrics.logit_difference(model, "a", "b")
    for action in (
        lambda: gl.steer(none, inputs.region("panel 1")),
        lambda: gl.track(model, inputs, none),
        lambda: gl.mean_ablate(model, none, inputs),
        lambda: gl.evaluation.Condition("x", none),
        lambda: gl.evaluation.conditions(model, none, ["gaze"]),
        lambda: gl.show.attention(model, inputs, none),
        lambda: gl.patch(model, inputs, inputs, what="z", where=none, positions=["last"], metric=metric),
    ):
        with pytest.raises(HeadError, match="empty|has no heads"):
            action()


def test_unreadable_files(tmp_path):
    with pytest.raises(HeadError, match="There is no file .*missing.json; expected a JSON file of heads"):
        HeadSet.load(tmp_path / "missing.json")
    with pytest.raises(HeadError, match="cannot be read"):
        HeadSet.load(tmp_path)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(HeadError, match="cannot be read"):
        HeadSet.load(tmp_path / "binary.json")


def test_a_failed_save_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "heads.json"
    HeadSet(["L5H1"]).save(path)
    for bad in ({"score": float("nan")}, {"path": tmp_path}):
        with pytest.raises(HeadError, match="cannot be written as JSON"):
            HeadSet(["L1H1"], provenance=bad).save(path)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("gaze_lens.heads.head_set.os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        HeadSet(["L1H1"]).save(path)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "new.bin", b"half")
    assert [file.name for file in tmp_path.iterdir()] == ["heads.json"]
    assert str(HeadSet.load(path)) == "L5H1"
