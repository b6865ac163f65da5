"""Attach on networks that it was not written for: the same answers, the same tensors, and clear refusals."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'delen[train]'")

from torch import Tensor, nn  # noqa: E402  (after the skip above)

from delen.exits import AttachError, attach, cut_points, propose  # noqa: E402
from delen.exits.attaching import attach_described  # noqa: E402
from delen.tests.plain_networks import (  # noqa: E402
    Audio,
    Branching,
    Mixer,
    MobileNet,
    OneRow,
    ResNet,
    SliceWriter,
    Text,
    UNet,
    Vgg,
    VisionTransformer,
    built,
)

pytestmark = pytest.mark.slow


def images(batch: int = 1) -> Tensor:
    given: Tensor = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    return given


def inputs(kind: type[nn.Module], batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(6)
    given: Tensor = images(batch)
    if kind is Audio:
        given = torch.randn(batch, 400, generator=generator)
    if kind is Text:
        given = torch.randint(0, 50, (batch, 16), generator=generator)
    return given


# Network, exits, and the shape of features at each.
CASES: list[tuple[type[nn.Module], list[str], list[tuple[int, ...]]]] = [
    (Vgg, ["features.2", "features.5", "features"], [(8, 16, 16), (16, 8, 8), (16, 4, 4)]),
    (MobileNet, ["norm", "blocks.0", "blocks.2"], [(8, 16, 16), (8, 16, 16), (8, 16, 16)]),
    (VisionTransformer, ["blocks.0", "blocks.2"], [(17, 32), (17, 32)]),
    (Audio, ["encoder.0", "encoder", "first"], [(16, 79), (16, 18), (18, 16)]),
    (Text, ["encoder.layers.0", "encoder.layers.2"], [(16, 32), (16, 32)]),
    (ResNet, ["layer1", "layer2.0", "layer2"], [(8, 32, 32), (16, 16, 16), (16, 16, 16)]),
    (UNet, ["down1", "out"], [(8, 32, 32), (8, 32, 32)]),
    (SliceWriter, ["conv"], [(8, 16, 16)]),
]


@pytest.mark.parametrize(("kind", "at", "shapes"), CASES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_network_keeps_its_answers_and_its_tensors(
    kind: type[nn.Module], at: list[str], shapes: list[tuple[int, ...]]
) -> None:
    model = built(kind)
    before = copy.deepcopy(model.state_dict())
    attached = attach_described(model, at, example=inputs(kind), head="mlp")
    network = attached.network
    assert attached.tracer == ("export" if kind is SliceWriter else "fx")
    assert [(one.path, one.shape) for one in attached.exits[:-1]] == list(zip(at, shapes, strict=True))
    assert all(first.macs <= second.macs for first, second in zip(attached.exits, attached.exits[1:], strict=False))
    for batch in (1, 2, 5):
        given = inputs(kind, batch)
        with torch.no_grad():
            torch.testing.assert_close(network(given.clone())[-1], model(given.clone()), atol=1e-5, rtol=0)
    # The trunk is the model's own tensors, not copies, and they are as they were bit for bit.
    own = {id(parameter) for parameter in model.parameters()}
    trunk = [*network.segments.parameters(), *network.heads[-1].parameters()]
    assert {id(parameter) for parameter in trunk} == own
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_last_exit_ends_in_the_models_own_classifier_and_costs_only_what_it_must() -> None:
    attached = attach_described(built(ResNet), ["layer1"], example=images())
    assert attached.exits[-1].shape == (32,)
    assert attached.exits[-1].head_parameters == 32 * 10 + 10
    assert [name for name, _ in attached.network.heads[-1].named_parameters()] == ["linear.weight", "linear.bias"]


def test_a_module_with_nothing_but_the_classifier_behind_is_the_last_exit() -> None:
    attached = attach_described(built(ResNet), ["layer1", "layer3"], example=images())
    assert [one.path for one in attached.exits] == ["layer1", None]
    with pytest.raises(AttachError, match="layer3 comes nothing but the model's own classifier"):
        attach(built(ResNet), ["layer3"], example=images())


def test_exits_come_in_order_of_execution_whatever_order_they_are_named_in() -> None:
    attached = attach_described(built(ResNet), ["layer2", "layer1"], example=images())
    assert [one.path for one in attached.exits] == ["layer1", "layer2", None]


@pytest.mark.parametrize(
    ("kind", "path", "words"),
    [
        (ResNet, "layer1.0.conv1", "cut after layer1.0.conv1: the rest of the network also needs the result of `relu`"),
        (ResNet, "layer2.0.relu", "it runs 2 times; name the module around one of its runs"),
        (
            UNet,
            "middle",
            "after middle: the rest of the network also needs the result of `relu` after down1; .* out",
        ),
        (MobileNet, "blocks", "it only holds modules; name one of them, like blocks.0"),
        (
            MobileNet,
            "blocks.1.depth",
            "after blocks.1.depth: the rest of the network also needs the output of blocks.0",
        ),
        (Text, "encoder.layers.1.linear1", "it is not run by itself"),
        (
            VisionTransformer,
            "blocks.1.qkv",
            "cut after blocks.1.qkv: .* output of blocks.0.* nearby after .*blocks.1",
        ),
        (VisionTransformer, "body", "there is no module 'body'; the model has patch, blocks, norm, head"),
    ],
    ids=lambda value: getattr(value, "__name__", None) or str(value)[:24],
)
def test_a_cut_that_would_leave_something_behind_is_refused_by_name(
    kind: type[nn.Module], path: str, words: str
) -> None:
    with pytest.raises(AttachError, match=words):
        attach(built(kind), [path], example=inputs(kind))


@pytest.mark.parametrize(
    ("kind", "example", "words"),
    [
        (Branching, torch.ones(1, 4), r"in gate \(Gate\): its control flow or shapes depend on the values"),
        (OneRow, torch.ones(1, 3, 32, 32), r"does not run on an input of shape \(3, 3, 32, 32\).*\(in fc\); .*batch"),
        (Mixer, torch.eye(4)[:1], "depends on what else is in the batch"),
        (Vgg, torch.ones(1, 3, 16, 16), r"does not run on an input of shape \(1, 3, 16, 16\): .*correct the shape"),
        (Vgg, torch.ones(7), "no input with its batch"),
    ],
    ids=["branching", "one-row", "mixer", "wrong-shape", "no-batch"],
)
def test_a_model_that_is_no_fixed_graph_is_refused_with_the_reason(
    kind: type[nn.Module], example: Tensor, words: str
) -> None:
    with pytest.raises(AttachError, match=words):
        attach(built(kind), 1, example=example)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 4)

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        return self.body(values), values


def test_a_model_that_gives_no_logits_is_refused() -> None:
    with pytest.raises(AttachError, match=r"gives a tuple for 1 inputs; expected logits, shape \(batch, classes\)"):
        attach(Pair(), ["body"], example=torch.ones(1, 4))


class Eager(nn.Module):
    """Its second part changes in place what its first part gives."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, values: Tensor) -> Tensor:
        return self.third(torch.relu_(self.second(torch.relu_(self.first(values)))))  # type: ignore[no-any-return]


