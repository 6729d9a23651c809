"""The attentive probe as a method: what it is chosen by, what reaches it, and what it finds."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from drawn import classes_of, manifest_of, outer_fold_of, recordings_of

from echolung.core.errors import DataError, SettingsError
from echolung.embedding.recordings import Recordings
from echolung.methods.cohort import unit_log_loss
from echolung.methods.controls import Majority
from echolung.methods.probes import selection
from echolung.methods.probes.linear import Linear
from echolung.methods.probes.probe import Attentive

VIEWS, TOKENS, WIDTH = 2, 6, 16
SEARCH = {"learning_rates": [3e-3, 1e-2], "weight_decays": [0.01, 0.5], "epochs": 4, "batch": 8}
LOSSES = ["log_loss_0", "log_loss_1", "log_loss_2"]


class Study:
    """Tokens whose class shows in one of six, patients of 1 to 3 videos, and the rows of an outer fold."""

    def __init__(self, signal: float = 1.0, seed: int = 0, patients: int = 24) -> None:
        random = np.random.default_rng(seed)
        self.patient = np.sort(np.concatenate([np.arange(patients), random.integers(patients, size=patients - 3)]))
        self.tokens = random.normal(size=(2 * patients - 3, VIEWS, TOKENS, WIDTH)) + 2 * random.normal(size=WIDTH)
        self.tokens[:, :, 2] += signal * 2.5 * random.normal(size=(3, WIDTH))[self.patient % 3][:, None]
        self.manifest = manifest_of([f"s/{number:03d}" for number in range(len(self.tokens))], self.patient)
        self.training, test, self.test = outer_fold_of(self.manifest, self.patient % 3, inner=3)
        self.y = test["y"].to_numpy(int)

    def recordings(self) -> Recordings:
        return recordings_of(self.manifest, self.tokens)

    def fit(self, unit: str = "video", rows: pd.DataFrame | None = None, **changes: object) -> Attentive:
        settings = Attentive.Settings(**SEARCH | {"attention_head_width": 8} | changes)
        training = self.training if rows is None else rows
        return Attentive.fit(settings, classes_of("abc", unit), self.recordings(), training, 4, Path())


def test_the_lowest_mean_inner_log_loss_is_chosen_and_each_configuration_scores_as_alone() -> None:
    study = Study()
    search = study.fit("patient").search()
    assert len(search) == 4 * 5
    np.testing.assert_allclose(search["log_loss"], search[LOSSES].mean(axis=1), rtol=1e-12)
    assert search.loc[search["chosen"], "log_loss"].tolist() == [search["log_loss"].min()]
    assert search.loc[search["chosen"], "epoch"].item() > 0, "there is something to find"
    assert np.ptp(search.loc[search["epoch"] == 0, "log_loss"]) < 1e-6, "class frequencies, whatever the configuration"
    for (rate, decay), mine in search.groupby(["learning_rate", "weight_decay"]):
        alone = study.fit("patient", learning_rates=[rate], weight_decays=[decay]).search()
        np.testing.assert_allclose(mine[LOSSES], alone[LOSSES], rtol=0, atol=1e-5)


def test_a_held_out_label_reaches_nothing_but_its_own_score() -> None:
    """One video is held out: over the possible labels, exp(-log-loss) adds up to 1 if none of them was trained on."""
    study, p = Study(), 0.0
    held_out = np.arange(len(study.training)) == 5
    for y in range(3):
        rows = study.training.assign(inner=np.where(held_out, 0, -2), y=np.where(held_out, y, study.training["y"]))
        p = p + np.exp(-study.fit(rows=rows).search()["log_loss"].to_numpy())
    np.testing.assert_allclose(p, 1, rtol=0, atol=1e-6)


@pytest.mark.parametrize("unit", ["video", "patient"])
def test_a_search_that_finds_nothing_ends_at_the_class_frequencies(unit: str) -> None:
    stopped = 0
    for seed in range(8):
        study = Study(signal=0.0, seed=seed)
        probe = study.fit(unit, learning_rates=[3e-2], weight_decays=[0.01])
        majority = Majority.fit(None, classes_of("abc", unit), study.recordings(), study.training, 0, Path())
        p, frequencies = (one.predict(study.recordings(), study.test) for one in (probe, majority))
        search, same = probe.search(), np.allclose(p, frequencies, rtol=0, atol=1e-6)
        assert same == (search.loc[search["chosen"], "epoch"].item() == 0)
        stopped += same
    assert stopped >= 2


def test_tokens_that_do_not_fit_into_memory_give_the_same_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Study().fit().search()
    monkeypatch.setattr(selection, "KEPT_BYTES", 0)
    np.testing.assert_allclose(Study().fit().search()[LOSSES], kept[LOSSES], rtol=0, atol=1e-5)


def test_features_that_are_not_finite_and_searches_that_diverge_are_errors() -> None:
    study = Study()
    with pytest.raises(SettingsError, match=r"diverged.*learning_rates"):
        study.fit(learning_rates=[1e39], weight_decays=[0.0])
    name = study.training["sample_id"].iloc[3]
    study.tokens[int(name[2:]), 1, 3, 2] = np.inf
    with pytest.raises(DataError, match=f"not finite: {name}"):
        study.fit()


def test_the_attentive_probe_finds_what_the_mean_dilutes_and_survives_the_disk(tmp_path: Path) -> None:
    study = Study(signal=0.6, seed=1)
    probe, recordings = study.fit(learning_rates=[1e-2], weight_decays=[0.1], epochs=15), study.recordings()
    linear = Linear.fit(Linear.Settings(reads=["mean"]), classes_of("abc"), recordings, study.training, 0, tmp_path)
    p, other = (one.predict(recordings, study.test) for one in (probe, linear))
    loss, of_linear = (unit_log_loss(one[:, None], study.y, np.arange(len(study.y)))[0] for one in (p, other))
    assert loss < 0.7 * of_linear < 0.7 * np.log(3)
    probe.save(tmp_path)
    loaded = Attentive.load(tmp_path)
    assert np.array_equal(loaded.predict(recordings, study.test), p)
    maps = loaded.explain(recordings, study.test[0])
    assert (maps.weights.shape, maps.signed) == ((VIEWS, TOKENS, 1, 1), False)
    np.testing.assert_allclose(maps.weights.mean(axis=(1, 2, 3)), 1, rtol=1e-6)  # 1 is an even share
    assert (maps.weights.argmax(axis=1) == 2).all(), "where the class shows"
    fits = study.fit(learning_rates=[1e-2], weight_decays=[0.1], epochs=200, patience=3).search()
    assert fits["epoch"].max() == fits.loc[fits["chosen"], "epoch"].item() + 3 < 200, "it ends when nothing is better"
