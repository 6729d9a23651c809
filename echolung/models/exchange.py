"""Weights of other people, in and out: V-JEPA 2 as Meta and as Hugging Face publish it, EchoJEPA, timm. Inside, an
encoder's tensors are named as in Meta's checkpoints. No code in a file is ever executed."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from echolung.core.errors import CheckpointError, SettingsError, listed
from echolung.core.runtime import atomic_directory, atomic_path, digest, sha256_file, write_json

SECTIONS = ("target_encoder", "ema_encoder", "encoder", "state_dict", "model")
"""Parts of a training checkpoint: the encoder that probes read comes first."""
PREFIXES = ("module.", "model.", "backbone.")
IMAGENET = {"channels": 3, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 22}
"""Attention heads by width, which a checkpoint does not state: ViT-Ti, S, B, L, H and g."""
HUGGINGFACE = (
    ("patch_embed.proj.", "encoder.embeddings.patch_embeddings.proj."),
    ("blocks.", "encoder.layer."),
    (".attn.proj.", ".attention.proj."),
    ("norm.", "encoder.layernorm."),
)
"""Our names and theirs, apart from the queries, keys and values, which they keep in three tensors."""


def read_tensors(place: str | Path) -> dict[str, Tensor]:
    """The floating-point tensors of an encoder, in the order of the file and without the prefixes of wrappers.

    `place`: a safetensors or PyTorch file, or a folder that holds safetensors. Raises CheckpointError if there are
    none, or if a file holds anything but tensors.
    """
    path = Path(place).expanduser()
    try:
        if path.is_dir():
            parts = sorted(path.glob("*.safetensors"))
            found: Any = {name: tensor for part in parts for name, tensor in load_file(part).items()}
        elif path.suffix == ".safetensors":
            found = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
            found = next((found[name] for name in SECTIONS if isinstance(found.get(name), Mapping)), found)
        tensors = {str(name): one for name, one in found.items() if torch.is_tensor(one) and one.is_floating_point()}
        if not tensors:
            raise ValueError("no tensors")
    except (OSError, ValueError, RuntimeError, AttributeError, EOFError, UnpicklingError, SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} cannot be read as weights ({reason})", "Give a file of tensors: .safetensors, .pth or .pt."
        ) from None
    while prefix := next((one for one in PREFIXES if all(name.startswith(one) for name in tensors)), ""):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def weights_digest(place: str | Path) -> str:
    """SHA-256 of a file of weights, or of the safetensors of a folder; raises CheckpointError if there is none."""
    path = Path(place).expanduser()
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise CheckpointError(f"there are no weights {place}", "Correct `weights` in the shape of the encoder.")
    found = [sha256_file(file) for file in files]
    return found[0] if len(found) == 1 else digest(found)


def as_meta(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A video ViT's tensors named as Meta names them, whichever of the formats they come in."""
    tensors = {name.removeprefix("vjepa2."): tensor for name, tensor in tensors.items()}  # of a classifier
    if not any(name.startswith("encoder.layer.") for name in tensors):
        return tensors
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not name.startswith("encoder."):
            found[name] = tensor  # predictor and pooler: reported as unused
        elif match := re.fullmatch(r"encoder\.layer\.(\d+)\.attention\.query\.(\w+)", name):
            parts = [tensors[name.replace("query", part)] for part in ("query", "key", "value")]
            found[f"blocks.{match[1]}.attn.qkv.{match[2]}"] = torch.cat(parts)
        elif not re.search(r"\.attention\.(key|value)\.", name):
            for ours, theirs in HUGGINGFACE:
                name = ours + name.removeprefix(theirs) if name.startswith(theirs) else name
            found[name.replace(".attention.proj.", ".attn.proj.")] = tensor
    return found


