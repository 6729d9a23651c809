"""The commands promote, rollback and predict."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from echolung.core.progress import listening
from echolung.stage import progress_bar, project, stage

if TYPE_CHECKING:
    from echolung.registry.candidate import Candidate
    from echolung.settings import Settings

FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.argument("task")
@click.option("--arm", help="The candidate; by default the task's first arm with the role `candidate`.")
@click.option("--reset", is_flag=True, help="Compare with the baseline only, not with the champion.")
def promote(task: str, arm: str | None, reset: bool) -> None:
    """Make an arm the champion of TASK, if its out-of-fold scores allow.

    A first champion must beat the task's baseline; a later one must have a lower loss than the champion on the same
    data and folds. The arm's method is refitted on all patients.

    \b
    Examples:
      echolung promote pocus-pathology
      echolung promote blues-covid --arm random
    """
    from echolung.registry.promote import promote as run_promotion

    root, settings = project()
    task = settings.known_task(task)
    candidate = _candidate(root, settings, task, settings.known_arm(task, arm))
    with (
        stage("promote", task, f"champion@{task}", {"task": task, "arm": candidate.arm}) as here,
        listening(here.progress(f"fitting {candidate.arm} on all patients")),
    ):
        bootstrap = settings.compare.bootstrap
        found = run_promotion(here.store, here.run, candidate, settings.promote, bootstrap=bootstrap, reset=reset)
    verb = "is the champion" if found.outcome == "promoted" else "unchanged"
    click.echo(f"{found.version.name} version {found.version.number}: {verb}.")
    outside, warnings = (found.version.tags.get(name, "").splitlines() for name in ("outside", "warnings"))
    for line in [*found.reasons, *outside, *(f"warning: {one}" for one in warnings)]:
        click.echo(f"  {line}")


@click.command()
@click.argument("task")
@click.option("--to", type=click.IntRange(min=1), help="Version; by default the one that the champion followed.")
def rollback(task: str, to: int | None) -> None:
    """Make an earlier champion of TASK the champion again.

    All versions stay in the registry. Afterwards `promote` compares candidates with the restored champion, and refuses
    exactly the model that was rolled back.

    \b
    Examples:
      echolung rollback pocus-pathology
      echolung rollback pocus-pathology --to 3
    """
    from echolung.registry.models import roll_back

    _, settings = project()
    task = settings.known_task(task)
    with stage("rollback", task, f"champion@{task}", {"task": task, "to": to or "the one before"}) as here:
        before, now = roll_back(here.store, settings.study, task, to)
    since = now.tags.get("history", "").partition(" ")[0]
    click.echo(f"{now.name} version {now.number}{f' (promoted {since})' * bool(since)} is the champion again.")
    click.echo(f"To return to version {before}: echolung rollback {task} --to {before}")


def _candidate(root: Path, settings: Settings, task: str, arm: str) -> Candidate:
    """An arm of a task, from what `dvc repro` left on disk."""
    import pandas as pd

    from echolung.core.errors import DataError
    from echolung.data.splits import deciding_folds, read_folds
    from echolung.evaluation.comparison import read_comparison
    from echolung.methods.arms import baseline_of
    from echolung.methods.fitting import fit_one
    from echolung.registry.candidate import Candidate

    data, spec, seed = root / "data" / settings.study, settings.tasks[task], settings.seeds(arm)[0]
    path, work = data / "fit" / task / "predictions.parquet", root / "data" / f"{settings.study}-runs" / "fit" / ".work"
    if not path.is_file():
        raise DataError(f"{path} does not exist", "Run `dvc repro` first.")
    predictions = pd.read_parquet(path)
    method, encoder = settings.arms[arm].methods(spec)[0], settings.encoder_of(arm)
    folds = read_folds(data / "split" / f"{task}.csv")
    decided_on = deciding_folds(folds, settings.split)
    if decided_on is not folds:
        click.echo(
            f"The test patients of {task} decide nothing: fitting {arm} without the patients held out, to score it on"
            " them. This takes as long as a fit of the study, and goes on where it was stopped.",
            err=True,
        )
        given = {"task_name": task, "task": spec.model_dump(mode="json"), "seed": settings.fit.seed}
        tables = []
        for name, by, at in [(arm, method, seed), (baseline_of(spec), baseline_of(spec), 0)]:
            one = {"arm": name, "method": by, "arm_seed": at, "settings": settings.of_method(name, by).model_dump()}
            with progress_bar(f"fitting {name}") as bar, listening(bar):
                told = fit_one(data, work, given | one | {"repeat": 0, "fold": 0}, decided_on)
            tables.append(told["predictions"])
        predictions = pd.concat(tables)
    return Candidate(
        study=settings.study, name=task, task=spec, arm=arm, seed=seed, method=method,
        settings=settings.of_method(arm, method), fit_seed=settings.fit.seed, views=settings.embed.views,
        frame_size=settings.ingest.size, data=data, work=work / f"promote-{task}", folds=folds, decided_on=decided_on,
        encoder=data / "encoders" / encoder / f"seed{seed}" if encoder else None, predictions=predictions,
        verdicts=read_comparison(data / "compare").verdicts,
    )  # fmt: skip


@click.command()
@click.argument("videos", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILES...")
@click.option("--task", help="Whose champion to ask; by default the study's first task.")
@click.option("--json", "for_programs", is_flag=True, help="For programs: one JSON object on standard output.")
@click.option("--explain", type=FOLDER, help="A folder for pictures (gif and png) of what each answer rests on.")
@click.option("--fps", type=click.FloatRange(1, 1000), help="Of files that do not say it, as NIfTI: frames per second.")
def predict(
    videos: tuple[Path, ...], task: str | None, for_programs: bool, explain: Path | None, fps: float | None
) -> None:
    """Ask a task's champion about video FILES.

    A video unlike the training videos is not answered but marked `outside`; no mark does not mean that it is like them.

    \b
    Examples:
      echolung predict clip.mp4
      echolung predict ward/*.mp4 --task blues-covid --json
      echolung predict clip.mp4 --explain pictures
      echolung predict patient0001_4CH_half_sequence.nii.gz --fps 50
    """
    import pandas as pd

    from echolung.core.errors import VideoError
    from echolung.registry.models import champion
    from echolung.serving.answers import as_json, as_text
    from echolung.serving.explain import explain_file, picture_names
    from echolung.serving.model import Model
    from echolung.tracking.store import store

    root, settings = project()
    name = settings.known_task(task)
    version = champion(store(root, settings.tracking), settings.study, name)
    model = Model.open(version.folder)
    title = f"{version.name} version {version.number}"
    tables, refused = [], []
    with click.progressbar(videos, hidden=len(videos) < 20, file=sys.stderr) as shown:
        for video, picture in zip(shown, picture_names(videos), strict=True):
            try:
                if explain:
                    tables.append(explain_file(model, video, explain, picture, title, fps))
                else:
                    tables.append(model.predict([video], fps))
            except VideoError as error:  # the others are answered all the same
                refused.append(error)
    for one in refused:
        click.echo("echolung: " + "\n".join(one.lines()), err=True)
    if not tables:
        sys.exit(1)
    answers = pd.concat(tables, ignore_index=True)
    if for_programs:
        heading = {"model": version.name, "version": version.number}
        click.echo(json.dumps(as_json(heading, model, answers), indent=2))
        return
    click.echo(as_text(title, model, answers))
    if explain:
        click.echo(f"Pictures: {explain}")
    if count := len(version.tags.get("warnings", "").splitlines()):
        said = f"Warnings that came with this model: {count}. `echolung promote {name}` repeats them"
        click.echo(f"{said}, and so does its page in `echolung ui`.", err=True)
    if refused:
        sys.exit(1)
