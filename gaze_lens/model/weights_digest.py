"""Fingerprints of a model's weights.

weights_digest(model)             # 32 digits, of every bit of every weight
sampled_digest(model)             # 16 digits, of 64 numbers of each: what version 0.1 wrote into its runs
settings_as_written(run, {"weights": ...}, model)
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gaze_lens.model_protocol import Model
from gaze_lens.runs.digests import digest

CHUNK = 2**16  # words at a time: they stay in the processor's cache
SEED = 20260614  # of the factors; another seed gives other digests
SAMPLED = 16  # digits of the digest of version 0.1


def weights_digest(model: Model) -> str:
    """A fingerprint of all weights: another value of one number, another order, shape or precision gives another.

    It is computed where the weights are, and is the same on every device; one core sees some 2 GB in a second. Weights
    that accelerate keeps in memory or on disk are read from there, one after the other. Only name, shape and precision
    count of weights that are nowhere.
    """
    return digest_of(_weights(model.original_model))[:32]


def _weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The weights by name; in place of an empty one what accelerate loads for it."""
    away: dict[int, tuple[Mapping[str, Tensor], str]] = {}
    for module in model.modules():
        hook: Any = getattr(module, "_hf_hook", None)
        for one in getattr(hook, "hooks", (hook,)):
            if getattr(one, "weights_map", None) is not None:
                inside = module.named_parameters(recurse=one.place_submodules)
                away |= {id(weight): (one.weights_map, name) for name, weight in inside if weight.is_meta}
    for name, weight in sorted(model.state_dict(keep_vars=True).items()):
        loaded, key = away.get(id(weight), ({}, ""))
        yield name, loaded[key] if key else weight


def digest_of(weights: Iterable[tuple[str, Tensor]]) -> str:
    """The fingerprint of named tensors, in this order."""
    parts, factors = [], {}
    for name, weight in weights:
        parts.append(f"{name} {tuple(weight.shape)} {weight.dtype} ")
        if not weight.is_meta:
            if weight.device not in factors:
                generator = torch.Generator().manual_seed(SEED)
                drawn = torch.randint(-(2**63), 2**63 - 1, (CHUNK,), generator=generator) | 1
                factors[weight.device] = drawn.to(weight.device)
            parts.append(f"{_sum(weight.detach(), factors[weight.device])}\n")
    return digest(*parts)


def _sum(weight: Tensor, factors: Tensor) -> list[int]:
    """A hash of each chunk of a weight's bytes: the sum of its words, each times an odd factor of its own, modulo 2^64.

    A change of one word always changes it. Other changes are missed once in 2^32 or so: multilinear hashing (Lemire and
    Kaser 2014, "Strongly universal string hashing is fast"). Words have 32 bits, so that in the product none is lost.
    """
    content = weight.contiguous().reshape(-1).view(torch.uint8)
    content = content if content.storage_offset() % 4 == 0 else content.clone()
    n_whole = len(content) // 4 * 4
    words = content[:n_whole].view(torch.int32)
    rest = content[n_whole:].to(torch.int32)
    sums = [
        (chunk * factors[: len(chunk)]).sum() for part in (words, rest) for chunk in part.split(CHUNK) if len(chunk)
    ]
    return torch.stack(sums).tolist() if sums else []


def sampled_digest(model: Model) -> str:
    """The fingerprint of version 0.1: from 64 numbers of each weight. Other weights may have the same."""
    parts = []
    for name, weight in sorted(model.original_model.state_dict().items()):
        parts.append(f"{name} {tuple(weight.shape)} {weight.dtype}")
        if not weight.is_meta:
            flat = weight.detach().reshape(-1)
            some = flat[:: max(1, flat.numel() // 64)][:64]
            parts.append(repr(some.float().cpu().tolist()))
    return digest(*parts)[:SAMPLED]


def settings_as_written(run: Mapping[str, Any], written: Mapping[str, Any], model: Model) -> dict[str, Any]:
    """The settings of a run as the version that wrote `written` would have put them.

    Version 0.1 had another fingerprint of weights, and none of the prompt.
    """
    is_old = len(written.get("weights", "")) == SAMPLED
    settings = {key: value for key, value in run.items() if key != "rendered_prompt" or key in written}
    return {**settings, "weights": sampled_digest(model)} if is_old else settings
