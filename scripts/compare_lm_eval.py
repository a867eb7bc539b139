#!/usr/bin/env python3
"""Compares `flanrt score --tasks --preset lm-eval` with EleutherAI's lm-evaluation-harness on equal prompts.

    python scripts/compare_lm_eval.py                                     # all cases on both models of ../shared
    python scripts/compare_lm_eval.py --tasks rte,copa --limit 100 --cases zero-shot
    python scripts/compare_lm_eval.py --samples DIR --model MODEL_DIR     # a folder that `--out DIR` wrote before

Every (context, option) of the samples files goes through the harness's own HFLM.loglikelihood (float32, CPU) with the
ids of tokenizer.json. Compared are, for every template: log-probabilities, the same with EOS behind the option, numbers
of tokens, greedy flags, the options chosen by acc, acc_norm and acc_bytes, what `resps` says, and acc, acc_norm and
acc_bytes of the results file with their standard errors. Lengths are the harness's: of the option without the space in
front.

The tolerance is 1e-4, or 1e-7 of a sum where that is more: what float32 leaves of the thousand nats of an option of hundreds
of tokens. A log-probability over the tolerance counts if it is also over it when the harness computes in float64: its float32
alone is off by more than 1e-4 where options are hundreds of tokens long. Choices are compared with its float32.

Columns: rows; options; "refused", options at which the harness stops, without which a row has no choice (no token left
to them, or more than the context takes); "cut", options too long for the context with an EOS behind them, which are cut
on the left; "moved", options with a token that spans the border to the context; largest differences of the
log-probability, of it with EOS, and of `resps`; "f64", how many were settled in float64; "greedy", differing flags of
those that are true; differing numbers of tokens; differing choices. The case "stories" is `flanrt score --requests`
with the model's own first choices among the options: datasets have hardly a greedy one.

Exit code 0: all agree. 1: something differs, or flanrt failed. 2: bad arguments.

Needs lm-eval[hf] and torch; never reaches for the network. Last run with lm-eval 0.4.13, transformers 5.24.0,
tokenizers 0.23.3, torch 2.11.0.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

ROOT = Path(__file__).resolve().parent.parent
MODELS = "stories260K,tinystories-656k"
TASKS = "rte,copa,piqa,sst2,hellaswag"
# Flags of flanrt by case; --max-length goes to the harness, too.
CASES = {
    "zero-shot": ["--prompt", "continuation"],
    "three-shot": ["--prompt", "continuation", "--shots", "3"],
    "flan": ["--prompt", "flan", "--join", "newline", "--templates", "2"],
    "short-window": ["--prompt", "continuation", "--max-length", "96"],
    "stories": [],
}
STORIES = [
    "Once upon a time",
    "Lily and Tom went to the park. They saw a",
    "One day, a little girl named Lily",
    "Tim had a red ball. He liked to",
    "The dog was sad because",
    "Mom said,",
]
GREEDY = (1, 2, 3, 5, 8, 13)  # tokens of the greedy options
EXACT = 1e-9  # for shares of right answers and their standard errors
SHOWN = 3  # differences of a kind that are spelled out


def names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def arguments() -> argparse.Namespace:
    about, _, epilog = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        description=about, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--flanrt", type=Path, default=ROOT / "target/release/flanrt", help="the binary")
    parser.add_argument("--assets", type=Path, default=ROOT / "../shared", help="folder with models/ and data/")
    parser.add_argument("--models", type=names, default=MODELS, help=f"folders of models/ (default {MODELS})")
    parser.add_argument("--tasks", type=names, default=TASKS, help=f"default {TASKS}")
    parser.add_argument("--cases", type=names, default=",".join(CASES), help=f"of {', '.join(CASES)} (default all)")
    parser.add_argument("--limit", type=int, default=40, help="rows of a task (default 40)")
    parser.add_argument("--batch-size", type=int, default=16, help="of the harness (default 16)")
    parser.add_argument("--threads", type=int, default=1, help="of the harness (default 1)")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="largest difference (default 1e-4)")
    parser.add_argument(
        "--auto-tokenizer",
        action="store_true",
        help="the tokenizer that transformers takes by itself; some classes disagree with tokenizer.json",
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep flanrt's results here")
    parser.add_argument("--samples", type=Path, metavar="DIR", help="results of flanrt: runs nothing")
    parser.add_argument("--model", type=Path, metavar="DIR", help="with --samples: the model they are of")
    parser.add_argument("--max-length", type=int, metavar="TOKENS", help="with --samples: flanrt's --max-length")
    args = parser.parse_args()
    if unknown := set(args.cases) - set(CASES):
        parser.error(f"no such case: {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    if bool(args.samples) != bool(args.model):
        parser.error("--samples and --model go together")
    if args.samples is None and not args.flanrt.is_file():
        parser.error(f"{args.flanrt}: no such file; cargo build --release builds it, --flanrt names another")
    for folder in [args.model] if args.model else [args.assets / "models" / name for name in args.models]:
        if not (folder / "config.json").is_file():
            parser.error(f"{folder}: no config.json there")
    return args


@dataclass(frozen=True)
class Answer:
    """What the harness says of an option."""

    logprob: float
    with_eos: float | None
    greedy: bool
    tokens: int
    cut: bool
    moved: bool

    def note(self) -> str:
        return ", cut" * self.cut + ", a token spans the border" * self.moved


@dataclass
class Counts:
    """A template's comparison."""

    rows: int = 0
    options: int = 0
    refused: int = 0
    cut: int = 0
    moved: int = 0
    settled: int = 0
    logprob: float = 0.0
    eos: float = 0.0
    resps: float = 0.0
    greedy: int = 0
    firsts: int = 0
    tokens: int = 0
    choices: dict[str, int] = field(default_factory=lambda: {"acc": 0, "acc_norm": 0, "acc_bytes": 0})
    wrong: list[str] = field(default_factory=list)

    def differs(self, what: str, where: str) -> None:
        self.wrong.append(f"{what}: {where}")


