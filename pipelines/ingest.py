"""ingest: one manifest row per video, every video decoded once. Run by DVC: dvc repro ingest@pocus"""

import click

from echolung.stage import stage


@click.command(help=__doc__)
@click.argument("source")
def main(source: str) -> None:
    with stage("ingest", source) as here:
        from echolung.data.ingest import ingest

        settings = here.settings
        progress = here.progress(f"decoding {source}")
        ingested = ingest(source, settings.ingest, here.root, settings.workers, progress)
        manifest = ingested.manifest
        labels = {task.label for task in settings.tasks.values() if source in task.sources and task.labels_all}
        here.check({"manifest": manifest, "tracings": ingested.tracings}, labels=sorted(labels))
        ingested.write(here.data("ingest", source))
        here.run.metrics(
            {
                "videos": len(manifest),
                "patients": manifest["patient_id"].nunique(),
                "frames": int(manifest["frames"].sum()),
                "videos_with_fewer_frames_than_declared": int((manifest["frames"] < manifest["frames_declared"]).sum()),
                "videos_with_pixels_that_are_not_square": int((manifest["pixel_aspect"] != 1).sum()),
                "tracings": len(ingested.tracings),
            }
        )


if __name__ == "__main__":
    main()
