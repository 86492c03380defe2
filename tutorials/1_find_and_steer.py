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
# # Find gaze heads, and steer them
#
# A vision-language model (VLM) is a language model that also reads pictures. A *vision tower* cuts the picture into
# patches and turns them into vectors. In the prompt these are *image tokens* between the text tokens, and the language
# model attends to them as to any other token. So everything you know from TransformerLens applies: there is a residual
# stream, there are heads, there are attention patterns. Only one thing is new: some positions of the prompt are places
# in a picture.
#
# Gandikota and Bau ([arXiv 2606.14703](https://arxiv.org/abs/2606.14703)) found that a few heads attend to the part of
# the picture that the model is about to describe: *gaze heads*. If their attention is moved to another part, the model
# describes that part. This tutorial finds such heads, shows what they attend to, and steers them.

# %%
from pathlib import Path

import gaze_lens as gl

# %% [markdown]
# ## The model
#
# `gl.load_tiny()` loads a small VLM that comes with the package. It has the architecture of Qwen3-VL, was trained on
# comic strips of coloured shapes, and needs no GPU and no download. To use a large model in this tutorial, change this
# line to
#
# ```python
# model = gl.HookedVLM.from_pretrained("Qwen/Qwen3-VL-2B-Instruct", device="cuda", dtype="bfloat16")
# ```
#
# and make strips of real panels with `gl.comics.strip(["p1.png", ..., "p6.png"], captions=[...])`.

# %%
model = gl.load_tiny()
print(f"{type(model).__name__}, a {type(model).__base__.__name__}")
print(model.cfg.n_layers, "layers x", model.cfg.n_heads, "heads")

# %% [markdown]
# The model *is* a TransformerLens `TransformerBridge`: it has `model.cfg`, `model.W_Q`, `run_with_cache`,
# `run_with_hooks` and `hooks()`.
#
# ## A picture with named regions
#
# A `Picture` is an image with named regions. The regions of a comic strip are its panels, from left to right. Each of
# these synthetic panels has a caption that says exactly what it shows, so that a program can check answers.

# %%
strips = gl.comics.synthetic(40, seed=2024, panels=6)
to_score, to_choose, to_test = strips[:20], strips[20:26], strips[26:]

strip = to_test[0]
gl.show.picture(strip)

# %%
for name, caption in strip.captions.items():
    print(f"{name}: {caption}")

# %% [markdown]
# ## From picture to tokens
#
# `model.prepare` applies the chat template and the image processor. Pass the result wherever TransformerLens takes
# tokens. It also knows where in the picture every image token is.

# %%
inputs = model.prepare(strip, gl.comics.OPEN)
print(inputs)
print(inputs.str_tokens(collapse=True))

# %%
tokens = inputs.image_tokens[0]
print(tokens)
print("grid, rows x columns:", tokens.grid, "- pixels to a token:", tokens.token_size)

panel = inputs.region("panel 4")
print(panel, "at positions", panel.positions[0])
print("a box works as well:", inputs.region((96, 0, 128, 16)))

# %% [markdown]
# ## Run it, and look into the cache
#
# The first word of the answer is predicted at the last prompt token. A head's attention to a panel is the sum of its
# pattern over the panel's image tokens. Which heads attend to the fourth panel when the question is about it?

# %%
asked = model.prepare(strip, gl.comics.ask(3))
logits, cache = model.run_with_cache(asked, names_filter=lambda name: name.endswith("hook_pattern"))
print("logits", tuple(logits.shape), "- pattern [batch, head, query, key]", tuple(cache["pattern", 0].shape))

fourth = list(asked.region("panel 4").positions[0])
mass = {
    gl.Head(layer, head): cache["pattern", layer][0, head, -1, fourth].sum().item()
    for layer in range(model.cfg.n_layers)
    for head in range(model.cfg.n_heads)
}
for head in sorted(mass, key=mass.get, reverse=True)[:5]:
    print(f"{head} puts {mass[head]:.3f} of its attention on panel 4")

# %% [markdown]
# Now let the model answer. `generate` returns an object; `print` shows its text.

# %%
print(gl.comics.OPEN, "->", model.generate(inputs, max_new_tokens=15))
for index in (0, 3):
    question = gl.comics.ask(index)
    print(question, "->", model.generate(model.prepare(strip, question), max_new_tokens=15))

# %% [markdown]
# ## Score every head
#
# Ask about each panel in turn. For each of these prompts, take the attention of the last prompt token to every panel.
# For each head this gives a matrix, *asked* by *attended*. The **score** is the mean of its diagonal: how much a head
# attends to the panel asked about. A head that attends to the whole picture, whatever is asked, has a high score, too.
# Therefore there is also the **contrast**: the mean of the diagonal less the mean of all other entries.
#
# No full attention pattern is stored for this, only the rows that are needed.

# %%
scores = gl.score_heads(model, to_score, batch_size=4, progress=False)
print(scores)

# %%
gl.show.scores(scores)

# %%
gl.show.matrices(scores, scores.top(4))

# %% [markdown]
# A gaze head has a dark diagonal: it attends to the panel asked about. A head with even rows attends to the picture,
# but to no panel more than to others. A head with a dark column always attends to the same panel. Before we trust the
# ranking, check two things: how certain are the values, and how often would chance give such a contrast?

# %%
low, high = scores.interval("contrast")
p_values = scores.null("contrast")
for head in scores.top(4):
    value = scores.contrast[head].item()
    print(f"{head}: contrast {value:.2f}, 95 % interval {low[head]:.2f} to {high[head]:.2f}, p = {p_values[head]:.4f}")

