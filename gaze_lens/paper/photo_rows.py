"""Rows about natural images: where heads look while the model describes, lists of a part, objects by size (17 to 19).

Without photographs they run on the synthetic scenes that the embedded model knows, and say so.
"""

from collections.abc import Sequence
from typing import Any

from gaze_lens import comics, show
from gaze_lens.data import COCO_SYNONYMS
from gaze_lens.errors import InputError, RegionError
from gaze_lens.evaluation.condition import Condition
from gaze_lens.evaluation.generate import generate_answers
from gaze_lens.evaluation.judges import NamesOnly
from gaze_lens.evaluation.judges.captions import categories_named
from gaze_lens.evaluation.listed_objects import in_parts, objects_named
from gaze_lens.evaluation.protocols import regions
from gaze_lens.evaluation.runner import evaluate
from gaze_lens.evaluation.size_classes import accuracy_by_size
from gaze_lens.evaluation.statistics import Estimate, mean
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.paper.bar_figures import bars_of
from gaze_lens.paper.context import REPEATED, Context
from gaze_lens.paper.row import Figure, Row, RowResult, Settings, answers
from gaze_lens.paper.selected_heads import random_heads
from gaze_lens.regions.picture import Picture
from gaze_lens.regions.shapes import Shape
from gaze_lens.runs.files import write_whole
from gaze_lens.show.span_charts import MAX_SPANS
from gaze_lens.tracking import AttentionMaps, SpanMaps, track_maps

DESCRIBE = "Describe this picture in detail, one thing after another."
DESCRIBED, TOKENS, SHOWN = 50, 200, 3  # pictures, tokens of a description, pictures whose maps are drawn
LIST_TOKENS, ANSWER = 80, 15
SCENES = "Synthetic scenes of coloured shapes on a grid, not photographs: give photographs with pictures= (--coco)."


def pictures_of(context: Context) -> Sequence[Picture]:
    """The photographs, or as many synthetic scenes as there are strips."""
    if context.pictures is not None:
        return context.pictures
    return comics.scenes(context.settings.strips, seed=context.settings.seed + 17)


def notes_of(context: Context) -> tuple[str, ...]:
    """Whether the pictures are no photographs."""
    return (SCENES,) if context.pictures is None else ()


def synonyms_of(context: Context) -> dict[str, tuple[str, ...]]:
    """Other names of categories; scenes need none."""
    return {} if context.pictures is None else dict(COCO_SYNONYMS)


def set_and_control(context: Context) -> list[Condition]:
    """The gaze heads, random heads of their layers in several draws, and no heads."""
    draws = [random_heads(context, context.heads, draw) for draw in range(context.settings.draws)]
    random = [Condition("random", heads, draw=n) for n, heads in enumerate(draws) if heads is not None]
    return [Condition("gaze", context.heads), *random, Condition("none")]


def descriptions(context: Context) -> RowResult:
    """Row 17: the map of the heads over each span of a free description, and the object that the span names."""
    sets = {"gaze": context.heads, "random": random_heads(context, context.heads, 0)}
    found: dict[str, list[tuple[int, bool, float]]] = {name: [] for name, heads in sets.items() if heads is not None}
    artefacts: list[str] = []
    pictures = pictures_of(context)
    for index in range(min(DESCRIBED, len(pictures))):
        picture = pictures[index]
        inputs = context.model.encode(
            context.model.prepare(picture, comics.LIST_THINGS if context.pictures is None else DESCRIBE)
        )
        for name in found:
            maps = track_maps(context.model, inputs, _given(sets[name]), max_new_tokens=TOKENS)
            spans = spans_of(maps, picture, photographs=context.pictures is not None)
            if spans is None:
                continue
            found[name] += [(index, *one) for one in looked_at(spans, picture, synonyms_of(context))]
            if index < SHOWN:
                few = maps.over(spans.spans[:MAX_SPANS])
                artefacts += context.save("fig7", f"picture {index + 1} {name}", show.span_maps(few))
    figures = [Figure.rate(f"{name}, most on the object described", _mean(rows, 1)) for name, rows in found.items()]
    figures += [Figure.rate(f"{name}, of the attention on objects", _mean(rows, 2)) for name, rows in found.items()]
    notes = (
        "The text is cut into " + ("the phrases that name its objects" if context.pictures is None else "sentences")
        + "; a span counts where it names one object's category that no other object has, and is right where of all "
        "named regions the map is largest there, per token. Of the attention on objects: the share of the sum of these "
        "means that is there. The maps are value-weighted.",
    )  # fmt: skip
    return RowResult(tuple(figures), notes=(*notes_of(context), *notes), artefacts=tuple(artefacts))


