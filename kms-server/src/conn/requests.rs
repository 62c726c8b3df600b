//! Tracks the requests of an HTTP/1.1 connection (RFC 9112), and decides which of them are refused.
//!
//! hyper does not report two lengths of one body, nor what follows a `#`. It accepts two `Host` headers, and answers
//! unknown transfer codings with 400. So every head, even of a pipelined request, is checked before hyper reads it, with
//! the parser that hyper uses. A refused head is replaced by another one, whose answer is known.

use std::mem::MaybeUninit;

use http::StatusCode;
use httparse::{Header, Status};

/// The most bytes of a request's head.
pub const MAX_HEAD: usize = 16 * 1024;

/// The most fields of a head, as in hyper.
const MAX_FIELDS: usize = 100;

/// The largest length of a body. hyper gives larger numbers another meaning.
const MAX_LENGTH: u64 = u64::MAX / 2;

/// Why a request is refused whatever its path is. The connection ends with the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status of the answer.
    pub status: StatusCode,
    /// The message for the client.
    pub message: &'static str,
}

const fn bad_request(message: &'static str) -> Refusal {
    Refusal { status: StatusCode::BAD_REQUEST, message }
}

const TOO_LARGE: Refusal =
    Refusal { status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, message: "request head is too large" };
const OTHER_CODING: Refusal =
    Refusal { status: StatusCode::NOT_IMPLEMENTED, message: "unsupported transfer encoding" };
const NO_ROOM: Refusal =
    Refusal { status: StatusCode::SERVICE_UNAVAILABLE, message: "too many large requests" };
const MALFORMED: Refusal = bad_request("malformed request");
const TWO_LENGTHS: Refusal = bad_request("invalid request body");
const INVALID_LENGTH: Refusal = bad_request("invalid content length");
const TWO_HOSTS: Refusal = bad_request("too many host headers");
const FRAGMENT: Refusal = bad_request("invalid request target");

/// The position in the requests that a client sends.
#[derive(Debug)]
pub struct Requests {
    place: Place,
    /// The received part of a line in a chunked body.
    line: Vec<u8>,
    count: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Head,
    /// A body of which this many bytes, at least one, are still to come.
    Body(u64),
    ChunkSize,
    /// A chunk of which this many bytes are still to come.
    Chunk(u64),
    ChunkEnd,
    Trailer,
    /// A request was refused. Nothing after it is a request.
    Over,
    /// A chunked body is malformed.
    Broken,
}

/// The result of following some bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Followed {
    /// The number of bytes that can be passed on. The rest is a part of a head.
    pub passed: usize,
    /// The head behind these bytes, if it is refused.
    pub refused: Option<RefusedHead>,
}

/// A refused head.
#[derive(Debug, PartialEq, Eq)]
pub struct RefusedHead {
    /// The reason.
    pub refusal: Refusal,
    /// The number of the request on its connection.
    pub number: u32,
    /// The head that replaces it for hyper.
    pub stand_in: Vec<u8>,
}

impl Requests {
    /// Creates a position before the first request.
    pub fn new() -> Self {
        Self { place: Place::Head, line: Vec::new(), count: 0 }
    }

    /// Returns `None` while more can be read, or else whether the end is an error.
    pub fn is_over(&self) -> Option<bool> {
        match self.place {
            Place::Over => Some(false),
            Place::Broken => Some(true),
            _ => None,
        }
    }

    /// Follows `bytes`, which begin with the part of a head that was left over the last time.
    pub fn follow(&mut self, bytes: &[u8]) -> Followed {
        let mut passed = 0;
        while let Some(rest) = bytes.get(passed..).filter(|rest| !rest.is_empty()) {
            match self.place {
                Place::Head => match read_head(rest) {
                    Ok(Some((len, place))) => {
                        self.count = self.count.wrapping_add(1);
                        self.place = place;
                        passed += len;
                    }
                    Ok(None) => break,
                    Err((refusal, stand_in)) => {
                        self.count = self.count.wrapping_add(1);
                        self.place = Place::Over;
                        let refused = RefusedHead { refusal, number: self.count, stand_in };
                        return Followed { passed, refused: Some(refused) };
                    }
                },
                Place::Body(left) => {
                    let (len, left) = skip(rest, left);
                    passed += len;
                    self.place = if left == 0 { Place::Head } else { Place::Body(left) };
                }
                Place::Chunk(left) => {
                    let (len, left) = skip(rest, left);
                    passed += len;
                    self.place = if left == 0 { Place::ChunkEnd } else { Place::Chunk(left) };
                }
                Place::ChunkSize | Place::ChunkEnd | Place::Trailer => passed += self.follow_line(rest),
                Place::Over | Place::Broken => break,
            }
        }
        Followed { passed, refused: None }
    }

    /// Refuses an incomplete head, because there is no memory for all of it.
    pub fn refuse_for_want_of_room(&mut self) -> RefusedHead {
        self.count = self.count.wrapping_add(1);
        self.place = Place::Over;
        RefusedHead { refusal: NO_ROOM, number: self.count, stand_in: stand_in(None) }
    }

