"""Steering: a bias on the pre-softmax scores of chosen heads, so that they look at a region of your choice.

    hooks = gl.steer(heads, inputs.region("panel 4"))                  # the paper's: 10,000 logits
    hooks = gl.steer(heads, inputs.region("panel 4"), mass=0.8)        # by outcome: 80 % of each head's attention
    hooks = gl.steer(heads, inputs.region(gl.HeatMap(saliency)), mass=0.8)      # a soft target
    model.generate(inputs, fwd_hooks=hooks)
    model.generate(inputs, fwd_hooks=gl.steer(heads, schedule=[(0, r4), (50, r2)], where=["decode"]))

Gandikota and Bau 2026, "Steering". The hooks are plain `(hook name, function)` pairs and go in any list of hooks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from numbers import Integral
from typing import Any

from gaze_lens.attention.attention_bias import AttentionBias, check_biases
from gaze_lens.attention.mass_edit import MassEdit, check_mass
from gaze_lens.attention.positions import Positions
from gaze_lens.attention.score_edit import ScoreEdit
from gaze_lens.errors import HeadError, InputError, RegionError
from gaze_lens.heads.head_set import Head, HeadSet
from gaze_lens.regions.layout import Region

WHERE = ("prefill", "after image", "decode")
EPS = 1e-6  # added to a weight before the logarithm: a token of weight 0 gets -13.8 logits
Schedule = Sequence[tuple[int, Region]]


@dataclass(frozen=True)
class Mode:
    """The four numbers of a steering, in logits, added to the scores of keys of each kind.

    target: the region's image tokens. others: all other image tokens. prompt: the prompt's text.
    generated: tokens generated so far.
    """

    target: float
    others: float
    prompt: float = 0.0
    generated: float = 0.0

    def __post_init__(self) -> None:
        values = astuple(self)
        check_biases("A Mode", values)
        if math.isnan(sum(values)):
            raise InputError(f"{self} does not hold four numbers, or infinities of both signs; give finite strengths.")
        if not any(values):
            raise InputError(f"All four numbers of {self} are 0: it would do nothing. Give a strength, such as 3.0.")


def _strength(strength: Any) -> Any:
    """The strength, checked before its sign is changed."""
    check_biases("A mode", (strength,))
    return strength


def boost_and_suppress(strength: float = 10_000.0) -> Mode:
    """The paper's mode: the target up, all other image tokens down. 10,000 saturates the softmax; 3 is gentle."""
    return Mode(target=strength, others=-_strength(strength))


def suppress_image(strength: float = 10_000.0) -> Mode:
    """All other image tokens down; target and text compete as the model would have them."""
    return Mode(target=0.0, others=-_strength(strength))


def suppress_all(strength: float = 10_000.0) -> Mode:
    """All other image tokens and the prompt's text down."""
    return Mode(target=0.0, others=-_strength(strength), prompt=-_strength(strength))


def max_suppress_all(strength: float = 10_000.0) -> Mode:
    """Everything but the target down."""
    return Mode(target=0.0, others=-_strength(strength), prompt=-_strength(strength), generated=-_strength(strength))


MODES = (boost_and_suppress, suppress_image, suppress_all, max_suppress_all)


