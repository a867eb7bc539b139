//! Dataset specs: the TOML files below `tasks/`, read, compiled and checked. `docs/tasks.md` says what is in them.
//!
//! Every error points at file, line and column. Nothing here reads data.

use super::filters::{Expr, Text, expression, template};
use super::metric::Metric;
use crate::error::{Error, Result};
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use toml::Spanned;

/// Templates that every dataset of ours has; files of a user may have any number from one.
pub const TEMPLATES: usize = 10;

/// A table whose order counts.
struct Ordered<V>(Vec<(String, V)>);

impl<V> Default for Ordered<V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Ordered<V> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Entries<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Entries<V> {
            type Value = Ordered<V>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ordered<V>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Ordered(entries))
            }
        }
        from.deserialize_map(Entries(PhantomData))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    title: String,
    about: String,
    paper: String,
    licence: String,
    metrics: Vec<Spanned<String>>,
    inputs: Vec<Spanned<String>>,
    #[serde(default)]
    shorten: Vec<Spanned<String>>,
    keep: Option<Spanned<String>>,
    part_of: Option<String>,
    group: Option<String>,
    family: Option<String>,
    task: Vec<RawTask>,
    form: Vec<RawForm>,
    #[serde(default)]
    fields: Ordered<Spanned<String>>,
    answer: Spanned<RawAnswer>,
    #[serde(default)]
    continuation: OneOrMany<RawContinuation>,
    template: Vec<Spanned<RawTemplate>>,
    #[serde(default)]
    example: Vec<Map<String, Value>>,
}

/// `[x]` or `[[x]]`.
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

