#!/usr/bin/env python3
"""Compares flanrt's GPU backend with PyTorch on the same GPU, in one run.

    python3 scripts/gpu_peers.py --serve target/gpu/serve [--budget 330] [--json result.json] [--only gemm,steps]

Ours is the bench `serve`, a process beside this one that answers how long an op or a step takes. Every pair is measured in turns,
ours, theirs, ours, theirs, after three seconds of heat; operands are random and lie in as many copies as it takes to find none of
them in the GPU's cache; reported are medians and the spread (largest minus smallest over the median). Ops are timed by events on
the GPU, steps by the clock. A ratio is their time over ours: above 1 we are faster. Goals are what this repository wants to reach.

Sections run in order of what is learned from them, within a budget of seconds; what is left out is said. `--device cpu --small`
tries the script itself, without a GPU. Exit code 0: measured. 1: something of ours failed, and the rest was measured. 2: no
torch, no GPU or no server.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

try:
    import torch
    import torch.nn.functional as F
except ImportError as error:
    print(f"gpu_peers: no torch for {sys.executable} ({error}); nothing is compared")
    sys.exit(2)

ROUNDS = 4
SAMPLE = 0.03  # seconds of work in a sample
HEAT = 3.0
BF16 = torch.bfloat16
Run = Callable[[int], Any]  # runs the n-th copy of an op


@dataclass(frozen=True)
class Model:
    """A LLaMA's sizes."""

    name: str
    d: int
    layers: int
    heads: int
    kv: int
    ffn: int
    vocab: int
    context: int = 2048
    tied: bool = True

    @property
    def size(self) -> int:
        return self.d // self.heads

    def config(self) -> dict[str, Any]:
        """As a configuration file says it."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": self.d,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv,
            "intermediate_size": self.ffn,
            "vocab_size": self.vocab,
            "max_position_embeddings": self.context,
            "tie_word_embeddings": self.tied,
        }

    def parameters(self) -> int:
        block = self.d * (2 * self.heads + 2 * self.kv) * self.size + 3 * self.d * self.ffn + 2 * self.d
        return self.layers * block + self.vocab * self.d * (1 if self.tied else 2) + self.d

    def layers_of_products(self) -> list[tuple[str, int, int]]:
        """Name, outputs and inputs of every product of a block, and of the head."""
        return [
            ("gate_up", 2 * self.ffn, self.d),
            ("down", self.d, self.ffn),
            ("qkv", (self.heads + 2 * self.kv) * self.size, self.d),
            ("out", self.d, self.heads * self.size),
            ("head", self.vocab, self.d),
        ]


LLAMA_8B = Model("8B", 4096, 32, 32, 8, 14336, 128256, tied=False)
LLAMA_1B = Model("1B", 2048, 16, 32, 8, 8192, 128256)
GPT2 = Model("124M", 768, 12, 12, 12, 2048, 50304, context=1024)
TINY = Model("tiny", 64, 2, 4, 2, 96, 512, context=128)


class Failed(Exception):
    """What the server says went wrong."""


class Ours:
    """The server, and what is open there."""

    def __init__(self, path: str, device: str) -> None:
        self.command = [path, device]
        self.process: subprocess.Popen[str] | None = None

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Failed(f"the server ended with code {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def open(self, op: str, **case: Any) -> dict[str, Any]:
        return self.ask({"do": "open", "case": {"op": op, **case}})

    def time(self, reps: int) -> float:
        """Microseconds a run."""
        return float(self.ask({"do": "time", "reps": reps})["us"])

    def close(self) -> None:
        self.ask({"do": "close"})


@dataclass
class Row:
    """One comparison; times in microseconds."""

    section: str
    what: str
    detail: str
    ours: float
    ours_spread: float
    theirs: float
    theirs_spread: float
    ratio: float
    goal: float | None
    rate: str = ""


class Bench:
    """The device, the clock on it, the rows so far."""

    def __init__(self, ours: Ours, device: str, small: bool, budget: float) -> None:
        self.ours, self.device, self.small = ours, device, small
        self.deadline = time.monotonic() + budget
        self.rows: list[Row] = []
        self.failures: list[str] = []
        self.peer_failures: list[str] = []
        self.skipped: list[str] = []
        self.short: list[dict[str, Any]] = []
        self.cache = torch.cuda.get_device_properties(0).L2_cache_size if device == "cuda" else 0
        # Seconds that must be left for the sections after these.
        self.gemm_until, self.attention_until = 0.62 * budget, 0.25 * budget

    def left(self) -> float:
        return self.deadline - time.monotonic()

    def sync(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def free(self) -> None:
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def normal(self, *shape: int, dtype: torch.dtype = BF16, scale: float = 0.15) -> torch.Tensor:
        return (torch.randn(*shape, device=self.device, dtype=torch.float32) * scale).to(dtype)

    def copies(self, bytes_each: int) -> int:
        """Copies of operands of so many bytes that no cache holds."""
        return min(64, max(1, math.ceil(2 * self.cache / max(bytes_each, 1))))

    def heat(self, seconds: float) -> None:
        """Brings the clocks to where work holds them."""
        x = self.normal(*([64, 64] if self.small else [4096, 4096]))
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for _ in range(20):
                x @ x
            self.sync()

    def clock(self, run: Run, reps: int, events: bool) -> float:
        """Microseconds a run of `run`."""
        if events and self.device == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for i in range(reps):
                run(i)
            end.record()
            end.synchronize()
            return start.elapsed_time(end) * 1e3 / reps
        self.sync()
        begin = time.perf_counter()
        for i in range(reps):
            run(i)
        self.sync()
        return (time.perf_counter() - begin) * 1e6 / reps

    def turns(self, run: Run, events: bool = True, rounds: int = ROUNDS) -> tuple[list[float], list[float]]:
        """Samples of ours, which is open, and of theirs, in turns."""
        run(0)
        first = [self.ours.time(1), self.clock(run, 1, events)]
        first = [self.ours.time(1), self.clock(run, 1, events)]
        reps = [max(1, min(200, round(SAMPLE * 1e6 / max(us, 1)))) for us in first]
        samples: tuple[list[float], list[float]] = ([], [])
        for _ in range(rounds):
            samples[0].append(self.ours.time(reps[0]))
            samples[1].append(self.clock(run, reps[1], events))
        return samples

    def add(
        self,
        section: str,
        what: str,
        detail: str,
        samples: tuple[list[float], list[float]],
        goal: float | None,
        rate: str = "",
    ) -> Row:
        ours, theirs = (statistics.median(s) for s in samples)
        spreads = [(max(s) - min(s)) / statistics.median(s) for s in samples]
        row = Row(section, what, detail, ours, spreads[0], theirs, spreads[1], theirs / ours, goal, rate)
        self.rows.append(row)
        print(
            f"  {what:<34} {detail:<30} ours {ours:>11.1f} us (+-{spreads[0]:4.0%})  theirs {theirs:>11.1f} us"
            f" (+-{spreads[1]:4.0%})  ratio {row.ratio:5.2f}  {rate}",
            flush=True,
        )
        return row

    def summary(self, what: str, ratio: float, goal: float, less_is_better: bool = False) -> None:
        """A line of the short table."""
        reached = ratio <= goal if less_is_better else ratio >= goal
        self.short.append({"what": what, "ratio": ratio, "goal": goal, "reached": reached})

    def mean_of(self, section: str, part: str, what: str, goal: float) -> None:
        """The geometric mean over the rows of a section whose names have `part`."""
        ratios = [r.ratio for r in self.rows if r.section == section and part in r.what]
        if ratios:
            self.summary(what, math.exp(statistics.fmean(map(math.log, ratios))), goal)

    def table(self) -> None:
        print(f"\n{'what':<50} {'ratio':>6} {'goal':>6}")
        for line in self.short:
            word = "ok" if line["reached"] else "below"
            print(f"{line['what']:<50} {line['ratio']:>6.2f} {line['goal']:>6.2f}  {word}")

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Goes on after a failure, which is kept: one of ours, or one of torch's."""
        try:
            yield
        except (Failed, RuntimeError, ValueError, TypeError) as error:
            ours = isinstance(error, Failed)
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            (self.failures if ours else self.peer_failures).append(f"{what}: {reason}")
            print(f"  {what} failed{'' if ours else ' in torch'}: {reason}", flush=True)
        finally:
            self.free()


