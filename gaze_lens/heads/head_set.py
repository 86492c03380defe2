"""Attention heads by name, and ranked sets of them.

    >>> heads = HeadSet(["L20H3", (21, 0), "20.7"], model="Qwen/Qwen3-VL-2B-Instruct")
    >>> print(heads)
    L20H3, L21H0, L20H7
    >>> heads.by_layer()
    {20: (3, 7), 21: (0,)}
    >>> print(heads[:1] | HeadSet(["L5H5"]))
    L20H3, L5H5

    heads.save("heads.json")
    HeadSet.load("heads.json", model="Qwen/Qwen3-VL-2B-Instruct")
    HeadSet.load("gaze_head_ranking.json")[:100]       # the file of the paper's authors

Layers and heads count from zero.
"""

import operator
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, overload

from gaze_lens.deprecation import renamed_fields
from gaze_lens.errors import HeadError
from gaze_lens.heads.hub_files import local_file
from gaze_lens.heads.published import ranking_in
from gaze_lens.html_tables import html_table
from gaze_lens.model_protocol import ModelShape
from gaze_lens.runs.files import read_json, to_json, write_whole

FORMS = '"L20H3", "20.3" or (20, 3): layer and head, counted from zero'
LISTS = ("heads", "ranking", "ranked_heads", "gaze_heads")  # keys under which a JSON object may have its list of heads
FORMAT = "gaze_lens heads 1"
EXPECTED = "a JSON file of heads, as HeadSet.save(path) writes it"


class Head(NamedTuple):
    """`Head(20, 3)`, `Head.parse("L20H3")`: one attention head; both counted from zero.

    >>> print(Head(20, 3))
    L20H3
    """

    layer: int
    head: int

    def __str__(self) -> str:
        return f"L{self.layer}H{self.head}"

    @classmethod
    def parse(cls, head: Any) -> "Head":
        """`Head.parse("L20H3")`, `"20.3"`, `(20, 3)` or `[20, 3]`. Raises HeadError for anything else.

        >>> Head.parse("20.3")
        Head(layer=20, head=3)
        """
        try:
            if isinstance(head, str):
                match = re.fullmatch(r"[Ll](\d{1,9})[Hh](\d{1,9})|(\d{1,9})\.(\d{1,9})", head.strip())
                numbers = [int(group) for group in match.groups() if group is not None] if match else []
            else:
                numbers = [-1 if isinstance(number, bool) else operator.index(number) for number in head]
        except TypeError:  # not a sequence, or not whole numbers
            numbers = []
        if len(numbers) != 2 or min(numbers) < 0:
            raise HeadError(f"{_short(head)} is not a head: expected {FORMS}. For several heads give a list of these.")
        return cls(*numbers)


