"""Prompts and pictures become tensors, and positions in them have names: regions, spans and groups."""

from gaze_lens.inputs.vlm_inputs import VLMInputs

__all__ = ["VLMInputs"]
