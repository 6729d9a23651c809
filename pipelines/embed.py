"""embed: a source's videos through every encoder whose arm reads them. Run by DVC: dvc repro embed@pocus

Features are kept in data/cache/features: an encoder that has seen these videos before is not run again.
"""

import click
import pandas as pd

from echolung.core.runtime import atomic_directory
from echolung.stage import stage


@click.command(help=__doc__)
@click.argument("source")
def main(source: str) -> None:
    with stage("embed", source) as here:
        from echolung.data.clips import ClipStore
        from echolung.data.manifest import read_manifest
        from echolung.data.masks import read_masks
        from echolung.embedding.embed import embed

        settings = here.settings
        manifest = read_manifest(here.data("ingest", source, "manifest.parquet"))
        store = ClipStore.open(here.data("ingest", source, "clips"))
        masks = read_masks(here.data("ingest", source, "masks"))
        traced = {name: one.frames.tolist() for name, one in masks.items()} if settings.embed.frames else {}
        cache = here.root / "data" / "cache" / "features"
        encoders = [(arm, seed) for arm in settings.embedded(source) for seed in settings.seeds(arm)]
        tables = []
        with atomic_directory(here.data("embed", source)) as target:
            for arm, seed in encoders:
                folder = here.data("encoders", str(settings.encoder_of(arm)), f"seed{seed}")
                progress = here.progress(f"embedding {source}: {arm} seed {seed}")
                out = target / arm / f"seed{seed}"
                tables.append(embed(folder, arm, manifest, store, settings.embed, out, cache, progress, traced))
            features = pd.concat(tables, ignore_index=True)
            here.check({"features": features})
        ranks = features[["arm", "seed", "effective_rank"]].drop_duplicates(["arm", "seed"])
        rows = ranks.itertuples(index=False, name=None)
        here.run.metrics({f"effective_rank/{arm}/seed{seed}": float(rank) for arm, seed, rank in rows})


if __name__ == "__main__":
    main()
