//! Rotary position embedding.

use crate::harness::{ARITH, DTYPES, Dense, Lay, Stand, Strided, derivative, dot, everywhere};
use flanrt::tensor::{DType, Tensor};

/// Rows of `heads * k`, rotated pair by pair as complex numbers.
fn reference(x: &[f64], positions: &[u32], table: &[f64], heads: usize, k: usize) -> Vec<f64> {
    let mut y = x.to_vec();
    for (i, &p) in positions.iter().enumerate() {
        for h in 0..heads {
            for j in 0..k / 2 {
                let (a, b) = ((i * heads + h) * k + j, (i * heads + h) * k + k / 2 + j);
                let (cos, sin) = (table[p as usize * k + j], table[p as usize * k + k / 2 + j]);
                (y[a], y[b]) = (x[a] * cos - x[b] * sin, x[b] * cos + x[a] * sin);
            }
        }
    }
    y
}

/// A table of real angles, times an attention factor of 1.1.
fn table(s: &Stand, positions: usize, k: usize) -> Tensor {
    let mut values = Vec::new();
    for p in 0..positions {
        let angle = |j: usize| p as f64 * 10000f64.powf(-2.0 * j as f64 / k as f64);
        values.extend((0..k / 2).map(|j| 1.1 * angle(j).cos()));
        values.extend((0..k / 2).map(|j| 1.1 * angle(j).sin()));
    }
    s.put(Dense, DType::F32, positions, k, &values)
}

pub(crate) fn case(s: &Stand, lay: Lay, dtype: DType, t: usize, heads: usize, k: usize) -> Vec<Tensor> {
    let positions: Vec<u32> = (0..t as u32).map(|i| i * 7 % 40).collect();
    let (table, index) = (table(s, 40, k), s.index(&positions));
    let x = s.normal(lay, dtype, t, heads * k, 1.0);
    let before = s.get(x);
    s.device.rope(x, index, table, false);
    s.close("rope", ARITH, x, || reference(&before, &positions, &s.get(table), heads, k));
    // The backward pass is the transposed rotation: the derivative of sum(dy rope(x)), which is linear in x.
    let dy = s.normal(lay, dtype, t, heads * k, 1.0);
    let dys = s.get(dy);
    s.device.rope(dy, index, table, true);
    let tables = s.get(table);
    s.close("rope inverse", ARITH, dy, || {
        let row = heads * k;
        (0..t)
            .flat_map(|i| {
                derivative(&before[i * row..][..row], |x| {
                    dot(&dys[i * row..][..row], &reference(x, &positions[i..i + 1], &tables, heads, k))
                })
            })
            .collect()
    });
    vec![x, dy]
}

#[test]
fn rotation_and_its_gradient() {
    for dtype in DTYPES {
        for (t, heads, k) in [(0, 1, 8), (1, 1, 8), (31, 3, 10), (123, 2, 32), (33, 5, 80), (300, 4, 64)] {
            everywhere("rope", |s| case(s, Dense, dtype, t, heads, k));
            everywhere("rope", |s| case(s, Strided, dtype, t, heads, k));
        }
    }
}
