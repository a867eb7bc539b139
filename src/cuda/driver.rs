//! The CUDA driver: finding it without ever panicking, and small owners of what it hands out.
//!
//! The driver's library is opened at run time. The bindings panic where it or one of its functions is missing, so [`find`]
//! asks in the order in which things can be missing, and everything else here is reached only after it has succeeded.
//! An owner must be dropped before its [`Context`].

use crate::error::{Error, Kind, Result};
use cudarc::driver::sys;
use std::ffi::{CStr, c_void};
use std::ptr::null_mut;

/// Oldest driver that has every function called here, as the driver counts (12.8).
const OLDEST_DRIVER: u32 = 12080;

/// Oldest compute capability the kernels are written for (8.0).
const OLDEST_CAPABILITY: u32 = 80;

/// A GPU that the driver shows.
#[derive(Clone, Debug)]
pub struct Gpu {
    /// Its number in the driver's order, as in `--device cuda:N`.
    pub index: usize,
    /// The maker's name for it.
    pub name: String,
    /// Compute capability, 90 for 9.0.
    pub capability: u32,
    /// Multiprocessors.
    pub sms: u32,
    /// Bytes of memory in all.
    pub memory: u64,
}

impl Gpu {
    /// Why the kernels cannot run on it, if so.
    pub fn unusable(&self) -> Option<Error> {
        let found = format!("{} has compute capability {}", self.name, version(self.capability, 10));
        let needed = version(OLDEST_CAPABILITY, 10);
        (self.capability < OLDEST_CAPABILITY).then(|| {
            Error::device(format!("{found}; the kernels need {needed} (Ampere) or newer"))
                .fix("choose another GPU with --device cuda:N, or --device cpu")
        })
    }
}

/// `major.minor` of a number that holds them as `major * unit + minor`.
fn version(number: u32, unit: u32) -> String {
    format!("{}.{}", number / unit, number % unit)
}

/// The driver's own words for a failed call.
fn words(code: sys::CUresult) -> String {
    let text = |of: unsafe fn(sys::CUresult, *mut *const std::ffi::c_char) -> sys::CUresult| {
        let mut text = std::ptr::null();
        // SAFETY: the driver stores a pointer to a string that lives as long as the process, or null.
        unsafe {
            of(code, &mut text);
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
        }
    };
    let name = text(sys::cuGetErrorName).unwrap_or_else(|| format!("error {}", code as u32));
    match text(sys::cuGetErrorString) {
        Some(meaning) if meaning != name => format!("{name} ({meaning})"),
        _ => name,
    }
}

/// The result of a driver call; `doing` says for the message what it was for.
pub(super) fn check(code: sys::CUresult, doing: &str) -> Result<()> {
    use sys::CUresult as C;
    if code == C::CUDA_SUCCESS {
        return Ok(());
    }
    let error = Error::device(format!("CUDA: {doing}: {}", words(code)));
    Err(match code {
        C::CUDA_ERROR_OUT_OF_MEMORY => Error { kind: Kind::Memory, ..error },
        C::CUDA_ERROR_DEVICE_UNAVAILABLE | C::CUDA_ERROR_DEVICE_NOT_LICENSED => error.fix(
            "another process holds the GPU for itself; wait for it or choose another with --device cuda:N",
        ),
        C::CUDA_ERROR_ECC_UNCORRECTABLE
        | C::CUDA_ERROR_NVLINK_UNCORRECTABLE
        | C::CUDA_ERROR_HARDWARE_STACK_ERROR => {
            error.fix("the GPU reports a hardware fault; reset it or take another")
        }
        C::CUDA_ERROR_ILLEGAL_ADDRESS
        | C::CUDA_ERROR_MISALIGNED_ADDRESS
        | C::CUDA_ERROR_LAUNCH_FAILED
        | C::CUDA_ERROR_LAUNCH_TIMEOUT => error
            .fix("FLANRT_CUDA_SYNC=1 names the kernel; please report it with the command and the GPU's name"),
        _ => error,
    })
}

/// What there is of CUDA on this machine.
pub enum Found {
    /// At least one GPU; also those the kernels cannot run on.
    Gpus(Vec<Gpu>),
    /// No driver or no GPU: most machines.
    None(Error),
    /// There is something, and it does not work.
    Broken(Error),
}

