"""How often two nearby distributions draw the same token from shared noise, by the way the noise is used.

Conditions share their sampling noise so that they can be compared in pairs; the more draws agree, the less the paired
difference varies. Compared are Gumbel noise by token id (what `models.sampling` does), inversion of one uniform number
along the token ids, and inversion along the ranked nucleus; the bound is one minus the total variation distance, which
no coupling exceeds. Run: python benchmarks/coupling.py
"""

import torch

from backtracking_assets.models.sampling import gumbel_noise, nucleus, row_keys, uniform_noise

PAIRS, VOCABULARY = 20_000, 131
TEMPERATURE, TOP_P = 0.7, 0.95


def tempered(logits: torch.Tensor) -> torch.Tensor:
    """Probabilities `[rows, vocab]` of the nucleus at the study's temperature."""
    probabilities = torch.softmax(logits.double() / TEMPERATURE, dim=-1)
    probabilities = probabilities * nucleus(probabilities, TOP_P)
    return probabilities / probabilities.sum(dim=-1, keepdim=True)


def by_gumbel(probabilities: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    return (probabilities.log() + gumbel_noise(keys, 0, VOCABULARY)).argmax(dim=-1)


def by_token_id(probabilities: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    return (probabilities.cumsum(dim=-1) < uniform_noise(keys, 0, 1)).sum(dim=-1).clamp(max=VOCABULARY - 1)


def by_rank(probabilities: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    ranked, order = torch.sort(probabilities, dim=-1, descending=True, stable=True)
    return order.gather(-1, by_token_id(ranked, keys)[:, None])[:, 0]


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    keys = row_keys(0, [(str(row), 0) for row in range(PAIRS)])
    print(f"{'logit sd':>8} {'shift sd':>8} {'gumbel':>7} {'token id':>8} {'rank':>6} {'bound':>6}   n = {PAIRS}")
    for spread in (1.0, 3.0):
        for shift in (0.3, 1.0):
            logits = torch.randn(PAIRS, VOCABULARY, generator=generator) * spread
            moved = logits + shift * torch.randn(PAIRS, VOCABULARY, generator=generator)
            one, other = tempered(logits), tempered(moved)
            bound = 1 - (one - other).abs().sum(dim=-1).mean().item() / 2
            same = [
                (draw(one, keys) == draw(other, keys)).double().mean().item()
                for draw in (by_gumbel, by_token_id, by_rank)
            ]
            print(f"{spread:8.1f} {shift:8.1f} {same[0]:7.3f} {same[1]:8.3f} {same[2]:6.3f} {bound:6.3f}")


if __name__ == "__main__":
    main()
