"""Hugging Face's own `generate`, pipelines and streamers under hooks.

with gl.steering(model, gl.steer(heads, inputs.region("panel 4"))):
    pipeline("image-text-to-text", model=model.original_model, processor=model.processor)(...)
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from gaze_lens.attention.score_edit import ScoreEdit
from gaze_lens.errors import ModelError, RegionError
from gaze_lens.families.cache_argument import cache_in
from gaze_lens.model.edit_checks import checked_edits, hook_list
from gaze_lens.model.hooked_vlm import HookedVLM
from gaze_lens.regions.layout import Layout

REMEDY = (
    "run the picture and the question that its regions were made on, padded on the left as model.prepare does, without "
    "draft tokens (assisted generation)"
)


@contextmanager
def steering(model: Any, fwd_hooks: Iterable[Any]) -> Iterator[HookedVLM]:
    """`with gl.steering(model, hooks):`: everything that runs the model inside is under the hooks, in any thread.

    So are Hugging Face's `generate`, pipelines and streamers on `model.original_model`, one run at a time. Runs of
    gaze_lens are under the hooks, too.
    fwd_hooks: those of `gl.steer`, or any `(hook name, function)` pairs.
    The regions of an edit belong to the prompt that `model.prepare` made: a run on one of another length, with other
    padding, or with its image tokens at other places, is a RegionError. Beams and return sequences keep the target of
    their row. An edit that did nothing in the whole block is a HookError.
    """
    if not isinstance(model, HookedVLM):
        raise ModelError(f"gl.steering takes a HookedVLM, not {type(model).__name__}; make one with HookedVLM.wrap.")
    hooks = hook_list(fwd_hooks)
    layout, backend = _layout_of(hooks), model.attention_backend
    with ExitStack() as last, ExitStack() as inside:
        with backend.lock.hold():  # no run begins or ends with half of the hooks
            inside.enter_context(checked_edits(model, hooks))
            inside.enter_context(TransformerBridge.hooks(model, hooks))
            if layout is not None:
                inside.enter_context(_only_prompts_of(model, layout))
        inside.callback(lambda: last.enter_context(backend.lock.hold()))
        yield model


def _layout_of(hooks: list[tuple[Any, Any]]) -> Layout | None:
    """The layout that the edits are for; RegionError where there are several."""
    edits = [function for _, function in hooks if isinstance(function, ScoreEdit)]
    layouts = [edit.layout for edit in edits if edit.layout is not None]
    if any(layout != layouts[0] for layout in layouts):
        raise RegionError("The hooks are for different prompts; make all regions on the same inputs.")
    return layouts[0] if layouts else None


@contextmanager
def _only_prompts_of(model: HookedVLM, layout: Layout) -> Iterator[None]:
    """Forwards inside have a layout, and those that begin a text are compared with it."""
    backend = model.attention_backend
    token = getattr(model.config, "image_token_id", None)

    def compare(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        cache = cache_in(kwargs)
        ids = kwargs.get("input_ids", args[0] if args else None)
        if isinstance(ids, Tensor) and (cache is None or not cache.get_seq_length(backend.first)):
            _check_prompt(ids, kwargs.get("attention_mask"), layout, token)

    handle = model.original_model.register_forward_pre_hook(compare, with_kwargs=True)
    before, backend.layout = backend.layout, layout
    try:
        yield
    finally:
        backend.layout = before
        handle.remove()


def _check_prompt(ids: Tensor, mask: Any, layout: Layout, image_token_id: int | None) -> None:
    """RegionError where a prompt is not laid out as the one that the regions were made on."""
    n_rows, length = ids.shape
    rows = f"{n_rows} rows x {length} positions"
    if length != layout.length or n_rows % layout.n_rows:
        raise RegionError(f"The hooks are for a {layout}, and a prompt of {rows} is run; {REMEDY}.")
    copies = n_rows // layout.n_rows
    told = mask is None or (isinstance(mask, Tensor) and mask.ndim == 2)  # a static cache has made another of it
    attended = mask.bool() if mask is not None and told else torch.ones_like(ids, dtype=torch.bool)
    for row in range(n_rows):
        images, text = layout.images[row // copies], layout.text[row // copies]
        tokens = {*text} if layout.cross_attention else {*images, *text}
        if told and set(attended[row].nonzero()[:, 0].tolist()) != tokens:
            raise RegionError(f"The hooks are for a {layout}, and row {row} is padded in another way; {REMEDY}.")
        if image_token_id is not None and not layout.cross_attention:
            found = ((ids[row] == image_token_id) & attended[row]).nonzero()[:, 0].tolist()
            if found != list(images):
                raise RegionError(
                    f"The hooks are for a {layout}, and row {row} has {len(found)} image tokens, or at other places; "
                    f"{REMEDY}."
                )
