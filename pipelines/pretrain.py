"""pretrain: a self-supervised encoder, one per seed. Run by DVC: dvc repro pretrain@jepa-hearts

Checkpoints and finished seeds are kept in data/<study>-runs/pretrain/: an interrupted run resumes.
"""

import contextlib

import click
import pandas as pd

from echolung.core.runtime import atomic_directory, digest
from echolung.stage import stage


@click.command(help=__doc__)
@click.argument("name")
def main(name: str) -> None:
    with stage("pretrain", name) as here, contextlib.ExitStack() as stack:
        from echolung.compute.pretraining import pretrain, seed_runs
        from echolung.pretraining.run import HISTORY

        settings = here.settings.pretrain
        pool = here.data("ingest", settings.encoders[name].pool, "clips")
        runs = seed_runs(name, settings, here.settings.shape(name), pool, here.scratch("pretrain", name))
        trials = {run.seed: stack.enter_context(here.trial(name, run.seed, digest(run.fingerprint()))) for run in runs}
        with atomic_directory(here.data("encoders", "pretrained", name)) as target:
            seeds = pretrain(
                runs,
                target,
                on_metrics={seed: trial.logger() for seed, trial in trials.items()},
                on_progress=here.progress(f"pretraining {name}"),
            )
            here.check({"seeds": seeds})
            for seed, trial in trials.items():
                trial.replay(pd.read_csv(target / f"seed{seed}" / HISTORY))  # what an unreachable store missed
                trial.attach(target / f"seed{seed}")


if __name__ == "__main__":
    main()
