"""embed: every video's deterministic views through every encoder of an arm. Run by DVC: dvc repro embed@jepa-pocus"""

import click
import pandas as pd

from echolung.core.runtime import atomic_directory
from echolung.stage import stage


@click.command(help=__doc__)
@click.argument("arm")
@click.argument("source")
def main(arm: str, source: str) -> None:
    with stage("embed", f"{arm}-{source}") as here:
        from echolung.data.clips import ClipStore
        from echolung.data.manifest import read_manifest
        from echolung.embedding.embed import embed

        settings = here.settings.embed
        manifest = read_manifest(here.data("ingest", source, "manifest.parquet"))
        store = ClipStore.open(here.data("ingest", source, "clips"))
        with atomic_directory(here.data("embed", source, arm)) as target:
            stores = []
            for encoder in sorted(here.data("pretrain", arm).glob("seed*")):
                progress = here.progress(f"embedding {source}, {arm} {encoder.name}")
                stores.append(embed(encoder, manifest, store, settings, target / encoder.name, progress))
            features = pd.concat(stores, ignore_index=True)
            seeds = here.settings.seeds(arm)
            here.check({"features": features}, samples=list(manifest["sample_id"]), seeds=seeds)
        ranks = features.groupby("seed")["effective_rank"].first()
        here.run.metrics({f"effective_rank_seed{seed}": float(rank) for seed, rank in ranks.items()})


if __name__ == "__main__":
    main()
