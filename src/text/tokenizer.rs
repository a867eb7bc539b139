//! The tokenizer of a model folder: `tokenizer.json` through the `tokenizers` crate, and who its special tokens are.
//!
//! `tokenizer.json` alone decides the ids of a text; its truncation and padding settings are switched off. BOS comes
//! from its post-processor and nowhere else; an EOS that a post-processor would add is left out, because where a text
//! ends is the caller's to say.

use super::{ChatTemplate, Files};
use crate::error::{Error, Result};
use serde::Deserialize;
use serde_json::Value;
use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;
use tokenizers::models::ModelWrapper;
use tokenizers::processors::PostProcessorWrapper;

/// Files that make a tokenizer, in the order in which they are kept.
const FILES: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
];

/// A loaded tokenizer; cheap to share between threads.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    prefix: Vec<u32>,
    bos: Option<u32>,
    eos: Option<u32>,
    stop: Vec<u32>,
    vocab: usize,
    special: HashSet<u32>,
    hash: String,
    chat: Option<ChatTemplate>,
    files: Vec<(String, Vec<u8>)>,
}

impl Tokenizer {
    /// Loads the tokenizer of a model. Errors (exit 4): no `tokenizer.json`, or one that cannot be read.
    pub fn load(files: &dyn Files) -> Result<Self> {
        let mut found = Vec::new();
        for name in FILES {
            if let Some(bytes) = files.get(name)? {
                found.push((name.to_owned(), bytes));
            }
        }
        let path = |name: &str| Path::new(&files.place()).join(name).display().to_string();
        let bytes = |name: &str| found.iter().find(|(n, _)| n == name).map(|(_, b)| b.as_slice());
        let Some(main) = bytes("tokenizer.json") else {
            let sentencepiece = bytes("tokenizer.model").is_some();
            let names = found.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>().join(", ");
            let names = if names.is_empty() { "none of them there" } else { &names };
            return Err(Error::model(format!(
                "no tokenizer.json in {} (looked for {}; found: {names})",
                files.place(),
                FILES.join(", ")
            ))
            .fix(if sentencepiece {
                "convert tokenizer.model: transformers' AutoTokenizer.from_pretrained(..).save_pretrained(..) writes \
                 tokenizer.json"
            } else {
                "copy tokenizer.json from the model's repository into the folder"
            }));
        };
        let inner = open(main).map_err(|e| e.at(path("tokenizer.json")))?;
        let json = |name: &str, bytes: &[u8]| {
            serde_json::from_slice::<Value>(bytes)
                .map_err(|e| Error::model(format!("{}: not valid JSON: {e}", path(name))))
        };
        let small =
            |name: &str| bytes(name).map(|b| json(name, b)).transpose().map(Option::unwrap_or_default);
        let config = small("tokenizer_config.json")?;
        let map = small("special_tokens_map.json")?;
        let other =
            |name: &str| files.get(name)?.map(|b| json(name, &b)).transpose().map(Option::unwrap_or_default);
        let (generation, model) = (other("generation_config.json")?, other("config.json")?);
        // By name where the tokenizer's own files say so, else by number from the model's.
        let special = |key: &str| {
            let named = [&config, &map].into_iter().find_map(|c| inner.token_to_id(content(&c[key])?));
            named.or_else(|| {
                let key = format!("{key}_id");
                [&generation, &model].into_iter().find_map(|c| ids(&c[&key]).first().copied())
            })
        };
        let (bos, eos) = (special("bos_token"), special("eos_token"));
        let mut stop = ids(&generation["eos_token_id"]);
        if stop.is_empty() {
            stop.extend(eos);
        }
        let text = |id: Option<u32>| id.and_then(|id| inner.id_to_token(id));
        let template = match bytes("chat_template.jinja") {
            Some(b) => {
                let name = "chat_template.jinja";
                Some(
                    String::from_utf8(b.to_vec())
                        .map_err(|e| Error::model(format!("{}: {e}", path(name))))?,
                )
            }
            None => template_in(&config["chat_template"]),
        };
        let chat = template
            .map(|t| ChatTemplate::new(&t, &text(bos).unwrap_or_default(), &text(eos).unwrap_or_default()))
            .transpose()
            .map_err(|e| e.at(files.place()))?;
        let prefix = prefix_of(&inner)?;
        let vocab = inner.get_vocab(true).into_values().max().map_or(0, |m| m as usize + 1);
        let mut hasher = blake3::Hasher::new();
        hasher.update(main).update(format!("|{bos:?}|{eos:?}|{prefix:?}").as_bytes());
        let hash = hasher.finalize().to_hex()[..16].to_owned();
        let added = inner.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, t)| t.special).map(|(&id, _)| id).collect();
        Ok(Self { inner, prefix, bos, eos, stop, vocab, special, hash, chat, files: found })
    }

    /// The ids that the post-processor puts in front of every text: BOS, mostly, or nothing.
    pub fn prefix(&self) -> &[u32] {
        &self.prefix
    }

    /// The ids of `text` behind the [prefix](Self::prefix); nothing is put behind them.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.prefix.clone();
        ids.extend(self.encode_bare(text)?);
        Ok(ids)
    }

    /// The ids of `text` alone.
    pub fn encode_bare(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.encoding(text)?.get_ids().to_vec())
    }

    /// The ids of `text`, behind the prefix if asked, and for each the bytes of `text` it stands for: `0..0` for the
    /// prefix; the pieces of one multi-byte character all have the span of the whole character.
    pub fn encode_spans(&self, text: &str, prefix: bool) -> Result<(Vec<u32>, Vec<Range<usize>>)> {
        let encoding = self.encoding(text)?;
        let mut ids = if prefix { self.prefix.clone() } else { Vec::new() };
        let mut spans = vec![0..0; ids.len()];
        ids.extend_from_slice(encoding.get_ids());
        spans.extend(encoding.get_offsets().iter().map(|&(start, end)| start..end));
        Ok((ids, spans))
    }

    fn encoding(&self, text: &str) -> Result<tokenizers::Encoding> {
        self.inner
            .encode(text, false)
            .map_err(|e| Error::data(format!("the tokenizer cannot encode a text: {e}")))
    }

    /// The id of the token that begins a text, where the model has one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The id of the token that ends a text, where the model has one.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The ids at which generation stops.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop
    }

    /// The text of `ids`, with or without special tokens.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        // By id: the crate goes by the token's text, which a normaliser may have changed.
        let shown: Vec<u32> =
            ids.iter().copied().filter(|id| !(skip_special && self.special.contains(id))).collect();
        self.inner
            .decode(&shown, false)
            .map_err(|e| Error::data(format!("the tokenizer cannot decode ids: {e}")))
    }

    /// The highest id + 1.
    pub fn vocab_size(&self) -> usize {
        self.vocab
    }

    /// 16 hex digits of the blake3 hash of all that decides the ids of a text.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The chat template, where the model has one.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.chat.as_ref()
    }

    /// The tokenizer's files as they were found (name, contents), to be written unchanged beside a saved model.
    pub fn files(&self) -> &[(String, Vec<u8>)] {
        &self.files
    }
}

