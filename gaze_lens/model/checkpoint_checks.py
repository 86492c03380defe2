"""Checks of a checkpoint that Hugging Face does not make: its weights, and whether its parts belong together.

check_parts(name, config, processor)              # when it is loaded
run_in_context(model, WeightCheck(model).before)  # weights, when they are first used
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from gaze_lens.errors import ModelError
from gaze_lens.inputs.chat_template import UNRENDERED

WORD = {"type": "text", "text": "word"}


class WeightCheck:
    """Checks a model's weights when the model first runs.

    They are read then anyway. To read them when a model is loaded takes many times as long as the loading itself.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model, self.is_done = model, False

    @contextmanager
    def before(self, _kwargs: dict[str, Any]) -> Iterator[None]:
        """Around a forward of the model. Raises ModelError in the first one where weights are not finite."""
        if not self.is_done:
            check_weights(self.model)
            self.is_done = True
        yield


@torch.no_grad()
def check_weights(model: nn.Module) -> None:
    """ModelError where a weight is NaN or infinite."""
    for name, parameter in model.named_parameters():
        if parameter.device.type == "meta" or not parameter.is_floating_point() or parameter.element_size() < 2:
            continue
        # A sum needs no memory, as a mask of the weights would. That of float16 could overflow.
        total = parameter.sum(dtype=torch.float32 if parameter.dtype == torch.float16 else None)
        if not total.isfinite():
            name = name.replace("._original_component", "")
            raise ModelError(
                f"The weight {name} holds NaN or infinity; the checkpoint is damaged. Download or train it again."
            )


def check_parts(name: str, config: Any, processor: Any) -> None:
    """ModelError, which names the file, where a processor's chat template or tokenizer knows no image, or another one.

    name: of the checkpoint, a folder or a name on the hub.
    """
    _check_tokens(name, config, processor)
    if getattr(processor, "chat_template", None) is None:
        return
    with_image, without = (
        _written(processor, [{"role": "user", "content": [*images, WORD]}]) for images in ([{"type": "image"}], [])
    )
    if with_image is not None and with_image == without:
        raise ModelError(
            f"The chat template of {name} (chat_template.jinja or .json) writes nothing for an image; prompts would "
            "have no picture. Take the template of the vision-language model."
        )


def _check_tokens(name: str, config: Any, processor: Any) -> None:
    token, expected = getattr(processor, "image_token", None), getattr(config, "image_token_id", None)
    if isinstance(token, str) and token not in processor.tokenizer.get_vocab():
        raise ModelError(
            f"The tokenizer of {name} (tokenizer.json) has no token {token}, which stands for an image. Take the "
            "tokenizer that belongs to the model."
        )
    if isinstance(expected, int) and expected not in processor.tokenizer.get_added_vocab().values():
        raise ModelError(
            f"The model {name} (config.json) expects token {expected} for an image, and its tokenizer (tokenizer.json) "
            f"has {processor.tokenizer.convert_ids_to_tokens(expected)!r} there: they are of two models. Take the "
            "processor that belongs to the model."
        )


def _written(processor: Any, conversation: list[dict[str, Any]]) -> str | None:
    """What the chat template makes of a conversation; None where it refuses it."""
    try:
        return processor.apply_chat_template(conversation, tokenize=False)
    except UNRENDERED:
        return None