class Harness:
    """The harness's model, kept for all cases of a model folder."""

    def __init__(self, folder: Path, args: argparse.Namespace) -> None:
        self.folder, self.args = folder, args
        self.lms: dict[str, Any] = {}

    def lm(self, dtype: str, window: int | None) -> Any:
        """Its model class, the weights in `dtype`."""
        import transformers
        from lm_eval.models.huggingface import HFLM

        if dtype not in self.lms:
            exact = transformers.PreTrainedTokenizerFast
            own = None if self.args.auto_tokenizer else exact.from_pretrained(self.folder)
            self.lms[dtype] = HFLM(
                str(self.folder), tokenizer=own, device="cpu", dtype=dtype, batch_size=self.args.batch_size
            )
        self.lms[dtype]._max_length = window
        return self.lms[dtype]

    def score(self, pairs: list[tuple[str, str]], window: int | None, dtype: str = "float32") -> list[Answer | None]:
        """What the harness says of every (context, option); None where it stops with an assertion."""
        from lm_eval.api.instance import Instance

        lm = self.lm(dtype, window)
        most = lm.max_length
        encoded = []
        for context, option in pairs:
            bare = ([lm.prefix_token_id], lm.tok_encode(option, add_special_tokens=False))
            encoded.append(lm._encode_pair(context, option) if context else bare)
        able = [i for i, (_, tail) in enumerate(encoded) if 0 < len(tail) <= most]
        requests = [Instance("loglikelihood", {}, pairs[i], n) for n, i in enumerate(able)]
        plain = lm.loglikelihood(requests, disable_tqdm=True)
        # Not something the harness does: its arithmetic with one id more.
        longer = [i for i in able if len(encoded[i][1]) < most]
        ended = [(pairs[i], encoded[i][0], encoded[i][1] + [lm.eot_token_id]) for i in longer]
        ended = dict(zip(longer, lm._loglikelihood_tokens(ended, disable_tqdm=True), strict=True))
        answers: list[Answer | None] = [None] * len(pairs)
        for i, (logprob, greedy) in zip(able, plain, strict=True):
            (context, option), (head, tail) = pairs[i], encoded[i]
            answers[i] = Answer(
                logprob=logprob,
                with_eos=ended[i][0] if i in ended else None,
                greedy=greedy,
                tokens=len(tail),
                cut=len(head) + len(tail) > most,
                moved=bool(context) and lm.tok_encode(context + option)[: len(head)] != head,
            )
        return answers


    def greedy_texts(self, context: str) -> list[str]:
        """How the model goes on after `context`, in several lengths."""
        import torch

        lm = self.lm("float32", None)
        ids = lm.tok_encode(context)
        start, texts = lm.tok_decode(ids), []
        for n in range(1, max(GREEDY) + 1):
            ids.append(int(lm._model_call(torch.tensor([ids]))[0, -1].argmax()))
            text = lm.tok_decode(ids)
            if n in GREEDY and text.startswith(start) and text != start:
                texts.append(text[len(start) :])
        return list(dict.fromkeys(texts))


