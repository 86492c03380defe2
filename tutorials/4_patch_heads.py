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
# # Patch heads: one circuit, from the question to the answer
#
# Tutorial 1 finds heads that *look* at the panel asked about: they attend to it. But attention is not use. Here we ask
# what these heads do: where the information in the word "fourth" goes, which head attends to the fourth panel because
# of it, what that head writes, and which parts of the model read it. The method is activation patching, which you know
# from TransformerLens. It is new that some positions are places in a picture. Every claim is tested in two or three
# ways. If two ways disagree, one more experiment finds the reason.

# %%
import random

import gaze_lens as gl
from gaze_lens.patching import agreement, group

# %% [markdown]
# This is the model that comes with the package. For a large model, change this line to
#
# ```python
# model = gl.HookedVLM.from_pretrained("Qwen/Qwen3-VL-2B-Instruct", device="cuda", dtype="bfloat16")
# ```
#
# and use your own strips (tutorial 6). The answers of a large model often do not begin with the word that matters. Then
# use `gl.metrics.answer_log_probability` as the metric below, and only strips on which the model answers correctly.

# %%
model = gl.load_tiny()
scores = gl.score_heads(model, gl.comics.synthetic(8, seed=1), progress=False)
gaze = scores.top(3)
eye, *others = gaze
for head in gaze:
    print(f"{head}: {scores.score[head]:.2f} of its attention is on the panel asked about")

# %% [markdown]
# Three heads look. The first, which we call the *eye*, looks far more than the other two. (The score does not say
# whether these two look there because the question is about this panel; see part 6.)
#
# ## A pair that differs in one thing
#
# *Activation patching* needs two runs: a *clean* one, and a *corrupted* one that differs in the thing that we want to
# follow. `gl.counterfactual` makes such pairs, and checks that both have the same layout of tokens. Here the pair
# differs in one word of the question, the ordinal: the clean question is about one panel, the corrupted one about
# another. There are 18 rows: each of the six panels is the one asked about on three strips, and the other one on three.


# %%
def first_word(strip, index):
    """The word with which a right answer about a panel begins: the colour of its upper shape."""
    return strip.captions[f"panel {index + 1}"].split()[0]


panels = [(asked, (asked + step) % 6) for asked in range(6) for step in (1, 3, 5)]
pool = iter(gl.comics.synthetic(60, seed=100))
strips = [next(strip for strip in pool if first_word(strip, a) != first_word(strip, b)) for a, b in panels]
questions = [gl.comics.ask(a) for a, _ in panels]
ordinals = [gl.changes.ordinal(gl.comics.ORDINALS[b]) for _, b in panels]

pair = gl.counterfactual(model, strips, questions, ordinals).encoded(model)
clean, corrupted = pair
print(pair)
print(clean.str_tokens(collapse=True))

# %% [markdown]
# `encoded` runs the vision tower once, for all cells below.
#
# The *metric* is one number for each row, and says which answer the model is about to give: the logit of the first word
# about the panel asked about in the clean run, minus that of the first word about the other panel. For example:

# %%
right = [first_word(strip, a) for strip, (a, _) in zip(strips, panels, strict=True)]
wrong = [first_word(strip, b) for strip, (_, b) in zip(strips, panels, strict=True)]
metric = gl.metrics.logit_difference(model, right, wrong)
print(f"row 0: {questions[0]} -> {right[0]!r}; about the other panel -> {wrong[0]!r}")

for name, inputs in (("clean", clean), ("corrupted", corrupted)):
    values = metric(model(inputs)).detach()
    print(f"{name}: {values.mean():.2f} on average, rows from {values.min():.2f} to {values.max():.2f}")

# %% [markdown]
# From -9.64 to 9.91: the answer depends on the question, and the model is certain. A patch puts one activation of the
# clean run into the corrupted run. Its *recovery* is how far it moves the metric: 0 is not at all, 1 is all the way to
# the clean run.
#
# A second pair asks the same question about two pictures. In the corrupted picture, the two panels have changed places.
# So the question is the same, and the difference is in the image tokens.

