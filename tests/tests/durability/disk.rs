//! A disk with a page cache that is as strict as the rules allow. Data without a sync may be there, in part
//! or not at all.
//!
//! A sync of a file makes its content durable, but not its name. A sync of a directory makes the names in it
//! durable. After a sync that failed, some of the data before it is on the disk. The rest never gets there,
//! however often a later sync succeeds.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use crate::random::Random;
use crate::recording::Operation;

/// How many bytes a disk writes at once.
const SECTOR: usize = 512;

/// The files below one directory, as processes see them and as the disk has them.
#[derive(Clone)]
pub struct Disk {
    root: PathBuf,
    nodes: Vec<Node>,
    handles: HashMap<u32, usize>,
}

#[derive(Clone)]
enum Node {
    File { seen: Vec<u8>, durable: Vec<u8>, pending: Vec<Change> },
    Directory { seen: Names, durable: Names, pending: Vec<NameChange> },
}

type Names = BTreeMap<OsString, usize>;

#[derive(Clone)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Truncate(usize),
}

#[derive(Clone)]
enum NameChange {
    Add(OsString, usize),
    Remove(OsString),
    Rename { from: OsString, to: OsString, node: usize },
}

impl Disk {
    /// Reads the files below `root`. They count as durable.
    pub fn load(root: &Path) -> Self {
        let mut disk = Self { root: root.to_owned(), nodes: vec![directory()], handles: HashMap::new() };
        if root.exists() {
            disk.load_directory(root, 0);
        }
        disk
    }

    /// Applies an operation of a process.
    pub fn apply(&mut self, operation: &Operation, random: &mut Random) {
        match operation {
            Operation::Start => self.handles.clear(),
            Operation::Open { handle, path } => {
                let node = self.find(path);
                self.handles.insert(*handle, node);
            }
            Operation::Create { handle, path } => {
                let node =
                    self.add(Node::File { seen: Vec::new(), durable: Vec::new(), pending: Vec::new() });
                self.change_names(path, |name| NameChange::Add(name, node));
                self.handles.insert(*handle, node);
            }
            Operation::Write { handle, offset, bytes } => {
                let offset = usize::try_from(*offset).unwrap();
                self.change(*handle, Change::Write { offset, bytes: bytes.clone() });
            }
            Operation::Truncate { handle, len } => {
                self.change(*handle, Change::Truncate(usize::try_from(*len).unwrap()));
            }
            Operation::Sync { handle } => self.sync(*handle, |_| true),
            Operation::FailedSync { handle } => {
                self.sync(*handle, |change| matches!(change, Change::Truncate(_)) || random.percent(50));
            }
            Operation::Rename { from, to } => {
                let node = self.find(from);
                assert_eq!(from.parent(), to.parent(), "a rename to another directory is not simulated");
                let from = from.file_name().unwrap().to_owned();
                self.change_names(to, |to| NameChange::Rename { from, to, node });
            }
            Operation::Link { from, to } => {
                let node = self.find(from);
                self.change_names(to, |name| NameChange::Add(name, node));
            }
            Operation::Unlink { path } => self.change_names(path, NameChange::Remove),
            Operation::MakeDirectory { path } if *path == self.root => {}
            Operation::MakeDirectory { path } => {
                let node = self.add(directory());
                self.change_names(path, |name| NameChange::Add(name, node));
            }
            Operation::Mark(_) => {}
        }
    }

    /// Writes to `target` the files that a power cut may leave now.
    pub fn cut(&self, target: &Path, random: &mut Random) {
        self.cut_directory(0, target, random);
    }

    /// Checks that the record is complete: the files below `root` are those that processes should see.
    ///
    /// Files whose space is only reserved may have any content.
    pub fn assert_complete(&self) {
        self.assert_directory(0, &self.root);
    }