def test_a_part_that_works_in_place_leaves_the_features_of_the_head_before_it_alone() -> None:
    network = attach(built(Eager), ["first"], example=torch.ones(1, 4))
    features = network.segments[0](torch.randn(3, 4, generator=torch.Generator().manual_seed(1)))
    kept = features.clone()
    network.segments[1](features)
    assert torch.equal(features, kept)
    # PyTorch refuses to go back through a tensor that was changed since.
    network(torch.randn(3, 4)).sum().backward()


class Careless(nn.Module):
    """Changes a tensor in place and uses it by its old name."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, values: Tensor) -> Tensor:
        inner = self.second(self.first(values))
        inner.clamp_(min=0)
        return self.third(inner)  # type: ignore[no-any-return]


def test_a_change_in_place_whose_result_is_not_used_is_not_lost() -> None:
    model = built(Careless)
    network = attach(model, ["first"], example=torch.ones(1, 4))
    values = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(network(values)[-1], model(values), atol=1e-6, rtol=0)


def test_the_model_and_the_network_are_in_the_mode_the_model_was_in() -> None:
    model = built(ResNet).train()
    model.layer2.eval()
    network = attach(model, ["layer1", "layer2"], example=images())
    assert network.training
    assert network.heads[0].training
    modes = [model.get_submodule(path).training for path in ("layer1", "layer2", "layer2.0")]
    assert modes == [True, False, False]
    assert not list(model._forward_hooks)
    assert not hasattr(model, "_tensor_constant0")


def test_norms_learn_in_training_as_they_did_in_the_model() -> None:
    model = built(ResNet).train()
    network = attach(model, ["layer1"], example=images())
    mean = model.get_buffer("layer1.0.bn1.running_mean")
    before = mean.clone()
    network(images(4))
    assert not torch.equal(mean, before)


def test_another_number_of_classes_gets_a_new_last_head() -> None:
    attached = attach_described(built(ResNet), ["layer1"], example=images(), classes=3)
    assert attached.new_last_head
    assert attached.network(images(2)).shape == (2, 2, 3)
    with pytest.raises(AttachError, match="gives 10 classes, not 3"):
        attach(nn.Sequential(nn.Conv2d(3, 4, 1), Ending()), ["0"], example=images(), classes=3)


class Ending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 10, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.conv(features).mean((2, 3))  # type: ignore[no-any-return]


def test_heads_of_the_users_own() -> None:
    def head(shape: tuple[int, ...], classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))

    network = attach(built(ResNet), ["layer1", "layer2"], example=images(), head=head)
    assert network.get_parameter("heads.1.1.weight").shape == (10, 16 * 16 * 16)
    made = [head((8, 32, 32), 10)]
    assert attach(built(ResNet), ["layer1"], example=images(), head=made).heads[0] is made[0]
    with pytest.raises(AttachError, match="2 cuts need as many heads, not 1"):
        attach(built(ResNet), ["layer1", "layer2"], example=images(), head=made)
    with pytest.raises(AttachError, match=r"head 0 gives shape \(1, 7\) for 1 inputs; expected \(1, 10\)"):
        attach(built(ResNet), ["layer1"], example=images(), head=lambda shape, _: head(shape, 7))


def test_proposed_places_are_whole_blocks_at_even_cost() -> None:
    paths, found = propose(built(ResNet), images(), 3)
    assert paths == ["layer1.0", "layer2.0", "layer2"]
    shares = [cost.share for cost in found]
    assert shares == sorted(shares)
    assert all(0 < share < 1 for share in shares)
    network = attach(built(ResNet), 3, example=images())
    assert len(network.heads) == 4


def test_places_measured_by_time_have_times_that_grow() -> None:
    _, found = propose(built(ResNet), images(), 2, by="time")
    times = [cost.time_us for cost in found]
    assert None not in times
    assert times == sorted(times)  # type: ignore[type-var]


def test_more_exits_than_places_are_refused() -> None:
    with pytest.raises(AttachError, match="9 new exits are wanted, but there are places for 1 to 2: down1, out"):
        attach(built(UNet), 9, example=images())


def test_cut_points_count_multiply_adds() -> None:
    found = {cost.path: cost for cost in cut_points(built(ResNet), images())}
    stem = 3 * 9 * 8 * 32 * 32
    assert found["conv1"].macs == stem
    assert found["layer1"].macs == stem + 4 * 8 * 9 * 8 * 32 * 32
    assert found["layer1"].paths == ("layer1", "layer1.1")
