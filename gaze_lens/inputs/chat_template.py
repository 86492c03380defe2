"""Prompts by a model's chat template, as Hugging Face's `processor.apply_chat_template(..., tokenize=True)` makes them.

    prompt = rendered(processor, [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}])
    processor.tokenizer(prompt, **special_tokens(processor.tokenizer, prompt))

Templates of published models differ in two ways that go wrong without an error: some write the begin token, which
their tokenizers add as well, and some read a message's content as a text, others as a list of parts.
"""

from collections.abc import Callable, Iterator
from typing import Any

from jinja2 import TemplateError

from gaze_lens.errors import InputError

Message = dict[str, Any]
# What templates raise: their language lets them divide, index and call methods.
UNRENDERED = (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError)
END_OF_THOUGHT = "</think>"  # what stands before it in earlier turns, templates leave out


def rendered(processor: Any, conversation: list[Message], **options: Any) -> str:
    """The text of a conversation, ready for the answer.

    Contents are converted to a list of parts, or to a text, where the template wants them so. Options go to the
    template. Raises InputError where the template refuses the conversation, or leaves one of its texts out.
    """
    options = {"add_generation_prompt": True, **options}
    faults: dict[str, Exception | None] = {}
    for candidate in _in_every_form(conversation):
        try:
            text = processor.apply_chat_template(candidate, tokenize=False, **options)
        except UNRENDERED as error:
            faults.setdefault(f"the model's chat template refused the conversation: {error}", error)
            continue
        fault = _fault(text, candidate)
        if fault is None:
            return text
        faults.setdefault(fault, None)
    message, cause = next(iter(faults.items()))
    raise InputError(f"The prompt cannot be written: {message}. Change the chat messages.") from cause


def special_tokens(tokenizer: Any, prompt: str) -> dict[str, bool]:
    """The option for a tokenizer or processor that keeps the begin token from standing twice.

    Where the template wrote the begin token, the tokenizer is not to add its own special tokens; Hugging Face's
    `apply_chat_template` has the same rule.
    """
    begin = tokenizer.bos_token
    return {"add_special_tokens": False} if begin is not None and prompt.startswith(begin) else {}


def _in_every_form(conversation: list[Message]) -> Iterator[list[Message]]:
    """The conversation as it was given; then with its contents as parts; as texts; and mixed, as templates want it."""
    forms: tuple[Callable[[Message], Message], ...] = (
        dict,
        _as_parts,
        _as_text,
        lambda message: _as_text(message) if message["role"] == "system" else _as_parts(message),
        lambda message: _as_parts(message) if message["role"] == "user" else _as_text(message),
    )
    tried: list[list[Message]] = []
    for form in forms:
        candidate = [form(message) for message in conversation]
        if candidate not in tried:
            tried.append(candidate)
            yield candidate


def _as_parts(message: Message) -> Message:
    content = message["content"]
    return {**message, "content": [{"type": "text", "text": content}] if isinstance(content, str) else content}


def _as_text(message: Message) -> Message:
    """The message with its content as a text, if it has a single part, a text."""
    content = message["content"]
    if isinstance(content, str) or len(content) != 1 or content[0].get("type") != "text":
        return message
    return {**message, "content": content[0]["text"]}


def _fault(text: str, conversation: list[Message]) -> str | None:
    """What is wrong with the text of a conversation, in words; None where nothing is."""
    texts = list(_texts(conversation))
    for given in texts:
        if _said(given) not in text:
            return f"{given[:60]!r} is not in the text that the model's chat template makes"
    if "{'type'" in text and not any("{'type'" in given for given in texts):
        return "the model's chat template wrote a list of parts as Python prints it"
    return None


def _texts(conversation: list[Message]) -> Iterator[str]:
    for message in conversation:
        for part in _as_parts(message)["content"]:
            if part.get("type") == "text":
                yield part["text"]


def _said(text: str) -> str:
    """What of a text must be in the prompt: templates take white space off its ends, and thoughts out of it."""
    return text.rpartition(END_OF_THOUGHT)[2].strip()
