"""The positive control's page: does the method find what was planted?"""

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import pandas as pd

from backtracking_assets.positive_control_records import KINDS
from backtracking_assets.reporting.formats import NOT_MEASURED, format_components, format_p, join_names, plural
from backtracking_assets.reporting.page import render_page
from backtracking_assets.reporting.positive_control_contents import ControlReport, ControlResults, ScaledSubset
from backtracking_assets.reporting.positive_control_figures import importance_figure, precision_recall_figure
from backtracking_assets.reporting.positive_control_verdict import (
    MAIN_MODE,
    QUESTION,
    RULES,
    interval_of,
    ranking_figures,
    signed_interval,
    verdict,
    ways,
)
from backtracking_assets.reporting.sections import Section, SectionTable, draw_picture
from backtracking_assets.reporting.tables import Column

_FIGURES = (
    ("precision_at_k", "first k true", "Share of the first k that are true, where k are: precision, and also recall."),
    ("recall_at_2k", "true among first 2k", "Share of the true ones that are among the first 2k: recall."),
    ("average_precision", "average precision", "Mean over the true ones of the precision at their rank."),
    ("roc_auc", "ROC AUC", "Probability that a true one stands before one that is not; 0.5 in a random order."),
)


def render_control_report(report: ControlReport) -> str:
    """The HTML page, complete in one file; the same report gives the same text."""
    return render_page(
        "positive_control.html.j2",
        question=QUESTION,
        study=report.results.study,
        answers=answers(report),
        sections=control_sections(report),
        provenance=report.provenance,
    )


def answers(report: ControlReport) -> tuple[str, ...]:
    """What the page says first: the verdict here, then on the organism that nothing was tuned on."""
    here = report.results
    first = f"On {here.study.name}: {verdict(here)}"
    if here.tuned_here:
        first += " The method was tuned on this organism, so this alone is no evidence for it."
    if report.other is not None:
        tuned = "" if report.other.tuned_here else ", on which nothing was tuned"
        return first, f"On {report.other.study.name}{tuned}: {verdict(report.other)}"
    return (first, report.other_absent_because) if report.other_absent_because else (first,)


def control_sections(report: ControlReport) -> tuple[Section, ...]:
    """The sections of the page: of this organism, then of the one that the method is judged on."""
    listed = [*_sections(report.results, "")]
    if report.other is not None:
        name = report.other.study.name
        found = tuple(way.sentence for way in ways(report.other))
        listed.append(Section(f"Judged on {name}", (verdict(report.other), *found)))
        listed += _sections(report.other, f"{name}: ")
    elif report.other_absent_because:
        listed.append(Section("Judged on another organism", absent_because=report.other_absent_because))
    listed.append(Section("When it counts as found", limits=(*RULES, *_limits(report.results))))
    return tuple(listed)


def _sections(results: ControlResults, prefix: str) -> Iterator[Section]:
    yield _truth(results, prefix)
    yield _scan(results, prefix)
    _, one_position, sweep = ways(results)
    yield _subsets(
        f"{prefix}Scaling right before an event",
        one_position.sentence,
        "Onset token's probability at the baseline's events, minus the unscaled run, paired by event.",
        results.one_position,
    )
    yield _subsets(
        f"{prefix}The sweep, planted subsets beside the others",
        sweep.sentence,
        f"{results.sweep_measure} at the lowest scale, minus the baseline, paired by problem and sample.",
        results.sweep,
    )


