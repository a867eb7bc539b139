//! The cases of `portable.cu`: inputs, and what plain arithmetic says must come out.

use crate::plain::{Half, Random, accumulator, halves, operand_a, operand_b, product, words};
use cudarc::driver::sys;
use std::ffi::c_void;

/// One launch of a conformance kernel.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) kernel: &'static str,
    /// The GPUs that have it: of this compute capability, or (unless exact) newer.
    pub(crate) capability: u32,
    pub(crate) exact_capability: bool,
    pub(crate) blocks: u32,
    pub(crate) threads: u32,
    /// Bytes of dynamic shared memory.
    pub(crate) shared: u32,
    pub(crate) input: Vec<u32>,
    /// Words that it writes.
    pub(crate) output: usize,
    /// What the output holds before; `None`: ones everywhere.
    pub(crate) start: Option<Vec<u32>>,
    pub(crate) maps: Vec<Map>,
    pub(crate) law: Law,
    pub(crate) want: Vec<u32>,
}

impl Case {
    /// One block on any GPU, without shared memory of its own or maps.
    pub(crate) fn new(
        name: impl Into<String>,
        kernel: &'static str,
        threads: u32,
        input: Vec<u32>,
        law: Law,
        want: Vec<u32>,
    ) -> Self {
        Self {
            name: name.into(),
            kernel,
            capability: 80,
            exact_capability: false,
            blocks: 1,
            threads,
            shared: 0,
            input,
            output: want.len(),
            start: None,
            maps: Vec::new(),
            law,
            want,
        }
    }
}

/// A tensor map over the input or the output, which is a dense array.
#[derive(Clone)]
pub(crate) struct Map {
    pub(crate) of_output: bool,
    pub(crate) dtype: sys::CUtensorMapDataType,
    /// Elements in each direction, the contiguous one first.
    pub(crate) dims: Vec<u64>,
    /// Bytes from one element to the next in each direction but the first.
    pub(crate) strides: Vec<u64>,
    pub(crate) tile: Vec<u32>,
    /// The 128-byte pattern, or none.
    pub(crate) swizzled: bool,
}

impl Map {
    pub(crate) fn encode(&self, addr: u64) -> sys::CUtensorMap {
        use sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE as FILL;
        use sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE as PLAIN;
        use sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B as PROMOTION;
        use sys::CUtensorMapSwizzle as S;
        let swizzle =
            if self.swizzled { S::CU_TENSOR_MAP_SWIZZLE_128B } else { S::CU_TENSOR_MAP_SWIZZLE_NONE };
        let every = vec![1u32; self.dims.len()];
        let mut map = std::mem::MaybeUninit::uninit();
        // SAFETY: the arrays have one element a direction (strides one less); nothing is read at `addr` here.
        let code = unsafe {
            sys::cuTensorMapEncodeTiled(
                map.as_mut_ptr(),
                self.dtype,
                self.dims.len() as u32,
                addr as *mut c_void,
                self.dims.as_ptr(),
                self.strides.as_ptr(),
                self.tile.as_ptr(),
                every.as_ptr(),
                PLAIN,
                swizzle,
                PROMOTION,
                FILL,
            )
        };
        assert!(code == sys::CUresult::CUDA_SUCCESS, "encoding a tensor map: {code:?}");
        // SAFETY: the driver has written it.
        unsafe { map.assume_init() }
    }
}

/// How two results are compared.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Law {
    /// Bit for bit.
    Bits,
    /// f32 of the same bits, or both not a number.
    Same,
    /// f32, off by at most these shares of their size and of the largest; infinities and NaN where they are.
    Close { relative: f64, of_largest: f64 },
}

impl Law {
    /// Where `got` is not `want`, if anywhere.
    pub(crate) fn difference(self, got: &[u32], want: &[u32]) -> Option<String> {
        if got.len() != want.len() {
            return Some(format!("{} words, not {}", got.len(), want.len()));
        }
        let value = |w: u32| f64::from(f32::from_bits(w));
        let largest = want.iter().map(|&w| value(w).abs()).filter(|x| x.is_finite()).fold(0.0, f64::max);
        let equal = |g: u32, w: u32| {
            let (x, y) = (value(g), value(w));
            g == w
                || match self {
                    Self::Bits => false,
                    Self::Same => x.is_nan() && y.is_nan(),
                    Self::Close { relative, of_largest } => {
                        let finite = x.is_finite() && y.is_finite();
                        // What is smaller than the smallest normal number may be flushed to zero.
                        let allowed =
                            relative * y.abs() + of_largest * largest + f64::from(f32::MIN_POSITIVE);
                        x.is_nan() && y.is_nan() || x == y || finite && (x - y).abs() <= allowed
                    }
                }
        };
        let wrong: Vec<_> = (0..got.len()).filter(|&i| !equal(got[i], want[i])).collect();
        let first = *wrong.first()?;
        let show = |w: u32| match self {
            Self::Bits => format!("{w:#010x}"),
            _ => format!("{:e} ({w:#010x})", f32::from_bits(w)),
        };
        let (got, want) = (show(got[first]), show(want[first]));
        Some(format!("word {first} is {got}, not {want}; {} words differ", wrong.len()))
    }
}

