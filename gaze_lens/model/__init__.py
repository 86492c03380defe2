"""`HookedVLM`, the model under hooks: loading and wrapping it, its cache and its generation."""

from gaze_lens.model.activation_cache import VLMActivationCache
from gaze_lens.model.capabilities import Capabilities, ImageCapabilities, LayerCapabilities
from gaze_lens.model.generation import Generation
from gaze_lens.model.hooked_vlm import HookedVLM

__all__ = [
    "Capabilities", "Generation", "HookedVLM", "ImageCapabilities", "LayerCapabilities", "VLMActivationCache",
]  # fmt: skip
