"""A study's small results as files to commit: words, tables, predictions and figures; no video, and no frame of one.

README.md              what was found, on what, when, on which machine, by which code, and how long each stage took
summary.md             the answer in one table; `publish` also puts it between two marks of the project's README
table.md, metrics.json every arm's metrics with intervals
comparison/*.csv       the tables behind them
predictions/*.csv.gz   every video's out-of-fold probabilities under every arm, seed and repeat, at the primary probe
figures/*.png          as in the report, and with its captions
params.yaml            the parameters; README.md names the revision that makes all of this again with them, if one does
"""

from __future__ import annotations

import gzip
import io
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from echolung.core.errors import DataError
from echolung.core.runtime import atomic_directory, atomic_path
from echolung.evaluation.comparison import Comparison, write_comparison
from echolung.evaluation.verdicts import plain, signed
from echolung.reports.answer import collapsed, headline, standing
from echolung.reports.page import FIGURES
from echolung.reports.study import described
from echolung.reports.tables import RANKS, SEEN, chance, rank_table, table_markdown

REMEDY = "Run `dvc repro` first."
NEVER = {"frames"}
"""Figures that show videos: whoever may see a data set may not always pass it on."""


@dataclass(frozen=True)
class Published:
    """What stands in the page of words."""

    study: str
    name: str
    """Of the folder, and of the marks in the project's README."""
    command: str
    """What made the study."""
    facts: Mapping[str, str]
    """Encoder, machine, software, ... as in the report; the code that published, perhaps not what ran the stages."""
    sources: pd.DataFrame
    arms: pd.DataFrame
    """One row per encoder."""
    ranks: pd.DataFrame
    """Effective ranks of the features (`study.effective_ranks`)."""
    stages: pd.DataFrame
    """stage, started (UTC), minutes, runs, revision of the code, as `stage_times` finds them."""
    untimed: Sequence[str] = ()
    """Stages of the study that the tracking store knows no finished run of."""


def publish(
    published: Published,
    comparison: Comparison,
    predictions: Mapping[str, pd.DataFrame],
    report: Path,
    target: Path,
    readme: Path | None = None,
) -> list[Path]:
    """Write the folder `target` from the comparison, the predictions of every task and the folder `report`.

    `readme` is a file with a pair of marks to put the summary between. Returns the files written; raises DataError if
    the report lacks a file, or the readme the marks.
    """
    wanted = [report / name for name in ("metrics.json", "params.yaml", "table.md")]
    figures = [report / "figures" / f"{name}.png" for name in FIGURES if name not in NEVER]
    figures = [path for path in figures if path.is_file()]
    missing = [path for path in wanted if not path.is_file()]
    if missing or not figures:
        raise DataError(f"{missing[0] if missing else report / 'figures'} does not exist", REMEDY)
    summary = summary_markdown(published, comparison)
    if readme is not None:
        _marked(readme, published.name)  # an error before anything is written
    with atomic_directory(target) as folder:
        for path in wanted:
            shutil.copyfile(path, folder / path.name)
        (folder / "figures").mkdir()
        for path in figures:
            shutil.copyfile(path, folder / "figures" / path.name)
        write_comparison(comparison, folder / "comparison")
        (folder / "comparison" / "metrics.json").unlink()  # stands one floor up
        (folder / "predictions").mkdir()
        for task, table in predictions.items():
            _write_predictions(folder / "predictions" / f"{task}.csv.gz", table, _judged(comparison, task))
        (folder / "summary.md").write_text(summary)
        (folder / "README.md").write_text(_page(published, comparison, summary, [path.stem for path in figures]))
    if readme is not None:
        before, after = _marked(readme, published.name)
        with atomic_path(readme) as temporary:
            temporary.write_text(f"{before}\n{summary}{after}", encoding="utf-8")
    return sorted(path for path in target.rglob("*") if path.is_file())


