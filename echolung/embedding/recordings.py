"""Recordings as a method sees them: what is known of each, its frames, and the tokens of one encoder.

The same class holds the sources of a study, read from disk, and files that a served model is asked about, held in
memory: a method sees no difference, and predicts in one way.

Dimension letters: n recordings, V views, T frames, S pixels, N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from echolung.core.errors import DataError, listed
from echolung.data.clips import ClipStore
from echolung.data.manifest import read_manifest
from echolung.data.masks import INDEX, Masks, read_masks
from echolung.embedding.features import Features

APICAL = ("A4C", "A2C")  # views that show the left ventricle along the same axis, at right angles


@dataclass(frozen=True)
class HeldClips:
    """As a `ClipStore`, in memory: frames uint8 (T, S, S) and frames per second by sample id."""

    held: dict[str, tuple[np.ndarray, float]]

    def frames(self, sample_id: str) -> np.ndarray:
        return self.held[sample_id][0]

    def fps(self, sample_id: str) -> float:
        return self.held[sample_id][1]


@dataclass(frozen=True)
class Part:
    """One source, or the files of one request."""

    manifest: pd.DataFrame  # sample_id, path, height, width, fps, frames, codec and whatever else is known
    clips: ClipStore | HeldClips
    features: Features | None = None
    masks: Mapping[str, Masks] = field(default_factory=dict)


def refuse_not_finite(sample_ids: Sequence[str], finite: np.ndarray) -> None:
    """Raises DataError naming the recordings whose features are not `finite`, bool (n,)."""
    if bad := [str(name) for name, good in zip(sample_ids, finite, strict=True) if not good]:
        raise DataError(
            f"the features of {len(bad)} videos are not finite: {listed(bad)}",
            "Look at these videos and at the encoder, then run `dvc repro embed`.",
        )


class Recordings:
    """One or more parts, addressed by sample id."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = list(parts)
        self._part = {str(name): at for at, part in enumerate(self.parts) for name in part.manifest["sample_id"]}

    @classmethod
    def of_sources(cls, ingest: Path, sources: Sequence[str], features: Sequence[Path] = ()) -> Recordings:
        """The sources below data/<study>/ingest; `features`: one feature store for each, of one encoder."""
        opened = [Features.open(path) for path in features] if features else [None] * len(sources)
        manifests = (read_manifest(ingest / name / "manifest.parquet") for name in sources)
        stores = (ClipStore.open(ingest / name / "clips") for name in sources)
        places = [ingest / name / "masks" for name in sources]
        masks = [read_masks(place) if (place / INDEX).is_file() else {} for place in places]
        return cls([Part(*part) for part in zip(manifests, stores, opened, masks, strict=True)])

    def manifest(self, sample_ids: Sequence[str]) -> pd.DataFrame:
        """What is known of these recordings, in their order."""
        table = pd.concat([part.manifest for part in self.parts])
        return table.set_index("sample_id", drop=False).loc[list(sample_ids)]

    def views_of(self, sample_id: str, views: Sequence[str] = APICAL) -> list[str]:
        """The recording alone; for an apical view, where the patient has all, with the first of every other view."""
        table = self.parts[self._part[sample_id]].manifest
        row = table[table["sample_id"] == sample_id].iloc[0]
        if str(row.get("view")) not in APICAL:
            return [sample_id]
        mine = table[table["patient_id"] == row["patient_id"]].drop_duplicates("view").set_index("view")["sample_id"]
        mine[row["view"]] = sample_id
        return [str(mine[view]) for view in views] if set(views) <= set(mine.index) else [sample_id]

    def frames(self, sample_id: str) -> np.ndarray:
        """uint8 (T, S, S)."""
        return self.parts[self._part[sample_id]].clips.frames(sample_id)

    def fps(self, sample_id: str) -> float:
        return self.parts[self._part[sample_id]].clips.fps(sample_id)

    def masks(self, sample_id: str) -> Masks | None:
        """The traced frames of the recording; None where there are none."""
        return self.parts[self._part[sample_id]].masks.get(sample_id)

    @property
    def features(self) -> list[Features]:
        """The feature store of every part; raises DataError if there is none."""
        found = [part.features for part in self.parts]
        if not all(found):
            raise DataError("these recordings have no features", "Give the arm an encoder, and run `dvc repro embed`.")
        return [one for one in found if one is not None]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(V, N, D) of each recording's tokens."""
        return self.features[0].record.shape[1:]

    def tokens(self, sample_ids: Sequence[str], views: np.ndarray | None = None) -> np.ndarray:
        """float16 (n, V, N, D), or (n, N, D) of the one view that `views` (n,) names for each."""
        shape = self.shape if views is None else self.shape[1:]
        found = np.empty((len(sample_ids), *shape), np.float16)
        for mine, features, names in self._by_part(sample_ids):
            places = features.positions(names)
            found[mine] = features.tokens[places] if views is None else features.tokens[places, views[mine]]
        return found

    def frame_tokens(self, sample_id: str) -> np.ndarray:
        """float16 (T, h * w, D) of each frame that was embedded as a clip that stands still: of the traced ones. Of a
        recording that has neither: of each time step of its views."""
        features = self.features[self._part[sample_id]]
        if self.masks(sample_id) is None and sample_id not in features.record.traced:
            time = features.record.grid[0]
            tokens = features.tokens[features.positions([sample_id])[0]]
            return np.array(tokens.reshape(len(tokens) * time, -1, tokens.shape[-1]))
        return features.of_frames(sample_id)

    def summaries(self, sample_ids: Sequence[str]) -> np.ndarray:
        """`echolung.embedding.summary` of each recording's tokens: float32 (n, regions, statistics, D)."""
        found = np.empty((len(sample_ids), *self.features[0].summaries.shape[1:]), np.float32)
        for mine, features, names in self._by_part(sample_ids):
            found[mine] = features.summarised(names)
        return found

    def _by_part(self, sample_ids: Sequence[str]) -> Iterator[tuple[np.ndarray, Features, list[str]]]:
        """For each part, the places of those that it holds, its features, and their names."""
        number = np.array([self._part[name] for name in sample_ids], dtype=np.int64)
        for at in np.unique(number):
            mine = np.flatnonzero(number == at)
            yield mine, self.features[at], [sample_ids[int(i)] for i in mine]

    def seen(self, sample_ids: Sequence[str]) -> np.ndarray:
        """Which of these the encoder was pretrained on: bool (n,); none where there is no encoder."""
        names = {name for part in self.parts if part.features for name in part.features.record.seen_in_pretraining}
        return np.isin(list(sample_ids), list(names))
