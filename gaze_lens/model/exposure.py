"""What the edits of a generation did to attention: the mass on their target with and without them, and where it came
from.

    generation = model.generate(inputs, fwd_hooks=gl.steer(heads, region, mass=0.8), exposure=True)
    print(generation.exposure)
    generation.exposure.to_frame()
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from gaze_lens.heads.head_set import Head

if TYPE_CHECKING:
    from pandas import DataFrame

GROUPS = ("target", "others", "prompt", "generated", "sink", "weighted")  # of keys; the last is the target by weights
SOURCES = GROUPS[1:5]
COLUMNS = ("row", "step", "layer", "head", "target")
WORDS = {"others": "its surroundings", "prompt": "the prompt", "generated": "generated text", "sink": "the sink"}


@dataclass(frozen=True, eq=False, repr=False)
class Exposure:
    """`generation.exposure`: for every text, step and head that an edit of scores acted on, what it did to attention.

    For each entry, "without" is the pattern of this head and this query without the run's edits, from the same scores
    in the same forward: all that came before is as it was steered. It is not the unsteered run.

    places: [entry, 5]: row (of the texts), step (the token that the query produces; 0 is the prefill's last query),
        layer, head, and the index of the target among `targets`.
    masses, without: [entry, 6]: attention, 0 to 1, with the edits and without them, on the target; on its surroundings
        (the rest of the images, or of the text that it is a part of); on the rest of the prompt; on generated text; on
        the sink, which is the first token of the text, where it is not one of the others, and a learned sink of the
        layer; and on the target times its weights, where it is a heat map.
    targets: names of the regions.
    """

    places: Int[np.ndarray, "entry 5"]
    masses: Float[np.ndarray, "entry 6"]
    without: Float[np.ndarray, "entry 6"]
    targets: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.places)

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary for each text, step, head and target, for a table or lines of JSON.

        mass, mass_without: on the target. from_others, from_prompt, from_generated, from_sink: what these lost to it
        (below 0: what they won); they add up to mass - mass_without. weighted_mass, weighted_without: the sums of mass
        times weight, which are mass and mass_without where the target is no heat map.
        """
        entries = zip(self.places.tolist(), self.masses.tolist(), self.without.tolist(), strict=True)
        return [
            {
                "row": row, "step": step, "layer": layer, "head": head, "target": self.targets[target],
                **_changes(masses, without),
            }
            for (row, step, layer, head, target), masses, without in entries
        ]  # fmt: skip

    def to_frame(self) -> "DataFrame":
        """`generation.exposure.to_frame()`: `rows()` as a table."""
        import pandas

        return pandas.DataFrame(self.rows())

    def to_jsonl(self) -> str:
        """`rows()`, one line of JSON each."""
        return "".join(json.dumps(row) + "\n" for row in self.rows())

    def mean(self, row: int | None = None) -> dict[str, float] | None:
        """The means over heads and steps, of one text or of all; None where no edit acted on it."""
        chosen = np.ones(len(self), bool) if row is None else self.places[:, 0] == row
        if not chosen.any():
            return None
        return _changes(self.masses[chosen].mean(0).tolist(), self.without[chosen].mean(0).tolist())

    def __repr__(self) -> str:
        mean = self.mean()
        if mean is None:
            return "Exposure: no edit acted"
        heads = {Head(layer, head) for layer, head in self.places[:, 2:4].tolist()}
        steps = len(set(self.places[:, 1].tolist()))
        gained = "".join(f", {mean[f'from_{name}']:+.3f} from {words}" for name, words in WORDS.items())
        return (
            f"Exposure of {len(heads)} heads over {steps} steps: mass on {', '.join(self.targets)} {mean['mass']:.3f}, "
            f"without the edit {mean['mass_without']:.3f}{gained}"
        )


def _changes(masses: Sequence[float], without: Sequence[float]) -> dict[str, float]:
    """The named numbers of one entry, or of means over entries."""
    after, before = (dict(zip(GROUPS, values, strict=True)) for values in (masses, without))
    return {
        "mass": after["target"], "mass_without": before["target"],
        **{f"from_{name}": before[name] - after[name] for name in SOURCES},
        "weighted_mass": after["weighted"], "weighted_without": before["weighted"],
    }  # fmt: skip
