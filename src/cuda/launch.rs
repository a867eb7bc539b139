//! Kernels: the table of all there are, and launching one with its arguments checked.
//!
//! An op family lists its kernels with their parameters as the `.cu` file declares them. When a device is opened, every one
//! is looked up and its parameters are compared with the compiled code's; every launch compares its arguments with the list.
//! Both find our own mistakes: the first is an internal error, the second a panic.

use super::Cuda;
use super::driver::{Module, check};
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor};
use cudarc::driver::sys;
use std::collections::HashMap;
use std::ffi::CString;
use std::fmt;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, Ordering};

/// The kernels of every op family.
static FAMILIES: &[&[Kernel]] = &[
    &super::attention::KERNELS,
    super::elem::KERNELS,
    super::embed::KERNELS,
    super::glu::KERNELS,
    super::loss::KERNELS,
    super::matmul::KERNELS,
    &super::norm::KERNELS,
    &super::optim::KERNELS,
    super::rope::KERNELS,
];

/// Asserts that `x` has this shape: the contract of an op.
macro_rules! shape {
    ($x:expr, $rows:expr, $cols:expr) => {
        assert_eq!(($x.rows(), $x.cols()), ($rows, $cols), "shape of {}", stringify!($x))
    };
}
#[allow(unused_imports)]
pub(super) use shape;

/// Variants of a kernel that takes every storage dtype.
pub(super) const DTYPES: &[&str] = &["f32", "bf16", "f16"];

/// Variants of a kernel that takes the 16-bit dtypes.
pub(super) const HALVES: &[&str] = &["bf16", "f16"];

/// Kernels that differ in the dtypes of their arguments only; the symbol of each is `{name}_{variant}`.
pub(super) struct Kernel {
    /// The symbol without the variant. One with `_sm90` in it exists on compute capability 9.0 alone.
    pub(super) name: &'static str,
    /// Dtypes, e.g. [`DTYPES`]. `[""]`: one kernel, named `name`. `"bf16_f32"`: two dtypes, `T` and `U` of the parameters.
    pub(super) variants: &'static [&'static str],
    /// Most threads of a block, as in its launch bounds.
    pub(super) threads: u32,
    /// Parameters in order, e.g. `y: *mut T, y_stride: i64, x: *const T, w: *const f32, rows: i32, eps: f32`; `T` and `U`
    /// stand for the variant's dtypes.
    pub(super) params: &'static str,
}

impl Kernel {
    /// The name of a variant in the images.
    fn symbol(&self, variant: &str) -> String {
        match variant {
            "" => self.name.to_string(),
            variant => format!("{}_{variant}", self.name),
        }
    }

    /// Whether GPUs of this compute capability have it.
    fn fits(&self, capability: u32) -> bool {
        !self.name.contains("_sm90") || capability == 90
    }

    /// The parameters of a variant.
    fn parse(&self, variant: &str) -> Vec<Param> {
        let mut types = variant.split('_');
        let (t, u) = (types.next().unwrap_or(""), types.next().unwrap_or(""));
        let parse = |text: &'static str| {
            let wrong = || format!("parameter `{text}` of {} has no type that kernels take", self.name);
            let (name, kind) = text.split_once(':').unwrap_or_else(|| panic!("{}", wrong()));
            let (name, kind) = (name.trim(), kind.trim());
            if let Some((access, pointee)) = kind.split_once(' ').filter(|_| kind.starts_with('*')) {
                let pointee = match pointee {
                    "T" => t,
                    "U" => u,
                    own => own,
                };
                let known =
                    ELEMENTS.into_iter().find(|e| *e == pointee).unwrap_or_else(|| panic!("{}", wrong()));
                return Param { name, kind: Type::Pointer(known), text: format!("{access} {known}") };
            }
            let kind = match kind {
                "i32" => Type::I32,
                "u32" => Type::U32,
                "f32" => Type::F32,
                "i64" => Type::I64,
                "u64" => Type::U64,
                _ => panic!("{}", wrong()),
            };
            Param { name, kind, text: kind.to_string() }
        };
        self.params.split(',').map(str::trim).filter(|p| !p.is_empty()).map(parse).collect()
    }
}

/// What pointers may point to.
const ELEMENTS: [&str; 7] = ["f32", "bf16", "f16", "u32", "u16", "f64", "u64"];

/// What a parameter takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    Pointer(&'static str),
    I32,
    U32,
    F32,
    I64,
    U64,
}

