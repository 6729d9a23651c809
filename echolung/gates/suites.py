"""The expectations on each stage's tables: SUITES, one suite per stage.

A suite names the columns that each of the stage's tables must have. Rows and columns are checked first: an empty table
passes every other expectation. Then it lists expectations, on the tables themselves or on aggregates with one row per
thing that can be wrong (a patient, a training set, a fold of an arm).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from great_expectations.expectations import ExpectColumnValuesToBeBetween as Between
from great_expectations.expectations import ExpectColumnValuesToBeInSet as InSet
from great_expectations.expectations import ExpectColumnValuesToBeNull as Null
from great_expectations.expectations import ExpectColumnValuesToBeUnique as Unique
from great_expectations.expectations import ExpectColumnValuesToNotBeNull as NotNull
from great_expectations.expectations import ExpectCompoundColumnsToBeUnique as UniqueTogether
from great_expectations.expectations import ExpectTableColumnsToMatchSet as Columns
from great_expectations.expectations import ExpectTableRowCountToBeBetween as RowCount

Tables = Mapping[str, pd.DataFrame]
DECODED_SHARE = 0.8
"""A video with fewer of its declared frames is truncated; intact public files declare up to 9% too many."""
NOT_COLLAPSED = Between(column="effective_rank", min_value=1.5, description="not collapsed: effective rank is over 1.5")
"""Below it features carry almost no information; identical features have rank 1."""
HELD_OUT, UNUSED = -3, -1  # sides of a split besides the inner folds 0.. and -2 (always trained on)


@dataclass(frozen=True)
class Table:
    """A table and its expectations; the columns in `identity` name a row. An expectation's description says it."""

    name: str
    rows: pd.DataFrame
    identity: Sequence[str]
    expectations: Sequence[Any]


@dataclass(frozen=True)
class Suite:
    """`columns`: table -> required columns. `expect(tables, **facts)`: all other expectations."""

    columns: Mapping[str, Sequence[str]]
    expect: Callable[..., list[Table]]
    remedy: str

    def tables(self, tables: Tables, **facts: Any) -> list[Table]:
        """What to validate: rows and columns of the stage's tables and, if those are there, everything else."""
        structure = []
        for name, columns in self.columns.items():
            described = f"has the columns {', '.join(columns)}"
            there = Columns(column_set=list(columns), exact_match=False, description=described)
            structure.append(Table(name, tables[name], [], [RowCount(min_value=1, description="has rows"), there]))
        ready = all(len(tables[name]) and set(columns) <= set(tables[name]) for name, columns in self.columns.items())
        return structure + (self.expect(tables, **facts) if ready else [])


def filled(*columns: str) -> list[NotNull]:
    return [NotNull(column=column, description=f"{column} is not empty") for column in columns]


def true(column: str, description: str, severity: str = "critical") -> InSet:
    return InSet(column=column, value_set=[True], description=description, severity=severity)


def phantom(tables: Tables) -> list[Table]:
    """videos: one row per drawn video."""
    expectations = [
        *filled(*DRAWN_COLUMNS),
        Unique(column="file", description="every video has its own file"),
        Between(column="frames", min_value=2, description="a video has at least 2 frames"),
        Between(column="mean", min_value=1, max_value=254, description="the picture is neither black nor white"),
    ]
    return [Table("videos", tables["videos"], ["file"], expectations)]


def ingest(tables: Tables, *, labels: Sequence[str] = ()) -> list[Table]:
    """manifest: one row per video; `labels` are the columns that every video must have a value in.

    tracings (optional): one row per traced frame, as `data.masks` makes them.
    """
    manifest = tables["manifest"]
    frames, declared = (pd.to_numeric(manifest[name]).astype(float) for name in ("frames", "frames_declared"))
    # A container that declares no frames (some GIFs) cannot be truncated; a failed decode has its own expectation.
    share = (frames / declared).where((declared > 0) & (frames > 0))
    manifest = manifest.assign(
        decoded_share=share.round(4),
        video_frames=frames.where(~manifest["codec"].isin(["nifti", "dicom"])).astype("Int64"),  # a still has one
        overstated=(declared - frames).where((share >= DECODED_SHARE) & (share < 1)).astype("Int64"),
    )
    whole = f"the video is not truncated: at least {DECODED_SHARE:.0%} of its declared frames decode"
    expectations = [
        Null(column="decode_error", description="the video decodes without an error"),
        *filled(*VIDEO_COLUMNS),
        Unique(column="sample_id", description="every video has its own sample_id"),
        Between(column="video_frames", min_value=2, description="a video has at least 2 frames"),
        Between(column="decoded_share", min_value=DECODED_SHARE, description=whole),
        Null(column="overstated", description="the container declares no more frames than decode", severity="warning"),
        Between(column="fps", min_value=1, max_value=1000, description="the frame rate is 1 to 1000 per second"),
        Between(column="height", min_value=16, description="frames are at least 16 pixels high"),
        Between(column="width", min_value=16, description="frames are at least 16 pixels wide"),
        *filled(*labels),
    ]
    judged = [Table("manifest", manifest, ["sample_id"], expectations)]
    return judged + (_tracings(tables["tracings"]) if len(tables.get("tracings", ())) else [])


