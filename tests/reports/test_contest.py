"""The table of all methods: a row for each, the same numbers as in the comparison, and what they cost."""

import numpy as np
import pandas as pd
import pytest
from drawn import manifest_of
from small_models import _embedded
from synthetic import TABLES, TASKS, compared
from toys import Brightness, BrightnessSettings, TilesSettings

from echolung.models.encoders import initial_encoder
from echolung.models.vit import VideoViTSettings
from echolung.models.weights import EncoderRecord, save_encoder
from echolung.pretraining.cost import counted
from echolung.reports.contest import contest, costs
from echolung.reports.tables import table_markdown

SHAPE = VideoViTSettings(width=16, depth=1, heads=2, image_size=16, frames=4, clip_fps=25.0, tubelet=2, patch=8)
KEYS = ["task", "arm", "arm_seed", "method", "repeat", "fold"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Costs of the fits behind TABLES: 60 recordings fitted in 6 s, 0.01 s to ask about one, 0.02 s for its tokens."""
    root, encoders = tmp_path_factory.mktemp("data"), {}
    for arm, seeds in (("jepa", 1), ("random", 3)):
        encoders[arm] = [root / "encoders" / arm / f"seed{seed}" for seed in range(seeds)]
        for seed, folder in enumerate(encoders[arm]):
            record = EncoderRecord(settings=SHAPE, arm=arm, objective="jepa", seed=seed, steps=40 * (arm == "jepa"))
            save_encoder(folder, initial_encoder(SHAPE, seed), record)
            if record.steps:
                history = pd.DataFrame({"step": [20, 40], "clips": [160, 320], "seconds": [7.0, 12.0]})
                history.to_csv(folder / "history.csv", index=False)
    for source in ("pocus", "blues"):
        manifest, tokens = manifest_of([f"{source}/a", f"{source}/b"], [0, 1]), np.ones((2, 1, 8, 16))
        for arm, folder in [(arm, folder) for arm, folders in encoders.items() for folder in folders]:
            _embedded(root / "embed" / source / arm / folder.name, tokens, manifest, arm, "", seconds=0.02)
    fits = pd.concat([predictions.drop_duplicates(KEYS)[KEYS] for predictions in TABLES.values()])
    fits = fits.assign(fitted=60, fit_seconds=6.0, ask_seconds=0.01)
    return costs(fits, TASKS, encoders, root / "embed", {"jepa": 2e9})


def test_the_encoder_is_paid_for_by_every_method_that_reads_its_tokens(table: pd.DataFrame) -> None:
    assert not table.duplicated(["task", "arm", "method"]).any()
    seen = {"jepa": [320], "random": [0], "hand-made": [0], "majority": [0]}
    assert table.groupby("arm")["clips"].unique().map(list).to_dict() == seen
    assert table.loc[table["arm"] == "jepa", "tflop"].to_numpy() == pytest.approx(0.64)
    # Pretraining takes 12 s, a fit 6 s, and the tokens of 60 recordings 1.2 s.
    for arm, told in {"jepa": (0.32, 30), "random": (0.12, 30), "hand-made": (0.1, 10), "majority": (0.1, 10)}.items():
        found = table.loc[table["arm"] == arm, ["minutes", "milliseconds"]].to_numpy()
        assert len(found) and found == pytest.approx(np.tile(told, (len(found), 1))), arm


def test_every_task_arm_and_method_has_one_row_with_the_numbers_of_the_comparison(table: pd.DataFrame) -> None:
    comparison = compared(TABLES, TASKS)
    tables = contest(comparison, TASKS, table)
    rows = [(one.task, row[0].partition(" ")[0], row[1]) for one in tables for row in one.rows]
    assert sorted(rows) == sorted(set(comparison.arms[["task", "arm", "method"]].itertuples(index=False, name=None)))
    assert tables[0].heads[-4:] == ["minutes", "clips", "TFLOP", "ms to ask"]
    for one in tables:
        scores = comparison.arms[(comparison.arms["task"] == one.task) & (comparison.arms["metric"] == "brier")]
        told = scores.set_index(["arm", "method"])["estimate"]
        column = one.heads.index("Brier score")
        shown = [(told[row[0].partition(" ")[0], row[1]], row[column]) for row in one.rows]
        assert all(cell.startswith(f"{value:.2f} [") for value, cell in shown)
    assert "ms to ask" in table_markdown(comparison, TASKS, tables)
    assert contest(comparison, TASKS, pd.DataFrame()) == []
    linear = {name: one[one["method"] != "attentive"] for name, one in TABLES.items()}
    assert contest(compared(linear, TASKS), TASKS, table) == [], "one method has no contest"


def test_the_flops_of_a_step_are_those_of_its_matrix_products() -> None:
    """32 tokens, 2 to 4 numbers: forward and the gradient of the weights. The head, 4 to 1: and that of its input."""
    shape = TilesSettings(kind="toy-tiles", image_size=32, frames=8, clip_fps=12.0)
    for clips in (1, 4):
        assert counted(Brightness(shape, BrightnessSettings(), 0, 1), clips, 2) == 2 * (2 * 32 * 2 * 4) + 3 * (2 * 4)
