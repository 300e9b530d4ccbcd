"""Who is born and who freezes when: the published counts, without any network."""

import pytest
import torch
from hydra.utils import instantiate

from tests.composing import composed

GRACEFUL = {
    60: (208, 0), 120: (352, 1), 180: (484, 11), 240: (556, 50), 300: (628, 118), 360: (692, 207),
    420: (716, 297), 480: (740, 387), 540: (764, 477), 600: (788, 567),
}  # fmt: skip
RISING = {
    10: (22, 0), 60: (122, 48), 100: (202, 110), 200: (402, 266), 300: (602, 422),
    400: (802, 578), 600: (1024, 890),
}  # fmt: skip


def arm(name: str, *overrides: str, mode: str = "faithful"):
    config = composed(
        f"model={name}", f"model.mode={mode}", "model.vocab_size=9", "model.d_model=4",
        "model.num_heads=1", "model.context_length=4", *overrides,
    )  # fmt: skip
    return instantiate(config.model, _convert_="all")


def lived(model, marks=(600,), until: int = 600, every: int = 10):
    """Neurons and frozen ones at the end of some epochs; activities are drawn, and small."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for epoch in range(1, until + 1):
        for life in model.lives:
            for _ in range(10 if epoch % every == 0 else 0):
                noise = torch.rand(life.field.capacity, generator=generator)
                life.activity.observe(1e-6 * noise)
        model.end_epoch(epoch, 0, 5.0)
        if epoch in marks:
            fields = model.fields().values()
            found[epoch] = (
                sum(int(f.alive.sum()) for f in fields), sum(int(f.frozen.sum()) for f in fields)
            )  # fmt: skip
    return found


def test_the_graceful_schedule_ends_with_788_neurons_of_which_567_are_frozen():
    assert lived(arm("crystal/blind"), GRACEFUL) == GRACEFUL


def test_half_of_what_is_born_is_a_schedule_and_no_finding():
    assert lived(arm("crystal"), (59, 60), 60) == {59: (184, 0), 60: (208, 0)}


def test_rising_tide_v2_grows_by_two_and_freezes_by_age():
    assert lived(arm("crystal/rising_tide_v2"), RISING) == RISING


def test_other_arms_end_as_published():
    assert lived(arm("crystal/multi_scale")) == {600: (788, 448)}
    assert lived(arm("crystal/rising_tide_v3")) == {600: (664, 0)}


def test_each_layer_of_the_cascade_has_its_own_schedule():
    model = arm("crystal/cascaded")
    lived(model)
    counts = [(int(f.alive.sum()), int(f.frozen.sum())) for f in model.fields().values()]
    assert counts == [(256, 250), (256, 240), (256, 207), (205, 136)]


@pytest.mark.parametrize("mode", ["faithful", "repaired"])
def test_the_progressive_stack_hands_over_every_forty_epochs(mode):
    model = arm("crystal/progressive", mode=mode)
    lived(model, until=125, every=1 if mode == "repaired" else 5)
    assert [int(block.since) for block in model.blocks][:4] == [0, 40, 80, 120]
    first = next(iter(model.fields().values()))
    assert int(first.alive.sum()) == 160
    born = [int(f.birth[f.parent < 0].max()) for f in model.fields().values()]
    assert born[1] == (0 if mode == "faithful" else 40)


def test_frozen_neurons_lock_the_tide_they_froze_at():
    model = arm("crystal/tidal")
    lived(model, until=300)
    field = next(iter(model.fields().values()))
    locked = {round(float(s), 3) for s in field.scale[field.frozen]}
    assert locked <= {0.05, 0.175, 0.3, 0.425, 0.55, 0.675}
    assert len(locked) > 3


def test_nothing_is_born_in_the_last_tenth_unless_as_published():
    assert lived(arm("crystal", mode="repaired"), (540, 600), every=1) == {
        540: (764, 477),
        600: (764, 567),
    }


def test_a_plateau_is_waited_for():
    model = arm("crystal/plateau", mode="repaired")
    for epoch, loss in ((10, 6.0), (20, 5.0), (30, 4.999)):
        model.end_epoch(epoch, 0, loss)
        field = next(iter(model.fields().values()))
        assert int(field.alive.sum()) == (64 if epoch < 30 else 88)


def test_each_child_has_the_most_active_parents_and_one_a_time():
    model = arm("crystal", "model.growth.base=[[1.0,3]]")
    life = model.lives[0]
    activity = torch.zeros(1024)
    activity[[5, 9, 2]] = torch.tensor([3.0, 2.0, 1.0])
    life.activity.observe(activity)
    model.end_epoch(10, 0, None)
    assert life.field.parent[64:67].tolist() == [5, 9, 2]
    assert life.field.birth[64:67].tolist() == [10] * 3
