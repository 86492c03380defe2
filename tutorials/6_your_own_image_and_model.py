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
# # Your own image, your own model
#
# From a photograph on disk and a checkpoint's name to heads that can be watched and steered: how to name regions, what
# a picture costs in tokens and memory, which precision to choose, and how to spread a model over devices.

# %%
from pathlib import Path

import gaze_lens as gl

# %% [markdown]
# ## The model
#
# The model that ships with the package, so that this runs anywhere. For a grown-up one, change this one line to
#
# ```python
# model = gl.HookedVLM.from_pretrained("Qwen/Qwen3-VL-2B-Instruct", device="cuda", dtype="bfloat16")
# ```
#
# A folder with a checkpoint works as well as a name on the Hugging Face hub. Before you download gigabytes,
# `gaze-lens info NAME --size 1536x1024` in a shell says from the config alone what will work and how many tokens such a
# picture makes. A model that you have loaded already, in your own way, is wrapped in place:
# `gl.HookedVLM.wrap(hf_model, processor)`.

# %%
model = gl.load_tiny()
print(model.capabilities(size=(96, 96)))

# %% [markdown]
# ## A photograph
#
# `prepare` takes a path, a PIL image or an array, turns it upright (EXIF) and makes it RGB. The small model knows only
# coloured shapes, so our photograph shows some; it is written to a file to have one.

# %%
photo = Path("photo.png")
gl.comics.scenes(1, seed=7)[0].image.save(photo)  # yours is there already
inputs = model.prepare(photo, "What is going on in this picture?")
print(inputs)
print(model.generate(inputs, max_new_tokens=20))

# %% [markdown]
# ## Boxes, polygons, masks
#
# Regions are in the pixels of the picture as it is on disk, upright: x to the right, y down. Boxes come from wherever
# you have them: a detector, an annotation file (COCO's boxes are x, y, width, height: add), your mouse.

# %%
box = inputs.region((64, 0, 96, 32))
print(box)
print("a point:", inputs.region((80, 16)))
print("a polygon:", inputs.region(gl.Polygon([(0, 96), (48, 30), (96, 96)])))
print("a difference:", inputs.region((0, 0, 96, 96)) - box)

# %% [markdown]
# Give them names, and figures, `track` and error messages use the names. A `Picture` is an image with named regions;
# captions are optional, and let answers be checked by program.

# %%
from gaze_lens.regions.reading import read_image

picture = gl.Picture(
    read_image(photo),
    regions={"upper right": gl.Box(64, 0, 96, 32), "lower half": gl.Box(0, 48, 96, 96), "left": gl.Box(0, 0, 32, 96)},
)
named = model.prepare(picture, "What is going on in this picture?")
gl.show.picture(picture)

# %% [markdown]
# Too small a region has no token whose centre lies in it, and that is an error, not an empty steering. So is a region
# of a prompt of another layout: `steer`'s hooks would raise what `check` raises here.

# %%
other = model.prepare(photo, "What is at the bottom right?")
for attempt in (lambda: inputs.region((1, 1, 3, 3)), lambda: box.check(other.layout)):
    try:
        attempt()
    except gl.GazeLensError as error:
        print(f"{type(error).__name__}: {error}\n")

# %% [markdown]
# ## Heads
#
# Heads belong to a model, so find them once and keep them. Scoring needs pictures with several regions that can be
# asked about one by one; for your model comic strips made of any panels will do, `gl.comics.strip(["p1.png", ...])`.
# Then try on photographs what was found on strips.

# %%
heads = gl.score_heads(model, gl.comics.synthetic(12, seed=11), progress=False).top(2)
heads.save("heads.json")
heads = gl.HeadSet.load("heads.json", model=model.cfg.model_name, fingerprint=model.fingerprint)
print(repr(heads))

# %%
gl.show.attention_map(model, named, heads)

# %% [markdown]
# Steer to the box. The baseline is what the model says by itself.

# %%
answers = {
    name: model.generate(named, fwd_hooks=gl.steer(heads, named.region(name)), max_new_tokens=20)
    for name in picture.regions
}
gl.show.steering(picture, model.generate(named, max_new_tokens=20), answers)