/// Parses `tokenizer.json` and switches off what would make ids or offsets depend on more than the text.
fn open(bytes: &[u8]) -> Result<tokenizers::Tokenizer> {
    if bytes.starts_with(b"version https://git-lfs") {
        return Err(Error::model("is a Git LFS pointer, not the file itself")
            .fix("run `git lfs pull` in its repository"));
    }
    let bad = |e: &dyn std::fmt::Display| Error::model(format!("cannot be read as a tokenizer: {e}"));
    let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| bad(&e))?;
    inner.with_truncation(None).map_err(|e| bad(&e))?;
    inner.with_padding(None);
    if let ModelWrapper::BPE(bpe) = inner.get_model()
        && bpe.dropout.is_some()
    {
        let mut bpe = bpe.clone();
        bpe.dropout = None;
        inner.with_model(bpe);
    }
    // A byte-level post-processor may shorten a token's span by its leading space: we want every byte to belong to its
    // token. Only spans depend on this setting.
    #[derive(Deserialize)]
    struct Part {
        post_processor: Option<Value>,
    }
    let part: Part = serde_json::from_slice(bytes).map_err(|e| bad(&e))?;
    if let Some(mut value) = part.post_processor {
        keep_offsets(&mut value);
        let processor: PostProcessorWrapper = serde_json::from_value(value).map_err(|e| bad(&e))?;
        inner.with_post_processor(Some(processor));
    }
    Ok(inner)
}

fn keep_offsets(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, v) in map {
                if key == "trim_offsets" { *v = Value::Bool(false) } else { keep_offsets(v) }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(keep_offsets),
        _ => {}
    }
}

