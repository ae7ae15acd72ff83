"""Which rows an estimate uses, and what kind of target it has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import mireg
from mireg.rows import FEW_OUTPUTS, POSITIONS, Rows, choose_rows, output_for

N = 64


def numbered(n: int = N, places: tuple[int, ...] = ()) -> Tensor:
    """A layer whose rows say where they come from."""
    return torch.arange(float(n)).view(n, 1, *[1] * len(places)).expand(n, 1, *places)


def chosen(target: Tensor | None, samples: int, step: int = 0, **options: Any) -> tuple[Rows, list[int]]:
    n = N if target is None else len(target)
    rows = choose_rows([numbered(n)] * 2, target, samples, step, **options)
    return rows, rows.layers[0].flatten().long().tolist()


def name_of(value: object) -> str:
    """The name of a test's parameter, of a tensor without its values: all processes must collect the same tests."""
    return f"{value.dtype}{list(value.shape)}" if isinstance(value, Tensor) else str(value)


@pytest.mark.parametrize("target", [None, torch.arange(N) % 3, torch.randn(N), torch.randn(N, 2)])
@pytest.mark.parametrize("samples", [N, N + 1, 5 * N])
def test_a_small_batch_is_used_whole_and_in_order(samples: int, target: Tensor | None) -> None:
    rows, index = chosen(target, samples)
    assert index == list(range(N))
    assert target is None or torch.equal(rows.target.view(target.shape), target)


@pytest.mark.parametrize("target", [None, torch.arange(200) % 3, torch.randn(200)])
@pytest.mark.parametrize("samples", [8, 64, 100, 150, 199])
def test_rows_are_spread_evenly_and_differ_from_step_to_step(samples: int, target: Tensor | None) -> None:
    seen: set[int] = set()
    for step in range(200 // samples):
        rows = choose_rows([numbered(200)] * 2, target, samples, step)
        index = rows.layers[0].flatten().long()
        assert len(index) == samples == len(index.unique())
        assert index.diff().min() >= 200 // samples
        assert index.diff().max() <= 200 // samples + 1
        assert target is None or torch.equal(rows.target.flatten(), target[index])
        assert not seen & set(index.tolist())
        seen |= set(index.tolist())


def test_a_sorted_batch_has_the_classes_of_a_mixed_one() -> None:
    """Positives first, negatives behind: the first rows alone would be of one class."""
    y = (torch.arange(400) >= 100).long()
    mixed = y[torch.randperm(400)]
    for step in range(3):
        of_sorted, of_mixed = (choose_rows([numbered(400)] * 2, each, 128, step).target for each in (y, mixed))
        assert of_sorted is not None
        assert of_mixed is not None
        assert of_sorted.float().mean().item() == pytest.approx(0.75, abs=0.02)
        assert of_mixed.float().mean().item() == pytest.approx(0.75, abs=0.1)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("kind", ["classes", "values"])
def test_rows_with_a_target_come_first(kind: str, share: float) -> None:
    """As in a graph of which some nodes have a label."""
    known = torch.rand(400) < share
    target = torch.arange(400) % 5
    target = target.masked_fill(~known, -100) if kind == "classes" else target.float().masked_fill(~known, torch.nan)
    for step in range(3):
        rows, index = chosen(target, 64, step)
        assert rows.kind == kind
        assert len(set(index)) == 64
        assert int(known[index].sum()) == min(64, int(known.sum()))


@pytest.mark.parametrize(
    ("target", "outputs", "kind"),
    [
        (torch.arange(N) % 3, (N, 3), "classes"),
        (torch.arange(N) % 3, None, "classes"),
        (torch.arange(N) % 3, (2, N, 3), "classes"),  # outputs of another layout say nothing
        (torch.arange(N)[:, None] % 3, (N, 3), "classes"),
        (torch.arange(N) % 2 == 0, (N, 2), "classes"),
        (torch.arange(N) % 256, (N, 1), "values"),  # one output: ages, counts
        (torch.arange(N) % 256, (N,), "values"),
        (torch.randn(N), (N, 3), "values"),
        (torch.randint(2, (N, 5)), (N, 5), "values"),
        (torch.randint(2, (N, 5)), None, "values"),  # no layer has positions
        (torch.rand(N, 5) > 0.5, (N, 5), "values"),
        (torch.randint(2, (N, 2, 5)), None, "values"),
        (torch.randint(2, (N, 5), dtype=torch.uint8), (N, 5), "values"),
        (torch.rand(N, 5), (N, 5), "values"),
    ],
    ids=name_of,
)
def test_kind_of_a_target_of_samples(target: Tensor, outputs: tuple[int, ...] | None, kind: str) -> None:
    size = None if outputs is None else torch.Size(outputs)
    rows = choose_rows([torch.randn(N, 4), torch.randn(N, 3)], target, 32, 0, outputs=size)
    assert (rows.kind, rows.per_position) == (kind, False)
    assert rows.target is not None
    assert rows.target.is_floating_point() == (kind == "values")
    assert len(rows.target) == len(rows.layers[0]) == 32


@pytest.mark.parametrize(
    ("target", "outputs", "kind"),
    [
        (torch.randint(5, (N, 6)), (N, 5, 6), "classes per position"),
        (torch.randint(5, (N, 6)), (N, 6, 5), "classes per position"),
        (torch.randint(5, (N * 6,)), (N, 6, 5), "classes per position"),
        (torch.randint(5, (N, 6), dtype=torch.uint8), None, "classes per position"),
        (torch.randint(2, (N, 6)), (N, 6), "values"),  # an output for each number: several labels
        (torch.randn(N, 6), (N, 6), "values per position"),
        (torch.randint(2, (N, 1, 6)), (N, 1, 6), "values per position"),  # a mask
        (torch.randint(5, (N,)), (N, 5), "classes"),
    ],
    ids=name_of,
)
def test_kind_of_a_target_where_layers_have_positions(target: Tensor, outputs: Any, kind: str) -> None:
    size = None if outputs is None else torch.Size(outputs)
    rows = choose_rows([torch.randn(N, 4, 6), torch.randn(N, 3, 6)], target, 16, 0, outputs=size)
    assert (rows.kind, rows.per_position) == (kind, "position" in kind)
    assert len(rows.layers[0]) == (16 * POSITIONS if "position" in kind else 16)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool, torch.float32, torch.float64])
