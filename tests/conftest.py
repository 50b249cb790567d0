"""One Hypothesis profile for all tests, chosen by HYPOTHESIS_PROFILE: "ci" (the default) or "nightly"."""

import os

from hypothesis import settings

# No deadline: the first example compiles kernels. Derandomized: a test that passed passes again.
settings.register_profile("ci", deadline=None, derandomize=True, max_examples=40)
settings.register_profile("nightly", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
