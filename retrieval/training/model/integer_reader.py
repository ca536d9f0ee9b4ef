"""The reader in int8, as queries run it: one text with many images whose regions are stored as int8.

It computes the forward pass of `reader`, with these differences:

- Products in int8 (`integer_product`, see `rounding`): all of cross-attention to an image, the feed-forward layers, the
  logits of the leading tokens, and the first layer of `rest_estimator`.
- Keys and values are never computed, see `MultiHeadAttention.forward_folded`. Attention logits are a product of
  rounded queries with the stored regions as they are, and so are the weighted means of the regions.
- Reading without an image attends to a single vector, which gets the whole weight: no softmax is needed. This
  attention stays in float32.
- The partition function is estimated, see `Reader.estimated_log_partition`.

In float32 stay embedding and self-attention, (1) and (2), which run once a query, the logits of the text's own tokens
(`Reader.target_logits`), and the last layer of `rest_estimator`.

Shapes: p = min(m - 2, 48) positions, since EOS is not scored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.nn.functional import gelu, softplus

from retrieval.training.model.rounding import INT8_MAX, integer_product, place_of, rounded

if TYPE_CHECKING:
    from torch import Tensor

    from retrieval.training.model.blocks import Block
    from retrieval.training.model.model import FusionNetwork

WEIGHT_STEPS = 255  # attention weights, 0 to 1, are rounded to 0..255


class IntegerReader(nn.Module):
    """`Reader.forward` for regions that are int8."""

    def __init__(self, scorer: FusionNetwork) -> None:
        """scorer: after `fit_estimate` and `fit_ranges`, in evaluation mode."""
        super().__init__()
        self.reader = scorer.reader
        self.regions = scorer.regions
        self.ranges: list[list[float]] = scorer.ranges.tolist()

    def forward(self, tokens: Tensor, regions: Tensor) -> Tensor:
        """Fusion, float [n]. tokens: float [m, 768], from BOS to EOS. regions: int8 [n, 49, dim]."""
        reader = self.reader
        previous, targets = reader.shifted(tokens[:-1])  # EOS is not scored
        is_token = (targets != 0).any(-1)
        states = blind = reader.read_text(previous)
        for layer, block in enumerate(reader.cross_attention_layers):
            states = self.feed_forward(layer, block, states + self.attend(layer, block, states, regions))
            blind = self.feed_forward(layer, block, blind + block.attention.forward_single(reader.no_image))
        with_image, without = self.log_likelihoods(states, targets), self.log_likelihoods(blind, targets)
        return reader.fusion((with_image * is_token).sum(-1), (without * is_token).sum(-1))

    def attend(self, layer: int, block: Block, states: Tensor, regions: Tensor) -> Tensor:
        """`MultiHeadAttention.forward_folded` of the normed states: [p, dim] or [n, p, dim] -> float [n, p, dim].
        regions: int8 [n, 49, dim]."""
        attention = block.attention
        key_weights = attention.k_proj.weight.unflatten(0, (attention.heads, -1))
        value_weights = attention.v_proj.weight.unflatten(0, (attention.heads, -1))
        queries = self.linear(layer, "states", block.attention_norm(states), attention.q_proj)
        queries = attention.split_heads(queries)
        folded = self.product(layer, "queries", queries, *rounded(key_weights)).flatten(-3, -2)
        scale = self.regions.scale / key_weights.shape[1] ** 0.5  # of the regions, and 1 / sqrt(d_k)
        weights = self.product(layer, "folded_queries", folded, regions.transpose(-1, -2), scale).softmax(-1)
        means = self.region_means(weights, regions).unflatten(-2, (attention.heads, -1))
        attended = self.product(layer, "region_means", means, *rounded(value_weights.transpose(-1, -2)))
        attended = attention.join_heads(attended)
        bias = attention.out_proj(attention.v_proj.bias)
        return self.product(layer, "attended", attended, *rounded(attention.out_proj.weight.T), bias)

    def feed_forward(self, layer: int, block: Block, states: Tensor) -> Tensor:
        """The states after the feed-forward layer, of the same shape."""
        inputs = block.feed_forward_norm(states)
        hidden = gelu(self.linear(layer, "feed_forward_inputs", inputs, block.feed_forward[0]))
        return states + self.linear(layer, "feed_forward_hidden", hidden, block.feed_forward[3])

    def log_likelihoods(self, states: Tensor, targets: Tensor) -> Tensor:
        """log p of each target token: float [..., p, dim], before the final norm -> [..., p]."""
        reader, last = self.reader, len(self.reader.cross_attention_layers)
        states = reader.final_norm(states)
        weights, bias = reader.output_weights(reader.leading_tokens)
        logits = self.product(last, "states", states, *rounded(weights.T), bias)
        largest = logits.amax(-1, keepdim=True)  # logsumexp by hand, which the runtime does faster than its own
        leading = (logits - largest).exp().sum(-1).log() + largest[..., 0]
        rest = reader.rest_estimator[2](gelu(self.linear(last, "states", states, reader.rest_estimator[0])))[..., 0]
        return reader.target_logits(states, targets) - leading - softplus(rest - leading)

    def linear(self, layer: int, place: str, x: Tensor, module: nn.Linear) -> Tensor:
        """`module(x)`, rounded at a place of `PLACES`. x: [..., in]."""
        return self.product(layer, place, x, *rounded(module.weight.T), module.bias)

    def product(
        self, layer: int, place: str, x: Tensor, integers: Tensor, scales: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """See `integer_product`. x is rounded by the range of the place: low and high become -z and 127 - z steps."""
        low, high = self.ranges[place_of(layer, place)]
        scale = (high - low) / INT8_MAX
        return integer_product(x, integers, scales, bias, scale, round(-low / scale))

    def region_means(self, weights: Tensor, regions: Tensor) -> Tensor:
        """Regions averaged by attention weights [n, heads * p, 49]; float [n, heads * p, dim]. regions: int8."""
        return integer_product(weights, regions, self.regions.scale, None, 1 / WEIGHT_STEPS, 0)
