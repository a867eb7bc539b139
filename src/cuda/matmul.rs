//! Matrix products: which kernel makes one, in which tiles.
//!
//! Two ways of summing exist: on tensor cores, for 16-bit operands that lie on 16-byte boundaries, and with fused
//! multiply-adds for everything else. Which one it is follows from the operands' dtypes, addresses and strides, never from
//! their number of rows, and tiles differ in speed alone: a row has the same bits in every batch.

use super::Cuda;
use super::launch::{Arg, HALVES, Kernel, Launch, shape};
use crate::ops::matmul::{Activation, Epilogue, Form, Matmul};
use crate::tensor::{DType, Tensor};

/// An output tile of the tensor-core kernels, as in `matmul.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tile {
    Skinny,
    Small,
    Medium,
    Large,
}

impl Tile {
    /// Rows and columns.
    pub(super) fn size(self) -> (usize, usize) {
        match self {
            Self::Skinny => (16, 64),
            Self::Small => (64, 64),
            Self::Medium => (128, 128),
            Self::Large => (128, 256),
        }
    }

    /// Bytes of shared memory: stages of `inner` elements of two bytes of both operands.
    pub(super) fn shared(self) -> usize {
        let (inner, stages) = match self {
            Self::Skinny => (64, 6),
            Self::Small => (64, 3),
            Self::Medium => (32, 3),
            Self::Large => (32, 4),
        };
        let (m, n) = self.size();
        stages * (m + n) * inner * 2
    }

    /// Tiles of an `[m, n]` output.
    pub(super) fn count(self, m: usize, n: usize) -> usize {
        m.div_ceil(self.size().0) * n.div_ceil(self.size().1)
    }

    /// The tile that is expected to be fastest: rounds of one tile a multiprocessor, times what a round costs. Small tiles
    /// read their operands more often.
    fn choose(form: Form, m: usize, n: usize, sms: usize) -> Self {
        if form == Form::NT && m <= Self::Skinny.size().0 {
            return Self::Skinny;
        }
        let cost = |tile: &Self| {
            let area = tile.size().0 * tile.size().1;
            let percent = match tile {
                Self::Large => 100,
                Self::Medium => 112,
                _ => 160,
            };
            tile.count(m, n).div_ceil(sms) * area * percent
        };
        [Self::Large, Self::Medium, Self::Small].into_iter().min_by_key(cost).unwrap()
    }

    fn kernel(self, form: Form) -> &'static Kernel {
        let first = match form {
            Form::NT => 0,
            Form::NN => 3,
            Form::TN => 6,
        };
        assert!(self != Self::Skinny || form == Form::NT, "no skinny {form:?}");
        &KERNELS[first + self as usize]
    }
}

/// Inner elements that each part of a product sums: all of them, or for a weight's gradient, whose inner dimension is the
/// tokens and whose output may be too small to keep a GPU busy, a share. A sum's order depends on this, so it does not
/// depend on the GPU. `workspace`: bytes for the parts.
fn part(form: Form, (m, n, k): (usize, usize, usize), workspace: usize) -> usize {
    const BLOCKS: usize = 256;
    const LEAST: usize = 512;
    let most = (BLOCKS / Tile::Medium.count(m, n)).min(k / LEAST).min(workspace / (4 * m * n));
    match form {
        Form::TN if most > 1 => k.div_ceil(most).next_multiple_of(64),
        _ => k.max(1),
    }
}

/// Whether tensor cores can read it: units of 16 bytes.
pub(super) fn in_units(x: Tensor) -> bool {
    x.addr().is_multiple_of(16) && x.stride().is_multiple_of(8)
}

/// Whether the tensor-core kernels take these dtypes and places.
fn on_tensor_cores(y: Tensor, a: Tensor, b: Tensor, epilogue: &Epilogue) -> bool {
    let dtype = a.dtype();
    let fits = |x: Tensor| x.dtype() == dtype || x.dtype() == DType::F32;
    matches!(dtype, DType::BF16 | DType::F16)
        && b.dtype() == dtype
        && fits(y)
        && epilogue.bias.is_none_or(fits)
        && epilogue.plus.is_none_or(|plus| plus.dtype() == y.dtype())
        && in_units(a)
        && in_units(b)
}

