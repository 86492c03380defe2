"""Why tests of TransformerLens fail with our model alone: patterns of tests or errors, and the reason for the page."""

import re

REFUSED = "gaze_lens.errors."
# The first pattern that is found in "kind test error" counts.
REASONS = (
    ("no image came with them", "refused: the ids, random or taken from inputs, hold placeholders without an image"),
    ("generate_stream does not see images", "refused: `generate_stream`; `generate` takes a `streamer=`"),
    ("hf_generate is not needed", "refused: `hf_generate`; `generate` is Hugging Face's"),
    ("start_at_layer loses", "refused: `start_at_layer` loses what the model knows of image positions"),
    ("return_cache=True", "refused: `return_cache=`; `names_filter=` keeps activations while the model writes"),
    ("return_input_tokens=True", "refused: `return_input_tokens=`; `generation.sequences` begin with them"),
    ("output_logits=True puts", "refused: `output_logits=` with `return_type=`; they are in the `Generation`"),
    ("prepend_bos= are for text", "refused: `prepend_bos=` with ids, which TransformerBridge ignores"),
    ("padding_side= is for text|padding_side='right'", "refused: `padding_side=` of `generate`; ids bring a mask"),
    (r"ids \[row, position\], not Tensor", "refused: embeddings in `generate`"),
    ("attention_mask is .* and the prompt", "refused, with another error than the test expects"),
    ("stopping_criteria holds|forced_bos_token_id=", "refused, with another error than the test expects"),
    ("Token ids from", "refused: the test's ids are GPT-2's, some of which this model's vocabulary has not"),
    ("applicability_raises.*DID NOT RAISE NotImplementedError|gated_hooks_skip_on_unsupported.*(Identity|did not fire)",
     "the test takes a part out of attention and expects a refusal; here the layers serve these hooks themselves"),
    ("(stateful_fallback|encoder_decoder).*(DID NOT RAISE NotImpl|decoder_start_token_id)",
     "the test makes the config say what the model is not, and expects TransformerBridge's own generation to refuse"),
    ("stop_strings_multimodal.*('NoneType' object has no attribute 'device'|is invalid for input of size)",
     "the test expects pixels to be refused beside stop strings; here its pixels, which are no image, are an error"),
    ("malformed_stopping_criteria_shape.*same number of dimensions",
     "Hugging Face's `generate` raises another error than TransformerBridge's"),
    ("TestGenerateExceptionSafety.*DID NOT RAISE",
     "the test looks into TransformerBridge's own generation, which is not used"),
    ("^image .*vision_encoder.hook_in", "every activation is to begin with the batch; the vision tower's are patches"),
    ("^image .*(tokenizer_errors|tokenization_raises).*(DID NOT RAISE|has no attribute 'batch_decode')",
     "the test breaks `to_tokens`, which is not called here"),
    ("^image .*test_degenerate_masks.*IndexError", "the test's mask has the length of the text alone"),
    ("^image .*test_four_dim.*IndexError",
     "Hugging Face's Qwen3-VL computes positions beside an image from the mask, which may have two dimensions only"),
    ("^image .*form_invariant.*im_start", "the ids have special tokens, and a text that comes back has none"),
    ("^image .*startswith", "with a picture, a text is a turn of a conversation, and does not begin what comes back"),
    (r"^image .*isinstance\(VLMInputs", "with a picture, `to_tokens` of a text returns `VLMInputs`, and no tensor"),
    ("VLMInputs has no attribute", "refused: a tensor's method on `VLMInputs`; the error names `inputs.input_ids`"),
    (r"TypeError.*VLMInputs", "refused by torch: a function of tensors that is given `VLMInputs`"),
    ("run_with_cache_matches_forward_under_left_padding.*not close",
     "the test compares padding, too, which attends to nothing; and to one part in a million with another kernel"),
)  # fmt: skip


def reason_of(kind: str, test: str, error: str) -> str | None:
    """Why a test fails with ours alone; None where nothing here says it."""
    text = " ".join(f"{kind} {test} {error}".split())
    found = next((reason for pattern, reason in REASONS if re.search(pattern, text)), None)
    if found is None and error.startswith(REFUSED):
        return f"refused: {' '.join(error.split(': ', 1)[1].split())[:80].replace('|', '/')}"
    return found
