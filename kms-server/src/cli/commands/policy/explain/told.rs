//! The explanation as text.

use std::path::Path;

use super::log::Log;
use super::verdict::{Judged, Why};
use crate::cli::colour::Style;
use crate::cli::failure::Failure;
use crate::cli::output::Output;

/// The most patterns that are printed for an identity.
const MOST_LINES: usize = 50;

/// Prints what was denied, and what would allow it.
pub fn print(log: &Log, judged: &[Judged], config: Option<&Path>, output: Output) -> Result<(), Failure> {
    if judged.is_empty() {
        let events = if log.events == 1 { "request" } else { "requests" };
        let of = log.wanted.as_ref().map(|wanted| format!(" of {wanted}")).unwrap_or_default();
        output.line(format_args!("nothing{of} was denied in {} {events}", log.events))?;
    }
    for identity in judged {
        print_identity(identity, config, output)?;
    }
    if log.strangers != 0 {
        let strangers = log.strangers;
        output.line(format_args!(
            "{strangers} more requests of identities without a policy have no line in the log"
        ))?;
    }
    Ok(())
}

fn print_identity(judged: &Judged, config: Option<&Path>, output: Output) -> Result<(), Failure> {
    let Judged { identity, policy, requests, allow, shorter, policies_that_allow } = judged;
    let who = if identity.is_empty() { "a client without an identity" } else { identity.as_str() };
    let role = match (policy, config) {
        (Some(policy), _) => format!(" has policy '{policy}'"),
        (None, Some(config)) if requests.iter().any(|request| request.why == Why::NoPolicy) => {
            format!(" has no policy in {}", config.display())
        }
        _ => String::new(),
    };
    output.row(&[(Style::Strong, who), (Style::Plain, &role)])?;
    for request in requests {
        let times = if request.count == 1 { "time" } else { "times" };
        let when = if request.first == request.last {
            format!("at {}", request.first)
        } else {
            format!("from {} to {}", request.first, request.last)
        };
        output.row(&[
            (Style::Plain, "  "),
            (Style::Path, if request.path.is_empty() { "(no path)" } else { &request.path }),
            (Style::Plain, &format!("  {} {times}, {when}", request.count)),
        ])?;
        let style = match request.why {
            Why::DeniedByRule | Why::NoPolicy => Style::Bad,
            Why::AllowedNow | Why::NoRoute | Why::NoSuchName => Style::Good,
            Why::NotAllowed | Why::Unknown | Why::NoIdentity => Style::Plain,
        };
        output.row(&[(Style::Plain, "    "), (style, &request.reason)])?;
    }
    if !allow.is_empty() {
        let place = match policy {
            Some(policy) => format!("  These lines in `allow` of [policy.{policy}] would let the others pass:"),
            None if config.is_some() => {
                "  A policy with these lines in `allow`, and the identity in `identities`, would let them pass:".to_owned()
            }
            None => "  These lines in `allow` would let them pass, unless a deny is the reason:".to_owned(),
        };
        let is_whole = requests.iter().all(|request| request.why == Why::NotAllowed);
        let place = if is_whole { place.replace("the others", "them") } else { place };
        output.line(place)?;
        output.lines(allow.iter().take(MOST_LINES).map(|pattern| format!("    {pattern:?},")))?;
        if let Some(more @ 1..) = allow.len().checked_sub(MOST_LINES) {
            output.line(format_args!("    and {more} more, which --json prints"))?;
        }
    }
    if !shorter.is_empty() {
        output.line("  Shorter, but they also allow names that nobody asked for:")?;
        output.lines(shorter.iter().map(|pattern| format!("    {pattern:?},")))?;
    }
    if !policies_that_allow.is_empty() {
        let names: Vec<_> = policies_that_allow.iter().map(|name| format!("'{name}'")).collect();
        output.line(format_args!("  Allowed already by policy {}.", names.join(", ")))?;
    }
    output.line("")
}
