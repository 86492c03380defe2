"""The heads of a reproduction: scored on some strips, and how many of them to steer chosen on others.

    scores, heads = find_heads(model, discovery, choosing, Path("paper"))

Both are files: scores.safetensors, and heads.json, a ranking that recommends the number. `gaze-lens steer --heads
paper/heads.json` and `serve` take as many.
"""

from collections.abc import Sequence
from pathlib import Path

from gaze_lens.data.picture_digests import image_digest
from gaze_lens.errors import InputError
from gaze_lens.evaluation.condition import head_counts
from gaze_lens.evaluation.judges import Judge
from gaze_lens.evaluation.protocols import question
from gaze_lens.evaluation.results import Results
from gaze_lens.evaluation.runner import evaluate
from gaze_lens.heads.head_scores import HeadScores
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.model_protocol import Model
from gaze_lens.paper.row import Cost, Settings, answers
from gaze_lens.regions.picture import Picture
from gaze_lens.scoring.gaze_score import score_heads

PUBLISHED = (5, 10, 25, 50, 75, 100, 150, 200, 300, 500)  # numbers of heads, of 1,152
OF = 36 * 32
SCORES, HEADS = "scores.safetensors", "heads.json"


def counts_of(n_heads: int) -> list[int]:
    """The paper's numbers of heads as the same shares of a model's heads.

    >>> counts_of(1152)[:4], counts_of(72)
    ([5, 10, 25, 50], [1, 2, 3, 5, 6, 9, 12, 19, 31])
    """
    return sorted({scaled(count, n_heads) for count in PUBLISHED})


def scaled(count: int, n_heads: int) -> int:
    """One of the paper's numbers of heads, of 1,152, as the same share of a model's heads; at least 1."""
    return max(1, round(count * n_heads / OF))


def cost(settings: Settings) -> Cost:
    """Of scoring and choosing: one prefill for each panel, and an answer for each number of heads and panel."""
    n_counts = len(counts_of(settings.n_heads))
    return Cost(settings.discovery * settings.panels) + answers(settings.choosing * settings.panels * n_counts, 15)


def find_heads(
    model: Model,
    discovery: Sequence[Picture],
    choosing: Sequence[Picture],
    out: Path,
    *,
    scores: HeadScores | None = None,
    n_heads: int | None = None,
    judge: Judge | None = None,
    seed: int = 0,
    may_make: bool = True,
    progress: bool = True,
) -> tuple[HeadScores, HeadSet]:
    """The scores of all heads and the heads to steer, from the files in `out`, or made and written there.

    n_heads: how many, in place of the number that is chosen on `choosing`. may_make: False for a shard, whose files
    must be there. Raises InputError where they are not, and where another number of heads was chosen before.
    """
    owner = {"model": model.cfg.model_name, "fingerprint": model.fingerprint}
    paths = out / SCORES, out / HEADS
    if not all(path.exists() for path in paths):
        if not may_make:
            raise InputError(
                f"{out} has no heads yet, and all shards steer the same: run the row fig2a first, without --shard."
            )
        made = scores or score_heads(model, discovery, progress=progress)
        made.save(paths[0])
        ranking = _ranking(model, made, choosing, out, n_heads=n_heads, judge=judge, seed=seed, progress=progress)
        ranking.save(paths[1])
    found, ranking = HeadScores.load(paths[0], **owner), HeadSet.load(paths[1], **owner)
    chosen = ranking.provenance["recommended"]
    if n_heads not in (None, chosen):
        raise InputError(f"{paths[1]} recommends {chosen} heads, and {n_heads} were asked for; choose another folder.")
    return found, ranking[:chosen]


def _ranking(
    model: Model, scores: HeadScores, choosing: Sequence[Picture], out: Path, *, n_heads: int | None,
    judge: Judge | None, seed: int, progress: bool,
) -> HeadSet:  # fmt: skip
    """All heads, best first, with how many to take, and the pictures that this was decided on."""
    every = scores.top(scores.score.numel())
    if n_heads is not None:
        return every.as_ranking(recommended=n_heads)
    counts = [count for count in counts_of(len(every)) if count < len(every)]
    results = evaluate(
        model, choosing, head_counts(scores, counts), protocol=question(), judge=judge, out=out / "runs" / "choosing",
        resume=True, seed=seed, progress=progress,
    )  # fmt: skip
    images = [every.provenance.get("images", ""), *map(image_digest, choosing)]
    provenance = {**every.provenance, "images": " ".join(filter(None, images)), "number chosen on": len(choosing)}
    used = HeadSet(every, model=every.model, fingerprint=every.fingerprint, provenance=provenance)
    return used.as_ranking(recommended=best_count(results, counts))


def best_count(results: Results, counts: Sequence[int]) -> int:
    """The number of heads with the highest accuracy; of equal ones the smallest.

    Raises InputError where no answer was judged.
    """
    found = {count: results.accuracy(f"top {count}") for count in counts}
    judged = {count: estimate.value for count, estimate in found.items() if estimate is not None}
    if not judged:
        raise InputError("No answer about the strips to choose on was judged, so that no number of heads is the best.")
    return max(judged, key=lambda count: (judged[count], -count))
