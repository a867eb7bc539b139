//! Parquet files as streams of rows.
//!
//! The crate `parquet` decodes pages into columns; here the columns become rows of JSON as the `datasets` library shows
//! them: lists are arrays however the file spells them, structs and maps objects, dates and times ISO 8601, decimals
//! text (a JSON number could not hold them), floats their shortest spelling, and what is not finite null. Of a
//! timestamp no more is known than whether it counts in UTC (`+00:00` follows) or not.
//!
//! The bytes are not trusted. The schema is looked through before the crate sees it, since one that is nested without end
//! would end the program; a panic of the crate becomes an error. A small file that unpacks to more than the memory holds
//! is not noticed, here as little as in other compressed files.
//!
//! Which columns mean what is decided in `rows`.

use crate::error::{Error, Kind, Result};
use parquet::basic::{ConvertedType, LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::column::reader::{ColumnReader, get_column_reader};
use parquet::data_type::{ByteArray, FixedLenByteArray, Int96};
use parquet::errors::ParquetError;
use parquet::file::metadata::{
    ParquetMetaData, ParquetMetaDataOptions, ParquetMetaDataReader, ParquetStatisticsPolicy, RowGroupMetaData,
};
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::schema::types::Type;
use serde_json::{Map, Value};
use std::cell::Cell;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

/// What every parquet file begins and ends with.
pub const MAGIC: &[u8; 4] = b"PAR1";

/// Schemas nested deeper than this are refused.
const DEPTH: usize = 64;
/// Rows are decoded in batches of about so many bytes and values, and of at most so many rows.
const BATCH_BYTES: u64 = 4 << 20;
const BATCH_VALUES: u64 = 1 << 18;
const BATCH_ROWS: u64 = 1024;

/// Which part of a file is read; all of it by default.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The columns by name; their order stays that of the file.
    pub columns: Option<Vec<String>>,
    /// At most so many rows, the first ones.
    pub limit: Option<u64>,
}

/// The rows of one file; after an error there are none.
pub struct Rows {
    path: PathBuf,
    file: Arc<File>,
    size: u64,
    metadata: ParquetMetaData,
    nodes: Vec<Node>,
    columns: Vec<Column>,
    /// The row group that is read next.
    group: usize,
    /// Rows of the group that are not decoded yet, and rows that are decoded but not given out.
    undecoded: u64,
    decoded: u64,
    batch: u64,
    /// Rows given out, those in the file, and those that are wanted.
    done: u64,
    total: u64,
    wanted: u64,
}

/// Opens a parquet file. Errors: not there, cut short, damaged, encrypted.
pub fn open(path: &Path) -> Result<Rows> {
    open_with(path, &Options::default())
}

/// [`open`] for a part of the file. A column that is not there is an error that lists those that are.
pub fn open_with(path: &Path, options: &Options) -> Result<Rows> {
    let failed = |e: std::io::Error| Error::io(Kind::Data, "read", path, &e);
    let bad = |what: String| damaged(Error::data(format!("{}: {what}", path.display())));
    let mut file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let footer = footer(path, &mut file, size)?;
    check_schema(&footer).ok_or_else(|| {
        bad(format!("not a valid parquet file: its schema is damaged or over {DEPTH} deep"))
    })?;
    let mut skip = ParquetMetaDataOptions::default();
    skip.set_encoding_stats_policy(ParquetStatisticsPolicy::SkipAll);
    skip.set_column_stats_policy(ParquetStatisticsPolicy::SkipAll);
    skip.set_size_stats_policy(ParquetStatisticsPolicy::SkipAll);
    let metadata = guard(|| ParquetMetaDataReader::decode_metadata_with_options(&footer, Some(&skip)))
        .map_err(|e| bad(format!("not a valid parquet file: {e}")))?;
    let mut rows = 0u64;
    for group in metadata.row_groups() {
        let n = u64::try_from(group.num_rows()).ok();
        rows =
            n.and_then(|n| rows.checked_add(n)).ok_or_else(|| bad("its number of rows is damaged".into()))?;
    }

    let root = metadata.file_metadata().schema_descr().root_schema();
    let mut columns = Vec::new();
    let mut nodes = group_nodes(root, "", Levels::default(), &mut columns).map_err(|what| {
        Error::data(format!("{}: {what}", path.display())).fix("write the file again, such as with pyarrow")
    })?;
    if let Some(names) = &options.columns {
        if let Some(name) = names.iter().find(|name| !nodes.iter().any(|node| node.name == **name)) {
            let all: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
            return Err(Error::data(format!("{}: there is no column {name:?}", path.display()))
                .fix(format!("the file has the columns {}", all.join(", "))));
        }
        nodes.retain(|node| names.contains(&node.name));
    }
    Ok(Rows {
        path: path.to_owned(),
        file: Arc::new(file),
        size,
        metadata,
        nodes,
        columns,
        group: 0,
        undecoded: 0,
        decoded: 0,
        batch: 0,
        done: 0,
        total: rows,
        wanted: options.limit.unwrap_or(rows).min(rows),
    })
}

fn damaged(e: Error) -> Error {
    e.fix("the file may be cut short or damaged: fetch it again")
}

/// The metadata at the end of the file, as bytes.
fn footer(path: &Path, file: &mut File, size: u64) -> Result<Vec<u8>> {
    let failed = |e: std::io::Error| Error::io(Kind::Data, "read", path, &e);
    let bad = |what: &str| Error::data(format!("{}: {what}", path.display()));
    let mut tail = [0; 8];
    if size < 12 {
        return Err(damaged(bad(&format!("not a parquet file: only {size} bytes"))));
    }
    file.seek(SeekFrom::End(-8)).and_then(|_| file.read_exact(&mut tail)).map_err(failed)?;
    let [a, b, c, d, magic @ ..] = tail;
    let length = u64::from(u32::from_le_bytes([a, b, c, d]));
    if &magic == b"PARE" {
        return Err(bad("the parquet file is encrypted").fix("write it again without encryption"));
    }
    if &magic != MAGIC || length > size - 12 {
        return Err(damaged(bad("not a whole parquet file: it does not end as one")));
    }
    let mut bytes = Vec::new();
    file.seek(SeekFrom::End(-8 - length as i64))
        .and_then(|_| file.take(length).read_to_end(&mut bytes))
        .map_err(failed)?;
    Ok(bytes)
}

