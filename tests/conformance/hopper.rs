//! The cases of `hopper_sm90.cu`.

use crate::cases::{Case, Law, Map, TENSOR_CORES};
use crate::plain::{Half, Random, halves, operand_a, product, words};
use cudarc::driver::sys::CUtensorMapDataType as Element;

/// Words before what tensor maps cover: coordinates.
const HEAD: usize = 16;
/// The same in bytes.
pub(crate) const HEAD_BYTES: u64 = 4 * HEAD as u64;
/// Bytes of a row under the 128-byte pattern.
const ROW: usize = 128;
/// Bytes of a tile of 64 rows.
const TILE: usize = 64 * ROW;

/// All cases of `hopper_sm90.cu`.
pub(crate) fn all() -> Vec<Case> {
    let mut cases = matrices();
    cases.extend([ring(), registers()]);
    cases.extend([false, true].map(load_2d));
    cases.push(load_3d());
    cases.extend([false, true].map(store_2d));
    cases.extend([add_f32(), add_halves(Half::Bf16), add_halves(Half::F16)]);
    // Random numbers show how sums are rounded, which one width is enough for.
    for (name, of) in [("whole", Random::whole as fn(&mut Random) -> f32), ("random", Random::signed)] {
        let law = if name == "whole" { Law::Bits } else { TENSOR_CORES };
        for n in if name == "whole" { vec![64, 128, 192, 256] } else { vec![64] } {
            cases.extend(SHARED.map(|(half, majors)| shared_product(n, half, majors, name, of, law)));
            cases.extend(REGISTERS.map(|(half, major)| register_product(n, half, major, name, of, law)));
        }
    }
    cases
}

/// A case for GPUs of compute capability 9.0.
fn hopper(
    name: String,
    kernel: &'static str,
    threads: u32,
    input: Vec<u32>,
    law: Law,
    want: Vec<u32>,
) -> Case {
    let case = Case::new(name, kernel, threads, input, law, want);
    Case { capability: 90, exact_capability: true, ..case }
}

/// A name that lives as long as the process: kernels are named by what they are made of.
fn leak(name: String) -> &'static str {
    Box::leak(name.into_boxed_str())
}

/// Rows of 64 bytes in a tile of 2 KiB, in order and permuted.
fn matrices() -> Vec<Case> {
    let registers = Random::new(20).words(128);
    let pairs = halves(&registers);
    let in_order: Vec<u32> = (0..32).map(|row| row * 64).collect();
    let swizzled = (0..32).map(|row| row * 64 + (2 ^ (row / 2 % 4)) * 16).collect();
    let mut cases = Vec::new();
    for (how, rows) in [("in_order", in_order), ("swizzled", swizzled)] {
        for transposed in [false, true] {
            let mut tile = halves(&[0xabab_abab; 512]);
            for (lane, matrix, i) in (0..32).flat_map(|lane| (0..8).map(move |e| (lane, e / 2, e % 2))) {
                let (row, column) = (lane / 4, lane % 4 * 2 + i);
                let (row, column) = if transposed { (column, row) } else { (row, column) };
                tile[rows[8 * matrix + row] as usize / 2 + column] = pairs[8 * lane + 2 * matrix + i];
            }
            let input = [rows.as_slice(), &registers].concat();
            let (kernel, name) = match transposed {
                true => ("conform_stmatrix_trans", format!("stmatrix_trans_{how}")),
                false => ("conform_stmatrix", format!("stmatrix_{how}")),
            };
            cases.push(hopper(name, kernel, 32, input, Law::Bits, words(&tile)));
        }
    }
    cases
}

fn ring() -> Case {
    let input = Random::new(21).words(384);
    let want = input.chunks(64).flat_map(|chunk| chunk.iter().rev().copied()).collect();
    hopper("mbarrier_ring".into(), "conform_mbarrier", 128, input, Law::Bits, want)
}

