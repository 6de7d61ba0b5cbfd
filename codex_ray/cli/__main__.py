"""`python -m codex_ray.cli`, the same as `codex-ray`."""

import sys

from codex_ray.cli import main

sys.exit(main())
