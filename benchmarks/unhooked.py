"""The time that the package adds without hooks: a forward, a cache of one layer, the import.

python benchmarks/unhooked.py --size 0.1B
"""

import json
import subprocess
import sys

import common
import torch
from common import Row

import gaze_lens as gl

IMPORT = "import json, time; t = time.process_time(); {}; print(json.dumps(time.process_time() - t))"
THEIRS = (
    "from transformer_lens.model_bridge import TransformerBridge"  # `import transformer_lens` does not load its models
)


@torch.no_grad()
def main(size: str = "0.1B", device: str = "cpu", tokens: int = 384, rounds: int = 9) -> list[Row]:
    """Rows of seconds: forwards of the wrapped model compared with the bare one, and imports."""
    plain, processor = common.build(size, device=device)
    model = gl.HookedVLM.wrap(common.build(size, device=device)[0], processor)
    inputs = model.encode(model.prepare(common.strip(tokens), "What is going on?"))
    pattern = f"blocks.{model.cfg.n_layers // 2}.attn.hook_pattern"
    times = common.time_in_turns(
        {
            "plain": lambda: plain(input_ids=inputs.input_ids, **inputs.arguments()),
            "wrapped": lambda: model(inputs),
            "one pattern": lambda: model.run_with_cache(inputs, names_filter=pattern),
        },
        rounds=rounds,
    )
    case = f"{tokens} image tokens"
    return [
        Row.of_seconds("forward, nothing attached", case, times["wrapped"], times["plain"], target=0.99),
        Row.of_seconds("run_with_cache, one pattern", case, times["one pattern"], times["plain"]),
        imports(rounds),
    ]


def imports(rounds: int = 4) -> Row:
    """Processor seconds of `import gaze_lens`, compared with TransformerLens' bridge. Target: at most 0.3 s more."""
    seconds: dict[str, list[float]] = {THEIRS: [], "import gaze_lens": []}
    for turn in range(rounds):
        for line in sorted(seconds, reverse=turn % 2 == 1):
            process = subprocess.run([sys.executable, "-c", IMPORT.format(line)], capture_output=True, check=True)
            seconds[line].append(json.loads(process.stdout.splitlines()[-1]))
    theirs, ours = (min(several) for several in seconds.values())
    ratio, note = theirs / ours, f"{ours - theirs:.2f} s more than TransformerLens' bridge; 0.3 s are allowed"
    return Row("import", "TransformerBridge", "s", ours, theirs, ratio=ratio, target=theirs / (theirs + 0.3), note=note)


if __name__ == "__main__":
    common.run(main)
