"""Gaze scores: which heads look at the panel that is asked about.

    scores = gl.score_heads(model, gl.comics.synthetic(20, seed=0))
    print(scores); heads = scores.top(10)

Gandikota and Bau 2026, "Gaze score": for every panel k ask what happens in it, and sum each head's post-softmax
attention over the image tokens of every panel j.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from gaze_lens.attention.positions import Positions, QueryKeyPositions
from gaze_lens.attention.row_reader import RowReader
from gaze_lens.comics.questions import ask
from gaze_lens.errors import InputError, ModelError, RegionError
from gaze_lens.heads.head_scores import HeadScores
from gaze_lens.inputs.concatenation import concatenated
from gaze_lens.inputs.prompt_variants import prepare_variants
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.model.shared_prefix import SharedPrefixBatch, cannot_share
from gaze_lens.regions.picture import Picture

Prompts = Callable[[int], str] | Sequence[str]


def score_heads(
    model: Any,
    strips: Sequence[Picture],
    *,
    prompts: Prompts = ask,
    at: str = "prompt",
    batch_size: int = 1,
    share_prefix: bool = True,
    progress: bool = True,
) -> HeadScores:
    """Score every head on strips whose regions are asked about one by one.

    strips: pictures with named regions, in asking order. prompts: the question for region k, zero-based: a function
        of k, or a list.
    at: "prompt" takes the last prompt token, as the paper does; "answer" the mean over the positions that produce
        the answer, teacher-forced with the strips' captions (for models whose first answer token needs no image).
    batch_size: strips that run together, which pays on a GPU only, and where they have equally many regions. Each image
        is encoded once; no full pattern is ever kept.
    share_prefix: run what a strip's prompts begin with, the image above all, once for all its questions. Where that
        would not be exact (`model.capabilities()` says so), or where hooks are attached, which expect whole prompts,
        they run whole anyway. The scores are the same.
    Returns HeadScores with samples `[strip, layer, head, asked, attended]`, attention mass 0-1.
    """
    options = {"batch_size": batch_size, "share_prefix": share_prefix, "progress": progress}
    samples = list(score_strips(model, strips, prompts=prompts, at=at, **options))
    return collect_scores(model, samples, at=at)


def collect_scores(model: Any, samples: Sequence[Float[Tensor, "layer head _ _"]], *, at: str) -> HeadScores:
    """The samples of `score_strips` as HeadScores; strips with fewer panels are filled with NaN."""
    widest = max(sample.shape[-1] for sample in samples)
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    filled = torch.full((len(samples), n_layers, n_heads, widest, widest), float("nan"))
    for row, sample in zip(filled, samples, strict=True):
        n_panels = sample.shape[-1]
        row[:, :, :n_panels, :n_panels] = sample
    provenance = {"method": "gaze score", "at": at, "strips": len(samples)}
    return HeadScores(filled, model=model.cfg.model_name, fingerprint=model.fingerprint, provenance=provenance)


def score_strips(
    model: Any,
    strips: Sequence[Picture],
    *,
    prompts: Prompts = ask,
    at: str = "prompt",
    batch_size: int = 1,
    share_prefix: bool = True,
    progress: bool = True,
) -> Iterator[Float[Tensor, "layer head asked attended"]]:
    """The samples of `score_heads`, strip by strip, as they are made: for runs that are saved on the way."""
    questions = _questions(prompts, _check(strips, at, batch_size))
    with tqdm(total=len(strips), desc="scoring heads", unit="strip", disable=not progress) as bar:
        for group in batched_strips(strips, batch_size):
            shared = share_prefix and not cannot_share(model)
            sizes = [len(strip.regions) for strip in group]
            asked = [max(sizes)] * len(group) if shared else sizes
            inputs = _inputs(model, group, questions, asked, at)
            masses = _masses(model, inputs, at, asked[0] if shared else None)
            for size, mass in zip(sizes, masses.split(asked), strict=True):
                yield mass[:size, ..., :size].permute(1, 2, 0, 3).contiguous()
            bar.update(len(group))


def batched_strips(strips: Sequence[Picture], batch_size: int) -> Iterator[tuple[Picture, ...]]:
    """Groups of at most `batch_size` strips, in order."""
    yield from (tuple(strips[start : start + batch_size]) for start in range(0, len(strips), batch_size))


def _check(strips: Sequence[Picture], at: str, batch_size: int) -> int:
    """The largest number of regions; each strip is looked at once, since it may be read from disk for it."""
    if isinstance(strips, Picture) or not len(strips):
        raise InputError("There is no list of strips to score on; give at least one picture with regions: [picture].")
    if at not in ("prompt", "answer"):
        raise InputError(f'at={at!r} was given; give "prompt" or "answer".')
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size} was given; give 1 or more.")
    widest = 0
    for index, strip in enumerate(strips):
        if len(getattr(strip, "regions", ())) < 2:
            raise RegionError(f"Strip {index} has fewer than two named regions; make strips with gl.comics.strip.")
        missing = [name for name in strip.regions if not strip.captions.get(name)] if at == "answer" else []
        if missing:
            raise InputError(f'Strip {index} has no caption for {missing}; at="answer" needs one for every region.')
        widest = max(widest, len(strip.regions))
    return widest


def _questions(prompts: Prompts, n_regions: int) -> list[str]:
    """The question about each region, for the strip with most of them."""
    if callable(prompts):
        return [prompts(index) for index in range(n_regions)]
    if isinstance(prompts, str) or len(prompts) < n_regions:
        given = f"the text {prompts!r}" if isinstance(prompts, str) else f"a list of {len(prompts)}"
        raise InputError(
            f"prompts is {given}, and a strip has {n_regions} regions; give a question for each, or a function that "
            "makes the question about region k, such as lambda k: f'What is in panel {k + 1}?'."
        )
    return list(prompts)


def _inputs(
    model: Any, strips: Sequence[Picture], questions: Sequence[str], asked: Sequence[int], at: str
) -> VLMInputs:
    """One batch: every strip once for each of its regions, its image encoded once.

    asked: rows for each strip; where it has fewer regions, the last of them fills up. All images go through the vision
    tower together; after that, one strip's pixels are there at a time.
    """

    def captions(strip: Picture) -> list[str] | None:
        return [strip.captions[name] for name in strip.regions] if at == "answer" else None

    seen = None
    if len(strips) > 1:
        answers = [captions(strip)[0] for strip in strips] if at == "answer" else None
        seen = model.encode(model.prepare(strips, [questions[0]] * len(strips), answers=answers))
    rows = []
    for strip, n in zip(strips, asked, strict=True):
        found = prepare_variants(model, strip, questions[: len(strip.regions)], captions(strip), reuse=seen)
        rows += found + found[-1:] * (n - len(found))
    return concatenated(rows)


@torch.no_grad()
def _masses(model: Any, inputs: VLMInputs, at: str, size: int | None) -> Float[Tensor, "row layer head region"]:
    """For every row, the attention mass of its query positions on each region of its picture, by head.

    size: rows that follow one another and may share a prefix; None where every row runs whole.
    """
    rows = inputs.answer_positions if at == "answer" else ((inputs.last_position,),) * inputs.n_rows
    member = membership(inputs)
    split = None if size is None else SharedPrefixBatch.of(inputs, size, [min(row) for row in rows])
    if split is not None:
        rows, member = split.columns(rows), split.shared_columns(member)
    reader, found = _reader(rows, member, inputs.layout.cross_attention)
    known = model.hook_dict
    names = (f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers))
    hooks = [(name, reader) for name in names if name in known]  # a layer without softmax has no pattern
    if split is None:
        keep = inputs.last_logits
        model.run_with_hooks(inputs, fwd_hooks=hooks, return_type=None, logits_to_keep=keep, use_cache=False)
    else:
        split.run(model, inputs, hooks)
    out = torch.zeros(inputs.n_rows, model.cfg.n_layers, model.cfg.n_heads, member.shape[-1])
    for layer, mass in found.items():
        out[:, layer] = mass.cpu()
    if out.isnan().any():
        raise ModelError("The attention holds NaN: the weights or their precision are at fault; try float32.")
    return out


def _reader(
    rows: Sequence[Sequence[int]], member: Float[Tensor, "group key region"], cross_attention: bool
) -> tuple[RowReader, dict[int, Float[Tensor, "row head region"]]]:
    """A reader of the rows' query positions, and what it will have found, layer by layer: their mean mass on regions.

    The forward has a row for each group of as many rows, side by side. cross_attention: the image is among the keys of
    cross-attention layers.
    """
    found: dict[int, Tensor] = {}
    size = len(rows) // len(member)
    groups = [rows[first : first + size] for first in range(0, len(rows), size)]

    def read(weights: Tensor, positions: list[int], place: QueryKeyPositions, layer: int) -> None:
        if place.cross_attention != cross_attention:  # there is no image among these keys
            return
        keys = member[:, place.keys.start : place.keys.stop].to(weights.device)  # a sliding cache drops the oldest
        masses = torch.einsum("ghqk,gkr->ghqr", weights[..., : keys.shape[1]].float(), keys)
        wanted = torch.tensor([[[at in row for at in positions] for row in group] for group in groups]).to(masses)
        mean = torch.einsum("gnq,ghqr->gnhr", wanted / wanted.sum(2, keepdim=True), masses)
        found[layer] = mean.flatten(0, 1)

    queries = tuple(tuple(at for row in group for at in row) for group in groups)
    return RowReader(Positions(queries), read), found


def membership(inputs: VLMInputs) -> Float[Tensor, "row position region"]:
    """1 where a key of the prompt is an image token of a region of its row's picture, else 0."""
    names = [[name for picture in pictures for name in picture.regions] for pictures in inputs.pictures]
    member = torch.zeros(inputs.n_rows, inputs.layout.n_keys, max(map(len, names)))
    for tokens in inputs.image_tokens:
        picture = inputs.pictures[tokens.row][tokens.image]
        for name in picture.regions:
            positions = list(inputs.positions_of(name, row=tokens.row, image=tokens.image))
            member[tokens.row, positions, names[tokens.row].index(name)] = 1.0
    return member