def bare_options(options: list[str]) -> list[str]:
    """The options without the harness's delimiter, the space in front, which is not part of their length."""
    return [o[1:] for o in options] if all(o.startswith(" ") for o in options) else options


def first_best(values: list[float]) -> int:
    """As numpy.argmax."""
    return max(range(len(values)), key=lambda i: (values[i], -i))


def chosen(logprobs: list[float], chars: list[int], sizes: list[int]) -> dict[str, int]:
    """The harness's three choices (ConfigurableTask.process_results)."""
    return {
        "acc": first_best(logprobs),
        "acc_norm": first_best([x / n for x, n in zip(logprobs, chars, strict=True)]),
        "acc_bytes": first_best([x / n for x, n in zip(logprobs, sizes, strict=True)]),
    }


def pairs_of(row: dict[str, Any]) -> list[tuple[str, str]]:
    given = row["arguments"]
    return [(given[f"gen_args_{i}"]["arg_0"], given[f"gen_args_{i}"]["arg_1"]) for i in range(len(given))]


def compare(
    rows: list[dict[str, Any]], results: dict[str, Any], harness: Harness, window: int | None, args: argparse.Namespace
) -> Counts:
    """Compares the rows of a samples file, and what the results file says of them."""
    from lm_eval.api.metrics import mean_stderr

    tolerance = args.tolerance
    pairs = [pairs_of(row) for row in rows]
    answers = iter(harness.score([pair for row in pairs for pair in row], window))
    c = Counts()
    doubtful: list[tuple[str, str, tuple[str, str], float, Answer]] = []
    right: dict[str, list[float]] = {rule: [] for rule in c.choices}
    for row, asked in zip(rows, pairs, strict=True):
        ours, options = row["flanrt"]["scores"], [option for _, option in asked]
        theirs = [next(answers) for _ in asked]
        c.rows += 1
        c.options += len(asked)
        said = [float(answer[0][0]) for answer in row["resps"]] if "resps" in row else [None] * len(asked)
        for pair, o, t, s in zip(asked, ours, theirs, said, strict=True):
            if t is None:
                c.refused += 1
                continue
            place = f"row {row['doc_id']}, {pair[0][-30:]!r} + {pair[1]!r}"
            c.cut += t.cut
            c.moved += t.moved
            c.firsts += t.greedy
            sums = [("logprob", o["logprob"], t.logprob)]
            if s is not None:
                sums.append(("resps", s, t.logprob))
            if t.with_eos is not None and o.get("with_eos") is not None:
                sums.append(("eos", o["with_eos"], t.with_eos))
            for name, mine, its in sums:
                off = abs(mine - its)
                setattr(c, name, max(getattr(c, name), off))
                if not off <= tolerance:
                    doubtful.append((name, place, pair, mine, t))
            for name in ("greedy", "tokens"):
                mine, its = o[name], getattr(t, name)
                if mine != its:
                    setattr(c, name, getattr(c, name) + 1)
                    c.differs(name, f"{place}: {mine} here, {its} there{t.note()}")
        if None in theirs:
            continue
        mine = chosen([o["logprob"] for o in ours], [o["chars"] for o in ours], [o["bytes"] for o in ours])
        # In results of requests, lengths are of the options as given.
        texts = bare_options(options) if results else options
        lengths = [len(x) for x in texts], [len(x.encode()) for x in texts]
        its = chosen([t.logprob for t in theirs], *lengths)
        for rule in c.choices:
            right[rule].append(float(its[rule] in row["doc"]["gold"]))
            if mine[rule] != its[rule]:
                c.choices[rule] += 1
                c.differs(rule, f"row {row['doc_id']}: option {mine[rule]} here, {its[rule]} there, of {options}")
        if "acc" in row and row["acc"] != right["acc"][-1]:
            c.differs("acc of a row", f"row {row['doc_id']}: {row['acc']} here, {right['acc'][-1]} there")
    exact = harness.score([pair for _, _, pair, _, _ in doubtful], window, "float64") if doubtful else []
    for (name, place, _, mine, t), e in zip(doubtful, exact, strict=True):
        its = e.with_eos if name == "eos" else e.logprob
        if abs(mine - its) <= max(tolerance, 1e-7 * abs(its)):
            c.settled += 1
        else:
            c.differs(name, f"{place}: {mine} here, {its} there{t.note()}")
    if c.refused == 0:
        for rule, values in right.items():
            mean = sum(values) / len(values)
            error = mean_stderr(values) if len(values) > 1 else None
            for name, its in [(f"{rule},none", mean), (f"{rule}_stderr,none", error)]:
                mine = results.get(name)  # acc is there where accuracy is the dataset's measure
                if isinstance(mine, float) and its is not None and abs(mine - its) > EXACT:
                    c.differs(name, f"{mine} here, {its} there")
    return c


