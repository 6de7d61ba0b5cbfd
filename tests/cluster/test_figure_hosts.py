"""Figures of records that are asked for on Ray hosts: what this process would find, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray
from pooling import DP_SGD, EXACT, NOISE, NOISED, SHARED, experiment, write_hospitals
from ray.util.placement_group import placement_group, remove_placement_group

from codex_ray import figures
from codex_ray.cluster import crew
from codex_ray.cluster import figure_hosts as hosts_file
from codex_ray.cluster.figure_hosts import figure_hosts
from codex_ray.config import experiment_from
from codex_ray.errors import ClusterError, ProtocolError
from codex_ray.experiment import Experiment
from codex_ray.federation.parcels import Parcel
from codex_ray.figures import answers_of, release_of
from codex_ray.preparation.questions import Count, Shown
from codex_ray.randomness import Randomness

pytestmark = [pytest.mark.usefixtures("ray_local")]

CLIENTS = 4


def hospitals(folder: Path, prepare: dict[str, Any], **parts: Any) -> Experiment:
    """Four hospitals on two hosts."""
    cluster = {"hosts": 2, "deadline": 60}
    config = experiment(write_hospitals(folder), prepare, cluster=cluster, **parts)
    return experiment_from(config)


@pytest.mark.parametrize(
    ("prepare", "parts"),
    [
        (NOISED, {"trainer": SHARED, "mechanism": NOISE}),
        (NOISED | {"scaling": "per_client"}, {"trainer": DP_SGD}),
    ],
    ids=["one noised sum", "each its own"],
)
def test_hosts_find_what_this_process_finds(
    prepare: dict[str, Any],
    parts: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of, randomness = hospitals(tmp_path, prepare, **parts), Randomness.of(0)
    release, here = release_of(of, CLIENTS), answers_of(of, CLIENTS, randomness)
    expected = release.statistics(here.tables.columns, here, randomness)

    def refused(*_: object) -> None:
        pytest.fail("records were opened where the run is begun")

    monkeypatch.setattr(figures, "answers_of", refused)
    with figure_hosts(of, CLIENTS, randomness) as there:
        assert release.statistics(here.tables.columns, there, randomness) == expected
    assert len(expected.centre) == (CLIENTS if prepare["scaling"] == "per_client" else 1)


def test_what_comes_back_is_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The counts of a client are in no byte that the driver sees, though their sum is right."""
    of, randomness, came = hospitals(tmp_path, EXACT), Randomness.of(0), []
    here = answers_of(of, CLIENTS, randomness)
    reading = Parcel.read

    def noting(raw: Any) -> Parcel:
        came.append(bytes(raw))
        return reading(raw)

    monkeypatch.setattr(Parcel, "read", noting)
    with figure_hosts(of, CLIENTS, randomness) as there:
        found = release_of(of, CLIENTS).statistics(here.tables.columns, there, randomness)
    assert found == release_of(of, CLIENTS).statistics(here.tables.columns, here, randomness)
    assert len(came) > 10
    own = [here.summand(Count(most=1000), client).tobytes() for client in range(CLIENTS)]
    assert all(len(words) >= 8 for words in own)
    assert not any(words in raw for words in own for raw in came)


def test_a_host_that_is_lost_ends_it_before_anything_has_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of, randomness = hospitals(tmp_path, EXACT), Randomness.of(0)
    columns = answers_of(of, CLIENTS, randomness).tables.columns
    asking = hosts_file.FigureHosts.seam

    def killing(self: hosts_file.FigureHosts, *question: Any) -> Any:
        seam = asking(self, *question)
        if self.asked == 2:
            ray.kill(self.actors[0])
        return seam

    monkeypatch.setattr(hosts_file.FigureHosts, "seam", killing)
    with (
        pytest.raises(ClusterError, match=r"host 0 keeps dying|a host was lost while it told"),
        figure_hosts(of, CLIENTS, randomness) as there,
    ):
        release_of(of, CLIENTS).statistics(columns, there, randomness)


def test_they_are_where_the_hosts_of_a_trial_will_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its places take every CPU: besides them there would be no room, ever."""
    of, randomness = hospitals(tmp_path, EXACT), Randomness.of(0)
    here = answers_of(of, CLIENTS, randomness)
    group = placement_group([{"CPU": 1.0}] * 2, strategy="PACK")
    ray.get(group.ready(), timeout=60)
    monkeypatch.setattr(crew, "get_current_placement_group", lambda: group)
    try:
        with figure_hosts(of, CLIENTS, randomness) as there:
            count = there.seam(Count(most=1000), 3, 32)
            assert len(count.hosts) == 2  # type: ignore[attr-defined]  # over Ray
    finally:
        remove_placement_group(group)
    assert here.tables.columns.counted


def test_hosts_answer_what_the_claim_allows_and_nothing_else(tmp_path: Path) -> None:
    exact, noised = (
        answers_of(of, CLIENTS, Randomness.of(0))
        for of in (
            hospitals(tmp_path / "exact", EXACT),
            hospitals(tmp_path / "noised", NOISED, trainer=SHARED, mechanism=NOISE),
        )
    )
    with pytest.raises(ProtocolError, match="a question for count, where figures are noised"):
        noised.summand(Count(most=1000), 0)
    with pytest.raises(ProtocolError, match="a question for shown, where figures are exact"):
        exact.summand(Shown(), 0)
    for answers in (exact, noised):
        with pytest.raises(ProtocolError, match="no client of this run shows figures of its own"):
            next(answers.own([0]))


@pytest.mark.parametrize("seed", [0, None])
def test_what_to_do_after_a_loss_depends_on_what_may_have_been_seen(
    tmp_path: Path, seed: int | None
) -> None:
    own = hospitals(tmp_path / "own", NOISED | {"scaling": "per_client"}, trainer=DP_SGD, seed=seed)
    summed = hospitals(tmp_path / "summed", EXACT, seed=seed)
    again = "start the run again"
    assert again in hosts_file._advice(summed, CLIENTS)
    assert (again in hosts_file._advice(own, CLIENTS)) == (seed is not None)
    assert ("count what both cost" in hosts_file._advice(own, CLIENTS)) == (seed is None)


def test_what_a_host_cannot_read_is_said_in_its_words(tmp_path: Path) -> None:
    of, randomness = hospitals(tmp_path, EXACT), Randomness.of(0)
    columns = answers_of(of, CLIENTS, randomness).tables.columns
    (tmp_path / "h2.csv").write_text("age,chol,angina,ill\nold,200,0,1\n")
    with (
        pytest.raises(ClusterError, match=r"cannot be built: DataError: .*h2.csv line 2, column"),
        figure_hosts(of, CLIENTS, randomness) as there,
    ):
        release_of(of, CLIENTS).statistics(columns, there, randomness)
