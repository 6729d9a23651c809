"""compare: paired statistics over the out-of-fold predictions. Run by DVC: dvc repro compare"""

import click
import pandas as pd

from echolung.core.runtime import atomic_directory
from echolung.stage import stage


@click.command(help=__doc__)
def main() -> None:
    with stage("compare") as here:
        from echolung.evaluation.compare import compare
        from echolung.evaluation.comparison import write_comparison
        from echolung.kinds.kinds import kind_of

        settings = here.settings
        predictions = {task: pd.read_parquet(here.data("fit", task, "predictions.parquet")) for task in settings.tasks}
        comparison = compare(predictions, settings.tasks, settings.arms, settings.compare)
        losses = {name: kind_of(task).loss for name, task in settings.tasks.items()}
        here.check({"arms": comparison.arms, "pairs": comparison.pairs}, losses=losses)
        with atomic_directory(here.data("compare")) as target:
            write_comparison(comparison, target, settings.compare.headlines)


if __name__ == "__main__":
    main()
