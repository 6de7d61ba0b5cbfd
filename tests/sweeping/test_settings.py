"""Trials are checked experiments: calibrated to an epsilon, numbered, and of one plan."""

from __future__ import annotations

import numpy as np
import pytest

from codex_ray.accounting import costs
from codex_ray.assembly import assemble
from codex_ray.data.flat import FlatDataset
from codex_ray.data.kept import keeping, name_of
from codex_ray.data.synthetic_images import SyntheticImages
from codex_ray.errors import ConfigError
from codex_ray.learning.autotune import Autotune
from codex_ray.sweeping.selection import NOT_ACCOUNTED
from codex_ray.sweeping.settings import Planner
from codex_ray.sweeping.shared_data import shared_data

NOISE = "federation.mechanism.noise_multiplier"
CLIP = "federation.mechanism.clip_norm"
RATE = "trainer.learning_rate"


def test_every_setting_at_a_fixed_epsilon_costs_that_epsilon(planned) -> None:
    planner = planned(epsilons=[1.0, 4.0], grid={"federation.sampler.rate": [0.5, 0.6]})
    trials = planner.all()
    assert [t.values["budget.epsilon"] for t in trials] == [1.0, 4.0, 1.0, 4.0]
    assert len({t.found[NOISE] for t in trials}) == 4  # more noise for more of the clients
    for trial in trials:
        *_, last = costs(planner.experiment(trial))
        assert last.affordable
        assert last.epsilon == pytest.approx(trial.values["budget.epsilon"], rel=2e-3)


def test_seeds_are_trials_of_one_setting_and_numbers_go_on(planned) -> None:
    trials = planned(seeds=[5, 6], grid={CLIP: [1.0, 2.0]}).all()
    assert [(t.number, t.values[CLIP], t.seed) for t in trials] == [
        (0, 1.0, 5),
        (1, 1.0, 6),
        (2, 2.0, 5),
        (3, 2.0, 6),
    ]
    assert len({t.key for t in trials}) == 4


def test_the_reference_comes_first_and_is_no_setting(planned) -> None:
    planner = planned(reference={"federation.mechanism.kind": "none"}, seeds=[0, 1])
    trials = planner.all()
    assert [t.reference for t in trials] == [True, True, False, False, False, False]
    assert planner.experiment(trials[0]).federation.mechanism.kind == "none"


def test_one_plan_is_chosen_for_all_trials(planned) -> None:
    planner, trials = planned(set={"rounds": 2}).settled()
    plans = {planner.experiment(trial).plan.plan for trial in trials}
    assert len(plans) == 1 and planner.description.plan["kernel"] != "auto"
    other, _ = planned(set={"rounds": 2}, grid={"trainer.kind": ["sgd"]}).settled()
    assert other.description.plan == "reference"


def test_no_trial_looks_for_a_plan_of_its_own(planned, monkeypatch) -> None:
    planner, trials = planned(set={"rounds": 2}, seeds=[0, 1]).settled()
    monkeypatch.setattr(Autotune, "plan", lambda self: 1 / 0)
    for trial in trials:
        experiment = planner.experiment(trial)
        assert assemble(experiment).settled(gpus=0).experiment.plan == experiment.plan
    again = Planner(planner.description, planner.base)  # as `--resume` does
    assert [again.experiment(trial).plan for trial in again.all()] == [
        planner.experiment(trial).plan for trial in trials
    ]


def test_checking_every_setting_opens_a_data_set_once(planned, monkeypatch) -> None:
    opened = []
    make = SyntheticImages.open
    monkeypatch.setattr(
        SyntheticImages, "open", lambda self, public: opened.append(self) or make(self, public)
    )
    with keeping():
        planned(grid={CLIP: [0.5, 1.0, 2.0], NOISE: [0.5, 1.0]}).settled()
    assert len(opened) == 1


def test_trials_that_have_a_data_set_in_common_share_it(planned) -> None:
    planner = planned(grid={CLIP: [0.5, 1.0]}, seeds=[0, 1])
    found = shared_data(planner, planner.all(), most=1e9)
    assert len(found) == 2  # one for each seed: they draw different clients
    (first, *_) = [name_of(planner.experiment(t).data, t.seed) for t in planner.all()]
    flat = FlatDataset.from_arrays(found[first])
    assert flat.population == 40 and all(type(a) is np.ndarray for a in found[first].values())
    one = sum(array.nbytes for array in found[first].values())
    assert len(shared_data(planner, planner.all(), most=1.5 * one)) == 1
    alone = planned(grid={"data.clients": [40, 50]})
    assert shared_data(alone, alone.all(), most=1e9) == {}  # nobody shares
    assert len(shared_data(alone, alone.all(), most=1e9, at_least=1)) == 2
    few = planned(
        grid={CLIP: [0.5, 1.0]}, set={"data.clients": 4000, "federation.sampler.rate": 0.01}
    )
    assert shared_data(few, few.all(), most=1e9) == {}  # most clients are never asked


def test_a_random_number_of_trials_has_an_epsilon_that_covers_the_whole_space(planned) -> None:
    chosen = {"selection": {"kind": "repeat_and_select", "mean": 5}, "search": "random"}
    planner = planned(grid={NOISE: [1.0, 4.0]}, seed=3, **chosen)
    trials = planner.all()
    assert len({t.seed for t in trials}) == len(trials)  # every try has noise of its own
    (cost,) = planner.selection_costs()
    (loud,) = planned(grid={NOISE: [4.0]}, **chosen).selection_costs()
    (low,) = planned(grid={NOISE: [1.0]}, **chosen).selection_costs()
    assert cost.epsilon == low.epsilon > loud.epsilon
    assert cost.epsilon > cost.single
    assert cost.event["event"] == "repeat_and_select" and len(cost.event["of_any"]) == 2


def test_the_number_of_trials_is_the_seed_s(planned) -> None:
    chosen = {"selection": "repeat_and_select", "search": "random"}
    counts = [len(planned(seed=seed, **chosen).all()) for seed in (0, 0, 1, 2, 3)]
    assert counts[0] == counts[1] and len(set(counts)) > 2


def test_a_range_that_changes_the_price_cannot_be_accounted(planned) -> None:
    chosen = {"selection": "repeat_and_select", "search": "random"}
    learning = planned(space={RATE: {"log_uniform": [0.01, 1]}}, **chosen)
    assert len(learning.selection_costs()) == 1
    noisy = planned(space={NOISE: {"uniform": [1, 4]}}, **chosen)
    with pytest.raises(ConfigError, match="changes what a trial costs"):
        noisy.selection_costs()


def test_a_sweep_says_how_the_choice_is_treated(described) -> None:
    assert described().selection.words == NOT_ACCOUNTED
    assert "NOT accounted" in NOT_ACCOUNTED
    public = described(selection={"kind": "public_data", "data": "MNIST stands in"})
    assert "MNIST stands in" in public.selection.words and public.public
