"""compare: paired statistics over the predictions, and nothing else. Run by DVC: dvc repro compare"""

import click
import pandas as pd

from echolung.core.runtime import atomic_directory
from echolung.stage import stage


@click.command(help=__doc__)
def main() -> None:
    with stage("compare") as here:
        from echolung.evaluation.compare import compare
        from echolung.evaluation.comparison import write_comparison

        tasks = here.settings.tasks
        tables = [pd.read_parquet(here.data("probe", task, "predictions.parquet")) for task in tasks]
        comparison = compare(pd.concat(tables, ignore_index=True), tasks, here.settings.compare)
        here.check({"arms": comparison.arms, "pairs": comparison.pairs})
        with atomic_directory(here.data("compare")) as target:
            write_comparison(comparison, target)


if __name__ == "__main__":
    main()
