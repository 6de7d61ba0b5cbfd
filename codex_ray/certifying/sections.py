"""The parts of a certificate that follow from the configuration: setting, mechanism, and gaps."""

from __future__ import annotations

from collections.abc import Iterator

from codex_ray.certifying.figures import GENERALISED
from codex_ray.certifying.terms import Terms
from codex_ray.data.prepared import PreparedData
from codex_ray.errors import PrivacyError
from codex_ray.federation.charges import Charge
from codex_ray.figures import release_of
from codex_ray.learning.batches import PoissonBatches
from codex_ray.learning.distributed_dp_sgd import DistributedDpSgd
from codex_ray.learning.dp_sgd import DpSgd
from codex_ray.learning.local_noise import WHOLE, RandomisedResponse
from codex_ray.privacy.adaptive_clipping import BIT_SENSITIVITY, AdaptiveGaussian
from codex_ray.privacy.correlated_gaussian import CorrelatedGaussian
from codex_ray.privacy.local_gaussian import LocalGaussian
from codex_ray.privacy.mechanisms import CentralGaussian
from codex_ray.privacy.noise_inside import (
    DiscreteGaussianNoise,
    NoiseInside,
    SkellamNoise,
    deviation_of,
)
from codex_ray.records.certificate import Gap, Mechanism, Public, Setting, Severity

TRUSTED = "trusted to add the noise, and to keep the sum before it to itself"


def setting(terms: Terms) -> Setting:
    """Who adds the noise, what is seen of it, and who is trusted with what."""
    federation = terms.experiment.federation
    mechanism, protocol = federation.mechanism, federation.protocol
    if isinstance(mechanism, NoiseInside):
        trust = "not trusted with noise, nor with anything but what `protection` says of sums"
        if protocol.kind == "ideal":
            trust = "trusted with every update here: `ideal` only stands for a secure sum"
        inside = mechanism.conspirators(terms.expected_cohort)
        conspirators = f"up to {inside} of a cohort, whose noise counts for nothing"
        dropouts = (
            f"a sum of fewer than {mechanism.fewest(terms.expected_cohort)} clients is not opened"
        )
    else:
        central = mechanism.kind not in ("none", "local_gaussian")
        trust = TRUSTED if central else "trusted with nothing: what it is sent is noised already"
        share = getattr(protocol, "assumed_corrupt", None)
        conspirators = (
            "no assumption: no client's noise protects another"
            if share is None
            else f"up to {share:g} of a cohort, for the secure sum; no noise depends on them"
        )
        dropouts = "are drawn independently of the data; they lose no noise"
    return Setting(
        noise_added=_who_adds_noise(terms),
        protocol=protocol.kind,
        protection=protocol.protection,
        server_trust=trust,
        conspirators=conspirators,
        dropouts=dropouts,
    )


def _who_adds_noise(terms: Terms) -> str:
    said = []
    if terms.experiment.local_noise is not None:
        said.append("local: each record is noised once, before anything is trained on it")
    if terms.experiment.trainer.event() is not None:
        said.append("local: each client noises its own training")
    match terms.experiment.federation.mechanism:
        case NoiseInside():
            said.append("distributed: clients bring parts of it inside the secure sum")
        case LocalGaussian():
            said.append("local: each client noises its whole update")
        case mechanism if mechanism.kind != "none":
            said.append("central: the coordinator noises the sum")
    return "; ".join(said)


def public(terms: Terms) -> Public:
    """The sizes that anybody may know."""
    return Public(
        population=terms.population,
        expected_cohort=terms.expected_cohort,
        dimension=terms.dimension,
    )


def mechanism(terms: Terms, charge: Charge) -> Mechanism:
    """What the claim's unit is clipped to, and the noise on it as it is added.

    Raises:
        PrivacyError: nothing is known here of how such a mechanism adds its noise.
    """
    trainer, noisy = terms.experiment.trainer, terms.experiment.federation.mechanism
    if charge.once:
        return _shown(terms)
    if charge.claim.unit == "record":
        match trainer:
            case DpSgd():
                return _local_steps(trainer)
            case DistributedDpSgd() if isinstance(noisy, DiscreteGaussianNoise | SkellamNoise):
                return _shared_step(noisy, terms)
        raise PrivacyError(f"no certificate: trainer.kind {trainer.kind} has no section yet")
    match noisy:
        case CentralGaussian():
            return _central(noisy, terms)
        case AdaptiveGaussian():
            return _adaptive(noisy, terms)
        case CorrelatedGaussian():
            return _correlated(noisy, terms)
        case LocalGaussian():
            return _local(noisy)
        case DiscreteGaussianNoise() | SkellamNoise():
            return _inside(noisy, terms)
    raise PrivacyError(f"no certificate: mechanism.kind {noisy.kind} has no section yet")


