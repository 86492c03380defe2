"""The linear readout of attributes from image tokens."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from training.batches import strip_batch
from training.llava import FRAME, LLAVA
from training.readout import TARGETS, accuracy, accuracy_by_row, readout, targets
from training.recipe import Size

SMALL = Size(width=32, layers=1, heads=4, kv_heads=2, head_width=16, mlp=48, vision_width=32, vision_mlp=48)


@pytest.fixture(scope="module")
def built():
    return LLAVA.build(SMALL, 0)


def test_targets_are_the_halves_that_a_token_covers(built):
    strips = strip_batch(np.random.default_rng(5), built[1].tokenizer, 2, 6, ("ask",), FRAME)
    across = strips.pixels.shape[2] // 16
    wide, facts = across // 6, strips.facts.view(2, 2, across, 6)
    found = targets(strips).view(2, 2, across, 6)
    for column in (0, wide, across - 1):
        following = (column // wide + 1) % 6 * wide
        upper, lower = facts[1, 0, column, :2].tolist(), facts[1, 0, column, 2:4].tolist()
        assert found[1, 0, column].tolist() == [*upper, *lower, *facts[1, 0, following, :2].tolist()]
        assert found[1, 1, column].tolist() == [*lower, *upper, *facts[1, 0, following, 2:4].tolist()]


def test_what_is_linear_in_the_features_is_read_and_what_is_not_there_is_not():
    generator = torch.Generator().manual_seed(0)
    parts = []
    for n in (900, 300):
        y = torch.randint(8, (n, 6), generator=generator)
        own = F.one_hot(y[:, :2], 8).flatten(1).float()
        x = torch.cat([own, torch.randn(n, 4, generator=generator)], 1)
        parts.append((x @ torch.randn(20, 20, generator=torch.Generator().manual_seed(1)), y))
    found = accuracy(*parts)
    assert tuple(found) == TARGETS
    assert found["own half"] > 0.99
    assert 0.05 < found["other half"] < 0.2
    assert 0.05 < found["next panel"] < 0.2


def test_what_is_coded_as_upper_and_lower_is_read_where_the_rows_have_a_classifier_each():
    generator = torch.Generator().manual_seed(0)
    parts = []
    for n in (200, 80):
        upper, lower, following = (torch.randint(8, (n, 3, 2), generator=generator) for _ in range(3))
        y = torch.cat([torch.cat([upper, lower, following], -1), torch.cat([lower, upper, following], -1)], 1)
        x = F.one_hot(torch.cat([upper, lower], -1), 8).flatten(2).float().repeat(1, 2, 1)
        parts.append((x, y))  # all tokens of a panel say the same
    apart = accuracy_by_row(*parts)
    together = accuracy(*[(x.flatten(0, 1), y.flatten(0, 1)) for x, y in parts])
    assert min(apart["own half"], apart["other half"]) > 0.99
    assert max(together["own half"], together["other half"]) < 0.8
    assert apart["next panel"] < 0.2


def test_a_random_tower_is_read_before_and_after_the_projector(built):
    found = readout(built[0], built[1], rows=60)
    assert found.keys() == {"tower", "projector", "tower, rows apart", "projector, rows apart"}
    assert found["tower"]["own half"] > 0.2  # colours are linear in pixels
    assert all(0 <= value <= 1 for part in found.values() for value in part.values())
    assert found == readout(built[0], built[1], rows=60)
