"""The sections of phase 1's page, in the order in which they are read: where each comes from and what it shows."""

from collections.abc import Callable
from dataclasses import dataclass

from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.reporting.sections import Section, not_measured


@dataclass(frozen=True)
class SectionSource:
    """A whole-study asset that phase 1's page shows."""

    asset: str
    job: str
    """What `backtracking sweep EXPERIMENT --job` takes to make it."""
    title: str
    version: Callable[[OpenExperiment], str | None]
    """Digest of what the section would show; None where it is not stored, or older than its inputs."""
    build: Callable[[OpenExperiment], Section]
    """The section from what is stored; called only where there is a version."""


def section_of(source: SectionSource, opened: OpenExperiment, experiment_name: str) -> Section:
    """The section, or the sentence that it is not measured yet."""
    if source.version(opened) is None:
        return not_measured(source.title, f"backtracking sweep {experiment_name} --job {source.job}")
    return source.build(opened)