def as_huggingface(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reverse of `as_meta`: names of `transformers.VJEPA2Model`."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        for ours, theirs in HUGGINGFACE:
            name = theirs + name.removeprefix(ours) if name.startswith(ours) else name.replace(ours, theirs)
        if ".attn.qkv." not in name:
            found[name] = tensor
            continue
        for part, third in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
            found[name.replace(".attn.qkv.", f".attention.{part}.")] = third.clone()
    return found


def vit_shape(tensors: Mapping[str, Tensor], place: str | Path) -> dict[str, Any]:
    """The `shape` of the video ViT that tensors (`as_meta`) belong to; heads as config.json says, else by the width."""
    try:
        width, channels, tubelet, patch, _ = tensors["patch_embed.proj.weight"].shape
        hidden = tensors["blocks.0.mlp.fc1.weight"].shape[0]
    except (KeyError, ValueError):
        problem = f"{place} holds no video ViT of V-JEPA 2 (tensors such as {listed(tensors, 3)})"
        raise CheckpointError(problem, "For a backbone of timm, give its name: --model NAME.") from None
    config = Path(place) / "config.json"
    stated = json.loads(config.read_text()).get("num_attention_heads") if config.is_file() else None
    heads = stated or HEADS.get(width)
    if not heads:
        raise SettingsError(f"no ViT of width {width} is known, so its heads are not", f"Known: {listed(HEADS)}.")
    depth = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
    colour = IMAGENET if channels == 3 else {}
    return {
        "kind": "video-vit", "width": width, "depth": depth, "heads": heads, "mlp_ratio": hidden / width,
        "tubelet": tubelet, "patch": patch, **colour,
    }  # fmt: skip


@dataclass(frozen=True)
class Match:
    """How the tensors of a file fit an encoder's."""

    used: list[str]
    unused: list[str]
    missing: list[str]
    misshaped: dict[str, str]

    @property
    def whole(self) -> bool:
        return not self.missing and not self.misshaped

    def lines(self) -> list[str]:
        """What a reader must know: every tensor that is not used as it is."""
        shapes = [f"{name}: {shapes}" for name, shapes in self.misshaped.items()]
        found = {"unused": self.unused, "missing": self.missing, "of another shape": shapes}
        return [f"{len(self.used)} tensors used", *(f"{len(n)} {k}: {', '.join(n)}" for k, n in found.items() if n)]


def fit(module: nn.Module, tensors: Mapping[str, Tensor], partial: bool = False, what: str = "the file") -> Match:
    """Copy tensors into a module by name; CheckpointError if one of its own gets none, unless `partial`."""
    ours = {name: tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point()}
    wrong = {
        name: f"{tuple(tensors[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in ours.items()
        if name in tensors and tensors[name].shape != tensor.shape
    }
    used = [name for name in ours if name in tensors and name not in wrong]
    unused = [name for name in tensors if name not in ours]
    match = Match(used, unused, [name for name in ours if name not in tensors], wrong)
    if not match.whole and not partial:
        bad = [*match.misshaped, *match.missing]
        problem = f"{what}: {len(bad)} of {len(ours)} tensors differ, {bad[0]} for one"
        raise CheckpointError(problem, "Name the model that the file was made for.")
    module.load_state_dict({name: tensors[name] for name in used}, strict=False)
    return match


def in_order(module: nn.Module, tensors: Mapping[str, Tensor], most: float = math.inf) -> dict[str, Tensor]:
    """Tensors under the module's names: by their order in the file where no name agrees and few (`most`) are left."""
    ours = [name for name, tensor in module.state_dict().items() if tensor.is_floating_point()]
    renamed = not set(ours) & tensors.keys() and 0 <= len(tensors) - len(ours) <= most
    return dict(zip(ours, tensors.values(), strict=False)) if renamed else dict(tensors)


def export(encoder: nn.Module, shape: Mapping[str, Any], target: Path, form: str) -> None:
    """Write a video ViT as Meta's checkpoint (`vjepa2`, a .pt file) or as a folder for transformers (`huggingface`)."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    if form == "vjepa2":
        named = {f"module.backbone.{name}": tensor for name, tensor in tensors.items()}
        with atomic_path(target) as temporary:
            torch.save({"encoder": named, "target_encoder": named}, temporary)
        return
    config = {
        "model_type": "vjepa2", "architectures": ["VJEPA2Model"], "patch_size": shape["patch"],
        "crop_size": shape["image_size"], "frames_per_clip": shape["frames"], "tubelet_size": shape["tubelet"],
        "hidden_size": shape["width"], "in_chans": shape["channels"], "num_attention_heads": shape["heads"],
        "num_hidden_layers": shape["depth"], "mlp_ratio": shape["mlp_ratio"],
    }  # fmt: skip
    with atomic_directory(target) as folder:
        save_file(as_huggingface(tensors), folder / "model.safetensors", metadata={"format": "pt"})
        write_json(folder / "config.json", config)
