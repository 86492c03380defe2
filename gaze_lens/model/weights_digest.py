"""A fingerprint of a model's weights."""

from gaze_lens.model_protocol import Model
from gaze_lens.runs.digests import digest


def weights_digest(model: Model) -> str:
    """A fingerprint of a model's weights, from a few numbers of each: other weights, or another precision, differ."""
    parts = []
    for name, weight in sorted(model.original_model.state_dict().items()):
        parts.append(f"{name} {tuple(weight.shape)} {weight.dtype}")
        if not weight.is_meta:
            flat = weight.detach().reshape(-1)
            some = flat[:: max(1, flat.numel() // 64)][:64]
            parts.append(repr(some.float().cpu().tolist()))
    return digest(*parts)[:16]
