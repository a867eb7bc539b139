#!/usr/bin/env python3
"""Measures flanrt beside PyTorch and lm-evaluation-harness on the CPU: same models, same files, in turns.

    python3 benches/peers/run.py                          # all of it
    python3 benches/peers/run.py --quick                  # does everything work? small shapes, numbers mean nothing
    python3 benches/peers/run.py --only 'score-.*-f32'    # some of it
    python3 benches/peers/run.py --rounds 0               # the table of what was measured before

Prints a Markdown table; writes OUT/results.jsonl (every run) and OUT/ratios.png. What is missing is said and left out.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

sys.dont_write_bytecode = True
import report
from workloads import HERE, workloads

CORES = os.cpu_count()
QUIET = 0.08  # other work, as a share of all cores, at which a run may begin
NOISY = 0.12  # and above which it is repeated
REPEATS = 2


@dataclass
class Process:
    """One that has ended."""

    argv: list
    stdout: str
    begin: float  # time.time()
    wall: float
    rss_mb: float
    cpu: float
    busy: float  # seconds of all cores while it ran, its own among them


class Failed(Exception):
    pass


def busy():
    """Seconds of work of all cores since boot; 0 where there is no /proc."""
    try:
        user, nice, system, _, _, irq, softirq, steal = map(int, open("/proc/stat").readline().split()[1:9])
    except OSError:
        return 0.0
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def wait_for_quiet(patience=60):
    end = time.time() + patience
    while time.time() < end:
        before, begin = busy(), time.time()
        time.sleep(0.5)
        if busy() - before < QUIET * CORES * (time.time() - begin):
            return


class Env:
    """What sides need to run: paths, options, and `execute`, which keeps account."""

    def __init__(self, args):
        self.flanrt, self.python, self.lm_eval_python = args.flanrt.resolve(), args.python, args.lm_eval_python
        self.llama_bench, self.gguf, self.shim = args.llama_bench, args.gguf, args.mkl_shim
        self.threads, self.quick, self.data = args.threads, args.quick, args.data
        self.out = args.out / "quick" if args.quick else args.out
        self.inputs, self.scratch = self.out / "models", self.out / "scratch"
        self.processes = []

    def execute(self, argv, preload=None, timeout=1200):
        argv = [str(a) for a in argv]
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), str(self.threads))
        environment = os.environ | threads | dict(FLANRT_CACHE=str(self.scratch / "cache"), HF_HUB_OFFLINE="1")
        if preload:
            environment["LD_PRELOAD"] = str(preload)
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            before, begin, clock = busy(), time.time(), time.perf_counter()
            child = subprocess.Popen(argv, stdout=out, stderr=err, env=environment)
            timer = threading.Timer(timeout, child.kill)
            timer.start()
            try:
                _, status, usage = os.wait4(child.pid, 0)
            except KeyboardInterrupt:
                child.kill()
                raise
            finally:
                timer.cancel()
            wall = time.perf_counter() - clock
            child.returncode = os.waitstatus_to_exitcode(status)
            out.seek(0), err.seek(0)
            if child.returncode:
                raise Failed(f"exit {child.returncode}: {' '.join(argv)}\n{err.read()[-1500:]}")
            rss_mb = usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3 / 1.024)
            cpu = usage.ru_utime + usage.ru_stime
            self.processes.append(Process(argv, out.read(), begin, wall, rss_mb, cpu, busy() - before))
        return self.processes[-1]


def measure(env, side):
    """One run of a side, repeated while other processes disturb it."""
    for _ in range(1 if env.quick else 1 + REPEATS):
        if not env.quick:
            wait_for_quiet()
        env.processes.clear()
        result = side()
        wall = sum(p.wall for p in env.processes)
        other = max(0.0, sum(p.busy - p.cpu for p in env.processes)) / (wall * CORES)
        if other <= NOISY:
            break
    return result, dict(wall_s=round(wall, 3), other=round(other, 3), noisy=other > NOISY)


def has(python, *modules):
    """Whether an interpreter finds the modules, without importing them."""
    code = "import importlib.util as u, sys; sys.exit(not all(u.find_spec(m) for m in sys.argv[1:]))"
    try:
        return subprocess.run([python, "-c", code, *modules], capture_output=True).returncode == 0
    except OSError:
        return False


def skip(what, needs):
    print(f"skipped: {what} needs {needs}")


def sides_available(env):
    """The sides whose programs are there; the others are named."""
    names = {"flanrt"}
    torch = has(env.python, "torch", "transformers", "tokenizers")
    wanted = {
        "torch": (torch, "torch and transformers (--python)"),
        "torch shared": (torch, "torch and transformers (--python)"),
        "lm-eval": (has(env.lm_eval_python, "lm_eval", "torch", "transformers"), "lm_eval with torch (--lm-eval-python)"),
        "torch+shim": (torch and build_shim(env), "torch, Linux on an AMD processor, and cc or --mkl-shim"),
        "llama.cpp": (env.llama_bench and env.gguf, "--llama-bench and --gguf"),
    }
    for name, (there, needs) in wanted.items():
        if there:
            names.add(name)
        else:
            skip(name, needs)
    return names


def build_shim(env):
    """Compiles mklshim.c unless a library was given; elsewhere than on AMD it changes nothing."""
    if env.shim is None and sys.platform == "linux" and shutil.which("cc") and "AMD" in processor():
        shim = env.out / "mklshim.so"
        built = subprocess.run(["cc", "-O2", "-shared", "-fPIC", HERE / "mklshim.c", "-o", shim], capture_output=True)
        env.shim = shim.resolve() if built.returncode == 0 else None
    return env.shim


def processor():
    try:
        lines = open("/proc/cpuinfo").read()
    except OSError:
        return platform.processor()
    return " ".join(dict.fromkeys(re.findall(r"(?:vendor_id|model name)\s*: (.*)", lines)))


def make_inputs(env):
    """Models, texts and requests, once; made again when something asks for others. False if they cannot be made."""
    made = env.out / "models.json"
    recipe = dict(data=str(env.data), code=(HERE / "models.py").read_text())
    if made.exists() and json.loads(made.read_text()) == recipe:
        return True
    if not has(env.python, "torch", "transformers", "tokenizers"):
        skip("everything", "models, and they torch and transformers (--python)")
        return False
    print(f"making models and texts in {env.inputs}", flush=True)
    argv = [env.python, HERE / "models.py", env.inputs] + ["--quick"] * env.quick
    if env.data:
        argv += ["--data", env.data]
        if (env.data / "data").is_dir():
            rows = env.out / "flan.jsonl"
            env.execute([env.flanrt, "data", "export", "--mixture=flan", "--allow-missing", "--data", env.data / "data", "-n=1500", "--to", rows])
            argv += ["--rows", rows]
    env.execute(argv)
    made.write_text(json.dumps(recipe))
    return True


def largest_difference(a, b):
    return max(abs(x - y) for r, s in zip(a, b, strict=True) for x, y in zip(r, s, strict=True))


def run_workload(env, workload, available, rounds, common, log):
    """All sides in turns; a side that fails is left out of the later rounds."""
    sides = {name: side for name, side in workload.sides.items() if name in available}
    if len(sides) < 2:
        return
    for turn in range(rounds):
        scores = None
        for name, side in list(sides.items()):
            try:
                result, account = measure(env, side)
            except (Failed, OSError, ValueError, KeyError) as e:
                print(f"failed: {workload.name} {name}: {type(e).__name__} {e}", flush=True)
                del sides[name]
                continue
            process, theirs = result.pop("process"), result.pop("scores", None)
            scores = theirs if name == "flanrt" else scores
            difference = largest_difference(scores, theirs) if scores and theirs and name != "flanrt" else None
            record = dict(workload=workload.name, side=name, round=turn, value=result.pop("value"), unit=workload.unit)
            record |= account | dict(peak_rss_mb=round(process.rss_mb, 1), threads=env.threads, difference=difference)
            record |= dict(versions=result.pop("versions", common["flanrt"]), command=process.argv, details=result) | common
            log.write(json.dumps(record) + "\n")
            log.flush()
            mark = "  NOISY" if record["noisy"] else ""
            value = f"{report.number(record['value'])} {workload.unit}"
            print(f"{turn + 1}/{rounds}  {workload.name:24}{name:14}{value:22}other {account['other']:.0%}{mark}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    assets = Path(os.environ.get("FLANRT_TEST_ASSETS", "../shared"))
    add = parser.add_argument
    add("--flanrt", type=Path, default=Path("target/release/flanrt"), help="the program [target/release/flanrt]")
    add("--out", type=Path, default=Path("target/peers"), help="models, results.jsonl, ratios.png [target/peers]")
    add("--rounds", type=int, default=3, help="runs of every side [3]; 0: only the table")
    add("--threads", type=int, default=2, help="threads of every side [2]")
    add("--only", metavar="REGEX", default="", help="workloads whose names match")
    add("--python", default=sys.executable, help="interpreter that has torch and transformers [this one]")
    add("--lm-eval-python", default=sys.executable, help="interpreter that has lm_eval [this one]")
    add("--data", type=Path, default=assets if assets.is_dir() else None, help="folder with corpus/ and data/ [$FLANRT_TEST_ASSETS or ../shared]")
    add("--mkl-shim", type=Path, help="a built mklshim.so [built where cc is]")
    add("--llama-bench", type=Path, help="llama.cpp's program of that name")
    add("--gguf", type=Path, help="folder with SIZE-DTYPE.gguf of the models in OUT/models")
    add("--quick", action="store_true", help="small shapes, to see that everything works")
    add("--list", action="store_true", help="name the workloads and end")
    args = parser.parse_args()
    env = Env(args)
    everything = workloads(env)
    chosen = [w for w in everything if re.search(args.only, w.name)]
    if args.list:
        for w in chosen:
            goals = "; ".join(f"{g.peer} {g.of} must {g.must:g} aim {g.aim:g}" for g in w.goals)
            print(f"{w.name:24}{w.unit:14}{goals}")
        return
    env.out.mkdir(parents=True, exist_ok=True)
    results = env.out / "results.jsonl"
    if args.rounds:
        if not env.flanrt.exists():
            sys.exit(f"no {env.flanrt}: cargo build --release, or name it with --flanrt")
        version = subprocess.run([env.flanrt, "--version"], capture_output=True, text=True).stdout.strip()
        common = dict(started=datetime.now(timezone.utc).isoformat(timespec="seconds"), flanrt=version, machine=processor())
        available = sides_available(env)
        if not make_inputs(env):
            return
        with results.open("a") as log:
            try:
                for workload in chosen:
                    run_workload(env, workload, available, args.rounds, common, log)
            except KeyboardInterrupt:
                print("stopped")
        shutil.rmtree(env.scratch, ignore_errors=True)
    rows = report.rows(everything, [json.loads(line) for line in results.open()] if results.exists() else [])
    if not rows:
        return
    print("\n" + report.table(rows))
    try:
        report.chart(rows, env.out / "ratios.png", f"flanrt beside its peers, {args.threads} threads, {processor()}: times better")
    except ImportError:
        skip("the chart", "matplotlib")


if __name__ == "__main__":
    main()