def steer(
    heads: HeadSet | Sequence[Any] | Mapping[Any, float],
    region: Region | None = None,
    *,
    weights: Mapping[Any, float] | None = None,
    schedule: Schedule | None = None,
    mode: Mode | None = None,
    mass: float | None = None,
    at_least: float | None = None,
    keep: str | None = None,
    where: Sequence[str] = ("prefill", "decode"),
    rows: Sequence[int] | None = None,
    when: Any = None,
    as_published: bool = False,
) -> list[tuple[str, ScoreEdit]]:
    """Hooks that make heads look at a region, or at regions by a schedule: a list for `run_with_hooks` or `generate`.

    heads: a HeadSet, or what makes one (["L3H5", (2, 1)]); or how strongly to steer each, {"L3H5": 1.0, "L2H1": 0.02}:
        above 0, at most 1. The bias is multiplied by it; of a mass m, a head whose share is p gets p + weight (m - p).
    region: `inputs.region("panel 4")`, of the inputs that will be run; `inputs.region(["panel 1", "panel 4"])` gives
        each batch row its own target. A region of text, `inputs.region(inputs.span("a cat"), around="text")`, too.
        One with weights, `inputs.region(gl.HeatMap(saliency))`: log(weight + 1e-6) is added to the scores of all image
        tokens, in place of the mode's numbers; a mass is spread in proportion to weight times the head's own attention.
    weights: of the heads, beside them: `weights=scores.weights(heads)`, one for each.
    schedule: instead of region, [(step, region), ...] with ascending steps. Step t is the forward that produces
        generated token t: step 0 is the prefill, and a switch at step 50 shows from token 50 on. Every entry must
        have a forward to act in; those that the text ended before are listed in `generation.unreached`.
    mode: the four numbers, `boost_and_suppress()` unless given.
    mass: instead of a mode, the region's share of the attention of every head and row: above 0, below 1. Weights inside
        the region keep their proportions, and so do all others. Exact in float32 up to rounding, however strong or weak
        the model's own preference is. Rows that see no key of the region stay as they are.
    at_least: as mass, for rows only whose share is smaller.
    keep: "image": mass is the region's share of what the image gets, and the image as a whole keeps its attention. For
        a region of text that has others around it, "text".
    where: "prefill" (all prompt rows, as in the paper), or "after image" (only prompt rows after the image), and
        "decode"; one or several.
        An answer given to `prepare` (teacher forcing) counts as prompt, in queries and in keys.
    rows: the batch rows to steer, from 0; all unless given. So one batch holds steered rows and their controls.
    when: steer only in rows and steps in which this holds: a function of the logits `[row, token]` that chose the
        newest token (None in the prefill) that returns a bool for each row. `gl.when` has some, such as
        `gl.when.entropy_above(1.0)`. No step of a run in which it holds is an error when the run has ended.
    as_published: add the bias plainly in the model's precision on materialised scores, as the paper's runs did,
        instead of relative to the largest bias that a row sees. In bfloat16 that flattens the attention inside the
        target; in float32 the two differ by about 7e-4 relative.
    Where the image is reached by cross-attention, the first two numbers of `mode` act in the cross layers and the last
    two in the others. A head in a layer where the mode has nothing to act on is an error when the model runs.
    Raises HeadError for no heads; RegionError and InputError for regions of different prompts, schedules out of order
    or with entries that `where` never lets act, unknown places, and modes without anything to act on. Heads outside
    the model, other inputs, and a steering of which not even the first entry acted are errors when the model runs.
    """
    heads, head_weights = _weighted(heads, weights)
    entries = _entries(region, schedule)
    _check(entries, where)
    share = _share(mass, at_least, keep, mode, as_published=as_published)
    _refuse_mode_of_weights(entries, mode)
    mode = _mode(mode)
    acting = _acting(rows, entries[0][1].layout.n_rows)
    ends = [step for step, _ in entries[1:]] + [math.inf]
    hooks: list[tuple[str, ScoreEdit]] = []
    for index, ((start, target), end) in enumerate(zip(entries, ends, strict=True)):
        common: dict[str, Any] = {
            "layout": target.layout, "rows": acting, "required": index == 0, "head_weights": head_weights,
            "when": when,
            "steered_to": target,
        }  # fmt: skip
        queries = _queries(target, start, end, where)
        if share is not None:
            hooks += MassEdit(heads, queries, **_mass_keys(target, keep), **share, **common).hooks()
            continue
        keys, values = _keys(target, mode) if target.weights is None else _weighted_keys(target)
        hooks += AttentionBias(heads, queries, keys, values, relative=not as_published, **common).hooks()
    return hooks


