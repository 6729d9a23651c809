"""initialise: the arm `random`, untrained draws of the encoder. Run by DVC: dvc repro initialise"""

import click

from echolung.core.runtime import atomic_directory
from echolung.stage import stage


@click.command(help=__doc__)
def main() -> None:
    with stage("initialise", "random") as here:
        from echolung.models.weights import initialise

        with atomic_directory(here.data("pretrain", "random")) as target:
            seeds = initialise(here.settings.encoder, here.settings.initialise.seeds, target)
            here.check({"seeds": seeds})


if __name__ == "__main__":
    main()
