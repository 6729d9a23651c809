"""phantom: draw a data set in the layout of a public one. Run by DVC: dvc repro phantom@hearts"""

import click

from echolung.core.runtime import atomic_directory
from echolung.stage import stage


@click.command(help=__doc__)
@click.argument("key")
def main(key: str) -> None:
    with stage("phantom", key) as here:
        from echolung.phantom.write import write

        settings = here.settings.phantom[key]
        with atomic_directory(here.root / "data" / "raw" / here.settings.study / key) as target:
            videos = write(settings, target, here.settings.workers, here.progress(f"drawing {key}"))
            here.check({"videos": videos})
        here.run.metrics({"videos": len(videos), "frames": int(videos["frames"].sum())})


if __name__ == "__main__":
    main()
