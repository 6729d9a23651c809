"""The manifest keeps its columns and types through parquet, and says which column or row is wrong."""

from pathlib import Path

import pandas as pd
import pytest

from echolung.core.errors import DataError
from echolung.data.manifest import MANIFEST_COLUMNS, conform, read_manifest, write_manifest


def rows(**more: list[object]) -> pd.DataFrame:
    ids = {"sample_id": ["s/a", "s/b"], "source": "s", "path": ["a.mp4", "b.mp4"], "patient_id": ["s/1", "s/2"]}
    return pd.DataFrame(ids | more)


def test_every_column_is_there_typed_and_in_order(tmp_path: Path) -> None:
    given = {"covid": [1, None], "decode_error": [None, "cut"], "label_lobe": ["left", None]}
    frame = conform(rows(**given, split_group=["g", None]))
    assert list(frame) == [*MANIFEST_COLUMNS, "label_lobe"]
    assert {name: str(frame[name].dtype) for name in MANIFEST_COLUMNS} == MANIFEST_COLUMNS
    assert frame["covid"].tolist() == [1, pd.NA] and frame["severity"].isna().all()
    assert frame["split_group"].tolist() == ["g", "s/2"]
    for table in (frame, frame.iloc[:0]):
        write_manifest(tmp_path / "manifest.parquet", table)
        pd.testing.assert_frame_equal(read_manifest(tmp_path / "manifest.parquet"), table)


def test_repeated_sample_ids_and_files_that_are_no_manifest_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 sample ids are repeated: .*a.mp4.*b.mp4"):
        conform(pd.concat([rows(), rows()]))
    path = tmp_path / "manifest.parquet"
    with pytest.raises(DataError, match="does not exist"):
        read_manifest(path)
    path.write_text("not parquet")
    with pytest.raises(DataError, match="not a parquet table"):
        read_manifest(path)
    conform(rows()).drop(columns="sha256").to_parquet(path)
    with pytest.raises(DataError, match=r"manifest.parquet has no column 'sha256'"):
        read_manifest(path)
