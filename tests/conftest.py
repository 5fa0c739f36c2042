"""Property tests: no deadline (CI machines stall), and the same examples on every CI run."""

import os

from hypothesis import settings

settings.register_profile("migrl", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("migrl")
