//! SwiGLU and GELU.

use super::Cuda;
use super::launch::{Arg, DTYPES, Kernel, Launch, shape};
use super::rows::{THREADS, chunked, flat, int, lanes, stride};
use crate::ops::glu::Glu;
use crate::tensor::Tensor;

const SWIGLU_FWD: Kernel = Kernel {
    name: "swiglu_fwd",
    variants: DTYPES,
    threads: THREADS,
    params: "y: *mut T, y_stride: i64, gate_up: *const T, gate_up_stride: i64, rows: i32, f: i32",
};
const SWIGLU_BWD: Kernel = Kernel {
    name: "swiglu_bwd",
    variants: DTYPES,
    threads: THREADS,
    params: "dgate_up: *mut T, dgate_up_stride: i64, dy: *const T, dy_stride: i64, gate_up: *const T, gate_up_stride: i64, rows: i32, f: i32",
};
const GELU_FWD: Kernel = Kernel {
    name: "gelu_fwd",
    variants: DTYPES,
    threads: THREADS,
    params: "y: *mut T, y_stride: i64, x: *const T, x_stride: i64, rows: i32, cols: i64",
};
const GELU_BWD: Kernel = Kernel {
    name: "gelu_bwd",
    variants: DTYPES,
    threads: THREADS,
    params: "dx: *mut T, dx_stride: i64, dy: *const T, dy_stride: i64, x: *const T, x_stride: i64, rows: i32, cols: i64",
};
pub(super) const KERNELS: &[Kernel] = &[SWIGLU_FWD, SWIGLU_BWD, GELU_FWD, GELU_BWD];

impl Cuda {
    /// Starts an elementwise kernel on `tensors` of `rows` by `cols`, every thread taking `chunks` chunks of each.
    fn each_chunk(
        &self,
        kernel: &'static Kernel,
        tensors: &[Tensor],
        (rows, cols): (usize, Arg),
        width: usize,
        chunks: usize,
    ) {
        if rows * width == 0 {
            return;
        }
        let dtype = tensors[0].dtype();
        let how = Launch::new(chunked(rows, width, lanes(dtype), chunks), THREADS);
        let mut args: Vec<Arg> = Vec::with_capacity(2 * tensors.len() + 2);
        for &x in tensors {
            args.extend([x.into(), Arg::from(stride(x))]);
        }
        args.extend([int(rows).into(), cols]);
        self.launch(kernel, dtype.name(), how, &args);
    }
}

impl Glu for Cuda {
    fn swiglu_fwd(&self, y: Tensor, gate_up: Tensor) {
        let (t, f) = (y.rows(), y.cols());
        shape!(gate_up, t, 2 * f);
        self.each_chunk(&SWIGLU_FWD, &[y, gate_up], (t, int(f).into()), f, 2);
    }

    fn swiglu_bwd(&self, dgate_up: Tensor, dy: Tensor, gate_up: Tensor) {
        let (t, f) = (dy.rows(), dy.cols());
        shape!(gate_up, t, 2 * f);
        shape!(dgate_up, t, 2 * f);
        self.each_chunk(&SWIGLU_BWD, &[dgate_up, dy, gate_up], (t, int(f).into()), f, 2);
    }

    fn gelu_fwd(&self, y: Tensor, x: Tensor) {
        shape!(y, x.rows(), x.cols());
        let all = flat([y, x]);
        let (t, f) = (all[0].rows(), all[0].cols());
        self.each_chunk(&GELU_FWD, &all, (t, Arg::I64(f as i64)), f, 4);
    }

    fn gelu_bwd(&self, dx: Tensor, dy: Tensor, x: Tensor) {
        shape!(dy, x.rows(), x.cols());
        shape!(dx, x.rows(), x.cols());
        let all = flat([dx, dy, x]);
        let (t, f) = (all[0].rows(), all[0].cols());
        self.each_chunk(&GELU_BWD, &all, (t, Arg::I64(f as i64)), f, 2);
    }
}