fn registers() -> Case {
    let input = Random::new(22).words(384);
    hopper("setmaxnreg".into(), "conform_setmaxnreg", 384, input.clone(), Law::Bits, input)
}

/// Where byte `byte` of row `row` of a tile lies under the 128-byte pattern.
fn swizzle(row: usize, byte: usize) -> usize {
    row * ROW + ((byte / 16) ^ (row % 8)) * 16 + byte % 16
}

/// Coordinates as the first words of an input.
fn head(coordinates: &[i32]) -> Vec<u32> {
    let mut head: Vec<u32> = coordinates.iter().map(|&c| c as u32).collect();
    head.resize(HEAD, 0);
    head
}

/// A map of 16-bit elements over rows of `cols`, in tiles of 64 x 16.
fn map_of_rows(cols: usize, rows: usize, swizzled: bool, of_output: bool) -> Map {
    Map {
        of_output,
        dtype: Element::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        dims: vec![cols as u64, rows as u64],
        strides: vec![2 * cols as u64],
        tile: vec![64, 16],
        swizzled,
    }
}

/// A tile inside, and one that reaches over the corner.
fn load_2d(swizzled: bool) -> Case {
    let (cols, rows) = (104, 24);
    let tensor = Random::new(23).words(cols * rows / 2);
    let elements = halves(&tensor);
    let at = [[8, 3], [72, 13]];
    let mut tiles = vec![0u16; 2048];
    for (i, [x, y]) in at.into_iter().enumerate() {
        for (r, c) in (0..16).flat_map(|r| (0..64).map(move |c| (r, c))) {
            let place = if swizzled { swizzle(r, 2 * c) / 2 } else { r * 64 + c };
            let inside = x + c < cols && y + r < rows;
            tiles[1024 * i + place] = if inside { elements[(y + r) * cols + x + c] } else { 0 };
        }
    }
    let input = [head(&[8, 3, 0, 72, 13, 0]), tensor].concat();
    let name = if swizzled { "tma_load_2d_swizzled" } else { "tma_load_2d" };
    let case = hopper(name.into(), "conform_tma_load_2d", 32, input, Law::Bits, words(&tiles));
    Case { shared: 4096, maps: vec![map_of_rows(cols, rows, swizzled, false)], ..case }
}

/// Tiles of 64 elements of 4 heads of 4 tokens, one before the first token and head.
fn load_3d() -> Case {
    let (size, heads, tokens) = (64usize, 6usize, 5usize);
    let tensor = Random::new(24).words(size * heads * tokens / 2);
    let elements = halves(&tensor);
    let at = [[0i32, 1, 1], [-8, -1, -2]];
    let mut tiles = Vec::new();
    for [x, y, z] in at {
        for (k, j, i) in (0..4).flat_map(|k| (0..4).flat_map(move |j| (0..64).map(move |i| (k, j, i)))) {
            let [i, j, k] = [x + i, y + j, z + k];
            let inside = (0..size as i32).contains(&i)
                && (0..heads as i32).contains(&j)
                && (0..tokens as i32).contains(&k);
            let place = (k * heads as i32 + j) * size as i32 + i;
            tiles.push(if inside { elements[place as usize] } else { 0 });
        }
    }
    let map = Map {
        of_output: false,
        dtype: Element::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        dims: [size, heads, tokens].map(|n| n as u64).to_vec(),
        strides: vec![2 * size as u64, 2 * (size * heads) as u64],
        tile: vec![64, 4, 4],
        swizzled: false,
    };
    let input = [head(&at.concat()), tensor].concat();
    let case = hopper("tma_load_3d".into(), "conform_tma_load_3d", 32, input, Law::Bits, words(&tiles));
    Case { shared: 4096, maps: vec![map], ..case }
}

