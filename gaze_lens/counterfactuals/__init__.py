"""Pairs of runs that differ in one thing: another question, other pixels, other image features."""

from gaze_lens.counterfactuals.pair import Pair, counterfactual

__all__ = ["Pair", "counterfactual"]
