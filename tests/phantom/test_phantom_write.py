"""Phantom data sets: the public sets' layouts, the same bytes from any number of processes, whole or not at all."""

import hashlib
import itertools
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from PIL import Image

from echolung.core.errors import SettingsError
from echolung.data.video import decode
from echolung.phantom.contact_sheet import contact_sheet
from echolung.phantom.plans import HeartPlan, LungPlan, plan
from echolung.phantom.settings import PhantomSettings
from echolung.phantom.write import write, write_heart, write_lung

Written = tuple[Path, pd.DataFrame]


def settings(layout: str, **changes: Any) -> PhantomSettings:
    small = {"layout": layout, "patients": 4, "frames": 10, "size": 64, "seed": 3}
    return PhantomSettings.parse(small | changes, "the test")


def nothing(done: int, total: int) -> None:
    """No progress bar."""


def drawn(root: Path, chosen: PhantomSettings) -> Written:
    return root, write(chosen, root, 1, nothing)


def lungs(layout: str, **changes: Any) -> list[LungPlan]:
    return [one for one in plan(settings(layout, **changes)) if isinstance(one, LungPlan)]


@pytest.fixture(scope="module")
def echonet(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return drawn(tmp_path_factory.mktemp("phantom") / "echonet", settings("echonet", frames=24, fps=20))


@pytest.fixture(scope="module")
def pediatric(tmp_path_factory: pytest.TempPathFactory) -> Written:
    root = tmp_path_factory.mktemp("phantom") / "pediatric"
    return drawn(root, settings("echonet_pediatric", patients=8, frames=16))


@pytest.fixture(scope="module")
def pocus(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return drawn(tmp_path_factory.mktemp("phantom") / "pocus", settings("pocus", patients=9, videos_per_patient=2))


@pytest.fixture(scope="module")
def blues(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return drawn(tmp_path_factory.mktemp("phantom") / "blues", settings("covid_blues", videos_per_patient=3))


@pytest.mark.parametrize("written", ["echonet", "pediatric", "pocus", "blues"])
def test_every_video_of_the_table_is_there_and_decodes_whole(written: str, request: pytest.FixtureRequest) -> None:
    root, table = request.getfixturevalue(written)
    assert table["file"].is_unique
    assert {"file", "patient", "frames", "mean"} <= set(table.columns)
    for row in table.itertuples():
        video = decode(root / str(row.file))
        assert len(video.frames) == row.frames
        assert video.frames.mean() == pytest.approx(row.mean, abs=4)
        assert not video.damage
    assert {name for name in _digests(root) if Path(name).suffix not in (".csv", "")} == set(table["file"])


def test_echonet_folder(echonet: Written) -> None:
    root, table = echonet
    listed = pd.read_csv(root / "FileList.csv")
    expected = "FileName,EF,ESV,EDV,FrameHeight,FrameWidth,FPS,NumberOfFrames,Split"
    assert ",".join(listed.columns) == expected
    assert set(listed["Split"]) <= {"TRAIN", "VAL", "TEST"}
    for row in listed.itertuples():
        video = decode(root / "Videos" / f"{row.FileName}.avi")
        assert video.codec == "mjpeg"
        assert video.frames.shape == (row.NumberOfFrames, row.FrameHeight, row.FrameWidth)
        assert video.fps == pytest.approx(row.FPS)
    np.testing.assert_allclose(100 * (1 - listed["ESV"] / listed["EDV"]), listed["EF"], atol=1e-3)
    assert len(table) == len(listed) == 4


def test_tracings_measure_the_listed_ejection_fraction_by_discs(echonet: Written) -> None:
    root, _ = echonet
    listed = pd.read_csv(root / "FileList.csv").set_index("FileName")
    tracings = pd.read_csv(root / "VolumeTracings.csv")
    assert ",".join(tracings.columns) == "FileName,X1,Y1,X2,Y2,Frame"
    assert len(tracings) == len(listed) * 2 * 21
    for name, rows in tracings.groupby("FileName"):
        volumes = []
        for _, frame in rows.groupby("Frame"):
            length, *diameters = np.hypot(frame["X2"] - frame["X1"], frame["Y2"] - frame["Y1"])
            volumes.append(np.pi / 4 * length / 20 * np.sum(np.square(diameters)))
        measured = 100 * (max(volumes) - min(volumes)) / max(volumes)
        assert measured == pytest.approx(listed.loc[str(name).removesuffix(".avi"), "EF"], abs=0.2)


def test_echonet_pediatric_folder(pediatric: Written) -> None:
    root, table = pediatric
    assert {path.name for path in root.iterdir()} == {"A4C", "PSAX", "LICENSE"}
    patients = {}
    for view in ("A4C", "PSAX"):
        listed = pd.read_csv(root / view / "FileList.csv")
        assert ",".join(listed.columns) == "FileName,EF,Sex,Age,Weight,Height,Split"
        assert listed["Split"].tolist() == list(range(8))
        assert set(listed["Sex"]) == {"F", "M"}
        assert listed["Age"].between(0, 18).all()
        assert listed["FileName"].str.fullmatch(r"CR[0-9a-f]{7}-CR[0-9a-f]{7}-\d{6}\.avi").all()
        assert sorted(listed["FileName"]) == sorted(path.name for path in (root / view / "Videos").iterdir())
        of_view = table[table["view"] == view.lower()].reset_index(drop=True)
        np.testing.assert_allclose(listed["EF"], of_view["ejection_fraction"], atol=0.01)
        patients[view] = listed["FileName"].str.partition("-")[0].tolist()
        assert patients[view] == of_view["patient"].tolist()
    assert patients["A4C"] == patients["PSAX"]
    assert table["file"].map(lambda file: Path(file).name).is_unique


@pytest.mark.parametrize("view", ["A4C", "PSAX"])
def test_polygons_measure_the_ejection_fraction_of_their_view(pediatric: Written, view: str) -> None:
    root, table = pediatric
    truth = table.set_index(table["file"].map(lambda file: Path(file).name)).to_dict("index")
    tracings = pd.read_csv(root / view / "VolumeTracings.csv")
    assert ",".join(tracings.columns) == "FileName,X,Y,Frame"
    missing = tracings[tracings["X"].isna()]
    assert missing["Frame"].tolist() == [{"A4C": "No Diastolic", "PSAX": "No Systolic"}[view]]
    compared = 0
    for name, rows in tracings.dropna().groupby("FileName"):
        known, areas = truth[str(name)], {}
        assert name in set(pd.read_csv(root / view / "FileList.csv")["FileName"])
        for frame, points in rows.groupby("Frame"):
            x, y = points["X"].to_numpy(), points["Y"].to_numpy()
            areas[int(str(frame))] = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
        if len(areas) < 2:
            assert name in set(missing["FileName"])
            continue
        full, empty = areas[known["end_diastole"]], areas[known["end_systole"]]
        assert empty / full == pytest.approx(known["end_systolic_area"] / known["end_diastolic_area"], rel=0.005)
        # The volume of a body of one form is as area^2 / length; and as the short axis' area x the long one's length.
        shortening, ef = 1 - 0.27 * known["ejection_fraction"] / 100, known["ejection_fraction"] / 100
        ratio = (empty / full) ** 2 / shortening if view == "A4C" else empty / full * shortening
        assert 1 - ratio == pytest.approx(ef, abs=0.005)
        compared += 1
    assert compared == 7


def test_pocus_folder(pocus: Written) -> None:
    root, table = pocus
    metadata = pd.read_csv(root / "dataset_metadata.csv")
    joined = metadata.set_index(metadata["Filename"].str.lower())
    diagnoses = {"covid": "COVID-19", "pneumonia": "Bacterial pneumonia", "regular": "regular"}
    prefixes = {"covid": "cov", "pneumonia": "pneu", "regular": "reg"}
    for row in table.to_dict("records"):
        path = Path(row["file"])
        known = joined.loc[path.stem.lower()].to_dict()
        assert path.parent.name == "convex"
        assert known["Label"] == diagnoses[row["diagnosis"]]
        assert known["Patient ID / Name"] == float(row["patient"])
        assert path.stem.lower().startswith(prefixes[row["diagnosis"]])
    assert metadata["License"].str.contains("synthetic").all()
    assert sum(Path(file).name.startswith("pneu") for file in table["file"]) == 1
    assert Counter(table["patient"]) == {str(patient): (1, 2, 3)[patient % 3] for patient in range(1, 10)}


def test_containers_sizes_and_rates_are_mixed() -> None:
    plans = lungs("pocus", patients=60)
    assert {Path(one.file).suffix.lower() for one in plans} == {".mp4", ".mov", ".avi", ".gif", ".mpeg"}
    assert ".MP4" in {Path(one.file).suffix for one in plans}
    assert len({(one.height, one.width) for one in plans}) >= 4
    assert len({one.source.fps for one in plans}) >= 3


def test_covid_blues_folder(blues: Written) -> None:
    root, table = blues
    clinical = pd.read_csv(root / "clinical_variables.csv", dtype={"patient_id": str}).set_index("patient_id")
    severity = pd.read_csv(root / "severity.csv")
    assert list(severity.columns) == ["video_file", "Severity Score", "A-lines", "B-lines", "comments"]
    assert set(severity["video_file"] + ".mp4") == {Path(file).name for file in table["file"]}
    assert severity["video_file"].str.fullmatch(r"patient_\d+_[LR][123](_\d)?").all()
    assert set(severity["A-lines"]) | set(severity["B-lines"].str.strip()) <= {"yes", "no"}
    assert severity["B-lines"].str.endswith(" ").any()  # as in the public table
    assert clinical["number_video_files"].tolist() == [3.0] * 4
    assert (table["patient"].map(clinical["cov_test"]) == table["positive"]).all()
    assert set(clinical["cov_test"]) == {0, 1}
    assert "synthetic" in (root / "LICENSE").read_text()


def _digests(root: Path) -> dict[str, str]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_data_set_does_not_depend_on_the_number_of_processes(tmp_path: Path, pocus: Written) -> None:
    seen: list[tuple[int, int]] = []
    chosen = settings("pocus", patients=9, videos_per_patient=2)
    table = write(chosen, tmp_path / "again", 2, lambda done, total: seen.append((done, total)))
    pd.testing.assert_frame_equal(table, pocus[1])
    assert seen == [(done, 18) for done in range(1, 19)]
    assert _digests(pocus[0]) == _digests(tmp_path / "again")


def test_another_seed_is_another_data_set(tmp_path: Path) -> None:
    one, other = (drawn(tmp_path / str(seed), settings("echonet", patients=1, seed=seed)) for seed in (1, 2))
    mine, theirs = ({n: d for n, d in _digests(root).items() if n != "LICENSE"} for root, *_ in (one, other))
    assert set(mine.values()).isdisjoint(theirs.values())


def test_an_interrupted_write_leaves_nothing_and_spares_what_was_there(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    root = tmp_path / "hearts"
    with pytest.raises(KeyboardInterrupt):
        write(settings("echonet"), root, 1, interrupt)
    assert list(tmp_path.iterdir()) == []
    drawn(root, settings("echonet", patients=1))
    before = _digests(root)
    with pytest.raises(KeyboardInterrupt):
        write(settings("echonet"), root, 1, interrupt)
    assert _digests(root) == before


@pytest.mark.parametrize("layout", ["pocus", "covid_blues"])
def test_sources_are_independent_of_the_label_by_default(layout: str) -> None:
    surprises = 0
    for seed in range(20):
        patients = {one.patient: one for one in lungs(layout, patients=60, seed=seed)}.values()
        table = pd.crosstab([one.positive for one in patients], [one.source.name for one in patients])
        surprises += scipy.stats.chi2_contingency(table).pvalue < 0.05
    assert surprises <= 4  # of 20, by chance 1


def test_sources_tell_the_label_when_tied() -> None:
    def told(tied: float) -> float:
        """Share of patients that the best guess from the source alone gets right."""
        patients = {one.patient: one for one in lungs("pocus", patients=600, nuisance_tied_to_label=tied)}.values()
        pairs = Counter((one.source.name, one.diagnosis) for one in patients)
        best = Counter[str]()
        for (source, _), count in pairs.items():
            best[source] = max(best[source], count)
        return best.total() / len(patients)

    assert told(0.0) < 0.45  # the commonest class: 0.36
    assert 0.6 < told(0.5) < 0.85
    assert told(1.0) == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_plans_keep_patients_whole_and_classes_present(seed: int) -> None:
    plans = lungs("pocus", patients=12, videos_per_patient=2, seed=seed)
    for patient in {one.patient for one in plans}:
        mine = [one for one in plans if one.patient == patient]
        assert len({one.diagnosis for one in mine}) == len({one.anatomy for one in mine}) == 1
        assert len({one.findings for one in mine}) == len(mine)  # every video shows another spot
    assert min(Counter({one.patient: one.diagnosis for one in plans}.values()).values()) >= 3
    assert len({one.seed for one in plans}) == len(plans)


def test_some_videos_of_positive_patients_look_normal() -> None:
    plans = lungs("covid_blues", patients=200, videos_per_patient=3)
    positive, negative = (
        np.mean([one.findings.severity == 0 for one in plans if one.positive == flag]) for flag in (True, False)
    )
    assert 0.15 < positive < 0.45
    assert 0.7 < negative < 0.95


def test_ejection_fractions_are_those_of_a_hospital() -> None:
    hearts = [one for one in plan(settings("echonet", patients=400)) if isinstance(one, HeartPlan)]
    values = np.array([one.ejection_fraction for one in hearts])
    assert 50 < values.mean() < 60
    assert 0.1 < (values < 45).mean() < 0.3
    assert len({one.patient for one in hearts}) == 400
    assert Counter(one.split for one in hearts) == {"TRAIN": 300, "VAL": 50, "TEST": 50}


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"layout": "pocuss"}, "layout"),
        ({"patients": 0}, "patients"),
        ({"nuisance_tied_to_label": 1.5}, "nuisance_tied_to_label"),
        ({"videos_per_patient": 3}, "videos_per_patient"),
        ({"nuisance_tied_to_label": 0.5}, "nuisance_tied_to_label"),
        ({"sizes": 64}, "did you mean 'size'"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, Any], names: str) -> None:
    with pytest.raises(SettingsError, match=names):
        settings(**{"layout": "echonet"} | changes)


def test_children_are_seen_once_in_each_view() -> None:
    with pytest.raises(SettingsError, match="one video per patient and view"):
        settings("echonet_pediatric", videos_per_patient=2)
    hearts = [one for one in plan(settings("echonet_pediatric", patients=200)) if isinstance(one, HeartPlan)]
    assert Counter(one.view for one in hearts) == {"a4c": 200, "psax": 200}
    assert Counter(Counter(one.patient for one in hearts).values()) == {2: 200}
    for one, other in itertools.pairwise(hearts):
        if one.patient == other.patient:  # the same child, examined once
            assert (one.ejection_fraction, one.child, one.split) == (other.ejection_fraction, other.child, other.split)
    children = {one.patient: one.child for one in hearts if one.child}.values()
    assert 3 <= sum(child.weight is None or child.height is None for child in children) <= 50
    tall = [(child.age, child.height) for child in children if child.height is not None]
    assert scipy.stats.spearmanr(*zip(*tall, strict=True)).statistic > 0.9


@pytest.mark.parametrize("name", ["heart.mp4", "heart.avi", "heart.gif", "heart.mov", "heart.mpeg"])
def test_one_heart(tmp_path: Path, name: str) -> None:
    said = write_heart(tmp_path / name, ejection_fraction=35, seed=1, frames=8, size=64)
    assert decode(tmp_path / name).frames.shape == (8, 64, 64)
    assert "35%" in said


def test_one_heart_in_the_short_axis(tmp_path: Path) -> None:
    said = write_heart(tmp_path / "heart.mp4", 60, seed=1, frames=12, size=64, view="psax")
    full, empty = (float(number) for number in re.findall(r"seen as ([\d.]+) to ([\d.]+) cm2", said)[0])
    assert empty / full == pytest.approx(0.4 / (1 - 0.27 * 0.6), abs=0.01)
    assert decode(tmp_path / "heart.mp4").frames.shape == (12, 64, 64)


@pytest.mark.parametrize("pattern", ["regular", "pneumonia", "covid"])
def test_one_lung(tmp_path: Path, pattern: str) -> None:
    said = write_lung(tmp_path / "lung.mp4", pattern=pattern, seed=1, frames=8, size=64)
    assert decode(tmp_path / "lung.mp4").frames.shape == (8, 64, 64)
    assert pattern in said


def test_what_cannot_be_drawn_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"\.mp4"):
        write_heart(tmp_path / "heart.txt", 60, 0, 8, 64)
    with pytest.raises(SettingsError, match="5 to 85"):
        write_heart(tmp_path / "heart.mp4", 100, 0, 8, 64)
    with pytest.raises(SettingsError, match="covid"):
        write_lung(tmp_path / "lung.mp4", "flu", 0, 8, 64)
    with pytest.raises(SettingsError, match="2 frames"):
        write_lung(tmp_path / "lung.mp4", "covid", 0, 1, 64)
    assert list(tmp_path.iterdir()) == []


def test_the_contact_sheet_is_a_picture_for_a_readme(tmp_path: Path) -> None:
    contact_sheet(tmp_path / "phantoms.png")
    picture = Image.open(tmp_path / "phantoms.png").convert("RGB")
    assert picture.width > 1000
    assert (tmp_path / "phantoms.png").stat().st_size < 400_000
    colours = np.asarray(picture).astype(int)
    orange = (colours[..., 0] - colours[..., 2]) > 80
    assert 1000 < orange.sum() < 20_000  # the outlines of the masks