def flanrt(args: argparse.Namespace, model: Path, *flags: Any) -> None:
    command = [str(x) for x in (args.flanrt, "score", "--model", model, "--device", "cpu", *flags)]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        print(f"compare_lm_eval: {' '.join(command)}: {run.stderr.strip()}", file=sys.stderr)
        sys.exit(1)


HEAD = (
    f"{'model':<17} {'case':<13} {'task':<14} {'rows':>5} {'options':>7} {'refused':>7} {'cut':>4} {'moved':>5} "
    f"{'logprob':>8} {'eos':>8} {'resps':>8} {'f64':>4} {'greedy':>7} {'tokens':>6} {'acc':>4} {'norm':>4} {'bytes':>5}"
)


def table_line(model: str, case: str, name: str, c: Counts) -> str:
    acc, norm, size = c.choices.values()
    greedy = f"{c.greedy}/{c.firsts}"
    return (
        f"{model:<17} {case:<13} {name:<14} {c.rows:>5} {c.options:>7} {c.refused:>7} {c.cut:>4} {c.moved:>5} "
        f"{c.logprob:>8.1e} {c.eos:>8.1e} {c.resps:>8.1e} {c.settled:>4} {greedy:>7} {c.tokens:>6} {acc:>4} "
        f"{norm:>4} {size:>5}"
    )


def report(model: str, case: str, name: str, c: Counts) -> bool:
    """Prints what was compared; whether all agrees."""
    print(table_line(model, case, name, c), flush=True)
    kinds: dict[str, list[str]] = {}
    for line in c.wrong:
        kinds.setdefault(line.split(":")[0], []).append(line)
    for lines in kinds.values():
        for line in lines[:SHOWN]:
            print(f"compare_lm_eval: {model} {case} {name}: {line}", file=sys.stderr)
        if len(lines) > SHOWN:
            print(f"compare_lm_eval: ... and {len(lines) - SHOWN} more of these", file=sys.stderr)
    return not c.wrong


