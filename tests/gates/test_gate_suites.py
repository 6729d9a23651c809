"""Every fault is planted and caught by the suite of the stage it belongs to, which names the rows."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from echolung.core.errors import GateError
from echolung.data.splits import SplitSettings, folds_digest, make_folds
from echolung.gates.gate import check, read_findings
from echolung.gates.suites import SUITES

Tables = dict[str, pd.DataFrame]
Fault = Callable[[Tables], object]

VIDEOS = [f"pocus/v{n:02d}" for n in range(24)]
PATIENTS = [f"pocus/p{n:02d}" for n in range(24)]
CLASSES = ["covid", "pneumonia", "regular"]


def manifest() -> pd.DataFrame:
    declared = [280, *[100] * 23]
    table = {
        "sample_id": VIDEOS,
        "source": "pocus",
        "path": [f"{name}.mp4" for name in VIDEOS],
        "sha256": [f"{n:064x}" for n in range(24)],
        "patient_id": PATIENTS,
        "frames": [268, *[100] * 23],  # an MPEG-2 file of the real set: fewer frames than its container declares
        "frames_declared": declared,
        "fps": 25.0,
        "height": 112,
        "width": 112,
        "codec": "h264",
        "decode_error": None,
        "diagnosis": [CLASSES[n % 3] for n in range(24)],
    }
    kinds = {"frames": "Int64", "frames_declared": "Int64", "fps": "Float64", "height": "Int64", "width": "Int64"}
    kinds |= {"sample_id": "string", "patient_id": "string", "decode_error": "string", "diagnosis": "string"}
    return pd.DataFrame(table).astype(kinds)


@cache
def folded() -> pd.DataFrame:
    table = pd.DataFrame({"sample_id": VIDEOS, "patient_id": PATIENTS, "y": np.arange(24) % 3})
    table["label"], table["split_group"] = table["y"].map(CLASSES.__getitem__), table["patient_id"]
    return make_folds(table, SplitSettings(outer=4, inner=3, repeats=2))


def folds() -> pd.DataFrame:
    return folded().copy()


def predictions() -> pd.DataFrame:
    split, digest = folded(), folds_digest(folded())
    parts = []
    for arm, seed, probe in (("jepa", 0, "attentive"), ("random", 0, "attentive"), ("majority", 0, "none")):
        part = split[["repeat", "fold", "sample_id", "patient_id", "split_group"]].assign(y_true=split["y"])
        part = part.assign(task="pocus-pathology", arm=arm, arm_seed=seed, probe=probe, p_0=0.5, p_1=0.25, p_2=0.25)
        parts.append(part.assign(seen_in_pretraining=False, split_digest=digest))
    return pd.concat(parts, ignore_index=True)


def comparison() -> Tables:
    arms = pd.DataFrame({"task": "t", "arm": ["jepa", "random"], "probe": "attentive", "metric": "log_loss"})
    arms = arms.assign(estimate=[0.8, 0.9], low=0.7, high=1.0, n_patients=24, n_groups=20)
    pair = {"task": "t", "arm": "jepa", "reference": "random", "probe": "attentive", "metric": "log_loss"}
    pairs = pd.DataFrame(
        [pair | {"difference": -0.1, "low": -0.2, "high": 0.1, "p_value": 0.2, "n_patients": 24, "n_groups": 20}]
    )
    return {"arms": arms, "pairs": pairs}


def encoders(steps: int) -> Tables:
    seeds = pd.DataFrame({"seed": [0, 1, 2], "steps": steps, "loss_first": 0.6, "loss_last": 0.3, "videos": 40})
    if steps == 0:
        seeds = seeds.assign(loss_first=np.nan, loss_last=np.nan, videos=0)
    return {"seeds": seeds.assign(effective_rank=20.0, finite=True, weights_sha256=["a", "b", "c"])}


def clean(stage: str) -> tuple[Tables, dict[str, Any]]:
    """Tables and facts of a stage with nothing wrong."""
    if stage == "phantom":
        files = [f"Videos/{n}.avi" for n in range(4)]
        return {"videos": pd.DataFrame({"file": files, "patient": files, "frames": 40, "mean": 30.0})}, {}
    if stage == "ingest":
        return {"manifest": manifest()}, {"labels": ["diagnosis"]}
    if stage == "split":
        none = pd.DataFrame(columns=["sample_a", "sample_b", "similarity", "same_patient"])
        return {"folds": folds(), "duplicates": none}, {"outer": 4, "inner": 3, "repeats": 2, "classes": CLASSES}
    if stage == "initialise":
        return encoders(0), {}
    if stage == "pretrain":
        return encoders(200), {"effective_rank_floor": 4.0}
    if stage == "embed":
        features = pd.MultiIndex.from_product([[0, 1], VIDEOS], names=["seed", "sample_id"]).to_frame(index=False)
        facts = {"samples": VIDEOS, "seeds": [0, 1], "effective_rank_floor": 4.0}
        features = features.assign(finite=True, std=0.5, effective_rank=20.0, seen_in_pretraining=False)
        return {"features": features}, facts
    if stage == "probe":
        return {"predictions": predictions(), "folds": folds()}, {"split_digest": folds_digest(folded())}
    if stage == "compare":
        return comparison(), {}
    return {"artifacts": pd.DataFrame({"name": ["index.html"], "bytes": [1000]})}, {}


def put(table: str, column: str, rows: object, value: object) -> Fault:
    """The fault of writing `value` into some cells."""

    def fault(tables: Tables) -> None:
        frame = tables[table].copy()
        if frame[column].dtype != object and not pd.api.types.is_string_dtype(frame[column]):
            frame[column] = frame[column].astype(object) if isinstance(value, str) else frame[column]
        frame.loc[rows, column] = value
        tables[table] = frame

    return fault


def keep(table: str, rows: Callable[[pd.DataFrame], object]) -> Fault:
    """The fault of keeping only some rows."""

    def fault(tables: Tables) -> None:
        tables[table] = tables[table][rows(tables[table])]

    return fault


def double(table: str, row: int) -> Fault:
    def fault(tables: Tables) -> None:
        tables[table] = pd.concat([tables[table], tables[table].iloc[[row]]], ignore_index=True)

    return fault


def patient_in_two_folds(tables: Tables) -> None:
    split = tables["folds"]
    split.loc[split["sample_id"] == "pocus/v01", "patient_id"] = "pocus/p00"
    split.loc[split["sample_id"] == "pocus/v02", "patient_id"] = "pocus/p00"
    split.loc[split["sample_id"] == "pocus/v04", "patient_id"] = "pocus/p00"


def class_missing_from_training(tables: Tables) -> None:
    # All COVID patients of repeat 1 in outer fold 2: nothing of the class is left to train on when it is held out.
    split = tables["folds"]
    rows = (split["repeat"] == 1) & (split["label"] == "covid")
    split.loc[rows, "fold"] = 2
    split.loc[rows, "inner_2"] = -1


def one_copy_on_each_side(tables: Tables) -> None:
    split = tables["folds"]
    first = split[(split["repeat"] == 0) & (split["fold"] == 0)]["sample_id"].iloc[0]
    other = split[(split["repeat"] == 0) & (split["fold"] == 1)]["sample_id"].iloc[0]
    pair = {"sample_a": [first], "sample_b": [other], "similarity": [0.99], "same_patient": [False]}
    tables["duplicates"] = pd.DataFrame(pair)


def jepa_fold_one(table: pd.DataFrame) -> pd.Series:
    return (table["arm"] == "jepa") & (table["fold"] == 1) & (table["repeat"] == 1)


JEPA = "jepa arm_seed 0 attentive"


class Planted(NamedTuple):
    """Faults planted side by side in a stage's clean tables; what the gate says of each -> what it names."""

    stage: str
    faults: list[Fault]
    said: dict[str, str]


