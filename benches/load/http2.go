package main

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"strconv"
	"time"
)

// Frame types and flags of RFC 9113, section 6.
const (
	frameData, frameHeaders, frameReset, frameSettings    = 0x0, 0x1, 0x3, 0x4
	framePing, frameGoAway, frameWindowUpdate             = 0x6, 0x7, 0x8
	flagEndStream, flagAck, flagEndHeaders                = 0x1, 0x1, 0x4
	settingEnablePush, settingStreams, settingInitialSize = 0x2, 0x3, 0x4
)

// The windows of flow control that net/http gives a server.
const (
	streamWindow     = 4 << 20
	connectionWindow = 1 << 30
)

// An http2 connection keeps a number of streams open at any time. Like net/http, it sends the head and the body of a
// request with one write each, and refers with a few bytes to the headers that it has sent before.
type http2 struct {
	tls     *tls.Conn
	reader  *bufio.Reader
	what    request
	streams int

	next     uint32               // the next stream's number
	open     map[uint32]time.Time // when each request without an answer was sent
	window   int                  // how much body data the server still accepts
	unread   uint32               // how much body data came since the last window update
	isSecond bool                 // the server knows the headers already
	payload  []byte
}

func newHTTP2(peer peer, what request, streams int) (*http2, error) {
	if what.numbered() {
		return nil, fmt.Errorf("numbered paths are for HTTP/1.1 only")
	}
	connection, err := peer.dial("h2")
	if err != nil {
		return nil, err
	}
	c := &http2{
		tls: connection, reader: bufio.NewReaderSize(connection, 32<<10), what: what, streams: streams,
		next: 1, open: make(map[uint32]time.Time, streams), window: 1<<16 - 1,
	}
	preface := []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	settings := binary.BigEndian.AppendUint16(nil, settingEnablePush)
	settings = binary.BigEndian.AppendUint32(settings, 0)
	settings = binary.BigEndian.AppendUint16(settings, settingInitialSize)
	settings = binary.BigEndian.AppendUint32(settings, streamWindow)
	preface = appendFrame(preface, frameSettings, 0, 0, settings)
	preface = appendFrame(preface, frameWindowUpdate, 0, 0, binary.BigEndian.AppendUint32(nil, connectionWindow))
	_, err = connection.Write(preface)
	return c, err
}

func (c *http2) run(meter *meter) error {
	log := latencyLog{meter: meter}
	defer meter.add(&log)
	for range c.streams {
		if err := c.send(meter); err != nil {
			return err
		}
	}
	for len(c.open) > 0 {
		stream, err := c.receive()
		if err != nil {
			return err
		}
		sent, isOpen := c.open[stream]
		if !isOpen {
			continue
		}
		log.answered(sent)
		delete(c.open, stream)
		if err := c.send(meter); err != nil {
			return err
		}
	}
	return nil
}

// send opens a stream with one request, if the meter wants another one.
func (c *http2) send(meter *meter) error {
	if _, wanted := meter.take(); !wanted {
		return nil
	}
	stream := c.next
	c.next += 2
	c.open[stream] = time.Now()
	flags := byte(flagEndHeaders)
	if len(c.what.body) == 0 {
		flags |= flagEndStream
	}
	if _, err := c.tls.Write(appendFrame(nil, frameHeaders, flags, stream, c.headers())); err != nil {
		return err
	}
	if len(c.what.body) == 0 {
		return nil
	}
	if c.window -= len(c.what.body); c.window < 0 {
		return fmt.Errorf("the server's window is too small for this many streams")
	}
	_, err := c.tls.Write(appendFrame(nil, frameData, flagEndStream, stream, c.what.body))
	return err
}

// headers encodes the head of a request by RFC 7541. The first head adds entries to the dynamic table.
func (c *http2) headers() []byte {
	const methodGet, methodPost, schemeHTTPS, acceptGzip = 0x80 | 2, 0x80 | 3, 0x80 | 7, 0x80 | 16
	method := byte(methodPost)
	if c.what.method == "GET" {
		method = methodGet
	}
	if c.isSecond {
		return []byte{method, schemeHTTPS, 0x80 | 65, 0x80 | 64, 0x80 | 63, 0x80 | 62, acceptGzip}
	}
	c.isSecond = true
	const authority, path, contentLength, userAgent = 1, 4, 28, 58
	out := []byte{method, schemeHTTPS}
	out = appendIndexed(out, authority, c.what.host)
	out = appendIndexed(out, path, c.what.path)
	out = appendIndexed(out, contentLength, strconv.Itoa(len(c.what.body)))
	out = appendIndexed(out, userAgent, "Go-http-client/2.0")
	return append(out, acceptGzip)
}

// receive reads one frame and returns the stream that it ended, or 0.
func (c *http2) receive() (uint32, error) {
	var head [9]byte
	if _, err := io.ReadFull(c.reader, head[:]); err != nil {
		return 0, err
	}
	length := int(head[0])<<16 | int(head[1])<<8 | int(head[2])
	kind, flags, stream := head[3], head[4], binary.BigEndian.Uint32(head[5:])
	if cap(c.payload) < length {
		c.payload = make([]byte, length)
	}
	payload := c.payload[:length]
	if _, err := io.ReadFull(c.reader, payload); err != nil {
		return 0, err
	}
	switch kind {
	case frameHeaders:
		const status200 = 0x80 | 8
		if length == 0 || payload[0] != status200 {
			return 0, fmt.Errorf("the answer is not 200: its headers begin with %x", payload[:min(length, 16)])
		}
		return ended(flags, stream), nil
	case frameData:
		if c.unread += uint32(length); c.unread > connectionWindow/2 {
			update := appendFrame(nil, frameWindowUpdate, 0, 0, binary.BigEndian.AppendUint32(nil, c.unread))
			c.unread = 0
			if _, err := c.tls.Write(update); err != nil {
				return 0, err
			}
		}
		return ended(flags, stream), nil
	case frameSettings:
		return 0, c.settings(flags, payload)
	case framePing:
		if flags&flagAck == 0 {
			_, err := c.tls.Write(appendFrame(nil, framePing, flagAck, 0, payload))
			return 0, err
		}
	case frameWindowUpdate:
		if stream == 0 {
			c.window += int(binary.BigEndian.Uint32(payload))
		}
	case frameReset, frameGoAway:
		return 0, fmt.Errorf("the server ended stream %d: frame type %d, %x", stream, kind, payload)
	}
	return 0, nil
}

func (c *http2) settings(flags byte, payload []byte) error {
	if flags&flagAck != 0 {
		return nil
	}
	for ; len(payload) >= 6; payload = payload[6:] {
		value := binary.BigEndian.Uint32(payload[2:])
		if binary.BigEndian.Uint16(payload) == settingStreams && int(value) < c.streams {
			return fmt.Errorf("the server allows %d streams only", value)
		}
	}
	_, err := c.tls.Write(appendFrame(nil, frameSettings, flagAck, 0, nil))
	return err
}

func ended(flags byte, stream uint32) uint32 {
	if flags&flagEndStream != 0 {
		return stream
	}
	return 0
}

func appendFrame(out []byte, kind, flags byte, stream uint32, payload []byte) []byte {
	length := len(payload)
	out = append(out, byte(length>>16), byte(length>>8), byte(length), kind, flags)
	return append(binary.BigEndian.AppendUint32(out, stream), payload...)
}

// appendIndexed appends a header whose name is in the static table, and adds it to the dynamic table.
func appendIndexed(out []byte, name byte, value string) []byte {
	return append(append(out, 0x40|name, byte(len(value))), value...)
}
