package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"strconv"
	"time"
)

// An http1 connection keeps itself alive and sends each request, head and body, with one write.
type http1 struct {
	tls    *tls.Conn
	reader *bufio.Reader
	what   request
	ready  []byte
	answer []byte
}

func newHTTP1(peer peer, what request) (*http1, error) {
	connection, err := peer.dial("http/1.1")
	if err != nil {
		return nil, err
	}
	return &http1{tls: connection, reader: bufio.NewReader(connection), what: what, ready: what.http1(what.path)}, nil
}

func (c *http1) run(meter *meter) error {
	log := latencyLog{meter: meter}
	defer meter.add(&log)
	for {
		number, wanted := meter.take()
		if !wanted {
			return nil
		}
		bytes := c.ready
		if c.what.numbered() {
			bytes = c.what.http1(fmt.Sprintf(c.what.path, c.what.first+number))
		}
		sent := time.Now()
		if meter.rate > 0 {
			sent = meter.due(number)
		}
		if err := c.send(bytes); err != nil {
			return err
		}
		log.answered(sent)
	}
}

func (c *http1) send(request []byte) error {
	if _, err := c.tls.Write(request); err != nil {
		return err
	}
	status, err := c.reader.ReadSlice('\n')
	if err != nil {
		return err
	}
	good := bytes.HasPrefix(status, fmt.Appendf(nil, "HTTP/1.1 %d ", c.what.status))
	length := -1
	for {
		line, err := c.reader.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) <= 2 {
			break
		}
		const name = "content-length:"
		if len(line) > len(name) && bytes.EqualFold(line[:len(name)], []byte(name)) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(line[len(name):]))); err != nil {
				return err
			}
		}
	}
	if length < 0 {
		return fmt.Errorf("an answer without a content-length")
	}
	if cap(c.answer) < length {
		c.answer = make([]byte, length)
	}
	c.answer = c.answer[:length]
	if _, err := io.ReadFull(c.reader, c.answer); err != nil {
		return err
	}
	if !good {
		return fmt.Errorf("the answer is not %d: %s", c.what.status, c.answer)
	}
	return nil
}

func (r request) http1(path string) []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: %d\r\nAccept-Encoding: gzip\r\n\r\n",
		r.method, path, r.host, len(r.body))
	out.Write(r.body)
	return out.Bytes()
}

// handshakes opens connections one after the other, and sends one request on each.
type handshakes struct {
	peer peer
	what request
}

func (h *handshakes) run(meter *meter) error {
	log := latencyLog{meter: meter}
	defer meter.add(&log)
	for {
		if _, wanted := meter.take(); !wanted {
			return nil
		}
		began := time.Now()
		connection, err := newHTTP1(h.peer, h.what)
		if err != nil {
			return err
		}
		if err := connection.send(connection.ready); err != nil {
			return err
		}
		log.answered(began)
		if err := connection.tls.Close(); err != nil {
			return err
		}
	}
}
