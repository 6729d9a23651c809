"""Phantom data sets on disk: the layouts of the public sets, identical bytes for any number of processes."""

import hashlib
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from drawn import ingested

from echolung.core.errors import SettingsError
from echolung.data.sources.layouts import scan
from echolung.data.video import decode
from echolung.hearts.volumes import beats, volume
from echolung.phantom.plans import LungPlan, plan
from echolung.phantom.settings import PhantomSettings
from echolung.phantom.write import write

Written = tuple[Path, pd.DataFrame]
DATA_SETS: dict[str, dict[str, Any]] = {
    "echonet": {"frames": 24, "fps": 20, "noise": 12},
    "echonet_pediatric": {"patients": 8, "frames": 16},
    "camus": {"frames": 50, "still_walls": 1},
    "pocus": {"patients": 9, "videos_per_patient": 2},
    "covid_blues": {"videos_per_patient": 3},
}


def settings(layout: str, **changes: Any) -> PhantomSettings:
    small = {"layout": layout, "patients": 4, "frames": 10, "size": 64, "seed": 3}
    return PhantomSettings.parse(small | changes, "the test")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Written]:
    """A small data set in every layout."""
    folder = tmp_path_factory.mktemp("phantom")
    return {
        layout: (folder / layout, write(settings(layout, **changes), folder / layout, 1, lambda done, total: None))
        for layout, changes in DATA_SETS.items()
    }


def lungs(layout: str, **changes: Any) -> list[LungPlan]:
    return [one for one in plan(settings(layout, **changes)) if isinstance(one, LungPlan)]


def digests(root: Path) -> dict[str, str]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("layout", DATA_SETS)
def test_every_video_of_the_table_decodes_and_is_read_like_the_public_set(written: Any, layout: str) -> None:
    root, table = written[layout]
    rows = scan(layout, root, "drawn").manifest
    assert sorted(rows["path"]) == sorted(str(root / file) for file in table["file"])
    assert rows["patient_id"].nunique() == table["patient"].nunique()
    for row in table.itertuples():
        video = decode(root / str(row.file))
        assert len(video.frames) == row.frames
        assert video.damage == ("its frame rate is unknown" if layout == "camus" else "")  # the layout's cfg has it
        assert video.frames.mean() == pytest.approx(row.mean, abs=4)
    others = re.compile(r"\.csv$|\.txt$|\.cfg$|LICENSE$|_(gt|ED|ES)\.nii\.gz$")
    assert sorted(name for name in digests(root) if not others.search(name)) == sorted(table["file"])


@pytest.mark.parametrize("view", ["A4C", "PSAX"])
def test_echonet_pediatric_folder(written: dict[str, Written], view: str) -> None:
    root, table = written["echonet_pediatric"]
    of_view = table[table["view"] == view.lower()].reset_index(drop=True)
    listed = pd.read_csv(root / view / "FileList.csv")
    assert ",".join(listed.columns) == "FileName,EF,Sex,Age,Weight,Height,Split"
    assert (f"{view}/Videos/" + listed["FileName"]).tolist() == of_view["file"].tolist()
    assert listed["FileName"].str.partition("-")[0].tolist() == of_view["patient"].tolist()
    np.testing.assert_allclose(listed["EF"], of_view["ejection_fraction"], atol=0.01)
    tracings = pd.read_csv(root / view / "VolumeTracings.csv")
    assert ",".join(tracings.columns) == "FileName,X,Y,Frame"
    missing = tracings[tracings["X"].isna()]
    assert missing["Frame"].tolist() == [{"A4C": "No Diastolic", "PSAX": "No Systolic"}[view]]
    for name, rows in tracings[~tracings["FileName"].isin(missing["FileName"])].groupby("FileName"):
        known, areas = of_view.set_index("file").loc[f"{view}/Videos/{name}"], {}
        for frame, points in rows.groupby("Frame"):
            x, y = points["X"].to_numpy(), points["Y"].to_numpy()
            areas[int(str(frame))] = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
        ratio = areas[known["end_systole"]] / areas[known["end_diastole"]]
        assert ratio == pytest.approx(known["end_systolic_area"] / known["end_diastolic_area"], rel=0.005)
        # The volume is proportional to area^2 / length of the long axis (A4C), or to area x length (PSAX).
        ef = known["ejection_fraction"] / 100
        left = ratio**2 / (1 - 0.27 * ef) if view == "A4C" else ratio * (1 - 0.27 * ef)
        assert 1 - left == pytest.approx(ef, abs=0.005)


