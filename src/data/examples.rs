//! Training examples in the memory-mapped token cache, loaded from sources of rows or from rows made in the program.
//!
//! Here are the user's settings, where the cache lies and when it may be used; how it is made is in `build`.

pub use super::build::Builder;
use super::build::{build, unwritable};
use super::cache::{self, Reader};
use super::files;
use super::report::{FileReport, Report, SourceReport, judge};
use super::rows::Rendered;
use crate::error::{Error, Kind, Result};
use crate::text::Tokenizer;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// One training example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Example<'a> {
    /// Where it came from: `file:line` or the row's own id, with `#n` behind where the row was divided.
    pub id: &'a str,
    /// Token ids.
    pub tokens: &'a [u32],
    /// 1 for a trained token, else 0; the first is never trained, since nothing predicts it.
    pub targets: &'a [u8],
}

/// A source of rows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Name in reports and messages.
    pub name: String,
    /// Files, patterns or folders.
    pub paths: Vec<String>,
    /// Field to column or template, as `--map` gives it.
    #[serde(default)]
    pub map: BTreeMap<String, String>,
    /// Take at most this many rows, chosen at random by the seed.
    #[serde(default)]
    pub cap: Option<usize>,
}

/// How rows become examples.
#[derive(Clone, Debug)]
pub struct Options {
    /// Longest example in tokens, prefix and EOS included; at least 2.
    pub seq_len: usize,
    /// Train on the whole text of every row.
    pub loss_all: bool,
    /// Between `input` and `target`.
    pub joiner: String,
    /// Largest share of a source's rows that may be dropped, 0 to 1.
    pub max_dropped: f64,
    /// Accept examples that begin with two BOS.
    pub allow_double_bos: bool,
    /// Folder of the token cache; else `FLANRT_CACHE`, `XDG_CACHE_HOME/flanrt`, `~/.cache/flanrt`.
    pub cache_dir: Option<PathBuf>,
    /// Chooses the rows of capped sources.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seq_len: 512,
            loss_all: false,
            joiner: "\n".into(),
            max_dropped: 0.05,
            allow_double_bos: false,
            cache_dir: None,
            seed: 0,
        }
    }
}

/// Examples in memory-mapped storage.
pub struct Examples {
    reader: Reader,
    report: Report,
    hash: String,
}

impl Examples {
    fn new((reader, report): (Reader, Report)) -> Self {
        let hash = reader.data_hash().to_hex().to_string();
        Self { reader, report, hash }
    }

    /// How many there are; never 0.
    #[allow(clippy::len_without_is_empty)] // loading nothing is an error
    pub fn len(&self) -> usize {
        self.reader.len()
    }

    /// Example `i` below `len()`.
    pub fn get(&self, i: usize) -> Example<'_> {
        let (id, tokens, targets) = self.reader.get(i);
        Example { id, tokens, targets }
    }

    /// Tokens of all examples.
    pub fn tokens(&self) -> u64 {
        self.report.tokens
    }

    /// Trained tokens of all examples.
    pub fn target_tokens(&self) -> u64 {
        self.report.target_tokens
    }

    /// blake3 of all tokens and targets in their order, in hex.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// What became of the data.
    pub fn report(&self) -> &Report {
        &self.report
    }
}

/// Loads `sources` into examples, from the cache where one of the same files, tokenizer and options is there.
///
/// `progress` is told (bytes read, bytes in all), now and then. Errors: whatever is wrong with files or rows, more rows
/// dropped from a source than `max_dropped` allows, nothing left to train on.
pub fn load(
    sources: &[Source],
    tok: &Tokenizer,
    opt: &Options,
    progress: &dyn Fn(u64, u64),
) -> Result<Examples> {
    load_in(&folders(opt), sources, tok, opt, progress)
}

