#!/usr/bin/env bash
# Proves and measures the CUDA backend on a real GPU, in two halves that need not run on the same machine.
#
#   scripts/gpu.sh build   with cargo, g++ and nvcc (`make cuda-toolkit`): puts what the other half needs into target/gpu
#   scripts/gpu.sh         with a GPU and its driver, python3 and (to compare) torch: no cargo, no network, nine minutes at most
#
# The second half runs: doctor, the conformance of single instructions, every op against f64 with small and with real shapes,
# whole models beside the CPU, compute-sanitizer where it is there, and times beside PyTorch with a short table last. It ends at the
# first result that is wrong (exit code 1); a tool that is missing is skipped with a line. Results go to $OUT, or target/gpu/out:
# result.json with all times, the conformance dump, which belongs into tests/fixtures, and a log of every step.
set -euo pipefail
cd "$(dirname "$0")/.."

PARTS=target/gpu
MOST_MIB=56
SECONDS_IN_ALL=540

say() { printf '\n== %s (%d s)\n' "$*" "$SECONDS"; }

fail() {
    printf 'gpu.sh: %s\n' "$*" >&2
    exit 1
}

# executable NAME KIND: the path of what cargo made, by the JSON lines in $1's log.
executable() {
    python3 - "$PARTS/cargo.json" "$1" "$2" <<'PY'
import json, sys
log, name, kind = sys.argv[1:]
found = [
    m["executable"]
    for m in map(json.loads, open(log))
    if m.get("reason") == "compiler-artifact" and m["executable"] and m["target"]["name"] == name and kind in m["target"]["kind"]
]
print(found[-1] if found else sys.exit(f"gpu.sh: cargo made no {kind} {name}"))
PY
}

build() {
    command -v cargo >/dev/null || fail "no cargo here: build where the Rust toolchain is"
    rm -rf "$PARTS"
    mkdir -p "$PARTS/conformance"
    export FLANRT_REQUIRE_NVCC=1 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_DEBUG=0
    say "compiling"
    local what=(--bin flanrt --test ops --test cuda --test conformance --bench ops --bench serve)
    cargo build --release --message-format=json-render-diagnostics "${what[@]}" >"$PARTS/cargo.json"
    install -s "$(executable flanrt bin)" "$PARTS/flanrt"
    for test in ops cuda conformance; do
        install -s "$(executable "$test" test)" "$PARTS/test-$test"
    done
    install -s "$(executable ops bench)" "$PARTS/bench-ops"
    install -s "$(executable serve bench)" "$PARTS/serve"
    say "conformance: images, and what the emulator makes of them"
    FLANRT_CONFORMANCE="$PARTS/conformance" "$PARTS/test-conformance" --ignored images emulated
    rm "$PARTS/cargo.json"
    local size
    size=$(du -sm "$PARTS" | cut -f1)
    du -sh "$PARTS"/* | sort -h
    ((size < MOST_MIB)) || fail "$PARTS has $size MiB, which is more than travels ($MOST_MIB MiB)"
    say "$PARTS has $size MiB; take it to the GPU with scripts/ and run scripts/gpu.sh"
}

# logged LIMIT COMMAND...: runs it for at most LIMIT seconds; what it prints goes to $STEP and to the log of all steps.
logged() {
    local code=0
    timeout "$@" >"$STEP" 2>&1 || code=$?
    { echo "== ${*:2}" && cat "$STEP"; } >>"$OUT/log.txt"
    return "$code"
}

# right LIMIT COMMAND...: runs a check and shows what it came to; anything but success ends the script.
right() {
    local code=0
    logged "$@" || code=$?
    if ((code)); then
        tail -40 "$STEP"
        ((code != 124)) || fail "not done after $1 s: ${*:2}"
        fail "exit code $code: ${*:2}"
    fi
    grep -E '^test result|cases ran' "$STEP" || cat "$STEP"
}

# sanitized TOOL: a few ops on small shapes under compute-sanitizer.
sanitized() {
    local code=0
    local command=(compute-sanitizer --tool "$1" --error-exitcode 9 --print-limit 5 "$PARTS/test-ops" --test-threads=1)
    FLANRT_CUDA_GRAPHS=0 logged 40 "${command[@]}" --skip vectors --skip attention --skip loss || code=$?
    case $code in
        0) echo "$1: nothing found" ;;
        124) echo "$1: nothing found in 40 s, then ended" ;;
        9) tail -40 "$STEP" && fail "$1 found something" ;;
        *) echo "$1 does not work here (exit code $code): $(tail -1 "$STEP")" ;;
    esac
}

check_and_measure() {
    [[ -x $PARTS/flanrt ]] || fail "$PARTS/flanrt is not here: run 'scripts/gpu.sh build' where cargo is and bring $PARTS along"
    export FLANRT_REQUIRE_GPU=1 OUT=${OUT:-$PARTS/out}
    mkdir -p "$OUT"
    rm -f "$OUT/log.txt"
    STEP=$(mktemp)
    trap 'rm -f "$STEP"' EXIT
    say "doctor"
    right 60 "$PARTS/flanrt" doctor
    say "conformance of single instructions"
    cp "$PARTS"/conformance/* "$OUT"
    FLANRT_CONFORMANCE="$OUT" right 60 "$PARTS/test-conformance" --ignored hardware --nocapture
    rm "$OUT"/*.fatbin "$OUT/emulator.bin"
    say "every op, small shapes"
    right 150 "$PARTS/test-ops" --skip vectors
    say "every op, real shapes"
    right 150 "$PARTS/test-ops" --ignored real_shapes --nocapture --test-threads=1
    say "whole models beside the CPU"
    right 90 "$PARTS/test-cuda"
    say "compute-sanitizer"
    if command -v compute-sanitizer >/dev/null; then
        sanitized memcheck
        sanitized racecheck
    else
        echo "skipped: no compute-sanitizer on the search path (the wheel nvidia-cuda-sanitizer-api has one)"
    fi
    say "beside PyTorch"
    local budget=$((SECONDS_IN_ALL - SECONDS - 15)) code=0
    ((budget >= 30)) || fail "only $budget s are left to measure in: run scripts/gpu_peers.py --serve $PARTS/serve by itself"
    timeout $((budget + 60)) python3 scripts/gpu_peers.py --serve "$PARTS/serve" --budget "$budget" --json "$OUT/result.json" || code=$?
    # 2: no torch, which it has said.
    ((code == 0 || code == 2)) || fail "gpu_peers.py ended with code $code"
    printf '\nall right in %d s; results in %s\n' "$SECONDS" "$OUT"
}

case ${1:-} in
    build) build ;;
    "") check_and_measure ;;
    *) fail "usage: scripts/gpu.sh [build]" ;;
esac
