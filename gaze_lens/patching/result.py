"""The result of a sweep: TransformerLens' `PatchingResult`, with the clean run, named tables and the best heads.

result.table()                      # layer, head, positions, mean, low, high, recovery
result.top(5, positions="last")     # the five heads with the largest recovery there
result.grid(positions="panel 4")    # [layer, head]
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from io import StringIO

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.patching import PatchingResult

from gaze_lens.errors import InputError
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.html_tables import html_table
from gaze_lens.model_protocol import Model
from gaze_lens.patching.metrics import BatchMetrics
from gaze_lens.runs.files import write_whole


@dataclass
class PatchResult(PatchingResult):
    """`result.table()`: what every patched run of a sweep measured.

    values: the metric of every patched run, `[metric?, cell, row]`. index_df: a row for each cell; its columns are
        those of layer, head ("kv_head" for keys and values, whose heads several query heads share) and positions that
        the activation has.
    baseline, clean: the metric of the corrupted and of the clean run, `[metric?, row]`.
    what: the activation. model, fingerprint, shape: of the model; shape is (layers, heads).
    """

    clean: Float[Tensor, "*metric row"] = field(default_factory=lambda: torch.zeros(0))
    what: str = ""
    model: str | None = None
    fingerprint: str | None = None
    shape: tuple[int, int] = (0, 0)

    def __getitem__(self, metric_name: str) -> "PatchResult":
        """`result["logit difference"]`: one metric's result. Raises KeyError for a name that is not there."""
        single = super().__getitem__(metric_name)
        if single is self:
            return self
        index = self.metric_names.index(metric_name)
        return replace(
            self, values=single.values, metric_names=[metric_name], baseline=single.baseline,
            clean=self.clean[index], has_metric_axis=False,
        )  # fmt: skip

    def _repr_html_(self) -> str:
        frame = self.table()
        title = f"{len(frame)} patched runs of {self.what}"
        return html_table(title, list(map(str, frame.columns)), frame.itertuples(index=False))

    def recovery(self) -> Float[Tensor, "*metric cell"]:
        """How far each cell moves the metric from the corrupted to the clean run: 0 not at all, 1 all the way.

        It is computed from means over rows, as a single row whose two metrics are close would give huge values;
        `normalized(result.clean)` has it row by row. NaN or infinite where the two runs do not differ on average.
        """
        if self.baseline is None:
            raise InputError("There is no baseline to compare with; patch with gl.patch, which measures one.")
        corrupted, clean = self.baseline.mean(-1, keepdim=True), self.clean.mean(-1, keepdim=True)
        return (self.mean() - corrupted) / (clean - corrupted)

    def table(self, *, confidence: float = 0.95) -> pd.DataFrame:
        """A row for every cell (and metric): its index, the mean over rows, its interval, and the recovery.

        low, high: the interval of the mean, by bootstrap over rows, at this confidence; of one row both are the mean.
        """
        low, high = self.bootstrap_ci(confidence=confidence)
        columns = {"mean": self.mean(), "low": low, "high": high, "recovery": self.recovery()}
        flat = {name: tensor.flatten().tolist() for name, tensor in columns.items()}
        index = pd.concat([self.index_df] * len(self.metric_names), ignore_index=True)
        if self.has_metric_axis:
            index.insert(0, "metric", [name for name in self.metric_names for _ in range(len(self.index_df))])
        return index.assign(**flat)

    def top(self, k: int, *, positions: str | None = None) -> HeadSet:
        """`result.top(5, positions="last")`: the heads with the largest recovery when patched there, best first.

        positions: the name of a group; needed where there are several. The recovery of a sender is the sum over its
            edges. Raises InputError where no heads were patched.
        """
        if "head" not in self.index_df:
            unit = "KV heads, which query heads share," if "kv_head" in self.index_df else "no heads"
            raise InputError(f"what={self.what!r} patches {unit} and has no top heads; result.table() has every cell.")
        cells, recovery = self._at(positions)
        best = recovery.argsort(descending=True, stable=True)[:k].tolist()
        heads = [(int(cells["layer"].iloc[i]), int(cells["head"].iloc[i])) for i in best]
        provenance = {
            "method": f"patching {self.what}",
            "positions": cells["positions"].iloc[0],
            "metric": self.metric_names[0],
        }
        return HeadSet(heads, model=self.model, fingerprint=self.fingerprint, provenance=provenance)

    def grid(self, positions: str | None = None) -> Float[Tensor, " layer *head"]:
        """`result.grid("last")`: the recovery by layer and head, or by layer; NaN where nothing was patched.

        positions: the name of a group; needed where there are several. The recovery of a sender is the sum over its
            edges.
        """
        if "layer" not in self.index_df:
            raise InputError(f"what={self.what!r} has no layers; result.table() has every cell.")
        cells, recovery = self._at(positions)
        column = next((name for name in ("head", "kv_head") if name in cells), None)
        layers = torch.tensor(cells["layer"].to_list())
        if column is None:
            return torch.full(self.shape[:1], torch.nan).index_put((layers,), recovery)
        heads = torch.tensor(cells[column].to_list())
        width = self.shape[1] if column == "head" else int(heads.max()) + 1
        return torch.full((self.shape[0], width), torch.nan).index_put((layers, heads), recovery)

    def save(self, path: str | os.PathLike[str]) -> None:
        """`result.save("patching.csv")`: the table, as CSV; the file is complete or not there at all."""
        text = StringIO()
        self.table().to_csv(text, index=False)
        write_whole(path, text.getvalue().encode())

    def _at(self, positions: str | None) -> tuple[pd.DataFrame, Float[Tensor, " cell"]]:
        """The cells of a group of positions, and their recovery; the edges of a sender are one cell."""
        if self.has_metric_axis:
            raise InputError(f"There are several metrics; choose one: result[{self.metric_names[0]!r}].")
        names = list(dict.fromkeys(self.index_df["positions"]))
        if positions is None and len(names) == 1:
            positions = names[0]
        if positions not in names:
            raise InputError(f"positions={positions!r} was given; name one of the groups that were patched: {names}.")
        mask = torch.tensor((self.index_df["positions"] == positions).to_list())
        cells, recovery = self.index_df[mask.numpy()], self.recovery()[mask]
        if "receiver" not in cells:
            return cells, recovery
        senders = cells.groupby(["layer", "head"], sort=False).ngroup().to_numpy()
        summed = recovery.new_zeros(int(senders.max()) + 1).index_add(0, torch.from_numpy(senders), recovery)
        return cells.drop_duplicates(["layer", "head"]), summed


def result_of(
    model: Model,
    what: str,
    index: pd.DataFrame,
    values: Sequence[Float[Tensor, "metric row"]],
    metrics: BatchMetrics,
    *,
    clean: Float[Tensor, "metric row"],
    baseline: Float[Tensor, "metric row"],
) -> PatchResult:
    """The result of a sweep. A single metric without a name has no axis of its own."""
    stacked, several = torch.stack([*values], dim=1), metrics.named
    return PatchResult(
        values=stacked if several else stacked[0],
        axis_names=[],
        index_df=index,
        metric_names=list(metrics.functions),
        reduced=False,
        baseline=baseline if several else baseline[0],
        has_metric_axis=several,
        clean=clean if several else clean[0],
        what=what,
        model=model.cfg.model_name,
        fingerprint=model.fingerprint,
        shape=(model.cfg.n_layers, model.cfg.n_heads),
    )