@pytest.mark.parametrize("layout", ["camus", "echonet"])
def test_the_tracings_measure_the_solid_of_the_drawn_heart(layout: str, written: Any, tmp_path: Path) -> None:
    """CAMUS has an exact mask of every frame, EchoNet the discs of end-diastole and end-systole."""
    root, table = written[layout]
    found, *_ = ingested(tmp_path, "drawn", layout, root, 64)
    for truth in table.to_dict("records"):
        name = f"drawn/{truth['patient']}" + (f"/{truth['view'][1]}CH" if layout == "camus" else "")
        row, masks = found.manifest.set_index("sample_id").loc[name], found.masks[name]
        ends = truth["end_diastole"], truth["end_systole"]
        assert row["ef"] == pytest.approx(truth["ejection_fraction"], abs=0.01)
        assert [int(masks.frames[masks.phases.index(phase)]) for phase in ("ED", "ES")] == [*ends]
        volumes = [volume((cavity, 1.0)) for cavity in masks.maps == 1]
        measured = dict(zip(masks.frames.tolist(), volumes, strict=True))
        full, empty = (measured[end] for end in ends)
        assert 100 * (full - empty) / full == pytest.approx(truth["ejection_fraction"], abs=3)  # of 64 pixels
        assert [*measured] == ([*range(truth["frames"])] if layout == "camus" else sorted(ends))
        if layout == "camus":
            assert row["fps"] == 25 and row["frames"] == truth["frames"]
            assert row["abnormal_frames"] == truth["abnormal_frames"]  # none if the video ends before its second beat
            assert ends in beats(np.array(volumes), 25) or truth["ejection_fraction"] < 30
    assert layout == "echonet" or (table["abnormal_frames"] > 0).sum() >= 4


def test_bytes_depend_on_the_settings_and_not_on_the_number_of_processes(tmp_path: Path, written: Any) -> None:
    root, first = written["echonet"]
    seen: list[tuple[int, int]] = []
    table = write(settings("echonet", **DATA_SETS["echonet"]), tmp_path / "2", 2, lambda *counts: seen.append(counts))
    pd.testing.assert_frame_equal(table, first)
    assert seen == [(done, 4) for done in range(1, 5)]
    assert digests(root) == digests(tmp_path / "2")
    write(settings("echonet", patients=1, seed=4), tmp_path / "seed", 1, lambda done, total: None)
    assert set(digests(root).values()) & set(digests(tmp_path / "seed").values()) == {digests(root)["LICENSE"]}


@pytest.mark.parametrize(("tied", "low", "high"), [(0.0, 0.36, 0.45), (0.5, 0.6, 0.85), (1.0, 1.0, 1.0)])
def test_the_source_predicts_the_label_as_far_as_it_is_tied(tied: float, low: float, high: float) -> None:
    patients = {one.patient: one for one in lungs("pocus", patients=600, nuisance_tied_to_label=tied)}.values()
    table = pd.crosstab([one.source.name for one in patients], [one.diagnosis for one in patients])
    accuracy = table.max(axis=1).sum() / 600  # of the most frequent diagnosis of each source
    assert low <= accuracy <= high


def test_lung_plans_are_consistent_within_patients_and_realistic_across_them() -> None:
    plans = lungs("pocus", patients=12, videos_per_patient=2)
    for patient in {one.patient for one in plans}:
        mine = [one for one in plans if one.patient == patient]
        assert len({one.diagnosis for one in mine}) == len({one.anatomy for one in mine}) == 1
        assert len({one.findings for one in mine}) == len(mine)  # every video shows another place
    assert min(Counter({one.patient: one.diagnosis for one in plans}.values()).values()) >= 3
    assert len({one.seed for one in plans}) == len(plans)
    plans = lungs("pocus", patients=60)  # in the containers and sizes of the public set
    assert {Path(one.file).suffix for one in plans} == {".mp4", ".MP4", ".mov", ".avi", ".gif", ".mpeg"}
    assert len({one.size for one in plans}) >= 4 and len({one.source.fps for one in plans}) >= 3
    plans = lungs("covid_blues", patients=200, videos_per_patient=3)
    for positive, low, high in ((True, 0.15, 0.45), (False, 0.7, 0.95)):  # of videos that look healthy
        assert low < np.mean([one.findings.severity == 0 for one in plans if one.positive == positive]) < high


def test_wrong_settings_are_named() -> None:
    for changes, names in [
        ({"layout": "echonet_pediatric", "videos_per_patient": 2}, "one video per patient and view"),
        ({"nuisance_tied_to_label": 0.5}, "nuisance_tied_to_label"),
        ({"sizes": 64}, "did you mean 'size'"),
    ]:
        with pytest.raises(SettingsError, match=names):
            settings(**{"layout": "echonet"} | changes)
