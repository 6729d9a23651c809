"""The report: one HTML file that needs nothing beside it, the figures as files, and their data for `dvc plots`."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from echolung.core.runtime import atomic_directory, atomic_path
from echolung.evaluation.comparison import Comparison, arms_in_order
from echolung.evaluation.verdicts import SEEDS_FOR_PRETRAINING, p_text, plain, signed
from echolung.gates.gate import read_findings
from echolung.kinds.task import Task
from echolung.reports import figures
from echolung.reports.answer import collapsed, headline, standing
from echolung.reports.plots import write_plots
from echolung.reports.samples import Sample, sample_frames
from echolung.reports.style import arm_colours, styled
from echolung.reports.tables import MORE_COLUMNS, RANKS, READING, headings, rank_table, task_tables


@dataclass(frozen=True)
class ReportInputs:
    """Everything a report is made of; tables are shown as they come, in their order."""

    study: str
    comparison: Comparison
    tasks: Mapping[str, Task]
    facts: Mapping[str, str] = field(default_factory=dict)
    """What was run: scale, encoder, git revision, machine, ..."""
    when: str = ""
    sources: pd.DataFrame = field(default_factory=pd.DataFrame)
    arms: pd.DataFrame = field(default_factory=pd.DataFrame)
    ranks: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Effective ranks of the features (`study.effective_ranks`)."""
    history: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Pretraining: arm, seed, step and its metrics (`read_history`)."""
    validation: Path | None = None
    """Folder of the gates' findings."""
    samples: Sequence[Sample] = ()
    commands: Sequence[tuple[str, str]] = ()
    """(command, why) in order."""
    phantom: bool = False
    """Every video is drawn, none recorded."""


@dataclass(frozen=True)
class Captioned:
    """How a figure is drawn and how to read it."""

    draw: Callable[[ReportInputs], Figure | None]
    title: str
    caption: str


FIGURES = {
    "differences": Captioned(
        lambda inputs: figures.differences(inputs.comparison),
        "Difference from the random encoders",
        "A mark is an arm's metric minus the mean of the random draws, on the same patients; its line the 95% interval."
        " In the shaded half the arm is the better one. A line that crosses zero leaves the sign open.",
    ),
    "estimates": Captioned(
        lambda inputs: figures.estimates(inputs.comparison),
        "Every arm's metrics",
        "Overlapping intervals of two arms do not mean that they are equal: the same patients stand behind both, and"
        " the paired differences above use that.",
    ),
    "folds": Captioned(
        lambda inputs: figures.folds(inputs.comparison),
        "The same held-out fold under each arm",
        "Metrics are computed within the fold, so their mean may differ a little from the table, where decisions of all"
        " folds are taken together.",
    ),
    "confusion": Captioned(
        lambda inputs: figures.confusions(inputs.comparison),
        "Confusion matrices",
        "Rows are the truth and add up to 100%; the small figures count videos or patients. One is decided by its mean"
        " probability over repeats, and counts are means over an arm's seeds, so that they may be fractions. The"
        " diagonal is each class's sensitivity.",
    ),
    "roc": Captioned(
        lambda inputs: figures.roc_curves(inputs.comparison, {name: task.label for name, task in inputs.tasks.items()}),
        "ROC curves",
        "One class against all others: the positive one stands above the panel. Mean of the curves within folds,"
        " because every fold has its own fitted model and their scores must not be mixed. The area is that of the mean"
        " curve, drawn at evenly spaced rates, which slants its steps: it may differ by up to 0.003 from the mean of"
        " the folds' own areas, the AUROC of the table (there also the mean over classes, where there are more than"
        " two).",
    ),
    "training": Captioned(
        lambda inputs: (
            figures.training(inputs.history, arm_colours(inputs.comparison.arms)) if len(inputs.history) else None
        ),
        "Self-supervised training",
        "A falling loss alone proves little: an encoder that maps every clip to one point has a low loss too. Its"
        " effective rank (the number of directions its features use) would then fall towards 1.",
    ),
    "frames": Captioned(
        lambda inputs: sample_frames(inputs.samples) if inputs.samples else None,
        "Sample frames",
        "One video per row, time from left to right, as the encoder's store holds them.",
    ),
}


