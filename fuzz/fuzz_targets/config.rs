//! Configurations: any bytes are a model's config.json or settings of a run, or an error; never a panic, and what is
//! accepted can be laid out.
#![no_main]

use flanrt::arena::Arena;
use flanrt::cli::settings::Layers;
use flanrt::model::Config;
use flanrt::text::ChatTemplate;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(config) = Config::parse(bytes, "fuzz")
        && config.layers <= 64
        && [config.hidden, config.ffn, config.vocab, config.heads * config.head_size].iter().all(|&n| n < 1 << 16)
    {
        let params = flanrt::model::Params::carve(&config, &mut Arena::measure(), "weights", flanrt::tensor::DType::F32);
        assert!(params.count(&config) > 0);
    }
    let mut layers = Layers::new(&[]).unwrap();
    if layers.parse(bytes, "fuzz").is_ok()
        && let Ok(resolved) = layers.resolve()
    {
        let mut again = Layers::new(&[]).unwrap();
        again.parse(resolved.to_toml().as_bytes(), "again").unwrap();
        assert_eq!(format!("{:?}", again.resolve().unwrap().settings), format!("{:?}", resolved.settings));
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = ChatTemplate::new(text, "<s>", "</s>");
    }
});
