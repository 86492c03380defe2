"""An edit that does nothing is an error: what every `ScoreEdit` did is checked when its run ends."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from gaze_lens.attention.forward_state import Acted
from gaze_lens.attention.score_edit import ScoreEdit
from gaze_lens.attention.switchable_bias import SwitchableBias
from gaze_lens.errors import HookError, RegionError
from gaze_lens.heads.head_set import refuse_other
from gaze_lens.model_protocol import Model


@dataclass
class Edits:
    """What the biases of a run did.

    acted: for each of them, in how many forwards it changed the scores of each layer.
    unreached: those that were not required to act, and did not on some layer of theirs.
    """

    acted: Acted
    unreached: list[ScoreEdit] = field(default_factory=list)


def hook_list(fwd_hooks: Any) -> list:
    """The hooks as a list; HookError for anything but (name, function) pairs. Reads an iterator up: call once."""
    hooks = list(fwd_hooks)
    for entry in hooks:
        if not (isinstance(entry, tuple | list) and len(entry) == 2 and callable(entry[1])):
            raise HookError(f"fwd_hooks holds {entry!r}; expected (hook name, function) pairs, as gl.steer returns.")
    return hooks


def edited_layers(name: str | Callable[[str], bool], bias: ScoreEdit | SwitchableBias) -> set[int]:
    """The layers on which a bias is attached by a hook name, or those of its own that a name filter takes."""
    if not isinstance(name, str):
        return {layer for layer in bias.heads.by_layer() if name(f"blocks.{layer}.attn.hook_attn_scores")}
    parts = name.split(".")
    if parts[0] != "blocks" or parts[-1] != "hook_attn_scores":
        raise HookError(
            f"An edit of attention scores is attached to {name}; it edits pre-softmax scores and belongs on "
            "blocks.L.attn.hook_attn_scores. Attach the list that its .hooks() returns."
        )
    return {int(parts[1])}


def refuse_bound(model: Model, cache: Any) -> None:
    """Before raw tokens are run: RegionError where an edit is attached that belongs to the layout of some inputs.

    cache: what goes on from a cache is let through; what it began with was refused, or had that layout.
    """
    backend = model.attention_backend
    if backend.layout is not None or (cache is not None and cache.get_seq_length(backend.first)):
        return
    attentions = (block._modules.get("attn") for block in model.blocks)
    points = (attention.hook_attn_scores for attention in attentions if attention is not None)
    for edit in (handle.user_hook for point in points for handle in point.fwd_hooks):
        if isinstance(edit, ScoreEdit) and edit.layout is not None:
            raise RegionError(
                f"An attention edit is for a {edit.layout}, and raw tokens are being run, which have no regions. Run "
                "the inputs that its regions were made on, as model.prepare(...) returned them."
            )


@contextmanager
def checked_edits(model: Model, hooks: Sequence[tuple[Any, Any]]) -> Iterator[Edits]:
    """Check that heads lie in the model before a run, and that biases acted on every layer of theirs after it."""
    attached: dict[ScoreEdit | SwitchableBias, set[int]] = {}
    for name, function in hooks:
        if isinstance(function, ScoreEdit | SwitchableBias):
            function.heads.check(model.cfg.n_layers, model.cfg.n_heads)
            function.heads.refuse_ranking(model)
            refuse_other("the hook list", function.heads, model=None, fingerprint=model.fingerprint)
            attached.setdefault(function, set()).update(edited_layers(name, function))
    conditional = any(isinstance(edit, SwitchableBias) or edit.when is not None for edit in attached)
    watching = model.attention_backend.watching(model.original_model) if conditional else nullcontext()
    with watching, model.attention_backend.recording() as acted:
        edits = Edits(acted)
        yield edits
    for bias, layers in attached.items():
        if not isinstance(bias, ScoreEdit):
            continue  # a switch may leave its heads alone
        idle = sorted(layers - set(acted.get(bias, ())))
        if idle and bias.required and bias.when is not None:
            raise HookError(
                f"An attention edit of {bias.heads} did nothing in layers {idle}: its when= held in no step that the "
                f"edit is for ({bias.queries}; keys: {bias.acts_on}). Lower the threshold, or generate more tokens."
            )
        if idle and bias.required:
            raise HookError(
                f"An attention edit of {bias.heads} did nothing in layers {idle}: no forward had both its queries "
                f"({bias.queries}) and its keys ({bias.acts_on}) there. Was the model run, on these inputs, as far as "
                "these layers, in the phase (prefill, decode) that the edit is for?"
            )
        if idle:
            edits.unreached.append(bias)
