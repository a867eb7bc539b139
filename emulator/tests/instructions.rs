//! The instructions of kernels/ptx.cuh in whole kernels (tests/kernels/gemm.cu), compared with plain loops: exactly, as the
//! operands are small integers.

#![allow(clippy::macro_metavars_in_unsafe)] // of cu!, whose arguments are plain values

mod common;

use common::*;
use flanrt_emulator::{Mode, Options};

/// A product `[m, n] = [m, k] . [k, n]` by the kernel of this name.
struct Product {
    kernel: &'static str,
    m: usize,
    n: usize,
    k: usize,
    /// Columns of wgmma's tile; 0: the mma kernel.
    tile: u32,
    /// a is stored as [k, m].
    a_mn: bool,
    /// b is stored as [k, n]; otherwise as [n, k].
    b_mn: bool,
}

#[rustfmt::skip]
const PRODUCTS: &[Product] = &[
    Product { kernel: "gemm_mma_bf16", m: 128, n: 64, k: 128, tile: 0, a_mn: false, b_mn: false },
    Product { kernel: "gemm_mma_f16", m: 100, n: 150, k: 64, tile: 0, a_mn: false, b_mn: false },
    Product { kernel: "gemm_ss64_bf16", m: 64, n: 128, k: 256, tile: 64, a_mn: false, b_mn: false },
    Product { kernel: "gemm_ss128_bf16", m: 72, n: 136, k: 64, tile: 128, a_mn: false, b_mn: false },
    Product { kernel: "gemm_ss192_f16", m: 64, n: 192, k: 128, tile: 192, a_mn: false, b_mn: false },
    Product { kernel: "gemm_ss256_bf16", m: 64, n: 256, k: 128, tile: 256, a_mn: false, b_mn: false },
    Product { kernel: "gemm_ss128_bmn_bf16", m: 64, n: 128, k: 256, tile: 128, a_mn: false, b_mn: true },
    Product { kernel: "gemm_ss128_amn_bmn_f16", m: 128, n: 128, k: 128, tile: 128, a_mn: true, b_mn: true },
    Product { kernel: "gemm_rs64_bf16", m: 128, n: 64, k: 128, tile: 64, a_mn: false, b_mn: false },
    Product { kernel: "gemm_rs128_f16", m: 64, n: 128, k: 256, tile: 128, a_mn: false, b_mn: false },
    Product { kernel: "gemm_rs192_bmn_bf16", m: 64, n: 192, k: 128, tile: 192, a_mn: false, b_mn: true },
    Product { kernel: "gemm_rs256_bmn_bf16", m: 64, n: 256, k: 64, tile: 256, a_mn: false, b_mn: true },
];

/// Integers from -8 to 8, their bits as bf16 or f16 in device memory.
fn operand(gpu: &Gpu, n: usize, half: bool, seed: u32) -> (Vec<f32>, u64) {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        (state >> 16) as i32 % 9 - 4
    };
    let values: Vec<f32> = (0..n).map(|_| next() as f32).collect();
    let bits: Vec<u16> =
        values.iter().map(|&x| if half { f16_bits(x) } else { (x.to_bits() >> 16) as u16 }).collect();
    let address = gpu.alloc(2 * n);
    cu!(cuMemcpyHtoD_v2(address, bits.as_ptr().cast(), 2 * n)).unwrap();
    (values, address)
}

/// Of numbers that f16 has exactly and as normal ones.
fn f16_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = (bits >> 16 & 0x8000) as u16;
    if x == 0.0 { sign } else { sign | (((bits & 0x7fff_ffff) - (112 << 23)) >> 13) as u16 }
}

fn element(half: bool) -> Element {
    if half { Element::CU_TENSOR_MAP_DATA_TYPE_FLOAT16 } else { Element::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 }
}

