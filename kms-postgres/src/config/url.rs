//! URLs of databases, as libpq reads them.

use kms_core::primitives::Secret;
use percent_encoding::percent_decode_str;

use super::host::{DEFAULT_PORT, Host};

/// The options of a URL that mean something here. Another one is refused: it may have been meant to make things safer.
const OPTIONS: [&str; 11] = [
    "host",
    "port",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "channel_binding",
    "connect_timeout",
    "application_name",
    "target_session_attrs",
    "passfile",
];

/// What is said of another option.
const UNKNOWN: &str = "it has an option that is not known here; known are host, port, sslmode, sslrootcert, sslcert, sslkey, channel_binding, \
    connect_timeout, application_name, target_session_attrs, passfile";

/// The parts of a URL. No error quotes it, since it may hold a password: each is a text of this program.
#[derive(Default)]
pub struct Url {
    pub hosts: Vec<Host>,
    pub user: Option<String>,
    pub password: Option<Secret>,
    pub database: Option<String>,
    options: Vec<(String, String)>,
}

impl Url {
    /// Reads `postgresql://[user[:password]@][host[:port],...][/database][?option=value&...]`.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let rest = text
            .strip_prefix("postgresql://")
            .or_else(|| text.strip_prefix("postgres://"))
            .ok_or("expected it to begin with 'postgresql://'")?;
        let (rest, query) = rest.split_once('?').map_or((rest, ""), |(rest, query)| (rest, query));
        let (authority, database) =
            rest.split_once('/').map_or((rest, ""), |(rest, database)| (rest, database));
        let (login, hosts) =
            authority.rsplit_once('@').map_or(("", authority), |(login, hosts)| (login, hosts));
        let (user, password) = login.split_once(':').map_or((login, ""), |(user, password)| (user, password));
        let mut url = Self {
            hosts: Vec::new(),
            user: some(decode(user)?),
            password: some(decode(password)?).map(Secret::from),
            database: some(decode(database)?),
            options: Vec::new(),
        };
        if !hosts.is_empty() {
            url.hosts = hosts.split(',').map(host).collect::<Result<_, _>>()?;
        }
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').ok_or("an option in it has no value")?;
            let name = OPTIONS.iter().find(|known| **known == name).ok_or(UNKNOWN)?;
            url.options.push(((*name).to_owned(), decode(value)?));
        }
        Ok(url)
    }

    /// Returns the value of an option, the last if it is given twice.
    pub fn option(&self, name: &str) -> Option<&String> {
        self.options.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value)
    }
}

fn host(text: &str) -> Result<Host, &'static str> {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (name, port) = rest.split_once(']').ok_or("a host in it begins with '[' and has no ']'")?;
            (name, port.strip_prefix(':'))
        }
        None => text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port))),
    };
    let port = match port {
        None | Some("") => DEFAULT_PORT,
        Some(port) => port.parse().map_err(|_| "a port in it is no number up to 65535")?,
    };
    let name = decode(name)?;
    if name.is_empty() {
        return Err("a host in it is empty");
    }
    Ok(Host::new(name, port))
}

fn decode(text: &str) -> Result<String, &'static str> {
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| "a part of it is no text in UTF-8")?;
    Ok(decoded.into_owned())
}

fn some(text: String) -> Option<String> {
    if text.is_empty() { None } else { Some(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_option_is_answered_with_all_that_are_known() {
        for option in OPTIONS {
            assert!(UNKNOWN.contains(option), "{option}");
        }
        assert_eq!(Url::parse("postgresql://db/x?sslmod=require").err(), Some(UNKNOWN));
    }
}
