//! Rows in words: templates, the OPTIONS block, prompts without templates, and fitting a prompt into its length.

use super::row::{Row, plain};
use super::spec::{Dataset, Template};
use crate::error::{Error, Result};
use crate::text::{explain, object};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::borrow::Cow;

/// Tokens of room that are not worth another attempt.
const SLACK: usize = 4;

/// How rows become prompts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// By instruction templates.
    #[default]
    Flan,
    /// The inputs alone (Wei et al., 2022, section 4.3).
    NoTemplate,
    /// The inputs behind the names of task and dataset (the same).
    DatasetName,
    /// Text that an untuned model goes on with, after Brown et al., "Language Models are Few-Shot Learners", 2020.
    Continuation,
}

impl Mode {
    /// The modes by name.
    pub const NAMES: [(&'static str, Mode); 4] = [
        ("flan", Mode::Flan),
        ("no-template", Mode::NoTemplate),
        ("dataset-name", Mode::DatasetName),
        ("continuation", Mode::Continuation),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, m)| *m == self).map_or("", |(n, _)| n)
    }
}

/// What of a prompt that is too long is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Truncate {
    /// The fields that the dataset names, at their ends: instruction and options stay whole.
    #[default]
    Field,
    /// The prompt at its end, whatever stands there, as the released FLAN code did.
    Head,
}

/// A prompt and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// What is asked.
    pub prompt: String,
    /// What is to be answered.
    pub target: String,
    /// The options to choose from, as texts that follow the prompt; empty where the answer is a text.
    pub options: Vec<String>,
    /// Which of them are right.
    pub gold: Vec<usize>,
    /// Whether something was cut to fit.
    pub cut: bool,
}

/// The OPTIONS block.
pub fn options_block(options: &[String]) -> String {
    options.iter().fold("OPTIONS:".to_owned(), |block, option| block + "\n- " + option)
}

fn render(text: &super::filters::Text, context: &Map<String, Value>) -> Result<String> {
    text.render(object(context)).map_err(|e| {
        let names = context.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        Error::data(format!("{}; a row has {names}", explain(&e)))
    })
}

impl Dataset {
    fn context(&self, row: &Row, block: bool) -> Map<String, Value> {
        let mut context = row.fields.clone();
        if !row.options.is_empty() {
            context.insert("options".into(), row.options.clone().into());
            let block = if block { options_block(&row.options) } else { String::new() };
            context.insert("OPTIONS".into(), block.into());
        }
        context.insert("answer".into(), row.answer.clone().into());
        context
    }

