//! The bad input table: how each is made, its exit code, the words of its message. For all of them: no panic, and the
//! folder is byte for byte what it was, except for what a row says it leaves.

use super::support::{Place, Run, snapshot, text, tiny_model, tokenizer};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// One row: makes the input and returns the command line.
struct Case {
    name: &'static str,
    make: fn(&Place) -> Vec<String>,
    code: i32,
    words: &'static [&'static str],
}

const LFS: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1044992\n";
const GOOD: &str = "{\"id\": 1, \"context\": \"one\", \"options\": [\" a\", \" b\"], \"label\": 0}\n";
const ROWS: &str =
    "{\"input\": \"one two\", \"target\": \"yes\"}\n{\"input\": \"two one\", \"target\": \"no\"}\n";

fn strings(args: &[&str]) -> Vec<String> {
    args.iter().map(|&a| a.to_owned()).collect()
}

fn score() -> Vec<String> {
    strings(&["score", "model", "--requests", "r.jsonl", "--out", "rows.jsonl"])
}

fn finetune(more: &[&str]) -> Vec<String> {
    let steps: &[&str] = if more.contains(&"--steps") { &[] } else { &["--steps", "2"] };
    strings(&[&["finetune", "model", "d.jsonl", "--out", "run"], steps, more].concat())
}

/// Scores requests that hold `content`.
fn requests(p: &Place, content: impl AsRef<[u8]>) -> Vec<String> {
    p.write("r.jsonl", content);
    score()
}

/// Changes `config.json` and scores.
fn config(p: &Place, change: impl FnOnce(&mut Value)) -> Vec<String> {
    let mut config = p.json("model/config.json");
    change(&mut config);
    p.write("model/config.json", config.to_string());
    score()
}

