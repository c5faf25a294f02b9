import numpy as np
import pytest

from sclm_hf.corpora.order.plan import EpochPlan, Schedule, arrange, row_ids
from sclm_hf.errors import ConfigurationError

NAMES, SIZES = ["a", "b", "c"], [103, 7, 61]


def make_plan(names=NAMES, sizes=SIZES, **kwargs) -> EpochPlan:
    return EpochPlan(names, sizes, **{"seed": 0, "epoch": 0, "block_size": 8, "window_size": 50, **kwargs})


def cells_of(plan: EpochPlan, window: int, names=NAMES) -> list[tuple[str, int]]:
    return [(names[source], cell) for source, start, stop in plan.window(window) for cell in range(start, stop)]


def test_windows_hold_every_cell_once():
    plan = make_plan()
    windows = [cells_of(plan, number) for number in range(plan.n_windows)]
    assert [len(window) for window in windows] == [50, 50, 50, 21]
    everything = [cell for window in windows for cell in window]
    assert sorted(everything) == [
        (name, cell) for name, size in zip(NAMES, SIZES, strict=True) for cell in range(size)
    ]
    assert all(window == sorted(window) for window in windows)
    assert len({name for name, _ in windows[0]}) > 1


def test_windows_depend_on_seed_and_epoch_and_not_on_the_order_of_files():
    windows = cells_of(make_plan(), 0)
    assert cells_of(make_plan(epoch=1), 0) != windows
    assert cells_of(make_plan(seed=1), 0) != windows
    turned = make_plan(NAMES[::-1], SIZES[::-1])
    assert sorted(cells_of(turned, 0, NAMES[::-1])) == windows


def test_windows_without_shuffling_follow_the_sources():
    plan = make_plan(shuffle=False)
    assert [plan.window(number) for number in range(4)] == [
        [(0, 0, 50)],
        [(0, 50, 100)],
        [(0, 100, 103), (1, 0, 7), (2, 0, 40)],
        [(2, 40, 61)],
    ]


@pytest.mark.parametrize("window_size", [1, 7, 8, 171, 1000])
def test_windows_of_any_size_hold_every_cell_once(window_size):
    plan = make_plan(window_size=window_size)
    cells = [cell for number in range(plan.n_windows) for cell in cells_of(plan, number)]
    assert len(cells) == len(set(cells)) == sum(SIZES)


def test_cell_ids_differ_between_sources_and_rows():
    rows = np.arange(1000)
    ids = np.concatenate([row_ids("a", rows), row_ids("b", rows)])
    assert len(np.unique(ids)) == 2000
    assert (row_ids("a", rows[500:]) == ids[500:1000]).all()


def test_arrange_shuffles_and_groups_by_length():
    ids = row_ids("a", np.arange(1030))
    lengths = np.random.default_rng(0).integers(1, 1000, 1030)
    order = arrange(ids, lengths, group_size=64, seed=0, epoch=0)
    assert sorted(order) == list(range(1030))
    groups = lengths[order[:1024]].reshape(16, 64)
    assert np.ptp(groups, axis=1).max() < 150
    # neither the groups nor the cells of a group stand in the order of their lengths
    assert 4 < (np.diff(groups.mean(axis=1)) > 0).sum() < 12
    assert 400 < (np.diff(groups, axis=1) > 0).sum() < 600
    # the cells left over are any cells, not the longest
    assert lengths[order[1024:]].max() < 990
    assert (order != arrange(ids, lengths, group_size=64, seed=0, epoch=1)).any()


def test_arrange_does_not_depend_on_the_order_in_which_cells_are_given():
    ids, lengths = row_ids("a", np.arange(100)), np.arange(100) % 17
    turned = arrange(ids[::-1], lengths[::-1], group_size=10, seed=3, epoch=2)
    assert (ids[::-1][turned] == ids[arrange(ids, lengths, group_size=10, seed=3, epoch=2)]).all()


def test_arrange_without_shuffling():
    ids, lengths = row_ids("a", np.arange(5)), np.array([3, 1, 2, 1, 3])
    assert arrange(ids, None, group_size=2, seed=0, epoch=0, shuffle=False).tolist() == [0, 1, 2, 3, 4]
    assert arrange(ids, lengths, group_size=2, seed=0, epoch=0, shuffle=False).tolist() == [1, 3, 2, 0, 4]


def cells_by_batch(schedule: Schedule) -> list[list[int]]:
    """The batches of a schedule as places in the epoch."""
    batches = []
    for window in schedule.windows():
        begin = window * schedule.window_size
        for place in schedule.cells(window):
            end = min(begin + place.stop, schedule.n_cells)
            batches.append(list(range(begin + place.start, end)))
    assert len(batches) == len(schedule.numbers)
    return batches


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_size", [1, 4, 6, 16])
def test_schedule_shares_all_batches_among_ranks(batch_size, world_size):
    sizes = {"group_size": 8, "window_size": 32}
    for start in (0, batch_size, 5 * batch_size, 100):
        ranks = [
            cells_by_batch(Schedule.make(100, batch_size, start=start, rank=rank, world_size=world_size, **sizes))
            for rank in range(world_size)
        ]
        rounds = [[rank[step] for rank in ranks if step < len(rank)] for step in range(max(map(len, ranks)))]
        assert [cell for batches in rounds for batch in batches for cell in batch] == list(range(start, 100))
        assert all(len(batch) == batch_size for batches in rounds[:-1] for batch in batches)


def test_schedule_fits_groups_and_windows_to_batches():
    schedule = Schedule.make(1000, 48, group_size=64, window_size=500)
    assert (schedule.group_size, schedule.window_size) == (96, 480)
    assert Schedule.make(1000, 800, group_size=64, window_size=500).window_size == 800


@pytest.mark.parametrize(
    "wrong",
    [{"start": 5}, {"start": -4}, {"start": 104}, {"rank": 2, "world_size": 2}, {"rank": -1}, {"batch_size": 0}],
)
def test_schedule_refuses_what_is_impossible(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        Schedule.make(100, **{"batch_size": 4, "group_size": 8, "window_size": 32, **wrong})