/// A tile inside and one over the corner, stored over ones.
fn store_2d(swizzled: bool) -> Case {
    let (cols, rows) = (104, 40);
    let tiles = Random::new(25).words(1024);
    let elements = halves(&tiles);
    let mut out = halves(&vec![u32::MAX; HEAD + cols * rows / 2]);
    for (i, [x, y]) in [[16, 2], [80, 29]].into_iter().enumerate() {
        for (r, c) in (0..16).flat_map(|r| (0..64).map(move |c| (r, c))) {
            let place = if swizzled { swizzle(r, 2 * c) / 2 } else { r * 64 + c };
            if x + c < cols && y + r < rows {
                out[2 * HEAD + (y + r) * cols + x + c] = elements[1024 * i + place];
            }
        }
    }
    let input = [head(&[16, 2, 80, 29]), tiles].concat();
    let name = if swizzled { "tma_store_2d_swizzled" } else { "tma_store_2d" };
    let case = hopper(name.into(), "conform_tma_store_2d", 32, input, Law::Bits, words(&out));
    Case { shared: 4096, maps: vec![map_of_rows(cols, rows, swizzled, true)], ..case }
}

/// Two f32 tiles of 32 x 16, of whole numbers so that their order does not matter, added where they overlap.
fn add_f32() -> Case {
    let (cols, rows) = (40, 20);
    let mut random = Random::new(26);
    let tiles: Vec<f32> = (0..1024).map(|_| random.whole()).collect();
    let start: Vec<f32> = (0..HEAD + cols * rows).map(|_| random.whole()).collect();
    let mut out = start.clone();
    for (i, [x, y]) in [[4, 1], [16, 8]].into_iter().enumerate() {
        for (r, c) in (0..16).flat_map(|r| (0..32).map(move |c| (r, c))) {
            if x + c < cols && y + r < rows {
                out[HEAD + (y + r) * cols + x + c] += tiles[512 * i + 32 * r + c];
            }
        }
    }
    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let map = Map {
        of_output: true,
        dtype: Element::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
        dims: vec![cols as u64, rows as u64],
        strides: vec![4 * cols as u64],
        tile: vec![32, 16],
        swizzled: false,
    };
    let input = [head(&[4, 1, 16, 8]), bits(&tiles)].concat();
    let name = "tma_reduce_add_2d_f32".into();
    let case = hopper(name, "conform_tma_reduce_add_2d", 32, input, Law::Bits, bits(&out));
    Case { shared: 4096, start: Some(bits(&start)), maps: vec![map], ..case }
}

/// One tile of any numbers added to others, with one rounding; the second tile lies outside.
fn add_halves(half: Half) -> Case {
    let (cols, rows) = (64, 16);
    let mut random = Random::new(27);
    let mut draw = |n: usize| (0..n).map(|_| half.bits(random.signed())).collect::<Vec<_>>();
    let (tiles, start) = (draw(2048), draw(2 * HEAD + cols * rows));
    let mut out = start.clone();
    for i in 0..cols * rows {
        let place = &mut out[2 * HEAD + i];
        *place = half.bits(half.value(*place) + half.value(tiles[i]));
    }
    let mut map = map_of_rows(cols, rows, false, true);
    if half == Half::F16 {
        map.dtype = Element::CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    }
    let input = [head(&[0, 0, 0, 16]), words(&tiles)].concat();
    let name = format!("tma_reduce_add_2d_{}", half.name());
    let case = hopper(name, "conform_tma_reduce_add_2d", 32, input, Law::Bits, words(&out));
    Case { shared: 4096, start: Some(words(&start)), maps: vec![map], ..case }
}

/// Which dimension of an operand is contiguous.
#[derive(Clone, Copy, PartialEq)]
enum Major {
    K,
    Mn,
}
use Major::{K, Mn};

/// Products with both operands in shared memory that there are kernels for.
const SHARED: [(Half, [Major; 2]); 5] = [
    (Half::Bf16, [K, K]),
    (Half::Bf16, [K, Mn]),
    (Half::Bf16, [Mn, Mn]),
    (Half::F16, [K, K]),
    (Half::F16, [Mn, Mn]),
];