FAULTS = [
    Planted(
        "phantom",
        [put("videos", "mean", 2, 0.0), put("videos", "file", [0, 1], "same.avi")],
        {"neither black nor white": "Videos/2.avi (0)", "its own file": "same.avi; same.avi"},
    ),
    Planted(
        "ingest",
        [
            put("manifest", "diagnosis", [3, 5], None),
            put("manifest", "patient_id", 7, None),
            put("manifest", "frames", 6, 1),
            put("manifest", "frames_declared", 6, 1),
            put("manifest", "frames", 8, 60),
            put("manifest", "decode_error", 9, "no index"),
            put("manifest", "frames", 9, 0),
            put("manifest", "sample_id", [10, 11], "pocus/x"),
            put("manifest", "fps", 12, 0.0),
        ],
        {
            "diagnosis is given": "pocus/v03; pocus/v05",
            "patient_id is given": "pocus/v07",
            "at least 2 frames": "pocus/v06 (1); pocus/v09 (0)",
            "not cut off": "  pocus/v08 (0.6)",
            "decodes without an error": "pocus/v09 (no index)",
            "every sample id stands for one video": "pocus/x; pocus/x",
            "frame rate": "pocus/v12 (0)",
        },
    ),
    Planted(
        "split",
        [patient_in_two_folds, one_copy_on_each_side],
        {"is in one outer fold": "repeat 0 pocus/p00", "same side of every split": "pocus/v"},
    ),
    Planted(
        "split",
        [class_missing_from_training],
        {"every class is in every training set": "repeat 1 fold 2 all covid (0)"},
    ),
    Planted(
        "split",
        [keep("folds", lambda table: table["fold"] != 3)],
        {"no fold is empty": "repeat 0 fold 3 all covid (0)", "is in all 2 repeats": "pocus/v"},
    ),
    Planted(
        "split",
        [
            put("folds", "label", 0, None),
            put("folds", "label", 1, "viral"),
            put("folds", "inner_0", 40, -1),
            double("folds", 5),
        ],
        {
            "label is given": "repeat 0 pocus/v",
            "the label is covid, pneumonia, regular": "(viral)",
            "exactly the videos of an outer training set": "repeat 1 fold 0",
            "stands once in a repeat": "repeat 0 pocus/v",
        },
    ),
    Planted(
        "pretrain",
        [
            put("seeds", "effective_rank", 1, 1.2),
            put("seeds", "finite", 2, False),
            put("seeds", "loss_last", 0, np.nan),
        ],
        {"not collapsed": "1 (1.2)", "weights are finite": "  2", "loss_last is given": "  0"},
    ),
    Planted(
        "pretrain",
        [put("seeds", "loss_last", 0, np.inf), put("seeds", "weights_sha256", [0, 1], "same")],
        {"loss_last is finite": "0 (infinity)", "no two seeds": "0 (same); 1 (same)"},
    ),
    Planted(
        "initialise",
        [put("seeds", "steps", 1, 7), put("seeds", "weights_sha256", [0, 2], "same")],
        {"has not been trained": "1 (7)", "no two seeds": "0 (same); 2 (same)"},
    ),
    Planted(
        "embed",
        [
            put("features", "finite", 30, False),
            put("features", "std", 30, np.nan),
            put("features", "std", 3, 0.0),
            put("features", "effective_rank", slice(0, 23), 1.0),
            keep("features", lambda table: table.index != 47),
        ],
        {
            "all features are finite": "seed 1 pocus/v06",
            "std is given": "seed 1 pocus/v06",
            "not all the same": "seed 0 pocus/v03 (0)",
            "not collapsed": "seed 0 pocus/v00 (1)",
            "embedded by every seed": "seed 1 pocus/v23",
        },
    ),
    Planted(
        "probe",
        [
            put("predictions", "p_0", 3, 0.6),
            put("predictions", "p_0", 4, -0.1),
            put("predictions", "p_1", 5, np.nan),
            put("predictions", "split_digest", 6, "0123"),
            keep("predictions", lambda table: ~jepa_fold_one(table)),
        ],
        {
            "no fold is missing": JEPA + " repeat 1 fold 1 (6)",
            "sum to 1": "(1.1)",
            "p_0 is a probability": "(-0.1)",
            "p_1 is given": JEPA + " repeat 0",
            "made on this very split": "(0123)",
        },
    ),
    Planted(
        "probe",
        [
            put("predictions", "fold", 0, 3),
            put("predictions", "y_true", 1, 9),
            put("predictions", "patient_id", 2, "pocus/p99"),
            put("predictions", "split_group", 3, "pocus/p99"),
            double("predictions", 7),
        ],
        {
            "the fold is the one": JEPA + " repeat 0 fold 3",
            "y_true is the class": JEPA + " repeat 0",
            "patient is the one": JEPA + " repeat 0",
            "split group is the one": JEPA + " repeat 0",
            "predicted once": JEPA + " repeat 0",
        },
    ),
    Planted(
        "compare",
        [
            put("arms", "estimate", 1, np.nan),
            put("arms", "n_groups", 0, 25),
            put("pairs", "low", 0, 5.0),
            put("pairs", "p_value", 0, 1.5),
        ],
        {
            "log-loss is a number": "t random attentive log_loss",
            "no more independent groups than patients": "t jepa attentive log_loss",
            "low is not above high": "t jepa random attentive log_loss",
            "p_value is a probability": "(1.5)",
        },
    ),
    Planted("report", [put("artifacts", "bytes", 0, 0)], {"no file is empty": "index.html (0)"}),
]


