"""Prompts in the forms that `model.prepare` takes: a list with one per row, and prompts with an edited question."""

from collections.abc import Callable
from typing import Any


def each_prompt(prompts: Any, n_rows: int) -> list[Any]:
    """A prompt for each row: a list of texts or of chat conversations unchanged, a single one repeated."""
    several = isinstance(prompts, list | tuple) and not (prompts and isinstance(prompts[0], dict))
    listed = list(prompts) if several else [prompts]
    return listed * n_rows if len(listed) == 1 else listed


def rewritten(prompt: Any, edit: Callable[[str], str]) -> Any:
    """A prompt with `edit` applied to its question, and without images inside chat messages.

    The question of a conversation is the last text of the user's last message.
    """
    if isinstance(prompt, str):
        return edit(prompt)
    last = max((n for n, message in enumerate(prompt) if message["role"] == "user"), default=-1)
    return [
        {**message, "content": _content(message["content"], edit if n == last else str)}
        for n, message in enumerate(prompt)
    ]


def _content(content: Any, edit: Callable[[str], str]) -> Any:
    """A message's content, its last text edited."""
    if isinstance(content, str):
        return edit(content)
    parts = [part if part.get("type") == "text" else {"type": part["type"]} for part in content]
    last = max((n for n, part in enumerate(parts) if part["type"] == "text"), default=-1)
    return [{**part, "text": edit(part["text"])} if n == last else part for n, part in enumerate(parts)]
