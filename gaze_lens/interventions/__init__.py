"""Edits of a running model: steering, knockout, ablation, and directions in the residual stream."""