# %%
swaps = [gl.changes.swap(f"panel {a + 1}", f"panel {b + 1}") for a, b in panels]
swapped = gl.counterfactual(model, strips, questions, swaps).encoded(model)
print(f"panels swapped: {metric(model(swapped.corrupted)).mean():.2f}")

# %% [markdown]
# ## 1. Where is the ordinal, layer by layer?
#
# Patch the residual stream before each layer (`resid_pre`), at groups of positions: all image tokens, the ordinal, all
# tokens between it and the last one, and the last token, at which the answer is predicted. A group can be a name, a
# region or `inputs.span(text)`.

# %%
last = clean.last_position
ordinal = clean.span([gl.comics.ORDINALS[a] for a, _ in panels])
between = gl.Group("between", tuple(tuple(range(row[-1] + 1, last)) for row in ordinal.rows), clean.layout)
how = {"metric": metric, "batch_size": 72, "progress": False}  # 72 rows at once: four patches of the 18 rows

where = {"image": "image", "ordinal": ordinal, "between": between, "last": "last"}
streams = gl.patch(model, clean, corrupted, what="resid_pre", positions=where, **how)
gl.show.patching(streams)

# %% [markdown]
# Before layer 0 the ordinal is in its own token, of course: recovery 1.00. Before layer 1 it is in the last token, and
# in no other place that matters: one layer moves all of it. The image tokens have exactly 0.00 everywhere. They are
# before the question, and a token attends only to tokens before it, so that the image tokens cannot depend on the
# question. The last token must read the picture later.
#
# And where is what the panel shows? In the second pair:

# %%
asked = swapped.clean.region([f"panel {a + 1}" for a, _ in panels])
other = swapped.clean.region([f"panel {b + 1}" for _, b in panels])
where = {"asked panel": asked, "other panel": other, "text": "text", "last": "last"}
contents = gl.patch(model, *swapped, what="resid_pre", positions=where, **how)
gl.show.patching(contents)

# %% [markdown]
# It stays in the image tokens of the panel asked about until layer 1, and moves to the last token in layer 1. The
# tokens of the other panel hardly matter (-0.04). Now the same patch in the image features that go from the vision
# tower into the language model (`what="image"`, together with the features that Qwen3-VL adds after the first layers):

# %%
features = gl.patch(model, *swapped, what="image", positions={"asked panel": asked, "other panel": other}, **how)
print(features.table().round(2).to_string(index=False))

# %% [markdown]
# ## 2. Which heads move it?
#
# Patch every head's output `z` at the last token, one head at a time. These are 72 patches; the image is encoded once.


# %%
def best(result, n=6):
    """The cells that move the metric most."""
    table = result.table().sort_values("recovery", key=abs, ascending=False)
    return table.head(n).round(2).to_string(index=False)


by_head = gl.patch(model, clean, corrupted, what="z", positions="last", **how)
print(best(by_head))
gl.show.patching(by_head)

# %%
by_head_swapped = gl.patch(model, *swapped, what="z", positions="last", **how)
print(best(by_head_swapped, 3))

# %% [markdown]
# `low` and `high` are a 95 % interval of the mean, from a bootstrap over rows. In both pairs the eye alone restores the
# answer (0.98 and 0.99). For the ordinal there are also heads of layer 0, the first of them with 0.26; for the panels
# there are none. Which part of the eye matters? Query and keys determine where it attends, and values what it reads
# there. Keys and values belong to *KV heads*, each shared by three query heads in this model (grouped-query attention).
# So they are patched by KV head, and the two query heads that share them with the eye are patched, too.

# %%
parts = {"q": "last", "k": "image", "v": "image", "pattern": "last"}
for name, (ours, theirs) in (("ordinal changed", pair), ("panels swapped", swapped)):
    results = {
        what: gl.patch(model, ours, theirs, what=what, where=[eye], positions=positions, **how)
        for what, positions in parts.items()
    }
    print(f"{name}: " + ", ".join(f"{what} {result.recovery().item():.2f}" for what, result in results.items()))

# %% [markdown]
# The two are separate. The ordinal acts through the query (0.98), and the eye's keys and values do not depend on it.
# What the panel shows acts through the values (0.99); query, keys and pattern do not depend on it (0.00). So the eye
# finds a panel by its place, not by what it shows.
#
# ## 3. From the ordinal to the eye
#
# Which heads write the eye's query? *Path patching* changes only the direct effect of one head (the *sender*) on
# another (the *receiver*): everything between them stays as in the corrupted run. Here the senders are all heads in
# layers before the eye, and the receiver is the eye's query at the last token.

