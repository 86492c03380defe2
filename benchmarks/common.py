"""What the benchmarks share: models of some sizes, strips, timing in turns, one table.

    hf_model, processor = build("0.1B")
    model = gl.HookedVLM.wrap(hf_model, processor)
    inputs = model.prepare(strip(384), "What is going on?")
    times = time_in_turns({"ours": f, "plain": g}, rounds=5)
    rows = [Row.of_seconds("unhooked", "forward", times["ours"], times["plain"], target=0.99)]

A benchmark has a function `main(size=..., device=..., rounds=...) -> list[Row]`, and ends in `run(main)`.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import torch
import transformers
from PIL import Image
from transformers import (
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

import gaze_lens as gl
from gaze_lens.testing.grids import QWEN, QWEN_CHAT
from gaze_lens.testing.parts import byte_tokenizer

VOCABULARY = 16_384
PANELS = {  # image tokens -> width, height of one of six panels
    96: (128, 128), 192: (128, 256), 384: (256, 256), 768: (256, 512), 1536: (512, 512), 2112: (352, 1024),
    3072: (512, 1024), 8064: (672, 2048),
}  # fmt: skip


@dataclass(frozen=True)
class Size:
    """The sizes of a Qwen3-VL; `2B` and `8B` are those of the published models, with their vocabulary."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    head_width: int = 128
    vision_width: int = 1024
    vision_layers: int = 24
    vision_heads: int = 16
    vision_mlp: int = 4096
    vocabulary: int = VOCABULARY


SIZES = {
    "small": Size(384, 10, 12, 6, 768, 32, vision_width=32, vision_layers=4, vision_heads=1, vision_mlp=64),
    "sketch": Size(512, 12, 8, 8, 2048, 64, vision_width=64, vision_layers=4, vision_heads=2, vision_mlp=128),
    "0.1B": Size(512, 12, 8, 4, 2048, 64, vision_width=384, vision_layers=12, vision_heads=6, vision_mlp=1536),
    "0.5B": Size(1024, 24, 16, 8, 3072, 64, vision_width=768, vision_layers=12, vision_heads=12, vision_mlp=3072),
    "2B": Size(2048, 28, 16, 8, 6144, vocabulary=151_936),
    "8B": Size(4096, 36, 32, 8, 12_288, vision_width=1152, vision_layers=27, vision_mlp=4304, vocabulary=151_936),
}


def build(size: str = "0.1B", *, device: str = "cpu", dtype: torch.dtype | None = None, seed: int = 0) -> tuple:
    """A Qwen3-VL with random weights, in eval mode, and its processor. dtype: bfloat16 on a GPU, else float32."""
    torch.manual_seed(seed)
    tokenizer = byte_tokenizer(QWEN)
    config = _config(SIZES[size], tokenizer)
    dtype = dtype or (torch.float32 if device == "cpu" else torch.bfloat16)
    with torch.device(device):
        model = Qwen3VLForConditionalGeneration._from_config(config, dtype=dtype, attn_implementation="sdpa")
    model.config.architectures = [type(model).__name__]
    pixels = {"shortest_edge": 32 * 32, "longest_edge": 32 * 32 * 16_384}
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=16, merge_size=2, size=pixels), tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(patch_size=16), chat_template=QWEN_CHAT,
    )  # fmt: skip
    model.generation_config.eos_token_id = None  # so that every generation has max_new_tokens tokens
    return model.eval(), processor


def _config(size: Size, tokenizer: Any) -> Qwen3VLConfig:
    share = size.head_width // 32  # 12, 10 and 10 of 32 parts of half a head are rotated by time, height and width
    text = {
        "hidden_size": size.width, "num_hidden_layers": size.layers, "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads, "head_dim": size.head_width, "intermediate_size": size.mlp,
        "vocab_size": size.vocabulary, "max_position_embeddings": 262_144, "tie_word_embeddings": True,
        "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 5e6, "mrope_interleaved": True,
            "mrope_section": [6 * share, 5 * share, 5 * share],
        },
    }  # fmt: skip
    vision = {
        "hidden_size": size.vision_width, "depth": size.vision_layers, "num_heads": size.vision_heads,
        "intermediate_size": size.vision_mlp, "patch_size": 16, "spatial_merge_size": 2,
        "out_hidden_size": size.width, "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [size.vision_layers // 4 * k - 1 for k in (1, 2, 3)],
    }  # fmt: skip
    names = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    image, video, start, end = tokenizer.convert_tokens_to_ids(list(names))
    return Qwen3VLConfig(
        text_config=text, vision_config=vision, image_token_id=image, video_token_id=video,
        vision_start_token_id=start, vision_end_token_id=end, tie_word_embeddings=True,
    )  # fmt: skip


def strip(image_tokens: int = 384, *, seed: int = 0) -> gl.Picture:
    """A comic strip of six panels of noise with this number of image tokens: 96, 192, 384, 768 ... (`PANELS`)."""
    width, height = PANELS[image_tokens]
    rng = np.random.default_rng(seed)
    panels = [Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for _ in range(6)]
    return gl.comics.strip(panels, height=height)


