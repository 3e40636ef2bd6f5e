"""Reading which components were selected, of this study or of an imported run."""

import json
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from backtracking_assets.records import Component
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.parquet import DamagedFileError

SELECTION_FILE = "selected_components.json"

_Layers = tuple[Annotated[int, Field(strict=True, ge=0)], ...]


class Selection(BaseModel):
    """Components by the criterion that ranked them, the best first."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    digest: str
    """Of what the ranking was computed from, or of the imported run."""
    criterion: str
    attention: _Layers
    mlp: _Layers

    def layers(self, kind: Component) -> tuple[int, ...]:
        return self.attention if kind == "attention" else self.mlp


def selection_path(layout: StoreLayout, source: str) -> Path:
    """Where the selection of a source stands: of `selected_components`, or of `imported/<run id>`."""
    folder = layout.root / source if source.startswith("imported/") else layout.root
    return folder / SELECTION_FILE


def read_selection(layout: StoreLayout, source: str) -> Selection | None:
    """The selection of a source; None where there is none.

    Raises:
        DamagedFileError: the file cannot be read or is no selection.
    """
    path = selection_path(layout, source)
    try:
        selection = Selection.model_validate(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        reason = f"cannot be read ({error.strerror})" if isinstance(error, OSError) else "is no selection"
        if isinstance(error, ValidationError):
            reason += f" ({error.errors()[0]['loc'][0] if error.errors()[0]['loc'] else 'no object'})"
        raise DamagedFileError(path, reason) from error
    for kind in ("attention", "mlp"):
        if len(set(selection.layers(kind))) != len(selection.layers(kind)):
            raise DamagedFileError(path, f"is no selection ({kind} names a layer twice)")
    return selection
