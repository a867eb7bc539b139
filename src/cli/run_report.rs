//! The report of a training run: `report/index.html` and `.png` in its directory.

use super::findings::save;
use super::prepare::{Data, Prepared, count, millions};
use crate::disk::human_bytes;
use crate::error::Result;
use crate::report::{
    Axis, Cell, Details, Figure, Level, Lines, Point, Report, Scale, Section, Series, Table, Unit, sparkline,
};
use crate::train::rundir::RunDir;
use serde_json::Value;

/// What a run came to.
pub(super) struct Outcome<'a> {
    pub(super) device: String,
    pub(super) hash: &'a str,
    pub(super) steps: u64,
    pub(super) speed: f64,
    /// Bytes planned and used.
    pub(super) memory: (u64, Option<u64>),
    /// First and last validation loss.
    pub(super) validation: Option<(f64, f64)>,
    /// What was measured before and after, where anything was: the verdict, and its section.
    pub(super) measured: Option<(String, Section)>,
}

/// Values of `key` in the run's metrics, by step.
fn curve(dir: &RunDir, key: &str) -> Vec<Point> {
    let text = std::fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap_or_default();
    let rows = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    rows.filter_map(|row| Some((row["step"].as_f64()?, row[key].as_f64()?).into())).collect()
}

/// The training loss as a line of characters.
pub(super) fn loss_line(dir: &RunDir) -> String {
    let all: Vec<f64> = curve(dir, "loss").into_iter().map(|p| p.y).collect();
    let width = all.len().min(40);
    let at: Vec<f64> = (0..width).map(|i| all[i * all.len() / width.max(1)]).collect();
    match (all.first(), all.last()) {
        (Some(first), Some(last)) if width > 2 => format!("{first:.3} {} {last:.3}", sparkline(&at)),
        _ => String::new(),
    }
}

fn lines(
    title: &str,
    text: &str,
    y: &str,
    unit: Unit,
    curves: Vec<(&str, Vec<Point>)>,
    levels: Vec<Level>,
) -> Figure {
    let axis = |title: &str, unit| Axis { title: title.into(), unit, scale: Scale::Linear, range: None };
    let series = curves.into_iter().filter(|(_, points)| !points.is_empty());
    Figure::Lines(Lines {
        title: title.into(),
        text: text.into(),
        x: axis("step", Unit::Count),
        y: axis(y, unit),
        series: series
            .map(|(name, points)| Series { name: name.into(), points, reference: false, band: false })
            .collect(),
        levels,
    })
}

/// A word of a command line, quoted for a shell where it must be.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// The command line of this process.
pub(super) fn command() -> String {
    let mut words = std::env::args_os().map(|a| quoted(&a.to_string_lossy()));
    let program =
        words.next().map_or_else(String::new, |p| p.rsplit('/').next().unwrap_or_default().to_owned());
    std::iter::once(program).chain(words).collect::<Vec<_>>().join(" ")
}

