//! The places in the streams of a connection.

use crate::server::conn::frames::Frames;
use crate::server::conn::requests::{MAX_HEAD, RefusedHead, Requests};
use crate::split::split;

/// Frames of HTTP/2: however they are cut, the place is the same.
pub fn http2_frames(input: &[u8]) {
    let (cuts, stream) = split(input);
    let mut whole = Frames::new();
    let at_once = whole.advance(stream);
    let mut parts = Frames::new();
    let mut last = parts.advance(&[]);
    for part in cut(stream, cuts) {
        last = parts.advance(part);
        assert!(parts.head_len() <= stream.len());
    }
    assert_eq!((at_once, whole.head_len()), (last, parts.head_len()));
}

/// Requests of HTTP/1.1: however they are cut, the same is passed on and the same is refused.
pub fn http1_requests(input: &[u8]) {
    let (cuts, stream) = split(input);
    let at_once = follow(&[stream]);
    let in_parts = follow(&cut(stream, cuts));
    assert_eq!(at_once, in_parts);
}

/// Passes a stream on in parts, as a connection does.
fn follow(parts: &[&[u8]]) -> (Vec<u8>, Option<String>) {
    let (mut requests, mut held, mut passed) = (Requests::new(), Vec::new(), Vec::new());
    for part in parts {
        held.extend_from_slice(part);
        let followed = requests.follow(&held);
        passed.extend(held.drain(..followed.passed));
        if let Some(RefusedHead { refusal, number, stand_in }) = followed.refused {
            let mut fields = [httparse::EMPTY_HEADER; 1];
            let mut request = httparse::Request::new(&mut fields);
            let len = request.parse(&stand_in).expect("what stands in is a request");
            assert!(len.is_complete() && len.unwrap() == stand_in.len());
            assert_eq!(requests.is_over(), Some(false));
            return (passed, Some(format!("{refusal:?} {number} {stand_in:?}")));
        }
        if let Some(is_error) = requests.is_over() {
            return (passed, Some(format!("over, {is_error}")));
        }
        assert!(held.len() <= MAX_HEAD, "what is held has a bound");
    }
    (passed, None)
}

/// Cuts a stream into parts whose lengths are given, over and over.
fn cut<'a>(mut stream: &'a [u8], lengths: &[u8]) -> Vec<&'a [u8]> {
    let mut parts = Vec::new();
    let mut lengths = lengths.iter().map(|&len| usize::from(len).max(1)).cycle();
    while !stream.is_empty() {
        let len = lengths.next().unwrap_or(usize::MAX).min(stream.len());
        let (part, rest) = stream.split_at(len);
        parts.push(part);
        stream = rest;
    }
    parts
}
