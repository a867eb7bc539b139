#!/usr/bin/env python3
"""Prints what every kernel takes of a multiprocessor, as the table of docs/kernels.md.

Usage: scripts/kernel_table.py [--arch 80,90,120] [--markdown docs/kernels.md]

Compiles kernels/*.cu with nvcc (NVCC, or the one that `make cuda-toolkit` installs) and reads the assembler's report:
registers a thread (by dtype, once where they agree), static shared memory, bytes spilled. With --markdown the lines
between `<!-- kernels -->` and `<!-- /kernels -->` of that file are replaced.
"""

import argparse
import concurrent.futures
import glob
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
DTYPES = ("_f32", "_bf16", "_f16")


def nvcc():
    found = os.environ.get("NVCC") or next(iter(glob.glob(str(ROOT / ".cuda/lib/python3*/site-packages/nvidia/cu13/bin/nvcc"))), "nvcc")
    try:
        subprocess.run([found, "--version"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        sys.exit("error: no nvcc\n  fix: make cuda-toolkit, or set NVCC")
    return found


def resources(compiler, source, arch):
    """{kernel: (registers, shared, spilled)} of a file, or nothing if it is not for this architecture."""
    if source.stem.endswith("_sm90"):
        if arch != "90":
            return {}
        arch = "90a"
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "x.cubin"
        command = [compiler, "-cubin", "-std=c++17", "-O3", f"-arch=sm_{arch}", "-Xptxas", "-v", "-o", out, source]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: {source} for sm_{arch}:\n{done.stderr}")
    found, kernel, spilled = {}, None, 0
    for line in done.stderr.splitlines():
        if m := re.search(r"Compiling entry function '(\w+)'", line):
            kernel = m[1]
        elif m := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores", line):
            spilled = int(m[1]) + int(m[2])
        elif m := re.search(r"Used (\d+) registers", line):
            shared = re.search(r"(\d+) bytes smem", line)
            found[kernel] = (int(m[1]), int(shared[1]) if shared else 0, spilled)
    return found


def family(kernel):
    for suffix in DTYPES:
        if kernel.endswith(suffix):
            return kernel[: -len(suffix)], suffix[1:]
    return kernel, ""


def rows(compiler, archs):
    sources = sorted((ROOT / "kernels").glob("*.cu"))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = {(s, a): pool.submit(resources, compiler, s, a) for s in sources for a in archs}
        found = {key: job.result() for key, job in jobs.items()}
    head = ["file", "kernel", "dtypes"] + [f"sm_{a}" for a in archs]
    yield "| " + " | ".join(head) + " |"
    yield "| --- | --- | --- |" + " ---: |" * len(archs)
    for source in sources:
        groups = {}
        for arch in archs:
            for kernel, use in found[source, arch].items():
                name, dtype = family(kernel)
                groups.setdefault(name, {}).setdefault(arch, {})[dtype] = use
        for name, by_arch in sorted(groups.items()):
            dtypes = sorted({d for uses in by_arch.values() for d in uses}, key=lambda d: ("f32", "bf16", "f16", "").index(d))
            cells = [cell(by_arch.get(arch, {}), dtypes) for arch in archs]
            yield f"| {source.stem} | `{name}` | {' '.join(dtypes)} | " + " | ".join(cells) + " |"


def cell(uses, dtypes):
    """Registers by dtype (once where they agree), static shared memory if any, spills if any."""
    if not uses:
        return "-"
    registers = [uses[d][0] for d in dtypes if d in uses]
    text = str(registers[0]) if len(set(registers)) == 1 else " / ".join(map(str, registers))
    shared, spilled = max(u[1] for u in uses.values()), max(u[2] for u in uses.values())
    text += f", {shared} B" if shared else ""
    return text + (f", **{spilled} B spilled**" if spilled else "")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="80,90,120")
    parser.add_argument("--markdown", type=pathlib.Path)
    args = parser.parse_args()
    table = "\n".join(rows(nvcc(), args.arch.split(",")))
    if not args.markdown:
        print(table)
        return
    begin, end = "<!-- kernels -->\n", "<!-- /kernels -->"
    text = args.markdown.read_text()
    if begin not in text or end not in text:
        sys.exit(f"error: {args.markdown} has no lines {begin.strip()} and {end}")
    before, rest = text.split(begin, 1)
    args.markdown.write_text(before + begin + table + "\n" + end + rest.split(end, 1)[1])


if __name__ == "__main__":
    main()