impl Type {
    /// Bytes, and alignment.
    fn size(self) -> usize {
        match self {
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::Pointer(_) | Self::I64 | Self::U64 => 8,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pointer(element) => write!(f, "pointer to {element}"),
            Self::I32 => f.write_str("i32"),
            Self::U32 => f.write_str("u32"),
            Self::F32 => f.write_str("f32"),
            Self::I64 => f.write_str("i64"),
            Self::U64 => f.write_str("u64"),
        }
    }
}

struct Param {
    name: &'static str,
    kind: Type,
    /// The type as the table writes it, with the variant's dtypes.
    text: String,
}

/// An argument of a launch.
#[derive(Clone, Copy, Debug)]
pub(super) enum Arg {
    /// A device address. `dtype`: what is there; `None` where the kernel knows better (parts of scratch, or null).
    Ptr {
        addr: u64,
        dtype: Option<DType>,
    },
    I32(i32),
    I64(i64),
    U32(u32),
    U64(u64),
    F32(f32),
}

impl Arg {
    /// Whether a parameter of this type takes it.
    fn is(&self, kind: Type) -> bool {
        match (self, kind) {
            (Self::Ptr { dtype, .. }, Type::Pointer(element)) => dtype.is_none_or(|d| d.name() == element),
            (Self::I32(_), Type::I32)
            | (Self::U32(_), Type::U32)
            | (Self::F32(_), Type::F32)
            | (Self::I64(_), Type::I64)
            | (Self::U64(_), Type::U64) => true,
            _ => false,
        }
    }

    /// Its bytes, the first first.
    fn bits(self) -> u64 {
        match self {
            Self::Ptr { addr, .. } => addr,
            Self::I32(x) => u64::from(x as u32),
            Self::U32(x) => u64::from(x),
            Self::F32(x) => u64::from(x.to_bits()),
            Self::I64(x) => x as u64,
            Self::U64(x) => x,
        }
    }
}

impl From<Tensor> for Arg {
    fn from(x: Tensor) -> Self {
        Self::Ptr { addr: x.addr() as u64, dtype: Some(x.dtype()) }
    }
}

impl From<Option<Tensor>> for Arg {
    fn from(x: Option<Tensor>) -> Self {
        x.map_or(Self::Ptr { addr: 0, dtype: None }, Self::from)
    }
}

macro_rules! arg_from {
    ($($ty:ty => $variant:ident),*) => {
        $(impl From<$ty> for Arg {
            fn from(x: $ty) -> Self {
                Self::$variant(x)
            }
        })*
    };
}
arg_from!(i32 => I32, i64 => I64, u32 => U32, u64 => U64, f32 => F32);

/// The shape of a launch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Launch {
    /// Blocks; y and z at most 65535.
    pub(super) grid: [u32; 3],
    /// Threads of a block.
    pub(super) block: u32,
    /// Bytes of dynamic shared memory of a block.
    pub(super) shared: u32,
}

impl Launch {
    /// `blocks` blocks of `threads` threads.
    pub(super) fn new(blocks: u32, threads: u32) -> Self {
        Self { grid: [blocks, 1, 1], block: threads, shared: 0 }
    }
}

/// A kernel of the images, looked up.
struct Function {
    raw: sys::CUfunction,
    symbol: String,
    params: Vec<Param>,
    /// Dynamic shared memory allowed so far: above 48 KiB it must be asked for.
    shared: AtomicU32,
}

// SAFETY: functions may be used from any thread.
unsafe impl Send for Function {}
// SAFETY: as above; the driver locks for itself.
unsafe impl Sync for Function {}

/// All kernels that a GPU has, by name and variant.
pub(super) struct Functions(HashMap<&'static str, Vec<(&'static str, Function)>>);

/// Every kernel of every family.
fn all_kernels() -> impl Iterator<Item = &'static Kernel> {
    FAMILIES.iter().flat_map(|family| family.iter())
}

/// Symbol and parameter types of every kernel.
pub(super) fn table() -> Vec<(String, Vec<String>)> {
    let types = |k: &Kernel, v: &str| k.parse(v).into_iter().map(|param| param.text).collect();
    all_kernels().flat_map(|k| k.variants.iter().map(move |v| (k.symbol(v), types(k, v)))).collect()
}

impl Functions {
    /// Looks up every kernel for a GPU of this compute capability and compares its parameters with the list.
    pub(super) fn load(modules: &[Module], capability: u32) -> Result<Self> {
        let mut all: HashMap<_, Vec<_>> = HashMap::new();
        for kernel in all_kernels().filter(|k| k.fits(capability)) {
            for variant in kernel.variants {
                let function = Function::find(modules, kernel, variant)?;
                all.entry(kernel.name).or_default().push((*variant, function));
            }
        }
        Ok(Self(all))
    }