@dataclass(frozen=True)
class Timing:
    """The seconds of a function in each round; other functions took turns with it in the same rounds."""

    rounds: tuple[float, ...]

    @property
    def seconds(self) -> float:
        """The median."""
        return median(self.rounds)

    def speed_over(self, other: "Timing") -> float:
        """How many times faster than another: the median of the ratios of all rounds. What slows a whole round cancels
        out in its ratio."""
        return median(theirs / ours for ours, theirs in zip(self.rounds, other.rounds, strict=True))

    def against(self, other: "Timing") -> str:
        """The ratio of the fastest rounds, for a note. If the median is far from it, something else was running."""
        return f"fastest rounds {min(other.rounds) / min(self.rounds):.3f}"


def time_in_turns(functions: Mapping[str, Callable[[], Any]], *, rounds: int = 5, warm: int = 1) -> dict[str, Timing]:
    """The seconds of each function. warm: rounds before, which do not count."""
    return {name: Timing(tuple(seconds)) for name, seconds in in_turns(functions, seconds_of, rounds, warm).items()}


def in_turns(
    functions: Mapping[str, Any], measure: Callable[[Any], Any], rounds: int, warm: int = 1
) -> dict[str, list]:
    """What `measure` returns for each function in each round. Every other round has the functions in reverse order, so
    that other load on the machine affects all of them equally."""
    for function in [f for f in functions.values() for _ in range(warm)]:
        measure(function)
    results: dict[str, list] = {name: [] for name in functions}
    for index in range(rounds):
        for name in list(functions) if index % 2 == 0 else reversed(list(functions)):
            results[name].append(measure(functions[name]))
    return results


def seconds_of(function: Callable[[], Any]) -> float:
    """How many seconds a call takes."""
    start = now()
    function()
    return now() - start


def now() -> float:
    """The time in seconds. With one thread on a CPU it is the processor time of this process, because others may use
    the same processor; else it is the clock's, after all work of the GPU has ended."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    elif torch.get_num_threads() == 1:
        return time.process_time()
    return time.perf_counter()


@dataclass(frozen=True)
class Row:
    """A row of the table.

    ours, alternative, limit: in `unit` ("s", "tokens/s", "MB", ...); the limit is an estimate of the best possible.
    ratio: how many times better ours is than the alternative.
    target: the smallest ratio that is wanted; None for no target.
    """

    subject: str
    case: str
    unit: str
    ours: float
    alternative: float | None = None
    limit: float | None = None
    ratio: float | None = None
    target: float | None = None
    note: str = ""

    @classmethod
    def of_seconds(cls, subject: str, case: str, ours: Timing, alternative: Timing, **more: Any) -> "Row":
        """A row about two timings."""
        more = {"note": ours.against(alternative), **more}
        return cls(subject, case, "s", ours.seconds, alternative.seconds, ratio=ours.speed_over(alternative), **more)

    @property
    def verdict(self) -> str:
        """ "met" or "missed"; empty without a target."""
        if self.target is None or self.ratio is None:
            return ""
        return "met" if self.ratio >= self.target else "missed"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "verdict": self.verdict}


def machine() -> dict[str, Any]:
    """The machine and the versions of a measurement."""
    names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
    when = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "processor": (names or [platform.processor()])[0], "cores": len(names), "threads": torch.get_num_threads(),
        "gpu": gpu, "when": when, **versions,
    }  # fmt: skip


def in_words(machine: Mapping[str, Any]) -> str:
    """What `machine` returns, in words."""
    hardware = machine["gpu"] or f"{machine['processor']}, {machine['cores']} cores"
    threads = "one thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    return f"{hardware}, {threads}, torch {machine['torch']}, transformers {machine['transformers']}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def table(rows: list[Row]) -> str:
    """The rows as text."""
    numbers = dict.fromkeys(("ours", "alternative", "limit", "ratio", "target"), float)  # None becomes NaN
    frame = pd.DataFrame([row.to_dict() for row in rows]).drop(columns="note").astype(numbers)
    return frame.to_string(index=False, na_rep="", float_format="%.4g")


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_json(rows: list[Row], path: str | Path, **about: Any) -> None:
    """Write the rows, the machine, and the arguments of the run (`about`)."""
    lines = [row.to_dict() for row in rows]
    Path(path).write_text(json.dumps({"machine": machine(), **about, "rows": lines}, indent=1) + "\n")


def run(main: Callable[..., list[Row]]) -> None:
    """Run one benchmark from the command line: `python benchmarks/generation.py --size 0.5B --rounds 2`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--size", choices=SIZES, default="0.1B")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, help="how often each run is timed; the median is shown")
    parser.add_argument("--out", help="a JSON file to write")
    args = parser.parse_args()
    if args.device == "cpu":
        torch.set_num_threads(1)
    about = arguments(args.size, args.device, args.rounds)
    rows = main(**about)
    print(table(rows))  # noqa: T201
    if args.out:
        write_json(rows, args.out, **about)


def arguments(size: str, device: str, rounds: int | None) -> dict[str, Any]:
    """Arguments for a benchmark's `main`. Without `rounds` it uses its own number of rounds."""
    return {"size": size, "device": device, **({} if rounds is None else {"rounds": rounds})}
