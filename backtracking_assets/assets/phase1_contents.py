"""Filling phase 1's page from the store, and whether the page on disk shows what is stored now."""

from collections.abc import Iterator
from pathlib import Path

from backtracking_assets.analysis.statistics_settings import statistics_digest
from backtracking_assets.assets.contents import all_completions
from backtracking_assets.assets.open_experiment import OpenExperiment, component_names
from backtracking_assets.assets.page_files import has_version, stamped
from backtracking_assets.assets.phase1_results import compared_cells
from backtracking_assets.assets.phase1_results_sections import (
    BACKTRACKING_SOURCE,
    CONDITIONS_SOURCE,
    FORMATTING_SOURCE,
)
from backtracking_assets.assets.phase1_sections import SectionSource, section_of
from backtracking_assets.assets.provenance import provenance, with_sources
from backtracking_assets.assets.scan_metadata import SCAN_SECTIONS
from backtracking_assets.assets.stored_cells import checks_of
from backtracking_assets.assets.stored_variants import current_variants, metrics_of_variant, variant_checks_of
from backtracking_assets.conditions import digest
from backtracking_assets.experiment import Experiment
from backtracking_assets.experiment_file import experiment_names
from backtracking_assets.measures import MEASURES
from backtracking_assets.plan import BASELINE_SCALE
from backtracking_assets.reporting.contents import study_of
from backtracking_assets.reporting.formats import format_components, format_measurement, join_names, plural
from backtracking_assets.reporting.phase1_frames import measurement
from backtracking_assets.reporting.phase1_report import Checked, Phase1Report, PromptText, render_phase1_report
from backtracking_assets.reporting.sections import SectionTable
from backtracking_assets.reporting.tables import Column
from backtracking_assets.storage import queries
from backtracking_assets.storage.durable import write_text_durably

PAGE_VERSION = "1"
"""Raised whenever the page shows the same results in another way."""

SECTION_SOURCES: tuple[SectionSource, ...] = (
    FORMATTING_SOURCE,
    CONDITIONS_SOURCE,
    BACKTRACKING_SOURCE,
    *SCAN_SECTIONS,
)
"""In the order in which they are read."""


def phase1_report_path(opened: OpenExperiment) -> Path:
    """Where phase 1's page stands."""
    return opened.layout.reports / "phase1_report.html"


def section_sources(experiment: Experiment) -> tuple[SectionSource, ...]:
    """The sections that the experiment file asks for."""
    wanted = {source.asset for source in SCAN_SECTIONS} if experiment.scan is None else set()
    return tuple(source for source in SECTION_SOURCES if source.asset not in wanted)


def phase1_version(opened: OpenExperiment) -> str:
    """Digest of what the page would show now."""
    experiment = opened.experiment
    cells = compared_cells(opened)
    return digest(
        {
            "page": PAGE_VERSION,
            "sections": [[source.asset, source.version(opened)] for source in section_sources(experiment)],
            "variants": [[stored.variant.name, stored.version()] for stored in current_variants(opened)],
            "cells": [[str(stored.cell), stored.metrics_version()] for stored, _ in cells.present],
            "statistics": statistics_digest(experiment.statistics),
            "checks": [
                [own.subject, *([check.name, check.passed, check.description] for check in own.checks)]
                for own in _checked(opened)
            ],
        }
    )


def phase1_is_reported(opened: OpenExperiment) -> bool:
    """Whether phase 1's page shows what is stored now, or is not asked for."""
    if opened.experiment.phase1 is None:
        return True
    return has_version(phase1_report_path(opened), phase1_version(opened))


def write_phase1_report(opened: OpenExperiment) -> tuple[Phase1Report, Path]:
    """Write phase 1's page; what it shows, and where it stands.

    Raises:
        ExperimentError: there is no phase 1.
        StorageError: the page cannot be written.
    """
    report, path = phase1_report(opened), phase1_report_path(opened)
    write_text_durably(path, stamped(render_phase1_report(report), report.version), "page")
    return report, path


def phase1_report(opened: OpenExperiment) -> Phase1Report:
    """Contents of the page; what is not measured yet is said to be missing.

    Raises:
        ExperimentError: there is no phase 1.
    """
    experiment = opened.experiment
    whole = experiment.for_variant(experiment.prompting.variant)
    name = experiment.name if experiment.name in experiment_names() else str(experiment.source)
    variants, cells = current_variants(opened), compared_cells(opened)
    conditions = {str(stored.variant): stored.fingerprint for stored in variants}
    conditions |= {str(stored.cell): stored.fingerprint for stored, _ in cells.present}
    # A variant holds more completions of a condition that it shares with a cell, so it stands last.
    stored = [*(cell for cell, _ in cells.present), *variants]
    found = provenance(
        experiment, all_completions(stored), "", queries.chunk_sizes(opened.layout), arguments="--job phase1"
    )
    return Phase1Report(
        study=study_of(experiment),
        question=tuple(_question(experiment)),
        setup=tuple(_setup(opened, whole)),
        variants=tuple(
            PromptText(
                variant,
                text,
                experiment.prompting.assistant_prefix.get(variant, ""),
                variant == experiment.prompting.variant,
            )
            for variant, text in experiment.prompting.variants.items()
        ),
        sections=tuple(section_of(source, opened, name) for source in section_sources(experiment)),
        controls=tuple(_controls(experiment)),
        control_table=_shuffled_table(opened),
        checked=tuple(_checked(opened)),
        limits=tuple(_limits(experiment, whole)),
        version=phase1_version(opened),
        provenance=with_sources(found, opened, conditions),
    )


