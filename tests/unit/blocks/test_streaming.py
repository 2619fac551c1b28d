"""Streams of a block: frame by frame equal to the block on the whole video, in float64."""

import itertools

import pytest
import torch
from torch import Tensor, nn

import nonlocalnet as nl
from nonlocalnet.ops import PAIRWISE

EXACT = {"rtol": 0, "atol": 1e-10}


def awake(channels=4, seed=0, **options) -> nl.NonLocalBlock:
    """A causal block in float64 whose every number is random: not the identity."""
    options = {"extent": "causal"} | options
    block = nl.NonLocalBlock(channels, **options).double().eval()
    rng = torch.Generator().manual_seed(seed)
    for name, value in block.state_dict().items():
        if value.is_floating_point():
            fresh = torch.randn(value.shape, generator=rng, dtype=torch.float64)
            value.copy_(fresh.abs() + 0.5 if name.endswith("running_var") else 0.7 * fresh)
    return block


def video(frames, channels=4, size=(3, 2), batch=2, seed=0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, frames, *size, generator=rng, dtype=torch.float64)


def play(stream, x, chunks=(1,), mask=None) -> Tensor:
    """Call a stream with chunks of so many frames, again and again, and join what it gives."""
    found, start, sizes = [], 0, itertools.cycle(chunks)
    while start < x.shape[2]:
        now = slice(start, start + next(sizes))
        masks = [] if mask is None or mask[:, now].all() else [mask[:, now]]
        found.append(stream(x[:, :, now], *masks))
        start = now.stop
    return torch.cat(found, dim=2)


def kept(stream) -> int:
    """Count the numbers that a stream keeps."""
    state = stream.state_dict().values()
    return sum(x.numel() for past in state for x in past["tensors"].values())


@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_a_thousand_frames_equal_the_whole_video(pairwise):
    block = awake(pairwise=pairwise, heads=2, subsample=(1, 1, 2))
    x = video(1000, size=(1, 2), batch=1)
    with torch.no_grad():
        torch.testing.assert_close(play(block.stream(), x, (1, 3, 2, 7)), block(x), **EXACT)


OPTIONS = [
    {},
    {"subsample": (1, 2, 1)},
    {"subsample": (1, 2, 2), "subsample_position": "after"},
    {"norm": "rms", "pre_norm": "batch"},
    {"norm": "frozen", "pre_norm": "rms"},
    {"norm": None, "gate": True, "bias": False},
    {"norm": None, "gate": True, "w_z": False},
    {"heads": 2, "inner_channels": 6, "value_channels": 2},
    {"channels": 8, "implementation": "reference"},
    {"extent": "space", "subsample": (1, 2, 1)},
]


@pytest.mark.parametrize("pairwise", PAIRWISE)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options(pairwise, options):
    block, x = awake(**{"pairwise": pairwise} | options), video(7, options.get("channels", 4))
    before = {k: v.clone() for k, v in block.state_dict().items()}
    torch.testing.assert_close(play(block.stream(), x, (2, 1)), block(x), **EXACT)
    assert all(torch.equal(v, before[k]) for k, v in block.state_dict().items())
    assert "past" not in vars(block)


@pytest.mark.parametrize("scale", [None, 0.3])
def test_scale(scale):
    block, x = awake(scale=scale), video(5)
    torch.testing.assert_close(play(block.stream(), x), block(x), **EXACT)


@pytest.mark.parametrize("pairwise", PAIRWISE)
@pytest.mark.parametrize("masked", [range(9), [3, 4], [0, 8]], ids=str)
def test_masks_come_and_go(pairwise, masked):
    block, x = awake(pairwise=pairwise, subsample=(1, 2, 1)), video(9)
    mask = torch.ones(2, 9, 3, 2, dtype=torch.bool)
    for t in masked:
        mask[0, t, 1:], mask[1, t, :, t % 2] = False, False
    mask[1, 0] = 0 not in masked  # nothing real at first
    offline, online = block(x, mask), play(block.stream(), x, (1, 2), mask)
    real = mask.unsqueeze(1).expand_as(x)
    torch.testing.assert_close(online[real], offline[real], **EXACT)