/// What stands before the ids of a text: the ids of "" as far as they also begin those of "a" (the rest stands behind).
fn prefix_of(inner: &tokenizers::Tokenizer) -> Result<Vec<u32>> {
    let ids = |text: &str| {
        let encoding = inner
            .encode(text, true)
            .map_err(|e| Error::model(format!("the tokenizer fails on {text:?}: {e}")))?;
        Ok::<_, Error>(encoding.get_ids().to_vec())
    };
    let (mut prefix, probe) = (ids("")?, ids("a")?);
    while !probe.starts_with(&prefix) {
        prefix.pop();
    }
    Ok(prefix)
}

/// A special token is written as its text, or as an object with its text in `content`.
fn content(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// One id or a list of them.
fn ids(value: &Value) -> Vec<u32> {
    let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(list) => list.iter().filter_map(id).collect(),
        one => id(one).into_iter().collect(),
    }
}

/// `chat_template` of tokenizer_config.json: a text, or a list of named ones of which "default" is meant.
fn template_in(value: &Value) -> Option<String> {
    let one = |v: &Value| v["template"].as_str().map(str::to_owned);
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(list) => list.iter().find(|v| v["name"] == "default").or(list.first()).and_then(one),
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;
    use std::path::PathBuf;

    /// Files in memory.
    pub(crate) struct Memory(pub(crate) Vec<(String, Vec<u8>)>);

    impl Files for Memory {
        fn place(&self) -> String {
            "memory".into()
        }
        fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
            Ok(self.0.iter().find(|(n, _)| n == name).map(|(_, b)| b.clone()))
        }
    }

    /// The folder of models and data that tests read, if it is there.
    pub(crate) fn assets() -> Option<PathBuf> {
        let dir = std::env::var_os("FLANRT_TEST_ASSETS")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
        if dir.join("models").is_dir() {
            return Some(dir);
        }
        println!("skipped: no test assets in {} (set FLANRT_TEST_ASSETS)", dir.display());
        None
    }

    /// The named files of a folder.
    pub(crate) fn folder(dir: &Path) -> Memory {
        let read =
            |e: std::fs::DirEntry| Some((e.file_name().into_string().ok()?, std::fs::read(e.path()).ok()?));
        let entries = std::fs::read_dir(dir).unwrap().filter_map(|e| e.ok());
        Memory(
            entries
                .filter(|e| !e.file_name().to_string_lossy().ends_with("safetensors"))
                .filter_map(read)
                .collect(),
        )
    }

    /// A character-level tokenizer over a few letters, with `<s>` = 0, `</s>` = 1; `parts` replace fields of its JSON.
    pub(crate) fn letters(parts: Value, config: Value) -> Result<Tokenizer> {
        let mut vocab = serde_json::Map::new();
        for (i, t) in ["<s>", "</s>"].into_iter().enumerate() {
            vocab.insert(t.into(), i.into());
        }
        for b in 0..=255u8 {
            vocab.insert(format!("<0x{b:02X}>"), (vocab.len()).into());
        }
        for c in ' '..='~' {
            vocab.insert(c.to_string(), vocab.len().into());
        }
        let token = |id: u32, s: &str| {
            json!({"id": id, "content": s, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        };
        let mut json = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
            "added_tokens": [token(0, "<s>"), token(1, "</s>")],
            "post_processor": {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]},
                                   "</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}},
            "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": true, "ignore_merges": false,
                "vocab": vocab, "merges": []}});
        for (key, value) in parts.as_object().unwrap() {
            *json.pointer_mut(key).unwrap() = value.clone();
        }
        let mut base = json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}});
        base.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
        Tokenizer::load(&Memory(vec![
            ("tokenizer.json".into(), json.to_string().into_bytes()),
            ("tokenizer_config.json".into(), base.to_string().into_bytes()),
        ]))
    }

    #[test]
    fn reference_ids() {
        let Some(dir) = assets() else { return };
        for model in ["stories260K", "tinystories-656k"] {
            let dir = dir.join("models").join(model);
            let tok = Tokenizer::load(&folder(&dir)).unwrap();
            let reference: Value =
                serde_json::from_slice(&std::fs::read(dir.join("reference.json")).unwrap()).unwrap();
            assert_eq!((tok.bos(), tok.eos(), tok.prefix()), (Some(1), Some(2), &[1][..]));
            assert_eq!(tok.vocab_size() as u64, reference["vocab_size"].as_u64().unwrap());
            assert_eq!(tok.decode(&[1, 2], true).unwrap(), "");
            for case in reference["texts"].as_array().unwrap() {
                let text = case["text"].as_str().unwrap();
                let ids = tok.encode(text).unwrap();
                assert_eq!(json!(ids), case["ids"], "{model}: {text}");
                let (same, spans) = tok.encode_spans(text, true).unwrap();
                assert_eq!((same, spans[0].clone()), (ids, 0..0));
                // Spans lie in order on character borders and leave no byte out.
                let mut end = 0;
                for s in &spans[1..] {
                    assert!(
                        s.start <= end && s.end >= end && text.get(s.clone()).is_some(),
                        "{s:?} after {end}"
                    );
                    end = s.end;
                }
                assert_eq!(end, text.len());
            }
        }
        let tok = Tokenizer::load(&folder(&dir.join("models/stories260K"))).unwrap();
        assert_eq!(tok.stop_ids(), &[1, 2]);
        assert_eq!(tok.files().iter().map(|f| f.0.as_str()).collect::<Vec<_>>(), FILES[..2]);
    }

    #[test]
    fn pieces_of_a_character_share_its_span() {
        let tok = letters(json!({}), json!({})).unwrap();
        let (ids, spans) = tok.encode_spans("aé😀b", true).unwrap();
        assert_eq!(ids.len(), 1 + 1 + 2 + 4 + 1);
        assert_eq!(spans, [0..0, 0..1, 1..3, 1..3, 3..7, 3..7, 3..7, 3..7, 7..8]);
        assert_eq!(tok.decode(&ids, true).unwrap(), "aé😀b");
        assert_eq!(tok.encode_bare("a</s>").unwrap(), [tok.encode_bare("a").unwrap()[0], 1]);
    }

    #[test]
    fn truncation_padding_and_a_final_eos_are_ours() {
        let eos = json!([{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                         {"SpecialToken": {"id": "</s>", "type_id": 0}}]);
        let parts = json!({"/post_processor/single": eos, "/model/dropout": 0.5,
            "/truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
            "/padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                         "pad_type_id": 0, "pad_token": "<s>"}});
        let tok = letters(parts, json!({})).unwrap();
        assert_eq!(
            tok.encode("hello").unwrap(),
            letters(json!({}), json!({})).unwrap().encode("hello").unwrap()
        );
        assert_eq!(tok.prefix(), [0]);
        let only = json!({"/post_processor/single": [{"Sequence": {"id": "A", "type_id": 0}},
                                                     {"SpecialToken": {"id": "</s>", "type_id": 0}}]});
        assert!(letters(only, json!({})).unwrap().prefix().is_empty());
    }

    #[test]
    fn byte_level_spans_keep_their_spaces() {
        let level =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        let mut files = crate::text::train_bpe(&vec!["the cat the cat".into(); 9], 280).unwrap();
        let mut json: Value = serde_json::from_slice(&files[0].1).unwrap();
        json["post_processor"] = json!({"type": "Sequence", "processors": [level, json["post_processor"]]});
        files[0].1 = json.to_string().into_bytes();
        let tok = Tokenizer::load(&Memory(files)).unwrap();
        let (ids, spans) = tok.encode_spans("the cat", true).unwrap();
        assert_eq!((ids[0], &spans[..]), (0, &[0..0, 0..3, 3..7][..]));
    }

    #[test]
    fn chat_templates_are_found() {
        let tok = letters(json!({}), json!({"chat_template": "{{ bos_token }}x{{ eos_token }}"})).unwrap();
        let text = tok.chat_template().unwrap().render(&json!([]), false, &Default::default()).unwrap();
        assert_eq!(text, "<s>x</s>");
        let named = json!([{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]);
        let tok = letters(json!({}), json!({"chat_template": named})).unwrap();
        assert_eq!(tok.chat_template().unwrap().source(), "d");
        assert!(letters(json!({}), json!({"chat_template": "{% if"})).is_err());
    }

    #[test]
    fn bad_files_are_model_errors() {
        let load = |name: &str, bytes: &[u8]| {
            Tokenizer::load(&Memory(vec![(name.into(), bytes.to_vec())])).err().unwrap()
        };
        let e = load("tokenizer.model", b"x");
        assert!(
            e.message
                .contains("no tokenizer.json in memory (looked for tokenizer.json, tokenizer_config.json")
        );
        assert!(e.message.ends_with("found: tokenizer.model)") && e.fix.unwrap().contains("tokenizer.model"));
        assert!(
            load("tokenizer.json", b"version https://git-lfs.github.com/spec/v1\n").message.contains("LFS")
        );
        for bytes in [&b""[..], b"{}", b"[1", b"\xff\xfe", b"{\"model\": {\"type\": \"BPE\"}}", b"null"] {
            let e = load("tokenizer.json", bytes);
            assert_eq!(e.exit_code(), 4);
            assert!(e.message.starts_with("memory/tokenizer.json: "), "{e}");
        }
    }
}
