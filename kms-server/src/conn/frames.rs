//! Tracks the frames of an HTTP/2 connection (RFC 9113, section 4.1).
//!
//! Only their beginnings and ends are tracked. This bounds the time that a peer may take for one frame, or for one run of
//! header frames. hyper has such a bound for HTTP/1.1 heads, but none for these.

const PREFACE_LEN: usize = 24;
const HEADER_LEN: usize = 9;

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const END_HEADERS: u8 = 0x4;

/// The position in the frames that a client sends.
#[derive(Debug)]
pub struct Frames {
    preface_left: usize,
    header: [u8; HEADER_LEN],
    header_len: usize,
    payload_left: usize,
    is_data: bool,
    /// Whether the current frame holds headers.
    is_head: bool,
    /// The bytes received of an incomplete header block.
    head_len: usize,
    /// Whether a later frame ends the header block.
    in_headers: bool,
    /// The number of the frame that is being received. A run of frames with one header block has one number.
    number: u32,
}

impl Frames {
    /// Creates a position before the client's preface.
    pub fn new() -> Self {
        Self {
            preface_left: PREFACE_LEN,
            header: [0; HEADER_LEN],
            header_len: 0,
            payload_left: 0,
            is_data: false,
            is_head: false,
            head_len: 0,
            in_headers: false,
            number: 1,
        }
    }

    /// Follows `bytes`. Returns the number of the incomplete frame, or 0 if there is none, and whether it is a DATA frame.
    ///
    /// The preface and the first frame after it count as one, number 1.
    pub fn advance(&mut self, mut bytes: &[u8]) -> (u32, bool) {
        let preface = self.preface_left.min(bytes.len());
        self.preface_left -= preface;
        bytes = &bytes[preface..];
        while !bytes.is_empty() {
            if self.payload_left == 0 {
                let wanted = (HEADER_LEN - self.header_len).min(bytes.len());
                self.header[self.header_len..self.header_len + wanted].copy_from_slice(&bytes[..wanted]);
                self.header_len += wanted;
                bytes = &bytes[wanted..];
                if self.header_len < HEADER_LEN {
                    break;
                }
                self.read_header();
            }
            let payload = self.payload_left.min(bytes.len());
            self.payload_left -= payload;
            if self.is_head {
                self.head_len += payload;
            }
            bytes = &bytes[payload..];
            if self.payload_left == 0 {
                self.end_frame();
            }
        }
        let is_open = self.header_len > 0 || self.in_headers || self.number == 1;
        (if is_open { self.number } else { 0 }, self.header_len == HEADER_LEN && self.is_data)
    }

    /// Returns the bytes received of an incomplete header block.
    pub fn head_len(&self) -> usize {
        self.head_len
    }

    fn read_header(&mut self) {
        let [high, middle, low, kind, flags, ..] = self.header;
        self.payload_left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        self.is_data = kind == DATA;
        self.is_head = kind == HEADERS || kind == CONTINUATION;
        if self.is_head {
            self.in_headers = flags & END_HEADERS == 0;
        }
    }

    fn end_frame(&mut self) {
        self.header_len = 0;
        if !self.in_headers {
            self.head_len = 0;
            // Reserved numbers: 0 is nothing, 1 is the beginning, and the watch uses the largest one.
            self.number = if self.number >= u32::MAX - 1 { 2 } else { self.number + 1 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, len: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, len, kind, flags, 0, 0, 0, 1];
        frame.extend(vec![0; usize::from(len)]);
        frame
    }

    fn begun() -> Frames {
        let mut frames = Frames::new();
        assert_eq!(frames.advance(&[0; PREFACE_LEN]).0, 1, "the settings are still to come");
        assert_eq!(frames.advance(&frame(4, 0, 0)).0, 0);
        frames
    }

    #[test]
    fn whole_frames_leave_nothing_open() {
        let mut frames = begun();
        let both = [frame(HEADERS, END_HEADERS, 20), frame(DATA, 1, 30)].concat();
        assert_eq!(frames.advance(&both).0, 0);
        assert_eq!(frames.advance(&[]).0, 0);
    }

    #[test]
    fn a_part_of_a_frame_is_open_until_its_end() {
        let mut frames = begun();
        let headers = frame(HEADERS, END_HEADERS, 20);
        let (number, is_data) = frames.advance(&headers[..5]);
        assert!(number > 1 && !is_data);
        assert_eq!(frames.advance(&headers[5..9]), (number, false));
        assert_eq!(frames.advance(&headers[9..28]), (number, false));
        assert_eq!(frames.advance(&headers[28..]).0, 0);
        let data = frame(DATA, 0, 9);
        let (next, is_data) = frames.advance(&data[..12]);
        assert!(next != number && next != 0 && is_data);
    }

    #[test]
    fn headers_are_open_until_the_flag_that_ends_them() {
        let mut frames = begun();
        let (number, _) = frames.advance(&frame(HEADERS, 0, 3));
        assert_ne!(number, 0);
        assert_eq!(frames.advance(&frame(CONTINUATION, 0, 3)).0, number);
        assert_eq!(frames.head_len(), 6);
        assert_eq!(frames.advance(&frame(CONTINUATION, END_HEADERS, 3)).0, 0);
        assert_eq!(frames.head_len(), 0);
    }

    #[test]
    fn any_cut_gives_the_same_end() {
        let stream = [
            vec![0; PREFACE_LEN],
            frame(4, 0, 6),
            frame(HEADERS, 0, 7),
            frame(CONTINUATION, 4, 1),
            frame(DATA, 1, 2),
        ]
        .concat();
        for size in 1..stream.len() {
            let mut frames = Frames::new();
            let mut open = 1;
            for part in stream.chunks(size) {
                open = frames.advance(part).0;
            }
            assert_eq!(open, 0, "parts of {size}");
        }
    }
}
