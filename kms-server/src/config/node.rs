//! The tree of a configuration: values, each with the place where it was set.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// A value, and where it was set. It is serialised as the value alone.
#[derive(Clone, Serialize)]
#[serde(transparent)]
pub struct Node {
    pub value: Value,
    #[serde(skip)]
    pub place: Place,
}

/// A value of a configuration.
#[derive(Clone, Serialize)]
#[serde(untagged)]
pub enum Value {
    Text(String),
    Boolean(bool),
    Integer(i64),
    Float(f64),
    Date(Date),
    List(Vec<Node>),
    Table(Table),
}

/// A date of TOML. It is serialised as a table with a key that no section has, so it is refused wherever it stands.
#[derive(Clone, Default, Serialize)]
pub struct Date {
    date: (),
}

/// The keys of a table, and their values.
pub type Table = BTreeMap<String, Node>;

/// Where a value was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A line of the file, counted from 1.
    Line(usize),
    /// Something beside the file, such as `flag --cert`.
    Beside(String),
    /// Nowhere: a table that exists because a key below it was set.
    Implied,
}

impl Place {
    /// Returns the line of the file, if that is the place.
    pub fn line(&self) -> Option<usize> {
        if let Self::Line(line) = self { Some(*line) } else { None }
    }
}

/// The path of a key: `["tls", "cert"]`. The index of an element stands for its name.
pub type KeyPath = Vec<String>;

/// A key, by its path or by its name in dotted form.
///
/// A part that contains a dot itself can be named by a path only.
pub trait Key {
    /// Returns the path.
    fn path(&self) -> Cow<'_, [String]>;
}

impl Key for str {
    fn path(&self) -> Cow<'_, [String]> {
        self.split('.').map(str::to_owned).collect()
    }
}

impl Key for String {
    fn path(&self) -> Cow<'_, [String]> {
        self.as_str().path()
    }
}

impl Key for [String] {
    fn path(&self) -> Cow<'_, [String]> {
        self.into()
    }
}

impl Key for KeyPath {
    fn path(&self) -> Cow<'_, [String]> {
        self.into()
    }
}

/// Writes a path as text, with elements as in `identities[0]`.
pub fn dotted(path: &[String]) -> String {
    let part = |(depth, part): (usize, &String)| match depth {
        0 => part.clone(),
        _ if part.bytes().all(|byte| byte.is_ascii_digit()) => format!("[{part}]"),
        _ => format!(".{part}"),
    };
    path.iter().enumerate().map(part).collect()
}

impl Node {
    /// Creates a table without keys.
    pub fn empty() -> Self {
        Self::implied(Table::new())
    }

    /// Creates a table that is set nowhere by itself.
    pub fn implied(table: Table) -> Self {
        Self { value: Value::Table(table), place: Place::Implied }
    }

    /// Creates a value that is set in this line of the file.
    pub fn at_line(line: usize, value: Value) -> Self {
        Self { value, place: Place::Line(line) }
    }

    /// Returns the table, if the value is one.
    pub fn table(&self) -> Option<&Table> {
        if let Value::Table(table) = &self.value { Some(table) } else { None }
    }

    /// Returns the text, if the value is one.
    pub fn text(&self) -> Option<&str> {
        if let Value::Text(text) = &self.value { Some(text) } else { None }
    }

    fn child(&self, part: &String) -> Option<&Self> {
        match &self.value {
            Value::Table(table) => table.get(part),
            Value::List(elements) => elements.get(part.parse::<usize>().ok()?),
            _ => None,
        }
    }

    fn child_mut(&mut self, part: &String) -> Option<&mut Self> {
        match &mut self.value {
            Value::Table(table) => table.get_mut(part),
            Value::List(elements) => elements.get_mut(part.parse::<usize>().ok()?),
            _ => None,
        }
    }

    /// Returns the value at a path.
    pub fn find(&self, path: &[String]) -> Option<&Self> {
        path.iter().try_fold(self, Self::child)
    }

    /// Returns the value at a path, to change it.
    pub fn find_mut(&mut self, path: &[String]) -> Option<&mut Self> {
        path.iter().try_fold(self, Self::child_mut)
    }

    /// Puts a value at a path. Has no effect where a part of the path is no table.
    pub fn insert(&mut self, path: &[String], node: Self) {
        let Value::Table(table) = &mut self.value else { return };
        match path {
            [] => {}
            [name] => drop(table.insert(name.clone(), node)),
            [first, rest @ ..] => table.entry(first.clone()).or_insert_with(Self::empty).insert(rest, node),
        }
    }

    /// Removes the key at a path and returns its value.
    pub fn take(&mut self, path: &[String]) -> Option<Self> {
        let (name, above) = path.split_last()?;
        match &mut self.find_mut(above)?.value {
            Value::Table(table) => table.remove(name),
            _ => None,
        }
    }

    /// Returns the number of values, this one included.
    pub fn count(&self) -> usize {
        let below: usize = match &self.value {
            Value::Table(table) => table.values().map(Self::count).sum(),
            Value::List(elements) => elements.iter().map(Self::count).sum(),
            _ => 0,
        };
        1 + below
    }

    /// Returns the first result of `visit`, which sees each value and its path, those above before those below.
    pub fn find_map<T>(&self, visit: &mut impl FnMut(&[String], &Self) -> Option<T>) -> Option<T> {
        self.find_map_at(&mut KeyPath::new(), visit)
    }

    fn find_map_at<T>(
        &self,
        path: &mut KeyPath,
        visit: &mut impl FnMut(&[String], &Self) -> Option<T>,
    ) -> Option<T> {
        let mut below = |part: String, node: &Self| {
            path.push(part);
            let found = visit(path, node).or_else(|| node.find_map_at(path, visit));
            path.pop();
            found
        };
        match &self.value {
            Value::Table(table) => table.iter().find_map(|(name, node)| below(name.clone(), node)),
            Value::List(elements) => {
                elements.iter().enumerate().find_map(|(index, node)| below(index.to_string(), node))
            }
            _ => None,
        }
    }

    /// Forgets all values but tables and lists. The places stay.
    pub fn forget_values(&mut self) {
        match &mut self.value {
            Value::Table(table) => table.values_mut().for_each(Self::forget_values),
            Value::List(elements) => elements.iter_mut().for_each(Self::forget_values),
            value => *value = Value::Boolean(false),
        }
    }
}

/// Shows the place only: a value may be a secret.
impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("place", &self.place).finish_non_exhaustive()
    }
}