@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_a_window_is_the_last_frame_of_a_clip_of_its_length(pairwise):
    block, x = awake(pairwise=pairwise, subsample=(1, 2, 1)), video(8)
    stream = block.stream(window=3)
    online = play(stream, x, (2, 1, 4))
    for t in range(8):
        clip = x[:, :, max(t - 2, 0) : t + 1]
        torch.testing.assert_close(online[:, :, t], block(clip)[:, :, -1], **EXACT)
    assert kept(stream) == 2 * 3 * 2 * sum(x.shape[2] for x in keys(stream)[:2])


def keys(stream) -> list[Tensor]:
    (past,) = stream.state_dict().values()
    return list(past["tensors"].values())


def test_dot_product_keeps_d_times_c_numbers_of_each_head_for_ever():
    block = awake(pairwise="dot_product", inner_channels=4, value_channels=6, heads=2)
    stream, sizes = block.stream(), set()
    for frames in video(30, size=(5, 4)).split(3, dim=2):
        stream(frames)
        sizes.add(kept(stream))
        assert all(x.untyped_storage().nbytes() == x.nbytes for x in keys(stream))
    assert sizes == {2 * (2 * 2 * 3 + 1)}  # samples x (heads x d/heads x c/heads + a count)


def test_dot_product_in_float32_does_not_lose_digits_with_time():
    # past 2**24 counted in float32, one more frame would be none
    block = awake(pairwise="dot_product").float()
    stream, x = block.stream(), video(1, batch=1).float()
    z = stream(x)
    state = stream.state_dict()
    tensors = {k: v * 2**26 for k, v in state[""]["tensors"].items()}
    stream.load_state_dict({"": state[""] | {"tensors": tensors}})
    torch.testing.assert_close(stream(x), z)
    assert keys(stream)[1].item() == 6 * (2**26 + 1)


@pytest.mark.parametrize(
    ("pairwise", "width"), [("gaussian", 4), ("embedded_gaussian", 3), ("concatenation", 1)]
)
def test_other_forms_keep_the_keys_and_nothing_else(pairwise, width):
    block = awake(pairwise=pairwise, subsample=(1, 2, 2), inner_channels=3, value_channels=2)
    stream = block.stream()
    play(stream, video(10, size=(5, 4)), (3, 1))
    assert kept(stream) == 2 * 10 * 4 * (width + 2)
    assert all(x.untyped_storage().nbytes() == x.nbytes for x in keys(stream))


@pytest.mark.parametrize("pairwise", PAIRWISE)
@pytest.mark.parametrize("window", [None, 2])
def test_state_is_saved_and_streams_branch(pairwise, window, tmp_path):
    block, x = awake(pairwise=pairwise), video(6)
    stream = block.stream(window=window)
    play(stream, x[:, :, :3])
    torch.save(stream.state_dict(), tmp_path / "state.pt")
    end = play(stream, x[:, :, 3:])
    other = block.stream(window=window)
    other.load_state_dict(torch.load(tmp_path / "state.pt"))
    assert torch.equal(play(other, x[:, :, 3:]), end)
    stream.reset()
    assert kept(stream) == 0
    first = play(block.stream(window=window), x)
    assert torch.equal(play(stream, x), first)


def test_states_of_other_streams_are_refused():
    block = awake()
    state = block.stream(window=2).state_dict()
    with pytest.raises(ValueError, match=r"KeysSoFar'.*got one of .*KeysSoFar, window=2"):
        block.stream().load_state_dict(state)


