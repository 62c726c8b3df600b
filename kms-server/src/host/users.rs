//! The users and groups of this machine, as `/etc/passwd` and `/etc/group` list them.

use std::path::Path;
use std::{fs, io, thread};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::files;

/// Where the users are listed that packages create. Users of a directory service are not in it.
const USERS: &str = "/etc/passwd";

/// Where the groups are listed that packages create.
const GROUPS: &str = "/etc/group";

/// A user, and the group under which it runs a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// The number of the user.
    pub id: Uid,
    /// The number of the group.
    pub group: Gid,
}

impl User {
    /// Returns the user of this name with the group of the same name. The error is a line that says what is missing.
    ///
    /// The first group of the user may be another one: a unit names its group itself.
    pub fn of_service(name: &str) -> Result<Self, String> {
        let id = find(USERS, name)?.ok_or_else(|| {
            format!(
                "there is no user '{name}', expected that of the package; without one run: useradd --system --user-group {name}"
            )
        })?;
        let group = find(GROUPS, name)?.ok_or_else(|| {
            format!("there is no group '{name}', under which the service runs; run: groupadd --system {name}")
        })?;
        Ok(Self { id: Uid::from_raw(id), group: Gid::from_raw(group) })
    }

    /// Checks that the user can enter a directory. A missing directory is no error.
    ///
    /// The system itself is asked, since access lists may let in whom the mode keeps out.
    pub fn enter(self, directory: &Path) -> io::Result<()> {
        // The dot has the system search the directory itself.
        let inside = directory.join(".");
        let look = move || -> Result<_, Errno> {
            // These calls change this thread alone, and it ends with the answer.
            set_thread_groups(&[])?;
            set_thread_res_gid(self.group, self.group, self.group)?;
            set_thread_res_uid(self.id, self.id, self.id)?;
            Ok(openat(CWD, &inside, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map(drop))
        };
        let looked = thread::Builder::new().spawn(look)?.join();
        match looked {
            Ok(Ok(Err(error))) if error != Errno::NOENT => Err(error.into()),
            // A process that may not become this user cannot tell.
            _ => Ok(()),
        }
    }
}

/// Returns the number of a user or group, or `None` if the list does not have it. The error is a line that names the file.
fn find(list: &str, name: &str) -> Result<Option<u32>, String> {
    let entries = fs::read(list).map_err(|error| files::failed(Path::new(list), &error))?;
    Ok(in_list(&String::from_utf8_lossy(&entries), name))
}

fn in_list(entries: &str, name: &str) -> Option<u32> {
    entries.lines().find_map(|line| {
        let mut fields = line.split(':');
        let [found, _password, id] = [fields.next()?, fields.next()?, fields.next()?];
        if found == name { id.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let users = "root:x:0:0:root:/root:/bin/sh\n\nkmsd:x:1:2::/:\nbad\nkms:x:997:996::/var/lib/kms:/usr/sbin/nologin\n";
        assert_eq!(in_list(users, "kms"), Some(997));
        assert_eq!(in_list(users, "km"), None);
        assert_eq!(in_list("kms:x:none:0::/:\n", "kms"), None);
        assert_eq!(in_list("users:x:100:kms\nkms:x:998:\n", "kms"), Some(998), "a group");
        let root = User::of_service("root").unwrap();
        assert_eq!((root.id, root.group), (Uid::ROOT, Gid::ROOT));
        assert!(User::of_service("nobody-at-all").unwrap_err().contains("no user 'nobody-at-all'"));
    }
}
