//! Results to look at: one model of a report, shown as a page, as a picture and in a terminal.
//!
//! Everything here is a function from the model alone: no clock, no system font, no terminal is asked, so the same report is the same
//! bytes everywhere. What is not finite was not measured: it leaves a gap and is never an error.

mod bars;
mod draw;
mod html;
mod lines;
mod number;
mod numbers;
mod palette;
mod png;
mod scale;
mod terminal;

pub use terminal::{Screen, sparkline};

use serde::{Deserialize, Deserializer, Serialize};

/// What was found, with all that it rests on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// What was asked.
    pub title: String,
    /// The verdict, said plainly; the first paragraph is the answer. In all paragraphs `code` stands between backticks.
    pub lead: Vec<String>,
    /// Model, parameters, seeds, time, hash, machine, version.
    pub facts: Vec<(String, String)>,
    /// The evidence.
    pub sections: Vec<Section>,
    /// Commands that do it again, one a line.
    pub replay: Vec<String>,
}

/// A part of the evidence.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Section {
    /// Its heading.
    pub title: String,
    /// Paragraphs.
    pub text: Vec<String>,
    /// Shown behind the text.
    pub figures: Vec<Figure>,
    /// Shown behind the figures.
    pub tables: Vec<Table>,
    /// Folded at the end.
    pub details: Option<Details>,
}

/// What only some readers want: a configuration, rows of data. As it is, in a fixed pitch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Details {
    /// What is inside.
    pub summary: String,
    /// The inside.
    pub text: String,
}

/// A chart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Values of things that have names.
    Bars(Bars),
    /// Values along an axis.
    Lines(Lines),
}

/// Groups with a bar per series, from top to bottom: names of any length have room there, on a phone too.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bars {
    /// What is to be seen.
    pub title: String,
    /// How to read it: what an error bar is, how many rows.
    pub text: String,
    /// What is measured.
    pub axis: String,
    /// In what.
    pub unit: Unit,
    /// From where to where; None: from zero to the largest.
    pub range: Option<(f64, f64)>,
    /// Names of the series, up to four.
    pub series: Vec<String>,
    /// Names of what a group is compared with (chance, majority), up to three.
    pub marks: Vec<String>,
    /// From top to bottom.
    pub groups: Vec<Group>,
}

/// A group of bars.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Group {
    /// Its name.
    pub label: String,
    /// A word about it, such as "held out".
    pub note: Option<String>,
    /// By series.
    pub values: Vec<Option<Value>>,
    /// By mark.
    pub marks: Vec<Option<f64>>,
}

/// A measured value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Value {
    /// The value.
    #[serde(deserialize_with = "number_or_gap")]
    pub value: f64,
    /// Half the length of its error bar.
    #[serde(default)]
    pub error: Option<f64>,
}

/// Series along an axis.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lines {
    /// What is to be seen.
    pub title: String,
    /// How to read it.
    pub text: String,
    /// Along.
    pub x: Axis,
    /// Upwards. What lies outside of a range is cut off.
    pub y: Axis,
    /// The curves; more than four repeat colours.
    pub series: Vec<Series>,
    /// Horizontal lines to compare with.
    pub levels: Vec<Level>,
}

/// A curve.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Series {
    /// Its name.
    pub name: String,
    /// By rising `x`. Any number of them: thousands are thinned to what can be seen.
    pub points: Vec<Point>,
    /// Someone else's result: dashed and grey.
    pub reference: bool,
    /// Errors as a band along the curve, not as bars.
    pub band: bool,
}

/// A point of a curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Where; the index of the name on an axis of names.
    #[serde(deserialize_with = "number_or_gap")]
    pub x: f64,
    /// How much.
    #[serde(deserialize_with = "number_or_gap")]
    pub y: f64,
    /// Half the length of its error bar.
    #[serde(default)]
    pub error: Option<f64>,
}

/// A horizontal line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Level {
    /// What it is.
    pub name: String,
    /// Where.
    #[serde(deserialize_with = "number_or_gap")]
    pub value: f64,
}

/// One side of a chart.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Axis {
    /// What is measured.
    pub title: String,
    /// In what.
    pub unit: Unit,
    /// How it is laid out.
    pub scale: Scale,
    /// From where to where; None: all points.
    pub range: Option<(f64, f64)>,
}

/// How an axis is laid out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// Equal steps are equally far.
    #[default]
    Linear,
    /// Equal ratios are equally far; what is not positive is left out.
    Log,
    /// A place for each name; for `x` alone.
    Names(Vec<String>),
}

/// What a number counts, and so how it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A share from 0 to 1, written as 12.3%.
    Percent,
    /// Some three or four figures.
    #[default]
    Plain,
    /// So many decimals, such as one for points.
    Fixed(u8),
    /// Whole things: 320, 3000, 12.5k, 8M.
    Count,
}

/// A table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Table {
    /// What it shows.
    pub caption: String,
    /// Names of the columns.
    pub head: Vec<String>,
    /// Rows; short ones are filled up.
    pub rows: Vec<Vec<Cell>>,
    /// How to read it.
    pub note: Option<String>,
}

/// A cell of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cell {
    /// What is in it.
    pub text: String,
    /// A number: it stands to the right.
    pub number: bool,
    /// How it is said.
    pub tone: Tone,
}

/// How a cell is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tone {
    /// As any other.
    #[default]
    Plain,
    /// What to look at.
    Strong,
    /// As hoped.
    Good,
    /// Not as hoped.
    Bad,
    /// There for completeness.
    Muted,
}

impl Value {
    /// A value with half the length of its error bar.
    pub fn with_error(value: f64, error: f64) -> Self {
        Self { value, error: Some(error) }
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self { value, error: None }
    }
}

impl From<(f64, f64)> for Point {
    fn from((x, y): (f64, f64)) -> Self {
        Self { x, y, error: None }
    }
}

impl Cell {
    /// A number as its unit writes it.
    pub fn number(value: f64, unit: Unit) -> Self {
        Self { text: unit.show(value), number: true, tone: Tone::Plain }
    }
    /// The same cell in another tone.
    pub fn tone(self, tone: Tone) -> Self {
        Self { tone, ..self }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.into(), ..Self::default() }
    }
}

impl Report {
    /// All charts, in order.
    pub fn figures(&self) -> impl Iterator<Item = &Figure> {
        self.sections.iter().flat_map(|s| &s.figures)
    }
}

impl Figure {
    fn title(&self) -> &str {
        match self {
            Self::Bars(b) => &b.title,
            Self::Lines(l) => &l.title,
        }
    }
    fn caption(&self) -> &str {
        match self {
            Self::Bars(b) => &b.text,
            Self::Lines(l) => &l.text,
        }
    }
    /// `id` is before the names of all that the drawing defines: they are shared by a page.
    fn draw(&self, id: &str) -> draw::Drawing {
        match self {
            Self::Bars(b) => bars::draw(b, id),
            Self::Lines(l) => lines::draw(l, id),
        }
    }
}

/// JSON has no NaN: what was not measured is written as null.
fn number_or_gap<'de, D: Deserializer<'de>>(d: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or(f64::NAN))
}

#[cfg(test)]
mod sample;
#[cfg(test)]
mod tests;
