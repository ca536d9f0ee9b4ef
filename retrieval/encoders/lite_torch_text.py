"""The text tower of `lite` as a torch module: all-MiniLM-L6-v2, with the weights of `text.onnx`.

A BERT encoder (Devlin et al. 2019) of 6 layers (Wang et al. 2020, "MiniLM: Deep Self-Attention Distillation"), tuned on
pairs of sentences (Reimers and Gurevych 2019, "Sentence-BERT"). For m tokens with table rows e_i and positions p_i:

    H = LN(e + p + type)
    H <- LN(H + Attention(H)),  H <- LN(H + W_2 GELU(W_1 H + b_1) + b_2)       six times, 12 heads of 32 components
    embedding = unit(mean of H over the tokens)

Each token gets a vector of 768: its row of H, and its table row, centred and scaled to a norm of sqrt(384); the second
half is zero for [CLS] and [SEP]."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import gelu, normalize, scaled_dot_product_attention

from indexes.errors import CrosslookError
from retrieval.encoders.onnx_files import constants_of, read_graph
from retrieval.encoders.torch_start import without_random_weights

if TYPE_CHECKING:
    from torch import Tensor

DIM, HEADS, HIDDEN, LAYERS = 384, 12, 1536, 6
TOKENS, POSITIONS = 30522, 512
BOS_EOS = (101, 102)  # [CLS] and [SEP]
EPSILON = 1e-12  # of the layer norms

# A part of a weight's name in the file -> the same part in `TextNetwork`.
NAMES = {
    "model.encoder.layer.": "layers.",
    "attention.self.": "",
    "attention.output.dense": "out",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "widen",
    "output.dense": "narrow",
    "output.LayerNorm": "feed_forward_norm",
    "model.embeddings.LayerNorm": "norm",
    "model.embeddings.position_embeddings.weight": "positions",
    "model.embeddings.token_type_embeddings.weight": "types",
}


class Layer(nn.Module):
    """A post-norm transformer layer, see the module's docstring."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(DIM, DIM) for _ in range(4))
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(DIM, EPSILON), nn.LayerNorm(DIM, EPSILON)
        self.widen, self.narrow = nn.Linear(DIM, HIDDEN), nn.Linear(HIDDEN, DIM)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """states: float [n, m, 384]. mask: bool [n, 1, 1, m], False for padding."""
        parts = (
            project(states).unflatten(-1, (HEADS, -1)).transpose(1, 2) for project in (self.query, self.key, self.value)
        )
        attended = scaled_dot_product_attention(*parts, attn_mask=mask).transpose(1, 2).flatten(2)
        states = self.attention_norm(states + self.out(attended))
        return self.feed_forward_norm(states + self.narrow(gelu(self.widen(states))))


class TextNetwork(nn.Module):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(TOKENS, DIM))
        self.positions = nn.Parameter(torch.zeros(POSITIONS, DIM))
        self.types = nn.Parameter(torch.zeros(2, DIM))  # a text has type 0 throughout
        self.register_buffer("center", torch.zeros(DIM))
        self.norm = nn.LayerNorm(DIM, EPSILON)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """ids: int64 [n, m]. mask: bool [n, m], False for padding. Returns embeddings, float [n, 384], unit norm, and a
        vector for each token, float [n, m, 768]; those of padding have no meaning."""
        rows = self.rows[ids]
        states = self.norm(rows + self.types[0] + self.positions[: ids.shape[1]])
        for layer in self.layers:
            states = layer(states, mask[:, None, None])
        weight = mask.unsqueeze(-1).to(states.dtype)
        mean = (states * weight).sum(1) / weight.sum(1)
        meanings = DIM**0.5 * normalize(rows - self.center, dim=-1)
        meanings = meanings * ((ids != BOS_EOS[0]) & (ids != BOS_EOS[1])).unsqueeze(-1)
        return normalize(mean, dim=-1), torch.cat([states, meanings], dim=-1)


def read_text_network(path: Path) -> TextNetwork:
    """The tower with the weights of `text.onnx`, float32, in evaluation mode.

    Raises `CrosslookError` for a damaged file, and where `onnx` is not installed."""
    graph = read_graph(path)
    try:
        state = {name: torch.from_numpy(value.copy()) for name, value in _weights(graph, constants_of(graph))}
        with without_random_weights():
            network = TextNetwork()
        network.load_state_dict(state, assign=True)
    except (KeyError, RuntimeError, TypeError) as error:
        raise CrosslookError(f"cannot read {path}: it is of another version (reinstall crosslook)") from error
    return network.eval()


def _weights(graph: Any, constants: dict[str, Any]) -> Any:
    """Names in `TextNetwork` and float32 values. A matrix has lost its name in the file; the bias that is added to its
    product has kept it."""
    yield "rows", constants["word_rows"] * constants["word_scale"]
    yield "center", constants["center"]
    for name, value in constants.items():
        if name.startswith("model.") and value.dtype == "float32" and "word_embeddings" not in name:
            yield _renamed(name), value
    matrix_of = {
        node.output[0]: constants[node.input[1]]
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in constants
    }
    for node in graph.node:
        if node.op_type == "Add":
            bias, product = sorted(node.input, key=lambda name: name not in constants)
            if product in matrix_of:
                yield _renamed(bias.removesuffix("bias") + "weight"), matrix_of[product].T


def _renamed(name: str) -> str:
    for stored, new in NAMES.items():
        name = name.replace(stored, new)
    return name
