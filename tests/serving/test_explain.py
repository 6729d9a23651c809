"""--explain: what is drawn is what the answer rests on, at the frames that the model saw."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_classifier import SIZE, make_classifier, usual

from echolung.core.errors import DataError, VideoError
from echolung.data.video import encode
from echolung.methods.probes.attention import attention, contributions
from echolung.methods.probes.heads import AttentiveHeads, LinearHeads
from echolung.serving.explain import Explanation, caption_of, explain, explain_videos
from echolung.serving.model import Classifier
from echolung.serving.pictures import write_gif

pytest_plugins = ["small_classifier"]
VIEWS, FRAMES, GRID = 2, 4, (2, 2, 2)


@pytest.fixture(scope="module")
def linear(folder: Path) -> Classifier:
    make_classifier(folder, "linear", usual(1e9), "linear")
    return Classifier.open(folder / "linear")


@pytest.fixture(scope="module")
def attentive(folder: Path) -> Classifier:
    return Classifier.open(folder / "classifier")


def test_attention_sums_to_one_over_each_clip_and_lies_where_its_tokens_lie(
    folder: Path, attentive: Classifier
) -> None:
    look = attentive.look(folder / "a.mp4")
    found = explain(attentive, look)
    assert isinstance(attentive.probe, AttentiveHeads)
    assert found.weights.shape == (VIEWS, *GRID)
    tokens = np.prod(GRID)
    np.testing.assert_allclose(found.weights.sum(axis=(1, 2, 3)) / tokens, 1)
    expected = attention(attentive.probe, look.tokens).mean(1).numpy().reshape(VIEWS, *GRID)
    np.testing.assert_allclose(found.weights / tokens, expected, atol=1e-12)
    assert not found.signed
    np.testing.assert_allclose(found.course, found.weights.mean(axis=(2, 3)))


def test_contributions_add_up_to_the_logit_of_the_likeliest_class(folder: Path, linear: Classifier) -> None:
    look = linear.look(folder / "a.mp4")
    found = explain(linear, look)
    assert isinstance(linear.probe, LinearHeads)
    best = int(look.p.argmax())
    logits = linear.probe(linear.probe.inputs(look.tokens))[:, 0, best].detach().numpy()
    bias = float(linear.probe.classifier_bias[0, best].detach())
    np.testing.assert_allclose(found.weights.mean(axis=(1, 2, 3)) + bias, logits, atol=1e-4)
    assert found.signed
    assert contributions(linear.probe, look.tokens)[..., best].min() < 0 < found.weights.max()


def test_frames_and_seconds_are_those_that_the_model_saw(tmp_path: Path, attentive: Classifier) -> None:
    """A video whose every frame has its own grey value: the frames of the clips are known by it."""
    grey = np.arange(30, dtype=np.uint8) * 8
    encode(tmp_path / "ramp.avi", np.broadcast_to(grey[:, None, None], (30, SIZE, SIZE)).copy(), 10.0, "mjpeg")
    found = explain(attentive, attentive.look(tmp_path / "ramp.avi"))
    assert found.frames.shape == (VIEWS, FRAMES, SIZE, SIZE)
    shown = found.frames[:, :, SIZE // 2, SIZE // 2]
    at = np.floor(found.seconds * 10 + 1e-6).astype(int)
    assert at[0, 0] == 0 and at[-1, -1] == 29, "the views reach from the first frame to the last"
    assert np.abs(shown.astype(int) - grey[at]).max() <= 3
    assert (np.diff(found.seconds) > 0.12).all() and (np.diff(found.seconds) < 0.13).all(), "8 frames per second"


def planted() -> Explanation:
    """All weight in the upper right token of the second tubelet of the second view."""
    weights = np.zeros((VIEWS, 2, 2, 2))
    weights[1, 1, 0, 1] = 8.0
    frames = np.full((VIEWS, FRAMES, 32, 32), 100, np.uint8)
    return Explanation(frames, weights, np.zeros((VIEWS, FRAMES)), signed=False)


def test_the_heat_lies_over_the_patch_and_the_frames_of_its_tubelet() -> None:
    overlay = planted().overlay
    assert overlay.shape == (VIEWS, FRAMES, 32, 32)
    assert overlay[0].max() == 0 and overlay[1, :2].max() == 0
    assert (overlay[1, 2] == overlay[1, 3]).all(), "a tubelet's frames share one map"
    heat = overlay[1, 3]
    assert np.unravel_index(heat.argmax(), heat.shape)[0] < 16 <= np.unravel_index(heat.argmax(), heat.shape)[1]
    assert heat[:16, 16:].mean() > 5 * max(heat[16:].mean(), heat[:16, :16].mean())
    assert heat.max() == pytest.approx(8.0)


def test_pictures_are_written_with_all_frames_and_say_what_they_show(
    folder: Path, tmp_path: Path, attentive: Classifier
) -> None:
    (tmp_path / "twin").mkdir()
    twin = tmp_path / "twin" / "a.avi"
    twin.write_bytes((folder / "b.avi").read_bytes())
    videos = [folder / "a.mp4", folder / "b.avi", twin]
    table = explain_videos(attentive, videos, tmp_path / "pictures", "echolung-phantom-t version 7")
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {
        *("a.gif", "a.png", "b.gif", "b.png", "a-2.gif", "a-2.png")
    }
    assert table.equals(attentive.predict(videos))
    for name in ("a", "b", "a-2"):
        with Image.open(tmp_path / "pictures" / f"{name}.gif") as gif:
            assert gif.n_frames == VIEWS * FRAMES
            assert gif.info["duration"] == pytest.approx(1000 / 8, abs=10)
        with Image.open(tmp_path / "pictures" / f"{name}.png") as png:
            assert np.asarray(png.convert("L")).std() > 10
    captions = [caption_of(attentive, row, "echolung-phantom-t version 7") for row in table.to_dict("records")]
    for caption, row in zip(captions, table.itertuples(), strict=True):
        wanted = "outside what the model has seen" if row.outside else f"predicted: {row.predicted}"
        assert caption.answer.startswith(wanted)
        shown = [f"{name} {getattr(row, f'p_{name}'):.1%}" in caption.probabilities for name in ("covid", "regular")]
        assert shown == [not row.outside, not row.outside], "no probability of what the model does not know"
        assert caption.model == "echolung-phantom-t version 7. Research use only; not a medical device."


def test_a_gif_of_a_still_scene_has_all_its_frames(folder: Path, tmp_path: Path, linear: Classifier) -> None:
    row = linear.predict([folder / "a.mp4"]).to_dict("records")[0]
    still = Explanation(np.zeros((VIEWS, FRAMES, 32, 32), np.uint8), np.zeros((VIEWS, 2, 2, 2)), np.zeros((2, 4)), True)
    write_gif(tmp_path / "still.gif", still, caption_of(linear, row, "m"), 8.0)
    with Image.open(tmp_path / "still.gif") as gif:
        assert gif.n_frames == VIEWS * FRAMES


def test_the_heat_can_be_seen_in_the_gif(tmp_path: Path, folder: Path, attentive: Classifier) -> None:
    row = attentive.predict([folder / "a.mp4"]).to_dict("records")[0]
    write_gif(tmp_path / "planted.gif", planted(), caption_of(attentive, row, "m"), 8.0)

    def right_half(frame: int) -> np.ndarray:
        with Image.open(tmp_path / "planted.gif") as gif:
            gif.seek(frame)
            page = np.asarray(gif.convert("RGB")).astype(int)
        return page[60:300, 280:520]  # the second of two pictures 256 pixels wide

    coloured = [np.ptp(right_half(frame), axis=2).mean() for frame in range(VIEWS * FRAMES)]
    assert min(coloured[-2:]) > 5 * max(coloured[:-2]) + 5


def test_a_probe_that_reads_everywhere_alike_colours_nothing(
    tmp_path: Path, folder: Path, attentive: Classifier
) -> None:
    """Shares of 0.97 to 1.03, stretched to the whole range of colours, would look like a finding."""
    row = attentive.predict([folder / "a.mp4"]).to_dict("records")[0]
    random = np.random.default_rng(0)
    weights = 1 + random.uniform(-0.03, 0.03, (VIEWS, 2, 2, 2))
    frames = random.integers(0, 255, (VIEWS, FRAMES, 32, 32), dtype=np.uint8)
    even = Explanation(frames, weights, np.zeros((VIEWS, FRAMES)), signed=False)
    write_gif(tmp_path / "even.gif", even, caption_of(attentive, row, "m"), 8.0)
    with Image.open(tmp_path / "even.gif") as gif:
        page = np.asarray(gif.convert("RGB")).astype(int)
    plain, heated = page[60:300, 8:264], page[60:300, 272:528]
    assert np.ptp(heated, axis=2).mean() < 12, "grey stays grey"
    assert abs(heated - plain).mean() < 12


def test_a_folder_that_cannot_be_written_to_is_said_before_any_video_is_looked_at(
    tmp_path: Path, attentive: Classifier
) -> None:
    (tmp_path / "taken").write_text("a file")
    for place in (tmp_path / "taken", tmp_path / "taken" / "below", Path("/proc/nowhere")):
        with pytest.raises(DataError, match="pictures cannot be written to") as error:
            explain_videos(attentive, [tmp_path / "absent.mp4"], place, "m")
        assert "can be written to" in error.value.remedy
    with pytest.raises(VideoError, match=r"absent\.mp4"):
        explain_videos(attentive, [tmp_path / "absent.mp4"], tmp_path / "fine", "m")
    assert list((tmp_path / "fine").iterdir()) == []


def test_files_that_lie_in_the_folder_of_pictures_stay(folder: Path, tmp_path: Path, attentive: Classifier) -> None:
    (tmp_path / "probe.tmp").write_text("a user's")
    explain_videos(attentive, [folder / "a.mp4"], tmp_path, "m")
    assert {path.name for path in tmp_path.iterdir()} == {"a.gif", "a.png", "probe.tmp"}
    assert (tmp_path / "probe.tmp").read_text() == "a user's"


def test_the_folder_is_blamed_for_pictures_alone(
    folder: Path, tmp_path: Path, attentive: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENAMETOOLONG, "File name too long", str(folder / "a.mp4"))

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "look", refused)
        with pytest.raises(OSError, match=r"name too long.*a\.mp4"):
            explain_videos(attentive, [folder / "a.mp4"], tmp_path, "m")
    monkeypatch.setattr("echolung.serving.pictures.write_png", refused)
    with pytest.raises(DataError, match=r"pictures cannot be written to .*name too long"):
        explain_videos(attentive, [folder / "a.mp4"], tmp_path, "m")