@pytest.mark.parametrize("stage", list(SUITES))
def test_clean_tables_pass(stage: str, tmp_path: Path) -> None:
    tables, facts = clean(stage)
    check(stage, "k", tables, tmp_path, **facts)
    (findings,) = read_findings(tmp_path)
    assert findings["success"]
    assert findings["summary"]["warnings"] == (1 if stage == "ingest" else 0)


@pytest.mark.parametrize("planted", FAULTS, ids=[f"{one.stage}-{next(iter(one.said))}" for one in FAULTS])
def test_planted_faults_are_caught_by_their_stage_which_names_the_rows(
    planted: Planted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables, facts = clean(planted.stage)
    for fault in planted.faults:
        fault(tables)
    with pytest.raises(GateError):
        check(planted.stage, "k", tables, tmp_path, **facts)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("critical")]
    for says, names in planted.said.items():
        said = [line for line in lines if says in line]
        assert said, f"no failed expectation says '{says}'"
        assert any(names in line for line in said), said


@pytest.mark.parametrize("stage", list(SUITES))
def test_an_empty_table_fails_every_suite(stage: str, tmp_path: Path) -> None:
    for name in SUITES[stage].columns:
        tables, facts = clean(stage)
        tables[name] = tables[name].iloc[:0]
        with pytest.raises(GateError, match=f"{name}: not true that has rows: 0"):
            check(stage, "k", tables, tmp_path, **facts)


