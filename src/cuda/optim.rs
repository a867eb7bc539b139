//! Clipping, AdamW and Adafactor on the GPU: launches.

use super::Cuda;
use super::launch::{Arg, DTYPES, Kernel, Launch, shape};
use crate::ops::optim::{
    AdamState, CLIP_CHUNK, FACTOR_HEAD, FACTOR_TILE, FactorState, Master, Optim, Second, clip_scratch,
};
use crate::tensor::{DType, Tensor};

// Dtypes of weights and gradients, by form: where the f32 values of the weights are.
const WEIGHTS: &[&str] = &["f32_f32"];
const PLAIN: &[&str] = &["bf16_f32", "bf16_bf16", "f16_f32", "f16_f16"];
const HALF: &[&str] = &["bf16_f32", "bf16_bf16"];
const ALL: &[&str] = &["f32_f32", "bf16_f32", "bf16_bf16", "f16_f32", "f16_f16"];

// Parameters of the AdamW kernels, by what lies beside the weights and what the moments are.
const ADAMW_F32_F32: &str = "w: *mut T, beside: *mut f32, m: *mut f32, v: *mut f32, g: *const U, clip: *const f32, \
    numbers: *const f32, n: i64, first: u64";
const ADAMW_F32_BF16: &str = "w: *mut T, beside: *mut f32, m: *mut bf16, v: *mut bf16, g: *const U, clip: *const f32, \
    numbers: *const f32, n: i64, first: u64";
const ADAMW_U16_F32: &str = "w: *mut T, beside: *mut u16, m: *mut f32, v: *mut f32, g: *const U, clip: *const f32, \
    numbers: *const f32, n: i64, first: u64";
const ADAMW_U16_BF16: &str = "w: *mut T, beside: *mut u16, m: *mut bf16, v: *mut bf16, g: *const U, clip: *const f32, \
    numbers: *const f32, n: i64, first: u64";
// Of the Adafactor kernels that change weights.
const UPDATE_F32: &str = "w: *mut T, beside: *mut f32, g: *const U, head: *const f32, row_moments: *const f32, \
    col_moments: *const f32, clip: *const f32, numbers: *const f32, rows: i32, cols: i32, first: u64";
const UPDATE_U16: &str = "w: *mut T, beside: *mut u16, g: *const U, head: *const f32, row_moments: *const f32, \
    col_moments: *const f32, clip: *const f32, numbers: *const f32, rows: i32, cols: i32, first: u64";
const VECTOR_F32: &str = "w: *mut T, beside: *mut f32, moments: *mut f32, g: *const U, clip: *const f32, \
    numbers: *const f32, n: i32, first: u64, relative: i32";
const VECTOR_U16: &str = "w: *mut T, beside: *mut u16, moments: *mut f32, g: *const U, clip: *const f32, \
    numbers: *const f32, n: i32, first: u64, relative: i32";

