"""echolung suggest on drawn hearts of which some have no masks: from files to suggestions, and a mask back."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT, called, refused
from PIL import Image

from echolung.cli.champions import _candidate
from echolung.composition import compose
from echolung.data import nifti
from echolung.data.manifest import read_manifest, write_manifest
from echolung.data.masks import read_masks
from echolung.data.splits import make_folds, write_folds
from echolung.evaluation import comparison
from echolung.kinds.kinds import kind_of
from echolung.phantom.write import write
from echolung.settings import load
from pipelines import embed, ingest, initialise

TASK = "hearts-masks"
BARE = ("patient0001", "patient0002", "patient0004", "patient0008")  # the last is tested


def prepared() -> None:
    """The stages until embed."""
    for stage, key in ((ingest, ["hearts"]), (initialise, []), (embed, ["hearts"])):
        stage.main(key, standalone_mode=False)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("project")
    (root / "dvc.yaml").touch()
    values, _ = compose(ROOT, "heart-drawn", "demo")
    values["phantom"]["hearts"] |= {"patients": 8, "frames": 8, "size": 48}
    values["ingest"] = {"size": 48, "sources": {"hearts": values["ingest"]["sources"]["hearts"]}}
    values["encoder"] |= {"width": 24, "depth": 1, "heads": 2, "image_size": 48, "patch": 8}
    values["tasks"] = {name: values["tasks"][name] for name in (TASK, "hearts-ef")}
    values["tasks"][TASK]["unlabelled"] = "leave out"
    values["report"]["arms"] = ["random", "hand-made"]
    values["arms"] = {name: values["arms"][name] for name in values["report"]["arms"]}
    values["arms"]["random"]["seeds"] = [0]
    values["pretrain"]["encoders"], values["embed"]["sources"] = {}, ["hearts"]
    values["fit"]["methods"] = {"light-decoder": {"steps": 4, "batch": 4, "channels": 4}}
    (root / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    raw = root / "data/raw/heart-drawn/hearts"
    write(load(root).phantom["hearts"], raw, 1, lambda done, total: None)
    for patient in BARE:
        for path in raw.glob(f"database_nifti/{patient}/*_gt.nii.gz"):
            path.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        prepared()
        yield root


def suggested(*words: str) -> pd.DataFrame:
    called("suggest", TASK, "--out", "next", *words)
    return pd.read_csv("next/suggestions.csv")


def test_a_mask_that_is_given_back_is_a_traced_frame_and_its_recording_is_not_asked_again(project: Path) -> None:
    table = suggested("--frames", "2")
    free = {f"hearts/{patient}/{view}" for patient in BARE[:3] for view in ("2CH", "4CH")}
    assert set(table["sample_id"]) == free, "neither what has masks nor who is tested"
    assert table["rank"].tolist() == sorted([1, 2, 3, 4, 5, 6] * 2)
    facts = read_manifest(project / "data/heart-drawn/ingest/hearts/manifest.parquet").set_index("sample_id")
    assert (table["frame"].to_numpy() < facts["frames"][table["sample_id"]].to_numpy()).all()
    assert all((project / path).is_file() for path in table["path"])
    with Image.open("next/sheet.png") as sheet:
        assert min(sheet.size) > 400
    name, frame = table["sample_id"][0], int(table["frame"][0])
    lines = Path("next/README.txt").read_text().splitlines()
    (place,) = [line.split(",")[0].strip() for line in lines if "for example" in line]
    assert place == f"data/raw/heart-drawn/hearts/masks/{name.removeprefix('hearts/')}_{frame}.nii.gz"
    mask = np.zeros((48, 48), np.uint8)
    mask[10:30, 20:25] = 1
    (project / place).parent.mkdir(parents=True)
    nifti.write(project / place, mask[None], 1.0)
    prepared()
    store = read_masks(project / "data/heart-drawn/ingest/hearts/masks")
    assert store[name].frames.tolist() == [frame] and store[name].phases == ("",)
    np.testing.assert_array_equal(store[name].maps[0], mask)
    assert set(suggested()["sample_id"]) == free - {name}
    settings = load(project)
    manifest = read_manifest(project / "data/heart-drawn/ingest/hearts/manifest.parquet")
    manifest["masks"] = manifest["sample_id"].isin(list(store))
    rows = kind_of(settings.tasks[TASK]).labelled(settings.tasks[TASK], manifest)
    assert set(rows["sample_id"]) == set(store), "the others are left out of the task"


def test_what_cannot_be_suggested_is_said(project: Path) -> None:
    assert "task 'hearts-ef' is of kind regression" in refused("suggest", "hearts-ef")
    assert "no arm 'hand-made' brings an encoder to hearts-masks" in refused("suggest", TASK, "--arm", "hand-made")
    assert "Did you mean 'hearts-masks'?" in refused("suggest", "hearts-mask")
    place = project / "data/heart-drawn/ingest/hearts"
    before, masks = read_manifest(place / "manifest.parquet"), read_masks(place / "masks")
    write_manifest(place / "manifest.parquet", before[before["sample_id"].isin(list(masks))])
    said = refused("suggest", TASK)
    write_manifest(place / "manifest.parquet", before)
    assert "every recording of source 'hearts' that may be trained on has masks" in said
    assert "Add recordings without masks to data/raw/heart-drawn/hearts" in said


def test_test_patients_choose_no_champion(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `promote` scores of a task with an official split, on this project's drawn hearts."""
    settings, data = load(project), project / "data" / "heart-drawn"
    task, manifest = settings.tasks["hearts-ef"], read_manifest(data / "ingest/hearts/manifest.parquet")
    rows = kind_of(task).labelled(task, manifest).assign(split_group=manifest["patient_id"])
    folds = make_folds(rows, settings.split, "official")
    write_folds(data / "split/hearts-ef.csv", folds)
    (data / "fit/hearts-ef").mkdir(parents=True)
    pd.DataFrame().to_parquet(data / "fit/hearts-ef/predictions.parquet")
    monkeypatch.setattr(comparison, "read_comparison", lambda _: SimpleNamespace(verdicts=pd.DataFrame()))
    one = _candidate(project, settings, "hearts-ef", "hand-made")
    tested = set(manifest.loc[manifest["split_official"] == "TEST", "sample_id"])
    assert set(one.predictions["arm"]) == {"hand-made", "constant"}
    assert tested and not tested & {*one.predictions["sample_id"], *one.decided_on["sample_id"]}
    assert not tested & {*one.training["sample_id"]} and {*one.predictions["sample_id"]} < {*one.training["sample_id"]}
    assert one.scores(100)["mae"].estimate >= 0
