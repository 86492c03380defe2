"""The options of `gaze-lens evaluate` in groups, and what is made of each group.

typer wants a parameter for every option; `with_groups` makes them of the fields of a command's groups. Heavy modules
are imported where a command runs, so that --help and usage errors come at once.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from inspect import Parameter
from typing import TYPE_CHECKING, Any

from gaze_lens.cli import options

if TYPE_CHECKING:
    from gaze_lens.evaluation import Condition
    from gaze_lens.evaluation.protocols import Protocol
    from gaze_lens.model_protocol import Model
    from gaze_lens.regions.picture import Picture


@dataclass
class PictureOptions:
    """Which pictures."""

    strips: options.Pictures = "synthetic:100"
    panels: options.Panels = None
    annotations: options.Annotations = None
    limit: options.Limit = None
    height: options.Height = None
    questions: options.Questions = None
    fit: options.Fit = None

    def read(self, seed: int) -> "Sequence[Picture]":
        """The pictures, as they are fitted to the processor."""
        from gaze_lens.cli import arguments
        from gaze_lens.inputs.fitting import fitted

        if self.questions is not None:
            return fitted(arguments.data.read_questions(self.questions, limit=self.limit), arguments.fit_of(self.fit))
        pictures = arguments.pictures_of(self.strips, self.panels, self.annotations, seed, self.limit, self.height)
        return fitted(pictures, arguments.fit_of(self.fit))


@dataclass
class RareOptions:
    """What is rarely given; see `options.RARE`."""

    max_new_tokens: options.Length = None
    every: options.Every = None
    end: options.End = None
    scores: options.Scores = None
    mode: options.Mode = "boost-and-suppress"
    strength: options.Bias = 10_000.0
    draws: options.Draws = 5
    below: options.Below = None
    batch_size: options.BatchSize = 24
    where: options.Where = None
    delay: options.Delay = None
    n_targets: options.Targets = None
    as_published: options.AsPublished = False
    repetition_penalty: options.Penalty = None
    no_repeat_ngram: options.Ngram = None
    repeated_at: options.RepeatedAt = 0.85


@dataclass
class QuestionOptions:
    """What is asked, and who judges the answers."""

    protocol: options.Protocol = None
    prompt: options.Prompt = None
    judge: options.Judge = None

    def asked(self, rare: RareOptions, pictures: PictureOptions) -> "Protocol":
        """The protocol; by default that of photographs where these are annotated, and of questions to ask them."""
        from gaze_lens.cli import arguments

        default = "regions" if pictures.annotations is not None else "question"
        name = self.protocol or ("answers" if pictures.questions is not None else default)
        return arguments.protocol_of(
            name, self.prompt, rare.max_new_tokens, rare.every, rare.end, delay=rare.delay, n_targets=rare.n_targets,
            where=None if rare.where is None else tuple(arguments.listed(rare.where)),
            as_published=rare.as_published or None, repetition_penalty=rare.repetition_penalty,
            no_repeat_ngram=rare.no_repeat_ngram,
        )  # fmt: skip


@dataclass
class HeadOptions:
    """Which heads are steered, and how."""

    heads: options.Heads = None
    n_heads: options.Count = None
    conditions: options.Conditions = "gaze,random,all,none"
    counts: options.Counts = None
    strengths: options.Strengths = None
    mass: options.Mass = None
    at_least: options.AtLeast = None
    keep: options.Keep = None
    masses: options.Masses = None
    force: options.Force = False

    def conditions_for(self, model: "Model", rare: RareOptions, seed: int) -> "list[Condition]":
        """The conditions, for a model that is loaded."""
        from gaze_lens.cli import arguments

        heads, scores = arguments.heads_of(model, self.heads, rare.scores, self.n_heads, force=self.force)
        return arguments.conditions_of(
            model, heads, scores, self.conditions, mode=arguments.STEERING[rare.mode], strength=rare.strength,
            shares={"mass": self.mass, "at_least": self.at_least, "keep": self.keep}, shares_curve=self.masses,
            counts=self.counts, biases=self.strengths, draws=rare.draws, below=rare.below, seed=seed,
        )  # fmt: skip


@dataclass
class RunOptions:
    """How it is run."""

    seed: options.Seed = 0
    shard: options.Shard = None
    resume: options.Resume = False
    device: options.Device = None
    dtype: options.Dtype = "auto"


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """The command with a parameter for every field of its parameters that are dataclasses."""
    signature = inspect.signature(command, eval_str=True)
    groups: dict[str, Any] = {
        name: p.annotation for name, p in signature.parameters.items() if is_dataclass(p.annotation)
    }
    parameters = [
        one for name, parameter in signature.parameters.items()
        for one in (_parameters_of(groups[name]) if name in groups else [parameter])
    ]  # fmt: skip

    @wraps(command)
    def flat(**values: Any) -> None:
        grouped = {
            name: group(**{field.name: values.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**values, **grouped)

    flat.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [one.replace(kind=Parameter.KEYWORD_ONLY) for one in parameters]
    )
    flat.__annotations__ = {one.name: one.annotation for one in parameters}
    return flat


def _parameters_of(group: Any) -> list[Parameter]:
    return [
        Parameter(field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
        for field in fields(group)
    ]
