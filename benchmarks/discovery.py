"""The time and memory of `gl.score_heads` on a strip, compared with code that does not use gaze_lens.

OMP_NUM_THREADS=1 python benchmarks/discovery.py --size 0.1B

The alternative is the bare Hugging Face model with eager attention in its language model: for every question the
processor, the vision tower and a prefill with `output_attentions=True`, which keeps all S x S matrices until it ends.
The limit is one plain prefill of one question (SDPA, image encoded once, nothing read), scaled up by the tokens of the
other questions' ends. Ours can be below it, because it stops after the last pattern.

Each of the six prompts ends in 30 tokens of its own. The alternative also computes the logits of every position, which
is Hugging Face's default. The size "sketch" has a very small vision tower (a tenth of our time at 384 image tokens, a
quarter at 2,112). Its ratios are nearly those of the language model alone; with a large tower, which the alternative
runs six times, no ratio can be much above six. The notes in the JSON file say which part takes how long.
"""

import copy
import multiprocessing
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import torch
from common import Row, build, now, seconds_of, strip, time_in_turns

import gaze_lens as gl

TARGETS = {384: 7.9, 2112: 21.9}
BATCHED = {384: 8.0, 2112: 20.0}
MEMORY = Path("/proc/self")


def ask(index: int) -> str:
    """A question of 17 tokens (each is one character); with those of the template, 30 follow the shared prefix."""
    return f"{index + 1}: what is there?"


def ours(model: Any, strips: list[gl.Picture], **options: Any) -> torch.Tensor:
    """`[strip, layer, head, asked, attended]`."""
    return gl.score_heads(model, strips, prompts=ask, progress=False, **options).samples


@torch.no_grad()
def alternative(
    bare: Any, processor: Any, picture: gl.Picture, inputs: gl.VLMInputs, n: int | None = None
) -> torch.Tensor:
    """`[layer, head, asked, attended]`, of the first n questions or of all. inputs: of one question; used only for the
    positions of image tokens."""
    groups = [list(inputs.positions_of(name)) for name in picture.regions]
    asked = []
    for index in range(n or len(picture.regions)):
        messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": ask(index)}]}]
        text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        tensors = processor(text=[text], images=[[picture.image]], return_tensors="pt").to(bare.device)
        attentions = bare(**tensors.to(bare.dtype), output_attentions=True).attentions
        last = torch.stack([layer[0, :, -1].float() for layer in attentions])
        asked.append(torch.stack([last[..., group].sum(-1) for group in groups], dim=-1))
    return torch.stack(asked, dim=2).cpu()


@torch.no_grad()
def plain(model: Any, picture: gl.Picture) -> None:
    """A forward of one question, as Hugging Face runs it."""
    inputs = model.prepare(picture, ask(0))
    model.original_model(input_ids=inputs.input_ids, **inputs.arguments(), logits_to_keep=1)


def main(size: str = "0.1B", device: str = "cpu", rounds: int | None = None) -> list[Row]:
    """Discovery on one strip of six panels, and on a GPU also on several at once.

    On a CPU, only the sketch runs 2112 image tokens: a larger vision tower takes minutes for six such images. On a CPU
    there is no warm-up; the first round is slower, and the median leaves it out.
    """
    both = (384, 2112)
    sizes = {size: both} if device != "cpu" else {size: (384,), "sketch": both}
    rounds = rounds or (3 if device == "cpu" else 5)
    rows = []
    for name, tokens in sizes.items():
        hf_model, processor = build(name, device=device)
        bare = copy.deepcopy(hf_model)
        bare.set_attn_implementation({"text_config": "eager"})
        model = gl.HookedVLM.wrap(hf_model, processor)
        for n in tokens:
            rows += _times(f"{name}, {n} image tokens", model, bare, n, rounds)
        del model, hf_model, bare
        rows += [_memory(name, device, n) for n in tokens]
    return rows


