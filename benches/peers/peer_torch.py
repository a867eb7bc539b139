#!/usr/bin/env python3
"""The PyTorch side of the comparison. Prints one JSON object; run.py starts it, by hand it is

    python peer_torch.py train   --model DIR --file text.txt --rows 8 --seq 256 --steps 8
    python peer_torch.py train   --model DIR --file rows.jsonl --rows 32 --seq 512 --steps 8 --dtype bf16
    python peer_torch.py score   --model DIR --requests nli.jsonl --n 96
    python peer_torch.py prefill --model DIR --requests prefill.jsonl --n 48

What is timed leaves out imports, loading and, in training, making the batches; scoring and prefill include tokenizing.
Needs torch and transformers.
"""

import argparse
import json
import time

import torch
import transformers
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, DynamicCache

EOS = 2
IGNORED = -100


def load(args, dtype):
    torch.set_num_threads(args.threads)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype, attn_implementation="sdpa")
    return model, Tokenizer.from_file(f"{args.model}/tokenizer.json")


def read_lines(path, n=None):
    return [json.loads(line) for line in open(path)][:n]


# Training


def dense_batches(path, tokenizer, args):
    """Rows of `seq` tokens cut from a text, every token a target; with the number of tokens."""
    ids = torch.tensor(tokenizer.encode(open(path).read()).ids)
    n = args.rows * args.seq
    for step in range(args.steps):
        x = ids[step * n : (step + 1) * n].view(args.rows, args.seq)
        yield n, dict(input_ids=x, labels=x)


def packed_batches(path, tokenizer, args):
    """`rows` instruction rows a step, packed into sequences of `seq` tokens that do not see each other; targets are the completions."""
    rows = read_lines(path)
    for step in range(args.steps):
        examples = []
        for i in range(args.rows):
            row = rows[(step * args.rows + i) % len(rows)]
            encoded = tokenizer.encode(row["prompt"] + row["completion"])
            border = len(row["prompt"])
            labels = [i if end > border else IGNORED for i, (_, end) in zip(encoded.ids, encoded.offsets)]
            examples.append((encoded.ids + [EOS], labels + [EOS]))
        yield sum(len(ids) for ids, _ in examples), pack(examples, args.seq)


def pack(examples, seq):
    """Longest first, each into the first sequence that has room; attention within an example by a mask, positions from 0."""
    bins = []
    for example in sorted(examples, key=lambda e: -len(e[0])):
        home = next((b for b in bins if sum(len(e[0]) for e in b) + len(example[0]) <= seq), None)
        if home is None:
            bins.append(home := [])
        home.append(example)
    shape = len(bins), seq
    ids, labels = torch.zeros(shape, dtype=torch.long), torch.full(shape, IGNORED)
    positions, owner = torch.zeros(shape, dtype=torch.long), torch.full(shape, -1)
    for b, content in enumerate(bins):
        at = 0
        for number, (tokens, targets) in enumerate(content):
            end = at + len(tokens)
            ids[b, at:end], labels[b, at:end] = torch.tensor(tokens), torch.tensor(targets)
            positions[b, at:end], owner[b, at:end] = torch.arange(len(tokens)), number
            at = end
    mask = (owner[:, :, None] == owner[:, None, :]) & torch.ones(seq, seq, dtype=torch.bool).tril()
    return dict(input_ids=ids, labels=labels, position_ids=positions, attention_mask=mask[:, None])


def train(args):
    """A plain loop: f32 weights (bf16: under autocast), loss from labels, norm clipped to 1, fused AdamW."""
    model, tokenizer = load(args, torch.float32)
    model.train()
    model.config.use_cache = False
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0, fused=True)
    batches = packed_batches if args.file.endswith(".jsonl") else dense_batches
    seconds, tokens, losses, first_step_at = [], [], [], None
    for n, batch in batches(args.file, tokenizer, args):
        begin = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.dtype == "bf16"):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        seconds.append(time.perf_counter() - begin)
        tokens.append(n)
        first_step_at = first_step_at or time.time()
    return dict(seconds=seconds, tokens=tokens, losses=losses, first_step_at=first_step_at)


# Scoring


def encode(requests, tokenizer):
    """(ids of the context, ids of every option), split where the context alone ends."""
    contexts = tokenizer.encode_batch([r["context"] for r in requests])
    whole = iter(tokenizer.encode_batch([r["context"] + o for r in requests for o in r["options"]]))
    return [(c.ids, [next(whole).ids[len(c.ids) :] for _ in r["options"]]) for r, c in zip(requests, contexts)]


def groups(lengths, budget=4096):
    """Indices, longest first, in groups of at most `budget` tokens with padding."""
    group = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if group and (len(group) + 1) * lengths[group[0]] > budget:
            yield group
            group = []
        group.append(i)
    if group:
        yield group


def add_logprobs(model, hidden, asks, scores):
    """Adds log p(token) at (row, position) of `hidden` to its option's score; `asks` holds (row, position, token, request, option)."""
    rows, positions, tokens = torch.tensor([a[:3] for a in asks]).T
    states = hidden[rows, positions]
    for i in range(0, len(asks), 1024):
        logits = model.lm_head(states[i : i + 1024]).float()
        logprobs = logits.gather(1, tokens[i : i + 1024, None])[:, 0] - logits.logsumexp(1)
        for (*_, request, option), value in zip(asks[i : i + 1024], logprobs.tolist()):
            scores[request][option] += value


