"""Fusion of many pairs of a text and an image at once: the forward pass of `retrieval.training.model.reader` arranged
for a GPU. The equations and their numbers are there.

What pairs share is computed once:

    of an image, whatever the texts     keys and values of all layers, by one product: R [W_K1 W_V1 ... W_KL W_VL]
    of a text, whatever the images      (1), (2), the queries of the first layer, the output weights of its tokens, and
                                        all of the reading without an image
    always                              the output weights of the leading tokens, and the scale of stored regions, which
                                        becomes a factor of W_K and W_V

The tokens of all pairs lie on one axis, without padding. Texts of one length are neighbours, so that attention takes
the pairs of one length as a dense batch:

    text of 3 tokens with 2 images, text of 5 with one:     a b c a b c d e f g h     2 pairs of 3, 1 pair of 5

Products are computed in one dtype (float16 on a GPU), and norms, sums over tokens and log likelihoods in float32."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import gelu, scaled_dot_product_attention, softplus

if TYPE_CHECKING:
    from torch import Tensor

    from retrieval.training.model.blocks import Block
    from retrieval.training.model.model import FusionNetwork
    from retrieval.training.model.reader import Reader


class PairReader(nn.Module):
    """See the module's docstring. Its weights are copies of the network's."""

    def __init__(self, network: FusionNetwork, dtype: torch.dtype) -> None:
        """network: after `fit_estimate`, in evaluation mode. dtype: of the products."""
        super().__init__()
        self.reader: Reader = deepcopy(network.reader)
        self.layers = deepcopy(self.reader.cross_attention_layers)
        for module in self.layers.modules():
            if isinstance(module, nn.Linear):
                module.to(dtype)
        attentions = [block.attention for block in self.reader.cross_attention_layers]
        projections = [linear for layer in attentions for linear in (layer.k_proj, layer.v_proj)]
        self.keys_values = _side_by_side(
            [projection.weight * network.regions.scale for projection in projections],
            [projection.bias for projection in projections],
            dtype,
        )
        weights, bias = self.reader.output_weights(self.reader.leading_tokens)
        rest = self.reader.rest_estimator[0]
        self.outputs = _side_by_side([weights, rest.weight], [bias, rest.bias], dtype)
        self.dtype = dtype

    def project(self, regions: Tensor) -> Tensor:
        """Keys and values of images: int8 [n, 49, dim] -> [n, 49, layers, 2, heads, dim / heads]."""
        heads = self.reader.settings.heads
        return self.keys_values(regions.to(self.dtype)).unflatten(-1, (len(self.layers), 2, heads, -1))

    def forward(
        self, rows: Tensor, texts: Tensor, images: Tensor, projected: Tensor, lengths: Sequence[tuple[int, int]]
    ) -> Tensor:
        """Fusion (6) of pairs, float32 [pairs].

        rows: float32 [t, p + 1, 384], the word table rows of each text without EOS, at most `max_tokens` + 1 of them;
        zeros after its end. texts: int64 [pairs], the row of `rows` of each pair, such that the lengths of the texts
        ascend. images: int64 [pairs], the row of `projected`. projected: see `project`. lengths: (length, pairs) of the
        texts of each length, BOS not counted, as they ascend."""
        targets, width = rows[:, 1:], rows.shape[1] - 1
        text_states, is_token = self._read(rows[:, :-1]), (targets != 0).any(-1)
        weights, bias = self.reader.output_weights(targets)
        without = (self._log_likelihoods(self._without_image(text_states), weights, bias) * is_token).sum(-1)

        parts = texts.split([pairs for _, pairs in lengths])
        positions = torch.arange(width, device=rows.device)
        place = torch.cat(  # of each token of each pair among the tokens of all texts
            [
                (part.unsqueeze(1) * width + positions[:length]).flatten()
                for part, (length, _) in zip(parts, lengths, strict=True)
            ]
        )
        states = text_states.flatten(0, 1)[place]
        for index, block in enumerate(self.layers):
            queries = block.attention.q_proj(block.attention_norm(text_states if index == 0 else states).to(self.dtype))
            queries = queries.flatten(0, 1)[place] if index == 0 else queries
            attended = self._attend(block, queries, projected[:, :, index], images, lengths)
            states += block.attention.out_proj(attended)
            states += block.feed_forward(block.feed_forward_norm(states).to(self.dtype))
        of_tokens = self._log_likelihoods(states, weights.flatten(0, 1)[place], bias.flatten()[place])
        of_tokens = of_tokens * is_token.flatten()[place]
        by_length = of_tokens.split([length * pairs for length, pairs in lengths])
        sums = [part.view(-1, length).sum(1) for part, (length, _) in zip(by_length, lengths, strict=True)]
        return self.reader.fusion(torch.cat(sums), without[texts])

    def _read(self, previous: Tensor) -> Tensor:
        """(1) and (2): `Reader.read_text` of texts [t, p, 384]. What stands after a text's end does not change it."""
        block, attention = self.reader.self_attention_layer, self.reader.self_attention_layer.attention
        states = self.reader.input_projection(previous) + self.reader.position_embeddings[: previous.shape[1]]
        normed = block.attention_norm(states)
        projected = (project(normed) for project in (attention.q_proj, attention.k_proj, attention.v_proj))
        attended = scaled_dot_product_attention(*(attention.split_heads(part) for part in projected), is_causal=True)
        states = states + attention.out_proj(attention.join_heads(attended))
        return states + block.feed_forward(block.feed_forward_norm(states))

    def _without_image(self, states: Tensor) -> Tensor:
        """(3) for the learned vector in the place of regions, which gets the whole weight of attention."""
        for block in self.reader.cross_attention_layers:
            states = states + block.attention.forward_single(self.reader.no_image)
            states = states + block.feed_forward(block.feed_forward_norm(states))
        return states

    def _attend(
        self, block: Block, queries: Tensor, projected: Tensor, images: Tensor, lengths: Sequence[tuple[int, int]]
    ) -> Tensor:
        """Heads side by side, [tokens, dim]. queries: [tokens, dim]. projected: of a layer, [n, 49, 2, heads, d_k]."""
        attention, attended, first = block.attention, [], 0
        parts = queries.split([length * pairs for length, pairs in lengths])
        for part, (length, pairs) in zip(parts, lengths, strict=True):
            keys, values = projected[images[first : first + pairs]].transpose(1, 3).unbind(2)  # [pairs, heads, 49, d_k]
            of_heads = attention.split_heads(part.unflatten(0, (pairs, length)))
            output = scaled_dot_product_attention(of_heads, keys, values)
            attended.append(attention.join_heads(output).flatten(0, 1))
            first += pairs
        return torch.cat(attended)

    def _log_likelihoods(self, states: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
        """(4) and (5), with the estimate of the partition function: float [..., dim], before the final norm -> [...].
        weights, bias: of the target tokens, see `Reader.output_weights`."""
        reader, states = self.reader, self.reader.final_norm(states)
        outputs = self.outputs(states.to(self.dtype)).float()
        leading = outputs[..., : len(reader.leading_tokens)].logsumexp(-1)
        rest = reader.rest_estimator[2](gelu(outputs[..., len(reader.leading_tokens) :])).squeeze(-1)
        return (states * weights).sum(-1) + bias - leading - softplus(rest - leading)


def _side_by_side(weights: list[Tensor], biases: list[Tensor], dtype: torch.dtype) -> nn.Linear:
    """One linear layer that computes several."""
    weight = torch.cat(weights).detach()
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.load_state_dict({"weight": weight, "bias": torch.cat(biases).detach()})
    return linear.to(dtype)
