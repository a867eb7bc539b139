//! How prompt and answer become one text, in training and in scoring alike; kept beside a saved model.

use crate::error::{Error, Result};
use crate::text::{ChatTemplate, Tokenizer};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The file in a model's folder that says how its prompts are written.
pub const FILE: &str = "flanrt.json";

/// What stands between a prompt and its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Join {
    /// The token that ends a text, as in the FLAN paper.
    #[default]
    Eos,
    /// A line end.
    Newline,
    /// A line end and a space: the answer's first word is the same token as in the middle of a line. For byte-level
    /// tokenizers, whose pieces hold the space in front of a word; a small model may never have seen a word without.
    NewlineSpace,
    /// The model's chat template, prompt and answer as turns of user and assistant.
    Chat,
    /// Nothing: the text goes on.
    None,
}

impl Join {
    /// The ways by name.
    pub const NAMES: [(&'static str, Join); 5] = [
        ("eos", Join::Eos),
        ("newline", Join::Newline),
        ("newline-space", Join::NewlineSpace),
        ("chat", Join::Chat),
        ("none", Join::None),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, j)| *j == self).map_or("", |(n, _)| n)
    }
}

/// Writes prompts for one model.
pub struct Format<'a> {
    /// What stands between.
    pub join: Join,
    eos: String,
    chat: Option<&'a ChatTemplate>,
}

impl<'a> Format<'a> {
    /// The format of `join` with `tokenizer`'s tokens.
    ///
    /// # Errors
    /// `Kind::Model` if the model lacks what it takes.
    pub fn new(join: Join, tokenizer: &'a Tokenizer) -> Result<Self> {
        let eos = match tokenizer.eos() {
            Some(id) => tokenizer.decode(&[id], false)?,
            None => String::new(),
        };
        let chat = tokenizer.chat_template();
        match join {
            Join::Eos if eos.is_empty() => {
                return Err(Error::model(
                    "the tokenizer names no EOS token to put between prompt and answer",
                )
                .fix("choose another way to join them, such as newline"));
            }
            // The text of the token must come back as the token.
            Join::Eos if tokenizer.encode_bare(&eos)? != [tokenizer.eos().unwrap_or_default()] => {
                return Err(Error::model(format!("the tokenizer does not read {eos:?} as its EOS token"))
                    .fix("choose another way to join prompt and answer, such as newline"));
            }
            Join::Chat if chat.is_none() => {
                return Err(Error::model("the model has no chat template to join prompt and answer")
                    .fix("put chat_template.jinja into its folder, or choose eos or newline"));
            }
            _ => {}
        }
        Ok(Self { join, eos, chat: chat.filter(|_| join == Join::Chat) })
    }

    /// Everything in front of an answer: `shots` (prompt and answer each), then the prompt.
    pub fn context(&self, shots: &[(String, String)], prompt: &str) -> Result<String> {
        let (between, behind) = match self.join {
            Join::Eos => (self.eos.as_str(), self.eos.as_str()),
            Join::Newline | Join::NewlineSpace => ("\n", "\n\n"),
            Join::None => ("", "\n\n"),
            Join::Chat => {
                let turn = |role: &str, text: &str| json!({"role": role, "content": text});
                let mut turns: Vec<_> =
                    shots.iter().flat_map(|(p, t)| [turn("user", p), turn("assistant", t)]).collect();
                turns.push(turn("user", prompt));
                let chat = self.chat.ok_or_else(|| Error::internal("a chat format without a template"))?;
                return chat.render(&turns.into(), true, &serde_json::Map::new());
            }
        };
        let mut text = String::new();
        for (prompt, answer) in shots {
            for part in [prompt, between, answer, behind] {
                text.push_str(part);
            }
        }
        Ok(text + prompt + between)
    }

    /// An answer as it is written behind the context: the space belongs to it, not to the prompt.
    pub fn answer(&self, text: String) -> String {
        if self.join == Join::NewlineSpace { format!(" {text}") } else { text }
    }

    /// Whether the tokenizer's prefix (BOS) goes in front; chat templates write it themselves.
    pub fn prefix(&self) -> bool {
        self.join != Join::Chat
    }

    /// The text of the EOS token; empty where there is none.
    pub fn eos(&self) -> &str {
        &self.eos
    }

    /// What [`FILE`] holds.
    pub fn to_json(&self) -> serde_json::Value {
        json!({"prompt_format": {"join": self.join, "eos": self.eos}})
    }

    /// What stands in [`FILE`], read from `bytes`.
    pub fn join_of(bytes: &[u8]) -> Result<Join> {
        let value: serde_json::Value =
            serde_json::from_slice(bytes).map_err(|e| Error::model(format!("{FILE}: {e}")))?;
        serde_json::from_value(value["prompt_format"]["join"].clone())
            .map_err(|e| Error::model(format!("{FILE}: prompt_format.join: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::testing::letters;

    #[test]
    fn every_way_to_join() {
        let chat = "{{ bos_token }}{% for m in messages %}[{{ m.role[0] }}]{{ m.content }}{{ eos_token }}{% endfor %}\
            {% if add_generation_prompt %}[a]{% endif %}";
        let tok = letters(json!({}), json!({"chat_template": chat})).unwrap();
        let shots = [("q".to_owned(), "a".to_owned())];
        let cases = [
            (Join::Eos, "q</s>a</s>p</s>", "p</s>"),
            (Join::Newline, "q\na\n\np\n", "p\n"),
            (Join::NewlineSpace, "q\na\n\np\n", "p\n"),
            (Join::None, "qa\n\np", "p"),
            (Join::Chat, "<s>[u]q</s>[a]a</s>[u]p</s>[a]", "<s>[u]p</s>[a]"),
        ];
        for (join, with, without) in cases {
            let f = Format::new(join, &tok).unwrap();
            assert_eq!(f.context(&shots, "p").unwrap(), with);
            assert_eq!(f.context(&[], "p").unwrap(), without);
            assert_eq!(f.prefix(), join != Join::Chat);
            let written = f.to_json().to_string();
            assert_eq!(Format::join_of(written.as_bytes()).unwrap(), join);
        }
        let plain = letters(json!({}), json!({})).unwrap();
        assert!(Format::new(Join::Chat, &plain).is_err());
        assert!(Format::join_of(b"{}").is_err());
    }
}
