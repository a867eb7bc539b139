//! Rotary position embedding, in place.

use super::rows::{indices, load, shape, store, view, with_buffers};
use super::simd::vectorized;
use super::{Cpu, rows_for};
use crate::ops::rope::Rope;
use crate::tensor::Tensor;

vectorized! {
    fn rotate(x: &mut [f32], cos_sin: &[f32], sign: f32) {
        let half = x.len() / 2;
        let (x1, x2) = x.split_at_mut(half);
        let (cos, sin) = cos_sin.split_at(half);
        let (x2, sin) = (&mut x2[..half], &sin[..half]);
        for i in 0..half {
            let (a, b, s) = (x1[i], x2[i], sign * sin[i]);
            x1[i] = a.mul_add(cos[i], -(b * s));
            x2[i] = b.mul_add(cos[i], a * s);
        }
    }
}

impl Rope for Cpu {
    fn rope(&self, x: Tensor, positions: Tensor, table: Tensor, inverse: bool) {
        let k = table.cols();
        assert_eq!(x.cols() % k, 0, "{x:?} in heads of {k}");
        shape!(positions, 1, x.rows());
        let positions = indices(positions);
        let sign = if inverse { -1.0 } else { 1.0 };
        self.blocks(x.rows(), rows_for(x.cols(), 1 << 13), |rows| {
            with_buffers([x.cols(), k], |[line, cs]| {
                for r in rows {
                    let cos_sin = view(cs, table, positions[r] as usize, 0, k);
                    load(line, x, r, 0);
                    for head in line.chunks_exact_mut(k) {
                        rotate(head, cos_sin, sign);
                    }
                    store(x, r, 0, line);
                }
            });
        });
    }
}
