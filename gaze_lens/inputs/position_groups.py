"""Named groups of positions in a prompt: the image, the text, the last token, a region, a word.

group(inputs, "panel 4")                                  # a region's image tokens
group(inputs, inputs.span("fourth"))                      # the tokens of a word
groups(inputs, ["image", "text", "last"])
groups(inputs, {"target": "panel 4", "word": inputs.span("fourth")})
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from gaze_lens.errors import InputError
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.regions.layout import Group, Region, Rows

__all__ = ["KINDS", "Group", "group", "groups"]


def _every(inputs: VLMInputs) -> Rows:
    layout = inputs.layout
    if layout.cross_attention:
        return layout.text
    return tuple(tuple(sorted(image + text)) for image, text in zip(layout.images, layout.text, strict=True))


def _last(inputs: VLMInputs) -> Rows:
    return ((inputs.last_position,),) * inputs.n_rows


KINDS: dict[str, Callable[[VLMInputs], Rows]] = {
    "every": _every,
    "image": lambda inputs: inputs.layout.images,
    "text": lambda inputs: inputs.layout.text,
    "last": _last,
    "answer": lambda inputs: inputs.answer_positions,
}


def group(inputs: VLMInputs, which: Any) -> Group:
    """`group(inputs, "panel 4")`: a group of positions in every row of these inputs.

    which: "every" (all except padding), "image", "text" (neither image nor padding), "last", "answer" (positions whose
        next token belongs to the answer), the name of a region, a `Region`, or a `Group` such as
        `inputs.span("fourth")`.
    Where the model reads the image by cross-attention (`group.cross_attention`), "image" and regions are keys of the
    cross-attention layers.
    Raises RegionError where a row has no such position, for unknown names, and for a Region or Group of other inputs.
    """
    if isinstance(which, Group):
        which.check(inputs.layout)
        return which
    if isinstance(which, str) and which in KINDS:
        return Group(
            which,
            KINDS[which](inputs),
            inputs.layout,
            cross_attention=inputs.layout.cross_attention and which == "image",
        )
    if not isinstance(which, str | Region):
        raise InputError(
            f"{which!r} was given as positions; expected {', '.join(map(repr, KINDS))}, the name of a region, a Region "
            "or a Group. Make one of a shape with inputs.region(shape), of words with inputs.span(text)."
        )
    region = inputs.region(which) if isinstance(which, str) else which
    region.check(inputs.layout)
    region.refuse_weights("a group of positions")
    return Group(region.name, region.positions, inputs.layout, cross_attention=region.cross_attention)


def groups(inputs: VLMInputs, positions: Any) -> list[Group]:
    """`groups(inputs, ["image", "last"])`: a group for each entry of a list or mapping, or for a single entry.

    Raises InputError for no entry, or two with the same name; otherwise as `group`.
    """
    if isinstance(positions, Mapping):
        listed = [replace(group(inputs, which), name=str(name)) for name, which in positions.items()]
    else:
        listed = [group(inputs, which) for which in (positions if isinstance(positions, list | tuple) else [positions])]
    names = [one.name for one in listed]
    if not names or len(set(names)) < len(names):
        raise InputError(
            f"Groups of positions named {names or 'nothing'} were given; expected at least one, and every name once. "
            'Name them yourself with a mapping: {"first": ..., "second": ...}.'
        )
    return listed