def _tracings(tracings: pd.DataFrame) -> list[Table]:
    """One row per traced frame, and one per traced recording."""
    frames = tracings.assign(pieces=tracings["pieces"].where(tracings["problem"].isna()).astype("Int64"))
    expectations = [
        Null(column="problem", description="the mask fits its frame"),
        Between(column="pieces", min_value=1, description="the left ventricle is not empty"),
        Between(column="pieces", max_value=1, description="the left ventricle is one piece", severity="warning"),
    ]
    both = tracings.groupby("sample_id")["phase"].agg(lambda one: {"ED", "ES"} <= set(one)).reset_index(name="both")
    traced = true("both", "end-diastole and end-systole are traced", severity="warning")
    judged = [Table("tracings", frames, ["sample_id", "frame"], expectations)]
    return [*judged, Table("traced recordings", both, ["sample_id"], [traced])]


def split(tables: Tables, *, outer: int, inner: int, repeats: int) -> list[Table]:
    """folds: as `data.splits` makes them. duplicates (optional): pairs sample_a, sample_b of near-duplicate videos.

    `outer`, `inner`, `repeats`: how many folds there must be; an official or external split has one outer fold.
    """
    folds = tables["folds"]
    inner_columns = [f"inner_{held_out}" for held_out in range(outer)]
    expectations = [
        *filled(*FOLD_COLUMNS, *inner_columns),
        UniqueTogether(column_list=["repeat", "sample_id"], description="a video appears once in a repeat"),
    ]
    ranges = {"repeat": (0, repeats - 1), "fold": (-1, outer - 1)} | dict.fromkeys(inner_columns, (-2, inner - 1))
    for name, (least, most) in ranges.items():
        meaning = f"{name} is {least} to {most}"
        expectations.append(Between(column=name, min_value=least, max_value=most, description=meaning))
    sides, at = _sides(folds, outer), ["repeat", "outer"]
    used = sides[sides["side"] != UNUSED]
    placed = true("placed", "has an inner fold exactly where it is not held out")
    judged = [
        Table("folds", folds, ["repeat", "sample_id"], expectations),
        Table("videos", sides, [*at, "sample_id"], [placed]),
    ]
    for name, column in (("patients", "patient_id"), ("groups", "split_group")):
        spread = used.groupby([*at, column], as_index=False).agg(sides=("side", "nunique"))
        one_side = "is on one side of every split: held out, or in one inner fold"
        once = Between(column="sides", min_value=1, max_value=1, description=one_side)
        judged.append(Table(name, spread, [*at, column], [once]))
    if len(tables.get("duplicates", ())):
        judged.append(_duplicates(sides, tables["duplicates"]))
    return judged


def _sides(folds: pd.DataFrame, outer: int) -> pd.DataFrame:
    """The folds once per outer fold `outer`, with `side`: HELD_OUT, UNUSED, -2 (always trained on) or an inner fold."""
    parts = []
    for held_out in range(outer):
        tested, inner = folds["fold"] == held_out, folds[f"inner_{held_out}"]
        placed = (tested != (inner != UNUSED)) | ((folds["fold"] < 0) & (inner == UNUSED))
        parts.append(folds.assign(outer=held_out, side=inner.where(~tested, HELD_OUT), placed=placed))
    return pd.concat(parts, ignore_index=True)


def _duplicates(sides: pd.DataFrame, pairs: pd.DataFrame) -> Table:
    """The near-duplicate pairs with both videos in the folds, and whether every split keeps them on one side."""
    side = sides.pivot_table(index="sample_id", columns=["repeat", "outer"], values="side", aggfunc="first")
    pairs = pairs[pairs["sample_a"].isin(side.index) & pairs["sample_b"].isin(side.index)]
    a, b = (side.loc[pairs[column]].to_numpy() for column in ("sample_a", "sample_b"))
    pairs = pairs.assign(together=((a == b) | (a == UNUSED) | (b == UNUSED)).all(axis=1))
    meaning = "two copies of one video are on the same side of every split"
    return Table("duplicates", pairs, ["sample_a", "sample_b"], [true("together", meaning)])


