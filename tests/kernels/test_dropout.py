"""The dropout mask: its statistics, and that every kernel has the same.

Statistics of a fixed seed are fixed numbers, so these tests fail by a change alone. Bounds are 4.5 standard deviations
of what independent elements would give, where there are tens of comparisons.
"""

from __future__ import annotations

import math
from itertools import combinations, product

import pytest
import torch

from tests.kernels.conftest import DEVICE, RUNNABLE, needs_triton, randn
from vatt.kernels import add_positions, attention, layer_norm, mlp, packed_attention, patch_embed, rms_norm
from vatt.kernels.dropout import draw_seed, keep_mask, keep_scale, threshold, tile_keep_mask

if RUNNABLE:
    import triton
    import triton.language as tl

    from vatt.kernels.triton_dropout import dropped, group_first, group_hash, keep, keep_pairs, keep_tile, row_key

    @triton.jit
    def write_mask(seed_ptr, rows_ptr, columns_ptr, out_ptr, below, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
        r, c = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
        keys = row_key(seed_ptr, tl.load(rows_ptr + r))
        kept = keep(keys[:, None], tl.load(columns_ptr + c)[None, :], below)
        tl.store(out_ptr + r[:, None] * COLUMNS + c[None, :], kept.to(tl.int32))

    @triton.jit
    def write_tiles(seed_ptr, row, column, tile_ptr, pairs_ptr, below, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
        r, c = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
        keys, offsets = row_key(seed_ptr, row + r), r[:, None] * COLUMNS + c[None, :]
        tile = keep_tile(keys, column // 4 + tl.arange(0, COLUMNS // 4), below)
        pairs = keep_pairs(keys, column // 2 + tl.arange(0, COLUMNS // 2), below)
        tl.store(tile_ptr + offsets, tile.to(tl.int32))
        tl.store(pairs_ptr + offsets, pairs.to(tl.int32))

    @triton.jit
    def write_scores(
        seed_ptr, out_ptr, m0, n0, below, ROWS: tl.constexpr, COLUMNS: tl.constexpr, TRANSPOSED: tl.constexpr
    ):
        r, c = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
        hashes = group_hash(row_key(seed_ptr, group_first(m0, ROWS)), n0, COLUMNS, TRANSPOSED)
        if TRANSPOSED:
            kept = dropped(tl.full([COLUMNS, ROWS], 1.0, tl.float32), hashes, below)
            tl.store(out_ptr + r[None, :] * COLUMNS + c[:, None], kept)
        else:
            kept = dropped(tl.full([ROWS, COLUMNS], 1.0, tl.float32), hashes, below)
            tl.store(out_ptr + r[:, None] * COLUMNS + c[None, :], kept)


BOUND = 4.5


class TestElementwise:
    """`keep_mask`: rows and columns of an array."""

    ROWS, COLUMNS = 300, 200

    def kept(self, p, seed=123456789012345678, rows=None, columns=None):
        rows = torch.arange(self.ROWS)[:, None] if rows is None else rows
        columns = torch.arange(self.COLUMNS)[None, :] if columns is None else columns
        return keep_mask(torch.tensor([seed]), rows, columns, p)

    @pytest.mark.parametrize("p", [0.02, 0.1, 0.5, 0.9])
    @pytest.mark.parametrize("seed", [0, 1, 2**32, 2**62 - 1])
    def test_share(self, p, seed):
        kept = self.kept(p, seed).double()
        deviation = (p * (1 - p)) ** 0.5
        assert abs(kept.mean() - (1 - p)) < 4 * deviation / kept.numel() ** 0.5
        # Every row and every column as well: 5 standard deviations, for about a thousand of each.
        for axis in (0, 1):
            assert (kept.mean(axis) - (1 - p)).abs().max() < 5 * deviation / kept.shape[axis] ** 0.5

    @pytest.mark.parametrize("p", [0.1, 0.5])
    @pytest.mark.parametrize("distance", [1, 2, 64, 2**16])
    def test_no_correlation_between_rows_columns_and_seeds(self, p, distance):
        rows, columns = torch.arange(self.ROWS)[:, None], torch.arange(self.COLUMNS)[None, :]
        here = self.kept(p)
        neighbours = {
            "row": self.kept(p, rows=rows + distance),
            "column": self.kept(p, columns=columns + distance),
            "seed": self.kept(p, seed=123456789012345678 + distance),
            "high part of the seed": self.kept(p, seed=123456789012345678 + (distance << 32)),
            "seed and row": self.kept(p, seed=123456789012345678 ^ (distance << 32), rows=rows ^ distance),
            "row and column": self.kept(p, rows=rows + distance, columns=columns + distance),
        }
        for name, other in neighbours.items():
            correlation = torch.corrcoef(torch.stack([here.flatten(), other.flatten()]).double())[0, 1]
            assert abs(correlation) < 4.5 / here.numel() ** 0.5, name

    def test_extremes(self):
        assert self.kept(0.0).all()
        assert not self.kept(1.0).any()
        assert keep_scale(0.0) == 1.0
        assert keep_scale(0.5) == 2.0
        assert keep_scale(1.0) == 0.0

    def test_seeds_come_from_the_generator(self):
        torch.manual_seed(0)
        seeds = [draw_seed(DEVICE).item() for _ in range(3)]
        torch.manual_seed(0)
        assert [draw_seed(DEVICE).item() for _ in range(3)] == seeds
        assert len(set(seeds)) == 3

    @needs_triton
    @pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1, 2**32, 2**62 - 1])
    def test_the_twin_in_triton_is_equal_bit_by_bit(self, seed):
        """Also for rows near 2^32 and columns near 2^31, where signed arithmetic would differ."""
        rows = torch.tensor([0, 1, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1, 77, 12345678], device=DEVICE)
        columns = torch.tensor([0, 1, 63, 64, 4095, 2**20, 2**31 - 2, 2**31 - 1], device=DEVICE)
        seeds = torch.tensor([seed], device=DEVICE)
        out = torch.full((8, 8), -1, dtype=torch.int32, device=DEVICE)
        write_mask[(1,)](seeds, rows, columns.to(torch.int32), out, threshold(0.5), ROWS=8, COLUMNS=8)
        assert torch.equal(out, keep_mask(seeds, rows[:, None], columns[None, :], 0.5).int())

    @needs_triton
    @pytest.mark.parametrize("p", [2**-16, 0.1, 0.5, 1 - 2**-16, 1.0])
    @pytest.mark.parametrize(("row", "column"), [(0, 0), (2**32 - 16, 2**31 - 64), (77, 128)])
    def test_tiles_with_shared_hashes_are_equal_bit_by_bit(self, p, row, column):
        rows = torch.arange(row, row + 16, device=DEVICE)[:, None]
        columns = torch.arange(column, column + 64, device=DEVICE)[None, :]
        seeds = torch.tensor([123456789012345678], device=DEVICE)
        tile, pairs = torch.full((2, 16, 64), -1, dtype=torch.int32, device=DEVICE)
        write_tiles[(1,)](seeds, row, column, tile, pairs, threshold(p), ROWS=16, COLUMNS=64)
        expected = keep_mask(seeds, rows, columns, p).int()
        assert torch.equal(tile, expected)
        assert torch.equal(pairs, expected)


def tile(p, size=(1024, 1024), seed=987654321987654321, first=0):
    """The mask of the scores of one head of one sequence."""
    rows, columns = (torch.arange(n) for n in size)
    return tile_keep_mask(torch.tensor([seed]), torch.tensor(first), rows[:, None], columns, p)


def correlation(a, b):
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]).double())[0, 1].item()


