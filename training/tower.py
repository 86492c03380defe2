"""Training of the vision tower alone, for the study: contrastive, as CLIP's, or as a classifier of attributes.

    trainer = TowerTrainer("contrast", seed=0, size=SMALL, steps=1000)
    train(trainer, folder)                       # the log's "panels matched": captions found among those of the batch
    model.model.vision_tower.load_state_dict(trainer.model.model.vision_tower.state_dict())

Both see the same pictures: strips, their panels one by one, and scenes. Only LLaVA's tower is supported.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from gaze_lens import comics
from training.batches import Batch, encode, narrate, scene_batch, scene_question, strip_batch
from training.llava import LLAVA, tower_features
from training.phases import EARLY, Phase
from training.recipe import Architecture, Size
from training.train import Trainer, facts_loss

WIDTH = 64  # of the vectors that are compared
STRIP_ROWS, SCENE_ROWS = 24, 12
RATE = 3e-3


class TextEncoder(nn.Module):
    """A small transformer; a text's vector is the mean over its tokens."""

    def __init__(self, vocabulary: int, longest: int = 128):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, WIDTH)
        self.place = nn.Embedding(longest, WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH, 4, 3 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.project = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, ids: Int[Tensor, "text token"], there: Tensor) -> Float[Tensor, "text width"]:
        """there: True for tokens, False for padding, as `ids`."""
        hidden = self.embed(ids) + self.place.weight[: ids.shape[1]]
        hidden = self.layers(hidden, src_key_padding_mask=~there) * there[..., None]
        return self.project(hidden.sum(1) / there.sum(1, keepdim=True))


class ContrastHead(nn.Module):
    """Text encoder, the projection of the pooled picture, and the temperature."""

    def __init__(self, vocabulary: int, vision_width: int):
        super().__init__()
        self.text = TextEncoder(vocabulary)
        self.picture = nn.Linear(vision_width, WIDTH, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def similarities(self, features: Float[Tensor, "picture token width"], ids: Tensor, there: Tensor) -> Tensor:
        """Scaled cosines [picture, text]. features: the tower's output, pooled over all its tokens."""
        pictures = F.normalize(self.picture(features.mean(1)), dim=-1)
        texts = F.normalize(self.text(ids, there), dim=-1)
        return self.log_scale.exp().clamp(max=100) * pictures @ texts.T


def contrast_loss(similarities: Float[Tensor, "picture text"], ids: Tensor) -> tuple[Tensor, float]:
    """Symmetric cross-entropy of the right pairs, and the share of pictures whose own caption is the nearest.

    Other pictures of a batch with the very same caption are left out: they are right, too.
    """
    own = torch.arange(len(ids), device=ids.device)
    same = (ids[:, None] == ids).all(-1) & (own[:, None] != own)
    scores = similarities.masked_fill(same, -math.inf)
    loss = (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2
    return loss, float((scores.argmax(1) == own).float().mean())


def single_panels(strips: Batch, panels: int) -> tuple[Tensor, np.ndarray]:
    """The panels of strips as pictures of their own [row x panel, height, width, 3], and their content [..., 4]."""
    rows, height, wide, _ = strips.pixels.shape
    pixels = strips.pixels.view(rows, height, panels, wide // panels, 3).transpose(1, 2).flatten(0, 1)
    return pixels, strip_content(strips, panels).reshape(-1, 4)


def strip_content(strips: Batch, panels: int) -> np.ndarray:
    """What the panels show [row, panel, 4]."""
    return strips.facts.view(len(strips.facts), 2, panels, -1, 6)[:, 0, :, 0, :4].cpu().numpy()


def scene_content(scenes: Batch, shape: tuple[int, int]) -> np.ndarray:
    """What the cells show [row, rows, columns, 2]; negative where they are empty."""
    return scenes.facts.view(-1, shape[0], 2, shape[1], 2, 6)[:, :, 0, :, 0, 4:].cpu().numpy()


class TowerTrainer(Trainer):
    """Trains the vision tower alone; `classifier` is what it is trained with. kind: "contrast" or "classify"."""

    def __init__(
        self,
        kind: str,
        *,
        seed: int,
        size: Size,
        steps: int,
        device: str = "cpu",
        architecture: Architecture = LLAVA,
    ):
        self.kind = kind
        phases = (Phase("tower", steps, 0.0, RATE, end=0.05),)
        super().__init__(seed=seed, size=size, phases=phases, device=device, architecture=architecture)

    def build_classifier(self, size: Size) -> nn.Module:
        if self.kind == "contrast":
            return ContrastHead(len(self.processor.tokenizer), size.vision_width)
        return nn.Linear(size.vision_width, 6 * 8)

    def losses(self, rng: np.random.Generator, _phase: Phase, /) -> Iterator[tuple[str, Tensor, dict[str, float]]]:
        p = np.array(EARLY["panels"]) / sum(EARLY["panels"])
        panels, shape = 1 + int(rng.choice(len(p), p=p)), (int(rng.integers(1, 4)), int(rng.integers(2, 4)))
        tokenizer, frame = self.processor.tokenizer, self.architecture.frame
        strips = strip_batch(rng, tokenizer, STRIP_ROWS, panels, ("ask",), frame).to(self.device)
        scenes = scene_batch(rng, tokenizer, SCENE_ROWS, shape, ("list",), frame).to(self.device)
        if self.kind == "classify":
            yield "strips", *self.classified(strips)
            yield "scenes", *self.classified(scenes)
            return
        pixels, content = single_panels(strips, panels)
        yield "panels", *self.contrasted(pixels, [comics.caption(row) for row in content])
        whole = [narrate(row, np.arange(panels)) for row in strip_content(strips, panels)]
        yield "strips", *self.contrasted(strips.pixels, whole)
        lists = [scene_question(rng, "list", cells)[1] for cells in scene_content(scenes, shape)]
        yield "scenes", *self.contrasted(scenes.pixels, lists)

    def features(self, pixels: Tensor) -> Tensor:
        """The tower's output in float32."""
        with torch.autocast(self.device.split(":")[0], torch.bfloat16):
            return tower_features(self.model, pixels).float()

    def classified(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Each token predicts what its panel or cell shows."""
        loss = facts_loss(self.classifier, self.features(batch.pixels), batch.facts)
        return loss, {"facts": loss.item()}

    def contrasted(self, pixels: Tensor, captions: list[str]) -> tuple[Tensor, dict[str, float]]:
        """Each picture is matched with its caption."""
        lines = encode(self.processor.tokenizer, captions)
        rows = [torch.tensor(line, device=self.device) for line in lines]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.processor.tokenizer.pad_token_id)
        there = ids != self.processor.tokenizer.pad_token_id
        loss, matched = contrast_loss(self.classifier.similarities(self.features(pixels), ids, there), ids)
        return loss, {"loss": loss.item(), "matched": matched}
