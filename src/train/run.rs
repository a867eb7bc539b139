//! The training loop: steps, validation, logging, checkpoints, stopping.

use super::batching::Batching;
use super::checkpoint::{self, State, Window};
use super::events::EventWriter;
use super::recipe::Recipe;
use super::rundir::RunDir;
use super::trainer::Trainer;
use crate::data::{Examples, pack};
use crate::dist::Group;
use crate::error::Result;
use crate::ops::Batch;
use crate::progress::{Mode, Progress};
use serde_json::{Map, Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Everything a run is made of.
pub struct Job<'a> {
    /// How.
    pub recipe: &'a Recipe,
    /// On what.
    pub examples: &'a Examples,
    /// Which of the examples make up a step.
    pub batching: &'a Batching,
    /// Validation batches.
    pub validation: &'a [Batch],
    /// With whom.
    pub group: &'a dyn Group,
    /// Whether it continues an earlier run.
    pub resumed: bool,
    /// Steps between checkpoints; 0: only when stopped.
    pub save_every: u64,
    /// Checkpoints kept.
    pub keep: usize,
    /// Set by a signal.
    pub stop: &'a AtomicBool,
    /// When to stop.
    pub deadline: Option<Instant>,
    /// How progress is shown.
    pub progress: Mode,
}

/// How a run went.
#[derive(Clone, Debug)]
pub struct Finish {
    /// Where it stands.
    pub state: State,
    /// All steps of the run.
    pub total: u64,
    /// Validation loss before the first step and after the last, where there is validation.
    pub validation: Option<(f64, f64)>,
    /// Mean loss of the last log line.
    pub loss: f64,
    /// Tokens per second over this process's steps.
    pub speed: f64,
}

/// Mean loss over the asks of `batches`.
pub fn validate(trainer: &Trainer<'_>, batches: &[Batch]) -> Result<f64> {
    let mut sum = 0.0;
    for batch in batches {
        sum += trainer.loss(batch)?;
    }
    Ok(sum / batches.iter().map(|b| b.rows.len()).sum::<usize>().max(1) as f64)
}

/// Trains from `state` on until the last step, a signal or the deadline, whichever comes first.
pub fn run(trainer: &mut Trainer<'_>, job: &Job<'_>, dir: &mut RunDir, mut state: State) -> Result<Finish> {
    let total = job.batching.total();
    let schedule = job.recipe.schedule(total);
    let mut events = EventWriter::create(dir.path())?;
    if job.resumed {
        events.restarted_at(state.step + 1)?;
    }
    let mut progress = Progress::new(job.progress, "train", total, "step");
    progress.set(state.step, &[]);
    let first = first_validation(trainer, job, dir, &mut events, state.step)?;
    let (begun, before) = (Instant::now(), state.tokens);
    let (mut since, mut timed, mut loss) = (Instant::now(), 0, f64::NAN);
    let mut last_validation = first;
    while state.step < total {
        if job.stop.load(Ordering::Relaxed) || job.deadline.is_some_and(|d| Instant::now() >= d) {
            save(trainer, job, dir, &mut state)?;
            break;
        }
        let batches = batches(job, state.step, trainer.sizes().tokens);
        let how = job.recipe.update(&schedule, state.step);
        let id = |owner: u32| job.examples.get(owner as usize).id.to_string();
        let outcome = trainer.step(&batches, job.group, &how, job.recipe.clip as f32, &id);
        let outcome = outcome.map_err(|e| e.at(format!("step {}", state.step + 1)))?;
        let tokens: u64 = batches.iter().map(|b| b.len() as u64).sum();
        state.step += 1;
        state.tokens += tokens;
        state.targets += outcome.targets;
        timed += tokens;
        let window = &mut state.window;
        window.loss += outcome.loss_sum;
        window.targets += outcome.targets;
        window.skipped += u64::from(outcome.skipped);
        let due = |every: u64| every > 0 && state.step.is_multiple_of(every);
        if due(job.recipe.log_every) || state.step == total {
            loss = window.loss / window.targets.max(1) as f64;
            let speed = timed as f64 / since.elapsed().as_secs_f64();
            let mut line = record(
                state.step,
                &[("loss", loss), ("lr", f64::from(how.lr())), ("grad_norm", f64::from(outcome.norm))],
            );
            line.insert("tokens".into(), state.tokens.into());
            line.insert("targets".into(), state.targets.into());
            line.insert("tokens_per_second".into(), json!(speed.round()));
            if window.skipped > 0 {
                line.insert("skipped".into(), window.skipped.into());
            }
            dir.metrics(line)?;
            let scalars = [
                ("train/loss", loss),
                ("train/lr", f64::from(how.lr())),
                ("train/grad_norm", f64::from(outcome.norm)),
                ("train/tokens_per_second", speed),
            ];
            events.scalars(state.step, &scalars.map(|(k, v)| (k, v as f32)))?;
            let pairs = [
                ("loss", format!("{loss:.4}")),
                ("lr", format!("{:.1e}", how.lr())),
                ("gnorm", format!("{:.2}", outcome.norm)),
                ("tok_s", format!("{speed:.0}")),
            ];
            progress.set(state.step, &pairs);
            state.window = Window::default();
            (since, timed) = (Instant::now(), 0);
        }
        if !job.validation.is_empty() && (due(job.recipe.eval_every) || state.step == total) {
            let value = validation(trainer, job, dir, &mut events, state.step)?;
            progress.note(&format!("step {}: validation loss {value:.4}", state.step));
            last_validation = Some(value);
            (since, timed) = (Instant::now(), 0);
        }
        if due(job.save_every) && state.step < total {
            save(trainer, job, dir, &mut state)?;
            (since, timed) = (Instant::now(), 0);
        }
    }
    if state.step == total && job.save_every > 0 {
        save(trainer, job, dir, &mut state)?;
    }
    events.flush()?;
    progress.finish();
    let seconds = begun.elapsed().as_secs_f64().max(1e-9);
    Ok(Finish {
        total,
        validation: first.zip(last_validation),
        loss,
        speed: (state.tokens - before) as f64 / seconds,
        state,
    })
}

