//! Matrix products.

use crate::harness::{
    ARITH, DTYPES, Dense, Lay, Stand, Strided, checked, derivative, dot, dtypes, everywhere,
};
use flanrt::ops::{Activation, Epilogue, Form};
use flanrt::tensor::{DType, Tensor};

pub(crate) const FORMS: [Form; 3] = [Form::NT, Form::NN, Form::TN];

/// `[m, n]`, inner `k`: below, at and above register tiles, the 256 of an inner block and the cache tiles; operands packed for
/// all tasks, and inner sizes that are cut into tasks. The last four lie on 16-byte boundaries: all of a GPU's tiles, and an
/// inner dimension that it divides.
const SIZES: [(usize, usize, usize); 19] = [
    (1, 1, 1),
    (1, 33, 31),
    (31, 1, 123),
    (33, 31, 1),
    (12, 32, 256),
    (123, 33, 31),
    (7, 300, 257),
    (200, 5, 513),
    (197, 259, 33),
    (0, 5, 3),
    (3, 0, 5),
    (2, 3, 0),
    (123, 123, 123),
    (420, 36, 801),
    (21, 43, 4101),
    (248, 256, 40),
    (504, 504, 40),
    (8, 72, 40),
    (24, 40, 1100),
];

/// Shapes of `a` and `b`.
fn shapes(form: Form, (m, n, k): (usize, usize, usize)) -> [(usize, usize); 2] {
    match form {
        Form::NT => [(m, k), (n, k)],
        Form::NN => [(m, k), (k, n)],
        Form::TN => [(k, m), (k, n)],
    }
}

fn reference(form: Form, (m, n, k): (usize, usize, usize), a: &[f64], b: &[f64]) -> Vec<f64> {
    let at = |i: usize, p: usize| if form == Form::TN { a[p * m + i] } else { a[i * k + p] };
    let bt = |p: usize, j: usize| if form == Form::NT { b[j * k + p] } else { b[p * n + j] };
    (0..m * n).map(|ij| (0..k).map(|p| at(ij / n, p) * bt(p, ij % n)).sum()).collect()
}

/// What is done to the product.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Then {
    Nothing,
    Bias,
    Plus,
    /// Bias, and `plus` is the output.
    InPlace,
    /// Bias, the activation, `plus`.
    Act(Activation),
}
use Then::{Act, Bias, InPlace, Nothing, Plus};

fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
        }
    }
}

pub(crate) fn case(
    s: &Stand,
    lay: Lay,
    (inputs, output): (DType, DType),
    form: Form,
    size: (usize, usize, usize),
    then: Then,
) -> Vec<Tensor> {
    let (m, n, _) = size;
    let [a, b] = shapes(form, size).map(|(r, c)| s.normal(lay, inputs, r, c, 1.0));
    let bias = matches!(then, Bias | InPlace | Act(_)).then(|| s.normal(Dense, inputs, 1, n, 1.0));
    let other = s.normal(lay, output, m, n, 1.0);
    let (y, plus) = match then {
        Nothing | Bias => (s.blank(lay, output, m, n), None),
        Plus | Act(_) => (s.blank(lay, output, m, n), Some(other)),
        InPlace => (other, Some(other)),
    };
    let (biases, pluses) = (bias.map(|b| s.get(b)), plus.map(|p| s.get(p)));
    let activation = if let Act(a) = then { Some(a) } else { None };
    s.device.matmul(y, a, b, form, Epilogue { bias, activation, plus });
    // The errors of a long sum are independent: they grow with the root of its length.
    let arith = ARITH * (size.2 as f64 / 1100.0).sqrt().max(1.0);
    s.close(&format!("{form:?} {size:?} {then:?}"), arith, y, || {
        let mut want = reference(form, size, &s.get(a), &s.get(b));
        for (i, w) in want.iter_mut().enumerate() {
            *w += biases.as_ref().map_or(0.0, |b| b[i % n]);
            *w = activation.map_or(*w, |a| activate(a, *w)) + pluses.as_ref().map_or(0.0, |p| p[i]);
        }
        want
    });
    vec![y]
}

