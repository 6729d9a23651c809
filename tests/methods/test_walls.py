"""The hybrid on the walls that a U-Net draws: a wall that stands still, who trains, what an answer rests on."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from drawn import manifest_of, outer_fold_of
from hearts_drawn import DARK, SIDE, ellipse
from sklearn.metrics import roc_auc_score

from echolung.core.errors import DataError
from echolung.data.masks import Masks
from echolung.embedding.recordings import HeldClips, Part, Recordings
from echolung.hearts.volumes import DISCS
from echolung.kinds.classification import ClassificationTask
from echolung.methods import walls
from echolung.methods.walls import OnShapes, OnWalls, WallsSettings, shapes

TASK = ClassificationTask(
    kind="classification", source="h", label="l", classes=["all move", "one stands"], unit="video"
)
UNET = {"encoder": "tu-test_resnet", "image_size": 32, "steps": 4, "batch": 4, "clahe": False}
QUICK = {"width": 16, "layers": 1, "heads": 2, "batch": 8, "learning_rate": 3e-3, "frames": 10, "views": 1}


def beating(videos: int) -> tuple[Recordings, np.ndarray]:
    """Ten frames at 25 a second; in every third video (class 1) one wall, left or right, stands still in three."""
    random, shown, masks = np.random.default_rng(0), {}, {}
    y = (np.arange(videos) % 3 == 0).astype(int)
    for number, event in enumerate(y):
        x, smaller = random.uniform(-3, 3), 1 - 0.3 * np.sin(np.pi * np.arange(10) / 9)
        sides = np.stack([smaller, smaller])
        first = random.integers(2, 6)
        sides[random.integers(2), first : first + 3 * event] = 1.0
        maps = [
            np.stack([ellipse(SIDE, 18 * s, 12 * w, x) for w in pair]) for s, pair in zip(smaller, sides.T, strict=True)
        ]
        left = np.arange(SIDE) < (SIDE - 1) / 2 + x
        maps = [np.where(left, *pair) for pair in maps]
        shown[f"h/{number:02d}"] = (np.where(maps, 30, 100).astype(np.uint8), 25.0)
        if number % 2:
            labels = np.array(maps, np.uint8)[[0, 4]]
            masks[f"h/{number:02d}"] = Masks(np.array([0, 4]), ("ED", "ES"), labels, ("left ventricle",), 1.0)
    names = list(shown)
    return Recordings([Part(manifest_of(names, names), HeldClips(shown), masks=masks)]), y


def test_a_wall_that_stands_still_for_three_frames_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Exact:
        def maps(self, recordings: Recordings, sample_id: str, frames: np.ndarray) -> np.ndarray:
            return (recordings.frames(sample_id)[frames] < DARK).astype(np.uint8)

        @classmethod
        def fit(cls, settings: object, task: object, recordings: Recordings, rows: object, *rest: object) -> "Exact":
            assert set(rows["sample_id"]) == {name for name in training["sample_id"] if int(name[2:]) % 2}, "with masks"
            return cls()

    monkeypatch.setattr(walls, "Segmentation", Exact)
    recordings, y = beating(90)
    training, test, asked = outer_fold_of(recordings.parts[0].manifest, y)
    settings = WallsSettings.parse({**QUICK, "steps": 120, "cut": "half"}, "x")
    one = OnWalls.fit(settings, TASK, recordings, training, 0, tmp_path)
    assert roc_auc_score(test["y"], one.predict(recordings, asked)[:, 1]) > 0.95


def test_it_is_kept_and_explained_with_its_network(tmp_path: Path) -> None:
    recordings, y = beating(24)
    training, _, asked = outer_fold_of(recordings.parts[0].manifest, y)
    settings = WallsSettings.parse({**QUICK, "steps": 4, "unet": UNET}, "x")
    one = OnWalls.fit(settings, TASK, recordings, training, 0, tmp_path / "work")
    one.save(tmp_path)
    np.testing.assert_array_equal(OnWalls.load(tmp_path).predict(recordings, asked), one.predict(recordings, asked))
    maps = one.explain(recordings, asked[0])
    found = shapes(maps.drawing.labels[0])
    assert set(np.unique(maps.drawing.labels)) <= {0, 1}, "an atrium that nobody traced is not drawn"
    left, right = maps.curve.lines.values()
    np.testing.assert_allclose([left, right], 100 * found[:, :-1].reshape(10, 2, DISCS).mean(axis=2).T)
    bare = dataclasses.replace(recordings.parts[0], masks={})
    with pytest.raises(DataError, match="no recording of 'h' that may be trained on has masks"):
        OnWalls.fit(settings, TASK, Recordings([bare]), training, 0, tmp_path / "bare")


def test_a_bad_frame_is_no_unit_and_a_short_video_ends() -> None:
    frame = np.zeros((40, 40), np.uint8)
    frame[4:34, 10:28], frame[34:38, 12:22] = 1, 3
    leak = frame.copy()
    leak[:4] = 1
    maps = np.stack([frame] * 30 + [leak, np.zeros_like(frame)])
    found = shapes(maps)
    assert found[0, -1] == pytest.approx(1, abs=0.02) and found[30, -1] > 1.05 and not found[-1].any()
    settings = WallsSettings.parse({**QUICK, "frames": 40, "views": 2}, "x")
    recordings = Recordings([Part(manifest_of(["h/0"], ["h/0"]), HeldClips({"h/0": (maps, 25.0)}))])

    class Drawn:
        def maps(self, recordings: Recordings, sample_id: str, frames: np.ndarray) -> np.ndarray:
            return recordings.frames(sample_id)[frames]

    tokens = walls.walls_of(settings, Drawn(), recordings, ["h/0"])
    x, valid = OnShapes.reader(None, tokens)("h/0", None)
    assert valid.sum(axis=1).tolist() == [32, 32] and not x[0, 31].any(), "no step more; no ventricle"
    np.testing.assert_allclose(x[0, :31], (found - found[:31].mean(axis=0))[:31], atol=1e-3)
