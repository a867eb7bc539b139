//! What the columns of a row mean, and the text made of them with the spans that are trained.
//!
//! The shape is found once per source from the names of its columns; `--map` puts names in place. Spans are recorded
//! while the text is put together. Nothing here knows about tokens.

use crate::error::{Error, Result};
use crate::text::{ChatTemplate, Template, Tokenizer};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

/// A row as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// `file:line`, or the row's own `id`.
    pub id: String,
    /// The whole text.
    pub text: String,
    /// The byte spans of `text` that are trained, in order.
    pub targets: Vec<Range<usize>>,
    /// Whether the tokenizer's prefix (BOS) goes in front. Not for chat templates, which write it where they want it.
    pub prefix: bool,
    /// Whether EOS goes behind, and is trained.
    pub eos: bool,
}

/// What a source's rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A conversation for the model's chat template; the assistant's turns are trained.
    Messages,
    /// `input`, the joiner, `target`; the target is trained.
    InputTarget,
    /// `prompt` and `completion` with nothing between; the completion is trained.
    PromptCompletion,
    /// `instruction`, a line for `input` where there is one, a line for `output`; the output is trained.
    Instruction,
    /// Plain text, all of it trained.
    Text,
}

const SHAPES: [Shape; 5] =
    [Shape::Messages, Shape::InputTarget, Shape::PromptCompletion, Shape::Instruction, Shape::Text];

impl Shape {
    /// The columns that must be there, and those that may.
    fn fields(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Self::Messages => (&["messages"], &[]),
            Self::InputTarget => (&["input", "target"], &[]),
            Self::PromptCompletion => (&["prompt", "completion"], &[]),
            Self::Instruction => (&["instruction", "output"], &["input"]),
            Self::Text => (&["text"], &[]),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Messages => "{messages}",
            Self::InputTarget => "{input, target}",
            Self::PromptCompletion => "{prompt, completion}",
            Self::Instruction => "{instruction, input?, output}",
            Self::Text => "{text}",
        })
    }
}

/// Where a field's text comes from.
enum Origin {
    Column(String),
    Template(Box<Template>),
}

/// Renders the rows of one source.
pub struct Renderer<'a> {
    shape: Shape,
    map: BTreeMap<String, Origin>,
    joiner: String,
    loss_all: bool,
    chat: Option<&'a ChatTemplate>,
}

impl<'a> Renderer<'a> {
    /// Decides the shape of the rows of source `name` from its first row's `columns` and the field map (field to
    /// column, or to a template where it holds `{{` or `{%`; the two characters `\n` mean a line end there). A shape
    /// is taken if its fields are there and it uses every mapped field.
    pub fn new(
        name: &str,
        columns: &[&str],
        map: &BTreeMap<String, String>,
        joiner: &str,
        loss_all: bool,
        tok: &'a Tokenizer,
    ) -> Result<Self> {
        let listed = columns.join(", ");
        let known = || SHAPES.iter().flat_map(|s| [s.fields().0, s.fields().1].concat()).chain(["id"]);
        let mut origins = BTreeMap::new();
        for (field, value) in map {
            if !known().any(|k| k == field) {
                let near = known().max_by(|a, b| strsim::jaro(a, field).total_cmp(&strsim::jaro(b, field)));
                return Err(Error::usage(format!(
                    "{name}: --map {field}={value}: there is no field {field:?}"
                ))
                .fix(format!(
                    "did you mean {:?}? The shapes are {}",
                    near.unwrap_or("input"),
                    shapes()
                )));
            }
            let value = value.replace("\\n", "\n");
            let origin = if value.contains("{{") || value.contains("{%") {
                let template =
                    Template::compile(&value).map_err(|e| e.at(format!("{name}: --map {field}")))?;
                Origin::Template(Box::new(template))
            } else if columns.contains(&value.as_str()) {
                Origin::Column(value)
            } else {
                return Err(Error::data(format!(
                    "{name}: --map {field}={value}: there is no column {value:?}; the columns are {listed}"
                ))
                .fix(format!(
                    "name one of them, or write a template such as --map '{field}={{{{{value}}}}}'"
                )));
            };
            origins.insert(field.clone(), origin);
        }
        let fits = |s: &&Shape| {
            let (must, may) = s.fields();
            must.iter().all(|f| columns.contains(f) || map.contains_key(*f))
                && map.keys().all(|f| f == "id" || must.contains(&f.as_str()) || may.contains(&f.as_str()))
        };
        let Some(&shape) = SHAPES.iter().find(fits) else {
            let mapped = map.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            let mapped = if mapped.is_empty() { mapped } else { format!(" and the mapped fields {mapped}") };
            let example = columns.first().unwrap_or(&"column");
            return Err(Error::data(format!(
                "{name}: cannot tell what to train on from the columns {listed}{mapped}; tried {}",
                shapes()
            ))
            .fix(format!(
                "say which columns to use, such as --map 'input={{{{{example}}}}}' --map target=COLUMN"
            )));
        };
        let chat = tok.chat_template();
        if shape == Shape::Messages && chat.is_none() {
            return Err(Error::model(format!(
                "{name}: the rows are {shape}, but the model has no chat template"
            ))
            .fix("put chat_template.jinja into the model's folder, or map columns with --map"));
        }
        Ok(Self { shape, map: origins, joiner: joiner.to_owned(), loss_all, chat })
    }

