"""What every section of an experiment file is made of: a model that refuses unknown keys, names and finite numbers."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=80)]
Seed = Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)]
Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class Section(BaseModel):
    """A section of an experiment file: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)
