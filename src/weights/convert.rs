//! Element conversion between f32, f16 and bf16 in any direction, and the search for NaN and infinity.
//!
//! Works on bytes, because tensors in a file start at any address. Rounding is to nearest, ties to even; an f32 too
//! large for f16 becomes infinite. The result does not depend on the number of threads.

use crate::tensor::DType;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

/// Elements converted at a time, in buffers on the stack.
const BLOCK: usize = 1024;
/// Elements per unit of parallel work: enough to pay for handing it out.
const CHUNK: usize = 64 * BLOCK;
const WHOLE: &str = "whole numbers are not weights";

/// Writes the elements of `src`, stored as `from`, as `to` into `out`. Both must hold equally many elements.
pub fn convert_bytes(src: &[u8], from: DType, to: DType, out: &mut [u8]) {
    assert!(
        src.len().is_multiple_of(from.size()) && src.len() / from.size() * to.size() == out.len(),
        "convert: {} bytes of {from:?} into {} bytes of {to:?}",
        src.len(),
        out.len()
    );
    let chunks = out.par_chunks_mut(CHUNK * to.size()).zip(src.par_chunks(CHUNK * from.size()));
    chunks.for_each(|(out, src)| {
        if from == to {
            return out.copy_from_slice(src);
        }
        for (out, src) in out.chunks_mut(BLOCK * to.size()).zip(src.chunks(BLOCK * from.size())) {
            let mut wide = [0f32; BLOCK];
            let wide = &mut wide[..src.len() / from.size()];
            widen(src, from, wide);
            narrow(wide, to, out);
        }
    });
}

fn widen(src: &[u8], from: DType, wide: &mut [f32]) {
    match from {
        DType::F32 => bytemuck::cast_slice_mut(wide).copy_from_slice(src),
        DType::F16 => {
            let mut halves = [f16::ZERO; BLOCK];
            let halves = &mut halves[..wide.len()];
            bytemuck::cast_slice_mut(halves).copy_from_slice(src);
            halves.convert_to_f32_slice(wide);
        }
        DType::BF16 => {
            let mut halves = [bf16::ZERO; BLOCK];
            let halves = &mut halves[..wide.len()];
            bytemuck::cast_slice_mut(halves).copy_from_slice(src);
            halves.convert_to_f32_slice(wide);
        }
        DType::U32 | DType::U16 => panic!("{WHOLE}"),
    }
}

fn narrow(wide: &[f32], to: DType, out: &mut [u8]) {
    match to {
        DType::F32 => out.copy_from_slice(bytemuck::cast_slice(wide)),
        DType::F16 => {
            let mut halves = [f16::ZERO; BLOCK];
            let halves = &mut halves[..wide.len()];
            halves.convert_from_f32_slice(wide);
            out.copy_from_slice(bytemuck::cast_slice(halves));
        }
        DType::BF16 => {
            let mut halves = [bf16::ZERO; BLOCK];
            let halves = &mut halves[..wide.len()];
            halves.convert_from_f32_slice(wide);
            out.copy_from_slice(bytemuck::cast_slice(halves));
        }
        DType::U32 | DType::U16 => panic!("{WHOLE}"),
    }
}

