//! Conversions, gathers, placements, sums of rows.

use super::rows::{indices, shape, store, view, with_buffers};
use super::{Cpu, rows_for, simd};
use crate::ops::elem::Elem;
use crate::tensor::Tensor;

impl Elem for Cpu {
    fn convert(&self, y: Tensor, x: Tensor) {
        shape!(y, x.rows(), x.cols());
        if x.rows() == 1 {
            self.blocks(x.cols(), 1 << 14, |c| {
                with_buffers([c.len()], |[line]| store(y, 0, c.start, view(line, x, 0, c.start, c.len())));
            });
            return;
        }
        self.blocks(x.rows(), rows_for(x.cols(), 1 << 14), |rows| {
            with_buffers([x.cols()], |[line]| {
                for r in rows {
                    store(y, r, 0, view(line, x, r, 0, x.cols()));
                }
            });
        });
    }

    fn gather_rows(&self, y: Tensor, x: Tensor, index: Tensor) {
        shape!(y, index.cols(), x.cols());
        let index = indices(index);
        self.blocks(y.rows(), rows_for(x.cols(), 1 << 14), |rows| {
            with_buffers([x.cols()], |[line]| {
                for r in rows {
                    store(y, r, 0, view(line, x, index[r] as usize, 0, x.cols()));
                }
            });
        });
    }

    fn put_rows(&self, y: Tensor, x: Tensor, index: Tensor) {
        shape!(x, index.cols(), y.cols());
        let index = indices(index);
        self.blocks(x.rows(), rows_for(x.cols(), 1 << 14), |rows| {
            with_buffers([x.cols()], |[line]| {
                for r in rows {
                    store(y, index[r] as usize, 0, view(line, x, r, 0, x.cols()));
                }
            });
        });
    }

    fn scatter_rows(&self, dx: Tensor, dy: Tensor, index: Tensor) {
        shape!(dy, index.cols(), dx.cols());
        let index = indices(index);
        self.blocks(dx.rows(), rows_for(dx.cols(), 1 << 14), |rows| {
            with_buffers([dx.cols(), dx.cols()], |[sum, line]| {
                let mut i = index.partition_point(|&x| (x as usize) < rows.start);
                for r in rows {
                    sum.fill(0.0);
                    while i < index.len() && index[i] as usize == r {
                        simd::add(sum, view(line, dy, i, 0, dx.cols()));
                        i += 1;
                    }
                    store(dx, r, 0, sum);
                }
            });
        });
    }

    fn sum_rows(&self, db: Tensor, dy: Tensor) {
        shape!(db, 1, dy.cols());
        self.blocks(dy.cols(), 64, |c| {
            with_buffers([c.len(), c.len()], |[sum, line]| {
                sum.fill(0.0);
                for r in 0..dy.rows() {
                    simd::add(sum, view(line, dy, r, c.start, c.len()));
                }
                simd::add(sum, view(line, db, 0, c.start, c.len()));
                store(db, 0, c.start, sum);
            });
        });
    }
}
