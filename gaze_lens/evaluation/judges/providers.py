"""One question to a language model, with an answer of a given shape, through the official clients.

A provider builds the request (`body`), sends it, and extracts the answer from the reply. The clients take their keys
from the environment, and repeat requests that may succeed later (429, 5xx, no connection).
"""

import base64
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from gaze_lens.errors import InputError, JudgeError

Part = str | Image.Image
Schema = Mapping[str, Any]
REPORT = "report"  # the name of the answer in requests
KEYLESS = {
    name: f"set the environment variable {name.upper()}_API_KEY, for a server that needs no key to any word."
    for name in ("anthropic", "openai")
}
SECRET = 8  # characters that a key has at least; a placeholder for servers without keys is an ordinary, short word


class Malformed(JudgeError):
    """A reply whose answer does not have the requested shape; asking again may help."""


class Provider(ABC):
    """An official client, and how its service writes requests and replies.

    failures: the client's error classes. secret: the key, which must not be written anywhere. options: fields of every
    request, in addition to those of `body` or instead of them.
    """

    failures: tuple[type[Exception], ...]
    secret: str
    base_url: str
    options: dict[str, Any]

    @abstractmethod
    def body(self, instructions: str, parts: Sequence[Part], schema: Schema) -> dict[str, Any]:
        """The request for an answer that fits the schema."""

    @abstractmethod
    def send(self, body: Mapping[str, Any]) -> str:
        """The raw reply of the service."""

    @abstractmethod
    def find(self, reply: Any) -> Any:
        """The answer in a reply. Raises KeyError, IndexError, TypeError or ValueError if there is none."""

    def ask(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request and return its answer. Raises JudgeError if the service fails, Malformed for another reply."""
        try:
            text = self.send(body)
        except self.failures as error:
            message = self.without_secret(f"{type(error).__name__}: {error}")
            raise JudgeError(f"{self.base_url} gave no judgement: {message}") from error
        try:
            answer = self.find(json.loads(text))
            if not isinstance(answer, dict):
                raise TypeError
        except (KeyError, IndexError, TypeError, ValueError):
            raise Malformed(f"{self.base_url} replied with no judgement: {self.without_secret(text)[:200]}") from None
        return answer

    def without_secret(self, text: str) -> str:
        """The text without the key, which a service may have repeated."""
        return text.replace(self.secret, "[key]") if len(self.secret) >= SECRET else text


class Anthropic(Provider):
    """Anthropic's Messages API, with a tool that the model must use."""

    def __init__(self, model: str, base_url: str | None, client: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        anthropic = _import("anthropic")
        try:
            self.client = anthropic.Anthropic(base_url=base_url, **client)
        except anthropic.AnthropicError as error:
            raise InputError(f"The client of Anthropic cannot be made ({error}); {KEYLESS['anthropic']}") from error
        self.secret = self.client.api_key or self.client.auth_token or ""
        if not self.secret and self.client.credentials is None:
            raise InputError(f"There is no key for Anthropic; {KEYLESS['anthropic']}")
        self.failures, self.base_url = (anthropic.AnthropicError,), str(self.client.base_url)
        self.model, self.options = model, dict(options)

    def body(self, instructions: str, parts: Sequence[Part], schema: Schema) -> dict[str, Any]:
        """As for the other providers."""
        content = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": _png(part)}}
            for part in parts
        ]
        return {
            "model": self.model, "max_tokens": 1024, "system": instructions,
            "messages": [{"role": "user", "content": content}],
            "tools": [{"name": REPORT, "description": "Report what you found.", "input_schema": schema}],
            "tool_choice": {"type": "tool", "name": REPORT},
        }  # fmt: skip

    def send(self, body: Mapping[str, Any]) -> str:
        """As for the other providers."""
        return self.client.messages.with_raw_response.create(**body, extra_body=self.options).http_response.text

    def find(self, reply: Any) -> Any:
        """The input of the tool."""
        return [block["input"] for block in reply["content"] if block["type"] == "tool_use"][0]


class OpenAI(Provider):
    """OpenAI's Chat Completions API with a JSON schema; many local servers support it."""

    def __init__(self, model: str, base_url: str | None, client: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        openai = _import("openai")
        try:
            self.client = openai.OpenAI(base_url=base_url, **client)
        except openai.OpenAIError as error:
            raise InputError(f"The client of OpenAI cannot be made ({error}); {KEYLESS['openai']}") from error
        self.failures, self.base_url = (openai.OpenAIError,), str(self.client.base_url)
        self.secret, self.model, self.options = self.client.api_key, model, dict(options)

    def body(self, instructions: str, parts: Sequence[Part], schema: Schema) -> dict[str, Any]:
        """As for the other providers."""
        content = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_png(part)}"}}
            for part in parts
        ]
        messages = [{"role": "system", "content": instructions}, {"role": "user", "content": content}]
        shape = {"type": "json_schema", "json_schema": {"name": REPORT, "strict": True, "schema": schema}}
        return {"model": self.model, "messages": messages, "response_format": shape}

    def send(self, body: Mapping[str, Any]) -> str:
        """As for the other providers."""
        return self.client.chat.completions.with_raw_response.create(**body, extra_body=self.options).http_response.text

    def find(self, reply: Any) -> Any:
        """The JSON of the first choice."""
        return json.loads(reply["choices"][0]["message"]["content"])


PROVIDERS: dict[str, type[Provider]] = {"anthropic": Anthropic, "openai": OpenAI}


def provider_of(name: str, *arguments: Any) -> Provider:
    """A provider by name. Raises InputError for an unknown name, a missing package or a missing key."""
    if name not in PROVIDERS:
        raise InputError(f"The provider {name!r} is not known; give one of {', '.join(map(repr, PROVIDERS))}.")
    return PROVIDERS[name](*arguments)


def _import(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise InputError(f"This judge needs {error.name}: pip install 'gaze-lens[judges]'.") from error


def _png(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
