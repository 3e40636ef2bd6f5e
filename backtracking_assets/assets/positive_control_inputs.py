"""What the positive control is computed from, and whether what is stored of it is current."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from backtracking_assets.analysis.planted_truth import PlantedTruth, read_truth
from backtracking_assets.analysis.positive_control import POSITIVE_CONTROL_VERSION, Scores
from backtracking_assets.analysis.statistics_settings import statistics_digest
from backtracking_assets.assets.contents import primary_measure
from backtracking_assets.assets.continuing import stored_digest
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.page_files import has_version
from backtracking_assets.assets.scan_scores import scan_digest
from backtracking_assets.conditions import digest
from backtracking_assets.errors import BacktrackingError, ExperimentError
from backtracking_assets.experiment import Experiment
from backtracking_assets.experiment_file import load_experiment
from backtracking_assets.measures import MEASURES
from backtracking_assets.positive_control_plan import PositiveControl
from backtracking_assets.records import Cell
from backtracking_assets.storage import queries

_CHECKSUMS, _WEIGHTS = "SHA256SUMS", "model.safetensors"


@dataclass(frozen=True)
class StoredControl:
    """What is stored of the positive control: rows of both of its tables."""

    components: pa.Table
    figures: pa.Table


def settings_of(experiment: Experiment) -> PositiveControl:
    """The section of the experiment file.

    Raises:
        ExperimentError: it has none.
    """
    if experiment.positive_control is None:
        raise ExperimentError(
            f"{experiment.source} has no section positive_control, which says where the truth about its model stands; "
            "only a model whose backtracking was planted has one, as docs/positive-control.md describes it."
        )
    return experiment.positive_control


def known_truth(opened: OpenExperiment) -> PlantedTruth:
    """The truth about the experiment's checkpoint.

    Raises:
        ExperimentError: the file is missing or malformed, or is about other weights.
    """
    path = opened.experiment.resolve(settings_of(opened.experiment).known_truth)
    truth = read_truth(path)
    folder = opened.checkpoint.folder
    if path.parent.resolve() != folder.resolve():
        raise ExperimentError(
            f"positive_control.known_truth: {path} is not in the checkpoint's folder {folder}; a truth is about the "
            "weights that it lies beside."
        )
    _refuse_other_weights(path, truth)
    return truth


def _refuse_other_weights(path: Path, truth: PlantedTruth) -> None:
    """Training wrote the sums of the weights and of the truth about them together."""
    sums = path.parent / _CHECKSUMS
    try:
        listed = {line.partition("  ")[2]: line.partition("  ")[0] for line in sums.read_text("utf-8").splitlines()}
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(
            f"positive_control.known_truth: {sums} cannot be read, so whether the truth is about these weights cannot "
            "be told; take the organism's whole folder."
        ) from error
    with (path.parent / _WEIGHTS).open("rb") as file:
        there = {_WEIGHTS: hashlib.file_digest(file, "sha256").hexdigest(), path.name: truth.digest}
    for name, found in there.items():
        if listed.get(name) != found:
            raise ExperimentError(
                f"positive_control.known_truth: {path.parent / name} is not the file that {sums} lists, so the truth "
                "is about other weights; take the organism's whole folder."
            )


def sweep_differences(opened: OpenExperiment) -> dict[str, dict]:
    """The sweep's comparison of the primary measure at the lowest scale, by subset: rows of `records.COMPARISONS`."""
    experiment = opened.experiment
    measure, lowest = sweep_measure(experiment), min(experiment.scales)
    planned = set(experiment.planned_cells())
    return {
        row["layer_subset"]: row
        for row in queries.comparisons(opened.layout).to_pylist()
        if row["metric"] == measure
        and row["scale"] == lowest
        and row["difference"] is not None
        and Cell(row["layer_subset"], lowest) in planned
    }


def sweep_measure(experiment: Experiment) -> str:
    """Name of the measure by which the sweep ranks layer subsets."""
    return primary_measure(experiment) or MEASURES["strict_rate"].name


def control_digest(opened: OpenExperiment, truth: PlantedTruth) -> str:
    """Digest of what the figures are computed from."""
    settings = settings_of(opened.experiment)
    return digest(
        {
            "version": POSITIVE_CONTROL_VERSION,
            "truth": truth.digest,
            "margin": settings.margin,
            "scan": scan_digest(opened),
            "statistics": statistics_digest(opened.experiment.statistics),
            "sweep": [[name, row["difference"]] for name, row in sorted(sweep_differences(opened).items())],
            "controls": [[control.of, control.draws] for control in opened.experiment.controls.random],
        }
    )


def stored_control(opened: OpenExperiment) -> StoredControl | None:
    """The stored figures; None where they are missing or computed from something else."""
    if opened.experiment.positive_control is None or scan_digest(opened) is None:
        return None
    components = queries.positive_control_components(opened.layout)
    figures = queries.positive_control_figures(opened.layout)
    wanted = [control_digest(opened, known_truth(opened))]
    if any(table["control_digest"].unique().to_pylist() != wanted for table in (components, figures)):
        return None
    return StoredControl(components, figures)


def held_control_digest(opened: OpenExperiment) -> str | None:
    """Digest of what the stored figures were computed from, whether it is current or not; None where there are none."""
    digests = queries.positive_control_figures(opened.layout)["control_digest"].unique().to_pylist()
    return digests[0] if digests else None


def judged_on(experiment: Experiment) -> OpenExperiment | None:
    """The organism that the method is judged on; None where the section names none.

    Raises:
        ExperimentError: its experiment cannot be read, or is no positive control itself.
    """
    name = settings_of(experiment).judged_on
    if name is None:
        return None
    other = load_experiment(name)
    settings_of(other)
    return OpenExperiment(other, download=False)


def control_page_version(opened: OpenExperiment) -> str:
    """Digest of what the page shows: this organism's figures and those of the other."""
    other = judged_on(opened.experiment)
    try:
        beside = [] if other is None else list(_shown(other))
    except BacktrackingError:  # another process holds that store, for example; the page says so, and is outdated later
        beside = ["unreadable"]
    return digest([list(_shown(opened)), beside])


def _shown(opened: OpenExperiment) -> Iterator[str | None]:
    stored = stored_control(opened)
    yield None if stored is None else stored.figures["control_digest"][0].as_py()
    yield stored_digest(opened)
    yield str(settings_of(opened.experiment).tuned_here)


def control_page_path(opened: OpenExperiment) -> Path:
    """Where the page stands."""
    return opened.layout.reports / "positive_control.html"


def positive_control_is_done(opened: OpenExperiment) -> bool:
    """Whether there is nothing to do: figures and page are current, or the experiment file has no such section."""
    if opened.experiment.positive_control is None:
        return True
    return stored_control(opened) is not None and has_version(control_page_path(opened), control_page_version(opened))


def required_scores(scores: list[Scores]) -> list[Scores]:
    """The scan's scores.

    Raises:
        BacktrackingError: there is no scan.
    """
    if not scores:
        raise BacktrackingError(
            "There is no scan of components to hold against the truth; materialize component_importance first."
        )
    return scores
