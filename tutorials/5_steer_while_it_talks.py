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
# # Steer while it talks: schedules
#
# Tutorial 1 steers a whole answer to one region. Here the target changes while the model writes: in the middle of a
# sentence, at the end of a sentence, in some steps only. And the bias becomes smaller, until it changes little.
#
# Time is counted in steps. Generation is one long forward over the prompt, the *prefill*, which produces token 0, and
# then one short forward for each further token. Step t is the forward that produces token t.

# %%
import gaze_lens as gl
from gaze_lens.evaluation import random_order, switch_at_panel_ends

# %% [markdown]
# This is the model that comes with the package. For a large model, change this line to
#
# ```python
# model = gl.HookedVLM.from_pretrained("Qwen/Qwen3-VL-2B-Instruct", device="cuda", dtype="bfloat16")
# ```
#
# score its heads on real strips (`gl.comics.strip`), and steer more heads: tutorial 1 shows how to find their number.

# %%
model = gl.load_tiny()
heads = gl.score_heads(model, gl.comics.synthetic(12, seed=11), progress=False).top(2)
strip = gl.comics.synthetic(1, seed=31)[0]
print("heads:", heads)
gl.show.picture(strip)

# %% [markdown]
# ## Without steering

# %%
inputs = model.encode(model.prepare(strip, gl.comics.NARRATE_FREELY))
free = gl.track(model, inputs, heads, max_new_tokens=60)
print(free)
gl.show.staircase(free)

# %% [markdown]
# Do the heads look at what the text describes? Words that occur in the caption of one panel only tell which panel the
# text describes; the bars show it.

# %%
described = free.described_by_words()
print(free.agreement(described))
gl.show.staircase(free, described=described)

# %% [markdown]
# `model.encode` ran the vision tower once; all cells below use the encoded picture.
#
# ## A schedule is a list
#
# `[(step, region), ...]`: each region is the target from its step on. Here it is panel 5 first, and panel 2 from step 3
# on, in the middle of the text.

# %%
schedule = [(0, inputs.region("panel 5")), (3, inputs.region("panel 2"))]
hooks = gl.steer(heads, schedule=schedule)
print(len(hooks), "hooks, on", sorted({name for name, _ in hooks}))

switched = gl.track(model, inputs, heads, fwd_hooks=hooks, max_new_tokens=12)
for step, (token, region) in enumerate(zip(switched.tokens, switched.looked_at, strict=True)):
    print(f"step {step:>2}  {token!r:>12}  the heads look at {region}")
print("panel 5 shows:", strip.captions["panel 5"], "- panel 2 shows:", strip.captions["panel 2"])

# %% [markdown]
# The heads change at once, at the given step. The words may change later or not at all: what the model read from the
# first region is still in the cache, and other heads read it there. Compare the words with the two captions.
#
# ## Switching where sentences end
#
# To change the target when a description ends, we need the step at which it ends, which depends on the steering before.
# `switch_at_panel_ends` finds the steps one after another.

# %%
order = random_order(strip, seed=1)
prompt = gl.comics.NARRATE_FREELY
_, switches, pieces = switch_at_panel_ends(model, strip, heads, order, end=".", prompt=prompt, max_new_tokens=60)
for step, name, piece in zip(switches, order, pieces, strict=False):
    print(f"from step {step:>2}, {name}: {piece!r} (it shows: {strip.captions[name]})")

# %%
schedule = [(step, inputs.region(name)) for step, name in zip(switches, order, strict=False)]
guided = gl.track(model, inputs, heads, fwd_hooks=gl.steer(heads, schedule=schedule), max_new_tokens=60)
print(guided.switches(schedule, guided.described_by_words()))  # tokens until the heads turn, and until the words do
gl.show.staircase(guided, schedule=schedule)

# %% [markdown]
# If the text ends before an entry of the schedule, that is no error; the generation lists the entry.

# %%
late = [(0, inputs.region("panel 3")), (500, inputs.region("panel 1"))]
generation = model.generate(inputs, fwd_hooks=gl.steer(heads, schedule=late), max_new_tokens=12)
print(generation)
print("never reached:", len(generation.unreached), "hook of the schedule's second entry, made for", late[1][1].name)

# %% [markdown]
# ## Several targets at once, and the end of steering
#
# `|` joins regions. An entry of a schedule can be the whole picture. Then all image tokens have the same bias, so that
# the heads attend within the picture as without steering (but not to the text).

# %%
two = inputs.region("panel 1") | inputs.region("panel 6")
width, height = strip.image.size
whole = inputs.region((0, 0, width, height))
for label, plan in (("two panels", [(0, two)]), ("panel 4, then let go", [(0, inputs.region("panel 4")), (6, whole)])):
    tracked = gl.track(model, inputs, heads, fwd_hooks=gl.steer(heads, schedule=plan), max_new_tokens=30)
    print(f"{label}: {tracked}")

# %% [markdown]
# ## The strength of the bias
#
# A mode is four numbers that are added to the heads' scores before the softmax: for the target, for the rest of the
# picture, for the text of the prompt, and for the generated text. The paper's mode boosts the target and suppresses the
# rest of the picture so much that the heads attend to the target only. With a small bias, their own scores still
# matter.

# %%
question = model.encode(model.prepare(strip, gl.comics.OPEN), reuse=inputs)
target = question.region("panel 5")
for strength in (0.5, 1, 2, 3, 5, 10, 10_000):
    tracked = gl.track(
        model,
        question,
        heads,
        fwd_hooks=gl.steer(heads, target, mode=gl.boost_and_suppress(strength)),
        max_new_tokens=12,
    )
    mass = tracked.mean[0, tracked.regions.index("panel 5")].item()
    print(f"strength {strength:>7}: {mass:.2f} of the attention on panel 5 at step 0 - {tracked}")
print("panel 5 shows:", strip.captions["panel 5"])

# %%
for make in (gl.boost_and_suppress, gl.suppress_image, gl.suppress_all, gl.max_suppress_all):
    answer = model.generate(question, fwd_hooks=gl.steer(heads, target, mode=make()), max_new_tokens=12)
    print(f"{make.__name__:>18} {make()}: {answer}")

# %% [markdown]
# ## When: prompt, answer, or both
#
# `where` says in which forwards to act: `"prefill"` (all positions of the prompt), `"after image"` (only positions of
# the prompt after the picture), `"decode"`. Without the prefill, token 0 is generated before any steering acts.

# %%
for where in (("prefill", "decode"), ("after image", "decode"), ("prefill",), ("decode",)):
    answer = model.generate(question, fwd_hooks=gl.steer(heads, target, where=where), max_new_tokens=12)
    print(f"{' and '.join(where):>22}: {answer}")

# %% [markdown]
# ## Batches
#
# Each row can have its own target: give `region` a list. The answers are the same as in single runs.

# %%
names = list(strip.regions)
batch = model.prepare([strip] * len(names), gl.comics.OPEN)
answers = model.generate(batch, fwd_hooks=gl.steer(heads, batch.region(names)), max_new_tokens=12)
gl.show.steering(strip, model.generate(question, max_new_tokens=12), dict(zip(names, answers.texts, strict=True)))

# %% [markdown]
# ## What steering shows, and what it does not
#
# If an answer follows the heads' attention, these heads *can* determine what is described. This does not show that
# nothing else can. And it is evidence only if random heads with the same bias fail (tutorial 1). The small model is a
# special case: training penalised attention to the image; that is why so few heads do it. Evidence about gaze heads
# comes from models that were not made for them.