# %%
paths = gl.path_patch(model, clean, corrupted, None, [eye], into="q", positions="last", **how)
print(best(paths))
carriers = paths.top(4)
print(f"the four of them, added up: {sum(paths.grid('last')[head].item() for head in carriers):.2f}")

# %% [markdown]
# Four heads of layer 0, the same that `z` patching found. We call them the *carriers*. The effects of all but one are
# small. Their sum is 0.23, but patching the eye's query restores everything. Do they work together? Patch one, two,
# three and four of them, and see where the eye looks. (`give` makes plain hooks: each head's `z` at the last token,
# moved from the corrupted towards the clean run.)

# %%
_, kept = model.run_with_cache(clean, names_filter=lambda name: name.endswith("hook_z"))
_, kept_corrupted = model.run_with_cache(corrupted, names_filter=lambda name: name.endswith("hook_z"))


def give(heads, share=1.0):
    """Hooks that move heads' z at the last token a share of the way from the corrupted to the clean run."""

    def move(z, hook):
        layer = hook.layer()
        chosen = list(gl.HeadSet(heads).by_layer()[layer])
        before, after = kept_corrupted["z", layer][:, last, chosen], kept["z", layer][:, last, chosen]
        z[:, last, chosen] = before + share * (after - before)
        return z

    return [(f"blocks.{layer}.attn.hook_z", move) for layer in gl.HeadSet(heads).by_layer()]


def run(hooks, inputs):
    """The metric's mean, and the eye's attention [row, key] at the last token."""
    with model.hooks(fwd_hooks=hooks):
        logits, cache = model.run_with_cache(inputs, names_filter=f"blocks.{eye.layer}.attn.hook_pattern")
    return metric(logits).mean().item(), cache["pattern", eye.layer][:, eye.head, last]


def mass(attention, positions):
    """The attention [row, key] on each row's positions, averaged over rows."""
    return sum(row[list(keys)].sum().item() for row, keys in zip(attention, positions, strict=True)) / len(attention)


worst, top = run([], corrupted)[0], run([], clean)[0]
here, there = (clean.region([f"panel {row[k] + 1}" for row in panels]) for k in (0, 1))
for n in range(len(carriers) + 1):
    heads = carriers[:n]
    value, attention = run(give(heads), corrupted)
    direct = run(gl.path_hooks(model, clean, corrupted, heads, [eye], positions="last"), corrupted)[0] if n else worst
    recovered = [(one - worst) / (top - worst) for one in (value, direct)]
    on = [mass(attention, region.positions) for region in (here, there)]
    print(
        f"{n} heads: recovery {recovered[0]:.2f}, by direct paths alone {recovered[1]:.2f}; "
        f"the eye has {on[0]:.2f} on the panel asked about, {on[1]:.2f} on the other"
    )

_, cache = model.run_with_cache(clean, names_filter=lambda name: name.endswith("hook_pattern"))
looked = [f"{head} {mass(cache['pattern', head.layer][:, head.head, last], ordinal.rows):.2f}" for head in carriers]
print("their attention on the ordinal:", ", ".join(looked))

# %% [markdown]
# They do. Four heads together recover 1.00, and 0.95 by direct paths alone: what is between them (the first MLP) adds
# little. One head alone cannot change where the eye looks: the softmax selects the panel with the larger score, and the
# other three heads still raise the score of the other panel. The effects of single heads do not add up, and a head with
# 0.01 alone is not useless. All four attend to the ordinal, with about half of their attention or more.
#
# ## 4. What the eye writes, and what reads it
#
# A *logit lens* unembeds the residual stream at the last token, as if the model ended there. "right" is the number of
# rows, of 18, whose most probable word is that of the right answer.

