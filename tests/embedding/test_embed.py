"""Embedding: the right views, once for all studies, no store that is torn or stale; recordings that answer together."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import manifest_of, recordings_of, save_source

from echolung.core.errors import DataError
from echolung.core.runtime import used_modules
from echolung.data.clips import ClipStore, evaluation_starts, read_clip
from echolung.embedding import embed as embedding
from echolung.embedding.embed import CODE, EmbedSettings, embed, encode_clips, evaluation_clips
from echolung.embedding.features import Features
from echolung.models.encoder import effective_rank
from echolung.models.encoders import initial_encoder
from echolung.models.vit import VideoViTSettings
from echolung.models.weights import EncoderRecord, save_encoder

LENGTHS, FPS = (30, 3, 17, 1, 40), (25.0, 10.0, 8.0, 12.0, 30.0)
NAMES = [f"s/{number}" for number in range(5)]
SHAPE = VideoViTSettings(width=24, depth=1, heads=2, image_size=16, frames=4, clip_fps=8.0, tubelet=2, patch=8)
TWO = EmbedSettings(sources=("s",), views=2, batch=3)


class Study:
    """Five videos of different lengths and rates, and an encoder that has seen one of them."""

    def __init__(self, root: Path) -> None:
        self.root, self.manifest = root, manifest_of(NAMES, "ababc", fps=list(FPS))
        self.store, self.encoder, self.settings = self.clips("clips"), self.weights("encoder"), TWO

    def clips(self, name: str, size: int = 20, fingerprint: str = "", fps: Sequence[float] = FPS) -> ClipStore:
        random = np.random.default_rng(0)
        frames = [random.integers(256, size=(length, size, size), dtype=np.uint8) for length in LENGTHS]
        rows = self.manifest.assign(fps=list(fps))
        return save_source(self.root / name, rows, dict(zip(NAMES, frames, strict=True)), fingerprint)

    def weights(self, name: str, seed: int = 0, spoil: bool = False) -> Path:
        encoder = initial_encoder(SHAPE, seed)
        if spoil:
            with torch.no_grad():
                encoder.norm.weight[3] = torch.nan
        seen = (self.manifest["sha256"][1], "another video")
        record = EncoderRecord(settings=SHAPE, arm="x", objective="jepa", seed=7, trained_on=seen)
        save_encoder(self.root / name, encoder, record)
        return self.root / name

    def embed(self, out: str = "out", arm: str = "jepa") -> Features:
        rows = self.manifest.iloc[::-1]
        embed(self.encoder, arm, rows, self.store, self.settings, self.root / out, self.root / "cache")
        return Features.open(self.root / out)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The clips of every call of the encoder."""
    calls: list[np.ndarray] = []
    real = embedding.encode_clips
    monkeypatch.setattr(embedding, "encode_clips", lambda encoder, clips: real(encoder, calls.append(clips) or clips))
    return calls


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_tokens_are_the_encoded_evaluation_views_whatever_the_batch(study: Study, batch: int) -> None:
    study.settings = EmbedSettings(sources=("s",), views=2, batch=batch)
    features, encoder = study.embed(), initial_encoder(SHAPE, 0)
    assert (features.tokens.shape, features.tokens.dtype) == ((5, 2, 8, 24), np.float16)
    assert isinstance(features.tokens, np.memmap) and features.record.seconds > 0
    assert (list(features.videos["sample_id"]), features.record.grid) == (NAMES, (2, 2, 2))
    for video, name in enumerate(NAMES):
        for view, start in enumerate(evaluation_starts(LENGTHS[video], FPS[video], 4, 8.0, 2)):
            clip = torch.from_numpy(read_clip(study.store, name, 4, 8.0, start))
            expected = encoder.encode(clip[None])[0].numpy()
            np.testing.assert_allclose(features.tokens[video, view], expected, rtol=2e-3, atol=2e-3)
    clips = evaluation_clips(study.store.frames("s/2"), 8.0, SHAPE, 2)  # as a served model encodes a new file
    np.testing.assert_allclose(encode_clips(encoder, clips).numpy(), features.tokens[2], rtol=0, atol=2e-3)