// By hand: serde's untagged enums lose the places of what is inside.
impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = OneOrMany<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table or a list of tables")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<OneOrMany<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(OneOrMany::One)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<OneOrMany<T>, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(OneOrMany::Many)
            }
        }
        from.deserialize_any(Either(PhantomData))
    }
}

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl<T> OneOrMany<T> {
    fn list(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTask {
    name: Spanned<String>,
    #[serde(default)]
    folders: Vec<String>,
    hub: Option<Hub>,
    train: Option<Spanned<String>>,
    dev: Option<Spanned<String>>,
    test: Option<Spanned<String>>,
    #[serde(default)]
    shuffle: bool,
    rows: Rows,
}

/// Where a dataset is on the Hugging Face hub.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hub {
    /// Repository.
    pub id: String,
    /// Configuration; `default` where there is none.
    #[serde(default = "default_config")]
    pub config: String,
    /// The hub's names of our splits, where they differ.
    #[serde(default)]
    pub splits: BTreeMap<String, String>,
}

fn default_config() -> String {
    "default".into()
}

/// Published row counts of a task's slices; that of train before the cap.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rows {
    /// Training rows.
    #[serde(default)]
    pub train: usize,
    /// Rows that choose a template.
    #[serde(default)]
    pub dev: usize,
    /// Rows that are reported.
    #[serde(default)]
    pub test: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawForm {
    columns: Ordered<Spanned<String>>,
    #[serde(default)]
    labels: Vec<String>,
    #[serde(default)]
    tasks: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAnswer {
    options: Option<Spanned<RawOptions>>,
    gold: Option<Spanned<String>>,
    value: Option<Spanned<String>>,
    group: Option<Spanned<String>>,
    positive: Option<Spanned<String>>,
    text: Option<Spanned<String>>,
    golds: Option<Spanned<String>>,
}

enum RawOptions {
    Expression(String),
    List(Vec<String>),
    Named(Ordered<String>),
}

impl<'de> Deserialize<'de> for RawOptions {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = RawOptions;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table from labels to texts, a list of texts, or an expression")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<RawOptions, E> {
                Ok(RawOptions::Expression(text.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawOptions, A::Error> {
                Ordered::deserialize(MapAccessDeserializer::new(map)).map(RawOptions::Named)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<RawOptions, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(RawOptions::List)
            }
        }
        from.deserialize_any(Either)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawContinuation {
    prompt: Spanned<String>,
    options: Option<Spanned<RawOptions>>,
    direction: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTemplate {
    prompt: Spanned<String>,
    options: Option<Ordered<String>>,
    target: Option<Spanned<String>>,
    #[serde(default)]
    inverse: bool,
    #[serde(default)]
    omits: Vec<Spanned<String>>,
    direction: Option<String>,
}

/// Which rows of a file: `NAME[from..to]`, counts below zero from the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// `train`, `validation` or `test`.
    pub split: String,
    /// First row.
    pub from: i64,
    /// Row after the last; none: the end.
    pub to: Option<i64>,
}

impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.from, self.to) {
            (0, None) => f.write_str(&self.split),
            (0, Some(to)) => write!(f, "{}[:{to}]", self.split),
            (from, None) => write!(f, "{}[{from}:]", self.split),
            (from, Some(to)) => write!(f, "{}[{from}:{to}]", self.split),
        }
    }
}

impl Slice {
    fn parse(text: &str) -> Option<Self> {
        let (split, range) = match text.split_once('[') {
            None => (text, ":"),
            Some((split, rest)) => (split, rest.strip_suffix(']')?),
        };
        let (from, to) = range.split_once(':')?;
        let number = |s: &str| s.trim().parse::<i64>().ok();
        let from = if from.trim().is_empty() { 0 } else { number(from)? };
        let to = if to.trim().is_empty() { None } else { Some(number(to)?) };
        let known = ["train", "validation", "test"].contains(&split);
        known.then(|| Self { split: split.into(), from, to })
    }

    /// The largest numbers from the front and from the end.
    fn reach(&self) -> (i64, i64) {
        let numbers = [Some(self.from), self.to].into_iter().flatten();
        numbers.fold((0, 0), |(front, back), x| (front.max(x), back.max(-x)))
    }

    fn range(&self, n: usize, (front, back): (i64, i64)) -> Range<usize> {
        let n = n as i64;
        // What counts from the end leaves at least as much in front of it.
        let need = front + 2 * back;
        let at = |x: i64| {
            let x = if need > n { x * n / need } else { x };
            if x < 0 { n + x } else { x }.clamp(0, n)
        };
        let (from, to) = (at(self.from), self.to.map_or(n, at));
        from as usize..to.max(from) as usize
    }
}

/// One task of a dataset: what is trained and scored by itself.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its name, unique among all tasks.
    pub name: String,
    /// Names of its folder in a data directory, the first one its own name.
    pub folders: Vec<String>,
    /// Where it can be downloaded.
    pub hub: Option<Hub>,
    /// Training rows; none: for scoring alone.
    pub train: Option<Slice>,
    /// Rows that choose the best template.
    pub dev: Option<Slice>,
    /// Rows that are reported.
    pub test: Option<Slice>,
    /// The training file is sorted by label: its rows are taken in a fixed random order.
    pub shuffle: bool,
    /// Published counts.
    pub rows: Rows,
}

impl Task {
    /// The rows of `slice`, of `n`. Where a file is too short for the slices that the task takes of it, all their numbers are
    /// scaled down alike, so that they stay apart.
    pub fn range(&self, slice: &Slice, n: usize) -> Range<usize> {
        let slices = [&self.train, &self.dev, &self.test].into_iter().flatten();
        let reach = slices.filter(|s| s.split == slice.split).map(Slice::reach);
        slice.range(n, reach.fold(slice.reach(), |a, b| (a.0.max(b.0), a.1.max(b.1))))
    }
}

/// A column of a file, by the name that templates use.
pub(super) struct Column {
    pub(super) name: String,
    pub(super) path: Vec<String>,
    pub(super) optional: bool,
}

/// Names of columns, and of the ids in the label column.
pub(super) struct Form {
    pub(super) columns: Vec<Column>,
    pub(super) labels: Vec<String>,
    pub(super) tasks: Vec<String>,
}

/// The options of a choice.
pub(super) enum Options {
    /// A text for every label name, in the order of the block.
    Named(Vec<(String, String)>),
    /// The same for every row.
    Fixed(Vec<String>),
    /// From the row.
    Row(Expr),
}