/// The same with `a` in registers.
const REGISTERS: [(Half, Major); 3] = [(Half::Bf16, K), (Half::Bf16, Mn), (Half::F16, K)];

/// Shared memory that holds an operand of `mn` by 64, element (i, l) given by `at`, as TMA with the 128-byte pattern leaves it.
fn operand(mn: usize, major: Major, half: Half, at: impl Fn(usize, usize) -> f32) -> Vec<u32> {
    let mut tile = vec![0u16; mn * 64];
    for (i, l) in (0..mn).flat_map(|i| (0..64).map(move |l| (i, l))) {
        let place = match major {
            K => swizzle(i, 2 * l),
            Mn => i / 64 * TILE + swizzle(l, 2 * (i % 64)),
        };
        tile[place / 2] = half.bits(at(i, l));
    }
    words(&tile)
}

/// `a [64, 64]` and `b [64, n]` of values of `half`, and their product in the registers of a warpgroup.
fn factors(n: usize, half: Half, of: fn(&mut Random) -> f32) -> (Vec<f32>, Vec<f32>, Vec<u32>) {
    let mut random = Random::new(28 + n as u64);
    let mut draw =
        |count: usize| (0..count).map(|_| half.value(half.bits(of(&mut random)))).collect::<Vec<_>>();
    let (a, b) = (draw(64 * 64), draw(64 * n));
    let mut d = vec![0.0; 64 * n];
    product(&mut d, &a, &b, [64, n, 64]);
    let register = |t: usize, i: usize| {
        let (row, column) = (t / 32 * 16 + t % 32 / 4 + i % 4 / 2 * 8, i / 4 * 8 + t % 4 * 2 + i % 2);
        (d[row * n + column] as f32).to_bits()
    };
    let want = (0..128).flat_map(|t| (0..n / 2).map(move |i| (t, i))).map(|(t, i)| register(t, i)).collect();
    (a, b, want)
}

fn shared_product(
    n: usize,
    half: Half,
    [major_a, major_b]: [Major; 2],
    name: &str,
    of: fn(&mut Random) -> f32,
    law: Law,
) -> Case {
    let (a, b, want) = factors(n, half, of);
    let a = operand(64, major_a, half, |i, l| a[i * 64 + l]);
    let b = operand(n, major_b, half, |j, l| b[l * n + j]);
    let letters = [major_a, major_b].map(|m| if m == K { 'k' } else { 'm' });
    let kernel = format!("conform_wgmma_ss_{n}_{}_{}{}", half.name(), letters[0], letters[1]);
    let case_name = format!("{}_{name}", kernel.trim_start_matches("conform_"));
    let case = hopper(case_name, leak(kernel), 128, [a, b].concat(), law, want);
    Case { shared: (TILE + n * ROW) as u32, ..case }
}

fn register_product(
    n: usize,
    half: Half,
    major: Major,
    name: &str,
    of: fn(&mut Random) -> f32,
    law: Law,
) -> Case {
    let (a, b, want) = factors(n, half, of);
    let mut registers = vec![0u32; 4 * 128 * 4];
    for (i, l) in (0..64).flat_map(|i| (0..64).map(move |l| (i, l))) {
        let (lane, register, part) = operand_a(i % 16, l % 16);
        let thread = i / 16 * 32 + lane;
        registers[(l / 16 * 128 + thread) * 4 + register] |=
            u32::from(half.bits(a[i * 64 + l])) << (16 * part);
    }
    let b = operand(n, major, half, |j, l| b[l * n + j]);
    let kernel = format!("conform_wgmma_rs_{n}_{}_{}", half.name(), if major == K { 'k' } else { 'm' });
    let case_name = format!("{}_{name}", kernel.trim_start_matches("conform_"));
    let case = hopper(case_name, leak(kernel), 128, [registers, b].concat(), law, want);
    Case { shared: (n * ROW) as u32, ..case }
}