    /// What the rows are.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Renders the row at `place` (`file:line`), which its errors name.
    pub fn render(&self, place: &str, row: &Map<String, Value>) -> Result<Rendered> {
        self.rendered(place, row).map_err(|e| e.at(place))
    }

    fn rendered(&self, place: &str, row: &Map<String, Value>) -> Result<Rendered> {
        let id = match self.map.contains_key("id") || row.contains_key("id") {
            true => self.field("id", row)?.filter(|id| !id.is_empty()),
            false => None,
        };
        let need = |name: &str| {
            self.field(name, row)?.ok_or_else(|| {
                let columns = row.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                Error::data(format!("{name:?} is missing or null; the row's columns are {columns}"))
            })
        };
        // A row whose target is null is a row without a target, which is counted and dropped, not an error.
        let target = |name: &str| match row.get(self.column(name)) {
            Some(Value::Null) => Ok(String::new()),
            _ => need(name),
        };
        let (mut prefix, mut eos) = (true, true);
        let (text, mut targets) = match self.shape {
            Shape::Messages => {
                prefix = false;
                let (text, spans, ended) = self.conversation(row)?;
                eos = !ended;
                (text, spans)
            }
            Shape::InputTarget => answered(need("input")? + &self.joiner, &target("target")?),
            Shape::PromptCompletion => answered(need("prompt")?, &target("completion")?),
            Shape::Instruction => {
                let mut text = need("instruction")? + "\n";
                if let Some(input) = self.field("input", row)?.filter(|i| !i.is_empty()) {
                    text += &input;
                    text.push('\n');
                }
                answered(text, &target("output")?)
            }
            Shape::Text => answered(String::new(), &target("text")?),
        };
        if self.loss_all {
            targets = vec![0..text.len()];
        }
        targets.retain(|s| !s.is_empty());
        Ok(Rendered { id: id.unwrap_or_else(|| place.to_owned()), text, targets, prefix, eos })
    }

    /// The conversation as text, the assistant's spans, and whether the template has ended the last of its turns.
    fn conversation(&self, row: &Map<String, Value>) -> Result<(String, Vec<Range<usize>>, bool)> {
        let column = self.column("messages");
        let messages = row.get(column).ok_or_else(|| Error::data(format!("{column:?} is missing")))?;
        let chat = self.chat.ok_or_else(|| Error::internal("a conversation without a chat template"))?;
        let (text, spans) = chat.render_spans(messages)?;
        let last = messages.as_array().and_then(|m| m.last());
        let by_assistant =
            last.is_some_and(|m| m["role"] != "user" && m["role"] != "system" && m["role"] != "tool");
        let content = last.and_then(|m| m["content"].as_str()).unwrap_or_default().trim_end();
        let open = spans.last().is_some_and(|s| text[s.clone()].trim_end().ends_with(content));
        Ok((text, spans, !(by_assistant && open)))
    }

    fn column<'s>(&'s self, field: &'s str) -> &'s str {
        match self.map.get(field) {
            Some(Origin::Column(c)) => c,
            _ => field,
        }
    }

    /// A field's text; `None` where its column is missing or null.
    fn field(&self, name: &str, row: &Map<String, Value>) -> Result<Option<String>> {
        if let Some(Origin::Template(t)) = self.map.get(name) {
            return t.render(row).map(Some).map_err(|e| e.at(format!("--map {name}")));
        }
        let column = self.column(name);
        match row.get(column) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(s)) => Ok(Some(s.clone())),
            Some(v @ (Value::Number(_) | Value::Bool(_))) => Ok(Some(v.to_string())),
            Some(v) => {
                let kind = if v.is_array() { "a list" } else { "an object" };
                Err(Error::data(format!("column {column:?} is {kind}, not a text"))
                    .fix(format!("pick from it with a template: --map '{name}={{{{{column}[0]}}}}'")))
            }
        }
    }
}

fn answered(mut text: String, target: &str) -> (String, Vec<Range<usize>>) {
    let start = text.len();
    text += target;
    let end = text.len();
    (text, vec![start..end])
}

