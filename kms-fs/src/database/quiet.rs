//! Panics of sled. They end here, and become errors that say what they mean.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs `call`. Returns `None` if it panics, and prints nothing of the panic.
///
/// sled asserts what it believes about its files. A damaged file must neither end the process nor print a line
/// of source code.
pub fn quietly<T>(call: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            let of_sled = std::thread::current().name().is_some_and(|name| name.starts_with("sled"));
            if !of_sled && !IS_QUIET.try_with(Cell::get).unwrap_or(false) {
                others(panic);
            }
        }));
    });
    let before = IS_QUIET.replace(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(call));
    IS_QUIET.set(before);
    outcome.ok()
}
