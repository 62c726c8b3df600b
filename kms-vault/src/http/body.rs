//! Bodies of requests and answers. They are bounded and wiped.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use kms_core::{Error, ErrorKind};
use tokio::runtime::Handle;
use zeroize::{Zeroize, Zeroizing};

use crate::error::Failure;

/// How often the wiping of a buffer is tried while a connection still uses it, and the pause before each
/// attempt.
const WIPES: u32 = 20;

const WIPE_PAUSE: Duration = Duration::from_millis(20);

/// Creates a JSON body that is wiped after it was sent.
pub fn json_body(operation: &str, value: &impl serde::Serialize) -> kms_core::Result<Bytes> {
    let write = |to: &mut dyn io::Write| {
        serde_json::to_writer(to, value)
            .map_err(|error| Error::with_source(ErrorKind::Internal, operation, error.to_string()))
    };
    // The body is written twice, since a vector that grows leaves its old bytes behind.
    let mut length = Length(0);
    write(&mut length)?;
    let mut body = Zeroizing::new(Vec::with_capacity(length.0));
    write(&mut *body)?;
    Ok(Bytes::from_owner(body))
}

/// Counts the bytes that are written to it.
struct Length(usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub async fn read_body(
    mut response: reqwest::Response,
    path: &str,
    limit: usize,
    mut parts: Option<&mut Parts>,
) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let too_long = || Failure::TooLong { path: path.to_owned(), limit };
    let announced = response.content_length().and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
    if announced > limit {
        return Err(too_long());
    }
    let mut body = Zeroizing::new(Vec::with_capacity(announced));
    while let Some(chunk) = response.chunk().await.map_err(Failure::transport)? {
        let len = body.len() + chunk.len();
        if len > limit {
            return Err(too_long());
        }
        if len > body.capacity() {
            // A vector that grows by itself leaves its old bytes behind.
            let mut larger = Zeroizing::new(Vec::with_capacity(len.max(2 * body.capacity())));
            larger.extend_from_slice(&body);
            body = larger;
        }
        body.extend_from_slice(&chunk);
        if let Some(parts) = &mut parts {
            parts.0.push(chunk);
        }
    }
    Ok(body)
}

/// The parts of a body as they came, in buffers of the connection. They are wiped some time after this is
/// dropped.
#[derive(Default)]
pub struct Parts(Vec<Bytes>);

impl Drop for Parts {
    fn drop(&mut self) {
        let mut parts = std::mem::take(&mut self.0);
        // Without a runtime there is no connection any more, and nobody could wait.
        let Ok(runtime) = Handle::try_current() else { return };
        if parts.is_empty() {
            return;
        }
        runtime.spawn(async move {
            for _ in 0..WIPES {
                // While the buffer is held here, a connection that waits for the next answer takes another one.
                tokio::time::sleep(WIPE_PAUSE).await;
                parts = parts.into_iter().filter_map(|part| wipe(part).err()).collect();
                if parts.is_empty() {
                    return;
                }
            }
        });
    }
}

/// Wipes bytes that nobody else holds. Gives them back if somebody does.
fn wipe(part: Bytes) -> Result<(), Bytes> {
    part.try_into_mut().map(|mut bytes| bytes.as_mut().zeroize())
}