def _truth(results: ControlResults, prefix: str) -> Section:
    not_causal = [name for name in results.planted if name not in results.causal]
    causal = f"All {len(results.planted)} planted components are causal"
    if not_causal:
        n_causal, n_planted = len(results.causal), len(results.planted)
        causal = f"{n_causal} of the {n_planted} planted components are causal, not {join_names(not_causal)}"
    rows = [
        (
            row.name,
            interval_of(row.drop, row.low, row.high),
            f"{row.after_wrong_step:.2f}",
            f"{row.after_right_step:.2f}",
            NOT_MEASURED if row.causal is None else "yes" if row.causal else "no",
        )
        for row in results.put_back
    ]
    return Section(
        f"{prefix}The truth",
        (
            f"{causal}. A component is causal if putting it back to its weights before it was planted lowers the "
            "probability of a trigger right after an injected wrong step by more than "
            f"{results.margin:g}, with the whole interval. With everything in place that probability is "
            f"{results.after_wrong_step:.2f}, and {results.after_right_step:.2f} after a right step. Planted is what "
            "was trained; causal is what of it makes a difference. What was not planted has never changed, so nothing "
            "of it can be put back.",
        ),
        tables=(
            SectionTable(
                f"Weights put back to those before planting, over {plural(results.probes, 'injected step')}.",
                (
                    Column("weights put back", "left"),
                    Column("drop", "right", "Of the probability of a trigger after an injected wrong step; 95%."),
                    Column("after a wrong step", "right", "What is left of that probability."),
                    Column("after a right step", "right", "The same probability after the right step."),
                    Column("causal", "left"),
                ),
                tuple(rows),
            ),
        ),
    )


def _scan(results: ControlResults, prefix: str) -> Section:
    paragraphs = [ways(results)[0].sentence]
    if results.selected is not None:
        missed = [name for name in results.planted if name not in results.selected.planted]
        paragraphs.append(
            f"Selected for the study: {join_names(results.selected.names)}. {len(results.selected.planted)} of the "
            f"{len(results.planted)} planted components are among them"
            + (f"; {join_names(missed)} {'is' if len(missed) == 1 else 'are'} not." if missed else ".")
        )
    pictures = (
        draw_picture(
            lambda narrow: importance_figure(results, narrow),
            "Points: importance of every attention block and MLP by layer, planted ones marked. The table of "
            "components gives the figures.",
            f"Mean over {plural(int(results.components['n'].max()), 'event')}, scaled to zero at the one position. "
            "Squares were planted; a number is the layer. The scale is logarithmic away from 0, since what breaks the "
            "model changes everything by far more.",
        ),
        draw_picture(
            lambda narrow: precision_recall_figure(results, narrow),
            "Lines: precision against recall of the causal components for each criterion. The table gives average "
            "precision.",
            "Precision against recall along each criterion's ranking; marks are the causal components, in the order in "
            "which they are found.",
        ),
    )
    return Section(
        f"{prefix}The scan's ranking of components",
        tuple(paragraphs),
        pictures,
        (_ranking_table(results), _component_table(results)),
    )


def _ranking_table(results: ControlResults) -> SectionTable:
    columns = [
        Column("criterion", "left"),
        Column("scaled to", "left"),
        Column("among", "left"),
        Column("truth", "left"),
    ]
    columns += [Column("k of n", "right", "True components of those that are ranked.")]
    columns += [Column(title, "right", meaning) for _, title, meaning in _FIGURES]
    columns += [
        Column("random", "right", "Mean average precision of random orders."),
        Column("p", "right", "Of an average precision at least as high in a random order."),
    ]
    by_figure = ranking_figures(results)
    rows: list[tuple[str, ...]] = []
    shaded: set[int] = set()
    modes = sorted({mode for _, mode, _, _ in by_figure}, key=lambda mode: mode != MAIN_MODE)
    for measure, label in results.labels.items():
        for mode in modes:
            for kind in KINDS:
                for truth in ("causal", "planted"):
                    own = by_figure.get((measure, mode, kind, truth))
                    if own is None or (truth == "planted" and set(results.planted) == set(results.causal)):
                        continue
                    if kind != "all" and measure != results.criterion:
                        continue  # those within a kind are stored, and would make a long table
                    if measure == results.criterion:
                        shaded.add(len(rows))
                    rows.append(_ranking_row(label, mode, kind, truth, own))
    return SectionTable(
        "How well each criterion's ranking finds the true components; shaded, the study's own criterion.",
        tuple(columns),
        tuple(rows),
        frozenset(shaded),
    )


