//! From a row of a file to what templates see: columns, cleaned fields, options, the right answer.

use super::filters::Expr;
use super::spec::{Answer, Dataset, Form, Options};
use crate::error::{Error, Result};
use crate::text::{explain, object};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A row, ready for templates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Columns and fields.
    pub fields: Map<String, Value>,
    /// The options of a choice; empty for a text.
    pub options: Vec<String>,
    /// Which options are right.
    pub gold: Vec<usize>,
    /// The answer: the first right option, or the text.
    pub answer: String,
    /// For a text: all that are accepted.
    pub golds: Vec<String>,
    /// The number that correlations are taken with.
    pub value: Option<f64>,
    /// Rows of equal group are graded together.
    pub group: Option<String>,
}

/// Why a row is left out.
pub type Dropped = &'static str;

const UNLABELLED: Dropped = "no label";
const NOT_KEPT: Dropped = "left out by `keep`";
const NO_ANSWER: Dropped = "no answer";

/// The value at `path`; through a list of objects, the list of their values.
fn dig<'a>(value: &'a Value, path: &[String]) -> Option<std::borrow::Cow<'a, Value>> {
    use std::borrow::Cow;
    let Some((first, rest)) = path.split_first() else { return Some(Cow::Borrowed(value)) };
    match value {
        Value::Object(map) => dig(map.get(first)?, rest),
        Value::Array(list) => {
            let items: Option<Vec<Value>> =
                list.iter().map(|item| dig(item, path).map(Cow::into_owned)).collect();
            items.map(|items| Cow::Owned(Value::Array(items)))
        }
        _ => None,
    }
}

fn column<'a>(row: &'a Map<String, Value>, path: &[String]) -> Option<std::borrow::Cow<'a, Value>> {
    // A column whose own name holds a dot.
    let whole = path.join(".");
    match row.get(&whole) {
        Some(value) => Some(std::borrow::Cow::Borrowed(value)),
        None => dig(row.get(path.first()?)?, &path[1..]),
    }
}

fn json(value: &minijinja::Value) -> Result<Value> {
    serde_json::to_value(value).map_err(|e| Error::data(format!("a field cannot be kept: {e}")))
}

fn eval(expr: &Expr, context: &Map<String, Value>, what: &str) -> Result<minijinja::Value> {
    let names = || context.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    match expr.eval(object(context)) {
        Ok(value) if value.is_undefined() => {
            Err(Error::data(format!("{what}: it names what is not there; the row has {}", names())))
        }
        Ok(value) => Ok(value),
        Err(e) => Err(Error::data(format!("{what}: {}; the row has {}", explain(&e), names()))),
    }
}

fn texts(value: &minijinja::Value, what: &str) -> Result<Vec<String>> {
    let Value::Array(items) = json(value)? else {
        return Err(Error::data(format!("{what} is no list: {value}")));
    };
    Ok(items.iter().map(plain).collect())
}

/// A value as the text that a person would write for it.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(s) => s.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// The name of a label: from an id (a number, its digits, or a boolean), or the name itself.
fn label_name(value: &Value, labels: &[String]) -> Result<Option<String>> {
    let id = match value {
        Value::Null => return Ok(None),
        Value::Bool(b) => i64::from(*b),
        Value::Number(n) => match (n.as_i64(), n.as_f64()) {
            (Some(i), _) => i,
            (None, Some(x)) if x.fract() == 0.0 => x as i64,
            _ => -2,
        },
        Value::String(s) => {
            match (labels.iter().find(|l| l.eq_ignore_ascii_case(s.trim())), s.trim().parse()) {
                (Some(label), _) => return Ok(Some(label.clone())),
                (None, Ok(i)) => i,
                (None, Err(_)) if s.trim().is_empty() || s.trim() == "-" => return Ok(None),
                (None, Err(_)) => -2,
            }
        }
        _ => -2,
    };
    if id == -1 {
        return Ok(None);
    }
    match usize::try_from(id).ok().and_then(|i| labels.get(i)) {
        Some(label) => Ok(Some(label.clone())),
        None => Err(Error::data(format!(
            "label {value} is none of {} (ids 0 to {})",
            labels.join(", "),
            labels.len() - 1
        ))),
    }
}

