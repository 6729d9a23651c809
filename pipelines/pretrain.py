"""pretrain: a self-supervised encoder, one per seed. Run by DVC: dvc repro pretrain@jepa-hearts

Checkpoints and finished seeds are kept in data/<study>-runs/pretrain/: an interrupted run resumes. After `stop_after`,
and at SIGTERM, it ends with a checkpoint of the current step and exit code 75.
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
        from echolung.registry.encoders import register_encoder
        from echolung.tracking.experiments import trial_run

        settings = here.settings.pretrain
        ingest, scratch = here.data("ingest"), here.scratch("pretrain", name)
        stop = stack.enter_context(here.stopping("pretrain", name, at_term=True))
        runs = seed_runs(name, settings, here.settings.shape(name), ingest, scratch, stop)
        section = here.settings.section("pretrain", name)
        trials = {}
        for run in runs:  # a resumed training goes on in the same tracked run
            key = digest(run.fingerprint())
            tracked = trial_run(here.store, here.settings.study, name, run.seed, section, key)
            trials[run.seed] = stack.enter_context(tracked)
        with atomic_directory(here.data("encoders", "pretrained", name)) as target:
            seeds = pretrain(
                runs,
                target,
                on_metrics={seed: trial.live for seed, trial in trials.items()},
                on_progress=here.progress(f"pretraining {name}"),
            )
            here.check({"seeds": seeds})
            for seed, trial in trials.items():
                trial.replay(pd.read_csv(target / f"seed{seed}" / HISTORY))  # what an unreachable store missed
                trial.attach(target / f"seed{seed}" / HISTORY)
        for seed, trial in trials.items():
            folder = here.data("encoders", "pretrained", name, f"seed{seed}")
            register_encoder(here.store, trial, here.settings.study, folder)


if __name__ == "__main__":
    main()
