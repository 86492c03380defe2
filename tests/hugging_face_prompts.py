"""Conversations, and what Hugging Face's own `processor.apply_chat_template(..., tokenize=True)` makes of them."""

import torch
from jinja2 import TemplateError

PICTURE = {"type": "image"}


def text(words):
    return {"type": "text", "text": words}


def turn(role, content):
    return {"role": role, "content": content}


QUESTION = turn("user", [PICTURE, text("What is this?")])
CONVERSATIONS = {  # with the number of images
    "one image": (1, [QUESTION]),
    "two images": (2, [turn("user", [PICTURE, PICTURE, text("Compare.")])]),
    "text between": (2, [turn("user", [text("Look"), PICTURE, text("and"), PICTURE, text("Compare.")])]),
    "text before": (1, [turn("user", [text("What is this?"), PICTURE])]),
    "system": (1, [turn("system", [text("Be brief.")]), QUESTION]),
    "system as a text": (1, [turn("system", "Be brief."), QUESTION]),
    "history": (1, [QUESTION, turn("assistant", [text("A cat.")]), turn("user", [text("Why?")])]),
    "history as texts": (1, [QUESTION, turn("assistant", "A cat."), turn("user", "Why?")]),
}


def as_parts(message):
    content = message["content"]
    return {**message, "content": [text(content)] if isinstance(content, str) else content}


def as_text(message):
    content = message["content"]
    single = not isinstance(content, str) and len(content) == 1 and "text" in content[0]
    return {**message, "content": content[0]["text"]} if single else message


FORMS = (
    as_parts,
    as_text,
    lambda message: as_text(message) if message["role"] == "system" else as_parts(message),
    lambda message: as_parts(message) if message["role"] == "user" else as_text(message),
)


def texts_of(conversation):
    return [part["text"] for message in conversation for part in as_parts(message)["content"] if "text" in part]


def theirs(processor, conversation, images):
    """Hugging Face's tensors for a conversation whose images are in it."""
    remaining = iter(images)
    with_images = [
        {**m, "content": [p if p["type"] == "text" else {**p, "image": next(remaining)} for p in m["content"]]}
        if isinstance(m["content"], list) else m
        for m in conversation
    ]  # fmt: skip
    made = processor.apply_chat_template(
        with_images, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    return {name: tensor for name, tensor in made.items() if name != "labels"}


def without_template(processor, conversation, images):
    """The same for a processor without a chat template: images, then one text."""
    words = texts_of(conversation)[-1]
    made = processor(images=images, text=processor.image_token * len(images) + words, return_tensors="pt")
    return {name: tensor for name, tensor in made.items() if name != "labels"}


def same(tensors, expected):
    """Whether two mappings have the same tensors."""
    return tensors.keys() == expected.keys() and all(torch.equal(tensor, tensors[k]) for k, tensor in expected.items())


def in_every_form(make, conversation):
    """What `make(conversation)` gives, with contents as they are and in every other form; errors are left out."""
    found = []
    for form in (dict, *FORMS):
        try:
            found.append(make([form(message) for message in conversation]))
        except (TypeError, ValueError, AttributeError, TemplateError):
            continue
    return found
