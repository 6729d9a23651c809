"""fit: out-of-fold predictions of every arm on one task, and what they cost. Run by DVC: dvc repro fit@pocus-pathology

Fits that finished before an interruption are kept in data/<study>-runs/fit/. After `stop_after` no other begins, and
the exit code is 75.
"""

import click

from echolung.core.runtime import atomic_directory
from echolung.stage import stage


@click.command(help=__doc__)
@click.argument("task")
def main(task: str) -> None:
    with stage("fit", task) as here, here.stopping("fit", task) as stop:
        from echolung.compute.fits import fit_task
        from echolung.data.splits import folds_digest, read_folds
        from echolung.kinds.kinds import kind_of

        settings, spec = here.settings, here.settings.tasks[task]
        folds = read_folds(here.data("split", f"{task}.csv"))
        fits = settings.fits(task)
        predictions, search, costs = fit_task(
            task,
            spec,
            fits,
            {(arm, method): settings.of_method(arm, method) for arm, method, _ in fits},
            folds,
            here.data(),
            here.scratch("fit", task),
            seed=settings.fit.seed,
            workers=settings.workers,
            on_progress=here.progress(f"fitting {task}"),
            stop=stop,
        )
        kind = kind_of(spec)
        columns = kind.columns(spec)
        valid = ~kind.wrong(spec, predictions[columns].to_numpy(float))
        here.check(
            {"predictions": predictions.assign(valid=valid), "folds": folds, "costs": costs},
            split_digest=folds_digest(folds),
            columns=columns,
            valid=kind.valid,
        )
        with atomic_directory(here.data("fit", task)) as target:
            predictions.to_parquet(target / "predictions.parquet", index=False)
            search.to_parquet(target / "search.parquet", index=False)
            costs.to_parquet(target / "costs.parquet", index=False)
        here.run.metrics({"fits": len(fits), "choices": len(search)})
        here.run.attach(here.data("fit", task, "search.parquet"), "fits")


if __name__ == "__main__":
    main()
