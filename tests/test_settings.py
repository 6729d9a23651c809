"""A params.yaml that cannot be read, in whatever way, is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from echolung.errors import SettingsError
from echolung.settings import load


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        (b"", "holds no parameters"),
        (b"- a list\n", "holds no parameters"),
        (b"study: [phantom\n", "is not YAML"),
        (b"study: \xff\xfe\n", "is not YAML"),
        (b"[" * 5000, "is not YAML"),
        (b"!!python/object/apply:os.system ['touch canary']\n", "is not YAML"),
    ],
)
def test_what_is_no_list_of_parameters_is_one_line(
    content: bytes | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "params.yaml").write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        load(tmp_path)
    assert said in caught.value.problem
    assert "\n" not in caught.value.problem
    assert caught.value.remedy
    assert not (tmp_path / "canary").exists()
