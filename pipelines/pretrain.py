"""pretrain: self-supervised encoders, one per seed. Run by DVC: dvc repro pretrain@jepa

An interrupted run goes on from its checkpoint in data/<study>-runs/pretrain/.
"""

import contextlib

import click
import pandas as pd

from echolung.core.runtime import atomic_directory, digest
from echolung.stage import stage


@click.command(help=__doc__)
@click.argument("arm")
def main(arm: str) -> None:
    with stage("pretrain", arm) as here, contextlib.ExitStack() as runs:
        from echolung.compute.pretraining import pretrain_arm
        from echolung.data.clips import ClipStore
        from echolung.pretraining.loop import HISTORY, fingerprint

        settings, encoder = here.settings.pretrain, here.settings.encoder
        pool = here.data("ingest", settings.arms[arm].pool, "clips")
        objective, store = settings.arms[arm].objective, ClipStore.open(pool)
        keys = {seed: digest(fingerprint(objective, encoder, settings, store, seed)) for seed in settings.seeds}
        trials = {seed: runs.enter_context(here.trial(arm, seed, key)) for seed, key in keys.items()}
        with atomic_directory(here.data("pretrain", arm)) as target:
            seeds = pretrain_arm(
                arm,
                settings,
                encoder,
                pool,
                here.scratch("pretrain", arm),
                target,
                on_metrics={seed: trial.logger() for seed, trial in trials.items()},
                on_progress=here.progress(f"pretraining {arm}"),
            )
            here.check({"seeds": seeds})
            for seed, trial in trials.items():
                trial.replay(pd.read_csv(target / f"seed{seed}" / HISTORY))  # what the store missed while it was away
                trial.attach(target / f"seed{seed}")


if __name__ == "__main__":
    main()
