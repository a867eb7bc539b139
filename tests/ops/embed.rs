//! Token embedding.

use crate::harness::{ARITH, DTYPES, Dense, Lay, Stand, Strided, derivative, dot, everywhere};
use flanrt::rng::Rng;
use flanrt::tensor::{DType, Tensor};

/// The rows sorted by (token, row).
fn order(tokens: &[u32]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..tokens.len() as u32).collect();
    order.sort_by_key(|&row| tokens[row as usize]);
    order
}

pub(crate) fn case(s: &Stand, lay: Lay, dtype: DType, t: usize, d: usize, v: usize) -> Vec<Tensor> {
    let rng = Rng::new(3, 1);
    let tokens: Vec<u32> = (0..t as u64).map(|i| rng.below(i, v as u64) as u32).collect();
    let index = s.index(&tokens);
    let table = s.normal(lay, dtype, v, d, 1.0);
    let x = s.blank(lay, dtype, t, d);
    s.device.embed_fwd(x, table, index);
    let (tables, xs) = (s.get(table), s.get(x));
    for (i, &token) in tokens.iter().enumerate() {
        assert_eq!(xs[i * d..][..d], tables[token as usize * d..][..d], "token {i}");
    }
    let dx = s.normal(lay, dtype, t, d, 1.0);
    // Gradients are f32, or stored as the weights are.
    let dtable = s.normal(Dense, if lay == Dense { DType::F32 } else { dtype }, v, d, 1.0);
    let mut want = s.get(dtable);
    s.device.embed_bwd(dtable, dx, index, s.index(&order(&tokens)));
    s.close("embed_bwd", ARITH, dtable, || {
        let dx = s.get(dx);
        for (i, &token) in tokens.iter().enumerate() {
            (0..d).for_each(|c| want[token as usize * d + c] += dx[i * d + c]);
        }
        want
    });
    vec![x, dtable]
}

#[test]
fn lookup_and_its_gradient() {
    for dtype in DTYPES {
        for (t, d, v) in [(0, 5, 3), (1, 1, 1), (31, 33, 7), (123, 130, 512), (1000, 8, 3)] {
            everywhere("embed", |s| case(s, Dense, dtype, t, d, v));
            everywhere("embed", |s| case(s, Strided, dtype, t, d, v));
        }
    }
}

#[test]
fn backward_is_the_derivative() {
    everywhere("embed_bwd", |s| {
        let (d, v, tokens) = (3, 5, [4u32, 0, 4, 1, 4]);
        let dx = s.normal(Dense, DType::F32, 5, d, 1.0);
        let dtable = s.put(Dense, DType::F32, v, d, &vec![0.0; v * d]);
        s.device.embed_bwd(dtable, dx, s.index(&tokens), s.index(&order(&tokens)));
        s.close("embed_bwd", ARITH, dtable, || {
            let dxs = s.get(dx);
            derivative(&s.normals(v * d, 1.0), |table| {
                tokens
                    .iter()
                    .enumerate()
                    .map(|(i, &k)| dot(&dxs[i * d..][..d], &table[k as usize * d..][..d]))
                    .sum()
            })
        });
        vec![dtable]
    });
}