def rate_of(answer: dict[str, Any], us: float) -> str:
    """Our rate: what the server says of the work, over the time."""
    if "flop" in answer:
        return f"{answer['flop'] / us / 1e6:.0f} TFLOP/s"
    return f"{answer['bytes'] / us / 1e3:.0f} GB/s"


def compare(
    bench: Bench, section: str, what: str, detail: str, run: Run, goal: float | None, op: str, **case: Any
) -> Row:
    """Opens ours, takes turns, adds the row."""
    answer = bench.ours.open(op, **case)
    samples = bench.turns(run)
    return bench.add(section, what, detail, samples, goal, rate_of(answer, statistics.median(samples[0])))


# ---- Products ----


def product(bench: Bench, form: str, m: int, n: int, k: int) -> Run:
    """torch.mm of one form: nt, nn, tn, as in src/ops/matmul.rs for a layer [m, k] -> [m, n]."""
    total = 2 * (m * k + n * k + m * n)
    sets = []
    for _ in range(bench.copies(total)):
        x, w, y = bench.normal(m, k), bench.normal(n, k), bench.normal(m, n)
        if form == "nt":
            sets.append((x, w.t(), y))
        elif form == "nn":
            sets.append((y, w, torch.empty_like(x)))
        else:
            sets.append((y.t(), x, torch.empty_like(w)))

    def run(i: int) -> None:
        a, b, out = sets[i % len(sets)]
        torch.mm(a, b, out=out)

    return run


