"""report: figures, tables and one HTML page; one MLflow run per task and arm. Run by DVC: dvc repro report"""

import itertools

import click

from echolung.stage import stage


@click.command(help=__doc__)
def main() -> None:
    with stage("report") as here:
        import pandas as pd

        from echolung.data.splits import folds_digest, read_folds
        from echolung.evaluation.comparison import read_comparison
        from echolung.pretraining.cost import flops_per_clip
        from echolung.reports import maps, study
        from echolung.reports.contest import costs
        from echolung.reports.page import ReportInputs, write_report
        from echolung.tracking.arms import arm_runs
        from echolung.tracking.provenance import provenance

        settings, origin = here.settings, provenance(here.root)
        comparison = read_comparison(here.data("compare"))
        folds = {task: read_folds(here.data("split", f"{task}.csv")) for task in settings.tasks}
        sources = study.sources(here.data("ingest"), settings.ingest.sources)
        named = {arm: encoder for arm in settings.arms if (encoder := settings.encoder_of(arm))}
        encoders = {arm: sorted(here.data("encoders", encoder).glob("seed*")) for arm, encoder in named.items()}
        features = [here.data("embed", source).glob("*/seed*") for source in settings.embed.sources]
        fits = [pd.read_parquet(here.data("fit", task, "costs.parquet")) for task in settings.tasks]
        trained = {
            name: flops_per_clip(name, settings.pretrain, settings.shape(name)) for name in settings.pretrain.encoders
        }
        shown = settings.ingest.sources if settings.report.frames else sources.loc[sources["drawn"], "source"]
        inputs = ReportInputs(
            study=settings.study,
            comparison=comparison,
            tasks=settings.tasks,
            arms=settings.report.arms,
            facts=study.facts(settings.model_dump(mode="json"), origin),
            sources=sources,
            encoders=study.encoders(encoders),
            ranks=study.effective_ranks(sorted(itertools.chain(*features))),
            history=study.read_history(itertools.chain(*encoders.values())),
            encoder_of={arm: encoder.split("/")[-1] for arm, encoder in named.items()},
            validation=here.validation,
            searches={task: pd.read_parquet(here.data("fit", task, "search.parquet")) for task in settings.tasks},
            maps=maps.maps(settings.tasks, folds, list(named), here.data()),
            costs=costs(pd.concat(fits), settings.tasks, encoders, here.data("embed"), trained),
            samples=study.samples(settings.tasks, folds, set(shown), here.data("ingest")),
            revision=origin.get("git_revision", "<revision>"),
            beside=[here.data("compare", "metrics.json"), here.root / "params.yaml"],
        )
        out = here.validation.parent
        here.check({"artifacts": write_report(inputs, out)})
        here.run.attach(out / "index.html")
        here.run.attach(out / "params.yaml")
        for task, table in folds.items():
            for run in arm_runs(here.store, settings.study, comparison, task, inputs.encoders, folds_digest(table)):
                run.attach(out / "figures", "figures")


if __name__ == "__main__":
    main()