@pytest.mark.parametrize("pairwise", PAIRWISE)
def test_frames_must_be_alike(pairwise):
    stream = awake(pairwise=pairwise).stream()
    x = video(2)
    expected = stream(x), stream(x)
    stream.reset()
    assert torch.equal(stream(x), expected[0])
    with pytest.raises(ValueError, match=r"began with batch 2; got batch 1; call reset\(\)"):
        stream(x[:1])
    with pytest.raises(ValueError, match="began with positions 6, keys 6; got positions 4, keys 4"):
        stream(x[:, :, :, :2])
    assert torch.equal(stream(x), expected[1])  # a refused call leaves no trace
    stream.module.float()
    with pytest.raises(ValueError, match=r"dtype torch\.float64; got dtype torch\.float32"):
        stream(x.float())


def test_moving_the_network_asks_to_move_the_stream():
    stream, x = awake().stream(), video(2)
    stream(x)
    stream.to("meta")
    with pytest.raises(ValueError, match=r"on meta and its frames are on cpu: call to\('cpu'\)"):
        stream(x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extent": "spacetime"}, "later frames: extent must be 'causal' or 'space'; got 'space"),
        ({"extent": "time"}, "later frames: .* got 'time'"),
        ({"extent": "spacetime", "temporal_group": 2}, "later frames"),
        ({"norm": "group"}, r"norm \(GroupNorm\) cannot stream, since it takes its statistics"),
        ({"pre_norm": "group", "extent": "space"}, r"pre_norm \(GroupNorm\) cannot stream"),
    ],
)
def test_blocks_that_compute_frames_together_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        awake(**options).stream()


@pytest.mark.parametrize("name", ["norm", "pre_norm"])
def test_batch_norms_in_training_are_refused(name):
    block = awake(**{"norm": None, name: "batch"})
    stream = block.stream()
    block.train()
    for start in (lambda: stream(video(1)), block.stream):
        with pytest.raises(ValueError, match=rf"{name} \(BatchNorm3d\).*call eval\(\)"):
            start()
    awake(norm="rms", pre_norm="frozen").train().stream()


@pytest.mark.parametrize("window", [0, -1])
def test_window_is_at_least_one_frame(window):
    with pytest.raises(ValueError, match=f"window must be at least 1 \\(frames\\); got {window}"):
        awake().stream(window=window)


ALONE = [
    nn.Conv3d(2, 2, (1, 3, 3), padding=(0, 1, 1)),
    nn.Conv3d(2, 2, (1, 3, 3), padding="same"),
    nn.ConvTranspose3d(2, 2, (1, 2, 2), (1, 2, 2)),
    nn.MaxPool3d((1, 2, 2)),
    nn.AvgPool3d((1, 2, 2), (1, 1, 1)),
    nn.AdaptiveAvgPool3d((None, 1, 1)),
    nn.InstanceNorm3d(2, track_running_stats=True).eval(),
    nn.Dropout3d().eval(),
    nn.Conv1d(2, 2, 1),
]
TOGETHER = [
    (nn.Conv3d(2, 2, 3), "kernel_size in time is 3"),
    (nn.Conv3d(2, 2, (1, 3, 3), stride=2), "stride in time is 2"),
    (nn.Conv3d(2, 2, 1, padding=1), "padding in time is 1"),
    (nn.ConvTranspose3d(2, 2, 1, output_padding=1, stride=2), "in time is 2"),
    (nn.MaxPool3d(2), "kernel_size in time is 2"),
    (nn.MaxPool3d(1, (2, 1, 1)), "stride in time is 2"),
    (nn.AvgPool3d((2, 1, 1)), "kernel_size in time is 2"),
    (nn.AdaptiveAvgPool3d(1), "output_size is 1"),
    (nn.AdaptiveMaxPool3d((2, None, None)), r"output_size is \(2, None, None\)"),
    (nn.InstanceNorm3d(2), "statistics over all frames"),
    (nn.BatchNorm3d(2, track_running_stats=False).eval(), "statistics over all frames"),
    (nn.Dropout(), "in training mode"),
    (nn.GRU(2, 2), "steps of a sequence"),
    (nn.Conv1d(2, 2, 3), "kernel_size in time is 3"),
    (nl.NonLocalBlock(2, dims=1, norm=None), "later frames"),
]