def _shown(terms: Terms) -> Mechanism:
    """Of noise on the records themselves."""
    noise = terms.experiment.local_noise
    if isinstance(noise, RandomisedResponse):
        return Mechanism(
            kind=noise.kind,
            clipping=f"none: a label is one of {noise.classes}",
            clip_norm=None,
            sensitivity="any label in place of any other",
            noise_multiplier=None,
            noise_deviation=None,
            noise_on=f"the label of each record, once: {noise.in_words}",
            arithmetic="whole numbers",
        )
    if noise is None:
        raise PrivacyError("no certificate: records are shown, and there is no local_noise")
    answered = "" if noise.labels is None else f"; and on its label: {noise.labels.in_words}"
    return Mechanism(
        kind=noise.kind,
        clipping="fixed: the features of each record, as a whole",
        clip_norm=noise.clip_norm,
        sensitivity=f"{2 * noise.clip_norm:g} (between the features of any two records)",
        noise_multiplier=noise.noise_multiplier,
        noise_deviation=noise.noise_multiplier * noise.clip_norm,
        noise_on=f"each feature of each record, once{answered}",
        arithmetic="floating point",
    )


def _local_steps(trainer: DpSgd) -> Mechanism:
    steps = trainer.batches.steps if isinstance(trainer.batches, PoissonBatches) else None
    return Mechanism(
        kind=f"dp_sgd ({trainer.batches.kind} batches)",
        clipping="fixed: the gradient of each record, as a whole",
        clip_norm=trainer.clip_norm,
        sensitivity=f"{trainer.clip_norm:g} (one record more or less in a batch)",
        noise_multiplier=trainer.noise_multiplier,
        noise_deviation=trainer.noise_multiplier * trainer.clip_norm,
        noise_on="the sum of a batch's clipped gradients, at every local step"
        + (f" ({steps} in each round)" if steps is not None else ""),
        arithmetic="floating point",
    )


def _shared_step(noisy: DiscreteGaussianNoise | SkellamNoise, terms: Terms) -> Mechanism:
    """Of one step of all clients together, whose noise they bring."""
    whole = _inside(noisy, terms)
    return whole.model_copy(
        update={
            "kind": f"distributed_dp_sgd with {noisy.kind} noise",
            "clipping": "fixed: the gradient of each record, as a whole; then each is rounded to "
            f"the grid by itself ({terms.codec.encoding.rounding}), rounding included in the norm",
            "sensitivity": f"{noisy.clip_norm:g} (one record more or less in a round's batch)",
        }
    )


def _central(noisy: CentralGaussian, terms: Terms) -> Mechanism:
    literal = noisy.literal(terms.expected_cohort)
    return Mechanism(
        kind=noisy.kind,
        clipping="fixed: the update of each client, as a whole",
        clip_norm=noisy.clip_norm,
        sensitivity=f"{noisy.clip_norm:g} (one client more or less in the sum, rounding included)",
        noise_multiplier=literal,
        noise_deviation=literal * noisy.clip_norm,
        noise_on="the sum, before it is divided by the public expected cohort",
        arithmetic="floating point",
    )


def _adaptive(noisy: AdaptiveGaussian, terms: Terms) -> Mechanism:
    expected = terms.expected_cohort
    return Mechanism(
        kind=noisy.kind,
        clipping=f"adaptive: follows quantile {noisy.quantile:g} of the norms, "
        f"from {noisy.initial_clip:g}",
        clip_norm=None,
        sensitivity=f"the round's clip norm, and {BIT_SENSITIVITY:g} on the count of unclipped",
        noise_multiplier=noisy.noise_multiplier,
        noise_deviation=None,
        noise_on=f"the sum ({noisy.update_noise(expected):.4g} times the round's clip norm) and "
        f"the count of unclipped clients ({noisy.bit_noise(expected):.4g})",
        arithmetic="floating point",
    )


def _correlated(noisy: CorrelatedGaussian, terms: Terms) -> Mechanism:
    schedule = terms.experiment.federation.sampler.schedule(terms.experiment.rounds)
    fresh = noisy.stretch(schedule)
    return Mechanism(
        kind=f"{noisy.kind} ({noisy.correlation.kind})",
        clipping="fixed: the update of each client, as a whole",
        clip_norm=noisy.clip_norm,
        sensitivity=f"{noisy.clip_norm:g} in each of at most {schedule.participations} of "
        f"{schedule.rounds} rounds that lie at least {schedule.separation} apart",
        noise_multiplier=noisy.noise_multiplier,
        noise_deviation=fresh * noisy.noise_multiplier * noisy.clip_norm,
        noise_on="the fresh part of a round's noise on the sum, less parts of the noise of earlier "
        f"rounds; {fresh:.4g} times that of independent noise at the same price",
        arithmetic="floating point",
    )


def _local(noisy: LocalGaussian) -> Mechanism:
    return Mechanism(
        kind=noisy.kind,
        clipping="fixed: the update of each client, as a whole",
        clip_norm=noisy.clip_norm,
        sensitivity=f"{2 * noisy.clip_norm:g} (between any two updates)",
        noise_multiplier=noisy.noise_multiplier,
        noise_deviation=noisy.noise_multiplier * noisy.clip_norm,
        noise_on="each client's own update, before it leaves",
        arithmetic="floating point",
    )


