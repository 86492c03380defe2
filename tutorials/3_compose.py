# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Compose: hooks, caches and patching on image prompts
#
# You know `run_with_hooks` and `run_with_cache` of language models. This tutorial uses them on a vision-language model:
# what is the same, what is new, and how to combine the hooks of gaze_lens with your own.
#
# | with HookedTransformer | with gaze_lens |
# |---|---|
# | `model = HookedTransformer.from_pretrained(name)` | `model = gl.HookedVLM.from_pretrained(name)` |
# | `tokens = model.to_tokens(text)` | `inputs = model.prepare(picture, text)` |
# | `logits = model(tokens)` | `logits = model(inputs)` |
# | `logits, cache = model.run_with_cache(tokens)` | `logits, cache = model.run_with_cache(inputs)` |
# | `cache["pattern", 2][0, 5, -1, 3]` | the same; image tokens are keys too: `inputs.region("panel 4").positions[0]` |
# | `model.to_str_tokens(tokens)` | `inputs.str_tokens()`; with `collapse=True` the image is one entry |
# | `tokens[0]`, `model.loss_fn(logits, tokens)`, `model.to_string(tokens)` | the same, with `inputs` |
# | `model.run_with_hooks(tokens, fwd_hooks=[...])` | `model.run_with_hooks(inputs, fwd_hooks=[...])` |
# | `with model.hooks(fwd_hooks=[...]): ...` | the same |
# | `with model.hooks(...): model.generate(text)` | `model.generate(inputs, fwd_hooks=[...])`: prefill and every step |
# | `model.generate(text, return_type="tokens")` | the same; without `return_type=` the result is a `Generation` |
# | `patching.get_act_patch_attn_head_out_all_pos(model, ...)` | the same, with `inputs` instead of tokens |
# | `cache.decompose_resid(return_labels=True)` | the same; the image adds its own components |
# | `ActivationCache(gradients, model)` of backward hooks | the same: attribution patching by parts, the image's too |
# | `model.W_Q`, `model.W_U`, `model.cfg` | the same |

# %%
from transformer_lens import patching

import gaze_lens as gl

# %% [markdown]
# This is the model that comes with the package. For a large model, change this line to
#
# ```python
# model = gl.HookedVLM.from_pretrained("Qwen/Qwen3-VL-2B-Instruct", device="cuda", dtype="bfloat16")
# ```

# %%
model = gl.load_tiny()
strip = gl.comics.synthetic(1, seed=31)[0]
inputs = model.prepare(strip, gl.comics.ask(3))
print(inputs.str_tokens(collapse=True))
gl.show.picture(strip)

# %% [markdown]
# ## The cache
#
# For a large model, name the activations that you need: the patterns of a long image prompt are large, and
# `run_with_cache` refuses to fill the memory with them (`max_bytes=` sets the limit).

# %%
logits, cache = model.run_with_cache(inputs)
print(len(cache), "activations; logits", tuple(logits.shape))

word = model.generate(inputs, max_new_tokens=1).tokens[0, 0].item()
print("the answer begins with", repr(model.tokenizer.decode(word)))

# %% [markdown]
# A logit lens: unembed the residual stream at the last position after every layer, as if it were the last layer.

# %%
stream, labels = cache.accumulated_resid(apply_ln=True, return_labels=True)  # [layer, batch, position, d_model]
for label, read in zip(labels, (stream[:, 0, -1] @ model.W_U).softmax(-1), strict=True):
    top = read.argmax().item()
    print(
        f"{label:>10}: p({model.tokenizer.decode(word)!r}) = {read[word]:.3f}, first is {model.tokenizer.decode(top)!r}"
    )

# %% [markdown]
# The residual stream is a sum. On an image prompt it has terms that a text model does not have: `image`, the features
# of the picture instead of embeddings, and on Qwen3-VL `0_deepstack`, ..., further image features that are added after
# the first blocks. With them the sum is complete.

