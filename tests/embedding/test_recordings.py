"""Recordings of two sources answer as one, in the order that is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from drawn import features_of, manifest_of, save_features, save_source

from echolung.core.errors import DataError
from echolung.embedding.recordings import HeldClips, Part, Recordings


@pytest.fixture
def ingest(tmp_path: Path) -> Path:
    """Two sources of three videos; every pixel and token of a video is its number."""
    for first, source in ((0, "s"), (3, "t")):
        names = [f"{source}/{number}" for number in range(first, first + 3)]
        shown = {name: np.full((first + at + 1, 8, 8), first + at, np.uint8) for at, name in enumerate(names)}
        save_source(tmp_path / source, manifest_of(names, "aab", fps=10.0 + first), shown)
        tokens = np.arange(first, first + 3)[:, None, None, None] + np.array([0, 0.5])[:, None, None] + np.zeros((4, 6))
        save_features(features_of(names, tokens), tmp_path / "embed" / source)
    return tmp_path


def test_every_question_is_answered_in_the_order_it_is_asked(ingest: Path) -> None:
    recordings = Recordings.of_sources(ingest, ["s", "t"], [ingest / "embed" / "s", ingest / "embed" / "t"])
    asked = ["t/4", "s/0", "t/3", "s/2"]
    assert recordings.manifest(asked)["sample_id"].tolist() == asked
    assert recordings.manifest(asked)["patient_id"].tolist() == ["t/pa", "s/pa", "t/pa", "s/pb"]
    assert [recordings.frames(name).max() for name in asked] == [4, 0, 3, 2]
    assert [recordings.fps(name) for name in asked] == [13.0, 10.0, 13.0, 10.0]
    tokens = recordings.tokens(asked)
    assert (tokens.shape, tokens.dtype, recordings.shape) == ((4, 2, 4, 6), np.float16, (2, 4, 6))
    assert tokens[:, 0, 0, 0].tolist() == [4, 0, 3, 2]
    one_view = recordings.tokens(asked, np.array([1, 0, 1, 1]))
    assert one_view.shape == (4, 4, 6)
    assert one_view[:, 0, 0].tolist() == [4.5, 0, 3.5, 2.5]


def test_seen_videos_are_marked_and_missing_features_are_an_error(ingest: Path) -> None:
    without = Recordings.of_sources(ingest, ["s", "t"])
    assert not without.seen(["s/0", "t/3"]).any()
    with pytest.raises(DataError, match=r"no features.*Give the arm an encoder"):
        without.tokens(["s/0"])
    names = ["x/0", "x/1"]
    features = features_of(names, np.zeros((2, 1, 1, 4)))
    seen = features.record.model_copy(update={"seen_in_pretraining": ["x/1"]})
    held = HeldClips({name: (np.zeros((3, 8, 8), np.uint8), 25.0) for name in names})
    part = Part(manifest_of(names, "ab"), held, type(features)(seen, features.videos, features.tokens))
    served = Recordings([part])  # as files of a request
    assert served.seen(names).tolist() == [False, True]
    assert served.frames("x/1").shape == (3, 8, 8)