impl Dataset {
    /// The form whose columns `row` has.
    fn form(&self, task: &str, row: &Map<String, Value>) -> Result<&Form> {
        let fits = |form: &&Form| {
            (form.tasks.is_empty() || form.tasks.iter().any(|t| t == task))
                && form.columns.iter().all(|c| c.optional || column(row, &c.path).is_some())
        };
        self.forms.iter().find(fits).ok_or_else(|| {
            let known = |form: &Form| {
                let columns = form.columns.iter().filter(|c| !c.optional);
                columns.map(|c| c.path.join(".")).collect::<Vec<_>>().join(", ")
            };
            let found = row.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            let forms = self.forms.iter().map(known).collect::<Vec<_>>().join("; or ");
            Error::data(format!("the columns {found} are not those of {}", self.name))
                .fix(format!("expected {forms}; or write a file of your own for --tasks-dir"))
        })
    }

    /// Reads a row of `task`: the row, or why it is left out.
    ///
    /// # Errors
    /// `Kind::Data`: columns that are not there, labels that are not known, expressions that fail.
    pub fn row(&self, task: &str, raw: &Map<String, Value>) -> Result<std::result::Result<Row, Dropped>> {
        let form = self.form(task, raw)?;
        let mut fields = Map::new();
        for c in &form.columns {
            let value = column(raw, &c.path).map_or(Value::Null, |v| v.into_owned());
            if c.name == "label" && !form.labels.is_empty() {
                match label_name(&value, &form.labels)? {
                    Some(name) => fields.insert(c.name.clone(), name.into()),
                    None => return Ok(Err(UNLABELLED)),
                };
            } else {
                fields.insert(c.name.clone(), value);
            }
        }
        for (name, expr) in &self.fields {
            let value = json(&eval(expr, &fields, &format!("[fields] {name}"))?)?;
            fields.insert(name.clone(), value);
        }
        if let Some(keep) = &self.keep
            && !eval(keep, &fields, "keep")?.is_true()
        {
            return Ok(Err(NOT_KEPT));
        }
        let mut row = Row {
            fields,
            options: Vec::new(),
            gold: Vec::new(),
            answer: String::new(),
            golds: Vec::new(),
            value: None,
            group: None,
        };
        match &self.answer {
            Answer::Choice { options, gold } => {
                row.options = options.of(&row.fields)?;
                row.gold = match gold {
                    Some(gold) => {
                        let mut context = row.fields.clone();
                        context.insert("options".into(), row.options.clone().into());
                        match gold_options(&json(&eval(gold, &context, "gold")?)?, &row.options)? {
                            Some(gold) => gold,
                            None => return Ok(Err(UNLABELLED)),
                        }
                    }
                    None => {
                        let label = row.fields.get("label").and_then(Value::as_str);
                        let Options::Named(named) = options else {
                            return Err(Error::internal("a choice without gold has named options"));
                        };
                        let at = named.iter().position(|(name, _)| Some(name.as_str()) == label);
                        vec![at.ok_or_else(|| {
                            Error::data(format!("there is no option for the label {label:?}"))
                        })?]
                    }
                };
                row.answer = row.options[row.gold[0]].clone();
            }
            Answer::Text { text, golds } => {
                row.answer = plain(&json(&eval(text, &row.fields, "text")?)?);
                row.golds = match golds {
                    Some(golds) => texts(&eval(golds, &row.fields, "golds")?, "golds")?,
                    None => Vec::new(),
                };
                row.golds.retain(|g| !g.is_empty());
                if row.golds.is_empty() {
                    row.golds.push(row.answer.clone());
                }
            }
        }
        if row.answer.trim().is_empty() {
            return Ok(Err(NO_ANSWER));
        }
        if let Some(value) = &self.value {
            let value = eval(value, &row.fields, "value")?;
            let number = value.to_string().trim().parse::<f64>();
            row.value = Some(number.map_err(|_| Error::data(format!("value {value} is no number")))?);
        }
        if let Some(group) = &self.row_group {
            row.group = Some(eval(group, &row.fields, "group")?.to_string());
        }
        Ok(Ok(row))
    }
}