# %%
parts, names = cache.decompose_resid(return_labels=True)
print(names)
error = (parts.sum(0) - cache[f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"]).abs().max().item()
print(f"sum of the parts less the stream, largest difference: {error:.1e}")

# %% [markdown]
# ## A hook of your own
#
# Which head does the answer need? Set each head's output to zero at the last position, one head at a time.


# %%
def without(head):
    """A hook that zeroes one head's output at the last position."""

    def zero(z, hook):  # z: [batch, position, head, d_head]
        z[:, -1, head] = 0.0
        return z

    return zero


plain = model(inputs)[0, -1].softmax(-1)[word].item()
needed = {}
for layer in range(model.cfg.n_layers):
    for head in range(model.cfg.n_heads):
        hooks = [(f"blocks.{layer}.attn.hook_z", without(head))]
        probability = model.run_with_hooks(inputs, fwd_hooks=hooks)[0, -1].softmax(-1)[word].item()
        needed[gl.Head(layer, head)] = plain - probability
for head in sorted(needed, key=needed.get, reverse=True)[:3]:
    print(f"without {head}, p(answer) falls by {needed[head]:.3f} from {plain:.3f}")

# %% [markdown]
# ## Live attention
#
# `hook_attn_scores` is before the softmax, `hook_pattern` after it. Edits of both take effect, in the prefill and in
# every decode step. So "what if this head could not attend to panel 4?" takes one hook, your own or an `AttentionBias`:

# %%
eye = max(needed, key=needed.get)
panel = list(inputs.region("panel 4").positions[0])
name = f"blocks.{eye.layer}.attn.hook_attn_scores"


def blind(scores, hook):  # scores: [batch, head, query, key]
    scores[:, eye.head, :, panel] = float("-inf")
    return scores


bias = gl.AttentionBias(gl.HeadSet([eye]), gl.Positions.everything(), gl.Positions.of(panel), float("-inf"))
for label, hooks in (("as it is", []), ("by hand", [(name, blind)]), ("AttentionBias", bias.hooks())):
    print(f"{label:>14}: {model.generate(inputs, fwd_hooks=hooks, max_new_tokens=15)}")

# %% [markdown]
# The two do the same. `AttentionBias` names the heads, queries and keys that it changes, so that the model's fast
# kernel stays on. A function of your own gets the full matrix. `gl.RowReader` is the counterpart for reading: it gets a
# few rows of the pattern, and the full matrix is not computed.

# %%
seen = []
reader = gl.RowReader(
    gl.Positions.since(inputs.last_position), lambda rows, *_: seen.append(rows[0, eye.head, -1, panel].sum().item())
)
model.generate(inputs, fwd_hooks=[(f"blocks.{eye.layer}.attn.hook_pattern", reader)], max_new_tokens=6)
print(f"{eye} on panel 4, token by token:", [round(mass, 2) for mass in seen])

# %% [markdown]
# ## Composition
#
# `gl.steer` returns a list of hooks. You can add your own hooks to it, pass it to `hooks()`, and cache activations
# under it.

# %%
steering = gl.steer([eye], inputs.region("panel 2"))
with model.hooks(fwd_hooks=steering):
    _, steered = model.run_with_cache(inputs, names_filter=f"blocks.{eye.layer}.attn.hook_pattern")
second = list(inputs.region("panel 2").positions[0])
print(f"{eye} on panel 2: {cache['pattern', eye.layer][0, eye.head, -1, second].sum():.2f} before, ", end="")
print(f"{steered['pattern', eye.layer][0, eye.head, -1, second].sum():.2f} steered")

both = [*steering, (f"blocks.{model.cfg.n_layers - 1}.attn.hook_z", without(0))]
print("steered, and one late head less:", model.generate(inputs, fwd_hooks=both, max_new_tokens=15))
print("What the panels show:", strip.captions["panel 2"], "/", strip.captions["panel 4"])

# %% [markdown]
# ## Patching, with TransformerLens' own functions
#
# The clean prompt asks about panel 4, the corrupted prompt about panel 1 of the same picture. Both prompts have the
# same length, which patching needs. Which head restores the clean answer?

# %%
corrupted = model.prepare(strip, gl.comics.ask(0))
other = model.generate(corrupted, max_new_tokens=1).tokens[0, 0].item()


def metric(logits):
    """How much rather the clean answer's first word than the corrupted one's, in logits."""
    return logits[0, -1, word] - logits[0, -1, other]


worst, best = metric(model(corrupted)).item(), metric(model(inputs)).item()
patched = patching.get_act_patch_attn_head_out_all_pos(model, corrupted, cache, metric)  # [layer, head]
share = (patched.detach() - worst) / (best - worst)
for index in share.flatten().topk(3).indices.tolist():
    layer, head = divmod(index, model.cfg.n_heads)
    print(f"L{layer}H{head} restores {share[layer, head]:.2f} of the difference")

# %% [markdown]
# Compare with the heads that attend to the panel asked about (tutorials 1 and 2). Patching found heads without using
# any region.

# %%
scores = gl.score_heads(model, gl.comics.synthetic(8, seed=11), progress=False)
print("best by gaze score:", scores.top(3))
gl.show.scores(scores)

# %% [markdown]
# ## What differs
#
# - Positions are columns of the padded prompt; batches are padded on the left. `inputs.last_position` is the last
#   prompt token in every row.
# - `start_at_layer` is refused: in these models a run from a middle layer loses the positions of image tokens.
# - `output_attentions=True` is refused: read `hook_pattern`.
# - Some layers of some families have no softmax attention (linear attention). `print(model.capabilities())` lists what
#   each layer has.

# %%
print(model.capabilities())
