//! The users of this machine, as `/etc/passwd` lists them.

use std::fs;
use std::path::Path;

use super::files;

/// Where the users are listed that packages create. Users of a directory service are not in it.
const USERS: &str = "/etc/passwd";

/// A user and the group that is its first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// The number of the user.
    pub id: u32,
    /// The number of the group.
    pub group: u32,
}

/// Returns the user of this name, or `None` if this machine has none. The error is a line that names the file.
pub fn find(name: &str) -> Result<Option<User>, String> {
    let users = fs::read(USERS).map_err(|error| files::failed(Path::new(USERS), &error))?;
    Ok(in_list(&String::from_utf8_lossy(&users), name))
}

fn in_list(users: &str, name: &str) -> Option<User> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let [found, _password, id, group] = [fields.next()?, fields.next()?, fields.next()?, fields.next()?];
        (found == name).then_some(User { id: id.parse().ok()?, group: group.parse().ok()? })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let users = "root:x:0:0:root:/root:/bin/sh\n\nkmsd:x:1:2::/:\nbad\nkms:x:997:996::/var/lib/kms:/usr/sbin/nologin\n";
        assert_eq!(in_list(users, "kms"), Some(User { id: 997, group: 996 }));
        assert_eq!(in_list(users, "km"), None);
        assert_eq!(in_list("kms:x:none:0::/:\n", "kms"), None);
        assert_eq!(find("root"), Ok(Some(User { id: 0, group: 0 })));
    }
}
