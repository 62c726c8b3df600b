//! The section `api`: settings of single routes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::problem::Problem;
use super::super::schema::RawApi;
use super::context::Context;
use crate::api::{MARGIN, Routes};
use crate::settings::RouteSettings;

/// Checks the section. Returns the settings by the paths of the routes.
pub fn routes(raw: RawApi, context: &mut Context<'_>) -> Result<BTreeMap<String, RouteSettings>, Problem> {
    let all = Routes::standard();
    let mut routes = BTreeMap::new();
    let all_written: BTreeSet<_> = raw.keys().cloned().collect();
    for (written, route) in raw {
        let section = ["api".to_owned(), written.clone()];
        let at = |key: &str| [&section[..], &[key.to_owned()]].concat();
        let known =
            all.iter().find(|known| known.path.trim_end_matches('/') == written.trim_end_matches('/'));
        let mut settings = RouteSettings {
            skip_auth: route.skip_auth.is_some_and(|skip| skip.0),
            timeout: route.timeout.map(|timeout| timeout.0),
        };
        let Some(known) = known else {
            let paths: Vec<_> = all.iter().map(|route| route.path).collect();
            let message = format!("there is no such route, expected one of {}", paths.join(", "));
            // Whoever wants to open a route has to know that it stays closed. KES opens nothing here either.
            if settings.skip_auth || !context.is_for_kes {
                return Err(context.problem(&section[..], message));
            }
            context.warn_no_effect(&section[..], message);
            continue;
        };
        if settings.skip_auth && !known.may_skip_auth {
            let open: Vec<_> =
                all.iter().filter(|route| route.may_skip_auth).map(|route| route.path).collect();
            let message = format!("only these may be open to everybody: {}", open.join(", "));
            return Err(context.problem(&at("skip_auth"), message));
        }
        if known.path != written && all_written.contains(known.path) {
            context.warn_no_effect(&section[..], format!("no effect, {} is there, too", known.path));
            continue;
        }
        if known.path != written && settings.skip_auth {
            settings.skip_auth = false;
            let message = format!("no effect: this opens nothing, the route is {}", known.path);
            context.warn_no_effect(&at("skip_auth"), message);
        }
        if let Some(timeout) = settings.timeout {
            settings.timeout = self::timeout(timeout, &at("timeout"), context)?;
        }
        routes.insert(known.path.to_owned(), settings);
    }
    Ok(routes)
}

/// Checks the timeout of a route; `None` stands for the usual one.
fn timeout(
    timeout: Duration,
    key: &[String],
    context: &mut Context<'_>,
) -> Result<Option<Duration>, Problem> {
    if timeout > MARGIN {
        return Ok(Some(timeout));
    }
    match (timeout.is_zero(), context.is_for_kes) {
        (true, true) => {
            context.warn(key, "it is zero, so the route has its usual time");
            Ok(None)
        }
        (true, false) => Err(context.problem(key, "it is zero, expected a time that a request may take")),
        (false, true) => {
            context.warn(key, format!("within {timeout:?} hardly any key store answers"));
            Ok(Some(timeout))
        }
        (false, false) => {
            let message = format!("{timeout:?} is too short for a key store, expected more than {MARGIN:?}");
            Err(context.problem(key, message))
        }
    }
}