def _given(heads: HeadSet | None) -> HeadSet:
    if heads is None:
        raise InputError("There are no heads to look at.")
    return heads


def _mean(rows: Sequence[tuple[int, bool, float]], column: int) -> Estimate | None:
    return mean([float(row[column]) for row in rows], [row[0] for row in rows]) if rows else None


def spans_of(maps: AttentionMaps, picture: Picture, *, photographs: bool) -> SpanMaps | None:
    """The sentences of a description, or the names of the picture's objects that stand in it; None without any."""
    text = "".join(maps.tokens)
    if photographs:
        return maps.over(maps.sentences()) if any(character.isalnum() for character in text) else None
    names = [caption.rstrip(".") for caption in picture.captions.values()]
    there = sorted((name for name in set(names) if name in text), key=text.index)
    return maps.over(maps.phrases(there)) if there else None


def looked_at(spans: SpanMaps, picture: Picture, synonyms: dict[str, tuple[str, ...]]) -> list[tuple[bool, float]]:
    """For each span that names one object alone: whether its region has the largest mean over its tokens of all
    regions, and the share of the sum of these means that it has. Regions without a token are left out.
    """
    sizes = {name: _n_tokens(spans, shape) for name, shape in picture.regions.items()}
    captions, table, found = list(picture.captions.values()), spans.on_regions(), []
    for index, span in enumerate(spans.spans):
        named = categories_named(span.text, set(captions), synonyms)
        if len(named) == 1 and captions.count(named[0]) == 1:
            rows = table[table.span == index]
            means = {row.region: row.attention / sizes[row.region] for row in rows.itertuples() if sizes[row.region]}
            own = next(name for name, caption in picture.captions.items() if caption == named[0])
            if own in means and sum(means.values()) > 0:
                found.append((max(means, key=means.__getitem__) == own, means[own] / sum(means.values())))
    return found


def _n_tokens(spans: SpanMaps, shape: Shape) -> int:
    """How many image tokens a region has; 0 where it is smaller than one."""
    try:
        return sum(len(tokens.select(shape)) for tokens in spans.image_tokens)
    except RegionError:
        return 0


def lists(context: Context) -> RowResult:
    """Row 18: lists of all objects, steered to a part of the picture."""
    pictures, shape = pictures_of(context), (1, 2) if context.pictures is not None else (3, 1)
    parts = [in_parts(pictures[index], shape) for index in range(len(pictures))]
    protocol = regions(comics.LIST_THINGS, max_new_tokens=LIST_TOKENS)
    path = context.out / "runs" / "lists" / "generations.jsonl"
    generations = generate_answers(
        context.model, parts, set_and_control(context), protocol=protocol, path=path, resume=True,
        seed=context.settings.seed, progress=context.progress,
    )  # fmt: skip
    table = objects_named(generations, pictures, synonyms=synonyms_of(context))
    write_whole(context.out / "fig9" / "lists.csv", table.to_csv(index=False).encode())
    figures = []
    for name in dict.fromkeys(table.condition):
        rows = table[(table.condition == name) & (table.there > 0)]
        for label, column in (("only objects of the part", "only"), ("named that are in the part", "precision"),
                              ("of the part that are named", "recall")):  # fmt: skip
            some = rows.dropna(subset=column)
            estimate = mean(some[column].to_numpy(), some.picture.tolist()) if len(some) else None
            figures.append(Figure.rate(f"{name}, {label}", estimate))
    artefacts = context.save("fig9", "bars", bars_of(figures, title="Lists of objects, steered to a part"))
    notes = (f"Parts: {', '.join(in_parts(pictures[0], shape).regions)}. Objects by the names of their categories.",)
    return RowResult(tuple(figures), notes=(*notes_of(context), *notes), artefacts=(*artefacts, "fig9/lists.csv"))


