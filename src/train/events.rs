//! A TensorBoard events file with scalars.
//!
//! The file is a sequence of TFRecord frames (length, its checksum, payload, its checksum; CRC-32C "masked"), each
//! holding one `Event` message of TensorFlow's event.proto. The few fields needed are encoded by hand.

use crate::error::{Error, Kind, Result};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// An open events file. Every call puts whole frames on the file, so that a reader of a running job sees them.
pub struct EventWriter {
    file: File,
    path: PathBuf,
}

impl EventWriter {
    /// Creates a new events file in `dir`. A run that is resumed gets another file beside the first.
    pub fn create(dir: &Path) -> Result<Self> {
        let (seconds, pid) = (now() as u64, std::process::id());
        let mut n = 0;
        loop {
            let path = dir.join(format!("events.out.tfevents.{seconds:010}.flanrt.{pid}.{n}"));
            match File::create_new(&path) {
                Ok(file) => {
                    let mut writer = Self { file, path };
                    writer.append(&[event(now(), 0, 3, b"brain.Event:2")])?;
                    return Ok(writer);
                }
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => n += 1,
                Err(e) => return Err(Error::io(Kind::Disk, "create", &path, &e)),
            }
        }
    }

    /// Adds the values of step `step`, each under its tag.
    pub fn scalars(&mut self, step: u64, values: &[(&str, f32)]) -> Result<()> {
        self.append(&[event(now(), step, 5, &summary(values))])
    }

    /// Says that the run continues before `step`: readers drop what earlier files have from `step` on.
    pub fn restarted_at(&mut self, step: u64) -> Result<()> {
        const START: [u8; 2] = [0x08, 1]; // SessionLog.status = START
        self.append(&[event(now(), step, 7, &START)])
    }

    /// Puts everything on the disk.
    pub fn flush(&mut self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io(Kind::Disk, "write", &self.path, &e))
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn append(&mut self, events: &[Vec<u8>]) -> Result<()> {
        let frames: Vec<u8> = events.iter().flat_map(|event| frame(event)).collect();
        self.file.write_all(&frames).map_err(|e| Error::io(Kind::Disk, "write", &self.path, &e))
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// `Event`: wall_time = 1 (double), step = 2 (int64), and what happened in `field`, a string or message.
fn event(wall_time: f64, step: u64, field: u64, what: &[u8]) -> Vec<u8> {
    let mut out = vec![(1 << 3) | 1];
    out.extend(wall_time.to_le_bytes());
    out.push(2 << 3);
    varint(&mut out, step);
    bytes(&mut out, field, what);
    out
}

/// `Summary`: value = 1 (repeated); `Value`: tag = 1 (string), simple_value = 2 (float).
fn summary(values: &[(&str, f32)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (tag, value) in values {
        let mut message = Vec::new();
        bytes(&mut message, 1, tag.as_bytes());
        message.push((2 << 3) | 5);
        message.extend(value.to_le_bytes());
        bytes(&mut out, 1, &message);
    }
    out
}

/// A length-delimited field.
fn bytes(out: &mut Vec<u8>, field: u64, content: &[u8]) {
    varint(out, (field << 3) | 2);
    varint(out, content.len() as u64);
    out.extend(content);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u64).to_le_bytes();
    let mut out = length.to_vec();
    out.extend(masked_crc(&length).to_le_bytes());
    out.extend(payload);
    out.extend(masked_crc(payload).to_le_bytes());
    out
}

/// The checksum as TFRecord stores it: rotated and shifted, so that a checksum over checksums stays meaningful.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xA282_EAD8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CRC-32C bit by bit, from its polynomial.
    fn crc(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0u32, |crc, byte| {
            (0..8)
                .fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { (c >> 1) ^ 0x82F6_3B78 } else { c >> 1 })
        })
    }

    fn number(bytes: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return value;
            }
            shift += 7;
        }
    }

    /// Any protobuf message as (field, raw value) pairs.
    fn fields(mut message: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let mut out = Vec::new();
        while !message.is_empty() {
            let key = number(&mut message);
            let length = match key & 7 {
                0 => {
                    out.push((key >> 3, number(&mut message).to_le_bytes().to_vec()));
                    continue;
                }
                1 => 8,
                2 => number(&mut message) as usize,
                5 => 4,
                other => panic!("wire type {other}"),
            };
            out.push((key >> 3, message[..length].to_vec()));
            message = &message[length..];
        }
        out
    }

    /// The payloads of a file, with all checksums checked.
    fn payloads(mut file: &[u8]) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        let word = |bytes: &[u8]| u32::from_le_bytes(bytes[..4].try_into().unwrap());
        let check = |bytes: &[u8], stored: u32| {
            let unmasked = stored.wrapping_sub(0xA282_EAD8);
            assert_eq!(unmasked.rotate_left(15), crc(bytes));
        };
        while !file.is_empty() {
            let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
            check(&file[..8], word(&file[8..]));
            check(&file[12..12 + length], word(&file[12 + length..]));
            out.push(file[12..12 + length].to_vec());
            file = &file[16 + length..];
        }
        out
    }

    #[test]
    fn the_file_decodes_to_what_was_written() {
        assert_eq!(crc(b"123456789"), 0xE306_9283); // the published check value
        let tmp = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(tmp.path()).unwrap();
        writer.scalars(300, &[("train/loss", 1.25), ("train/lr", f32::NAN)]).unwrap();
        writer.restarted_at(200).unwrap();
        writer.flush().unwrap();
        let second = EventWriter::create(tmp.path()).unwrap();
        assert!(second.path() > writer.path());

        let events: Vec<_> =
            payloads(&std::fs::read(writer.path()).unwrap()).iter().map(|p| fields(p)).collect();
        assert_eq!(events.len(), 3);
        for event in &events {
            let time = f64::from_le_bytes(event[0].1[..].try_into().unwrap());
            assert!(event[0].0 == 1 && (now() - 60.0..=now()).contains(&time));
        }
        assert_eq!(events[0][1..], [(2, vec![0; 8]), (3, b"brain.Event:2".to_vec())]);
        assert_eq!(events[1][1], (2, 300u64.to_le_bytes().to_vec()));
        assert_eq!(events[1][2].0, 5);
        let values: Vec<_> = fields(&events[1][2].1).iter().map(|(_, value)| fields(value)).collect();
        assert_eq!(values[0], [(1, b"train/loss".to_vec()), (2, 1.25f32.to_le_bytes().to_vec())]);
        assert_eq!(values[1], [(1, b"train/lr".to_vec()), (2, f32::NAN.to_le_bytes().to_vec())]);
        assert_eq!(events[2][1..], [(2, 200u64.to_le_bytes().to_vec()), (7, vec![8, 1])]);
    }
}