/// Sums of at most a few hundred products that tensor cores add up in their own way.
pub(crate) const TENSOR_CORES: Law = Law::Close { relative: 1e-6, of_largest: 2e-6 };

/// All cases of `portable.cu`.
pub(crate) fn all() -> Vec<Case> {
    let mut cases =
        vec![shared_addresses(), barriers(), flags(), reductions(), ieee(), functions(), powers()];
    cases.extend([groups(), copies(), special_powers()]);
    cases.extend(matrices());
    cases.extend(Half::BOTH.into_iter().flat_map(products));
    cases.extend(Half::BOTH.map(narrowing));
    cases.extend(Half::BOTH.map(widening));
    cases
}

fn shared_addresses() -> Case {
    Case::new("smem_u32", "conform_smem_u32", 32, Random::new(1).words(32), Law::Bits, vec![0, 20])
}

/// Rows of 64 bytes in a tile of 2 KiB: in order, permuted as the kernels store them, and rows anywhere.
fn matrices() -> Vec<Case> {
    let mut random = Random::new(2);
    let tile = random.words(512);
    let elements = halves(&tile);
    let in_order = (0..32).map(|row| row * 64).collect::<Vec<u32>>();
    let swizzled = (0..32).map(|row| row * 64 + (1 ^ (row / 2 % 4)) * 16).collect();
    let anywhere = (0..32).map(|_| random.word() % 128 * 16).collect();
    let mut cases = Vec::new();
    for (how, rows) in [("in_order", in_order), ("swizzled", swizzled), ("anywhere", anywhere)] {
        // Element `column` of row `row` of matrix `matrix`.
        let element =
            |matrix: usize, row: usize, column: usize| elements[rows[8 * matrix + row] as usize / 2 + column];
        let lanes = |of: &dyn Fn(usize, usize, usize) -> u16| {
            let registers = (0..32).flat_map(|lane| (0..4).map(move |matrix| (lane, matrix)));
            let pair =
                |(lane, matrix): (usize, usize)| [0, 1].map(|i| of(matrix, lane / 4, lane % 4 * 2 + i));
            words(&registers.flat_map(pair).collect::<Vec<_>>())
        };
        let input = [rows.as_slice(), &tile].concat();
        let name = format!("ldmatrix_{how}");
        cases.push(Case::new(name, "conform_ldmatrix", 32, input.clone(), Law::Bits, lanes(&element)));
        let transposed = lanes(&|matrix, row, column| element(matrix, column, row));
        let name = format!("ldmatrix_trans_{how}");
        cases.push(Case::new(name, "conform_ldmatrix_trans", 32, input, Law::Bits, transposed));
    }
    cases
}

/// The registers of a 16 x 8 x 16 product, and the values they come to.
fn product_case(half: Half, name: &str, law: Law, [a, b, d]: [&[f32]; 3]) -> Case {
    let mut registers = vec![[0u32; 10]; 32];
    let mut put = |lane: usize, register: usize, part: usize, x: f32| {
        registers[lane][register] |= u32::from(half.bits(x)) << (16 * part);
    };
    for (i, l) in (0..16).flat_map(|i| (0..16).map(move |l| (i, l))) {
        let (lane, register, part) = operand_a(i, l);
        put(lane, register, part, a[i * 16 + l]);
    }
    for (l, j) in (0..16).flat_map(|l| (0..8).map(move |j| (l, j))) {
        let (lane, register, part) = operand_b(l, j);
        put(lane, 4 + register, part, b[l * 8 + j]);
    }
    let rounded = |x: &[f32]| x.iter().map(|&x| half.value(half.bits(x))).collect::<Vec<_>>();
    let mut sums: Vec<f64> = d.iter().map(|&x| f64::from(x)).collect();
    product(&mut sums, &rounded(a), &rounded(b), [16, 8, 16]);
    let mut want = vec![0u32; 128];
    for (i, j) in (0..16).flat_map(|i| (0..8).map(move |j| (i, j))) {
        let (lane, register) = accumulator(i, j);
        registers[lane][6 + register] = d[i * 8 + j].to_bits();
        want[4 * lane + register] = (sums[i * 8 + j] as f32).to_bits();
    }
    let kernel = if half == Half::Bf16 { "conform_mma_bf16" } else { "conform_mma_f16" };
    Case::new(format!("mma_{}_{name}", half.name()), kernel, 32, registers.concat(), law, want)
}

