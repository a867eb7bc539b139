//! A CUDA driver that runs this repository's kernels on the CPU.
//!
//! [`install`] loads a shared library whose soname is `libcuda.so`; whoever opens the CUDA driver in this process from then
//! on gets it. The unmodified CUDA backend (allocation, streams, graphs, launches, argument packing) then runs in ordinary
//! tests. For other processes, [`folder`] goes in front of `LD_LIBRARY_PATH`.
//!
//! Environment: `EMU_SEED`, `EMU_EARLY`, `EMU_REVERSE`, `EMU_THREADS` choose schedules (see `include/grid.h`); `EMU_MEM` is
//! the device memory in bytes (1 GiB), `EMU_CC` the compute capability (`9.0`), `EMU_SMS` the number of multiprocessors
//! (4), `EMU_EAGER=1` runs work when it is queued instead of when it is waited for.

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW, Symbol};
use std::ffi::{CStr, CString, c_char, c_int};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// How the kernels were compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As fast as it goes.
    Plain,
    /// Every access of a kernel is checked for bounds, initialisation and races: several times slower, for small shapes.
    Checked,
}

/// Whether the emulator could be built here; else why not.
pub fn available() -> Result<(), String> {
    match env!("EMULATOR_MISSING") {
        "" => Ok(()),
        reason => Err(format!("the CUDA emulator was not built: {reason}")),
    }
}

/// The folder with the `libcuda.so` that has the product's kernels, for `LD_LIBRARY_PATH`.
pub fn folder(mode: Mode) -> &'static Path {
    static PLAIN: OnceLock<PathBuf> = OnceLock::new();
    static CHECKED: OnceLock<PathBuf> = OnceLock::new();
    match mode {
        Mode::Plain => library_folder(&PLAIN, "plain"),
        Mode::Checked => library_folder(&CHECKED, "checked"),
    }
}

/// The folder with the `libcuda.so` that has the emulator's own test kernels.
pub fn test_kernels_folder(mode: Mode) -> &'static Path {
    static PLAIN: OnceLock<PathBuf> = OnceLock::new();
    static CHECKED: OnceLock<PathBuf> = OnceLock::new();
    match mode {
        Mode::Plain => library_folder(&PLAIN, "test-plain"),
        Mode::Checked => library_folder(&CHECKED, "test-checked"),
    }
}

/// The folder with the `libcuda.so` that has the kernels of `tests/conformance`.
fn conformance_folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    library_folder(&FOLDER, "conformance")
}

fn library_folder(cell: &'static OnceLock<PathBuf>, name: &str) -> &'static Path {
    cell.get_or_init(|| Path::new(env!("EMULATOR_LIBRARIES")).join(name))
}

static INSTALLED: OnceLock<(PathBuf, Library)> = OnceLock::new();

/// Makes the emulator the CUDA driver of this process, with the product's kernels. Again in the same mode: nothing.
///
/// # Panics
/// If the emulator is not [`available`], another library of it is installed, or a CUDA driver was opened before.
pub fn install(mode: Mode) {
    install_from(folder(mode));
}

/// Like [`install`], with the emulator's own test kernels instead of the product's.
///
/// # Panics
/// As [`install`].
pub fn install_test_kernels(mode: Mode) {
    install_from(test_kernels_folder(mode));
}

/// Like [`install`], with the kernels of `tests/conformance`, one for each instruction that the product's kernels use.
///
/// # Panics
/// As [`install`].
pub fn install_conformance_kernels() {
    install_from(conformance_folder());
}

fn install_from(folder: &Path) {
    if let Err(reason) = available() {
        panic!("{reason}");
    }
    let (installed, _) = INSTALLED.get_or_init(|| {
        // SAFETY: RTLD_NOLOAD opens nothing new, so no code of a library runs.
        let before = unsafe { Library::open(Some("libcuda.so"), RTLD_NOW | RTLD_NOLOAD) };
        assert!(before.is_err(), "a CUDA driver was opened before the emulator; install the emulator first");
        let path = folder.join("libcuda.so");
        // SAFETY: the library's initialisers only register kernels and read EMU_* variables.
        let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) };
        (folder.to_path_buf(), library.unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    });
    assert!(
        installed == folder,
        "the emulator is installed from {}; not again from {}",
        installed.display(),
        folder.display()
    );
}

/// `dlopen` only finds what is loaded already (Linux).
const RTLD_NOLOAD: c_int = 4;

/// A function of the installed library.
///
/// # Safety
/// `F` is the type that the function has in `src/driver*.cpp`.
unsafe fn symbol<F>(name: &str) -> Symbol<F> {
    let (_, library) = INSTALLED.get().expect("the emulator is installed first");
    // SAFETY: the caller's promise.
    let found = unsafe { library.get(name.as_bytes()) };
    found.unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A kernel as its source declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Symbol name.
    pub name: String,
    /// Lowest compute capability: 80, 90 (which means exactly 9.0).
    pub capability: u32,
    /// Most threads of a block.
    pub max_threads: u32,
    /// Parameters in their order.
    pub params: Vec<Param>,
}

