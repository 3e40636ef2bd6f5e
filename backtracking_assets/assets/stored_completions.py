"""The completions that the store holds of a cell or a prompt variant, and what was read in them."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import pyarrow as pa

from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.conditions import digest
from backtracking_assets.storage import queries


@dataclass(frozen=True)
class StoredCompletions:
    """Completions of one condition: those of a set of problems and of the first samples of each."""

    opened: OpenExperiment
    """The experiment that asks for them; of a prompt variant, that of `Experiment.for_variant`."""
    fingerprint: str
    problem_set_digest: str
    n_samples: int
    rules_digest: str | None

    @property
    def detected(self) -> bool:
        """Whether the completions are read by the rules of the experiment file as it is now."""
        return self.rules_digest == self.opened.rules_digest

    @cached_property
    def completions(self) -> pa.Table:
        """Rows of `records.COMPLETIONS`."""
        return queries.completions(
            self.opened.layout,
            self.fingerprint,
            problem_set_digest=self.problem_set_digest,
            n_samples=self.n_samples,
        )

    @cached_property
    def detections(self) -> pa.Table:
        """Rows of `records.DETECTIONS`, by the rules of the experiment file as it is now."""
        return queries.detections(
            self.opened.layout,
            self.fingerprint,
            self.opened.rules_digest,
            problem_set_digest=self.problem_set_digest,
            n_samples=self.n_samples,
        )

    def read_as(self, detections: pa.Table) -> Self:
        """These completions with what the rules of the experiment file have just found in them, which is stored."""
        found = replace(self, rules_digest=self.opened.rules_digest)
        found.__dict__.update(completions=self.completions, detections=detections)  # where the properties are kept
        return found

    def load(self) -> None:
        """Read completions and detections now, such as while a block has the database open; they are kept."""
        _ = self.completions, self.detections

    def completions_version(self) -> str:
        """Digest of which completions these are."""
        return digest([self.fingerprint, self.problem_set_digest, self.n_samples])

    def version(self) -> str:
        """Digest of what figures are computed from: the completions, and the rules they are read by."""
        return digest([self.fingerprint, self.problem_set_digest, self.n_samples, self.rules_digest])

    def metrics_version(self, statistics: str | None = None) -> str:
        """Digest of what the rates are computed from and by which statistics: those of the experiment file."""
        return digest([self.version(), statistics or self.opened.statistics_digest])

    def is_asked_for(self, fingerprint: str) -> bool:
        """Whether these are the completions that the experiment file asks for now, of the condition given."""
        return (
            self.fingerprint == fingerprint
            and self.problem_set_digest == self.opened.problem_set_digest
            and self.n_samples == self.opened.experiment.problems.samples
        )
