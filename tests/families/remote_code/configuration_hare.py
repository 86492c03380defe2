"""The config of Hare, a model of our own whose code comes with its checkpoint, in the manner of Bunny and Ovis 1.5."""

from transformers import PreTrainedConfig, Qwen2Config, SiglipVisionConfig


class HareConfig(PreTrainedConfig):
    model_type = "hare"
    sub_configs = {"llm_config": Qwen2Config, "visual_config": SiglipVisionConfig}

    def __init__(self, llm_config=None, visual_config=None, **options):
        self.llm_config = llm_config if isinstance(llm_config, Qwen2Config) else Qwen2Config(**(llm_config or {}))
        as_config = isinstance(visual_config, SiglipVisionConfig)
        self.visual_config = visual_config if as_config else SiglipVisionConfig(**(visual_config or {}))
        super().__init__(**options)
