//! Models of several sizes for the experiment over scale: the embedded one's shape made smaller and larger, pretrained on the same
//! text with the same settings for the same number of tokens.

use super::Global;
use super::finetune::{Go, execute, say};
use super::prepare::{Prepared, pretrain_defaults};
use super::settings::Layers;
use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::progress;
use crate::text::Files;
use crate::weights::Source;
use crate::world;
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// Name, width, layers, heads, width of the feed-forward part.
const SHAPES: [(&str, usize, usize, usize, usize); 5] = [
    ("0.1M", 32, 2, 2, 96),
    ("0.4M", 64, 4, 2, 192),
    ("1.2M", 128, 4, 4, 384),
    ("3.1M", 192, 6, 6, 512),
    ("7.7M", 288, 7, 9, 768),
];

/// Steps of 32 texts.
const STEPS: i64 = 3000;

/// How many of the texts are the primer, as for the embedded model.
const PRIMER: u64 = 22_400;

/// How the embedded model was pretrained.
const RECIPE: &str = include_str!("../../weights/pretrain.toml");

/// Pretrains what is not there yet in `dir`; names and folders, the smallest first.
pub(super) fn pretrained(dir: &Path, global: &Global, stop: &AtomicBool) -> Result<Vec<(String, String)>> {
    let create =
        |path: &Path| std::fs::create_dir_all(path).map_err(|e| Error::io(Kind::Disk, "create", path, &e));
    create(dir)?;
    let source = Source::Builtin;
    let config = source.config()?;
    let mut found = Vec::new();
    let text = dir.join("text.jsonl");
    for (name, width, layers, heads, ffn) in SHAPES {
        let (start, run) = (dir.join(name).join("start"), dir.join(name).join("run"));
        let model = run.join("model");
        found.push((name.to_owned(), model.display().to_string()));
        if model.is_dir() {
            continue;
        }
        if run.exists() {
            std::fs::remove_dir_all(&run).map_err(|e| Error::io(Kind::Disk, "remove", &run, &e))?;
        }
        if !text.exists() {
            let documents = 32 * STEPS as u64 - PRIMER;
            let texts =
                (0..PRIMER).map(|i| world::primer(1, i)).chain((0..documents).map(|i| world::document(1, i)));
            disk::write_atomic_with(&text, |file| {
                let mut texts = texts;
                texts.try_for_each(|text| writeln!(file, "{}", json!({"text": text})))
            })?;
        }
        create(&start)?;
        let mut json = config.json.clone();
        for (key, value) in [
            ("hidden_size", width),
            ("num_hidden_layers", layers),
            ("num_attention_heads", heads),
            ("num_key_value_heads", heads),
            ("head_dim", 32.min(width / heads)),
            ("intermediate_size", ffn),
        ] {
            json[key] = Value::from(value);
        }
        disk::write_atomic(&start.join("config.json"), format!("{json:#}\n").as_bytes())?;
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            if let Some(bytes) = source.get(file)? {
                disk::write_atomic(&start.join(file), &bytes)?;
            }
        }
        let mut settings = Layers::new(&pretrain_defaults())?;
        settings.parse(RECIPE.as_bytes(), "weights/pretrain.toml")?;
        let path = |p: &Path| toml::Value::String(p.display().to_string());
        let mix = toml::Table::from_iter([
            ("name".to_owned(), toml::Value::String("data".into())),
            ("paths".to_owned(), toml::Value::Array(vec![path(&text)])),
        ]);
        for (key, value) in [
            ("model.path", path(&start)),
            ("mix", toml::Value::Array(vec![toml::Value::Table(mix)])),
            ("train.steps", toml::Value::Integer(STEPS)),
            ("output.dir", path(&run)),
            ("run.device", toml::Value::String(global.device.clone().unwrap_or_else(|| "auto".into()))),
            ("run.threads", toml::Value::Integer(global.threads.unwrap_or(0) as i64)),
        ] {
            settings.put(key, value, "experiment")?;
        }
        say!("        pretraining {name}");
        let begin = Instant::now();
        let prepared = Prepared::pretrain(settings.resolve()?)?;
        {
            let _hush = progress::hush();
            execute(prepared, &Go::default(), global, stop, false)?;
        }
        say!("        pretrained  {name} in {:.0} s", begin.elapsed().as_secs_f64());
    }
    Ok(found)
}
