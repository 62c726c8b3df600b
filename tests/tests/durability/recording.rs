//! Reads what `powercut/shim.c` records.

use std::path::{Path, PathBuf};

/// One operation of a process.
#[derive(Debug)]
pub enum Operation {
    /// A process began. The descriptors of the one before are closed.
    Start,
    Open {
        handle: u32,
        path: PathBuf,
    },
    Create {
        handle: u32,
        path: PathBuf,
    },
    Write {
        handle: u32,
        offset: u64,
        bytes: Vec<u8>,
    },
    Truncate {
        handle: u32,
        len: u64,
    },
    Sync {
        handle: u32,
    },
    FailedSync {
        handle: u32,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Link {
        from: PathBuf,
        to: PathBuf,
    },
    Unlink {
        path: PathBuf,
    },
    MakeDirectory {
        path: PathBuf,
    },
    /// A part of what was written to standard output.
    Mark(String),
}

/// Reads a record.
pub fn read(log: &Path) -> Vec<Operation> {
    let bytes = std::fs::read(log).unwrap();
    let mut rest = bytes.as_slice();
    let mut operations = Vec::new();
    while !rest.is_empty() {
        operations.push(operation(&mut rest));
    }
    operations
}

fn operation(rest: &mut &[u8]) -> Operation {
    let kind = take(rest, 1)[0];
    let handle = u32::from_le_bytes(take(rest, 4).try_into().unwrap());
    let number = u64::from_le_bytes(take(rest, 8).try_into().unwrap());
    let (first, second) = (field(rest), field(rest));
    let path = |bytes: &[u8]| PathBuf::from(std::str::from_utf8(bytes).unwrap());
    match kind {
        0 => Operation::Start,
        1 => Operation::Open { handle, path: path(first) },
        2 => Operation::Create { handle, path: path(first) },
        3 => Operation::Write { handle, offset: number, bytes: first.to_vec() },
        4 => Operation::Truncate { handle, len: number },
        5 => Operation::Sync { handle },
        6 => Operation::FailedSync { handle },
        7 => Operation::Rename { from: path(first), to: path(second) },
        8 => Operation::Link { from: path(first), to: path(second) },
        9 | 11 => Operation::Unlink { path: path(first) },
        10 => Operation::MakeDirectory { path: path(first) },
        12 => Operation::Mark(String::from_utf8(first.to_vec()).unwrap()),
        other => panic!("operation {other} in the record"),
    }
}

fn field<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let len = u32::from_le_bytes(take(rest, 4).try_into().unwrap());
    take(rest, usize::try_from(len).unwrap())
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (taken, left) = rest.split_at(len);
    *rest = left;
    taken
}