# %% [markdown]
# How many heads should be steered? In the paper, 100 of the 1,152 heads of Qwen3-VL-8B. With too few heads, other heads
# still attend to other panels. With too many, heads with other functions are disturbed. So measure it, on a few strips
# that are used for nothing else: one open question, with each panel as the target once. An answer *describes* the
# target if its words match the target's caption better than any other panel's; chance is one in six. `gl.rejudge`
# judges the same answers more strictly: are they the caption, word for word? The conditions use `gl.steer`, which is
# explained below.

# %%
from gaze_lens.evaluation.judges import ExactDescription

candidates = gl.evaluation.head_counts(scores, [1, 2, 3, 4, 6, 8, 12])
results = gl.evaluate(model, to_choose, candidates, progress=False)
word_for_word = gl.rejudge(results.generations, ExactDescription(), progress=False)
print(results, word_for_word, sep="\n\n")

sums = {len(c.heads): results.accuracy(c.name).value + word_for_word.accuracy(c.name).value for c in candidates}
heads = scores.top(max(sums, key=sums.get))
print(f"\n{len(heads)} of {model.cfg.n_layers * model.cfg.n_heads} heads: {heads}")

# %% [markdown]
# ## Their attention in the picture
#
# Where do they attend to when the model is asked about the fourth panel?

# %%
gl.show.attention_map(model, asked, heads[:4])

# %% [markdown]
# ## Steer them
#
# `gl.steer` returns a plain list of `(hook name, function)`. Each function adds a bias to the attention scores of these
# heads before the softmax: a large number for the image tokens of the target, its negative for all other image tokens.
# Text tokens and all other heads are not changed. As it is a list of hooks, you can add your own to it.

# %%
hooks = gl.steer(heads, inputs.region("panel 4"))
print(hooks[0][0])

plain = model(inputs)[0, -1].softmax(-1)
steered = model.run_with_hooks(inputs, fwd_hooks=hooks)[0, -1].softmax(-1)
for name, probabilities in (("unsteered", plain), ("steered", steered)):
    best = probabilities.topk(3)
    words = [model.tokenizer.decode(token) for token in best.indices.tolist()]
    print(f"{name}: first words {words}, with {[round(p, 3) for p in best.values.tolist()]}")

# %% [markdown]
# Pass the same hooks to `generate`. There they act in the prefill and in every decode step. Here is the answer to one
# open question, steered to each panel:

# %%
baseline = model.generate(inputs, max_new_tokens=15)
answers = {
    name: model.generate(inputs, fwd_hooks=gl.steer(heads, inputs.region(name)), max_new_tokens=15)
    for name in strip.regions
}
gl.show.steering(strip, baseline, answers)

# %% [markdown]
# ## Is it these heads?
#
# One strip is an anecdote. So use all strips that were used neither for the scores nor for the number of heads, with
# every panel as the target once. Compare with the same number of random heads from the lower half, with all heads, and
# with none.

# %%
names = ["gaze", "random", "all", "none"]
conditions = gl.evaluation.conditions(model, heads, names, scores=scores, draws=1)
results = gl.evaluate(model, to_test, conditions, progress=False)
print(results)

examples = results.answers[(results.answers.picture == "0") & (results.answers.target == "panel 4")]
for row in examples.itertuples():
    print(f"{row.condition:>8}, steered to panel 4: {row.text!r}")

# %% [markdown]
# ## Steer while it talks
#
# Let the model narrate, and record in each step what the heads attend to. First without steering:

# %%
in_order = model.prepare(strip, gl.comics.NARRATE)
free = gl.track(model, in_order, heads, max_new_tokens=100)
print(free)
gl.show.staircase(free)

# %% [markdown]
# Now ask for the panels in any order, and steer by a schedule: when the description of a panel ends, the target changes
# to the next panel, in an order that is not the order of the strip. `switch_at_panel_ends` finds the steps at which
# descriptions end. Your own schedule is simply a list of `(step, region)`.

# %%
from gaze_lens.evaluation import random_order, switch_at_panel_ends

order = random_order(strip, seed=1)
prompt = gl.comics.NARRATE_FREELY
_, switches, pieces = switch_at_panel_ends(model, strip, heads, order, end=".", prompt=prompt, max_new_tokens=100)

narrate = model.prepare(strip, prompt)
schedule = [(step, narrate.region(name)) for step, name in zip(switches, order, strict=False)]

for (step, region), piece in zip(schedule, pieces, strict=True):
    print(f"from step {step:>2}, steered to {region.name}: {piece!r} (it shows: {strip.captions[region.name]})")

# %%
guided = gl.track(model, narrate, heads, fwd_hooks=gl.steer(heads, schedule=schedule), max_new_tokens=100)
gl.show.staircase(guided, schedule=schedule)

# %% [markdown]
# ## Save the results
#
# A set of heads is saved with the name of the model and with how it was found. Loading it for another model is an
# error.

# %%
out = Path("gaze_heads")
heads.save(out / "heads.json")
scores.to_csv(out / "scores.csv")
gl.show.scores(scores).save(out / "scores.png")
gl.show.staircase(guided, schedule=schedule).save(out / "staircase.pdf")

same = gl.HeadSet.load(out / "heads.json", model=model.cfg.model_name, fingerprint=model.fingerprint)
print(repr(same), "-", same.provenance)
print(sorted(path.name for path in out.iterdir()))

# %% [markdown]
# Next: other modes of steering (`gl.suppress_image(3.0)` suppresses the rest of the picture a little, without boosting
# the target), boxes in ordinary pictures (`inputs.region((x0, y0, x1, y1))`), and TransformerLens' own
# `transformer_lens.patching`, which takes these inputs as they are.
