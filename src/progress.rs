//! Progress on stderr: a bar with the time left on a terminal, plain `key=value` lines everywhere else.
//!
//! Used by everything that takes long. What a command prints as its result is not here, and nothing goes to stdout.

use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::cell::Cell;
use std::io::Write;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

/// How progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// A bar if stderr is a terminal, else lines.
    #[default]
    Auto,
    /// A bar; lines if stderr is no terminal.
    Bar,
    /// Lines.
    Lines,
    /// Nothing.
    None,
}

/// Whether stderr is coloured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set to something or the terminal is a dumb one.
    #[default]
    Auto,
    /// Yes.
    Always,
    /// No.
    Never,
}

/// Settles the colours of this process's stderr.
pub fn set_color(color: Color) {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    console::set_colors_enabled_stderr(match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => !no_color && Term::stderr().features().colors_supported(),
    });
}

/// A bar appears only for work that takes longer than this.
const PATIENCE: Duration = Duration::from_secs(2);
/// At least this lies between two lines.
const INTERVAL: Duration = Duration::from_secs(5);

thread_local! {
    static HUSHED: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, [`tell`] says nothing on the thread that made it: for runs inside a larger one, which tells of them in its own words.
pub struct Hush(PhantomData<*const ()>);

/// Silences [`tell`] until the value is dropped.
pub fn hush() -> Hush {
    HUSHED.set(true);
    Hush(PhantomData)
}

impl Drop for Hush {
    fn drop(&mut self) {
        HUSHED.set(false);
    }
}

/// Writes a line to stderr. A reader that went away, or a full disk behind it, must not end the work.
pub fn tell(line: &str) {
    if !HUSHED.get() {
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}

/// The progress of one piece of work.
pub struct Progress {
    mode: Mode,
    what: String,
    total: u64,
    unit: &'static str,
    begin: Instant,
    first: Option<u64>,
    done: u64,
    pairs: String,
    printed: Option<(Duration, u64)>,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Starts on `total` pieces of `unit` ("step", "request"), of work called `what` ("train", "score").
    pub fn new(mode: Mode, what: &str, total: u64, unit: &'static str) -> Self {
        let terminal = Term::stderr().is_term();
        let mode = match mode {
            Mode::Auto | Mode::Bar if terminal => Mode::Bar,
            Mode::Auto | Mode::Bar => Mode::Lines,
            other => other,
        };
        Self {
            mode,
            what: what.to_owned(),
            total,
            unit,
            begin: Instant::now(),
            first: None,
            done: 0,
            pairs: String::new(),
            printed: None,
            bar: None,
        }
    }

    /// Says that `done` pieces are done, with what else there is to tell: `[("loss", "1.21".into())]`.
    ///
    /// The first call only sets where the count begins (0, or further on in a resumed run) for the time left.
    pub fn set(&mut self, done: u64, pairs: &[(&str, String)]) {
        let now = self.begin.elapsed();
        if let Some(line) = self.advance(now, done, pairs) {
            tell(&line);
        }
        if self.mode != Mode::Bar || now < PATIENCE {
            return;
        }
        let message = format!(
            "{}{}",
            self.pairs,
            self.left(now).map_or(String::new(), |s| format!(" eta {}", clock(s)))
        );
        let bar = self.bar.get_or_insert_with(|| bar(&self.what, self.total));
        bar.set_position(done);
        bar.set_message(message);
    }

    /// Prints a message without tearing the bar.
    pub fn note(&self, message: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| tell(message)),
            None => tell(message),
        }
    }

    /// Ends: the bar goes; the last line is printed if it was not yet.
    pub fn finish(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let new = self.printed.is_none_or(|(_, done)| done != self.done);
        if self.mode == Mode::Lines && new {
            tell(&self.line(self.begin.elapsed()));
        }
    }

    /// Takes in a new state at time `now`; the line to print, if one is due.
    fn advance(&mut self, now: Duration, done: u64, pairs: &[(&str, String)]) -> Option<String> {
        self.first.get_or_insert(done);
        self.done = done;
        self.pairs = pairs.iter().map(|(key, value)| format!(" {key}={value}")).collect();
        let since = self.printed.map_or(now, |(at, _)| now.saturating_sub(at));
        if self.mode != Mode::Lines || since < INTERVAL {
            return None;
        }
        self.printed = Some((now, done));
        Some(self.line(now))
    }

    fn line(&self, now: Duration) -> String {
        let Self { what, unit, done, total, pairs, .. } = self;
        let left = self.left(now).map_or(String::new(), |seconds| format!(" eta_s={seconds}"));
        format!("phase={what} {unit}={done}/{total}{pairs} elapsed_s={}{left}", now.as_secs())
    }

    /// Seconds left at the speed so far.
    fn left(&self, now: Duration) -> Option<u64> {
        let here = self.done.checked_sub(self.first?).filter(|n| *n > 0)?;
        let rest = self.total.saturating_sub(self.done);
        Some((now.as_secs_f64() * rest as f64 / here as f64).round() as u64)
    }
}

fn bar(what: &str, total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:.bold} {pos}/{len} [{bar:24.cyan}]{wide_msg}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("#>.");
    ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr())
        .with_style(style)
        .with_prefix(what.to_owned())
}

/// Seconds as `17s`, `3m05s`, `2h03m`.
fn clock(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_at_intervals_with_the_time_left() {
        let mut progress = Progress::new(Mode::Lines, "train", 150, "step");
        let mut at = |second, done, loss: &str| {
            progress.advance(Duration::from_secs(second), done, &[("loss", loss.to_owned())])
        };
        assert_eq!(at(0, 50, "9"), None); // resumed at step 50
        assert_eq!(at(4, 60, "8"), None);
        assert_eq!(at(10, 75, "1.5").unwrap(), "phase=train step=75/150 loss=1.5 elapsed_s=10 eta_s=30");
        assert_eq!(at(14, 90, "1.4"), None);
        assert_eq!(at(15, 100, "1.3").unwrap(), "phase=train step=100/150 loss=1.3 elapsed_s=15 eta_s=15");
        assert_eq!(at(3600, 150, "1.2").unwrap(), "phase=train step=150/150 loss=1.2 elapsed_s=3600 eta_s=0");
    }

    #[test]
    fn other_modes_print_no_lines() {
        for mode in [Mode::None, Mode::Bar] {
            let mut progress = Progress::new(Mode::None, "score", 2, "request");
            progress.mode = mode;
            assert_eq!(progress.advance(Duration::from_secs(60), 1, &[]), None);
        }
    }

    #[test]
    fn times_left_are_short() {
        assert_eq!([59, 185, 7380].map(clock), ["59s", "3m05s", "2h03m"]);
    }
}
