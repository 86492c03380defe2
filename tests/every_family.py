"""What the suites over all families share: a family's models and inputs, and what a family cannot do, with the reason.

@pytest.fixture(params=NAMES)
def case(request, shelf):
    return Case.of(request.param, shelf)
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from measurements import record
from reference import POINTS, eager, look, padded

from gaze_lens.testing import BUILDERS

NAMES = list(BUILDERS)
# Families whose layout, masks and code are those of another one. `make test` runs tests marked `every_family` and
# those of their geometry on them, `make test-all` the others, too; see conftest.py.
SAME_KIND = {
    "Qwen2.5-Omni": "Qwen2.5-VL", "Qwen3-Omni": "Qwen3-VL-MoE", "GLM-OCR": "GLM-4V", "PaddleOCR-VL": "Qwen2-VL",
    "VideoLLaMA 3": "Qwen2-VL", "LightOnOCR": "Mistral3", "Qianfan-OCR": "InternVL", "Ovis2": "InternVL",
    "MiniCPM-V 4.7": "MiniCPM-V 4.6", "VipLlava": "LLaVA", "DeepSeek-VL": "LLaVA", "LLaVA padded": "LLaVA",
    "GLM-4.6V": "GLM-4V", "GLM-4V-MoE": "GLM-4V", "Qwen3.5-MoE": "Qwen3.5", "Gemma 3 pan and scan": "Gemma 3",
    "SmolVLM": "Idefics3",
}  # fmt: skip
JOINT = "its vision tower runs all images of a batch as one sequence, so rounding depends on the images beside"
STACKED = "its pooling runs all images of a batch as one matrix, so rounding depends on the images beside"
EMPTY = "in Hugging Face's model, positions before an image attend to the empty images that fill up other rows, too"
UNSAVED = "Hugging Face saves no defaults of a processor's call; set them again after loading"
# What a family cannot do, with the reason. A test asserts that it indeed does not.
CANNOT = {
    ("Mistral3", "encode exactly where images repeat"): JOINT,
    ("Pixtral", "encode exactly where images repeat"): JOINT,
    ("LightOnOCR", "encode exactly where images repeat"): JOINT,
    ("VideoLLaMA 3", "encode exactly where images repeat"): JOINT,
    ("Molmo2", "encode exactly where images repeat"): STACKED,
    ("Mllama", "pad rows with fewer images"): EMPTY,
    ("Gemma 3 pan and scan", "save its settings"): UNSAVED,
}


@dataclass(eq=False)
class Case:
    """model: wrapped. plain: an untouched copy. eager: another, whose language model runs Hugging Face's eager kernel.

    inputs: two rows, one image and two images, the first row padded on the left.
    live: the layers with attention heads. seeing: those of them whose keys can be image tokens.
    """

    name: str
    model: object
    plain: torch.nn.Module

    @staticmethod
    def of(name, shelf):
        """The family's case, one per session."""
        if ("case", name) not in CASES:
            CASES["case", name] = Case(name, *shelf.get(name))
        return CASES["case", name]

    @cached_property
    def eager(self):
        return eager(self.plain)

    @cached_property
    def inputs(self):
        return padded(self.model)

    @cached_property
    def capabilities(self):
        return self.model.capabilities((96, 64))

    @property
    def live(self):
        return self.capabilities.live

    @property
    def seeing(self):
        return self.capabilities.seeing

    def hooks(self, function=look, layers=None, points=POINTS):
        """Hooks on the matrices of some or all live layers."""
        chosen = self.live if layers is None else layers
        return [(f"blocks.{layer}.attn.{point}", function) for layer in chosen for point in points]

    def cannot(self, what):
        """Why the family cannot do something; None where it can. The reason goes into the docs."""
        reason = CANNOT.get((self.name, what))
        if reason:
            record(self.name, cannot=[f"{what}: {reason}"])
        return reason


CASES = {}


def largest(difference):
    """The largest absolute value, as a number."""
    return float(difference.abs().max())


def scale_of(logits):
    """What differences of logits are measured against: 1, or their largest value."""
    return max(1.0, largest(logits))


class Recorder:
    """A logits processor for `generate`: keeps the scores of every step."""

    def __init__(self):
        self.scores = []

    def __call__(self, _input_ids, scores):
        self.scores.append(scores.clamp(min=-1e9))
        return scores
