"""A judge that asks a language model through its API; needs `pip install 'gaze-lens[judges]'`."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gaze_lens.errors import InputError, JudgeError
from gaze_lens.evaluation.judges.captions import captions_of
from gaze_lens.evaluation.judges.judge import Description, Judge, Judgement, attempt, crop
from gaze_lens.evaluation.judges.providers import Malformed, Part, provider_of
from gaze_lens.evaluation.judges.reply_cache import ReplyCache, key_of
from gaze_lens.runs.progress import Bar
from gaze_lens.whole_numbers import is_count

INSTRUCTIONS = (
    "You are given a short text and several parts of one picture, each with its name. Somebody wrote the text about "
    "one of the parts. Decide which part it describes, by what it says and not by how well it is written. If it is not "
    "about any of them, or is no description at all, or fits several equally well, answer none."
)
NONE = "none"
CUT = (
    "You are given a description of a picture. Cut out the parts of it that each describe one thing, in the order of "
    "the text. Copy them word for word; leave out what describes nothing that can be seen."
)
PHRASES = {
    "type": "object", "properties": {"phrases": {"type": "array", "items": {"type": "string"}}},
    "required": ["phrases"], "additionalProperties": False,
}  # fmt: skip


class LanguageModelJudge(Judge):
    """`LanguageModelJudge("anthropic", model="...")`: forced choice by a language model, with a reason.

    provider: "anthropic" or "openai"; the official client is used. It takes the key from the environment
        (ANTHROPIC_API_KEY, OPENAI_API_KEY). base_url: of another server with the same protocol.
    look: send the regions as pictures; otherwise their captions.
    cache: a file for the replies. Their key is a hash of all that is sent; the API key is never written.
    instructions: the system prompt. attempts: how often to ask if replies do not have the right shape.
    workers: requests at the same time.
    client: settings of the official client (`max_retries`, `timeout`, ...). options: further fields of the request
        (`temperature`, ...).
    Raises InputError, before anything is sent, for unknown providers, a missing package or key, or no attempts.
    """

    def __init__(
        self,
        provider: str,
        *,
        model: str,
        base_url: str | None = None,
        look: bool = False,
        cache: str | Path | None = None,
        instructions: str = INSTRUCTIONS,
        attempts: int = 3,
        workers: int = 8,
        client: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if not (is_count(attempts) and is_count(workers)):
            raise InputError(f"attempts={attempts}, workers={workers} was given; give 1 or more of each.")
        settings = {"max_retries": 4, "timeout": 60.0, **(client or {})}
        self.provider = provider_of(provider, model, base_url, settings, options or {})
        self.cache, self.name, self.model = ReplyCache(cache), provider, model
        self.look, self.instructions, self.attempts, self.workers = look, instructions, attempts, workers

    def __repr__(self) -> str:
        settings = key_of([self.provider.base_url, self.instructions, self.provider.options])[:8]
        about = f"{self.name!r}, model={self.model!r}, look={self.look}, settings={settings!r}"
        return f"{type(self).__name__}({about})"

    def judge(self, description: Description) -> Judgement:
        """The detail holds the model's reason. Raises JudgeError if the service fails or its replies are malformed."""
        if not description.text.strip():
            return Judgement(None, correct=False)
        names = list(description.picture.regions if self.look else captions_of(description))
        body = self.provider.body(self.instructions, self._parts(description, names), schema(names))
        key = key_of([self.name, self.provider.base_url, body, self.provider.options])
        reply = self.cache.get(key)
        if reply is None:
            reply = self._ask(body, names)
            self.cache.put(key, reply)
        match = None if reply["match"] == NONE else reply["match"]
        return Judgement(match, match == description.target, detail={"reason": reply["reason"]})

    def judge_all(self, descriptions: Sequence[Description], *, progress: bool = True) -> list[Judgement]:
        """One judgement for each description, in order; `workers` requests run at the same time."""
        with ThreadPoolExecutor(self.workers) as pool:
            judgements = pool.map(lambda description: attempt(self, description), descriptions)
            return list(Bar(judgements, "judging", total=len(descriptions), disable=not progress))

    def phrases(self, text: str) -> list[str]:
        """`maps.over(maps.phrases(judge.phrases(str(maps.generation))))`: the parts of a text that describe one thing.

        They stand in the text word for word. Raises JudgeError if the service fails, or its replies have other parts.
        """
        body = self.provider.body(CUT, [f"The text: {text.strip()}"], PHRASES)
        key = key_of([self.name, self.provider.base_url, body, self.provider.options])
        reply = self.cache.get(key)
        if reply is None:
            reply = {"phrases": self._ask_phrases(body, text)}
            self.cache.put(key, reply)
        return reply["phrases"]

    def _ask_phrases(self, body: Mapping[str, Any], text: str) -> list[str]:
        problem = ""
        for _ in range(self.attempts):
            try:
                found = self.provider.ask(body).get("phrases")
            except Malformed as error:
                problem = str(error)
                continue
            listed = found if isinstance(found, list) else []
            if listed and all(isinstance(one, str) and one.strip() and one.lower() in text.lower() for one in listed):
                return listed
            problem = f"The judge answered {self.provider.without_secret(str(found))[:200]}."
        raise JudgeError(f"No reply of {self.attempts} has parts of the text, word for word. {problem}")

    def _parts(self, description: Description, names: Sequence[str]) -> list[Part]:
        """The parts of the message: every region with its name, then the text."""
        picture = description.picture
        parts: list[Part] = []
        for name in names:
            parts += [f"{name}:", crop(picture, name)] if self.look else [f"{name}: {picture.captions[name]}"]
        return [*parts, f"The text: {description.text.strip()}"]

    def _ask(self, body: Mapping[str, Any], names: Sequence[str]) -> dict[str, str]:
        """The reply, which names one of the regions, or none. Raises JudgeError after `attempts` others."""
        for _ in range(self.attempts):
            try:
                answer = self.provider.ask(body)
            except Malformed as error:
                problem = str(error)
                continue
            match, reason = answer.get("match"), answer.get("reason")
            if match in (*names, NONE) and isinstance(reason, str):
                return {"match": match, "reason": self.provider.without_secret(reason)}
            problem = f"The judge answered {self.provider.without_secret(str(answer))[:200]}."
        raise JudgeError(f"No reply of {self.attempts} named one of {', '.join(names)}, or none. {problem}")


def schema(names: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of a reply: first a reason, then one of the names, or "none"."""
    reason = {"type": "string", "description": "One short sentence: what in the text points to that part."}
    match = {"type": "string", "enum": [*names, NONE]}
    fields = {"reason": reason, "match": match}
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