/// `x` as arguments for a parameter of 16 bits and one of f32: one of them is null.
fn either(x: Option<Tensor>) -> [Arg; 2] {
    let wide = |x: &Tensor| x.dtype() == DType::F32;
    [x.filter(|x| !wide(x)).into(), x.filter(wide).into()]
}

/// `Activation` of `matmul.cu`.
fn activation(a: Option<Activation>) -> Arg {
    Arg::I32(match a {
        None => 0,
        Some(Activation::Gelu) => 1,
        Some(Activation::Silu) => 2,
    })
}

/// What the kernels call `OUTPUTS`.
fn outputs(y: Tensor, epilogue: &Epilogue) -> [Arg; 9] {
    let ([y16, y32], [bias16, bias32], [plus16, plus32]) =
        (either(Some(y)), either(epilogue.bias), either(epilogue.plus));
    let plus_stride = epilogue.plus.map_or(0, |plus| plus.stride() as i64);
    [
        y16,
        y32,
        Arg::I64(y.stride() as i64),
        bias16,
        bias32,
        plus16,
        plus32,
        Arg::I64(plus_stride),
        activation(epilogue.activation),
    ]
}

/// Sizes are below 2^31, as the kernels count.
pub(super) fn int(x: usize) -> Arg {
    Arg::I32(x.try_into().expect("a dimension below 2^31"))
}

/// Blocks of a launch.
pub(super) fn blocks(n: usize) -> u32 {
    n.try_into().expect("blocks below 2^32")
}

impl Cuda {
    fn tensor_core_product(
        &self,
        (y, epilogue): (Tensor, &Epilogue),
        a: Tensor,
        b: Tensor,
        form: Form,
        (m, n, k): (usize, usize, usize),
    ) {
        let (sums, bytes) = self.workspace();
        let part = part(form, (m, n, k), bytes);
        let parts = k.div_ceil(part).max(1);
        let tile = if parts > 1 { Tile::Medium } else { Tile::choose(form, m, n, self.sms() as usize) };
        let kernel = tile.kernel(form);
        let how = Launch {
            grid: [blocks(tile.count(m, n)), blocks(parts), 1],
            block: kernel.threads,
            shared: tile.shared() as u32,
        };
        let dtype = a.dtype().name();
        let sums = Tensor::new(sums as usize, DType::F32, m, n);
        let first = if parts > 1 { outputs(sums, &Epilogue::NONE) } else { outputs(y, epilogue) };
        let operands = [a.into(), Arg::I64(a.stride() as i64), b.into(), Arg::I64(b.stride() as i64)];
        let sizes = [int(m), int(n), int(k), int(part)];
        self.launch(kernel, dtype, how, &[&first[..], &operands, &sizes].concat());
        if parts > 1 {
            let how = Launch::new(blocks((m * n.div_ceil(8)).div_ceil(256)), 256);
            let rest = [sums.into(), int(parts), int(m), int(n)];
            self.launch(&SPLIT_SUM, dtype, how, &[&outputs(y, epilogue)[..], &rest].concat());
        }
    }

