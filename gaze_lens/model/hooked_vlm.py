"""`HookedVLM`: a `TransformerBridge` that sees images.

    model = HookedVLM.from_pretrained("Qwen/Qwen3-VL-2B-Instruct", device="cuda", dtype="bfloat16")
    inputs = model.prepare("photo.jpg", "What is this?")
    logits, cache = model.run_with_cache(inputs, names_filter="blocks.20.attn.hook_pattern")
    print(model.generate(inputs, max_new_tokens=40))

What it does with attention is described in `gaze_lens/attention/attention_function.py`.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import wraps
from typing import Any

import torch
from torch import nn

from gaze_lens.attention.backend import AttentionBackend
from gaze_lens.errors import InputError, NotFiniteError
from gaze_lens.families import PER_VIDEO, Family, cross_attention, family_of
from gaze_lens.families.cache_argument import cache_in
from gaze_lens.inputs.answer_ids import Answers
from gaze_lens.inputs.preparation import prepare
from gaze_lens.inputs.video import refuse_video
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.model import loading
from gaze_lens.model.activation_cache import VLMActivationCache
from gaze_lens.model.capabilities import Capabilities, capabilities
from gaze_lens.model.continuation import held_tokens, remember, without_held_images
from gaze_lens.model.edit_checks import checked_edits, hook_list, refuse_bound
from gaze_lens.model.encoding import encoded
from gaze_lens.model.exposure_reader import ExposureReader, exposure_reader
from gaze_lens.model.finite_logits import FiniteLogits
from gaze_lens.model.generation import Generation, capturing, copies_of, generation_options, refuse_assisted
from gaze_lens.model.generation_arguments import (
    Prompt,
    as_asked,
    check_ids,
    check_return_type,
    hugging_face_options,
    prompt_of,
)
from gaze_lens.model.live_hooks import explain_filter, make_live, refuse_unknown
from gaze_lens.model.memory_limit import check_memory
from gaze_lens.model.token_methods import TokenMethods, unpacking
from gaze_lens.model.unprepared import refuse_unprepared
from gaze_lens.model.wrapping import bridge_of, processor_of
from gaze_lens.regions.picture import Fit

Hooks = Iterable[tuple[Any, Callable]]
POSITIONAL = ("return_cache_object", "remove_batch_dim", "names_filter", "stop_at_layer", "start_at_layer", "pos_slice")


def alone(run: Callable) -> Callable:
    """A method that no other thread's run on the same model comes between; see `model_lock.py`."""

    @wraps(run)
    def held(self: "HookedVLM", *args: Any, **options: Any) -> Any:
        with self.attention_backend.lock.hold():
            return run(self, *args, **options)

    return held


