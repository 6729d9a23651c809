"""kNN and the anomaly bank against naive loops, scikit-learn and scipy; the kind `anomaly`; and what they refuse."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import classes_of, folds_of, manifest_of, outer_fold_of, recordings_of
from sklearn.covariance import LedoitWolf
from sklearn.metrics import average_precision_score, roc_auc_score

from echolung.core.errors import DataError
from echolung.embedding.recordings import Recordings
from echolung.kinds.anomaly import Anomaly, AnomalyTask
from echolung.kinds.predictions import prediction_rows, units_of
from echolung.methods.fitting import outer_fold
from echolung.methods.neighbours import AnomalyBank, Indifferent, Knn

NAMES = [f"s/{i:02d}" for i in range(36)]
Y = np.arange(36) // 2 % 3  # two videos a patient
CLASSES = classes_of("abc")
NORMAL = AnomalyTask(kind="anomaly", source="s", label="l", normal="class 0", unit="patient")
MANIFEST = manifest_of(NAMES, np.arange(36) // 2).assign(split_group=[f"g{i // 2}" for i in range(36)])


@pytest.fixture(scope="module")
def recordings() -> Recordings:
    random = np.random.default_rng(0)
    tokens = random.normal(size=(36, 1, 4, 6)) + 1.5 * np.eye(6)[Y][:, None, None]
    return recordings_of(MANIFEST, tokens)


def vectors(recordings: Recordings, names: Any) -> np.ndarray:
    """Mean of LayerNorm(token), as `summary` defines it."""
    x = recordings.tokens(list(names)).astype(float)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x.mean(axis=(1, 2))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_knn_is_the_weighted_vote_of_the_nearest_and_survives_the_disk(recordings: Recordings, tmp_path: Path) -> None:
    training, _, asked = outer_fold_of(MANIFEST, Y)
    fitted = Knn.fit(Knn.Settings(k=4), CLASSES, recordings, training, 0, tmp_path)
    fitted.save(tmp_path)
    found = Knn.load(tmp_path).predict(recordings, asked)
    bank = vectors(recordings, training["sample_id"])
    for vector, answer in zip(vectors(recordings, asked), found, strict=True):
        votes, near = np.zeros(3), sorted(zip([cosine(vector, one) for one in bank], training["y"], strict=True))
        for similarity, label in near[-4:]:
            votes[int(label)] += np.exp(similarity / 0.07)
        np.testing.assert_allclose(answer, votes / votes.sum(), atol=1e-3)
    with pytest.raises(DataError, match=f"25 nearest neighbours are asked for, and the bank has {len(training)}"):
        Knn.fit(Knn.Settings(k=25), CLASSES, recordings, training, 0, tmp_path)
    mixed = folds_of(MANIFEST, Y)
    mixed.loc[mixed["sample_id"] == asked[0], ["fold", "inner_0"]] = [1, 0]
    with pytest.raises(AssertionError, match="trained on and tested"):
        outer_fold(mixed, 0, 0)


@pytest.mark.parametrize("distance", ["neighbours", "mahalanobis"])
def test_anomalies_are_far_from_the_normals(recordings: Recordings, tmp_path: Path, distance: str) -> None:
    training, _, names = outer_fold_of(MANIFEST, (Y > 0).astype(int))
    settings = AnomalyBank.Settings.parse({"distance": distance, "k": 3}, "")
    fitted = AnomalyBank.fit(settings, NORMAL, recordings, training, 0, tmp_path)
    fitted.save(tmp_path)
    found = AnomalyBank.load(tmp_path).predict(recordings, names)

    def far(bank: np.ndarray, queries: np.ndarray) -> np.ndarray:
        if distance == "neighbours":
            near = [sorted((cosine(one, other) for other in bank), reverse=True)[:3] for one in queries]
            return 1 - np.mean(near, axis=1)
        return np.sqrt(LedoitWolf().fit(bank).mahalanobis(queries) / bank.shape[1])

    normals = training[training["y"] == 0]
    bank, inner = vectors(recordings, normals["sample_id"]), normals["inner"].to_numpy()
    np.testing.assert_allclose(found[:, 0], far(bank, vectors(recordings, names)), rtol=2e-2, atol=1e-4)
    if distance == "neighbours":  # four recordings of six numbers: Mahalanobis distances are another's there
        known = np.concatenate([far(bank[inner != fold], bank[inner == fold]) for fold in np.unique(inner)])
        shares = [(known <= one).mean() for one in found[:, 0]]
        np.testing.assert_allclose(found[:, 1], shares, atol=1e-6)
    assert (np.diff(found[found[:, 0].argsort(), 1]) >= 0).all()
    alone = AnomalyBank.fit(settings, NORMAL, recordings, normals, 0, tmp_path)
    np.testing.assert_array_equal(alone.predict(recordings, names), found, "anomalies have no part in it")
    one = normals[normals["patient_id"] == normals["patient_id"].iloc[0]]
    for few, patients in ((one, 1), (normals.assign(inner=0), 4)):
        with pytest.raises(DataError, match=rf"of {patients} patient\(s\), are in one inner fold"):
            AnomalyBank.fit(settings, NORMAL, recordings, few, 0, tmp_path)


def test_the_kind_scores_distances_within_folds_and_decides_by_the_share() -> None:
    kind, random = Anomaly(), np.random.default_rng(1)
    folds = folds_of(MANIFEST, (Y > 0).astype(int)).sort_values("sample_id", ignore_index=True)
    y = folds["y"].to_numpy(int)
    distance, share = random.uniform(size=36) + 0.4 * y, random.uniform(0.7, 1, size=36)
    task = NORMAL.model_copy(update={"unit": "video"})
    heading = {"task": "t", "arm": "a", "arm_seed": 0, "method": "anomaly", "repeat": 0}
    table = prediction_rows(heading, folds, kind.columns(task), np.column_stack([distance, share]), "d", y < 0)
    table["fold"] = folds["fold"]
    units = units_of(table, "t", task, kind)
    scores = kind.scores(units, ("a", "anomaly"), np.ones((1, len(units.group)))).values
    aurocs, aps = [], []
    for fold in range(3):
        mine = table["fold"] == fold
        aurocs.append(roc_auc_score(y[mine], distance[mine]))
        aps.append(average_precision_score(y[mine], distance[mine]))
    expected = {
        "auroc": np.mean(aurocs), "auprc": np.mean(aps), "sensitivity": (share[y == 1] > 0.9).mean(),
        "specificity": (share[y == 0] <= 0.9).mean(), "rank_error": np.abs(share - y).mean(),
    }  # fmt: skip
    assert {name: float(value[0, 0]) for name, value in scores.items()} == pytest.approx(expected)
    assert list(kind.answer(task, np.array([[1.0, 0.95], [2.0, 0.9]]))["predicted"]) == ["not class 0", "class 0"]
    assert kind.wrong(task, np.array([[1.0, 1.1], [-1.0, 0.5], [np.nan, 0.5], [0.0, 1.0]])).tolist() == [1, 1, 1, 0]
    assert not kind.wrong(task, Indifferent(None, {}).predict(Recordings([]), NAMES)).any()
    with pytest.raises(DataError, match="other than 'class 0'"):
        kind.labelled(task, MANIFEST.assign(l="class 0"))
    with pytest.raises(DataError, match="l = 'class 0'"):
        kind.labelled(task, MANIFEST.assign(l="ill"))