const fn kernel(name: &'static str, variants: &'static [&'static str], params: &'static str) -> Kernel {
    Kernel { name, variants, threads: 256, params }
}

const fn large(name: &'static str, variants: &'static [&'static str], params: &'static str) -> Kernel {
    Kernel { name, variants, threads: 1024, params }
}

/// The kernels of this family. Those that come in forms lie in the order of [`form`]; of AdamW first those with f32
/// moments, then those with bf16.
pub(super) static KERNELS: [Kernel; 21] = [
    kernel("adamw_weights_f32", WEIGHTS, ADAMW_F32_F32),
    kernel("adamw_plain_f32", PLAIN, ADAMW_F32_F32),
    kernel("adamw_remainder_f32", HALF, ADAMW_U16_F32),
    kernel("adamw_stochastic_f32", HALF, ADAMW_U16_F32),
    kernel("adamw_weights_bf16", WEIGHTS, ADAMW_F32_BF16),
    kernel("adamw_plain_bf16", PLAIN, ADAMW_F32_BF16),
    kernel("adamw_remainder_bf16", HALF, ADAMW_U16_BF16),
    kernel("adamw_stochastic_bf16", HALF, ADAMW_U16_BF16),
    kernel("adafactor_update_weights", WEIGHTS, UPDATE_F32),
    kernel("adafactor_update_plain", PLAIN, UPDATE_F32),
    kernel("adafactor_update_remainder", HALF, UPDATE_U16),
    kernel("adafactor_update_stochastic", HALF, UPDATE_U16),
    large("adafactor_vector_weights", WEIGHTS, VECTOR_F32),
    large("adafactor_vector_plain", PLAIN, VECTOR_F32),
    large("adafactor_vector_remainder", HALF, VECTOR_U16),
    large("adafactor_vector_stochastic", HALF, VECTOR_U16),
    kernel("clip_sums", DTYPES, "partials: *mut u32, g: *const T, n: i64"),
    large(
        "clip_factor",
        &[""],
        "out: *mut f32, partials: *const u32, unscale: *const f32, count: i32, max_norm: f32",
    ),
    kernel(
        "adafactor_sums",
        DTYPES,
        "row_sums: *mut f32, col_sums: *mut f32, head: *mut u32, g: *const T, clip: *const f32, rows: i32, cols: i32",
    ),
    kernel(
        "adafactor_factors",
        &[""],
        "row_moments: *mut f32, col_moments: *mut f32, head: *mut f32, row_sums: *const f32, col_sums: *const f32, \
         clip: *const f32, numbers: *const f32, rows: i32, cols: i32",
    ),
    kernel(
        "adafactor_moves",
        ALL,
        "head: *mut f32, partials: *mut u32, w: *const T, g: *const U, row_moments: *const f32, \
         col_moments: *const f32, clip: *const f32, numbers: *const f32, rows: i32, cols: i32, relative: i32",
    ),
];
const ADAMW: usize = 0;
const UPDATE: usize = 8;
const VECTOR: usize = 12;
const CLIP_SUMS: usize = 16;
const CLIP_FACTOR: usize = 17;
const SUMS: usize = 18;
const FACTORS: usize = 19;
const MOVES: usize = 20;

/// Place of a form's kernel among those of all forms.
fn form(master: Master) -> usize {
    match master {
        Master::Weights => 0,
        Master::Plain(_) => 1,
        Master::Remainder(_) => 2,
        Master::Stochastic => 3,
    }
}

/// Elements that a thread of an AdamW kernel has: 16 bytes of the largest array.
fn group(state: &AdamState, grads: Tensor) -> usize {
    let small = [state.weights, state.m, grads].iter().all(|x| x.dtype().size() == 2);
    if small && !matches!(state.master, Master::Plain(_)) { 8 } else { 4 }
}

fn variant(weights: Tensor, grads: Tensor) -> String {
    format!("{}_{}", weights.dtype().name(), grads.dtype().name())
}

fn i32_of(n: usize) -> i32 {
    i32::try_from(n).unwrap_or_else(|_| panic!("{n} is more than a kernel counts to"))
}

/// Where a tensor of whatever type begins: scratch of f32 that holds something else.
fn raw(x: Tensor) -> Arg {
    Arg::Ptr { addr: x.addr() as u64, dtype: None }
}

impl Optim for Cuda {
    fn clip(&self, out: Tensor, grads: Tensor, max_norm: f32, unscale: Tensor, scratch: Tensor) {
        shape!(out, 1, 2);
        shape!(unscale, 1, 1);
        let n = grads.cols();
        shape!(grads, 1, n);
        assert!(
            scratch.len() >= clip_scratch(n) && scratch.dtype() == DType::F32,
            "scratch {scratch:?} for {n} gradients"
        );
        let chunks = i32_of(n.div_ceil(CLIP_CHUNK));
        if n > 0 {
            let args = [raw(scratch), grads.into(), (n as i64).into()];
            self.launch(&KERNELS[CLIP_SUMS], grads.dtype().name(), Launch::new(chunks as u32, 256), &args);
        }
        let args = [out.into(), raw(scratch), unscale.into(), chunks.into(), max_norm.into()];
        self.launch(&KERNELS[CLIP_FACTOR], "", Launch::new(1, 1024), &args);
    }

    fn adamw(&self, state: &AdamState, grads: Tensor, clip: Tensor, numbers: Tensor) {
        state.check(grads, clip, numbers);
        let &AdamState { weights, master, m, v, first } = state;
        let n = grads.cols();
        if n == 0 {
            return;
        }
        let args = [
            weights.into(),
            master.beside().into(),
            m.into(),
            v.into(),
            grads.into(),
            clip.into(),
            numbers.into(),
            (n as i64).into(),
            first.into(),
        ];
        let kernel = &KERNELS[ADAMW + 4 * usize::from(m.dtype() == DType::BF16) + form(master)];
        let blocks = n.div_ceil(256 * group(state, grads));
        self.launch(kernel, &variant(weights, grads), Launch::new(i32_of(blocks) as u32, 256), &args);
    }

    fn adafactor(
        &self,
        state: &FactorState,
        grads: Tensor,
        clip: Tensor,
        numbers: Tensor,
        relative: bool,
        scratch: Tensor,
    ) {
        state.check(grads, clip, numbers, scratch);
        let &FactorState { weights, master, second, first } = state;
        let (n, m) = (weights.rows(), weights.cols());
        if weights.is_empty() {
            return;
        }
        let (form, variant) = (form(master), variant(weights, grads));
        let relative = i32::from(relative);
        let (rows, cols) = match second {
            Second::Factored { rows, cols } => (rows, cols),
            Second::Full(v) => {
                let args = [
                    weights.into(),
                    master.beside().into(),
                    v.into(),
                    grads.into(),
                    clip.into(),
                    numbers.into(),
                    i32_of(m).into(),
                    first.into(),
                    relative.into(),
                ];
                return self.launch(&KERNELS[VECTOR + form], &variant, Launch::new(1, 1024), &args);
            }
        };
        let (down, across) = (n.div_ceil(FACTOR_TILE.0), m.div_ceil(FACTOR_TILE.1));
        let tiles = Launch::new(i32_of(down * across) as u32, 256);
        let scratch = scratch.reshape(1, scratch.len());
        let mut at = 0;
        let [head, row_sums, col_sums, partials] = [FACTOR_HEAD, n * across, down * m, 4 * down * across]
            .map(|len| {
                at += len;
                scratch.slice_cols(at - len..at)
            });
        let (clip, numbers, shape): (Arg, Arg, [Arg; 2]) =
            (clip.into(), numbers.into(), [i32_of(n).into(), i32_of(m).into()]);
        let args = [row_sums.into(), col_sums.into(), raw(head), grads.into(), clip, shape[0], shape[1]];
        self.launch(&KERNELS[SUMS], grads.dtype().name(), tiles, &args);
        let args = [
            rows.into(),
            cols.into(),
            head.into(),
            row_sums.into(),
            col_sums.into(),
            clip,
            numbers,
            shape[0],
            shape[1],
        ];
        let lines = i32_of((n + m).div_ceil(256)) as u32;
        self.launch(&KERNELS[FACTORS], "", Launch::new(lines, 256), &args);
        let args = [
            head.into(),
            raw(partials),
            weights.into(),
            grads.into(),
            rows.into(),
            cols.into(),
            clip,
            numbers,
            shape[0],
            shape[1],
            relative.into(),
        ];
        self.launch(&KERNELS[MOVES], &variant, tiles, &args);
        let args = [
            weights.into(),
            master.beside().into(),
            grads.into(),
            head.into(),
            rows.into(),
            cols.into(),
            clip,
            numbers,
            shape[0],
            shape[1],
            first.into(),
        ];
        self.launch(&KERNELS[UPDATE + form], &variant, tiles, &args);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_where_their_names_say() {
        let x = Tensor::new(0, DType::F32, 1, 1);
        let masters = [Master::Weights, Master::Plain(x), Master::Remainder(x), Master::Stochastic];
        for (master, name) in masters.into_iter().zip(["weights", "plain", "remainder", "stochastic"]) {
            for (base, prefix, suffix) in [
                (ADAMW, "adamw_", "_f32"),
                (ADAMW + 4, "adamw_", "_bf16"),
                (UPDATE, "adafactor_update_", ""),
                (VECTOR, "adafactor_vector_", ""),
            ] {
                assert_eq!(KERNELS[base + form(master)].name, format!("{prefix}{name}{suffix}"));
            }
        }
        let single = [CLIP_SUMS, CLIP_FACTOR, SUMS, FACTORS, MOVES].map(|i| KERNELS[i].name);
        assert_eq!(
            single,
            ["clip_sums", "clip_factor", "adafactor_sums", "adafactor_factors", "adafactor_moves"]
        );
    }

    #[test]
    fn a_thread_has_sixteen_bytes_of_its_largest_array() {
        let of = |dtype| Tensor::new(0, dtype, 1, 64);
        let state = |weights, master, moments| AdamState {
            weights: of(weights),
            master,
            m: of(moments),
            v: of(moments),
            first: 0,
        };
        let (f32, bf16) = (DType::F32, DType::BF16);
        let rest = Master::Remainder(of(DType::U16));
        assert_eq!(group(&state(bf16, rest, bf16), of(bf16)), 8);
        assert_eq!(group(&state(bf16, Master::Stochastic, bf16), of(bf16)), 8);
        for (master, moments, grads) in [
            (rest, f32, bf16),
            (rest, bf16, f32),
            (Master::Plain(of(f32)), bf16, bf16),
            (Master::Stochastic, f32, bf16),
        ] {
            assert_eq!(group(&state(bf16, master, moments), of(grads)), 4);
        }
        assert_eq!(group(&state(f32, Master::Weights, bf16), of(f32)), 4);
    }
}
