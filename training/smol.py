"""A vision model on a real language model: SmolLM2-135M-Instruct, frozen, reads panels through a small vision tower.

    python -m training.smol --out DIR

Hugging Face's `LlavaForConditionalGeneration` again, with SmolLM2 as decoder. A prompt has up to six pictures, each
after "Panel k:". A picture of 32 x 32 pixels takes six tokens: two rows of two image tokens, the end of a row, the
end of the picture. These marks are tokens that SmolLM2 has and texts do not use, so that its weights and vocabulary
stay untouched.

`--tower` starts from a tower of the study (`tower.py`'s `state.pt`), else it is random. Tower and projector are trained
through the frozen language model, on questions, descriptions and narrations of the recipe. `DIR/state.pt` holds what is
trained, every 100 steps; the same command continues.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PixtralProcessor,
    PreTrainedTokenizerFast,
)

from gaze_lens.comics.drawing import SIDE, draw_content, render_panels
from gaze_lens.tiny.smollm2 import FILE, PACKAGES
from training import llava
from training.batches import IGNORE, TOKEN, Batch, Frame, encode, mrope_positions, question_block, strip_question
from training.phases import Phase
from training.recipe import Architecture, Size
from training.train import Trainer, train

IMAGE, ROW_END, IMAGE_END = "<filename>", "<gh_stars>", "<file_sep>"
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
BEFORE = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
CHAT = (
    f"<|im_start|>system\n{SYSTEM}<|im_end|>\n"
    "{% set count = namespace(k=0) %}{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}{% set count.k = count.k + 1 %}Panel {{ count.k }}: "
    f"{IMAGE}{{{{ '\\n' }}}}{{% else %}}{{{{ part.text }}}}{{% endif %}}{{% endfor %}}{{% endif %}}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)  # numbers the pictures
FRAME = Frame(BEFORE, IMAGE, "\n", ROW_END, IMAGE_END, grid=False)
WIDE = Size(width=576)  # the tower is the zoo's, the projector as wide as SmolLM2
TOKENS = (SIDE // TOKEN) ** 2  # image tokens of a panel
PHASE = Phase("smol", 2000, 4e-3, 2e-3, end=0.02, question_rows=8)
QUESTIONS = ("ask", "ask", "ask", "open", "in order")
Language = Callable[[], tuple[LlamaForCausalLM, PreTrainedTokenizerFast]]


def smollm2() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """SmolLM2-135M-Instruct out of the installed package, in float32, and its tokenizer."""
    spec = find_spec(PACKAGES[0])
    assert spec is not None
    folder = next(iter(spec.submodule_search_locations or [""]))
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(folder, gguf_file=FILE)


def build(size: Size, seed: int, *, language: Language = smollm2) -> tuple[LlavaForConditionalGeneration, Any]:
    """The model with the language model's own weights, frozen, and a new tower and projector; and its processor."""
    decoder, tokenizer = language()
    tokenizer.padding_side = "left"
    processor = PixtralProcessor(
        llava.build_processor(size).image_processor,
        tokenizer,
        patch_size=TOKEN,
        chat_template=CHAT,
        image_token=IMAGE,
        image_break_token=ROW_END,
        image_end_token=IMAGE_END,
    )
    config = LlavaConfig(
        vision_config=llava.vision_config(size),
        text_config=decoder.config,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
    model.model.language_model.load_state_dict(decoder.model.state_dict())
    model.tie_weights()
    model.generation_config = decoder.generation_config
    for parameter in [*model.model.language_model.parameters(), *model.lm_head.parameters()]:
        parameter.requires_grad_(False)
    return model, processor


def encode_images(
    model: nn.Module, pixels: UInt8[Tensor, "row height width 3"]
) -> tuple[Float[Tensor, "row token d_model"], list[Tensor]]:
    """Image tokens of strips whose panels are pictures of their own: one panel's after another's."""
    rows, height, width, _ = pixels.shape
    panels = pixels.view(rows, height, width // SIDE, SIDE, 3).transpose(1, 2).flatten(0, 1)
    tokens, _ = llava.encode_images(model, panels)
    return tokens.view(rows, -1, tokens.shape[-1]), []


def architecture(language: Language = smollm2) -> Architecture:
    """What the trainer needs."""
    return Architecture("SmolLM2", partial(build, language=language), FRAME, encode_images, llava.tower_parameters)


def opening(panels: int) -> str:
    """The prompt up to the question: every panel's picture after its number."""
    picture = FRAME.image(SIDE // TOKEN, SIDE // TOKEN)
    return BEFORE + "".join(f"Panel {k + 1}: {picture}\n" for k in range(panels)).removesuffix("\n")


def panels_batch(
    rng: np.random.Generator, tokenizer: PreTrainedTokenizerFast, rows: int, panels: int, slots: Sequence[str]
) -> Batch:
    """`rows` prompts of `panels` pictures, with questions of these kinds about each (see `batches.strip_question`)."""
    content = np.stack([draw_content(rng, panels) for _ in range(rows)])
    drawn = render_panels(rng, content.reshape(-1, 4)).reshape(rows, panels, SIDE, SIDE, 3)
    prefix = encode(tokenizer, [opening(panels)])[0]
    ids, labels = [np.tile(prefix, (rows, 1))], [np.full((rows, len(prefix)), IGNORE)]
    for slot in slots:
        pairs = [strip_question(rng, slot, row) for row in content]
        for parts, block in zip((ids, labels), question_block(tokenizer, FRAME.after, pairs), strict=True):
            parts.append(block)
    lengths = tuple(block.shape[1] for block in ids)
    image_mask = np.array(prefix) == tokenizer.convert_tokens_to_ids(IMAGE)
    places = np.flatnonzero(image_mask)
    facts = np.full((rows, panels * TOKENS, 6), IGNORE)
    facts[..., :4] = content.repeat(TOKENS, 1)
    return Batch(
        torch.from_numpy(drawn.transpose(0, 2, 1, 3, 4).reshape(rows, SIDE, panels * SIDE, 3)),
        torch.from_numpy(np.concatenate(ids, 1)),
        torch.from_numpy(np.concatenate(labels, 1)),
        torch.from_numpy(mrope_positions(0, (1, len(prefix)), lengths[1:])),
        lengths,
        (int(places[0]), int(places[-1]) + 1),
        torch.from_numpy(np.concatenate([image_mask, np.zeros(sum(lengths[1:]), bool)])),
        torch.from_numpy(facts),
    )


class SmolTrainer(Trainer):
    """Trains tower and projector through the frozen language model; its states hold these alone.

    frozen: train the projector only.
    """

    def __init__(
        self,
        *,
        seed: int,
        size: Size,
        phase: Phase = PHASE,
        frozen: bool = False,
        device: str = "cpu",
        language: Language = smollm2,
    ):
        super().__init__(
            seed=seed,
            size=size,
            phases=(phase,),
            frozen=frozen,
            auxiliary=0.0,
            device=device,
            architecture=architecture(language),
        )

    def losses(self, rng: np.random.Generator, phase: Phase, /) -> Iterator[tuple[str, Tensor, dict[str, float]]]:
        panels = int(rng.integers(1, 7))
        batch = panels_batch(rng, self.processor.tokenizer, phase.question_rows, panels, QUESTIONS)
        yield "panels", *self.loss(batch.to(self.device), phase)

    def own_weights(self) -> dict[str, Tensor]:
        """The weights of tower and projector."""
        weights: dict[str, Tensor] = self.model.state_dict()
        return {name: value for name, value in weights.items() if "vision_tower" in name or "projector" in name}

    def state(self) -> dict[str, Any]:
        return super().state() | {"model": self.own_weights()}

    def load(self, state: dict[str, Any]) -> None:
        super().load(state | {"model": self.model.state_dict() | state["model"]})


def main(
    out: Annotated[Path, typer.Option(help="Folder for states and log.")],
    seed: Annotated[int, typer.Option(help="Seed of weights and pictures.")] = 0,
    steps: Annotated[int, typer.Option(help="Steps of the training.")] = PHASE.steps,
    tower: Annotated[Path | None, typer.Option(help="A state.pt of training.tower, to start from.")] = None,
    frozen: Annotated[bool, typer.Option(help="Train the projector only.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Train a vision tower into SmolLM2, or continue that."""
    torch.set_flush_denormal(True)
    out.mkdir(parents=True, exist_ok=True)
    phase = replace(PHASE, steps=steps)
    trainer = SmolTrainer(seed=seed, size=WIDE, phase=phase, frozen=frozen, device=device)
    if tower is not None:
        weights = torch.load(tower, map_location=device)["model"]
        trainer.model.load_state_dict(
            trainer.model.state_dict() | {name: value for name, value in weights.items() if "vision_tower" in name}
        )
    train(trainer, out)


if __name__ == "__main__":
    typer.run(main)
