"""The manifest keeps its columns and types through parquet, and says which column or row is wrong."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from echolung.core.errors import DataError
from echolung.data.manifest import MANIFEST_COLUMNS, conform, read_manifest, write_manifest


def rows(**more: list[object]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "sample_id": ["s/a", "s/b"],
            "source": "s",
            "path": ["a.mp4", "b.mp4"],
            "patient_id": ["s/1", "s/2"],
            **more,
        }
    )


def test_every_column_is_there_typed_and_in_order() -> None:
    frame = conform(rows(covid=[1, None], ef=[55.5, None], label_lobe=["left", None]))
    assert list(frame) == [*MANIFEST_COLUMNS, "label_lobe"]
    assert {name: str(frame[name].dtype) for name in MANIFEST_COLUMNS} == MANIFEST_COLUMNS
    assert frame["covid"].tolist() == [1, pd.NA]
    assert frame["severity"].isna().all()
    assert frame["split_group"].tolist() == ["s/1", "s/2"]
    assert conform(rows(split_group=["g", None]))["split_group"].tolist() == ["g", "s/2"]


def test_parquet_gives_back_the_same_table(tmp_path: Path) -> None:
    frame = conform(rows(covid=[1, None], decode_error=[None, "cut short"], frames=[10, 0], label_x=["y", None]))
    write_manifest(tmp_path / "manifest.parquet", frame)
    pd.testing.assert_frame_equal(read_manifest(tmp_path / "manifest.parquet"), frame)
    empty = conform(rows().iloc[:0])
    write_manifest(tmp_path / "empty.parquet", empty)
    pd.testing.assert_frame_equal(read_manifest(tmp_path / "empty.parquet"), empty)


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 sample ids are repeated: .*a.mp4.*b.mp4") as caught:
        conform(pd.concat([rows(), rows()]))
    assert caught.value.remedy
    with pytest.raises(DataError, match=r"1 videos have no patient_id: rows 1"):
        conform(rows(patient_id=["s/1", ""]))
    with pytest.raises(DataError, match=r"no column 'veiw'"):
        conform(rows(veiw=["x", "y"]))
    with pytest.raises(DataError, match=r"no column 'patient_id' \(nearest: 'patient'\)"):
        conform(rows().rename(columns={"patient_id": "patient"}))


def test_files_that_are_no_manifest_are_named(tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    with pytest.raises(DataError, match="does not exist"):
        read_manifest(path)
    path.write_text("not parquet")
    with pytest.raises(DataError, match="not a parquet table"):
        read_manifest(path)
    conform(rows()).drop(columns="sha256").to_parquet(path)
    with pytest.raises(DataError, match=r"manifest.parquet has no column 'sha256'"):
        read_manifest(path)
