//! Plain text: mean loss, perplexity and bits per byte with a window that slides over the tokens.
//!
//! Without a stride the windows do not overlap: with a prefix (BOS) each is the prefix and the next `window - prefix`
//! tokens, without one the next `window` tokens, whose first has no prediction and is not scored. A smaller stride moves
//! the window by that many tokens and scores only the tokens that no window before it held: more context, more work.

use std::path::Path;

use serde::Serialize;

use super::boundary::Sequence;
use super::forest::{Tally, Tree, add, batches};
use super::requests::inflate;
use super::run::{Hooks, limits, window};
use super::{Encode, Predict};
use crate::error::{Error, Kind, Result};

/// How to slide over a text.
#[derive(Clone, Copy, Debug, Default)]
pub struct TextOptions {
    /// Tokens of one window, the prefix included; `None`: the model's longest context.
    pub window: Option<usize>,
    /// Tokens by which the window moves, at most `window` less the prefix; `None`: exactly that, no overlap.
    pub stride: Option<usize>,
    /// Most windows in one batch; `None`: as many as fit. Changes speed only.
    pub batch_size: Option<usize>,
}

/// How well a model predicts a text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TextScore {
    /// Token ids of the text, special tokens included.
    pub tokens: usize,
    /// Tokens with a prediction.
    pub scored: usize,
    /// Windows.
    pub chunks: usize,
    /// Sum of the negative log-probabilities (nats), in f64 and token order.
    pub sum_nll: f64,
    /// `sum_nll` per scored token.
    pub mean_loss: f64,
    /// e to the mean loss.
    pub perplexity: f64,
    /// `sum_nll` in bits per byte of the text.
    pub bits_per_byte: f64,
    /// UTF-8 bytes of the text.
    pub bytes: usize,
}

/// Reads a text file, plain, gzip or zstd.
///
/// # Errors
/// `Kind::Data` if it is missing, empty or not UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(Kind::Data, "read", path, &e))?;
    parse_text(&path.display().to_string(), &bytes)
}

fn parse_text(name: &str, bytes: &[u8]) -> Result<String> {
    let bytes = inflate(name, bytes)?.into_owned();
    if bytes.is_empty() {
        return Err(Error::data(format!("{name}: the text is empty")));
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let line = 1 + e.as_bytes()[..at].iter().filter(|&&b| b == b'\n').count();
        Error::data(format!("{name}:{line}: this is not UTF-8 text (byte {at})"))
            .fix("convert the file to UTF-8")
    })
}

/// A window over the text's tokens: it holds `start..end`, and those from `new` on are scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    start: usize,
    new: usize,
    end: usize,
}

/// The windows of `step` tokens over `len` tokens, each `stride` after the one before; `0 < stride <= step`.
fn windows(len: usize, step: usize, stride: usize) -> impl Iterator<Item = Window> {
    let first = Window { start: 0, new: 0, end: step.min(len) };
    std::iter::successors(Some(first), move |w| {
        let start = w.start + stride;
        (w.end < len).then(|| Window { start, new: w.end, end: (start + step).min(len) })
    })
}