/// A parameter of a [`Kernel`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Type as Rust writes it: `*mut bf16`, `*const f32`, `i32`, `i64`, `u32`, `u64`, `f32`, `TensorMap`.
    pub ty: String,
    /// Bytes.
    pub size: usize,
}

/// All kernels of the installed library, by name.
pub fn kernels() -> Vec<Kernel> {
    #[repr(C)]
    struct Raw {
        name: *const c_char,
        capability: c_int,
        max_threads: c_int,
        params: usize,
        types: *const *const c_char,
        sizes: *const usize,
    }
    // SAFETY: the types of driver_launch.cpp.
    let count: Symbol<unsafe extern "C" fn() -> usize> = unsafe { symbol("emuKernelCount") };
    // SAFETY: as above.
    let kernel: Symbol<unsafe extern "C" fn(usize, *mut Raw)> = unsafe { symbol("emuKernel") };
    // SAFETY: no arguments.
    let count = unsafe { count() };
    let read = |index| {
        let mut raw = std::mem::MaybeUninit::<Raw>::uninit();
        // SAFETY: the index is below the count, and the function fills the whole struct with pointers to static data.
        let raw = unsafe {
            kernel(index, raw.as_mut_ptr());
            raw.assume_init()
        };
        // SAFETY: `types` and `sizes` have `params` elements.
        let param = |i| unsafe { Param { ty: text(*raw.types.add(i)), size: *raw.sizes.add(i) } };
        Kernel {
            // SAFETY: a C string.
            name: unsafe { text(raw.name) },
            capability: raw.capability as u32,
            max_threads: raw.max_threads as u32,
            params: (0..raw.params).map(param).collect(),
        }
    };
    (0..count).map(read).collect()
}

/// The parameter types of a kernel, `None` if there is none of that name. See [`Param::ty`].
pub fn param_types(name: &str) -> Option<Vec<String>> {
    let kernel = kernels().into_iter().find(|kernel| kernel.name == name)?;
    Some(kernel.params.into_iter().map(|param| param.ty).collect())
}

/// # Safety
/// `text` is a C string.
unsafe fn text(text: *const c_char) -> String {
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// What has happened since the library was installed, and what is allocated now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Stats {
    /// Kernels that ran, those of graphs included.
    pub launches: u64,
    /// Launches of whole graphs.
    pub graph_launches: u64,
    /// Blocks that ran.
    pub blocks: u64,
    /// Switches between emulated threads.
    pub switches: u64,
    /// Collective operations of warps and warpgroups, counted per thread.
    pub collectives: u64,
    /// Arrivals at barriers of a block.
    pub barriers: u64,
    /// Shared-memory phases of matrix loads and stores.
    pub ldmatrix_phases: u64,
    /// Cycles that these phases took beyond one each, because rows lay in the same banks.
    pub bank_conflicts: u64,
    /// `mma` instructions.
    pub mma: u64,
    /// `wgmma` instructions.
    pub wgmma: u64,
    /// Device allocations made.
    pub allocations: u64,
    /// Device allocations that live.
    pub live_allocations: u64,
    /// Their bytes.
    pub live_bytes: u64,
}

/// Counters of the installed library.
pub fn stats() -> Stats {
    // SAFETY: the type of driver.cpp; `Stats` repeats the layout of EmuStats.
    let read: Symbol<unsafe extern "C" fn(*mut Stats)> = unsafe { symbol("emuStats") };
    let mut stats = Stats::default();
    // SAFETY: `stats` can be written.
    unsafe { read(&mut stats) };
    stats
}

/// How often a kernel ran since the library was installed.
pub fn launches(name: &str) -> u64 {
    // SAFETY: the type of driver.cpp.
    let read: Symbol<unsafe extern "C" fn(*const c_char) -> u64> = unsafe { symbol("emuLaunches") };
    let name = CString::new(name).expect("a kernel name has no zero byte");
    // SAFETY: a C string that lives.
    unsafe { read(name.as_ptr()) }
}

/// Which of the schedules that a program allows the emulator takes; the default is always the same one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Not 0: threads, asynchronous copies and streams go on in random order.
    pub seed: u64,
    /// Asynchronous work inside kernels is done when issued; otherwise at the last legal moment.
    pub early: bool,
    /// The highest thread, block and graph node first.
    pub reverse: bool,
}

/// Changes the schedule of what runs from now on.
pub fn set_options(options: Options) {
    // SAFETY: the type of driver.cpp.
    let set: Symbol<unsafe extern "C" fn(u64, c_int, c_int)> = unsafe { symbol("emuSetOptions") };
    // SAFETY: plain numbers.
    unsafe { set(options.seed, options.early.into(), options.reverse.into()) }
}

/// The text of the last error of the driver: what `CUresult` alone does not say. Empty: there was none.
pub fn last_error() -> String {
    // SAFETY: the type of driver.cpp.
    let read: Symbol<unsafe extern "C" fn(*mut c_char, usize) -> usize> = unsafe { symbol("emuLastError") };
    let mut buffer = [0; 1024];
    // SAFETY: the buffer has the length that is passed, and gets an end mark.
    unsafe {
        read(buffer.as_mut_ptr(), buffer.len());
        text(buffer.as_ptr())
    }
}
