"""Gaze scores: which heads look at the panel that a question is about.

    scores = gl.score_heads(model, gl.comics.synthetic(20, seed=0))
    scores = gl.score_heads(model, [gl.passages([...]), ...])      # over segments of text
    print(scores); heads = scores.top(10)

Gandikota and Bau 2026, "Gaze score": for every panel k the model is asked what happens in it, and each head's
post-softmax attention is summed over the image tokens of every panel j.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gaze_lens.comics.questions import ask
from gaze_lens.data.picture_digests import image_digest
from gaze_lens.errors import InputError, RegionError
from gaze_lens.heads.head_scores import HeadScores
from gaze_lens.inputs.concatenation import concatenated
from gaze_lens.inputs.fitting import fitted
from gaze_lens.inputs.prompt_variants import prepare_variants
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.model.shared_prefix import cannot_share
from gaze_lens.model_protocol import Model
from gaze_lens.regions.picture import Fit, Picture
from gaze_lens.regions.segments import Passages, Source, ask_segment
from gaze_lens.regions.video import Video
from gaze_lens.runs.progress import Bar
from gaze_lens.runs.shards import Shard
from gaze_lens.scoring.image_readings import ImageReadings
from gaze_lens.scoring.readings import StripReading, read_attention
from gaze_lens.whole_numbers import is_count

Prompts = Callable[[int], str] | Sequence[str] | Sequence[Sequence[str]]
Scored = Source | Video
Sample = Float[Tensor, "layer head _ _"]  # of one strip: [layer, head, asked, attended]


def score_heads(
    model: Model,
    strips: Sequence[Scored],
    *,
    prompts: Prompts | None = None,
    at: str = "prompt",
    batch_size: int = 1,
    share_prefix: bool = True,
    fit: Fit | None = None,
    progress: bool = True,
) -> HeadScores:
    """Score every head on strips whose regions are asked about one by one.

    strips: pictures with named regions, in the order in which they are asked about; or `gl.passages`, whose segments
        stand in the place of regions; or `gl.Video`s with named regions, for which `prompts` has no default.
        prompts: a function that returns the question about region k, counted from zero;
        a list; or for questions that depend on the strip (by a name in it) a list of lists, one for each strip. By
        default `gl.comics.ask`, and of passages "What is said in segment {k + 1}?".
    at: "prompt" reads the attention of the last prompt token, as the paper does; "answer" the mean over the positions
        that predict the answer, teacher-forced with the strips' captions, or the passages (for models whose first
        answer token does not need the image).
    batch_size: strips that run together. More than one is faster on a GPU only, and only for strips with equally many
        regions. Each image is encoded once; no full pattern is ever stored.
    share_prefix: run the common beginning of a strip's prompts, which includes the image, once for all its questions.
        Prompts run in full anyway where sharing would not be exact (`model.capabilities()` says so), and where hooks
        are attached, which expect whole prompts. The scores are the same.
    fit: how the model is to see the strips, as for `model.prepare`: "whole" where its processor would cut them.
    Returns HeadScores with samples `[strip, layer, head, asked, attended]`, attention mass 0-1, and from the same
    forwards the mass on the whole image and the mean map over it, for `scores.top(k, by="image")` or `"localization"`.
    """
    options: dict[str, Any] = {"batch_size": batch_size, "share_prefix": share_prefix, "progress": progress}
    image, samples = ImageReadings(), []
    for index, reading in enumerate(read_strips(model, fitted(strips, fit), prompts=prompts, at=at, **options)):
        image.add(index, reading.image_mass, reading.mean_map)
        samples.append(reading.sample)
    filled, _ = stacked(enumerate(samples), len(samples), widest(sample.shape for sample in samples))
    images = [image_digest(strip) for strip in strips]
    about = {"model": model.cfg.model_name, "fingerprint": model.fingerprint}
    return scores_of(filled, **about, at=at, images=images, image=image)


def score_strips(
    model: Model, strips: Sequence[Scored], **options: Any
) -> Iterator[Float[Tensor, "layer head asked attended"]]:
    """The samples of `score_heads`, strip by strip. options: of `read_strips`."""
    return (reading.sample for reading in read_strips(model, strips, **options))


def read_strips(
    model: Model,
    strips: Sequence[Scored],
    *,
    prompts: Prompts | None = None,
    at: str = "prompt",
    batch_size: int = 1,
    share_prefix: bool = True,
    progress: bool = True,
    shard: Shard = (0, 1),
) -> Iterator[StripReading]:
    """What `score_heads` reads, strip by strip, as soon as it is read: for runs that are saved on the way.

    shard: only the strips that `indices_of_shard` lists.
    """
    n_strips = 0 if isinstance(strips, Scored) else len(strips)  # a single picture is not a list of strips
    indices = indices_of_shard(n_strips, batch_size, shard)
    largest, default = _check(strips, indices, at)
    questions = _questions(default if prompts is None else prompts, strips, indices, largest)
    with Bar(total=len(indices), desc="scoring heads", unit="strip", disable=not progress) as bar:
        for start in range(0, len(indices), batch_size):
            chosen = indices[start : start + batch_size]
            batch = [strips[index] for index in chosen]
            shared = share_prefix and not cannot_share(model)
            sizes = [len(strip.regions) for strip in batch]
            n_rows = [max(sizes)] * len(batch) if shared else sizes
            inputs = _inputs(model, batch, [questions[index] for index in chosen], n_rows, at)
            yield from read_attention(model, inputs, at, n_rows[0] if shared else None, n_rows, sizes)
            bar.update(len(batch))


def indices_of_shard(n_strips: int, batch_size: int, shard: Shard) -> list[int]:
    """The strips of a shard (i, n): every n-th batch from the i-th. Whole batches, so that padding does not change.

    Raises InputError where there are no strips at all, or no rows in a batch.
    """
    if n_strips < 1:
        raise InputError("There is no list of strips to score on; give at least one picture with regions: [picture].")
    if not is_count(batch_size):
        raise InputError(f"batch_size={batch_size!r} was given; give 1 or more.")
    return [index for index in range(n_strips) if index // batch_size % shard[1] == shard[0]]


def widest(shapes: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """The shape of the sample with most panels; zeros where there is no sample."""
    return max((tuple(shape) for shape in shapes), default=(0, 0, 0, 0), key=lambda shape: shape[-1])


def stacked(
    samples: Iterable[tuple[int, Sample]], n_strips: int, shape: Sequence[int]
) -> tuple[Float[Tensor, "strip layer head asked attended"], Bool[Tensor, " strip"]]:
    """Samples in one tensor, and for each strip whether it has one; a strip without a sample is zero.

    samples: (index of the strip, its sample). shape: of the widest one; the others are filled up with NaN.
    """
    filled, present = torch.zeros(n_strips, *shape), torch.zeros(n_strips, dtype=torch.bool)
    for index, sample in samples:
        n_panels = sample.shape[-1]
        filled[index] = torch.nan
        filled[index, ..., :n_panels, :n_panels] = sample
        present[index] = True
    return filled, present


def scores_of(
    samples: Float[Tensor, "strip layer head asked attended"],
    *,
    model: str,
    fingerprint: str,
    at: str = "prompt",
    images: Sequence[str] = (),
    image: ImageReadings | None = None,
) -> HeadScores:
    """The samples of `score_strips` as HeadScores of a model.

    images: fingerprints of the strips' images, by which an evaluation notices that the heads were chosen on them.
    image: what the strips tell about the whole image.
    """
    image = image or ImageReadings()
    provenance: dict[str, Any] = {"method": "gaze score", "at": at, "strips": len(samples)}
    if images:
        provenance["images"] = " ".join(images)
    image_mass, mean_map = image.image_mass(samples.shape[-1]), image.mean_map()
    return HeadScores(samples, model, fingerprint, provenance, image_mass, mean_map)


def _check(strips: Sequence[Scored], indices: Sequence[int], at: str) -> tuple[int, Callable[[int], str]]:
    """The largest number of regions, and the default question. Each strip is read once, as it may be on disk."""
    if at not in ("prompt", "answer"):
        raise InputError(f'at={at!r} was given; give "prompt" or "answer".')
    largest, kinds = 0, set()
    for index in indices:
        strip = strips[index]
        kinds.add(next((kind for kind in (Passages, Video) if isinstance(strip, kind)), Picture))
        if len(kinds) > 1:
            raise InputError("Pictures, passages or videos were given together; score heads on one kind at a time.")
        if len(getattr(strip, "regions", ())) < 2:
            raise RegionError(
                f"Strip {index} has fewer than two named regions; make strips with gl.comics.strip, gl.passages "
                "or gl.Video(frames, fps=8, regions={...})."
            )
        missing = [name for name in strip.regions if not strip.captions.get(name)] if at == "answer" else []
        if missing:
            raise InputError(f'Strip {index} has no caption for {missing}; at="answer" needs one for every region.')
        largest = max(largest, len(strip.regions))
    defaults: dict[type | None, Callable[[int], str]] = {Passages: ask_segment, Picture: ask}
    return largest, defaults.get(next(iter(kinds), Picture), _no_question)


def _no_question(index: int) -> str:
    raise InputError(
        f"Nothing was said of how to ask about region {index + 1} of a video; give prompts=, a question for each "
        "region in its order."
    )


def _questions(
    prompts: Prompts, strips: Sequence[Scored], indices: Sequence[int], largest: int
) -> dict[int, Sequence[str]]:
    """Index of a strip -> the question about each of its regions. largest: the number of regions of the widest."""
    if callable(prompts):
        return dict.fromkeys(indices, [prompts(index) for index in range(largest)])
    if isinstance(prompts, str) or not all(map(_is_list_of_texts, prompts)) or not len(prompts):
        return dict.fromkeys(indices, _enough(prompts, largest, "a strip"))
    if len(prompts) != len(strips):
        raise InputError(f"{len(prompts)} lists of prompts were given for {len(strips)} strips; give one for each.")
    return {index: _enough(prompts[index], len(strips[index].regions), f"strip {index}") for index in indices}


def _is_list_of_texts(prompts: Any) -> bool:
    """Whether it is a list of questions about one strip; chat messages are a list, too, and one question."""
    return isinstance(prompts, list | tuple) and all(isinstance(one, str) for one in prompts)


def _enough(prompts: Any, n_regions: int, whose: str) -> Sequence[str]:
    """A question for each region; InputError where there are too few."""
    if isinstance(prompts, str) or len(prompts) < n_regions:
        kind = f"the text {prompts!r}" if isinstance(prompts, str) else f"a list of {len(prompts)}"
        raise InputError(
            f"prompts is {kind}, and {whose} has {n_regions} regions; give a question for each, or a function that "
            "makes the question about region k, such as lambda k: f'What is in panel {k + 1}?'."
        )
    return list(prompts)


def _inputs(
    model: Model,
    strips: Sequence[Scored],
    questions: Sequence[Sequence[str]],
    n_rows: Sequence[int],
    at: str,
) -> VLMInputs:
    """One batch: every strip once for each of its regions, its image encoded once.

    questions: about the regions of each strip. n_rows: of each strip; where it has fewer regions, its last row is
    repeated. All images go through the vision tower together; after that, only one strip's pixels are in memory.
    """
    if isinstance(strips[0], Passages):
        return _inputs_of_text(model, strips, questions, n_rows, at)
    encoded = None
    if len(strips) > 1:
        answers = [_captions(strip)[0] for strip in strips] if at == "answer" else None
        encoded = model.encode(model.prepare(strips, [one[0] for one in questions], answers=answers))
    rows = []
    for strip, asked, n in zip(strips, questions, n_rows, strict=True):
        answers = _captions(strip) if at == "answer" else None
        variants = prepare_variants(
            model, cast(Picture | Video, strip), asked[: len(strip.regions)], answers, reuse=encoded
        )
        rows += variants + variants[-1:] * (n - len(variants))
    return concatenated(rows)


def _inputs_of_text(
    model: Model, passages: Sequence[Scored], questions: Sequence[Sequence[str]], n_rows: Sequence[int], at: str
) -> VLMInputs:
    """The same for passages: without images, all rows are prepared at once."""
    triples = zip(passages, questions, n_rows, strict=True)
    order = [(one, asked, min(k, len(one.regions) - 1)) for one, asked, n in triples for k in range(n)]
    answers = [_captions(one)[k] for one, _, k in order] if at == "answer" else None
    return model.prepare([one for one, _, _ in order], [asked[k] for _, asked, k in order], answers=answers)


def _captions(strip: Scored) -> list[str]:
    """The captions of a strip's regions, in their order."""
    return [strip.captions[name] for name in strip.regions]
