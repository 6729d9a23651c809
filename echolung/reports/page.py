"""The report: one HTML file that needs nothing beside it, the figures as files, and their data for `dvc plots`."""

import base64
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from matplotlib import style

from echolung.core.drawing import STYLE
from echolung.core.runtime import atomic_directory, atomic_path
from echolung.evaluation.comparison import Comparison, judged_only
from echolung.evaluation.verdicts import plain
from echolung.gates.gate import read_findings
from echolung.kinds.kinds import KINDS
from echolung.kinds.task import Task
from echolung.reports import figures
from echolung.reports import maps as embedding
from echolung.reports.answer import against_controls, answers, few_seeds
from echolung.reports.contest import EXPLAINED, contest
from echolung.reports.tables import READING, by_kind, table_markdown, task_tables


@dataclass(frozen=True)
class ReportInputs:
    """Everything that a report is made of; tables are shown as they are."""

    study: str
    comparison: Comparison
    tasks: Mapping[str, Task]
    arms: Sequence[str] = ()  # of the study; each has a column in the data for `dvc plots`
    facts: Mapping[str, str] = field(default_factory=dict)
    sources: pd.DataFrame = field(default_factory=pd.DataFrame)
    encoders: pd.DataFrame = field(default_factory=pd.DataFrame)  # `study.encoders`
    ranks: pd.DataFrame = field(default_factory=pd.DataFrame)  # `study.effective_ranks`
    history: pd.DataFrame = field(default_factory=pd.DataFrame)  # `study.read_history`
    encoder_of: Mapping[str, str] = field(default_factory=dict)  # arm -> name of its encoder in `history`
    validation: Path | None = None  # folder of the gates' findings
    searches: Mapping[str, pd.DataFrame] = field(default_factory=dict)  # task -> what its fits chose from
    samples: Sequence[tuple[str, np.ndarray]] = ()  # `study.samples`
    maps: Sequence[embedding.Map] = ()
    costs: pd.DataFrame = field(default_factory=pd.DataFrame)  # `contest.costs`
    revision: str = "<revision>"  # of the code; with a `+` where there were uncommitted changes
    beside: Sequence[Path] = ()  # files to copy into the folder of the page

    @property
    def drawn(self) -> bool:
        """Whether every video is drawn, none recorded."""
        return "drawn" in self.sources and bool(self.sources["drawn"].all())


COLLAPSE = (
    "A low loss alone proves little: an encoder that maps every clip to one point has it, too. Its effective rank (the"
    " number of directions that its features use) falls towards 1."
)
EFFICIENCY = (
    "The same decoder on the frozen tokens of each encoder, trained on so many patients. Line: mean over draws of"
    " patients and seeds of the encoder; band: their range. Test patients take no part."
)
SORTED = (
    "Each point is a recording. An encoder whose nearest recordings agree in collection or patient, more than in the"
    " label, has learnt where a recording is from. Nearest are recordings of other patients, but for the patient."
)
DIFFERENCES = (
    "Shaded: better. If a line crosses zero, the sign is open. Folds are small and share training patients: look for"
    " consistency among them, not for significance."
)
ESTIMATES = (
    "Overlapping intervals do not mean that two arms are equal: the paired differences above use that both are scored"
    " on the same patients."
)


def _planned(inputs: ReportInputs) -> Iterator[tuple[str, str, Callable[[], Any], str, str]]:
    """Every figure: its file, the section of the page that shows it, how to draw it, title and caption."""
    colours, kinds = figures.arm_colours(inputs.comparison), by_kind(inputs.tasks)
    for key, tasks in kinds.items():
        kind, part = KINDS[key], inputs.comparison.of_tasks(tasks)
        suffix, of_kind = (f"-{key}", f" ({key})") if len(kinds) > 1 else ("", "")
        first, given = key == next(iter(kinds)), (part, kind, colours)
        pairs, arms = partial(figures.differences, *given), partial(figures.estimates, *given)
        title = f"Difference from the reference{of_kind}"
        yield f"differences{suffix}", "differences", pairs, title, DIFFERENCES * first
        yield f"estimates{suffix}", "estimates", arms, f"Every arm's metrics{of_kind}", ESTIMATES * first
        for name, one in kind.figures().items():
            yield name + suffix, "errors", partial(one.draw, part, colours), one.title, one.caption
    few = partial(figures.efficiency, inputs.searches, colours)
    yield "efficiency", "efficiency", few, "How many labels it takes", EFFICIENCY
    of_encoder = {encoder: colours[arm] for arm, encoder in inputs.encoder_of.items() if arm in colours}
    curves = partial(figures.training, inputs.history, of_encoder)
    yield "training", "training", curves, "Self-supervised training", COLLAPSE
    yield "map", "map", partial(embedding.draw, inputs.maps), "What the encoders sort by", SORTED
    yield "frames", "frames", partial(figures.sample_frames, inputs.samples), "Sample frames", "One video per row."


