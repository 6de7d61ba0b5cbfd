"""The only folder that imports ray: sessions, hosts, the coordinator and sweeps."""

import os

# Ray reads these when it is imported, so they are set before any file of this folder can import it.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # a sweep has its own words
os.environ.setdefault("RAY_AUTH_MODE", "token")  # which one is up to `doors`
