"""search: compare pretraining recipes without labels of any scored set. Run by DVC: dvc repro search@mae

Trials are kept in data/<study>-runs/search/: an interrupted search resumes.
"""

import click

from echolung.core.runtime import atomic_directory
from echolung.stage import stage


@click.command(help=__doc__)
@click.argument("name")
def main(name: str) -> None:
    with stage("search", name) as here:
        from echolung.compute.search import Readout, search, search_runs
        from echolung.tracking.experiments import search_trials

        study, settings = here.settings, here.settings.search[name]
        scratch = here.scratch("search", name)
        task = settings.readout
        readout = Readout(here.data().absolute(), task, study.tasks[task], study.embed.views) if task else None
        runs = search_runs(name, settings, study.pretrain, study.shape_in, here.data("ingest"), scratch, readout)
        trials, curves = search(settings, runs, readout, scratch, study.workers, here.progress(f"searching {name}"))
        here.check({"trials": trials})
        with atomic_directory(here.data("search", name)) as target:
            trials.to_csv(target / "trials.csv", index=False)
            curves.to_csv(target / "curves.csv", index=False)
        search_trials(here.store, study.study, here.run, trials, curves)
        here.run.attach(here.data("search", name))
        click.echo(trials.to_string(index=False))


if __name__ == "__main__":
    main()
