"""The cross-attention scorer: a causal language model of captions whose tokens attend to an image's regions.

It scores a text by how much likelier the image makes it, token by token (as in Xu et al. 2015, "Show, Attend and Tell",
with the blocks of Vaswani et al. 2017, "Attention Is All You Need").

Inputs. A text of m tokens t_0 = BOS, t_1, ..., t_(m-1) = EOS. Of a token only its row of the text tower's word table is
read, e_i in R^384, which is zero for BOS and EOS. An image of 49 regions R: [49, dim], see `RegionEncoder`.

Forward pass, for the p = min(m - 1, 48) positions i = 0, ..., p - 1, each of which predicts the next token t_(i+1):

    (1) embed            H = E W_in + b_in + P                          [p, 384] -> [p, dim]; P: position embeddings
    (2) self-attention   Q, K, V from LN(H), causal: i attends to j <= i     [p, dim]
    (3) cross-attention  Q from LN(H); K, V from R, as it is            [p, dim], for each of n images
                             Attention(Q, K, V) = softmax(Q K^T / sqrt(d_k)) V
    (4) logits           z_i,v = LN(h_i) . w_v + b_v                    [p, vocabulary]
                             w_v = (e_v W_out + b_out) / sqrt(dim),  b_v = e_v . c + c_0
    (5) log likelihood   log p(t_(i+1) | t_0..i, R) = z_i,t_(i+1) - log Z_i,   Z_i = sum over v of exp z_i,v
    (6) fusion           exp(s) * (log p(text | R) - prior * log p(text)),
                             log p(text | R) = sum over i of log p(t_(i+1) | t_0..i, R);  log p(text): without an image

(2) and (3) are transformer blocks (`Block`): one of self-attention, then several of cross-attention. Self-attention
comes first so that a query runs it once, whatever the number of candidate images. "Without an image" (3) attends to one
learned vector in place of the regions. The sums of (6) leave out EOS and padding. The scale s and the prior are learnt.
The match logit that ranks is the calibrated sum a * similarity + b * fusion + c, see `retrieval.calibration`.

Why a difference: for prior = 1, (6) is the pointwise mutual information log p(text | image) - log p(text), so that
texts of common words do not score higher for being common (Lin et al. 2024, "Revisiting the Role of Language Priors in
Vision-Language Models"). Why a language model: every token of every caption teaches it something, where a contrastive
loss learns from whole captions only; that matters when captions are scarce.

Z_i, the partition function of the softmax, sums over the vocabulary and is what a query would spend most time on. Once
all else has learnt, `fitting.estimate` fits an estimate of it, see `Reader.estimated_log_partition`. `group_reading`
computes the training losses, and `integer_reader` is this forward pass in int8."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import softplus

from retrieval.training.data.sizes import DIM
from retrieval.training.model.blocks import Block
from retrieval.training.model.partition import log_partition

if TYPE_CHECKING:
    from torch import Tensor


LEADING = 512  # tokens of the vocabulary over which the estimate of the partition function sums


@dataclass(frozen=True)
class ReaderSettings:
    """cross_attention_layers: number of blocks (3). heads: of each attention. dropout: in every layer. token_dropout:
    share of the tokens that are read as zeros in training. image_dropout: share of the loss that is of reading without
    an image. label_smoothing: share of the target that is spread over the vocabulary. max_tokens: of a longer text, the
    rest is ignored."""

    cross_attention_layers: int = 2
    heads: int = 8
    dropout: float = 0.2
    token_dropout: float = 0.1
    image_dropout: float = 0.1
    label_smoothing: float = 0.1
    max_tokens: int = 48


class Reader(nn.Module):
    """See the module's docstring for the equations.

    Tokens are represented by their word table rows, as input and as output. So the reader can also score tokens that no
    training caption contains; only the partition function is limited to the vocabulary of the captions."""

    def __init__(self, settings: ReaderSettings, dim: int, vocabulary: Tensor) -> None:
        """dim: of the regions and of the states. vocabulary: float [vocabulary, 384], the rows e_v."""
        super().__init__()
        self.settings = settings
        self.register_buffer("vocabulary", vocabulary)
        self.no_image = nn.Parameter(0.02 * torch.randn(dim))
        self.input_projection = nn.Linear(DIM, dim)
        self.position_embeddings = nn.Parameter(0.02 * torch.randn(settings.max_tokens, dim))
        self.self_attention_layer = Block(dim, settings.heads, settings.dropout)
        self.cross_attention_layers = nn.ModuleList(
            Block(dim, settings.heads, settings.dropout) for _ in range(settings.cross_attention_layers)
        )
        self.final_norm = nn.LayerNorm(dim)
        self.register_buffer("leading_tokens", torch.zeros(min(LEADING, max(1, len(vocabulary) // 2)), DIM))
        self.rest_estimator = nn.Sequential(nn.Linear(dim, dim // 2), nn.GELU(), nn.Linear(dim // 2, 1))
        self.exact = True  # whether the partition function is summed exactly: until `fit_estimate`
        self.output_projection = nn.Linear(DIM, dim)
        self.token_bias = nn.Linear(DIM, 1)
        self.log_scale = nn.Parameter(torch.tensor(math.log(0.3)))
        self.prior = nn.Parameter(torch.tensor(1.0))

    # What is scored: fusion and evidence.

    def forward(self, tokens: Tensor, regions: Tensor) -> Tensor:
        """Fusion (6) of one text with each of several images, float [n].

        tokens: float [m, 768], BOS and EOS included, of which the second half is read. regions: float [n, 49, dim]."""
        previous, targets = self.shifted(tokens)
        is_token, states = (targets != 0).any(-1), self.read_text(previous)
        with_image = self.log_likelihoods(states, regions, targets)
        without = self.log_likelihoods(states, self.no_regions(regions[:1, :1]), targets)
        return self.fusion((with_image * is_token).sum(-1), (without * is_token).sum(-1))

    def score_pairs(self, tokens: Tensor, text: Tensor, regions: Tensor) -> Tensor:
        """Fusion of n pairs of a text and an image, float [n], as `forward` gives it for one text.

        tokens: float [t, m, 768], zeros after each text's end. text: int64 [n], the row of `tokens` that a pair has.
        regions: float [n, 49, dim], of the image that it has."""
        previous, targets = self.shifted(tokens)
        is_token, states = (targets != 0).any(-1), self.read_text(previous)
        with_image = self.log_likelihoods(states[text], regions, targets[text])
        without = self.log_likelihoods(states, self.no_regions(regions[:1, :1]), targets)
        return self.fusion((with_image * is_token[text]).sum(-1), (without * is_token).sum(-1)[text])

    def fusion(self, with_image: Tensor, without: Tensor) -> Tensor:
        """(6), from the log likelihoods of texts with and without an image. Scale and prior are learnt by matching."""
        return self.log_scale.exp() * (with_image - self.prior * without)

    def evidence(self, tokens: Tensor, regions: Tensor) -> Tensor:
        """How much each region of one image raises the log likelihood of each token, float [m, 49].

        In units of fusion: the loss of exp(s) log p when nothing may attend to that region. Attention times its
        gradient (as in ALBEF) estimates this to first order. BOS, EOS and tokens beyond `max_tokens` get zeros. tokens:
        float [m, 768]. regions: float [49, dim]."""
        previous, targets = self.shifted(tokens)
        count = len(regions)
        states, image = self.read_text(previous), regions.unsqueeze(0)
        all_but_one = ~torch.eye(count, dtype=torch.bool)[:, None, None]  # [49 readings, heads, tokens, 49 regions]
        masked = self.log_likelihoods(states, image.expand(count, -1, -1), targets, all_but_one)
        is_token = (targets != 0).any(-1)
        lost = self.log_scale.exp() * (self.log_likelihoods(states, image, targets) - masked) * is_token
        unread = tokens[1:][self.settings.max_tokens :, :count] * 0
        return torch.cat([tokens[:1, :count] * 0, lost.T, unread])

    # The forward pass, equation by equation.

    def shifted(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The rows e of the tokens read, t_0..m-2, and of those predicted, t_1..m-1, up to `max_tokens`.

        tokens: float [..., m, 768]. Both results: float [..., p, 384]."""
        rows, max_tokens = tokens[..., DIM:], self.settings.max_tokens
        return rows[..., :-1, :][..., :max_tokens, :], rows[..., 1:, :][..., :max_tokens, :]

    def read_text(self, previous: Tensor) -> Tensor:
        """(1) and (2): the states of a text, which need no image. float [..., p, 384] -> [..., p, dim]."""
        length = previous.shape[-2]
        states = self.input_projection(previous) + self.position_embeddings[:length]
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        return self.self_attention_layer(states, mask=causal)

    def attend_to_regions(self, states: Tensor, regions: Tensor, mask: Tensor | None = None) -> Tensor:
        """(3): float [n, p, dim]. The first layer makes of each state of a text one for every image.

        states: [p, dim] or [n, p, dim]. regions: [n, 49, dim]. mask: bool, broadcast to [n, heads, p, 49]."""
        for layer in self.cross_attention_layers:
            states = layer(states, regions, mask)
        return states

    def no_regions(self, regions: Tensor) -> Tensor:
        """What (3) attends to when there is no image: the learned vector, in the shape of `regions`."""
        return self.no_image.expand_as(regions)

    def log_likelihoods(self, states: Tensor, regions: Tensor, targets: Tensor, mask: Tensor | None = None) -> Tensor:
        """(3) to (5): log p of each target token given those before it and each image, float [n, p].

        states: [p, dim] or [n, p, dim], as `read_text` gives them. targets: [p, 384] or [n, p, 384]. regions, mask: see
        `attend_to_regions`."""
        states = self.final_norm(self.attend_to_regions(states, regions, mask))
        log_z = self.exact_log_partition(states) if self.exact else self.estimated_log_partition(states)
        return self.target_logits(states, targets) - log_z

    def output_weights(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """w and b of (4) for tokens with these word table rows: float [..., 384] -> [..., dim] and [...]."""
        weights = self.output_projection(rows) / self.input_projection.out_features**0.5
        return weights, self.token_bias(rows).squeeze(-1)

    def target_logits(self, states: Tensor, targets: Tensor) -> Tensor:
        """(4) for the targets alone, float [..., p]. states: [..., p, dim], normed. targets: [..., p, 384]."""
        weights, bias = self.output_weights(targets)
        return (states * weights).sum(-1) + bias

    def exact_log_partition(self, states: Tensor) -> Tensor:
        """log Z summed over the whole vocabulary: float [..., dim], normed -> [...]."""
        return log_partition(states, *self.output_weights(self.vocabulary))

    def estimated_log_partition(self, states: Tensor) -> Tensor:
        """An estimate of log Z: float [..., dim], normed -> [...].

        The vocabulary is split into the leading tokens L, which have most of the probability over all captions, and the
        rest. With A = log of the sum over L, which is exact, and r(h) = log of the rest, which two layers estimate from
        the state:  log Z = log(exp A + exp r) = A + softplus(r - A)."""
        weights, bias = self.output_weights(self.leading_tokens)
        leading = (states @ weights.T + bias).logsumexp(-1)
        return leading + softplus(self.rest_estimator(states).squeeze(-1) - leading)