# %%
_, cache = model.run_with_cache(clean)
stream, labels = cache.accumulated_resid(apply_ln=True, return_labels=True, incl_mid=True)
lens = stream[:, :, last] @ model.W_U  # [layer, row, d_vocab]
words = [[model.tokenizer.decode(token) for token in row.argmax(-1).tolist()] for row in lens]
for label, row, predicted in zip(labels, lens, words, strict=True):
    n_right = sum(one == word for one, word in zip(predicted, right, strict=True))
    size = cache["resid_" + label[2:], int(label[0])][:, last] if label[0].isdigit() else None
    length = f", length of the stream {size.norm(dim=-1).mean():.1f}" if size is not None else ""
    print(f"{label:>10}: metric {metric(row[:, None]).mean():5.2f}, right {n_right}{length}")

# %% [markdown]
# After the eye (`1_mid` is the stream between the attention and the MLP of its layer) the lens finds the answer in most
# rows: the metric is 0.11 before the eye, 5.11 after it, and 8.17 after the MLP of that layer. So the eye writes the
# first word of the answer in the directions that the unembedding reads, and an MLP adds to it. Do later heads or MLPs
# need to read it? Path patching answers this for heads and logits. For MLPs, patch the eye and hold the MLPs as in the
# corrupted run; this takes a few more hooks in the list.

# %%
ours, theirs = swapped
later = [(layer, head) for layer in range(eye.layer + 1, model.cfg.n_layers) for head in range(model.cfg.n_heads)]
floor = metric(model(theirs)).mean().item()


def back(hooks):
    """The recovery under hooks, in the pair with panels swapped."""
    return (metric(model.run_with_hooks(theirs, fwd_hooks=hooks)).mean().item() - floor) / (top - floor)


print(f"directly to the logits: {back(gl.path_hooks(model, ours, theirs, [eye], 'logits', positions='last')):.2f}")
for into in ("q", "k", "v"):
    hooks = gl.path_hooks(model, ours, theirs, [eye], later, into=into, positions="last")
    print(f"to the {into} of all {len(later)} later heads: {back(hooks):.2f}")

# %%
mlps = [f"blocks.{layer}.hook_mlp_out" for layer in range(eye.layer, model.cfg.n_layers)]
attentions = [f"blocks.{layer}.hook_attn_out" for layer in range(eye.layer + 1, model.cfg.n_layers)]
_, source = model.run_with_cache(ours, names_filter=f"blocks.{eye.layer}.attn.hook_z")
_, held = model.run_with_cache(theirs, names_filter=mlps + attentions)


def patch_eye(z, hook):
    z[:, last, eye.head] = source["z", eye.layer][:, last, eye.head]
    return z


def hold(name):
    """A hook that keeps an activation as it is in the corrupted run."""

    def keep(activation, hook):
        return held[name]

    return name, keep


turned = [(f"blocks.{eye.layer}.attn.hook_z", patch_eye)]
print(f"the eye patched: {back(turned):.2f}")
print(f"  with all later MLPs held: {back(turned + [hold(name) for name in mlps]):.2f}")
print(f"  with all later attention held: {back(turned + [hold(name) for name in attentions]):.2f}")
for name in mlps:
    print(f"  with {name} held: {back(turned + [hold(name)]):.2f}")

# %% [markdown]
# Two ways agree: 0.23 of the effect goes directly to the logits, by path patching, and 0.22 is left when the MLPs are
# held. The rest goes through MLPs: first that of the eye's own layer (0.31 is left when it is held), then the last one
# (0.73). Later heads read nothing that matters here: with the attention of their layers held, nothing is lost (1.00).
# The lens does not show this: after the eye it finds half of the final metric, but only 0.23 of the effect is the eye's
# direct one. The reason is the final norm. It divides by the length of the stream, which grows from 35.7 to 67.1 after
# the eye, so that what the eye wrote has less and less weight. The circuit:
#
# ordinal -> four heads of layer 0 -> the eye's query -> its attention to the panel -> its values -> MLPs, and the
# logits.
#
# ## 5. Knockout and ablation
#
# Patching shows what is sufficient. Now ask what is necessary. An *attention knockout* removes the attention of some
# queries to some keys, and the softmax gives it to the other keys. In all heads of a layer, remove the last token's
# attention to the ordinal, to the panel asked about, or to the whole picture. Without any knockout the metric is 9.91.