@pytest.mark.parametrize("layer", ALONE, ids=str)
def test_layers_that_compute_each_frame_alone(layer):
    net = nn.Sequential(layer, awake(2)).double()
    x = video(5, 2) if not isinstance(layer, nn.Conv1d) else video(5, 2).flatten(2)
    net = net[:1] if isinstance(layer, nn.Conv1d) else net
    torch.testing.assert_close(play(nl.Stream(net), x, (1, 2)), net(x), **EXACT)


@pytest.mark.parametrize(("layer", "message"), TOGETHER, ids=str)
def test_the_first_layer_that_computes_frames_together_is_named(layer, message):
    net = nn.Sequential(nn.ReLU(), nn.Sequential(layer), nn.Conv3d(2, 2, 5))
    with pytest.raises(ValueError, match=rf"^1\.0 \({type(layer).__name__}\) cannot.*{message}"):
        nl.Stream(net)


def test_one_block_in_two_places_is_refused():
    block = awake()
    stream = nl.Stream(nn.Sequential(block, block))
    with pytest.raises(ValueError, match=r"^0 \(NonLocalBlock\) was called 2 times"):
        stream(video(1))


class Wrapper(nn.Module):
    """A module that gives the attributes of the one inside, as torch.compile's do."""

    def __init__(self, inside):
        super().__init__()
        self.inside = inside

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inside"), name)

    def forward(self, x):
        return self.inside(x)


def test_a_wrapped_block():
    block, x = awake(), video(4)
    torch.testing.assert_close(play(nl.Stream(Wrapper(block)), x), block(x), **EXACT)


def test_two_streams_of_one_network_do_not_meet():
    net = nn.Sequential(awake(), awake(seed=1, pairwise="dot_product"))
    one, two = video(4), video(4, seed=1)
    streams, found = (nl.Stream(net), nl.Stream(net)), ([], [])
    for frames in zip(one.split(1, 2), two.split(1, 2), strict=True):
        for stream, frame, results in zip(streams, frames, found, strict=True):
            with stream:
                results.append(net(frame))
        assert net(one).requires_grad  # as ever between the calls
    assert not found[0][0].requires_grad
    for x, results in zip((one, two), found, strict=True):
        torch.testing.assert_close(torch.cat(results, 2), net(x), **EXACT)
    with streams[0], pytest.raises(ValueError, match=r"0 \(NonLocalBlock\) is active"):
        streams[1](one)
    streams[1].reset()
    assert play(streams[1], two).shape == two.shape


def test_inserted_blocks_of_channels_last():
    net = nn.Sequential(nn.Linear(4, 4)).double()
    example = torch.zeros(1, 5, 3, 2, 4, dtype=torch.float64)
    nl.add_non_local(net, "0", example=example, extent="causal", verbose=False)
    net.eval().requires_grad_(False)
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 5, 3, 2, 4, dtype=torch.float64)
    stream = nl.Stream(net)
    online = torch.cat([stream(frame) for frame in x.split(1, 1)], 1)
    torch.testing.assert_close(online, net(x), **EXACT)
    assert not torch.allclose(online[:, -1:], net(x[:, -1:]))  # the block looks back


def test_half_precision_and_autocast():
    for pairwise in PAIRWISE:
        block, x = awake(pairwise=pairwise).bfloat16(), video(5).bfloat16()
        torch.testing.assert_close(play(block.stream(), x), block(x), rtol=0.03, atol=0.1)
        block, x = block.float(), x.float()
        with torch.autocast("cpu"):
            torch.testing.assert_close(play(block.stream(), x), block(x), rtol=0.03, atol=0.1)