def compare_folder(
    model: Path, case: str, folder: Path, harness: Harness, window: int | None, args: argparse.Namespace
) -> bool:
    """Compares every template of the folder's newest results."""
    found = sorted(folder.glob("results_*.json"), key=lambda p: p.stat().st_mtime)
    if not found:
        print(f"compare_lm_eval: {folder}: no results_*.json in it", file=sys.stderr)
        return False
    results = json.loads(found[-1].read_text(encoding="utf-8"))
    tag = found[-1].stem.removeprefix("results_")
    good, compared = True, 0
    for name, entry in results["results"].items():
        lines = (folder / f"samples_{name}_{tag}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [row for row in map(json.loads, lines) if row["flanrt"]["part"] == "test" and row["flanrt"]["scores"]]
        if rows:  # answers of other tasks are texts
            c = compare(rows, entry, harness, window, args)
            compared += c.options - c.refused
            good &= report(model.name, case, name, c)
    if not compared:
        print(f"compare_lm_eval: {folder}: nothing in it was compared", file=sys.stderr)
    return good and compared > 0


def compare_stories(model: Path, folder: Path, harness: Harness, args: argparse.Namespace) -> bool:
    """The case "stories"."""
    folder.mkdir(parents=True, exist_ok=True)
    given, out = folder / "requests.jsonl", folder / "scores.jsonl"
    asked = [(context, [*harness.greedy_texts(context), " the end", " a dog."]) for context in STORIES]
    lines = [json.dumps({"id": i, "context": c, "options": o, "label": 0}) + "\n" for i, (c, o) in enumerate(asked)]
    given.write_text("".join(lines), encoding="utf-8")
    flanrt(args, model, "--requests", given, "--boundary", "lm-eval", "--out", out)
    rows = []
    for (context, options), line in zip(asked, out.read_text(encoding="utf-8").splitlines(), strict=True):
        row = json.loads(line)
        rows.append(
            {
                "doc_id": row["id"],
                "doc": {"gold": [0]},
                "arguments": {f"gen_args_{i}": {"arg_0": context, "arg_1": o} for i, o in enumerate(options)},
                "flanrt": {"scores": row["options"]},
            }
        )
    c = compare(rows, {}, harness, None, args)
    if not c.firsts:
        c.differs("greedy", "not one option is the model's first choice")
    return report(model.name, "stories", "-", c)


def main() -> None:
    args = arguments()
    import lm_eval
    import tokenizers
    import torch
    import transformers

    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    start = time.monotonic()
    print(
        f"lm-eval {lm_eval.__version__}, transformers {transformers.__version__}, "
        f"tokenizers {tokenizers.__version__}, torch {torch.__version__}"
    )
    print(HEAD)
    good = True
    if args.samples:
        harness = Harness(args.model, args)
        good = compare_folder(args.model, "given", args.samples, harness, args.max_length, args)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            for model in (args.assets / "models" / name for name in args.models):
                harness = Harness(model, args)
                for case in args.cases:
                    flags = CASES[case]
                    window = int(flags[flags.index("--max-length") + 1]) if "--max-length" in flags else None
                    out = (args.keep or Path(temporary)) / f"{model.name}_{case}"
                    if case == "stories":
                        good &= compare_stories(model, out, harness, args)
                        continue
                    tasks = ["--tasks", ",".join(args.tasks), "--data", args.assets / "data", "--preset", "lm-eval"]
                    flanrt(args, model, *tasks, "--no-dev", "--limit", args.limit, "--out", out, *flags)
                    good &= compare_folder(model, case, out, harness, window, args)
    print(f"{'all agree' if good else 'DIFFERENCES'}  ({time.monotonic() - start:.0f} s)")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
