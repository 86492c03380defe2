"""Converts prompts and pictures to tensors, and gives positions in them names: regions, spans and groups."""

from gaze_lens.inputs.vlm_inputs import VLMInputs

__all__ = ["VLMInputs"]