def _ranking_row(label: str, mode: str, kind: str, truth: str, own: dict[str, dict[Hashable, Any]]) -> tuple[str, ...]:
    among = {"all": "all components", "attention": "attention", "mlp": "MLPs"}[kind]
    shown = [interval_of(*(own[name][end] for end in ("estimate", "low", "high"))) for name, _, _ in _FIGURES]
    tested = own["average_precision"]
    return (
        label,
        mode,
        among,
        truth,
        f"{int(tested['n_true'])} of {int(tested['n'])}",
        *shown,
        f"{tested['chance']:.2f}",
        format_p(float(tested["p_value"])),
    )


def _component_table(results: ControlResults) -> SectionTable:
    """The planted components, and what stands before the last of them by the study's criterion."""
    frame = results.components
    own = frame[(frame["measure"] == results.criterion) & (frame["mode"] == MAIN_MODE)].sort_values("rank")
    k = int(own["planted"].sum())
    shown = own[own["planted"] | (own["rank"] <= k)]
    rows = tuple(
        (
            f"{row['component']} {row['layer']}",
            f"{row['rank']}",
            f"{row['rank_of_kind']}",
            f"{row['importance']:.3f}".replace("-", "−"),
            "causal" if row["causal"] else "planted, not causal" if row["planted"] else "not planted",
            NOT_MEASURED if pd.isna(row["drop"]) else interval_of(row["drop"], row["drop_low"], row["drop_high"]),
        )
        for row in shown.to_dict("records")
    )
    return SectionTable(
        f"The first {k} components by the study's criterion, and every planted one.",
        (
            Column("component", "left"),
            Column("rank", "right", "Among all components; what ties stands before a planted one."),
            Column("rank of its kind", "right"),
            Column("importance", "right", results.labels.get(results.criterion, results.criterion)),
            Column("truth", "left"),
            Column("drop when put back", "right", "As in the table of the truth."),
        ),
        rows,
        frozenset(number for number, row in enumerate(rows) if row[4] != "not planted"),
    )


def _subsets(title: str, answer: str, caption: str, subsets: Sequence[ScaledSubset]) -> Section:
    if not subsets:
        return Section(title, absent_because=answer)
    ordered = sorted(subsets, key=lambda subset: (-subset.n_planted / len(subset.components), subset.difference))
    rows = tuple(
        (
            subset.name,
            f"{subset.scale:g}",
            f"{subset.n_planted} of {len(subset.components)}",
            format_components(subset.components),
            subset.control_of or "",
            signed_interval(subset.difference, subset.low, subset.high),
            format_p(subset.p_holm),
        )
        for subset in ordered
    )
    columns = (
        Column("subset", "left"),
        Column("scale", "right"),
        Column("planted", "right", "Of the subset's components."),
        Column("components", "left"),
        Column("draw for", "left", "The targeted subset that a random draw is matched to."),
        Column("difference", "right", caption),
        Column("p (Holm)", "right", "Of the difference, corrected over the interventions or the plan."),
    )
    shaded = frozenset(number for number, subset in enumerate(ordered) if subset.n_planted)
    return Section(title, (answer,), tables=(SectionTable(caption, columns, rows, shaded),))


def _limits(results: ControlResults) -> Iterator[str]:
    yield (
        "An organism is no evidence about any other model: its components were planted late, on purpose and alone. A "
        "method that fails here is not to be trusted elsewhere; one that succeeds may still fail there."
    )
    yield (
        "The truth is about trained components. An unplanted one may be needed as well, such as what computes the "
        "result that a planted one compares with; a ranking that puts it first is counted as wrong here."
    )
    yield (
        f"Intervals of rankings are percentiles of a bootstrap over problems at {results.study.confidence:.0%}; they "
        "hold the components and the truth fixed. p-values of rankings are not corrected over criteria: the verdict "
        "rests on the study's own criterion alone."
    )
