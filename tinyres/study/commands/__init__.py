"""`tinyres study NAME`: each command runs a study, prints its numbers, and writes them and a picture."""

from tinyres.study.commands import (
    bottleneck,
    degradation,
    explain,
    gradcheck,
    gradient_flow,
    gym,
    landscape,
    memory,
    skip_path,
)
from tinyres.study.commands.shared import app

__all__ = [
    "app",
    "bottleneck",
    "degradation",
    "explain",
    "gradcheck",
    "gradient_flow",
    "gym",
    "landscape",
    "memory",
    "skip_path",
]