def gemm(bench: Bench) -> None:
    """All three products of every layer."""
    models = [TINY] if bench.small else [LLAMA_8B, LLAMA_1B, GPT2]
    shapes = []
    for tokens in [64] if bench.small else [8192, 16384]:
        for layer in range(5):
            for model in models:
                name, n, k = model.layers_of_products()[layer]
                # Logits exist for a chunk of rows only.
                m = min(tokens, 4096) if name == "head" else tokens
                if name != "head" or tokens <= 8192:
                    shapes.append((f"{model.name} {name}", m, n, k))
    ratios = []
    for done, (what, m, n, k) in enumerate(shapes):
        if bench.left() < bench.gemm_until:
            bench.skipped.append(f"gemm: {len(shapes) - done} of {len(shapes)} shapes")
            break
        for form in ["nt", "nn", "tn"]:
            with bench.attempt(f"{what} {form}"):
                run = product(bench, form, m, n, k)
                detail = f"{m}x{n}x{k} bf16"
                case = dict(form=form, m=m, n=n, k=k, dtype="bf16", out="bf16")
                ratios.append(compare(bench, "gemm", f"{what} {form}", detail, run, None, "matmul", **case).ratio)
    if ratios:
        mean = math.exp(statistics.fmean(map(math.log, ratios)))
        print(f"  geometric mean of {len(ratios)}: {mean:.2f}; worst {min(ratios):.2f}")
        bench.summary("products, geometric mean", mean, 0.90)
        bench.summary("products, worst shape", min(ratios), 0.80)


# ---- Attention ----


def sdpa_inputs(bench: Bench, b: int, t: int, model: Model) -> list[tuple[torch.Tensor, ...]]:
    """Copies of q, k, v as [b, heads, t, size]."""
    size, total = model.size, 2 * b * t * model.size * (2 * model.heads + 2 * model.kv)
    shape = lambda heads: (b, t, heads, size)  # noqa: E731
    draw = lambda heads: bench.normal(*shape(heads), scale=1.0).transpose(1, 2).requires_grad_()  # noqa: E731
    return [(draw(model.heads), draw(model.kv), draw(model.kv)) for _ in range(bench.copies(total))]


def sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)


def accepted(inputs: list[tuple[torch.Tensor, ...]]) -> list[tuple[torch.Tensor, ...]]:
    """The inputs, with keys and values repeated for every query head where the backend takes no groups."""
    try:
        with torch.no_grad():
            sdpa(*inputs[0])
        return inputs
    except RuntimeError:
        group = inputs[0][0].shape[1] // inputs[0][1].shape[1]
        repeat = lambda x: x.detach().repeat_interleave(group, 1).requires_grad_()  # noqa: E731
        return [(q, repeat(k), repeat(v)) for q, k, v in inputs]


