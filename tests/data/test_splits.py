"""Folds: no patient on two sides, every video once, balanced classes, the same on every machine."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from echolung.core.errors import DataError, SettingsError
from echolung.data.splits import SplitSettings, fold_columns, folds_digest, make_folds, read_folds, write_folds


def cohort(seed: int) -> pd.DataFrame:
    """Patients with 1 to 12 videos; some have two labels; some are joined into one group by a shared video."""
    random = np.random.default_rng(seed)
    classes = int(random.integers(2, 5))
    patients = int(random.integers(12, 40)) * classes
    label = np.concatenate([np.repeat(np.arange(classes), 12), random.integers(0, classes, patients - 12 * classes)])
    videos = np.minimum(1 + random.geometric(random.uniform(0.15, 0.9), patients), 12)
    patient = np.repeat(np.arange(patients), videos)
    y = np.repeat(label, videos)
    second = random.random(len(y)) < 0.02
    y[second] = random.integers(0, classes, second.sum())
    group = np.arange(patients)
    joined = random.random(patients) < 0.05
    group[joined] = random.integers(0, patients, joined.sum())
    return pd.DataFrame(
        {
            "sample_id": [f"set/{n:04d}" for n in random.permutation(len(y))],
            "patient_id": [f"set/p{n}" for n in patient],
            "split_group": [f"set/p{n}" for n in group[patient]],
            "y": y,
            "label": [f"class {n}" for n in y],
        }
    )


# Videos (COVID, pneumonia, regular) per patient of the public set, and how many such patients there are.
POCUS_PATIENTS = [
    *[((1, 0, 0), 3), ((2, 0, 0), 1), ((3, 0, 0), 1), ((4, 0, 0), 1), ((5, 0, 0), 3)],
    *[((0, 1, 0), 30), ((0, 1, 1), 1), ((0, 2, 0), 1), ((0, 3, 0), 1)],
    *[((0, 0, 1), 24), ((0, 0, 2), 1), ((0, 0, 3), 1), ((0, 0, 6), 3), ((0, 0, 8), 1)],
]


def pocus_like() -> pd.DataFrame:
    """The class and patient structure of POCUS: few COVID patients, uneven, and one patient with two labels."""
    patients = [videos for videos, count in POCUS_PATIENTS for _ in range(count)]
    rows = [(f"p{n:02d}", y) for n, videos in enumerate(patients) for y in range(3) for _ in range(videos[y])]
    table = pd.DataFrame(rows, columns=["patient_id", "y"])
    return table.assign(split_group=table["patient_id"], sample_id=[f"v{n:03d}" for n in range(len(table))])


def settings(**changes: int) -> SplitSettings:
    return SplitSettings.model_validate(
        {"outer": 5, "inner": 3, "repeats": 2, "seed": 0, "near_duplicate": 0.9} | changes
    )


@pytest.mark.parametrize("seed", range(12))
def test_properties_hold_for_any_cohort(seed: int) -> None:
    table = cohort(seed)
    chosen = settings(outer=3 + seed % 3, inner=2 + seed % 3, repeats=1 + seed % 2, seed=seed)
    folds = make_folds(table, chosen)
    assert list(folds.columns) == fold_columns(chosen.outer)
    classes = set(table["y"])
    for _, repeat in folds.groupby("repeat"):
        assert sorted(repeat["sample_id"]) == sorted(table["sample_id"])
        assert set(repeat["fold"]) == set(range(chosen.outer))
        assert (repeat.groupby("split_group")["fold"].nunique() == 1).all()
        assert (repeat.groupby("patient_id")["fold"].nunique() == 1).all()
        for held_out in range(chosen.outer):
            inner = f"inner_{held_out}"
            training = repeat[repeat["fold"] != held_out]
            assert set(repeat.loc[repeat["fold"] == held_out, "y"]) == classes
            assert (repeat.loc[repeat["fold"] == held_out, inner] == -1).all()
            assert set(training[inner]) == set(range(chosen.inner))
            assert (training.groupby("split_group")[inner].nunique() == 1).all()
            for fold in range(chosen.inner):
                assert set(training.loc[training[inner] != fold, "y"]) == classes
    kept = folds.drop_duplicates("sample_id").set_index("sample_id")[["patient_id", "split_group", "y", "label"]]
    assert kept.sort_index().equals(table.set_index("sample_id")[list(kept.columns)].sort_index().astype(kept.dtypes))


def test_result_depends_on_the_rows_not_on_their_order() -> None:
    table = cohort(1)
    shuffled = table.sample(frac=1, random_state=3).set_index(np.random.default_rng(0).permutation(len(table)))
    pd.testing.assert_frame_equal(make_folds(table, settings()), make_folds(shuffled[table.columns[::-1]], settings()))


def test_result_is_the_same_on_every_machine() -> None:
    # A change of these digests changes every published split: it must be deliberate.
    assert folds_digest(make_folds(pocus_like(), settings())) == "2d53368a9ccff651"
    assert folds_digest(make_folds(cohort(1), settings(seed=7))) == "8dc0ce4a7aeb0d3e"


def test_seeds_and_repeats_divide_differently() -> None:
    table = pocus_like()
    folds = make_folds(table, settings(repeats=4))
    partitions = {tuple(part.sort_values("sample_id")["fold"]) for _, part in folds.groupby("repeat")}
    assert len(partitions) == 4
    assert folds_digest(make_folds(table, settings(seed=1))) != folds_digest(make_folds(table, settings(seed=2)))


def test_more_repeats_or_another_inner_keep_the_earlier_outer_folds() -> None:
    few = make_folds(pocus_like(), settings(repeats=1))
    many = make_folds(pocus_like(), settings(repeats=3, inner=4))
    columns = ["sample_id", "fold"]
    pd.testing.assert_frame_equal(few[columns], many.loc[many["repeat"] == 0, columns])


def imbalance(table: pd.DataFrame, fold: np.ndarray) -> tuple[int, int]:
    """Largest difference between two folds in (patients, videos) of one class."""
    placed = table.assign(fold=fold)
    patients = placed.groupby(["y", "fold"])["split_group"].nunique().unstack(fill_value=0)
    videos = placed.groupby(["y", "fold"]).size().unstack(fill_value=0)
    return int(np.ptp(patients, axis=1).max()), int(np.ptp(videos, axis=1).max())


def test_classes_are_more_even_than_with_stratified_group_k_fold() -> None:
    table = pocus_like()
    ours, sklearns = [], []
    for seed in range(10):
        folds = make_folds(table, settings(repeats=1, seed=seed)).set_index("sample_id")["fold"]
        ours.append(imbalance(table, folds[table["sample_id"]].to_numpy()))
        fold = np.zeros(len(table), dtype=int)
        splitter = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        for number, (_, test) in enumerate(splitter.split(table, table["y"], table["split_group"])):
            fold[test] = number
        sklearns.append(imbalance(table, fold))
    # The least possible: 9, 33 and 31 patients over 5 folds differ by 1; the patient with 8 regular videos then shares
    # a fold with 5 other regular patients, at least 13 of 56 videos, which leaves some fold with 10.
    assert max(patients for patients, _ in ours) == 1
    assert max(videos for _, videos in ours) == 3
    assert max(patients for patients, _ in sklearns) >= 3


def test_ten_thousand_patients_with_one_video_divide_exactly() -> None:
    count = 10_000
    ids = [f"p{n}" for n in range(count)]
    table = pd.DataFrame({"sample_id": ids, "patient_id": ids, "split_group": ids, "y": np.arange(count) % 4 // 3})
    folds = make_folds(table, settings(repeats=1))
    assert (folds.groupby(["fold", "y"]).size().unstack() == [1500, 500]).all(axis=None)


def small(*patients_per_class: int) -> pd.DataFrame:
    rows = [(f"{y}-{n}", y) for y, patients in enumerate(patients_per_class) for n in range(patients)]
    table = pd.DataFrame(rows, columns=["patient_id", "y"])
    return table.assign(
        split_group=table["patient_id"], sample_id=table["patient_id"], label=table["y"].map("c{}".format)
    )


def test_fewer_patients_than_folds_states_the_numbers() -> None:
    with pytest.raises(DataError, match=r"'c1' has 4 independent patients \(of 24 in all\) and 5 outer.*at most 4"):
        make_folds(small(20, 4), settings())
    with pytest.raises(DataError, match=r"'c1' has 1 independent.*Leave the class out"):
        make_folds(small(20, 1), settings())
    with pytest.raises(DataError, match=r"4 independent patients are in the training.*split.inner to at most 4"):
        make_folds(small(4, 4), settings(outer=2, inner=6))


def test_patients_joined_by_a_shared_video_count_once() -> None:
    table = small(8, 6)
    table.loc[table["y"] == 1, "split_group"] = ["a", "a", "a", "b", "c", "d"]
    with pytest.raises(DataError, match=r"'c1' has 4 independent patients \(of 12 in all\)"):
        make_folds(table, settings())


def test_a_class_that_would_miss_from_inner_training_states_the_numbers() -> None:
    with pytest.raises(DataError, match=r"no video of class 'c1' is left.*1 of its 2 independent patients"):
        make_folds(small(12, 2), settings(outer=2, inner=2))


def test_incomplete_tables_are_refused_by_name() -> None:
    with pytest.raises(DataError, match="no column patient_id"):
        make_folds(small(6, 6).drop(columns="patient_id"), settings())
    unknown = small(6, 6)
    unknown.loc[3, "patient_id"] = None
    with pytest.raises(DataError, match="1 videos have no patient, group or class: 0-3"):
        make_folds(unknown, settings())
    with pytest.raises(DataError, match="more than one row: 0-0"):
        make_folds(pd.concat([small(6, 6), small(6, 6)[:1]]), settings())
    with pytest.raises(SettingsError, match="outer"):
        SplitSettings.parse({"outer": 1}, "params.yaml")


def test_csv_round_trip_is_exact(tmp_path: Path) -> None:
    table = small(6, 6)
    table["patient_id"] = ["007", "NA", "None", "1e5", "a,b", 'say "ah"', *table["patient_id"][6:]]
    table["split_group"] = table["patient_id"]
    folds = make_folds(table, settings())
    path = tmp_path / "split" / "task.csv"
    write_folds(path, folds)
    again = read_folds(path)
    pd.testing.assert_frame_equal(again, folds)
    assert folds_digest(again) == folds_digest(folds)
    write_folds(tmp_path / "again.csv", again)
    assert (tmp_path / "again.csv").read_bytes() == path.read_bytes()
    assert path.read_text().splitlines()[0].startswith("sample_id,patient_id,split_group,y,label,repeat,fold,inner_0")


def test_digest_sees_every_cell_and_no_order() -> None:
    folds = make_folds(pocus_like(), settings())
    assert folds_digest(folds.sample(frac=1, random_state=0)) == folds_digest(folds)
    moved = folds.copy()
    moved.loc[0, "inner_4"] = (moved.loc[0, "inner_4"] + 1) % 3
    assert folds_digest(moved) != folds_digest(folds)


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "\x00\xff", None])
def test_a_file_that_is_no_table_of_folds_is_refused(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "task.csv"
    if text is not None:
        path.write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=r"task\.csv.*dvc repro split"):
        read_folds(path)


def test_damaged_folds_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "task.csv"
    folds = make_folds(small(6, 6), settings())
    write_folds(path, folds.astype({"fold": object}).replace({"fold": {0: "x"}}))
    with pytest.raises(DataError, match=r"task\.csv"):
        read_folds(path)