/// Looks for GPUs. What can be missing is asked for first, so that nothing here panics.
pub fn find() -> Found {
    let none = |message: &str, fix: &str| Found::None(Error::device(message).fix(fix));
    // SAFETY: looks for the library, no more.
    if !unsafe { sys::is_culib_present() } {
        return none(
            "no NVIDIA driver library (libcuda) on this machine",
            "install an NVIDIA driver, or use --device cpu",
        );
    }
    // SAFETY: the library is there, and this function in every version of it.
    let started = unsafe { sys::cuInit(0) };
    if started == sys::CUresult::CUDA_ERROR_NO_DEVICE {
        return none(
            "the NVIDIA driver finds no GPU",
            "check nvidia-smi and CUDA_VISIBLE_DEVICES, or use --device cpu",
        );
    }
    match usable(started).and_then(|()| all()) {
        Ok(gpus) => Found::Gpus(gpus),
        Err(e) => Found::Broken(e),
    }
}

/// All GPUs, at least one; an error says what is missing and how to get it.
pub fn gpus() -> Result<Vec<Gpu>> {
    match find() {
        Found::Gpus(gpus) => Ok(gpus),
        Found::None(e) | Found::Broken(e) => Err(e),
    }
}

/// The CUDA version that the driver supports, 13.0 as 13000; `None` without a driver.
pub fn driver_version() -> Option<u32> {
    let mut found = 0;
    // SAFETY: asked only where the library is, which has this function in every version; place for one number.
    let known = unsafe {
        sys::is_culib_present() && sys::cuDriverGetVersion(&mut found) == sys::CUresult::CUDA_SUCCESS
    };
    known.then_some(found as u32)
}

/// Whether a driver that `started` like this can run our kernels.
fn usable(started: sys::CUresult) -> Result<()> {
    if started == sys::CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH {
        return Err(Error::device("the NVIDIA driver's library and kernel module are of different versions")
            .fix("restart the machine after a driver update"));
    }
    let found = driver_version().unwrap_or(0);
    let floor = super::images::TOOLKIT.map_or(OLDEST_DRIVER, |toolkit| OLDEST_DRIVER.max(toolkit * 1000));
    if found < floor {
        let shown = |v: u32| version(v / 10, 100);
        let message =
            format!("the NVIDIA driver supports CUDA {}; this build needs {}", shown(found), shown(floor));
        return Err(Error::device(message).fix(
            "update the driver, build with an older CUDA toolkit (12.8 or newer), or use --device cpu",
        ));
    }
    check(started, "starting the driver")
        .map_err(|e| e.fix("check nvidia-smi; a container must be started with its GPUs"))
}

fn all() -> Result<Vec<Gpu>> {
    let mut count = 0;
    // SAFETY: the driver is started, and writes one number.
    check(unsafe { sys::cuDeviceGetCount(&mut count) }, "counting the GPUs")?;
    (0..count as usize).map(gpu).collect()
}

fn gpu(index: usize) -> Result<Gpu> {
    use sys::CUdevice_attribute as A;
    let device = handle(index)?;
    let attribute = |which| {
        let mut value = 0;
        // SAFETY: a device of this driver, and place for one number.
        check(unsafe { sys::cuDeviceGetAttribute(&mut value, which, device) }, "reading the GPU's properties")
            .map(|()| value as u32)
    };
    let mut name = [0; 256];
    let mut memory = 0;
    // SAFETY: the driver writes at most the length given, with its final zero, and one number.
    let name = unsafe {
        check(sys::cuDeviceGetName(name.as_mut_ptr(), name.len() as i32, device), "reading the GPU's name")?;
        check(sys::cuDeviceTotalMem_v2(&mut memory, device), "reading the size of the GPU's memory")?;
        CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned()
    };
    Ok(Gpu {
        index,
        name,
        capability: attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)? * 10
            + attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        sms: attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        memory: memory as u64,
    })
}

fn handle(index: usize) -> Result<sys::CUdevice> {
    let mut device = 0;
    // SAFETY: the driver is started, and writes one handle.
    check(unsafe { sys::cuDeviceGet(&mut device, index as i32) }, &format!("opening GPU {index}"))?;
    Ok(device)
}

/// The context of a GPU that the process shares.
pub(super) struct Context {
    raw: sys::CUcontext,
    device: sys::CUdevice,
}

