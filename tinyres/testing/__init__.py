"""Tools to test numerical code, in this package and in yours: `gradcheck`, Hypothesis strategies, and mutants.

The strategies need Hypothesis: ``import tinyres.testing.strategies``, after ``pip install 'tinyres[testing]'``.
"""

from tinyres.testing.gradcheck import GradcheckError, gradcheck
from tinyres.testing.vjp import check_vjp

__all__ = ["GradcheckError", "check_vjp", "gradcheck"]
