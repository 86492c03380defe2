"""What one forward tells about the image: for every prompt and head, attention summed over regions, and over cells.

readings = read_attention(model, inputs, at="prompt", size=6, n_rows=[6, 6], n_asked=[6, 4])

The queries are the last prompt token of each row, or the positions that predict its answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gaze_lens.attention.positions import Positions, QueryKeyPositions
from gaze_lens.attention.row_reader import RowReader
from gaze_lens.errors import ModelError
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.model.shared_prefix import SharedPrefixBatch
from gaze_lens.model_protocol import Model
from gaze_lens.regions.image_tokens import ImageTokens

Queries = Sequence[Sequence[int]]  # of each row


@dataclass(frozen=True, eq=False)
class StripReading:
    """Where every head looked, of one strip.

    sample: attention mass on panel `attended` when the question was about panel `asked`.
    image_mass: on the whole image, or on all passages.
    mean_map: mean attention to each cell of the image's grid, over questions; None where there is no one grid.
    """

    sample: Float[Tensor, "layer head _ _"]
    image_mass: Float[Tensor, "layer head _"]
    mean_map: Float[Tensor, "layer head _ _"] | None


@dataclass(frozen=True, eq=False)
class Columns:
    """What the keys of a forward are, and which of its queries count.

    member: 1 where a key is a token of a region, the last of which is the whole image; else 0.
    cells: one more than the index of the key's cell in the image's grid; 0 for none.
    weights: of each row of the batch in its strip's mean map.
    """

    member: Float[Tensor, "group key region"]
    cells: Float[Tensor, "group key"]
    weights: Float[Tensor, " row"]


@torch.no_grad()
def read_attention(
    model: Model, inputs: VLMInputs, at: str, size: int | None, n_rows: Sequence[int], n_asked: Sequence[int]
) -> list[StripReading]:
    """A reading of each strip of a batch.

    size: how many neighbouring rows may share a prefix; None where every row runs in full. n_rows, n_asked: for each
    strip its rows, and how many of them ask about a panel of their own; the others repeat.
    """
    last = ((inputs.last_position,),) * inputs.n_rows
    cross_attention = inputs.layout.cross_attention and not inputs.passages
    rows: Queries = inputs.answer_positions if at == "answer" else last
    columns, grids = _columns(inputs, n_rows, n_asked)
    split = None if size is None else SharedPrefixBatch.of(inputs, size, [min(row) for row in rows])
    if split is not None:
        rows, columns = split.columns(rows), _shared(split, columns)
    n_cells = max((height * width for height, width in filter(None, grids)), default=0)
    reader, by_layer = _reader(rows, columns, n_cells, cross_attention)
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers)]
    hooks = [(name, reader) for name in names if name in model.hook_dict]  # a layer without softmax has no pattern
    if split is None:
        keep = inputs.last_logits
        model.run_with_hooks(inputs, fwd_hooks=hooks, return_type=None, logits_to_keep=keep, use_cache=False)
    else:
        split.run(model, inputs, hooks)
    masses = torch.zeros(inputs.n_rows, model.cfg.n_layers, model.cfg.n_heads, columns.member.shape[-1])
    maps = torch.zeros(len(columns.cells), model.cfg.n_layers, model.cfg.n_heads, n_cells)
    for layer, (mass, on_cells) in by_layer.items():
        masses[:, layer], maps[:, layer] = mass.cpu(), on_cells.cpu()
    if masses.isnan().any():
        raise ModelError("The attention holds NaN: the weights or their precision are at fault; try float32.")
    n_groups = [n // (len(rows) // len(columns.cells)) for n in n_rows]
    of_strips = zip(masses.split(list(n_rows)), maps.split(n_groups), n_asked, grids, strict=True)
    return [_reading(mass, on_cells.sum(0), n, grid) for mass, on_cells, n, grid in of_strips]


def _reading(
    masses: Float[Tensor, "row layer head region"],
    on_cells: Float[Tensor, "layer head cell"],
    n_panels: int,
    grid: tuple[int, int] | None,
) -> StripReading:
    panels = masses[:n_panels, ..., :n_panels].permute(1, 2, 0, 3).contiguous()
    whole = masses[:n_panels, ..., -1].permute(1, 2, 0).contiguous()
    mean_map = None if grid is None else on_cells[..., : grid[0] * grid[1]].unflatten(-1, grid).clone()
    return StripReading(panels, whole, mean_map)


def _columns(
    inputs: VLMInputs, n_rows: Sequence[int], n_asked: Sequence[int]
) -> tuple[Columns, list[tuple[int, int] | None]]:
    """What the positions of a batch are; and for each strip the grid of its image, if it has one."""
    member = membership(inputs)
    whole = torch.zeros(*member.shape[:2], 1)
    for row, positions in enumerate(inputs.layout.all_segments if inputs.passages else inputs.layout.images):
        whole[row, list(positions)] = 1.0
    cells, of_rows = torch.zeros(member.shape[:2]), dict[int, tuple[int, int] | None]()
    for tokens in inputs.image_tokens:
        alone = len(inputs.pictures[tokens.row]) == 1  # cells of several pictures would be summed
        grid = of_rows[tokens.row] = _grid(tokens) if alone else None
        if grid is not None:
            has_cell = tokens.cells[:, 0] >= 0
            index = tokens.cells[has_cell] @ torch.tensor([grid[1], 1])
            cells[tokens.row, tokens.positions[has_cell]] = 1.0 + index.to(cells)
    firsts = [sum(n_rows[:index]) for index in range(len(n_rows))]
    pairs = zip(n_rows, n_asked, strict=True)
    weights = [float(row < asked) / asked for n, asked in pairs for row in range(n)]
    return Columns(torch.cat([member, whole], 2), cells, torch.tensor(weights)), [of_rows.get(row) for row in firsts]


def _grid(tokens: ImageTokens) -> tuple[int, int] | None:
    """The rows and columns of an image that is seen in one view, all cells of which have a token; else None."""
    has_cell = tokens.cells[:, 0] >= 0
    if len(tokens.view[has_cell].unique()) != 1:
        return None
    height, width = tokens.grid
    return (height, width) if int(has_cell.sum()) == height * width else None


def _shared(split: SharedPrefixBatch, columns: Columns) -> Columns:
    """The same, over the columns of the shared prefix of each group."""
    cells = split.shared_columns(columns.cells[..., None])[..., 0]
    return Columns(split.shared_columns(columns.member), cells, columns.weights)


def _reader(
    rows: Queries, columns: Columns, n_cells: int, cross_attention: bool
) -> tuple[RowReader, dict[int, tuple[Float[Tensor, "row head region"], Float[Tensor, "group head cell"]]]]:
    """A reader of query positions, and the dictionary that it fills: layer -> mean mass on regions, attention on cells.

    rows: the query positions of each row. A row of the forward holds a group of these rows, side by side, all groups
    with equally many. cross_attention: whether the regions are keys of cross-attention layers.
    """
    by_layer: dict[int, tuple[Tensor, Tensor]] = {}
    size = len(rows) // len(columns.cells)
    groups = [rows[first : first + size] for first in range(0, len(rows), size)]
    in_map = columns.weights.view(len(groups), size)

    def read(weights: Tensor, positions: list[int], place: QueryKeyPositions, layer: int) -> None:
        if place.cross_attention != cross_attention:  # there is no region among these keys
            return
        span = slice(place.keys.start, place.keys.stop)  # a sliding cache drops the oldest
        keys, cells = columns.member[:, span].to(weights.device), columns.cells[:, span].to(weights.device).long()
        rows_read = weights[..., : keys.shape[1]].float()
        is_query = torch.tensor([[[at in row for at in positions] for row in group] for group in groups]).to(rows_read)
        mean_of = is_query / is_query.sum(2, keepdim=True)
        masses = torch.einsum("ghqk,gkr->ghqr", rows_read, keys)
        mean = torch.einsum("gnq,ghqr->gnhr", mean_of, masses)
        by_key = torch.einsum("gn,gnq,ghqk->ghk", in_map.to(rows_read), mean_of, rows_read)
        on_cells = by_key.new_zeros(*by_key.shape[:2], 1 + n_cells)  # the first is for keys that are no cell
        on_cells.scatter_add_(2, cells[:, None].expand_as(by_key), by_key)
        by_layer[layer] = mean.flatten(0, 1), on_cells[..., 1:]

    queries = tuple(tuple(at for row in group for at in row) for group in groups)
    return RowReader(Positions(queries), read), by_layer


def membership(inputs: VLMInputs) -> Float[Tensor, "row position region"]:
    """1 where a key of the prompt is a token of a region of the row's picture or video, or of its text; else 0."""
    if inputs.passages:
        return _segment_membership(inputs)
    if inputs.videos:
        return _membership_in_videos(inputs)
    n_regions = [[len(picture.regions) for picture in pictures] for pictures in inputs.pictures]
    member = torch.zeros(inputs.n_rows, inputs.layout.n_keys, max(map(sum, n_regions)))
    for tokens in inputs.image_tokens:
        first = sum(n_regions[tokens.row][: tokens.image])  # pictures of one prompt may have regions of the same name
        for index, name in enumerate(inputs.pictures[tokens.row][tokens.image].regions, first):
            positions = list(inputs.positions_of(name, row=tokens.row, image=tokens.image))
            member[tokens.row, positions, index] = 1.0
    return member


def _membership_in_videos(inputs: VLMInputs) -> Float[Tensor, "row position region"]:
    """1 where a position of the prompt is a token of a region of the row's video, else 0."""
    names = [inputs.region_names(row) for row in range(inputs.n_rows)]
    member = torch.zeros(inputs.n_rows, inputs.layout.length, max(map(len, names)))
    for row, of_row in enumerate(names):
        for index, name in enumerate(of_row):
            member[row, list(inputs.positions_of(name, row=row)), index] = 1.0
    return member


def _segment_membership(inputs: VLMInputs) -> Float[Tensor, "row position region"]:
    """1 where a position of the prompt is a token of a passage, else 0."""
    member = torch.zeros(inputs.n_rows, inputs.layout.length, max(map(len, inputs.layout.segments)))
    for row, segments in enumerate(inputs.layout.segments):
        for index, positions in enumerate(segments):
            member[row, list(positions), index] = 1.0
    return member