fn products(half: Half) -> Vec<Case> {
    let mut random = Random::new(3);
    let mut draw =
        |n: usize, what: fn(&mut Random) -> f32| (0..n).map(|_| what(&mut random)).collect::<Vec<_>>();
    // Numbers that name their place: a wrong fragment map cannot give the same sums.
    let place = |n: usize| (0..n).map(|i| i as f32 % 251.0 - 125.0).collect::<Vec<_>>();
    let mut one = vec![0.0; 256];
    (0..16).for_each(|i| one[i * 16 + i] = 1.0);
    let whole = [draw(256, Random::whole), draw(128, Random::whole), draw(128, Random::whole)];
    let real = [draw(256, Random::signed), draw(128, Random::signed), draw(128, Random::signed)];
    let zero = vec![0.0; 128];
    let whole = [0, 1, 2].map(|i| whole[i].as_slice());
    let real = [0, 1, 2].map(|i| real[i].as_slice());
    vec![
        product_case(half, "places_of_b", Law::Bits, [&one, &place(128), &zero]),
        product_case(half, "places_of_a", Law::Bits, [&place(256), &one_columns(), &zero]),
        product_case(half, "whole_numbers", Law::Bits, whole),
        product_case(half, "random", TENSOR_CORES, real),
    ]
}

/// The 16 x 8 matrix that picks even columns.
fn one_columns() -> Vec<f32> {
    let mut b = vec![0.0; 128];
    (0..8).for_each(|j| b[2 * j * 8 + j] = 1.0);
    b
}

/// Every number of bytes from 0 to 16: what is not read is zero.
fn copies() -> Case {
    let units = Random::new(4).words(128);
    let bytes: Vec<u32> = (0..32).map(|lane| lane % 17).collect();
    let mut want = vec![0u32; 128];
    for lane in 0..32 {
        let unit: Vec<u8> = units[4 * lane..][..4].iter().flat_map(|w| w.to_le_bytes()).collect();
        for i in 0..bytes[lane] as usize {
            want[4 * (lane ^ 5) + i / 4] |= u32::from(unit[i]) << (8 * (i % 4));
        }
    }
    Case::new("cp_async_bytes", "conform_cp_async", 32, [bytes, units].concat(), Law::Bits, want)
}

fn groups() -> Case {
    let units = Random::new(5).words(384);
    Case::new("cp_async_groups", "conform_cp_async_groups", 32, units.clone(), Law::Bits, units)
}

/// The halves of the block change places; twice reversed is as before.
fn barriers() -> Case {
    let input = Random::new(6).words(128);
    let want = [&input[64..], &input[..64]].concat();
    Case::new("named_barriers", "conform_named_barriers", 128, input, Law::Bits, want)
}

