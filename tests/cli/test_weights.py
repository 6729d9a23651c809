"""`echolung weights`: a file becomes a folder that DVC tracks, an arm of a study, and a file again."""

import json
import subprocess
from pathlib import Path

import pytest
import timm
import torch
import yaml
from conftest import called, committed, refused

from echolung.core.runtime import sha256_file
from echolung.models.encoders import ENCODERS, drawn_encoder, initial_encoder
from echolung.models.exchange import read_tensors
from echolung.models.vit import VideoViT
from echolung.models.weights import initialise

SHAPE = {"width": 192, "depth": 1, "heads": 3, "image_size": 32, "frames": 2, "clip_fps": 8.0}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return committed(tmp_path)


def test_an_imported_file_is_tracked_and_starts_an_encoder(project: Path) -> None:
    encoder = drawn_encoder(VideoViT.Settings(**SHAPE), 3)
    state = {f"module.backbone.{name}": one for name, one in encoder.state_dict().items()}
    torch.save({"target_encoder": {**state, "module.backbone.pos_embed": torch.zeros(3)}}, project / "ti.pt")
    output = called("weights", "import", "ti.pt", "vjepa-ti")
    assert "1 unused: pos_embed" in output
    assert (project / "data/weights/vjepa-ti.dvc").is_file()
    ignored = subprocess.run(["git", "check-ignore", "data/weights/vjepa-ti.dvc"], cwd=project, check=False)
    assert ignored.returncode == 1
    row = next(line for line in output.splitlines() if "encoder: imported" in line)
    shape = yaml.safe_load(row)["vjepa-ti"]["shape"]
    settings = ENCODERS[shape["kind"]].Settings.parse(shape, "the row that was printed")
    again = initial_encoder(settings, 0).state_dict()
    assert all(torch.equal(again[name], one) for name, one in encoder.state_dict().items())
    source = json.loads((project / "data/weights/vjepa-ti/source.json").read_text())
    assert (source["file"], source["sha256"]) == ("ti.pt", sha256_file(project / "ti.pt"))


def test_a_backbone_of_timm_brings_its_own_normalisation(project: Path) -> None:
    torch.save(timm.create_model("tf_efficientnet_lite0", num_classes=0).state_dict(), project / "lite0.pth")
    output = called("weights", "import", "lite0.pth", "lite0", "--model", "tf_efficientnet_lite0")
    assert "mean: [0.5, 0.5, 0.5]" in output


def test_a_partial_file_is_refused_unless_told(project: Path) -> None:
    state = drawn_encoder(VideoViT.Settings(**SHAPE), 3).state_dict()
    del state["norm.weight"]
    torch.save(state, project / "part.pt")
    assert "1 of 16 tensors differ, norm.weight" in refused("weights", "import", "part.pt", "part")
    assert not (project / "data/weights").exists()
    assert "1 missing: norm.weight" in called("weights", "import", "part.pt", "part", "--partial")


def test_a_hub_that_cannot_be_reached_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    output = refused("weights", "import", "hf:nobody/nothing", "nothing")
    assert "hf:nobody/nothing cannot be downloaded" in output and "download the folder elsewhere" in output


def test_an_encoder_goes_out_in_either_format(project: Path) -> None:
    initialise(VideoViT.Settings(**SHAPE), [0], project / "encoders")
    for form, target in (("vjepa2", "a.pt"), ("huggingface", "a")):
        words = ("weights", "export", str(project / "encoders" / "seed0"), target, "--format", form)
        called(*words)
        assert len(read_tensors(project / target)) >= 16
        assert "exists" in refused(*words)  # it would replace a folder with all that is in it
    initialise(VideoViT.Settings(**SHAPE, class_token=True), [1], project / "encoders")
    folder = str(project / "encoders" / "seed1")
    assert "has a class token" in refused("weights", "export", folder, "b.pt", "--format", "vjepa2")
