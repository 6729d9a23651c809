"""The report stands alone, says every number it was given, and hides nothing behind a hostile name."""

import html
import math
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from echolung.core.errors import DataError, GateError
from echolung.embedding.features import INDEX_COLUMNS, FeaturesRecord, write_index
from echolung.evaluation.compare import CompareSettings, compare
from echolung.evaluation.comparison import Comparison
from echolung.gates.gate import check
from echolung.kinds.task import Task
from echolung.reports import study
from echolung.reports.answer import collapsed, headline, standing
from echolung.reports.figures import training
from echolung.reports.page import ReportInputs, read_history, write_report
from echolung.reports.samples import Sample, one_per_class
from echolung.reports.style import ARM_COLOURS, styled
from echolung.reports.tables import table_markdown, table_text, task_tables

HOSTILE = "<script>alert('$x_1$')</script>|a&b"
TASKS = {
    "lung": Task(source="pocus", label="diagnosis", kind="multiclass", classes=["covid", HOSTILE, "NA"], unit="video"),
    "blues": Task(source="blues", label="covid", kind="binary", classes=["0", "1"], unit="patient"),
}
ARMS = {("random", "attentive"): (3, 0.6), ("random", "linear"): (3, 0.4), ("jepa", "attentive"): (1, 1.6)}
ARMS |= {("jepa", "linear"): (1, 1.2), ("majority", "none"): (1, 0.0)}


