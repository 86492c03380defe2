"""The page of the study and its figures; every number on it comes from results.json."""

import json
from pathlib import Path
from typing import Any

from gaze_lens.show.plot import ACCENT, BLUES, figure_style, new_figure

PAGE = """# Steering by mass and by logits: a study

`python -m studies.steering --out docs/steering_study` made this page, its figures and `results.json`, on the embedded
model. It was made by this project and looks at the image with few heads; other models may differ.

{n} strips of six panels that the heads ({heads}) were not chosen on; each panel is a target once. An answer is right if
it is the panel's caption word for word; it is a sentence if it has the form of a caption. Intervals: 95 %, bootstrap
over strips. Exposure is the mean over heads and steps, within one forward: "without" is the same head and query without
the edit.

In short: a mass steers as well as saturating logits ({mass_most} and {logits_most} right), and says how much it took.
Taken from everything, a mass of {set} in all {n_heads} heads leaves {spoilt} sentences; taken from the rest of the
picture alone (`keep="image"`), {sound}, and {kept_right} right answers. A small mass takes attention away from
where the heads look by themselves.

## Accuracy by mass, and by logits

![Accuracy and the mass that each setting reaches](steering_study/accuracy.png)

{by_mass}

{by_logits}

A mass is what it says, in every head and step. What a number of logits does depends on the scores that it meets: the
column "mass" is what it came to here.

## Number of heads, each at a mass of {set}

{by_heads}

## What `keep="image"` does

Mass is then a share of what the image gets; the text keeps its own. Sentences tell about fluency.

{kept}

The same heads as above, each with a share of {set} of what it pays to the image:

{counted}

## Soft and hard targets, at a mass of {set}

{targets}

## Where the mass came from

The gain of mass on the target, and what the rest of the image, the prompt, the generated text and the sink (the first
token) lost to it.

{sources}
"""


def write_report(figures: dict[str, Any], out: Path) -> None:
    """results.json and the figure into `out`, the page beside it."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    figure(figures, out / "accuracy.png")
    (out.parent / f"{out.name}.md").write_text(page(figures), encoding="utf-8")


def page(figures: dict[str, Any]) -> str:
    """The page in Markdown."""
    rows = figures["conditions"]
    none = [row for row in rows if row["name"] == "none"]
    kept = [row for row in rows if row["keep"] and not row["name"].startswith("top")]
    counted = [row for row in rows if row["keep"] and row["name"].startswith("top")]
    curve = {name: [row for row in rows if row["curve"] == name] for name in ("mass", "strength", "heads")}
    last, within = curve["heads"][-1], counted[-1]
    saturated = curve["mass"][-1:] + kept[-1:] + curve["strength"][-1:]
    return PAGE.format(
        n=figures["strips"], heads=", ".join(figures["heads"]), set=curve["heads"][0]["mass"],
        by_mass=_answers("set", none + curve["mass"]), by_logits=_answers("bias", curve["strength"]),
        by_heads=_answers("heads", curve["heads"]), kept=_answers("set", kept), counted=_answers("heads", counted),
        targets=_table(("target", "right"), [(n, _share(e)) for n, e in figures["targets"].items()]),
        sources=_sources(saturated), mass_most=_percent(curve["mass"][-1]["accuracy"]),
        logits_most=_percent(curve["strength"][-1]["accuracy"]), n_heads=last["heads"],
        spoilt=_percent(last["sentences"]), sound=_percent(within["sentences"]),
        kept_right=_percent(within["accuracy"]),
    )  # fmt: skip


def _answers(what: str, rows: list[dict[str, Any]]) -> str:
    cells = [
        (row["name"], _share(row["accuracy"]), _share(row["sentences"]),
         _number(row["exposure"]["mass"]) if "exposure" in row else "")
        for row in rows
    ]  # fmt: skip
    return _table((what, "right", "sentences", "mass"), cells)


def _sources(rows: list[dict[str, Any]]) -> str:
    names = ("mass_without", "mass", "from_others", "from_prompt", "from_generated", "from_sink")
    header = ("condition", "without", "with", "other panels", "prompt", "generated", "sink")
    return _table(header, [(row["name"], *(_number(row["exposure"][name]) for name in names)) for row in rows])


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _share(estimate: dict[str, float]) -> str:
    return f"{estimate['value']:.1%} [{estimate['low']:.1%}, {estimate['high']:.1%}]"


def _percent(estimate: dict[str, float]) -> str:
    return f"{estimate['value']:.0%}"


def _number(estimate: dict[str, float]) -> str:
    return f"{estimate['value']:.2f} [{estimate['low']:.2f}, {estimate['high']:.2f}]"


def figure(figures: dict[str, Any], path: Path) -> None:
    """Accuracy against the mass that came about: by masses set, by logits, and within the image."""
    with figure_style():
        plot = new_figure(3.4, width=6.5)
        axes = plot.add_subplot()
        rows = figures["conditions"]
        kinds = (
            ("mass set", [r for r in rows if r["curve"] == "mass"], BLUES[2]),
            ("logits added", [r for r in rows if r["curve"] == "strength"], ACCENT),
            ('keep="image"', [r for r in rows if r["keep"] and not r["name"].startswith("top")], BLUES[3]),
        )
        for label, points, colour in kinds:
            masses = [row["exposure"]["mass"]["value"] for row in points]
            values = [100 * row["accuracy"]["value"] for row in points]
            errors = [[100 * abs(row["accuracy"][end] - row["accuracy"]["value"]) for row in points]
                      for end in ("low", "high")]  # fmt: skip
            axes.errorbar(masses, values, yerr=errors, fmt="o-", color=colour, label=label, markersize=4, capsize=2)
        axes.set(ylim=(0, 102), xlabel="mass on the target (exposure)", ylabel="right answers, %")
        axes.legend(frameon=False)
        plot.savefig(path, dpi=150)
