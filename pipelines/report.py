"""report: figures, tables and one HTML page; one MLflow run per task and arm. Run by DVC: dvc repro report"""

import shutil

import click

from echolung.core.runtime import atomic_path
from echolung.stage import stage


@click.command(help=__doc__)
def main() -> None:
    with stage("report") as here:
        from echolung.data.clips import ClipStore
        from echolung.data.splits import folds_digest, read_folds
        from echolung.evaluation.comparison import read_comparison
        from echolung.reports import study
        from echolung.reports.page import ReportInputs, read_history, write_report
        from echolung.reports.samples import one_per_class
        from echolung.reports.tables import table_markdown
        from echolung.tracking.arms import arm_results
        from echolung.tracking.experiments import Dataset, arm_run
        from echolung.tracking.provenance import provenance

        settings, origin = here.settings, provenance(here.root)
        comparison = read_comparison(here.data("compare"))
        folds = {task: read_folds(here.data("split", f"{task}.csv")) for task in settings.tasks}
        stores = {source: ClipStore.open(here.data("ingest", source, "clips")) for source in settings.ingest.sources}
        sources = study.sources(here.data("ingest"), settings.ingest.sources)
        drawn = set(sources.loc[sources["drawn"], "source"])  # phantoms belong to nobody: they may be shown
        samples = [
            sample
            for task, spec in settings.tasks.items()
            if settings.report.frames or spec.source in drawn
            for sample in one_per_class(folds[task], stores[spec.source])
        ]
        encoders = [
            here.data("pretrain", arm, f"seed{seed}") for arm in settings.embed.arms for seed in settings.seeds(arm)
        ]
        inputs = ReportInputs(
            study=settings.study,
            comparison=comparison,
            tasks=settings.tasks,
            facts=study.facts(settings.model_dump(mode="json"), origin),
            when=study.today(),
            sources=sources,
            arms=study.arms(encoders),
            ranks=study.effective_ranks(settings.feature_stores(here.data("embed"))),
            history=read_history(encoders),
            validation=here.validation,
            samples=samples,
            commands=study.commands(settings.study, origin),
            phantom=bool(sources["drawn"].all()),
        )
        out = here.validation.parent
        artifacts = write_report(inputs, out)
        here.check({"artifacts": artifacts})
        for copied in (here.data("compare", "metrics.json"), here.root / "params.yaml"):
            with atomic_path(out / copied.name) as temporary:
                shutil.copyfile(copied, temporary)
        with atomic_path(out / "table.md") as temporary:
            temporary.write_text(table_markdown(comparison))
        here.run.attach(out / "index.html")
        here.run.attach(out / "params.yaml")
        for task, table in folds.items():
            split = Dataset(table, here.data("split", f"{task}.csv"), task, folds_digest(table), "evaluation")
            for result in arm_results(comparison, task, inputs.arms, split):
                arm_run(here.store, settings.study, result).attach(out / "figures", "figures")


if __name__ == "__main__":
    main()