def write_report(inputs: ReportInputs, out_directory: Path) -> pd.DataFrame:
    """Write index.html, figures/*.png and plots/ under `out_directory`; returns name, path and bytes of each file."""
    files: dict[str, Path] = {}
    with atomic_directory(out_directory / "figures") as target, styled():
        for name, captioned in FIGURES.items():
            drawn = captioned.draw(inputs)
            if drawn is not None:
                drawn.savefig(target / f"{name}.png", facecolor=drawn.get_facecolor())
                files[f"figure {name}"] = out_directory / "figures" / f"{name}.png"
    with atomic_directory(out_directory / "plots") as target:
        for path in write_plots(inputs.comparison, inputs.history, target):
            relative = path.relative_to(target)
            files[f"plot {relative.with_suffix('')}"] = out_directory / "plots" / relative
    page = out_directory / "index.html"
    with atomic_path(page) as temporary:
        temporary.write_text(_page(inputs, out_directory / "figures"), encoding="utf-8")
    files = {"page": page, **files}
    return pd.DataFrame({"name": n, "path": str(path), "bytes": path.stat().st_size} for n, path in files.items())


def read_history(encoders: Iterable[Path]) -> pd.DataFrame:
    """history.csv of all encoder folders (<arm>/seed<k>) that have one, with columns arm and seed."""
    tables = []
    for folder in encoders:
        table = pd.read_csv(folder / "history.csv") if (folder / "history.csv").is_file() else pd.DataFrame()
        if len(table):
            tables.append(table.assign(arm=folder.parent.name, seed=int(folder.name.removeprefix("seed"))))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _page(inputs: ReportInputs, figures_directory: Path) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    gates = _gates(inputs.validation)
    return environment.get_template("template.html").render(
        study=inputs.study,
        when=inputs.when,
        headline=headline(inputs.comparison),
        collapsed=collapsed(inputs.ranks, inputs.comparison),
        standing=standing(inputs.comparison),
        phantom=inputs.phantom,
        reading=READING,
        columns=headings(),
        tables=task_tables(inputs.comparison),
        other_tables=task_tables(inputs.comparison, primary=False),
        more_columns=headings(MORE_COLUMNS),
        more_tables=task_tables(inputs.comparison, columns=MORE_COLUMNS),
        secondary=_secondary(inputs.comparison),
        class_rows=_class_rows(inputs.comparison),
        figures=_images(figures_directory),
        facts=inputs.facts,
        sources=_shown(inputs.sources),
        arms=_shown(inputs.arms),
        ranks=_shown(rank_table(inputs.ranks)),
        ranks_caption=RANKS,
        task_rows=[
            [name, task.source, task.label, ", ".join(task.classes), task.unit] for name, task in inputs.tasks.items()
        ],
        gates=gates,
        gate_total="{} of {} were met.".format(
            *(sum(gate[key] for gate in gates) for key in ("passed", "expectations"))
        ),
        commands=inputs.commands,
        limits=_limits(inputs),
    )


