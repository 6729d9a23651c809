"""split: near-duplicate search, then folds grouped by patient. Run by DVC: dvc repro split@pocus-pathology"""

import click
import pandas as pd

from echolung.stage import stage


@click.command(help=__doc__)
@click.argument("task")
def main(task: str) -> None:
    with stage("split", task) as here:
        from echolung.data.clips import ClipStore
        from echolung.data.leakage import find_pairs, split_groups, write_pairs
        from echolung.data.manifest import read_manifest
        from echolung.data.masks import read_masks
        from echolung.data.splits import UNUSED, fold_counts, make_folds, write_folds
        from echolung.kinds.kinds import kind_of

        spec, settings = here.settings.tasks[task], here.settings.split
        stores = {source: ClipStore.open(here.data("ingest", source, "clips")) for source in spec.sources}
        manifests = [read_manifest(here.data("ingest", source, "manifest.parquet")) for source in spec.sources]
        manifest = pd.concat(manifests, ignore_index=True)
        masks = read_masks(*(here.data("ingest", source, "masks") for source in spec.sources))
        rows = kind_of(spec).labelled(spec, manifest.assign(masks=manifest["sample_id"].isin(list(masks))))
        copied = here.settings.copied(spec)
        pairs = find_pairs(manifest, stores, copied, here.root / "data" / "cache" / "duplicates")
        # Of the whole sources: two patients may be joined by a copy that is not part of the task.
        groups = split_groups(manifest.set_index("sample_id", drop=False), pairs)
        rows = rows.assign(split_group=rows["sample_id"].map(groups))
        folds = make_folds(rows, settings, spec.split, spec.source)
        here.check({"folds": folds, "duplicates": pairs}, **fold_counts(rows, settings, spec.split))
        write_pairs(here.data("split", f"{task}-duplicates.csv"), pairs)
        write_folds(here.data("split", f"{task}.csv"), folds)
        unused = (folds["fold"] < 0) & (folds["inner_0"] == UNUSED)
        here.run.metrics(
            {
                "videos": len(rows),
                "patients": rows["patient_id"].nunique(),
                "independent_groups": rows["split_group"].nunique(),
                "near_duplicate_pairs": len(pairs),
                "videos_left_out": len(manifest) - len(rows) + int(unused.sum()),
            }
        )


if __name__ == "__main__":
    main()
