"""`python -m gaze_lens.cli` is `gaze-lens`."""

from gaze_lens.cli.commands import main

main()
