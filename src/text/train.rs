//! Trains a byte-level BPE tokenizer, for base models made from nothing.

use crate::error::{Error, Result};
use serde_json::json;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerImpl,
};

const BOS: &str = "<s>";
const EOS: &str = "</s>";

type Trainee =
    TokenizerImpl<BPE, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// Trains a byte-level BPE with at most `vocab` pieces (fewer where `texts` have no more pairs to merge) and returns the
/// files that hold it: `tokenizer.json` and `tokenizer_config.json`. Ids 0 and 1 are `<s>` and `</s>`; `<s>` is put in
/// front of every text. Digits are one piece each, so that numbers are read place by place. The same texts in any
/// order give the same files.
pub fn train_bpe(texts: &[String], vocab: usize) -> Result<Vec<(String, Vec<u8>)>> {
    if vocab < 258 {
        return Err(Error::usage(format!(
            "a vocabulary of {vocab} is too small for 256 bytes, {BOS} and {EOS}"
        ))
        .fix("give at least --vocab-size 258"));
    }
    let failed = |e: tokenizers::Error| Error::data(format!("cannot train a tokenizer: {e}"));
    let special = |s: &str| AddedToken::from(s, true).normalized(false);
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocab)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(vec![special(BOS), special(EOS)])
        .build();
    let bytes = ByteLevel::default().add_prefix_space(false).trim_offsets(false);
    let mut tokenizer: Trainee = TokenizerImpl::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![
        PreTokenizerWrapper::Digits(Digits::new(true)),
        PreTokenizerWrapper::ByteLevel(bytes),
    ])));
    tokenizer.with_decoder(Some(bytes));
    tokenizer.train(&mut trainer, texts.iter()).map_err(failed)?;
    let template = TemplateProcessing::builder()
        .try_single(format!("{BOS} $A"))
        .and_then(|b| b.try_pair(format!("{BOS} $A {BOS} $B")))
        .map(|b| b.special_tokens(vec![(BOS, 0)]).build())
        .map_err(|e| Error::internal(format!("the tokenizer's BOS rule: {e}")))?
        .map_err(|e| Error::internal(format!("the tokenizer's BOS rule: {e}")))?;
    tokenizer.with_post_processor(Some(template));
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "add_bos_token": true,
        "add_eos_token": false,
        "clean_up_tokenization_spaces": false,
    });
    Ok(vec![
        ("tokenizer.json".into(), tokenizer.to_string(true).map_err(failed)?.into_bytes()),
        ("tokenizer_config.json".into(), format!("{config:#}\n").into_bytes()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Tokenizer;
    use crate::text::testing::Memory;

    #[test]
    fn trains_loads_and_repeats() {
        let words = ["the cat sat on the mat", "a catalogue of 1234 cats", "Le café est fermé. 日本 😀\n\n"];
        let texts: Vec<String> =
            (0..60).map(|i| format!("{} {i} {}", words[i % 3], words[(i * 7 + 1) % 3])).collect();
        let files = train_bpe(&texts, 300).unwrap();
        let reversed: Vec<String> = texts.iter().rev().cloned().collect();
        assert_eq!(files, train_bpe(&reversed, 300).unwrap());
        let tok = Tokenizer::load(&Memory(files)).unwrap();
        assert_eq!((tok.vocab_size(), tok.bos(), tok.eos(), tok.prefix()), (300, Some(0), Some(1), &[0][..]));
        for text in ["the cat 99", "", " x\u{0}\u{7f}\t😀é</S>", "日本 café  !"] {
            let ids = tok.encode(text).unwrap();
            assert_eq!(ids[0], 0);
            assert_eq!(tok.decode(&ids, true).unwrap(), text);
        }
        assert!(tok.encode_bare("the cat").unwrap().len() <= 4);
        assert_eq!(tok.encode_bare("1234").unwrap().len(), 4);
        assert_eq!(train_bpe(&texts, 257).unwrap_err().exit_code(), 2);
    }
}
