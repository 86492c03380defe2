"""The fingerprint of weights sees every bit of every one of them."""

import pytest
import torch

from gaze_lens.model.weights_digest import (
    CHUNK,
    _sum,
    digest_of,
    sampled_digest,
    settings_as_written,
    weights_digest,
)


def slow_sums(weight):
    """The sums of `weights_digest`, with Python's own integers."""
    factors = torch.randint(-(2**63), 2**63 - 1, (CHUNK,), generator=torch.Generator().manual_seed(20260614)) | 1
    content = bytes(weight.contiguous().reshape(-1).view(torch.uint8).tolist())
    words = [int.from_bytes(content[n : n + 4], "little", signed=True) for n in range(0, len(content) // 4 * 4, 4)]
    rest = list(content[len(words) * 4 :])
    parts = [part[n : n + CHUNK] for part in (words, rest) for n in range(0, len(part), CHUNK)]
    sums = [sum(a * b for a, b in zip(part, factors.tolist(), strict=False)) for part in parts]
    return [(total + 2**63) % 2**64 - 2**63 for total in sums]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8, torch.bool])
@pytest.mark.parametrize("shape", [(), (3,), (0, 4), (5, CHUNK)])
def test_sums_are_those_of_whole_numbers(dtype, shape):
    weight = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 100).to(dtype)
    factors = torch.randint(-(2**63), 2**63 - 1, (CHUNK,), generator=torch.Generator().manual_seed(20260614)) | 1
    assert _sum(weight, factors) == slow_sums(weight)
    if weight.ndim == 2:
        assert _sum(weight.T.contiguous().T, factors) == _sum(weight, factors)


def test_any_change_of_any_weight_is_seen():
    def digest(weight, name="w"):
        return digest_of([(name, weight)])

    weight = torch.randn(300, 301, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    first = digest(weight)
    assert digest(weight.clone()) == first
    for index in (1, 77, 45_000, 90_298, 90_299):
        for change in (lambda x: -x, lambda x: x * 1.01, lambda x: x * torch.inf, lambda x: x * torch.nan):
            changed = weight.clone()
            changed.view(-1)[index] = change(changed.view(-1)[index])
            assert digest(changed) != first, index
    swapped = weight.clone()
    swapped[[4, 9]] = swapped[[9, 4]]
    others = [
        -weight,
        weight.flip(0),
        swapped,
        weight.T,
        weight.float(),
        weight.reshape(301, 300),
        weight.view(torch.int16),
    ]
    digests = [digest(other) for other in others] + [digest(weight, "v"), first]
    assert len(set(digests)) == len(digests)
    assert digest(torch.cat([weight.view(-1)[:1], weight.view(-1)])[1:].view(300, 301)) == first, (
        "an odd place in memory"
    )


def test_the_fingerprint_of_version_0_1_misses_what_this_one_sees(model):
    weight = model.original_model.model.language_model.layers[0].mlp.up_proj.weight
    before, run = (weights_digest(model), sampled_digest(model)), {"weights": "today's", "seed": 3}
    assert settings_as_written(run, {"weights": before[1]}, model) == {"weights": before[1], "seed": 3}
    assert settings_as_written(run, {"weights": before[0]}, model) == run
    assert settings_as_written(run, {}, model) == run
    try:
        weight.data.view(-1)[1] += 1
        assert sampled_digest(model) == before[1]
        assert weights_digest(model) != before[0]
    finally:
        weight.data.view(-1)[1] -= 1
