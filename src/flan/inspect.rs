//! What a person would find wrong with a set of rendered prompts, as far as a program can tell.

use super::row::{Row, plain};
use super::spec::Dataset;
use crate::error::Result;
use std::collections::BTreeMap;

/// What a template makes where it puts its own mark behind a field's, or behind a space.
const DOUBLED: [&str; 13] = ["..", ",,", "??", "!!", "::", ";;", "?.", "!.", ".?", "!?", "?!", ",.", ".,"];
const SPACED: [&str; 4] = [" .", " ,", " ?", " !"];

/// Leftovers of a template engine.
const MARKERS: [&str; 8] = ["{{", "}}", "{%", "%}", "None", "none]", "\\n", "undefined"];

fn has(text: &str, what: &str) -> bool {
    // An ellipsis is no doubled full stop; a mark that stands alone, as in a form to fill in, is no slip.
    let text = text.replace("...", "~");
    let mut places = text.match_indices(what);
    match SPACED.contains(&what) {
        true => places.any(|(i, _)| text[..i].ends_with(char::is_alphanumeric)),
        false => places.next().is_some(),
    }
}

/// Faults of the templates of `dataset` on `row`: doubled punctuation or spaces that are not the row's own, markers, white space
/// at the ends, targets that are not an option, prompts that are alike.
pub fn faults(dataset: &Dataset, row: &Row) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let own: Vec<String> = row
        .fields
        .values()
        .map(plain)
        .chain(row.options.iter().cloned())
        .chain([row.answer.clone()])
        .collect();
    for (i, template) in dataset.templates.iter().enumerate() {
        let p = dataset.prompt(row, template)?;
        let mut fault = |what: String| found.push(format!("{} template {}: {what}", dataset.name, i + 1));
        for (name, text) in [("prompt", &p.prompt), ("target", &p.target)] {
            for what in DOUBLED.iter().chain(&SPACED).chain(&MARKERS).chain(&["  ", "\n\n\n"]) {
                if has(text, what) && !own.iter().any(|o| has(o, what)) {
                    fault(format!("{what:?} in the {name}"));
                }
            }
            if text.trim().is_empty() {
                fault(format!("the {name} is empty"));
            } else if name == "prompt" && text.trim() != text && own.iter().all(|o| o.trim() == o) {
                fault("white space at an end of the prompt".into());
            }
        }
        if !p.options.is_empty() && !p.options.contains(&p.target) {
            fault(format!("the target {:?} is none of the options", p.target));
        }
        let bare = dataset.prompt_without_options(row, template)?.prompt;
        if let Some(first) = seen.insert(bare, i + 1) {
            fault(format!("renders as template {first}"));
        }
    }
    Ok(found)
}