/// What is asked for.
pub(super) enum Answer {
    /// One of several options.
    Choice {
        /// The options.
        options: Options,
        /// Which are right, where label names do not say it.
        gold: Option<Expr>,
    },
    /// A text.
    Text {
        /// The target.
        text: Expr,
        /// All accepted texts.
        golds: Option<Expr>,
    },
}

/// How an untuned model is asked.
pub(super) struct Continuation {
    pub(super) prompt: Text,
    pub(super) options: Option<Options>,
    pub(super) direction: Option<String>,
}

/// A way to put a row into words.
pub struct Template {
    /// The source, as written.
    pub source: String,
    /// Whether anything but the answer is asked for.
    pub inverse: bool,
    /// For translation: from which language into which.
    pub direction: Option<String>,
    pub(super) prompt: Text,
    pub(super) target: Option<Text>,
    pub(super) omits: Vec<String>,
    /// The options in this wording: their texts, and for each the number of the answer's option that it stands for.
    pub(super) options: Option<(Vec<String>, Vec<usize>)>,
}

/// A dataset: tasks that share columns, answers and templates.
pub struct Dataset {
    /// The file's name.
    pub name: String,
    /// The folder's name.
    pub cluster: String,
    /// As people write it.
    pub title: String,
    /// What is asked, in a line.
    pub about: String,
    /// Who made it.
    pub paper: String,
    /// What may be done with it.
    pub licence: String,
    /// How answers are measured, the headline first.
    pub metrics: Vec<Metric>,
    /// Fields that a row gives, in order.
    pub inputs: Vec<String>,
    /// Fields that may be cut, in order.
    pub shorten: Vec<String>,
    /// The dataset that this is a further form of.
    pub part_of: Option<String>,
    /// A smaller cluster inside the cluster.
    pub group: Option<String>,
    /// Datasets that stand on the same side of a split inside a cluster.
    pub family: Option<String>,
    /// Its tasks.
    pub tasks: Vec<Task>,
    /// Its templates.
    pub templates: Vec<Template>,
    /// Rows made up for tests and for reading, in the file's columns.
    pub examples: Vec<Map<String, Value>>,
    pub(super) keep: Option<Expr>,
    pub(super) forms: Vec<Form>,
    pub(super) fields: Vec<(String, Expr)>,
    pub(super) answer: Answer,
    pub(super) value: Option<Expr>,
    pub(super) row_group: Option<Expr>,
    /// The option that F1 counts.
    pub positive: Option<String>,
    pub(super) continuations: Vec<Continuation>,
    /// blake3 of the file.
    pub hash: String,
}

/// The place of an error: a file's path and text.
struct Place<'a> {
    path: &'a str,
    text: &'a str,
}

impl Place<'_> {
    fn at(&self, offset: usize, message: impl fmt::Display) -> Error {
        let before = self.text.get(..offset).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Error::data(format!("{}:{line}:{column}: {message}", self.path))
            .fix("see docs/tasks.md for what a dataset file holds")
    }

    fn of<T>(&self, spanned: &Spanned<T>, message: impl fmt::Display) -> Error {
        self.at(spanned.span().start, message)
    }

    fn expression(&self, source: &Spanned<String>) -> Result<Expr> {
        expression(source.get_ref()).map_err(|e| self.of(source, e))
    }

    fn template(&self, source: &Spanned<String>) -> Result<Text> {
        template(source.get_ref().trim_end_matches('\n')).map_err(|e| self.of(source, e))
    }

    fn options(&self, raw: Spanned<RawOptions>) -> Result<Options> {
        let start = raw.span().start;
        Ok(match raw.into_inner() {
            RawOptions::Expression(source) => {
                Options::Row(expression(&source).map_err(|e| self.at(start, e))?)
            }
            RawOptions::List(list) => Options::Fixed(list),
            RawOptions::Named(named) => Options::Named(named.0),
        })
    }

    fn slice(&self, raw: &Option<Spanned<String>>) -> Result<Option<Slice>> {
        let Some(text) = raw else { return Ok(None) };
        let slice = Slice::parse(text.get_ref());
        slice.map(Some).ok_or_else(|| {
            self.of(
                text,
                format!(
                    "{:?} is no slice: expected train, validation or test, with [a:b] behind",
                    text.get_ref()
                ),
            )
        })
    }
}