    fn plain_product(
        &self,
        (y, epilogue): (Tensor, &Epilogue),
        a: Tensor,
        b: Tensor,
        form: Form,
        (m, n, k): (usize, usize, usize),
    ) {
        // Address, dtype and strides; the kernel reads any dtype and takes addresses as those of 16-bit elements.
        let any = |x: Option<Tensor>| {
            let code = match x.map(|x| x.dtype()) {
                None | Some(DType::F32) => 0,
                Some(DType::BF16) => 1,
                Some(DType::F16) => 2,
                Some(DType::U16 | DType::U32) => panic!("indices are not numbers: {x:?}"),
            };
            [Arg::Ptr { addr: x.map_or(0, |x| x.addr() as u64), dtype: None }, Arg::I32(code)]
        };
        let ([y_ptr, y_dtype], [bias, bias_dtype]) = (any(Some(y)), any(epilogue.bias));
        let ([plus, plus_dtype], [a_ptr, a_dtype], [b_ptr, b_dtype]) =
            (any(epilogue.plus), any(Some(a)), any(Some(b)));
        let (a_row, a_inner) = if form == Form::TN { (1, a.stride()) } else { (a.stride(), 1) };
        let (b_inner, b_column) = if form == Form::NT { (1, b.stride()) } else { (b.stride(), 1) };
        let stride = |s: usize| Arg::I64(s as i64);
        let tiles = m.div_ceil(64) * n.div_ceil(64);
        self.launch(
            &PLAIN,
            "",
            Launch::new(blocks(tiles), PLAIN.threads),
            &[
                y_ptr,
                y_dtype,
                stride(y.stride()),
                bias,
                bias_dtype,
                plus,
                plus_dtype,
                stride(epilogue.plus.map_or(0, |plus| plus.stride())),
                activation(epilogue.activation),
                a_ptr,
                a_dtype,
                stride(a_row),
                stride(a_inner),
                b_ptr,
                b_dtype,
                stride(b_inner),
                stride(b_column),
                int(m),
                int(n),
                int(k),
            ],
        );
    }
}

impl Matmul for Cuda {
    fn matmul(&self, y: Tensor, a: Tensor, b: Tensor, form: Form, epilogue: Epilogue) {
        let (m, k) = if form == Form::TN { (a.cols(), a.rows()) } else { (a.rows(), a.cols()) };
        let n = if form == Form::NT { b.rows() } else { b.cols() };
        let inner = if form == Form::NT { b.cols() } else { b.rows() };
        assert_eq!(inner, k, "inner sizes of {a:?} and {b:?}, {form:?}");
        shape!(y, m, n);
        if let Some(bias) = epilogue.bias {
            shape!(bias, 1, n);
        }
        if let Some(plus) = epilogue.plus {
            shape!(plus, m, n);
        }
        if m == 0 || n == 0 {
            return;
        }
        if on_tensor_cores(y, a, b, &epilogue) {
            self.tensor_core_product((y, &epilogue), a, b, form, (m, n, k));
        } else {
            self.plain_product((y, &epilogue), a, b, form, (m, n, k));
        }
    }
}

macro_rules! outputs {
    () => {
        "y: *mut T, y_f32: *mut f32, y_stride: i64, bias: *const T, bias_f32: *const f32, plus: *const T, \
         plus_f32: *const f32, plus_stride: i64, activation: i32, "
    };
}

/// A tensor-core kernel.
const fn product(name: &'static str, threads: u32) -> Kernel {
    let params = concat!(
        outputs!(),
        "a: *const T, a_stride: i64, b: *const T, b_stride: i64, m: i32, n: i32, k: i32, k_part: i32"
    );
    Kernel { name, variants: HALVES, threads, params }
}

const SPLIT_SUM: Kernel = Kernel {
    name: "matmul_split_sum",
    variants: HALVES,
    threads: 256,
    params: concat!(outputs!(), "sums: *const f32, parts: i32, m: i32, n: i32"),
};

const PLAIN: Kernel = Kernel {
    name: "matmul_plain",
    variants: &[""],
    threads: 256,
    params: "y: *mut u16, y_dtype: i32, y_stride: i64, bias: *const u16, bias_dtype: i32, plus: *const u16, plus_dtype: i32, \
             plus_stride: i64, activation: i32, a: *const u16, a_dtype: i32, a_row: i64, a_inner: i64, b: *const u16, \
             b_dtype: i32, b_inner: i64, b_column: i64, m: i32, n: i32, k: i32",
};