# %% [markdown]
# A region with several things in it leaves the model the choice; a region that cuts through things gives it pieces.
#
# ## Several pictures, several prompts
#
# One picture serves many prompts; a list of lists puts several pictures into one prompt. Then say which one you mean.

# %%
batch = model.prepare(picture, ["What is going on in this picture?", "What is at the top left?"])
print(batch, "->", model.generate(batch, max_new_tokens=12).texts)

pair = model.prepare([[picture, gl.comics.synthetic(1, seed=31)[0]]], ["What is going on in this picture?"])
print(pair, "- box in the second:", pair.region((0, 0, 32, 32), image=1).positions[0])

# %% [markdown]
# ## Memory
#
# A pattern is heads x queries x keys numbers in every layer. For one prompt of n tokens that is soon more than the
# model itself. This is the arithmetic, for your layers, heads and tokens:

# %%


def pattern_bytes(layers, heads, tokens, bytes_each=2):
    """All attention patterns of one prompt."""
    return layers * heads * tokens**2 * bytes_each


n = inputs.layout.length
print(f"this model and prompt: {pattern_bytes(model.cfg.n_layers, model.cfg.n_heads, n, 4) / 1e6:.1f} MB")
print(f"36 layers of 32 heads, 4,096 tokens, bfloat16: {pattern_bytes(36, 32, 4096) / 1e9:.1f} GB")

# %% [markdown]
# So `run_with_cache` counts first, and refuses what will not fit. Scoring, tracking, steering and the figures do not
# build patterns: they read single rows, and add a bias inside the fast kernel.

# %%
try:
    model.run_with_cache(inputs, max_bytes=100_000)
except gl.GazeLensError as error:
    print(error)

# %% [markdown]
# Three ways to use less: name what you want (`names_filter="blocks.20.attn.hook_pattern"`), read rows with
# `gl.RowReader`, and make the picture smaller before you prepare it. The number of image tokens grows with the area.

# %%
for size in ((96, 96), (192, 192), (384, 384), (768, 768)):
    print(f"{size[0]:>4} x {size[1]} pixels: {model.capabilities(size=size).image.tokens} image tokens")

# %% [markdown]
# `model.encode(inputs)` runs the vision tower once, for many questions to one picture:

# %%
encoded = model.encode(named)
again = model.encode(model.prepare(picture, "What is at the top left?"), reuse=encoded)
print(model.generate(again, max_new_tokens=12))

# %% [markdown]
# ## Precision
#
# Checkpoints are mostly made in bfloat16; load them so (`dtype="bfloat16"`; the default, `"auto"`, is the checkpoint's
# own). Scores and steering work in any. Two things to know: attention in bfloat16 has two or three digits, so small
# masses are rough; and a bias of ten thousand, added plainly in bfloat16, would make all attention in the target equal,
# which is why gaze_lens adds it relative to the largest that a row sees (`as_published=True` adds it plainly).

# %%
half = gl.load_tiny(dtype="bfloat16")
prompt = half.prepare(picture, "What is going on in this picture?")
print(half.generate(prompt, fwd_hooks=gl.steer(heads, prompt.region("upper right")), max_new_tokens=20))

# %% [markdown]
# ## Devices
#
# ```python
# gl.HookedVLM.from_pretrained(name, device="cuda")                            # one device
# gl.HookedVLM.from_pretrained(name, device_map="auto")                        # spread over all GPUs and, last, memory
# gl.HookedVLM.from_pretrained(name, device_map="auto",                        # four bits a weight
#     quantization_config=transformers.BitsAndBytesConfig(load_in_4bit=True))
# ```
#
# The last two need `pip install gaze-lens[quantized]`. `prepare` puts its tensors where the model's input is; what
# hooks see lies on the device of its layer, so a hook of your own should not assume one device for all.
#
# ## When something is refused
#
# What gaze_lens refuses is a `gl.GazeLensError`, which says what was given, what was expected and what to do
# (TransformerLens and Hugging Face raise errors of their own: an unknown hook point is TransformerLens' KeyError):

# %%
for attempt in (
    lambda: model.prepare("missing.jpg", "What is this?"),
    lambda: model.generate(named, fwd_hooks=gl.steer(["L9H99"], named.region("left"))),
    lambda: named.region("right"),
):
    try:
        attempt()
    except gl.GazeLensError as error:
        print(f"{type(error).__name__}: {error}\n")
