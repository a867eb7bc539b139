//! Chat templates as Hugging Face models carry them, and which bytes of their output the assistant wrote.
//!
//! The spans of the assistant's turns come from rendering the conversation's beginnings and looking at what each turn
//! adds; templates that rewrite earlier turns are asked again with a mark in the turn's place. A template needs no
//! `{% generation %}` for this; where it has one, it is taken out.

use super::template::{environment, explain, object};
use crate::error::{Error, Result};
use minijinja::Environment;
use minijinja::syntax::SyntaxConfig;
use serde_json::{Map, Value, json};
use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

const NAME: &str = "chat_template";
/// Stands for a turn's text in a trial rendering; made of letters alone so that no template trims or escapes it.
const MARK: &str = "xqflanrtturnmarkqx";

/// A parsed chat template.
pub struct ChatTemplate {
    env: Environment<'static>,
    source: String,
}

impl ChatTemplate {
    /// Parses `source`; `bos` and `eos` are the texts of the tokenizer's special tokens ("" where there is none).
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self> {
        let bad =
            |e: minijinja::Error| Error::model(format!("the chat template cannot be read: {}", explain(&e)));
        let mut env = environment();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(bad)?;
        env.set_syntax(syntax);
        env.add_function("strftime_now", |format: String| strftime(&format, now()));
        env.add_global("bos_token", bos);
        env.add_global("eos_token", eos);
        env.add_template_owned(NAME, without_generation_tags(source)).map_err(bad)?;
        Ok(Self { env, source: source.to_owned() })
    }

    /// The template's text as it was given.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the output depends on today's date.
    pub fn depends_on_date(&self) -> bool {
        self.source.contains("strftime_now")
    }

    /// Renders `messages` (an array of `{"role", "content"}`), with the beginning of an answer at the end if
    /// `add_generation_prompt`. `vars` are further variables of the template, such as `tools`.
    pub fn render(
        &self,
        messages: &Value,
        add_generation_prompt: bool,
        vars: &Map<String, Value>,
    ) -> Result<String> {
        let mut context = vars.clone();
        context.insert("messages".into(), messages.clone());
        context.insert("add_generation_prompt".into(), add_generation_prompt.into());
        let failed = |e: minijinja::Error| Error::data(format!("the chat template failed: {}", explain(&e)));
        let template = self.env.get_template(NAME).map_err(failed)?;
        template.render(object(&context)).map_err(failed)
    }

    /// Renders a whole conversation and gives, for every assistant turn, the byte span of what the model must learn
    /// to emit: the turn's text and the end-of-turn text after it (without white space behind that).
    pub fn render_spans(&self, messages: &Value) -> Result<(String, Vec<Range<usize>>)> {
        let list = messages.as_array().filter(|m| !m.is_empty());
        let list = list.ok_or_else(|| Error::data("\"messages\" is not a list of messages"))?;
        let full = self.render(messages, false, &Map::new())?;
        let mut spans: Vec<Range<usize>> = Vec::new();
        for (i, message) in list.iter().enumerate() {
            match message.get("role").and_then(Value::as_str) {
                Some("assistant" | "model") => {}
                Some(_) => continue,
                None => return Err(Error::data(format!("message {i} has no \"role\""))),
            }
            let content = message.get("content").and_then(Value::as_str).unwrap_or_default();
            let span =
                self.by_prefix(list, i, content, &full).or_else(|| self.by_mark(list, i, content, &full));
            match span.filter(|s| spans.last().is_none_or(|p| p.end <= s.start)) {
                Some(span) => spans.push(span),
                None => {
                    return Err(Error::data(format!(
                        "cannot tell which part of the rendered chat is message {i}, by the assistant: \
                         the chat template rewrites it together with the messages around it"
                    ))
                    .fix("give the data as {prompt, completion}, or simplify the chat template"));
                }
            }
        }
        Ok((full, spans))
    }

    /// What turn `i` adds to the conversation before it, if the template only ever appends.
    fn by_prefix(&self, list: &[Value], i: usize, content: &str, full: &str) -> Option<Range<usize>> {
        let before = self.render(&json!(list[..i]), true, &Map::new()).ok()?;
        let after = self.render(&json!(list[..=i]), false, &Map::new()).ok()?;
        let said = after.strip_prefix(&before)?;
        if !full.starts_with(&after) || !said.contains(content.trim()) {
            return None;
        }
        let visible = said.trim_end();
        // White space is what ends a turn only where the template has nothing else for it.
        let ended = !content.trim_end().is_empty() && visible.ends_with(content.trim_end());
        Some(before.len()..before.len() + if ended { said.len() } else { visible.len() })
    }

