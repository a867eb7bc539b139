//! Conversions, sums, gathers, scatters, column sums.

use crate::harness::{ARITH, DTYPES, Dense, Lay, Stand, Strided, derivative, dot, everywhere};
use flanrt::tensor::{DType, Tensor};

const SHAPES: [(usize, usize); 6] = [(0, 5), (1, 1), (1, 40_001), (31, 33), (123, 31), (700, 123)];

/// Values that round, tie, overflow 16 bits and underflow.
fn awkward(s: &Stand, n: usize) -> Vec<f64> {
    let special =
        [0.0, -0.0, 1.0 + 0.5f64.powi(9), 1.0 + 0.5f64.powi(12), 65519.0, 65520.0, -1e30, 3e-8, -2e-42];
    let mut out = s.normals(n, 3.0);
    out.iter_mut().step_by(3).zip(special).for_each(|(x, v)| *x = v);
    out
}

#[test]
fn convert_rounds_to_nearest_even() {
    for (from, to, (rows, cols)) in
        DTYPES.iter().flat_map(|&a| DTYPES.iter().flat_map(move |&b| SHAPES.map(|shape| (a, b, shape))))
    {
        everywhere("convert", |s| {
            let x = s.put(Strided, from, rows, cols, &awkward(s, rows * cols));
            let y = s.blank(Strided, to, rows, cols);
            s.device.convert(y, x);
            // Writing from the test rounds by the half crate: the same rounding, written by others.
            let want = s.put(Dense, to, rows, cols, &s.get(x));
            assert!(s.bits(y) == s.bits(want), "{from:?} to {to:?} {rows}x{cols}");
            vec![y]
        });
    }
}

/// Ascending rows with repeats and gaps.
fn rows_of(t: usize) -> Vec<u32> {
    (0..t as u32).flat_map(|r| std::iter::repeat_n(r, [1, 0, 3, 0, 1][r as usize % 5])).collect()
}

pub(crate) fn gather_scatter(s: &Stand, lay: Lay, dtype: DType, t: usize, d: usize) -> Vec<Tensor> {
    let rows = rows_of(t);
    let index = s.index(&rows);
    let x = s.normal(lay, dtype, t, d, 1.0);
    let y = s.blank(lay, dtype, rows.len(), d);
    s.device.gather_rows(y, x, index);
    let (xs, ys) = (s.get(x), s.get(y));
    for (i, &r) in rows.iter().enumerate() {
        assert_eq!(ys[i * d..][..d], xs[r as usize * d..][..d], "gathered row {i}");
    }
    let dy = s.normal(lay, dtype, rows.len(), d, 1.0);
    let dx = s.blank(lay, dtype, t, d);
    s.device.scatter_rows(dx, dy, index);
    s.close("scatter_rows", ARITH, dx, || {
        let dy = s.get(dy);
        let mut want = vec![0.0; t * d];
        for (i, &r) in rows.iter().enumerate() {
            (0..d).for_each(|c| want[r as usize * d + c] += dy[i * d + c]);
        }
        want
    });
    vec![y, dx]
}

#[test]
fn gather_and_scatter() {
    for (dtype, (t, d)) in DTYPES.iter().flat_map(|&x| SHAPES.map(|shape| (x, shape))) {
        for lay in [Dense, Strided] {
            everywhere("gather and scatter", |s| gather_scatter(s, lay, dtype, t, d));
        }
    }
}

#[test]
fn put_is_the_inverse_of_gather() {
    for (dtype, (t, d)) in DTYPES.iter().flat_map(|&x| SHAPES.map(|shape| (x, shape))) {
        for lay in [Dense, Strided] {
            everywhere("put_rows", |s| {
                // Every other row, from the last on: the rest stays as it is.
                let rows: Vec<u32> = (0..t as u32).rev().step_by(2).collect();
                let index = s.index(&rows);
                let x = s.normal(lay, dtype, rows.len(), d, 1.0);
                let y = s.normal(lay, dtype, t, d, 1.0);
                let mut want = s.get(y);
                s.device.put_rows(y, x, index);
                let (xs, ys) = (s.get(x), s.get(y));
                for (i, &r) in rows.iter().enumerate() {
                    want[r as usize * d..][..d].copy_from_slice(&xs[i * d..][..d]);
                }
                assert!(ys == want, "{dtype:?} {t}x{d}");
                vec![y]
            });
        }
    }
}

#[test]
fn scatter_is_the_derivative_of_gather() {
    everywhere("scatter", |s| {
        let (t, d, rows) = (7, 3, rows_of(7));
        let dy = s.normal(Dense, DType::F32, rows.len(), d, 1.0);
        let dx = s.blank(Dense, DType::F32, t, d);
        s.device.scatter_rows(dx, dy, s.index(&rows));
        s.close("scatter_rows", ARITH, dx, || {
            let dys = s.get(dy);
            let gathered = |x: &[f64]| -> Vec<f64> {
                rows.iter().flat_map(|&r| x[r as usize * d..][..d].to_vec()).collect()
            };
            derivative(&s.normals(t * d, 1.0), |x| dot(&dys, &gathered(x)))
        });
        vec![dx]
    });
}

#[test]
fn sum_rows_adds() {
    for (dtype, (t, n)) in DTYPES.iter().flat_map(|&x| SHAPES.map(|shape| (x, shape))) {
        everywhere("sum_rows", |s| {
            let dy = s.normal(Strided, dtype, t, n, 1.0);
            let db = s.normal(Dense, DType::F32, 1, n, 1.0);
            let mut want = s.get(db);
            s.device.sum_rows(db, dy);
            s.close("sum_rows", ARITH, db, || {
                s.get(dy).iter().enumerate().for_each(|(i, x)| want[i % n] += x);
                want
            });
            vec![db]
        });
    }
}