def _share(mass: Any, at_least: Any, keep: Any, mode: Any, *, as_published: bool) -> dict[str, Any] | None:
    """The mass and whether it is a floor, as `MassEdit` takes them; None where steering is by logits."""
    if mass is None and at_least is None:
        if keep is not None:
            raise InputError(f"keep={keep!r} was given without a mass; it says what mass= is a share of: mass=0.8.")
        return None
    if mass is not None and at_least is not None:
        raise InputError("mass= and at_least= were given; give mass= for every row, or at_least= for those below it.")
    if mode is not None or as_published:
        given = "mode=" if mode is not None else "as_published="
        raise InputError(f"{given} was given beside a mass; steer by logits, or by the mass that comes of it.")
    value = at_least if mass is None else mass
    check_mass(value)
    return {"mass": float(value), "floor": mass is None}


def _mass_keys(region: Region, keep: Any) -> dict[str, Any]:
    """The keys of the region, and those within which mass is a share, as `MassEdit` takes them."""
    keys = Positions(region.positions, cross_attention=region.cross_attention, weights=region.weights)
    expected = "image" if region.around is None else "text"
    if keep not in (None, expected):
        raise InputError(
            f'keep={keep!r} was given; for region {region.name!r} give keep="{expected}", or leave it out.'
        )
    if keep is not None and not any(region.others):
        raise InputError(
            f"Region {region.name!r} is the whole {keep}: all of its mass is there. Give a smaller region."
        )
    pool = Positions(region.surroundings, cross_attention=region.cross_attention) if keep else None
    return {"region": keys, "pool": pool}


def _weighted(heads: Any, weights: Mapping[Any, float] | None) -> tuple[HeadSet, tuple[float, ...] | None]:
    """The heads, and the weight of each in their order, or None."""
    if isinstance(heads, Mapping):
        if weights is not None:
            raise InputError("Heads were given with their weights, and weights= beside them; give these once.")
        weights = heads
    heads = HeadSet.of(heads)
    if weights is None:
        return heads, None
    by_head = {Head.parse(head): weight for head, weight in weights.items()}
    missing, unknown = HeadSet(set(heads) - set(by_head)), HeadSet(set(by_head) - set(heads))
    if missing or unknown:
        raise HeadError(
            f"weights= was given for other heads than are steered (too many: {unknown}; missing: {missing}); give one "
            "for each head of the set."
        )
    return heads, tuple(by_head[head] for head in heads)


def _refuse_mode_of_weights(entries: list[tuple[int, Region]], mode: Mode | None) -> None:
    """InputError where a mode is given beside a region that brings the numbers itself."""
    weighted = next((region for _, region in entries if region.weights is not None), None)
    if weighted is not None and mode is not None:
        raise InputError(
            f"mode= was given for region {weighted.name!r}, whose weights say what is added, log(weight + {EPS:g}); "
            "leave mode= out, steer by mass=, or weaken it by weights of the heads."
        )


def _weighted_keys(region: Region) -> tuple[tuple[Positions, ...], tuple[float, ...]]:
    """All tokens of the image, with log(weight + EPS) as their weights, and the value by which these are multiplied."""
    rows, weights = [], []
    for weight_of, positions in zip(region.weight_of, region.surroundings, strict=True):
        listed = {position: math.log(min(1.0, weight_of.get(position, 0.0) + EPS)) for position in positions}
        rows.append(tuple(listed))
        weights.append(tuple(listed.values()))
    if not any(value for row in weights for value in row):
        raise InputError(
            f"The weights of region {region.name!r} are 1 on the whole image, so that steering by logits would do "
            "nothing; give a map that differs, or steer by mass=."
        )
    return (Positions(tuple(rows), cross_attention=region.cross_attention, weights=tuple(weights)),), (1.0,)


def _mode(mode: Any) -> Mode:
    """The mode given, or the paper's; InputError for anything else."""
    if mode in MODES:
        raise InputError(f"mode={mode.__name__} was given without its strength; call it: mode=gl.{mode.__name__}().")
    if not isinstance(mode, Mode | None):
        raise InputError(f"mode={mode!r} was given; give four numbers, as mode=gl.suppress_image(3.0) makes them.")
    return boost_and_suppress() if mode is None else mode


