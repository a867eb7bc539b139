"""What is compared: for every workload the sides that run it and the goals of their ratios.

A side is a function without arguments that runs its processes and returns a dictionary with `value` (in the workload's unit)
and what else is worth a record. Goals are ratios in our favour, except where `Goal.of` says otherwise.
"""

import json
import shutil
import statistics
import struct
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass
class Goal:
    """What flanrt has to reach beside `peer`.

    of   value: ours over theirs, or theirs over ours where less is better; memory: our peak over theirs, at most;
         seconds: our value, at most, whatever theirs is
    """

    peer: str
    must: float
    aim: float
    of: str = "value"


@dataclass
class Workload:
    name: str
    unit: str
    sides: dict
    goals: list
    less_is_better: bool = False


# Ours


def first_step_time(run):
    """When the first step had ended: the wall time of its first record in the TensorBoard events."""
    data = next(run.glob("events.out.tfevents.*")).read_bytes()
    at = 0
    while at < len(data):
        (size,) = struct.unpack_from("<Q", data, at)
        event, at = data[at + 12 : at + 12 + size], at + size + 16
        # Field 1 is the time, a double; field 2 the step, a varint that the file's own header lacks.
        if event[0] == 0x09 and event[9:11] == b"\x10\x01":
            return struct.unpack_from("<d", event, 1)[0]
    raise ValueError("no event of step 1")


def flanrt_train(env, model, file, loss, rows, seq, steps, dtype):
    """A run with a log line a step: {seconds, tokens, losses, first_step_at, process}."""
    run = env.scratch / "run"
    shutil.rmtree(env.scratch, ignore_errors=True)
    settings = dict(loss=loss, batch_size=rows, seq_len=seq, steps=steps, dtype=dtype, clip=1, lr=1e-4, schedule="constant")
    settings |= dict(warmup=0, weight_decay=0, log_every=1, threads=env.threads, progress="none", out=run)
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in settings.items()]
    process = env.execute([env.flanrt, "finetune", env.inputs / model, env.inputs / file, "--json", *flags])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    tokens = [b["tokens"] - a["tokens"] for a, b in zip([{"tokens": 0}] + lines, lines)]
    seconds = [n / line["tokens_per_second"] for n, line in zip(tokens, lines)]
    losses = [line["loss"] for line in lines]
    return dict(seconds=seconds, tokens=tokens, losses=losses, first_step_at=first_step_time(run), process=process)


def flanrt_score(env, model, requests, n, dtype):
    """{seconds, scores, process}; seconds without start and loading, with tokenizing."""
    env.scratch.mkdir(parents=True, exist_ok=True)
    lines = (env.inputs / requests).read_text().splitlines(keepends=True)
    chosen, out = env.scratch / "requests.jsonl", env.scratch / "scores.jsonl"
    chosen.write_text("".join(lines[:n]))
    out.unlink(missing_ok=True)
    how = ["--boundary", "lm-eval", "--no-unconditional", "--dtype", dtype, "--threads", env.threads, "--progress", "none"]
    files = ["--requests", chosen, "--out", out]
    process = env.execute([env.flanrt, "score", env.inputs / model, "--json", *files, *how])
    scores = [[option["logprob"] for option in json.loads(line)["options"]] for line in out.open()]
    return dict(seconds=json.loads(process.stdout)["seconds"], scores=scores, process=process)


# Theirs


def peer(env, python, script, arguments, preload=None):
    process = env.execute([python, HERE / script, *arguments, "--threads", env.threads], preload)
    return json.loads(process.stdout.splitlines()[-1]) | dict(process=process)


def torch_train(env, model, file, rows, seq, steps, dtype, preload=None):
    arguments = ["train", "--model", env.inputs / model, "--file", env.inputs / file, "--dtype", dtype]
    arguments += ["--rows", rows, "--seq", seq, "--steps", steps]
    return peer(env, env.python, "peer_torch.py", arguments, preload)


def torch_run(env, what, model, requests, n, dtype):
    arguments = [what, "--model", env.inputs / model, "--requests", env.inputs / requests, "--n", n, "--dtype", dtype]
    return peer(env, env.python, "peer_torch.py", arguments)


def lm_eval_score(env, model, requests, n, dtype):
    arguments = ["--model", env.inputs / model, "--requests", env.inputs / requests, "--n", n, "--dtype", dtype]
    return peer(env, env.lm_eval_python, "peer_lm_eval.py", arguments)


def llama_bench(env, size, dtype):
    """`llama-bench` on DIR/SIZE-DTYPE.gguf."""
    model = env.gguf / f"{size}-{dtype}.gguf"
    process = env.execute([env.llama_bench, "-m", model, "-p", 512, "-n", 0, "-t", env.threads, "-r", 5, "-o", "json"])
    speeds = json.loads(process.stdout)[0]["samples_ts"]
    return dict(value=statistics.median(speeds), process=process)


# Values


def median_speed(result):
    """Tokens a second in the median step, without the first two."""
    speeds = [n / s for n, s in zip(result["tokens"], result["seconds"])]
    return result | dict(value=statistics.median(speeds[2:]))


