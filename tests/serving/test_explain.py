"""--explain: what is drawn is what the answer rests on, over the frames that the model saw."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageSequence
from small_models import described, drawn, make_model, usual

from echolung.core.errors import DataError, DiskError, VideoError
from echolung.data.masks import STRUCTURES
from echolung.data.video import decode
from echolung.methods.method import Curve, Drawing, Maps
from echolung.methods.methods import METHODS
from echolung.serving import explain as module
from echolung.serving.explain import STRUCTURES as SHOWN_IN
from echolung.serving.explain import Picture, explain_file, picture_names, write_curve, write_gif, write_mp4
from echolung.serving.model import Model

pytest_plugins = ["small_models"]
VIEWS, FRAMES, GRID = 2, 4, (2, 2, 2)
WORDS = ("predicted: covid", "p_covid 0.93", "m version 1", "a.mp4")


@pytest.mark.parametrize("kind", ["attentive", "linear"])
def test_each_file_is_answered_as_by_predict_and_drawn_twice(folder, model, tmp_path, kind) -> None:
    known = usual(described(model, folder / "a.mp4"))
    made = Model.open(make_model(folder, f"explained-{kind}", known, drawn(kind), kind))
    (tmp_path / "kept.png").write_text("a user's")
    paths = [folder / "a.mp4", folder / "b.avi", folder / "a.mp4"]
    named = zip(paths, picture_names(paths), strict=True)
    answers = pd.concat([explain_file(made, path, tmp_path, name, "m version 1") for path, name in named])
    np.testing.assert_allclose(answers["p_covid"], made.predict(paths)["p_covid"], atol=2e-3)
    names = {f"{stem}.{suffix}" for stem in ("a", "b", "a-2") for suffix in ("gif", "png")}
    assert {path.name for path in tmp_path.iterdir()} == names | {"kept.png"}
    assert (tmp_path / "kept.png").read_text() == "a user's"
    with Image.open(tmp_path / "a.gif") as gif, Image.open(tmp_path / "a.png") as png:
        assert gif.n_frames == VIEWS * FRAMES and gif.info["duration"] == pytest.approx(1000 / 8, abs=10)
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
        pages = [np.asarray(page.convert("RGB")).astype(int) for page in ImageSequence.Iterator(gif)]
    edge = pages[0].shape[1] // 2
    top = (pages[0].shape[0] - edge) // 2
    early, late = (np.ptp(page[top : top + edge], axis=2) for page in (pages[0], pages[3]))  # how coloured it is
    plain, heated = late[:, :edge], late[:, edge:]
    assert early[:, edge:].mean() < 2, "no colour before its time"
    assert heated[: edge // 2, edge // 2 :].mean() > 20 > 3 * heated[edge // 2 :, : edge // 2].mean()
    assert pages[3][top + edge // 8, edge + edge * 7 // 8].argmax() == channel or not signed
    assert plain.max() < 6, "the plain frame stays grey"


def hearts(labels: np.ndarray, frames: int) -> Picture:
    """A picture of grey frames with structures, and a curve with two marks."""
    line = np.linspace(100, 50, frames)
    curve = Curve({"each frame": line, "smoothed": line}, np.arange(frames) / 20, "volume, ml",
                  {"end-diastole": [0], "end-systole": [frames - 1]}, ["EF 50%"], "Discs.")  # fmt: skip
    shown = np.full((1, frames, 32, 32), 90, np.uint8)
    maps = Maps(labels.astype(float), False, "words", Drawing(labels, STRUCTURES), curve)
    return Picture(shown, np.arange(frames)[None] / 20, maps, *WORDS)


def test_structures_have_their_colours_where_they_are_drawn_at_the_speed_of_the_video(tmp_path: Path) -> None:
    labels = np.zeros((1, 6, 32, 32), np.uint8)
    labels[:, :, 4:14, 4:14], labels[:, :, 4:14, 14:24] = 1, 2
    labels[:, 3:, 20:30, 4:14] = 3  # from the fourth frame on
    picture = hearts(labels, 6)
    write_mp4(tmp_path / "a.mp4", picture)
    film = decode(tmp_path / "a.mp4")
    assert (len(film.frames), film.fps, film.codec) == (6, pytest.approx(20), "h264")
    scale, before, after = picture.edge // 32, picture.drawn(0, 2).astype(int), picture.drawn(0, 3).astype(int)
    for at, (row, column) in enumerate([(9, 9), (9, 19), (25, 9)]):
        inside, colour = after[row * scale, column * scale], np.array(SHOWN_IN[at])
        np.testing.assert_allclose(inside, 0.75 * 90 + 0.25 * colour, atol=1.5)
    assert np.ptp(before[25 * scale, 9 * scale]) == 0, "nothing before its time"
    assert np.ptp(after[16 * scale :, 16 * scale :], axis=-1).max() == 0, "nothing where nothing is drawn"
    rim = after[9 * scale, 3 * scale : 5 * scale]
    assert np.abs(rim - np.array(SHOWN_IN[0])).sum(axis=1).min() < 30, "an outline in full colour"


def test_what_is_read_off_a_curve_is_not_shown_of_a_video_that_is_outside(folder, model, tmp_path, monkeypatch) -> None:
    made, labels = hearts(np.zeros((2, 4, 8, 8), np.uint8), 4), []
    monkeypatch.setattr(type(model.method), "explain", lambda *_: made.maps)
    monkeypatch.setattr(module, "write_curve", lambda path, picture: labels.append(picture.maps.curve.readings))
    for name in ("a.mp4", "b.avi"):
        explain_file(model, folder / name, tmp_path, name[0], "m")
    assert labels == [["EF 50%"], ()]
    assert {"a.drawn.mp4", "a.curve.png", "b.gif"} <= {path.name for path in tmp_path.iterdir()}
    write_curve(tmp_path / "c.png", made)
    with Image.open(tmp_path / "c.png") as png:
        assert np.asarray(png.convert("L")).std() > 10


def test_what_cannot_be_explained_or_written_is_said(folder: Path, model: Model, tmp_path: Path) -> None:
    looks = described(model, folder / "a.mp4")
    weights = {"mean": np.zeros(0), "scale": np.ones(0), "coefficients": np.zeros((3, 0)), "intercepts": np.zeros(3)}
    silent = METHODS["majority"]([], weights, None)  # type: ignore[call-arg]
    made = Model.open(make_model(folder, "majority", usual({"handmade": looks["handmade"]}), silent, "majority"))
    with pytest.raises(DataError, match=r"'majority' cannot show what its answers rest on.*--explain"):
        explain_file(made, folder / "a.mp4", tmp_path / "none", "a", "m")
    assert not (tmp_path / "none").exists()
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(DiskError, match="taken"):
        explain_file(model, folder / "a.mp4", tmp_path / "taken" / "below", "a", "m")
    with pytest.raises(VideoError, match=r"absent\.mp4"):
        explain_file(model, tmp_path / "absent.mp4", tmp_path / "fine", "a", "m")
