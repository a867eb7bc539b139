//! The same bits on every vector width: this test binary runs itself with `FLANRT_SIMD` set and compares digests.

use crate::harness::{DTYPES, Dense, Stand, Strided};
use crate::{attention, elem, embed, glu, loss, matmul, norm, optim, rope};
use flanrt::cpu::Cpu;
use flanrt::ops::Device;
use flanrt::tensor::{DType, Tensor};
use std::process::Command;

/// Set for the children: print the digests instead of comparing them.
const CHILD: &str = "FLANRT_TEST_DIGESTS";

/// A name and a digest for every op and dtype. Small: software fused multiply-adds take their time.
fn digests() -> Vec<String> {
    let cpu: &dyn Device = &Cpu::new(2).expect("threads");
    let mut out = vec![format!("device {}", cpu.name())];
    let mut digest = |what: &str, dtype: DType, op: &dyn Fn(&Stand) -> Vec<Tensor>| {
        let stand = Stand::new(cpu, true);
        let mut hash = blake3::Hasher::new();
        for x in op(&stand) {
            hash.update(&stand.bits(x));
        }
        out.push(format!("digest {what} {} {}", dtype.name(), hash.finalize().to_hex()));
    };
    for dtype in DTYPES {
        digest("elem", dtype, &|s| elem::gather_scatter(s, Strided, dtype, 31, 33));
        digest("embed", dtype, &|s| embed::case(s, Dense, dtype, 31, 33, 7));
        digest("glu", dtype, &|s| glu::case(s, Strided, dtype, 31, 33, false));
        digest("norm", dtype, &|s| norm::case(s, Strided, dtype, (65, 31, 3), norm::Into::FreshPlus));
        digest("gelu", dtype, &|s| glu::gelu_case(s, Strided, dtype, 31, 33, glu::Over::Dy));
        let into = norm::Into::FreshPlus;
        digest("layer_norm", dtype, &|s| norm::layer_case(s, Strided, (dtype, dtype), (65, 31), into));
        digest("rope", dtype, &|s| rope::case(s, Strided, dtype, 31, 3, 10));
        let kept = if dtype == DType::F32 { optim::Kept::Weights } else { optim::Kept::Plain(dtype) };
        digest("adamw", dtype, &|s| optim::steps(s, kept, dtype, 1023));
        digest("adafactor", dtype, &|s| optim::factored_steps(s, kept, dtype, (31, 33), true));
        for form in matmul::FORMS {
            for size in [(37, 45, 301), (3, 35, 4101)] {
                let then = matmul::Then::InPlace;
                digest("matmul", dtype, &|s| matmul::case(s, Strided, (dtype, dtype), form, size, then));
            }
        }
        let case = loss::Case { r: 5, d: 31, v: 1123, chunk: 3, spread: 3.0 };
        digest("loss", dtype, &|s| loss::run(s, Dense, dtype, case));
        for case in [4, 8] {
            digest("attention", dtype, &|s| attention::check(s, dtype, attention::CASES[case]));
        }
    }
    out
}

#[test]
fn every_vector_width_gives_the_same_bits() {
    if std::env::var_os(CHILD).is_some() {
        println!("\n{}", digests().join("\n"));
        return;
    }
    let levels = ["avx512", "avx2", "plain"].map(|level| {
        let child = Command::new(std::env::current_exe().expect("the path of this test"))
            .args(["vectors::every_vector_width_gives_the_same_bits", "--exact", "--nocapture"])
            .envs([(CHILD, "1"), ("FLANRT_SIMD", level)])
            .output()
            .expect("this test, once more");
        assert!(child.status.success(), "{level}: {}", String::from_utf8_lossy(&child.stderr));
        let text = String::from_utf8(child.stdout).expect("text");
        let lines =
            |start| text.lines().filter(|l| l.starts_with(start)).map(String::from).collect::<Vec<_>>();
        (level, lines("device ").concat(), lines("digest "))
    });
    let (_, _, widest) = &levels[0];
    assert_eq!(widest.len(), 3 * 18);
    for (level, device, digests) in &levels {
        if !device.contains(level) && *level != "plain" {
            println!("skipped: this machine has no {level} ({device})");
        }
        assert_eq!(digests, widest, "{level} ({device})");
    }
    let (_, plain, _) = &levels[2];
    assert!(!plain.contains("avx"), "FLANRT_SIMD=plain ran on {plain}");
}
