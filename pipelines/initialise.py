"""initialise: untrained encoders, for every arm with `encoder: random`. Run by DVC: dvc repro initialise"""

import click
import pandas as pd

from echolung.core.runtime import atomic_directory
from echolung.stage import stage


@click.command(help=__doc__)
def main() -> None:
    with stage("initialise") as here:
        from echolung.models.weights import initialise

        with atomic_directory(here.data("encoders", "untrained")) as target:
            tables = [
                initialise(shape, seeds, target / arm, arm) for arm, (shape, seeds) in here.settings.untrained().items()
            ]
            here.check({"seeds": pd.concat(tables, ignore_index=True)})


if __name__ == "__main__":
    main()