    /// `row` with its options as `template` words and orders them.
    fn worded<'a>(&self, row: &'a Row, template: &Template) -> Cow<'a, Row> {
        let Some((texts, stands_for)) = &template.options else { return Cow::Borrowed(row) };
        let place = |gold: &usize| stands_for.iter().position(|s| s == gold);
        let gold: Vec<usize> = row.gold.iter().filter_map(place).collect();
        let answer = gold.first().map_or(&row.answer, |&g| &texts[g]).clone();
        Cow::Owned(Row { options: texts.clone(), gold, answer, ..row.clone() })
    }

    fn target(&self, template: &Template, context: &Map<String, Value>, row: &Row) -> Result<String> {
        template.target.as_ref().map_or_else(|| Ok(row.answer.clone()), |t| render(t, context))
    }

    /// The prompt of `row` by `template`.
    pub fn prompt(&self, row: &Row, template: &Template) -> Result<Prompt> {
        self.instructed(row, template, true)
    }

    /// The same without the OPTIONS block.
    pub fn prompt_without_options(&self, row: &Row, template: &Template) -> Result<Prompt> {
        let p = self.instructed(row, template, false)?;
        Ok(Prompt { prompt: p.prompt.trim().to_owned(), ..p })
    }

    fn instructed(&self, row: &Row, template: &Template, block: bool) -> Result<Prompt> {
        let row = &*self.worded(row, template);
        let context = self.context(row, block);
        let (options, gold) =
            if template.inverse { Default::default() } else { (row.options.clone(), row.gold.clone()) };
        let target = self.target(template, &context, row)?;
        Ok(Prompt { prompt: render(&template.prompt, &context)?, target, options, gold, cut: false })
    }

    /// The inputs of `row` alone, one below the other: those that the side of `template` shows.
    fn bare(&self, row: &Row, template: &Template) -> String {
        let shown =
            self.inputs.iter().filter(|i| template.direction.is_none() || !template.omits.contains(i));
        let texts = shown.filter_map(|i| row.fields.get(i)).map(plain).filter(|t| !t.is_empty());
        texts.collect::<Vec<_>>().join("\n")
    }

    /// The prompt of `row` in `mode`; `template` gives the wording in mode flan, else only the side that is asked for.
    ///
    /// # Errors
    /// `Kind::Data` where the dataset has no continuation, or a template fails.
    pub fn prompt_in(&self, mode: Mode, row: &Row, template: &Template, block: bool) -> Result<Prompt> {
        match mode {
            Mode::Flan if block => self.prompt(row, template),
            Mode::Flan => self.prompt_without_options(row, template),
            Mode::NoTemplate | Mode::DatasetName => {
                let context = self.context(row, true);
                let target = self.target(template, &context, row)?;
                let mut prompt = self.bare(row, template);
                if mode == Mode::DatasetName {
                    let side = template.direction.as_ref().map_or(String::new(), |d| format!(" {d}"));
                    prompt = format!("[{}: {}{side}]\n{prompt}", self.cluster.replace('_', " "), self.title);
                }
                Ok(Prompt {
                    prompt,
                    target,
                    options: row.options.clone(),
                    gold: row.gold.clone(),
                    cut: false,
                })
            }
            Mode::Continuation => {
                let fits = |c: &&super::spec::Continuation| {
                    c.direction.is_none() || c.direction == template.direction
                };
                let found = self.continuations.iter().find(fits).ok_or_else(|| {
                    Error::data(format!("{} has no [continuation]", self.name))
                        .fix("choose another prompt mode, or leave the dataset out")
                })?;
                let context = self.context(row, true);
                let spaced = |text: String| format!(" {text}");
                let options = match &found.options {
                    Some(options) => options.of(&context)?,
                    None => row.options.clone(),
                };
                let target = match row.gold.first() {
                    Some(&gold) => options.get(gold).cloned().unwrap_or_default(),
                    None => self.target(template, &context, row)?,
                };
                Ok(Prompt {
                    prompt: render(&found.prompt, &context)?.trim_end().to_owned(),
                    target: spaced(target),
                    options: options.into_iter().map(spaced).collect(),
                    gold: row.gold.clone(),
                    cut: false,
                })
            }
        }
    }

    /// [`prompt_in`](Self::prompt_in), cut so that `tokens` of the prompt are at most `most`.
    ///
    /// `Truncate::Field` takes words off the ends of the fields that the dataset names until the prompt fits; where even
    /// empty fields do not help, and for `Truncate::Head`, the end of the prompt goes.
    pub fn prompt_within(
        &self,
        mode: Mode,
        row: &Row,
        template: &Template,
        block: bool,
        policy: Truncate,
        most: usize,
        tokens: &dyn Fn(&str) -> Result<usize>,
    ) -> Result<Prompt> {
        let whole = self.prompt_in(mode, row, template, block)?;
        // A token holds at least a byte.
        if whole.prompt.len() <= most || tokens(&whole.prompt)? <= most {
            return Ok(whole);
        }
        // The target is that of the whole row.
        let target = whole.target.clone();
        let mut best = whole;
        if policy == Truncate::Field {
            let mut shorter = row.clone();
            for field in &self.shorten {
                let Some(Value::String(text)) = row.fields.get(field) else { continue };
                let ends = word_ends(text);
                let mut with = |words: usize| -> Result<(Prompt, usize)> {
                    let end = if words == 0 { 0 } else { ends[words - 1] };
                    shorter.fields.insert(field.clone(), text[..end].into());
                    let prompt = self.prompt_in(mode, &shorter, template, block)?;
                    let n = tokens(&prompt.prompt)?;
                    Ok((prompt, n))
                };
                // Words kept that fit, and that do not. Tokens grow about evenly with words: interpolate, then halve.
                let (mut low, mut high) = ((0, with(0)?), (ends.len(), tokens(&best.prompt)?));
                if low.1.1 <= most {
                    for attempt in 0.. {
                        let ((words, (_, n)), room) = (&low, most - low.1.1);
                        if high.0 - words <= 1 || room <= SLACK {
                            break;
                        }
                        let even = words + (high.0 - words) * room / (high.1 - n).max(1);
                        let guess = if attempt < 8 { even } else { words.midpoint(high.0) };
                        let guess = guess.clamp(words + 1, high.0 - 1);
                        let tried = with(guess)?;
                        if tried.1 <= most { low = (guess, tried) } else { high = (guess, tried.1) }
                    }
                    return Ok(Prompt { target, cut: true, ..low.1.0 });
                }
                best = low.1.0;
            }
        }
        let prompt = head(&best.prompt, most, tokens)?;
        Ok(Prompt { prompt, target, cut: true, ..best })
    }
}

