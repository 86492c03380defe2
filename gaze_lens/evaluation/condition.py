"""The conditions of an evaluation: the heads under test, and controls.

    conditions = gl.evaluation.conditions(model, heads, ["gaze", "random", "all", "none"], scores=scores)
    conditions += gl.evaluation.head_counts(scores, [1, 2, 4, 8])
    conditions += gl.evaluation.strengths(heads, [1, 3, 10]) + gl.evaluation.masses(heads, [0.2, 0.5, 0.8])

A condition steers a set of heads with one mode, or to one mass, for all pictures and targets. Gandikota and Bau 2026
compare the gaze heads, the same number of random heads with the lowest scores, and all heads.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from gaze_lens.attention.mass_edit import check_mass
from gaze_lens.errors import HeadError, InputError
from gaze_lens.heads.controls import band_controls
from gaze_lens.heads.head_scores import HeadScores
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.interventions.steering import Mode, boost_and_suppress
from gaze_lens.model_protocol import ModelShape
from gaze_lens.runs.digests import digest
from gaze_lens.whole_numbers import is_count

CONTROLS = ("random", "band", "layer-matched", "layer-uniform", "layer-lowest", "lowest")
ABLATIONS = ("ablate", *(f"ablate-{name}" for name in CONTROLS))
NAMES = ("gaze", *CONTROLS, "all", "none", "elsewhere", *ABLATIONS)
LOWEST = 5.0  # percent of the scores: where the code of the paper's authors draws random heads from
LARGE = 400  # heads; smaller models draw random heads from the lower half
CURVES = ("", "heads", "strength", "mass")
KEEPS = (None, "image", "text")
SHARES = ("mass", "at_least", "keep")  # of a condition that steers by outcome


@dataclass(frozen=True)
class Condition:
    """`Condition("gaze", heads)`: heads to steer, or None for the unsteered model.

    name: its name in results; the draws of a random control have the same name.
    mode: the four numbers, by default `boost_and_suppress()`.
    draw: the number of the random draw, from 0.
    elsewhere: steer to a place of the target's size elsewhere in the picture, not to the target.
    curve: "heads", "strength" or "mass" for a point of such a curve, else "".
    ablate: steer nowhere, and replace the heads' output by its mean over the prompts of the run's first pictures.
    mass, at_least, keep: instead of a mode, the region's share of attention, as for `gl.steer`.
    contrast: the strength with which the steered model is contrasted with the unsteered one (`gl.contrast_decoding`).
    """

    name: str
    heads: HeadSet | None = None
    mode: Mode = boost_and_suppress()
    draw: int = 0
    elsewhere: bool = False
    curve: str = ""
    ablate: bool = False
    mass: float | None = None
    at_least: float | None = None
    keep: str | None = None
    contrast: float | None = None

    def __post_init__(self) -> None:
        if self.heads is not None and not len(self.heads):
            raise HeadError(f"The condition {self.name!r} has no heads; give heads, or None for the unsteered model.")
        if self.ablate and (self.heads is None or self.elsewhere):
            raise InputError(f"The condition {self.name!r} ablates heads: give heads, and leave out elsewhere=True.")
        if self.curve not in CURVES:
            raise InputError(f"curve={self.curve!r} was given; give one of {', '.join(map(repr, CURVES))}.")
        self._check_shares()
        if self.contrast is not None and (self.heads is None or self.ablate or not 0 < self.contrast < math.inf):
            raise InputError(
                f"The condition {self.name!r} has contrast={self.contrast!r}; give heads to steer and a number above 0."
            )

    def _check_shares(self) -> None:
        """InputError for a mass beside a mode, two masses, or what is kept without one."""
        given = [share for share in (self.mass, self.at_least) if share is not None]
        if len(given) > 1 or self.keep not in KEEPS or (self.keep is not None and not given):
            raise InputError(
                f"mass={self.mass!r}, at_least={self.at_least!r}, keep={self.keep!r} were given; give mass= or "
                'at_least=, and with one of them keep="image" or "text", or nothing.'
            )
        if given and (self.ablate or self.mode != boost_and_suppress()):
            raise InputError(f"The condition {self.name!r} got a mass, and a mode or ablate=True; give one of them.")
        for share in given:
            check_mass(share)

    @property
    def shares(self) -> dict[str, Any]:
        """`mass`, `at_least` and `keep`, as far as they are given; empty where it steers by logits."""
        return {name: getattr(self, name) for name in SHARES if getattr(self, name) is not None}

    @property
    def steering(self) -> dict[str, Any]:
        """How it steers, as `gl.steer` takes it."""
        return self.shares or {"mode": self.mode}

    @property
    def key(self) -> tuple[str, int]:
        """Unique among the conditions of a run."""
        return self.name, self.draw

    @property
    def digest(self) -> str:
        """A short digest of its heads, "" without heads."""
        return "" if self.heads is None else digest(str(self.heads))[:12]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        heads = None if self.heads is None else [str(head) for head in self.heads]
        return {
            "name": self.name, "draw": self.draw, "heads": heads, "mode": list(astuple(self.mode)),
            "elsewhere": self.elsewhere, "curve": self.curve, **({"ablate": True} if self.ablate else {}),
            **self.shares, **({} if self.contrast is None else {"contrast": self.contrast}),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Condition":
        """From what `to_dict` returned."""
        heads = None if values["heads"] is None else HeadSet(values["heads"])
        mode = Mode(*values["mode"])
        return cls(
            values["name"],
            heads,
            mode,
            values["draw"],
            values["elsewhere"],
            values["curve"],
            values.get("ablate", False),
            **{name: values[name] for name in (*SHARES, "contrast") if name in values},
        )


def conditions(
    model: ModelShape,
    heads: HeadSet,
    names: Sequence[str] = ("gaze", "random", "all", "none"),
    *,
    scores: HeadScores | None = None,
    draws: int = 5,
    below: float | None = None,
    layers: tuple[int, int] | None = None,
    seed: int = 0,
    mode: Mode | None = None,
    mass: float | None = None,
    at_least: float | None = None,
    keep: str | None = None,
) -> list[Condition]:
    """The conditions of these names, all with the same mode or mass.

    names: "gaze" steers `heads`. "all" steers every head, "none" no head. "elsewhere" steers `heads` to a place of the
        target's size elsewhere. The others steer as many other heads, in several draws where they are random:
        "random": with low scores. "band": from all others of the layers that `heads` spans, or of `layers` (the
        paper's control). "layer-matched", "layer-uniform", "layer-lowest": in each layer as many as `heads` has there,
        from the layer's lower half, from all others, or those with the lowest scores. "lowest": from the lowest 5 % of
        scores; where these are fewer, they are what is taken, with a warning.
        "ablate" steers nothing and mean-ablates `heads`, and "ablate-band", "ablate-random", ... a control: with the
        protocol `asking()` and the condition "none", they tell whether descriptions need the heads.
    layers: the first and the last layer of the band.
    scores: of all heads; the controls but "band" need them.
    below: the percentile of scores from which heads of "random" and "lowest" are drawn; see `lowest` for the default
        of "random".
    mode, mass, at_least, keep: as for `gl.steer`.
    Raises InputError for unknown names and missing scores, HeadError if there are too few heads to draw from, or heads
    are outside the model.
    """
    _check(model, heads, names, draws)
    shares = _shares(mode, mass, at_least, keep)
    mode = mode or boost_and_suppress()
    every = HeadSet([(layer, head) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads)])
    fixed: dict[str, list[HeadSet | None]] = {"gaze": [heads], "all": [every], "none": [None], "elsewhere": [heads]}
    fixed["ablate"] = [heads]
    head_sets = {
        name: fixed[name]
        if name in fixed
        else _controls(model, name.removeprefix("ablate-"), heads, scores, draws, below, layers, seed)
        for name in names
    }
    return [
        Condition(
            name, head_set, mode, draw, elsewhere=name == "elsewhere", ablate=name in ABLATIONS,
            **({} if name in ABLATIONS else shares),
        )
        for name in names
        for draw, head_set in enumerate(head_sets[name])
    ]  # fmt: skip


def _shares(mode: Mode | None, mass: float | None, at_least: float | None, keep: str | None) -> dict[str, Any]:
    """The mass that conditions steer to; InputError where a mode is given, too."""
    shares = {"mass": mass, "at_least": at_least, "keep": keep}
    if mode is not None and any(share is not None for share in shares.values()):
        raise InputError("mode= was given beside a mass; steer by logits, or by the mass that comes of it.")
    return shares


def _controls(
    model: ModelShape, name: str, heads: HeadSet, scores: HeadScores | None, draws: int, below: float | None,
    layers: tuple[int, int] | None, seed: int,
) -> Sequence[HeadSet]:  # fmt: skip
    """The heads of a control, draw by draw."""
    k, shape, seeds = len(heads), (model.cfg.n_layers, model.cfg.n_heads), range(seed, seed + draws)
    if name == "band":
        drawn = [band_controls(heads, shape, seed=one, layers=layers) for one in seeds]
        return [HeadSet(one, model=heads.model, fingerprint=heads.fingerprint) for one in drawn]
    all_scores = _scores_for(scores, name)
    if name == "layer-lowest":
        return [all_scores.layer_lowest(heads)]
    if name in ("layer-matched", "layer-uniform"):
        share = 50.0 if name == "layer-matched" else 100.0
        return [all_scores.layer_controls(heads, seed=one, below=share) for one in seeds]
    if name == "lowest":
        share = LOWEST if below is None else below
        first = all_scores.controls(k, seed=seed, below=share, at_most=True)
        if len(first) < k:  # all that there are: other draws would be the same
            return [first]
        return [first, *(all_scores.controls(k, seed=one, below=share) for one in seeds[1:])]
    share = lowest(k, shape[0] * shape[1]) if below is None else below
    return [all_scores.controls(k, seed=one, below=share) for one in seeds]


def lowest(count: int, n_heads: int) -> float:
    """The percentile of scores from which `count` random heads are drawn: 5, as in the paper.

    If the lowest 5 % are fewer than twice `count` heads, draws would be nearly equal: then it is the percentile with
    twice `count` heads below it, at most 50. In models of fewer than 400 heads it is 50.
    """
    return 50.0 if n_heads < LARGE else min(50.0, max(5.0, 200.0 * count / n_heads))


def _check(model: ModelShape, heads: HeadSet, names: Sequence[str], draws: int) -> None:
    HeadSet.of(heads, model).refuse_ranking(model)
    unknown = [name for name in ([names] if isinstance(names, str) else names) if name not in NAMES]
    if unknown or isinstance(names, str) or not names or len(set(names)) < len(names):
        raise InputError(f"conditions {names!r} were given; give a list of some of {', '.join(NAMES)}, each once.")
    if not is_count(draws):
        raise InputError(f"draws={draws!r} was given; give 1 or more draws of random heads.")


def _scores_for(scores: HeadScores | None, name: str) -> HeadScores:
    """The scores, for a condition that draws heads by them. Raises InputError without scores."""
    if scores is None:
        raise InputError(
            f"The condition {name!r} draws heads with low scores: give scores=, as gl.score_heads makes them."
        )
    return scores


def head_counts(
    scores: HeadScores, counts: Sequence[int], *, mode: Mode | None = None, mass: float | None = None,
    at_least: float | None = None, keep: str | None = None,
) -> list[Condition]:  # fmt: skip
    """A curve: the best 1, 2, 4, ... heads, named "top 1", "top 2", ... The rest as for `gl.steer`."""
    shares = _shares(mode, mass, at_least, keep)
    mode = mode or boost_and_suppress()
    return [Condition(f"top {count}", scores.top(count), mode, curve="heads", **shares) for count in counts]


def masses(heads: HeadSet, values: Sequence[float], *, keep: str | None = None) -> list[Condition]:
    """A curve: the same heads with 0.2, 0.5, ... of their attention on the target, named "mass 0.2", "mass 0.5", ...

    keep: as for `gl.steer`: "image" makes it a share of what the image gets.
    """
    return [Condition(f"mass {value:g}", heads, curve="mass", mass=value, keep=keep) for value in values]


def strengths(
    heads: HeadSet, values: Sequence[float], *, mode: Callable[[float], Mode] = boost_and_suppress
) -> list[Condition]:
    """A curve: the same heads with biases of 1, 3, 10, ... logits, named "strength 1", "strength 3", ..."""
    modes = [mode(value) for value in values]  # which checks the values
    named = zip(values, modes, strict=True)
    return [Condition(f"strength {value:g}", heads, one, curve="strength") for value, one in named]


def checked(conditions: Sequence[Condition]) -> list[Condition]:
    """The conditions as a list. Raises InputError for none, for two of one name and draw, and for other objects."""
    others = [condition for condition in conditions if not isinstance(condition, Condition)]
    if others:
        raise InputError(
            f"{others[0]!r} is no condition; give what gl.evaluation.conditions(model, heads, ['gaze', 'random'], "
            "scores=scores) returns, or Condition('mine', heads)."
        )
    keys = [condition.key for condition in conditions]
    repeated = sorted({key for key in keys if keys.count(key) > 1})
    if repeated or not keys:
        problem = f"the condition {repeated[0][0]!r} twice" if repeated else "no conditions"
        raise InputError(f"{problem} was given; give each condition a name, or a draw, of its own.")
    return list(conditions)
