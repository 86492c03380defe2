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
# Start from a photograph on disk and the name of a checkpoint, and find heads to look at and to steer. The tutorial
# shows how to name regions, how many tokens and how much memory a picture needs, which precision to use, and how to
# spread a model over devices.

# %%
from pathlib import Path

import gaze_lens as gl

# %% [markdown]
# ## The model
#
# This is the model that comes with the package, so that the tutorial runs anywhere. For a large model, change this line
# to
#
# ```python
# model = gl.HookedVLM.from_pretrained("Qwen/Qwen3-VL-2B-Instruct", device="cuda", dtype="bfloat16")
# ```
#
# The name can be one on the Hugging Face hub, or a folder with a checkpoint. Before you download gigabytes, run
# `gaze-lens info NAME --size 1536x1024` in a shell. It reads only the config and the processor, and says what will work
# and how many tokens a picture of this size has. A model that you have loaded yourself is wrapped in place:
# `gl.HookedVLM.wrap(hf_model, processor)`.

# %%
model = gl.load_tiny()
print(model.capabilities(size=(96, 96)))

# %% [markdown]
# ## A photograph
#
# `prepare` takes a path, a PIL image or an array, turns it upright (EXIF) and converts it to RGB. The small model knows
# only coloured shapes, so our photograph shows some. The next cell writes it to a file.

# %%
photo = Path("photo.png")
gl.comics.scenes(1, seed=7)[0].image.save(photo)  # yours is there already
inputs = model.prepare(photo, "What is going on in this picture?")
print(inputs)
print(model.generate(inputs, max_new_tokens=20))

# %% [markdown]
# ## Boxes, polygons, masks
#
# Regions are in pixels of the upright picture as it is on disk: x to the right, y down. Boxes can come from a detector,
# from an annotation file (COCO's boxes are x, y, width, height: convert them), or from your mouse.

# %%
box = inputs.region((64, 0, 96, 32))
print(box)
print("a point:", inputs.region((80, 16)))
print("a polygon:", inputs.region(gl.Polygon([(0, 96), (48, 30), (96, 96)])))
print("a difference:", inputs.region((0, 0, 96, 96)) - box)

# %% [markdown]
# If you give regions names, figures, `track` and error messages use them. A `Picture` is an image with named regions.
# Captions are optional; with them, a program can check answers.

# %%
from gaze_lens.regions.reading import read_image

picture = gl.Picture(
    read_image(photo),
    regions={"upper right": gl.Box(64, 0, 96, 32), "lower half": gl.Box(0, 48, 96, 96), "left": gl.Box(0, 0, 32, 96)},
)
named = model.prepare(picture, "What is going on in this picture?")
gl.show.picture(picture)

# %% [markdown]
# A very small region contains no token's centre. That is an error. A region of a prompt with another layout is an
# error, too: the hooks of `steer` would raise the error that `check` raises here.

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
# Heads belong to a model, so find them once and save them. For scoring you need pictures with several regions, and a
# question about each region. Comic strips of any panels are enough, `gl.comics.strip(["p1.png", ...])`. Then use the
# heads that were found on strips on photographs.

# %%
heads = gl.score_heads(model, gl.comics.synthetic(12, seed=11), progress=False).top(2)
heads.save("heads.json")
heads = gl.HeadSet.load("heads.json", model=model.cfg.model_name, fingerprint=model.fingerprint)
print(repr(heads))

# %%
gl.show.attention_map(model, named, heads)

# %% [markdown]
# Steer to each box. The baseline is the answer without steering.

# %%
answers = {
    name: model.generate(named, fwd_hooks=gl.steer(heads, named.region(name)), max_new_tokens=20)
    for name in picture.regions
}
gl.show.steering(picture, model.generate(named, max_new_tokens=20), answers)

# %% [markdown]
# If a region has several things in it, the model may describe any of them. If a region cuts through things, it sees
# only parts of them.
#
# ## Several pictures, several prompts
#
# One picture can be used with several prompts. A list of lists puts several pictures into one prompt; then `image=`
# says which picture a region is in.

# %%
batch = model.prepare(picture, ["What is going on in this picture?", "What is at the top left?"])
print(batch, "->", model.generate(batch, max_new_tokens=12).texts)

pair = model.prepare([[picture, gl.comics.synthetic(1, seed=31)[0]]], ["What is going on in this picture?"])
print(pair, "- box in the second:", pair.region((0, 0, 32, 32), image=1).positions[0])

# %% [markdown]
# ## Memory
#
# Attention patterns use most of the memory. In every layer a pattern has heads x queries x keys numbers. For a long
# prompt this is more than the model itself. This function computes it for your layers, heads and tokens:

# %%


def pattern_bytes(layers, heads, tokens, bytes_each=2):
    """All attention patterns of one prompt."""
    return layers * heads * tokens**2 * bytes_each


n = inputs.layout.length
print(f"this model and prompt: {pattern_bytes(model.cfg.n_layers, model.cfg.n_heads, n, 4) / 1e6:.1f} MB")
print(f"36 layers of 32 heads, 4,096 tokens, bfloat16: {pattern_bytes(36, 32, 4096) / 1e9:.1f} GB")

# %% [markdown]
# Therefore `run_with_cache` computes the size first, and refuses to run if it is too large. Scoring, tracking, steering
# and the figures do not compute full patterns: they read single rows, and add a bias inside the fast kernel.

# %%
try:
    model.run_with_cache(inputs, max_bytes=100_000)
except gl.GazeLensError as error:
    print(error)

# %% [markdown]
# There are three ways to use less memory: name the activations that you need
# (`names_filter="blocks.20.attn.hook_pattern"`), read rows with `gl.RowReader`, and make the picture smaller before you
# prepare it. The number of image tokens grows with the area.

# %%
for size in ((96, 96), (192, 192), (384, 384), (768, 768)):
    print(f"{size[0]:>4} x {size[1]} pixels: {model.capabilities(size=size).image.tokens} image tokens")

# %% [markdown]
# `model.encode(inputs)` runs the vision tower once, for many questions about one picture:

# %%
encoded = model.encode(named)
again = model.encode(model.prepare(picture, "What is at the top left?"), reuse=encoded)
print(model.generate(again, max_new_tokens=12))

# %% [markdown]
# ## Precision
#
# Most checkpoints are in bfloat16; load them in this type (`dtype="bfloat16"`; the default, `"auto"`, is the
# checkpoint's own type). Scores and steering work in any type. Two things are different in bfloat16. Attention has two
# or three digits, so small masses are not exact. And a bias of ten thousand that is added unshifted makes all attention
# in the target equal. Therefore biases are shifted so that the largest is 0, which keeps the model's own preferences
# inside the target (`as_published=True` adds them unshifted).

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
# The last two need `pip install gaze-lens[quantized]`. `prepare` puts its tensors on the device of the model's input.
# The tensors that a hook gets are on the device of its layer, so your own hooks should not assume one device for all
# layers.
#
# ## When something is refused
#
# gaze_lens raises a `gl.GazeLensError`, which says what was given, what was expected and what to do. (TransformerLens
# and Hugging Face raise their own errors: an unknown hook point is a KeyError of TransformerLens.)

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