/// Runs code of the crate; its panics are errors too, and nothing else is said about them.
fn guard<T>(work: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, String> {
    static HOOK: Once = Once::new();
    thread_local! {
        static GUARDED: Cell<bool> = const { Cell::new(false) };
    }
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !GUARDED.try_with(Cell::get).unwrap_or(false) {
                usual(panic);
            }
        }));
    });
    GUARDED.set(true);
    // What a panic leaves behind is not used again: the rows end there.
    let result = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(false);
    match result {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(format!("the decoder gave up: {}", text.unwrap_or("no reason given")))
        }
    }
}

/// Looks through the metadata (Thrift in its compact form) for a schema that the crate, which follows it by recursion and
/// makes room for as many children as it names, can take. None: it cannot.
fn check_schema(footer: &[u8]) -> Option<()> {
    let mut at = Thrift(footer);
    let (mut field, mut seen) = (0, false);
    while let Some(kind) = at.field(&mut field)? {
        if field != 2 {
            at.skip(kind, DEPTH)?;
            continue;
        }
        let (elements, count) = at.list()?;
        if kind != 9 || elements != 12 || std::mem::replace(&mut seen, true) {
            return None;
        }
        // Children that are still to come, for each group that is open.
        let mut open = vec![1];
        for n in 0..count {
            let (mut field, mut children) = (0, 0);
            while let Some(kind) = at.field(&mut field)? {
                match (field, kind) {
                    (5, 5) => children = usize::try_from(at.int()?).ok()?,
                    (5, _) => return None,
                    _ => at.skip(kind, DEPTH)?,
                }
            }
            while open.last() == Some(&0) {
                open.pop();
            }
            *open.last_mut()? -= 1;
            if children > count - n {
                return None;
            }
            open.push(children);
            if open.len() > DEPTH {
                return None;
            }
        }
    }
    seen.then_some(())
}

/// Thrift's compact form, as far as it takes to find something and skip the rest. None: the bytes end or make no sense.
struct Thrift<'a>(&'a [u8]);

impl Thrift<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn pass(&mut self, n: u64) -> Option<()> {
        self.0 = self.0.get(usize::try_from(n).ok()?..)?;
        Some(())
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn int(&mut self) -> Option<i64> {
        let n = self.varint()?;
        Some((n >> 1) as i64 ^ -((n & 1) as i64))
    }

    /// The kind of the next field of a struct, whose number goes to `field`; none at its end.
    fn field(&mut self, field: &mut i64) -> Option<Option<u8>> {
        let head = self.byte()?;
        if head == 0 {
            return Some(None);
        }
        *field = if head >> 4 == 0 { self.int()? } else { field.checked_add(i64::from(head >> 4))? };
        Some(Some(head & 15))
    }

    /// The kind of a list's elements and how many there are.
    fn list(&mut self) -> Option<(u8, usize)> {
        let head = self.byte()?;
        let count = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
        // An element takes a byte at least.
        let count = usize::try_from(count).ok().filter(|&n| n <= self.0.len())?;
        Some((head & 15, count))
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match kind {
            1 | 2 => Some(()), // true, false
            3 => self.pass(1),
            4..=6 => self.varint().map(drop),
            7 => self.pass(8),
            8 => {
                let n = self.varint()?;
                self.pass(n)
            }
            9 | 10 => {
                let (kind, count) = self.list()?;
                // In a list, true and false are a byte each.
                (0..count).try_for_each(|_| self.skip(if kind < 3 { 3 } else { kind }, depth))
            }
            12 => {
                let mut field = 0;
                while let Some(kind) = self.field(&mut field)? {
                    self.skip(kind, depth)?;
                }
                Some(())
            }
            _ => None, // parquet has no maps
        }
    }
}

/// A field of the schema, and how its values are put together from columns.
struct Node {
    name: String,
    /// The definition level from which on the field is not null, where it can be.
    present: Option<i16>,
    /// The columns below it: one at least.
    leaves: Range<usize>,
    shape: Shape,
}

enum Shape {
    Leaf,
    Struct(Vec<Node>),
    /// With the definition level of an element that is there, and the repetition level of a further one.
    List(Box<Node>, i16, i16),
    /// Key and value, and levels as those of a list.
    Map(Box<(Node, Node)>, i16, i16),
}

/// Definition and repetition level at a place of the schema.
#[derive(Clone, Copy, Default)]
struct Levels {
    def: i16,
    rep: i16,
}

impl Levels {
    fn optional(self) -> Self {
        Self { def: self.def + 1, ..self }
    }
    fn repeated(self) -> Self {
        Self { def: self.def + 1, rep: self.rep + 1 }
    }
}

fn fields(group: &Type) -> &[Arc<Type>] {
    if group.is_group() { group.get_fields() } else { &[] }
}