/// The micro-batches of the step after `done` steps: this rank's share of the step's examples.
fn batches(job: &Job<'_>, done: u64, capacity: usize) -> Vec<Batch> {
    let step = job.batching.step(done);
    let mine = step.clone().filter(|i| (i - step.start) % job.group.size() as u64 == job.group.rank() as u64);
    let picked: Vec<_> = mine
        .map(|position| {
            let example = job.batching.example(position);
            (example, job.examples.get(example as usize))
        })
        .collect();
    pack(&picked, capacity)
}

fn record(step: u64, values: &[(&str, f64)]) -> Map<String, Value> {
    let mut line = Map::from_iter([("step".to_string(), step.into())]);
    line.extend(values.iter().map(|(k, v)| (k.to_string(), json!(v))));
    line
}

fn validation(
    trainer: &Trainer<'_>,
    job: &Job<'_>,
    dir: &mut RunDir,
    events: &mut EventWriter,
    step: u64,
) -> Result<f64> {
    let value = validate(trainer, job.validation)?;
    dir.metrics(record(step, &[("validation_loss", value)]))?;
    events.scalars(step, &[("validation/loss", value as f32)])?;
    Ok(value)
}

/// The validation loss before the first step: computed, or for a resumed run read back.
fn first_validation(
    trainer: &Trainer<'_>,
    job: &Job<'_>,
    dir: &mut RunDir,
    events: &mut EventWriter,
    step: u64,
) -> Result<Option<f64>> {
    if job.validation.is_empty() {
        return Ok(None);
    }
    let known = dir.get("first_validation_loss").and_then(Value::as_f64);
    if known.is_none() && step == 0 {
        let value = validation(trainer, job, dir, events, 0)?;
        dir.set("first_validation_loss", json!(value))?;
        return Ok(Some(value));
    }
    Ok(known)
}

/// Saves a checkpoint, unless the step has one.
fn save(trainer: &Trainer<'_>, job: &Job<'_>, dir: &mut RunDir, state: &mut State) -> Result<()> {
    if dir.checkpoints()?.last().is_some_and(|(step, _)| *step == state.step) {
        return Ok(());
    }
    state.scaling = trainer.scaling;
    dir.save_checkpoint(state.step, job.keep, |dir| checkpoint::save(trainer, state, dir))?;
    Ok(())
}

/// Time left until `deadline` from a duration like `90s`, `15m`, `2h` or `3h30m`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (mut seconds, mut digits) = (0u64, String::new());
    for c in text.chars() {
        if c.is_ascii_digit() {
            digits.push(c);
            continue;
        }
        let factor = match c {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            _ => return None,
        };
        seconds = seconds.checked_add(digits.parse::<u64>().ok()?.checked_mul(factor)?)?;
        digits.clear();
    }
    (digits.is_empty() && seconds > 0).then(|| Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let seconds = |s| parse_duration(s).map(|d| d.as_secs());
        assert_eq!((seconds("90s"), seconds("3h30m"), seconds("1d")), (Some(90), Some(12_600), Some(86_400)));
        assert!(["", "5", "m", "1x", "0s", "99999999999999999999h"].iter().all(|s| seconds(s).is_none()));
    }
}