def write_report(inputs: ReportInputs, out: Path) -> pd.DataFrame:
    """Write index.html, table.md, figures/ and plots/ under `out`; returns name, path and bytes of each file."""
    files = {"page": out / "index.html", "table": out / "table.md"}
    shown: dict[str, list[dict[str, Any]]] = {}
    with atomic_directory(out / "figures") as target, style.context(STYLE):
        for name, section, draw, title, caption in _planned(inputs):
            if (drawn := draw()) is None:
                continue
            path = target / f"{name}.png"
            drawn.savefig(path, facecolor=drawn.get_facecolor())
            files[f"figure {name}"] = out / "figures" / path.name
            data = base64.b64encode(path.read_bytes()).decode()
            shown.setdefault(section, []).append({"name": name, "title": title, "caption": caption, "data": data})
    with atomic_directory(out / "plots") as target:
        _write_plots(inputs, target)
        for path in sorted(target.rglob("*.csv")):
            relative = path.relative_to(target)
            files[f"plot {relative.with_suffix('')}"] = out / "plots" / relative
    with atomic_path(files["page"]) as temporary:
        temporary.write_text(_page(inputs, shown), encoding="utf-8")
    with atomic_path(files["table"]) as temporary:
        pictures = [f"![Differences](figures/{path.name})" for path in files.values() if "differences" in path.name]
        made = [f"- {name}: {text}" for name, text in inputs.facts.items()]
        contested = contest(inputs.comparison, inputs.tasks, inputs.costs)
        tables = [table_markdown(inputs.comparison, inputs.tasks, contested), *([EXPLAINED, ""] if contested else [])]
        lines = [f"# {inputs.study}", "", *tables, *pictures, "", *made, ""]
        temporary.write_text("\n".join(lines), encoding="utf-8")
    for source in inputs.beside:
        files[source.stem] = out / source.name
        with atomic_path(out / source.name) as temporary:
            shutil.copyfile(source, temporary)
    return pd.DataFrame({"name": n, "path": str(path), "bytes": path.stat().st_size} for n, path in files.items())


def _write_plots(inputs: ReportInputs, directory: Path) -> None:
    """The figures' data as small csv files below `directory`, for `dvc plots show` and `dvc plots diff`:
    folds/<task>-<metric>.csv (step, one column per arm), training/<encoder>-seed<k>.csv (a history), and what kinds of
    task add, such as confusion/ and roc/. A table of arms has a column for every arm of the study."""
    files: dict[str, pd.DataFrame] = {}
    comparison, history = inputs.comparison, inputs.history
    folds = judged_only(comparison, "folds")
    for kind, names in by_kind(inputs.tasks).items():
        compared = folds[folds["task"].isin(names) & folds["metric"].isin(KINDS[kind].paired)]
        for (task, metric), table in compared.groupby(["task", "metric"], sort=True):
            files[f"folds/{task}-{metric}"] = table.pivot(index="step", columns="arm", values="value").reset_index()
        files |= KINDS[kind].plots(comparison.of_tasks(names))
    if len(history):
        for (encoder, seed), table in history.groupby(["encoder", "seed"], sort=True):
            files[f"training/{encoder}-seed{seed}"] = table.drop(columns=["encoder", "seed"]).dropna(axis=1, how="all")
    for name, table in files.items():
        folder, _, rest = name.partition("/")
        path = directory / folder / (re.sub(r"[^\w.-]+", "_", rest) + ".csv")
        if shown := [arm for arm in comparison.order if arm in table]:  # DVC wants every arm's column in every file
            others = [column for column in table if column not in shown]
            table = table.reindex(columns=[*others, *dict.fromkeys([*inputs.arms, *shown])])
        path.parent.mkdir(exist_ok=True)
        table.to_csv(path, index=False, float_format="%.6g")


