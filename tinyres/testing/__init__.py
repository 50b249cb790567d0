"""For testing numerical code, this package's and yours: `gradcheck`, and Hypothesis strategies.

The strategies need Hypothesis: ``import tinyres.testing.strategies``, after ``pip install hypothesis``.
"""

from tinyres.testing.gradcheck import GradcheckError, gradcheck

__all__ = ["GradcheckError", "gradcheck"]
