# `make check` is what a change must pass; `make weights` makes the embedded model again.

.PHONY: check fmt clippy test schedules checked docs bench fuzz weights cuda-toolkit

check: fmt clippy docs test
	$(MAKE) -j2 schedules checked

fmt:
	cargo fmt --all --check

clippy:
	cargo clippy --workspace --all-targets -- -D warnings

test:
	cargo test --workspace

# The ops on the emulated GPU once more: threads and copies in other orders, and with the checker, which finds races, reads of
# what was never written, and accesses out of bounds.
schedules:
	EMU_SEED=1 cargo test --test ops
	EMU_SEED=2 EMU_REVERSE=1 EMU_EARLY=1 cargo test --test ops

checked:
	FLANRT_EMULATOR=checked cargo test --test ops

docs:
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items

bench:
	cargo bench

# nvcc without root or a GPU: pinned wheels, 105 MB to fetch and 280 MB in .cuda/. Release builds find it there.
cuda-toolkit:
	python3 -m venv .cuda
	.cuda/bin/pip install --no-deps --require-hashes -r kernels/requirements.txt

# Ten minutes for each parser of untrusted bytes; needs cargo-fuzz and a nightly compiler (or RUSTC_BOOTSTRAP=1).
fuzz:
	for target in requests data config; do cargo fuzz run $$target -- -max_total_time=600 -max_len=4096 || exit 1; done

# The base model inside the binary: text of the micro-world and of books, a tokenizer trained on it, one pretraining run.
# About 35 minutes on two cores. BOOKS is a folder with the books of weights/books.sha256: see weights/README.md.
BASE := target/base
BOOKS ?= books
PRIMER := 22400
weights:
	cargo build --release
	rm -rf $(BASE) && mkdir -p $(BASE)/start
	target/release/flanrt world text --primer $(PRIMER) -n 99000 --seed 1 --out $(BASE)/world.jsonl
	target/release/flanrt world text -n 500 --seed 2 --out $(BASE)/val.jsonl
	python3 scripts/pretraining_text.py $(BASE)/text.jsonl $(BASE)/world.jsonl $(PRIMER) weights/books.sha256 $(BOOKS)
	cp weights/config.json $(BASE)/start/
	target/release/flanrt pretrain $(BASE)/start $(BASE)/text.jsonl -c weights/pretrain.toml --val $(BASE)/val.jsonl \
		--vocab-size 2560 --dtype f32 --out $(BASE)/run
	cp $(BASE)/run/model/*.json $(BASE)/run/model/model.safetensors weights/
	rm -f weights/MANIFEST.json
	cp $(BASE)/run/metrics.jsonl weights/pretrain.metrics.jsonl
	cp $(BASE)/run/report/index.png weights/pretrain.png