/// Scores `text`, called `name` in messages.
///
/// # Errors
/// `Kind::Data` if no token of it can be scored, `Kind::Usage` for a window or stride that cannot work,
/// `Kind::Interrupted` after an interruption, and whatever `encode` and `predict` say.
pub fn score_text(
    name: &str,
    text: &str,
    encode: &dyn Encode,
    predict: &mut dyn Predict,
    opts: &TextOptions,
    hooks: &mut Hooks<'_>,
) -> Result<TextScore> {
    let longest = window(opts.window, encode, predict)?;
    let limits = limits(opts.batch_size, predict)?;
    let ids = encode.encode(text).map_err(|e| e.at(name))?;
    let prefix = encode.prefix();
    let body = ids.strip_prefix(prefix).unwrap_or(&ids);
    let step = longest - prefix.len();
    let stride = opts.stride.unwrap_or(step);
    if stride == 0 || stride > step {
        return Err(Error::usage(format!("a stride of {stride} does not fit windows of {step} tokens"))
            .fix(format!("give a stride from 1 to {step}")));
    }
    let all: Vec<Window> = windows(body.len(), step, stride).collect();
    let mut total = Tally::default();
    let mut done = 0;
    // A few windows at a time: a text's ids are held once, not once per overlap.
    for block in all.chunks(64) {
        let trees: Vec<Tree> = block
            .iter()
            .filter_map(|w| {
                let ids = [prefix, &body[w.start..w.end]].concat();
                let first = (prefix.len() + w.new - w.start).max(1);
                Tree::grow(&[Sequence { ids, first, ..Sequence::default() }], 0, false)
            })
            .collect();
        for batch in batches(&trees, &limits, true)? {
            if hooks.interrupted.load(std::sync::atomic::Ordering::Relaxed) {
                let n = all.len();
                return Err(Error::new(
                    Kind::Interrupted,
                    format!("stopped after {done} of {n} windows of {name}"),
                ));
            }
            // One owner for all: the asks of a batch are in row order, which is the text's order.
            add(&batch, &predict.predict(&batch)?, std::slice::from_mut(&mut total))
                .map_err(|e| e.at(name))?;
        }
        done += block.len();
        (hooks.progress)(done, all.len());
    }
    if total.tokens == 0 {
        return Err(Error::data(format!("{name}: {} token(s), none of which has a prediction", ids.len()))
            .fix("give a longer text"));
    }
    let sum_nll = -total.logprob;
    let mean_loss = sum_nll / total.tokens as f64;
    Ok(TextScore {
        tokens: ids.len(),
        scored: total.tokens,
        chunks: all.len(),
        sum_nll,
        mean_loss,
        perplexity: mean_loss.exp(),
        bits_per_byte: sum_nll / std::f64::consts::LN_2 / text.len() as f64,
        bytes: text.len(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::super::fake::{Model, Words, answer};
    use super::*;

    fn score(text: &str, e: &Words, m: &mut Model, opts: TextOptions) -> Result<TextScore> {
        let interrupted = AtomicBool::new(false);
        let mut hooks = Hooks { progress: &mut |_, _| (), say: &mut |_| (), interrupted: &interrupted };
        score_text("t.txt", text, e, m, &opts, &mut hooks)
    }

    /// The definition in its own words: chunks of ids, every token but the first scored.
    fn reference(ids: &[u32], n: usize, window: usize) -> (f64, usize, usize) {
        let (mut sum, mut count, mut chunks) = (0.0, 0, 0);
        for body in ids[n..].chunks(window - n) {
            let chunk = [&ids[..n], body].concat();
            chunks += 1;
            for t in 1..chunk.len() {
                sum -= f64::from(answer(&chunk[..t], chunk[t]).logprob);
                count += 1;
            }
        }
        (sum, count, chunks)
    }

    #[test]
    fn windows_without_overlap_are_the_reference() {
        let text = "the quick brown fox jumps over the lazy dog; é😀";
        for bos in [false, true] {
            let e = Words::new(bos, &["the", " fox"]);
            let ids = e.encode(text).unwrap();
            for window in 2..=ids.len() + 2 {
                for batch_size in [None, Some(1), Some(3)] {
                    let opts = TextOptions { window: Some(window), batch_size, ..TextOptions::default() };
                    let got = score(text, &e, &mut Model::new(64, 70, 9), opts).unwrap();
                    let (sum, count, chunks) = reference(&ids, usize::from(bos), window);
                    assert_eq!((got.sum_nll, got.scored, got.chunks), (sum, count, chunks), "{bos} {window}");
                    assert_eq!((got.tokens, got.bytes), (ids.len(), text.len()));
                    assert_eq!(got.mean_loss, sum / count as f64);
                    assert!((got.perplexity.ln() - got.mean_loss).abs() < 1e-12);
                    assert!(
                        (got.bits_per_byte * text.len() as f64 - sum * std::f64::consts::LOG2_E).abs() < 1e-9
                    );
                }
            }
        }
    }

    #[test]
    fn overlapping_windows_score_every_token_once_with_more_context() {
        let text = "abcdefghijklmnopqrstuvwxyz";
        for bos in [false, true] {
            let e = Words::new(bos, &[]);
            let ids = e.encode_bare(text).unwrap();
            let (n, w) = (usize::from(bos), 7);
            for stride in 1..w - n {
                let opts = TextOptions { window: Some(w), stride: Some(stride), batch_size: None };
                let got = score(text, &e, &mut Model::new(64, 70, 9), opts).unwrap();
                assert_eq!(got.scored, 25 + n);
                let mut sum = 0.0;
                for t in 1 - n..26 {
                    // The first window that reaches token t.
                    let k = (t + 1).saturating_sub(w - n).div_ceil(stride);
                    let path = [&e.prefix[..], &ids[k * stride..t]].concat();
                    sum -= f64::from(answer(&path, ids[t]).logprob);
                }
                assert_eq!(got.sum_nll, sum, "{bos} {stride}");
            }
        }
    }

    #[test]
    fn bad_texts_and_strides() {
        assert_eq!(parse_text("t", b"").unwrap_err().message, "t: the text is empty");
        let e = parse_text("t", b"ab\ncd\xff").unwrap_err();
        assert!(e.kind == Kind::Data && e.message.starts_with("t:2: this is not UTF-8 text (byte 5)"), "{e}");
        assert_eq!(parse_text("t", &zstd::encode_all(&b"ab"[..], 1).unwrap()).unwrap(), "ab");
        let none = Words::new(false, &[]);
        let kind = |text, opts| score(text, &none, &mut Model::new(8, 8, 8), opts).unwrap_err().kind;
        assert_eq!(kind("a", TextOptions::default()), Kind::Data);
        for stride in [0, 9] {
            assert_eq!(
                kind("abc", TextOptions { stride: Some(stride), ..TextOptions::default() }),
                Kind::Usage
            );
        }
        assert_eq!(kind("abc", TextOptions { window: Some(9), ..TextOptions::default() }), Kind::Usage);
    }
}