def _times(case: str, model: Any, bare: Any, n: int, rounds: int) -> list[Row]:
    """Ours compared with the alternative and with whole prompts, and on a GPU also on eight strips at once."""
    picture = strip(n)
    inputs = model.prepare(picture, ask(0))
    scores: dict[str, torch.Tensor] = {}
    several = [strip(n, seed=seed) for seed in range(8)]
    functions: dict[str, Callable[[], Any]] = {
        "ours": lambda: scores.update(ours=ours(model, [picture])[0]),
        "whole": lambda: ours(model, [picture], share_prefix=False),
        "alternative": lambda: scores.update(alternative=alternative(bare, model.processor, picture, inputs)),
        "plain": lambda: plain(model, picture),
        "batched": lambda: ours(model, several, batch_size=8),
    }
    if model.original_model.device.type == "cpu":
        del functions["batched"]
    times = time_in_turns(functions, rounds=rounds, warm=0 if model.original_model.device.type == "cpu" else 1)
    one = _parts(bare, lambda: alternative(bare, model.processor, picture, inputs, n=1))
    parts = f"ours: {_parts(model.original_model, functions['ours'])}; a question of the alternative: {one}"
    difference = (scores["alternative"] - scores["ours"]).abs().max()
    tokens = [inputs.layout.length - 30 + 30 * questions for questions in (1, 6)]
    limit = times["plain"].seconds * tokens[1] / tokens[0]
    whole = inputs.layout.length * 6 / tokens[1]
    note = f"the token counts give {whole:.1f}; scores differ by {difference:.1e} at most; limit / ours = "
    rows = [
        Row.of_seconds(
            "discovery", f"{case}, one strip", times["ours"], times["alternative"], limit=limit,
            target=TARGETS.get(n) if case.startswith("sketch") else None,
            note=f"{note}{limit / times['ours'].seconds:.2f}; {parts}",
        ),
        Row.of_seconds(
            "discovery", f"{case}, over whole prompts in a batch", times["ours"], times["whole"], limit=limit
        ),
    ]  # fmt: skip
    if "batched" in times:
        eight = times["batched"].seconds / 8
        ratio = times["alternative"].seconds / eight
        rows.append(
            Row(
                "discovery",
                f"{case}, of 8 strips at once",
                "s",
                eight,
                times["alternative"].seconds,
                limit,
                ratio,
                target=BATCHED.get(n),
            )
        )
    return rows


def _parts(hf_model: Any, function: Callable[[], Any]) -> str:
    """The seconds of the parts of a call: each forward of the language model, the vision tower, and the rest."""
    seconds_by_part: dict[str, list[float]] = {"vision": [], "language model": []}
    handles, starts = [], []
    for module, name in ((hf_model.model.visual, "vision"), (hf_model.model.language_model, "language model")):
        handles.append(module.register_forward_pre_hook(lambda *_args: starts.append(now())))
        end = lambda *_args, into=seconds_by_part[name]: into.append(now() - starts.pop())  # noqa: E731
        handles.append(module.register_forward_hook(end, always_call=True))
    total = seconds_of(function)
    for handle in handles:
        handle.remove()
    forwards = " + ".join(f"{seconds:.2f}" for seconds in seconds_by_part["language model"])
    vision = sum(seconds_by_part["vision"])
    rest = total - vision - sum(seconds_by_part["language model"])
    return f"{total:.2f} s, language model {forwards}, vision {vision:.2f}, rest {rest:.2f}"


def _memory(size: str, device: str, n: int) -> Row:
    """Peak memory of ours and of one plain forward, with the model, each in its own process."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        ours, plain = (pool.apply(peak, (which, size, device, n)) for which in ("ours", "plain"))
    note = "largest resident memory of the process, or memory that torch allocated on the GPU"
    return Row("discovery memory", f"{size}, {n} image tokens, one strip", "MB", ours, plain, ratio=plain / ours,
               target=1 / 1.05, note=note)  # fmt: skip


def peak(which: str, size: str, device: str, n: int) -> float:
    """The peak memory of one call in megabytes, with the model. Call it in a new process."""
    torch.set_num_threads(1)
    hf_model, processor = build(size, device=device)
    model, picture = gl.HookedVLM.wrap(hf_model, processor), strip(n)
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    else:
        (MEMORY / "clear_refs").write_text("5")  # Linux: reset the peak of the resident size
    plain(model, picture) if which == "plain" else ours(model, [picture])
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**20
    return int(re.search(r"VmHWM:\s+(\d+)", (MEMORY / "status").read_text())[1]) / 2**10


if __name__ == "__main__":
    common.run(main)