# %%
views = {"ordinal": ordinal, "panel asked about": here, "image": group(clean, "image")}
for layer in range(model.cfg.n_layers):
    heads = [(layer, head) for head in range(model.cfg.n_heads)]
    hooks = {name: gl.knockout(heads, group(clean, "last"), keys) for name, keys in views.items()}
    print(f"layer {layer}: " + ", ".join(f"no {name} {run(one, clean)[0]:6.2f}" for name, one in hooks.items()))

# %% [markdown]
# The same two layers as in part 1: the ordinal is needed in layer 0 (0.36), the panel in the eye's layer (-2.33), and
# both little in other layers. Now ablate heads: set their output to zero at all positions (*zero ablation*), or replace
# it at the last token by its mean over 18 other strips with different panels asked about (*mean ablation*). Compare
# with random heads.

# %%
every = [(layer, head) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads)]
rest = [head for head in every if head not in gaze]
random.seed(0)
draws = [random.sample(rest, 3) for _ in range(6)]
strangers = model.encode(model.prepare(gl.comics.synthetic(18, seed=7), questions))


def ablated(heads):
    """The metric after zero and after mean ablation."""
    mean = gl.mean_ablate(model, heads, strangers, over="last", positions=group(clean, "last"))
    return run(gl.zero_ablate(heads), clean)[0], run(mean, clean)[0]


for heads in ([eye], others[:1], others[1:], gaze, carriers):
    zero, mean = ablated(heads)
    print(f"{gl.HeadSet(heads)}: zero {zero:.2f}, mean {mean:.2f}")
lowest = [min(values) for values in zip(*map(ablated, draws), strict=True)]
print(f"three random heads, the worst of {len(draws)} draws: zero {lowest[0]:.2f}, mean {lowest[1]:.2f}")

# %% [markdown]
# Without the eye little is left (1.23 of 9.91, or 0.50), and the same is true without the carriers (1.29, or 0.37).
# Without random heads almost nothing changes (9.87 in the worst draw).
#
# **A disagreement.** With the eye ablated, the metric is near 0: the model does not know the answer. With the panel
# knocked out, it is -2.33: the model gives another answer. Which one? See where the eye looks after the knockout, and
# compare the answers with what is there.

# %%
with model.hooks(fwd_hooks=gl.knockout([eye], group(clean, "last"), here)):
    logits, cache = model.run_with_cache(clean, names_filter=f"blocks.{eye.layer}.attn.hook_pattern")
attention = cache["pattern", eye.layer][:, eye.head, last]
places = [list(clean.region(name).positions[0]) for name in strips[0].regions]  # the same in every row
beside = first = either = counted = 0
for row, (strip, (a, b)) in enumerate(zip(strips, panels, strict=True)):
    on = [attention[row, keys].sum().item() for keys in places]
    one, two = sorted(range(len(on)), key=on.__getitem__, reverse=True)[:2]
    said = model.tokenizer.decode(logits[row, -1].argmax().item())
    beside += abs(one - a) == 1
    counted += one == b
    first += said == first_word(strip, one)
    either += said in (first_word(strip, one), first_word(strip, two))
print(f"{beside} of {len(strips)}: the eye looks most at a neighbour of the panel asked about")
print(f"{counted} of {len(strips)}: that is the other panel of the pair")
print(f"{first} of {len(strips)}: the answer is the word about it; {either}: about it or the next in attention")

# %% [markdown]
# The attention of a softmax always adds up to 1. Without its panel the eye attends to the panel with the next largest
# scores, one beside it, and the model describes that panel: in 16 rows the one with most attention, in one more row the
# next. In 5 rows it is the panel that the metric counts as the wrong one. So the knockout of a panel redirects, while
# an ablation removes. A knockout of the whole picture, as in the table above, agrees with ablation (-0.22).
#
# ## 6. The other gaze heads
#
# **A disagreement.** The score has two more heads at the top, and at the last token they do look at the panel. But
# patching and ablation find no effect of them. Are they useless? So far we measured only the first word of the answer.
# Now give the model the whole answer (*teacher forcing*), and score heads by their attention from all its words:

# %%
captions = [strip.captions[f"panel {a + 1}"] for strip, (a, _) in zip(strips, panels, strict=True)]
answered = model.encode(model.prepare(strips, questions, answers=captions), reuse=clean)
columns = list(answered.answer_positions[0])  # the word to come is that of the next column; the same in every row
goal = answered.region([f"panel {a + 1}" for a, _ in panels])

in_answer = gl.score_heads(model, gl.comics.synthetic(8, seed=1), at="answer", progress=False).top(6)
_, cache = model.run_with_cache(answered, names_filter=lambda name: name.endswith("hook_pattern"))
print("one answer:", [model.tokenizer.decode(answered.input_ids[0, column + 1]) for column in columns])
looks = {}
for head in in_answer:
    pattern = cache["pattern", head.layer][:, head.head]
    looks[head] = [round(mass(pattern[:, column], goal.positions), 2) for column in columns]
    print(f"{head} on the panel, word by word: {looks[head]}; score at the end of the prompt {scores.score[head]:.3f}")

# %% [markdown]
# The eye looks at the panel whenever the next word is a colour or a shape. Before the first shape, four heads look;
# before the second colour, two. Some of them have a very small score at the end of the prompt (0.065 and 0.040), and
# L0H6, the third by that score, is not among them. How probable is the right word if these heads are ablated at the
# position before it, first one at a time, and then all that look?


# %%
def log_p(heads, index):
    """The mean log-probability of a word of the right answer, with these heads silenced where it is due."""
    column = columns[index]
    due = gl.Group("due", ((column,),) * answered.n_rows, answered.layout)
    logits = model.run_with_hooks(answered, fwd_hooks=gl.zero_ablate(heads, positions=due))
    return logits[:, column].log_softmax(-1).gather(-1, answered.input_ids[:, column + 1, None]).mean().item()


for index, name in {0: "first colour", 1: "first shape", 3: "second colour", 4: "second shape"}.items():
    lookers = [head for head in in_answer if looks[head][index] > 0.5]
    without = ", ".join(f"without {head} {log_p([head], index):.2f}" for head in lookers)
    print(f"{name}: {without}; without all {len(lookers)} {log_p(lookers, index):.2f}")

# %% [markdown]
# The eye is needed everywhere, most at the first word (-2.01). The others are backups: without one of them nothing is
# lost (-0.00), but without all heads that look, the first shape (-2.31) and the second colour (-0.32) lose more than
# without the eye alone (-0.49 and -0.15). So the disagreement came from what we measured. The score was taken at the
# last prompt token, which predicts the first colour; heads that look later have a small score there, or none. And the
# metric was about the first colour, for which these heads are not needed. Before you call a head useless, score with
# `at="answer"`, and measure the whole answer (`gl.metrics.answer_log_probability`).
#
# ## 7. All heads at once, by gradient
#
# Patching needs a forward for every cell. *Attribution* estimates the result from two forwards and one backward: the
# gradient of the metric in the corrupted run, times the difference to the clean activation. How well does it rank the
# 72 heads?

# %%
for name, (ours, theirs), patched in (("ordinal", pair, by_head), ("panels", swapped, by_head_swapped)):
    estimate = gl.attribute(model, ours, theirs, what="z", positions="last", metric=metric)
    print(f"{name}: rank correlation with patching {agreement(estimate, patched):.2f}")
    for head in dict.fromkeys([eye, *carriers] if name == "ordinal" else [eye]):
        here_, there_ = (result.grid("last")[head].item() for result in (estimate, patched))
        print(f"  {head}: estimated {here_:6.3f}, patched {there_:6.3f}")

edges = gl.attribute_edges(model, clean, corrupted, None, [eye], into="q", positions="last", metric=metric)
print(f"paths into the eye's query: rank correlation with path patching {agreement(edges, paths):.2f}")

# %% [markdown]
# **A disagreement.** Attribution finds the eye in both pairs, but estimates little more than a third of its effect
# (0.383 and 0.353). Its ranking is close to that of patching if panels are swapped (0.98), and less close if the
# ordinal is changed (0.77). For the carriers it estimates almost nothing (0.003 at most), two of them with the wrong
# sign. A gradient assumes a straight line. So go from the corrupted to the clean activation in eight steps, for the
# eye, and for the four carriers together:

# %%
for name, heads in (("the eye", [eye]), ("carriers", list(carriers))):
    curve = [(run(give(heads, step / 8), corrupted)[0] - worst) / (top - worst) for step in range(9)]
    print(f"{name}: {[round(value, 2) + 0.0 for value in curve]}")

lengths = []
for step in (0, 4, 8):
    with model.hooks(fwd_hooks=give([eye], step / 8)):
        _, cache = model.run_with_cache(corrupted, names_filter=lambda name: name.endswith("hook_resid_post"))
    lengths.append(cache["resid_post", model.cfg.n_layers - 1][:, last].norm(dim=-1).mean().item())
print("length of the final stream, with none, half and all of the eye:", [round(length, 1) for length in lengths])

# %% [markdown]
# Neither curve is a straight line. The eye's curve is steeper in the middle than at the ends: half way, where the eye
# writes parts of both answers, the final stream is shorter (52.9; 71.6 and 67.8 at the ends), so that the final norm
# scales it up. Therefore the estimate has the right order and the wrong size. The carriers' curve is a switch: almost
# nothing at first (0.03 after two steps), and in the middle the eye's softmax changes from one panel to the other. At
# the start of the curve the slope is nearly zero, and the gradient knows only this slope. For the direct paths alone,
# the order is better (0.80). Attribution finds candidates, but underestimates what acts through a saturated softmax.
# Patch what it finds, and patch groups.
#
# ## 8. Steering is the same circuit
#
# If the carriers only determine where the eye looks, then steering the eye there must have the same effect. `gl.steer`
# adds a bias to the eye's scores. The question is the clean one, and the target is the other panel:

# %%
print(f"steered to the other panel: {run(gl.steer([eye], there), clean)[0]:.2f}; asked about it: {worst:.2f}")

# %% [markdown]
# This is most of the effect, but not all of it (-6.06). What is missing? The answer begins with the *upper* shape. So
# measure where in the panel the eye looks, and steer it there:

# %%
boxes = [strip.regions[f"panel {b + 1}"] for strip, (_, b) in zip(strips, panels, strict=True)]
upper = clean.region([(box.x0, box.y0, box.x1, (box.y0 + box.y1) / 2) for box in boxes])
for name, hooks, inputs in (
    ("asked about the other panel", [], corrupted),
    ("steered to it", gl.steer([eye], there), clean),
    ("steered to its upper half", gl.steer([eye], upper), clean),
):
    value, attention = run(hooks, inputs)
    share = mass(attention, upper.positions) / mass(attention, there.positions)
    print(f"{name}: {value:.2f}; of the eye's attention on that panel, {share:.2f} is on its upper half")

# %% [markdown]
# So the question determines not only at which panel the eye looks, but also where in it (0.98 of its attention to the
# panel is on the upper half). Steered to the whole panel, the eye attends to more of it (0.71 is on the upper half),
# and reads a part of the lower shape, too. Steered to the upper half, it has nearly the effect of the question (-8.82
# of -9.64). So steer to what the next words should describe, and to no larger region.
#
# ## Results, and what they are worth
#
# | step | patching | second method |
# |---|---|---|
# | the ordinal reaches the last token in layer 0 | stream, 1.00 | knockout of the ordinal in layer 0 |
# | four heads of layer 0 determine the eye's query | together 1.00 | direct paths alone, 0.95 |
# | the eye writes the panel's colour | `z`, 0.98 and 0.99; values, 0.99 | zero ablation leaves 1.23 of 9.91 |
# | MLPs read it, and logits | direct path, 0.23 | 0.22 with MLPs held |
# | backup heads write other words, too | none at the last prompt token | ablated with the eye, -2.31 and -0.32 |
# | the question determines where in the panel | `q` alone, 0.98 | steered to the upper half, -8.82 of -9.64 |
#
# Such a simple circuit is no evidence about large models. This model has six layers and reads pictures of coloured
# shapes. Training penalised attention to the image; that is why so few heads do it. What you can use for other models
# is the method. In a large model expect several heads like the eye that can replace one another: patch sets of heads
# (`by_head.top(k)`), measure whole answers, and expect the disagreements above.
#
# If patching takes hours, use `gl.patch(..., resume="sweep.jsonl")`: after an interruption the same call continues.