def mean_speed(result):
    """Tokens a second over all steps but the first two: steps of rows are of different sizes."""
    return result | dict(value=sum(result["tokens"][2:]) / sum(result["seconds"][2:]))


def start(result):
    """Seconds from the start of the process to the end of the first step, less a median step."""
    whole = result["first_step_at"] - result["process"].begin
    step = statistics.median(result["seconds"][2:])
    return result | dict(value=max(whole - step, 0.001), start_to_first_step=whole, step=step)


def per_second(result, n):
    return result | dict(value=n / result["seconds"])


def workloads(env):
    """All of them. Sides whose programs are missing are left out later."""
    found = []

    # Full fine-tuning on text, every token a target.
    for size, rows in ("tiny", 8), ("small", 4):
        for dtype in "f32", "bf16":
            seq, steps = (64, 5) if env.quick else (256, 9 if size == "tiny" else 7)
            shape = dict(model=f"{size}-f32", file="text.txt", rows=rows, seq=seq, steps=steps, dtype=dtype)
            sides = {
                "flanrt": lambda s=shape: median_speed(flanrt_train(env, loss="all", **s)),
                "torch": lambda s=shape: median_speed(torch_train(env, **s)),
            }
            must, aim = {"f32-tiny": (2, 2.4), "f32-small": (2, 2.2), "bf16-tiny": (2, 2.4), "bf16-small": (1.4, 1.6)}[f"{dtype}-{size}"]
            goals = [Goal("torch", must, aim)]
            if dtype == "f32":
                sides["torch+shim"] = lambda s=shape: median_speed(torch_train(env, **s, preload=env.shim))
                goals += [Goal("torch+shim", 1.1, 1.3)]
            if (dtype, size) == ("f32", "tiny"):
                goals += [Goal("torch", 0.3, 0.2, of="memory")]
            found.append(Workload(f"train-{dtype}-{size}", "tokens/s", sides, goals))

    # Instruction rows, of which only the completions are targets.
    shape = dict(model="tiny-f32", file="rows.jsonl", rows=8 if env.quick else 32, seq=512, steps=5 if env.quick else 10, dtype="bf16")
    sides = {
        "flanrt": lambda s=shape: mean_speed(flanrt_train(env, loss="response", **s)),
        "torch": lambda s=shape: mean_speed(torch_train(env, **s)),
    }
    found.append(Workload("train-rows-bf16", "row tokens/s", sides, [Goal("torch", 3, 5)]))

    # Rank classification.
    counts = {"tiny": dict(nli=96, mc=32, cloze=96), "small": dict(nli=16, cloze=16)}
    for size, kinds in counts.items():
        for kind, n in kinds.items():
            for dtype in "f32", "bf16":
                n = 8 if env.quick else n
                shape = dict(model=f"{size}-{dtype}", requests=f"{kind}.jsonl", n=n, dtype=dtype)
                sides = {
                    "flanrt": lambda s=shape: per_second(flanrt_score(env, **s), s["n"]),
                    "lm-eval": lambda s=shape: per_second(lm_eval_score(env, **s), s["n"]),
                    "torch shared": lambda s=shape: per_second(torch_run(env, "score", **s), s["n"]),
                }
                goals = [Goal("lm-eval", 6, 10) if kind == "cloze" else Goal("lm-eval", 12, 20)]
                goals += [Goal("torch shared", 2.5, 4) if dtype == "f32" else Goal("torch shared", 2, 3)]
                found.append(Workload(f"score-{kind}-{dtype}-{size}", "examples/s", sides, goals))

    # Reading prompts of 512 tokens.
    for size, n in ("tiny", 48), ("small", 8):
        for dtype in "f32", "bf16":
            n = 4 if env.quick else n
            shape = dict(model=f"{size}-{dtype}", requests="prefill.jsonl", n=n, dtype=dtype)
            sides = {
                "flanrt": lambda s=shape: per_second(flanrt_score(env, **s), 512 * s["n"]),
                "torch": lambda s=shape: per_second(torch_run(env, "prefill", **s), 512 * s["n"]),
                "llama.cpp": lambda size=size, dtype=dtype: llama_bench(env, size, dtype),
            }
            must, aim = (1.5, 2.5) if dtype == "f32" else (1.8, 3)
            goals = [Goal(name, must, aim) for name in ("torch", "llama.cpp")]
            found.append(Workload(f"prefill-{dtype}-{size}", "tokens/s", sides, goals))

    # From nothing to the first step done; a step of one row, so that little else is in it.
    shape = dict(model="tiny-f32", file="start.txt", rows=1, seq=64 if env.quick else 256, steps=6, dtype="f32")
    sides = {
        "flanrt": lambda s=shape: start(flanrt_train(env, loss="all", **s)),
        "torch": lambda s=shape: start(torch_train(env, **s)),
    }
    found.append(Workload("start", "s", sides, [Goal("torch", 0.3, 0.1, of="seconds")], less_is_better=True))
    return found
