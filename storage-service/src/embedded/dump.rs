//! The dump: the whole index in one flat file, written before segments of the log are deleted.
//!
//! As long as the log is whole the index can be made anew from it; afterwards from the dump and the log behind it. Chunks follow one
//! another, little-endian:
//!
//! ```text
//! chunk   0        4     8
//!         | length | crc | payload: a Chunk as protobuf
//! ```
//!
//! The first chunk has the head, the last one the number of rows, so that a file that was cut short is noticed.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

use prost::Message as _;
use redb::{Key, ReadTransaction, ReadableTable, TableDefinition, TableHandle, Value, WriteTransaction};

use super::index::Index;
use super::tables::{self, IndexError, Result, Tables, each_table};

/// A chunk is written when its rows have so many bytes.
const CHUNK_BYTES: usize = 256 * 1024;
/// The longest chunk that is believed: one row is never as long as this.
const LONGEST: u32 = 64 * 1024 * 1024;

/// What the dump covers.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Head {
    /// The log below this position is needed no more.
    #[prost(uint64, tag = "1")]
    pub first: u64,
    /// The log up to here is in the dump.
    #[prost(uint64, tag = "2")]
    pub applied: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Chunk {
    #[prost(message, optional, tag = "1")]
    head: Option<Head>,
    /// The rows are of this table.
    #[prost(string, tag = "2")]
    table: String,
    #[prost(message, repeated, tag = "3")]
    rows: Vec<Row>,
    /// In the last chunk: how many rows there were in all.
    #[prost(uint64, optional, tag = "4")]
    end: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Row {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// Writes the index as it is now, to serve a log that begins at `first`. The file is complete and on disk when it has its name.
///
/// # Errors
/// The disk or the index refuses; a dump that was there before stays.
pub(super) fn write(path: &Path, from: &Index, first: u64) -> Result<()> {
    let fresh = path.with_extension("new");
    let written = write_to(&fresh, from, first).and_then(|()| {
        fs::rename(&fresh, path)?;
        Ok(path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())?)
    });
    if written.is_err() {
        // The room is needed elsewhere.
        let _ = fs::remove_file(&fresh);
    }
    written
}

fn write_to(path: &Path, from: &Index, first: u64) -> Result<()> {
    let transaction = from.begin_read()?;
    let (applied, _) = tables::applied(&transaction)?;
    let mut writer = Writer { transaction, file: BufWriter::new(File::create(path)?), rows: 0 };
    writer.put(&Chunk { head: Some(Head { first, applied }), ..Chunk::default() })?;
    each_table(&mut writer)?;
    let end = Some(writer.rows);
    writer.put(&Chunk { end, ..Chunk::default() })?;
    Ok(writer.file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?)
}

/// What a dump covers; `None` if there is none.
///
/// # Errors
/// [`IndexError::DamagedDump`], or the disk refuses.
pub(super) fn read_head(path: &Path) -> Result<Option<Head>> {
    match Chunks::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        chunks => Ok(Some(chunks?.head()?)),
    }
}

/// Reads a dump through: whether it could serve.
///
/// # Errors
/// [`IndexError::DamagedDump`], or the disk refuses.
pub(super) fn check(path: &Path) -> Result<Head> {
    let mut chunks = Chunks::open(path)?;
    let head = chunks.head()?;
    while chunks.next()?.is_some() {}
    Ok(head)
}

/// Fills an empty index from a dump: with all of it or nothing.
///
/// # Errors
/// [`IndexError::DamagedDump`], or the disk or the index refuses.
pub(super) fn load(path: &Path, into: &Index) -> Result<()> {
    let mut chunks = Chunks::open(path)?;
    let head = chunks.head()?;
    let transaction = into.begin_write()?;
    while let Some(chunk) = chunks.next()? {
        let mut loader = Loader { transaction: &transaction, chunk, known: false };
        each_table(&mut loader)?;
        if !loader.known {
            return Err(IndexError::DamagedDump);
        }
    }
    tables::set_first(&transaction, head.first)?;
    Ok(transaction.commit()?)
}

struct Writer {
    transaction: ReadTransaction,
    file: BufWriter<File>,
    rows: u64,
}

impl Writer {
    fn put(&mut self, chunk: &Chunk) -> Result<()> {
        let payload = chunk.encode_to_vec();
        self.rows += chunk.rows.len() as u64;
        self.file.write_all(&(payload.len() as u32).to_le_bytes())?;
        self.file.write_all(&crc32fast::hash(&payload).to_le_bytes())?;
        Ok(self.file.write_all(&payload)?)
    }
}

impl Tables for Writer {
    fn table<K: Key + 'static, V: Value + 'static>(&mut self, table: TableDefinition<'static, K, V>) -> Result<()> {
        let rows = self.transaction.open_table(table)?;
        let empty = || Chunk { table: table.name().to_owned(), ..Chunk::default() };
        let (mut chunk, mut bytes) = (empty(), 0);
        for row in rows.iter()? {
            let (key, value) = row?;
            let row = Row {
                key: K::as_bytes(&key.value()).as_ref().to_vec(),
                value: V::as_bytes(&value.value()).as_ref().to_vec(),
            };
            bytes += row.key.len() + row.value.len();
            chunk.rows.push(row);
            if bytes >= CHUNK_BYTES {
                self.put(&std::mem::replace(&mut chunk, empty()))?;
                bytes = 0;
            }
        }
        if chunk.rows.is_empty() { Ok(()) } else { self.put(&chunk) }
    }
}

struct Loader<'a> {
    transaction: &'a WriteTransaction,
    chunk: Chunk,
    /// The table of the chunk was found.
    known: bool,
}

impl Tables for Loader<'_> {
    fn table<K: Key + 'static, V: Value + 'static>(&mut self, table: TableDefinition<'static, K, V>) -> Result<()> {
        if self.chunk.table != table.name() {
            return Ok(());
        }
        self.known = true;
        let mut rows = self.transaction.open_table(table)?;
        for row in &self.chunk.rows {
            rows.insert(K::from_bytes(&row.key), V::from_bytes(&row.value))?;
        }
        Ok(())
    }
}

/// The chunks of a dump, each checked.
struct Chunks {
    file: BufReader<File>,
    rows: u64,
}

impl Chunks {
    fn open(path: &Path) -> io::Result<Chunks> {
        Ok(Chunks { file: BufReader::new(File::open(path)?), rows: 0 })
    }

    fn head(&mut self) -> Result<Head> {
        self.read()?.head.ok_or(IndexError::DamagedDump)
    }

    /// The next chunk with rows; `None` at the end, if the end is what it should be.
    fn next(&mut self) -> Result<Option<Chunk>> {
        let chunk = self.read()?;
        self.rows += chunk.rows.len() as u64;
        match chunk.end {
            None => Ok(Some(chunk)),
            Some(rows) if rows == self.rows => Ok(None),
            Some(_) => Err(IndexError::DamagedDump),
        }
    }

    fn read(&mut self) -> Result<Chunk> {
        let (mut length, mut crc) = ([0; 4], [0; 4]);
        self.fill(&mut length)?;
        self.fill(&mut crc)?;
        let length = u32::from_le_bytes(length);
        if length > LONGEST {
            return Err(IndexError::DamagedDump);
        }
        let mut payload = vec![0; length as usize];
        self.fill(&mut payload)?;
        if crc32fast::hash(&payload) != u32::from_le_bytes(crc) {
            return Err(IndexError::DamagedDump);
        }
        Chunk::decode(&payload[..]).map_err(|_| IndexError::DamagedDump)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.file.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => IndexError::DamagedDump,
            _ => error.into(),
        })
    }
}