    /// Where turn `i`'s text goes, found by putting a mark there; the end of turn is what follows the mark when the
    /// turn is the last.
    fn by_mark(&self, list: &[Value], i: usize, content: &str, full: &str) -> Option<Range<usize>> {
        let mut marked = list.to_vec();
        *marked.get_mut(i)?.get_mut("content")? = Value::from(MARK);
        let whole = self.render(&json!(marked), false, &Map::new()).ok()?;
        let (head, tail) = whole.split_once(MARK)?;
        let last = self.render(&json!(marked[..=i]), false, &Map::new()).ok()?;
        let end_of_turn = last.split_once(MARK).map_or("", |(_, e)| e);
        let middle = full.strip_prefix(head)?.strip_suffix(tail)?;
        // A template may show less of the text than it was given (reasoning cut away), never something else.
        if tail.contains(MARK) || middle.trim().is_empty() || !content.contains(middle.trim()) {
            return None;
        }
        let end = head.len() + middle.len();
        let visible = end_of_turn.trim_end();
        let kept = if visible.is_empty() { end_of_turn } else { visible };
        Some(head.len()..if tail.starts_with(kept) { end + kept.len() } else { end })
    }
}

/// Turns `{% generation %}` blocks, which mark the assistant's text for other trainers, into `{% if true %}`: the
/// white space around the tags keeps being trimmed as the author saw it.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let Some(end) = tag[2..].find("%}").map(|at| at + 2) else {
            rest = tag;
            break;
        };
        let inner = &tag[2..end];
        let sign = |c| c == '-' || c == '+';
        match inner.trim_start_matches(sign).trim_end_matches(sign).trim() {
            "generation" => out.push_str(&format!("{{%{}%}}", inner.replace("generation", "if true"))),
            "endgeneration" => out.push_str(&format!("{{%{}%}}", inner.replace("endgeneration", "endif"))),
            _ => out.push_str(&tag[..end + 2]),
        }
        rest = &tag[end + 2..];
    }
    out + rest
}

/// Seconds since 1970 in UTC.
fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
}