fn shapes() -> String {
    SHAPES.map(|s| s.to_string()).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::testing::letters;
    use serde_json::json;

    fn tok() -> Tokenizer {
        let chat = "{{ bos_token }}{% for m in messages %}[{{ m.role[0] }}]{{ m.content }}\
            {% if m.content != 'open' %}{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}[a]{% endif %}";
        letters(json!({}), json!({"chat_template": chat})).unwrap()
    }

    fn render(row: Value, map: &[(&str, &str)], loss_all: bool) -> Result<(Shape, Rendered)> {
        let map = map.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let row = row.as_object().unwrap();
        let columns: Vec<&str> = row.keys().map(String::as_str).collect();
        let tok = tok();
        let r = Renderer::new("src", &columns, &map, "\n", loss_all, &tok)?;
        Ok((r.shape(), r.render("f:3", row)?))
    }

    #[test]
    fn shapes_are_found_and_rendered() {
        let cases = [
            (json!({"input": "a", "target": "bc", "text": "no"}), Shape::InputTarget, "a\nbc", "bc"),
            (json!({"prompt": "a ", "completion": "b", "id": 7}), Shape::PromptCompletion, "a b", "b"),
            (json!({"instruction": "do", "input": "", "output": 4}), Shape::Instruction, "do\n4", "4"),
            (json!({"instruction": "do", "input": "x", "output": "y"}), Shape::Instruction, "do\nx\ny", "y"),
            (json!({"text": "é!", "label": 1}), Shape::Text, "é!", "é!"),
            (
                json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}),
                Shape::Messages,
                "<s>[u]q</s>[a]a</s>",
                "a</s>",
            ),
        ];
        for (row, shape, text, target) in cases {
            let chat = shape == Shape::Messages;
            let (found, r) = render(row.clone(), &[], false).unwrap();
            assert_eq!((found, r.text.as_str()), (shape, text));
            assert_eq!(r.targets.iter().map(|s| &text[s.clone()]).collect::<Vec<_>>(), [target]);
            assert_eq!((r.prefix, r.eos), (!chat, !chat));
            assert_eq!(r.id, if row.get("id").is_some() { "7" } else { "f:3" });
            assert_eq!(render(row, &[], true).unwrap().1.targets, [0..text.len()]);
        }
        let open =
            json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "open"}]});
        assert!(render(open, &[], false).unwrap().1.eos);
        assert!(render(json!({"input": "a", "target": null}), &[], false).unwrap().1.targets.is_empty());
    }

    #[test]
    fn the_field_map() {
        let row = json!({"premise": "P.", "hypothesis": "H.", "label": 1, "text": "t"});
        let map = [
            ("input", "{{premise}}\\nQuestion: {{hypothesis}} True or False?"),
            ("target", r#"{{ ["True","False"][label] }}"#),
        ];
        let (shape, r) = render(row.clone(), &map, false).unwrap();
        assert_eq!((shape, r.text.as_str()), (Shape::InputTarget, "P.\nQuestion: H. True or False?\nFalse"));
        assert_eq!(&r.text[r.targets[0].clone()], "False");
        let (_, r) =
            render(row.clone(), &[("input", "text"), ("target", "label"), ("id", "n{{label}}")], false)
                .unwrap();
        assert_eq!((r.text.as_str(), r.id.as_str()), ("t\n1", "n1"));
        // A mapped field decides the shape: {text} is not taken although the column is there.
        assert_eq!(
            render(row, &[("prompt", "premise"), ("completion", "hypothesis")], false).unwrap().1.text,
            "P.H."
        );
    }

    #[test]
    fn errors_name_columns_shapes_and_flags() {
        let fail = |row: Value, map: &[(&str, &str)]| render(row, map, false).unwrap_err();
        let e = fail(json!({"question": "q", "answer": true}), &[]);
        assert!(
            e.message.contains("columns question, answer")
                && e.message.contains("{instruction, input?, output}")
        );
        assert!(e.fix.unwrap().contains("--map 'input={{question}}'"));
        let e = fail(json!({"question": "q"}), &[("input", "question")]);
        assert!(e.message.contains("mapped fields input"), "{e}");
        let e = fail(json!({"q": "q"}), &[("inptu", "q")]);
        assert!(e.exit_code() == 2 && e.fix.unwrap().starts_with("did you mean \"input\"?"));
        let e = fail(json!({"q": "q"}), &[("input", "qq"), ("target", "q")]);
        assert!(e.message.contains("no column \"qq\"; the columns are q"), "{e}");
        let e = fail(json!({"q": "q"}), &[("input", "{{ qq }}"), ("target", "q")]);
        assert_eq!(e.message, "f:3: --map input: the template uses qq, which the row does not have");
        let e = fail(json!({"input": "a", "target": [1]}), &[]);
        assert!(e.message.starts_with("f:3: column \"target\" is a list"), "{e}");
        assert!(
            fail(json!({"input": null, "target": "x"}), &[])
                .message
                .starts_with("f:3: \"input\" is missing or null")
        );
        assert!(fail(json!({"messages": "x"}), &[]).message.starts_with("f:3: "));
        assert!(
            fail(json!({"q": 1}), &[("input", "{{"), ("target", "q")])
                .message
                .starts_with("src: --map input: ")
        );
    }
}