fn flags() -> Case {
    let mut input = Random::new(7).words(32);
    input.push(7);
    let want = [input.as_slice(), &[u32::MAX; 31], &input[..32]].concat();
    Case { blocks: 2, ..Case::new("acquire_release", "conform_acquire_release", 32, input, Law::Bits, want) }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// Exponents from far below to far above what f32 holds.
fn powers() -> Case {
    let mut random = Random::new(8);
    let input: Vec<f32> = (0..128).map(|i| random.signed() * [1.0, 30.0, 126.0][i % 3]).collect();
    let want: Vec<f32> = input.iter().map(|&x| f64::from(x).exp2() as f32).collect();
    // Two units in the last place.
    let law = Law::Close { relative: 2.4e-7, of_largest: 0.0 };
    Case::new("exp2_approx", "conform_exp2_approx", 128, bits(&input), law, bits(&want))
}

/// What the kernels rely on to the bit: masked scores, an empty row, overflow; and whole powers.
fn special_powers() -> Case {
    let mut input = vec![
        f32::NEG_INFINITY,
        f32::INFINITY,
        f32::NAN,
        0.0,
        -0.0,
        1e-40,
        -1e-40,
        128.0,
        1e30,
        -1e30,
        -200.0,
    ];
    input.extend((0..117).map(|i| (i - 58) as f32));
    let want: Vec<f32> = input.iter().map(|&x| f64::from(x).exp2() as f32).collect();
    Case::new("exp2_approx_special", "conform_exp2_approx", 128, bits(&input), Law::Same, bits(&want))
}

/// Random bits, ties, and the neighbourhood of every limit.
fn narrowing(half: Half) -> Case {
    let mut random = Random::new(9);
    let mut input: Vec<u32> = random.words(100);
    input.extend((0..60).map(|_| (random.signed() * 8.0).to_bits()));
    input.extend(
        (0..40).map(|_| {
            random.word() & 0xffff_0000 | [0x8000, 0x7fff, 0x8001, 0x1000][random.word() as usize % 4]
        }),
    );
    let special =
        [0.0, -0.0, 65504.0, 65519.0, 65520.0, 1e-8, 5.96e-8, 2.98e-8, 6.1e-5, 3.4e38, f32::INFINITY];
    input.extend(special.map(f32::to_bits));
    input.extend([f32::NAN.to_bits(), 0xff80_0001, f32::MIN_POSITIVE.to_bits(), 1]);
    input.resize(256, 0x3f80_8000);
    let rounded: Vec<u16> = input.iter().map(|&w| half.bits(f32::from_bits(w))).collect();
    let want = [words(&rounded), rounded.iter().map(|&h| h.into()).collect()].concat();
    let kernel = if half == Half::Bf16 { "conform_narrow_bf16" } else { "conform_narrow_f16" };
    Case::new(format!("narrow_{}", half.name()), kernel, 128, input, Law::Bits, want)
}

/// Random bits, subnormals, infinities and NaN among them.
fn widening(half: Half) -> Case {
    let mut input = Random::new(13).words(120);
    input.extend([
        0x8000_0000,
        0x7c00_fc00,
        0x7c01_fe00,
        0x0001_03ff,
        0x7f80_ff80,
        0x7fc1_0001,
        0x8001_0400,
        0x3c00_3f80,
    ]);
    let want: Vec<u32> = halves(&input).into_iter().map(|h| half.value(h).to_bits()).collect();
    let kernel = if half == Half::Bf16 { "conform_widen_bf16" } else { "conform_widen_f16" };
    Case::new(format!("widen_{}", half.name()), kernel, 128, input, Law::Same, want)
}

/// The sums of the kernels in the kernels' own order.
fn reductions() -> Case {
    let mut random = Random::new(10);
    let values: Vec<f32> = (0..128).map(|_| random.signed() * 100.0).collect();
    let warps: Vec<&[f32]> = values.chunks(32).collect();
    let sums: Vec<f32> = warps.iter().map(|w| butterfly(w, |a, b| a + b)).collect();
    let largest: Vec<f32> = warps.iter().map(|w| butterfly(w, f32::max)).collect();
    let whole = sums[1..].iter().fold(sums[0], |a, b| a + b);
    let wide: Vec<f64> = warps
        .iter()
        .map(|w| butterfly(&w.iter().map(|&x| f64::from(x)).collect::<Vec<_>>(), |a, b| a + b))
        .collect();
    let each = |of: &[f32]| (0..128).map(|t| of[t / 32].to_bits()).collect::<Vec<_>>();
    let pairs = (0..128).flat_map(|t| [wide[t / 32].to_bits() as u32, (wide[t / 32].to_bits() >> 32) as u32]);
    let want = [each(&sums), each(&largest), vec![whole.to_bits(); 128], pairs.collect()].concat();
    Case::new("reductions", "conform_reductions", 128, bits(&values), Law::Bits, want)
}

/// A reduction in which partners 16, 8, 4, 2, 1 apart meet: every lane has the same result.
fn butterfly<F: Copy>(warp: &[F], op: impl Fn(F, F) -> F) -> F {
    let mut x = warp.to_vec();
    for apart in [16, 8, 4, 2, 1] {
        x = (0..32).map(|lane| op(x[lane], x[lane ^ apart])).collect();
    }
    x[0]
}

fn ieee() -> Case {
    let mut random = Random::new(11);
    let mut input: Vec<[f32; 3]> =
        (0..120).map(|_| [random.signed(), random.signed(), random.signed()]).collect();
    input.extend([[1.0, 3.0, 0.0], [1.0, 0.0, 1.0], [-1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]);
    input.extend([
        [1e-30, 1e10, 1e-41],
        [1e38, 1e-3, 1.0],
        [1e38, 10.0, f32::NEG_INFINITY],
        [3e-39, 0.5, 1e-40],
    ]);
    let want = input.iter().map(|[x, y, _]| x / y).chain(input.iter().map(|[x, ..]| x.sqrt()));
    let want: Vec<f32> = want.chain(input.iter().map(|[x, y, z]| x.mul_add(*y, *z))).collect();
    Case::new("ieee", "conform_ieee", 128, bits(&input.concat()), Law::Same, bits(&want))
}

fn functions() -> Case {
    let mut random = Random::new(12);
    let input: Vec<f32> = (0..128).map(|i| random.signed() * [1.0, 20.0, 80.0, 1e-3][i % 4]).collect();
    let wide = |f: fn(f64) -> f64| input.iter().map(|&x| f(f64::from(x)) as f32).collect::<Vec<_>>();
    let want = [wide(f64::exp), wide(|x| x.abs().ln()), wide(|x| 1.0 / x.abs().sqrt())].concat();
    // Two units in the last place, and for logarithms near 1 a unit of 1e-8 in all.
    let law = Law::Close { relative: 3e-7, of_largest: 0.0 };
    Case::new("functions", "conform_functions", 128, bits(&input), law, bits(&want))
}
