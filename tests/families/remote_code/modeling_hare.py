"""Hare: one id of -200 stands for a picture, and the forward puts all its features there."""

import torch
from torch import nn
from transformers import AutoModelForCausalLM, GenerationMixin, PreTrainedModel, SiglipVisionModel

from .configuration_hare import HareConfig

IMAGE = -200


class HareForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = HareConfig

    def __init__(self, config):
        super().__init__(config)
        self.llm = AutoModelForCausalLM.from_config(config.llm_config)
        self.tower = SiglipVisionModel(config.visual_config)
        self.mm_projector = nn.Linear(config.visual_config.hidden_size, config.llm_config.hidden_size)
        self.post_init()

    def encode_images(self, images):
        return self.mm_projector(self.tower(images).last_hidden_state)

    def forward(self, input_ids, images=None, **options):
        """One row at a time: rows have other lengths once pictures are in them."""
        (row,), parts, features = input_ids, [], iter(() if images is None else self.encode_images(images))
        for token in row:
            is_image = int(token) == IMAGE
            parts.append(next(features) if is_image else self.llm.get_input_embeddings()(token[None]))
        return self.llm(inputs_embeds=torch.cat(parts)[None], **options)
