"""Decoding by several branches of one model: contrast decoding, and recipes of the literature made of it."""

from gaze_lens.decoding import recipes
from gaze_lens.decoding.contrast import ContrastDecoding, contrast_decoding

__all__ = ["ContrastDecoding", "contrast_decoding", "recipes"]
