"""split: near-duplicate search, then folds grouped by patient. Run by DVC: dvc repro split@pocus-pathology"""

import click

from echolung.stage import stage


@click.command(help=__doc__)
@click.argument("task")
def main(task: str) -> None:
    with stage("split", task) as here:
        from echolung.data.clips import ClipStore
        from echolung.data.leakage import near_duplicates, split_groups, write_pairs
        from echolung.data.manifest import read_manifest
        from echolung.data.splits import make_folds, write_folds
        from echolung.kinds.task import excluded, labelled

        spec, settings = here.settings.tasks[task], here.settings.split
        manifest = read_manifest(here.data("ingest", spec.source, "manifest.parquet"))
        rows = labelled(spec, manifest)
        pairs = near_duplicates(
            rows, ClipStore.open(here.data("ingest", spec.source, "clips")), settings.near_duplicate
        )
        folds = make_folds(rows.assign(split_group=split_groups(rows, pairs)), settings)
        facts = {"outer": settings.outer, "inner": settings.inner, "repeats": settings.repeats}
        here.check({"folds": folds, "duplicates": pairs}, classes=spec.classes, **facts)
        write_pairs(here.data("split", f"{task}-duplicates.csv"), pairs)
        write_folds(here.data("split", f"{task}.csv"), folds)
        here.run.metrics(
            {
                "videos": len(rows),
                "patients": rows["patient_id"].nunique(),
                "independent_groups": folds["split_group"].nunique(),
                "near_duplicate_pairs": len(pairs),
                "videos_left_out": sum(excluded(spec, manifest).values()),
            }
        )


if __name__ == "__main__":
    main()