def initialise(tables: Tables) -> list[Table]:
    """seeds: one row per untrained encoder."""
    untrained = Between(column="steps", min_value=0, max_value=0, description="the encoder is not trained")
    return [_encoders(tables["seeds"], [untrained])]


def pretrain(tables: Tables) -> list[Table]:
    """seeds: one row per pretrained encoder."""
    trained = {"row_condition": "steps > 0", "condition_parser": "pandas"}
    expectations = [
        *filled("videos", "effective_rank"),
        Between(column="steps", min_value=0, description="the number of steps is not negative"),
        NOT_COLLAPSED,
        Between(column="videos", min_value=1, description="was trained on videos", **trained),
    ]
    for name in ("loss_first", "loss_last"):
        expectations.append(NotNull(column=name, description=f"{name} is not empty", **trained))
        expectations.append(Between(column=name, max_value=1e6, description=f"{name} is finite", **trained))
    return [_encoders(tables["seeds"], expectations)]


def search(tables: Tables) -> list[Table]:
    """trials: one row per recipe; one that failed has an error and no score."""
    whole = {"row_condition": 'error == ""', "condition_parser": "pandas"}
    expectations = [
        *filled("trial", "error"),
        Unique(column="trial", description="every trial is there once"),
        NotNull(column="score", description="score is not empty", **whole),
        Between(column="steps", min_value=1, description="every trial was trained", **whole),
        Between(column="score", min_value=-1e6, max_value=1e6, description="the score is finite", **whole),
    ]
    return [Table("trials", tables["trials"], ["trial"], expectations)]


def _encoders(seeds: pd.DataFrame, expectations: Sequence[Any]) -> Table:
    """Rows `seed` (and `arm`, where there are several): every seed its own encoder with finite weights."""
    rows = seeds if "arm" in seeds else seeds.assign(arm="")
    common = [
        *filled(*SEED_COLUMNS),
        UniqueTogether(column_list=["arm", "seed"], description="every encoder has its own seed"),
        UniqueTogether(column_list=["arm", "weights_sha256"], description="no two seeds give the same weights"),
        true("finite", "all weights are finite"),
    ]
    return Table("seeds", rows, ["arm", "seed"] if "arm" in seeds else ["seed"], [*common, *expectations])


def embed(tables: Tables) -> list[Table]:
    """features: one row per video and encoder (arm, seed)."""
    features, keys = tables["features"], ["arm", "seed", "sample_id"]
    unseen = "the encoder was not pretrained on this video"
    expectations = [
        *filled(*keys, "finite", "std", "effective_rank"),
        UniqueTogether(column_list=keys, description="a video is embedded once per encoder"),
        true("finite", "all features are finite"),
        Between(column="std", min_value=1e-6, max_value=1e6, description="features vary, and are not huge"),
        NOT_COLLAPSED,
        InSet(column="seen_in_pretraining", value_set=[False], description=unseen, severity="warning"),
    ]
    return [Table("features", features, keys, expectations)]


def fit(tables: Tables, *, split_digest: str, columns: Sequence[str], valid: str) -> list[Table]:
    """predictions: every scored video of `folds` once per (arm, arm_seed, method, repeat), by the fit that held it out.
    costs: one row per fit and fold, with what it took.

    `columns`: the columns of a prediction in this kind of task. The kind decides which rows are `valid` (a column of
    predictions, bool); the fact `valid` says in words what that means.
    """
    predictions, folds = tables["predictions"], tables["folds"]
    shown = predictions[list(columns)].astype(float).map("{:.4g}".format).agg(" ".join, axis=1)
    rows = predictions.assign(invalid=shown.where(~predictions["valid"].astype(bool)))
    expectations = [
        *filled(*PREDICTION_COLUMNS),
        Null(column="invalid", description=valid),
        UniqueTogether(column_list=[*FIT, "sample_id"], description="a video is predicted once per fit and repeat"),
        InSet(column="split_digest", value_set=[split_digest], description=f"was made on split {split_digest}"),
    ]
    scored, keys = folds.loc[folds["fold"] >= 0, ["repeat", "sample_id", "fold"]], [*FIT, "sample_id"]
    expected = predictions[FIT[:3]].drop_duplicates().merge(scored, how="cross")
    expected["missing"] = ~pd.MultiIndex.from_frame(expected[keys]).isin(pd.MultiIndex.from_frame(predictions[keys]))
    coverage = expected.groupby([*FIT, "fold"], as_index=False).agg(missing=("missing", "sum"))
    whole = Between(column="missing", max_value=0, description="every video that the fold holds out is predicted")
    took = [
        *filled(*COST_COLUMNS),
        UniqueTogether(column_list=[*FIT, "fold"], description="a fit is timed once"),
        *(Between(column=name, min_value=1e-9, description=f"{name} is positive") for name in COST_COLUMNS[-3:]),
    ]
    return [
        Table("predictions", rows, [*FIT, "fold", "sample_id"], expectations),
        Table("coverage", coverage, [*FIT, "fold"], [whole]),
        Table("costs", tables["costs"], [*FIT, "fold"], took),
    ]