def attention(bench: Bench) -> None:
    """Causal attention forward and backward, with the backend forced."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    backends = [SDPBackend.MATH] if bench.device == "cpu" else [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION]
    tokens = 128 if bench.small else 16384
    for model in [TINY] if bench.small else [LLAMA_8B, LLAMA_1B]:
        for t in [64] if bench.small else [2048, 8192, 4096]:
            inputs = sdpa_inputs(bench, tokens // t, t, model)
            detail = f"{tokens // t}x{t} h{model.heads}/{model.kv} hd{model.size} bf16"
            case = dict(t=tokens, length=t, heads=model.heads, kv=model.kv, size=model.size, dtype="bf16")
            for backend in backends:
                name = backend.name.split("_")[0].lower()
                if bench.left() < bench.attention_until:
                    bench.skipped.append(f"attention: {detail} {name}")
                    continue
                with bench.attempt(f"attention {detail} {name}"), sdpa_kernel(backend):
                    taken = accepted(inputs)
                    sdpa_pair(bench, name, detail + ("" if taken is inputs else " repeated"), taken, case)
    bench.mean_of("attention", "fwd cudnn", "attention forward beside cuDNN", 0.95)
    bench.mean_of("attention", "bwd cudnn", "attention backward beside cuDNN", 0.85)
    bench.mean_of("attention", "fwd flash", "attention forward beside FLASH", 0.95)
    bench.mean_of("attention", "bwd flash", "attention backward beside FLASH", 0.85)


def sdpa_pair(
    bench: Bench, name: str, detail: str, inputs: list[tuple[torch.Tensor, ...]], case: dict[str, Any]
) -> None:
    def forward(i: int) -> None:
        with torch.no_grad():
            sdpa(*inputs[i % len(inputs)])

    outputs = [sdpa(*x) for x in inputs]
    grads = [torch.randn_like(o) for o in outputs]

    def backward(i: int) -> None:
        j = i % len(inputs)
        torch.autograd.grad(outputs[j], inputs[j], grads[j], retain_graph=True)

    compare(bench, "attention", f"fwd {name}", detail, forward, 0.95, "attention", backward=False, **case)
    compare(bench, "attention", f"bwd {name}", detail, backward, 0.85, "attention", backward=True, **case)


# ---- The head with its loss ----


def chunked_loss(x: torch.Tensor, w: torch.Tensor, targets: torch.Tensor, chunk: int) -> None:
    """Linear layer and cross-entropy with gradients, `chunk` rows of logits at a time."""
    for start in range(0, x.shape[0], chunk):
        rows = x[start : start + chunk].detach().requires_grad_()
        logits = (rows @ w.t()).float()
        (F.cross_entropy(logits, targets[start : start + chunk], reduction="sum") / x.shape[0]).backward()


def loss(bench: Bench) -> None:
    r, v, d = (64, 512, 64) if bench.small else (16384, 128256, 4096)
    x, w = bench.normal(r, d), bench.normal(v, d, scale=0.02).requires_grad_()
    targets = torch.randint(v, (r,), device=bench.device)
    w.grad = torch.zeros_like(w)
    detail = f"{r}x{v}x{d} bf16"
    case = dict(r=r, v=v, d=d, dtype="bf16")
    with bench.attempt("linear + cross-entropy"):
        run = lambda _: chunked_loss(x, w, targets, 2048)  # noqa: E731
        row = compare(bench, "loss", "chunked in torch", detail, run, 1.8, "loss", train=True, **case)
        bench.summary("linear + cross-entropy with gradients", row.ratio, 1.8)
    with bench.attempt("log-probabilities"), torch.no_grad():

        def score(_: int) -> None:
            for start in range(0, r, 2048):
                logits = (x[start : start + 2048] @ w.t()).float()
                torch.log_softmax(logits, -1).gather(1, targets[start : start + 2048, None])

        compare(bench, "loss", "log-probabilities in torch", detail, score, None, "loss", train=False, **case)


# ---- Ops on rows ----


def rms_norm(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x, (x.shape[-1],), w, 1e-5)


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, -1)
    return F.silu(gate) * up


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding, halves as in Hugging Face models; x [t, heads, size]."""
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


