"""The time to record the attention of steered heads during generation: `gl.track`, and the viewer's recording.

python benchmarks/tracking.py --size 0.1B
"""

import common
import torch
from common import Row
from generation import heads_of

import gaze_lens as gl
from gaze_lens.show.interactive.recording import record

STEPS = 24


@torch.no_grad()
def main(size: str = "0.1B", device: str = "cpu", tokens: int = 384, rounds: int = 9) -> list[Row]:
    """Rows of seconds of a whole generation, compared with the steered generation without recording."""
    model = gl.HookedVLM.wrap(*common.build(size, device=device))
    inputs = model.encode(model.prepare(common.strip(tokens), "What is going on?"))
    heads = gl.HeadSet(heads_of(model))
    few = gl.HeadSet(list(heads)[:: max(1, len(heads) // 8)])
    options = {"fwd_hooks": gl.steer(heads, inputs.region("panel 4")), "max_new_tokens": STEPS}
    times = common.time_in_turns(
        {
            "plain": lambda: model.generate(inputs, **options),
            "track": lambda: gl.track(model, inputs, heads, **options),
            "record": lambda: record(model, inputs, few, **options),
        },
        rounds=rounds,
    )
    case = f"{STEPS} tokens, {tokens} image tokens, "
    return [
        Row.of_seconds("gl.track", f"{case}{len(heads)} heads", times["track"], times["plain"], target=1 / 1.05),
        Row.of_seconds(
            "viewer's recording", f"{case}{len(few)} heads", times["record"], times["plain"], target=1 / 1.05
        ),
    ]


if __name__ == "__main__":
    common.run(main)
