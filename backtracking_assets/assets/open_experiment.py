"""An experiment with its sources at hand: problems, checkpoint facts and the conditions that follow from them."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from backtracking_assets.analysis.detection import rules_digest
from backtracking_assets.analysis.statistics_settings import statistics_digest
from backtracking_assets.assets.checkpoint_watch import refuse_other_checkpoint
from backtracking_assets.assets.compositions import compose
from backtracking_assets.conditions import Composition, Condition, Intervention, digest, problem_set_digest
from backtracking_assets.errors import WaitingError
from backtracking_assets.experiment import Experiment
from backtracking_assets.layer_subsets import Subset
from backtracking_assets.models.checkpoint import Checkpoint, check_fits, inspect, locate
from backtracking_assets.plan import BASELINE_SCALE
from backtracking_assets.problems import load_problems, problems_of_means
from backtracking_assets.records import Cell, Problem
from backtracking_assets.storage.layout import StoreLayout


class OpenExperiment:
    """Reads each source once, when it is first asked for. Needs no torch.

    Whatever runs for long opens an experiment anew for each cell, so that a changed source is seen.
    """

    def __init__(self, experiment: Experiment, *, download: bool = True, layout: StoreLayout | None = None) -> None:
        self.experiment = experiment
        self.layout = layout or StoreLayout(experiment.outputs_dir())
        self._download = download
        self._compositions: dict[str, Composition] = {}
        self._conditions: dict[Cell, Condition] = {}

    @cached_property
    def problems(self) -> Mapping[str, Problem]:
        """The drawn problems by id, in the order in which they are asked."""
        return {problem.problem_id: problem for problem in load_problems(self.experiment, download=self._download)}

    @cached_property
    def problem_set_digest(self) -> str:
        return problem_set_digest(self.problems.values())

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """Facts of the checkpoint. File digests are remembered in the output folder."""
        checkpoint = inspect(locate(self.experiment, download=self._download), self.layout.root)
        refuse_other_checkpoint(checkpoint)
        check_fits(checkpoint, self.experiment)
        return checkpoint

    @cached_property
    def rules_digest(self) -> str:
        return rules_digest(self.experiment.detection)

    @cached_property
    def statistics_digest(self) -> str:
        return statistics_digest(self.experiment.statistics)

    @cached_property
    def subsets(self) -> Mapping[str, Subset]:
        """All subsets by name. `Experiment.all_subsets` draws the random ones anew at each call."""
        return self.experiment.all_subsets()

    @cached_property
    def sampling_digest(self) -> str:
        """Digest of all that decides how prompts are made and tokens drawn."""
        return digest(
            {
                "prompting": self._prompting(),
                "sampling": self.experiment.sampling.model_dump(mode="json"),
                "samples": self.experiment.problems.samples,
            }
        )

    def keys(self) -> list[tuple[str, int]]:
        """The keys (problem id, sample id) of a cell's completions, in the order in which they are made."""
        samples = range(self.experiment.problems.samples)
        return [(problem_id, sample_id) for problem_id in self.problems for sample_id in samples]

    def composition(self, layer_subset: str) -> Composition:
        """What a layer subset acts on.

        Raises:
            WaitingError: it is scaled towards means, or derived from a ranking, and those are not there yet.
        """
        if layer_subset not in self._compositions:
            self._compositions[layer_subset] = compose(self, layer_subset)
        return self._compositions[layer_subset]

    def waits_for(self, layer_subset: str) -> WaitingError | None:
        """What a layer subset waits for; None where all of it is there."""
        try:
            self.composition(layer_subset)
        except WaitingError as waiting:
            return waiting
        return None

    @cached_property
    def held_out(self) -> "OpenExperiment":
        """The same experiment, asking the problems that means are taken from in place of its own."""
        return _HeldOut(self, download=self._download)

    @cached_property
    def baseline(self) -> Condition:
        """The condition without intervention, which every subset has at scale 1.0."""
        return self._condition(None)

    def condition(self, cell: Cell) -> Condition:
        """The condition of a cell. At scale 1.0 it is the baseline, whatever the subset.

        Raises:
            WaitingError: see `composition`.
        """
        if cell.scale == BASELINE_SCALE:
            return self.baseline
        if cell not in self._conditions:
            self._conditions[cell] = self._condition(self.composition(cell.layer_subset).at(cell.scale))
        return self._conditions[cell]

    def condition_if_known(self, cell: Cell) -> Condition | None:
        """The condition of a cell; None while its subset waits for what it is made of."""
        try:
            return self.condition(cell)
        except WaitingError:
            return None

    def for_variant(self, name: str) -> "OpenExperiment":
        """This experiment with another prompt variant, on phase 1's problems and samples; in the same store.

        Raises:
            ExperimentError: see `Experiment.for_variant`.
        """
        return OpenExperiment(self.experiment.for_variant(name), download=self._download, layout=self.layout)

    def _condition(self, intervention: Intervention | None) -> Condition:
        sampling = self.experiment.sampling
        return Condition(
            weights_digest=self.checkpoint.weights_digest,
            tokenizer_digest=self.checkpoint.tokenizer_digest,
            dtype=self.experiment.model.dtype,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_new_tokens=sampling.max_new_tokens,
            seed=sampling.seed,
            intervention=intervention,
            **self._prompting(),
        )

    def _prompting(self) -> dict[str, Any]:
        prompting = self.experiment.prompting
        facts: dict[str, Any] = {
            "system": prompting.system,
            "chat_template": prompting.chat_template,
            "template": prompting.variants[prompting.variant],
        }
        if prompting.variant in prompting.assistant_prefix:
            facts["assistant_prefix"] = prompting.assistant_prefix[prompting.variant]
        return facts


class _HeldOut(OpenExperiment):
    def __init__(self, opened: OpenExperiment, *, download: bool) -> None:
        asked = opened.experiment
        means = {"count": asked.means.problems, "samples": asked.means.samples}
        problems = asked.problems.model_copy(update=means)
        super().__init__(asked.model_copy(update={"problems": problems}), download=download, layout=opened.layout)
        self._asked = asked

    @cached_property
    def problems(self) -> Mapping[str, Problem]:
        found = problems_of_means(self._asked, download=self._download)
        return {problem.problem_id: problem for problem in found}


def component_names(opened: OpenExperiment, layer_subset: str) -> list[str]:
    """Parts of a subset as people write them, such as `attention.15`; or what it waits for."""
    waiting = opened.waits_for(layer_subset)
    return opened.composition(layer_subset).names() if waiting is None else [f"waits for.{waiting.asset}"]
