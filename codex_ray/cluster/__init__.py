"""The only folder that imports ray: sessions, hosts, the coordinator and sweeps."""

import os
import secrets

# Ray reads these when it is imported, so they are set before any file of this folder can import it.
# A session of our own demands a token that only its processes know.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # a sweep has its own words
if "RAY_ADDRESS" not in os.environ and "RAY_AUTH_MODE" not in os.environ:
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