def _inside(noisy: DiscreteGaussianNoise | SkellamNoise, terms: Terms) -> Mechanism:
    expected, codec = terms.expected_cohort, terms.codec
    part = deviation_of(codec)
    return Mechanism(
        kind=noisy.kind,
        clipping="fixed: the update of each client, as a whole, rounding included",
        clip_norm=noisy.clip_norm,
        sensitivity=f"{noisy.clip_norm:g} (a client takes part with an update of zero instead)",
        noise_multiplier=noisy.noise_multiplier,
        noise_deviation=part * codec.grid.step * noisy.honest(expected) ** 0.5,
        noise_on=f"the sum of the fewest honest survivors ({noisy.honest(expected)}); each client "
        f"brings {part:.4g} steps of a grid of {codec.grid.step:.4g}",
        arithmetic="whole numbers",
    )


IN_EVERY_RUN: tuple[Gap, ...] = (
    Gap(
        what="search",
        severity="Critical",
        words="not accounted: whatever was chosen by looking at other runs on the same data "
        "(noise, clip norm, rounds, this run among many)",
    ),
    Gap(
        what="preparation",
        severity="Critical",
        words="ranges, labels, the model's form and its initial weights count as public: nothing "
        "that was computed from private data may be in them",
    ),
    Gap(
        what="metrics",
        severity="Critical",
        words="test metrics are exact: they cover nobody whose records are in the test set",
    ),
    Gap(what="timing", severity="Theoretical", words="how long a client or a round takes"),
    Gap(
        what="generator",
        severity="Negligible",
        words="noise is an AES-256 keystream read as draws: as good as random to whoever cannot "
        "break AES",
    ),
    Gap(
        what="arithmetic",
        severity="Negligible",
        words="rounding of clipped norms, and the accountant's own arithmetic",
    ),
)
JOURNALS = Gap(
    what="journals",
    severity="Critical",
    words="rounds.jsonl, log.jsonl, metrics.prom, tensorboard/, checkpoint/, result.json and the "
    "report tell of cohorts, if only of their sizes: the coordinator's own, not for whoever the "
    "claim is against",
)
NO_SUMS = Gap(
    what="rounds without a sum",
    severity="Critical",
    words="that too few survived for a sum hints at how large a hidden cohort was",
)
FLOATING_POINT = Gap(
    what="floating point",
    severity="Theoretical",
    words="the noise is floating-point Gaussian: attacks on its low-order bits (Mironov 2012; Jin "
    "et al. 2022)",
)
GENERALISED_COLUMNS = "generalised columns"
"""The gap that data.prepare.insecure_generalised leaves."""
SPLIT = Gap(
    what="split",
    severity="Critical",
    words="the claim is about the training records as each client has them: where records are held "
    "out for a test set, or one pool is dealt out, that is drawn for their number and labels, and "
    "one record more or less in a file can change which others are trained on",
)
DATA_CARD = Gap(
    what="data card",
    severity="Critical",
    words="the card of the records has exact counts and figures, from smallest_cell on: no epsilon "
    "covers what it tells",
)
SEVEREST_FIRST: tuple[Severity, ...] = ("Critical", "Theoretical", "Negligible")


def _of_data(terms: Terms) -> Iterator[Gap]:
    """What was made of the records, or told of them, before anything was trained."""
    experiment = terms.experiment
    data, by_record = experiment.data, any(c.claim.unit == "record" for c in terms.charges)
    if experiment.preparation.insecure_generalised:
        yield Gap(what=GENERALISED_COLUMNS, severity="Critical", words=GENERALISED)
    if isinstance(data, PreparedData):
        yield DATA_CARD
    if by_record:
        yield SPLIT


def gaps(terms: Terms) -> tuple[Gap, ...]:
    """What no epsilon of this run covers, the worst first."""
    experiment, found = terms.experiment, list(IN_EVERY_RUN)
    if experiment.seed is not None:
        found.insert(0, Gap(what="randomness", severity="Critical", words=terms.randomness))
    found += _of_data(terms)
    if experiment.debug:
        words = "norms under debug/ carry no noise"
        found.append(Gap(what="debug", severity="Critical", words=words))
    if experiment.federation.hides_cohorts:
        found += [JOURNALS, NO_SUMS]
    if experiment.local_noise is not None and experiment.local_noise.covers != WHOLE:
        words = f"local_noise covers {experiment.local_noise.covers}"
        found.append(Gap(what="uncovered part", severity="Critical", words=words))
    if any(mechanism(terms, c).arithmetic == "floating point" for c in terms.charges) or (
        terms.figures is not None and release_of(experiment, terms.population).noised_by_owner
    ):
        found.append(FLOATING_POINT)
    return tuple(sorted(found, key=lambda gap: SEVEREST_FIRST.index(gap.severity)))
