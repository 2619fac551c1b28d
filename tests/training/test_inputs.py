import collections

from nonlocalnet.training.inputs import _Shuffled


def take(sampler, count):
    return [index for index, _ in zip(sampler, range(count), strict=False)]


def test_every_epoch_has_every_video_once_in_a_new_order():
    drawn = take(_Shuffled(7, seed=3, start=0), 21)
    epochs = [tuple(drawn[i : i + 7]) for i in (0, 7, 14)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(epochs)) == 3


def test_the_order_goes_on_where_a_resumed_run_starts():
    whole = take(_Shuffled(7, seed=3, start=0), 30)
    for start in (1, 7, 10):
        assert take(_Shuffled(7, seed=3, start=start), 30 - start) == whole[start:]


def test_seeds_give_other_orders():
    orders = collections.Counter(tuple(take(_Shuffled(9, seed, 0), 9)) for seed in range(20))
    assert max(orders.values()) == 1