/// Byte positions where words end.
fn word_ends(text: &str) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut inside = false;
    for (i, c) in text.char_indices() {
        if c.is_whitespace() && inside {
            ends.push(i);
        }
        inside = !c.is_whitespace();
    }
    if inside {
        ends.push(text.len());
    }
    ends
}

/// The longest beginning of `text` of at most `most` tokens.
pub(super) fn head(text: &str, most: usize, tokens: &dyn Fn(&str) -> Result<usize>) -> Result<String> {
    let ends: Vec<usize> = text.char_indices().map(|(i, c)| i + c.len_utf8()).collect();
    let (mut low, mut high) = (0, ends.len());
    while low < high {
        let middle = (low + high).div_ceil(2);
        if tokens(&text[..ends[middle - 1]])? <= most { low = middle } else { high = middle - 1 }
    }
    Ok(if low == 0 { String::new() } else { text[..ends[low - 1]].to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flan::{Catalog, Collection};
    use serde_json::json;

    fn words(text: &str) -> Result<usize> {
        Ok(text.split_whitespace().count())
    }

    /// What is too long is cut in the field that may be cut; instruction, options and answer stay whole.
    #[test]
    fn a_long_field_is_shortened_and_nothing_else() {
        let catalog = Catalog::load(Collection::Flan, None).unwrap();
        let d = catalog.datasets.iter().find(|d| d.name == "rte").unwrap();
        let raw = |n: usize| {
            let premise = (0..n).map(|i| format!("word{i}")).collect::<Vec<_>>().join(" ");
            json!({"premise": premise, "hypothesis": "Someone sleeps.", "label": 0})
        };
        let row = |n| d.row("rte", raw(n).as_object().unwrap()).unwrap().unwrap();
        for t in &d.templates {
            for n in [10, 100, 3000] {
                let row = row(n);
                let whole = d.prompt(&row, t).unwrap();
                let within =
                    |policy, most| d.prompt_within(Mode::Flan, &row, t, true, policy, most, &words).unwrap();
                for most in [60, 80, 500] {
                    let p = within(Truncate::Field, most);
                    let fits = words(&whole.prompt).unwrap() <= most;
                    assert_eq!((p.cut, p.target == whole.target), (!fits, true));
                    if fits {
                        assert_eq!(p, whole);
                        continue;
                    }
                    let left = most - words(&p.prompt).unwrap();
                    assert!(left <= SLACK, "{left} words of room");
                    assert!(t.inverse || p.prompt.contains("OPTIONS:\n- yes\n- no"), "{}", p.prompt);
                    assert!(t.inverse || p.prompt.contains("omeone sleeps"), "{}", p.prompt);
                    // By its head the instruction goes where it stands last.
                    let p = within(Truncate::Head, most);
                    assert!(whole.prompt.starts_with(&p.prompt) && words(&p.prompt).unwrap() <= most);
                }
            }
        }
    }

    /// A template's own label words mean what the answer's mean, in whatever order they are listed.
    #[test]
    fn templates_have_words_of_their_own_for_the_labels() {
        let catalog = Catalog::load(Collection::MicroWorld, None).unwrap();
        let d = catalog.datasets.iter().find(|d| d.name == "follows").unwrap();
        let raw = |label: i64| json!({"text": "There is a cow in the park.", "claim": "there is an animal in the park", "label": label});
        let (mut orders, mut words) = (std::collections::HashSet::new(), std::collections::HashSet::new());
        for (label, meant) in [(0, ["yes", "true", "right", "good"]), (1, ["no", "false", "wrong", "bad"])] {
            let row = d.row("follows", raw(label).as_object().unwrap()).unwrap().unwrap();
            for t in &d.templates {
                let p = d.prompt(&row, t).unwrap();
                assert!(meant.contains(&p.target.as_str()), "{p:?}");
                assert_eq!(p.options[p.gold[0]], p.target);
                assert!(p.prompt.contains(&options_block(&p.options)), "{}", p.prompt);
                orders.insert((label, p.gold[0]));
                words.insert(p.target.clone());
                let bare = d.prompt_without_options(&row, t).unwrap();
                assert_eq!((bare.target, bare.gold, bare.options), (p.target, p.gold, p.options));
            }
        }
        assert_eq!((orders.len(), words.len()), (4, 8));
        let bad = include_str!("../../tasks/micro_world/nli/follows.toml")
            .replace("{ no = \"false\", yes = \"true\" }", "{ no = \"false\" }");
        let e = Dataset::parse("tasks/x.toml", "nli", "x", &bad).err().unwrap();
        assert!(e.message.contains("each label once: yes, no"), "{e}");
    }

    #[test]
    fn prompts_of_every_mode() {
        let catalog = Catalog::load(Collection::Flan, None).unwrap();
        let dataset = |name: &str| catalog.datasets.iter().find(|d| d.name == name).unwrap();
        let d = dataset("rte");
        let raw = json!({"premise": "Ann naps.", "hypothesis": "Ann sleeps.", "label": 1});
        let row = d.row("rte", raw.as_object().unwrap()).unwrap().unwrap();
        let t = d.forward().next().unwrap().1;
        let of = |mode| d.prompt_in(mode, &row, t, true).unwrap();
        assert_eq!(
            (of(Mode::NoTemplate).prompt.as_str(), of(Mode::NoTemplate).target.as_str()),
            ("Ann naps.\nAnn sleeps.", "no")
        );
        assert_eq!(of(Mode::DatasetName).prompt, format!("[nli: {}]\nAnn naps.\nAnn sleeps.", d.title));
        let p = of(Mode::Continuation);
        assert!(p.options.len() == 2 && p.options.contains(&p.target) && p.target.starts_with(' '));
        let bare = d.prompt_in(Mode::Flan, &row, t, false).unwrap();
        assert!(!bare.prompt.contains("OPTIONS") && bare.options == ["yes", "no"]);
        // Translation shows the side that is asked about.
        let d = dataset("wmt14_enfr");
        let raw = json!({"translation": {"en": "A cat.", "fr": "Un chat."}});
        let row = d.row("wmt14_enfr", raw.as_object().unwrap()).unwrap().unwrap();
        for (_, t) in d.forward() {
            let p = d.prompt_in(Mode::NoTemplate, &row, t, true).unwrap();
            let (from, to) = if t.direction.as_deref() == Some("en-fr") {
                ("A cat.", "Un chat.")
            } else {
                ("Un chat.", "A cat.")
            };
            assert_eq!((p.prompt.as_str(), p.target.as_str()), (from, to));
        }
    }
}
