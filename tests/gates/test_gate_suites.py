"""Every expectation of every suite is violated once by a planted fault, and the gate names the rows."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from drawn import manifest_of

from echolung.core.errors import GateError
from echolung.gates.gate import check, read_findings
from echolung.gates.suites import SUITES

Tables = dict[str, pd.DataFrame]
Fault = Callable[[Tables], object]

VIDEOS = [f"pocus/v{n:02d}" for n in range(24)]
CLASSES = ["covid", "pneumonia", "regular"]
N = np.arange(24)
"""Video n is of class n % 3, and the (n // 3)-th of its class."""


def manifest() -> pd.DataFrame:
    facts = {"frames": 100, "frames_declared": 100, "fps": 25.0, "height": 112, "width": 112}
    return manifest_of(VIDEOS, range(24), **facts, diagnosis=[CLASSES[n % 3] for n in N])


def tracings() -> pd.DataFrame:
    """End-diastole and end-systole of 3 videos, in frames 4 and 9."""
    traced = [(video, frame, phase) for video in VIDEOS[:3] for frame, phase in ((4, "ED"), (9, "ES"))]
    return pd.DataFrame(traced, columns=["sample_id", "frame", "phase"]).assign(problem=None, pieces=1)


def folds() -> pd.DataFrame:
    """2 repeats of 4 outer and 3 inner folds; every patient has one video."""
    parts = []
    for repeat in range(2):
        fold = (N // 3 + repeat) % 4
        inner = {f"inner_{held_out}": np.where(fold == held_out, -1, N // 3 % 3) for held_out in range(4)}
        parts.append(labelled().assign(repeat=repeat, fold=fold, **inner))
    return pd.concat(parts, ignore_index=True)


def labelled() -> pd.DataFrame:
    table = pd.DataFrame({"sample_id": VIDEOS, "patient_id": VIDEOS, "split_group": VIDEOS})
    return table.assign(y=(N % 3).astype(float), stratum=N % 3, label=[CLASSES[n % 3] for n in N])


def predictions(split: pd.DataFrame) -> pd.DataFrame:
    split = split[split["fold"] >= 0].rename(columns={"y": "y_true"})
    rows = split[["repeat", "fold", "sample_id", "patient_id", "split_group", "y_true"]]
    rows = rows.assign(task="t", p_0=0.5, p_1=0.25, p_2=0.25, seen_in_pretraining=False, split_digest="d1", valid=True)
    arms = {"jepa": "attentive", "random": "attentive", "majority": "majority"}
    parts = [rows.assign(arm=arm, arm_seed=0, method=method) for arm, method in arms.items()]
    return pd.concat(parts, ignore_index=True)


def encoders(steps: int) -> pd.DataFrame:
    seeds = pd.DataFrame({"seed": range(8), "steps": steps, "videos": 40, "loss_first": 0.6, "loss_last": 0.3})
    return seeds.assign(effective_rank=20.0, finite=True, weights_sha256=list("abcdefgh"))


def compared(value: str, **keys: str) -> pd.DataFrame:
    rows = pd.DataFrame({"task": "t", "arm": ["a", "b", "c", "d", "e", "f"], "method": "linear", "metric": "mse"})
    return rows.assign(**keys, **{value: 0.8}, low=0.7, high=1.0, n_patients=24, n_groups=20)


def clean(stage: str) -> tuple[Tables, dict[str, Any]]:
    """Tables and facts of a stage with nothing wrong."""
    if stage == "phantom":
        files = [f"Videos/{n}.avi" for n in range(6)]
        return {"videos": pd.DataFrame({"file": files, "patient": files, "frames": 40, "mean": 30.0})}, {}
    if stage == "ingest":
        return {"manifest": manifest(), "tracings": tracings()}, {"labels": ["diagnosis"]}
    if stage == "split":
        pairs = pd.DataFrame({"sample_a": VIDEOS[:1], "sample_b": VIDEOS[1:2]})
        return {"folds": folds(), "duplicates": pairs}, {"outer": 4, "inner": 3, "repeats": 2}
    if stage == "initialise":
        return {"seeds": encoders(0).assign(arm=list("rrrwwwww"))}, {}
    if stage == "pretrain":
        return {"seeds": encoders(200)}, {}
    if stage == "search":
        return {"trials": pd.DataFrame({"trial": range(6), "steps": 10, "score": -0.4, "error": ""})}, {}
    if stage == "embed":
        features = pd.DataFrame([("jepa", seed, sample) for seed in (0, 1) for sample in VIDEOS])
        features = features.set_axis(["arm", "seed", "sample_id"], axis=1).assign(finite=True, std=0.5)
        return {"features": features.assign(effective_rank=20.0, seen_in_pretraining=False)}, {}
    if stage == "fit":
        facts = {"columns": ["p_0", "p_1", "p_2"], "valid": "probabilities sum to 1"}
        tables = {"predictions": predictions(folds()), "folds": folds()}
        costs = tables["predictions"].drop_duplicates(["arm", "arm_seed", "method", "repeat", "fold"])
        tables["costs"] = costs.assign(fitted=18, fit_seconds=2.0, ask_seconds=0.01).reset_index(drop=True)
        return tables, facts | {"split_digest": "d1"}
    if stage == "compare":
        pairs = compared("difference", reference="r", reference_method="linear").assign(p_value=0.2)
        return {"arms": compared("estimate"), "pairs": pairs}, {"losses": {"t": "mse"}}
    return {"artifacts": pd.DataFrame({"name": list("abcdef"), "bytes": 1000})}, {}


def put(column: str, rows: object, value: object, table: str = "") -> Fault:
    """The fault of writing `value` into some cells of a table, the stage's first one unless named."""

    def fault(tables: Tables) -> None:
        name = table or next(iter(tables))
        frame = tables[name].copy()
        if frame[column].dtype != object and isinstance(value, str | float | None):
            frame[column] = frame[column].astype(object)
        frame.loc[rows, column] = value
        tables[name] = frame

    return fault


def drop(rows: str) -> Fault:
    """The fault of losing the rows that satisfy a query."""
    return lambda tables: tables.update({(name := next(iter(tables))): tables[name].query(f"not ({rows})")})


def double(row: int, table: str = "") -> Fault:
    def fault(tables: Tables) -> None:
        name = table or next(iter(tables))
        tables[name] = pd.concat([tables[name], tables[name].iloc[[row]]])

    return fault


JEPA = "jepa arm_seed 0 attentive repeat"
FAULTS: list[tuple[str, Fault, str, str]] = [
    # (stage, fault, what is expected, what the gate names); faults of one stage (and letter) are planted together
    ("phantom", put("mean", 2, 0.0), "neither black nor white", "Videos/2.avi (0)"),
    ("phantom", put("frames", 3, 1), "at least 2 frames", "Videos/3.avi (1)"),
    ("phantom", put("file", [0, 1], "same.avi"), "its own file", "same.avi; same.avi"),
    ("ingest", put("sample_id", [10, 11], "pocus/x"), "its own sample_id", "pocus/x; pocus/x"),
    ("ingest", put("frames", 6, 1), "at least 2 frames", "pocus/v06 (1)"),
    ("ingest", put("frames", 8, 60), "not truncated", "pocus/v08 (0.6)"),
    ("ingest", put("frames_declared", 9, 109), "declares no more frames", "pocus/v09 (9)"),
    ("ingest", put("decode_error", 7, "no index"), "decodes without an error", "pocus/v07 (no index)"),
    ("ingest", put("fps", 12, 0.0), "the frame rate", "pocus/v12 (0)"),
    ("ingest", put("height", 13, 8), "pixels high", "pocus/v13 (8)"),
    ("ingest", put("width", 14, 8), "pixels wide", "pocus/v14 (8)"),
    ("ingest", put("problem", 0, "20 x 20 pixels", "tracings"), "fits its frame", "pocus/v00 frame 4 (20 x 20 pixels)"),
    ("ingest", put("pieces", 2, 0, "tracings"), "is not empty", "pocus/v01 frame 4 (0)"),
    ("ingest", put("pieces", 3, 2, "tracings"), "is one piece", "pocus/v01 frame 9 (2)"),
    ("ingest", put("phase", 5, "", "tracings"), "end-systole are traced", "pocus/v02"),
    ("split", put("patient_id", [0, 3], "twice"), "one side of every split", "repeat 0 outer 0 twice (2)"),
    ("split", put("split_group", [2, 8], "both"), "one side of every split", "repeat 0 outer 0 both (2)"),
    ("split", put("sample_b", 0, VIDEOS[3], table="duplicates"), "two copies", "pocus/v00 pocus/v03"),
    ("split", put("inner_0", 40, -1), "where it is not held out", "repeat 1 outer 0 pocus/v16"),
    ("split", put("inner_0", 41, -3), "inner_0 is -2 to 2", "repeat 1 pocus/v17 (-3)"),
    *(("split", put(f"inner_{i}", 41, 3), f"inner_{i} is -2 to 2", "repeat 1 pocus/v17 (3)") for i in (1, 2, 3)),
    ("split", put("fold", 23, 4), "fold is -1 to 3", "repeat 0 pocus/v23 (4)"),
    ("split", double(5), "appears once in a repeat", "repeat 0 pocus/v05; repeat 0 pocus/v05"),
    ("split b", put("repeat", 47, 2), "repeat is 0 to 1", "repeat 2 pocus/v23"),
    ("initialise", put("steps", 1, 7), "not trained", "r seed 1 (7)"),
    ("initialise", put("weights_sha256", [0, 2, 3], "same"), "same weights", "r seed 0; r seed 2"),
    ("initialise", put("finite", 2, False), "weights are finite", "r seed 2"),
    ("initialise b", put("seed", 1, 0), "its own seed", "r seed 0; r seed 0"),
    ("pretrain", put("effective_rank", 1, 1.2), "not collapsed", "seed 1 (1.2)"),
    ("pretrain", put("finite", 2, False), "weights are finite", "seed 2"),
    ("pretrain", put("weights_sha256", [0, 1], "same"), "same weights", "seed 0; seed 1"),
    ("pretrain", put("steps", 3, -1), "is not negative", "seed 3 (-1)"),
    ("pretrain", put("videos", 0, 0), "trained on videos", "seed 0 (0)"),
    ("pretrain", put("loss_first", 0, np.inf), "loss_first is finite", "seed 0 (inf)"),
    ("pretrain", put("loss_last", 0, np.inf), "loss_last is finite", "seed 0 (inf)"),
    ("pretrain b", put("seed", 1, 0), "its own seed", "seed 0; seed 0"),
    ("search", put("score", 1, np.inf), "score is finite", "trial 1 (inf)"),
    ("search", put("steps", 2, 0), "was trained", "trial 2 (0)"),
    ("search", put("trial", [3, 4], 9), "is there once", "trial 9; trial 9"),
    ("embed", put("finite", 30, False), "features are finite", "jepa seed 1 pocus/v06"),
    ("embed", put("std", 3, 0.0), "features vary", "jepa seed 0 pocus/v03 (0)"),
    ("embed", put("effective_rank", slice(0, 23), 1.0), "not collapsed", "jepa seed 0 pocus/v00 (1)"),
    ("embed", put("seen_in_pretraining", 5, True), "was not pretrained on this video", "jepa seed 0 pocus/v05"),
    ("embed", double(1), "embedded once", "jepa seed 0 pocus/v01; jepa seed 0 pocus/v01"),
    ("fit", put("valid", 3, False), "probabilities sum to 1", f"{JEPA} 0 fold 1 pocus/v03 (0.5 0.25 0.25)"),
    ("fit", put("split_digest", 6, "d0"), "made on split d1", f"{JEPA} 0 fold 2 pocus/v06 (d0)"),
    ("fit", drop("arm == 'jepa' & repeat == 1 & fold == 1"), "that the fold holds out", f"{JEPA} 1 fold 1 (6)"),
    *(
        ("fit", put(name, 1, 0, "costs"), f"{name} is positive", f"{JEPA} 0 fold 1 (0)")
        for name in ("fitted", "fit_seconds", "ask_seconds")
    ),
    ("fit", double(2, "costs"), "a fit is timed once", f"{JEPA} 0 fold 2; {JEPA} 0 fold 2"),
    ("fit", double(7), "predicted once", f"{JEPA} 0 fold 2 pocus/v07; {JEPA} 0 fold 2 pocus/v07"),
    *(
        ("compare", fault, meaning, f"{row}{name}{found}")
        for table, value, name in (("arms", "estimate", " linear mse"), ("pairs", "difference", " linear r linear mse"))
        for row, fault, meaning, found in (
            ("a", put(value, 0, np.nan, table), f"the {value} of the task's loss", ""),
            ("b", put(value, 1, np.inf, table), f"{value} is finite", " (inf)"),
            ("f", double(5, table), "no comparison appears twice", ""),
        )
    ),
    ("compare", put("p_value", 5, 1.5, "pairs"), "p_value is a probability", "f linear r linear mse (1.5)"),
    ("report", put("bytes", 0, 0), "no file is empty", "a (0)"),
    ("report", put("name", [1, 2], "same"), "its own name", "same; same"),
]


def found(stage: str, tables: Tables, facts: dict[str, Any], directory: Path) -> list[dict[str, Any]]:
    """The expectations as `check` reports them; it must raise if and only if a critical one failed."""
    stopped = True
    with contextlib.suppress(GateError):
        check(stage, "k", tables, directory, **facts)
        stopped = False
    (findings,) = read_findings(directory)
    expectations = findings["expectations"]
    assert stopped == any(not one["success"] and one["severity"] == "critical" for one in expectations)
    return [one | {"rows": "; ".join(one["unexpected_rows"])} for one in expectations]


@pytest.mark.parametrize("stage", list(SUITES))
def test_every_expectation_catches_its_fault_and_names_the_rows(stage: str, tmp_path: Path) -> None:
    tables, facts = clean(stage)
    expected = found(stage, tables, facts, tmp_path)
    assert all(one["success"] for one in expected), [one for one in expected if not one["success"]]
    uncaught = {(one["table"], one["meaning"]) for one in expected if not one["meaning"].startswith("has ")}
    for group in sorted({group for group, *_ in FAULTS if group.split()[0] == stage}):
        planted = [(fault, meaning, rows) for label, fault, meaning, rows in FAULTS if label == group]
        tables, facts = clean(stage)
        for fault, _, _ in planted:
            fault(tables)
        failed = [one for one in found(stage, tables, facts, tmp_path / group) if not one["success"]]
        for _, meaning, rows in planted:
            assert any(meaning in one["meaning"] and rows in one["rows"] for one in failed), (meaning, rows, failed)
        uncaught -= {(one["table"], one["meaning"]) for one in failed}
    # Then an empty cell in every column that must not have any.
    tables, facts = clean(stage)
    for row, (table, meaning) in enumerate(sorted(uncaught)):
        column, _, rest = meaning.partition(" ")
        assert rest == "is not empty", f"no planted fault violates: {table}: {meaning}"
        put(column, row % len(tables[table]), None, table)(tables)
    failed = [one for one in found(stage, tables, facts, tmp_path / "empty") if not one["success"]]
    assert uncaught <= {(one["table"], one["meaning"]) for one in failed}


@pytest.mark.parametrize("stage", list(SUITES))
def test_an_empty_table_and_a_missing_column_fail_every_suite(stage: str, tmp_path: Path) -> None:
    for name, columns in SUITES[stage].columns.items():
        tables, facts = clean(stage)
        with pytest.raises(GateError, match=f"{name}: expected: has rows; found: 0"):
            check(stage, "k", tables | {name: tables[name].iloc[:0]}, tmp_path, **facts)
        without = tables[name].drop(columns=columns[-1])
        with pytest.raises(GateError, match=f"{name}: expected: has the columns .*; found: missing: {columns[-1]}"):
            check(stage, "k", tables | {name: without}, tmp_path, **facts)


def test_an_official_split_is_checked_like_any_other(tmp_path: Path) -> None:
    """12 videos to train on, 6 to validate on (inner fold 0), 6 to test on."""
    facts, inner = {"outer": 1, "inner": 1, "repeats": 1}, np.repeat([-2, 0, -1], [12, 6, 6])
    for column, rows, caught in [
        ("patient_id", [0, 23], "patients: .* repeat 0 outer 0 twice"),  # trained on and tested on
        ("split_group", [0, 12], "groups: .* repeat 0 outer 0 twice"),  # trained on and validated on
    ]:
        tables = {"folds": labelled().assign(repeat=0, fold=np.where(inner == -1, 0, -1), inner_0=inner)}
        check("split", "k", tables, tmp_path, **facts)
        put(column, rows, "twice")(tables)
        with pytest.raises(GateError, match=caught):
            check("split", "k", tables, tmp_path, **facts)
        put("inner_0", 0, -1)(tables)  # not trained on: no leak
        check("split", "k", tables, tmp_path, **facts)


def test_what_is_undefined_without_fault_passes(tmp_path: Path) -> None:
    """No declared frame count, a ranking score of one class, an untrained encoder among pretrained ones."""
    tables, facts = clean("ingest")
    tables["manifest"].loc[3, "frames_declared"] = 0
    tables["manifest"].loc[4, "frames_declared"] = pd.NA
    assert all(one["success"] for one in found("ingest", tables, facts, tmp_path / "ingest"))
    tables, facts = clean("compare")
    tables["arms"].loc[0, ["metric", "estimate", "low", "high"]] = ["auroc", np.nan, np.nan, np.nan]
    tables["pairs"].loc[0, "p_value"] = np.nan
    assert all(one["success"] for one in found("compare", tables, facts, tmp_path / "compare"))
    untrained = encoders(0).iloc[:1].assign(seed=9, weights_sha256="z", videos=0, loss_last=np.nan)
    seeds = pd.concat([encoders(9), untrained])
    assert all(one["success"] for one in found("pretrain", {"seeds": seeds}, {}, tmp_path / "pretrain"))