def predictions(task: str, classes: int, arms: dict[tuple[str, str], tuple[int, float]] = ARMS) -> pd.DataFrame:
    random, patient = np.random.default_rng(1), np.repeat(np.arange(40), 2)
    y, frames = patient % classes, []
    for (arm, probe), (seeds, strength) in arms.items():
        for seed in range(seeds):
            scores = (random.normal(0, 1, (80, classes)) + strength * np.eye(classes)[y]) * (probe != "none")
            p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
            rows = pd.DataFrame(p, columns=[f"p_{k}" for k in range(classes)])
            rows = rows.assign(task=task, arm=arm, arm_seed=seed, probe=probe, repeat=0, fold=patient // classes % 5)
            rows["sample_id"] = [f"{task}/v{i}" for i in range(80)]
            rows["patient_id"] = rows["split_group"] = [f"{task}/p{i}" for i in patient]
            frames.append(rows.assign(y_true=y, seen_in_pretraining=False, split_digest="d"))
    return pd.concat(frames, ignore_index=True)


def ranks(**means: float) -> pd.DataFrame:
    rows = [("pocus", arm, 3, mean, mean - 0.5, mean + 0.5, 80) for arm, mean in means.items()]
    return pd.DataFrame(rows, columns=["source", "arm", "seeds", "mean", "low", "high", "most"])


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    table = pd.concat([predictions("lung", 3), predictions("blues", 2)], ignore_index=True)
    return compare(table, TASKS, CompareSettings(bootstrap=100, permutations=200))


@pytest.fixture(scope="module")
def inputs(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> ReportInputs:
    validation = tmp_path_factory.mktemp("validation")
    check("compare", "all", {"arms": comparison.arms, "pairs": comparison.pairs}, validation)
    with pytest.raises(GateError):
        check("compare", "empty", {"arms": comparison.arms[:0], "pairs": comparison.pairs}, validation)
    step = np.arange(30)
    history = pd.DataFrame({"arm": "jepa", "seed": 0, "step": step, "loss": 1 / (1 + step), "ema": 0.99})
    return ReportInputs(
        study="phantom",
        comparison=comparison,
        tasks=TASKS,
        facts={"git revision": "abc1234", "scale": HOSTILE},
        sources=pd.DataFrame({"source": ["pocus"], "videos": [80], "minutes": [math.nan]}),
        ranks=ranks(jepa=3.5, random=15.2),
        history=history,
        validation=validation,
        samples=[Sample(f"covid · {HOSTILE}", np.full((3, 16, 16), 90, np.uint8))],
        commands=[("make demo", "everything")],
        phantom=True,
    )


@pytest.fixture(scope="module")
def written(inputs: ReportInputs, tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, Path]:
    directory = tmp_path_factory.mktemp("report")
    return write_report(inputs, directory), directory


@pytest.fixture(scope="module")
def page(written: tuple[pd.DataFrame, Path]) -> str:
    return (written[1] / "index.html").read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Every tag, every address a browser would follow, and the visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "srcset", "data", "action", "poster"):
                self.addresses.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.text += data


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_page_needs_nothing_beside_it(page: str) -> None:
    found = Tags(page)
    assert found.open == []
    inside = [address for address in found.addresses if address.startswith("#")]
    images = [address for address in found.addresses if address.startswith("data:image/png;base64,")]
    assert len(inside) + len(images) == len(found.addresses)
    assert {address[1:] for address in inside} <= set(found.ids)
    assert len(images) == 7
    assert "script" not in found.tags
    assert "link" not in found.tags
    for outside in ("http://", "https://", "@import", "url("):
        assert outside not in page


def test_every_arm_and_every_interval_stands_on_the_page(page: str, comparison: Comparison) -> None:
    text = Tags(page).text
    for primary in (True, False):
        for table in task_tables(comparison, primary):
            for row in table.rows:
                assert row.label in text
                for cell in row.cells:
                    assert cell in text
    for verdict in comparison.verdicts["text"]:
        assert verdict in text
    assert "40 patients, 80 videos" in text


def test_a_partly_collapsed_encoder_stands_on_the_page(page: str) -> None:
    text = Tags(page).text
    assert "jepa 3.5 against 15.2 on the videos of pocus. This encoder has partly collapsed" in text
    assert "15.2 (14.7 to 15.7)" in text


def test_hostile_names_are_text(page: str, written: tuple[pd.DataFrame, Path]) -> None:
    assert "<script" not in page
    assert html.escape("<script>alert(", quote=False) in page
    names = [path.name for path in (written[1] / "plots" / "roc").iterdir()]
    assert len(names) == 4
    assert all("<" not in name and "/" not in name for name in names)


def test_the_page_says_what_the_gates_found(page: str) -> None:
    text = Tags(page).text
    assert "failed" in text
    assert "critical: arms: not true that" in text
    assert "compare of empty" in text


def test_a_drawn_study_says_so_and_research_use_only(page: str) -> None:
    text = Tags(page).text
    assert "Every video here is a drawing, not a recording" in text
    assert "Research use only" in text
    assert "make demo" in text
    assert "abc1234" in text


def test_every_file_is_listed_with_its_size(written: tuple[pd.DataFrame, Path]) -> None:
    table, directory = written
    files = {str(path) for path in directory.rglob("*") if path.is_file()}
    assert set(table["path"]) == files
    assert table["name"].is_unique
    for path, size in zip(table["path"], table["bytes"], strict=True):
        assert Path(path).stat().st_size == size > 0


def test_what_a_run_does_not_have_is_left_out_and_nothing_stale_stays(
    inputs: ReportInputs, written: tuple[pd.DataFrame, Path]
) -> None:
    directory = written[1]
    table = pd.concat([predictions(name, len(task.classes)) for name, task in TASKS.items()])
    bare = compare(table[table["arm"] != "jepa"], TASKS, CompareSettings(bootstrap=100, permutations=100))
    stale = directory / "again" / "figures" / "frames.png"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"of a run that showed frames")
    write_report(ReportInputs(study="lung", comparison=bare, tasks=TASKS), directory / "again")
    full = {path.name for path in (directory / "figures").iterdir()}
    kept = {path.name for path in (directory / "again" / "figures").iterdir()}
    assert full - kept == {"training.png", "frames.png", "differences.png"}
    page = (directory / "again" / "index.html").read_text()
    assert "Pretraining</h2>" not in page
    assert "What the videos look like" not in page
    assert "drawing" not in page


# --- the words -------------------------------------------------------------------------------------------------------


def test_the_headline_claims_no_more_than_the_verdicts(comparison: Comparison) -> None:
    said = " ".join(headline(comparison))
    for row in comparison.verdicts[comparison.verdicts["reference"] == "random"].itertuples():
        words = {"better": "predicted better", "worse": "predicted worse", "undecided": "no difference was shown"}
        assert words[str(row.outcome)] in said
        assert str(row.task) in said
    assert "helps" not in said
    unbeaten = comparison.verdicts.assign(outcome="undecided")
    doubtful = Comparison(**{**vars(comparison), "verdicts": unbeaten})
    assert "was not shown to beat the class frequencies" in " ".join(headline(doubtful))


