"""A folder laid out as CAMUS becomes masks, ejection fractions and a comparison, at toy size and without DVC."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from drawn import ingested
from hearts_drawn import SIDE, ellipse

from echolung.data import nifti
from echolung.data.manifest import read_manifest
from echolung.data.splits import SplitSettings, make_folds, write_folds
from echolung.embedding.embed import EmbedSettings, embed
from echolung.embedding.features import Features
from echolung.evaluation.compare import CompareSettings, compare
from echolung.kinds.kinds import KINDS, kind_of
from echolung.kinds.task import Task
from echolung.methods.arms import Arm
from echolung.methods.fitting import fit_one
from echolung.models.vit import VideoViTSettings
from echolung.models.weights import initialise, load_encoder
from echolung.reports.tables import table_markdown

SHAPE = VideoViTSettings(width=24, depth=1, heads=2, image_size=48, frames=4, clip_fps=8.0, tubelet=2, patch=8)
GIVEN = {"source": "camus", "folds": "official"}
MASKS = {"kind": "segmentation", "groups": {"view": ["A4C", "A2C"]}}
EF = {"kind": "regression", "label": "ef", "unit": "patient", "unlabelled": "leave out", "quantiles": 1}
TASKS: dict[str, Task] = {
    "masks": KINDS["segmentation"].Settings.parse(GIVEN | MASKS, "masks"),
    "ef": KINDS["regression"].Settings.parse(GIVEN | EF | {"coverage": 0.5}, "ef"),
}
UNET = {"encoder": "tu-test_resnet", "image_size": 32, "steps": 4, "validate_every": 2, "batch": 4}
LIGHT = {"steps": 60, "learning_rate": 1e-2}
SETTINGS = {"segmentation": UNET, "ejection-fraction": UNET | {"length": "common"}, "light-decoder": LIGHT}
FITS = {
    "masks": [("random", "light-decoder"), ("unet", "segmentation"), ("mean-mask", "mean-mask")],
    "ef": [("random", "linear"), ("unet", "ejection-fraction"), ("constant", "constant"), ("hand-made", "hand-made")],
}
ARMS = {
    "random": Arm(encoder="random", method=("light-decoder", "linear"), role="reference"),
    "unet": Arm(method=("segmentation", "ejection-fraction"), role="candidate"),
    "hand-made": Arm(method="hand-made", role="control"),
}


def camus(root: Path, patients: int = 16) -> None:
    """Every fourth patient is tested, every sixth validates; the references of every fifth are not published."""
    random, splits = np.random.default_rng(0), {"training": "", "validation": "", "testing": ""}
    for number in range(patients):
        patient, q = f"patient{number:04d}", random.uniform(0.6, 0.9)
        splits["testing" if number % 4 == 3 else "validation" if number % 6 == 4 else "training"] += f"{patient}\n"
        folder = root / "database_nifti" / patient
        folder.mkdir(parents=True)
        for view in ("2CH", "4CH"):
            for phase, s in (("ED", 1.0), ("ES", q)):
                x, y = random.uniform(-7, 7), random.uniform(-4, 4)
                drawn = ellipse(SIDE, 16 * s, 9 * s, x, y).astype(np.uint8)
                drawn[ellipse(SIDE, 4, 6, x, y + 16 * s + 4) & (drawn == 0)] = 3
                pixels = random.normal(np.where(drawn == 1, 30, np.where(drawn == 3, 60, 110)), 8).clip(1, 255)
                for name, image in (("", pixels.astype(np.uint8)), ("_gt", drawn)):
                    nifti.write(folder / f"{patient}_{view}_{phase}{name}.nii.gz", image[None], 1.5)
            ef = f"EF: {100 * (1 - q**3):.1f}\n" if number % 5 or number % 4 == 3 else ""
            (folder / f"Info_{view}.cfg").write_text(f"ED: 1\n{ef}")
    (root / "database_split").mkdir()
    for name, names in splits.items():
        (root / "database_split" / f"subgroup_{name}.txt").write_text(names)


def test_a_study_of_hearts_goes_from_files_to_a_comparison(tmp_path: Path) -> None:
    camus(tmp_path / "raw")
    source, encoder = tmp_path / "data" / "ingest" / "camus", tmp_path / "encoders" / "seed0"
    _, store, masks = ingested(source, "camus", "camus", tmp_path / "raw", 48)
    manifest, traced = read_manifest(source / "manifest.parquet"), {name: one.frames for name, one in masks.items()}
    initialise(SHAPE, [0], tmp_path / "encoders")
    out = tmp_path / "data/embed/camus/random/seed0"
    embed(encoder, "random", manifest, store, EmbedSettings(sources=("camus",)), out, tmp_path / "cache", traced=traced)
    one, still = str(manifest["sample_id"][5]), store.frames(str(manifest["sample_id"][5]))[1]
    tokens = load_encoder(encoder)[0].encode(torch.from_numpy(np.stack([[still] * 4])))
    np.testing.assert_allclose(Features.open(out).of_frames(one)[1], tokens.view(2, 36, 24).mean(dim=0), atol=2e-3)
    predictions = {}
    for name, task in TASKS.items():
        rows = kind_of(task).labelled(task, manifest).assign(split_group=lambda rows: rows["patient_id"])
        write_folds(tmp_path / "data" / "split" / f"{name}.csv", make_folds(rows, SplitSettings(), "official"))
        given = {"task_name": name, "task": task.model_dump(mode="json")}
        given |= dict.fromkeys(("arm_seed", "repeat", "fold", "seed"), 0)
        tables = []
        for arm, method in FITS[name]:
            asked = given | {"arm": arm, "method": method, "settings": SETTINGS.get(method, {})}
            tables.append(fit_one(str(tmp_path / "data"), str(tmp_path / "work"), asked)["predictions"])
        predictions[name] = pd.concat(tables, ignore_index=True)
        assert not kind_of(task).wrong(task, predictions[name][kind_of(task).columns(task)].to_numpy(float)).any()
    found = compare(predictions, TASKS, ARMS, CompareSettings(bootstrap=100, permutations=200))
    of_arm = found.arms.set_index(["task", "arm", "metric"])["estimate"]
    assert of_arm["masks", "random", "dice_loss"] < of_arm["masks", "mean-mask", "dice_loss"], "it reads"
    assert 0 < of_arm["masks", "random", "hd95"] < 48 * 1.5
    shown = found.more["structures"].query("arm == 'random' and metric == 'dice'")
    assert set(shown["of"]) == {"all", "view A4C", "view A2C"} and shown["estimate"].notna().sum() > 8
    assert of_arm["ef", "constant", "auroc"] == 0.5
    assert "**ef**" in table_markdown(found, TASKS) and "1 − Dice" in table_markdown(found, TASKS)
    for kind in ("regression", "segmentation"):
        part = found.of_tasks([name for name, task in TASKS.items() if task.kind == kind])
        colours = dict.fromkeys(part.order, "0.5")
        assert all(one.draw(part, colours) is not None for one in KINDS[kind].figures().values())