fn product(mode: Mode, options: Options, p: &Product) {
    let gpu = Gpu::with(mode);
    flanrt_emulator::set_options(options);
    let (m, n, k) = (p.m, p.n, p.k);
    let half = p.kernel.ends_with("f16") && !p.kernel.ends_with("bf16");
    let (a, a_address) = operand(&gpu, m * k, half, 1);
    let (b, b_address) = operand(&gpu, n * k, half, 2);
    let c = gpu.alloc(4 * m * n);
    let map = |address, mn: usize, mn_major: bool, rows: u32| {
        let dims = if mn_major { [mn as u64, k as u64] } else { [k as u64, mn as u64] };
        let tile = if mn_major { [64, 64] } else { [64, rows] };
        tensor_map(address, element(half), &dims, &tile, Swizzle::CU_TENSOR_MAP_SWIZZLE_128B)
    };
    let sizes = [m as i32, n as i32, k as i32];
    let blocks = |tile: u32| [(n as u32).div_ceil(tile), (m as u32).div_ceil(64)];
    let before = flanrt_emulator::stats();
    if p.tile == 0 {
        let mut values = vec![pointer(&c), pointer(&a_address), pointer(&b_address)];
        values.extend(sizes.iter().map(pointer));
        gpu.launch_raw(p.kernel, blocks(64), 128, 16384, &mut values)
    } else {
        let a_map = map(a_address, m, p.a_mn, 64);
        let b_map = map(b_address, n, p.b_mn, p.tile);
        let mut values = vec![pointer(&c), pointer(&a_map), pointer(&b_map)];
        values.extend(sizes.iter().map(pointer));
        gpu.launch_raw(p.kernel, blocks(p.tile), 160, 3 * (8192 + 128 * p.tile) + 48, &mut values)
    }
    .unwrap_or_else(|_| panic!("{}", flanrt_emulator::last_error()));
    let after = flanrt_emulator::stats();
    assert_eq!(after.bank_conflicts, before.bank_conflicts, "{}: bank conflicts", p.kernel);
    assert!(if p.tile == 0 { after.mma > before.mma } else { after.wgmma > before.wgmma });
    let result = gpu.download(c, m * n, std::ptr::null_mut()).unwrap();
    for row in 0..m {
        for col in 0..n {
            let a = |i: usize| if p.a_mn { a[i * m + row] } else { a[row * k + i] };
            let b = |i: usize| if p.b_mn { b[i * n + col] } else { b[col * k + i] };
            let right: f32 = (0..k).map(|i| a(i) * b(i)).sum();
            assert_eq!(result[row * n + col], right, "{} at ({row}, {col}) with {options:?}", p.kernel);
        }
    }
}

fn products(mode: Mode) {
    for p in PRODUCTS {
        for options in [
            Options::default(),
            Options { seed: 7, ..Options::default() },
            Options { reverse: true, ..Options::default() },
            Options { early: true, seed: 3, ..Options::default() },
        ] {
            product(mode, options, p);
        }
    }
}

alone!(products_are_exact, [], { products(Mode::Plain) });
alone!(products_pass_the_checker, [], { products(Mode::Checked) });

/// x + 1 as bf16 through stmatrix and TMA into (or added to) y, which is narrower than the tiles.
fn stores(mode: Mode) {
    const ROWS: usize = 100;
    const COLS: usize = 136;
    const X_STRIDE: usize = 192;
    let bf16 = |x: f32| (x.to_bits() >> 16) as u16;
    for kernel in ["store_tile_bf16", "store_tile_trans_bf16"] {
        for add in [0i32, 1] {
            let gpu = Gpu::with(mode);
            let (x, x_address) = operand(&gpu, 128 * X_STRIDE, false, 5);
            let (y, y_address) = operand(&gpu, ROWS * COLS, false, 6);
            let map = tensor_map(
                y_address,
                element(false),
                &[COLS as u64, ROWS as u64],
                &[64, 64],
                Swizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            );
            let stride = X_STRIDE as i32;
            let mut values = [pointer(&map), pointer(&x_address), pointer(&stride), pointer(&add)];
            gpu.launch_raw(kernel, [3, 2], 128, 8192, &mut values)
                .unwrap_or_else(|_| panic!("{}", flanrt_emulator::last_error()));
            let mut result = vec![0u16; ROWS * COLS];
            cu!(cuMemcpyDtoH_v2(result.as_mut_ptr().cast(), y_address, 2 * ROWS * COLS)).unwrap();
            for row in 0..ROWS {
                for col in 0..COLS {
                    let before = if add == 1 { y[row * COLS + col] } else { 0.0 };
                    let right = bf16(x[row * X_STRIDE + col] + 1.0 + before);
                    assert_eq!(result[row * COLS + col], right, "{kernel} at ({row}, {col}), add {add}");
                }
            }
        }
    }
}
alone!(tiles_are_stored, [], { stores(Mode::Plain) });
alone!(tile_stores_pass_the_checker, [], { stores(Mode::Checked) });