def test_labels_of_several_kinds_are_values_of_any_type(dtype: torch.dtype) -> None:
    layers = [torch.randn(N, 4), torch.randn(N, 3)]
    labels = torch.rand(N, 5) > 0.5
    expected = choose_rows(layers, labels.float(), N, 0, outputs=torch.Size((N, 5)))
    found = choose_rows(layers, labels.to(dtype), N, 0, outputs=torch.Size((N, 5)))
    assert found.target is not None
    assert expected.target is not None
    assert torch.equal(found.target.float(), expected.target)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_integer_values_keep_their_precision(dtype: torch.dtype) -> None:
    target = 80000 + torch.arange(N)
    found = choose_rows([torch.randn(N, 4, dtype=dtype)] * 2, target, N, 0, outputs=torch.Size((N, 1))).target
    assert found is not None
    assert torch.equal(found[:, 0].long(), target)


def test_fill_values_are_missing() -> None:
    target = torch.randn(N, 2)
    expected = target.clone()
    target[3], expected[3] = 9.96921e36, torch.nan
    found = choose_rows([torch.randn(N, 4)] * 2, target, N, 0).target
    torch.testing.assert_close(found, expected, equal_nan=True)


@pytest.mark.parametrize(
    ("shapes", "target", "found"),
    [
        ([(N, 5)], torch.zeros(N), (N, 5)),
        ([(N, 5), (N, 8)], torch.zeros(N, 5), (N, 5)),  # logits and features
        ([(N, 5), (N,)], torch.zeros(N), None),  # actions, and a value of each state
        ([(N, 6, 5), (N, 6)], torch.zeros(N, 6), None),  # the same of each token
        ([], None, None),
    ],
)
def test_the_output_that_a_target_is_for(shapes: Any, target: Tensor | None, found: Any) -> None:
    assert output_for([torch.Size(shape) for shape in shapes], target) == found


@pytest.mark.parametrize("outputs", [2, 3, FEW_OUTPUTS])
def test_integers_that_may_be_values_are_refused_with_the_remedy(outputs: int) -> None:
    layers, ages = [torch.randn(N, 4)] * 2, torch.arange(N)
    with pytest.raises(ValueError, match=rf"integers up to {N - 1} and the network {outputs} outputs: are they values"):
        choose_rows(layers, ages, N, 0, outputs=torch.Size((N, outputs)))
    assert choose_rows(layers, ages.float(), N, 0, outputs=torch.Size((N, outputs))).kind == "values"


