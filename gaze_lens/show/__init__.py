"""Figures of gaze heads: what was scored, where heads look, and what steering does.

    gl.show.picture(strip)                          # the picture with its named regions
    gl.show.scores(scores, statistic="contrast")    # layer-by-head map, best heads named
    gl.show.score_histogram(scores, heads)          # how many heads score how much, and the cut
    gl.show.chosen_heads(scores, heads); gl.show.heads_per_layer(heads, n_layers=36)
    gl.show.matrices(scores, scores.top(4))         # for each head: panel asked about by panel attended to
    gl.show.attention(model, inputs, heads)         # interactive: hover over a word or the picture, drag a box
    gl.show.attention_map(model, inputs, heads)     # over the picture, for one token
    gl.show.logit_lens(model, inputs, layers=[4, 8])  # over the picture: every image token read as a word
    gl.show.circuitsvis(model, inputs, heads)       # whole patterns, image tokens pooled by region (CircuitsVis)
    gl.show.staircase(gl.track(model, inputs, heads))  # token by token: which region
    gl.show.attention_over_time(gl.track(model, inputs, heads))  # token by token: how much on the image, how narrowly
    gl.show.staircases({"gaze heads": one, "random heads": other})   # several, on one scale
    gl.show.span_maps(maps.over(maps.sentences()))  # over the picture, for each part of a description
    gl.show.accuracies(gl.evaluate(model, strips, conditions))
    gl.show.bars({"question": table, "narration": other}); gl.show.curves({"gaze": table, "random": other}, x="heads")
    gl.show.layer_flips(table); gl.show.question_clusters(states)    # along the layers
    gl.show.patching(gl.patch(model, clean, corrupted, what="z", positions="last", metric=metric))
    gl.show.steering(strip, baseline, {"panel 4": text, ...})

All but two return a `Plot`: `.figure` (matplotlib), `.data` (the numbers shown), `.save("x.png")`; Jupyter shows it as
a picture, `print` as text. `attention` and `circuitsvis` are interactive and are saved as HTML. pyplot is not used: no
window opens, and no figure stays in memory.
"""

from gaze_lens.deprecation import renamed_names
from gaze_lens.show.accuracy_charts import accuracies, accuracies_by_target, accuracy_curve
from gaze_lens.show.attention_maps import attention_map
from gaze_lens.show.attention_timelines import attention_over_time
from gaze_lens.show.circuits import CircuitsView, circuitsvis
from gaze_lens.show.condition_charts import bars, curves
from gaze_lens.show.head_charts import chosen_heads, heads_per_layer, score_histogram
from gaze_lens.show.head_maps import matrices, scores
from gaze_lens.show.interactive.attention_viewer import AttentionViewer, attention
from gaze_lens.show.layer_charts import layer_flips, question_clusters
from gaze_lens.show.patch_maps import patching
from gaze_lens.show.pictures import picture
from gaze_lens.show.plot import Plot
from gaze_lens.show.span_charts import span_maps
from gaze_lens.show.staircase_chart import staircase
from gaze_lens.show.staircase_stack import staircases
from gaze_lens.show.steered_answers import steering
from gaze_lens.show.word_readings import logit_lens

__all__ = [
    "AttentionViewer", "CircuitsView", "Plot", "accuracies", "accuracies_by_target", "accuracy_curve", "attention",
    "attention_map", "attention_over_time", "bars", "chosen_heads", "circuitsvis", "curves", "heads_per_layer",
    "layer_flips", "logit_lens", "matrices", "patching", "picture", "question_clusters", "score_histogram", "scores",
    "span_maps", "staircase", "staircases", "steering",
]  # fmt: skip

__getattr__ = renamed_names(__name__, {"course": "attention_over_time"})
