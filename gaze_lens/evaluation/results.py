"""The results of an evaluation: accuracy by condition and by target, differences and rank correlations.

results = gl.evaluate(model, strips, conditions)
print(results)
results.accuracy("gaze"); results.compare("gaze", "random"); results.spearman("gaze")
results.table(); results.by_target(); results.comparisons(); results.answers
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any

from gaze_lens.errors import InputError
from gaze_lens.evaluation.condition import Condition
from gaze_lens.evaluation.paired_tests import McNemar, likeliest, mcnemar
from gaze_lens.evaluation.records import Generations, Record, chosen_warning, loss_lines
from gaze_lens.evaluation.shifts import ScoreShift, score_shift
from gaze_lens.evaluation.statistics import Difference, Estimate, difference, mean, spearman
from gaze_lens.heads.rank_correlation import rank_correlation
from gaze_lens.runs.journal import Line
from gaze_lens.text.caption_matching import repeats

if TYPE_CHECKING:
    from pandas import DataFrame, Series

Key = tuple[Any, ...]


def _once(figure: Callable[..., Any]) -> Callable[..., Any]:
    """Bootstrap a figure only once, because tables, plots and pages use the same ones."""

    @wraps(figure)
    def cached(self: "Results", *args: Any, **options: Any) -> Any:
        key = figure.__name__, args, tuple(sorted(options.items()))
        if key not in self._figures:
            self._figures[key] = figure(self, *args, **options)
        return self._figures[key]

    return cached


@dataclass(eq=False, repr=False)
class Results:
    """The judged answers of a run.

    generations: the answers. judge: the judge's name. judgements: an answer's key -> a judgement for each target.
    Errors of the judge, and answers that were skipped or failed, are counted separately; they are no misses. Intervals
    are bootstrapped over pictures (95 %, 10,000 resamples), with the run's seed.
    repeated_at: the Jaccard index of the words from which an answer repeats the unsteered one: 0.85 in the code of the
    paper's authors, 0.9 in the paper.
    """

    generations: Generations
    judge: str
    judgements: Mapping[Key, list[dict[str, Any]]]
    repeated_at: float = 0.85
    _figures: dict[Key, Any] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if not 0 < self.repeated_at <= 1:
            raise InputError(f"repeated_at={self.repeated_at} was given; give a share of words, such as 0.9.")

    @property
    def names(self) -> list[str]:
        """The conditions, in order."""
        return list(dict.fromkeys(condition["name"] for condition in self.generations.run["conditions"]))

    @property
    def missing(self) -> int:
        """Pictures that the run has not finished."""
        return self.generations.run["pictures"] - len(self.generations.finished() | self.generations.skipped.keys())

    @property
    def left_out(self) -> dict[str, str]:
        """Pictures that are in no figure -> why: those that could not be read, by the run or before it."""
        return self.generations.unused

    @property
    def chance(self) -> float:
        """The accuracy of a random choice, 0-1: the mean over pictures of 1 / number of regions; of questions, of 1 /
        number of choices, and 0 for those without choices."""
        shares = list(map(_chance, self.generations.pictures.values()))
        return sum(shares) / max(1, len(shares))

    @cached_property
    def answers(self) -> "DataFrame":
        """One row for each answer and target.

        Columns: picture, condition, draw, turn, target, place (the target's, in reading order, from 0), text, match,
        match_place, correct (1, 0, or NaN if it was not judged), margin, repeats (1 if the text has the words of the
        unsteered answer, else 0; NaN if there is none), error, skipped, failed.
        """
        import pandas

        columns = (
            "picture", "condition", "draw", "turn", "target", "place", "text", "match", "match_place", "correct",
            "margin", "repeats", "error", "skipped", "failed",
        )  # fmt: skip
        answered = [r for r in self.generations.records if not (r.skipped or r.failed)]
        plain = {(r.picture, r.targets): r.text for r in answered if not r.heads}
        rows = [row for record in self.generations.records for row in self._rows(record, plain)]
        return pandas.DataFrame(rows, columns=columns).astype({"correct": float, "margin": float, "repeats": float})

    @cached_property
    def by_likelihood(self) -> "DataFrame":
        """Of questions with choices, one row for each answer: is the right choice the most probable one?

        Columns: picture, condition, draw, choice (the most probable), correct (1 or 0), lead (by how much the right
        choice is ahead of the best other one, in nats; below 0 where it is not).
        """
        import pandas

        columns = ["picture", "condition", "draw", "choice", "correct", "lead"]
        records = [record for record in self.generations.records if record.likelihoods]
        asked = {name: line.get("question", {}) for name, line in self.generations.pictures.items()}
        return pandas.DataFrame([likeliest(record, asked[record.picture]) for record in records], columns=columns)

    def mcnemar(self, first: str, second: str, *, by: str = "text") -> McNemar:
        """`results.mcnemar("gaze", "none")`: McNemar's exact test on what both conditions answered.

        by: "text" (the judge), or "likelihood" of a question's choices. Raises InputError for conditions of several
        draws, which `compare` takes, and where nothing was judged in both.
        """
        table = self._one_draw((first, second), by)
        pair = ["picture", "target", "turn"] if by == "text" else ["picture"]
        right = table.pivot(index=pair, columns="condition", values="correct").dropna()
        return mcnemar(*(right[name].tolist() if name in right else [] for name in (first, second)))

    def shift(self, right: str = "gaze", wrong: str = "elsewhere", unsteered: str = "none") -> ScoreShift:
        """`results.shift("gaze", "elsewhere", "none")`: what steering to the right and to a wrong region does to the
        lead of the right choice, in nats, and how often they shift it in opposite directions (`score_shift`)."""
        names = right, wrong, unsteered
        leads = self._one_draw(names, "likelihood").pivot(index="picture", columns="condition", values="lead").dropna()
        if leads.empty or not set(names) <= set(leads):
            raise InputError("No question was answered in all three conditions, with choices; there is no shift.")
        toward, away, plain = (leads[name].to_numpy() for name in names)
        return score_shift(toward, away, plain, leads.index.tolist(), seed=self.generations.run["seed"])

    def _one_draw(self, names: Sequence[str], by: str) -> "DataFrame":
        """The answers of some conditions of one draw each."""
        if by not in ("text", "likelihood"):
            raise InputError(f"by={by!r} was given; give 'text' or 'likelihood'.")
        for name in names:
            if self._of(name).draw.nunique() > 1:
                raise InputError(f"The condition {name!r} has several draws; results.compare takes their mean.")
        table = self.answers if by == "text" else self.by_likelihood
        return table[table.condition.isin(names)]

    @cached_property
    def _ablating(self) -> set[str]:
        """The conditions that ablate: an answer as without them is no miss."""
        return {condition.name for condition in self.generations.conditions if condition.ablate}

    def _rows(self, record: Record, plain: Mapping[Key, str]) -> list[tuple]:
        places = {name: index for index, name in enumerate(self.generations.pictures[record.picture]["regions"])}
        is_steered = record.heads and not (record.skipped or record.failed or record.condition in self._ablating)
        unsteered = plain.get((record.picture, record.targets)) if is_steered else None
        repeated = None if unsteered is None else float(repeats(record.text, unsteered, least=self.repeated_at))
        judgements: list[dict[str, Any]] = self.judgements.get(record.key, [])
        rows = []
        for turn, target in enumerate(record.targets):
            text = record.pieces[turn] if turn < len(record.pieces) else ""
            judgement = judgements[turn] if judgements else dict.fromkeys(("match", "correct", "margin", "error"))
            correct = None if judgement["correct"] is None else float(judgement["correct"])
            match_place = places.get(judgement["match"])
            rows.append((
                record.picture, record.condition, record.draw, turn, target, places[target], text, judgement["match"],
                match_place, correct, judgement["margin"], repeated, judgement["error"], record.skipped,
                record.failed,
            ))  # fmt: skip
        return rows

    def _of(self, condition: str) -> "DataFrame":
        """The answers of a condition."""
        if condition not in self.names:
            raise InputError(f"There is no condition {condition!r}; there are {', '.join(map(repr, self.names))}.")
        return self.answers[self.answers.condition == condition]

    @_once
    def accuracy(
        self, condition: str, *, target: str | None = None, draw: int | None = None, repeats_as_misses: bool = False
    ) -> Estimate | None:
        """The share of judged answers that describe their target; None if none was judged.

        target: only answers with this target. draw: only this draw of a random control. repeats_as_misses: count
        answers that repeat the unsteered one as misses, as the paper does.
        """
        rows = self._of(condition).dropna(subset="correct")
        if repeats_as_misses:
            rows = rows.assign(correct=rows.correct.where(rows.repeats != 1, 0.0))
        rows = rows if target is None else rows[rows.target == target]
        rows = rows if draw is None else rows[rows.draw == draw]
        if rows.empty:
            return None
        return mean(rows.correct.to_numpy(), rows.picture.tolist(), seed=self.generations.run["seed"])

    @_once
    def _likelihood_accuracy(self, condition: str) -> Estimate | None:
        """The share of questions whose right choice is the most probable one; None without choices."""
        rows = self.by_likelihood[self.by_likelihood.condition == condition]
        if rows.empty:
            return None
        return mean(rows.correct.to_numpy(float), rows.picture.tolist(), seed=self.generations.run["seed"])

    @_once
    def compare(self, first: str, second: str) -> Difference | None:
        """How much more often the first condition describes the target, paired by picture and target.

        For random controls, the mean over draws counts. None if no pair was judged in both conditions.
        """
        pair = ["picture", "target"]
        one, other = (self._of(name).groupby(pair, sort=False).correct.mean() for name in (first, second))
        both = one.to_frame("one").join(other.to_frame("other"), how="inner").dropna()
        if both.empty:
            return None
        pictures = both.index.get_level_values("picture").tolist()
        seed = self.generations.run["seed"]
        return difference(both.one.to_numpy(), both.other.to_numpy(), pictures, seed=seed)

    def draws(self, condition: str) -> "Series":
        """The accuracy of each draw of a random control, by number; NaN where none of its answers was judged."""
        return self._of(condition).groupby("draw").correct.mean()

    def percentile(self, condition: str, control: str) -> float | None:
        """`results.percentile("gaze", "band")`: the share of the control's draws, 0-100, that the condition exceeds.

        A draw of equal accuracy counts half. None where no draw, or no answer of the condition, was judged.
        """
        draws, own = self.draws(control).dropna(), self._of(condition).correct.mean()
        if draws.empty or own != own:  # NaN is not itself
            return None
        return float(100 * ((draws < own).mean() + (draws == own).mean() / 2))

    @_once
    def spearman(self, condition: str) -> Estimate | None:
        """Rank correlation of scheduled and described places, over all pieces with a match; None without any."""
        rows = self._of(condition).dropna(subset="match_place")
        if rows.empty:
            return None
        seed = self.generations.run["seed"]
        return spearman(rows.place.to_numpy(), rows.match_place.to_numpy(float), rows.picture.tolist(), seed=seed)

    @_once
    def spearman_by_picture(self, condition: str, *, least: int = 2) -> Estimate | None:
        """The mean over pictures of the rank correlation of scheduled and described places in each; None without any.

        A picture with fewer than `least` pieces that have a match has none, and neither has one whose pieces all
        describe one place.
        """
        rows, found = self._of(condition).dropna(subset="match_place"), {}
        for key, pieces in rows.groupby(["picture", "draw"], sort=False):
            if len(pieces) >= least and pieces.match_place.nunique() > 1:
                found[key] = float(rank_correlation(pieces.place.to_numpy(), pieces.match_place.to_numpy(float)))
        if not found:
            return None
        return mean(list(found.values()), [picture for picture, _ in found], seed=self.generations.run["seed"])

    @_once
    def junk(self, condition: str) -> Estimate | None:
        """The share of judged answers that describe no region: incoherent, repetitive or empty ones; None without any.

        Judges that always choose a region (`LikelihoodJudge`) find none.
        """
        rows = self._of(condition).dropna(subset="correct")
        if rows.empty:
            return None
        return mean(rows.match.isna().to_numpy(), rows.picture.tolist(), seed=self.generations.run["seed"])

    def table(self) -> "DataFrame":
        """One row for each condition.

        Columns: condition, curve, heads, strength, draws, accuracy, low, high, n, least and most (of the draws),
        repeats (share of answers that repeat the unsteered one), without_repeats (accuracy if these count as misses, as
        in the paper), errors, skipped; where some steer to a mass, mass; of questions with
        choices, by_likelihood, likelihood_low, likelihood_high and likelihood_n; for a narration also rho, rho_low and
        rho_high; where answers failed, failed.
        """
        import pandas

        return pandas.DataFrame([self._summary(name) for name in self.names])

    def _summary(self, name: str) -> dict[str, Any]:
        draws = [condition for condition in self.generations.conditions if condition.name == name]
        rows, first = self._of(name), draws[0]
        by_draw = rows.groupby("draw").correct.mean()
        summary = {
            "condition": name, "curve": first.curve, "heads": len(first.heads or ()), "strength": _strength(first),
            "draws": len(draws), **_numbers(self.accuracy(name), "accuracy"), "least": by_draw.min(),
            "most": by_draw.max(), "repeats": rows.repeats.mean(), "without_repeats": _strict(rows),
            "errors": int(rows.error.notna().sum()), "skipped": int(rows.skipped.notna().sum()),
        }  # fmt: skip
        if any(condition.shares for condition in self.generations.conditions):
            summary["mass"] = first.mass if first.at_least is None else first.at_least
        if len(self.by_likelihood):
            summary |= _numbers(self._likelihood_accuracy(name), "by_likelihood", "likelihood_")
        if self.generations.failed:
            summary["failed"] = int(rows.failed.notna().sum())
        if self.generations.protocol.moves:
            rho = _numbers(self.spearman(name), "rho")
            summary |= {"rho": rho["rho"], "rho_low": rho["low"], "rho_high": rho["high"]}
        return summary

    def by_target(self) -> "DataFrame":
        """Accuracy by condition and target. Columns: condition, target, accuracy, low, high, n."""
        import pandas

        names = self.answers.target.unique()
        rows = [(c, t, _numbers(self.accuracy(c, target=t), "accuracy")) for c in self.names for t in names]
        return pandas.DataFrame([{"condition": c, "target": t, **numbers} for c, t, numbers in rows])

    def comparisons(self) -> "DataFrame":
        """The first condition against each of the others. Columns: first, second, difference, low, high, n, p."""
        import pandas

        first, *others = self.names
        rows = [(other, self.compare(first, other)) for other in others]
        return pandas.DataFrame([
            {"first": first, "second": other, **_numbers(figure, "difference"), "p": figure.p if figure else None}
            for other, figure in rows
        ])  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """All figures, for JSON."""
        import json

        tables = {"conditions": self.table(), "by target": self.by_target(), "comparisons": self.comparisons()}
        return {
            "run": self.generations.run, "judge": self.judge, "chance": self.chance, "unfinished": self.missing,
            "skipped pictures": self.left_out, "chosen on": self.generations.chosen,
            "failed answers": [_failure(record) for record in self.generations.failed],
            **{name: json.loads(table.to_json(orient="records")) for name, table in tables.items()},
        }  # fmt: skip

    def __repr__(self) -> str:
        run = self.generations.run
        return f"Results of {run['protocol']['name']} on {run['pictures']} pictures, judged by {self.judge}"

    def __str__(self) -> str:
        lines = [repr(self), f"{'condition':<16}{'heads':>6}  describes the target (chance {self.chance:.1%})"]
        for row in self.table().to_dict("records"):
            share = "{accuracy:.1%} [{low:.1%}, {high:.1%}] of {n}".format_map(row) if row["n"] else "not judged"
            others = [f"; {row[name]} {name}" for name in ("errors", "skipped", "failed") if row.get(name)]
            lines.append(f"{row['condition']:<16}{row['heads']:>6}  {share}{''.join(others)}")
        return "\n".join(lines + self.caveats())

    def caveats(self) -> list[str]:
        """What is not in the figures, and what makes them doubtful; a line for each reason."""
        lines = [f"{self.missing} pictures are not finished."] * bool(self.missing)
        lines += loss_lines(self.generations)
        if self.generations.chosen:
            lines.append(f"Warning: {chosen_warning(self.generations)}")
        return lines


def _failure(record: Record) -> dict[str, Any]:
    names = "picture", "condition", "draw", "targets", "failed"
    return {name: getattr(record, name) for name in names}


def _strict(rows: "DataFrame") -> float:
    """The accuracy if answers that repeat the unsteered one count as misses; NaN without such answers."""
    rows = rows.dropna(subset=["correct", "repeats"])
    return (rows.correct * (1 - rows.repeats)).mean()


def _strength(condition: Condition) -> float | None:
    """The largest number of a condition's mode, in logits; None if nothing is steered."""
    mode = condition.mode
    numbers = mode.target, mode.others, mode.prompt, mode.generated
    return None if condition.heads is None or condition.ablate or condition.shares else max(map(abs, numbers))


def _numbers(estimate: Estimate | None, name: str, prefix: str = "") -> dict[str, Any]:
    """An estimate as columns, which are None if it is. prefix: of the names of its interval and number."""
    low, high, n = (f"{prefix}{column}" for column in ("low", "high", "n"))
    if estimate is None:
        return {name: None, low: None, high: None, n: 0}
    return {name: estimate.value, low: estimate.low, high: estimate.high, n: estimate.n}


def _chance(line: Line) -> float:
    """The accuracy of a random choice about one picture."""
    if "question" in line:
        choices = line["question"]["choices"]
        return 1 / len(choices) if choices else 0.0
    return 1 / len(line["regions"])