// SAFETY: contexts may be used from any thread; `bind` makes them current there.
unsafe impl Send for Context {}
// SAFETY: as above; the driver locks for itself.
unsafe impl Sync for Context {}

impl Context {
    pub(super) fn new(index: usize) -> Result<Self> {
        let device = handle(index)?;
        let mut raw = null_mut();
        // SAFETY: a device of this driver; released once, in `drop`.
        let code = unsafe { sys::cuDevicePrimaryCtxRetain(&mut raw, device) };
        check(code, &format!("starting on GPU {index}"))?;
        let context = Self { raw, device };
        context.bind();
        Ok(context)
    }

    /// Makes it this thread's context: the driver's calls work in that one.
    pub(super) fn bind(&self) {
        // SAFETY: a live context. What could go wrong here makes the next call fail, which is checked.
        unsafe { sys::cuCtxSetCurrent(self.raw) };
    }

    /// Free and total bytes of memory.
    pub(super) fn memory(&self) -> Result<(usize, usize)> {
        self.bind();
        let (mut free, mut total) = (0, 0);
        // SAFETY: place for two numbers.
        check(unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) }, "asking for free memory")?;
        Ok((free, total))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once, in `new`.
        unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

/// An owner of a driver's handle: made by one call, given back by another.
macro_rules! owner {
    ($(#[$doc:meta])* $name:ident, $raw:ty, $free:path) => {
        $(#[$doc])*
        pub(super) struct $name($raw);
        // SAFETY: the driver's handles may be used from any thread.
        unsafe impl Send for $name {}
        // SAFETY: as above; the driver locks for itself.
        unsafe impl Sync for $name {}
        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: made by the matching call and given back once. A failure leaves nothing to do.
                unsafe { $free(self.0) };
            }
        }
    };
}

owner!(
    /// A queue of work that runs in order.
    Stream, sys::CUstream, sys::cuStreamDestroy_v2
);
owner!(
    /// A point in a stream's work.
    Event, sys::CUevent, sys::cuEventDestroy_v2
);
owner!(
    /// A loaded image.
    Module, sys::CUmodule, sys::cuModuleUnload
);
owner!(
    /// Recorded work, ready to be started as a whole.
    Exec, sys::CUgraphExec, sys::cuGraphExecDestroy
);

impl Stream {
    pub(super) fn raw(&self) -> sys::CUstream {
        self.0
    }

    pub(super) fn new() -> Result<Self> {
        let mut raw = null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: place for one handle.
        check(unsafe { sys::cuStreamCreate(&mut raw, flags) }, "making a stream")?;
        Ok(Self(raw))
    }

    /// Waits for all its work.
    pub(super) fn wait(&self) -> Result<()> {
        // SAFETY: a live stream.
        check(unsafe { sys::cuStreamSynchronize(self.0) }, "waiting for the GPU")
    }

    /// Has all its later work wait for `event`.
    pub(super) fn after(&self, event: &Event) -> Result<()> {
        // SAFETY: live handles of one context.
        check(unsafe { sys::cuStreamWaitEvent(self.0, event.0, 0) }, "ordering the GPU's work")
    }

    /// Whether its work is being recorded.
    pub(super) fn records(&self) -> bool {
        let mut status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        // SAFETY: a live stream, and place for its status.
        let code = unsafe { sys::cuStreamIsCapturing(self.0, &mut status) };
        code == sys::CUresult::CUDA_SUCCESS
            && status != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE
    }

    /// Runs `work` with everything it puts on this stream recorded instead of started.
    pub(super) fn record(&self, work: &mut dyn FnMut()) -> Result<Exec> {
        // Other threads may call the driver meanwhile: what they do is not part of the recording.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: a live stream that is not recording.
        check(unsafe { sys::cuStreamBeginCapture_v2(self.0, mode) }, "recording work")?;
        let mut recording = Recording { stream: self, graph: null_mut(), code: None };
        work();
        check(recording.end(), "recording work")?;
        let mut exec = null_mut();
        // SAFETY: a whole recording, of which this makes an executable copy.
        let code = unsafe { sys::cuGraphInstantiateWithFlags(&mut exec, recording.graph, 0) };
        check(code, "preparing recorded work").map(|()| Exec(exec))
    }

