#!/usr/bin/env python3
"""Makes what the comparison runs on: two random models with a tokenizer, texts, requests, instruction rows.

    python models.py OUT [--data DIR] [--rows FLAN.jsonl] [--quick]

Equal arguments and versions give equal files. Needs torch and transformers.

OUT/tiny-f32 tiny-bf16      15.2M parameters: width 288, 6 layers, 6 heads, FFN 768, vocabulary 32000, tied
OUT/small-f32 small-bf16    124.7M: width 768, 12 layers, 12 heads over 4 key heads, FFN 2048, untied
OUT/text.txt start.txt      English from DIR/corpus/*.txt.gz, or made up where there is no DIR; a short piece of it
OUT/nli.jsonl               requests: contexts of 60-250 tokens, the same three short options
OUT/mc.jsonl                contexts of 250-700 tokens, four options of 2-12
OUT/cloze.jsonl             contexts of 30-90 tokens, four options of 8-30
OUT/prefill.jsonl           contexts that make the model read exactly 512 tokens, one option
OUT/rows.jsonl              prompt and completion: rows of FLAN.jsonl (`flanrt data export`), or made up
"""

import argparse
import gzip
import itertools
import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM

TINY = dict(hidden_size=288, num_hidden_layers=6, num_attention_heads=6, num_key_value_heads=6, intermediate_size=768)
SMALL = dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, num_key_value_heads=4, intermediate_size=2048)
# The same for a try-out: seconds instead of minutes.
MINI = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=176)
LABELS = [" yes", " no", " it is not possible to tell"]


def invented(sentences, seed=1):
    """English-like text: words of random syllables, drawn by Zipf's law."""
    rng = random.Random(seed)
    onset, vowel, coda = "b br c d f g h k l m n p pr s st t tr v w".split(), "a e i o u ea oo".split(), " n r s t l nd ck".split(" ")
    word = lambda: "".join(rng.choice(onset) + rng.choice(vowel) + rng.choice(coda) for _ in range(rng.choice((1, 1, 2, 3))))
    words = "the of and to in a is that it was he for on are with as his they at be this from have or by".split()
    words += [word() for _ in range(50_000)]
    frequency = list(itertools.accumulate(1 / (i + 2) for i in range(len(words))))
    lines = (rng.choices(words, cum_weights=frequency, k=rng.randint(6, 24)) for _ in range(sentences))
    return " ".join(" ".join(line).capitalize() + "." for line in lines)


def corpus(data):
    """The text of DIR/corpus without its line breaks, at most 12 MB, or an invented one."""
    files = sorted((data / "corpus").glob("*.txt.gz")) if data else []
    text = "\n".join(gzip.open(f, "rt", encoding="utf-8", errors="replace").read() for f in files)
    return " ".join(text.split())[:12_000_000] if text else invented(120_000)


def train_tokenizer(text, vocabulary):
    """Byte-level BPE with <unk> 0, <s> 1, </s> 2; every text begins with <s>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator((text[i : i + 10_000] for i in range(0, len(text), 10_000)), trainer)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def write_model(folder, tokenizer, shape, vocabulary, tied):
    """One set of weights, as FOLDER-f32 and FOLDER-bf16. Their spread is wide enough for choices to differ."""
    torch.manual_seed(0)
    ids = dict(bos_token_id=1, eos_token_id=2, pad_token_id=None)
    config = LlamaConfig(vocab_size=vocabulary, max_position_embeddings=2048, tie_word_embeddings=tied, initializer_range=0.05, **shape, **ids)
    model = LlamaForCausalLM(config)
    about = dict(tokenizer_class="PreTrainedTokenizerFast", bos_token="<s>", eos_token="</s>", unk_token="<unk>", model_max_length=2048)
    for name, dtype in ("f32", torch.float32), ("bf16", torch.bfloat16):
        path = Path(f"{folder}-{name}")
        model.to(dtype).save_pretrained(path)
        tokenizer.save(str(path / "tokenizer.json"))
        (path / "tokenizer_config.json").write_text(json.dumps(about))


class Pieces:
    """Random pieces of the text with so many tokens."""

    def __init__(self, text, tokenizer, seed):
        self.tokenizer, self.rng = tokenizer, random.Random(seed)
        self.words = text[:4_000_000].split(" ")

    def length(self, text):
        return len(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def about(self, low, high):
        """Words that have from `low` to `high` tokens."""
        return self.exactly(self.rng.randint(low, high), slack=2)

    def exactly(self, n, slack=0):
        while True:
            start = self.rng.randrange(len(self.words) - n)
            words = self.words[start : start + n]
            # Cut to size: a token more is about a word more.
            for _ in range(20):
                over = self.length(" ".join(words)) - n
                if abs(over) <= slack:
                    return " ".join(words)
                if over < 0:
                    break
                words = words[: len(words) - max(1, over // 2)]


def requests(pieces, contexts, options):
    for i in itertools.count():
        yield {"id": i, "context": pieces.about(*contexts), "options": options()}


def instruction_rows(exported, pieces):
    """Prompt and completion of rows that fit 512 tokens."""
    if not exported:
        while True:
            yield {"prompt": pieces.about(40, 300) + "\n", "completion": pieces.about(1, 40)}
    for line in exported.open():
        row = json.loads(line)
        prompt, completion = row["prompt"] + "\n", row["target"]
        if pieces.length(prompt + completion) <= 510:
            yield {"prompt": prompt, "completion": completion}


def write_lines(path, rows, n):
    with path.open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in itertools.islice(rows, n))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    text = corpus(args.data)
    vocabulary = 2000 if args.quick else 32000
    tokenizer = train_tokenizer(text[:500_000] if args.quick else text, vocabulary)
    write_model(args.out / "tiny", tokenizer, MINI if args.quick else TINY, vocabulary, tied=True)
    write_model(args.out / "small", tokenizer, MINI if args.quick else SMALL, vocabulary, tied=False)

    (args.out / "text.txt").write_text(text[:1_000_000])
    (args.out / "start.txt").write_text(text[:40_000])
    pieces = Pieces(text, tokenizer, seed=2)
    four = lambda low, high: lambda: [" " + pieces.about(low, high) for _ in range(4)]
    write_lines(args.out / "nli.jsonl", requests(pieces, (60, 250), lambda: LABELS), 200)
    write_lines(args.out / "mc.jsonl", requests(pieces, (250, 700), four(2, 12)), 100)
    write_lines(args.out / "cloze.jsonl", requests(pieces, (30, 90), four(8, 30)), 200)
    # With <s> in front the model reads 512 tokens; the option, one token, is only predicted.
    one = ({"id": i, "context": pieces.exactly(511), "options": [" the"]} for i in itertools.count())
    write_lines(args.out / "prefill.jsonl", one, 100)
    write_lines(args.out / "rows.jsonl", instruction_rows(args.rows, pieces), 1000)


if __name__ == "__main__":
    main()
