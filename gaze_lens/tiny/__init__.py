"""The embedded model: a small Qwen3-VL that this project trained on its own comic strips, and that ships with it.

model = gl.load_tiny()
python -m training.train --out DIR --seed 0        # trains it again, in a checkout
"""

from pathlib import Path

from gaze_lens.model.hooked_vlm import HookedVLM

FOLDER = Path(__file__).parent / "checkpoint"
NAME = "gaze_lens/tiny"  # recorded in saved heads and scores
HEADS = 2  # how many of the best heads the demo steers
TALLEST = 96  # pixels: of the pictures that it was trained on, whose panels and cells are 32 pixels high


def load_tiny(*, device: str = "cpu", dtype: str = "float32") -> HookedVLM:
    """`model = gl.load_tiny()`: the embedded model, loaded like any checkpoint folder, without the internet."""
    model = HookedVLM.from_pretrained(str(FOLDER), device=device, dtype=dtype)
    model.cfg.model_name = NAME
    return model