class HookedVLM(TokenMethods):
    """A vision-language model's language backbone under TransformerLens hooks, with live attention.

    Everything of `TransformerBridge` is here; where it takes tokens, it also takes `VLMInputs`, and it runs on what a
    processor returns (`model(**batch)`). On every layer
    `blocks.L.attn.hook_attn_scores` is pre-softmax and `blocks.L.attn.hook_pattern` post-softmax,
    `[batch, head, query, key]`, and edits of both take effect, in prefill and in every decode step.

    Make one with `from_pretrained` or `wrap`.
    """

    processor: Any
    family: Family
    attention_backend: AttentionBackend
    silent: dict[str, str]

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str,
        *,
        device: Any = None,
        dtype: Any = "auto",
        device_map: Any = None,
        revision: str | None = None,
        **options: Any,
    ) -> "HookedVLM":
        """Load a checkpoint from the hub or a folder, as Hugging Face's `from_pretrained` would, and wrap it.

        device: "cpu", "cuda", ...; device_map: spread over several (not both). dtype: "bfloat16", torch.float16, ...
        options: handed to the model's `from_pretrained`.
        Raises ModelError for text-only models, unknown families, folders without a processor, missing or NaN weights.
        """
        hf_model, processor = loading.load(
            name_or_folder, device=device, dtype=dtype, device_map=device_map, revision=revision, **options
        )
        return cls.wrap(hf_model, processor, name=loading.short_name(name_or_folder))

    @classmethod
    def wrap(cls, hf_model: nn.Module, processor: Any, *, name: str | None = None) -> "HookedVLM":
        """Wrap a loaded Hugging Face model in place, with its processor; or a TransformerLens bridge of one.

        The model's attention implementation becomes gaze_lens's own, which runs the old one wherever nothing is
        attached. A given `TransformerBridge` becomes a `HookedVLM` itself: its attention hooks come alive, and the same
        object is returned. A model is wrapped once: wrapping it again is a ModelError.
        Of a model under PEFT's adapters, wrap `peft_model.merge_and_unload()`; or `peft_model.base_model.model`, whose
        adapters stay apart: it runs with them and is saved with them merged, and what is made from weights is refused.
        """
        config = getattr(getattr(hf_model, "original_model", hf_model), "config", None)
        processor = processor if config is None else processor_of(config, processor)
        bridge: Any = bridge_of(hf_model, processor, name)  # its class changes
        bridge.__class__ = cls
        bridge.processor, bridge.family = processor, family_of(bridge.original_model.config)
        bridge.__dict__["attention_backend"] = make_live(bridge, upcast=bridge.family.upcast)
        if bridge.family.cross_attention:
            cross_attention.attach(bridge.original_model)
        return bridge

    @property
    def fingerprint(self) -> str:
        """The shape that heads belong to: architecture, layers, heads, KV heads and head width."""
        cfg = self.cfg
        kv_heads = cfg.n_key_value_heads or cfg.n_heads
        return f"{cfg.architecture}-{cfg.n_layers}x{cfg.n_heads}x{kv_heads}x{cfg.d_head}"

    def __repr__(self) -> str:
        """One line; `print(model)` lists all parts."""
        cfg = self.cfg
        size = f"{cfg.n_layers} layers x {cfg.n_heads} heads, {cfg.d_model} wide"
        return f"HookedVLM of {cfg.model_name} ({self.family.name}): {size}, {cfg.dtype} on {cfg.device}"

    def prepare(
        self, images: Any, prompts: Any, *, answers: Answers | None = None, fit: Fit | None = None
    ) -> VLMInputs:
        """Make model inputs: chat template, processor, every tensor, and the place of every image token.

        images: a path, PIL image, array or `Picture`; None for text alone. One image serves every prompt; a list
            makes a batch, one image a row; a list in the list puts several images into one prompt.
            `gl.passages([...])`, alone or in such a list, puts its texts before the question. `gl.Video(frames, fps=8)`
            stands where a picture does, in the families that docs/howto/video.md lists.
        prompts: a text, or chat messages with {"type": "image"} placeholders, which may carry their image
            ("image" or "path"), and {"type": "video"}; a list of either makes a batch.
        answers: text after the generation prompt (teacher forcing), or its token ids as `generation.tokens` has them:
            one for all rows or one each.
        fit: "whole" stretches pictures to what the model's processor does not cut (LLaVA 1.5 sees only the middle of a
            strip), (width, height) to that size; regions and boxes of tokens stay in the picture's own pixels. None
            leaves it to each `Picture.fit`, and so to the processor.
        Raises ImageError and InputError, which say what to give.
        """
        inputs = prepare(self.processor, self.family, images, prompts, config=self.config, answers=answers, fit=fit)
        limit = getattr(self.config.get_text_config(), "max_position_embeddings", math.inf)
        if inputs.layout.length > limit:
            raise InputError(
                f"The prompt has {inputs.layout.length} tokens, and the model's context holds {limit}; shorten the "
                f"text or give smaller images{' or fewer frames' if inputs.videos else ''}."
            )
        dtype = self.original_model.dtype  # some vision towers take pixels in their own precision only
        tensors = {
            name: t.to(dtype) if t.is_floating_point() and not name.startswith(PER_VIDEO) else t  # times stay exact
            for name, t in inputs.tensors.items()
        }
        return replace(inputs, tensors=tensors).to(self._input_device())

    def capabilities(self, size: tuple[int, int] = (1536, 256)) -> Capabilities:
        """What can be done with this model: `print(model.capabilities())`.

        Per layer, which attention hooks are live; how a picture of `size` (width, height in pixels) becomes tokens;
        what is not supported. Raises ImageError for sizes that the model's processor refuses.
        """
        return capabilities(self, size)

    @alone
    @torch.no_grad()
    def encode(self, inputs: VLMInputs, *, reuse: VLMInputs | None = None) -> VLMInputs:
        """The same inputs with the vision tower's output in place of pixels; equal images are encoded once.

        Pass `reuse=` inputs that were encoded before: the tower runs only on images that they do not hold.
        """
        return encoded(self, inputs, reuse)

    @alone
    @unpacking
    def forward(self, input: Any, *args: Any, **options: Any) -> Any:
        """Run the model on `VLMInputs` or on whatever `TransformerBridge.forward` takes; same options, same results.

        What a model puts out at positions that pad depends on the kernel and means nothing; compare and average where
        `inputs.tensors["attention_mask"]` is 1.
        copies: run every row so many times, copies of a row next to one another; hooks see that many rows, and bind to
            the layout of `input` as with beams. Encoded inputs only, whose images the copies share.
        """
        if options.pop("output_attentions", None):
            raise InputError(
                "output_attentions is not served; read blocks.L.attn.hook_pattern with run_with_cache instead."
            )
        refuse_video(options)
        if options.get("start_at_layer") is not None:
            raise InputError("start_at_layer loses image positions on these models; run from the start.")
        refuse_unprepared(self, input, options)
        if not isinstance(input, VLMInputs):
            refuse_bound(self, cache_in(options))
            with self._running(None):
                return super().forward(input, *args, **options)
        if held_tokens(self, options):
            raise InputError(
                "A cache that holds tokens was given with prepared inputs; model.generate goes on from it with those "
                "that it does not hold, and model(token_ids, ...) with more tokens."
            )
        copies = options.pop("copies", 1)
        with self._running(input):
            ids = input.input_ids.repeat_interleave(copies, dim=0)
            return super().forward(ids, *args, **{**input.arguments(copies), **options})

    @contextmanager
    def _running(self, inputs: VLMInputs | None) -> Iterator[None]:
        """Say whose layout the forwards inside have; afterwards (a hook may run the model) all is as it was."""
        backend = self.attention_backend
        before = backend.layout
        backend.layout = inputs.layout if inputs is not None else before
        try:
            yield
        finally:
            backend.layout = before

    @alone
    @unpacking
    def run_with_cache(self, input: Any, *args: Any, max_bytes: float | None = None, **options: Any) -> tuple:
        """As TransformerLens' `run_with_cache`; the cache accounts for image features and DeepStack.

        Before it starts, the attention matrices that the names filter lets through are counted: where they exceed
        `max_bytes` (half of the free memory unless given; `math.inf` lifts it), MemoryLimitError says what to filter.
        """
        if "output_attentions" in options:
            raise InputError("output_attentions is not served; name blocks.L.attn.hook_pattern in names_filter.")
        options = {**dict(zip(POSITIONAL, args, strict=False)), **options}
        check_memory(self, input, max_bytes, **options)
        if options.get("pos_slice") is not None and options.get("names_filter") is None:
            options["names_filter"] = self._has_positions
        output, cache = super().run_with_cache(input, output_attentions=False, **options)
        return output, VLMActivationCache.from_cache(cache, self) if not isinstance(cache, dict) else cache

    def get_caching_hooks(self, names_filter: Any = None, *args: Any, **options: Any) -> tuple[dict, list, list]:
        """As in TransformerLens; naming a hook point that is not there is a HookError."""
        refuse_unknown(self, names_filter)
        return super().get_caching_hooks(names_filter, *args, **options)

    def _check_hook_fireable(self, *names: str) -> None:
        """As in TransformerLens; naming an attention hook point that a layer cannot have is a HookError."""
        explain_filter(self, names[:1])  # the others are the first one's names in TransformerLens
        super()._check_hook_fireable(*names)

    @alone
    @unpacking
    def run_with_hooks(self, input: Any, fwd_hooks: Hooks = (), *args: Any, **options: Any) -> Any:
        """As TransformerLens' `run_with_hooks`; an `AttentionBias` that did nothing is a HookError."""
        hooks = hook_list(fwd_hooks)
        with checked_edits(self, hooks):
            return super().run_with_hooks(input, hooks, *args, **options)

    @contextmanager
    def hooks(self, fwd_hooks: Hooks = (), *args: Any, **options: Any) -> Iterator["HookedVLM"]:
        """As TransformerLens' `hooks`; an `AttentionBias` that no forward inside the block gave work is a HookError.

        The hooks are on the model itself, so that a run in another thread is a HookError for as long as the block is
        open. Gradients of a checkpointed forward want the backward pass inside the block, too.
        """
        hooks = hook_list(fwd_hooks)
        block = self.attention_backend.lock.hold(block=True)
        with block, checked_edits(self, hooks), super().hooks(hooks, *args, **options):
            yield self

    @alone
    @torch.no_grad()
    @unpacking
    def generate(
        self,
        inputs: Any,
        max_new_tokens: int | None = None,
        *,
        fwd_hooks: Hooks = (),
        names_filter: Any = None,
        max_bytes: float | None = None,
        exposure: bool = False,
        chat_template: bool = False,
        prepend_bos: bool | None = None,
        return_type: str | None = None,
        decoding: Any = None,
        **options: Any,
    ) -> Any:
        """Generate with Hugging Face's `generate`, under hooks, in prefill and every decode step: a `Generation`.

        inputs: what `model.prepare` or a processor returns; a text, a list of texts, or token ids.
        max_new_tokens: 64 unless given, here or by `max_length` or a `generation_config`.
        fwd_hooks: `(hook name, function)` pairs, as for `run_with_hooks`.
        names_filter: activations to keep, as for `run_with_cache`; one tensor per forward in `.activations`.
        max_bytes: the limit on attention matrices to be kept of the prompt, as for `run_with_cache`.
        exposure: keep what the edits of scores among `fwd_hooks` did to attention in every step, in `.exposure`.
        chat_template: of text, whether it is a user's turn in a conversation; if not, the model continues it, as in
            TransformerLens. prepend_bos: of text that is continued, whether it begins with BOS, as in TransformerLens.
        return_type: "tokens", "str" or "input": prompt and answer in one, as `TransformerBridge` returns them.
        decoding: what `gl.contrast_decoding` returns for these inputs.
        options: whatever Hugging Face's `generate` takes (do_sample, num_beams, cache_implementation, streamer, ...),
            and `TransformerBridge` (stop_at_eos, verbose, use_past_kv_cache, ...), or an InputError says what to give.
            Greedy unless you ask for sampling. With past_key_values= that hold the beginning of the inputs, such as
            the turns of a conversation before the last, only the rest is run, and no picture that the cache holds.
        Raises NotFiniteError (a ModelError) where logits are NaN or infinite; its `generation` has the other rows.
        """
        if options.get("output_attentions"):
            raise InputError("output_attentions is not served; name blocks.L.attn.hook_pattern in names_filter.")
        refuse_video(options)
        check_return_type(return_type, options)
        if cache_in(options) is None:  # a cache may hold the image of ids that go on from it
            refuse_unprepared(self, inputs, options)
        prompt = prompt_of(self, inputs, chat_template=chat_template, prepend_bos=prepend_bos)
        check_ids(prompt, inputs, options)
        options = generation_options(hugging_face_options(self, options), max_new_tokens)
        refuse_assisted(self, {**prompt.arguments, **options})
        prompt = without_held_images(self, prompt, options)
        hooks, branches = hook_list(fwd_hooks), nullcontext()
        if decoding is not None:
            hooks, options = decoding.prepared(self, inputs, hooks, options)
            branches = decoding.running()
        reader = exposure_reader(self, hooks, prompt.inputs, options) if exposure else None
        with branches:
            generation = self._generate(prompt, hooks, names_filter, max_bytes, options, reader)
        return as_asked(generation, return_type, prompt, self.tokenizer)

    def _generate(
        self, prompt: Prompt, hooks: list, names_filter: Any, max_bytes: float | None, options: dict[str, Any],
        reader: ExposureReader | None,
    ) -> Generation:  # fmt: skip
        """Hugging Face's `generate` under hooks, and its record."""
        given = prompt.ids if prompt.inputs is None else prompt.inputs
        captured, capture = capturing(self, given, names_filter, max_bytes, copies_of(options))
        n_rows, start = prompt.ids.shape
        watch = FiniteLogits(self, rows=n_rows, start=start, options=options)
        attached = (hooks if reader is None else reader.around(hooks)) + capture
        with self._running(prompt.inputs), checked_edits(self, hooks) as edits, super().hooks(attached):
            if prompt.inputs is None:
                refuse_bound(self, cache_in(options))
            with watch.attached():
                output = self.original_model.generate(input_ids=prompt.ids, **{**prompt.arguments, **watch.options})
            sequences, logits = getattr(output, "sequences", output), getattr(output, "logits", None)
            remember(options, sequences)
            tokens = sequences[:, start:]
            texts = tuple(self.processor.batch_decode(tokens, skip_special_tokens=True))
            read = None if reader is None else reader.result(tokens, watch.ends, self.tokenizer.pad_token_id)
            if watch.steps:  # before the edits are checked: a generation that failed may not have come to them
                failed = Generation(texts, tokens, sequences, captured, (), edits.acted, logits, read)
                raise NotFiniteError(watch.steps, failed)
        return Generation(texts, tokens, sequences, captured, tuple(edits.unreached), edits.acted, logits, read)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write weights, config and processor as Hugging Face would have before wrapping; `from_pretrained` reads them.

        The wrapped model's own `original_model.save_pretrained` cannot: TransformerLens' bridges are among its modules.
        """
        loading.save(self.original_model, self.processor, folder)
