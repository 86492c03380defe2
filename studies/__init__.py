"""Studies whose numbers are in docs/: what made them, outside the wheel."""
