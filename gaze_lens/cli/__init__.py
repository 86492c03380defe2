"""The command line: `gaze-lens --help`."""

from gaze_lens.cli.commands import app, main

__all__ = ["app", "main"]
