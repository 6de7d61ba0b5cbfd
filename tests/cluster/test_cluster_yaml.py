"""cluster.yaml is one that Ray's own launcher accepts, closed, and without a secret in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

FILE = Path("cluster.yaml")


def test_rays_own_validator_accepts_it() -> None:
    validate_config(prepare_config(yaml.safe_load(FILE.read_text())))


def test_rays_validator_would_refuse_a_wrong_key() -> None:
    broken = yaml.safe_load(FILE.read_text()) | {"initial_workers": 2}
    with pytest.raises(Exception, match="initial_workers"):
        validate_config(prepare_config(broken))


def test_every_node_demands_the_token_and_the_head_carries_no_clients() -> None:
    config = yaml.safe_load(FILE.read_text())
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        starts = [line for line in config[key] if "ray start" in line]
        assert starts and all("RAY_AUTH_MODE=token" in line for line in starts)
    assert "--dashboard-host=127.0.0.1" in " ".join(config["head_start_ray_commands"])
    assert config["available_node_types"]["head"]["resources"]["CPU"] == 0


def test_no_secret_is_in_it() -> None:
    assert not re.search(r"[0-9a-fA-F]{32,}|AKIA|aws_secret|password", FILE.read_text())