@renamed_fields(found="provenance")
@dataclass(frozen=True, init=False, repr=False)
class HeadSet:
    """`HeadSet(["L1H0", (1, 3)])`: heads in an order (best first, if they were ranked), each once.

    heads: anything that `Head.parse` reads.
    model: the name of the model that they belong to, if known.
    fingerprint: of that model's architecture, if known.
    provenance: how they were found (method, strips, rank_by, seed ...); anything JSON can hold.
    Two sets are equal if they have equal heads in the same order. The operations `|`, `&` and `-` keep the order of the
    left side; heads of two models are an error. Raises HeadError for something that is no head, for repeated heads, and
    for heads that a model of this fingerprint does not have.
    """

    heads: tuple[Head, ...]
    model: str | None = field(default=None, compare=False)
    fingerprint: str | None = field(default=None, compare=False)
    provenance: dict[str, Any] = field(default_factory=dict, compare=False)

    def __init__(
        self,
        heads: Iterable[Any],
        *,
        model: str | None = None,
        fingerprint: str | None = None,
        provenance: dict[str, Any] | None = None,
    ) -> None:
        if isinstance(heads, str | Head):
            raise HeadError(
                f"{heads!r} is not a list of heads: expected a list of {FORMS}. Write HeadSet([{heads!r}])."
            )
        _refuse_no_list(heads)
        parsed = tuple(Head.parse(head) for head in heads)
        if twice := sorted(head for head, count in Counter(parsed).items() if count > 1):
            raise HeadError(f"{_names(twice)} given more than once: expected every head once. Leave the repeats out.")
        about = {"model": model, "fingerprint": fingerprint, "provenance": dict(provenance or {})}
        for name, value in {"heads": parsed, **about}.items():
            object.__setattr__(self, name, value)
        if size := size_in(fingerprint):
            self.check(*size)

    @classmethod
    def of(cls, heads: Any, model: ModelShape | None = None) -> "HeadSet":
        """`HeadSet.of(["L3H5", (2, 1)], model)`: the heads that a function was given, as a checked set.

        heads: a HeadSet, or what makes one. model: the `HookedVLM` that they are used with; without it only the set
            itself is checked.
        Raises HeadError for an empty set, for heads outside the model, and for heads of another architecture.
        """
        _refuse_no_list(heads)
        heads = heads if isinstance(heads, cls) else cls(heads)
        if not len(heads):
            raise HeadError("The set of heads is empty; choose at least one head, for example scores.top(10).")
        if model is not None:
            heads.check(model.cfg.n_layers, model.cfg.n_heads)
            refuse_other("This set", heads, model=None, fingerprint=model.fingerprint)
        return heads

    def __iter__(self) -> Iterator[Head]:
        return iter(self.heads)

    def __len__(self) -> int:
        return len(self.heads)

    def __contains__(self, head: object) -> bool:
        return Head.parse(head) in self.heads

    @overload
    def __getitem__(self, index: int) -> Head: ...
    @overload
    def __getitem__(self, index: slice) -> "HeadSet": ...
    def __getitem__(self, index: int | slice) -> "Head | HeadSet":
        if isinstance(index, slice):
            heads = self.heads[index]
            return HeadSet(heads, model=self.model, fingerprint=self.fingerprint, provenance=self.provenance)
        return self.heads[index]

    def __or__(self, other: "HeadSet") -> "HeadSet":
        own = set(self)
        return self._combine(other, "|", [*self, *(head for head in other if head not in own)])

    def __and__(self, other: "HeadSet") -> "HeadSet":
        others = set(other)
        return self._combine(other, "&", [head for head in self if head in others])

    def __sub__(self, other: "HeadSet") -> "HeadSet":
        others = set(other)
        return self._combine(other, "-", [head for head in self if head not in others])

    def _combine(self, other: "HeadSet", sign: str, heads: list[Head]) -> "HeadSet":
        """The heads, with the metadata of both sides. Raises HeadError for sides that belong to two models."""
        refuse_other("The right side of " + sign, other, model=self.model, fingerprint=self.fingerprint)
        about = {"model": self.model or other.model, "fingerprint": self.fingerprint or other.fingerprint}
        both = [self.provenance, other.provenance]
        provenance = both[0] if both[0] == both[1] else {"operation": sign, "of": both}
        return HeadSet(heads, **about, provenance=provenance)

    @property
    def chosen_on(self) -> frozenset[str]:
        """Fingerprints of the images that they were chosen on, as far as `provenance` has them."""
        return frozenset(_images_of(self.provenance))

    def by_layer(self) -> dict[int, tuple[int, ...]]:
        """`heads.by_layer()[20]`: for each layer its heads; both in ascending order."""
        by_layer: dict[int, list[int]] = defaultdict(list)
        for layer, head in sorted(self):
            by_layer[layer].append(head)
        return {layer: tuple(of_layer) for layer, of_layer in by_layer.items()}

    def check(self, n_layers: int, n_heads: int) -> None:
        """`heads.check(36, 32)`: raises HeadError naming the heads that lie outside such a model."""
        outside = [head for head in self if head.layer >= n_layers or head.head >= n_heads]
        if outside:
            owner = f" They were found in {self.model}." if self.model else ""
            raise HeadError(
                f"{_names(outside)} lie outside the model: expected layers 0 to {n_layers - 1} and heads 0 to "
                f"{n_heads - 1}.{owner} Use heads that were found in this model."
            )

    def as_ranking(self, *, recommended: int = 0) -> "HeadSet":
        """The same heads, known as a ranking: to steer with all heads of a model is refused, a slice of it is not.

        recommended: how many of the best to take; 0 for no recommendation.
        """
        how = {"ranking": len(self), **({"recommended": recommended} if recommended else {})}
        return HeadSet(self, model=self.model, fingerprint=self.fingerprint, provenance={**self.provenance, **how})

    def refuse_ranking(self, model: ModelShape) -> None:
        """`heads.refuse_ranking(model)`: raises HeadError where they rank all heads of the model, with none chosen.

        They do if `as_ranking` made them, or if they are all that a file of unknown origin holds.
        """
        n_heads = model.cfg.n_layers * model.cfg.n_heads
        is_ranking = "file" in self.provenance or self.provenance.get("ranking") == n_heads
        if len(self) == n_heads and is_ranking:
            best = self.provenance.get("recommended", 10)
            raise HeadError(
                f"This is a ranking of all {n_heads} heads of the model, and to edit all of them spoils every answer: "
                f"take the best, for example heads[:{best}]."
            )

    def __str__(self) -> str:
        return ", ".join(map(str, self)) or "no heads"

    def __repr__(self) -> str:
        owner = f" of {self.model}" if self.model else ""
        return f"HeadSet of {len(self)} heads{owner}: {_names(self.heads) or 'none'}"

    def _repr_html_(self) -> str:
        rows = ([f"L{layer}", ", ".join(f"H{head}" for head in heads)] for layer, heads in self.by_layer().items())
        return html_table(repr(self), ["layer", "heads"], rows)

    def save(self, path: str | os.PathLike[str]) -> None:
        """`heads.save("heads.json")`: JSON that people can read and edit; the file is complete or not there at all.

        Raises HeadError where `provenance` holds something that JSON cannot.
        """
        about = {"model": self.model, "fingerprint": self.fingerprint, "provenance": self.provenance}
        write_whole(path, to_json({"format": FORMAT, **about, "heads": [str(head) for head in self]}).encode())

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        model: str | None = None,
        fingerprint: str | None = None,
        force: bool = False,
    ) -> "HeadSet":
        """`HeadSet.load("heads.json", model=name)`: what `save` wrote, or a ranking of the paper's authors.

        A ranking is a list, best first, of [layer, head], [layer, head, score] or {"layer":, "head":, "score":}, alone
        or under a key of a JSON object; slice it for its best heads (steering all heads of a model is refused). So is
        their gaze_scores.npy, or mean_panel_attention.npy.
        path: of a file, or hf:owner/name/heads.json for a file of a repository on Hugging Face's hub.
        model, fingerprint: of the model that the heads are for. A file of another model is an error; with `force` its
            heads become those of this model. A file that names no model is accepted.
        Raises HeadError for a file that cannot be read, that holds no heads, or that belongs to another model.
        """
        local = local_file(path)
        is_array = local.endswith(".npy")
        content = ranking_in(local) if is_array else read_json(local, EXPECTED, error=HeadError)
        entries = content
        if isinstance(content, dict):
            entries = next((content[key] for key in LISTS if key in content), None)
            _refuse_other_format(path, content.get("format", FORMAT))
        about: dict[str, Any] = {"provenance": {"file": Path(path).name}}
        about |= content if isinstance(content, dict) else {}
        owner, shape, provenance = about.get("model"), about.get("fingerprint"), about.get("found", about["provenance"])
        named = all(name is None or isinstance(name, str) for name in (owner, shape))
        if not (isinstance(entries, list) and isinstance(provenance, dict) and named):
            raise HeadError(
                f"{path} holds no heads: expected a list of heads, alone or under one of the keys {', '.join(LISTS)}, "
                "with model and fingerprint as text. Write one with HeadSet.save(path)."
            )
        try:
            heads = cls(map(_entry, entries), model=owner, fingerprint=shape, provenance=provenance)
        except HeadError as error:
            raise HeadError(f"{path} cannot be read as heads: {error}") from error
        if force:
            owner, shape = model or heads.model, fingerprint or heads.fingerprint
            return cls(heads, model=owner, fingerprint=shape, provenance=provenance)
        refuse_other(os.fspath(path), heads, model=model, fingerprint=fingerprint)
        return heads