/// [`load`] with the cache in the first of `folders` that can be written.
fn load_in(
    folders: &[PathBuf],
    sources: &[Source],
    tok: &Tokenizer,
    opt: &Options,
    progress: &dyn Fn(u64, u64),
) -> Result<Examples> {
    check(opt, tok)?;
    let mut reports = Vec::new();
    for source in sources {
        let mut report = SourceReport { name: source.name.clone(), ..Default::default() };
        for path in files::expand(&source.paths).map_err(|e| e.at(&source.name))? {
            report.files.push(hashed(&path)?);
        }
        reports.push(report);
    }
    let key = key(sources, &reports, tok, opt);
    cached(folders, key, opt, |file| build(sources, reports, tok, opt, key, progress, file))
}

/// Examples of rows that the caller makes: `fill` hands them to the [`Builder`]. `key` is everything that they depend on beside
/// tokenizer and options; examples of the same key are taken from the cache.
pub fn load_made(
    key: &serde_json::Value,
    tok: &Tokenizer,
    opt: &Options,
    fill: impl FnOnce(&mut Builder<'_, &File>) -> Result<()>,
) -> Result<Examples> {
    check(opt, tok)?;
    let all = serde_json::json!({
        "made": key, "version": cache::VERSION, "program": env!("CARGO_PKG_VERSION"), "tokenizer": tok.hash(),
        "seq_len": opt.seq_len, "loss_all": opt.loss_all, "allow_double_bos": opt.allow_double_bos,
    });
    let key = *blake3::hash(all.to_string().as_bytes()).as_bytes();
    cached(&folders(opt), key, opt, |file| {
        let mut builder = Builder::new(file, tok, opt)?;
        fill(&mut builder)?;
        builder.finish(key).map(|_| ())
    })
}

/// The examples of `key`: from the first of `folders` that has them, else made by `build` in the first that can be written.
fn cached(
    folders: &[PathBuf],
    key: [u8; 32],
    opt: &Options,
    build: impl FnOnce(&File) -> Result<()>,
) -> Result<Examples> {
    let name = format!("{}.tokens", &blake3::Hash::from(key).to_hex()[..32]);
    let cached = folders.iter().find_map(|f| Reader::open(map(&File::open(f.join(&name)).ok()?).ok()?, &key));
    let examples = match cached {
        Some(found) => Examples::new(found),
        None => {
            let place = folders.iter().find_map(|f| {
                std::fs::create_dir_all(f).ok()?;
                tempfile::Builder::new().prefix(".tokens-").tempfile_in(f).ok().map(|t| (f, t))
            });
            match place {
                Some((folder, temp)) => {
                    build(temp.as_file())?;
                    temp.as_file().sync_all().map_err(unwritable)?;
                    let file = temp.persist(folder.join(&name)).map_err(|e| unwritable(e.error))?;
                    Examples::new(reopen(&file, &key)?)
                }
                None => {
                    let file = tempfile::tempfile().map_err(unwritable)?;
                    build(&file)?;
                    let mut examples = Examples::new(reopen(&file, &key)?);
                    let tried =
                        folders.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(", ");
                    let why = format!("no folder for the token cache can be written (tried: {tried})");
                    examples
                        .report
                        .warnings
                        .push(format!("{why}; tokens are not kept. Set FLANRT_CACHE to one that can"));
                    examples
                }
            }
        }
    };
    judge(&examples.report, opt)?;
    Ok(examples)
}

/// The `text` column of all rows, for training a tokenizer.
pub fn texts(sources: &[Source]) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for source in sources {
        let column = source.map.get("text").map_or("text", String::as_str);
        for path in files::expand(&source.paths).map_err(|e| e.at(&source.name))? {
            for row in files::open(&path)? {
                let row = row?;
                let text = row.fields.get(column).and_then(|v| v.as_str()).ok_or_else(|| {
                    let columns = row.fields.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                    Error::data(format!(
                        "{}:{}: no text column {column:?}; the columns are {columns}",
                        path.display(),
                        row.line
                    ))
                    .fix("name the column with --map text=COLUMN")
                })?;
                texts.push(text.to_string());
            }
        }
    }
    Ok(texts)
}

