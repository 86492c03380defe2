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
# token positions. In a vision-language model (VLM) one of the two is a place in a picture, and the work lies in
# getting from places to positions and back. This tutorial does that, first with the ready figures, then by hand.
#
# You need to know TransformerLens, and nothing about VLMs: a picture becomes a run of *image tokens* in the prompt, one
# for each small square of it, and the language model attends to them as to any other token.

# %%
import gaze_lens as gl

# %% [markdown]
# The model that ships with the package. For a grown-up one, change this one line to
#
# ```python
# model = gl.HookedVLM.from_pretrained("Qwen/Qwen3-VL-2B-Instruct", device="cuda", dtype="bfloat16")
# ```
#
# and give pictures of your own (tutorial 6). Everything below stays as it is.

# %%
model = gl.load_tiny()

# %% [markdown]
# ## Heads to look at
#
# Tutorial 1 explains how heads are scored. Here a few strips are enough to know which ones look at all.

# %%
scores = gl.score_heads(model, gl.comics.synthetic(8, seed=11), progress=False)
heads = scores.top(4)
print(heads)

# %% [markdown]
# ## A picture, and the tokens that it becomes
#
# This picture is no strip: shapes lie on a square, and its regions are boxes around them. `image_tokens` knows which
# token covers which pixels, x to the right and y down, in the pixels of the picture as you gave it, whatever the
# model's processor resized, cropped or tiled it to.

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
# From places to positions: a point, a box, a name. A token belongs to a box if its centre lies in it; `rule="overlap"`
# takes all that touch it.

# %%
print("point (50, 20):", tokens.at(50, 20).tolist())
print("box (30, 0) to (70, 20), centres:", tokens.select((30, 0, 70, 20)).tolist())
print("the same, overlap:", tokens.select((30, 0, 70, 20), rule="overlap").tolist())
region = inputs.region("object 2")
print(region, region.positions[0])
print("and back, the pixels of these tokens:", tokens.bounds(list(region.positions[0])))

# %% [markdown]
# `inputs.region` gives a `Region`, which remembers the layout it was made for: how long the text is, where the images
# lie and how large they are. Inputs of another layout refuse it, since the same positions would be other places.
#
# ## Where do the heads look when the first word is about to come?

# %%
gl.show.attention_map(model, inputs, heads)

# %% [markdown]
# The numbers under or in the regions are attention mass: the sum of a head's attention over the region's tokens. All of
# a head's attention adds up to 1, text included, so "on the image" says how much of it goes to the picture at all.
#
# ### The same by hand
#
# It is one row of the pattern. `inputs.heatmap` lays it over the pixels; a sum over a region's positions is its mass.

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
# A word of the answer is predicted at the position before it. Let the model answer, hand the answer back as text
# (`answers=`, also called teacher forcing), and look from the positions that predict its tokens.

# %%
answer = str(model.generate(inputs, max_new_tokens=15))
told = model.prepare(picture, gl.comics.OPEN, answers=answer)
words = told.answer_positions[0]
print(repr(answer), "is predicted from positions", words)

# %%
gl.show.attention_map(model, told, heads[:2], position=words[0])

# %% [markdown]
# All of this, for every word at once and with the mouse: hover over a word and see where it looked, hover over the
# picture and see which words looked there, pick a head in the grid, drag a box to steer. (In a text editor there is
# nothing to hover over: open this file as a notebook, or the saved page in a browser. It needs no internet.)

# %%
viewer = gl.show.attention(model, inputs, heads, scores=scores, max_new_tokens=15)
viewer.save("attention.html", steered=list(picture.regions))
viewer

# %% [markdown]
# While the model generates, `gl.track` records the same for every step, and `gl.show.staircase` draws it: which region
# do the heads look at, token by token? In a strip whose panels are told one after another, this climbs like stairs.

# %%
strip = gl.comics.synthetic(1, seed=31)[0]
narrate = model.prepare(strip, gl.comics.NARRATE)
trajectory = gl.track(model, narrate, heads[:2], max_new_tokens=60)
gl.show.staircase(trajectory)

# %% [markdown]
# `weighted=True` multiplies each token's attention by the length of its value vector: a token can be looked at and have
# nothing to give. Where the two figures differ, attention alone misleads.

# %%
gl.show.staircase(gl.track(model, narrate, heads[:2], weighted=True, max_new_tokens=60))

# %% [markdown]
# ## Whole patterns, with regions for tokens
#
# What looks at what, all at once? With a thousand image tokens a whole pattern is too large to read. `circuitsvis` sums
# image tokens by region and keeps the text token by token; the view is CircuitsVis', works without internet, and can
# be saved as one HTML file.

# %%
view = gl.show.circuitsvis(model, inputs, heads[:3])
print(view)
view.save("heads.html")
view

# %% [markdown]
# Hover over a head, then over a cell. With regions of your own, and less text:

# %%
print(gl.show.circuitsvis(model, inputs, heads[:1], regions=[(0, 0, 48, 96), (48, 0, 96, 96)], positions=range(-4, 0)))

# %% [markdown]
# ## Looking is not using
#
# That a head looks at a region does not say that the answer depends on it. To know that, change what the head looks at
# and see whether the answer changes: steering (tutorials 1 and 5), or taking the attention away (tutorial 3).
