//! Jinja templates over a data row, and what all our templates share with the ones Hugging Face renders by Python.
//!
//! Row templates are strict: a column that is not there is an error with the names that are. Chat templates, which
//! are written for Python's lenient rules, are in `chat`.

use crate::error::{Error, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, Value};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::Serialize;
use serde_json::Map;
use std::io;

/// What both kinds of template need: Python's string and dict methods, plain JSON, no HTML escapes.
pub(crate) fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    env.set_unknown_method_callback(unknown_method_callback);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.add_filter("tojson", tojson);
    env.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    env
}

/// The message of a template error and the causes beneath it, on one line.
pub(crate) fn explain(e: &minijinja::Error) -> String {
    let mut text = e.to_string();
    let mut cause = std::error::Error::source(e);
    while let Some(c) = cause {
        text = format!("{text}: {c}");
        cause = c.source();
    }
    text
}

/// A JSON value as the template engine's own; objects keep their order.
pub(crate) fn jinja(value: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match value {
        Json::Null => Value::from(()),
        Json::Bool(b) => (*b).into(),
        Json::String(s) => s.into(),
        Json::Array(list) => list.iter().map(jinja).collect::<Vec<_>>().into(),
        Json::Object(map) => object(map),
        Json::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(i), _) => i.into(),
            (_, Some(u)) => u.into(),
            _ => n.as_f64().unwrap_or(f64::NAN).into(),
        },
    }
}

/// A JSON object as the template engine's own.
pub(crate) fn object(map: &Map<String, serde_json::Value>) -> Value {
    Value::from_pairs(map.iter().map(|(k, v)| (k, jinja(v))))
}

/// Spaces as Python's `json.dumps` puts them where no indent is given.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }
    fn begin_object_key<W: ?Sized + io::Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }
    fn begin_object_value<W: ?Sized + io::Write>(&mut self, w: &mut W) -> io::Result<()> {
        w.write_all(b": ")
    }
}

fn tojson(value: Value, args: Kwargs) -> Result<Value, minijinja::Error> {
    let indent: Option<usize> = args.get("indent")?;
    let ascii: Option<bool> = args.get("ensure_ascii")?;
    args.assert_all_used()?;
    let fail = |m: String| minijinja::Error::new(ErrorKind::InvalidOperation, m);
    if ascii == Some(true) {
        return Err(fail("tojson(ensure_ascii=true) is not supported".into()));
    }
    let mut out = Vec::new();
    match indent {
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Spaced)),
        Some(n) => {
            let spaces = vec![b' '; n.min(64)];
            let pretty = serde_json::ser::PrettyFormatter::with_indent(&spaces);
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, pretty))
        }
    }
    .map_err(|e| fail(format!("cannot write as JSON: {e}")))?;
    String::from_utf8(out).map(Value::from).map_err(|e| fail(e.to_string()))
}

const NAME: &str = "template";

/// A template over the columns of a data row, such as `{{premise}}\nQuestion: {{hypothesis}} True or False?`.
pub struct Template(Environment<'static>);

impl Template {
    /// Parses `source`; a final newline is kept.
    pub fn compile(source: &str) -> Result<Self> {
        let bad =
            |e: minijinja::Error| Error::usage(format!("the template {source:?} is wrong: {}", explain(&e)));
        let mut env = environment();
        env.set_undefined_behavior(UndefinedBehavior::Strict);
        env.set_syntax(SyntaxConfig::builder().keep_trailing_newline(true).build().map_err(bad)?);
        env.add_template_owned(NAME, source.to_owned()).map_err(bad)?;
        Ok(Self(env))
    }

    /// The text for `row`. A column that the template names and the row lacks is an error that says so.
    pub fn render(&self, row: &Map<String, serde_json::Value>) -> Result<String> {
        let failed = |e: minijinja::Error| Error::data(format!("the template failed: {}", explain(&e)));
        let template = self.0.get_template(NAME).map_err(failed)?;
        template.render(object(row)).map_err(|e| {
            let mut missing: Vec<_> = template.undeclared_variables(false).into_iter().collect();
            missing.retain(|v| !row.contains_key(v) && !self.0.globals().any(|(g, _)| g == v));
            missing.sort();
            let columns = row.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            if e.kind() == ErrorKind::UndefinedError && !missing.is_empty() {
                Error::data(format!("the template uses {}, which the row does not have", missing.join(", ")))
                    .fix(format!("use its columns: {columns}"))
            } else {
                failed(e).fix(format!("the row's columns are {columns}"))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(source: &str, row: serde_json::Value) -> Result<String> {
        Template::compile(source)?.render(row.as_object().unwrap())
    }

    #[test]
    fn renders_columns_and_expressions() {
        let row = json!({"premise": "A <b> & 'c'", "label": 1, "words": ["x", "y"], "answer": true});
        assert_eq!(render("{{premise}}\nTrue?\n", row.clone()).unwrap(), "A <b> & 'c'\nTrue?\n");
        assert_eq!(render(r#"{{ ["True","False"][label] }}"#, row.clone()).unwrap(), "False");
        assert_eq!(render("{{ ['no', 'yes'][answer|int] }}", row.clone()).unwrap(), "yes");
        assert_eq!(render("{{ premise.split(' ')[0].lower() }}", row.clone()).unwrap(), "a");
        assert_eq!(
            render("{{ words|tojson }} {{ words|join('+') }}", row.clone()).unwrap(),
            r#"["x", "y"] x+y"#
        );
        assert_eq!(render("{{ {'a': 'é<'}|tojson(indent=2) }}", row).unwrap(), "{\n  \"a\": \"é<\"\n}");
    }

    #[test]
    fn an_unknown_column_is_named() {
        let e =
            render("{{ premise }} {{ hypotesis }}", json!({"premise": "p", "hypothesis": "h"})).unwrap_err();
        assert!(e.message.contains("hypotesis") && !e.message.contains("premise"), "{e}");
        assert_eq!(e.fix.as_deref(), Some("use its columns: premise, hypothesis"));
        assert!(render("{% if x is defined %}{{ x }}{% else %}-{% endif %}", json!({})).is_ok());
        let e = render("{{ ['a'][label] }}", json!({"label": 7})).unwrap_err();
        assert!(e.fix.unwrap().contains("label"));
    }

    #[test]
    fn broken_templates_are_errors() {
        for source in
            ["{{", "{{ a b }}", "{% for %}", "{% if x %}", "{{ 'a }}", "{{ a|nosuchfilter }}", "{{ f( }}"]
        {
            assert!(render(source, json!({"a": 1})).is_err(), "{source}");
        }
    }
}