/// Examples of rows made in the program, as one source called `name`; they are not cached.
pub fn from_rendered(rows: Vec<Rendered>, name: &str, tok: &Tokenizer, opt: &Options) -> Result<Examples> {
    check(opt, tok)?;
    let mut builder = Builder::new(io::Cursor::new(Vec::new()), tok, opt)?;
    let read = rows.len() as u64;
    builder.report.sources.push(SourceReport { name: name.into(), read, ..Default::default() });
    builder.take(rows, Ok)?;
    let bytes = builder.finish([0; 32])?.into_inner();
    let opened = Reader::open(cache::anonymous(&bytes)?, &[0; 32]);
    let examples =
        Examples::new(opened.ok_or_else(|| Error::internal("the tokens just written do not check"))?);
    judge(&examples.report, opt)?;
    Ok(examples)
}

fn check(opt: &Options, tok: &Tokenizer) -> Result<()> {
    let least = tok.prefix().len().max(1) + 1;
    if opt.seq_len < least {
        return Err(Error::usage(format!("seq_len {} is too short: nothing could be trained", opt.seq_len))
            .fix(format!("give at least {least}, and rather the length of the model's context")));
    }
    if !(0.0..=1.0).contains(&opt.max_dropped) {
        return Err(Error::usage(format!("max_dropped {} is not a share between 0 and 1", opt.max_dropped)));
    }
    Ok(())
}

/// Size and hash of a file.
pub fn hashed(path: &Path) -> Result<FileReport> {
    let failed = |e: io::Error| Error::io(Kind::Data, "read", path, &e);
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path).map_err(failed)?).map_err(failed)?;
    let blake3 = hasher.finalize().to_hex().to_string();
    Ok(FileReport { path: path.display().to_string(), bytes: hasher.count(), blake3 })
}

/// Hash of all that the examples depend on.
fn key(sources: &[Source], reports: &[SourceReport], tok: &Tokenizer, opt: &Options) -> [u8; 32] {
    let capped = sources.iter().any(|s| s.cap.is_some());
    let chat = tok.chat_template();
    let day = std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_secs() / 86_400);
    let all = serde_json::json!({
        "version": cache::VERSION,
        "program": env!("CARGO_PKG_VERSION"),
        "tokenizer": tok.hash(),
        "chat_template": chat.map(|c| c.source()),
        "day": chat.filter(|c| c.depends_on_date()).map(|_| day),
        "seq_len": opt.seq_len, "loss_all": opt.loss_all, "joiner": opt.joiner,
        "allow_double_bos": opt.allow_double_bos,
        "seed": capped.then_some(opt.seed),
        "sources": sources.iter().map(|s| serde_json::json!([s.name, s.map, s.cap])).collect::<Vec<_>>(),
        "files": reports.iter().map(|r| serde_json::json!(r.files)).collect::<Vec<_>>(),
    });
    *blake3::hash(all.to_string().as_bytes()).as_bytes()
}

/// Folders where the cache may be, the preferred one first.
fn folders(opt: &Options) -> Vec<PathBuf> {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let given = [
        opt.cache_dir.clone(),
        var("FLANRT_CACHE"),
        var("XDG_CACHE_HOME").map(|d| d.join("flanrt")),
        var("HOME").map(|d| d.join(".cache/flanrt")),
    ];
    given.into_iter().flatten().collect()
}

fn map(file: &File) -> io::Result<memmap2::Mmap> {
    // SAFETY: a cache file is written under another name and never changed after it was renamed; one that someone
    // replaces by renaming leaves this mapping as it was.
    unsafe { memmap2::Mmap::map(file) }
}

fn reopen(file: &File, key: &[u8; 32]) -> Result<(Reader, Report)> {
    let opened = Reader::open(map(file).map_err(unwritable)?, key);
    opened.ok_or_else(|| {
        Error::disk("the token cache just written does not read back as written; check the disk")
    })
}

#[cfg(test)]
mod tests {
    use super::super::report::{NO_TARGET, TOO_LONG};
    use super::*;
    use crate::text::testing::{assets, folder, letters};
    use serde_json::json;
    use std::cell::Cell;

    fn tok() -> Tokenizer {
        letters(json!({}), json!({})).unwrap()
    }

    fn row(text: &str, targets: &[std::ops::Range<usize>]) -> Rendered {
        Rendered { id: "r".into(), text: text.into(), targets: targets.to_vec(), prefix: true, eos: true }
    }

