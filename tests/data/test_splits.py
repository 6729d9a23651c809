"""Folds: no patient on two sides, every video once, classes as even as patients allow, the same on every machine."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from echolung.core.errors import DataError, SettingsError
from echolung.data import splits
from echolung.data.splits import UNUSED, SplitSettings, folds_digest, make_folds, read_folds, write_folds


def labelled(table: pd.DataFrame, source: str = "set") -> pd.DataFrame:
    """A table with sample_id, patient_id, split_group and stratum, as `Kind.labelled` returns it."""
    return table.assign(source=source, y=table["stratum"].astype(float), label=table["stratum"].map("class {}".format))


def cohort(seed: int, source: str = "set") -> pd.DataFrame:
    """Patients with 1 to 12 videos; some have two labels; some are joined into one group by a shared video."""
    random = np.random.default_rng(seed)
    classes = int(random.integers(2, 5))
    patients = int(random.integers(12, 24)) * classes
    label = np.concatenate([np.repeat(np.arange(classes), 12), random.integers(0, classes, patients - 12 * classes)])
    videos = np.minimum(1 + random.geometric(random.uniform(0.15, 0.9), patients), 12)
    patient, stratum = np.repeat(np.arange(patients), videos), np.repeat(label, videos)
    second = random.random(len(stratum)) < 0.02
    stratum[second] = random.integers(0, classes, second.sum())
    group = np.arange(patients)
    joined = random.random(patients) < 0.05
    group[joined] = random.integers(0, patients, joined.sum())
    ids = {"patient_id": [f"{source}/p{n}" for n in patient], "split_group": [f"{source}/p{n}" for n in group[patient]]}
    samples = [f"{source}/{n:04d}" for n in random.permutation(len(stratum))]
    return labelled(pd.DataFrame({"sample_id": samples, **ids, "stratum": stratum}), source)


# Videos (COVID, pneumonia, regular) per patient of the public set, and how many such patients there are.
POCUS_PATIENTS = [
    *[((1, 0, 0), 3), ((2, 0, 0), 1), ((3, 0, 0), 1), ((4, 0, 0), 1), ((5, 0, 0), 3)],
    *[((0, 1, 0), 30), ((0, 1, 1), 1), ((0, 2, 0), 1), ((0, 3, 0), 1)],
    *[((0, 0, 1), 24), ((0, 0, 2), 1), ((0, 0, 3), 1), ((0, 0, 6), 3), ((0, 0, 8), 1)],
]


def pocus_like() -> pd.DataFrame:
    """The classes and patients of POCUS: few COVID patients, uneven, and one patient with two labels."""
    patients = [videos for videos, count in POCUS_PATIENTS for _ in range(count)]
    rows = [(f"p{n:02d}", y) for n, videos in enumerate(patients) for y in range(3) for _ in range(videos[y])]
    return of_patients(rows).assign(sample_id=[f"v{n:03d}" for n in range(len(rows))])


def small(*patients_per_class: int) -> pd.DataFrame:
    """One video per patient."""
    return of_patients([(f"{y}-{n}", y) for y, patients in enumerate(patients_per_class) for n in range(patients)])


def of_patients(rows: list[tuple[str, int]]) -> pd.DataFrame:
    """A video of this patient and class per row, called like its patient."""
    table = pd.DataFrame(rows, columns=["patient_id", "stratum"])
    return labelled(table.assign(split_group=table["patient_id"], sample_id=table["patient_id"]))


def settings(**changes: int) -> SplitSettings:
    return SplitSettings.parse({"outer": 5, "inner": 3, "repeats": 1} | changes, "the test")


def check_sides(folds: pd.DataFrame, outer: int) -> None:
    """No patient and no group on two sides of any split: tested, in an inner fold, or always trained on."""
    for _, repeat in folds.groupby("repeat"):
        for j in range(outer):
            side = np.where(repeat["fold"] == j, "tested", repeat[f"inner_{j}"].astype(str))
            used = repeat.assign(side=side)[side != str(UNUSED)]
            for whole in ("split_group", "patient_id"):
                assert (used.groupby(whole)["side"].nunique() == 1).all()
            assert ((repeat["fold"] == j) <= (repeat[f"inner_{j}"] == UNUSED)).all()


@pytest.mark.parametrize("seed", range(8))
def test_cross_validation_for_any_cohort(seed: int) -> None:
    table = cohort(seed)
    chosen = settings(outer=3 + seed % 3, inner=2 + seed % 3, repeats=1 + seed % 2, seed=seed)
    folds = make_folds(table, chosen)
    assert list(folds.columns) == splits.fold_columns(chosen.outer)
    assert splits.fold_counts(table, chosen) == chosen.model_dump(include={"outer", "inner", "repeats"})
    check_sides(folds, chosen.outer)
    classes = set(table["stratum"])
    for _, repeat in folds.groupby("repeat"):
        assert sorted(repeat["sample_id"]) == sorted(table["sample_id"])
        assert set(repeat["fold"]) == set(range(chosen.outer))
        for held_out in range(chosen.outer):
            training, inner = repeat[repeat["fold"] != held_out], f"inner_{held_out}"
            assert set(repeat.loc[repeat["fold"] == held_out, "stratum"]) == classes
            assert set(training[inner]) == set(range(chosen.inner))
            for fold in range(chosen.inner):
                assert set(training.loc[training[inner] != fold, "stratum"]) == classes
    kept = folds.drop_duplicates("sample_id").set_index("sample_id").sort_index()
    pd.testing.assert_frame_equal(kept[["y", "label"]], table.set_index("sample_id").sort_index()[["y", "label"]])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("validation", [True, False])
def test_an_official_split_is_kept_and_leaks_nothing(seed: int, validation: bool) -> None:
    table = cohort(seed)
    sides = np.random.default_rng(seed).choice(["train", "TRAIN ", "Val", "TEST"], len(table), p=[0.4, 0.2, 0.2, 0.2])
    table["split_official"] = np.where((sides == "Val") & ~np.array(validation), "TRAIN", sides)
    folds = make_folds(table, settings(repeats=3), "official").set_index("sample_id")
    counts = splits.fold_counts(table, settings(repeats=3), "official")
    assert counts == {"outer": 1, "inner": 1 if validation else 3, "repeats": 1}
    check_sides(folds, 1)
    side = table.set_index("sample_id")["split_official"].str.strip().str.upper().reindex(folds.index)
    assert ((folds["fold"] == 0) == (side == "TEST")).all() and set(folds["fold"]) == {0, splits.NOT_TESTED}
    training = folds[(side != "TEST") & ~folds["split_group"].isin(folds.loc[side == "TEST", "split_group"])]
    assert (training["inner_0"] != UNUSED).all()
    assert set(training["inner_0"]) == ({splits.ALWAYS_TRAINED, 0} if validation else {0, 1, 2})
    assert (folds.loc[(side != "TEST").to_numpy() & ~folds.index.isin(training.index), "inner_0"] == UNUSED).all()
    assert (training.loc[side[training.index] == "VAL", "inner_0"] == 0).all()


def test_champions_are_chosen_without_the_test_patients() -> None:
    table = cohort(3)
    groups = table["split_group"].astype("category").cat.codes
    table["split_official"] = np.select([groups % 5 == 0, groups % 5 == 1], ["TEST", "VAL"], "TRAIN")
    folds = make_folds(table, settings(), "official")
    deciding = splits.deciding_folds(folds, settings())
    side = table.set_index("sample_id")["split_official"].reindex(deciding["sample_id"]).to_numpy()
    assert set(side) == {"TRAIN", "VAL"} and ((deciding["fold"] == 0) == (side == "VAL")).all()
    trained = deciding[side == "TRAIN"]
    assert set(trained["split_group"]).isdisjoint(deciding.loc[side == "VAL", "split_group"])
    assert set(trained["inner_0"]) == set(range(settings().inner)), "inner folds of their own"
    crossed = make_folds(table, settings(), "cv")
    assert splits.deciding_folds(crossed, settings()) is crossed


@pytest.mark.parametrize("seed", range(4))
def test_external_validation_trains_on_one_source_and_tests_on_all_of_another(seed: int) -> None:
    ours, theirs = cohort(seed, "ours"), cohort(seed, "theirs")
    theirs.loc[theirs.index[:3], "split_group"] = ours["split_group"].iloc[0]  # a copy in both
    folds = make_folds(pd.concat([ours, theirs]), settings(), "external", "theirs")
    check_sides(folds, 1)
    assert ((folds["fold"] == 0) == (folds["source"] == "theirs")).all()
    shared = (folds["source"] == "ours") & folds["split_group"].isin(theirs["split_group"])
    assert (folds.loc[shared, "inner_0"] == UNUSED).all() and shared.any()
    assert set(folds.loc[(folds["source"] == "ours") & ~shared, "inner_0"]) == {0, 1, 2}
    with pytest.raises(DataError, match=r"no video of .* to test"):
        make_folds(ours, settings(), "external", "other")


def test_folds_depend_on_the_rows_and_the_seed_alone_and_more_repeats_keep_the_earlier_outer_folds() -> None:
    table = cohort(1)
    shuffled = table.sample(frac=1, random_state=3).set_index(np.random.default_rng(0).permutation(len(table)))
    pd.testing.assert_frame_equal(make_folds(table, settings()), make_folds(shuffled[table.columns[::-1]], settings()))
    assert folds_digest(make_folds(table, settings())) != folds_digest(make_folds(table, settings(seed=1)))
    # The same on every machine: a change of this digest changes every published split.
    assert folds_digest(make_folds(pocus_like(), settings())) == "f1ba5b9657d7da8c"
    few, many = make_folds(pocus_like(), settings()), make_folds(pocus_like(), settings(repeats=3, inner=4))
    columns = ["sample_id", "fold"]
    pd.testing.assert_frame_equal(few[columns], many.loc[many["repeat"] == 0, columns])
    partitions = {tuple(part.sort_values("sample_id")["fold"]) for _, part in many.groupby("repeat")}
    assert len(partitions) == 3


def test_what_cannot_be_divided_and_what_an_official_split_lacks_are_named() -> None:
    for table, outer, inner, problem in [
        (small(20, 4), 5, 3, r"'class 1' has 4 independent patients \(of 24 in all\) for 5 .*Set split.outer lower"),
        (small(4, 4), 2, 6, r"few independent patients \(of 4 in all\) for 6.*Set split.inner lower"),
        (small(12, 2), 2, 2, r"'class 1' has 1 independent patients .* of split.inner"),
        (small(6, 6).assign(patient_id=[None, *"abcdefghijk"]), 5, 3, "1 videos have no patient, group or label: 0-0"),
        (small(8, 6).assign(split_group=[*"abcdefgh", *"rrrstu"]), 5, 3, r"'class 1' has 4 .* .of 12 in all"),
    ]:
        with pytest.raises(DataError, match=problem):
            make_folds(table, settings(outer=outer, inner=inner))
    for sides, problem in [
        ("0", r"the official split of set says 0\. Set `folds: cv`"),
        (None, "says nothing"),
        ("TRAIN", "says TRAIN"),
        ([*["TRAIN"] * 12, *["TEST"] * 12], "no video of 'class 1' to train on|no video of 'class 0' to test"),
    ]:
        with pytest.raises(DataError, match=problem):
            make_folds(small(12, 12).assign(split_official=sides), settings(), "official")
    with pytest.raises(SettingsError, match="outer"):
        settings(outer=1)


def test_the_csv_restores_folds_exactly_and_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    table = small(6, 6)
    table["patient_id"] = ["007", "NA", "None", "1e5", "a,b", 'say "ah"', *table["patient_id"][6:]]
    folds = make_folds(table.assign(split_group=table["patient_id"], y=np.arange(12) / 7), settings())
    path = tmp_path / "split" / "task.csv"
    with pytest.raises(DataError, match=r"task\.csv.*dvc repro split"):
        read_folds(path)
    write_folds(path, folds)
    again = read_folds(path)
    pd.testing.assert_frame_equal(again, folds)
    assert folds_digest(again.sample(frac=1, random_state=0)) == folds_digest(folds)
    again.loc[0, "inner_4"] = (again.loc[0, "inner_4"] + 1) % 3
    assert folds_digest(again) != folds_digest(folds)
    words = folds.astype({"fold": object}).replace({"fold": {0: "x"}}).to_csv(index=False)
    for content in (b"", b"a,b\n1,2\n", b"\x00\xff", words.encode()):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"task\.csv.*dvc repro split"):
            read_folds(path)
