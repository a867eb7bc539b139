//! The template engine of dataset specs: Jinja with the filters that cleaning and wording rows takes.
//!
//! One environment for all specs; what is compiled in it lives as long as the program. An unknown name is an error.

use crate::text::{environment, explain};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior};
use regex::Regex;
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

/// A compiled expression.
pub(super) type Expr = minijinja::Expression<'static, 'static>;
/// A compiled template.
pub(super) type Text = minijinja::Template<'static, 'static>;

static ENV: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut env = environment();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
    env.set_syntax(syntax.expect("the usual delimiters"));
    env.add_filter("squeeze", |s: &str| squeeze(s));
    env.add_filter("breaks", |s: &str| BREAKS.replace_all(s, "\n").into_owned());
    env.add_filter("tags", |s: &str| squeeze(&TAGS.replace_all(s, " ")));
    env.add_filter("brackets", |s: &str| squeeze(&BRACKETS.replace_all(s, " ")));
    env.add_filter("unquote", |s: &str| unquote(s));
    env.add_filter("sub", sub);
    env.add_filter("before", |s: &str, mark: &str| s.split_once(mark).map_or(s, |p| p.0).to_owned());
    env.add_filter("after", |s: &str, mark: &str| s.split_once(mark).map_or("", |p| p.1).to_owned());
    env.add_filter("ending", |s: &str, mark: &str| ending(s, mark));
    env.add_filter("no_ending", |s: &str| {
        s.trim_end().trim_end_matches(['.', ',', ';', ':']).trim_end().to_owned()
    });
    env.add_filter("cap", |s: &str| first_letter(s, |c| c.to_uppercase().collect()));
    env.add_filter("uncap", |s: &str| first_letter(s, |c| c.to_lowercase().collect()));
    env.add_filter("index_of", index_of);
    env.add_filter("suffix", |list: Value, text: &str| each(list, |item| format!("{item}{text}")));
    env.add_filter("numbered", numbered);
    env
});

static BREAKS: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?i)[ \t]*(?:<br\s*/?>[ \t]*)+"));
static TAGS: LazyLock<Regex> = LazyLock::new(|| pattern(r"<[^<>]*>"));
static BRACKETS: LazyLock<Regex> = LazyLock::new(|| pattern(r"\[[^\[\]]*\]"));

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a pattern of ours")
}

/// Runs of white space become one space, none at the ends.
fn squeeze(s: &str) -> String {
    s.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn unquote(s: &str) -> String {
    let s = s.trim().replace("\"\"", "\"");
    match s.strip_prefix('"').and_then(|s| s.strip_suffix('"')) {
        Some(inner) if !inner.is_empty() && !inner.contains('"') => inner.to_owned(),
        _ => s,
    }
}

fn ending(s: &str, mark: &str) -> String {
    let s = s.trim_end();
    let closed = s.trim_end_matches(['"', '\'', '”', '’', ')', ']']).ends_with(['.', '!', '?', '…']);
    if closed || s.is_empty() {
        return s.to_owned();
    }
    // A comma or colon at the end is no end.
    format!("{}{mark}", s.trim_end_matches([',', ';', ':']).trim_end())
}

fn first_letter(s: &str, change: impl Fn(char) -> String) -> String {
    let mut chars = s.chars();
    chars.next().map_or_else(String::new, |c| change(c) + chars.as_str())
}

fn failed(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

fn sub(s: &str, regex: &str, to: &str) -> Result<String, Error> {
    static KNOWN: LazyLock<Mutex<HashMap<String, Regex>>> = LazyLock::new(Mutex::default);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let found = match known.get(regex) {
        Some(found) => found.clone(),
        None => {
            let made = Regex::new(regex).map_err(|e| failed(format!("sub: {e}")))?;
            known.insert(regex.to_owned(), made.clone());
            made
        }
    };
    drop(known);
    Ok(found.replace_all(s, to).into_owned())
}

fn index_of(value: Value, list: Value) -> Result<usize, Error> {
    let found = list.try_iter()?.position(|item| item == value || item.to_string() == value.to_string());
    found.ok_or_else(|| failed(format!("index_of: {value} is not in {list}")))
}

fn each(list: Value, change: impl Fn(Value) -> String) -> Result<Vec<String>, Error> {
    if list.kind() == ValueKind::String {
        return Err(failed("expected a list, got a text".into()));
    }
    Ok(list.try_iter()?.map(change).collect())
}

fn numbered(list: Value) -> Result<String, Error> {
    let items = each(list, |item| item.to_string())?;
    Ok(items.iter().enumerate().map(|(i, item)| format!("{}. {item}", i + 1)).collect::<Vec<_>>().join("\n"))
}

/// Text that lives as long as the program: specs are read once and used to the end.
fn keep(source: &str) -> &'static str {
    Box::leak(source.to_owned().into_boxed_str())
}

/// Compiles an expression; the error is the reason.
pub(super) fn expression(source: &str) -> Result<Expr, String> {
    ENV.compile_expression(keep(source)).map_err(|e| explain(&e))
}

/// Compiles a template; the error is the reason.
pub(super) fn template(source: &str) -> Result<Text, String> {
    ENV.template_from_str(keep(source)).map_err(|e| explain(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(source: &str, with: serde_json::Value) -> Result<String, String> {
        let context = crate::text::object(with.as_object().unwrap());
        expression(source)?.eval(context).map(|v| v.to_string()).map_err(|e| explain(&e))
    }

    #[test]
    fn filters_do_what_the_manual_says() {
        let cases = [
            ("s|squeeze", " a \n b\t", "a b"),
            ("s|breaks", "a <br /><br>b<BR/>c", "a\nb\nc"),
            ("s|tags", "see <file_photo> this", "see this"),
            ("s|brackets", "[header] How to [title] cook", "How to cook"),
            ("s|unquote", "\"say \"\"hi\"\" now\"", "\"say \"hi\" now\""),
            ("s|unquote", "\"all of it\"", "all of it"),
            ("s|sub('(\\\\w+)@', '$1 at ')", "me@home", "me at home"),
            ("s|before('_')", "the _ ran", "the "),
            ("s|after('_')", "the _ ran", " ran"),
            ("s|before('_')", "none", "none"),
            ("s|after('_')", "none", ""),
            ("s|ending('?')", "who", "who?"),
            ("s|ending('.')", "He said \"no!\"", "He said \"no!\""),
            ("s|ending('.')", "Together,", "Together."),
            ("s|no_ending", "It ends here. ", "It ends here"),
            ("s|no_ending", "Does it?", "Does it?"),
            ("s|cap", "élan vital", "Élan vital"),
            ("s|uncap", "The", "the"),
        ];
        for (source, s, want) in cases {
            assert_eq!(value(source, serde_json::json!({"s": s})).unwrap(), want, "{source} of {s:?}");
        }
        let with = serde_json::json!({"list": ["x", "y"], "one": "y", "n": 2, "numbers": ["1", "2"]});
        assert_eq!(value("one|index_of(list)", with.clone()).unwrap(), "1");
        assert_eq!(value("n|index_of(numbers)", with.clone()).unwrap(), "1");
        assert_eq!(value("list|suffix('!')|join(' ')", with.clone()).unwrap(), "x! y!");
        assert_eq!(value("list|numbered", with.clone()).unwrap(), "1. x\n2. y");
        for wrong in
            ["'z'|index_of(list)", "one|numbered", "one|sub('(', '')", "missing|lower", "one|nothing"]
        {
            assert!(value(wrong, with.clone()).is_err(), "{wrong}");
        }
    }
}
