"""initialise: encoders before any training: random draws, and those of a file. Run by DVC: dvc repro initialise"""

import click
import pandas as pd

from echolung.core.runtime import atomic_directory
from echolung.stage import stage


@click.command(help=__doc__)
def main() -> None:
    with stage("initialise") as here:
        from echolung.models.weights import initialise
        from echolung.registry.encoders import register_encoder

        with atomic_directory(here.data("encoders", "initial")) as target:
            tables = [
                initialise(shape, seeds, target / arm, arm) for arm, (shape, seeds) in here.settings.initial().items()
            ]
            here.check({"seeds": pd.concat(tables, ignore_index=True)})
        for arm, (shape, seeds) in here.settings.initial().items():
            for seed in seeds if shape.weights else ():
                folder = here.data("encoders", "initial", arm, f"seed{seed}")
                register_encoder(here.store, here.run, here.settings.study, folder)


if __name__ == "__main__":
    main()