/// Writes the report of the run in `dir`; the paths of page and picture.
pub(super) fn write(p: &Prepared, data: &Data, dir: &RunDir, o: Outcome<'_>) -> Result<Vec<String>> {
    let s = p.settings();
    let fact = |name: &str, value: String| (name.to_owned(), value);
    let mut facts = vec![
        fact(
            "Model",
            format!("{}, {}, {} parameters", p.name, p.config.architecture, millions(count(&p.config))),
        ),
        fact("Steps", format!("{} of {}", o.steps, s.train.step_size())),
        fact("Seed", s.train.seed.to_string()),
        fact("Speed", format!("{:.0} tokens/s", o.speed)),
        fact(
            "Memory",
            format!(
                "{} planned, {} used",
                human_bytes(o.memory.0),
                o.memory.1.map_or("?".into(), human_bytes)
            ),
        ),
        fact("Weights", o.hash.to_owned()),
        fact("Machine", o.device),
        fact("Version", format!("flanrt {}", env!("CARGO_PKG_VERSION"))),
    ];
    let mut lead = Vec::new();
    let mut sections = Vec::new();
    if let Some((verdict, section)) = o.measured {
        lead.push(verdict);
        sections.push(section);
    }
    if let Some((first, last)) = o.validation {
        facts.push(fact("Validation loss", format!("{first:.4} before, {last:.4} after")));
    }
    let clip = (s.train.clip > 0.0).then(|| Level { name: "clipped above".into(), value: s.train.clip });
    sections.push(Section {
        title: "Training".into(),
        figures: vec![
            lines(
                "Loss",
                "Mean over the target tokens since the last point.",
                "nats a token",
                Unit::Fixed(2),
                vec![("training", curve(dir, "loss")), ("validation", curve(dir, "validation_loss"))],
                vec![],
            ),
            lines(
                "Gradient norm",
                "Before clipping.",
                "norm",
                Unit::Fixed(2),
                vec![("gradient norm", curve(dir, "grad_norm"))],
                clip.into_iter().collect(),
            ),
            lines(
                "Learning rate",
                "",
                "rate",
                Unit::Plain,
                vec![("learning rate", curve(dir, "lr"))],
                vec![],
            ),
            lines(
                "Speed",
                "",
                "tokens a second",
                Unit::Count,
                vec![("tokens/s", curve(dir, "tokens_per_second"))],
                vec![],
            ),
        ],
        ..Default::default()
    });
    sections.push(rows(p, data)?);
    sections.push(Section {
        title: "Settings".into(),
        details: Some(Details {
            summary: "All settings, and where each came from".into(),
            text: p.resolved.to_toml(),
        }),
        ..Default::default()
    });
    let title = match &data.mixture {
        Some(m) if !s.mixture.hold_out.is_empty() => {
            let _ = m;
            format!("{} tuned on everything but {}", p.name, s.mixture.hold_out.join(", "))
        }
        Some(_) => format!("{} tuned on a mixture", p.name),
        None => format!("Training {}", p.name),
    };
    let again = format!(
        "flanrt finetune -c {} --out AGAIN",
        quoted(&dir.path().join("config.toml").display().to_string())
    );
    let report = Report { title, lead, facts, sections, replay: vec![command(), again] };
    save(&report, &dir.path().join("report"), "index")
}

/// What was trained on.
fn rows(p: &Prepared, data: &Data) -> Result<Section> {
    let report = data.train.report();
    let number = |n: u64| Cell { text: n.to_string(), number: true, ..Default::default() };
    let mut tables = Vec::new();
    match &data.mixture {
        Some(mixture) => {
            let share = |v: &Value| Cell::number(v.as_f64().unwrap_or(f64::NAN), Unit::Percent);
            let row = |t: &Value| {
                vec![
                    Cell::from(t["task"].as_str().unwrap_or_default()),
                    Cell::from(t["cluster"].as_str().unwrap_or_default()),
                    number(t["rows"].as_u64().unwrap_or(0)),
                    number(t["examples"].as_u64().unwrap_or(0)),
                    share(&t["requested"]),
                    share(&t["realised"]),
                ]
            };
            tables.push(Table {
                caption: "The mixture: shares asked for and drawn".into(),
                head: ["task", "cluster", "rows", "drawn", "asked for", "came"].map(String::from).into(),
                rows: mixture["tasks"].as_array().into_iter().flatten().map(row).collect(),
                note: None,
            });
        }
        None => tables.push(Table {
            caption: "Sources".into(),
            head: ["source", "rows read", "used"].map(String::from).into(),
            rows: report
                .sources
                .iter()
                .map(|s| vec![Cell::from(s.name.as_str()), number(s.read), number(s.used)])
                .collect(),
            note: None,
        }),
    }
    Ok(Section {
        title: "Rows".into(),
        text: vec![format!(
            "{} examples of {} tokens together, {:.1} % of which are trained; {} rows were dropped.",
            data.train.len(),
            data.train.tokens(),
            100.0 * data.train.target_tokens() as f64 / data.train.tokens().max(1) as f64,
            report.dropped_rows.len()
        )],
        tables,
        details: Some(Details {
            summary: "The first examples, trained parts in double brackets".into(),
            text: data.preview(&p.tokenizer, 5, |text| format!("[[{text}]]"))?,
        }),
        ..Default::default()
    })
}