class TestAttention:
    """`tile_keep_mask`: queries and keys, of which four share a hash."""

    @pytest.mark.parametrize("p", [0.001, 0.1, 0.25, 0.5, 0.9, 1 / 3])
    @pytest.mark.parametrize("seed", [0, 1, 2**32, 2**62 - 1])
    def test_share(self, p, seed):
        kept = tile(p, (400, 785), seed=seed).double()
        deviation = math.sqrt(p * (1 - p))
        assert abs(kept.mean() - (1 - threshold(p) / 2**16)) < BOUND * deviation / math.sqrt(kept.numel())

    @pytest.mark.parametrize("p", [0.1, 0.5])
    def test_sums_of_rows_and_columns_vary_as_if_elements_were_independent(self, p):
        kept = tile(p).double()
        for axis in (0, 1):
            count, sums = kept.shape[axis], kept.sum(axis)
            spread = ((sums - count * (1 - p)).square() / (count * p * (1 - p))).sum()  # chi squared
            assert abs(spread - len(sums)) < BOUND * math.sqrt(2 * len(sums))

    @pytest.mark.parametrize("p", [0.1, 0.5])
    def test_no_correlation_at_any_distance(self, p):
        """Along rows, columns and all diagonals: a million distances at once, of which the largest is 5 deviations."""
        n, most = 1024, 512
        x = (tile(p, (n, n)).double() - (1 - p)) / math.sqrt(p * (1 - p))
        spectrum = torch.fft.rfft2(x, s=(2 * n, 2 * n))
        sums = torch.fft.irfft2(spectrum.abs().square(), s=(2 * n, 2 * n))
        near = torch.cat([torch.arange(most), torch.arange(-most, 0)])
        pairs = (n - near.abs())[:, None] * (n - near.abs())
        deviations = sums[near][:, near].abs() / pairs.sqrt()
        deviations[0, 0] = 0
        assert deviations.max() < 6
        for distance in (1, 2, 4, 8, 16, 32, 64, 128, 256):
            for down, right in ((0, distance), (distance, 0), (distance, distance), (distance, -distance)):
                assert deviations[down, right] < BOUND, (down, right)

    @pytest.mark.parametrize("p", [0.01, 0.1, 0.5])
    def test_the_four_lanes_are_independent(self, p):
        """Pairs, and three and four at once: their standardized product has mean 0 and variance 1."""
        kept = tile(p).unflatten(0, (-1, 2, 8)).unflatten(-1, (-1, 2, 8))
        lanes = [
            (kept[:, i, :, :, j].double() - (1 - p)).flatten() / math.sqrt(p * (1 - p)) for i in (0, 1) for j in (0, 1)
        ]
        for count in (2, 3, 4):
            for chosen in combinations(lanes, count):
                together = torch.stack(chosen).prod(0)
                assert abs(together.mean()) < BOUND / math.sqrt(len(together))

    def test_keys_of_one_query_are_independent_in_threes(self):
        """Also those at equal distances, where a hash without a second round fails."""
        p = 0.1
        x = (tile(p).double() - (1 - p)) / math.sqrt(p * (1 - p))
        for a, b in product((1, 8, 16, 32, 64, 128, 256), repeat=2):
            together = x[:, : -a - b] * x[:, a : -b or None] * x[:, a + b :]
            assert abs(together.mean()) < BOUND / math.sqrt(together.numel()), (a, b)

    @pytest.mark.parametrize("p", [0.1, 0.5])
    def test_no_correlation_between_heads_sequences_and_steps(self, p):
        size, seed = (256, 785), 987654321987654321
        here = tile(p, size)
        for first in (256, 785, 64 * 785, 11 * 64 * 785, 2**31, 2**32 - 1024):
            assert abs(correlation(here, tile(p, size, first=first))) < BOUND / math.sqrt(here.numel()), first
        for other in (seed + 1, seed + 2**32, seed ^ 2**31, seed ^ 2**61, seed >> 1):
            assert abs(correlation(here, tile(p, size, seed=other))) < BOUND / math.sqrt(here.numel()), other

    def test_extremes(self):
        assert tile(0.0, (64, 64)).all()
        assert not tile(1.0, (64, 64)).any()

    @needs_triton
    @pytest.mark.parametrize("transposed", [False, True])
    @pytest.mark.parametrize(
        ("m0", "n0", "rows", "columns"),
        [(0, 0, 16, 16), (16, 32, 16, 32), (32, 64, 32, 64), (128, 128, 64, 128), (2**31 - 128, 2**20 + 96, 128, 32)],
    )
    def test_the_twin_in_triton_is_equal_bit_by_bit(self, transposed, m0, n0, rows, columns):
        """Blocks of all sizes, straight and transposed."""
        seeds = torch.tensor([2**61 + 12345], device=DEVICE)
        out = torch.full((rows, columns), -1.0, device=DEVICE)
        write_scores[(1,)](seeds, out, m0, n0, threshold(0.5), rows, columns, transposed)
        places = torch.arange(m0, m0 + rows, device=DEVICE), torch.arange(n0, n0 + columns, device=DEVICE)
        expected = tile_keep_mask(seeds, torch.tensor(0, device=DEVICE), places[0][:, None], places[1], 0.5)
        assert torch.equal(out, expected.float())