def _refuse_no_list(heads: Any) -> None:
    """Raises HeadError for what is no list; for scores of heads it says how to choose among them."""
    if not isinstance(heads, Iterable):
        hint = " Take the best of them: scores.top(10)." if hasattr(heads, "top") else ""
        raise HeadError(f"A {type(heads).__name__} is not a list of heads: expected a list of {FORMS}.{hint}")


def _refuse_other_format(path: str | os.PathLike[str], actual: Any) -> None:
    if actual != FORMAT:
        raise HeadError(
            f"{path} has the format {_short(actual)}, and this version of gaze_lens reads {FORMAT!r}: expected a file "
            "that it wrote. Install the version that wrote this one."
        )


def size_in(fingerprint: str | None) -> tuple[int, int] | None:
    """The layers and heads that a model's fingerprint names; None for one of another form."""
    match = re.search(r"-(\d{1,9})x(\d{1,9})x\d+x\d+$", fingerprint or "")
    return (int(match[1]), int(match[2])) if match else None


def _images_of(provenance: Any) -> Iterator[str]:
    """The fingerprints in a provenance, or in those of the sets that it was made of."""
    remaining = [provenance]
    while remaining:
        about = remaining.pop()
        if isinstance(about, dict):
            images, parts = about.get("images"), about.get("of")
            yield from images.split() if isinstance(images, str) else ()
            remaining += parts if isinstance(parts, list) else []


def _entry(entry: Any) -> Any:
    """What `Head.parse` reads, of an entry that may also have a score."""
    if isinstance(entry, dict):
        return entry.get("layer"), entry.get("head")
    return entry[:2] if isinstance(entry, list) and len(entry) == 3 else entry


def refuse_other(what: str, heads: Any, *, model: str | None, fingerprint: str | None) -> None:
    """Raises HeadError where heads (or scores) are of another model or architecture. None is equal to anything."""
    for name, actual, expected in (("model", heads.model, model), ("architecture", heads.fingerprint, fingerprint)):
        if actual is not None and expected is not None and actual != expected:
            raise HeadError(
                f"{what} holds heads of the {name} {actual}, expected {expected}: heads of one model mean nothing in "
                "another. Find the heads of this model, or load with force=True if you know that the two are the same."
            )


def _short(value: Any) -> str:
    """At most 80 characters of a value's repr."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _names(heads: Iterable[Head]) -> str:
    """The names of the first twelve heads, for messages."""
    names = [str(head) for head in heads]
    return ", ".join(names[:12]) + (f", ... ({len(names)} in all)" if len(names) > 12 else "")
