"""The manifests are of KubeRay's form, closed, and without root; no cluster has run them here."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from codex_ray.cluster.certificates import NodeFiles
from codex_ray.cluster.serve_import import application, read_arguments
from codex_ray.serving.front import BODY_BYTES
from codex_ray.serving.limits import Limits
from codex_ray.serving.ray_serve import TOLD

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


@pytest.mark.parametrize("name", KINDS)
def test_it_passes_what_the_operator_itself_checks(name: str) -> None:
    """The rules of KubeRay's operator beyond the schema (controllers/ray/utils/validation.go)."""
    found, spec = manifest(name), cluster(name)
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,39}[a-z0-9])?", found["metadata"]["name"])
    # A token needs a version from which on Ray has them.
    assert tuple(int(part) for part in spec["rayVersion"].split(".")) >= (2, 52, 0)
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert "labels" not in group["rayStartParams"]
        assert not {"resources", "suspend"} & group.keys()
        containers = group["template"]["spec"]["containers"]
        assert len(containers) >= 1
        assert group["template"]["spec"].get("restartPolicy", "Never") == "Never"
        told = {variable["name"] for variable in containers[0]["env"]}
        assert not {"RAY_REDIS_ADDRESS", "REDIS_USERNAME", "RAY_enable_autoscaler_v2"} & told
    job = found["spec"]
    if name == "ray-job":
        assert job["backoffLimit"] >= 0 < job["activeDeadlineSeconds"]
        assert job["shutdownAfterJobFinishes"] or not job["ttlSecondsAfterFinished"]
        assert job["submissionMode"] in ("K8sJobMode", "HTTPMode")
    if name == "ray-service":
        ways = ("NewCluster", "NewClusterWithIncrementalUpgrade", "None")
        assert job["upgradeStrategy"]["type"] in ways
        assert {"http_options", "applications"} <= yaml.safe_load(job["serveConfigV2"]).keys()


def strict(schema: Any) -> Any:
    """A schema of Kubernetes as a JSON schema that refuses what it does not name."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    found = {key: strict(it) for key, it in schema.items() if (key, type(it)) != ("format", str)}
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        found.setdefault("additionalProperties", False)
    return found


@pytest.mark.skipif("CODEX_RAY_KUBERAY_CRDS" not in os.environ, reason="names no folder of CRDs")
@pytest.mark.parametrize("name", KINDS)
def test_it_is_of_the_form_of_the_definitions_that_a_kuberay_installs(name: str) -> None:
    """CODEX_RAY_KUBERAY_CRDS is helm-chart/kuberay-operator/crds of a KubeRay that you have."""
    folder = Path(os.environ["CODEX_RAY_KUBERAY_CRDS"])
    definition = yaml.safe_load((folder / f"ray.io_{KINDS[name].lower()}s.yaml").read_text())
    (schema,) = [
        version["schema"]["openAPIV3Schema"]["properties"]["spec"]
        for version in definition["spec"]["versions"]
        if version["name"] == "v1"
    ]
    jsonschema.validate(manifest(name)["spec"], strict(schema))


def test_a_definition_is_read_as_strictly_as_kubernetes_is_asked_to() -> None:
    memory = {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}]}
    schema = strict(
        {
            "type": "object",
            "properties": {
                "replicas": {"type": "integer", "format": "int32"},
                "limits": {"type": "object", "additionalProperties": memory},
                "pods": {"type": "array", "items": {"properties": {"name": {"type": "string"}}}},
            },
        }
    )
    right = {"replicas": 1, "limits": {"memory": "8Gi", "cpu": 2}, "pods": [{"name": "a"}]}
    jsonschema.validate(right, schema)
    for wrong in ({"replica": 1}, {"replicas": "1"}, {"pods": [{"nam": "a"}]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(right | wrong, schema)


def test_every_claim_that_is_mounted_is_made() -> None:
    made = {}
    for file in FOLDER.iterdir():
        for document in yaml.safe_load_all(file.read_text()):
            if document["kind"] == "PersistentVolumeClaim":
                made[document["metadata"]["name"]] = document["spec"]
    mounted = {
        volume["persistentVolumeClaim"]["claimName"]
        for name in KINDS
        for pod in pods(name)
        for volume in pod["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    }
    assert mounted == made.keys() == {"codex-ray-runs", "codex-ray-models"}
    assert made["codex-ray-runs"]["accessModes"] == ["ReadWriteOnce"]  # of one pod, the head's
    assert made["codex-ray-models"]["accessModes"] == ["ReadWriteMany"]


def test_what_is_served_is_ours_and_its_files_are_where_every_pod_has_them() -> None:
    config = yaml.safe_load(manifest("ray-service")["spec"]["serveConfigV2"])
    (served,) = config["applications"]
    assert served["import_path"] == f"{application.__module__}:{application.__name__}"
    asked = read_arguments(served["args"])
    assert asked.proxies == 1 and config["http_options"].keys() == {
        "host", "port", "request_timeout_s"
    }  # fmt: skip  # TLS ends before it
    for pod in pods("ray-service"):
        mounts = [one["mountPath"] for one in pod["spec"]["containers"][0]["volumeMounts"]]
        for path in (asked.registry, asked.keys, asked.budgets, *asked.trust):
            assert any(str(path) == mount or Path(mount) in path.parents for mount in mounts)


def test_serve_is_told_there_what_it_is_told_by_the_command() -> None:
    for pod in pods("ray-service"):
        given = {it["name"]: it.get("value") for it in pod["spec"]["containers"][0]["env"]}
        assert TOLD.items() <= given.items()
        assert given[BODY_BYTES] == str(Limits().body_bytes)


def test_the_three_have_one_cluster_between_them() -> None:
    own = {"runs", "models", "given", "access"}
    for name in ("ray-job", "ray-service"):
        found = cluster(name)
        for holder in (found["autoscalerOptions"], *_containers(found)):
            holder["env"] = [it for it in holder["env"] if it["name"] not in {*TOLD, BODY_BYTES}]
        for pod in (found["headGroupSpec"], *found["workerGroupSpecs"]):
            spec = pod["template"]["spec"]
            ray = spec["containers"][0]
            ray["volumeMounts"] = [it for it in ray["volumeMounts"] if it["name"] not in own]
            for part in ("volumes", "initContainers"):
                spec[part] = [it for it in spec[part] if it["name"] not in own]
        assert found == cluster("ray-cluster")


def _containers(found: dict[str, Any]) -> list[dict[str, Any]]:
    groups = (found["headGroupSpec"], *found["workerGroupSpecs"])
    return [group["template"]["spec"]["containers"][0] for group in groups]


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