def test_an_encoder_stands_against_the_controls_as_its_verdicts_say_and_no_surer(comparison: Comparison) -> None:
    found = {"a": ("worse", 0.034, 0), "b": ("worse", 0.0001, 0), "c": ("undecided", 0.4, 0), "d": ("better", 0.02, 9)}
    keys = {"arm": "jepa", "reference": "hand-made", "probe": "attentive"}
    rows = [{"task": t, **keys, "outcome": o, "p_value": p, "n_seen": n} for t, (o, p, n) in found.items()]
    rows += [{**row, "reference": "random", "outcome": "better"} for row in rows]
    table = pd.DataFrame(rows).assign(metric="log_loss")
    arms = pd.DataFrame({"arm": ["jepa", "hand-made", "random"], "role": ["pretrained", "control", "reference"]})
    pairs, verdicts = table.drop(columns="outcome"), table[["task", *keys, "outcome"]]
    said = standing(Comparison(**{**vars(comparison), "arms": arms, "pairs": pairs, "verdicts": verdicts}))
    assert said[0] == (
        "jepa against the hand-made control (log-loss, p uncorrected): better on d † (p = 0.020);"
        " worse on a (p = 0.034) and b (p < 0.001); undecided on c."
    )
    assert "not evidence that there is none" in said[1]
    assert len(said) == 2
    assert standing(comparison) == []  # has no controls


def test_collapse_is_said_below_half_of_the_untrained_rank_and_not_at_half(comparison: Comparison) -> None:
    assert collapsed(ranks(jepa=5.0, random=10.0), comparison) == []
    assert "jepa 4.9 against 10.0" in collapsed(ranks(jepa=4.9, random=10.0), comparison)[0]
    assert collapsed(ranks(random=10.0, majority=1.0), comparison) == []
    elsewhere = ranks(jepa=1.0, random=10.0).assign(source=["blues", "pocus"])
    assert collapsed(elsewhere, comparison) == []


def test_the_terminal_table_has_every_estimate_and_lines_up(comparison: Comparison) -> None:
    text = table_text(comparison)
    for table in task_tables(comparison):
        lines = [line for line in text.splitlines() if line.startswith(tuple(f"  {row.label} " for row in table.rows))]
        assert len(lines) >= len(table.rows)
        for row in table.rows:
            assert any(all(cell in line for cell in row.cells) for line in lines)
    assert max(len(line) for line in text.splitlines()) <= 140
    assert "\x1b" not in text


def test_a_p_value_says_whether_it_was_corrected(comparison: Comparison, page: str) -> None:
    explores = comparison.pairs["p_holm"].isna()
    assert explores.any()
    assert not explores.all()
    texts = (table_markdown(comparison), table_text(comparison), Tags(page).text)
    cells = [row.cells[-1] for table in task_tables(comparison) for row in table.rows if row.difference]
    tested = comparison.pairs[(comparison.pairs["metric"] == "log_loss") & comparison.pairs["primary"]]
    assert len(cells) == len(tested)
    assert sum(cell.endswith(" (Holm)") for cell in cells) == tested["p_holm"].notna().sum()
    assert sum(cell.endswith(" (uncorrected)") for cell in cells) == tested["p_holm"].isna().sum()
    for text in texts:
        assert all(cell in text for cell in cells)
        assert "every other p is marked as uncorrected" in " ".join(text.split())


def test_the_way_to_make_a_page_again_admits_code_that_no_revision_holds() -> None:
    clean, *rest = study.commands("lung", {"git_revision": "0123456789"})
    assert "at the revision named above" in clean[1]
    for origin in ({"git_revision": "0123456789+changed"}, {}):
        changed, *others = study.commands("lung", origin)
        assert "not that which made this page" in changed[1]
        assert others == rest


def test_markdown_tables_have_equal_rows(comparison: Comparison) -> None:
    blocks = [block.splitlines() for block in table_markdown(comparison).split("\n\n") if block.startswith("|")]
    assert len(blocks) == 2
    for lines in blocks:
        assert {line.count("|") for line in lines} == {7}
        assert lines[1] == "|---|---|---|---|---|---|"


# --- data for dvc plots ----------------------------------------------------------------------------------------------


def test_plots_hold_the_comparison(written: tuple[pd.DataFrame, Path], comparison: Comparison) -> None:
    plots = written[1] / "plots"
    called = pd.read_csv(plots / "confusion" / "blues-random.csv", dtype=str)
    counts = comparison.confusion
    counts = counts[(counts["task"] == "blues") & (counts["arm"] == "random") & (counts["probe"] == "attentive")]
    found = called.groupby(["actual", "predicted"]).size()
    for row in counts.itertuples():
        assert found.get((row.actual, row.predicted), 0) == row.count
    folds = pd.read_csv(plots / "folds" / "lung-log_loss.csv")
    assert list(folds.columns) == ["step", "jepa", "random", "majority"]
    table = comparison.folds
    table = table[(table["task"] == "lung") & (table["arm"] == "jepa") & (table["probe"] == "attentive")]
    assert folds["jepa"].tolist() == pytest.approx(table[table["metric"] == "log_loss"]["value"].tolist(), rel=1e-5)
    curve = pd.read_csv(plots / "roc" / "blues-1.csv")
    assert curve["false_positive_rate"].is_monotonic_increasing
    assert curve["jepa"].iloc[-1] == 1.0
    assert len(pd.read_csv(plots / "training" / "jepa-seed0.csv")) == 30


