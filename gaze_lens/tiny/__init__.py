"""The embedded model: a small Qwen3-VL that this project trained on its own comic strips, and that ships with it.

model = gl.load_tiny()
python -m training.train --out DIR --seed 0        # makes it again
"""

from pathlib import Path

from gaze_lens.model.hooked_vlm import HookedVLM

FOLDER = Path(__file__).parent / "checkpoint"
NAME = "gaze_lens/tiny"
HEADS = 2  # the number of best heads with which the demo steers


def load_tiny(*, device: str = "cpu", dtype: str = "float32") -> HookedVLM:
    """The embedded model, loaded like any other checkpoint folder; needs no network."""
    model = HookedVLM.from_pretrained(str(FOLDER), device=device, dtype=dtype)
    model.cfg.model_name = NAME
    return model