    fn load_directory(&mut self, path: &Path, node: usize) {
        let mut names = Names::new();
        for entry in fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let child = if entry.file_type().unwrap().is_dir() {
                let child = self.add(directory());
                self.load_directory(&entry.path(), child);
                child
            } else {
                let content = fs::read(entry.path()).unwrap();
                self.add(Node::File { seen: content.clone(), durable: content, pending: Vec::new() })
            };
            names.insert(entry.file_name(), child);
        }
        self.nodes[node] = Node::Directory { seen: names.clone(), durable: names, pending: Vec::new() };
    }

    fn add(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn find(&self, path: &Path) -> usize {
        let inside = path.strip_prefix(&self.root).unwrap();
        inside.iter().fold(0, |node, name| {
            *self.names_of(node).get(name).unwrap_or_else(|| panic!("{}", path.display()))
        })
    }

    fn names_of(&self, node: usize) -> &Names {
        match &self.nodes[node] {
            Node::Directory { seen, .. } => seen,
            Node::File { .. } => panic!("a file where a directory was expected"),
        }
    }

    fn change_names(&mut self, path: &Path, change: impl FnOnce(OsString) -> NameChange) {
        let parent = self.find(path.parent().unwrap());
        let Node::Directory { seen, pending, .. } = &mut self.nodes[parent] else {
            panic!("{}", path.display())
        };
        let change = change(path.file_name().unwrap().to_owned());
        change.apply(seen);
        pending.push(change);
    }

    fn change(&mut self, handle: u32, change: Change) {
        let Node::File { seen, pending, .. } = &mut self.nodes[self.handles[&handle]] else {
            panic!("{handle}")
        };
        change.apply(seen);
        pending.push(change);
    }

    fn sync(&mut self, handle: u32, mut arrives: impl FnMut(&Change) -> bool) {
        match &mut self.nodes[self.handles[&handle]] {
            Node::File { durable, pending, .. } => {
                for change in pending.drain(..).filter(|change| arrives(change)) {
                    change.apply(durable);
                }
            }
            Node::Directory { durable, pending, .. } => {
                for change in pending.drain(..) {
                    change.apply(durable);
                }
            }
        }
    }

    fn cut_directory(&self, node: usize, target: &Path, random: &mut Random) {
        let Node::Directory { durable, pending, .. } = &self.nodes[node] else {
            panic!("{}", target.display())
        };
        let mut names = durable.clone();
        // A journal of the file system would keep the order, but nothing guarantees a journal.
        let (up_to, percent) = if random.percent(50) {
            (random.below(pending.len() + 1), 100)
        } else {
            (pending.len(), random.below(101))
        };
        for change in &pending[..up_to] {
            if random.percent(percent) {
                change.apply(&mut names);
            }
        }
        fs::create_dir_all(target).unwrap();
        for (name, child) in names {
            let path = target.join(name);
            match &self.nodes[child] {
                Node::Directory { .. } => self.cut_directory(child, &path, random),
                Node::File { seen, durable, pending } => {
                    fs::write(path, cut_file(seen.len(), durable, pending, random)).unwrap();
                }
            }
        }
    }

    fn assert_directory(&self, node: usize, path: &Path) {
        let mut found: Vec<OsString> =
            fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        found.sort();
        let names = self.names_of(node);
        let display = path.display();
        assert!(names.keys().eq(&found), "{display} holds {found:?}, by the record {:?}", names.keys());
        for (name, child) in names {
            let path = path.join(name);
            match &self.nodes[*child] {
                Node::Directory { .. } => self.assert_directory(*child, &path),
                Node::File { .. } if name == OsStr::new("ballast") => {}
                Node::File { seen, .. } => {
                    let same = fs::read(&path).unwrap() == *seen;
                    assert!(same, "{} was written to besides the record", path.display());
                }
            }
        }
    }
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => write_at(content, *offset, bytes),
            Self::Truncate(len) => content.resize(*len, 0),
        }
    }
}

impl NameChange {
    fn apply(&self, names: &mut Names) {
        match self {
            Self::Add(name, node) => drop(names.insert(name.clone(), *node)),
            Self::Remove(name) => drop(names.remove(name)),
            Self::Rename { from, to, node } => {
                names.remove(from);
                names.insert(to.clone(), *node);
            }
        }
    }
}

/// Draws what a power cut may leave of a file.
///
/// Of each write all sectors are left, some or none. The length may be ahead of the content.
fn cut_file(seen_len: usize, durable: &[u8], pending: &[Change], random: &mut Random) -> Vec<u8> {
    let mut content = durable.to_vec();
    let percent = [0, 50, 90, 100][random.below(4)];
    for change in pending {
        match change {
            Change::Write { offset, bytes } => {
                let mut at = 0;
                while at < bytes.len() {
                    let end = bytes.len().min(at + SECTOR - (offset + at) % SECTOR);
                    if random.percent(percent) {
                        write_at(&mut content, offset + at, &bytes[at..end]);
                    }
                    at = end;
                }
            }
            Change::Truncate(_) if random.percent(percent) => change.apply(&mut content),
            Change::Truncate(_) => {}
        }
    }
    if content.len() < seen_len && random.percent(50) {
        content.resize(seen_len, 0);
    }
    content
}

fn write_at(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

fn directory() -> Node {
    Node::Directory { seen: Names::new(), durable: Names::new(), pending: Vec::new() }
}