def padded(rows):
    width = max(map(len, rows))
    return torch.tensor([row + [0] * (width - len(row)) for row in rows])


def score_tree(model, encoded):
    """A request is one row: the context, then all options, which see the context and themselves."""
    scores = [[0.0] * len(options) for _, options in encoded]
    lengths = [len(context) + sum(len(o) - 1 for o in options) for context, options in encoded]
    for group in groups(lengths):
        ids, positions, owner, asks = [], [], [], []
        for row, request in enumerate(group):
            context, options = encoded[request]
            n = len(context)
            ids.append(list(context))
            positions.append(list(range(n)))
            owner.append([0] * n)
            for j, option in enumerate(options):
                places = [n - 1, *range(len(ids[row]), len(ids[row]) + len(option) - 1)]
                asks += [(row, at, token, request, j) for at, token in zip(places, option)]
                ids[row] += option[:-1]
                positions[row] += range(n, n + len(option) - 1)
                owner[row] += [j + 1] * (len(option) - 1)
        ids, owner = padded(ids), padded(owner)
        mask = (owner[:, None, :] == 0) | (owner[:, None, :] == owner[:, :, None])
        mask = mask & torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
        out = model.model(input_ids=ids, position_ids=padded(positions), attention_mask=mask[:, None], use_cache=False)
        add_logprobs(model, out.last_hidden_state, asks, scores)
    return scores


def score_cache(model, encoded):
    """Contexts first; then the options, each against a copy of its context's keys and values."""
    scores = [[0.0] * len(options) for _, options in encoded]
    for group in groups([len(context) for context, _ in encoded]):
        cache = DynamicCache(config=model.config)
        ids = padded([encoded[request][0] for request in group])
        hidden = model.model(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state
        options = [(row, request, j) for row, request in enumerate(group) for j in range(len(encoded[request][1]))]
        asks = [(row, len(encoded[q][0]) - 1, encoded[q][1][j][0], q, j) for row, q, j in options]
        add_logprobs(model, hidden, asks, scores)
        options = [o for o in options if len(encoded[o[1]][1][o[2]]) > 1]
        if not options:
            continue
        cache.batch_select_indices(torch.tensor([row for row, *_ in options]))
        tails = [encoded[q][1][j] for _, q, j in options]
        begin = torch.tensor([len(encoded[q][0]) for _, q, _ in options])
        more = padded([tail[:-1] for tail in tails])
        steps = torch.arange(more.shape[1])
        seen = (torch.arange(ids.shape[1]) < begin[:, None])[:, None, :].expand(-1, len(steps), -1)
        own = (steps <= steps[:, None]).expand(len(tails), -1, -1)
        mask = torch.cat([seen, own], dim=2)[:, None]
        out = model.model(
            input_ids=more, position_ids=begin[:, None] + steps, attention_mask=mask, past_key_values=cache, use_cache=True
        )
        asks = [(row, at, tails[row][at + 1], q, j) for row, (_, q, j) in enumerate(options) for at in range(len(tails[row]) - 1)]
        add_logprobs(model, out.last_hidden_state, asks, scores)
    return scores


def score(args):
    """Both ways to share contexts, each on all requests after a short warm-up."""
    model, tokenizer = load(args, torch.bfloat16 if args.dtype == "bf16" else torch.float32)
    requests = read_lines(args.requests, args.n)
    seconds, scores = {}, {}
    with torch.inference_mode():
        for way in score_tree, score_cache:
            way(model, encode(requests[:2], tokenizer))
            begin = time.perf_counter()
            scores[way.__name__] = way(model, encode(requests, tokenizer))
            seconds[way.__name__] = time.perf_counter() - begin
    best = min(seconds, key=seconds.get)
    return dict(seconds=seconds[best], way=best, ways=seconds, scores=scores[best])


def prefill(args):
    """Prompts one after the other and four at a time, logits of the last token only; the faster counts."""
    model, tokenizer = load(args, torch.bfloat16 if args.dtype == "bf16" else torch.float32)
    contexts = [r["context"] for r in read_lines(args.requests, args.n)]
    seconds, tokens = {}, 0
    with torch.inference_mode():
        for size in 1, 4:
            model(input_ids=torch.zeros(size, 512, dtype=torch.long), logits_to_keep=1, use_cache=False)
            begin = time.perf_counter()
            ids = torch.tensor([e.ids for e in tokenizer.encode_batch(contexts)])
            for batch in ids.split(size):
                model(input_ids=batch, logits_to_keep=1, use_cache=False).logits.argmax()
            seconds[size], tokens = time.perf_counter() - begin, ids.numel()
    best = min(seconds, key=seconds.get)
    return dict(seconds=seconds[best], way=f"{best} at a time", ways=seconds, tokens=tokens)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "score", "prefill"])
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--file", help="training: a text, or rows with prompt and completion")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--seq", type=int, default=256)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--requests")
    parser.add_argument("--n", type=int)
    args = parser.parse_args()
    result = dict(train=train, score=score, prefill=prefill)[args.what](args)
    result["versions"] = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(json.dumps(result))


if __name__ == "__main__":
    main()