def sizes(context: Context) -> RowResult:
    """Row 19: objects by size, with random heads and places of the same size elsewhere."""
    conditions = [*set_and_control(context), Condition("elsewhere", context.heads, elsewhere=True)]
    is_coco = context.pictures is not None
    protocol = regions(comics.MAIN_OBJECT if is_coco else comics.ONE_THING, max_new_tokens=ANSWER)
    judge = NamesOnly(synonyms=COCO_SYNONYMS, others=True) if is_coco else NamesOnly()
    results = evaluate(
        context.model, pictures_of(context), conditions, protocol=protocol, judge=judge, resume=True,
        out=context.out / "runs" / "objects", seed=context.settings.seed, progress=context.progress,
        repeated_at=REPEATED,
    )  # fmt: skip
    table = accuracy_by_size(results)
    write_whole(context.out / "tab1" / "accuracy.csv", table.to_csv(index=False).encode())
    figures = [_figure(row) for row in table.to_dict("records") if row["n"]]
    groups = dict(list(table[table.n > 0].groupby("size", sort=False)))
    artefacts = context.save("tab1", "bars", show.bars(groups, title="Accuracy by size of the target"))
    missing = [size for size in dict.fromkeys(table["size"]) if size not in groups]
    notes = [f"No object is {', or '.join(missing)}."] * bool(missing)
    notes += ["Elsewhere: steered to a place of the same size that does not overlap the object."]
    return RowResult(
        tuple(figures), results.judge, (*notes_of(context), *notes), (*artefacts, "tab1/accuracy.csv")
    )  # fmt: skip


def _figure(row: dict[str, Any]) -> Figure:
    value, low, high = (100 * row[name] for name in ("accuracy", "low", "high"))
    return Figure(f"{row['condition']}, {row['size']}", value, low, high, row["pictures"], "%")


def no_named_objects(context: Context) -> str | None:
    """Why rows 17 to 19 are impossible: of pictures without named objects, nobody can tell what is described."""
    pictures = context.pictures
    if pictures is None or any(pictures[index].captions for index in range(min(5, len(pictures)))):
        return None
    return "The pictures have no objects with names: give COCO's, or pictures with captions."


def count_of(s: Settings) -> int:
    """Pictures: photographs, or as many scenes as strips."""
    return s.pictures or s.strips


OBJECTS = 7  # in a picture: about as many as in one of COCO's

ROWS = (
    Row(
        17, "fig7", "Where heads look while the model describes a picture", {
            "gaze, most on the object described": "looks where it describes",
        },
        cost=lambda s: answers(2 * min(DESCRIBED, count_of(s)), TOKENS), run=descriptions, reason=no_named_objects,
        also=("fig18", "fig19", "fig20"),
    ),
    Row(
        18, "fig9", "Lists of objects, steered to a part of the picture", {
            "gaze, only objects of the part": "only objects of that region",
        },
        cost=lambda s: answers(count_of(s) * 3 * (2 + s.draws), LIST_TOKENS), run=lists, reason=no_named_objects,
    ),
    Row(
        19, "tab1", "Objects of photographs, by size", {
            "gaze, large": 80.3, "gaze, medium": 76.2, "gaze, small": 61.7, "gaze, all": 76.5, "random, large": 36.6,
            "random, medium": 19.4, "random, small": 18.6, "random, all": 25.9,
        },
        cost=lambda s: answers(count_of(s) * OBJECTS * (3 + s.draws), ANSWER), run=sizes, reason=no_named_objects,
    ),
)  # fmt: skip
