"""`HookedVLM` in place of a `TransformerBridge`: with its defaults of `generate`; with a picture beside each text."""

from typing import Any

import gaze_lens as gl
from gaze_lens.inputs.vlm_inputs import VLMInputs


class AsTransformerBridge(gl.HookedVLM):
    """What `generate` does unless told otherwise is what TransformerBridge does."""

    def generate(self, inputs: Any = None, max_new_tokens: int = 10, **options: Any) -> Any:
        """Ten tokens, sampled; prompt and answer in one, unless logits are asked for."""
        given = (inputs,) if inputs is not None else ()
        result = None if options.get("output_logits") else "input"
        return super().generate(
            *given, max_new_tokens=max_new_tokens, **{"return_type": result, "do_sample": True, **options}
        )


class AskedAboutAPicture(AsTransformerBridge):
    """Runs texts, and makes tokens of them, as prompts with a picture; ids are run as they are."""

    def _about(self, given: Any, prepend_bos: Any = None) -> Any:
        """The inputs of a text or texts; anything else, and a text that is part of a prompt, as it is."""
        texts = [given] if isinstance(given, str) else given
        is_text = isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)
        if not is_text or prepend_bos is False:
            return given
        strip = gl.comics.synthetic(1, seed=0, panels=3)[0]
        return self.prepare(strip, texts if isinstance(given, list) else given)

    def to_tokens(self, input: Any, prepend_bos: Any = None, *args: Any, **options: Any) -> Any:
        """Of a whole prompt, `VLMInputs`; of a part of one (`prepend_bos=False`), its ids."""
        about = self._about(input, prepend_bos)
        return about if isinstance(about, VLMInputs) else super().to_tokens(about, prepend_bos, *args, **options)

    def forward(self, input: Any, *args: Any, **options: Any) -> Any:
        """A text is run with a picture."""
        return super().forward(self._about(input), *args, **_without_bos(input, options))

    def generate(self, inputs: Any = None, *args: Any, **options: Any) -> Any:
        """A text is answered with a picture, and what comes back is text."""
        about = self._about(inputs)
        if about is not inputs and not options.get("output_logits"):
            options = {"return_type": "str", **options}
        return super().generate(about, *args, **_without_bos(inputs, options))

    def input_to_embed(self, input: Any, *args: Any, **options: Any) -> Any:
        """Of a text, the stream that enters block 0 with a picture."""
        return super().input_to_embed(self._about(input), *args, **_without_bos(input, options))

    def to_str_tokens(self, input: Any, prepend_bos: Any = None, *args: Any, **options: Any) -> Any:
        """Of a whole prompt, its tokens with the picture's; of several, those of each."""
        if isinstance(input, list) and prepend_bos is not False:
            return [self.to_str_tokens(one, prepend_bos, *args, **options) for one in input]
        about = self._about(input, prepend_bos)
        if isinstance(about, VLMInputs):
            return super().to_str_tokens(about)
        return super().to_str_tokens(about, prepend_bos, *args, **options)


def _without_bos(given: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Options of a run; the chat template says whether a prompt with a picture begins with BOS."""
    return {
        name: value for name, value in options.items() if name != "prepend_bos" or not isinstance(given, str | list)
    }