class TestSkippedClasses:
    def test_a_byte_of_156_is_a_class(self) -> None:
        """-100 in a signed byte; masks come as unsigned ones."""
        target = torch.tensor([156, 3], dtype=torch.uint8).repeat(32)
        rows, _ = chosen(target, N)
        counted = rows.counted(8)
        assert counted is not None
        assert counted.item() == 1
        assert rows.target is not None
        assert rows.target.unique().tolist() == [3, 156]

    @pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
    @pytest.mark.parametrize("places", [(), (6,)])
    def test_ignore_index(self, places: tuple[int, ...], dtype: torch.dtype) -> None:
        layers = [torch.randn(N, 4, *places)] * 2
        target = torch.randint(3, (N, *places))
        target[::4] = 255
        expected = choose_rows(layers, target.masked_fill(target == 255, -100), N, 0)
        found = choose_rows(layers, target.to(dtype), N, 0, ignore_index=255)
        assert found.target is not None
        assert expected.target is not None
        assert torch.equal(found.target, expected.target)
        assert 255 in choose_rows(layers, target.to(dtype), N, 0).target.unique()

    @pytest.mark.parametrize(("places", "shape"), [((), (N,)), ((), (N, 3)), ((6,), (N, 1, 6))])
    def test_values_are_missing_there(self, places: tuple[int, ...], shape: tuple[int, ...]) -> None:
        """One output, several labels, a mask of two classes."""
        layers, outputs = [torch.randn(N, 4, *places)] * 2, torch.Size(shape)
        labels, skipped = torch.randint(2, shape), torch.rand(shape) < 0.3
        expected = choose_rows(layers, labels.float().masked_fill(skipped, torch.nan), N, 0, outputs=outputs)
        for value in (-100, 255):
            target = labels.masked_fill(skipped, value)
            found = choose_rows(layers, target, N, 0, outputs=outputs, ignore_index=value)
            assert found.kind == expected.kind
            torch.testing.assert_close(found.target, expected.target, equal_nan=True)

    def test_the_term_skips_them(self) -> None:
        torch.manual_seed(0)
        model = mireg.wrap(torch.nn.Sequential(*[torch.nn.Linear(4, 4) for _ in range(4)]))
        x, y = torch.randn(32, 4), torch.arange(32) % 3
        x[::4] *= 50
        found = []
        for skipped in (255, -100):
            y[::4] = skipped
            model.restart()
            model(x)
            model.mi_loss(y, ignore_index=skipped)
            found.append(torch.stack([nats for name, nats in model.mi_terms().items() if name.endswith("target")]))
        assert torch.equal(*found)


class TestCounted:
    def test_without_a_target(self) -> None:
        assert choose_rows([torch.randn(N, 3)] * 2, None, N, 0).counted(8) is None

    def test_rows_alone_in_their_class(self) -> None:
        """128 rows of 400 classes: the few that share one count."""
        y = torch.randint(400, (128,))
        shared = sum(int((y == one).sum()) > 1 for one in y)
        counted = chosen(y, 128)[0].counted(8)
        assert counted is not None
        assert 0.1 < shared / 128 < 0.5
        assert counted.item() == pytest.approx(shared / 128)

    def test_skipped_rows_are_not_asked(self) -> None:
        y = torch.arange(N) % 2
        y[10:] = -100
        counted = chosen(y, N)[0].counted(8)
        assert counted is not None
        assert counted.item() == 1
        fewer = chosen(y, N)[0].counted(11)
        assert fewer is not None
        assert fewer.item() == 0

    @pytest.mark.parametrize("target", [torch.full((N,), 3), torch.full((N, 2), 0.5)])
    def test_a_target_that_is_the_same_everywhere(self, target: Tensor) -> None:
        counted = chosen(target, N)[0].counted(8)
        assert counted is not None
        assert counted.item() == 0
        if target.ndim == 1:
            target[:8] = -100  # no class
            target[8] = 5  # alone in its class
            assert chosen(target, N)[0].counted(8).item() == 0

    def test_missing_values(self) -> None:
        values = torch.randn(N, 2)
        values[:16] = torch.nan
        values[16:32, 0] = torch.inf
        counted = chosen(values, N)[0].counted(8)
        assert counted is not None
        assert counted.item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("target", "error", "remedy"),
    [
        ([0, 1], TypeError, r"the target is a list: give the tensor"),
        ({"labels": torch.zeros(N)}, TypeError, "the target is a dict: give the tensor"),
        (torch.zeros(6, N, dtype=torch.long), ValueError, r"give target\.transpose\(0, 1\)"),
        (torch.zeros(8, dtype=torch.long), ValueError, r"a target for each of 8, .*target\[batch\]"),
        (torch.zeros(N + 1), ValueError, "give one class or row of values for each of the 64 samples"),
        (torch.zeros(N, dtype=torch.complex64), TypeError, "is complex: give its real and imaginary parts"),
    ],
    ids=name_of,
)
def test_what_does_not_fit_gets_the_remedy(target: Any, error: type[Exception], remedy: str) -> None:
    with pytest.raises(error, match=remedy):
        choose_rows([torch.randn(N, 4)] * 2, target, N, 0)


def test_sparse_targets() -> None:
    dense = (torch.rand(N, 5) > 0.5).float()
    rows, _ = chosen(dense.to_sparse(), N)
    assert rows.target is not None
    assert torch.equal(rows.target, dense)


def test_only_the_wanted_layers_are_read() -> None:
    layers = [torch.randn(N, d) for d in (3, 4, 5)]
    for target in (None, torch.arange(N) % 3):
        rows = choose_rows(layers, target, 16, 0, used=[0, 2])
        assert [layer.shape[1] for layer in rows.layers] == [3, 5]
