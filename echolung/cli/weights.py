"""The commands of `echolung weights`: encoders of other people in, encoders of this project out."""

import subprocess
import sys
from pathlib import Path

import click

from echolung.stage import project, project_root

HUB = "hf:"


@click.group()
def weights() -> None:
    """Weights of other people in, and this project's encoders out."""


@weights.command("import")
@click.argument("file")
@click.argument("name")
@click.option("--model", help="The timm model that the file belongs to; without it, a video ViT of V-JEPA 2.")
@click.option("--license", default="", help="The licence of the weights, to be kept with them.")
@click.option("--partial", is_flag=True, help="Accept a file that lacks tensors: they stay random.")
def import_(file: str, name: str, model: str | None, license: str, partial: bool) -> None:
    """Bring the encoder in FILE into the project as NAME, tracked by DVC.

    FILE is a PyTorch checkpoint of V-JEPA 2 or EchoJEPA, a safetensors file, a folder from Hugging Face,
    hf:<owner>/<name>, or weights of a timm model. No code in it is executed.

    \b
    Examples:
      echolung weights import vitl.pt vjepa2-vitl
      echolung weights import hf:facebook/vjepa2-vitl-fpc64-256 vjepa2-vitl
      echolung weights import lite0.pth lite0 --model tf_efficientnet_lite0
    """
    import pydantic
    from safetensors.torch import save_file

    from echolung.core.errors import DataError, SettingsError
    from echolung.core.parameters import Key
    from echolung.core.runtime import atomic_directory, write_json
    from echolung.models.encoders import ENCODERS, drawn_encoder
    from echolung.models.exchange import as_meta, fit, read_tensors, vit_shape, weights_digest

    try:
        pydantic.TypeAdapter(Key).validate_python(name)
    except pydantic.ValidationError as error:
        raise SettingsError(f"'{name}' cannot be a name: {error.errors()[0]['msg']}", "Choose another.") from None
    given, file = file, _downloaded(file) if file.startswith(HUB) else file
    root, tensors = project_root(), read_tensors(file)
    if model:
        shape = {"kind": "frames", "model": model, "image_size": 224, "frames": 8, "clip_fps": 8.0}
    else:
        shape = {**vit_shape(as_meta(tensors), file), "image_size": 224, "frames": 16, "clip_fps": 8.0}
    encoder = drawn_encoder(ENCODERS[str(shape["kind"])].Settings.parse(shape, file), 0)
    match = fit(encoder.body, encoder.adapt(tensors), partial, given)
    if stated := getattr(encoder.body, "pretrained_cfg", None):  # timm's: what its own weights were trained with
        shape |= {"mean": list(stated["mean"]), "std": list(stated["std"])}
    folder = root / "data" / "weights" / name
    with atomic_directory(folder) as target:
        own = {key: tensor.contiguous() for key, tensor in encoder.body.state_dict().items()}
        save_file(own, target / "encoder.safetensors")
        source = {"file": given, "sha256": weights_digest(file), "license": license}
        write_json(target / "source.json", {**source, "match": vars(match), "shape": shape})
    click.echo("\n".join([f"{given} -> {folder.relative_to(root)}", *(f"  {line}" for line in match.lines())]))
    command = [sys.executable, "-m", "dvc", "add", "-q", str(folder)]
    added = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if added.returncode:
        raise DataError(f"DVC cannot track {folder} ({added.stderr.strip()})", "Correct it, and import again.")
    shape["weights"] = f"data/weights/{name}/encoder.safetensors"
    row = ", ".join(f"{key}: {value}" for key, value in shape.items())
    arm = f"{name}: {{encoder: imported, shape: {{{row}}}, method: linear, role: control}}"
    click.echo(f"An arm as it is:\n  {arm}\nTo continue it: the same `shape` in a row of `pretrain.encoders`.")


def _downloaded(place: str) -> str:
    """The folder of a repository of the Hugging Face hub."""
    from huggingface_hub import snapshot_download

    from echolung.core.errors import CheckpointError

    try:
        return snapshot_download(place.removeprefix(HUB), allow_patterns=["*.safetensors", "config.json"])
    except (OSError, ValueError) as error:  # all of the hub's own are one of these
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        remedy = "Check the name and the network, or download the folder elsewhere and give its path."
        raise CheckpointError(f"{place} cannot be downloaded ({reason})", remedy) from None


@weights.command("export")
@click.argument("encoder")
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(["vjepa2", "huggingface"]), required=True)
def export(encoder: str, target: Path, form: str) -> None:
    """Write a video ViT for other people's code. ENCODER is a folder, or the name of a registered encoder.

    \b
    Examples:
      echolung weights export mae mae.pt --format vjepa2
      echolung weights export data/lung/encoders/pretrained/mae/seed1 mae-hf --format huggingface
    """
    from echolung.core.errors import SettingsError
    from echolung.models import exchange
    from echolung.models.weights import WEIGHTS, load_encoder
    from echolung.registry.encoders import load_encoder_by_name
    from echolung.tracking.store import store

    if target.exists():
        raise SettingsError(f"{target} exists", "Choose another name, or remove it first.")
    if Path(encoder).exists():
        found, record = load_encoder(Path(encoder))
    else:
        root, settings = project()
        found, record = load_encoder_by_name(store(root, settings.tracking), settings.study, encoder)
    if record.settings.kind != "video-vit":
        raise SettingsError(f"{encoder} is of kind '{record.settings.kind}'", "Only a video ViT can be exported.")
    shape = record.settings.model_dump(mode="json")
    if shape["class_token"] or shape["attention"] == "frame":
        problem = f"{encoder} has a class token, or attends within frames, which these formats cannot say"
        raise SettingsError(problem, f"Read its {WEIGHTS} with safetensors.")
    exchange.export(found, shape, target, form)
    click.echo(f"{target} written.")
