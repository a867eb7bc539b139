//! `flanrt plan`: what a training run will need, from the same layout that it will carve.

use super::demo;
use super::device::Machine;
use super::prepare::{Prepared, count, millions, pretrain_defaults};
use super::{Global, TrainFlags};
use crate::disk::human_bytes;
use crate::error::Result;
use crate::train::Trainer;
use clap::Args;
use serde_json::json;
use std::sync::OnceLock;

/// `flanrt plan`
#[derive(Args)]
pub(super) struct Plan {
    /// Model folder in Hugging Face layout, or `builtin`
    model: Option<String>,
    /// Training files: their tokens count as memory, and say how many steps there will be
    data: Vec<String>,
    #[command(flatten)]
    train: TrainFlags,
    /// The model starts from random weights (as for pretrain): only config.json and a tokenizer are needed
    #[arg(long)]
    pretrain: bool,
}

/// A line of /proc/self/status, in bytes; `None` where there is no such file.
fn status_bytes(key: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix(key))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Memory of this process before a run takes its arenas: program, tokenizer, tokens.
pub(super) fn process_bytes() -> u64 {
    // Taken once, before any arena is allocated.
    static RESIDENT: OnceLock<u64> = OnceLock::new();
    *RESIDENT.get_or_init(|| status_bytes("VmRSS:").unwrap_or(16 << 20))
}

/// The memory of a run whose arenas are `arenas` long, in words.
pub(super) fn memory_line(machine: &Machine, arenas: u64) -> String {
    let host = human_bytes(machine.host_bytes(arenas));
    match machine.own_memory {
        true => format!("{} of the GPU's memory, {host} of the machine's", human_bytes(arenas)),
        false => format!("{host} of memory"),
    }
}

/// The most memory this process ever had.
pub(super) fn peak_bytes() -> Option<u64> {
    status_bytes("VmHWM:")
}

pub(super) fn run(c: Plan, global: &Global) -> Result<()> {
    let command = match (c.pretrain, c.model.is_none() && c.data.is_empty()) {
        (true, _) => pretrain_defaults(),
        (false, true) => demo::defaults(),
        (false, false) => Vec::new(),
    };
    let resolved = c.train.resolve(&command, global, c.model.as_deref(), &c.data)?;
    let mut p = match c.pretrain {
        true => Prepared::pretrain(resolved)?,
        false => Prepared::finetune(resolved, false)?,
    };
    let device = Machine::open(&p.settings().run.device, p.settings().run.threads)?;
    p.fit(&*device)?;
    let s = p.settings();
    let sizes = p.sizes(device.profile());
    let arena = Trainer::measure(&p.config, p.dtype(), sizes, s.train.method());
    // Tokens are part of the memory; they are kept in the cache, so a run that follows does not read the files again.
    let data = match s.has_data() {
        true => Some(p.data(global)?),
        false => None,
    };
    let steps = data.as_ref().map(|data| data.batching.total());
    let process = device.host_bytes(0);
    let parameters = count(&p.config);
    let total = arena.used() as u64 + process;
    let checkpoint = s.train.method().checkpoint_bytes(parameters, p.dtype());
    let saved = parameters * p.dtype().size() as u64;
    if global.json {
        let table = json!({"device": device.name(), "parameters": parameters, "memory": arena.entries(), "process": process, "total": total, "checkpoint": checkpoint, "keep": s.output.keep, "model": saved, "steps": steps});
        return super::print(&table.to_string());
    }
    let mut out = format!(
        "{}  {}  {} parameters  {}  micro-batch {} tokens  recompute {}  master {}  gradients {}\n\n",
        p.name,
        p.config.architecture,
        millions(parameters),
        p.dtype().name(),
        sizes.tokens,
        format!("{:?}", sizes.train.expect("training")).to_lowercase(),
        format!("{:?}", s.train.method().master).to_lowercase(),
        format!("{:?}", s.train.method().gradients).to_lowercase()
    );
    let mut row = |name: &str, bytes: u64| out += &format!("{name:<18} {:>12}\n", human_bytes(bytes));
    for entry in arena.entries() {
        row(&entry.name, entry.bytes);
    }
    if device.own_memory {
        row("on the GPU in all", arena.used() as u64);
        row("on the machine", process);
    } else {
        row("program, tokens", process);
        row("memory in all", total);
    }
    out += "\n";
    let mut row = |name: &str, bytes: u64| out += &format!("{name:<18} {:>12}\n", human_bytes(bytes));
    row("one checkpoint", checkpoint);
    row(&format!("{} kept + 1 in work", s.output.keep), checkpoint * (s.output.keep as u64 + 1));
    row("saved model", saved);
    if let Some(steps) = steps {
        out += &format!("\n{steps} steps of {}\n", s.train.step_size());
    }
    super::print(&out)
}