    /// Starts recorded work after all work before it.
    pub(super) fn start(&self, exec: &Exec) -> Result<()> {
        // SAFETY: live handles of one context.
        check(unsafe { sys::cuGraphLaunch(exec.0, self.0) }, "starting recorded work")
    }
}

/// A recording that is ended whatever happens in it: a stream that records takes no other work.
struct Recording<'a> {
    stream: &'a Stream,
    graph: sys::CUgraph,
    code: Option<sys::CUresult>,
}

impl Recording<'_> {
    fn end(&mut self) -> sys::CUresult {
        // SAFETY: a live stream that records until this first call.
        *self.code.get_or_insert_with(|| unsafe { sys::cuStreamEndCapture(self.stream.0, &mut self.graph) })
    }
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        self.end();
        if !self.graph.is_null() {
            // SAFETY: the recording is ended, and its executable copy has what it needs.
            unsafe { sys::cuGraphDestroy(self.graph) };
        }
    }
}

impl Event {
    /// An event; `timed` ones can be compared.
    pub(super) fn new(timed: bool) -> Result<Self> {
        use sys::CUevent_flags as F;
        let flags = if timed { F::CU_EVENT_DEFAULT } else { F::CU_EVENT_DISABLE_TIMING };
        let mut raw = null_mut();
        // SAFETY: place for one handle.
        check(unsafe { sys::cuEventCreate(&mut raw, flags as u32) }, "making an event")?;
        Ok(Self(raw))
    }

    /// Moves it to the end of the stream's work so far.
    pub(super) fn record(&self, stream: &Stream) -> Result<()> {
        // SAFETY: live handles of one context.
        check(unsafe { sys::cuEventRecord(self.0, stream.0) }, "marking a point in the GPU's work")
    }

    /// Waits until the work before it is done; at once if it was never recorded.
    pub(super) fn wait(&self) -> Result<()> {
        // SAFETY: a live event.
        check(unsafe { sys::cuEventSynchronize(self.0) }, "waiting for the GPU")
    }

    /// Milliseconds from `self` to `later`; both timed and reached.
    pub(super) fn milliseconds(&self, later: &Event) -> Result<f32> {
        let mut ms = 0.0;
        // SAFETY: live events, and place for one number.
        check(unsafe { sys::cuEventElapsedTime(&mut ms, self.0, later.0) }, "measuring time")?;
        Ok(ms)
    }
}

impl Module {
    pub(super) fn raw(&self) -> sys::CUmodule {
        self.0
    }

    /// Loads an image; the driver's code says what is wrong with it.
    pub(super) fn load(image: &[u8]) -> Result<Self, sys::CUresult> {
        let mut raw = null_mut();
        // SAFETY: an image knows its own length, and the driver copies it.
        match unsafe { sys::cuModuleLoadData(&mut raw, image.as_ptr().cast()) } {
            sys::CUresult::CUDA_SUCCESS => Ok(Self(raw)),
            code => Err(code),
        }
    }
}

/// Page-locked memory of the host: the GPU copies from and to it while the host does other things.
pub(super) struct Pinned {
    addr: *mut u8,
    len: usize,
}

// SAFETY: plain memory with one owner.
unsafe impl Send for Pinned {}
// SAFETY: written through `&mut` only.
unsafe impl Sync for Pinned {}

impl Pinned {
    pub(super) fn new(len: usize) -> Result<Self> {
        let mut addr: *mut c_void = null_mut();
        let doing = format!("locking {len} bytes of the machine's memory for transfers");
        // SAFETY: place for one pointer; on success so many bytes are ours.
        unsafe {
            check(sys::cuMemHostAlloc(&mut addr, len, 0), &doing)?;
            addr.write_bytes(0, len);
        }
        Ok(Self { addr: addr.cast(), len })
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn addr(&self) -> *mut u8 {
        self.addr
    }

    /// Its bytes. The caller has waited for copies into them.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: this much was allocated; no copy is under way by the caller's word.
        unsafe { std::slice::from_raw_parts(self.addr, self.len) }
    }

    /// Its bytes, to write. The caller has waited for copies from and into them.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`.
        unsafe { std::slice::from_raw_parts_mut(self.addr, self.len) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: allocated once, in `new`.
        unsafe { sys::cuMemFreeHost(self.addr.cast()) };
    }
}