@pytest.mark.parametrize("stage", list(SUITES))
def test_a_missing_column_fails_every_suite(stage: str, tmp_path: Path) -> None:
    for name, columns in SUITES[stage].columns.items():
        tables, facts = clean(stage)
        tables[name] = tables[name].drop(columns=columns[-1])
        with pytest.raises(GateError, match=f"{name}: not true that has the columns .*: missing: {columns[-1]}"):
            check(stage, "k", tables, tmp_path, **facts)


def test_columns_that_depend_on_the_settings_are_missed_too(tmp_path: Path) -> None:
    tables, facts = clean("split")
    tables["folds"] = tables["folds"].drop(columns="inner_3")
    with pytest.raises(GateError, match="missing: inner_3"):
        check("split", "k", tables, tmp_path, **facts)
    tables, facts = clean("probe")
    tables["predictions"] = tables["predictions"].drop(columns="p_2")
    with pytest.raises(GateError, match="missing: p_2"):
        check("probe", "k", tables, tmp_path, **facts)


def test_intact_files_that_overstate_their_frames_pass_with_a_warning(tmp_path: Path) -> None:
    tables, facts = clean("ingest")
    check("ingest", "k", tables, tmp_path, **facts)
    warned = [one for one in read_findings(tmp_path)[0]["expectations"] if not one["success"]]
    assert [one["severity"] for one in warned] == ["warning"]
    assert warned[0]["unexpected_rows"] == [{"row": {"sample_id": "pocus/v00"}, "value": 12}]


def test_a_container_that_declares_nothing_is_not_cut_off(tmp_path: Path) -> None:
    tables, facts = clean("ingest")
    tables["manifest"].loc[3, "frames_declared"] = 0
    tables["manifest"].loc[4, "frames_declared"] = pd.NA
    check("ingest", "k", tables, tmp_path, **facts)


def test_undefined_ranking_scores_and_intervals_are_not_a_fault(tmp_path: Path) -> None:
    tables = comparison()
    tables["arms"].loc[0, ["metric", "estimate", "low", "high"]] = ["auroc", np.nan, np.nan, np.nan]
    tables["pairs"].loc[0, "p_value"] = np.nan
    check("compare", "k", tables, tmp_path)


def test_videos_seen_in_pretraining_pass_with_a_warning_that_names_them(tmp_path: Path) -> None:
    tables, facts = clean("embed")
    tables["features"].loc[5, "seen_in_pretraining"] = True
    check("embed", "jepa-pocus", tables, tmp_path, **facts)
    (findings,) = read_findings(tmp_path)
    assert findings["success"]
    assert findings["summary"]["warnings"] == 1
    (warned,) = [one for one in findings["expectations"] if not one["success"]]
    assert "not pretrained on this video" in warned["meaning"]
    assert tables["features"]["sample_id"][5] in str(warned)
