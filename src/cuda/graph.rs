//! Recorded work: what is asked for again and again is recorded once and then started as a whole.
//!
//! Starting a kernel costs the host microseconds and a training step has hundreds; a recording (a CUDA graph) starts them
//! all with one call. It holds addresses, so freeing memory drops all of them.

use super::Cuda;
use super::driver::Exec;
use std::collections::HashMap;

/// Recordings kept; the one not used for longest goes first.
const MOST: usize = 64;

/// What is kept under a key.
struct Entry {
    /// `None`: the work ran once, as it is. Recording takes longer than running, so work that never comes again is not
    /// recorded.
    exec: Option<Exec>,
    used: u64,
}

/// What is known of the work under a key.
enum Known {
    /// Nothing is recorded on this device.
    Off,
    New,
    Seen,
    Recorded(Exec),
}

/// The recordings of a device.
pub(super) struct Graphs {
    on: bool,
    uses: u64,
    entries: HashMap<Vec<u64>, Entry>,
}

impl Graphs {
    pub(super) fn new(on: bool) -> Self {
        Self { on, uses: 0, entries: HashMap::new() }
    }

    /// Drops all recordings.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    /// What is known under `key`, which counts as seen from now on; a recording is lent until `put_back`.
    fn take(&mut self, key: &[u64]) -> Known {
        if !self.on {
            return Known::Off;
        }
        self.uses += 1;
        if let Some(entry) = self.entries.get_mut(key) {
            entry.used = self.uses;
            return entry.exec.take().map_or(Known::Seen, Known::Recorded);
        }
        if self.entries.len() == MOST {
            let oldest = self.entries.iter().min_by_key(|(_, e)| e.used).map(|(key, _)| key.clone());
            self.entries.remove(&oldest.unwrap_or_default());
        }
        self.entries.insert(key.to_vec(), Entry { exec: None, used: self.uses });
        Known::New
    }

    /// Keeps the recording under `key`, unless all were dropped meanwhile.
    fn put_back(&mut self, key: &[u64], exec: Exec) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.exec = Some(exec);
        }
    }
}

impl Cuda {
    /// Runs `work`, which is the same kernels with the same arguments whenever `key` is the same: as it is the first time,
    /// recording it the second, from the recording ever after.
    pub(super) fn replay_work(&self, key: &[u64], work: &mut dyn FnMut()) {
        let core = &*self.core;
        core.context.bind();
        self.keep(core.ahead.lock().unwrap().mark(&core.stream));
        // The lock is not held while `work` runs.
        let known = core.graphs.lock().unwrap().take(key);
        let exec = match known {
            Known::Off | Known::New => return work(),
            Known::Seen => core.stream.record(work),
            Known::Recorded(exec) => Ok(exec),
        };
        self.keep(exec.and_then(|exec| {
            let started = core.stream.start(&exec);
            core.graphs.lock().unwrap().put_back(key, exec);
            started
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recording_not_used_for_longest_goes_first() {
        let mut graphs = Graphs::new(true);
        let new = |graphs: &mut Graphs, key: u64| matches!(graphs.take(&[key]), Known::New);
        assert!((0..MOST as u64).all(|key| new(&mut graphs, key)));
        assert!(!new(&mut graphs, 0), "still there");
        assert!(new(&mut graphs, 1000), "one more than fit");
        assert!(!new(&mut graphs, 0) && new(&mut graphs, 1), "1 was the oldest");
        graphs.clear();
        assert!(new(&mut graphs, 0));
        assert!(matches!(Graphs::new(false).take(&[0]), Known::Off));
    }
}
