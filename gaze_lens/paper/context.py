"""What the rows of the paper work with: the model, its heads, the strips, the judge and the folder of results.

context.heads, context.scores, context.strips      # chosen on strips of their own
context.results(run)                               # a Results, from answers that are generated once
context.save("fig2a", "scores", gl.show.scores(context.scores))
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gaze_lens.errors import InputError
from gaze_lens.evaluation.generate import generate_answers
from gaze_lens.evaluation.judges import Judge
from gaze_lens.evaluation.merge import FILE, file_of, merge_generations
from gaze_lens.evaluation.results import Results
from gaze_lens.evaluation.runner import evaluate
from gaze_lens.heads.head_scores import HeadScores
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.model_protocol import Model
from gaze_lens.paper.row import Run, Settings
from gaze_lens.paper.study_figures import Study
from gaze_lens.regions.picture import Picture
from gaze_lens.runs.shards import Shard
from gaze_lens.show.plot import Plot

REPEATED = 0.9  # of equal words; from there the paper counts an answer as the unsteered one


@dataclass(eq=False)
class Context:
    """The model and the pictures of a reproduction.

    strips: to steer, on which nothing was chosen. discovery, choosing: those that served for that.
    scores: of all heads. heads: those that are steered. judge: as for `gl.evaluate`.
    pictures: photographs with named objects, or None: then rows about photographs take synthetic scenes, and say so.
    models: names, or folders, of the models that rows 20 to 22 compare. load: loads one of them.
    study: the figures of a study of frozen encoders, for row 23.
    shard: (i, n), the part of the strips that this process answers. kept: what a row leaves to later ones.
    """

    model: Model
    settings: Settings
    out: Path
    strips: Sequence[Picture]
    scores: HeadScores
    heads: HeadSet
    discovery: Sequence[Picture] = ()
    choosing: Sequence[Picture] = ()
    judge: Judge | None = None
    pictures: Sequence[Picture] | None = None
    models: Sequence[str] = ()
    load: Callable[[str], Model] | None = None
    shard: Shard = (0, 1)
    progress: bool = True
    study: Study | None = None
    kept: dict[str, Any] = field(default_factory=dict, init=False)
    _results: dict[str, Results] = field(default_factory=dict, init=False)

    def results(self, run: Run) -> Results:
        """The judged answers of a run. They are generated once, into OUT/runs/NAME, and a stopped run is continued.

        Raises InputError where an earlier row had another run of this name.
        """
        if run.name not in self._results:
            out = self.folder_of(run)
            self._results[run.name] = evaluate(
                self.model, self.strips, run.conditions, protocol=run.protocol, judge=self.judge, out=out,
                seed=self.settings.seed, progress=self.progress, resume=True, repeated_at=REPEATED,
            )  # fmt: skip
        found = self._results[run.name]
        if [one.to_dict() for one in run.conditions] != found.generations.run["conditions"]:
            raise InputError(f"Two rows have a run {run.name!r} with other conditions; give one of them another name.")
        return found

    def answer_part(self, run: Run) -> bool:
        """Generate this shard's answers of a run. Returns whether those of all shards are there; they are merged."""
        folder = self.folder_of(run)
        if (folder / FILE).exists():
            return True
        generate_answers(
            self.model, self.strips, run.conditions, protocol=run.protocol, path=folder / file_of(self.shard),
            resume=True, seed=self.settings.seed, shard=self.shard, progress=self.progress,
        )  # fmt: skip
        if len(list(folder.glob("generations-*-of-*.jsonl"))) < self.shard[1]:
            return False
        try:
            merge_generations(folder)
        except InputError:  # another shard is still at work
            return False
        return True

    def folder_of(self, run: Run) -> Path:
        """The folder of a run's answers."""
        return self.out / "runs" / run.name

    def save(self, row: str, name: str, plot: Plot) -> tuple[str, str]:
        """Write a figure and its numbers, OUT/ROW/NAME.png and .csv; returns both paths, relative to OUT."""
        picture, numbers = f"{row}/{name}.png", f"{row}/{name}.csv"
        (self.out / row).mkdir(parents=True, exist_ok=True)
        plot.save(self.out / picture)
        plot.to_csv(self.out / numbers)
        return picture, numbers