def _entries(region: Region | None, schedule: Schedule | None) -> list[tuple[int, Region]]:
    if (region is None) == (schedule is None):
        raise InputError("steer takes a region or a schedule of (step, region), and exactly one of them.")
    entries = list(schedule or ()) if region is None else [(0, region)]
    if not entries:
        raise InputError("The schedule is empty; give at least one (step, region).")
    for entry in entries:
        if not (isinstance(entry, tuple | list) and len(entry) == 2):
            raise InputError(f"The schedule holds {entry!r}; give (step, region) pairs, such as (0, region).")
    return entries


def _check(entries: list[tuple[int, Region]], where: Sequence[str]) -> None:
    for step, region in entries:
        if not isinstance(region, Region):
            raise RegionError(f"{region!r} is no region of a prompt; make one with inputs.region('panel 4').")
        if region.layout != entries[0][1].layout:
            raise RegionError("The regions of a schedule belong to different prompts; make them on the same inputs.")
        if not isinstance(step, Integral) or step < 0:
            raise InputError(f"The schedule has step {step!r}; steps are whole numbers from 0, the prefill.")
    steps = [int(step) for step, _ in entries]
    if steps != sorted(set(steps)):
        raise InputError(f"The schedule's steps are {steps}; they must ascend, each step once.")
    unknown = [name for name in ([where] if isinstance(where, str) else where) if name not in WHERE]
    if unknown or isinstance(where, str) or not where:
        raise InputError(f"where={where!r} was given; give a list with one or more of {', '.join(WHERE)}.")


def _acting(rows: Sequence[int] | None, n_rows: int) -> tuple[bool, ...] | None:
    """For each batch row, whether it is steered; None for all."""
    if rows is None:
        return None
    if not rows or not set(rows) <= set(range(n_rows)) or any(isinstance(row, bool) for row in rows):
        raise InputError(f"rows={list(rows)} was given; give one or more of the batch's rows, 0 to {n_rows - 1}.")
    return tuple(row in rows for row in range(n_rows))


def _queries(region: Region, start: int, end: float, where: Sequence[str]) -> Positions:
    """The query positions of the steps `start <= step < end` that `where` permits; InputError where there are none."""
    length = region.layout.length
    rows: tuple[tuple[int, ...], ...] = ((),)
    if start == 0 and "prefill" in where:
        rows = (tuple(range(length)),)
    elif start == 0 and "after image" in where:
        rows = tuple(tuple(range(start, length)) for start in region.after)
    first, stop = length - 1 + max(start, 1), length - 1 + end
    decodes = "decode" in where and first < stop
    if not decodes and not any(rows):
        raise InputError(
            f"Steering from step {start} to step {end:g} would never act: step 0 is the prefill, later steps are "
            f'decode steps, and where={list(where)!r}. Add "prefill" or "decode" to where=, or leave the entry out.'
        )
    return Positions(rows, first, stop) if decodes else Positions(rows)


def _keys(region: Region, mode: Mode) -> tuple[tuple[Positions, ...], tuple[float, ...]]:
    """The four kinds of keys with their values; kinds that are left alone are left out."""
    layout = region.layout
    kinds = (
        (Positions(region.positions, cross_attention=region.cross_attention), mode.target),
        (Positions(region.others, cross_attention=region.cross_attention), mode.others),
        (Positions(region.rest_of_text), mode.prompt),
        (Positions.since(layout.length), mode.generated),
    )
    selected = [(keys, value) for keys, value in kinds if value != 0 and (any(keys.rows) or keys.start < math.inf)]
    if not selected:
        what, tokens = ("image", "image tokens") if region.around is None else ("text that it is a part of", "tokens")
        raise InputError(
            f"{mode} has nothing to act on: region {region.name!r} is the whole {what}, so there are no other "
            f"{tokens}. Give a smaller region, or another mode."
        )
    return tuple(keys for keys, _ in selected), tuple(value for _, value in selected)