@dataclass
class Op:
    """An op on rows: our name, the function, its operands, whether the backward pass is meant."""

    name: str
    function: Callable[..., torch.Tensor]
    operands: Callable[[], tuple[torch.Tensor, ...]]
    backward: bool = False


def row_ops(bench: Bench, t: int, model: Model) -> list[Op]:
    d, f, size = model.d, model.ffn, model.size
    angles = torch.outer(torch.arange(t, device=bench.device), torch.rand(size // 2, device=bench.device))
    cos, sin = (fn(angles)[:, None].to(BF16) for fn in (torch.cos, torch.sin))
    norm = lambda: (bench.normal(t, d).requires_grad_(), bench.normal(d).requires_grad_())  # noqa: E731
    glu = lambda: (bench.normal(t, 2 * f).requires_grad_(),)  # noqa: E731
    return [
        Op("rms_norm_fwd", rms_norm, norm),
        Op("rms_norm_bwd", rms_norm, norm, backward=True),
        Op("swiglu_fwd", swiglu, glu),
        Op("swiglu_bwd", swiglu, glu, backward=True),
        Op("rope", rotate, lambda: (bench.normal(t, model.heads, size), cos, sin)),
    ]


def row_run(bench: Bench, op: Op, compiled: bool) -> Run:
    function = torch.compile(op.function, dynamic=False) if compiled else op.function
    bytes_each = 2 * sum(x.numel() * x.element_size() for x in op.operands())
    sets = [op.operands() for _ in range(bench.copies(bytes_each))]
    if not op.backward:

        def forward(i: int) -> None:
            with torch.no_grad():
                function(*sets[i % len(sets)])

        return forward
    outputs = [function(*x) for x in sets]
    grads = [torch.randn_like(o) for o in outputs]

    def backward(i: int) -> None:
        j = i % len(sets)
        torch.autograd.grad(outputs[j], sets[j], grads[j], retain_graph=True)

    return backward


def rows(bench: Bench) -> None:
    """Beside eager and compiled torch."""
    t, model = (64, TINY) if bench.small else (8192, LLAMA_8B)
    case = dict(t=t, d=model.d, heads=model.heads, size=model.size, f=model.ffn, v=model.vocab, dtype="bf16")
    for op in row_ops(bench, t, model):
        for compiled in [False] if bench.small else [True, False]:
            kind = "compiled" if compiled else "eager"
            with bench.attempt(f"{op.name} {kind}"):
                run = row_run(bench, op, compiled)
                detail, goal = f"{t} tokens, d {model.d}, ffn {model.ffn}", 1.0 if compiled else None
                compare(bench, "rows", f"{op.name} {kind}", detail, run, goal, "rows", name=op.name, **case)
    bench.mean_of("rows", "compiled", "norm, swiglu, rope beside torch.compile", 1.0)


# ---- The optimizer ----


def optimizer(bench: Bench) -> None:
    n, parts = (1 << 14, 4) if bench.small else (1 << 28, 16)
    for keeping, dtype in [("bf16", BF16), ("remainder", BF16), ("f32", torch.float32)]:
        with bench.attempt(f"adamw {keeping}"):
            params = [bench.normal(n // parts, dtype=dtype).requires_grad_() for _ in range(parts)]
            for p in params:
                p.grad = torch.full_like(p, 1e-3)
            theirs = torch.optim.AdamW(params, lr=1e-4, weight_decay=0.1, fused=True)
            detail = f"{n >> 20}M, theirs all {str(dtype).split('.')[1]}"
            run = lambda _: theirs.step()  # noqa: E731
            compare(bench, "optimizer", f"adamw {keeping}", detail, run, None, "adamw", n=n, keeping=keeping)
            if keeping == "bf16":
                clip = lambda _: torch.nn.utils.clip_grad_norm_(params, 1.0)  # noqa: E731
                detail = f"{n >> 20}M bf16 in {parts} parts"
                row = compare(bench, "optimizer", "clip_grad_norm_", detail, clip, 3.0, "clip", n=n, dtype="bf16")
                bench.summary("gradient norm and clipping", row.ratio, 3.0)
            del params, theirs
    bench.mean_of("optimizer", "adamw bf16", "AdamW, all bf16, beside fused", 1.0)


# ---- Whole models ----


class Block(torch.nn.Module):
    def __init__(self, m: Model, device: str) -> None:
        super().__init__()
        linear = lambda i, o: torch.nn.Linear(i, o, bias=False, device=device, dtype=BF16)  # noqa: E731
        self.m = m
        self.qkv = linear(m.d, (m.heads + 2 * m.kv) * m.size)
        self.out = linear(m.heads * m.size, m.d)
        self.gate_up = linear(m.d, 2 * m.ffn)
        self.down = linear(m.ffn, m.d)
        self.norm1, self.norm2 = (torch.nn.Parameter(torch.ones(m.d, device=device, dtype=BF16)) for _ in range(2))

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        m, (b, t, _) = self.m, x.shape
        q, k, v = self.qkv(rms_norm(x, self.norm1)).view(b, t, -1, m.size).split((m.heads, m.kv, m.kv), 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        o = sdpa(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        x = x + self.out(o.transpose(1, 2).reshape(b, t, -1))
        return x + self.down(swiglu(self.gate_up(rms_norm(x, self.norm2))))


class Llama(torch.nn.Module):
    """Plain LLaMA: bf16 weights, SDPA, the fastest eager form of each part."""

    def __init__(self, m: Model, device: str) -> None:
        super().__init__()
        self.m = m
        self.embed = torch.nn.Embedding(m.vocab, m.d, device=device, dtype=BF16)
        self.blocks = torch.nn.ModuleList(Block(m, device) for _ in range(m.layers))
        self.norm = torch.nn.Parameter(torch.ones(m.d, device=device, dtype=BF16))
        self.head = torch.nn.Linear(m.d, m.vocab, bias=False, device=device, dtype=BF16)
        if m.tied:
            self.head.weight = self.embed.weight
        for p in self.parameters():
            if p.dim() == 2:
                torch.nn.init.normal_(p, std=0.02)
        inverse = 10000.0 ** (-torch.arange(0, m.size, 2, device=device) / m.size)
        angles = torch.outer(torch.arange(m.context, device=device), inverse)[:, None]
        self.register_buffer("cos", angles.cos().to(BF16), persistent=False)
        self.register_buffer("sin", angles.sin().to(BF16), persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        t = tokens.shape[1]
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, self.cos[:t], self.sin[:t])
        return self.head(rms_norm(x, self.norm))


def training(model: torch.nn.Module, tokens: torch.Tensor) -> Run:
    """A training step: loss of every token but the first, clipping, fused AdamW."""
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.01, fused=True)

    # Nothing follows a row's last token: -100 is no target.
    targets = F.pad(tokens[:, 1:], (0, 1), value=-100).flatten()

    def step(_: int) -> None:
        logits = model(tokens).flatten(0, 1)
        F.cross_entropy(logits.float(), targets).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        adamw.zero_grad(set_to_none=True)

    return step


def peak(bench: Bench) -> float:
    return torch.cuda.max_memory_allocated() / 2**30 if bench.device == "cuda" else float("nan")


def needs(model: Model, tokens: int, bytes_a_parameter: int) -> tuple[float, float]:
    """Bytes that a step takes, about: ours with so much a parameter, and theirs with all states in bf16."""
    p, layers, d = model.parameters(), model.layers, model.d
    ours = bytes_a_parameter * p + tokens * (layers * 25 * d + 70 * d) + 3e9
    theirs = 8 * p + tokens * (layers * 48 * d + 16 * model.vocab) + 1e9
    return ours, theirs


def room(bench: Bench) -> float:
    """Bytes that steps may take."""
    return 0.92 * torch.cuda.get_device_properties(0).total_memory if bench.device == "cuda" else math.inf


def keeping_of(bench: Bench, model: Model, tokens: int) -> dict[str, str]:
    """What ours keeps: exact f32 masters; all bf16, as theirs does, where memory is short."""
    if bench.device == "cpu":
        return {"master": "f32", "moments": "f32", "gradients": "f32", "recompute": "lean"}
    exact = needs(model, tokens, 14)[0] < room(bench)
    how = ("remainder", "f32") if exact else ("none", "bf16")
    return {"master": how[0], "moments": how[1], "gradients": "storage", "recompute": "lean"}


def open_step(bench: Bench, model: Model, case: dict[str, Any]) -> float:
    """Opens ours and lets it warm up; GiB of its memory."""
    answer = bench.ours.open("step", model=model.config(), **case)
    bench.ours.time(2)
    return float(answer["memory"]) / 2**30


def step_pair(bench: Bench, model: Model, batch: int, length: int, goal: float, compiled: bool = False) -> None:
    """A step of ours and of theirs on as many tokens, in turns where both fit."""
    tokens = batch * length
    case = dict(rows=batch, length=length, dtype="bf16", **keeping_of(bench, model, tokens))
    together = sum(needs(model, tokens, 14 if case["master"] == "remainder" else 8)) < room(bench)
    if not together:
        memory = open_step(bench, model, case)
        ours = [bench.ours.time(1) for _ in range(ROUNDS)]
        bench.ours.close()
    if bench.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    theirs = Llama(model, bench.device)
    data = torch.randint(model.vocab, (batch, length), device=bench.device)
    run = training(torch.compile(theirs) if compiled else theirs, data)
    for i in range(2):
        run(i)
    if together:
        memory = open_step(bench, model, case)
        samples = bench.turns(run, events=False)
        bench.ours.close()
    else:
        samples = (ours, [bench.clock(run, 1, events=False) for _ in range(ROUNDS)])
    name = f"training step {model.name}, {'compiled' if compiled else 'plain'} torch"
    rate = tokens / statistics.median(samples[0]) * 1e6
    beside = f"{rate:,.0f} tok/s, {memory:.1f} GiB beside {peak(bench):.1f}"
    row = bench.add("steps", name, f"{batch}x{length} bf16, master {case['master']}", samples, goal, beside)
    bench.summary(name, row.ratio, goal)
    if bench.device == "cuda" and not compiled:
        bench.summary(f"peak memory {model.name}", memory / peak(bench), 0.6, less_is_better=True)


def step_fits(bench: Bench, model: Model, tokens: int, seconds: float) -> bool:
    """Whether there is memory and time for it; says so if not."""
    why = "memory" if max(needs(model, tokens, 8)) > room(bench) else "time" if bench.left() < seconds else ""
    if why:
        bench.skipped.append(f"training step {model.name}, for {why}")
    return not why


def steps(bench: Bench) -> None:
    plans = [(LLAMA_1B, 8, 2048), (GPT2, 32, 1024), (LLAMA_8B, 4, 2048)]
    for model, batch, length in [(TINY, 2, 64)] if bench.small else plans:
        if step_fits(bench, model, batch * length, 10 + model.parameters() / 1.5e8):
            with bench.attempt(f"training step {model.name}"):
                step_pair(bench, model, batch, length, 1.5)


def compiled_step(bench: Bench) -> None:
    """The smallest model beside torch.compile, which takes long to compile."""
    if bench.device == "cuda" and step_fits(bench, GPT2, 32768, 90):
        with bench.attempt("compiled training step"):
            step_pair(bench, GPT2, 32, 1024, 1.1, compiled=True)


# ---- Scoring ----


def scoring(bench: Bench) -> None:
    """Questions of a context and four options, as an evaluation harness asks them: every option a padded request of its own."""
    model, questions = (TINY, 2) if bench.small else (LLAMA_1B, 64)
    context, options, length = (20, 4, 5) if bench.small else (75, 4, 27)
    with bench.attempt("scoring"), torch.no_grad():
        theirs = Llama(model, bench.device)
        requests = torch.randint(model.vocab, (questions * options, context + length), device=bench.device)

        def run(_: int) -> float:
            total = 0.0
            for part in requests.split(64):
                logits = torch.log_softmax(theirs(part[:, :-1]).float(), -1)
                wanted = part[:, context:]
                values = logits[:, context - 1 :].gather(2, wanted[..., None])
                total += float(values.sum())
            return total

        shape = dict(questions=questions, context=context, options=options, length=length)
        bench.ours.open("score", model=model.config(), dtype="bf16", **shape)
        samples = bench.turns(run, events=False)
        bench.ours.close()
        rate = f"{questions / statistics.median(samples[0]) * 1e6:,.0f} questions/s"
        detail = f"{questions} x ({context} + {options} x {length})"
        row = bench.add("scoring", f"multiple choice {model.name}", detail, samples, 3.0, rate)
        bench.summary(f"scoring {model.name}, a request an option", row.ratio, 3.0)


# ---- The run ----


def ceilings(bench: Bench) -> None:
    """What the GPU reaches at best, ours and theirs."""
    n = 128 if bench.small else 8192
    with bench.attempt("square product"):
        case = dict(form="nt", m=n, n=n, k=n, dtype="bf16", out="bf16")
        compare(bench, "ceilings", "square product", f"{n}^3 bf16", product(bench, "nt", n, n, n), None, "matmul", **case)
    with bench.attempt("copy"):
        size = 1 << (16 if bench.small else 30)
        x = bench.normal(size // 2)
        y = torch.empty_like(x)
        compare(bench, "ceilings", "copy", f"{size >> 20} MiB", lambda _: y.copy_(x), None, "copy", n=size)


SECTIONS: dict[str, Callable[[Bench], None]] = {
    "ceilings": ceilings,
    "gemm": gemm,
    "steps": steps,
    "attention": attention,
    "loss": loss,
    "optimizer": optimizer,
    "scoring": scoring,
    "rows": rows,
    "compiled": compiled_step,
}


def smi(query: str) -> str:
    """What nvidia-smi says, or nothing."""
    try:
        command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader", "-i", "0"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def environment(bench: Bench) -> dict[str, Any]:
    ours = bench.ours.ask({"do": "device"})
    name = torch.cuda.get_device_name(0) if bench.device == "cuda" else "cpu"
    return {
        "gpu": name,
        "ours": ours["name"],
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if bench.device == "cuda" else None,
        "driver": smi("driver_version"),
        "matmul_bf16_reduced_reduction": torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
        "cache_bytes": bench.cache,
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--serve", required=True, help="the bench binary `serve`")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny shapes, to try this script")
    parser.add_argument("--budget", type=float, default=330, help="seconds (default 330)")
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--json", help="where to write all numbers")
    return parser.parse_args()


def run_sections(bench: Bench, chosen: list[str], clocks: list[dict[str, str]]) -> None:
    for name in chosen:
        if bench.left() < 15 and not bench.small:
            bench.skipped.append(name)
            continue
        clocks.append({"before": name, "clocks": smi("clocks.sm,clocks.mem,power.draw,temperature.gpu")})
        print(f"\n{name}  {clocks[-1]['clocks']}", flush=True)
        bench.ours.close()
        bench.heat(0.02 if bench.small else 0.5)
        with bench.attempt(name):
            SECTIONS[name](bench)


def main() -> int:
    args = parse()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("gpu_peers: torch finds no GPU; nothing is compared")
        return 2
    bench = Bench(Ours(args.serve, args.device), args.device, args.small, args.budget)
    try:
        about = environment(bench)
    except (OSError, Failed) as error:
        print(f"gpu_peers: {args.serve} does not serve: {error}")
        return 2
    print(json.dumps(about))
    bench.heat(0.05 if args.small else HEAT)
    clocks: list[dict[str, str]] = []
    run_sections(bench, [name for name in args.only.split(",") if name in SECTIONS], clocks)
    bench.table()
    for what, lines in [("left out", bench.skipped), ("failed in torch", bench.peer_failures), ("failed", bench.failures)]:
        if lines:
            print(f"{what}: " + "; ".join(lines))
    if args.json:
        rows = [asdict(row) for row in bench.rows]
        result = {"about": about, "clocks": clocks, "summary": bench.short, "rows": rows}
        failed = {"failed": bench.failures, "failed_in_torch": bench.peer_failures}
        with open(args.json, "w") as file:
            json.dump({**result, "left_out": bench.skipped, **failed}, file, indent=1)
    return 1 if bench.failures else 0


if __name__ == "__main__":
    sys.exit(main())
