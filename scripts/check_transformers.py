#!/usr/bin/env python3
"""Proves that a model directory loads in Hugging Face transformers and gives the logits it should.

Loads MODEL_DIR with AutoModelForCausalLM (float32, eager attention, CPU) and, where it has a tokenizer.json, its
tokenizer; runs one sequence of ids; prints one JSON object:

    {"ids", "logits_last", "params", "missing_keys", "unexpected_keys", "tokenizer_size", "comparisons"}

Exit code 0: loaded, no key missing or left over, all comparisons within the tolerance. 1: it does not load, a key is
missing or left over, or logits differ. 2: bad arguments.

    python scripts/check_transformers.py runs/x/model
    python scripts/check_transformers.py runs/x/model --expect logits.json    # {"last_logits": [..], "ids": [..]?}
    python scripts/check_transformers.py runs/x/model --against base --ids "1 2 3"

Needs torch, transformers and safetensors; never reaches for the network.
"""

import argparse
import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers


def parse_ids(text):
    try:
        ids = [int(x) for x in text.replace(",", " ").split()]
    except ValueError:
        raise argparse.ArgumentTypeError(f"token ids must be whole numbers, got {text!r}") from None
    if not ids:
        raise argparse.ArgumentTypeError("no token ids given")
    return ids


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="Exit codes: 0 all well, 1 a check failed, 2 bad arguments."
    )
    parser.add_argument("model_dir", type=Path, metavar="MODEL_DIR")
    parser.add_argument("--against", type=Path, metavar="DIR", help="compare with the logits of this model directory")
    parser.add_argument("--expect", type=Path, metavar="FILE", help='compare with "last_logits" of this JSON file')
    parser.add_argument(
        "--ids", type=parse_ids, help='token ids, "1 2 3"; default: "ids" of the --expect file, else the first eight'
    )
    parser.add_argument(
        "--tolerance", type=float, default=1e-4, help="largest allowed absolute difference (default 1e-4)"
    )
    args = parser.parse_args()
    args.expected = None
    if args.expect:
        try:
            args.expected = json.loads(args.expect.read_text())
            args.expected_logits = [float(x) for x in args.expected["last_logits"]]
        except (OSError, ValueError, KeyError, TypeError) as e:
            parser.error(f'{args.expect}: expected a JSON object with "last_logits": {e!r}')
    for folder in filter(None, (args.model_dir, args.against)):
        if not (folder / "config.json").is_file():
            parser.error(f"{folder}: no config.json there")
    return args


def load(folder):
    """The model and what did not fit: (model, missing keys, unexpected keys)."""
    # Wrong shapes raise in from_pretrained by default.
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    return model.eval(), sorted(info["missing_keys"]), sorted(info["unexpected_keys"])


def last_logits(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].tolist()


def compare(name, got, want, tolerance):
    """The largest absolute difference and whether it passes; NaN never does."""
    if len(got) != len(want):
        return {"with": name, "ok": False, "reason": f"{len(got)} logits, expected {len(want)}"}
    diffs = [abs(a - b) for a, b in zip(got, want)]
    # `max` of a list with a NaN depends on its order, so every value is asked.
    ok = all(d <= tolerance for d in diffs)
    worst = max(range(len(diffs)), key=lambda i: float("inf") if diffs[i] != diffs[i] else diffs[i])
    shown = diffs[worst] if diffs[worst] == diffs[worst] else None  # JSON has no NaN
    return {"with": name, "ok": ok, "max_abs_diff": shown, "at": worst, "tolerance": tolerance}


def default_ids(args, vocab):
    if args.ids:
        return args.ids
    if args.expected and "ids" in args.expected:
        return [int(x) for x in args.expected["ids"]]
    return [i % vocab for i in range(1, 9)]


def main():
    args = parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    model, missing, unexpected = load(args.model_dir)
    tokenizer_size = None
    if (args.model_dir / "tokenizer.json").is_file():
        tokenizer_size = len(transformers.AutoTokenizer.from_pretrained(args.model_dir))

    vocab = model.get_input_embeddings().weight.shape[0]
    ids = default_ids(args, vocab)
    if not all(0 <= i < vocab for i in ids):
        sys.exit(f"{args.model_dir}: an id of {ids} lies outside the vocabulary of {vocab}")
    logits = last_logits(model, ids)

    comparisons = []
    if args.expected:
        comparisons.append(compare(str(args.expect), logits, args.expected_logits, args.tolerance))
    if args.against:
        other, _, _ = load(args.against)
        comparisons.append(compare(str(args.against), logits, last_logits(other, ids), args.tolerance))

    result = {
        "ids": ids,
        "logits_last": logits,
        "params": sum(p.numel() for p in model.parameters()),
        "missing_keys": missing,
        "unexpected_keys": unexpected,
        "tokenizer_size": tokenizer_size,
        "comparisons": comparisons,
    }
    print(json.dumps(result))
    failed = [f"{c['with']}: {json.dumps(c)}" for c in comparisons if not c["ok"]]
    failed += [f"missing: {k}" for k in missing] + [f"unexpected: {k}" for k in unexpected]
    if any(x != x for x in logits):
        failed.append("logits are not numbers")
    for line in failed:
        print(f"check_transformers: {line}", file=sys.stderr)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
