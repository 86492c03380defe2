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
# Tutorial 1 steers a whole answer to one region. Here the target moves while the model writes: in mid-sentence, at the
# end of a sentence, on some steps only; and the push gets gentler until it is no more than a hint.
#
# A word on steps, as everything here counts in them. Generation is one long forward over the prompt, the *prefill*,
# which produces token 0, and then one short forward for each further token. Step t is the forward that produces
# token t.

# %%
import gaze_lens as gl
from gaze_lens.evaluation import random_order, switch_at_panel_ends

# %% [markdown]
# The model that ships with the package. For a grown-up one, change this one line to
#
# ```python
# model = gl.HookedVLM.from_pretrained("Qwen/Qwen3-VL-2B-Instruct", device="cuda", dtype="bfloat16")
# ```
#
# score it on real strips (`gl.comics.strip`), and take more heads: tutorial 1 shows how to choose their number.

# %%
model = gl.load_tiny()
heads = gl.score_heads(model, gl.comics.synthetic(12, seed=11), progress=False).top(2)
strip = gl.comics.synthetic(1, seed=31)[0]
print("heads:", heads)
gl.show.picture(strip)

# %% [markdown]
# ## Left alone

# %%
inputs = model.encode(model.prepare(strip, gl.comics.NARRATE_FREELY))
free = gl.track(model, inputs, heads, max_new_tokens=60)
print(free)
gl.show.staircase(free)

# %% [markdown]
# Do the heads look at what the text is about? Words that one panel's caption has alone say what it is about, and the
# bars show where.

# %%
told = free.described_by_words()
print(free.agreement(told))
gl.show.staircase(free, described=told)

# %% [markdown]
# `model.encode` ran the vision tower once; all that follows asks the same picture again and spares that work.
#
# ## A schedule is a list
#
# `[(step, region), ...]`: from that step on, that region. Panel 5 at first, panel 2 from a later step, and that step is
# chosen without looking at the text, so the switch falls wherever it falls.

# %%
schedule = [(0, inputs.region("panel 5")), (3, inputs.region("panel 2"))]
hooks = gl.steer(heads, schedule=schedule)
print(len(hooks), "hooks, on", sorted({name for name, _ in hooks}))

switched = gl.track(model, inputs, heads, fwd_hooks=hooks, max_new_tokens=12)
for step, (token, region) in enumerate(zip(switched.tokens, switched.looked_at, strict=True)):
    print(f"step {step:>2}  {token!r:>12}  the heads look at {region}")
print("panel 5 shows:", strip.captions["panel 5"], "- panel 2 shows:", strip.captions["panel 2"])

# %% [markdown]
# The heads turn at the step given, at once. Whether the words do is another matter: what the model took from the first
# region is still in the cache, and other heads read it there. Compare the words with the two captions.
#
# ## Switching where sentences end
#
# To move on when a description ends, one must know where it ends, and that depends on the steering so far.
# `switch_at_panel_ends` finds the steps piece by piece.

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
# Entries that the text ended before are no error; the record lists them.

# %%
late = [(0, inputs.region("panel 3")), (500, inputs.region("panel 1"))]
generation = model.generate(inputs, fwd_hooks=gl.steer(heads, schedule=late), max_new_tokens=12)
print(generation)
print("never reached:", len(generation.unreached), "hook of the schedule's second entry, made for", late[1][1].name)

# %% [markdown]
# ## Several targets at once, and letting go
#
# Regions add up with `|`. And a schedule entry can be the whole picture: with everything boosted alike nothing is, so
# the heads are free again as far as the picture goes (the text stays out of their reach).

# %%
two = inputs.region("panel 1") | inputs.region("panel 6")
width, height = strip.image.size
whole = inputs.region((0, 0, width, height))
for label, plan in (("two panels", [(0, two)]), ("panel 4, then let go", [(0, inputs.region("panel 4")), (6, whole)])):
    tracked = gl.track(model, inputs, heads, fwd_hooks=gl.steer(heads, schedule=plan), max_new_tokens=30)
    print(f"{label}: {tracked}")

# %% [markdown]
# ## How hard to push
#
# A mode is four numbers, added to the heads' scores before the softmax: for the target, for the rest of the picture,
# for the prompt's text, for the text generated so far. The paper's mode boosts the target and suppresses the rest of
# the picture so hard that nothing else counts. A gentle mode leaves the heads some say.

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
# `where` says in which forwards to act: `"prefill"` (all rows of the prompt), `"after image"` (only the prompt's rows
# behind the picture), `"decode"`. With the prefill left alone, token 0 is chosen before any steering acts.

# %%
for where in (("prefill", "decode"), ("after image", "decode"), ("prefill",), ("decode",)):
    answer = model.generate(question, fwd_hooks=gl.steer(heads, target, where=where), max_new_tokens=12)
    print(f"{' and '.join(where):>22}: {answer}")

# %% [markdown]
# ## Batches
#
# Each row can have its own target: hand `region` a list. The answers are those that single runs give.

# %%
names = list(strip.regions)
batch = model.prepare([strip] * len(names), gl.comics.OPEN)
answers = model.generate(batch, fwd_hooks=gl.steer(heads, batch.region(names)), max_new_tokens=12)
gl.show.steering(strip, model.generate(question, max_new_tokens=12), dict(zip(names, answers.texts, strict=True)))

# %% [markdown]
# ## What steering shows, and what it does not
#
# That an answer follows the heads' attention shows that these heads *can* carry what is described. It does not show
# that nothing else does, and it is only evidence if random heads, pushed as hard, fail (tutorial 1). And the small
# model was trained with a price on looking, which leaves it few heads that look: the evidence about gaze heads comes
# from models that were not made for them.
