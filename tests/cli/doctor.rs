//! `flanrt doctor` and `--device`: with no GPU, with one that cannot be used, with one.

use super::support::{Place, Run, tiny_model};
use flanrt_emulator::{Mode, available, folder};
use serde_json::Value;

/// The findings on a machine with these variables.
fn doctor(place: &Place, env: &[(&str, &str)]) -> Value {
    let run = |args: &[&str]| {
        let mut command = place.command(args);
        command.envs(env.iter().copied());
        Run::of(command).ok()
    };
    let shown = run(&["doctor"]).out;
    let found = run(&["doctor", "--json"]).json();
    assert!(shown.contains("cpu x") && shown.contains("GB/s"), "{shown}");
    assert!(found["cpu"]["rates"]["copy_gb_s"].as_f64() > Some(0.0), "{found}");
    assert!(found["cpu"]["rates"]["matmul_tflops"].as_f64() > Some(0.0), "{found}");
    for text in [&found["cuda"]["unavailable"]["reason"], &found["cuda"]["gpus"][0]["unusable"]["reason"]] {
        assert!(text.as_str().is_none_or(|text| shown.contains(text)), "{shown}\n{found}");
    }
    found
}

/// The folder of the emulated driver, if there is one.
fn emulated() -> Option<String> {
    match available() {
        Ok(()) => Some(folder(Mode::Plain).to_str().unwrap().to_owned()),
        Err(why) => {
            println!("skipped: no emulated CUDA driver: {why}");
            None
        }
    }
}

#[test]
fn without_a_gpu_it_says_why() {
    let found = doctor(&Place::new(), &[("CUDA_VISIBLE_DEVICES", "")]);
    assert_eq!(found["cuda"]["gpus"], Value::Array(Vec::new()));
    assert!(
        found["cuda"]["unavailable"]["reason"].is_string() && found["cuda"]["unavailable"]["fix"].is_string()
    );
    assert!(found["cuda"]["images"].as_array().unwrap().iter().any(|stem| stem == "matmul"), "{found}");
}

#[test]
fn a_gpu_is_measured() {
    let Some(driver) = emulated() else { return };
    let found = doctor(&Place::new(), &[("LD_LIBRARY_PATH", &driver)]);
    let gpu = &found["cuda"]["gpus"][0];
    assert_eq!((&gpu["capability"], &gpu["index"]), (&90.into(), &0.into()), "{found}");
    assert!(gpu["free"].as_u64() <= gpu["memory"].as_u64() && gpu["free"].as_u64() > Some(0), "{found}");
    assert!(gpu["rates"]["copy_gb_s"].as_f64() > Some(0.0), "{found}");
    assert!(gpu["rates"]["matmul_tflops"].as_f64() > Some(0.0), "{found}");
    assert_eq!(gpu["rates"]["matmul_dtype"], "bf16");
    assert!(found["cuda"]["unavailable"].is_null() && found["cuda"]["driver"].as_u64() >= Some(12080));
}

#[test]
fn a_gpu_that_cannot_be_used_is_named_and_the_cpu_taken() {
    let Some(driver) = emulated() else { return };
    let place = Place::new();
    let old = [("LD_LIBRARY_PATH", driver.as_str()), ("EMU_CC", "75")];
    let found = doctor(&place, &old);
    let reason = found["cuda"]["gpus"][0]["unusable"]["reason"].as_str().unwrap();
    assert!(reason.contains("7.5") && reason.contains("8.0"), "{reason}");
    tiny_model(&place.path("m"));
    place.write("t.txt", "abc def");
    let score = |device: &str| {
        let mut command = place.command(&["score", "m", "--text", "t.txt", "--device", device]);
        command.envs(old);
        Run::of(command)
    };
    let auto = score("auto").ok();
    assert!(auto.err.contains("the GPU is not used") && auto.err.contains(reason), "{}", auto.err);
    assert!(!score("cpu").ok().err.contains("GPU"));
    assert!(score("cuda").fails(8).err.contains("7.5"));
    assert!(score("cuda:5").fails(8).err.contains("there is no GPU 5"));
}

#[test]
fn devices_that_do_not_exist_are_wrong_usage() {
    let place = Place::new();
    tiny_model(&place.path("m"));
    place.write("t.txt", "abc def");
    for device in ["gpu", "cuda:", "cuda:x", "cuda:-1", ""] {
        let run = place.run(&["score", "m", "--text", "t.txt", "--device", device]).fails(2);
        assert!(run.err.contains("unknown device") && run.err.contains("cuda:N"), "{}", run.err);
    }
}
