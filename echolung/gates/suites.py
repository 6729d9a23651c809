"""What must hold of each stage's tables: SUITES, one suite per stage.

A suite first names the columns each table must have; those, and that the table has rows, are judged before anything
else, because an empty table passes every other expectation. Then it builds the tables to judge from the stage's own:
as they are, or as an aggregate whose rows are what could be wrong (a patient, a training set, a fold of an arm).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from echolung.gates.expectations import (
    Expectation,
    Judged,
    Suite,
    between,
    empty,
    filled,
    has_columns,
    holds,
    one_of,
    unique,
)

Tables = Mapping[str, pd.DataFrame]

DECODED_SHARE = 0.8
"""Below this share of the declared frames a video is cut off; intact public ones overstate theirs by up to 9%."""
COLLAPSED = 1.5
"""Effective rank below which features carry next to nothing; one point for every video has rank 1."""
TOLERANCE = 1e-3
"""How far probabilities may sum from 1: half-precision softmax."""


def phantom(tables: Tables) -> list[Judged]:
    """videos: one row per video written."""
    videos = tables["videos"]
    expectations = [
        *filled("file", "patient", "frames", "mean"),
        unique("every video has its own file", "file"),
        between("frames", 2, None, "a video has at least 2 frames"),
        between("mean", 1, 254, "the picture is neither black nor white"),
    ]
    return [Judged("videos", videos, ("file",), expectations)]


def ingest(tables: Tables, labels: Sequence[str] = ()) -> list[Judged]:
    """manifest: one row per video, with `decode_error`; every video of it carries the columns in `labels`."""
    manifest = tables["manifest"]
    frames, declared = (
        pd.to_numeric(manifest[name], errors="coerce").astype(float) for name in ("frames", "frames_declared")
    )
    # A container that declares nothing (some GIFs) cannot be cut short; a video not decoded at all has its own line.
    share = (frames / declared).where((declared > 0) & (frames > 0))
    manifest = manifest.assign(
        decoded_share=share.round(4),
        overstated=(declared - frames).where((share >= DECODED_SHARE) & (share < 1)).astype("Int64"),
    )
    expectations = [
        empty("decode_error", "the video decodes without an error"),  # first: it is why a file lacks all else
        *filled("sample_id", "source", "path", "sha256", "patient_id"),
        unique("every sample id stands for one video", "sample_id"),
        *filled("frames", "fps", "height", "width"),
        between("frames", 2, None, "a video has at least 2 frames"),
        between("decoded_share", DECODED_SHARE, None, "the video is not cut off: nearly all declared frames decode"),
        empty("overstated", "the container declares no more frames than decode", "warning"),
        between("fps", 1, 1000, "the frame rate is between 1 and 1000 per second"),
        between("height", 16, None, "a frame is at least 16 pixels high"),
        between("width", 16, None, "a frame is at least 16 pixels wide"),
        *filled(*labels),
    ]
    return [Judged("manifest", manifest, ("sample_id",), expectations)]


def split(tables: Tables, *, outer: int, inner: int, repeats: int, classes: Sequence[str]) -> list[Judged]:
    """folds: as `splits.make_folds` returns them. duplicates: pairs (sample_a, sample_b) of one video, may be empty."""
    folds = tables["folds"]
    inner_columns = [f"inner_{held_out}" for held_out in range(outer)]
    if not set(inner_columns) <= set(folds.columns):
        return [Judged("folds", folds, (), [has_columns(inner_columns)])]
    placed = [between(column, -1, inner - 1, f"inner fold is -1 to {inner - 1}") for column in inner_columns]
    per_video = [
        *filled("sample_id", "patient_id", "split_group", "y", "label", "repeat", "fold", *inner_columns),
        unique("a video stands once in a repeat", "repeat", "sample_id"),
        one_of("label", classes, f"the label is {', '.join(classes)}"),
        between("y", 0, len(classes) - 1, f"the class index is 0 to {len(classes) - 1}"),
        between("repeat", 0, repeats - 1, f"the repeat is 0 to {repeats - 1}"),
        between("fold", 0, outer - 1, f"the outer fold is 0 to {outer - 1}"),
        *placed,
    ]
    videos = folds.groupby("sample_id", as_index=False).agg(repeats=("repeat", "nunique"))
    judged = [
        Judged("folds", folds, ("repeat", "sample_id"), per_video),
        Judged(
            "videos", videos, ("sample_id",), [between("repeats", repeats, repeats, f"is in all {repeats} repeats")]
        ),
    ]
    for name, column in (("patients", "patient_id"), ("groups", "split_group")):
        one = folds.groupby(["repeat", column], as_index=False).agg(
            folds=("fold", "nunique"), inner_folds=(inner_columns[0], "nunique"), videos=("sample_id", "nunique")
        )
        one["inner_folds"] = folds.groupby(["repeat", column])[inner_columns].nunique().max(axis=1).to_numpy()
        expected = [
            between("folds", 1, 1, "is in one outer fold of a repeat"),
            between("inner_folds", 1, 1, "is in one inner fold of an outer one"),
        ]
        judged.append(Judged(name, one, ("repeat", column), expected))
    judged.append(_training_sets(folds, outer, inner, repeats, classes))
    if "duplicates" in tables and len(tables["duplicates"]):
        judged.append(_duplicates(folds, tables["duplicates"]))
    return judged


def _training_sets(folds: pd.DataFrame, outer: int, inner: int, repeats: int, classes: Sequence[str]) -> Judged:
    """One row per repeat, outer fold, inner fold ("all": the outer training set itself) and class."""
    sets = []
    for repeat in range(repeats):
        rows = folds[folds["repeat"] == repeat]
        for fold in range(outer):
            held_out = rows["fold"] == fold
            training, column = rows[~held_out], rows.loc[~held_out, f"inner_{fold}"]
            stray = int((rows.loc[held_out, f"inner_{fold}"] != -1).sum() + (column == -1).sum())
            parts = [("all", training, held_out.sum())]
            parts += [(str(part), training[column != part], (column == part).sum()) for part in range(inner)]
            for part, kept, tested in parts:
                count = kept["label"].value_counts()
                for name in classes:
                    sets.append((repeat, fold, part, name, int(count.get(name, 0)), int(tested), stray))
    table = pd.DataFrame(sets, columns=["repeat", "fold", "inner_fold", "class", "videos", "tested", "stray"])
    expectations = [
        between("videos", 1, None, "every class is in every training set"),
        between("tested", 1, None, "no fold is empty"),
        between("stray", 0, 0, "exactly the videos of an outer training set have an inner fold"),
    ]
    return Judged("training sets", table, ("repeat", "fold", "inner_fold", "class"), expectations)


def _duplicates(folds: pd.DataFrame, duplicates: pd.DataFrame) -> Judged:
    """Each near-duplicate pair of videos that are both in the task, and whether one fold of each repeat holds both."""
    by_repeat = folds.pivot_table(index="sample_id", columns="repeat", values="fold", aggfunc="first")
    pairs = duplicates[duplicates["sample_a"].isin(by_repeat.index) & duplicates["sample_b"].isin(by_repeat.index)]
    first, second = (by_repeat.loc[pairs[side]].to_numpy() for side in ("sample_a", "sample_b"))
    pairs = pairs.assign(together=(first == second).all(axis=1))
    return Judged(
        "duplicates",
        pairs,
        ("sample_a", "sample_b"),
        [holds("together", "two copies of one video are on the same side of every split")],
    )


def pretrain(tables: Tables, *, effective_rank_floor: float = COLLAPSED) -> list[Judged]:
    """seeds: one row per encoder. An encoder that maps every video to the same point has an effective rank near 1."""
    seeds = tables["seeds"]
    expectations = [
        *filled("seed", "steps", "videos", "finite", "effective_rank", "weights_sha256"),
        unique("every encoder has its own seed", "seed"),
        unique("no two seeds gave the same weights", "weights_sha256"),
        holds("finite", "all weights are finite"),
        between("steps", 0, None, "the number of steps is not negative"),
        _rank(effective_rank_floor),
    ]
    judged = [Judged("seeds", seeds, ("seed",), expectations)]
    trained = seeds[pd.to_numeric(seeds["steps"], errors="coerce") > 0]
    if len(trained):
        losses = [between(name, None, 1e6, f"{name} is finite") for name in ("loss_first", "loss_last")]
        expectations = [
            *filled("loss_first", "loss_last"),
            *losses,
            between("videos", 1, None, "it was trained on videos"),
        ]
        judged.append(Judged("trained", trained, ("seed",), expectations))
    return judged


def initialise(tables: Tables) -> list[Judged]:
    """seeds: one row per untrained encoder."""
    expectations = [
        *filled("seed", "steps", "finite", "weights_sha256"),
        unique("every encoder has its own seed", "seed"),
        unique("no two seeds gave the same weights", "weights_sha256"),
        holds("finite", "all weights are finite"),
        between("steps", 0, 0, "it has not been trained"),
    ]
    return [Judged("seeds", tables["seeds"], ("seed",), expectations)]


def embed(
    tables: Tables, *, samples: Sequence[str], seeds: Sequence[int], effective_rank_floor: float = COLLAPSED
) -> list[Judged]:
    """features: one row per encoder seed and video; every video of `samples` under every one of `seeds`."""
    features = tables["features"]
    per_video = [
        *filled("seed", "sample_id", "finite", "std", "effective_rank"),
        unique("a video is embedded once per seed", "seed", "sample_id"),
        holds("finite", "all features are finite"),
        between("std", 1e-6, 1e6, "a video's features are not all the same, and not huge"),
        one_of("seen_in_pretraining", [False], "the encoder was not pretrained on this video", "warning"),
        _rank(effective_rank_floor),
    ]
    expected = pd.MultiIndex.from_product([seeds, samples], names=["seed", "sample_id"]).to_frame(index=False)
    present = pd.MultiIndex.from_frame(features[["seed", "sample_id"]])
    expected["embedded"] = pd.MultiIndex.from_frame(expected).isin(present)
    return [
        Judged("features", features, ("seed", "sample_id"), per_video),
        Judged("videos", expected, ("seed", "sample_id"), [holds("embedded", "every video is embedded by every seed")]),
    ]


def _rank(floor: float) -> Expectation:
    return between("effective_rank", floor, None, f"not collapsed: effective rank is at least {floor:g}")


def probe(tables: Tables, *, split_digest: str) -> list[Judged]:
    """predictions: out-of-fold, every video of `folds` once per (arm, arm_seed, probe, repeat)."""
    predictions, folds = tables["predictions"], tables["folds"]
    fit = ["arm", "arm_seed", "probe", "repeat"]
    columns = [f"p_{index}" for index in range(int(folds["y"].max()) + 1)]
    if not set(columns) <= set(predictions.columns):
        return [Judged("predictions", predictions, (), [has_columns(columns)])]
    truth = folds.set_index(["repeat", "sample_id"])
    at = pd.MultiIndex.from_frame(predictions[["repeat", "sample_id"]])
    mine = truth.reindex(at)
    rows = predictions.assign(
        p_sum=predictions[columns].sum(axis=1, skipna=False).round(6),
        fold_agrees=mine["fold"].to_numpy() == predictions["fold"].to_numpy(),
        truth_agrees=mine["y"].to_numpy() == predictions["y_true"].to_numpy(),
        patient_agrees=mine["patient_id"].to_numpy() == predictions["patient_id"].to_numpy(),
        group_agrees=mine["split_group"].to_numpy() == predictions["split_group"].to_numpy(),
    )
    per_row = [
        *filled(*PREDICTION_COLUMNS, *columns),
        *(between(column, 0, 1, f"{column} is a probability") for column in columns),
        between("p_sum", 1 - TOLERANCE, 1 + TOLERANCE, "the probabilities of a video sum to 1"),
        unique("a video is predicted once per arm, seed, probe and repeat", *fit, "sample_id"),
        one_of("split_digest", [split_digest], f"was made on this very split ({split_digest})"),
        holds("fold_agrees", "the fold is the one that holds the video out"),
        holds("truth_agrees", "y_true is the class that the split records"),
        holds("patient_agrees", "the patient is the one that the split records"),
        holds("group_agrees", "the split group is the one that the split records"),
    ]
    return [
        Judged("predictions", rows, (*fit, "fold", "sample_id"), per_row),
        Judged(
            "coverage",
            _coverage(predictions, folds),
            ("arm", "arm_seed", "probe", "repeat", "fold"),
            [between("missing", 0, 0, "no fold is missing: every video it holds out is predicted")],
        ),
    ]


def _coverage(predictions: pd.DataFrame, folds: pd.DataFrame) -> pd.DataFrame:
    """One row per arm, seed, probe, repeat and outer fold: how many of its videos have no prediction."""
    arms = predictions[["arm", "arm_seed", "probe"]].drop_duplicates()
    expected = arms.merge(folds[["repeat", "fold", "sample_id"]], how="cross")
    keys = ["arm", "arm_seed", "probe", "repeat", "sample_id"]
    present = pd.MultiIndex.from_frame(predictions[keys])
    expected["missing"] = ~pd.MultiIndex.from_frame(expected[keys]).isin(present)
    counts = expected.groupby(["arm", "arm_seed", "probe", "repeat", "fold"], as_index=False)
    return counts.agg(missing=("missing", "sum"), videos=("missing", "size"))


def compare(tables: Tables) -> list[Judged]:
    """arms: an estimate per arm, probe and metric. pairs: a difference per arm, reference, probe and metric."""
    judged = []
    for name, keys, value in (("arms", ARM_KEYS, "estimate"), ("pairs", PAIR_KEYS, "difference")):
        rows = tables[name]
        low, high, estimate = (pd.to_numeric(rows[column], errors="coerce") for column in ("low", "high", value))
        # A ranking score is undefined where a fold lacks a class, and so is its interval; the log-loss never is.
        rows = rows.assign(
            defined=estimate.notna() | (rows["metric"] != "log_loss"),
            in_order=~(low > high),
            inside=~((estimate < low - 1e-9) | (estimate > high + 1e-9)),
            counted=(rows["n_groups"] >= 1) & (rows["n_groups"] <= rows["n_patients"]),
        )
        expectations = [
            *filled(*keys),
            unique("every row is another comparison", *keys),
            holds("defined", f"the {value} of the log-loss is a number"),
            between(value, -1e6, 1e6, f"{value} is finite"),
            holds("counted", "there are patients, and no more independent groups than patients"),
            holds("in_order", "low is not above high"),
            holds("inside", f"the {value} lies in its interval", "warning"),
        ]
        if name == "pairs":
            expectations.append(between("p_value", 0, 1, "p_value is a probability"))
        judged.append(Judged(name, rows, tuple(keys), expectations))
    return judged


def report(tables: Tables) -> list[Judged]:
    """artifacts: one row per file of the report."""
    expectations = [
        *filled("name", "bytes"),
        unique("every file has its own name", "name"),
        between("bytes", 1, None, "no file is empty"),
    ]
    return [Judged("artifacts", tables["artifacts"], ("name",), expectations)]


ARM_KEYS = ["task", "arm", "probe", "metric"]
PAIR_KEYS = ["task", "arm", "reference", "probe", "metric"]
PREDICTION_COLUMNS = [
    "task", "arm", "arm_seed", "probe", "repeat", "fold", "sample_id", "patient_id", "split_group", "y_true",
    "seen_in_pretraining", "split_digest",
]  # fmt: skip
FOLD_COLUMNS = ["sample_id", "patient_id", "split_group", "y", "label", "repeat", "fold"]
MANIFEST_COLUMNS = [
    "sample_id", "source", "path", "sha256", "patient_id", "frames", "frames_declared", "fps", "height", "width",
    "decode_error",
]  # fmt: skip
SEED_COLUMNS = [
    "seed", "steps", "loss_first", "loss_last", "effective_rank", "videos", "finite", "weights_sha256",
]  # fmt: skip

SUITES: dict[str, Suite] = {
    "phantom": Suite({"videos": ["file", "patient", "frames", "mean"]}, phantom, "Correct the section `phantom`."),
    "ingest": Suite(
        {"manifest": MANIFEST_COLUMNS}, ingest, "Repair the files named above, or remove them from the source."
    ),
    "split": Suite({"folds": FOLD_COLUMNS}, split, "Correct the labels and patients of the source, or the folds."),
    "initialise": Suite(
        {"seeds": ["seed", "steps", "finite", "weights_sha256"]}, initialise, "Give every draw a seed of its own."
    ),
    "pretrain": Suite(
        {"seeds": SEED_COLUMNS}, pretrain, "Delete the run's folder and train again with another seed or rate."
    ),
    "embed": Suite(
        {"features": ["seed", "sample_id", "finite", "std", "effective_rank", "seen_in_pretraining"]},
        embed,
        "Look at the encoder's training: the features of the rows named above carry no information.",
    ),
    "probe": Suite({"predictions": PREDICTION_COLUMNS, "folds": FOLD_COLUMNS}, probe, "Run the stage again."),
    "compare": Suite(
        {
            "arms": [*ARM_KEYS, "estimate", "low", "high", "n_patients", "n_groups"],
            "pairs": [*PAIR_KEYS, "difference", "low", "high", "p_value", "n_patients", "n_groups"],
        },
        compare,
        "Look at the predictions of the rows named above.",
    ),
    "report": Suite({"artifacts": ["name", "bytes"]}, report, "Run the stage again."),
}
