"""An experiment with its sources at hand: problems, checkpoint facts and the conditions that follow from them."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from backtracking_assets.analysis.detection import rules_digest
from backtracking_assets.assets.checkpoint_watch import refuse_other_checkpoint
from backtracking_assets.conditions import Condition, Intervention, canonical_intervention, digest, problem_set_digest
from backtracking_assets.experiment import Experiment
from backtracking_assets.models.checkpoint import Checkpoint, check_fits, inspect, locate
from backtracking_assets.problems import load_problems
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

    def condition(self, cell: Cell) -> Condition:
        """The condition of a cell. At scale 1.0 it is the baseline, whatever the subset."""
        components = self.experiment.all_subsets()[cell.layer_subset].components()
        return self._condition(canonical_intervention(components, cell.scale))

    def baseline_condition(self) -> Condition:
        """The condition of the experiment's prompt variant without intervention."""
        return self._condition(None)

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


def component_names(experiment: Experiment, layer_subset: str) -> list[str]:
    """Components of a subset as people write them, such as `attention.15`."""
    return [f"{component}.{layer}" for layer, component in experiment.all_subsets()[layer_subset].components()]
