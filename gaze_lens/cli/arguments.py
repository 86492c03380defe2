"""Turn the texts of the command line into objects: pictures, heads, conditions, protocols, judges and targets."""

import json
import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from typer import BadParameter, echo

from gaze_lens import comics, data
from gaze_lens.cli.options import JUDGES
from gaze_lens.comics.strips import HEIGHT
from gaze_lens.errors import InputError, RegionError
from gaze_lens.evaluation import judges, protocols
from gaze_lens.evaluation.condition import Condition, conditions, head_counts, masses, strengths
from gaze_lens.heads.head_scores import HeadScores
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.heads.verdict import NONE_FOUND
from gaze_lens.interventions.steering import MODES, Mode, boost_and_suppress
from gaze_lens.model_protocol import Model
from gaze_lens.regions.picture import Fit, Picture
from gaze_lens.regions.reading import read_image
from gaze_lens.regions.shapes import Box
from gaze_lens.scoring.gaze_score import score_heads
from gaze_lens.tiny import HEADS, NAME

CALIBRATED = 6  # pictures on whose captions a second model is tried out as a judge
SEED = 1_000_000  # of synthetic strips to measure on; the embedded model was not trained on them
SYNTHETIC = "synthetic:"
XYWH = "xywh:"
FINDING = 10_000  # of synthetic strips to find heads on
SCORED = 24  # synthetic strips on which the embedded model's heads are found by default
STEERING = {mode.__name__.replace("_", "-"): mode for mode in MODES}


def strips_of(
    source: str, panels: int | None, detect: bool, windows: int | None, seed: int, limit: int | None,
    *, height: int | None = None, as_published: bool = False,
) -> data.Pictures:  # fmt: skip
    """Strips: of a folder, of the COMICS corpus (windows), of single images (panels), of the hub (hf:NAME), or drawn.

    height: of panels in files of their own, in pixels. as_published: cut them as the paper's scripts do.
    """
    if (as_published or height) and (panels is not None or source.startswith(("hf:", SYNTHETIC))):
        option = "--as-published" if as_published else "--height"
        raise InputError(f"{option} cuts panels that are files of a folder; leave it out with {source} and --panels.")
    cut: dict[str, Any] = {"height": height or HEIGHT, "as_published": as_published}
    if (panels is not None and windows is not None) or (detect and panels is None):
        raise InputError("Give --panels N (with or without --detect) for single images, or --windows N, not both.")
    if windows is not None:
        return data.read_comics(source, seed=seed, panels=windows, limit=limit, **cut)
    if panels is not None:
        return data.read_pages(source, data.gutters(panels) if detect else panels, limit=limit)
    if source.startswith(SYNTHETIC):
        drawn = synthetic_strips(source, panels, FINDING + seed, limit)
        return data.Pictures({f"strip {i}": partial(replace, strip) for i, strip in enumerate(drawn)}, source=source)
    if source.startswith("hf:"):
        return data.read_dataset(source.removeprefix("hf:"), limit=limit)
    return data.read_strips(source, limit=limit, **cut)


def pictures_of(
    source: str, panels: int | None, annotations: Path | None, seed: int, limit: int | None, height: int | None = None
) -> Sequence[Picture]:
    """synthetic:N, photographs with COCO's annotations, or strips, as `strips_of` reads them."""
    if source.startswith(SYNTHETIC) and height is None:
        return synthetic_strips(source, panels, SEED + seed, limit)
    if annotations is not None:
        return data.read_coco(
            annotations, source, min_area=32.0 * 32.0, unique=True, n_objects=(2, 6), seed=seed, limit=limit
        )
    return strips_of(source, panels, False, None, seed, limit, height=height)


def synthetic_strips(source: str, panels: int | None, seed: int, limit: int | None) -> list[Picture]:
    """The strips of synthetic:N."""
    number = source.removeprefix(SYNTHETIC)
    if not number.isdigit() or not int(number):
        raise InputError(f"--strips {source} was given; write how many, as in synthetic:100.")
    return comics.synthetic(min(int(number), limit or int(number)), seed=seed, panels=panels or 6)


def fit_of(text: str | None) -> Fit | None:
    """How pictures are fitted to the processor: "whole", or a size such as 336x336."""
    if text is None or text == "whole":
        return None if text is None else "whole"
    return size_of(text, "--fit")