    fn one(r: Rendered, seq_len: usize) -> Result<Vec<(String, Vec<u8>)>> {
        let (tok, opt) = (tok(), Options { seq_len, ..Default::default() });
        let e = from_rendered(vec![r], "made", &tok, &opt)?;
        Ok((0..e.len())
            .map(|i| (tok.decode(e.get(i).tokens, false).unwrap(), e.get(i).targets.to_vec()))
            .collect())
    }

    #[test]
    fn tokens_with_a_byte_of_a_span_are_trained_and_eos_too() {
        assert_eq!(one(row("ab\nc", &[3..4]), 9).unwrap(), [("<s>ab\nc</s>".into(), vec![0, 0, 0, 0, 1, 1])]);
        // Half of a character of two pieces: both are trained.
        assert_eq!(one(row("aé", &[2..3]), 9).unwrap(), [("<s>aé</s>".into(), vec![0, 0, 1, 1, 1])]);
        let bare = Rendered { prefix: false, eos: false, ..row("abc", &[0..1, 2..3]) };
        assert_eq!(one(bare, 9).unwrap(), [("abc".into(), vec![0, 0, 1])]);
        let all = one(row("abc", &[0..3]), 9).unwrap();
        assert_eq!(all, [("<s>abc</s>".into(), vec![0, 1, 1, 1, 1])]);
    }

    #[test]
    fn long_texts_are_divided_and_every_token_is_trained_once() {
        for prefix in [true, false] {
            for n in 1..20 {
                let text: String = ('a'..='z').take(n).collect();
                let chunks = one(Rendered { prefix, ..row(&text, &[0..n]) }, 5).unwrap();
                let mut seen = String::new();
                for (t, targets) in &chunks {
                    let ids = tok().encode_bare(t).unwrap();
                    assert!(ids.len() <= 5 && targets.len() == ids.len() && targets[0] == 0);
                    assert!(targets[1..].iter().all(|&t| t == 1));
                    seen += &tok().decode(&ids[1..], false).unwrap();
                }
                let start = if prefix { 0 } else { 1 };
                assert_eq!(seen, format!("{}</s>", &text[start..]), "{chunks:?}");
            }
        }
    }

    #[test]
    fn what_is_dropped_is_counted_and_judged() {
        let mut rows: Vec<Rendered> =
            (0..98).map(|i| Rendered { id: format!("i{i}"), ..row("ab", &[1..2]) }).collect();
        rows.push(Rendered { id: "long".into(), ..row("abcdefgh", &[7..8]) });
        rows.push(Rendered { id: "none".into(), ..row("ab", &[]) });
        let opt = Options { seq_len: 6, ..Default::default() };
        let e = from_rendered(rows.clone(), "made", &tok(), &opt).unwrap();
        let r = e.report();
        assert_eq!(
            (r.read, r.used, e.len(), r.examples, r.tokens, r.target_tokens),
            (100, 98, 98, 98, 392, 196)
        );
        assert_eq!(r.dropped, BTreeMap::from([(NO_TARGET.into(), 1), (TOO_LONG.into(), 1)]));
        let listed: Vec<_> = r.dropped_rows.iter().map(|d| (d.id.as_str(), d.tokens)).collect();
        assert_eq!((listed, &r.lengths), (vec![("long", 10), ("none", 3)], &BTreeMap::from([(4, 98)])));
        let strict = Options { max_dropped: 0.01, ..opt.clone() };
        let e = from_rendered(rows, "made", &tok(), &strict).err().unwrap();
        assert_eq!(
            e.message,
            "made: 2 of 100 rows (2.0 %) cannot be used: 1 longer than seq_len 6, 1 no target; the first are long, none"
        );
        let fix = "raise --seq-len (the longest row has 10 tokens), or accept it with --max-dropped 0.02";
        assert_eq!((e.fix.as_deref(), e.kind), (Some(fix), Kind::Data));
        let lenient = Options { max_dropped: 1.0, ..opt };
        assert!(from_rendered(vec![row("ab", &[])], "made", &tok(), &lenient).is_err());
        assert!(from_rendered(vec![], "made", &tok(), &lenient).is_err());
    }