/// The common part of C's `strftime`, in UTC; other codes stay as they are.
fn strftime(format: &str, seconds: i64) -> String {
    const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let leap = |y: i64| y % 4 == 0 && (y % 100 != 0 || y % 400 == 0);
    let (mut year, mut day) = (1970, days);
    while day >= 365 + i64::from(leap(year)) {
        day -= 365 + i64::from(leap(year));
        year += 1;
    }
    let (of_year, mut month) = (day, 0);
    loop {
        let long = [31, 28 + i64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month];
        if day < long {
            break;
        }
        day -= long;
        month += 1;
    }
    let weekday = DAYS[(days + 4).rem_euclid(7) as usize];
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('Y') => out += &year.to_string(),
            Some('y') => out += &format!("{:02}", year % 100),
            Some('m') => out += &format!("{:02}", month + 1),
            Some('d') => out += &format!("{:02}", day + 1),
            Some('j') => out += &format!("{:03}", of_year + 1),
            Some('B') => out += MONTHS[month],
            Some('b') => out += &MONTHS[month][..3],
            Some('A') => out += weekday,
            Some('a') => out += &weekday[..3],
            Some('H') => out += &format!("{:02}", second / 3600),
            Some('M') => out += &format!("{:02}", second / 60 % 60),
            Some('S') => out += &format!("{:02}", second % 60),
            Some('%') => out.push('%'),
            Some(other) => out.extend(['%', other]),
            None => out.push('%'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}\
        {%- if m.role == 'assistant' %}{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}\
        {% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}\
        {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
    const LLAMA3: &str = "{{- bos_token }}\n{%- for message in messages %}\n    \
        {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' }}\n\
        {%- endfor %}\n{%- if add_generation_prompt %}\n    \
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n{%- endif %}\n";
    const MISTRAL: &str = "{{ bos_token }}{% for m in messages %}\
        {% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}\
        {% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}\
        {% else %}{{ ' ' + m['content'].strip() + eos_token }}{% endif %}{% endfor %}";
    /// Shows the reasoning of the last answer only: the beginning of a chat is not a beginning of its rendering.
    const THINK: &str = "{% for m in messages %}{% if m.role == 'assistant' and not loop.last %}\
        <a>{{ m.content.split('</think>')[-1].lstrip('\\n') }}<end>\n\
        {% elif m.role == 'assistant' %}<a><think>{{ '\\n' }}</think>{{ m.content }}<end>\n\
        {% else %}<u>{{ m.content }}<end>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}";

    fn chat() -> Value {
        json!([{"role": "user", "content": "Hi é?"}, {"role": "assistant", "content": "Yes 日本."},
               {"role": "user", "content": "Yes 日本."}, {"role": "assistant", "content": "Bye"}])
    }

    fn spans(source: &str, messages: &Value) -> Result<(String, Vec<String>)> {
        let (text, spans) = ChatTemplate::new(source, "<s>", "</s>")?.render_spans(messages)?;
        let said = spans.into_iter().map(|s| text[s].to_owned()).collect();
        Ok((text, said))
    }

    #[test]
    fn broken_tags_are_errors() {
        // The second was found by fuzzing: the sign that opens a tag is not also its end.
        for source in ["{%", "{%}", "{%-%}", "{% generation", "{%}%}"] {
            assert!(ChatTemplate::new(source, "<s>", "</s>").is_err(), "{source}");
        }
    }

    #[test]
    fn turns_of_common_templates() {
        let (text, said) = spans(CHATML, &chat()).unwrap();
        assert_eq!(said, ["Yes 日本.<|im_end|>", "Bye<|im_end|>"]);
        assert_eq!(
            text,
            "<|im_start|>user\nHi é?<|im_end|>\n<|im_start|>assistant\nYes 日本.<|im_end|>\n<|im_start|>user\n\
             Yes 日本.<|im_end|>\n<|im_start|>assistant\nBye<|im_end|>\n"
        );
        let (text, said) = spans(LLAMA3, &chat()).unwrap();
        assert!(
            text.starts_with("<s><|start_header_id|>user<|end_header_id|>\n\nHi é?<|eot_id|><|start"),
            "{text}"
        );
        assert_eq!(said, ["Yes 日本.<|eot_id|>", "Bye<|eot_id|>"]);
        let (text, said) = spans(MISTRAL, &chat()).unwrap();
        assert_eq!(text, "<s>[INST] Hi é? [/INST] Yes 日本.</s>[INST] Yes 日本. [/INST] Bye</s>");
        assert_eq!(said, [" Yes 日本.</s>", " Bye</s>"]);
    }

    #[test]
    fn a_template_that_rewrites_earlier_turns() {
        let (text, said) = spans(THINK, &chat()).unwrap();
        assert_eq!(said, ["Yes 日本.<end>", "<think>\n</think>Bye<end>"], "{text}");
        let mut thinking = chat();
        thinking[1]["content"] = "<think>hm</think>\nSure".into();
        assert_eq!(spans(THINK, &thinking).unwrap().1[0], "Sure<end>");
    }

    #[test]
    fn what_cannot_be_told_is_an_error() {
        let shuffled = "{{ messages|map(attribute='content')|join(' ')|upper }}";
        assert!(spans(shuffled, &chat()).unwrap_err().message.contains("message 1"));
        let e = spans(MISTRAL, &json!([{"role": "assistant", "content": "a"}])).unwrap_err();
        assert!(e.message.contains("roles must alternate"), "{e}");
        for bad in [json!([]), json!(null), json!("a"), json!([{"content": "x"}]), json!([3])] {
            assert!(spans(CHATML, &bad).is_err(), "{bad}");
        }
        assert!(ChatTemplate::new("{% for m in %}", "", "").is_err());
    }

    #[test]
    fn generation_tags_keep_their_white_space() {
        let text =
            |s: &str| ChatTemplate::new(s, "", "").unwrap().render(&json!([]), false, &Map::new()).unwrap();
        assert_eq!(text("a {%- generation -%} b {% endgeneration %}\nc"), "ab c");
        assert_eq!(text("{{ '{% x %}' }}{% set generation = 3 %}{{ generation }}"), "{% x %}3");
    }

    #[test]
    fn the_prompt_for_an_answer_and_further_variables() {
        let t = ChatTemplate::new("{{ tools|tojson }}{% if add_generation_prompt %}>{% endif %}", "", "")
            .unwrap();
        let vars = json!({"tools": [{"name": "f", "n": 1.5}]});
        let text = t.render(&json!([]), true, vars.as_object().unwrap()).unwrap();
        assert!(text.ends_with('>') && text.contains(r#""name": "f""#), "{text}");
    }

    #[test]
    fn dates() {
        // 2024-02-29 12:34:56 UTC, a Thursday; by `date -u -d @1709210096`.
        assert_eq!(
            strftime("%d %b %Y %A %j %H:%M:%S %y-%m %B %a 100%% %q %", 1_709_210_096),
            "29 Feb 2024 Thursday 060 12:34:56 24-02 February Thu 100% %q %"
        );
        assert_eq!(strftime("%Y-%m-%d %a", 1_735_603_200), "2024-12-31 Tue");
    }
}
