"""The data of the viewer's JavaScript, and the HTML file that holds both.

header = header_of(...)
page(header, arrays_of(header, recording))
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from gaze_lens.errors import InputError, RegionError
from gaze_lens.heads.head_scores import HeadScores
from gaze_lens.inputs.region_names import names_of
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.model_protocol import Model
from gaze_lens.regions.image_tokens import ImageTokens
from gaze_lens.regions.layout import Region
from gaze_lens.regions.outlines import outlines
from gaze_lens.regions.picture import Picture
from gaze_lens.regions.video import VideoFrames
from gaze_lens.show.interactive.keys import Keys
from gaze_lens.show.interactive.packing import HALF, levels_for, packed, packed_rows
from gaze_lens.show.interactive.recording import Recording
from gaze_lens.show.interactive.words import special_ids, words_of
from gaze_lens.show.pages.templates import render
from gaze_lens.text.token_texts import pieces

FOLDER = Path(__file__).parent
SCRIPT, STYLE = FOLDER / "viewer.js", FOLDER / "viewer.css"
MAX_SIDE = 1400  # pixels of a picture in the page
MAX_PNG = 400_000  # bytes: a larger PNG becomes a JPEG


def header_of(model: Model, inputs: VLMInputs, recording: Recording, scores: Any, keys: Keys) -> dict[str, Any]:
    """Everything except the arrays, in types that JSON has."""
    words = [asdict(word) for word in words_of(inputs, recording.answer, recording.queries)]
    pictures, tokens = inputs.pictures[0], inputs.image_tokens
    return {
        "heads": [tuple(head) for head in recording.heads],
        "shape": recording.levels.shape,
        **packing_of(recording),
        "weighted": recording.norms is not None,
        "unweighted": recording.unweighted,
        "grid": (model.cfg.n_layers, model.cfg.n_heads),
        "scores": _scores(model, scores),
        "words": words,
        "tokens": {"keys": recording.keys, **_tokens(tokens, keys)},
        "text": _text(inputs, keys),
        "subject": {"name": keys.subject, "measured": keys.measured.tolist(), "scaled": keys.scaled.tolist()},
        "images": [_image(picture, i, len(pictures)) for i, picture in enumerate(pictures)],
        "regions": [
            *(_region(label, name, i, inputs) for label, (i, name) in names_of(pictures).items()),
            *(_region_of_text(name, region, keys, len(pictures)) for name, region in keys.regions.items()),
        ],
        "cross_attention": inputs.layout.cross_attention,
        "steering": None,
    }


def packing_of(recording: Recording) -> dict[str, Any]:
    """How single heads are packed, and the mean over all, which is shown before they are there."""
    levels = levels_for(recording)
    return {"levels": levels, "halves": levels <= HALF, "mean": packed_rows(recording.mean())}


def arrays_of(header: Mapping[str, Any], recording: Recording) -> bytes:
    """The heads one by one, as bytes."""
    return packed(recording, [region["tokens"] for region in header["regions"]], header["levels"])


def _scores(model: Model, scores: Any) -> list[list[float | None]] | None:
    """Scores as [layer][head]; None where there is no finite score."""
    if scores is None:
        return None
    values = np.asarray(scores.score if isinstance(scores, HeadScores) else scores, dtype=float)
    if values.shape != (model.cfg.n_layers, model.cfg.n_heads):
        raise InputError(
            f"The scores have shape {values.shape}: expected one for each of {model.cfg.n_layers} layers x "
            f"{model.cfg.n_heads} heads. Give HeadScores of this model, or an array [layer, head]."
        )
    return [[round(value, 4) if np.isfinite(value) else None for value in row] for row in values.tolist()]


def _tokens(images: Sequence[ImageTokens], keys: Keys) -> dict[str, list[Any]]:
    """The box of every key, None where it has none, and the picture that it is in; the text is after the pictures."""
    boxes = [box for tokens in images for box in tokens.boxes.cpu().numpy().round(2).tolist()]
    n_text = len(keys.text)
    return {
        "boxes": [None if box[0] != box[0] else box for box in boxes] + [None] * n_text,
        "image": [tokens.image for tokens in images for _ in range(len(tokens))] + [len(images)] * n_text,
    }


def _text(inputs: VLMInputs, keys: Keys) -> list[dict[str, Any]]:
    """The words of the prompt's text among the keys."""
    ids = inputs.input_ids[0, list(keys.text)].tolist()
    special = special_ids(inputs.tokenizer)
    return [
        {"text": text, "special": token in special}
        for token, text in zip(ids, pieces(inputs.tokenizer, ids), strict=True)
    ]


def _region_of_text(name: str, region: Region, keys: Keys, index: int) -> dict[str, Any]:
    return {"name": name, "image": index, "tokens": keys.indices(region), "outline": []}


def _image(picture: Picture, index: int, n_images: int) -> dict[str, Any]:
    """Size in original pixels, the picture itself, and its text alternative."""
    names = "; ".join(f"{n}: {picture.captions[n]}" if n in picture.captions else n for n in picture.regions)
    name = f"Image {index + 1} of {n_images}" if n_images > 1 else "The image"
    if isinstance(picture, VideoFrames):
        name = f"Of a video {picture.moment}"
    alt = f"{name}, {picture.image.width} x {picture.image.height} pixels." + f" Regions: {names}." * bool(names)
    image = picture.image.convert("RGB")
    if max(image.size) > MAX_SIDE:
        image.thumbnail((MAX_SIDE, MAX_SIDE))
    return {"size": picture.image.size, "alt": alt, "src": _data_address(image)}


def _data_address(image: Any) -> str:
    buffer, kind = io.BytesIO(), "png"
    image.save(buffer, "PNG", optimize=True)
    if buffer.tell() > MAX_PNG:
        buffer, kind = io.BytesIO(), "jpeg"
        image.save(buffer, "JPEG", quality=88)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _region(label: str, name: str, index: int, inputs: VLMInputs) -> dict[str, Any]:
    """Label, image, indices of tokens among all image tokens (none for a region smaller than one), outline."""
    shape, own = inputs.pictures[0][index].regions[name], inputs.image_tokens[index]
    before = sum(len(tokens) for tokens in inputs.image_tokens[:index])
    where = {position: before + i for i, position in enumerate(own.positions.tolist())}
    try:
        tokens = [where[position] for position in own.select(shape).tolist()]
    except RegionError:
        tokens = []
    lines = [line.round(1).tolist() for line in outlines(shape)]
    return {"name": label, "image": index, "tokens": tokens, "outline": lines}


def page(header: Mapping[str, Any], arrays: bytes, *, title: str) -> str:
    """The viewer as one HTML file. Its content security policy forbids to load anything."""
    return render(
        "viewer.html",
        title=title,
        style=STYLE.read_text(encoding="utf-8"),
        script=SCRIPT.read_text(encoding="utf-8"),
        header=header,
        arrays=base64.b64encode(arrays).decode(),
    )
