//! The token cache: examples in one file that is mapped into memory.
//!
//! ```text
//! header | per example: tokens u32.., trained u8.., padding to 4 | index (one entry per example) | ids | report as JSON
//! ```
//! The header is written last and carries hashes of itself and of all the rest, and a file becomes visible only by
//! renaming: what does not check is no cache, and is made again. Little-endian, as every machine we run on.

use super::report::Report;
use crate::error::{Error, Result};
use bytemuck::{Pod, Zeroable};
use memmap2::{Mmap, MmapMut};
use std::io::{self, Seek, SeekFrom, Write};
use std::mem::size_of;

/// Goes up with every change of the layout or of what is written.
pub(super) const VERSION: u64 = 1;
const MAGIC: [u8; 8] = *b"flanrttk";

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: u64,
    /// Hash of all that the contents depend on.
    key: [u8; 32],
    /// Number of examples.
    count: u64,
    /// Byte offsets of the index and of the report, and the length of the file; the ids follow the index.
    index: u64,
    report: u64,
    total: u64,
    /// blake3 of the examples' tokens and trained flags.
    data: [u8; 32],
    /// blake3 of everything behind the header.
    body: [u8; 32],
    /// blake3 of the header with zeros here.
    check: [u8; 32],
}

impl Header {
    fn sum(mut self) -> [u8; 32] {
        self.check = [0; 32];
        *blake3::hash(bytemuck::bytes_of(&self)).as_bytes()
    }
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Entry {
    /// Byte offset of the example's tokens.
    start: u64,
    /// Byte offset of its id among the ids.
    id: u64,
    len: u32,
    id_len: u32,
}

/// Writes a cache to `out`, front to back, then the header.
pub(super) struct Writer<W: Write + Seek> {
    out: io::BufWriter<W>,
    at: u64,
    body: blake3::Hasher,
    data: blake3::Hasher,
    index: Vec<Entry>,
    ids: Vec<u8>,
}

impl<W: Write + Seek> Writer<W> {
    pub(super) fn new(out: W) -> io::Result<Self> {
        let mut out = io::BufWriter::with_capacity(1 << 18, out);
        out.write_all(&[0; size_of::<Header>()])?;
        let at = size_of::<Header>() as u64;
        let hasher = blake3::Hasher::new;
        Ok(Self { out, at, body: hasher(), data: hasher(), index: Vec::new(), ids: Vec::new() })
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.body.update(bytes);
        self.at += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn align(&mut self, to: u64) -> io::Result<()> {
        let rest = (to - self.at % to) % to;
        self.put(&[0; 8][..rest as usize])
    }

    /// Adds an example; `targets` holds a 1 for each trained token.
    pub(super) fn push(&mut self, id: &str, tokens: &[u32], targets: &[u8]) -> io::Result<()> {
        assert_eq!(tokens.len(), targets.len(), "a flag for every token");
        self.index.push(Entry {
            start: self.at,
            id: self.ids.len() as u64,
            len: tokens.len() as u32,
            id_len: id.len() as u32,
        });
        self.ids.extend_from_slice(id.as_bytes());
        let bytes = bytemuck::cast_slice(tokens);
        self.data.update(&(tokens.len() as u64).to_le_bytes()).update(bytes).update(targets);
        self.put(bytes)?;
        self.put(targets)?;
        self.align(4)
    }

    /// Writes the rest and gives the output back, complete but for the operating system's buffers.
    pub(super) fn finish(mut self, key: [u8; 32], report: &Report) -> io::Result<W> {
        self.align(8)?;
        let index_at = self.at;
        let (index, ids) = (std::mem::take(&mut self.index), std::mem::take(&mut self.ids));
        self.put(bytemuck::cast_slice(&index))?;
        self.put(&ids)?;
        let report_at = self.at;
        self.put(&serde_json::to_vec(report)?)?;
        let mut header = Header {
            magic: MAGIC,
            version: VERSION,
            key,
            count: index.len() as u64,
            index: index_at,
            report: report_at,
            total: self.at,
            data: *self.data.finalize().as_bytes(),
            body: *self.body.finalize().as_bytes(),
            check: [0; 32],
        };
        header.check = header.sum();
        self.out.seek(SeekFrom::Start(0))?;
        self.out.write_all(bytemuck::bytes_of(&header))?;
        self.out.into_inner().map_err(io::IntoInnerError::into_error)
    }
}

/// Memory that holds `bytes`, aligned as a mapped file is.
pub(super) fn anonymous(bytes: &[u8]) -> Result<Mmap> {
    let failed =
        |e: io::Error| Error::new(crate::error::Kind::Memory, format!("no memory for the tokens: {e}"));
    let mut map = MmapMut::map_anon(bytes.len()).map_err(failed)?;
    map.copy_from_slice(bytes);
    map.make_read_only().map_err(failed)
}

/// A cache that has been checked.
pub(super) struct Reader {
    map: Mmap,
    header: Header,
}

impl Reader {
    /// Checks `map` in full and reads its report; `None` if it is damaged or was made from something else.
    pub(super) fn open(map: Mmap, key: &[u8; 32]) -> Option<(Self, Report)> {
        let size = size_of::<Header>();
        let header: Header = bytemuck::pod_read_unaligned(map.get(..size)?);
        let h = &header;
        let sound = h.magic == MAGIC && h.version == VERSION && h.key == *key && h.check == h.sum();
        if !sound || h.total != map.len() as u64 || *blake3::hash(&map[size..]).as_bytes() != h.body {
            return None;
        }
        let report = serde_json::from_slice(map.get(h.report as usize..)?).ok()?;
        // The hashes say that we wrote it; the rest keeps `get` free of panics whatever that was.
        let ids_at = h.index.checked_add(h.count.checked_mul(size_of::<Entry>() as u64)?)?;
        let ids = map.get(ids_at as usize..h.report as usize)?;
        let entries: &[Entry] = bytemuck::try_cast_slice(&map[h.index as usize..ids_at as usize]).ok()?;
        let fits = |e: &Entry| {
            let id = ids.get(e.id as usize..(e.id as usize).checked_add(e.id_len as usize)?)?;
            let end = e.start.checked_add(5 * u64::from(e.len))?;
            (e.start.is_multiple_of(4) && end <= h.index && std::str::from_utf8(id).is_ok()).then_some(())
        };
        entries.iter().try_for_each(fits)?;
        Some((Self { map, header }, report))
    }

