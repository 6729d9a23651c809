"""`study=echolung scale=gpu` at toy size: the predecessor's experiment, on phantoms in the layouts of its sets."""

from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from conftest import called, clone

from echolung.composition import compose
from echolung.compute.session import ray_session
from echolung.models.encoders import drawn_encoder
from echolung.models.vit import VideoViT
from echolung.models.weights import load_encoder
from echolung.phantom.settings import PhantomSettings
from echolung.phantom.write import write
from echolung.registry.encoders import PREFIX
from echolung.registry.models import versions
from echolung.stage import Stage
from echolung.tracking.store import store
from pipelines import compare, embed, fit, ingest, initialise, pretrain, report, split

pytestmark = pytest.mark.pipeline

SETS = {"echonet-dynamic": ("echonet", 8), "echonet-pediatric": ("echonet_pediatric", 10), "pocus": ("pocus", 24)}
SETS |= {"covid_blues": ("covid_blues", 16)}
SHAPE = {"width": 192, "depth": 1, "heads": 3, "image_size": 32, "frames": 4}
CHANGES = [
    *("ingest.size=48", "split.outer=2", "split.inner=2", "split.repeats=1", "draws=[0]", "pretrain.seeds=[0]"),
    *(f"encoder.{name}={value}" for name, value in SHAPE.items()),
    *("pretrain.compute.gpu=false", "pretrain.compute.cpus_per_worker=1", "workers=1", "~tasks.blues-severity"),
    "pretrain.training={steps: 4, batch: 4, learning_rate: 1.0e-3, warmup_steps: 0, loaders: 0, log_every: 1}",
    "pretrain.objectives.jepa={predictor_width: 24, predictor_depth: 1, predictor_heads: 2, ema: 0.9}",
    *(f"arms.{arm}.method=linear" for arm in ("random", "vjepa2", "vjepa2-hearts")),
    *("compare.bootstrap=100", "compare.permutations=100"),
]


def test_the_whole_study_runs_from_its_sets_and_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, which spares every stage its start; DVC calls the same functions."""
    clone(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Stage, "progress", lambda self, label: lambda done, total: None)  # Ray cannot pickle it
    for name, (layout, patients) in SETS.items():
        drawn = PhantomSettings.parse({"layout": layout, "patients": patients, "frames": 8, "size": 48}, name)
        write(drawn, tmp_path / "data" / "raw" / name, 1, lambda done, total: None)
    colour = {"channels": 3, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "clip_fps": 8.0}
    theirs = drawn_encoder(VideoViT.Settings(**SHAPE, **colour), 7).state_dict()
    state = {f"module.backbone.{name}": one for name, one in theirs.items()}
    torch.save({"target_encoder": state, "encoder": state}, tmp_path / "vitl.pt")
    called("weights", "import", "vitl.pt", "vjepa2-vitl")
    params, _ = compose(tmp_path, "echolung", "gpu", CHANGES)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

    sources, tasks, encoders = params["ingest"]["sources"], params["tasks"], params["pretrain"]["encoders"]
    stages = [*((ingest, one) for one in sources), *((split, one) for one in tasks), (initialise, "")]
    stages += [*((pretrain, one) for one in encoders), *((embed, one) for one in params["embed"]["sources"])]
    stages += [*((fit, one) for one in tasks), (compare, ""), (report, "")]
    with ray_session(2):
        for stage, key in stages:
            stage.main([key] if key else [], standalone_mode=False)

    data = tmp_path / "data" / "echolung"
    pool = pd.concat(pd.read_parquet(data / "ingest" / one / "manifest.parquet") for one in ("dynamic", "pediatric"))
    assert set(pool["split_official"]) == {"TRAIN", *"01234567"} and len(pool) < 8 + 2 * 10
    as_it_is, _ = load_encoder(data / "encoders" / "initial" / "vjepa2" / "seed0")
    assert all(torch.equal(one, theirs[name]) for name, one in as_it_is.state_dict().items())
    continued, record = load_encoder(data / "encoders" / "pretrained" / "vjepa2-hearts" / "seed0")
    assert sorted(record.trained_on) == sorted(pool["sha256"]) and (record.objective, record.steps) == ("jepa", 4)
    moved = torch.cat([(one - theirs[name]).abs().flatten() for name, one in continued.state_dict().items()])
    assert 0 < float(moved.max()) <= 4 * 1.1e-3, "four steps of AdamW away from the file"
    table = pd.read_csv(data / "compare" / "arms.csv")
    assert {"random", "vjepa2", "vjepa2-hearts", "hand-made", "source-only"} <= set(table["arm"])
    assert set(table["task"]) == {"blues-covid", "pocus-pathology"} and table["estimate"].notna().all()
    assert "vjepa2-hearts" in (tmp_path / "reports" / "echolung" / "index.html").read_text()
    for arm in ("vjepa2", "vjepa2-hearts"):
        ((_, tags),) = versions(store(tmp_path), f"{PREFIX}echolung-{arm}")
        assert tags["start_file"] == "vitl.pt" and tags.get("pool", "").startswith("dynamic") == (arm in encoders)