@needs_triton
def test_every_kernel_of_attention_has_the_mask_of_the_twin():
    """Read from their results: values that are unit vectors give the kept weights one by one, keys that are unit
    vectors the derivatives of the scores, which are positive exactly where a weight is kept."""
    N, H, E, p = 70, 1, 128, 0.1
    unit = torch.eye(N, E, device=DEVICE)[:, None].expand(N, H, E)
    qkv = torch.stack([randn(N, H, E), unit, unit], 1).requires_grad_()
    bias, seed = torch.zeros(H, N, N, device=DEVICE, requires_grad=True), torch.tensor([7**20], device=DEVICE)
    out = packed_attention(qkv, ((1, N),), bias=bias, scale=0.1, dropout_p=p, seed=seed, backend="triton")
    places = torch.arange(N, device=DEVICE)
    firsts = torch.arange(H, device=DEVICE)[:, None, None] * N
    kept_HNN = tile_keep_mask(seed, firsts, places[:, None], places, p)
    assert not kept_HNN.all(-1).any(), "a row that keeps everything has derivatives of 0"
    assert torch.equal(out[..., :N].transpose(0, 1) > 0, kept_HNN)
    # Each query's gradient of the output is 1 for all values: derivatives of the scores; or a unit vector: weights.
    grad_qkv, grad_bias = torch.autograd.grad(out, (qkv, bias), torch.ones_like(out), retain_graph=True)
    assert torch.equal(grad_qkv[:, 0, :, :N].transpose(0, 1) > 0, kept_HNN)
    assert torch.equal(grad_bias > 0, kept_HNN)
    (grad_qkv,) = torch.autograd.grad(out, qkv, unit.contiguous())
    assert torch.equal(grad_qkv[:, 2, :, :N].permute(1, 2, 0) > 0, kept_HNN)


