"""The map of an encoder's mean tokens says what its nearest recordings share."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from drawn import classes_of, folds_of, manifest_of
from small_models import _embedded

from echolung.data.manifest import write_manifest
from echolung.reports.maps import draw, maps

PATIENT = np.arange(24) // 2


def test_an_encoder_of_labels_and_one_of_collections_are_told_apart(tmp_path: Path) -> None:
    names, y, place = [f"s/{i:02d}" for i in range(24)], PATIENT % 3, PATIENT // 6
    manifest = manifest_of(names, PATIENT, collection=[("north", "south")[k] for k in place])
    (tmp_path / "ingest" / "s").mkdir(parents=True)
    write_manifest(tmp_path / "ingest" / "s" / "manifest.parquet", manifest)
    for arm, codes in {"labels": y, "places": 3 + place}.items():
        tokens = np.random.default_rng(0).normal(0, 0.1, (24, 1, 8, 6)) + np.eye(6)[codes][:, None, None]
        _embedded(tmp_path / "embed" / "s" / arm / "seed0", tokens, manifest, arm, "")
    shutil.copytree(tmp_path / "embed" / "s" / "labels", tmp_path / "embed" / "s" / "the-same-encoder")
    task = classes_of("abc")
    tasks, folds = {"one": task, "two": task}, {"one": folds_of(manifest, y)}
    labels, places = found = maps(tasks, folds, ["labels", "the-same-encoder", "hand-made", "places"], tmp_path)
    assert [one.title for one in found] == ["one, labels", "one, places"], "the first task of a source"
    # Four patients of each class, two recordings each: of another patient 6 of 22 agree in the label by chance.
    assert labels.nearest["label"] == pytest.approx((1, 6 / 22))
    assert places.nearest["collection"] == pytest.approx((1, 10 / 22)) and places.nearest["label"][0] < 0.7
    told = [text.get_text() for panel in draw(found).axes for text in panel.texts]
    assert "label: nearest agree 100% (chance 27%)" in told and draw([]) is None