def test_the_summary_says_what_each_video_looks_like_and_which_were_seen(study: Study) -> None:
    features = study.embed()
    summary, tokens = features.rows(), np.asarray(features.tokens, dtype=np.float64).reshape(5, -1, 24)
    assert {*summary[["arm", "seed", "finite"]].itertuples(index=False, name=None)} == {("jepa", 7, True)}
    np.testing.assert_allclose(summary["std"], tokens.std(axis=1).mean(axis=1), rtol=1e-4)
    np.testing.assert_allclose(summary["effective_rank"], effective_rank(tokens.mean(axis=1)), rtol=1e-3)
    assert summary["seen_in_pretraining"].tolist() == [False, True, False, False, False]
    assert features.record.seen_in_pretraining == ["s/1"]
    assert features.positions(["s/3", "s/0"]).tolist() == [3, 0]
    with pytest.raises(DataError, match="arm 'jepa' seed 7 lack 2 videos: s/7, t/0"):
        features.positions(["s/3", "s/7", "t/0"])
    study.encoder = study.weights("spoiled", spoil=True)
    summary = study.embed().rows()
    assert (summary["finite"].any(), summary["effective_rank"].max()) == (False, 0)


def test_what_was_embedded_once_is_not_embedded_again(study: Study, encoded: list[np.ndarray]) -> None:
    first = study.embed()
    assert sum(map(len, encoded)) == 10
    encoded.clear()
    other = study.embed("another study", arm="another name")
    assert (other.record.arm, other.record.key) == ("another name", first.record.key)
    np.testing.assert_array_equal(other.tokens, first.tokens)
    shutil.rmtree(study.root / "out")
    assert study.embed().record == first.record
    assert not encoded


def test_whatever_tokens_depend_on_embeds_again(study: Study, encoded: list, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [study.embed().record.key]
    changes = {
        "encoder": study.weights("other", seed=1),
        "settings": EmbedSettings(sources=("s",), views=1, batch=3),
        "manifest": study.manifest[1:],
        "store": study.clips("larger", size=24),
    }
    stores = study.clips("again", 24, "another decoder"), study.clips("faster", 24, fps=(*FPS[:-1], 29.0))
    for attribute, new in [*changes.items(), *(("store", one) for one in stores)]:
        monkeypatch.setattr(study, attribute, new)
        encoded.clear()
        keys.append(study.embed().record.key)
        assert encoded, attribute
    monkeypatch.setattr(embedding, "CODE", embedding.CODE[1:])
    assert len({*keys, study.embed().record.key}) == 8


@pytest.mark.parametrize("file", ["tokens.npy", "index.csv", "features.json"])
@pytest.mark.parametrize("kept", [0, 0.5])
def test_a_torn_store_is_refused_and_computed_again(study: Study, file: str, kept: float) -> None:
    """Edited in place, a hard link to the cache damages that too."""
    whole, path = np.array(study.embed().tokens), study.root / "out" / file
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(DataError, match="out"):
        Features.open(study.root / "out")
    np.testing.assert_array_equal(study.embed().tokens, whole)
    np.save(study.root / "out" / "tokens.npy", np.array([{"code": "never run"}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="out"):
        Features.open(study.root / "out")


def test_the_key_covers_all_code_that_computes_tokens_and_statistics() -> None:
    used = used_modules("echolung.embedding.embed", within=("echolung.embedding.", "echolung.data."))
    stored = {"echolung.embedding.features", "echolung.data.containers"}  # how they are kept, not what they are
    assert set(used) - stored <= {*CODE}


def test_a_second_recording_of_a_view_answers_for_itself_with_the_first_of_the_other() -> None:
    names = ["s/four", "s/four-again", "s/two", "s/of-another", "s/unknown"]
    table = manifest_of(names, ["1", "1", "1", "2", "1"], view=["A4C", "A4C", "A2C", "A4C", None])
    recordings = recordings_of(table)
    assert recordings.views_of("s/four", ["A4C", "A2C"]) == ["s/four", "s/two"]
    assert recordings.views_of("s/four-again", ["A4C", "A2C"]) == ["s/four-again", "s/two"]
    assert recordings.views_of("s/two", ["A4C", "A2C"]) == ["s/four", "s/two"]
    for alone in ("s/of-another", "s/unknown"):
        assert recordings.views_of(alone, ["A4C", "A2C"]) == [alone]