    /// Follows a chunked body to the end of a line, and returns the line's length in `rest`.
    fn follow_line(&mut self, rest: &[u8]) -> usize {
        let end = rest.iter().position(|&byte| byte == b'\n');
        let len = end.map_or(rest.len(), |end| end + 1);
        self.line.extend_from_slice(&rest[..len]);
        if self.line.len() > MAX_HEAD {
            self.place = Place::Broken;
        } else if end.is_some() {
            self.place = match (self.place, &*self.line) {
                (Place::ChunkSize, line) => after_size(line),
                (Place::ChunkEnd, b"\r\n") => Place::ChunkSize,
                (Place::Trailer, b"\r\n") => Place::Head,
                (Place::Trailer, [field @ .., b'\r', b'\n']) if !field.contains(&b'\r') => Place::Trailer,
                _ => Place::Broken,
            };
            // The buffer is not kept, so that an idle connection does not hold the memory of a long line.
            self.line = Vec::new();
        }
        len
    }
}

/// Returns whether the head in `bytes` may be complete, if its first `before` bytes were not.
pub fn may_be_whole(bytes: &[u8], before: usize) -> bool {
    let new = &bytes[before.saturating_sub(3)..];
    bytes.len() > MAX_HEAD
        || new.windows(2).any(|end| end == b"\n\n")
        || new.windows(3).any(|end| end == b"\n\r\n")
}

fn skip(bytes: &[u8], left: u64) -> (usize, u64) {
    let len = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    (len, left - len as u64)
}

fn after_size(line: &[u8]) -> Place {
    if !line.first().is_some_and(u8::is_ascii_hexdigit) {
        return Place::Broken;
    }
    match httparse::parse_chunk_size(line) {
        Ok(Status::Complete((len, 0))) if len == line.len() => Place::Trailer,
        Ok(Status::Complete((len, size))) if len == line.len() => Place::Chunk(size),
        _ => Place::Broken,
    }
}

/// Why a head is refused, and the head that replaces it.
type Refused = (Refusal, Vec<u8>);

/// Reads a head. Returns its length and the next position, or `None` if it is incomplete.
fn read_head(bytes: &[u8]) -> Result<Option<(usize, Place)>, Refused> {
    let mut fields = [const { MaybeUninit::<Header<'_>>::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    let len = match request.parse_with_uninit_headers(bytes, &mut fields) {
        Ok(Status::Complete(len)) if len <= MAX_HEAD => len,
        Ok(Status::Partial) if bytes.len() <= MAX_HEAD => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err((TOO_LARGE, stand_in(None))),
        Err(_) => return Err((MALFORMED, stand_in(None))),
    };
    match judge(&request) {
        Ok(place) => Ok(Some((len, place))),
        Err(refusal) => Err((refusal, stand_in(Some(&request)))),
    }
}

/// Decides whether a request can be passed on. Returns the position after its head.
fn judge(request: &httparse::Request<'_, '_>) -> Result<Place, Refusal> {
    let (mut hosts, mut codings, mut length) = (0, 0, None);
    for field in &*request.headers {
        // The lengths are compared first, because this runs for every field of every request.
        match field.name.len() {
            4 if field.name.eq_ignore_ascii_case("host") => hosts += 1,
            14 if field.name.eq_ignore_ascii_case("content-length") => {
                let value = read_length(field.value).ok_or(INVALID_LENGTH)?;
                if length.is_some_and(|other| other != value) {
                    return Err(INVALID_LENGTH);
                }
                length = Some(value);
            }
            17 if field.name.eq_ignore_ascii_case("transfer-encoding") => {
                codings += 1;
                if codings > 1 || !field.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(OTHER_CODING);
                }
            }
            _ => {}
        }
    }
    if request.path.is_none_or(|target| target.contains('#')) {
        return Err(FRAGMENT);
    }
    if hosts > 1 {
        return Err(TWO_HOSTS);
    }
    match (codings, length) {
        // Two lengths for one body allow request smuggling through a proxy (RFC 9112, section 6.1).
        (1, Some(_)) => Err(TWO_LENGTHS),
        // HTTP/1.0 has no transfer codings.
        (1, None) if request.version != Some(1) => Err(TWO_LENGTHS),
        (1, None) => Ok(Place::ChunkSize),
        (_, None | Some(0)) => Ok(Place::Head),
        (_, Some(length)) => Ok(Place::Body(length)),
    }
}

fn read_length(value: &[u8]) -> Option<u64> {
    let digits =
        std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok().filter(|&length| length <= MAX_LENGTH)
}