/// The index of the first element of `bytes` that is NaN or infinite: all bits of its exponent are set.
pub fn find_non_finite(bytes: &[u8], dtype: DType) -> Option<usize> {
    let (size, exponent) = match dtype {
        DType::F32 => (4, 0x7F80_0000),
        DType::F16 => (2, 0x7C00),
        DType::BF16 => (2, 0x7F80),
        DType::U32 | DType::U16 => panic!("{WHOLE}"),
    };
    let index_in = |chunk: &[u8]| match size {
        4 => chunk.chunks_exact(4).position(|b| {
            let bits = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            bits & exponent == exponent
        }),
        _ => chunk.chunks_exact(2).position(|b| {
            let bits = u32::from(u16::from_le_bytes([b[0], b[1]]));
            bits & exponent == exponent
        }),
    };
    // A whole block is looked at without a branch first, which the compiler turns into vector code.
    let any_in = |block: &[u8]| match size {
        4 => block.chunks_exact(4).fold(false, |any, b| {
            any | (u32::from_le_bytes([b[0], b[1], b[2], b[3]]) & exponent == exponent)
        }),
        _ => block
            .chunks_exact(2)
            .fold(false, |any, b| any | (u32::from(u16::from_le_bytes([b[0], b[1]])) & exponent == exponent)),
    };
    let bad = bytes.par_chunks(BLOCK * size).with_min_len(CHUNK / BLOCK).position_first(any_in)?;
    Some(bad * BLOCK + index_in(&bytes[bad * BLOCK * size..])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use DType::{BF16, F16, F32};

    fn run(src: &[u8], from: DType, to: DType) -> Vec<u8> {
        let mut out = vec![0xAA; src.len() / from.size() * to.size()];
        convert_bytes(src, from, to, &mut out);
        out
    }
    fn le(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }
    fn bits16(bytes: &[u8]) -> Vec<u16> {
        bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect()
    }

    /// The value that 16 bits mean, in f64, from the definition of the format.
    fn value(bits: u16, mantissa: i32, bias: i32) -> f64 {
        let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
        let exponent = i32::from((bits & 0x7FFF) >> mantissa);
        let fraction = f64::from(bits & ((1 << mantissa) - 1));
        let scale = f64::from(mantissa);
        match exponent {
            0 => sign * fraction * 2f64.powf(f64::from(1 - bias) - scale),
            e if e == (1 << (15 - mantissa)) - 1 => {
                if fraction == 0.0 {
                    sign * f64::INFINITY
                } else {
                    f64::NAN
                }
            }
            e => sign * (1.0 + fraction * 2f64.powf(-scale)) * 2f64.powi(e - bias),
        }
    }

    #[test]
    fn every_16_bit_value_widens_to_its_meaning_and_comes_back() {
        let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for (dtype, mantissa, bias) in [(F16, 10, 15), (BF16, 7, 127)] {
            let wide = run(&all, dtype, F32);
            let floats = wide.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
            for (bits, float) in (0..=u16::MAX).zip(floats) {
                let want = value(bits, mantissa, bias);
                assert!(f64::from(float) == want || float.is_nan() && want.is_nan(), "{dtype:?} {bits:#06x}");
            }
            for (bits, back) in (0..=u16::MAX).zip(bits16(&run(&wide, F32, dtype))) {
                let nan = value(bits, mantissa, bias).is_nan();
                assert!(
                    bits == back || nan && value(back, mantissa, bias).is_nan(),
                    "{bits:#06x} {back:#06x}"
                );
            }
        }
    }

    #[test]
    fn rounding_is_to_nearest_even_and_overflow_is_infinite() {
        // Ties and their neighbours around 1.0: bf16 has steps of 2^-7, f16 of 2^-10.
        let step = |n: f32, k: i32| 1.0 + n * 2f32.powi(-k);
        let src = le(&[step(0.5, 7), step(1.5, 7), step(0.5, 7) + f32::EPSILON, 3.4e38, 1e-45, -0.0]);
        assert_eq!(bits16(&run(&src, F32, BF16)), [0x3F80, 0x3F82, 0x3F81, 0x7F80, 0, 0x8000]);
        let src = le(&[step(0.5, 10), step(1.5, 10), 65504.0, 65519.0, 65520.0, -1e6, 2f32.powi(-25)]);
        assert_eq!(bits16(&run(&src, F32, F16)), [0x3C00, 0x3C02, 0x7BFF, 0x7BFF, 0x7C00, 0xFC00, 0]);
        assert_eq!(bits16(&run(&0x7BFFu16.to_le_bytes(), F16, BF16)), [0x4780]); // 65504 -> 65536
    }

    #[test]
    fn long_unaligned_tensors_equal_element_by_element() {
        let n = 2 * CHUNK + BLOCK + 3;
        let values: Vec<f32> =
            (0..n).map(|i| ((i as f32) * 0.37).sin() * 2f32.powi(i as i32 % 40 - 20)).collect();
        let mut src = vec![0u8];
        src.extend(le(&values));
        for to in [F16, BF16, F32] {
            let out = run(&src[1..], F32, to);
            for (i, v) in values.iter().enumerate() {
                let got = &out[i * to.size()..][..to.size()];
                match to {
                    F32 => assert_eq!(got, v.to_le_bytes()),
                    F16 => assert_eq!(got, f16::from_f32_const(*v).to_le_bytes()),
                    BF16 => assert_eq!(got, bf16::from_f32_const(*v).to_le_bytes()),
                    DType::U32 | DType::U16 => unreachable!("{WHOLE}"),
                }
            }
        }
    }

    #[test]
    fn the_first_non_finite_element_is_found() {
        let n = 3 * CHUNK + 5;
        let clean = le(&vec![3.0e38; n]);
        assert_eq!(find_non_finite(&clean, F32), None);
        assert_eq!(find_non_finite(&[], F32), None);
        for at in [0, 1, BLOCK, CHUNK + 7, n - 1] {
            for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut bytes = clean.clone();
                bytes[at * 4..][..4].copy_from_slice(&bad.to_le_bytes());
                bytes[(n - 1) * 4..].copy_from_slice(&f32::NAN.to_le_bytes());
                assert_eq!(find_non_finite(&bytes, F32), Some(at));
            }
        }
        // The two 16-bit formats differ in what is an exponent: 0x7C00 is infinite in f16, 2.6e36 in bf16.
        let bytes: Vec<u8> = [0x7BFFu16, 0x7C00, 0x7F80].iter().flat_map(|b| b.to_le_bytes()).collect();
        assert_eq!(find_non_finite(&bytes, F16), Some(1));
        assert_eq!(find_non_finite(&bytes, BF16), Some(2));
    }
}
