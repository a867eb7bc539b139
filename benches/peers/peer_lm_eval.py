#!/usr/bin/env python3
"""The lm-evaluation-harness side of the comparison: its own HFLM on the same requests. Prints one JSON object.

    python peer_lm_eval.py --model DIR --requests nli.jsonl --n 96 --dtype bf16

Timed is HFLM.loglikelihood, tokenizing included, after a short warm-up; batches of 16. Needs lm_eval, torch, transformers.
"""

import argparse
import json
import logging
import time
from importlib.metadata import version

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM


def loglikelihoods(lm, requests):
    pairs = [(r["context"], option) for r in requests for option in r["options"]]
    instances = [Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=i) for i, pair in enumerate(pairs)]
    values = iter(lm.loglikelihood(instances, disable_tqdm=True))
    return [[next(values)[0] for _ in r["options"]] for r in requests]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--requests", required=True)
    parser.add_argument("--n", type=int)
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(args.threads)
    dtype = dict(f32="float32", bf16="bfloat16")[args.dtype]
    lm = HFLM(pretrained=args.model, dtype=dtype, device="cpu", batch_size=16, add_bos_token=True)
    requests = [json.loads(line) for line in open(args.requests)][: args.n]
    loglikelihoods(lm, requests[:2])
    begin = time.perf_counter()
    scores = loglikelihoods(lm, requests)
    seconds = time.perf_counter() - begin
    versions = ", ".join(f"{name} {version(name)}" for name in ("lm_eval", "torch", "transformers"))
    print(json.dumps(dict(seconds=seconds, scores=scores, versions=versions)))


if __name__ == "__main__":
    main()