def heads_of(
    model: Model, heads: Path | None, scores: Path | None, n_heads: int | None, *, force: bool
) -> tuple[HeadSet, HeadScores | None]:
    """The heads in a file, and the scores of all heads or None. Without a file, the embedded model's heads are found.

    scores: by default the file scores.safetensors beside the heads, if it exists.
    """
    owner = {"model": model.cfg.model_name, "fingerprint": model.fingerprint, "force": force}
    if heads is None and model.cfg.model_name != NAME:
        raise InputError("Which heads? Give --heads heads.json; `gaze-lens discover` finds those of a model.")
    if heads is None:
        all_scores = score_heads(model, comics.synthetic(SCORED, seed=FINDING), batch_size=8, progress=False)
        return all_scores.top(n_heads or HEADS), all_scores
    head_set = head_set_of(model, heads, n_heads, force=force)
    beside = Path(heads).parent / "scores.safetensors"
    path = scores or (beside if beside.exists() else None)
    return head_set, None if path is None else HeadScores.load(path, **owner)


def head_set_of(model: Model, path: Path, n_heads: int | None, *, force: bool) -> HeadSet:
    """The heads in a file: heads.json, a ranking, or the scores of all heads (scores.safetensors, or the .npy files of
    the paper's authors). hf:owner/name/heads.json is a file of the hub.

    n_heads: how many of the best. A file of all heads of the model needs it, or recommends a number itself.
    """
    owner = {"model": model.cfg.model_name, "fingerprint": model.fingerprint, "force": force}
    every = model.cfg.n_layers * model.cfg.n_heads
    if path.suffix == ".safetensors":
        scores = HeadScores.load(path, **owner)
        head_set = scores.top(every).as_ranking(recommended=len(scores.verdict().heads))
    else:
        head_set = HeadSet.load(path, **owner)
        if str(verdict := head_set.provenance.get("verdict", "")).startswith(NONE_FOUND):
            echo(f"{path} holds no gaze heads, the best are in it all the same. {verdict}", err=True)
    if n_heads is None and len(head_set) == every:
        n_heads = head_set.provenance.get("recommended")
        if not isinstance(n_heads, int) or not 1 <= n_heads < every:
            raise InputError(
                f"{path} has all {every} heads of the model, and to steer all of them spoils every answer: say with "
                "--n-heads how many of the first to take."
            )
        echo(f"Taking the first {n_heads} of {every} heads, as {path} recommends; --n-heads takes others.", err=True)
    return head_set[:n_heads]


def conditions_of(
    model: Model,
    heads: HeadSet,
    scores: HeadScores | None,
    names: str,
    *,
    mode: Callable[[float], Mode],
    strength: float,
    counts: str | None = None,
    biases: str | None = None,
    shares: Mapping[str, Any] | None = None,
    shares_curve: str | None = None,
    **drawing: Any,
) -> list[Condition]:
    """The conditions of a comma-separated list, and the points of the curves over head counts and biases.

    mode: makes a mode of a strength. shares: mass, at_least and keep, instead of a mode, where they are not None.
    shares_curve: the points of the curve over masses. drawing: draws, below and seed of `conditions`.
    """
    shares = {name: share for name, share in (shares or {}).items() if share is not None}
    keep = shares.pop("keep", None)
    if keep is not None and not shares and shares_curve is None:
        raise InputError(f"--keep {keep} says what a mass is a share of: give --mass, --at-least or --masses.")
    if shares and biases is None and mode(strength) != boost_and_suppress():
        raise InputError("mode or strength was given beside --mass or --at-least: steer by logits, or to a mass.")
    steering: dict[str, Any] = {**shares, "keep": keep} if shares else {"mode": mode(strength)}
    selected = conditions(model, heads, listed(names), scores=scores, **steering, **drawing)
    if counts is not None:
        if scores is None:
            raise InputError("--counts takes the best heads by score: give --scores scores.safetensors, from discover.")
        selected += head_counts(scores, whole_numbers(counts, "--counts"), **steering)
    if biases is not None:
        selected += strengths(heads, numbers(biases, "--strengths"), mode=mode)
    if shares_curve is not None:
        selected += masses(heads, numbers(shares_curve, "--masses"), keep=keep)
    return selected


