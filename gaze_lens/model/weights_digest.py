"""A fingerprint of a model's weights."""

import hashlib
from typing import Any


def weights_digest(model: Any) -> str:
    """A fingerprint of a model's weights, from a few numbers of each: other weights, or another precision, differ."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.original_model.state_dict().items()):
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        if not weight.is_meta:
            flat = weight.detach().reshape(-1)
            some = flat[:: max(1, flat.numel() // 64)][:64]
            digest.update(repr(some.float().cpu().tolist()).encode())
    return digest.hexdigest()[:16]