def _page(inputs: ReportInputs, shown: Mapping[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    comparison, tasks = inputs.comparison, inputs.tasks
    ranks = "Effective rank of the features (1 is a collapse): mean and range over seeds; at most `most`"
    return environment.get_template("template.html").render(
        inputs=inputs,
        figures=shown,
        answers=answers(comparison, tasks),
        controls=against_controls(comparison, tasks),
        reading=READING,
        contest=contest(comparison, tasks, inputs.costs),
        explained=EXPLAINED,
        tables=task_tables(comparison, tasks),
        details={
            "Differences from the controls and the baseline": task_tables(comparison, tasks, "pairs"),
            "Other methods of the same arms": task_tables(comparison, tasks, "methods"),
            "More metrics": task_tables(comparison, tasks, "metrics"),
        },
        more=_more(inputs),
        about=[
            ("Sources", _shown(inputs.sources)),
            ("Tasks", _shown(_tasks(tasks))),
            ("Encoders, by arm", _shown(inputs.encoders)),
            (ranks, _shown(_with_intervals(inputs.ranks, "mean"))),
        ],
        checks=_checks(read_findings(inputs.validation) if inputs.validation else []),
        limits=_limits(inputs),
    )


def _shown(table: pd.DataFrame) -> dict[str, Any] | None:
    if table.empty:
        return None
    written = table.map(lambda cell: "" if pd.isna(cell) else f"{cell:.4g}" if isinstance(cell, float) else str(cell))
    return {"heads": [str(column).replace("_", " ") for column in table.columns], "rows": written.to_numpy().tolist()}


def _more(inputs: ReportInputs) -> list[tuple[str, dict[str, Any] | None]]:
    """The tables of the kinds that none of their figures draws, then the other tests of the pairs."""
    found = []
    for key, tasks in by_kind(inputs.tasks).items():
        part = inputs.comparison.of_tasks(tasks)
        for name in sorted(part.more.keys() - KINDS[key].figures().keys()):
            table = _with_intervals(judged_only(part, name).drop(columns="method").dropna(axis=1, how="all"))
            if {"metric", "estimate"} <= set(table):
                keys = [column for column in table if column not in ("metric", "estimate", "n_units")]
                table = table.pivot_table("estimate", keys, "metric", aggfunc="first", sort=False).reset_index()
            found.append((f"Table: {name}", _shown(table)))
    tests = _with_intervals(inputs.comparison.secondary, "difference")
    title = "Other tests of the same pairs (not corrected; no answer is based on them)"
    return [*found, (title, _shown(tests.drop(columns=["reference_method", "standard_error"], errors="ignore")))]


def _with_intervals(table: pd.DataFrame, value: str = "estimate") -> pd.DataFrame:
    """`value`, `low` and `high` in one column, where the table has them."""
    if not {value, "low", "high"} <= set(table):
        return table
    rows = table[[value, "low", "high"]].to_numpy(dtype=float)
    cells = ["{} [{}, {}]".format(*(plain(number, 2) for number in row)) for row in rows]
    return table.assign(**{value: cells}).drop(columns=["low", "high"])


def _tasks(tasks: Mapping[str, Task]) -> pd.DataFrame:
    def written(value: Any) -> str:
        parts = [f"{key}: {one}" for key, one in value.items()] if isinstance(value, dict) else value
        return ", ".join(map(str, parts)) if isinstance(parts, list) else str(parts)

    values = {name: task.model_dump(mode="json", exclude_none=True) for name, task in tasks.items()}
    return pd.DataFrame([{"task": name} | {k: written(v) for k, v in of.items()} for name, of in values.items()])


def _checks(findings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the gates found: how many expectations were met, which were not, and a table of all."""
    of = {name: sum(one["summary"][name] for one in findings) for name in ("passed", "expectations")}
    unmet = [
        f"{found['stage']} of {found['key']}: {one['severity']}: expected of {one['table']}: {one['meaning']};"
        f" found: {one['observed']}"
        for found in findings
        for one in found["expectations"]
        if not one["success"]
    ]
    table = pd.DataFrame(
        {"stage": one["stage"], "of": one["key"], "met": "{passed} of {expectations}".format(**one["summary"])}
        | {"rows": ", ".join(f"{count} {name}" for name, count in one["rows"].items())}
        for one in findings
    )
    return {**of, "unmet": unmet, "table": _shown(table)}


def _limits(inputs: ReportInputs) -> list[str]:
    """What this report cannot say."""
    arms = inputs.comparison.arms
    controls = ", ".join(dict.fromkeys(arms.loc[arms["role"] == "control", "arm"])) or "none"
    found = [
        "The videos are drawn. Nothing here is evidence about patients." * inputs.drawn,
        few_seeds(inputs.comparison),
        f"A claim about an encoder must also hold against controls without one. Controls here: {controls}.",
        "Intervals are for these fitted models on other patients like these, not for another training run, hospital or"
        " machine. Patients who share a recording or near-duplicate videos are one group, resampled and tested as one.",
        "Only the loss is tested, once per pair; every patient weighs the same in it. Other metrics have intervals and"
        " no test. No difference shown is not evidence of no difference.",
        "Whatever was tuned was chosen on inner folds; each outer fold was scored once.",
    ]
    return [one for one in found if one]
