"""A params.yaml that cannot be read, in whatever way, is one line; a good one knows the stages of its study."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from echolung.core.errors import SettingsError
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


def test_the_stages_of_a_study_are_those_of_dvc_yaml_under_their_runs_names() -> None:
    root = Path(__file__).parents[1]
    parameters = yaml.safe_load((root / "params.yaml").read_text())
    expected = []
    for stage, how in yaml.safe_load((root / "dvc.yaml").read_text())["stages"].items():
        if "foreach" in how:
            items = parameters
            for key in re.fullmatch(r"\$\{(.*)\}", how["foreach"])[1].split("."):
                items = items[key]
            expected += [f"{stage}@{item}" for item in items]
        else:  # its script may still give its run an item
            item = re.search(rf'stage\("{stage}"(?:, "(.*)")?\)', (root / "pipelines" / f"{stage}.py").read_text())[1]
            expected.append(f"{stage}@{item}" if item else stage)
    assert load(root).stages() == expected
