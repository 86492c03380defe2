"""The model itself as the judge: how likely is the text if it is shown one region only?"""

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor

from gaze_lens.comics.questions import THIS
from gaze_lens.errors import ImageError, InputError, JudgeError
from gaze_lens.evaluation.judges.judge import Description, Judge, Judgement, attempt, crop
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.model.weights_digest import sampled_digest, weights_digest
from gaze_lens.model_protocol import Model
from gaze_lens.patching.metrics import log_probabilities
from gaze_lens.regions.segments import Source
from gaze_lens.runs.progress import Bar
from gaze_lens.text.caption_matching import is_junk, lead_of
from gaze_lens.whole_numbers import is_count

NO_MATCH = Judgement(None, correct=False)  # of a text without a word, and of junk


class LikelihoodJudge(Judge):
    """`LikelihoodJudge(model)`: the region with which the model gives the text the largest probability.

    Each region is cut out and shown alone, with one question; the text is scored teacher-forced, as the answer. This
    needs no captions, no key and no other model. It runs without hooks, so steering does not affect it.

    model: a `HookedVLM`. prompt: the question. margin: nats by which the best region must be ahead of the second; with
    less, as between panels that look the same, there is no match. batch_size: rows (regions x texts) at a time.
    Give all texts about one picture one after the other: then its images are encoded once.
    """

    def __init__(self, model: Model, *, prompt: str = THIS, margin: float = 0.01, batch_size: int = 24) -> None:
        if margin < 0 or not is_count(batch_size):
            raise InputError(f"margin={margin}, batch_size={batch_size}: give a margin of 0 or more, 1 row or more.")
        self.model, self.prompt, self.margin, self.batch_size = model, prompt, margin, batch_size
        self._encoding: tuple[Source, VLMInputs] | None = None  # of the last picture

    def __repr__(self) -> str:
        return self._named(weights_digest(self.model))

    @property
    def former_name(self) -> str:
        """Its repr in version 0.1, which compared samples of the weights; judgements are stored under it."""
        return self._named(sampled_digest(self.model))

    def _named(self, weights: str) -> str:
        model = f"{self.model.cfg.model_name}, weights={weights[:8]!r}"
        return f"{type(self).__name__}({model}, prompt={self.prompt!r}, margin={self.margin:g})"

    def judge(self, description: Description) -> Judgement:
        """The detail holds the log-probability of the text for every region, in nats.

        Raises JudgeError if the picture has fewer than two regions, or the model cannot read a region or the text.
        """
        try:
            return self._judge([description])[0]
        except (InputError, ImageError) as error:
            raise JudgeError(f"The model cannot be shown this: {error}") from error

    def judge_all(self, descriptions: Sequence[Description], *, progress: bool = True) -> list[Judgement]:
        """One judgement for each description, in order."""
        judgements: list[Judgement] = []
        with Bar(total=len(descriptions), desc="judging", disable=not progress) as bar:
            for chunk in self._chunks(descriptions):
                try:
                    judgements += self._judge(chunk)
                except (JudgeError, InputError, ImageError):  # one of the chunk failed: try each alone
                    judgements += [attempt(self, description) for description in chunk]
                bar.update(len(chunk))
        return judgements

    def _chunks(self, descriptions: Sequence[Description]) -> Iterator[list[Description]]:
        """Descriptions of the same picture, at most as many as fill a batch."""
        for _, group in groupby(descriptions, key=lambda description: id(description.picture)):
            same = list(group)
            size = max(1, self.batch_size // max(1, len(same[0].picture.regions)))
            yield from (same[start : start + size] for start in range(0, len(same), size))

    def _judge(self, descriptions: Sequence[Description]) -> list[Judgement]:
        """The judgements of descriptions of one picture."""
        names = list(descriptions[0].picture.regions)
        if len(names) < 2:
            raise JudgeError(f"The picture has {len(names)} named regions; a choice needs two or more.")
        said = [description.text.strip() for description in descriptions]
        said = ["" if is_junk(text) else text for text in said]
        texts = list(dict.fromkeys(filter(None, said)))  # many answers are equal; each text runs once
        rows = self.log_probabilities(descriptions[0].picture, texts).tolist() if texts else []
        by_text = {text: dict(zip(names, row, strict=True)) for text, row in zip(texts, rows, strict=True)}
        return [
            self._choose(by_text[text], description.target) if text else NO_MATCH
            for text, description in zip(said, descriptions, strict=True)
        ]

    def _choose(self, likelihoods: dict[str, float], target: str) -> Judgement:
        lead = lead_of(likelihoods)
        best = max(likelihoods, key=likelihoods.__getitem__) if lead is not None and lead > self.margin else None
        return Judgement(best, best == target, lead, {"log-probability": likelihoods})

    @torch.no_grad()
    def log_probabilities(self, picture: Source, texts: Sequence[str]) -> Float[Tensor, "text region"]:
        """log p(text | region alone, prompt) in nats, summed over the text's tokens.

        Raises InputError and ImageError as `model.prepare` does, and JudgeError if a probability is not a number.
        """
        n_regions = len(picture.regions)
        encoded = self._encoded(picture)
        crops = [image for (image,) in encoded.pictures]
        answers = [text for text in texts for _ in range(n_regions)]
        inputs = self.model.prepare(crops * len(texts), self.prompt, answers=answers)
        inputs = self.model.encode(inputs, reuse=encoded)
        longest = inputs.layout.length - min(inputs.answers)
        logits = self.model(inputs, return_type="logits", logits_to_keep=longest + 1, use_cache=False)
        rows = zip(logits, inputs.input_ids, inputs.answers, strict=True)
        pairs = [(row, ids[start:]) for row, ids, start in rows]
        sums = torch.stack([log_probabilities(row[-1 - len(ids) : -1], ids).sum() for row, ids in pairs])
        if not sums.isfinite().all():
            raise JudgeError("The model's probabilities are no numbers (NaN or infinite); try float32.")
        return sums.reshape(len(texts), n_regions).cpu()

    def _encoded(self, picture: Source) -> VLMInputs:
        """Inputs that show each region alone, with their images encoded; of the last picture they are stored."""
        if self._encoding is None or self._encoding[0] is not picture:
            crops = [crop(picture, name) for name in picture.regions]
            self._encoding = picture, self.model.encode(self.model.prepare(crops, self.prompt))
        return self._encoding[1]