alone!(tiles_lie_as_their_swizzle_says, [], {
    const ROWS: usize = 5;
    const COLS: usize = 24;
    for (bits, swizzle) in [
        Swizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
        Swizzle::CU_TENSOR_MAP_SWIZZLE_32B,
        Swizzle::CU_TENSOR_MAP_SWIZZLE_64B,
        Swizzle::CU_TENSOR_MAP_SWIZZLE_128B,
    ]
    .into_iter()
    .enumerate()
    {
        let gpu = Gpu::new();
        let x = gpu.upload(&(0..ROWS * COLS).map(|i| i as f32).collect::<Vec<_>>());
        let (width, height) = (if bits == 0 { 20 } else { 4 << bits }, 8);
        let map = tensor_map(
            x,
            Element::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
            &[COLS as u64, ROWS as u64],
            &[width as u32, height as u32],
            swizzle,
        );
        let bytes = (width * height * 4) as i32;
        let y = gpu.alloc(bytes as usize);
        let (rank, at) = (2i32, [-2i32, -1, 0]);
        let mut values = [
            pointer(&y),
            pointer(&map),
            pointer(&rank),
            pointer(&bytes),
            pointer(&at[0]),
            pointer(&at[1]),
            pointer(&at[2]),
        ];
        gpu.launch_raw("dump_tile_f32", [1, 1], 128, 8192, &mut values).unwrap();
        let tile = gpu.download(y, width * height, std::ptr::null_mut()).unwrap();
        for row in 0..height {
            for col in 0..width {
                let mut byte = (row * width + col) * 4;
                byte ^= (byte >> 7 & ((1 << bits) - 1)) << 4;
                let (r, c) = (row as i32 + at[1], col as i32 + at[0]);
                let inside = (0..ROWS as i32).contains(&r) && (0..COLS as i32).contains(&c);
                let right = if inside { (r * COLS as i32 + c) as f32 } else { 0.0 };
                assert_eq!(tile[byte / 4], right, "{swizzle:?} at ({row}, {col})");
            }
        }
    }
});

alone!(tiles_have_three_dimensions, [], {
    let (dims, tile, at) = ([12usize, 7, 3], [8u32, 4, 2], [6i32, 5, 2]);
    let gpu = Gpu::new();
    let x = gpu.upload(&(0..dims.iter().product::<usize>()).map(|i| i as f32).collect::<Vec<_>>());
    let map = tensor_map(
        x,
        Element::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
        &dims.map(|d| d as u64),
        &tile,
        Swizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
    );
    let count = tile.iter().product::<u32>() as usize;
    let (rank, bytes, y) = (3i32, 4 * count as i32, gpu.alloc(4 * count));
    let mut values = [
        pointer(&y),
        pointer(&map),
        pointer(&rank),
        pointer(&bytes),
        pointer(&at[0]),
        pointer(&at[1]),
        pointer(&at[2]),
    ];
    gpu.launch_raw("dump_tile_f32", [1, 1], 128, 8192, &mut values).unwrap();
    let result = gpu.download(y, count, std::ptr::null_mut()).unwrap();
    for (i, value) in result.into_iter().enumerate() {
        let (c, r, z) = (i % 8 + 6, i / 8 % 4 + 5, i / 32 + 2);
        let inside = c < dims[0] && r < dims[1] && z < dims[2];
        assert_eq!(value, if inside { ((z * dims[1] + r) * dims[0] + c) as f32 } else { 0.0 }, "element {i}");
    }
});

alone!(tiles_are_added, [], {
    let gpu = Gpu::with(Mode::Checked);
    let before: Vec<f32> = (0..48).map(|i| i as f32).collect();
    let y = gpu.upload(&before);
    let map = tensor_map(
        y,
        Element::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
        &[8, 6],
        &[16, 8],
        Swizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
    );
    let count = 128i32;
    gpu.launch_raw("add_tile_f32", [3, 1], 128, 1024, &mut [pointer(&map), pointer(&count)]).unwrap();
    let after = gpu.download(y, 48, std::ptr::null_mut()).unwrap();
    assert_eq!(after, before.iter().map(|x| x + 3.0).collect::<Vec<_>>());
});
