"""The command suggest."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from echolung.stage import project

if TYPE_CHECKING:
    import pandas as pd

    from echolung.embedding.recordings import Recordings
    from echolung.kinds.segmentation import SegmentationTask
    from echolung.methods.suggestion import Strategy
    from echolung.settings import Settings

FRAMES, SHOWN = 8, 40  # frames of a recording that are looked at, evenly spaced; suggestions on the sheet, at most
STRATEGIES = click.Choice(["both", "disagreement", "k-centre", "random"])
RETURN = """\
suggestions.csv names recordings without masks, the first to annotate at the top, and frames of each, counted from 0.
Draw on these frames ({labels})
and put each drawing below the root of the source, as

    {root}/masks/<sample id without "{source}/">_<frame>.nii.gz
    {root}/masks/{example}.nii.gz, for example

A drawing is a NIfTI label map as large as the file's frames, its first axis to the right, 0 where nothing is; a
structure that is not drawn counts as not there. If the frame is end-diastole or end-systole, add _ED or _ES to its
number. VolumeTracings.csv and _gt.nii.gz are read from EchoNet's and CAMUS's layouts as ever; a drawing in masks/ takes
their place. Then, with `unlabelled: leave out` in tasks.{task}:

    dvc repro
    echolung suggest {task}
"""


@click.command(context_settings={"show_default": True})
@click.argument("task")
@click.option("--budget", default=20, type=click.IntRange(min=1), help="Recordings to suggest.")
@click.option("--frames", default=1, type=click.IntRange(1, FRAMES), help="Frames of each.")
@click.option("--arm", help="Whose encoder to use; by default that of the task's first candidate with one.")
@click.option(
    "--strategy", type=STRATEGIES, default="both", help="Disagreement and distance, one of the two, or chance."
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="A folder; by default one below data/.")
def suggest(task: str, budget: int, frames: int, arm: str | None, strategy: Strategy, out: Path | None) -> None:
    """Say which recordings without masks to annotate next for TASK, which is of kind segmentation.

    Light decoders on an encoder's frozen tokens learn from the recordings that have masks. Suggested is that on which
    they disagree and which is unlike all that is labelled or suggested before. Writes suggestions.csv, sheet.png
    (frames of patients: mind the licence) and README.txt, which says how masks come back.

    \b
    Examples:
      echolung suggest camus-masks
      echolung suggest ward-masks --budget 10 --frames 2 --out next-week
    """
    import numpy as np

    from echolung.core.runtime import exclusive
    from echolung.data.masks import STRUCTURES
    from echolung.methods.segmentation import DecoderSettings
    from echolung.methods.suggestion import drawn_by
    from echolung.methods.suggestion import suggest as ranked
    from echolung.reports.suggestions import sheet

    root, settings = project()
    task = settings.known_task(task)
    spec, arm = _chosen(settings, task, arm)
    source = spec.train or spec.source
    out = out or root / "data" / f"{settings.study}-runs" / "suggest" / task
    given = settings.of_method(arm, "light-decoder")
    assert isinstance(given, DecoderSettings)
    with exclusive(root / "data" / "locks" / f"{settings.study}-suggest.lock", "suggesting recordings"):
        recordings, labelled, bare, looked_at = pool = _pool(root, settings, spec, source, arm)
        table, members = ranked(spec, given, *pool, budget, settings.fit.seed, strategy=strategy)
    table = table.groupby("sample_id", sort=False).head(frames).merge(bare[["sample_id", "path"]], on="sample_id")
    pictures = []
    for rank, name, frame in table.head(SHOWN)[["rank", "sample_id", "frame"]].itertuples(index=False, name=None):
        at = looked_at[name].index(frame)
        p = drawn_by(members, recordings, name)[:, at] if members else np.empty(0)
        pictures.append((f"{rank}  {name.removeprefix(source + '/')}  {frame}", recordings.frames(name)[frame], p))
    out.mkdir(parents=True, exist_ok=True)
    table.round(4).to_csv(out / "suggestions.csv", index=False, lineterminator="\n")
    sheet(pictures).savefig(out / "sheet.png", dpi=150)
    example = f"{table['sample_id'][0].removeprefix(source + '/')}_{table['frame'][0]}"
    labels = ", ".join(f"{STRUCTURES.index(one) + 1}: {one}" for one in spec.structures)
    place = settings.ingest.sources[source].root
    words = RETURN.format(root=place, source=source, example=example, labels=labels, task=task)
    (out / "README.txt").write_text(words, encoding="utf-8")
    click.echo(table.drop(columns="path").round(3).to_string(index=False))
    there = f"{len(labelled)} with masks, of {labelled['patient_id'].nunique()} patients"
    click.echo(f"\nOf {len(bare)} recordings without masks, beside {there}; tokens of {arm}.")
    click.echo(f"{out}: suggestions.csv, sheet.png, and README.txt on how masks come back.")


def _chosen(settings: Settings, task: str, arm: str | None) -> tuple[SegmentationTask, str]:
    """The task, and the arm whose encoder is asked; raises SettingsError."""
    from echolung.core.errors import SettingsError
    from echolung.kinds.segmentation import SegmentationTask

    spec = settings.tasks[task]
    if not isinstance(spec, SegmentationTask):
        able = [name for name, one in settings.tasks.items() if isinstance(one, SegmentationTask)]
        remedy = f"Tasks of kind segmentation: {', '.join(able) or 'none'}."
        raise SettingsError(f"task '{task}' is of kind {spec.kind}, which has no masks", remedy)
    able = sorted(settings.encoders_of(task), key=lambda name: settings.arms[name].role != "candidate")
    if not able or (arm or able[0]) not in able:
        problem = f"no arm{f' {arm!r}' if arm else ''} brings an encoder to {task}"
        raise SettingsError(problem, f"Arms that do: {', '.join(able) or 'none'}. Name one with --arm.")
    return spec, arm or able[0]


def _pool(
    root: Path, settings: Settings, spec: SegmentationTask, source: str, arm: str
) -> tuple[Recordings, pd.DataFrame, pd.DataFrame, dict[str, list[int]]]:
    """Recordings of the task with masks and without (no test recording), and the frames of the latter, embedded."""
    import numpy as np

    from echolung.core.errors import DataError
    from echolung.data.clips import ClipStore
    from echolung.embedding.embed import embed
    from echolung.embedding.features import Features
    from echolung.embedding.recordings import Part, Recordings
    from echolung.kinds.task import selected

    data, seed = root / "data" / settings.study, settings.seeds(arm)[0]
    whole = Recordings.of_sources(data / "ingest", [source], [data / "embed" / source / arm / f"seed{seed}"]).parts[0]
    rows = selected(spec, whole.manifest[whole.manifest["frames"] > 0].assign(masks="read"))
    if spec.folds == "official":
        rows = rows[rows["split_official"].str.strip().str.upper().isin(["TRAIN", "VAL"])]
    traced = rows["sample_id"].isin(list(whole.masks))
    labelled, bare = rows[traced].reset_index(drop=True), rows[~traced].reset_index(drop=True)
    if bare.empty:
        problem = f"every recording of source '{source}' that may be trained on has masks"
        raise DataError(problem, f"Add recordings without masks to {settings.ingest.sources[source].root}.")
    clips = ClipStore.open(data / "ingest" / source / "clips")
    counts = zip(bare["sample_id"], bare["frames"], strict=True)
    looked_at = {str(name): np.unique(np.linspace(0, n - 1, FRAMES).round().astype(int)).tolist() for name, n in counts}
    tokens = root / "data" / f"{settings.study}-runs" / "suggest-tokens" / source
    encoder, cache = data / "encoders" / str(settings.encoder_of(arm)) / f"seed{seed}", root / "data/cache/features"
    click.echo(f"Looking at {sum(map(len, looked_at.values()))} frames of {len(bare)} recordings.", err=True)
    embed(encoder, arm, bare, clips, settings.embed, tokens, cache, traced=looked_at)
    parts = [dataclasses.replace(whole, manifest=labelled), Part(bare, clips, Features.open(tokens))]
    return Recordings(parts), labelled, bare, looked_at
