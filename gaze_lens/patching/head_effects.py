"""The result of `gl.rank_by_effect`: what steering blocks, heads and sets of heads did to a metric, row by row."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxtyping import Bool, Float
from torch import Tensor

from gaze_lens.errors import HeadError
from gaze_lens.heads.head_set import Head, HeadSet
from gaze_lens.heads.statistics import draws
from gaze_lens.whole_numbers import is_count

if TYPE_CHECKING:
    from pandas import DataFrame

RESAMPLES = 2000


@dataclass(frozen=True, eq=False, repr=False)
class HeadEffects:
    """`effects.table()`, `effects.top(10)`: effects of steering blocks, single heads, and sets of the best heads.

    values: the metric less that of the unsteered run. sets: the heads of each; kinds: "block", "head" or "set".
    chosen_on: the rows that heads are ranked by; the others are held out. unsteered: the metric of the unsteered run.
    images: fingerprints of the pictures. seed: of the held-out rows, and of the bootstrap.
    """

    values: Float[Tensor, "set row"]
    sets: tuple[HeadSet, ...]
    kinds: tuple[str, ...]
    chosen_on: Bool[Tensor, " row"]
    unsteered: Float[Tensor, " row"]
    model: str | None
    fingerprint: str | None
    seed: int
    images: str

    def table(self) -> "DataFrame":
        """A row for each block, head and set: the mean effect on the rows of the choice, and on those held out.

        kind, layer (of a block or head), heads, n_heads; effect; held_out, with low and high (95 %, bootstrap over
        rows); confirmed: whether low is above 0. Of one held-out row low and high are its effect.
        """
        import pandas

        held = self.values[:, ~self.chosen_on]
        sampled = held[:, draws(held.shape[1], resamples=RESAMPLES, seed=self.seed)].mean(-1)
        low, high = (sampled.quantile(share, dim=-1) for share in (0.025, 0.975))
        layers = [None if kind == "set" else heads[0].layer for kind, heads in zip(self.kinds, self.sets, strict=True)]
        return pandas.DataFrame(
            {
                "kind": self.kinds, "layer": pandas.array(layers, dtype="Int64"), "heads": list(map(str, self.sets)),
                "n_heads": list(map(len, self.sets)), "effect": self._effects.tolist(),
                "held_out": held.mean(-1).tolist(), "low": low.tolist(), "high": high.tolist(),
                "confirmed": (low > 0).tolist(),
            }
        )  # fmt: skip

    def top(self, k: int) -> HeadSet:
        """`effects.top(10)`: the k heads with the largest effect on the rows of the choice, best first.

        Raises HeadError for more heads than were steered alone.
        """
        effects = self.of_heads()
        if not is_count(k) or k > len(effects):
            raise HeadError(f"The {k!r} best heads were asked for: expected 1 to {len(effects)}, which were measured.")
        return self._set(sorted(effects, key=lambda head: -effects[head])[:k], {"top": k})

    def confirmed(self) -> HeadSet:
        """The heads whose effect is confirmed by the held-out rows, best first; HeadError where there is none."""
        frame = self.table()
        names = set(frame.heads[(frame.kind == "head") & frame.confirmed])
        heads = [head for head in self.top(len(self.of_heads())) if str(head) in names]
        if not heads:
            raise HeadError("The held-out rows confirm the effect of no head; look at effects.table().")
        return self._set(heads, {"confirmed": len(heads)})

    def of_heads(self) -> dict[Head, float]:
        """The mean effect of every head that was steered alone, on the rows of the choice."""
        triples = zip(self.kinds, self.sets, self._effects.tolist(), strict=True)
        return {heads[0]: effect for kind, heads, effect in triples if kind == "head"}

    def weights(self, heads: Iterable[Any]) -> dict[Head, float]:
        """`gl.steer(heads, region, weights=effects.weights(heads))`: each head's effect over the largest of these.

        Raises HeadError for heads that were not steered alone, and for an effect of 0 or less.
        """
        effects, chosen = self.of_heads(), HeadSet.of(heads)
        for head in chosen:
            if not effects.get(head, 0.0) > 0:
                found = f"has an effect of {effects[head]:g}" if head in effects else "was not steered alone"
                raise HeadError(f"Head {head} {found}, and so has no weight; leave it out of the set.")
        return {head: effects[head] / max(effects[other] for other in chosen) for head in chosen}

    @property
    def _effects(self) -> Float[Tensor, " set"]:
        return self.values[:, self.chosen_on].mean(-1)

    def _set(self, heads: list[Head], how: dict[str, Any]) -> HeadSet:
        provenance = {"method": "effect", **how, "seed": self.seed, "images": self.images}
        return HeadSet(heads, model=self.model, fingerprint=self.fingerprint, provenance=provenance)

    def __repr__(self) -> str:
        n = {kind: self.kinds.count(kind) for kind in ("block", "head")}
        best = self.top(1)[0]
        return (
            f"HeadEffects of {n['block']} blocks and {n['head']} heads on {len(self.unsteered)} rows "
            f"({int((~self.chosen_on).sum())} held out); best head {best}, {self.of_heads()[best]:+.4g}"
        )
