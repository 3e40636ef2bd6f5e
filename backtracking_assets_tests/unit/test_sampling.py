"""Sampling: the nucleus, the noise, and that noise draws from the distribution it should."""

from fractions import Fraction
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from transformers import TopPLogitsWarper

from backtracking_assets.models.sampling import gumbel_noise, nucleus, row_keys, sample, uniform_noise


def keys(n: int, seed: int = 0) -> torch.Tensor:
    return row_keys(seed, [(f"p{i}", 0) for i in range(n)])


def test_noise_depends_on_key_step_and_token_alone():
    several = uniform_noise(keys(5), 3, 11)
    alone = uniform_noise(keys(5)[2:3], 3, 11)
    assert torch.equal(several[2:3], alone)
    assert torch.equal(several[:, :7], uniform_noise(keys(5), 3, 7))
    assert not torch.equal(several, uniform_noise(keys(5), 4, 11))
    assert not torch.equal(several, uniform_noise(keys(5, seed=1), 3, 11))


def test_noise_is_the_same_number_on_every_machine():
    # Written down once: a change of the hash changes every completion, and must raise the generator version.
    noise = uniform_noise(row_keys(42, [("organism-0001", 3)]), 0, 2)[0].tolist()
    assert noise == [0.5485008495481014, 0.8602506246298671]


def test_noise_is_uniform_and_uncorrelated():
    noise = uniform_noise(keys(400), 5, 50)
    assert stats.kstest(noise.flatten().numpy(), "uniform").pvalue > 1e-3
    neighbors = torch.corrcoef(torch.stack([noise[:, :-1].flatten(), noise[:, 1:].flatten()]))[0, 1]
    following = torch.corrcoef(torch.stack([noise.flatten(), uniform_noise(keys(400), 6, 50).flatten()]))[0, 1]
    assert abs(neighbors) < 0.03
    assert abs(following) < 0.03


def test_gumbel_noise_has_the_standard_gumbel_distribution():
    noise = gumbel_noise(keys(300), 0, 30).flatten().numpy()
    assert stats.kstest(noise, "gumbel_r").pvalue > 1e-3


def test_nucleus_keeps_what_transformers_keeps():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 40, generator=generator) * 3
    kept = nucleus(logits.softmax(-1), 0.9)
    warper: Any = TopPLogitsWarper(top_p=0.9)
    warped = warper(torch.zeros(200, 1, dtype=torch.long), logits.clone())
    assert torch.equal(kept, torch.isfinite(warped))


def test_nucleus_keeps_one_token_however_small_top_p_is():
    kept = nucleus(torch.tensor([[0.2, 0.5, 0.3]]), 1e-9)
    assert kept.tolist() == [[False, True, False]]


def test_nucleus_breaks_ties_by_the_lower_id():
    kept = nucleus(torch.tensor([[0.25, 0.25, 0.25, 0.25]]), 0.5)
    assert kept.tolist() == [[True, True, False, False]]


def test_nucleus_adds_up_exactly_whatever_the_order():
    # In float32 the sum stops growing at 2^-24 of itself: a half and many tiny shares would never reach top_p.
    n = 1 << 16
    probabilities = torch.tensor([[0.5] + [2.0**-26] * n])
    assert nucleus(probabilities, 0.5 + 2.0**-11).sum() == 1 + 2**15
    assert nucleus(probabilities.double(), 0.5 + 2.0**-11).sum() == 1 + 2**15


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=12).filter(any), st.floats(1e-6, 1))
def test_nucleus_is_the_smallest_that_reaches_top_p(weights: list[int], top_p: float):
    # Shares in units of a power of two, so that Python's own sums are exact.
    shares = [Fraction(weight, 1 << 14) for weight in weights]
    kept = nucleus(torch.tensor([[float(share) for share in shares]]), top_p)[0].tolist()
    inside = [share for share, one in zip(shares, kept, strict=True) if one]
    outside = [share for share, one in zip(shares, kept, strict=True) if not one]
    assert inside
    assert not outside or (max(outside) <= min(inside) and sum(inside) >= int(top_p * 2**60) / Fraction(2**60))
    assert len(inside) == 1 or sum(inside) - min(inside) < Fraction(top_p)


def test_samples_follow_the_tempered_nucleus():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -6.0])
    n = 20_000
    drawn = sample(logits.expand(n, -1), keys(n), 0, temperature=0.7, top_p=0.95)
    probabilities = (logits.double() / 0.7).softmax(-1)
    probabilities = probabilities * nucleus(probabilities[None], 0.95)[0]
    expected = probabilities / probabilities.sum()
    counts = torch.bincount(drawn, minlength=5)
    assert counts[expected == 0].sum() == 0
    inside = expected > 0
    assert stats.chisquare(counts[inside].numpy(), (expected[inside] * n).numpy()).pvalue > 1e-3


def test_temperature_zero_is_argmax_and_ignores_noise():
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 1.0, 5.0]])
    for step in range(5):
        assert sample(logits, keys(2), step, temperature=0, top_p=0.5).tolist() == [1, 0]


def test_nearby_distributions_mostly_draw_the_same_token():
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(4000, 60, generator=generator) * 2
    other = base + 0.2 * torch.randn(4000, 60, generator=generator)
    drawn = [sample(logits, keys(4000), 0, temperature=1.0, top_p=1.0) for logits in (base, other)]
    same = (drawn[0] == drawn[1]).double().mean().item()
    most_possible = 1 - (base.softmax(-1) - other.softmax(-1)).abs().sum(-1).mean().item() / 2
    assert same > most_possible - 0.06