# --- what it reads ---------------------------------------------------------------------------------------------------


def test_histories_are_read_with_their_arm_and_seed(tmp_path: Path) -> None:
    assert read_history([tmp_path / "jepa" / "seed0"]).empty
    for seed in (0, 1):
        folder = tmp_path / "jepa" / f"seed{seed}"
        folder.mkdir(parents=True)
        (folder / "history.csv").write_text("step,loss\n0,1.0\n1,0.5\n")
    table = read_history(sorted(tmp_path.glob("*/seed*")))
    assert table[["arm", "seed", "step"]].to_numpy().tolist() == [["jepa", s, t] for s in (0, 1) for t in (0, 1)]


def test_effective_ranks_are_read_from_the_feature_stores(tmp_path: Path) -> None:
    folders = []
    for arm, values in {"jepa": [3.0, 5.0], "random": [12.0]}.items():
        for seed, rank in enumerate(values):
            folder = tmp_path / "pocus" / arm / f"seed{seed}"
            folder.mkdir(parents=True)
            tokens = np.zeros((4, 1, 2, 6), np.float16)
            record = FeaturesRecord(
                key="k", arm=arm, seed=seed, encoder_sha256="e", shape=tokens.shape, effective_rank=rank,
                seen_in_pretraining=[],
            )  # fmt: skip
            np.save(folder / "tokens.npy", tokens)
            write_index(folder, record, pd.DataFrame([["v", "s", True, 1.0, False]] * 4, columns=INDEX_COLUMNS))
            folders.append(folder)
    found = study.effective_ranks(folders).to_dict("records")
    assert found == [
        {"source": "pocus", "arm": "jepa", "seeds": 2, "mean": 4.0, "low": 3.0, "high": 5.0, "most": 4},
        {"source": "pocus", "arm": "random", "seeds": 1, "mean": 12.0, "low": 12.0, "high": 12.0, "most": 4},
    ]
    with pytest.raises(DataError, match=r"features\.json does not exist"):
        study.effective_ranks([tmp_path / "pocus" / "jepa" / "seed9"])


@pytest.mark.parametrize("ema", [0.998, None])
def test_training_curves_tell_arms_by_colour_and_seeds_by_style(ema: float | None) -> None:
    step = np.arange(5)
    history = pd.concat(
        pd.DataFrame({"arm": arm, "seed": seed, "step": step, "loss": 1 / (step + seed + 1), "ema": ema or step / 5})
        for arm in ("jepa-a", "jepa-b")
        for seed in (0, 1, 2)
    )
    with styled():
        figure = training(history, {"jepa-a": ARM_COLOURS[0], "jepa-b": ARM_COLOURS[1], "random": "#7a8590"})
        figure.draw_without_rendering()  # lays out
    panels = [panel for panel in figure.axes if panel.axison]
    assert [panel.get_title(loc="left") for panel in panels] == ["loss", "teacher's momentum (EMA)"][: 1 if ema else 2]
    lines = [(line.get_color(), line.get_linestyle()) for line in panels[0].lines]
    assert len(set(lines)) == len(lines) == 6
    assert {colour for colour, _ in lines} == set(ARM_COLOURS[:2])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["jepa-a", "jepa-b", "seed 0", "seed 1", "seed 2"]
    assert ("0.998" in legend.get_title().get_text()) == (ema is not None)
    for panel in panels:
        assert not legend.get_window_extent().overlaps(panel.get_tightbbox())


class FakeStore(dict[str, np.ndarray]):
    def frames(self, sample_id: str) -> np.ndarray:
        return self[sample_id]


def test_samples_are_one_video_per_class_first_and_last_frame_included() -> None:
    store = FakeStore({f"s/{name}": np.arange(20, dtype=np.uint8).reshape(20, 1, 1) for name in "abc"})
    labels = pd.DataFrame({"sample_id": ["s/gone", "s/c", "s/b", "s/a"], "label": ["x", "y", "x", "y"]})
    samples = one_per_class(labels, store, frames=3)  # type: ignore[arg-type]
    assert [sample.caption for sample in samples] == ["x · s/b", "y · s/a"]
    assert samples[0].frames.ravel().tolist() == [0, 10, 19]
