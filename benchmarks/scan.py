"""How much faster the component scan is than a loop of whole forward passes, one for each component and mode.

Both give the logits behind one prefix for every component of every layer, scaled to 0 and moved to its mean, and for
the unscaled model. The loop reads the whole prefix anew for each; the scan reads it once and does the rest in one pass.
Run: python benchmarks/scan.py [--shape real] [--device cuda] [--json]
"""

from collections.abc import Mapping
from typing import Any

import torch
from shapes import SHAPES, random_model
from spread import MIN_RUNS, compared, options, tell, where
from transformers import PreTrainedModel

from backtracking_assets.models.component_scan import Variant, all_variants, scan_prefix
from backtracking_assets.models.interventions import Target, component_module, decoder_layers
from backtracking_assets.scan_records import MODES

PREFIX = {"organism": 40, "real": 512}


def by_scan(
    model: PreTrainedModel, ids: list[int], variants: list[Variant], means: Mapping[Target, torch.Tensor]
) -> torch.Tensor:
    parts = list(scan_prefix(model, ids, variants, means))
    return torch.cat([parts[0].unscaled[None], *(part.scaled for part in parts)])


def by_loop(
    model: PreTrainedModel, ids: list[int], variants: list[Variant], means: Mapping[Target, torch.Tensor]
) -> torch.Tensor:
    tokens = torch.tensor([ids], device=model.device)
    length = len(ids)
    mask = torch.ones((length, length), dtype=torch.bool, device=model.device).tril()[None, None]
    rows = []
    with torch.inference_mode():
        for variant in [None, *variants]:
            handle = None
            if variant is not None:
                module = component_module(model, *variant.target)
                handle = module.register_forward_hook(_last_position(variant, means))
            output = model(input_ids=tokens, attention_mask=mask, use_cache=False, logits_to_keep=1)
            rows.append(output.logits[0, -1].double())
            if handle is not None:
                handle.remove()
    return torch.stack(rows)


def _last_position(variant: Variant, means: Mapping[Target, torch.Tensor]) -> Any:
    def change(module: Any, inputs: Any, output: Any) -> Any:
        whole = (output[0] if isinstance(output, tuple) else output).clone()
        to = means[variant.target].to(whole) if variant.mode == "mean" else torch.zeros_like(whole[0, 0])
        whole[:, -1] = to
        return (whole, *output[1:]) if isinstance(output, tuple) else whole

    return change


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="organism")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model = random_model(asked.shape, asked.device, getattr(torch, asked.dtype))
    variants = all_variants(len(decoder_layers(model)), MODES)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, SHAPES[asked.shape]["vocab_size"], (PREFIX[asked.shape],), generator=generator).tolist()
    hidden = SHAPES[asked.shape]["hidden_size"]
    means = {v.target: torch.randn(hidden, generator=generator).to(asked.device) * 0.1 for v in variants}
    scanned, looped = by_scan(model, ids, variants, means), by_loop(model, ids, variants, means)
    measured = compared(
        lambda: by_scan(model, ids, variants, means),
        lambda: by_loop(model, ids, variants, means),
        runs=max(asked.runs, MIN_RUNS),
        synchronize=torch.cuda.synchronize if asked.device.startswith("cuda") else lambda: None,
    )
    found = {
        **where(asked.device),
        "shape": asked.shape,
        "dtype": asked.dtype,
        "prefix_tokens": len(ids),
        "rows": 1 + len(variants),
        "loop_over_scan": measured.ratio,
        "scan_seconds": measured.ours,
        "loop_seconds": measured.peer,
        "largest_deviation": float((scanned - looped).abs().max()),
        "largest_change": float((looped[1:] - looped[:1]).abs().max()),
    }
    sentences = [
        f"{asked.shape}, {asked.dtype}, prefix of {len(ids)} tokens, {found['rows']} rows: "
        f"loop / scan = {measured.ratio}.",
        f"The loop takes {measured.peer} s, the scan {measured.ours} s.",
        f"Logits differ by {found['largest_deviation']:.2g}; components change them by {found['largest_change']:.2g}.",
    ]
    tell(found, sentences, as_json=asked.json)


if __name__ == "__main__":
    main()
