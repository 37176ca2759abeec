"""Settings shared by all Python tests."""

import os

import matplotlib
from hypothesis import HealthCheck, settings

matplotlib.use("Agg")

# "ci": the same examples in every run, so that a red build is never a matter of luck.
# "explore" (BETATRON_HYPOTHESIS=explore): many fresh random examples, for a search overnight.
settings.register_profile(
    "ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("BETATRON_HYPOTHESIS", "ci"))
