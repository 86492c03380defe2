"""The time and memory of `gl.score_heads` on a strip, against what one writes without gaze_lens.

OMP_NUM_THREADS=1 python benchmarks/discovery.py --size 0.1B

The alternative is the bare Hugging Face model with eager attention in its language model: for every question the
processor, the vision tower and a prefill with `output_attentions=True`, all S x S matrices kept until it is done. The
limit is one plain prefill of one question (SDPA, image encoded once, nothing read), stretched by the tokens of the
other questions' ends; ours, which ends behind the last pattern, may be below it.

The six prompts end in 30 tokens of their own. The alternative also computes the logits of every position, as Hugging
Face does unless told otherwise. The size "sketch" has hardly a vision tower (a tenth of our time at 384 image tokens,
a quarter at 2,112): there the ratios are nearly those of the language model alone, whereas an image that is encoded six
times bounds them by six. The JSON's notes say where the time goes.
"""

import copy
import multiprocessing
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import torch
from common import Row, build, by_turns, now, seconds_of, strip

import gaze_lens as gl

TARGETS = {384: 7.9, 2112: 21.9}
BATCHED = {384: 8.0, 2112: 20.0}
MEMORY = Path("/proc/self")


def ask(index: int) -> str:
    """A question of 17 tokens (the tokenizer's are characters); with the template's, 30 follow what all share."""
    return f"{index + 1}: what is there?"


def ours(model: Any, strips: list[gl.Picture], **options: Any) -> torch.Tensor:
    """`[strip, layer, head, asked, attended]`."""
    return gl.score_heads(model, strips, prompts=ask, progress=False, **options).samples


@torch.no_grad()
def alternative(
    bare: Any, processor: Any, picture: gl.Picture, inputs: gl.VLMInputs, n: int | None = None
) -> torch.Tensor:
    """`[layer, head, asked, attended]`, of the first n questions if given. inputs: of one question; only the places of
    image tokens are taken from it."""
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
    """One question, as Hugging Face runs it."""
    inputs = model.prepare(picture, ask(0))
    model.original_model(input_ids=inputs.input_ids, **inputs.arguments(), logits_to_keep=1)


def main(size: str = "0.1B", device: str = "cpu", rounds: int | None = None) -> list[Row]:
    """Discovery on one strip of six panels, and on a GPU on several at once.

    On a CPU, 2112 image tokens are for the sketch only: a vision tower takes minutes for six of them. The first of
    the rounds is cold there, and the median leaves it out.
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
    """Ours against the alternative, against whole prompts, and on a GPU on eight strips at once."""
    picture = strip(n)
    inputs = model.prepare(picture, ask(0))
    found: dict[str, torch.Tensor] = {}
    several = [strip(n, seed=seed) for seed in range(8)]
    functions: dict[str, Callable[[], Any]] = {
        "ours": lambda: found.update(ours=ours(model, [picture])[0]),
        "whole": lambda: ours(model, [picture], share_prefix=False),
        "alternative": lambda: found.update(alternative=alternative(bare, model.processor, picture, inputs)),
        "plain": lambda: plain(model, picture),
        "batched": lambda: ours(model, several, batch_size=8),
    }
    if model.original_model.device.type == "cpu":
        del functions["batched"]
    best = by_turns(functions, rounds=rounds, warm=0 if model.original_model.device.type == "cpu" else 1)
    one = _parts(bare, lambda: alternative(bare, model.processor, picture, inputs, n=1))
    goes = f"ours: {_parts(model.original_model, functions['ours'])}; a question of the alternative: {one}"
    apart = (found["alternative"] - found["ours"]).abs().max()
    tokens = [inputs.layout.length - 30 + 30 * questions for questions in (1, 6)]
    limit = best["plain"].seconds * tokens[1] / tokens[0]
    whole = inputs.layout.length * 6 / tokens[1]
    note = f"the token counts give {whole:.1f}; scores differ by {apart:.1e} at most; limit / ours = "
    rows = [
        Row.of_seconds(
            "discovery", f"{case}, one strip", best["ours"], best["alternative"], limit=limit,
            target=TARGETS.get(n) if case.startswith("sketch") else None,
            note=f"{note}{limit / best['ours'].seconds:.2f}; {goes}",
        ),
        Row.of_seconds("discovery", f"{case}, over whole prompts in a batch", best["ours"], best["whole"], limit=limit),
    ]  # fmt: skip
    if "batched" in best:
        eight = best["batched"].seconds / 8
        ratio = best["alternative"].seconds / eight
        rows.append(
            Row(
                "discovery",
                f"{case}, of 8 strips at once",
                "s",
                eight,
                best["alternative"].seconds,
                limit,
                ratio,
                target=BATCHED.get(n),
            )
        )
    return rows


def _parts(hf_model: Any, function: Callable[[], Any]) -> str:
    """Where the seconds of a call go: each forward of the language model, those of the vision tower, and the rest."""
    taken: dict[str, list[float]] = {"vision": [], "language model": []}
    handles, began = [], []
    for module, name in ((hf_model.model.visual, "vision"), (hf_model.model.language_model, "language model")):
        handles.append(module.register_forward_pre_hook(lambda *_given: began.append(now())))
        end = lambda *_given, into=taken[name]: into.append(now() - began.pop())  # noqa: E731
        handles.append(module.register_forward_hook(end, always_call=True))
    seconds = seconds_of(function)
    for handle in handles:
        handle.remove()
    forwards = " + ".join(f"{one:.2f}" for one in taken["language model"])
    vision = sum(taken["vision"])
    rest = seconds - vision - sum(taken["language model"])
    return f"{seconds:.2f} s, language model {forwards}, vision {vision:.2f}, rest {rest:.2f}"


def _memory(size: str, device: str, n: int) -> Row:
    """Peak memory of ours and of one plain forward, model included, each in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        mine, one = (pool.apply(peak, (which, size, device, n)) for which in ("ours", "plain"))
    note = "resident memory of the process at its highest, or what torch had allocated on the GPU"
    return Row("discovery memory", f"{size}, {n} image tokens, one strip", "MB", mine, one, ratio=one / mine,
               target=1 / 1.05, note=note)  # fmt: skip


def peak(which: str, size: str, device: str, n: int) -> float:
    """The most megabytes that one call holds, with the model. Run it in a process of its own."""
    torch.set_num_threads(1)
    hf_model, processor = build(size, device=device)
    model, picture = gl.HookedVLM.wrap(hf_model, processor), strip(n)
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    else:
        (MEMORY / "clear_refs").write_text("5")  # Linux: the highest resident size counts from here
    plain(model, picture) if which == "plain" else ours(model, [picture])
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**20
    return int(re.search(r"VmHWM:\s+(\d+)", (MEMORY / "status").read_text())[1]) / 2**10


if __name__ == "__main__":
    common.run(main)
