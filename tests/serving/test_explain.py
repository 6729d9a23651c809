"""--explain: what is drawn is what the answer rests on, over the frames that the model saw."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_models import described, drawn, make_model, usual

from echolung.core.errors import DataError, DiskError, VideoError
from echolung.methods.method import Maps
from echolung.methods.methods import METHODS
from echolung.serving.explain import Picture, explain_files, write_gif
from echolung.serving.model import Model

pytest_plugins = ["small_models"]
pytestmark = pytest.mark.usefixtures("one_thread")
VIEWS, FRAMES, GRID = 2, 4, (2, 2, 2)
WORDS = ("predicted: covid", "p_covid 0.93", "m version 1", "a.mp4")


@pytest.mark.parametrize("kind", ["attentive", "linear"])
def test_each_file_is_answered_as_by_predict_and_drawn_twice(
    folder: Path, model: Model, tmp_path: Path, kind: str
) -> None:
    known = usual(described(model, folder / "a.mp4"))
    made = Model.open(make_model(folder, f"explained-{kind}", known, drawn(kind), kind))
    (tmp_path / "kept.png").write_text("a user's")
    paths = [folder / "a.mp4", folder / "b.avi", folder / "a.mp4"]
    answers = explain_files(made, paths, tmp_path, "m version 1")
    np.testing.assert_allclose(answers["p_covid"], made.predict(paths)["p_covid"], atol=2e-3)
    names = {f"{stem}.{suffix}" for stem in ("a", "b", "a-2") for suffix in ("gif", "png")}
    assert {path.name for path in tmp_path.iterdir()} == names | {"kept.png"}
    assert (tmp_path / "kept.png").read_text() == "a user's"
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == VIEWS * FRAMES
        assert gif.info["duration"] == pytest.approx(1000 / 8, abs=10)
    with Image.open(tmp_path / "a.png") as png:
        assert min(png.size) > 400


def picture(weights: np.ndarray, signed: bool) -> Picture:
    frames = np.full((1, FRAMES, 32, 32), 90, np.uint8)
    return Picture(frames, np.arange(FRAMES)[None] / 8, Maps(weights, signed, "words"), *WORDS)


@pytest.mark.parametrize(("signed", "value", "channel"), [(False, 3.0, 0), (True, 2.0, 0), (True, -2.0, 2)])
def test_colour_is_where_and_when_the_weight_is(tmp_path: Path, signed: bool, value: float, channel: int) -> None:
    weights = np.full((1, *GRID), 0.0 if signed else 1.0)
    weights[0, 1, 0, 1] = value  # the second half of the view, upper right
    drawn_ = picture(weights, signed)
    assert drawn_.overlay.shape == (1, FRAMES, 32, 32)
    np.testing.assert_array_equal(drawn_.overlay[0, 0], drawn_.overlay[0, 1])
    write_gif(tmp_path / "a.gif", drawn_)
    with Image.open(tmp_path / "a.gif") as gif:
        pages = []
        for page in range(gif.n_frames):
            gif.seek(page)
            pages.append(np.asarray(gif.convert("RGB")).astype(int))
    edge = pages[0].shape[1] // 2
    top = (pages[0].shape[0] - edge) // 2

    def colour(page: np.ndarray) -> np.ndarray:
        heated = page[top : top + edge, edge:]
        return np.ptp(heated, axis=2) + 0 * heated[..., channel]

    assert colour(pages[0]).mean() < 2, "no colour before its time"
    late = colour(pages[3])
    assert late[: edge // 2, edge // 2 :].mean() > 20 > 3 * late[edge // 2 :, : edge // 2].mean()
    hot = pages[3][top + edge // 8, edge + edge * 7 // 8]
    assert hot.argmax() == channel or not signed
    assert np.ptp(pages[3][top : top + edge, :edge], axis=2).max() < 6, "the plain frame stays grey"


def test_what_cannot_be_explained_or_written_is_said(folder: Path, model: Model, tmp_path: Path) -> None:
    looks = described(model, folder / "a.mp4")
    weights = {"mean": np.zeros(0), "scale": np.ones(0), "coefficients": np.zeros((3, 0)), "intercepts": np.zeros(3)}
    silent = METHODS["majority"]([], weights, None)  # type: ignore[call-arg]
    made = Model.open(make_model(folder, "majority", usual({"handmade": looks["handmade"]}), silent, "majority"))
    with pytest.raises(DataError, match="'majority' cannot show what its answers rest on") as error:
        explain_files(made, [folder / "a.mp4"], tmp_path / "none", "m")
    assert "--explain" in error.value.remedy and not (tmp_path / "none").exists()
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(DiskError, match="taken"):
        explain_files(model, [folder / "a.mp4"], tmp_path / "taken" / "below", "m")
    with pytest.raises(VideoError, match=r"absent\.mp4"):
        explain_files(model, [tmp_path / "absent.mp4"], tmp_path / "fine", "m")
