"""What the package costs where nothing is asked of it: a forward with no hook, a cache of one layer, the import.

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
THEIRS = "from transformer_lens.model_bridge import TransformerBridge"  # `import transformer_lens` puts its models off


@torch.no_grad()
def main(size: str = "0.1B", device: str = "cpu", tokens: int = 384, rounds: int = 9) -> list[Row]:
    """Rows of seconds: forwards of the wrapped model against the bare one, and imports."""
    plain, processor = common.build(size, device=device)
    model = gl.HookedVLM.wrap(common.build(size, device=device)[0], processor)
    inputs = model.encode(model.prepare(common.strip(tokens), "What is going on?"))
    pattern = f"blocks.{model.cfg.n_layers // 2}.attn.hook_pattern"
    times = common.by_turns(
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
    """The processor's seconds of `import gaze_lens`, against TransformerLens' bridge; at most 0.3 more are wanted."""
    taken: dict[str, list[float]] = {THEIRS: [], "import gaze_lens": []}
    for turn in range(rounds):
        for line in sorted(taken, reverse=turn % 2 == 1):
            done = subprocess.run([sys.executable, "-c", IMPORT.format(line)], capture_output=True, check=True)
            taken[line].append(json.loads(done.stdout.splitlines()[-1]))
    theirs, ours = (min(several) for several in taken.values())
    ratio, note = theirs / ours, f"{ours - theirs:.2f} s more than TransformerLens' bridge; 0.3 s are allowed"
    return Row("import", "TransformerBridge", "s", ours, theirs, ratio=ratio, target=theirs / (theirs + 0.3), note=note)


if __name__ == "__main__":
    common.run(main)
