"""ingest: one manifest row per video, every video decoded once. Run by DVC: dvc repro ingest@pocus"""

import click

from echolung.stage import stage


@click.command(help=__doc__)
@click.argument("source")
def main(source: str) -> None:
    with stage("ingest", source) as here:
        from echolung.data.ingest import ingest
        from echolung.data.manifest import write_manifest

        settings = here.settings
        clips = here.data("ingest", source, "clips")
        progress = here.progress(f"decoding {source}")
        manifest = ingest(source, settings.ingest, here.root, clips, settings.workers, progress)
        # A task that asks for part of a source (`where`) may leave the other videos without its label.
        labels = {task.label for task in settings.tasks.values() if task.source == source and not task.where}
        here.check({"manifest": manifest}, labels=sorted(labels))
        write_manifest(here.data("ingest", source, "manifest.parquet"), manifest)
        overstated = (manifest["frames"] < manifest["frames_declared"]).sum()
        here.run.metrics(
            {
                "videos": len(manifest),
                "patients": manifest["patient_id"].nunique(),
                "frames": int(manifest["frames"].sum()),
                "videos_with_fewer_frames_than_declared": int(overstated),
            }
        )


if __name__ == "__main__":
    main()
