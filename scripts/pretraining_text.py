#!/usr/bin/env python3
"""Text for pretraining, for `make weights`: the micro-world's rows with paragraphs of public-domain books strewn in.

    scripts/pretraining_text.py OUT.jsonl WORLD.jsonl PRIMER BOOKS.sha256 FOLDER

The first PRIMER rows of WORLD.jsonl stay in front; the paragraphs follow evenly among the others, in the order of the books. FOLDER holds the books
that BOOKS.sha256 lists, as NAME.txt or (with anything in front of the name) NAME.txt.gz: plain text as Project Gutenberg has it; what
stands around the book is left out. A row is one or more whole paragraphs of together 30 to 120 words. The same files give the
same bytes.
"""

import gzip
import hashlib
import json
import pathlib
import re
import sys


def texts(listed, folder):
    for line in listed.read_text().splitlines():
        wanted, name = line.split()
        found = [*folder.glob(name), *folder.glob(f"*{name}.gz")]
        if not found:
            sys.exit(f"error: {folder} has no {name} and no {name}.gz (weights/README.md says where the books are)")
        data = found[0].read_bytes()
        data = gzip.decompress(data) if found[0].suffix == ".gz" else data
        if hashlib.sha256(data).hexdigest() != wanted:
            print(f"warning: {found[0]} is another edition than the weights were made with", file=sys.stderr)
        yield data.decode("utf-8")


def paragraphs(text):
    text = text.replace("\r\n", "\n")
    start = re.search(r"\*\*\* ?START OF.*?\*\*\*", text, re.S)
    end = re.search(r"\*\*\* ?END OF", text)
    text = text[start.end() if start else 0 : end.start() if end else len(text)]
    text = text.translate(str.maketrans("“”‘’—_", "\"\"''- "))
    for part in re.split(r"\n\s*\n", text):
        part = " ".join(part.split())
        # Headings, verses and tables have no full stop or many capitals.
        if re.search(r"[.!?]\"?$", part) and part.isascii() and sum(c.isupper() for c in part) * 8 < len(part):
            yield part


def rows(books):
    for text in books:
        held = []
        for part in paragraphs(text):
            if len(part.split()) > 120:
                continue
            held.append(part)
            words = sum(len(p.split()) for p in held)
            if words >= 30:
                if words <= 120:
                    yield json.dumps({"text": "\n".join(held)})
                held = []


def main():
    out, world, primer, listed, folder = sys.argv[1:6]
    primer = int(primer)
    english = list(rows(texts(pathlib.Path(listed), pathlib.Path(folder))))
    with open(world, encoding="utf-8") as file:
        lines = file.read().splitlines()
    rest = len(lines) - primer
    done = 0
    with open(out, "w", encoding="utf-8") as file:
        for i, line in enumerate(lines):
            file.write(line + "\n")
            due = len(english) * max(i + 1 - primer, 0) // rest
            file.writelines(row + "\n" for row in english[done:due])
            done = due
    print(f"{len(lines)} rows of the micro-world, {done} of books")


if __name__ == "__main__":
    main()
