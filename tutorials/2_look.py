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
# # Look: attention over images, tokens and boxes
#
# "For this word, where in the picture did head (l, h) look?" In a language model you would index a pattern with two
# token positions. In a vision-language model (VLM) one of the two is a place in a picture, and you need to get from
# places to positions and back. This tutorial shows how, first with ready-made figures, then by hand.
#
# You need to know TransformerLens, and nothing about VLMs: a picture becomes a sequence of *image tokens* in the
# prompt, one for each small square of it, and the language model attends to them as to any other token.

# %%
import gaze_lens as gl

# %% [markdown]
# This is the model that comes with the package. For a large model, change this line to
#
# ```python
# model = gl.HookedVLM.from_pretrained("Qwen/Qwen3-VL-2B-Instruct", device="cuda", dtype="bfloat16")
# ```
#
# and use your own pictures (tutorial 6). Everything below stays the same.

# %%
model = gl.load_tiny()

# %% [markdown]
# ## Heads to look at
#
# Tutorial 1 explains how heads are scored. Here a few strips are enough to find heads that attend to the picture.

# %%
scores = gl.score_heads(model, gl.comics.synthetic(8, seed=11), progress=False)
heads = scores.top(4)
print(heads)

# %% [markdown]
# ## A picture and its image tokens
#
# This picture is not a strip: it is a square with shapes, and its regions are boxes around them. `image_tokens` knows
# which token covers which pixels. They are pixels of the original picture, x to the right and y down, even if the
# model's processor resizes, crops or tiles it.

# %%
picture = gl.comics.scenes(1, seed=7)[0]
gl.show.picture(picture)

# %%
inputs = model.prepare(picture, gl.comics.OPEN)
tokens = inputs.image_tokens[0]
print(tokens)
print("grid, rows x columns:", tokens.grid)
print("pixels to a token, width x height:", tokens.token_size)
print("the first token is at position", tokens.positions[0].item(), "and covers", tokens.boxes[0].tolist())

# %% [markdown]
# From places to positions: by a point, a box or a name. A token belongs to a box if its centre is inside;
# `rule="overlap"` takes all tokens that touch the box.

# %%
print("point (50, 20):", tokens.at(50, 20).tolist())
print("box (30, 0) to (70, 20), centres:", tokens.select((30, 0, 70, 20)).tolist())
print("the same, overlap:", tokens.select((30, 0, 70, 20), rule="overlap").tolist())
region = inputs.region("object 2")
print(region, region.positions[0])
print("and back, the pixels of these tokens:", tokens.bounds(list(region.positions[0])))

# %% [markdown]
# `inputs.region` returns a `Region`. It belongs to one layout: the length of the text, and the places and sizes of the
# images. Inputs of another layout refuse it, because there the same positions are other places.
#
# ## Where do the heads look before the first word?

# %%
gl.show.attention_map(model, inputs, heads)

# %% [markdown]
# The numbers under or in the regions are attention mass: the sum of a head's attention over the region's tokens. All
# attention of a head adds up to 1, text included, so "on the image" is the part that goes to the whole picture.
#
# ### The same by hand
#
# The map is one row of the pattern. `inputs.heatmap` turns it into a map of pixels; its sum over a region's positions
# is the region's mass.

# %%
best = heads[0]
_, cache = model.run_with_cache(inputs, names_filter=f"blocks.{best.layer}.attn.hook_pattern")
pattern = cache["pattern", best.layer]  # [batch, head, query, key]
row = pattern[0, best.head, -1]
print("pattern", tuple(pattern.shape), "- the row adds up to", round(row.sum().item(), 3))

for name in picture.regions:
    mass = row[list(inputs.region(name).positions[0])].sum().item()
    print(f"{best} puts {mass:.3f} on {name} ({picture.captions[name]})")

heat = inputs.heatmap(row)
print("heat map, height x width:", tuple(heat.shape), "as the picture:", picture.image.size[::-1])

# %% [markdown]
# ## Word by word
#
# A word of the answer is predicted at the position before it. Let the model answer, give it the answer as text
# (`answers=`, called teacher forcing), and look at the attention of the positions that predict its tokens.

# %%
answer = str(model.generate(inputs, max_new_tokens=15))
answered = model.prepare(picture, gl.comics.OPEN, answers=answer)
words = answered.answer_positions[0]
print(repr(answer), "is predicted from positions", words)

# %%
gl.show.attention_map(model, answered, heads[:2], position=words[0])

# %% [markdown]
# The viewer shows all of this for every word, with the mouse. Hover over a word to see where the heads looked. Hover
# over the picture to see at which words they looked there. Select a head in the grid. Drag a box to steer. (Open this
# file as a notebook, or the saved page in a browser. Neither needs the internet.)

# %%
viewer = gl.show.attention(model, inputs, heads, scores=scores, max_new_tokens=15)
viewer.save("attention.html", steered=list(picture.regions))
viewer

# %% [markdown]
# `gl.track` records the attention to each region in every step of a generation, and `gl.show.staircase` draws it: which
# region do the heads look at, token by token? If the model describes one panel after another, the figure looks like
# stairs.

# %%
strip = gl.comics.synthetic(1, seed=31)[0]
narrate = model.prepare(strip, gl.comics.NARRATE)
trajectory = gl.track(model, narrate, heads[:2], max_new_tokens=60)
gl.show.staircase(trajectory)

# %% [markdown]
# `weighted=True` multiplies each token's attention by the length of its value vector: a token with much attention can
# have a value vector near zero. Where the two figures differ, attention alone is misleading.

# %%
gl.show.staircase(gl.track(model, narrate, heads[:2], weighted=True, max_new_tokens=60))

# %% [markdown]
# ## Full patterns, with regions instead of tokens
#
# What attends to what? With a thousand image tokens a full pattern is too large to read. `circuitsvis` sums image
# tokens by region, and shows each text token. The view is that of CircuitsVis, works without the internet, and can be
# saved as one HTML file.

# %%
view = gl.show.circuitsvis(model, inputs, heads[:3])
print(view)
view.save("heads.html")
view

# %% [markdown]
# Hover over a head, then over a cell. With your own regions, and less text:

# %%
print(gl.show.circuitsvis(model, inputs, heads[:1], regions=[(0, 0, 48, 96), (48, 0, 96, 96)], positions=range(-4, 0)))

# %% [markdown]
# ## Attention is not use
#
# A head can attend to a region on which the answer does not depend. To test it, change what the head attends to, and
# see whether the answer changes: by steering (tutorials 1 and 5), or by removing the attention (tutorial 3).