    fn get(&self, name: &str, variant: &str) -> &Function {
        let of_name = self.0.get(name).into_iter().flatten();
        let mut found = of_name.filter(|(v, _)| *v == variant).map(|(_, function)| function);
        found.next().unwrap_or_else(|| panic!("kernel {name} has no variant {variant:?} on this GPU"))
    }
}

impl Function {
    fn find(modules: &[Module], kernel: &Kernel, variant: &str) -> Result<Self> {
        let symbol = kernel.symbol(variant);
        let name = CString::new(symbol.as_str()).expect("symbols hold no zero");
        let mut raw = null_mut();
        let found = modules.iter().any(|module| {
            // SAFETY: a loaded module, a string with its final zero, place for one handle.
            let code = unsafe { sys::cuModuleGetFunction(&mut raw, module.raw(), name.as_ptr()) };
            code == sys::CUresult::CUDA_SUCCESS
        });
        if !found {
            return Err(Error::internal(format!("kernel {symbol} is in none of the embedded images")));
        }
        let function = Self { raw, symbol, params: kernel.parse(variant), shared: AtomicU32::new(0) };
        function.compare()?;
        Ok(function)
    }

    /// Compares number, sizes and places of the parameters with those of the compiled kernel.
    fn compare(&self) -> Result<()> {
        let Self { symbol, params, .. } = self;
        let compiled = |i| {
            let (mut offset, mut size) = (0, 0);
            // SAFETY: a function of a loaded module, and place for two numbers.
            let code = unsafe { sys::cuFuncGetParamInfo(self.raw, i, &mut offset, &mut size) };
            (code == sys::CUresult::CUDA_SUCCESS).then_some((offset, size))
        };
        let mut end = 0usize;
        for (i, param) in params.iter().enumerate() {
            let size = param.kind.size();
            let offset = end.next_multiple_of(size);
            end = offset + size;
            let place = format!("kernel {symbol}: parameter {i}, `{}: {}`,", param.name, param.text);
            match compiled(i) {
                Some(found) if found == (offset, size) => {}
                Some((at, bytes)) => {
                    return Err(Error::internal(format!(
                        "{place} has {size} bytes at {offset} in the table and {bytes} bytes at {at} in the image"
                    )));
                }
                None => {
                    return Err(Error::internal(format!("{place} is in the table and not in the image")));
                }
            }
        }
        match compiled(params.len()) {
            Some(_) => Err(Error::internal(format!(
                "kernel {symbol}: the image has more than the {} parameters of the table",
                params.len()
            ))),
            None => Ok(()),
        }
    }

    /// Asks for `bytes` of dynamic shared memory a block, where no launch has before.
    fn allow_shared(&self, bytes: u32) -> Result<()> {
        use sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as LIMIT;
        if bytes <= self.shared.load(Ordering::Relaxed) {
            return Ok(());
        }
        let doing = format!("asking for {bytes} bytes of shared memory for {}", self.symbol);
        // SAFETY: a function of a loaded module.
        check(unsafe { sys::cuFuncSetAttribute(self.raw, LIMIT, bytes as i32) }, &doing)?;
        self.shared.store(bytes, Ordering::Relaxed);
        Ok(())
    }
}

/// Most parameters of a kernel.
const MOST_PARAMS: usize = 48;

impl Cuda {
    /// Starts `kernel` after all work before it. What the driver refuses is kept and comes out at the next wait.
    pub(super) fn launch(&self, kernel: &'static Kernel, variant: &str, how: Launch, args: &[Arg]) {
        let function = self.core.functions.get(kernel.name, variant);
        let Function { symbol, params, .. } = function;
        assert_eq!(args.len(), params.len(), "number of arguments of {symbol}");
        for (i, (arg, param)) in args.iter().zip(params).enumerate() {
            assert!(
                arg.is(param.kind),
                "{symbol}: argument {i}, `{}: {}`, is {arg:?}",
                param.name,
                param.kind
            );
        }
        let [x, y, z] = how.grid;
        assert!(
            x > 0
                && (1..=65535).contains(&y)
                && (1..=65535).contains(&z)
                && (1..=kernel.threads).contains(&how.block),
            "{symbol}: {how:?}"
        );
        let mut values = [0u64; MOST_PARAMS];
        let mut places = [null_mut(); MOST_PARAMS];
        for (i, arg) in args.iter().enumerate() {
            values[i] = arg.bits();
            places[i] = (&raw mut values[i]).cast();
        }
        self.core.context.bind();
        self.keep(function.allow_shared(how.shared).and_then(|()| {
            // SAFETY: number and sizes of the arguments are those of the compiled kernel; the driver copies them. That their
            // addresses are right is the op's promise.
            let code = unsafe {
                sys::cuLaunchKernel(
                    function.raw,
                    x,
                    y,
                    z,
                    how.block,
                    1,
                    1,
                    how.shared,
                    self.core.stream.raw(),
                    places.as_mut_ptr(),
                    null_mut(),
                )
            };
            if code != sys::CUresult::CUDA_SUCCESS {
                check(code, &format!("starting {symbol} as {how:?}"))?;
            }
            self.after_launch(symbol)
        }));
    }