    pub(super) fn len(&self) -> usize {
        self.header.count as usize
    }

    /// blake3 of all tokens and flags, in order.
    pub(super) fn data_hash(&self) -> blake3::Hash {
        self.header.data.into()
    }

    /// Id, tokens and flags of example `i`.
    pub(super) fn get(&self, i: usize) -> (&str, &[u32], &[u8]) {
        let ids_at = self.header.index as usize + self.len() * size_of::<Entry>();
        let entries: &[Entry] = bytemuck::cast_slice(&self.map[self.header.index as usize..ids_at]);
        let e = entries[i];
        let (id, start, len) = (ids_at + e.id as usize, e.start as usize, e.len as usize);
        let id = std::str::from_utf8(&self.map[id..id + e.id_len as usize]).expect("checked when opened");
        let tokens = bytemuck::cast_slice(&self.map[start..start + 4 * len]);
        (id, tokens, &self.map[start + 4 * len..start + 5 * len])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(examples: &[(String, Vec<u32>, Vec<u8>)]) -> Vec<u8> {
        let mut w = Writer::new(io::Cursor::new(Vec::new())).unwrap();
        for (id, tokens, targets) in examples {
            w.push(id, tokens, targets).unwrap();
        }
        w.finish([7; 32], &Report { read: 3, ..Default::default() }).unwrap().into_inner()
    }

    fn open(bytes: &[u8], key: u8) -> Option<(Reader, Report)> {
        Reader::open(anonymous(bytes).unwrap(), &[key; 32])
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_and_damage_is_seen(
            lens in prop::collection::vec(0u32..20, 0..8), at: prop::sample::Index, bit in 0u8..8,
        ) {
            let examples: Vec<_> = lens.iter().enumerate().map(|(i, &n)| {
                let tokens: Vec<u32> = (0..n).map(|t| t * 77 + i as u32).collect();
                let flags = tokens.iter().map(|t| (t % 2) as u8).collect();
                (format!("é{i}"), tokens, flags)
            }).collect();
            let mut bytes = written(&examples);
            let (r, report) = open(&bytes, 7).unwrap();
            prop_assert_eq!((r.len(), report.read), (examples.len(), 3));
            for (i, (id, tokens, flags)) in examples.iter().enumerate() {
                prop_assert_eq!(r.get(i), (id.as_str(), &tokens[..], &flags[..]));
            }
            prop_assert!(open(&bytes, 8).is_none());
            let at = at.index(bytes.len());
            if at > 0 {
                prop_assert!(open(&bytes[..at], 7).is_none());
            }
            bytes[at] ^= 1 << bit;
            prop_assert!(open(&bytes, 7).is_none());
        }
    }
}
