"""All assets of an experiment."""

import warnings

import dagster as dg

from backtracking_assets.assets.cells import cell_assets
from backtracking_assets.assets.component_means import means_assets
from backtracking_assets.assets.continuation import continuation_assets
from backtracking_assets.assets.sources import source_assets
from backtracking_assets.assets.sweep import sweep_assets
from backtracking_assets.assets.variants import variant_assets
from backtracking_assets.experiment import Experiment


def experiment_assets(experiment: Experiment) -> list[dg.AssetsDefinition]:
    """The sources, the assets of a cell and those of the whole sweep, upstream first."""
    with warnings.catch_warnings():
        # Known and accepted: partitioned check specs (preview) and the mapping to one dimension (beta). The range of
        # Dagster's version is narrow for their sake.
        warnings.simplefilter("ignore", dg.PreviewWarning)
        warnings.simplefilter("ignore", dg.BetaWarning)
        return [
            *source_assets(experiment),
            *means_assets(experiment),
            *variant_assets(experiment),
            *cell_assets(experiment),
            *continuation_assets(experiment),
            *sweep_assets(experiment),
        ]