impl Dataset {
    /// Reads the text of the file at `path` (for messages), `<cluster>/<name>.toml`.
    ///
    /// # Errors
    /// `Kind::Data`, naming path, line and column.
    pub fn parse(path: &str, cluster: &str, name: &str, text: &str) -> Result<Self> {
        let place = Place { path, text };
        let file: File = toml::from_str(text).map_err(|e| {
            let offset = e.span().map_or(0, |s| s.start);
            place.at(offset, e.message())
        })?;
        let names: Vec<String> = file.task.iter().map(|t| t.name.get_ref().clone()).collect();
        let restricted = |list: Vec<Spanned<String>>| -> Result<Vec<String>> {
            for name in &list {
                if !names.contains(name.get_ref()) {
                    return Err(place.of(name, format!("there is no task {:?} in this file", name.get_ref())));
                }
            }
            Ok(list.into_iter().map(Spanned::into_inner).collect())
        };
        let mut metrics = Vec::new();
        for m in &file.metrics {
            metrics.push(Metric::named(m.get_ref()).ok_or_else(|| {
                place.of(m, format!("unknown metric {:?}; there are {}", m.get_ref(), Metric::names()))
            })?);
        }
        if metrics.is_empty() {
            return Err(place.at(0, "`metrics` is empty"));
        }
        let mut tasks = Vec::new();
        for t in file.task {
            let mut folders = vec![t.name.get_ref().clone()];
            folders.extend(t.folders);
            tasks.push(Task {
                train: place.slice(&t.train)?,
                dev: place.slice(&t.dev)?,
                test: place.slice(&t.test)?,
                name: t.name.into_inner(),
                folders,
                hub: t.hub,
                shuffle: t.shuffle,
                rows: t.rows,
            });
        }
        let mut forms = Vec::new();
        for form in file.form {
            let mut columns = Vec::new();
            for (name, path) in form.columns.0 {
                let (text, optional) = match path.get_ref().strip_suffix('?') {
                    Some(text) => (text, true),
                    None => (path.get_ref().as_str(), false),
                };
                let path: Vec<String> = text.split('.').map(str::to_owned).collect();
                columns.push(Column { name, path, optional });
            }
            forms.push(Form { columns, labels: form.labels, tasks: restricted(form.tasks)? });
        }
        let mut fields = Vec::new();
        for (name, source) in file.fields.0 {
            fields.push((name, place.expression(&source)?));
        }
        // What every form gives, and what is made of it.
        let given = |name: &str| {
            fields.iter().any(|(f, _)| f == name)
                || forms.iter().all(|form: &Form| form.columns.iter().any(|c| c.name == name))
        };
        for name in file.inputs.iter().chain(&file.shorten) {
            if !given(name.get_ref()) {
                return Err(place
                    .of(name, format!("no field or column of every form is called {:?}", name.get_ref())));
            }
        }
        let inputs: Vec<String> = file.inputs.into_iter().map(Spanned::into_inner).collect();
        let at = file.answer.span().start;
        let a = file.answer.into_inner();
        let optional = |e: &Option<Spanned<String>>| e.as_ref().map(|e| place.expression(e)).transpose();
        let (value, row_group) = (optional(&a.value)?, optional(&a.group)?);
        let answer = match (a.options, &a.text) {
            (Some(options), None) => {
                let options = place.options(options)?;
                let named = matches!(&options, Options::Named(_));
                if let Options::Named(list) = &options {
                    for form in &forms {
                        if let Some(label) =
                            form.labels.iter().find(|l| !list.iter().any(|(name, _)| name == *l))
                        {
                            return Err(place.at(at, format!("there is no option for the label {label:?}")));
                        }
                    }
                    if let Some((name, _)) =
                        list.iter().find(|(n, _)| !forms.iter().all(|f| f.labels.contains(n)))
                    {
                        return Err(place.at(at, format!("{name:?} is not a label of every form")));
                    }
                }
                if a.gold.is_none() && !named {
                    return Err(place.at(at, "`gold` must say which option is right"));
                }
                Answer::Choice { options, gold: optional(&a.gold)? }
            }
            (None, Some(text)) => Answer::Text { text: place.expression(text)?, golds: optional(&a.golds)? },
            _ => return Err(place.at(at, "an answer has either `options` (a choice) or `text`")),
        };
        let choice = matches!(answer, Answer::Choice { .. });
        let mut templates = Vec::new();
        for raw in file.template {
            let at = raw.span().start;
            let raw = raw.into_inner();
            let source = raw.prompt.get_ref().trim_end_matches('\n').to_owned();
            let (prompt, slots) = (place.template(&raw.prompt)?, source.matches("OPTIONS").count());
            let wanted = usize::from(choice && !raw.inverse);
            if slots != wanted {
                let kind =
                    if raw.inverse { "an inverse template" } else { "a forward template of this answer" };
                return Err(place.at(at, format!("{kind} holds {{{{OPTIONS}}}} {wanted} times, not {slots}")));
            }
            let omits: Vec<String> = raw.omits.into_iter().map(Spanned::into_inner).collect();
            let used = prompt.undeclared_variables(false);
            let lost = inputs.iter().find(|i| !raw.inverse && !used.contains(*i) && !omits.contains(i));
            if let Some(lost) = lost {
                return Err(place.at(
                    at,
                    format!("the prompt leaves out {lost:?} (write omits = [{lost:?}] if it is meant)"),
                ));
            }
            if raw.inverse && raw.target.is_none() {
                return Err(place.at(at, "an inverse template needs a target"));
            }
            let options = match (&answer, raw.options) {
                (_, None) => None,
                (Answer::Choice { options: Options::Named(all), .. }, Some(named)) => {
                    let number = |name: &String| all.iter().position(|(n, _)| n == name);
                    let stands_for: Vec<usize> = named.0.iter().filter_map(|(n, _)| number(n)).collect();
                    let mut sorted = stands_for.clone();
                    sorted.sort_unstable();
                    if !sorted.into_iter().eq(0..all.len()) || named.0.len() != all.len() {
                        let names: Vec<&str> = all.iter().map(|(n, _)| n.as_str()).collect();
                        return Err(place.at(
                            at,
                            format!("a template's options name each label once: {}", names.join(", ")),
                        ));
                    }
                    Some((named.0.into_iter().map(|(_, text)| text).collect(), stands_for))
                }
                _ => {
                    return Err(place.at(
                        at,
                        "a template has options of its own only where the answer's are a table by label",
                    ));
                }
            };
            templates.push(Template {
                source,
                options,
                inverse: raw.inverse,
                direction: raw.direction,
                target: raw.target.as_ref().map(|t| place.template(t)).transpose()?,
                prompt,
                omits,
            });
        }
        if templates.iter().all(|t| t.inverse) {
            return Err(place.at(0, "there is no forward template"));
        }
        let mut continuations = Vec::new();
        for raw in file.continuation.list() {
            continuations.push(Continuation {
                prompt: place.template(&raw.prompt)?,
                options: raw.options.map(|o| place.options(o)).transpose()?,
                direction: raw.direction,
            });
        }
        let lacks = |t: &Template| {
            !continuations.iter().any(|c: &Continuation| c.direction.is_none() || c.direction == t.direction)
        };
        if let Some(t) = templates.iter().find(|t| !t.inverse && lacks(t)) {
            let side = t.direction.as_ref().map_or(String::new(), |d| format!(" for direction {d:?}"));
            return Err(place.at(0, format!("there is no [continuation]{side}")));
        }
        let dataset = Self {
            name: name.into(),
            cluster: cluster.into(),
            title: file.title,
            about: file.about,
            paper: file.paper,
            licence: file.licence,
            metrics,
            inputs,
            shorten: file.shorten.into_iter().map(Spanned::into_inner).collect(),
            part_of: file.part_of,
            group: file.group,
            family: file.family,
            tasks,
            templates,
            examples: file.example,
            keep: optional(&file.keep)?,
            forms,
            fields,
            answer,
            value,
            row_group,
            positive: a.positive.map(Spanned::into_inner),
            continuations,
            hash: blake3::hash(text.as_bytes()).to_hex().to_string(),
        };
        dataset.try_examples(&place)?;
        Ok(dataset)
    }