#[test]
fn products() {
    for (dtype, form) in dtypes().iter().flat_map(|&d| FORMS.map(|f| (d, f))) {
        for size in SIZES {
            for (lay, output, then) in [
                (Dense, dtype, Nothing),
                (Strided, dtype, Bias),
                (Strided, DType::F32, Plus),
                (Dense, DType::F32, InPlace),
                (Strided, dtype, InPlace),
                (Dense, dtype, Act(Activation::Gelu)),
                (Strided, DType::F32, Act(Activation::Silu)),
            ] {
                // The checker takes its time: of large products the two ways to end them that differ most.
                if checked() && size.0 * size.1 > 40_000 && !matches!(then, Nothing | InPlace) {
                    continue;
                }
                everywhere("matmul", |s| case(s, lay, (dtype, output), form, size, then));
            }
        }
    }
}

#[test]
fn the_forms_are_each_others_gradients() {
    let (m, n, k) = (5, 7, 33);
    everywhere("matmul gradients", |s| {
        let [a, b, dy] = [(m, k), (n, k), (m, n)].map(|(r, c)| s.normal(Dense, DType::F32, r, c, 1.0));
        let (da, db) = (s.blank(Dense, DType::F32, m, k), s.put(Dense, DType::F32, n, k, &vec![0.0; n * k]));
        s.device.matmul(da, dy, b, Form::NN, Epilogue::NONE);
        s.device.matmul(db, dy, a, Form::TN, Epilogue::add(None, Some(db)));
        let (xs, ws, dys) = (s.get(a), s.get(b), s.get(dy));
        let loss = |a: &[f64], b: &[f64]| dot(&dys, &reference(Form::NT, (m, n, k), a, b));
        s.close("da", ARITH, da, || derivative(&xs, |a| loss(a, &ws)));
        s.close("db", ARITH, db, || derivative(&ws, |b| loss(&xs, b)));
        vec![da, db]
    });
}

/// An element's bits depend on its row of `a` and its column of `b` alone, even if its neighbours are NaN. The same for
/// operands that tensor cores can read: rows and ranges on 16-byte boundaries.
#[test]
fn a_part_of_a_product_is_the_same_alone() {
    let odd = [(0..1, 0..173), (49..50, 3..40), (51..90, 0..173), (210..211, 172..173), (3..47, 16..17)];
    let even = [(0..8, 0..176), (48..96, 8..40), (56..72, 0..176), (200..208, 168..176), (0..152, 16..24)];
    for (dtype, form) in DTYPES.iter().flat_map(|&d| FORMS.map(|f| (d, f))) {
        for (lay, (m, n, k), ranges) in [(Strided, (211, 173, 300), &odd), (Dense, (208, 176, 304), &even)] {
            everywhere("matmul parts", |s| {
                let [a, b] = shapes(form, (m, n, k)).map(|(r, c)| s.normal(lay, dtype, r, c, 1.0));
                let rows_of_a = |r: std::ops::Range<usize>| {
                    if form == Form::TN { a.slice_cols(r) } else { a.slice_rows(r) }
                };
                let cols_of_b = |c: std::ops::Range<usize>| {
                    if form == Form::NT { b.slice_rows(c) } else { b.slice_cols(c) }
                };
                let nan = rows_of_a(50..51);
                s.fill(nan, &vec![f64::NAN; nan.len()]);
                let y = s.blank(Dense, dtype, m, n);
                s.device.matmul(y, a, b, form, Epilogue::NONE);
                for (rows, cols) in ranges {
                    let part = s.blank(Strided, dtype, rows.len(), cols.len());
                    let (a, b) = (rows_of_a(rows.clone()), cols_of_b(cols.clone()));
                    s.device.matmul(part, a, b, form, Epilogue::NONE);
                    let whole = y.slice_rows(rows.clone()).slice_cols(cols.clone());
                    assert!(
                        s.bits(part) == s.bits(whole),
                        "{form:?} {dtype:?} rows {rows:?} columns {cols:?}"
                    );
                }
                assert!(s.get(y.slice_rows(50..51)).iter().all(|x| x.is_nan()));
                vec![y]
            });
        }
    }
}