/// The fields of a struct, or of the whole row.
fn group_nodes(
    group: &Type,
    path: &str,
    levels: Levels,
    columns: &mut Vec<Column>,
) -> Result<Vec<Node>, String> {
    let mut nodes: Vec<Node> = Vec::new();
    for field in fields(group) {
        if nodes.iter().any(|node| node.name == field.name()) {
            return Err(format!("two columns are named {:?}", join(path, field.name())));
        }
        nodes.push(node(field, &join(path, field.name()), levels, columns)?);
    }
    if nodes.is_empty() {
        let what = if path.is_empty() { "the file".into() } else { format!("the column {path:?}") };
        return Err(format!("{what} has no columns"));
    }
    Ok(nodes)
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// A field with its repetition. What is repeated without being marked as a list is one nevertheless.
fn node(field: &Type, path: &str, levels: Levels, columns: &mut Vec<Column>) -> Result<Node, String> {
    let info = field.get_basic_info();
    let repetition = if info.has_repetition() { info.repetition() } else { Repetition::REQUIRED };
    match repetition {
        Repetition::REQUIRED => value_node(field, path, levels, columns),
        Repetition::OPTIONAL => {
            let levels = levels.optional();
            Ok(Node { present: Some(levels.def), ..value_node(field, path, levels, columns)? })
        }
        Repetition::REPEATED => {
            let levels = levels.repeated();
            let element = value_node(field, path, levels, columns)?;
            Ok(list(field, element, levels))
        }
    }
}

fn list(field: &Type, element: Node, levels: Levels) -> Node {
    let leaves = element.leaves.clone();
    let shape = Shape::List(Box::new(element), levels.def, levels.rep);
    Node { name: field.name().to_owned(), present: None, leaves, shape }
}

/// A field as it is where it is there.
fn value_node(field: &Type, path: &str, levels: Levels, columns: &mut Vec<Column>) -> Result<Node, String> {
    let first = columns.len();
    let (name, info) = (field.name().to_owned(), field.get_basic_info());
    if field.is_primitive() {
        columns.push(Column::new(path, field, levels));
        return Ok(Node { name, present: None, leaves: first..first + 1, shape: Shape::Leaf });
    }
    let kind = info.converted_type();
    let is_list = kind == ConvertedType::LIST || info.logical_type_ref() == Some(&LogicalType::List);
    let is_map = matches!(kind, ConvertedType::MAP | ConvertedType::MAP_KEY_VALUE)
        || info.logical_type_ref() == Some(&LogicalType::Map);
    if !is_list && !is_map {
        let nodes = group_nodes(field, path, levels, columns)?;
        return Ok(Node { name, present: None, leaves: first..columns.len(), shape: Shape::Struct(nodes) });
    }
    let what = if is_list { "list" } else { "map" };
    let [repeated] = field.get_fields() else {
        return Err(format!("the {what} {path:?} has {} fields; one was expected", field.get_fields().len()));
    };
    let is_repeated = |field: &Type| {
        let info = field.get_basic_info();
        info.has_repetition() && info.repetition() == Repetition::REPEATED
    };
    if !is_repeated(repeated) {
        return Err(format!("the {what} {path:?} holds a field that is not repeated"));
    }
    let levels = levels.repeated();
    if is_map {
        let [key, rest @ ..] = fields(repeated) else {
            return Err(format!("the map {path:?} has no keys"));
        };
        let key = node(key, path, levels, columns)?;
        return match rest {
            [] => Ok(list(field, key, levels)),
            [value] => {
                let value = node(value, path, levels, columns)?;
                let shape = Shape::Map(Box::new((key, value)), levels.def, levels.rep);
                Ok(Node { name, present: None, leaves: first..columns.len(), shape })
            }
            _ => Err(format!("the map {path:?} has more than keys and values")),
        };
    }
    // The rules of the format's LogicalTypes.md for telling the level that only marks the repetition, which is to be
    // left out, from older files where the repeated field is the element.
    let inner = repeated.get_basic_info();
    let is_element = match fields(repeated) {
        [only] => {
            is_repeated(only)
                || inner.converted_type() == ConvertedType::LIST
                || inner.logical_type_ref() == Some(&LogicalType::List)
                || repeated.name() == "array"
                || repeated.name() == format!("{name}_tuple")
        }
        _ => true,
    };
    let element = match fields(repeated) {
        [only] if !is_element => node(only, path, levels, columns)?,
        _ => value_node(repeated, path, levels, columns)?,
    };
    Ok(list(field, element, levels))
}

/// How a stored value becomes JSON.
#[derive(Clone, Copy)]
enum Convert {
    Plain,
    Unsigned,
    Half,
    Date,
    /// Ticks in a second.
    Time(i64),
    /// Ticks in a second, and whether they count in UTC.
    Timestamp(i64, bool),
    /// Digits after the point.
    Decimal(usize),
    Uuid,
    /// What it is.
    Unsupported(&'static str),
}

impl Convert {
    fn of(field: &Type) -> Self {
        let ticks = |unit: &TimeUnit| match unit {
            TimeUnit::MILLIS => 1_000,
            TimeUnit::MICROS => 1_000_000,
            TimeUnit::NANOS => 1_000_000_000,
        };
        let info = field.get_basic_info();
        match (info.logical_type_ref(), info.converted_type()) {
            (Some(LogicalType::Integer(int)), _) if !int.is_signed => Self::Unsigned,
            (Some(LogicalType::Float16), _) => Self::Half,
            (Some(LogicalType::Date), _) => Self::Date,
            (Some(LogicalType::Time(time)), _) => Self::Time(ticks(&time.unit)),
            (Some(LogicalType::Timestamp(time)), _) => {
                Self::Timestamp(ticks(&time.unit), time.is_adjusted_to_u_t_c)
            }
            (Some(LogicalType::Uuid), _) => Self::Uuid,
            (Some(LogicalType::Decimal(_)), _) | (None, ConvertedType::DECIMAL) => {
                match usize::try_from(field.get_scale()) {
                    Ok(scale) if scale <= 38 => Self::Decimal(scale),
                    _ => Self::Unsupported("decimals of more than 38 digits"),
                }
            }
            (Some(_), _) => Self::Plain,
            (None, kind) => match kind {
                ConvertedType::UINT_8
                | ConvertedType::UINT_16
                | ConvertedType::UINT_32
                | ConvertedType::UINT_64 => Self::Unsigned,
                ConvertedType::DATE => Self::Date,
                ConvertedType::TIME_MILLIS => Self::Time(1_000),
                ConvertedType::TIME_MICROS => Self::Time(1_000_000),
                ConvertedType::TIMESTAMP_MILLIS => Self::Timestamp(1_000, true),
                ConvertedType::TIMESTAMP_MICROS => Self::Timestamp(1_000_000, true),
                ConvertedType::INTERVAL => Self::Unsupported("intervals"),
                _ => Self::Plain,
            },
        }
    }

    fn int(self, n: i64, bits: u32) -> Result<Value, String> {
        Ok(match self {
            Self::Unsigned if bits == 32 => (n as u32).into(),
            Self::Unsigned => (n as u64).into(),
            Self::Date => date(n).into(),
            Self::Time(ticks) => {
                clock(n.div_euclid(ticks), n.rem_euclid(ticks) * (1_000_000_000 / ticks)).into()
            }
            Self::Timestamp(ticks, utc) => {
                timestamp(n.div_euclid(ticks), n.rem_euclid(ticks) * (1_000_000_000 / ticks), utc).into()
            }
            Self::Decimal(scale) => decimal(i128::from(n), scale).into(),
            Self::Unsupported(what) => return Err(unsupported(what)),
            _ => n.into(),
        })
    }

    fn bytes(self, bytes: &[u8]) -> Result<Value, String> {
        Ok(match (self, bytes) {
            (Self::Half, [a, b]) => float(half::f16::from_le_bytes([*a, *b]).to_f32()),
            (Self::Decimal(scale), _) => {
                // Big end first. All but the last 16 bytes must only repeat the sign.
                let fill = if bytes.first().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 };
                let (extra, low) = bytes.split_at(bytes.len().saturating_sub(16));
                let mut wide = [fill; 16];
                wide[16 - low.len()..].copy_from_slice(low);
                let n = i128::from_be_bytes(wide);
                if extra.iter().any(|&b| b != fill) || (n < 0) != (fill != 0) {
                    return Err(unsupported("decimals of more than 38 digits"));
                }
                decimal(n, scale).into()
            }
            (Self::Uuid, _) if bytes.len() == 16 => {
                let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
                [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-").into()
            }
            (Self::Unsupported(what), _) => return Err(unsupported(what)),
            _ => match std::str::from_utf8(bytes) {
                Ok(text) => text.into(),
                Err(e) => {
                    let (n, at) = (bytes.len(), e.valid_up_to() + 1);
                    return Err(format!("holds {n} bytes that are not UTF-8 (byte {at}); text was expected"));
                }
            },
        })
    }
}

fn unsupported(what: &str) -> String {
    format!("holds {what}, which are not supported")
}

/// The number whose spelling is shortest among those that mean this float; null for what JSON has no number for.
fn float(x: f32) -> Value {
    if x.is_finite() { x.to_string().parse::<f64>().map_or(Value::Null, Value::from) } else { Value::Null }
}

fn decimal(n: i128, scale: usize) -> String {
    let digits = format!("{:0>width$}", n.unsigned_abs(), width = scale + 1);
    let (whole, part) = digits.split_at(digits.len() - scale);
    let (sign, point) = (if n < 0 { "-" } else { "" }, if scale > 0 { "." } else { "" });
    format!("{sign}{whole}{point}{part}")
}

/// Days since 1970 as a date of the Gregorian calendar.
fn date(days: i64) -> String {
    // Howard Hinnant's `civil_from_days`: years begin in March, so that the leap day is the last one.
    let day = days + 719_468;
    let (era, day) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = year + 400 * era + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Seconds and nanoseconds as a time of day, with 6 or 9 digits after the point where it is no whole second.
fn clock(seconds: i64, nanos: i64) -> String {
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let part = match nanos {
        0 => String::new(),
        _ if nanos % 1000 == 0 => format!(".{:06}", nanos / 1000),
        _ => format!(".{nanos:09}"),
    };
    format!("{hour:02}:{minute:02}:{second:02}{part}")
}

fn timestamp(seconds: i64, nanos: i64, utc: bool) -> String {
    let zone = if utc { "+00:00" } else { "" };
    format!("{}T{}{zone}", date(seconds.div_euclid(86_400)), clock(seconds.rem_euclid(86_400), nanos))
}

/// The values of a batch that are not null.
enum Values {
    Bool(Vec<bool>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Int96(Vec<Int96>),
    Float(Vec<f32>),
    Double(Vec<f64>),
    Bytes(Vec<ByteArray>),
    Fixed(Vec<FixedLenByteArray>),
}

/// A column of values, and how far the rows have got in the batch that is decoded.
struct Column {
    path: String,
    convert: Convert,
    levels: Levels,
    reader: Option<ColumnReader>,
    /// A level for each value or null; none where all are zero and the greatest possible.
    defs: Vec<i16>,
    reps: Vec<i16>,
    values: Values,
    /// Values and nulls of the batch, how many are taken, and how many values among them.
    count: usize,
    at: usize,
    value: usize,
}

impl Column {
    fn new(path: &str, field: &Type, levels: Levels) -> Self {
        let values = match field.get_physical_type() {
            Physical::BOOLEAN => Values::Bool(Vec::new()),
            Physical::INT32 => Values::Int32(Vec::new()),
            Physical::INT64 => Values::Int64(Vec::new()),
            Physical::INT96 => Values::Int96(Vec::new()),
            Physical::FLOAT => Values::Float(Vec::new()),
            Physical::DOUBLE => Values::Double(Vec::new()),
            Physical::BYTE_ARRAY => Values::Bytes(Vec::new()),
            Physical::FIXED_LEN_BYTE_ARRAY => Values::Fixed(Vec::new()),
        };
        let (path, convert) = (path.to_owned(), Convert::of(field));
        let (defs, reps) = (Vec::new(), Vec::new());
        Self { path, convert, levels, reader: None, defs, reps, values, count: 0, at: 0, value: 0 }
    }

    /// Decodes the next `rows` rows in place of those that are there.
    fn fill(&mut self, rows: usize) -> Result<(), String> {
        let (defs, reps) = (&mut self.defs, &mut self.reps);
        defs.clear();
        reps.clear();
        let reader = self.reader.as_mut().ok_or("is not open")?;
        macro_rules! read {
            ($($reader:ident, $values:ident;)*) => {
                match (reader, &mut self.values) {
                    $((ColumnReader::$reader(reader), Values::$values(values)) => {
                        values.clear();
                        guard(|| reader.read_records(rows, Some(defs), Some(reps), values))
                    })*
                    _ => Err("changes its type".into()),
                }
            };
        }
        let (read, _, levels) = read! {
            BoolColumnReader, Bool;
            Int32ColumnReader, Int32;
            Int64ColumnReader, Int64;
            Int96ColumnReader, Int96;
            FloatColumnReader, Float;
            DoubleColumnReader, Double;
            ByteArrayColumnReader, Bytes;
            FixedLenByteArrayColumnReader, Fixed;
        }
        .map_err(|e| format!("cannot read on: {e}"))?;
        if read != rows {
            return Err("cannot read on: the column ends before its last row".into());
        }
        (self.count, self.at, self.value) = (levels, 0, 0);
        Ok(())
    }

    /// The definition level of what comes next.
    fn def(&self) -> Result<i16, String> {
        if self.at >= self.count {
            return Err("does not go with the other columns".into());
        }
        Ok(if self.levels.def == 0 { 0 } else { self.defs.get(self.at).copied().unwrap_or(0) })
    }

    /// The repetition level of what comes next; 0, as for a new row, at the end of the batch.
    fn rep(&self) -> i16 {
        if self.levels.rep == 0 { 0 } else { self.reps.get(self.at).copied().unwrap_or(0) }
    }

    fn pass(&mut self) -> Result<(), String> {
        self.value += usize::from(self.def()? == self.levels.def);
        self.at += 1;
        Ok(())
    }

    fn take(&mut self) -> Result<Value, String> {
        let (there, i) = (self.def()? == self.levels.def, self.value);
        self.pass()?;
        if !there {
            return Ok(Value::Null);
        }
        let value = match &self.values {
            Values::Bool(values) => values.get(i).map(|&v| Ok(v.into())),
            Values::Int32(values) => values.get(i).map(|&v| self.convert.int(v.into(), 32)),
            Values::Int64(values) => values.get(i).map(|&v| self.convert.int(v, 64)),
            Values::Int96(values) => values.get(i).map(|v| {
                // Nanoseconds of the day, then the Julian day, of which 2440588 is the first of 1970.
                let &[low, high, day] = v.data() else { return Err("holds a damaged time".into()) };
                let nanos = (u64::from(high) << 32 | u64::from(low)) as i64;
                let second = (i64::from(day) - 2_440_588) * 86_400 + nanos.div_euclid(1_000_000_000);
                Ok(timestamp(second, nanos.rem_euclid(1_000_000_000), false).into())
            }),
            Values::Float(values) => values.get(i).map(|&v| Ok(float(v))),
            Values::Double(values) => values.get(i).map(|&v| Ok(v.into())),
            Values::Bytes(values) => values.get(i).map(|v| self.convert.bytes(v.data())),
            Values::Fixed(values) => values.get(i).map(|v| self.convert.bytes(v.data())),
        };
        value.unwrap_or_else(|| Err("ends before its last row".into()))
    }
}

/// What went wrong, and in which column.
type Fault = (usize, String);

impl Node {
    /// The next value of this field.
    fn read(&self, columns: &mut [Column]) -> Result<Value, Fault> {
        let first = self.leaves.start;
        let here = |e| (first, e);
        if self.present.is_some() && Some(columns[first].def().map_err(here)?) < self.present {
            self.pass(columns)?;
            return Ok(Value::Null);
        }
        match &self.shape {
            Shape::Leaf => columns[first].take().map_err(here),
            Shape::Struct(nodes) => {
                let mut fields = Map::with_capacity(nodes.len());
                for node in nodes {
                    fields.insert(node.name.clone(), node.read(columns)?);
                }
                Ok(Value::Object(fields))
            }
            Shape::List(element, def, rep) => {
                let mut elements = Vec::new();
                self.each(columns, *def, *rep, |columns| {
                    elements.push(element.read(columns)?);
                    Ok(())
                })?;
                Ok(Value::Array(elements))
            }
            Shape::Map(pair, def, rep) => {
                let mut entries = Map::new();
                self.each(columns, *def, *rep, |columns| {
                    let key = match pair.0.read(columns)? {
                        Value::String(key) => key,
                        key @ (Value::Number(_) | Value::Bool(_)) => key.to_string(),
                        _ => return Err((first, "has a map key that is no text or number".into())),
                    };
                    entries.insert(key, pair.1.read(columns)?);
                    Ok(())
                })?;
                Ok(Value::Object(entries))
            }
        }
    }

    /// Calls `read` for every element.
    fn each(
        &self,
        columns: &mut [Column],
        def: i16,
        rep: i16,
        mut read: impl FnMut(&mut [Column]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let first = self.leaves.start;
        if columns[first].def().map_err(|e| (first, e))? < def {
            return self.pass(columns);
        }
        loop {
            read(columns)?;
            let next = columns[first].rep();
            if let Some(other) = self.leaves.clone().find(|&i| columns[i].rep() != next || next > rep) {
                return Err((other, "has lists that are not as long as they should be".into()));
            }
            if next < rep {
                return Ok(());
            }
        }
    }

    /// Goes past a null or an empty list.
    fn pass(&self, columns: &mut [Column]) -> Result<(), Fault> {
        self.leaves.clone().try_for_each(|i| columns[i].pass().map_err(|e| (i, e)))
    }
}

/// The pages of a column, without those that would make the crate take more memory than they can fill.
struct Pages {
    inner: SerializedPageReader<File>,
    /// Values that the column still holds.
    left: u64,
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> Result<Option<Page>, ParquetError> {
        let page = self.inner.get_next_page()?;
        if let Some(page) = &page {
            let n = u64::from(page.num_values());
            if !page.is_data_page() {
                // Each takes a byte at least.
                if n > page.buffer().len().max(1) as u64 {
                    return Err(ParquetError::General(format!("a dictionary cannot hold {n} values")));
                }
            } else {
                let short = || ParquetError::General("pages hold more values than their column".into());
                self.left = self.left.checked_sub(n).ok_or_else(short)?;
            }
        }
        Ok(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>, ParquetError> {
        self.inner.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<(), ParquetError> {
        self.inner.skip_next_page()
    }

    fn at_record_boundary(&mut self) -> Result<bool, ParquetError> {
        self.inner.at_record_boundary()
    }
}

impl Iterator for Pages {
    type Item = Result<Page, ParquetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

/// Rows to decode at once in a group: about [`BATCH_BYTES`] and [`BATCH_VALUES`] of the longest column.
fn batch_rows(group: &RowGroupMetaData, leaves: impl Iterator<Item = usize>) -> u64 {
    let rows = u64::try_from(group.num_rows()).unwrap_or(0);
    let (mut bytes, mut values) = (1u64, 1u64);
    for column in leaves.filter_map(|i| group.columns().get(i)) {
        bytes = bytes.saturating_add(u64::try_from(column.uncompressed_size()).unwrap_or(0));
        values = values.max(u64::try_from(column.num_values()).unwrap_or(0));
    }
    let share = |of: u64, all: u64| u64::try_from(u128::from(of) * u128::from(rows) / u128::from(all));
    let n =
        share(BATCH_BYTES, bytes).unwrap_or(u64::MAX).min(share(BATCH_VALUES, values).unwrap_or(u64::MAX));
    n.clamp(1, BATCH_ROWS)
}

impl Rows {
    /// The names of the columns, in the order of the file.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().map(|node| node.name.as_str())
    }

    /// How many rows the file says that it has.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// About how many bytes of the file the rows so far take: all of them at the end.
    pub fn bytes(&self) -> u64 {
        match self.total {
            0 => self.size,
            total => (u128::from(self.size) * u128::from(self.done) / u128::from(total)) as u64,
        }
    }

    /// Opens the columns of the next row group.
    fn next_group(&mut self) -> Result<(), Fault> {
        let group =
            self.metadata.row_groups().get(self.group).ok_or((0, "ends before its last row".into()))?;
        self.group += 1;
        self.undecoded = u64::try_from(group.num_rows()).unwrap_or(0);
        let leaves = || self.nodes.iter().flat_map(|node| node.leaves.clone());
        self.batch = batch_rows(group, leaves());
        for i in leaves() {
            let chunk = group.columns().get(i).ok_or_else(|| (i, "is missing".into()))?;
            let left = u64::try_from(chunk.num_values()).unwrap_or(0);
            let reader = guard(|| {
                let rows = usize::try_from(group.num_rows())?;
                let inner = SerializedPageReader::new(Arc::clone(&self.file), chunk, rows, None)?;
                Ok(get_column_reader(chunk.column_descr_ptr(), Box::new(Pages { inner, left })))
            });
            self.columns[i].reader = Some(reader.map_err(|e| (i, format!("cannot read on: {e}")))?);
        }
        Ok(())
    }

    fn read(&mut self) -> Result<Map<String, Value>, Fault> {
        if self.decoded == 0 {
            while self.undecoded == 0 {
                self.next_group()?;
            }
            let n = self.batch.min(self.undecoded).min(self.wanted - self.done);
            for i in self.nodes.iter().flat_map(|node| node.leaves.clone()) {
                self.columns[i].fill(n as usize).map_err(|e| (i, e))?;
            }
            self.undecoded -= n;
            self.decoded = n;
        }
        let mut row = Map::with_capacity(self.nodes.len());
        for node in &self.nodes {
            row.insert(node.name.clone(), node.read(&mut self.columns)?);
            if let Some(i) = node.leaves.clone().find(|&i| self.columns[i].rep() != 0) {
                return Err((i, "does not go with the other columns".into()));
            }
        }
        self.decoded -= 1;
        self.done += 1;
        Ok(row)
    }
}

impl Iterator for Rows {
    type Item = Result<Map<String, Value>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done >= self.wanted {
            return None;
        }
        let row = self.read().map_err(|(column, what)| {
            let (path, row, column) = (self.path.display(), self.done + 1, &self.columns[column].path);
            let e = Error::data(format!("{path}:{row}: the column {column:?} {what}"));
            // Binary and unsupported columns are as they were meant to be; all else is damage.
            if what.starts_with("holds ") || what.starts_with("has a map") {
                e.fix("leave the column out when writing the file, or store text in it")
            } else {
                damaged(e)
            }
        });
        if row.is_err() {
            self.wanted = 0;
        }
        Some(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::data_type::{ByteArrayType, Int32Type};
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    use proptest::prelude::*;
    use serde_json::json;

    fn fixtures() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parquet")
    }

    fn fixture(name: &str) -> PathBuf {
        fixtures().join(format!("{name}.parquet"))
    }

    fn read(name: &str, options: &Options) -> Vec<Value> {
        open_with(&fixture(name), options).unwrap().map(|row| Value::Object(row.unwrap())).collect()
    }

    fn read_bytes(bytes: &[u8]) -> Result<Vec<Map<String, Value>>> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, bytes).unwrap();
        let place = format!("{}: ", file.path().display());
        open(file.path())?.collect::<Result<_>>().map_err(|mut e| {
            e.message = e.message.replace(&place, "");
            e
        })
    }

    #[test]
    fn rows_are_those_that_pyarrow_reads() {
        let mut files = 0;
        for entry in std::fs::read_dir(fixtures()).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let known = if name.starts_with("codec-") { "codec" } else { name.trim_end_matches("-v2") };
            let known = fixtures().join(format!("{known}.jsonl"));
            if path.extension().unwrap() != "parquet" || !known.exists() {
                continue;
            }
            // As text, so that the order of columns and the spelling of numbers count too.
            let expected = std::fs::read_to_string(known).unwrap();
            let expected: Vec<String> =
                expected.lines().map(|l| serde_json::from_str::<Value>(l).unwrap().to_string()).collect();
            let rows: Vec<String> = read(&name, &Options::default()).iter().map(Value::to_string).collect();
            assert_eq!(rows, expected, "{name}");
            files += 1;
        }
        assert_eq!(files, 11);
    }

    #[test]
    fn batches_row_groups_limits_and_columns() {
        let row = |i: usize| json!({"n": i / 100, "list": vec!["x"; i % 3]});
        let all: Vec<Value> = (0..2500).map(row).collect();
        for limit in [0, 1, 1023, 1024, 1025, 1500, 1501, 2500, 9000] {
            let options = Options { limit: Some(limit as u64), ..Options::default() };
            assert!(read("many", &options) == all[..limit.min(2500)], "{limit}");
        }
        let columns = |names: &[&str]| Options {
            columns: Some(names.iter().map(|n| (*n).to_owned()).collect()),
            limit: Some(2),
        };
        let some = read("codec-lz4", &columns(&["score", "label"]));
        assert_eq!(Value::from(some).to_string(), r#"[{"label":0,"score":0.0},{"label":1,"score":0.1}]"#);
        // Columns that are left out are not looked at, whatever they hold.
        assert_eq!(read("binary", &columns(&["text"])), [json!({"text": "a"}), json!({"text": "b"})]);
        let e = open_with(&fixture("codec-lz4"), &columns(&["label", "target"])).err().unwrap();
        assert!(e.message.ends_with("there is no column \"target\"") && e.kind == Kind::Data, "{e}");
        assert_eq!(e.fix.unwrap(), "the file has the columns inputs, label, score, options");

        let mut rows = open(&fixture("many")).unwrap();
        let size = std::fs::metadata(fixture("many")).unwrap().len();
        assert_eq!(
            (rows.columns().collect::<Vec<_>>(), rows.total(), rows.bytes()),
            (vec!["n", "list"], 2500, 0)
        );
        rows.by_ref().take(1250).for_each(|row| assert!(row.is_ok()));
        assert_eq!(rows.bytes(), size / 2);
        assert_eq!((rows.by_ref().count(), rows.bytes()), (1250, size));
    }

    #[test]
    fn large_text_and_no_rows() {
        let rows = read("large", &Options::default());
        let length = |i: usize| rows[i]["text"].as_str().unwrap().len();
        assert_eq!((rows.len(), length(0), length(1), length(2)), (3, 0, 30_000, 60_000));
        let mut empty = open(&fixture("empty")).unwrap();
        assert_eq!((empty.total(), empty.columns().count()), (0, 4));
        assert!(empty.next().is_none() && empty.bytes() > 0);
    }

    #[test]
    fn errors_name_file_row_and_column() {
        let path = fixture("binary");
        let mut rows = open(&path).unwrap();
        assert_eq!(Value::Object(rows.next().unwrap().unwrap())["image"]["bytes"], "ok");
        let e = rows.next().unwrap().unwrap_err();
        let expected =
            "the column \"image.bytes\" holds 5 bytes that are not UTF-8 (byte 1); text was expected";
        assert_eq!((e.message, e.kind), (format!("{}:2: {expected}", path.display()), Kind::Data));
        assert!(e.fix.unwrap().starts_with("leave the column out") && rows.next().is_none());

        let whole = std::fs::read(&path).unwrap();
        let end = whole.len() - 4;
        let encrypted = [&whole[..end], b"PARE"].concat();
        let cases: [(&[u8], &str); 5] = [
            (b"", "not a parquet file: only 0 bytes"),
            (b"PAR1 and then text, not data", "not a whole parquet file: it does not end as one"),
            (&whole[..end], "not a whole parquet file: it does not end as one"),
            (&encrypted, "the parquet file is encrypted"),
            (
                b"PAR1\x15\x02\x02\0\0\0PAR1",
                "not a valid parquet file: its schema is damaged or over 64 deep",
            ),
        ];
        for (bytes, message) in cases {
            let e = read_bytes(bytes).unwrap_err();
            assert!(e.message.ends_with(message) && e.kind == Kind::Data && e.fix.is_some(), "{e}");
        }
        assert!(open(Path::new("no.parquet")).err().unwrap().message.starts_with("cannot read no.parquet"));
    }

    /// Texts or numbers, definition and repetition levels.
    type TestColumn<'a> = (&'a [&'a str], &'a [i32], &'a [i16], &'a [i16]);

    /// A file of one row group.
    fn written(schema: &str, columns: &[TestColumn]) -> Vec<u8> {
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let mut bytes = Vec::new();
        let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::default()).unwrap();
        let mut group = writer.next_row_group().unwrap();
        for &(texts, numbers, def, rep) in columns {
            let mut column = group.next_column().unwrap().unwrap();
            let levels = ((!def.is_empty()).then_some(def), (!rep.is_empty()).then_some(rep));
            if texts.is_empty() {
                column.typed::<Int32Type>().write_batch(numbers, levels.0, levels.1).unwrap();
            } else {
                let texts: Vec<ByteArray> = texts.iter().map(|&t| t.into()).collect();
                column.typed::<ByteArrayType>().write_batch(&texts, levels.0, levels.1).unwrap();
            }
            column.close().unwrap();
        }
        group.close().unwrap();
        writer.close().unwrap();
        bytes
    }

    #[test]
    fn lists_of_older_writers() {
        let rows = |schema: &str, columns: &[TestColumn]| -> Value {
            let rows = read_bytes(&written(schema, columns)).unwrap();
            rows.into_iter().map(Value::Object).collect()
        };
        let expected = json!([{"a": ["x", "y"]}, {"a": []}]);
        let texts: [TestColumn; 1] = [(&["x", "y"], &[], &[1, 1, 0], &[0, 1, 0])];
        for field in [
            "repeated binary a (UTF8);",
            "required group a (LIST) { repeated binary element (UTF8); }",
            "required group a (LIST) { repeated group bag { required binary array_element (UTF8); } }",
        ] {
            assert_eq!(rows(&format!("message m {{ {field} }}"), &texts), expected, "{field}");
        }
        let expected = json!([{"a": [{"s": "x"}, {"s": "y"}]}, {"a": []}]);
        for field in [
            "required group a (LIST) { repeated group array { required binary s (UTF8); } }",
            "required group a (LIST) { repeated group a_tuple { required binary s (UTF8); } }",
            "repeated group a { required binary s (UTF8); }",
        ] {
            assert_eq!(rows(&format!("message m {{ {field} }}"), &texts), expected, "{field}");
        }
        let two = "message m { optional group a (LIST) { repeated group e { required binary s (UTF8); required int32 n; } } }";
        let columns: [TestColumn; 2] =
            [(&["x", "y"], &[], &[2, 2, 1, 0], &[0, 1, 0, 0]), (&[], &[1, 2], &[2, 2, 1, 0], &[0, 1, 0, 0])];
        let expected = json!([{"a": [{"s": "x", "n": 1}, {"s": "y", "n": 2}]}, {"a": []}, {"a": null}]);
        assert_eq!(rows(two, &columns), expected);
        let lists =
            "message m { required group a (LIST) { repeated group array (LIST) { repeated int32 array; } } }";
        let numbers: [TestColumn; 1] = [(&[], &[1, 2, 3], &[2, 2, 1, 2, 0], &[0, 2, 1, 1, 0])];
        assert_eq!(rows(lists, &numbers), json!([{"a": [[1, 2], [], [3]]}, {"a": []}]));
        let keys = "message m { required group a (MAP) { repeated group key_value { required binary key (UTF8); } } }";
        assert_eq!(rows(keys, &texts), json!([{"a": ["x", "y"]}, {"a": []}]));
    }

    #[test]
    fn columns_that_do_not_go_together_are_an_error() {
        let schema = "message m { required group a (LIST) { repeated group e { required binary s (UTF8); required int32 n; } } }";
        let texts: TestColumn = (&["x", "y"], &[], &[1, 1], &[0, 1]);
        let longer: TestColumn = (&[], &[1, 2, 3], &[1, 1, 1], &[0, 1, 1]);
        let shorter: TestColumn = (&[], &[1], &[1], &[0]);
        for other in [longer, shorter] {
            let e = read_bytes(&written(schema, &[texts, other])).unwrap_err();
            assert!(e.message.contains("has lists that are not as long as they should be"), "{e}");
        }
        let one: TestColumn = (&[], &[1], &[], &[]);
        let twice = written("message m { required int32 a; required int32 a; }", &[one; 2]);
        assert!(read_bytes(&twice).unwrap_err().message.contains("two columns are named \"a\""));
    }

    #[test]
    fn schemas_that_would_end_the_program_are_refused() {
        // FileMetaData {2: [SchemaElement {3: repetition, 4: name, 5: number of children}; n]}
        let element = |children: u8| [0x35, 0, 0x18, 1, b'a', 0x15, children, 0];
        let file = |elements: &[[u8; 8]]| {
            let mut footer = vec![0x15, 2, 0x19, 0xfc];
            let mut n = elements.len();
            while n >= 0x80 {
                footer.push((n & 0x7f) as u8 | 0x80);
                n >>= 7;
            }
            footer.push(n as u8);
            footer.extend(elements.as_flattened());
            footer.push(0);
            let length = (footer.len() as u32).to_le_bytes();
            [b"PAR1", &footer[..], &length, b"PAR1"].concat()
        };
        let refused = |elements: &[[u8; 8]]| {
            let e = read_bytes(&file(elements)).unwrap_err();
            assert!(e.message.contains("not a valid parquet file"), "{e}");
        };
        refused(&vec![element(2); 1_000_000]); // each in the one before
        refused(&[element(2), element(126)]); // 63 children, of which none comes
        refused(&[element(1), element(0)]); // -1 children
        refused(&[element(0), element(0)]); // two roots
        refused(&[]);
    }

    #[test]
    fn times_and_decimals_at_their_ends() {
        for (days, text) in [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (11_016, "2000-02-29"),
            (-719_528, "0000-01-01"),
            (i64::from(i32::MAX), "5881580-07-11"),
            (i64::from(i32::MIN), "-5877641-06-23"),
        ] {
            assert_eq!(date(days), text);
        }
        assert_eq!(timestamp(i64::MIN / 1000, 0, true), "-292275055-05-16T16:47:05+00:00");
        assert_eq!(decimal(i128::MIN, 38), "-1.70141183460469231731687303715884105728");
        assert_eq!(
            (decimal(-5, 3), decimal(0, 0), decimal(1234, 2)),
            ("-0.005".into(), "0".into(), "12.34".into())
        );
        let wide = [[0xff; 16], [0xfe; 16]].concat();
        assert_eq!(Convert::Decimal(0).bytes(&wide).unwrap(), i128::from_be_bytes([0xfe; 16]).to_string());
        for refused in [[[0xff; 16], [0x01; 16]].concat(), [[0; 16], [0xfe; 16]].concat(), vec![1; 17]] {
            assert!(Convert::Decimal(0).bytes(&refused).is_err());
        }
        assert_eq!((float(3.8).to_string(), float(1e-45).to_string()), ("3.8".into(), "1e-45".into()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn no_bytes_make_a_panic(
            name in prop::sample::select(vec!["nested", "nested-v2", "scalars", "delta", "many", "codec-gzip", "codec-lz4"]),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            near_the_end in any::<bool>(),
            cut in prop::option::weighted(0.1, any::<prop::sample::Index>()),
        ) {
            let mut bytes = std::fs::read(fixture(name)).unwrap();
            // The metadata at the end steers everything, so half of the changes go there.
            let from = if near_the_end { bytes.len() * 3 / 4 } else { 0 };
            let n = bytes.len() - 8 - from;
            for (at, byte) in changes {
                bytes[from + at.index(n)] = byte;
            }
            if let Some(cut) = cut {
                let at = 4 + cut.index(bytes.len() - 8);
                bytes.drain(4..at);
            }
            if let Ok(rows) = read_bytes(&bytes) {
                let _ = serde_json::to_string(&rows).unwrap();
            }
        }
    }
}