def _images(directory: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, captioned in FIGURES.items():
        path = directory / f"{name}.png"
        if path.exists():
            data = path.read_bytes()
            # Width and height stand in a png's first header: the page keeps their place while it loads.
            width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
            found[name] = {"data": base64.b64encode(data).decode(), "width": width, "height": height}
            found[name] |= {"title": captioned.title, "caption": captioned.caption}
    return found


def _shown(table: pd.DataFrame) -> dict[str, Any] | None:
    if table.empty:
        return None
    rows = [["" if pd.isna(cell) else str(cell) for cell in row] for row in table.itertuples(index=False, name=None)]
    return {"heads": [str(column) for column in table.columns], "rows": rows}


def _secondary(comparison: Comparison) -> list[list[str]]:
    return [
        [
            row["task"],
            f"{row['arm']} − {row['reference']}",
            row["probe"],
            row["test"],
            f"{signed(row['difference'])} [{plain(row['low'])}, {plain(row['high'])}]",
            "undefined" if pd.isna(row["p_value"]) else p_text(row["p_value"]).removeprefix("p = ").removeprefix("p "),
        ]
        for row in comparison.secondary.to_dict("records")
    ]


def _class_rows(comparison: Comparison) -> list[list[str]]:
    """Sensitivity and specificity at the primary probe, side by side."""
    rows = []
    primary = comparison.arms[comparison.arms["primary"]]
    probes = primary.drop_duplicates(["task", "arm"]).set_index(["task", "arm"])["probe"].to_dict()
    for task in primary["task"].unique():
        for arm in arms_in_order(primary[primary["task"] == task]):
            table = comparison.classes
            table = table[(table["task"] == task) & (table["arm"] == arm) & (table["probe"] == probes[task, arm])]
            for label, both in table.groupby("class", sort=False):
                shares = {row["metric"]: row for row in both.to_dict("records")}
                cells = [
                    "{} [{}, {}]".format(*(plain(shares[name][end], 2) for end in ("estimate", "low", "high")))
                    + f", n = {shares[name]['n_units']}"
                    for name in ("sensitivity", "specificity")
                ]
                rows.append([str(task), arm, str(label), *cells])
    return rows


def _gates(directory: Path | None) -> list[dict[str, Any]]:
    """The gates' findings, one row each, with what was not met in words."""
    gates = []
    for found in read_findings(directory) if directory is not None and directory.is_dir() else []:
        summary = found["summary"]
        state = "passed" if found["success"] and not summary["warnings"] else "warned" if found["success"] else "failed"
        unmet = [
            f"{one['severity']}: {one['table']}: not true that {one['meaning']}"
            + (f" ({one['unexpected_count']} rows)" if one["unexpected_count"] else "")
            for one in found["expectations"]
            if not one["success"]
        ]
        rows = ", ".join(f"{count} {name}" for name, count in found["rows"].items())
        gates.append(
            {"stage": found["stage"], "key": found["key"], "state": state, "unmet": unmet, "rows": rows, **summary}
        )
    return gates


def _limits(inputs: ReportInputs) -> list[str]:
    """What this report cannot say; what depends on the run is said of the run."""
    arms = inputs.comparison.arms
    limits = []
    if inputs.phantom:
        limits.append("The videos are drawn. Nothing here is evidence about hearts, lungs or patients.")
    seeds = arms[arms["role"] == "pretrained"].groupby("arm")["seeds"].max().to_dict()
    few = [f"{arm!s} ({count})" for arm, count in seeds.items() if count < SEEDS_FOR_PRETRAINING]
    if few:
        limits.append(
            f"Fewer than {SEEDS_FOR_PRETRAINING} pretraining seeds: {', '.join(few)}. The sentences are about the"
            " encoder at hand; whether pretraining helps in general is another question."
        )
    controls = sorted(set(arms.loc[arms["role"].isin(["control", "other"]), "arm"]))
    limits.append(
        "A claim that pretraining helps also has to beat hand-made features, and has to survive controls of source, of"
        " single frames and of shuffled ones. "
        + (
            f"Beside the random encoders and the class frequencies this run has {', '.join(controls)}."
            if controls
            else "This run has the random encoders and the class frequencies only."
        )
    )
    return [
        *limits,
        "An interval says how these fitted models would score on other patients like these. It does not say how another"
        " training run, another hospital or another machine would fare.",
        "The p-value is of one planned test per pair: the patients' mean log-loss, signs flipped per group of patients"
        " jointly over repeats and draws. Patients who share a recording or near-duplicate videos are one group: it"
        " flips, and is resampled, as one, with the weight of all its patients. Only against the random encoders, on"
        " tasks that were to confirm, is the p-value corrected for the number of tests. Balanced accuracy, AUROC and"
        " macro-F1 have intervals and no test.",
        "In the log-loss every patient weighs the same. AUROC is the mean of within-fold values. Decisions are the"
        " likeliest class; no threshold was tuned.",
        "Learning rate, weight decay and number of epochs were chosen on inner folds; the outer fold was scored once.",
    ]