/// By form and, within one, by tile.
pub(super) const KERNELS: &[Kernel] = &[
    product("matmul_nt_skinny", 128),
    product("matmul_nt_small", 128),
    product("matmul_nt_medium", 128),
    product("matmul_nt_large", 256),
    product("matmul_nn_small", 128),
    product("matmul_nn_medium", 128),
    product("matmul_nn_large", 256),
    product("matmul_tn_small", 128),
    product("matmul_tn_medium", 128),
    product("matmul_tn_large", 256),
    SPLIT_SUM,
    PLAIN,
];

#[cfg(test)]
mod tests {
    use super::*;

    const TILES: [Tile; 4] = [Tile::Skinny, Tile::Small, Tile::Medium, Tile::Large];

    #[test]
    fn tiles_and_kernels_belong_together() {
        for form in [Form::NT, Form::NN, Form::TN] {
            for tile in TILES.into_iter().filter(|&t| t != Tile::Skinny || form == Form::NT) {
                let name = format!("matmul_{form:?}_{tile:?}").to_lowercase();
                assert_eq!(tile.kernel(form).name, name);
                assert!(tile.shared() <= 99 << 10, "{tile:?} fits no GPU of 8.6, 8.9 or 12.0");
            }
        }
    }

    #[test]
    fn outputs_are_cut_to_keep_multiprocessors_busy() {
        let choose = |form, m, n| Tile::choose(form, m, n, 132);
        assert_eq!(choose(Form::NT, 1, 4096), Tile::Skinny);
        assert_eq!(choose(Form::NT, 17, 4096), Tile::Small);
        assert_eq!(choose(Form::NN, 8, 4096), Tile::Small);
        assert_eq!(choose(Form::NT, 512, 1024), Tile::Small);
        assert_eq!(choose(Form::NT, 2048, 1024), Tile::Medium);
        assert_eq!(choose(Form::NT, 8192, 4096), Tile::Large);
        assert_eq!(choose(Form::TN, 4096, 14336), Tile::Large);
    }

    #[test]
    fn only_weight_gradients_are_divided_and_whole_steps_at_a_time() {
        const MIB64: usize = 64 << 20;
        for form in [Form::NT, Form::NN] {
            assert_eq!(part(form, (768, 768, 32768), MIB64), 32768);
        }
        assert_eq!(part(Form::TN, (211, 173, 300), MIB64), 300);
        assert_eq!(part(Form::TN, (4096, 4096, 32768), MIB64), 32768);
        let divided = part(Form::TN, (768, 768, 32768), MIB64);
        assert!(divided.is_multiple_of(64) && (5..=7).contains(&32768usize.div_ceil(divided)), "{divided}");
        for k in (1..9000).step_by(37) {
            let part = part(Form::TN, (100, 60, k), MIB64);
            assert!(k.div_ceil(part) * 100 * 60 * 4 <= MIB64 && (k.div_ceil(part) - 1) * part < k);
        }
        assert_eq!(part(Form::TN, (768, 768, 32768), 768 * 768 * 4), 32768);
        assert_eq!(part(Form::NT, (1, 1, 0), MIB64), 1);
    }

    /// What decides about the order of a row's sums does not know how many rows there are.
    #[test]
    fn the_way_of_summing_does_not_depend_on_rows() {
        let at = |rows, addr, stride: usize| {
            Tensor::new(addr, DType::BF16, rows, stride).slice_cols(0..stride.min(60))
        };
        for (addr, stride, expected) in [(4096, 64, true), (4096, 60, false), (4104, 64, false)] {
            for rows in [1, 2, 500] {
                let (y, a, b) = (at(rows, 0, 60), at(rows, addr, stride), at(60, 4096, 64));
                assert_eq!(on_tensor_cores(y, a, b, &Epilogue::NONE), expected, "{addr} {stride} {rows}");
            }
        }
        for (m, k) in [(1, 4096), (16, 4096), (17, 4096), (9999, 4096)] {
            assert_eq!(part(Form::NT, (m, 512, k), 64 << 20), k);
            assert_eq!(part(Form::NN, (m, 512, k), 64 << 20), k);
        }
    }
}