/// Changes the tensors (name, dtype, shape, bytes) of the weights and scores.
fn tensors(
    p: &Place,
    change: impl FnOnce(&mut Vec<(String, safetensors::Dtype, Vec<usize>, Vec<u8>)>),
) -> Vec<String> {
    let path = p.path("model/model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut all: Vec<_> = file
        .tensors()
        .into_iter()
        .map(|(name, t)| (name, t.dtype(), t.shape().to_vec(), t.data().to_vec()))
        .collect();
    change(&mut all);
    let views = all.iter().map(|(name, dtype, shape, bytes)| {
        (name.as_str(), safetensors::tensor::TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    score()
}

/// Trains on the one file `name` that holds `content`.
fn data(p: &Place, name: &str, content: impl AsRef<[u8]>) -> Vec<String> {
    p.write(name, content);
    strings(&["finetune", "model", name, "--steps", "2", "--out", "run"])
}

const CASES: &[Case] = &[
    // The model: exit 4.
    Case {
        name: "no such model",
        make: |_| strings(&["score", "nowhere", "--requests", "r.jsonl"]),
        code: 4,
        words: &["nowhere", "fix:", "config.json"],
    },
    Case {
        name: "the model is a file",
        make: |_| strings(&["score", "model/config.json", "--requests", "r.jsonl"]),
        code: 4,
        words: &["is a file, not a model folder"],
    },
    Case {
        name: "an empty folder",
        make: |p| {
            std::fs::create_dir(p.path("empty")).unwrap();
            strings(&["finetune", "empty", "d.jsonl", "--out", "run"])
        },
        code: 4,
        words: &["empty/config.json is missing"],
    },
    Case {
        name: "config.json is broken JSON",
        make: |p| {
            p.write("model/config.json", "{\n \"architectures\": [");
            score()
        },
        code: 4,
        words: &["model/config.json:2:", "not valid JSON"],
    },
    Case {
        name: "an unknown architecture, before weights are read",
        make: |p| {
            std::fs::remove_file(p.path("model/model.safetensors")).unwrap();
            config(p, |c| c["architectures"] = json!(["GPT2LMHeadModel"]))
        },
        code: 4,
        words: &["unsupported architecture GPT2LMHeadModel", "LlamaForCausalLM", "Qwen3ForCausalLM"],
    },
    Case {
        name: "an unknown rotary scaling",
        make: |p| config(p, |c| c["rope_parameters"] = json!({"rope_type": "longrope", "factor": 2.0})),
        code: 4,
        words: &["config.json", "rotary scaling \"longrope\"", "yarn"],
    },
    Case {
        name: "a quantized checkpoint",
        make: |p| config(p, |c| c["quantization_config"] = json!({"bits": 4})),
        code: 4,
        words: &["quantized"],
    },
    Case {
        name: "heads that do not divide",
        make: |p| config(p, |c| c["num_key_value_heads"] = json!(5)),
        code: 4,
        words: &["num_key_value_heads 5"],
    },
    Case {
        name: "a size that cannot be addressed",
        make: |p| config(p, |c| c["vocab_size"] = json!(4_000_000_000u64)),
        code: 4,
        words: &["config.json", "vocab_size is 4000000000"],
    },
    Case {
        name: "sizes whose product cannot be addressed",
        make: |p| {
            config(p, |c| {
                c["hidden_size"] = json!(8_000_000);
                c["intermediate_size"] = json!(8_000_000);
            });
            strings(&["pretrain", "model", "d.jsonl", "--map", "text=input", "--steps", "1", "--out", "run"])
        },
        code: 4,
        words: &["config.json", "parameters"],
    },
    Case {
        name: "a wrong shape",
        make: |p| config(p, |c| c["intermediate_size"] = json!(34)),
        code: 4,
        words: &["has shape [33, 24], but config.json asks for [34, 24]"],
    },
    Case {
        name: "a tensor too many",
        make: |p| {
            tensors(p, |t| t.push(("extra.weight".into(), safetensors::Dtype::F32, vec![1], vec![0; 4])))
        },
        code: 4,
        words: &["have no place in LlamaForCausalLM: extra.weight"],
    },
    Case {
        name: "a tensor too few",
        make: |p| tensors(p, |t| t.retain(|(name, ..)| name != "model.layers.1.mlp.up_proj.weight")),
        code: 4,
        words: &["missing: model.layers.1.mlp.up_proj.weight"],
    },
    Case {
        name: "an untied head is missing",
        make: |p| tensors(p, |t| t.retain(|(name, ..)| name != "lm_head.weight")),
        code: 4,
        words: &["lm_head.weight is missing", "tie_word_embeddings"],
    },
    Case {
        name: "a tied head that differs",
        make: |p| config(p, |c| c["tie_word_embeddings"] = json!(true)),
        code: 4,
        words: &["lm_head.weight differs from the embedding"],
    },
    Case {
        name: "NaN in the weights",
        make: |p| tensors(p, |t| t[3].3[..4].copy_from_slice(&f32::NAN.to_le_bytes())),
        code: 4,
        words: &["not finite"],
    },
    Case {
        name: "integers for weights",
        make: |p| tensors(p, |t| t[0].1 = safetensors::Dtype::I32),
        code: 4,
        words: &["stored as I32"],
    },
    Case {
        name: "truncated weights",
        make: |p| {
            let bytes = std::fs::read(p.path("model/model.safetensors")).unwrap();
            p.write("model/model.safetensors", &bytes[..bytes.len() / 2]);
            score()
        },
        code: 4,
        words: &["model.safetensors: truncated"],
    },
    Case {
        name: "empty weights",
        make: |p| {
            p.write("model/model.safetensors", "");
            finetune(&[])
        },
        code: 4,
        words: &["model.safetensors"],
    },
    Case {
        name: "a Git LFS pointer for weights",
        make: |p| {
            p.write("model/model.safetensors", LFS);
            finetune(&[])
        },
        code: 4,
        words: &["a Git LFS pointer to a file of 1.0 MB", "git lfs pull"],
    },
    Case {
        name: "a web page for weights",
        make: |p| {
            p.write("model/model.safetensors", "<!DOCTYPE html><html>401</html>");
            score()
        },
        code: 4,
        words: &["a web page"],
    },
    Case {
        name: "a PyTorch checkpoint",
        make: |p| {
            std::fs::rename(p.path("model/model.safetensors"), p.path("model/pytorch_model.bin")).unwrap();
            score()
        },
        code: 4,
        words: &["pytorch_model.bin is a PyTorch file"],
    },
    Case {
        name: "a missing shard",
        make: |p| {
            let from = p.path("model/model.safetensors");
            std::fs::rename(from, p.path("model/model-00001-of-00002.safetensors")).unwrap();
            let map = json!({"weight_map": {
                "lm_head.weight": "model-00002-of-00002.safetensors",
                "model.norm.weight": "model-00001-of-00002.safetensors"
            }});
            p.write("model/model.safetensors.index.json", map.to_string());
            score()
        },
        code: 4,
        words: &["1 of 2 shards missing: model-00002-of-00002.safetensors"],
    },
    Case {
        name: "no tokenizer",
        make: |p| {
            std::fs::remove_file(p.path("model/tokenizer.json")).unwrap();
            score()
        },
        code: 4,
        words: &["no tokenizer.json in model"],
    },
    Case {
        name: "a broken tokenizer",
        make: |p| {
            p.write("model/tokenizer.json", "{\"version\": \"1.0\"}");
            finetune(&[])
        },
        code: 4,
        words: &["model/tokenizer.json", "cannot be read as a tokenizer"],
    },
    Case {
        name: "a Git LFS pointer for the tokenizer",
        make: |p| {
            p.write("model/tokenizer.json", LFS);
            score()
        },
        code: 4,
        words: &["model/tokenizer.json", "Git LFS pointer"],
    },
    Case {
        name: "the tokenizer of another model",
        make: |p| {
            p.write("model/tokenizer.json", tokenizer("ABCDEFGHIJKLMNOPQRSTUVWXYZ").to_string());
            score()
        },
        code: 4,
        words: &["the tokenizer has ids up to 72", "vocabulary has 61 entries"],
    },
    Case {
        name: "the tokenizer of another model, training",
        make: |p| {
            p.write("model/tokenizer.json", tokenizer("ABCDEFGHIJKLMNOPQRSTUVWXYZ").to_string());
            finetune(&[])
        },
        code: 4,
        words: &["does not belong to these weights"],
    },
    // Requests and texts: exit 3.
    Case {
        name: "requests that are not there",
        make: |_| strings(&["score", "model", "--requests", "none.jsonl"]),
        code: 3,
        words: &["cannot read none.jsonl"],
    },
    Case { name: "no requests", make: |p| requests(p, ""), code: 3, words: &["r.jsonl: no requests"] },
    Case {
        name: "a bad JSON line",
        make: |p| requests(p, format!("{GOOD}{{\"id\": 2,, }}\n")),
        code: 3,
        words: &["r.jsonl:2:10: not valid JSON"],
    },
    Case {
        name: "no options",
        make: |p| requests(p, format!("{GOOD}\n{{\"context\": \"a\", \"options\": []}}\n")),
        code: 3,
        words: &["r.jsonl:3: \"options\" is empty"],
    },
    Case {
        name: "requests that are not UTF-8",
        make: |p| requests(p, [GOOD.as_bytes(), b"{\"context\": \"caf\xe9\"}\n"].concat()),
        code: 3,
        words: &["r.jsonl:2:17: this is not UTF-8"],
    },
    Case {
        name: "a label out of range",
        make: |p| requests(p, GOOD.replace("\"label\": 0", "\"label\": 2")),
        code: 3,
        words: &["r.jsonl:1: label 2"],
    },
    Case {
        name: "an id twice",
        make: |p| requests(p, GOOD.repeat(2)),
        code: 3,
        words: &["r.jsonl:2: id 1 was used on line 1"],
    },
    Case {
        name: "requests cut short in gzip",
        make: |p| requests(p, gzip(GOOD, 9)),
        code: 3,
        words: &["gzip data is broken or cut short"],
    },
    Case {
        name: "an empty text",
        make: |p| {
            p.write("t.txt", "");
            strings(&["score", "model", "--text", "t.txt"])
        },
        code: 3,
        words: &["t.txt: the text is empty"],
    },
    Case {
        name: "a text that is not UTF-8",
        make: |p| {
            p.write("t.txt", b"one\ntw\xff");
            strings(&["score", "model", "--text", "t.txt"])
        },
        code: 3,
        words: &["t.txt:2: this is not UTF-8"],
    },
    // Training data: exit 3.
    Case {
        name: "data that is not there",
        make: |_| strings(&["finetune", "model", "none.jsonl", "--out", "run"]),
        code: 3,
        words: &["none.jsonl"],
    },
    Case {
        name: "a pattern without files",
        make: |_| strings(&["finetune", "model", "none-*.jsonl", "--out", "run"]),
        code: 3,
        words: &["no file matches \"none-*.jsonl\""],
    },
    Case {
        name: "empty data",
        make: |p| data(p, "x.jsonl", ""),
        code: 3,
        words: &["x.jsonl: the file is empty"],
    },
    Case { name: "data of blank lines", make: |p| data(p, "x.jsonl", "\n\n"), code: 3, words: &["x.jsonl"] },
    Case {
        name: "a bad line of data",
        make: |p| data(p, "x.jsonl", format!("{ROWS}{{\"input\": }}\n")),
        code: 3,
        words: &["x.jsonl:3:11: not valid JSON"],
    },
    Case {
        name: "a row that is no object",
        make: |p| data(p, "x.jsonl", format!("{ROWS}7\n")),
        code: 3,
        words: &["x.jsonl:3: the row is a number"],
    },
    Case {
        name: "columns that tell nothing",
        make: |p| data(p, "x.jsonl", "{\"sentence\": \"a\", \"label\": 1}\n"),
        code: 3,
        words: &["the columns sentence, label", "--map"],
    },
    Case {
        name: "a map to a column that is not there",
        make: |_| finetune(&["--map", "input=question", "--map", "target=target"]),
        code: 3,
        words: &["there is no column \"question\"", "the columns are input, target"],
    },
    Case {
        name: "a map to a field that is not there",
        make: |_| finetune(&["--map", "inptu=input"]),
        code: 2,
        words: &["there is no field \"inptu\"", "did you mean \"input\""],
    },
    Case {
        name: "a template that is wrong",
        make: |_| finetune(&["--map", "input={{ input", "--map", "target=target"]),
        code: 2,
        words: &["template"],
    },
    Case {
        name: "data that is not UTF-8",
        make: |p| data(p, "x.csv", b"input,target\na,b\nc,\xe9\n"),
        code: 3,
        words: &["x.csv:3: not UTF-8"],
    },
    Case {
        name: "a table with a torn row",
        make: |p| data(p, "x.tsv", "input\ttarget\na\tb\nc\n"),
        code: 3,
        words: &["x.tsv:3: the row has 1 columns, the first line 2"],
    },
    Case {
        name: "an unknown kind of file",
        make: |p| data(p, "x.xlsx", "PAR1"),
        code: 3,
        words: &["unknown kind of data file", ".jsonl"],
    },
    Case {
        name: "a Git LFS pointer for data",
        make: |p| data(p, "x.jsonl", LFS),
        code: 3,
        words: &["x.jsonl", "Git LFS pointer"],
    },
    Case {
        name: "data cut short in gzip",
        make: |p| data(p, "x.jsonl.gz", gzip(&ROWS.repeat(99), 9)),
        code: 3,
        words: &["x.jsonl.gz", "cut short"],
    },
    Case {
        name: "every row too long",
        make: |_| finetune(&["--seq-len", "5"]),
        code: 3,
        words: &["20 of 20 rows (100.0 %)", "--seq-len"],
    },
    Case {
        name: "too many rows without a target",
        make: |p| data(p, "x.jsonl", format!("{}{{\"input\": \"a\", \"target\": \"\"}}\n", ROWS.repeat(3))),
        code: 3,
        words: &["1 of 7 rows (14.3 %)", "no target", "--max-dropped"],
    },
    Case {
        name: "rows dropped, and nothing left",
        make: |_| finetune(&["--seq-len", "5", "--max-dropped", "1"]),
        code: 3,
        words: &["error:"],
    },
    Case {
        name: "validation data that is not there",
        make: |_| finetune(&["--val", "none.jsonl"]),
        code: 3,
        words: &["none.jsonl"],
    },
    // Command line and settings: exit 2.
    Case {
        name: "no data",
        make: |_| strings(&["finetune", "model", "--out", "run"]),
        code: 2,
        words: &["no training data"],
    },
    Case {
        name: "an unknown flag",
        make: |_| finetune(&["--stepz", "3"]),
        code: 2,
        words: &["--stepz", "--steps"],
    },
    Case {
        name: "an unknown setting",
        make: |_| finetune(&["--set", "train.learning_rate=1"]),
        code: 2,
        words: &["unknown setting \"train.learning_rate\"", "did you mean train.lr"],
    },
    Case {
        name: "a setting without a value",
        make: |_| finetune(&["--set", "train.lr"]),
        code: 2,
        words: &["section.key=value"],
    },
    Case {
        name: "a setting of another kind",
        make: |_| finetune(&["--set", "train.lr=fast"]),
        code: 2,
        words: &["lr"],
    },
    Case {
        name: "a setting out of range",
        make: |_| finetune(&["--set", "train.beta2=1.5"]),
        code: 2,
        words: &["beta2"],
    },
    Case {
        name: "a configuration file with an unknown key",
        make: |p| {
            p.write("c.toml", "[train]\nstep = 3\n");
            finetune(&["-c", "c.toml"])
        },
        code: 2,
        words: &["c.toml", "train.step", "did you mean train.steps"],
    },
    Case {
        name: "a broken configuration file",
        make: |p| {
            p.write("c.toml", "[train]\nsteps = = 3\n");
            finetune(&["-c", "c.toml"])
        },
        code: 2,
        words: &["c.toml:2:9"],
    },
    Case {
        name: "a configuration file that is not there",
        make: |_| finetune(&["-c", "none.toml"]),
        code: 2,
        words: &["cannot read none.toml"],
    },
    Case {
        name: "an unknown device",
        make: |_| finetune(&["--device", "tpu"]),
        code: 2,
        words: &["unknown device \"tpu\"", "cpu"],
    },
    Case {
        name: "nothing to score",
        make: |_| strings(&["score", "model"]),
        code: 2,
        words: &["--requests", "--text"],
    },
    Case {
        name: "a seed that no file can hold",
        make: |_| finetune(&["--seed", "18446744073709551615"]),
        code: 2,
        words: &["18446744073709551615", "--seed"],
    },
    Case {
        name: "an unknown border rule",
        make: |_| [score(), strings(&["--boundary", "merged"])].concat(),
        code: 2,
        words: &["merged", "lm-eval"],
    },
    Case {
        name: "an unknown dtype",
        make: |_| finetune(&["--dtype", "f8"]),
        code: 2,
        words: &["f8", "bf16"],
    },
    Case {
        name: "a length beyond the context",
        make: |_| finetune(&["--seq-len", "129"]),
        code: 2,
        words: &["--seq-len 129", "context of 128"],
    },
    Case {
        name: "a window beyond the context",
        make: |_| [score(), strings(&["--max-length", "999"])].concat(),
        code: 2,
        words: &["999", "128"],
    },
    Case {
        name: "batches of nothing",
        make: |_| [score(), strings(&["--batch-size", "0"])].concat(),
        code: 2,
        words: &["batch size of 0"],
    },
    Case {
        name: "a time that is none",
        make: |_| finetune(&["--max-time", "soon"]),
        code: 2,
        words: &["soon", "3h30m"],
    },
    Case {
        name: "a loss that is none",
        make: |_| finetune(&["--loss", "some"]),
        code: 2,
        words: &["some", "response"],
    },
    Case {
        name: "fewer threads than none",
        make: |_| [score(), strings(&["--threads", "-1"])].concat(),
        code: 2,
        words: &["-1"],
    },
    Case {
        name: "more threads than can be",
        make: |_| [score(), strings(&["--threads", "99999999"])].concat(),
        code: 2,
        words: &["threads"],
    },
    Case {
        name: "a batch that no memory holds",
        make: |_| finetune(&["--batch-size", "99999999999"]),
        code: 2,
        words: &["train.batch_size must be from 1"],
    },
    Case {
        name: "more checkpoints than can be counted",
        make: |_| finetune(&["--keep", "9223372036854775807"]),
        code: 2,
        words: &["output.keep must be from 1"],
    },
    // Disk and run directories: exit 7.
    Case {
        name: "a folder that holds another run",
        make: |p| {
            p.run(&finetune(&[])).ok();
            finetune(&["--lr", "1"])
        },
        code: 7,
        words: &["already holds a run (status finished", "--resume run"],
    },
    Case {
        name: "a folder that holds something else",
        make: |p| {
            std::fs::create_dir(p.path("run")).unwrap();
            p.write("run/thesis.tex", "precious");
            finetune(&[])
        },
        code: 7,
        words: &["holds no run of flanrt (found thesis.tex)"],
    },
    Case {
        name: "a run directory below a file",
        make: |_| strings(&["finetune", "model", "d.jsonl", "--steps", "1", "--out", "d.jsonl/run"]),
        code: 7,
        words: &["d.jsonl"],
    },
    Case {
        name: "resuming what is no run",
        make: |_| strings(&["finetune", "--resume", "model"]),
        code: 7,
        words: &["model is no run directory"],
    },
    Case {
        name: "resuming what is not there",
        make: |_| strings(&["finetune", "--resume", "nowhere"]),
        code: 7,
        words: &["nowhere"],
    },
    Case {
        name: "results into a folder",
        make: |_| strings(&["score", "model", "--requests", "r.jsonl", "--out", "model"]),
        code: 7,
        words: &["model: it is a directory"],
    },
    Case {
        name: "results into a folder that is not there",
        make: |_| strings(&["score", "model", "--requests", "r.jsonl", "--out", "no/rows.jsonl"]),
        code: 7,
        words: &["no/rows.jsonl"],
    },
];

fn gzip(text: &str, lost: usize) -> Vec<u8> {
    use std::io::Write;
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(text.as_bytes()).unwrap();
    let bytes = gz.finish().unwrap();
    bytes[..bytes.len() - lost].to_vec()
}

/// A place with a tiny model, requests and data that work.
fn place() -> Place {
    let place = Place::new();
    tiny_model(&place.path("model"));
    place.write("r.jsonl", GOOD);
    place.write("d.jsonl", ROWS.repeat(10));
    place
}

/// What is wrong with how `run` ended, if anything.
fn misfit(run: &Run, code: i32, words: &[&str]) -> Option<String> {
    let missing: Vec<_> = words.iter().filter(|w| !run.err.contains(**w)).collect();
    let rules = [
        (run.code == Some(code), format!("exit {:?}, expected {code}", run.code)),
        (!run.err.contains("panicked"), "it panicked".into()),
        (missing.is_empty(), format!("the message lacks {missing:?}")),
        (run.out.is_empty(), format!("it printed {:?}", run.out)),
        (run.err.contains("error:"), "no line says error:".into()),
    ];
    let broken: Vec<String> = rules.into_iter().filter(|(holds, _)| !holds).map(|(_, what)| what).collect();
    (!broken.is_empty()).then(|| format!("{}\n{}", broken.join("; "), run.err))
}

#[test]
fn what_is_good_works() {
    let place = place();
    place.run(&score()).ok();
    place.run(&finetune(&[])).ok();
    place.run(&["model", "verify", "model"]).ok();
    place.run(&["score", "run/model", "--requests", "r.jsonl"]).ok();
}

#[test]
fn the_table() {
    assert!(CASES.len() >= 25);
    let mut wrong = Vec::new();
    for case in CASES {
        let place = place();
        let args = (case.make)(&place);
        let before = snapshot(place.dir.path());
        let run = place.run(&args);
        let after = snapshot(place.dir.path());
        if let Some(what) = misfit(&run, case.code, case.words) {
            wrong.push(format!("{}: {what}", case.name));
        }
        if after != before {
            let new: Vec<_> =
                after.iter().filter(|(name, hash)| before.get(*name) != Some(hash)).map(|(n, _)| n).collect();
            wrong.push(format!("{}: left or changed {new:?}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), CASES.len(), wrong.join("\n"));
}

#[test]
fn a_run_that_fails_says_so_in_its_directory() {
    // NaN weights are found when they are read, a loss that explodes when it does.
    let place = place();
    tensors(&place, |t| t[3].3[..4].copy_from_slice(&f32::NAN.to_le_bytes()));
    let run = place.run(&finetune(&[]));
    assert_eq!(misfit(&run, 4, &["not finite"]), None);
    assert!(!place.path("run/model").exists());

    let place = self::place();
    let run = place.run(&finetune(&["--lr", "1e30", "--clip", "0", "--warmup", "0", "--steps", "9"]));
    assert_eq!(misfit(&run, 6, &["not finite", "train.lr"]), None);
    let written = place.json("run/run.json");
    assert_eq!((&written["status"], &written["exit_code"]), (&json!("failed"), &json!(6)));
    assert!(!place.path("run/model").exists() && place.read("run/log.jsonl").contains("not finite"));
}

#[test]
fn more_than_the_memory_there_is() {
    let place = place();
    let run = finetune(&["--micro-batch", "4194304"]);
    let bin = place.command(&["--version"]);
    let script = format!("ulimit -v 4000000; exec \"$0\" {}", run.join(" "));
    let mut limited = Command::new("sh");
    limited.args(["-c", &script]).arg(bin.get_program()).current_dir(place.dir.path());
    limited.env("FLANRT_CACHE", place.path("cache"));
    let out = limited.output().unwrap();
    let err = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(5), "{err}");
    for words in ["cannot allocate", "--micro-batch"] {
        assert!(err.contains(words) && !err.contains("panicked"), "{err}");
    }
    assert!(!place.path("run/model").exists());
}

#[test]
fn a_second_process_on_the_same_run_or_results_is_refused() {
    let place = place();
    let long = finetune(&["--steps", "1000000", "--log-every", "1"]);
    let started = || std::fs::metadata(place.path("run/metrics.jsonl")).is_ok_and(|m| m.len() > 0);
    let refused = std::cell::RefCell::new(None);
    let stopped = place.signalled(&long, Signal::TERM, || {
        let ready = started();
        if ready {
            *refused.borrow_mut() = Some(place.run(&["finetune", "--resume", "run"]));
        }
        ready
    });
    stopped.fails(75);
    assert_eq!(misfit(&refused.take().unwrap(), 7, &["another process"]), None);
}

/// Runs `script` in a name space of its own where `disk/` is a fresh 256 kB file system mounted with `options`; `None`
/// where the system does not let this user mount one.
fn on_small_disk(place: &Place, options: &str, script: &str) -> Option<String> {
    std::fs::create_dir(place.path("disk")).unwrap();
    let setup = format!("mount -t tmpfs -o {options} none disk && echo mounted && {script}");
    let bin = place.command(&["--version"]);
    let mut unshare = Command::new("unshare");
    unshare.args(["-Urm", "sh", "-c", &setup]).arg(bin.get_program()).current_dir(place.dir.path());
    for (name, value) in bin.get_envs() {
        match value {
            Some(value) => unshare.env(name, value),
            None => unshare.env_remove(name),
        };
    }
    let out = unshare.output().ok()?;
    let (text, err) = (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap());
    if !text.starts_with("mounted") {
        println!("skipped: no small disk can be mounted here (unshare, tmpfs): {err}");
        return None;
    }
    assert!(!err.contains("panicked"), "{err}");
    Some(text + &err)
}

#[test]
fn a_full_disk_and_a_read_only_one() {
    let requests = "\"$0\" score model --requests r.jsonl --out disk/rows.jsonl; echo code $?; ls -A disk";
    let tune = "\"$0\" finetune model d.jsonl --steps 2 --out disk/run; echo code $?; ls -A disk";
    let full = |script: &str| format!("head -c 1m /dev/zero > disk/fill 2> /dev/null; {script}");
    let cases = [
        ("size=256k", full(requests), "No space left", "fill"),
        ("size=256k", tune.to_owned(), "needed on this disk", ""),
        ("ro,size=256k", requests.to_owned(), "Read-only", ""),
        ("ro,size=256k", tune.to_owned(), "Read-only", ""),
    ];
    for (options, script, words, left) in cases {
        let place = place();
        let Some(said) = on_small_disk(&place, options, &script) else { return };
        assert!(
            said.contains("code 7\n") && said.contains(words) && said.contains("fix:"),
            "{script}: {said}"
        );
        let listed: Vec<&str> =
            said.split("code 7\n").nth(1).unwrap().lines().take_while(|l| !l.contains(' ')).collect();
        assert_eq!(listed.join(" "), left, "{script}: {said}");
    }
}

#[test]
fn a_disk_that_fills_up_later_keeps_the_last_good_checkpoint() {
    let place = place();
    // Room for the run as planned; then someone else fills the disk.
    let script = format!(
        "\"$0\" finetune model d.jsonl --steps 400 --save-every 1 --keep 1 --out disk/run & \
         while ! [ -e disk/run/checkpoints/latest ]; do sleep 0.01; done; \
         head -c 9m /dev/zero > disk/fill 2> /dev/null; wait $!; echo code $?; rm disk/fill; \
         \"$0\" finetune --resume disk/run --steps 400; echo again $?; ls -A disk/run/checkpoints {dir}",
        dir = "| grep -c tmp"
    );
    let Some(said) = on_small_disk(&place, "size=2m", &script) else { return };
    assert!(said.contains("code 7\n") && said.contains("No space left"), "{said}");
    assert!(said.contains("again 0\n") && said.contains("resume  from step"), "{said}");
    assert!(said.trim_end().ends_with('0') || said.contains("\n0\n"), "{said}");
}

#[test]
fn a_read_only_folder() {
    use std::os::unix::fs::PermissionsExt;
    let place = place();
    let dir = place.path("locked");
    std::fs::create_dir(&dir).unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o555)).unwrap();
    if std::fs::write(dir.join("probe"), "").is_ok() {
        println!("skipped: this user may write everywhere");
        return;
    }
    let out = text(Path::new("locked/run"));
    let run = place.run(&["finetune", "model", "d.jsonl", "--steps", "1", "--out", &out]);
    assert_eq!(misfit(&run, 7, &["locked/run", "permissions"]), None);
    let run = place.run(&["score", "model", "--requests", "r.jsonl", "--out", "locked/rows.jsonl"]);
    assert_eq!(misfit(&run, 7, &["locked/rows.jsonl", "permissions"]), None);
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
}
