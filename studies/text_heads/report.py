"""Tables and figures of docs/text_heads.md, from the results of the steps.

write_report(study)          # tables.md, maps.png, steering.png, mechanism.png, staircase.png
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

import gaze_lens as gl
from gaze_lens.runs.files import write_whole
from gaze_lens.show.plot import ACCENT, BLUES, FAINT, INK, MASS, Plot, figure_style, new_figure, set_title
from studies.text_heads.common import Study
from studies.text_heads.recitation import recited
from studies.text_heads.scoring import SCORED
from studies.text_heads.steering import chosen
from studies.text_heads.texts import FORMS, SIZE

Row = Mapping[str, Any]
MAPPED = (*FORMS, "answer")


def write_report(study: Study) -> None:
    """Write the tables, and the figures that are not there yet or whose step is newer."""
    found = {path.stem: study.result(path.stem) for path in study.out.glob("*.json")}
    tables = [scores_table(found["scores"]), steering_table(found), grid_table(found["grid"])]
    write_whole(study.out / "tables.md", "\n".join(tables).encode())
    write_whole(study.out / "maps.png", maps(found["scores"]).render())
    write_whole(study.out / "steering.png", steering(found).render())
    write_whole(study.out / "mechanism.png", mechanism(found["kinds"]).render())
    staircase(study, found["recitation"]["reciting"]).save(study.out / "staircase.png")


def percent(row: Row) -> str:
    """96 [88, 100]."""
    return f"{100 * row['accuracy']:.0f} [{100 * row['low']:.0f}, {100 * row['high']:.0f}]"


def lines(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, ["---"] * len(header), *rows]) + "\n"


def scores_table(scores: Mapping[str, Any]) -> str:
    """A row for each form of question."""
    header = ["asked by", "tracking heads", "best by contrast", "contrast", "its mass", "best by mass"]
    rows = []
    for form in SCORED:
        best, verdict = scores[form]["top"][0], scores[form]["verdict"]
        interval = f"{best['contrast']:.3f} [{best['low']:.3f}, {best['high']:.3f}]"
        by_mass = ", ".join(scores[form]["best"]["mass"][:3])
        rows.append([form, str(len(verdict["heads"])), best["head"], interval, f"{best['score']:.3f}", by_mass])
    return lines(header, rows)


def steering_table(found: Mapping[str, Any]) -> str:
    """A row for each condition on the test sets, and for the random draws."""
    test = found["test"]
    rows = [[name, str(row["heads"]), percent(row), str(row["n"])] for name, row in test["conditions"].items()]
    for kind, row in found["draws"]["conditions"].items():
        span = f"{100 * row['accuracy']:.0f}; one draw {100 * row['least']:.0f} to {100 * row['most']:.0f}"
        rows.append([f"random, {kind}", str(row["heads"]), span, str(row["n"])])
    return lines(["steered", "heads", "describe their target, %", "answers"], rows)


def grid_table(grid: Mapping[str, Any]) -> str:
    """Forms of question by rankings."""
    conditions = grid["conditions"]
    names = list(dict.fromkeys(name.rpartition(": ")[2] for name in conditions if ": " in name))
    forms = list(dict.fromkeys(name.rpartition(": ")[0] for name in conditions if ": " in name))
    rows = [
        [form, *(percent(conditions[f"{form}: {by}"]) if f"{form}: {by}" in conditions else "" for by in names)]
        for form in forms
    ]
    return lines(["asked by", *names], [*rows, ["unsteered", percent(conditions["none"]), *[""] * (len(names) - 1)]])


def maps(scores: Mapping[str, Any]) -> Plot:
    """The contrast of every head for each form of question, each on its own scale."""
    data = {form: np.array(scores[form]["contrast"]) for form in MAPPED}
    with figure_style():
        figure = new_figure(4.2)
        for axes, (form, values) in zip(figure.subplots(1, len(data)), data.items(), strict=True):
            image = axes.imshow(values, cmap=MASS, vmin=0, vmax=values.max(), aspect="auto", interpolation="nearest")
            axes.set(xlabel="head", ylabel="layer" if form == MAPPED[0] else "")
            best = gl.Head(*map(int, np.unravel_index(values.argmax(), values.shape)))
            set_title(axes, form, f"best: {best}")
            figure.colorbar(image, ax=axes, orientation="horizontal", pad=0.02, ticks=[0, values.max()], format="%.2g")
    text = "\n".join(f"{form}: largest contrast {values.max():.3f}" for form, values in data.items())
    return Plot(figure, data, f"Contrast of every head, by the form of the question\n{text}")


def steering(found: Mapping[str, Any]) -> Plot:
    """Left: conditions on the test sets with intervals, and random draws as dots. Right: the number of heads."""
    conditions, draws = found["test"]["conditions"], found["draws"]["draws"]
    with figure_style():
        figure = new_figure(3.6)
        left, right = figure.subplots(1, 2, width_ratios=[3, 2])
        _bars(left, conditions, draws)
        for label, colour in (("chosen", BLUES[3]), ("rival", ACCENT)):
            points = {int(name.split()[1]): row for name, row in found["curves"]["counts"].items() if label in name}
            numbers = sorted(points)
            right.plot(
                numbers,
                [100 * points[n]["accuracy"] for n in numbers],
                "o-",
                color=colour,
                label=": ".join(found["curves"]["cells"][label]),
            )
        right.set(xscale="log", xlabel="steered heads", ylim=(-2, 105), title="Number of heads")
        right.set_xticks(numbers, [str(n) for n in numbers])
        right.minorticks_off()
        right.legend(frameon=False)
    text = "\n".join(f"{name}: {percent(row)} %" for name, row in conditions.items())
    return Plot(figure, {"conditions": tuple(conditions)}, f"Steered answers that describe their target\n{text}")


def _bars(axes: Any, conditions: Mapping[str, Row], draws: Mapping[str, list[float]]) -> None:
    names = [*conditions, *draws]
    for place, (name, row) in enumerate(conditions.items()):
        value, ends = 100 * row["accuracy"], (100 * row["low"], 100 * row["high"])
        axes.barh(place, value, color=BLUES[2] if name == "chosen" else BLUES[0])
        axes.plot(ends, (place, place), color=INK, linewidth=1)
    for place, name in enumerate(draws, len(conditions)):
        axes.plot(100 * np.array(draws[name]), [place] * len(draws[name]), "o", color=ACCENT, alpha=0.5, markersize=5)
    axes.axvline(100 / SIZE, color=FAINT, linestyle="--", linewidth=1)
    axes.set_yticks(range(len(names)), [name if name in conditions else f"random, {name}" for name in names])
    axes.invert_yaxis()
    axes.set(xlim=(0, 102), xlabel="answers that describe their target, %")
    set_title(axes, "Steering", "line: 95 % interval; dots: draws; dashed: chance")


def mechanism(kinds: Mapping[str, Any]) -> Plot:
    """Contrast on the label by contrast on the sentence after it, for every head."""
    label, sentence = (np.array(kinds[name]).ravel() for name in ("label", "sentence"))
    width = len(kinds["label"][0])
    with figure_style():
        figure = new_figure(3.6, width=6.0)
        axes = figure.subplots()
        axes.plot(label, sentence, "o", color=BLUES[1], markersize=3)
        for index in {*label.argsort()[-6:], *sentence.argsort()[-5:]}:
            axes.annotate(str(gl.Head(*divmod(int(index), width))), (label[index], sentence[index]), fontsize=7)
        axes.margins(x=0.08)
        axes.set(xlabel="contrast on the label", ylabel="contrast on its sentence")
        set_title(axes, "Labels and sentences", 'asked "What is said in segment 3", the number last')
    return Plot(figure, {"label": label, "sentence": sentence}, "Contrast on labels and on sentences")


def staircase(study: Study, reciting: list[int]) -> Plot:
    """Where the chosen heads look while the model recites the passages, unsteered."""
    trajectory = recited(study, reciting[0], chosen(study))
    return gl.show.staircase(trajectory, described=trajectory.described_by_words())