    /// Renders the file's own rows in every template: what refers to a name that is not there fails here.
    fn try_examples(&self, place: &Place<'_>) -> Result<()> {
        for (i, raw) in self.examples.iter().enumerate() {
            let row = self
                .row(&self.tasks[0].name, raw)
                .and_then(|row| row.map_err(|why| Error::data(format!("it would be dropped: {why}"))));
            let row = row.map_err(|e| place.at(0, format!("[[example]] {}: {}", i + 1, e.message)))?;
            for (t, template) in self.templates.iter().enumerate() {
                self.prompt(&row, template).map_err(|e| {
                    place.at(0, format!("[[example]] {} in [[template]] {}: {}", i + 1, t + 1, e.message))
                })?;
            }
        }
        Ok(())
    }

    /// Whether the answer is one of several options.
    pub fn is_choice(&self) -> bool {
        matches!(self.answer, Answer::Choice { .. })
    }

    /// The forward templates with their numbers.
    pub fn forward(&self) -> impl Iterator<Item = (usize, &Template)> {
        self.templates.iter().enumerate().filter(|(_, t)| !t.inverse)
    }

    /// The smaller cluster that the dataset is counted in where clusters are added one by one.
    pub fn fine_cluster(&self) -> &str {
        self.group.as_deref().unwrap_or(&self.cluster)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_those_of_python() {
        let range = |text: &str, others: &[&str], n| {
            let slice = Slice::parse(text).unwrap();
            let other = |i: usize| others.get(i).map(|o| Slice::parse(o).unwrap());
            let task = Task {
                name: "t".into(),
                folders: vec![],
                hub: None,
                train: Some(slice.clone()),
                dev: other(0),
                test: other(1),
                shuffle: false,
                rows: Rows::default(),
            };
            task.range(&slice, n)
        };
        assert_eq!(range("train", &[], 10), 0..10);
        assert_eq!(range("train[:-200]", &[], 1000), 0..800);
        assert_eq!(range("train[-200:]", &[], 1000), 800..1000);
        assert_eq!(range("validation[:200]", &[], 1000), 0..200);
        assert_eq!(range("train[-1200:-1000]", &[], 9000), 7800..8000);
        // Short files: the numbers shrink together.
        assert_eq!((range("train[:-200]", &[], 32), range("train[-200:]", &[], 32)), (0..16, 16..32));
        let others = ["train[30000:30200]", "train[-3000:]"];
        assert_eq!(range("train[0:30000]", &others, 362), 0..300);
        assert_eq!(range("train[30000:30200]", &["train[0:30000]", others[1]], 362), 300..302);
        assert_eq!(range("train[-3000:]", &["train[0:30000]", others[0]], 362), 332..362);
        for bad in ["", "dev", "train[", "train[1]", "train[a:b]", "test[:]x"] {
            assert!(Slice::parse(bad).is_none(), "{bad}");
        }
    }

    /// Whatever stands in a dataset's file, it is read or it is an error with a place.
    #[test]
    fn no_file_makes_a_panic() {
        let good = include_str!("../../tasks/nli/rte.toml");
        let rng = crate::rng::Rng::new(1, 0);
        for round in 0..300 {
            let mut bytes = good.as_bytes().to_vec();
            for k in 0..=round % 4 {
                let at = rng.below(8 * round + 2 * k, bytes.len() as u64) as usize;
                let what = rng.bits(8 * round + 2 * k + 1);
                match what % 3 {
                    0 => bytes[at] = (what >> 8) as u8,
                    1 => bytes.truncate(at.max(1)),
                    _ => drop(bytes.splice(at..at, *b"{{")),
                }
            }
            let text = String::from_utf8_lossy(&bytes);
            if let Err(e) = Dataset::parse("tasks/nli/x.toml", "nli", "x", &text) {
                assert!(e.message.starts_with("tasks/nli/x.toml:"), "{e}");
            }
        }
    }
}