def every_operation(**dropout):
    x, w, b = randn(2, 4), randn(4, 4, seed=1), randn(4, seed=2)
    q, qkv = randn(1, 3, 2, 4), randn(3, 3, 2, 4)
    return {
        "attention": lambda: attention(q, q, q, scale=1.0, **dropout),
        "packed_attention": lambda: packed_attention(qkv, ((1, 3),), scale=1.0, **dropout),
        "mlp": lambda: mlp(x, w, b, w, b, **dropout),
        "layer_norm": lambda: layer_norm(x, b, b, residual=x, **dropout),
        "rms_norm": lambda: rms_norm(x, b, residual=x, **dropout),
        "patch_embed": lambda: patch_embed(randn(2, 8), w, b, (4,), **dropout),
        "add_positions": lambda: add_positions(q[0], positions=None, **dropout),
    }


@pytest.mark.parametrize(
    ("dropout", "message"),
    [
        (dict(dropout_p=1.5), "dropout_p: expected 0 to 1, got 1.5"),
        (dict(dropout_p=-0.1), "dropout_p: expected 0 to 1, got -0.1"),
        (dict(dropout_p=math.nan), "dropout_p: expected 0 to 1, got nan"),
        (
            dict(dropout_p=0.5, seed=torch.tensor([1.5])),
            r"seed: expected \(1,\) or longer, int64, got \(1,\), torch.fl",
        ),
        (dict(dropout_p=0.5, seed=torch.tensor([1], dtype=torch.int32)), "seed: expected .* got .* torch.int32"),
        (dict(dropout_p=0.5, seed=torch.zeros(0, dtype=torch.int64)), r"seed: expected .* got \(0,\)"),
        (dict(dropout_p=0.5, seed=torch.tensor(5)), r"seed: expected .* got \(\)"),
        (dict(dropout_p=0.5, seed=torch.ones(2, 1, dtype=torch.int64)), r"seed: expected .* got \(2, 1\)"),
        (dict(dropout_p=0.5, seed=torch.ones(1, dtype=torch.int64, device="meta")), "seed: is on meta, but"),
        (dict(dropout_p=0.5, seed=5), r"seed: expected a tensor \(1,\), int64, got int"),
    ],
)
def test_rates_and_seeds_that_no_kernel_would_refuse_are_refused(dropout, message):
    for op, run in every_operation(**dropout).items():
        with pytest.raises(ValueError, match=f"^{op}: {message}"):
            run()
