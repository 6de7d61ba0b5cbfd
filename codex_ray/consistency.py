"""What cannot stand in one experiment together, and what to change."""

from __future__ import annotations

from codex_ray.data.prepared import PreparedData
from codex_ray.errors import ConfigError
from codex_ray.experiment import GIVEN, Experiment
from codex_ray.learning.distributed_dp_sgd import DistributedDpSgd
from codex_ray.preparation.release import check_generalised, check_prepare
from codex_ray.privacy.noise_inside import NoiseInside


def check_budget(experiment: Experiment) -> None:
    """Refuses a budget for a claim that nothing backs.

    Raises:
        ConfigError: an epsilon is set, but no noise is added anywhere.
    """
    private = experiment.trainer.kind != "sgd" or experiment.federation.mechanism.kind != "none"
    private = private or experiment.local_noise is not None
    if experiment.budget.epsilon is not None and not private:
        raise ConfigError(
            f"budget.epsilon is {experiment.budget.epsilon:g}, but nothing adds noise: set it to "
            "null, or use trainer.kind: dp_sgd or federation.mechanism.kind: gaussian"
        )


def check_shared_step(experiment: Experiment) -> None:
    """Refuses distributed DP-SGD without what makes it private.

    Raises:
        ConfigError: nobody would add noise, cohorts are sampled, or there are two clip norms.
    """
    trainer, federation = experiment.trainer, experiment.federation
    if not isinstance(trainer, DistributedDpSgd):
        return
    if not isinstance(federation.mechanism, NoiseInside):
        raise ConfigError(
            "trainer.kind is distributed_dp_sgd, whose clients send sums without noise: set "
            "federation.mechanism.kind to discrete_gaussian or skellam"
        )
    if federation.sampler.kind != "all":
        raise ConfigError(
            "federation.sampler: distributed_dp_sgd takes a batch of everybody's records each "
            "round: set kind to all, and trainer.sampling_rate for how many"
        )
    if federation.mechanism.clip_norm != trainer.clip_norm:
        raise ConfigError(
            f"federation.mechanism.clip_norm is {federation.mechanism.clip_norm:g}, but records "
            f"are clipped to trainer.clip_norm, {trainer.clip_norm:g}: leave it out"
        )
    if experiment.debug:
        raise ConfigError("debug: distributed_dp_sgd has no update of one client to tell of")


def check_local_noise(experiment: Experiment) -> None:
    """Refuses noised records where they would be drawn twice, or have two claims.

    Raises:
        ConfigError: there is no seed and several processes; or training makes a claim about
            records too.
    """
    noise = experiment.local_noise
    if noise is None:
        return
    if experiment.trainer.kind != "sgd":
        raise ConfigError(
            f"local_noise.kind is {noise.kind}, and trainer.kind {experiment.trainer.kind} makes "
            "a record-level claim of its own: leave one out (trainer.kind: sgd, or no local_noise)"
        )
    if experiment.seed is None and experiment.cluster.hosts:
        raise ConfigError(
            "local_noise without a seed: each host would draw noise of its own for the same "
            "records, which shows them twice: set cluster.hosts to 0, or give a seed"
        )


def check_resumable(experiment: Experiment) -> None:
    """Refuses to go on where that would show records under a second draw of local noise.

    Raises:
        ConfigError: the noise of the first one is lost, because there is no seed.
    """
    if experiment.local_noise is not None and experiment.seed is None:
        raise ConfigError(
            "local_noise without a seed: the noise on the records was kept in memory only, and "
            "another draw would show them a second time: start a new run, and count both"
        )


def check_side_data(experiment: Experiment) -> None:
    """Refuses exact figures of records that the trainer promises to protect.

    An update of DP-SGD may be published, and everything that follows from it. The number of records
    and the loss on them do not follow from it, and the ledger has no event for them.

    Raises:
        ConfigError: the mechanism asks for figures of the records under a record-level claim.
    """
    asked = sorted(experiment.federation.mechanism.asks)
    if asked and experiment.trainer.kind == "dp_sgd":
        field = "weights" if "records" in asked else "metrics"
        raise ConfigError(
            f"federation.mechanism.{field} sums exact figures of the clients' records "
            f"({', '.join(asked)}), which the record-level claim of trainer.kind dp_sgd does not "
            "cover: leave weights uniform and metrics out, or use trainer.kind: sgd"
        )


def check_preparation(experiment: Experiment) -> None:
    """Refuses figures of private records that would break a claim, or noise that serves none.

    Raises:
        ConfigError: it names the field and the remedy.
    """
    check_prepare(
        experiment.preparation,
        experiment.trainer,
        experiment.federation,
        shown=experiment.local_noise is not None,
    )


def check_generalised_features(experiment: Experiment) -> None:
    """Refuses generalised columns as features where a record-level claim would not hold for them.

    Raises:
        InputError: it names the column and the remedy; or prepared data cannot be read.
    """
    data = experiment.data
    check_generalised(
        data.generalised() if isinstance(data, PreparedData) else (),
        experiment.preparation,
        experiment.trainer,
        experiment.federation,
        shown=experiment.local_noise is not None,
    )


def check_given(experiment: Experiment, *, model: object | None, data: object | None) -> None:
    """Refuses a model or data handed over as an object that does not reach where it is needed.

    Raises:
        ConfigError: hosts would need it, or it is missing.
    """
    if experiment.cluster.hosts and (model is not None or data is not None):
        raise ConfigError(
            "cluster.hosts: Python objects cannot be sent to Ray hosts (nothing is pickled): name "
            "them as module:function, or set cluster.hosts to 0"
        )
    for field, component, value in (
        ("model", experiment.model, model),
        ("data", experiment.data, data),
    ):
        factory = getattr(component, "factory", "")
        if factory.startswith(GIVEN) and value is None:
            raise ConfigError(
                f"{field}: this run was given a Python object ({factory.removeprefix(GIVEN)}): "
                f"pass it again, as codex_ray.run(..., {field}=...)"
            )
