"""How much faster the component scan is than a loop of whole forward passes, one for each component and mode.

Both give the logits behind one prefix for every component of every layer, scaled to 0 and moved to its mean, and for
the unscaled model. The loop reads the whole prefix anew for each; the scan reads it once and does the rest in one pass.
Runs alternate, so that another load of the machine falls on both. Run: python benchmarks/scan.py [--shape real]
[--device cuda] [--json]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from backtracking_assets.models.component_scan import Variant, all_variants, scan_prefix
from backtracking_assets.models.interventions import Target, component_module, decoder_layers
from backtracking_assets.models.slot_cache import ATTENTION
from backtracking_assets.scan_records import MODES

SHAPES: dict[str, dict[str, Any]] = {
    "organism": {
        "vocab_size": 131,
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "real": {  # DeepSeek-R1-Distill-Qwen-1.5B
        "vocab_size": 151_936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
    },
}
PREFIX = {"organism": 40, "real": 512}


def random_model(shape: str, device: str, dtype: torch.dtype) -> PreTrainedModel:
    """28 layers with random weights."""
    torch.manual_seed(0)
    config = Qwen2Config(**SHAPES[shape], num_hidden_layers=28, max_position_embeddings=4096, dtype=dtype)
    config._attn_implementation = ATTENTION
    with torch.device(device):
        model: Any = Qwen2ForCausalLM(config)  # the library's own `to` has no usable type
    return model.to(dtype=dtype).eval()


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


def seconds(run: Callable[[], torch.Tensor], device: str) -> float:
    started = time.perf_counter()
    run()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="organism")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = random_model(options.shape, options.device, getattr(torch, options.dtype))
    variants = all_variants(len(decoder_layers(model)), MODES)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, SHAPES[options.shape]["vocab_size"], (PREFIX[options.shape],), generator=generator).tolist()
    hidden = SHAPES[options.shape]["hidden_size"]
    means = {v.target: torch.randn(hidden, generator=generator).to(options.device) * 0.1 for v in variants}
    scanned, looped = by_scan(model, ids, variants, means), by_loop(model, ids, variants, means)
    ratios, of_scan, of_loop = [], [], []
    for _ in range(max(options.runs, 5)):
        of_scan.append(seconds(lambda: by_scan(model, ids, variants, means), options.device))
        of_loop.append(seconds(lambda: by_loop(model, ids, variants, means), options.device))
        ratios.append(of_loop[-1] / of_scan[-1])
    found = {
        "shape": options.shape,
        "device": torch.cuda.get_device_name() if options.device.startswith("cuda") else "cpu",
        "dtype": options.dtype,
        "prefix_tokens": len(ids),
        "rows": 1 + len(variants),
        "runs": len(ratios),
        "ratio_median": statistics.median(ratios),
        "ratio_lowest": min(ratios),
        "ratio_highest": max(ratios),
        "scan_seconds_median": statistics.median(of_scan),
        "loop_seconds_median": statistics.median(of_loop),
        "largest_deviation": float((scanned - looped).abs().max()),
        "largest_change": float((looped[1:] - looped[:1]).abs().max()),
    }
    if options.json:
        print(json.dumps(found, indent=2))
        return
    print(
        f"{found['shape']}, {found['device']}, {found['dtype']}, prefix of {found['prefix_tokens']} tokens, "
        f"{found['rows']} rows: loop / scan = {found['ratio_median']:.1f} "
        f"({found['ratio_lowest']:.1f} to {found['ratio_highest']:.1f} in {found['runs']} runs), "
        f"{found['loop_seconds_median']:.3f} s and {found['scan_seconds_median']:.3f} s; "
        f"logits differ by {found['largest_deviation']:.2g}, components change them by {found['largest_change']:.2g}."
    )


if __name__ == "__main__":
    main()