    /// Scratch of the op that is running: its address, a multiple of 1024, and its bytes. Work is in order, so ops never
    /// share it in time; what is in it is what the last one left.
    pub(super) fn workspace(&self) -> (u64, usize) {
        (self.core.workspace, super::WORKSPACE)
    }

    /// Multiprocessors of the GPU.
    pub(super) fn sms(&self) -> u32 {
        self.core.gpu.sms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATHER: Kernel = Kernel {
        name: "gather_rows",
        variants: DTYPES,
        threads: 256,
        params: "y: *mut T, y_stride: i64, x: *const T, x_stride: i64, index: *const u32, rows: i32, cols: i32",
    };

    #[test]
    fn parameters_are_read_with_the_dtypes_of_the_variant() {
        let convert = Kernel {
            name: "c",
            variants: &["f32_bf16"],
            threads: 1,
            params: "y: *mut T, x: *const U, n: i64, s: f32",
        };
        let types: Vec<_> = convert.parse("f32_bf16").into_iter().map(|p| p.text).collect();
        assert_eq!(types, ["*mut f32", "*const bf16", "i64", "f32"]);
        assert_eq!((GATHER.symbol("f16"), convert.symbol("")), ("gather_rows_f16".into(), "c".into()));
        let hopper = Kernel { name: "matmul_nt_sm90", variants: &[""], threads: 384, params: "" };
        assert!(hopper.fits(90) && !hopper.fits(100) && GATHER.fits(120) && hopper.parse("").is_empty());
        for params in ["x", "x: i8", "x: *const i8", "x: &f32"] {
            let wrong = Kernel { name: "w", variants: &[""], threads: 1, params };
            assert!(std::panic::catch_unwind(|| wrong.parse("")).is_err(), "{params}");
        }
    }

    #[test]
    fn arguments_fit_their_parameters_only() {
        let x = Tensor::new(4096, DType::BF16, 2, 3);
        assert!(Arg::from(x).is(Type::Pointer("bf16")) && !Arg::from(x).is(Type::Pointer("f32")));
        assert!(Arg::from(None).is(Type::Pointer("f64")) && !Arg::from(x).is(Type::U64));
        assert!(
            Arg::from(1i64).is(Type::I64) && !Arg::from(1i32).is(Type::I64) && !Arg::from(1u32).is(Type::I32)
        );
        assert_eq!((Arg::from(-1i32).bits(), Arg::from(1.0f32).bits()), (0xffff_ffff, 0x3f80_0000));
    }

    #[test]
    fn the_table_is_compared_with_the_compiled_kernels() {
        if let Err(reason) = flanrt_emulator::available() {
            eprintln!("skipped: {reason}");
            return;
        }
        flanrt_emulator::install(flanrt_emulator::Mode::Plain);
        let cuda = Cuda::new(0).unwrap();
        let find = |params, variant| {
            let kernel = Kernel { params, ..GATHER };
            Function::find(&cuda.core._modules, &kernel, variant).map(|_| ()).map_err(|e| e.message)
        };
        for variant in DTYPES {
            find(GATHER.params, variant).unwrap();
        }
        let fails = |params, says: &str| {
            let message = find(params, "f32").unwrap_err();
            assert!(message.contains("gather_rows_f32") && message.contains(says), "{message}");
        };
        fails(
            "y: *mut T, y_stride: i64, x: *const T, x_stride: i32",
            "parameter 3, `x_stride: i32`, has 4 bytes at 24",
        );
        fails(
            "y: *mut T, y_stride: i64, x: *const T, x_stride: i64, index: *const u32, rows: i64",
            "`rows: i64`, has 8 bytes at 40 in the table and 4 bytes at 40 in the image",
        );
        fails("y: *mut T, y_stride: i64", "more than the 2 parameters");
        let longer = "y: *mut T, y_stride: i64, x: *const T, x_stride: i64, index: *const u32, rows: i32, cols: i32, eps: f32";
        fails(longer, "`eps: f32`, is in the table and not in the image");
        assert!(find(GATHER.params, "f64").unwrap_err().contains("gather_rows_f64 is in none"));
    }
}
