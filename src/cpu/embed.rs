//! Token embedding. The backward pass cuts by columns: each task adds the rows of all tokens in order, a token's in f32.

use super::rows::{indices, load, shape, store, view, with_buffers};
use super::{Cpu, rows_for, simd};
use crate::ops::embed::Embed;
use crate::tensor::Tensor;

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

    fn embed_bwd(&self, dtable: Tensor, dx: Tensor, tokens: Tensor, order: Tensor) {
        shape!(dx, tokens.cols(), dtable.cols());
        shape!(order, 1, tokens.cols());
        let (tokens, order) = (indices(tokens), indices(order));
        let token = |row: u32| tokens[row as usize] as usize;
        self.blocks(dtable.cols(), 64, |c| {
            with_buffers([c.len(); 2], |[sum, line]| {
                for rows in order.chunk_by(|&a, &b| token(a) == token(b)) {
                    load(sum, dtable, token(rows[0]), c.start);
                    for &r in rows {
                        simd::add(sum, view(line, dx, r as usize, c.start, c.len()));
                    }
                    store(dtable, token(rows[0]), c.start, sum);
                }
            });
        });
    }
}