impl Options {
    /// The options of a row.
    pub(super) fn of(&self, fields: &Map<String, Value>) -> Result<Vec<String>> {
        let options = match self {
            Self::Named(named) => named.iter().map(|(_, text)| text.clone()).collect(),
            Self::Fixed(list) => list.clone(),
            Self::Row(expr) => texts(&eval(expr, fields, "options")?, "options")?,
        };
        if options.is_empty() {
            return Err(Error::data("there are no options"));
        }
        Ok(options)
    }
}

/// Indices of the right options; `None` if the row says that it has none (null, -1, an empty list).
fn gold_options(value: &Value, options: &[String]) -> Result<Option<Vec<usize>>> {
    let one = |value: &Value| -> Result<usize> {
        let found = match value {
            Value::Bool(b) => Some(usize::from(*b)),
            Value::Number(n) => n.as_f64().filter(|x| x.fract() == 0.0 && *x >= 0.0).map(|x| x as usize),
            Value::String(s) => options.iter().position(|o| o == s).or_else(|| s.trim().parse().ok()),
            _ => None,
        };
        found.filter(|i| *i < options.len()).ok_or_else(|| {
            Error::data(format!(
                "gold {value} is neither one of the {} options nor the index of one",
                options.len()
            ))
        })
    };
    match value {
        Value::Null => Ok(None),
        Value::Number(n) if n.as_f64() == Some(-1.0) => Ok(None),
        Value::Array(list) if list.is_empty() => Ok(None),
        Value::Array(list) => list.iter().map(one).collect::<Result<_>>().map(Some),
        value => Ok(Some(vec![one(value)?])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_reach_into_objects_and_lists() {
        let row = json!({"a": {"b": [1, 2]}, "list": [{"x": 1}, {"x": 2}], "d.e": 3});
        let row = row.as_object().unwrap();
        let at = |path: &str| {
            let path: Vec<String> = path.split('.').map(str::to_owned).collect();
            column(row, &path).map(|v| v.into_owned())
        };
        assert_eq!(at("a.b"), Some(json!([1, 2])));
        assert_eq!(at("list.x"), Some(json!([1, 2])));
        assert_eq!(at("d.e"), Some(json!(3)));
        assert_eq!((at("a.c"), at("list.y"), at("z")), (None, None, None));
    }

    #[test]
    fn labels_by_id_digits_truth_and_name() {
        let labels = ["no".to_string(), "Yes".into()];
        let name = |v: Value| label_name(&v, &labels);
        for v in [json!(1), json!("1"), json!(true), json!("yes"), json!(1.0)] {
            assert_eq!(name(v).unwrap().as_deref(), Some("Yes"));
        }
        for v in [json!(-1), json!(null), json!("-1"), json!("-")] {
            assert_eq!(name(v).unwrap(), None);
        }
        for v in [json!(2), json!("maybe"), json!(0.5), json!([1])] {
            assert!(name(v).is_err());
        }
    }

    #[test]
    fn gold_by_index_text_and_list() {
        let options = ["a".to_string(), "b".into(), "3".into()];
        let gold = |v: Value| gold_options(&v, &options);
        assert_eq!(gold(json!(1)).unwrap(), Some(vec![1]));
        assert_eq!(gold(json!("b")).unwrap(), Some(vec![1]));
        assert_eq!(gold(json!("3")).unwrap(), Some(vec![2]));
        assert_eq!(gold(json!("0")).unwrap(), Some(vec![0]));
        assert_eq!(gold(json!(["b", 0])).unwrap(), Some(vec![1, 0]));
        assert_eq!(gold(json!(-1)).unwrap(), None);
        assert!(gold(json!(3)).is_err() && gold(json!("c")).is_err() && gold(json!({})).is_err());
    }
}