def read_config(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """The options in a TOML file, or a JSON file if its name ends so. names: those that the command has.

    Dashes and underscores in names are the same; a list is written with commas, as on the command line.
    Raises BadParameter if the file cannot be read, or holds anything else.
    """
    try:
        values = (json if path.suffix == ".json" else tomllib).loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadParameter(f"{path} cannot be read ({error}); give a TOML file, or a JSON file (*.json).") from error
    if not isinstance(values, dict):
        raise BadParameter(f"{path} holds no options; write them by name, as in draws = 10.")
    options = {name.replace("-", "_"): value for name, value in values.items()}
    for name, value in options.items():
        if name not in names or isinstance(value, dict):
            known = ", ".join(names).replace("_", "-")
            raise BadParameter(f"{path} has {name.replace('_', '-')!r}; give options out of {known}.")
        if isinstance(value, list):
            options[name] = ",".join(map(str, value))
    return options


def listed(text: str) -> list[str]:
    """The words of a comma-separated list."""
    return [part.strip() for part in text.split(",") if part.strip()]


def numbers(text: str, option: str) -> list[float]:
    """The numbers of a comma-separated list."""
    try:
        values = [float(part) for part in listed(text)]
    except ValueError as error:
        raise InputError(f"{option} {text} was given; write numbers with commas, as in 1,2,4,8.") from error
    if not values or min(values) <= 0 or not all(map(math.isfinite, values)):
        raise InputError(f"{option} {text} was given; write one or more finite numbers above 0.")
    return values


def whole_numbers(text: str, option: str) -> list[int]:
    """The whole numbers of a comma-separated list."""
    values = numbers(text, option)
    if not all(value.is_integer() for value in values):
        raise InputError(f"{option} {text} was given; write whole numbers with commas, as in 1,2,4,8.")
    return [int(value) for value in values]


def protocol_of(
    name: str, prompt: str | None, max_new_tokens: int | None, every: int | None, end: str | None, **others: Any
) -> protocols.Protocol:
    """A protocol by name, with the options that are not None. others: other fields of `Protocol`."""
    if name != "dynamic" and (every is not None or end is not None):
        raise InputError("every and end say when the target of a narration changes: give --protocol dynamic.")
    if name == "asking" and prompt is not None:
        raise InputError("--protocol asking has a question for every region; leave out --prompt.")
    options: dict[str, Any] = {"prompt": prompt, "max_new_tokens": max_new_tokens, "every": every, "end": end, **others}
    return protocols.PROTOCOLS[name](**{key: value for key, value in options.items() if value is not None})


def judge_of(
    name: str, *, model: Model | None = None, base_url: str | None = None, cache: Path | None = None,
    load: Callable[[str], Model] | None = None, known: Sequence[Picture] | None = None,
) -> judges.Judge:  # fmt: skip
    """A judge by name. model: for the judge "likelihood"; a loaded model, or None.

    load, known: for a second model, "likelihood:NAME", which is tried out on the captions of the first known pictures.
    """
    simple = {
        "answer": judges.AnswerMatch(), "caption": judges.CaptionMatch(), "f1": judges.CaptionMatch(score="f1"),
        "rouge-l": judges.CaptionMatch(score="rouge-l"), "exact": judges.ExactDescription(),
        "names": judges.NamesOnly(),
    }  # fmt: skip
    provider, colon, service = name.partition(":")
    if colon and provider in ("anthropic", "openai") and service:
        return judges.LanguageModelJudge(provider, model=service, base_url=base_url, cache=cache)
    if colon and provider == "likelihood" and service:
        if load is None or known is None:
            raise InputError(f"--judge {name} tries a second model out on pictures with captions: --strips.")
        return judges.calibrated(judges.LikelihoodJudge(load(service)), known[:CALIBRATED])
    if name == "likelihood":
        if model is None:
            raise InputError("--judge likelihood asks a model: give --model, and the pictures with --strips.")
        return judges.LikelihoodJudge(model)
    if name not in simple:
        raise InputError(f"--judge {name} was given; give one of {JUDGES}.")
    return simple[name]


def size_of(text: str, option: str = "--size") -> tuple[int, int]:
    """Width and height of a text such as 1536x256."""
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError as error:
        raise InputError(f"{option} {text} was given; write width x height in pixels, as in 1536x256.") from error
    return width, height


def target_of(image: Path, box: str | None, panel: int | None, panels: int | None) -> tuple[Picture, str]:
    """The picture, with the target as a named region, and the name."""
    if panel is not None and box is None:
        if panels is None or not 1 <= panel <= panels:
            raise InputError(f"--panel {panel} --panels {panels} was given; give --panels N and --panel from 1 to N.")
        return data.read_page(image, panels), f"panel {panel}"
    if box is None or panel is not None:
        raise InputError("Give the target as --box x0,y0,x1,y1 or as --panel K --panels N, and only one of the two.")
    try:
        edges = [float(part) for part in box.removeprefix(XYWH).split(",")]
        region = Box.from_xywh(*edges) if box.startswith(XYWH) else Box(*edges)
    except (ValueError, TypeError, RegionError) as error:
        raise InputError(
            f"--box {box} was given; write the left, upper, right and lower edge in pixels: x0,y0,x1,y1, with x0 < x1 "
            "and y0 < y1. With the width and height it is xywh:x,y,width,height."
        ) from error
    return Picture(read_image(image), {"box": region}), "box"