    #[test]
    fn two_bos_are_an_error_unless_allowed() {
        let twice = row("<s>ab", &[4..5]);
        let opt = Options::default();
        let e = from_rendered(vec![twice.clone()], "made", &tok(), &opt).err().unwrap();
        assert!(e.message.contains("two BOS") && e.fix.unwrap().contains("--allow-double-bos"));
        let opt = Options { allow_double_bos: true, ..opt };
        assert!(from_rendered(vec![twice], "made", &tok(), &opt).is_ok());
    }

    /// A source of `n` rows in a new folder, and options whose cache is there too.
    fn fixture(n: usize) -> (tempfile::TempDir, Vec<Source>, Options) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.jsonl");
        let lines: Vec<String> =
            (0..n).map(|i| json!({"input": format!("q{i}"), "target": "a"}).to_string()).collect();
        std::fs::write(&path, lines.join("\n")).unwrap();
        let source =
            Source { name: "d".into(), paths: vec![path.display().to_string()], ..Default::default() };
        let opt = Options { cache_dir: Some(dir.path().join("cache")), ..Default::default() };
        (dir, vec![source], opt)
    }

    fn all(e: &Examples) -> Vec<(String, Vec<u32>, Vec<u8>)> {
        let own = |x: Example| (x.id.to_owned(), x.tokens.to_vec(), x.targets.to_vec());
        (0..e.len()).map(|i| own(e.get(i))).collect()
    }

    #[test]
    fn the_cache_is_used_and_never_trusted() {
        let (dir, sources, opt) = fixture(1100);
        let calls = Cell::new(0);
        let load = |sources: &[Source], opt: &Options| {
            calls.set(0);
            let e = load(sources, &tok(), opt, &|done, total| {
                assert!(done <= total);
                calls.set(calls.get() + 1);
            });
            (e.unwrap(), calls.get() > 0)
        };
        let (first, built) = load(&sources, &opt);
        assert!(
            built && first.get(1099).id.ends_with("d.jsonl:1100") && first.report().sources[0].read == 1100
        );
        let (again, built) = load(&sources, &opt);
        assert!(!built && all(&again) == all(&first) && again.hash() == first.hash());
        assert_eq!(again.report(), first.report());
        let files = || {
            std::fs::read_dir(dir.path().join("cache"))
                .unwrap()
                .map(|f| f.unwrap().path())
                .collect::<Vec<_>>()
        };
        let file = files().pop().unwrap();
        let good = std::fs::read(&file).unwrap();
        // In a new file under the old name: the old one is still mapped here.
        let put = |bytes: &[u8]| {
            std::fs::remove_file(&file).unwrap();
            std::fs::write(&file, bytes).unwrap();
        };
        for damage in [0, 7, 100, good.len() / 2, good.len() - 1] {
            put(&good[..damage]);
            let (e, built) = load(&sources, &opt);
            assert!(built && all(&e) == all(&first), "cut at {damage}");
            let mut bytes = good.clone();
            bytes[damage] ^= 4;
            put(&bytes);
            let (e, built) = load(&sources, &opt);
            assert!(built && all(&e) == all(&first), "a bit at {damage}");
        }
        assert_eq!(std::fs::read(&file).unwrap(), good);
        assert_eq!(files().len(), 1);
        // Other options, other content: another cache.
        let (e, built) = load(&sources, &Options { loss_all: true, ..opt.clone() });
        assert!(built && e.hash() != first.hash());
        std::fs::write(&sources[0].paths[0], "{\"input\": \"q\", \"target\": \"z\"}").unwrap();
        assert!(load(&sources, &opt).1);
        // A cap takes the first rows of a shuffle, in the order of the file.
        let (_dir, mut sources, opt) = fixture(50);
        sources[0].cap = Some(9);
        let ids = |seed| {
            all(&load(&sources, &Options { seed, ..opt.clone() }).0)
                .into_iter()
                .map(|e| e.0)
                .collect::<Vec<_>>()
        };
        let (a, b) = (ids(1), ids(2));
        assert!(a.len() == 9 && a != b && a == ids(1));
        let line = |id: &String| id.rsplit(':').next().unwrap().parse::<u32>().unwrap();
        assert!(a.is_sorted_by_key(line) && a.iter().map(line).max() > Some(9));
    }

    #[test]
    fn a_place_that_cannot_be_written_is_said() {
        let (dir, sources, opt) = fixture(3);
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let e = load_in(&[file.join("x")], &sources, &tok(), &opt, &|_, _| {}).unwrap();
        assert_eq!(e.len(), 3);
        assert!(matches!(&e.report().warnings[..], [w] if w.contains("/file/x); tokens are not kept")));
        let e = load_in(&[file, dir.path().join("new/folder")], &sources, &tok(), &opt, &|_, _| {}).unwrap();
        assert!(e.report().warnings.is_empty());
        assert_eq!(std::fs::read_dir(dir.path().join("new/folder")).unwrap().count(), 1);
        assert_eq!(folders(&opt)[0], dir.path().join("cache"));
    }

    #[test]
    fn row_errors_name_the_first_bad_line() {
        let (_dir, sources, opt) = fixture(3);
        let mut text = std::fs::read_to_string(&sources[0].paths[0]).unwrap();
        text += "\n{\"input\": 1}\n{\"input\": 2}\n";
        std::fs::write(&sources[0].paths[0], text).unwrap();
        let e = load(&sources, &tok(), &opt, &|_, _| {}).err().unwrap();
        assert!(e.message.contains("d.jsonl:4: \"target\" is missing or null"), "{e}");
        assert_eq!(std::fs::read_dir(opt.cache_dir.unwrap()).unwrap().count(), 0);
    }

    #[test]
    fn real_files() {
        let Some(dir) = assets() else { return };
        let tok = Tokenizer::load(&folder(&dir.join("models/tinystories-656k"))).unwrap();
        let cache = tempfile::tempdir().unwrap();
        let opt = Options {
            seq_len: 512,
            max_dropped: 0.5,
            cache_dir: Some(cache.path().into()),
            ..Default::default()
        };
        let nli = "{{premise}}\\nQuestion: {{hypothesis}} True or False?";
        let cases = [
            ("rte", nli, r#"{{ ["True","False"][label] }}"#, &["True", "False"][..]),
            ("bool_q", "{{passage}}\\n{{question}}?", "{{ 'yes' if answer else 'no' }}", &["yes", "no"]),
            ("sst2", "Review: {{sentence}}", "{{ ['bad', 'good'][label] }}", &["bad", "good"]),
            (
                "ag_news",
                "text",
                "{{ ['World', 'Sports', 'Business', 'Science'][label] }}",
                &["World", "Sports", "Business", "Science"],
            ),
        ];
        for (name, input, target, answers) in cases {
            let map = BTreeMap::from([("input".into(), input.into()), ("target".into(), target.into())]);
            let paths = vec![dir.join("data").join(name).join("train.jsonl.gz").display().to_string()];
            let e =
                load(&[Source { name: name.into(), paths, map, cap: None }], &tok, &opt, &|_, _| {}).unwrap();
            let r = e.report();
            assert_eq!(r.read, r.used + r.dropped_rows.len() as u64);
            assert_eq!((e.len() as u64, &r.sources[0].shape[..]), (r.used, "{input, target}"));
            let mut sum = 0;
            for i in 0..e.len() {
                let x = e.get(i);
                assert_eq!((x.tokens[0], x.tokens.last().copied()), (1, tok.eos()));
                let target: Vec<u32> =
                    (0..x.tokens.len()).filter(|&i| x.targets[i] == 1).map(|i| x.tokens[i]).collect();
                sum += target.len() as u64;
                let text = tok.decode(&target, true).unwrap();
                assert!(answers.contains(&text.trim()), "{}: {text:?}", x.id);
            }
            assert_eq!(sum, e.target_tokens());
        }
        let e = load(
            &[Source {
                name: "ag".into(),
                paths: vec![dir.join("data/bool_q/train.jsonl.gz").display().to_string()],
                ..Default::default()
            }],
            &tok,
            &opt,
            &|_, _| {},
        )
        .err()
        .unwrap();
        assert!(e.message.contains("columns question, passage"), "{e}");
    }
}
