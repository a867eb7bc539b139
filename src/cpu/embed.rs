//! Token embedding. The backward pass cuts by columns: each task adds all tokens in order, so no two tasks share a row.

use super::rows::{indices, shape, slice_mut, store, view, with_buffers};
use super::{Cpu, rows_for, simd};
use crate::ops::embed::Embed;
use crate::tensor::{DType, Tensor};

impl Embed for Cpu {
    fn embed_fwd(&self, x: Tensor, table: Tensor, tokens: Tensor) {
        shape!(x, tokens.cols(), table.cols());
        let tokens = indices(tokens);
        self.blocks(x.rows(), rows_for(x.cols(), 1 << 14), |rows| {
            with_buffers([x.cols()], |[line]| {
                for r in rows {
                    store(x, r, 0, view(line, table, tokens[r] as usize, 0, x.cols()));
                }
            });
        });
    }

    fn embed_bwd(&self, dtable: Tensor, dx: Tensor, tokens: Tensor, _: Tensor) {
        shape!(dx, tokens.cols(), dtable.cols());
        assert_eq!(dtable.dtype(), DType::F32);
        let tokens = indices(tokens);
        self.blocks(dtable.cols(), 64, |c| {
            with_buffers([c.len()], |[line]| {
                for (i, &token) in tokens.iter().enumerate() {
                    // SAFETY: tasks own disjoint columns of `dtable`.
                    let sum = unsafe { slice_mut::<f32>(dtable, token as usize, c.start, c.len()) };
                    simd::add(sum, view(line, dx, i, c.start, c.len()));
                }
            });
        });
    }
}
