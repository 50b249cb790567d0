"""`tinyres study NAME`: each command runs a study, prints its numbers, and writes the numbers and a picture."""

from tinyres.study.commands import (  # noqa: F401  # each adds its command to the app
    batch_norm,
    bottleneck,
    degradation,
    explain,
    gradcheck,
    gradient_flow,
    gym,
    identity_path,
    landscape,
    memory,
    responses,
    skip_path,
    warm_up,
)
from tinyres.study.commands.shared import app

__all__ = ["app"]