def _marked(readme: Path, name: str) -> tuple[str, str]:
    """What stands before and after the place of the summary, marks included."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise DataError(f"{readme} has no place for the results of {name}", f"Add the lines {begin} and {end}.")
    return text[: text.index(begin) + len(begin)], text[text.index(end) :]


def _judged(comparison: Comparison, task: str) -> set[tuple[str, str]]:
    primary = comparison.arms[comparison.arms["primary"] & (comparison.arms["task"] == task)]
    return set(primary[["arm", "probe"]].itertuples(index=False, name=None))


def _write_predictions(path: Path, table: pd.DataFrame, judged: set[tuple[str, str]]) -> None:
    """Probabilities to four digits, without a time in the file: the same predictions, the same bytes."""
    kept = [key in judged for key in table[["arm", "probe"]].itertuples(index=False, name=None)]
    rows = table[kept].drop(columns=["task"]).sort_values(["arm", "arm_seed", "repeat", "sample_id"])
    text = io.StringIO()
    rows.to_csv(text, index=False, float_format="%.4f", lineterminator="\n")
    with open(path, "wb") as stream, gzip.GzipFile("", "wb", fileobj=stream, mtime=0) as packed:
        packed.write(text.getvalue().encode())


def summary_markdown(published: Published, comparison: Comparison) -> str:
    """One line per task and pretrained arm: both sides' metrics, the paired difference, and its p-value."""
    lines = [
        "| task | patients (groups), videos | arm | balanced accuracy: pretrained | balanced accuracy: untrained"
        " | AUROC: pretrained | AUROC: untrained | log-loss: pretrained − untrained | p |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    estimates = comparison.arms[comparison.arms["primary"]].to_dict("records")
    of = {(row["task"], row["arm"], row["metric"]): row for row in estimates}
    for task in comparison.arms["task"].unique():
        pairs = comparison.pairs[(comparison.pairs["task"] == task) & comparison.pairs["primary"]]
        tested = pairs[pairs["metric"] == "log_loss"]
        roles = comparison.arms[comparison.arms["task"] == task].drop_duplicates("arm").set_index("arm")["role"]
        tested = tested[tested["arm"].map(roles).eq("pretrained") & tested["reference"].map(roles).eq("reference")]
        for row in tested.to_dict("records"):
            sizes = f"{row['n_patients']} ({row['n_groups']}), {row['n_videos']}"
            cells = [f"`{task}`", sizes, row["arm"] + SEEN * (row["n_seen"] > 0)]
            for metric in ("balanced_accuracy", "auroc"):
                cells += [_cell(of[task, arm, metric]) for arm in (row["arm"], row["reference"])]
            cells.append(f"{signed(row['difference'], 2)} [{signed(row['low'], 2)}, {signed(row['high'], 2)}]")
            cells.append(chance(row))
            lines.append("| " + " | ".join(cells) + " |")
    when = _dates(published.stages)
    reference = ", ".join(sorted(set(comparison.arms.loc[comparison.arms["role"] == "reference", "arm"])))
    return "\n".join(
        [
            *lines,
            "",
            "*groups*: patients who share a recording or near-duplicate videos are one group; only groups count as"
            f" independent. *pretrained*: the arm of the row. *untrained*: the mean of the {reference} draws. Brackets:"
            " 95% intervals of these fitted models on new patients (bootstrap over groups). A log-loss difference below"
            " zero is in the pretrained arm's favour. *p*: of that difference (sign-flip permutation over groups);"
            " corrected for the number of tests where marked so (Holm), uncorrected where marked so: that explores.",
            *(
                [f"{SEEN.strip()}: pretrained, without labels, on videos it is scored on."]
                if SEEN in str(lines)
                else []
            ),
            "",
            *(f"- {sentence}" for sentence in (*standing(comparison), *collapsed(published.ranks, comparison))),
            "",
            f"Made by `{published.command}` and `echolung publish {published.name}`, {when},"
            f" {_revision(published.stages)}, {published.facts['Machine']}; {_total(published)}.",
            "",
        ]
    )


def _cell(row: Mapping[Any, Any]) -> str:
    if pd.isna(row["estimate"]):
        return "undefined"
    return f"{plain(row['estimate'], 2)} [{plain(row['low'], 2)}, {plain(row['high'], 2)}]"


def _dates(stages: pd.DataFrame) -> str:
    if stages.empty:
        return "at a time that the tracking store no longer knows"
    days = sorted({str(start)[:10] for start in stages["started"]})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def _total(published: Published) -> str:
    """The minutes that are known, and of which runs they are."""
    minutes, stopped = published.stages["minutes"].sum(), (published.stages["runs"] > 1).sum()
    text = f"its stages took {minutes:.0f} minutes together, each in its last finished run"
    if stopped:
        text += f" ({stopped} also in the unfinished ones before it)"
    if published.untimed:
        text += f"; of {', '.join(published.untimed)} no time is known"
    return text


def _revisions(stages: pd.DataFrame) -> list[str]:
    """Every revision that a stage ran at, in their order."""
    return list(dict.fromkeys(one for cell in stages["revision"] for one in cell.split(", ")))


def _revision(stages: pd.DataFrame) -> str:
    """Which code ran, in a few words."""
    found = _revisions(stages)
    if not found:
        return "at a revision that the tracking store no longer knows"
    named = ("revision " if len(found) == 1 else "revisions ") + ", ".join(f"`{one}`" for one in found)
    if all(described(one) for one in found):
        return f"at {named}"
    return f"at {named} (which does not describe all of the code that ran)"


def _again(stages: pd.DataFrame) -> str:
    """Whether a revision and the parameters make all of this again."""
    found = _revisions(stages)
    odd = [row["stage"] for row in stages.to_dict("records") if not all(map(described, row["revision"].split(", ")))]
    if odd:
        return (
            "**The revision does not describe the code.** When these stages ran, the code had changes that were not"
            f" committed, or its revision was not known: {', '.join(odd)}. Checking out what stands in the table does"
            " not make their results again."
        )
    if len(found) == 1:
        return (
            f"Every stage ran at revision `{found[0]}`: with params.yaml and the same videos it makes all this again."
        )
    return (
        "The stages did not all run at one revision: each result is made again, with params.yaml and the same videos,"
        " by the revision in its row."
    )


def _page(published: Published, comparison: Comparison, summary: str, figures: list[str]) -> str:
    """README.md of the folder."""
    blocks = [
        f"# {published.name}",
        "",
        "Results of one run, as the code wrote them; no word or number here was edited by hand.",
        "",
        *(f"- {sentence}" for sentence in headline(comparison)),
        "",
        summary,
        "## What was run on what",
        "",
        *(f"- {name}: {value}" for name, value in published.facts.items()),
        "",
        _table(published.sources),
        _table(published.arms),
        *([RANKS, "", _table(rank_table(published.ranks))] if len(published.ranks) else []),
        "## What it supports",
        "",
        *(f"- {row['task']}: {row['text']}" for row in comparison.verdicts.to_dict("records")),
        "",
        "## Every arm",
        "",
        table_markdown(comparison),
        "## Figures",
        "",
        *(
            f"![{FIGURES[name].title}](figures/{name}.png)\n\n**{FIGURES[name].title}.** {FIGURES[name].caption}\n"
            for name in figures
        ),
        "## When, how long, and by which code",
        "",
        *([_again(published.stages), ""] if len(published.stages) else []),
        "A stage's minutes are those of its last finished run and of the unfinished ones before it; what it found"
        " done by earlier finished runs (decoded frames, finished trials) is not in them.",
        "",
        _table(published.stages.assign(minutes=published.stages["minutes"].map("{:.1f}".format))),
    ]
    return "\n".join(blocks)


def _table(table: pd.DataFrame) -> str:
    head = "| " + " | ".join(map(str, table.columns)) + " |\n|" + "---|" * len(table.columns)
    rows = ["| " + " | ".join(str(cell) for cell in row) + " |" for row in table.itertuples(index=False, name=None)]
    return "\n".join([head, *rows, ""])
