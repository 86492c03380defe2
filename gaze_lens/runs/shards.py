"""Shards: the parts (i, n) of a run that several jobs share, i from zero. Users write them i/n, i from one: "1/4".

>>> str_of((0, 4)), check_shard((0, 4))
('1/4', (0, 4))
"""

from collections.abc import Mapping
from pathlib import Path

from gaze_lens.errors import InputError

Shard = tuple[int, int]


def str_of(shard: Shard) -> str:
    """A shard as users write it: "1/4" is the first of four."""
    return f"{shard[0] + 1}/{shard[1]}"


def check_shard(shard: Shard) -> Shard:
    """The shard itself. Raises InputError unless i is from 0 to n - 1."""
    first, number = shard
    if not 0 <= first < number:
        raise InputError(f"shard={shard} was given; give (i, n) with i from 0 to n - 1.")
    return shard


def shard_of(text: str | None) -> Shard:
    """The shard that --shard names: 1/4 is the first of four; None is the whole run, (0, 1)."""
    if text is None:
        return 0, 1
    first, _, number = text.partition("/")
    if not (first.isdigit() and number.isdigit() and 1 <= int(first) <= int(number)):
        raise InputError(f"--shard {text} was given; write i/n with i from 1 to n, as in 1/4.")
    return int(first) - 1, int(number)


def refuse_unfinished(out: Path, finished: Mapping[Shard, bool]) -> None:
    """Raises InputError, with their names, where shards of a run are missing or not finished.

    finished: for each existing shard, whether it is finished.
    """
    numbers = {number for _, number in finished}
    if len(numbers) > 1:
        parts = " and ".join(map(str, sorted(numbers)))
        raise InputError(f"{out} holds shards of runs in {parts} parts; keep those of one, and merge again.")
    (number,) = numbers
    missing = [str_of((first, number)) for first in range(number) if (first, number) not in finished]
    begun = [str_of(shard) for shard, done in sorted(finished.items()) if not done]
    faults = [f"{', '.join(names)} {why}" for names, why in ((missing, "missing"), (begun, "not finished")) if names]
    if faults:
        raise InputError(
            f"{out} has not all of its {number} shards: {'; '.join(faults)}. Run these (with --resume those that were "
            "begun), and merge again."
        )
