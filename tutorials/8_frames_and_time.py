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
# # Frames and time: heads that follow a video
#
# A video goes where a picture goes. The model's processor samples its frames, and every token has a place in the frame
# and a time. So heads can be scored, watched and steered by frames and by seconds. The embedded model is of a family
# that takes videos (Qwen3-VL), but it was trained on still strips alone, and never saw a video.

# %%
import gaze_lens as gl

# %%
model = gl.load_tiny()
strips = gl.comics.synthetic(7, seed=0)
heads = gl.score_heads(model, strips[:6], progress=False).top(2)
print(heads)

# %% [markdown]
# ## A clip
#
# The panels of a strip, one after the other, each shown for a second: two frames a second.

# %%
strip = strips[6]
panels = [strip.image.crop((box.x0, box.y0, box.x1, box.y1)) for box in strip.regions.values()]
frames = [panel for panel in panels for _ in range(2)]
video = gl.Video(frames, fps=2)
inputs = model.prepare(video, "What is going on in this picture?")
print(inputs.videos[0][0])
for tokens in inputs.image_tokens:
    print(tokens)

# %% [markdown]
# Two frames share their tokens in this family: "frames 3 and 4" are one moment. The prompt has the mean time of the two
# before their tokens.

# %%
print("".join(inputs.str_tokens(collapse=True)))
print(inputs.region("frame 3"))
print(inputs.region((0, 0, 32, 16), seconds=(2.0, 4.0)))

# %% [markdown]
# ## Steer to a moment
#
# The heads were found on panels of still strips. Here they look at one moment after the other, and the answer mostly
# has words of that moment's picture. Sentences often fall apart, as the model was not trained for this.

# %%
print("unsteered:", model.generate(inputs, max_new_tokens=10))
for name, caption in zip(inputs.region_names(), strip.captions.values(), strict=True):
    hooks = gl.steer(heads, inputs.region(name))
    print(f"{name} ({caption}) {model.generate(inputs, fwd_hooks=hooks, max_new_tokens=10)!s}")

# %% [markdown]
# ## Watch over time
#
# The moments are the regions of a video in which nothing has a name. A staircase over time has a step for each.

# %%
trajectory = gl.track(model, inputs, heads, max_new_tokens=10)
gl.show.staircase(trajectory)

# %%
gl.show.attention_map(model, inputs, heads)

# %% [markdown]
# ## Names: stretches of time, and things that move
#
# A region of a video is a shape that stays, a shape for each of some frames, or seconds. `score_heads` asks about each;
# there is no question for all videos, so `prompts=` gives them.

# %%
regions = {
    "beginning": gl.Seconds(0, 3),
    "end": gl.Seconds(3, 6),
    "moving": {"frame 1": gl.Box(0, 0, 32, 16), "frame 11": gl.Box(0, 16, 32, 32)},
}
named = gl.Video(frames, fps=2, regions=regions)
inputs = model.prepare(named, "What is going on in this picture?")
for name in inputs.region_names():
    print(inputs.region(name))
questions = ["What is in the beginning?", "What is in the end?", "What moves?"]
scores = gl.score_heads(model, [named], prompts=questions, progress=False)
print(scores.top(3))

# %% [markdown]
# In a family that takes no video, frames go into a prompt as pictures, and their names are "image 1", "image 2", ...

# %%
inputs = model.prepare([panels[:3]], "What is going on in these pictures?")
print(inputs.region("image 2"))
print(gl.track(model, inputs, heads, regions=["image 1", "image 2", "image 3"], max_new_tokens=5).regions)
