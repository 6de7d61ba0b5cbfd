"""A policy: a deny wins, silence is a no, and the answer names the statement that gave it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from asking import House

from codex_ray.errors import ConfigError
from codex_ray.serving.patterns import matches
from codex_ray.serving.policy import DEFAULT, Policy, policy_from, read_policy

BUCKET = """
{
  "Version": "2012-10-17",
  "Statement": [
    {
      "Effect": "Allow",
      "Principal": {"AWS": "arn:aws:iam::123456789012:role/MLModelReader"},
      "Action": "s3:GetObject",
      "Resource": "arn:aws:s3:::your-ml-models/*"
    },
    {
      "Effect": "Deny",
      "Principal": "*",
      "Action": ["s3:PutObject", "s3:DeleteObject"],
      "Resource": "arn:aws:s3:::your-ml-models/*"
    }
  ]
}
"""
READER = "arn:aws:iam::123456789012:role/MLModelReader"


@pytest.fixture
def bucket(tmp_path: Path) -> Policy:
    """Least privilege on a bucket of models: read, and neither write nor delete."""
    file = tmp_path / "policy.json"
    file.write_text(BUCKET)
    return read_policy(file)


@pytest.mark.parametrize(
    ("action", "allowed"),
    [("s3:GetObject", True), ("s3:PutObject", False), ("s3:DeleteObject", False)],
)
def test_the_policy_of_a_bucket_of_models(bucket: Policy, action: str, allowed: bool) -> None:
    model = "arn:aws:s3:::your-ml-models/heart/3/model.safetensors"
    assert bucket.decide([READER], action, model).allowed is allowed


def test_what_nobody_allowed_is_denied(bucket: Policy) -> None:
    model = "arn:aws:s3:::your-ml-models/x"
    assert not bucket.decide([READER], "s3:ListBucket", model).allowed
    assert not bucket.decide(["somebody"], "s3:GetObject", model).allowed
    assert not bucket.decide([READER], "s3:GetObject", "arn:aws:s3:::your-ml-models").allowed
    assert not bucket.decide([], "s3:GetObject", model).allowed


def test_the_same_policy_holds_at_the_door(house: House) -> None:
    text = BUCKET.replace("s3:", "model:").replace("arn:aws:model:::your-ml-models/*", "model/*")
    policy = policy_from(json.loads(text.replace("model:::your-ml-models/*", "model/*")))
    house.changes = {"policy": policy}
    house.app = house.fresh()
    key = house.new_key("reader", roles=(READER,), scopes=("*",))
    house.app._keys.refresh()
    read = house.get("/v1/model", key=key)
    assert (read.status, read.body) == (200, b"the weights")
    for method in ("PUT", "DELETE"):
        said = house.ask(house.request(method, "/v1/model", key=key))[0]
        assert (said.status, said.code) == (403, "forbidden")
    log = (house.folder / "access.jsonl").read_text().splitlines()
    assert [json.loads(line)["decided_by"] for line in log] == [
        "allowed by statement 1",
        "denied by statement 2",
        "denied by statement 2",
    ]


def test_whoever_may_write_finds_a_wall(house: House) -> None:
    anything = {"Statement": {"Effect": "Allow", "Principal": "*", "Action": "*"}}
    house.changes = {"policy": policy_from(anything)}
    house.app = house.fresh()
    said = house.ask(house.request("PUT", "/v1/model"))[0]
    assert (said.status, said.headers["allow"]) == (405, "GET")


def test_a_deny_wins_wherever_it_stands() -> None:
    allow = {"Sid": "Yes", "Effect": "Allow", "Action": "model:*"}
    deny = {"Sid": "No", "Effect": "Deny", "Principal": "intern", "Action": "model:Get*"}
    for order in ([allow, deny], [deny, allow]):
        policy = policy_from({"Statement": order})
        assert policy.decide(["user"], "model:GetCard", "x").words == "allowed by Yes"
        assert policy.decide(["intern"], "model:GetCard", "x").words == "denied by No"
        # A second role does not outvote the first one's deny.
        assert policy.decide(["user", "intern"], "model:GetCard", "x").words == "denied by No"
        assert policy.decide(["intern"], "model:Predict", "x").allowed


def test_a_resource_is_a_version_too(house: House) -> None:
    only_2 = {"Statement": [{"Effect": "Allow", "Action": "*", "Resource": "model/heart/2"}]}
    house.changes = {"policy": policy_from(only_2)}
    house.app = house.fresh()
    assert house.predict().code == "forbidden"


@pytest.mark.parametrize(
    "change",
    [
        {"Condition": {"Bool": {"aws:MultiFactorAuthPresent": "true"}}},
        {"NotAction": "s3:*"},
        {"Effect": "deny"},
        {"Action": []},
        {"Action": 1},
        {"Resource": ""},
    ],
)
def test_what_would_not_be_enforced_is_refused(change: dict[str, object]) -> None:
    statement = {"Effect": "Deny", "Action": "s3:*", **change}
    with pytest.raises(ConfigError):
        policy_from({"Statement": [statement]})


def test_without_a_policy_nobody_fetches_or_changes_a_model() -> None:
    roles = ("user", "researcher", "data_owner", "auditor", "monitor", "admin", "project_admin")
    for role in (*roles, "*"):
        for action in ("model:GetObject", "model:PutObject", "model:DeleteObject"):
            assert not DEFAULT.decide([role], action, "model/heart/1").allowed
    assert DEFAULT.decide(["user"], "model:Predict", "model/heart/1").allowed


@pytest.mark.parametrize(
    ("role", "may"),
    [
        ("user", {"Predict", "GetCard"}),
        ("researcher", {"Predict", "GetCard"}),
        ("data_owner", {"GetCard"}),
        ("auditor", {"GetCard", "Get"}),
        ("monitor", {"Get"}),
        ("admin", {"Predict", "GetCard", "Get"}),
        ("project_admin", {"Predict", "GetCard", "Get"}),
        ("somebody", set()),
    ],
)
def test_what_each_role_may_without_a_policy(role: str, may: set[str]) -> None:
    actions = ("model:Predict", "model:GetCard", "metrics:Get")
    allowed = {it for it in actions if DEFAULT.decide([role], it, "model/heart/1").allowed}
    assert {it.partition(":")[2] for it in allowed} == may


@pytest.mark.parametrize(
    ("pattern", "text", "does"),
    [
        ("*", "", True),
        ("a*c", "abbbc", True),
        ("a*c", "abcd", False),
        ("a*b*c", "aXbXbXc", True),
        ("**", "x", True),
        ("a.c", "abc", False),
        ("[ab]", "a", False),
        ("a?", "ab", False),
        ("", "", True),
        ("", "a", False),
    ],
)
def test_a_star_is_the_only_wildcard(pattern: str, text: str, does: bool) -> None:
    assert matches(pattern, text) is does


def test_many_stars_take_no_time() -> None:
    assert not matches("*a" * 40 + "b", "a" * 2000)


@pytest.mark.parametrize("written", ["s3:putobject", "S3:PutObject", "s3:put*", "S3:*"])
def test_an_action_is_the_same_in_any_case(bucket: Policy, written: str) -> None:
    """As where such policies come from: a deny in another case is a deny."""
    deny = {"Effect": "Deny", "Principal": "*", "Action": written, "Resource": "*"}
    anything = {"Effect": "Allow", "Principal": "*", "Action": "*"}
    policy = policy_from({"Statement": [anything, deny]})
    assert not policy.decide([READER], "s3:PutObject", "arn:aws:s3:::x").allowed
    assert bucket.decide([READER], "S3:GETOBJECT", "arn:aws:s3:::your-ml-models/x").allowed
    # Principals and resources are not: there, case tells two names apart.
    upper = {"Effect": "Deny", "Principal": READER.upper(), "Action": "*", "Resource": "ARN:*"}
    assert policy_from({"Statement": [anything, upper]}).decide([READER], "a", "arn:x").allowed


@pytest.mark.parametrize("field", ["Action", "Resource", "Principal"])
@pytest.mark.parametrize("text", ["s3:?eleteObject", "home/${aws:username}/*"])
def test_what_means_something_elsewhere_and_nothing_here_is_refused(field: str, text: str) -> None:
    statement = {"Effect": "Deny", "Principal": "*", "Action": "*", field: text}
    with pytest.raises(ConfigError, match=r"\? and \$"):
        policy_from({"Statement": [statement]})