def compare(tables: Tables, *, losses: Mapping[str, str]) -> list[Table]:
    """arms and pairs: the tables of a Comparison. `losses`: task -> its loss, the one metric that is always defined."""
    judged = []
    probable = Between(column="p_value", min_value=0, max_value=1, description="p_value is a probability")
    for name, keys, value, also in (("arms", ARM_KEYS, "estimate", []), ("pairs", PAIR_KEYS, "difference", [probable])):
        rows = tables[name]
        rows = rows.assign(defined=rows[value].notna() | (rows["metric"] != rows["task"].map(losses)))
        expectations = [
            *filled(*keys),
            UniqueTogether(column_list=keys, description="no comparison appears twice"),
            true("defined", f"the {value} of the task's loss is a number"),
            Between(column=value, min_value=-1e6, max_value=1e6, description=f"{value} is finite"),
        ]
        judged.append(Table(name, rows, keys, [*expectations, *also]))
    return judged


def report(tables: Tables) -> list[Table]:
    """artifacts: one row per file of the report."""
    expectations = [
        *filled("name", "bytes"),
        Unique(column="name", description="every file has its own name"),
        Between(column="bytes", min_value=1, description="no file is empty"),
    ]
    return [Table("artifacts", tables["artifacts"], ["name"], expectations)]


FIT = ["arm", "arm_seed", "method", "repeat"]
ARM_KEYS = ["task", "arm", "method", "metric"]
PAIR_KEYS = ["task", "arm", "method", "reference", "reference_method", "metric"]
INTERVAL = ["low", "high", "n_patients", "n_groups"]
COMPARED = {"arms": [*ARM_KEYS, "estimate", *INTERVAL], "pairs": [*PAIR_KEYS, "difference", "p_value", *INTERVAL]}
PREDICTION_COLUMNS = ["task", *FIT, "fold", "sample_id", "patient_id", "split_group", "y_true"]
PREDICTION_COLUMNS += ["seen_in_pretraining", "split_digest", "valid"]
COST_COLUMNS = ["task", *FIT, "fold", "fitted", "fit_seconds", "ask_seconds"]
FOLD_COLUMNS = ["sample_id", "patient_id", "split_group", "y", "stratum", "label", "repeat", "fold"]
VIDEO_COLUMNS = ["sample_id", "source", "path", "sha256", "patient_id", "frames", "fps", "height", "width"]
DRAWN_COLUMNS = ["file", "patient", "frames", "mean"]
SEED_COLUMNS = ["seed", "steps", "finite", "weights_sha256"]
TRAINED_COLUMNS = [*SEED_COLUMNS, "loss_first", "loss_last", "effective_rank", "videos"]
FEATURE_COLUMNS = ["arm", "seed", "sample_id", "finite", "std", "effective_rank", "seen_in_pretraining"]
RERUN = "Rerun the stage: `dvc repro`."
REPAIR = "Repair these files, or remove them from the source. A frame rate: give it as column `fps` of videos.csv."

SUITES: dict[str, Suite] = {
    "phantom": Suite({"videos": DRAWN_COLUMNS}, phantom, "Correct `phantom:` in the study."),
    "ingest": Suite({"manifest": [*VIDEO_COLUMNS, "frames_declared", "decode_error"]}, ingest, REPAIR),
    "split": Suite({"folds": FOLD_COLUMNS}, split, "Correct the labels and patients of the source, or `split:`."),
    "initialise": Suite({"seeds": SEED_COLUMNS}, initialise, "Give every encoder of an arm its own seed."),
    "pretrain": Suite({"seeds": TRAINED_COLUMNS}, pretrain, "Rerun with another seed or a lower learning rate."),
    "search": Suite({"trials": ["trial", "steps", "score", "error"]}, search, "Narrow `search:`: a recipe diverges."),
    "embed": Suite({"features": FEATURE_COLUMNS}, embed, "These features say nothing: check the encoder's training."),
    "fit": Suite({"predictions": PREDICTION_COLUMNS, "folds": FOLD_COLUMNS, "costs": COST_COLUMNS}, fit, RERUN),
    "compare": Suite(COMPARED, compare, "Check the predictions of these arms."),
    "report": Suite({"artifacts": ["name", "bytes"]}, report, RERUN),
}
