"""Prompts as they are given to `model.prepare`: one by one, and with their texts rewritten."""

from collections.abc import Callable
from typing import Any


def each_prompt(prompts: Any, n_rows: int) -> list[Any]:
    """A prompt for each row: a list of texts or of chat conversations as it is, a single one for all."""
    several = isinstance(prompts, list | tuple) and not (prompts and isinstance(prompts[0], dict))
    listed = list(prompts) if several else [prompts]
    return listed * n_rows if len(listed) == 1 else listed


def rewritten(prompt: Any, edit: Callable[[str], str]) -> Any:
    """A prompt with `edit` applied to each of its texts, and without images that chat messages bring along."""
    if isinstance(prompt, str):
        return edit(prompt)
    return [{**message, "content": _content(message["content"], edit)} for message in prompt]


def _content(content: Any, edit: Callable[[str], str]) -> Any:
    if isinstance(content, str):
        return edit(content)
    edited = []
    for part in content:
        is_text = part.get("type") == "text"
        edited.append({**part, "text": edit(part["text"])} if is_text else {"type": part["type"]})
    return edited
