"""The manifests are of KubeRay's form, closed, and without root; no cluster has run them here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from codex_ray.cluster.certificates import NodeFiles

FOLDER = Path("cluster/kuberay")
SCHEMA = json.loads(Path("tests/vectors/kuberay_v1.json").read_text())
KINDS = {"ray-cluster": "RayCluster", "ray-job": "RayJob", "ray-service": "RayService"}


def manifest(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((FOLDER / f"{name}.yaml").read_text()))


def cluster(name: str) -> dict[str, Any]:
    """What a manifest says of its Ray cluster."""
    spec = manifest(name)["spec"]
    return dict(spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec)


def pods(name: str) -> Iterator[dict[str, Any]]:
    """Every pod template of a manifest."""
    spec = cluster(name)
    yield spec["headGroupSpec"]["template"]
    for group in spec["workerGroupSpecs"]:
        yield group["template"]
    if submitter := manifest(name)["spec"].get("submitterPodTemplate"):
        yield submitter


def validate(name: str, spec: dict[str, Any]) -> None:
    jsonschema.validate(spec, {"$ref": f"#/$defs/{KINDS[name]}", "$defs": SCHEMA["$defs"]})


@pytest.mark.parametrize("name", KINDS)
def test_it_is_of_kuberays_form(name: str) -> None:
    found = manifest(name)
    assert (found["apiVersion"], found["kind"]) == ("ray.io/v1", KINDS[name])
    validate(name, found["spec"])
    broken = deepcopy(found["spec"])
    target = broken.get("rayClusterSpec") or broken.get("rayClusterConfig") or broken
    target["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0  # KubeRay takes words only
    with pytest.raises(jsonschema.ValidationError):
        validate(name, broken)


@pytest.mark.parametrize("name", KINDS)
def test_it_is_closed(name: str) -> None:
    spec = cluster(name)
    assert spec["authOptions"] == {"mode": "token", "secretName": "codex-ray-token"}
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    ray = [pod["spec"]["containers"][0] for pod in pods(name)][:2]
    for holder in (*ray, spec["autoscalerOptions"]):
        environment = {one["name"]: one.get("value", "") for one in holder["env"]}
        # Half-set TLS is refused by the same function that a node is checked with.
        assert NodeFiles.named_by(environment) == NodeFiles.under(Path("/tls/node"))
        assert {"name": "tls", "mountPath": "/tls"} in holder["volumeMounts"]


@pytest.mark.parametrize("name", KINDS)
def test_nothing_is_root_or_writable_but_what_has_to_be(name: str) -> None:
    for pod in pods(name):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 1000
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "limits" in container["resources"]
            mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
            assert mounted <= {volume["name"] for volume in spec["volumes"]}
            # Only what issues a certificate sees the authority's key.
            assert ("authority" in mounted) == (container["name"] == "certificate")
    workers = cluster(name)["workerGroupSpecs"]
    assert all(not one["template"]["spec"]["automountServiceAccountToken"] for one in workers)


def test_the_three_have_one_cluster_between_them() -> None:
    assert cluster("ray-cluster") == cluster("ray-service")
    job = cluster("ray-job")
    for pod in (job["headGroupSpec"], *job["workerGroupSpecs"]):
        spec = pod["template"]["spec"]
        spec["volumes"] = [one for one in spec["volumes"] if one["name"] != "runs"]
        mounts = spec["containers"][0]["volumeMounts"]
        spec["containers"][0]["volumeMounts"] = [one for one in mounts if one["name"] != "runs"]
    assert job == cluster("ray-cluster")


def test_the_policy_stands_before_every_pod_and_lets_only_the_cluster_in() -> None:
    policies = list(yaml.safe_load_all((FOLDER / "network-policy.yaml").read_text()))
    chosen = policies[0]["spec"]["podSelector"]["matchLabels"]
    for name in KINDS:
        for pod in pods(name):
            assert chosen.items() <= pod["metadata"]["labels"].items()
    assert policies[0]["spec"]["policyTypes"] == ["Ingress", "Egress"]
    for rule in policies[0]["spec"]["ingress"]:
        own = rule["from"] == [{"podSelector": {"matchLabels": chosen}}]
        assert own or [port["port"] for port in rule["ports"]] in ([8265], [8000])


def test_no_secret_is_in_any_of_them() -> None:
    for file in FOLDER.iterdir():
        documents = list(yaml.safe_load_all(file.read_text()))
        assert all(document["kind"] != "Secret" for document in documents)
        assert "BEGIN" not in file.read_text()