/// Creates the head that replaces a refused one. It keeps method and target for the audit log.
fn stand_in(request: Option<&httparse::Request<'_, '_>>) -> Vec<u8> {
    let method = request.and_then(|request| request.method).unwrap_or("GET");
    let target = request.and_then(|request| request.path?.split('#').next());
    let target = target.filter(|target| target.starts_with('/')).unwrap_or("/");
    format!("{method} {target} HTTP/1.1\r\n\r\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &str = "GET /version HTTP/1.1\r\nhost: x\r\n\r\n";
    const POST: &str = "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello";
    const CHUNKED: &str = "POST /b HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n\
                           3;x=y\r\na\r\n\r\n10\r\n0123456789abcdef\r\n0\r\nt: u\r\n\r\n";

    /// Feeds `stream` in parts of `size`. Returns the bytes passed on, the refusal, and the number of requests.
    fn follow(stream: &[u8], size: usize) -> (Vec<u8>, Option<Refusal>, u32) {
        let (mut requests, mut held, mut passed) = (Requests::new(), Vec::new(), Vec::new());
        for part in stream.chunks(size) {
            held.extend_from_slice(part);
            let followed = requests.follow(&held);
            passed.extend(held.drain(..followed.passed));
            if let Some(RefusedHead { refusal, number, .. }) = followed.refused {
                return (passed, Some(refusal), number);
            }
        }
        (passed, None, requests.count)
    }

    #[test]
    fn requests_are_passed_on_however_they_are_cut() {
        let stream = [GET, POST, CHUNKED, "\r\n", POST, CHUNKED, GET].concat();
        for size in 1..stream.len() {
            let (passed, refusal, count) = follow(stream.as_bytes(), size);
            assert_eq!((passed.len(), refusal, count), (stream.len(), None, 6), "parts of {size}");
        }
    }

    #[test]
    fn a_head_is_refused_alone_and_behind_others() {
        for (fields, refusal) in [
            ("host: x\r\nhost: x\r\n", TWO_HOSTS),
            ("transfer-encoding: chunked\r\ncontent-length: 1\r\n", TWO_LENGTHS),
            ("content-length: 1\r\ntransfer-encoding: chunked\r\n", TWO_LENGTHS),
            ("transfer-encoding: gzip\r\n", OTHER_CODING),
            ("transfer-encoding: gzip, chunked\r\n", OTHER_CODING),
            ("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", OTHER_CODING),
            ("content-length: +1\r\n", INVALID_LENGTH),
            ("content-length:\r\n", INVALID_LENGTH),
            ("content-length: 1\r\ncontent-length: 2\r\n", INVALID_LENGTH),
            ("content-length: 99999999999999999999\r\n", INVALID_LENGTH),
            ("no field\r\n", MALFORMED),
        ] {
            let head = format!("POST /c HTTP/1.1\r\n{fields}\r\n{GET}");
            for before in ["", GET, POST, CHUNKED] {
                let stream = [before, &head].concat();
                for size in [1, 7, stream.len()] {
                    let (passed, found, number) = follow(stream.as_bytes(), size);
                    assert_eq!((passed.len(), found), (before.len(), Some(refusal)), "{fields:?}, {size}");
                    assert_eq!(number, u32::from(!before.is_empty()) + 1);
                }
            }
        }
    }

    #[test]
    fn a_fragment_is_no_part_of_a_target() {
        let head = b"DELETE /v1/key/delete/frag#1 HTTP/1.1\r\n\r\n";
        let RefusedHead { refusal, number, stand_in } = Requests::new().follow(head).refused.unwrap();
        assert_eq!((refusal, number), (FRAGMENT, 1));
        assert_eq!(stand_in, b"DELETE /v1/key/delete/frag HTTP/1.1\r\n\r\n");
    }

    #[test]
    fn a_malformed_chunk_ends_all() {
        for body in ["\r\n", "x\r\n", "2\r\nabc\r\n", "2\nab\r\n", "0\r\na: b\n\r\n", "0\r\na\rb: c\r\n\r\n"]
        {
            let mut requests = Requests::new();
            let head = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
            requests.follow([head, body, GET].concat().as_bytes());
            assert_eq!(requests.is_over(), Some(true), "{body:?}");
        }
    }

    #[test]
    fn a_head_has_a_limit_whole_or_not() {
        let long = "y".repeat(MAX_HEAD);
        for head in [format!("GET / HTTP/1.1\r\nx: {long}\r\n\r\n"), format!("GET / HTTP/1.1\r\nx: {long}")] {
            let (passed, refusal, _) = follow(head.as_bytes(), head.len());
            assert_eq!((passed.len(), refusal), (0, Some(TOO_LARGE)));
        }
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(MAX_FIELDS + 1));
        assert_eq!(follow(many.as_bytes(), many.len()).1, Some(TOO_LARGE));
    }

    #[test]
    fn the_end_of_a_head_is_seen_wherever_it_is_cut() {
        for before in 0..GET.len() {
            assert!(may_be_whole(GET.as_bytes(), before), "{before}");
            assert!(!may_be_whole(&GET.as_bytes()[..GET.len() - 1], before), "{before}");
        }
    }
}
