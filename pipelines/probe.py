"""probe: nested cross-validation of the probes of every arm on one task. Run by DVC: dvc repro probe@pocus-pathology

Trials that finished before an interruption are kept in data/<study>-runs/probe/.
"""

from typing import Any

import click

from echolung.core.runtime import atomic_directory, code_digest, digest
from echolung.stage import stage


@click.command(help=__doc__)
@click.argument("task")
def main(task: str) -> None:
    with stage("probe", task) as here:
        from echolung.compute.trials import run_trials
        from echolung.data.clips import ClipStore
        from echolung.data.manifest import read_manifest
        from echolung.data.splits import folds_digest, read_folds
        from echolung.embedding.features import Features
        from echolung.kinds.task import labelled
        from echolung.methods.controls import control_features, control_predictions
        from echolung.methods.probes.probe import collect, plain, probe_trial

        settings, spec = here.settings, here.settings.tasks[task]
        search = settings.probe.model_dump(mode="json")
        split = here.data("split", f"{task}.csv")
        folds = read_folds(split)
        encoders = [(arm, seed) for arm in settings.embed.of_source(spec.source) for seed in settings.seeds(arm)]
        stores = [here.data("embed", spec.source, arm, f"seed{seed}") for arm, seed in encoders]
        common: dict[str, Any] = {"name": task, "folds": str(split), "task": spec.model_dump(mode="json")}
        outer = [
            {"repeat": int(repeat), "fold": int(fold)}
            for repeat, fold in folds[["repeat", "fold"]].drop_duplicates().itertuples(index=False)
        ]
        fits = [{"features": str(store), "settings": search} | place | common for store in stores for place in outer]
        keys = [Features.open(store).record.key for store in stores]
        code = code_digest(
            "echolung.methods.probes.probe", "echolung.methods.probes.selection", "echolung.methods.probes.heads"
        )
        results = run_trials(
            probe_trial,
            fits,
            here.scratch("probe", task),
            f"probe-{task}",
            settings.workers,
            here.progress(f"probing {task}"),
            fingerprint=digest([keys, folds_digest(folds), code]),
        )
        manifest = read_manifest(here.data("ingest", spec.source, "manifest.parquet"))
        clips = ClipStore.open(here.data("ingest", spec.source, "clips"))
        seen_by_controls = control_features(labelled(spec, manifest), clips)
        found = collect([*results, plain(control_predictions(folds, task, spec, seen_by_controls))])
        here.check({"predictions": found.predictions, "folds": folds}, split_digest=folds_digest(folds))
        with atomic_directory(here.data("probe", task)) as target:
            found.predictions.to_parquet(target / "predictions.parquet", index=False)
            found.fits.to_parquet(target / "fits.parquet", index=False)
        here.run.metrics({"trials": len(fits), "inner_fits": len(found.fits)})
        here.run.attach(here.data("probe", task, "fits.parquet"), "trials")


if __name__ == "__main__":
    main()
