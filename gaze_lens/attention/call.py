"""One call of the attention function: what `transformers` hands over, and the plain computation on it.

`attention_function.py` decides what is computed of it; here is how, bit for bit as Hugging Face's eager attention does.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import repeat_kv

from gaze_lens.attention.positions import QueryKeyPositions

Rows = slice | list[int]  # of queries
UNGROUPED = nn.Identity().eval()  # to Hugging Face's kernels, a module whose every head has its own keys and values


@dataclass(frozen=True, eq=False)
class Call:
    """One call of the attention function: `[batch, head, position, d_head]`, keys and values per KV head."""

    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    positions: QueryKeyPositions
    scaling: float
    softcap: float | None
    sinks: Tensor | None
    dropout: float
    upcast: bool
    extra: dict[str, Any]

    @property
    def groups(self) -> int:
        """Query heads per KV head."""
        return self.query.shape[1] // self.key.shape[1]

    @property
    def causal(self) -> bool:
        """Whether, without a mask, queries see no later keys."""
        if self.positions.cross_attention:
            return False
        argument = self.extra.get("is_causal")
        if argument is not None:
            return argument
        # For a model whose own attention is eager, Hugging Face would have made a mask. Ours asks for masks of SDPA,
        # which are left out where the triangle is meant, whatever the module says (PaliGemma 2, text alone).
        layer = getattr(self.module, "gaze_lens_layer", None)
        is_eager = layer is not None and layer.backend.default == "eager"
        return is_eager or getattr(self.module, "is_causal", True)

    def only(self, heads: list[int]) -> "Call":
        """The same call for some heads, each with keys and values of its own."""
        kv_heads = [head // self.groups for head in heads]
        key, value = self.key[:, kv_heads], self.value[:, kv_heads]
        extra = {**self.extra, "is_causal": self.causal}
        sinks = None if self.sinks is None else self.sinks[heads]
        query = self.query[:, heads]
        return replace(self, module=UNGROUPED, query=query, key=key, value=value, sinks=sinks, extra=extra)

    def at_keys(self, columns: Int[Tensor, " key"]) -> "Call":
        """The same call on some of the keys; its positions and its mask stay those of the whole call."""
        return replace(self, key=self.key.index_select(2, columns), value=self.value.index_select(2, columns))

    def block(self, queries: slice, keys: slice) -> "Call":
        """The same call for some queries on some keys; its positions and its mask stay those of the whole call."""
        return replace(self, query=self.query[:, :, queries], key=self.key[:, :, keys], value=self.value[:, :, keys])

    def visible(self, rows: Rows = slice(None)) -> Bool[Tensor, "#batch #head query key"]:
        """What the model lets (some rows of) the queries see; without a mask, the triangle over true positions."""
        if self.mask is not None:
            mask = self.mask[..., rows, : self.key.shape[-2]]
            return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
        keys = self.positions.key_start + torch.arange(self.positions.n_keys, device=self.query.device)
        queries = self.positions.query_start + torch.arange(self.positions.n_queries, device=self.query.device)[rows]
        seen = (keys[None, :] <= queries[:, None]) | (not self.causal)
        return seen.expand(self.query.shape[0], 1, -1, -1)

    def additive(self, rows: Rows = slice(None)) -> Float[Tensor, "#batch #head query key"]:
        """The mask as a number to add to scores: 0, or the dtype's lowest value where the model looks away."""
        if self.mask is not None and self.mask.dtype != torch.bool:
            return self.mask[..., rows, : self.key.shape[-2]]
        zero = torch.zeros((), dtype=self.query.dtype, device=self.query.device)
        return torch.where(self.visible(rows), zero, torch.finfo(self.query.dtype).min)

    def scores(self, query: Tensor, key: Tensor) -> Float[Tensor, "batch head query key"]:
        """Scaled scores, under the model's soft cap where it has one."""
        scores = torch.matmul(query, key.transpose(2, 3)) * self.scaling
        return scores if self.softcap is None else torch.tanh(scores / self.softcap) * self.softcap

    def scores_of_rows(self, rows: Rows) -> Float[Tensor, "batch head query key"]:
        """Scaled scores of some queries, not masked, without repeating KV heads."""
        query = self.query[:, :, rows]
        batch, n_heads, n_rows, d_head = query.shape
        grouped = query.reshape(batch, -1, self.groups * n_rows, d_head)
        return self.scores(grouped, self.key).reshape(batch, n_heads, n_rows, -1)

    def masked_scores(self, mask: Float[Tensor, "#batch #head query key"]) -> Float[Tensor, "batch head query key"]:
        """Scores with an additive mask; what is masked holds the dtype's lowest value, in half precision too."""
        scores = self.scores(self.query, repeat_kv(self.key, self.groups)) + mask
        return scores.masked_fill_(~self.visible(), torch.finfo(scores.dtype).min)

    def softmax(self, scores: Float[Tensor, "batch head query key"]) -> Float[Tensor, "batch head query key"]:
        """Softmax as in the model's own eager attention; attention sinks take their share and are cut off again."""
        if self.sinks is None:
            dtype = torch.float32 if self.upcast else scores.dtype
            if scores.dtype == torch.float64 and self.upcast:  # its lowest value would be -inf in float32: NaN in rows
                scores = scores.clamp(min=torch.finfo(torch.float32).min)  # that see nothing
            return nn.functional.softmax(scores, dim=-1, dtype=dtype).to(self.query.dtype)
        sinks = self.sinks.reshape(1, -1, 1, 1).expand(scores.shape[0], -1, scores.shape[-2], -1)
        joined = torch.cat([scores, sinks.to(scores.dtype)], dim=-1)
        joined = joined - joined.amax(dim=-1, keepdim=True)
        return nn.functional.softmax(joined, dim=-1, dtype=joined.dtype)[..., :-1].to(self.query.dtype)

    def dropped(self, weights: Float[Tensor, "batch head query key"]) -> Float[Tensor, "batch head query key"]:
        """Weights under the model's dropout, which is none outside of training."""
        if not (self.dropout and self.module.training):
            return weights
        return nn.functional.dropout(weights, p=self.dropout, training=True)

    def mix(self, weights: Float[Tensor, "batch head query key"]) -> Float[Tensor, "batch query head d_head"]:
        """The values, weighted."""
        return torch.matmul(weights, repeat_kv(self.value, self.groups)).transpose(1, 2).contiguous()