def _question(experiment: Experiment) -> Iterator[str]:
    if experiment.description:
        yield experiment.description
    yield (
        "Phase 1 looks at the baseline before the sweep is read: how much backtracking depends on the form of the "
        "prompt, what one chosen subset changes beyond random subsets of its size, and whether completions that "
        "backtrack are right more often. On problems that the sweep does not use, it asks at which layer the token "
        "that begins a trigger appears, and which components bring it about."
    )


def _setup(opened: OpenExperiment, whole: Experiment) -> Iterator[tuple[str, str]]:
    experiment = opened.experiment
    model, sampling, rules = experiment.model, experiment.sampling, experiment.detection
    held_out = whole.problems.count - experiment.problems.count
    yield "Model", f"{model.hub_id or model.path}, {plural(model.n_layers, 'layer')}, {model.dtype}"
    yield (
        "Problems",
        f"{whole.problems.count:,} with {plural(whole.problems.samples, 'sample')} each, of every prompt variant; the "
        f"sweep uses {experiment.problems.count:,} of them, the other {held_out:,} are held out",
    )
    yield (
        "Sampling",
        f"temperature {sampling.temperature:g}, top-p {sampling.top_p:g}, at most "
        f"{plural(sampling.max_new_tokens, 'token')}",
    )
    yield "Strict triggers", join_names(rules.strict)
    yield "Relaxed triggers", join_names(rules.relaxed) or "none beside the strict ones"
    compared = [cell for cell in experiment.compared_cells() if cell.scale != BASELINE_SCALE]
    yield (
        "Conditions",
        "; ".join(f"{cell}: {format_components(component_names(opened, cell.layer_subset))}" for cell in compared),
    )


def _controls(experiment: Experiment) -> Iterator[str]:
    compare = experiment.compared_cells()[1].layer_subset
    for control in experiment.controls.random:
        if control.of == compare:
            yield (
                f"{plural(control.draws, 'random draw')} of as many attention and MLP blocks as {compare} has, outside "
                f"{join_names(dict.fromkeys((compare, *control.outside)))}, by seed {control.seed}."
            )
    yield (
        "All conditions share their sampling noise: one number from seed, problem, sample and step. So differences are "
        "paired, and a condition that changes nothing gives the same completions."
    )
    yield (
        "Accuracy against shuffled answers: each problem's completions are held against another problem's answer. "
        "Accuracy that is not above it would mean that answers were joined to the wrong problems, or that nothing is "
        "solved."
    )


def _shuffled_table(opened: OpenExperiment) -> SectionTable | None:
    """Accuracy of each variant beside accuracy against shuffled answers, as far as they are measured."""
    rows = []
    for stored in current_variants(opened):
        metrics = {row["metric"]: row for row in metrics_of_variant(opened, stored.variant).to_pylist()}
        if {"accuracy", "accuracy_shuffled"} <= metrics.keys():
            values = [format_measurement(measurement(metrics[name]), MEASURES[name]) for name in _SHUFFLED]
            rows.append((stored.variant.name, f"{stored.completions.num_rows:,}", *values))
    if not rows:
        return None
    columns = [Column("variant", "left"), Column("n", "right")]
    columns += [Column(MEASURES[name].label, "right", MEASURES[name].description) for name in _SHUFFLED]
    return SectionTable("Accuracy of each variant beside shuffled answers.", tuple(columns), tuple(rows))


_SHUFFLED = ("accuracy", "accuracy_shuffled")


def _checked(opened: OpenExperiment) -> Iterator[Checked]:
    of_variants, of_cells = variant_checks_of(opened), checks_of(opened)
    for stored in current_variants(opened):
        yield Checked(f"Prompt {stored.variant}", of_variants.get(stored.variant, ()))
    for stored, _ in compared_cells(opened).present:
        yield Checked(str(stored.cell), of_cells.get(stored.cell, ()))


def _limits(experiment: Experiment, whole: Experiment) -> Iterator[str]:
    yield (
        f"One model and one set of {plural(whole.problems.count, 'problem')}, drawn by a hash of seed and id: the "
        "figures say how much they would vary over problems like these, and nothing about other ones."
    )
    yield (
        f"{plural(whole.problems.samples, 'sample')} of one problem are not independent draws; all intervals of "
        f"{experiment.statistics.confidence:.0%} are clustered by problem."
    )
    yield "A trigger is a word. Whether the model reconsiders anything after it is another question."
    yield (
        "Truncated and degenerate completions count as they are: a loop of triggers raises the strict rate. Their "
        "shares stand beside it."
    )
