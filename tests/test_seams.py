"""Four toys, registered from tests/toys.py alone, go through every stage of a study, promotion and prediction."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT, Project, made_project

pytestmark = pytest.mark.pipeline
DATA = Path("data/phantom")


def test_the_package_knows_nothing_of_the_toys() -> None:
    for path in [*(ROOT / "echolung").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py"), ROOT / "dvc.yaml"]:
        assert "toy" not in path.read_text(), path


def test_a_toy_objective_trains_a_toy_encoder_and_names_its_own_diagnostics(small_study: Project) -> None:
    folder = small_study.root / DATA / "encoders" / "pretrained" / "toy" / "seed0"
    assert json.loads((folder / "encoder.json").read_text())["settings"]["kind"] == "toy-tiles"
    history = pd.read_csv(folder / "history.csv")
    assert history["head_bias"].nunique() > 1 and "ema" not in history


def test_arms_of_different_shapes_are_embedded_side_by_side(small_study: Project) -> None:
    shapes = {
        (path.parts[-4], path.parts[-3]): json.loads(path.read_text())["shape"][1:]
        for path in (small_study.root / DATA / "embed").rglob("features.json")
    }
    assert shapes["pocus", "random"] == shapes["pocus", "jepa"] == [2, 72, 64]
    assert shapes["hearts", "toy-random"] == shapes["hearts", "toy"] == [2, 32, 4]
    assert ("pocus", "toy") not in shapes, "no method of the arm suits a task of that source"
    assert ("hearts", "jepa") not in shapes, "it was pretrained on hearts"


def test_the_kind_and_the_method_predict_compare_and_report(small_study: Project) -> None:
    predictions = pd.read_parquet(small_study.root / DATA / "fit" / "hearts-ef" / "predictions.parquet")
    assert predictions["number"].notna().all()
    fits = set(predictions[["arm", "method", "arm_seed"]].drop_duplicates().itertuples(index=False, name=None))
    ridge = {("toy-random", "toy-ridge", 0), ("toy-random", "toy-ridge", 1), ("toy", "toy-ridge", 0)}
    assert fits == ridge | {("toy-mean", "toy-mean", 0)}
    pairs = pd.read_csv(small_study.root / DATA / "compare" / "pairs.csv")
    mine = pairs[(pairs["task"] == "hearts-ef") & (pairs["arm"] == "toy")]
    assert set(mine["reference"]) == {"toy-random", "toy-mean"}
    tested = mine[mine["metric"] == "mae"].set_index("reference")
    assert tested["p_value"].between(0, 1).all()
    assert tested["p_holm"].notna().to_dict() == {"toy-random": True, "toy-mean": False}
    by_hand = predictions.assign(error=(predictions["number"] - predictions["y_true"]).abs())
    patients = by_hand.groupby(["arm", "arm_seed", "patient_id"])["error"].mean().groupby("arm").mean()
    difference = patients["toy"] - patients["toy-random"]
    assert tested.loc["toy-random", "difference"] == pytest.approx(difference)
    page = (small_study.root / "reports/phantom/index.html").read_text()
    assert "hearts-ef" in page and "absolute error" in page


def test_the_toy_is_promoted_and_answers_for_a_file(small_study: Project) -> None:
    for arm in ("toy", "toy-random"):  # an arm that does not beat the mean is no fault of the seams
        done = small_study.echolung("promote", "hearts-ef", "--arm", arm, "--reset")
        assert "Traceback" not in done.stderr
        if done.returncode == 0:
            break
    assert done.returncode == 0, done.stderr
    video = next((small_study.root / "data/raw/phantom/hearts/Videos").iterdir())
    asked = small_study.echolung("predict", str(video), "--task", "hearts-ef", "--json")
    assert asked.returncode == 0, asked.stderr
    (answer,) = json.loads(asked.stdout)["predictions"]
    assert answer["outside"] or 0 < answer["predicted"] < 120
    assert video.name in small_study.echolung("predict", str(video), "--task", "hearts-ef").stdout


def test_without_the_plugin_the_parameters_name_what_is_missing(small_study: Project, tmp_path: Path) -> None:
    alone = Project(made_project(tmp_path, small_study.root))
    done = alone.run(sys.executable, "-m", "pipelines.compare", PYTHONPATH=str(small_study.root))
    assert done.returncode == 1 and "toy-" in done.stderr and "Traceback" not in done.stderr
