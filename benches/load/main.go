// Command load sends one kind of request over mTLS for a while and prints its figures as one line of JSON.
//
// It opens an exact number of connections. Each is one goroutine that does little more than TLS: the fewer cycles the
// client takes, the more of the latency is the server's. The bytes on the wire are those of Go's net/http, which MinIO
// uses: see http1.go and http2.go. -client go sends with net/http itself.
package main

import (
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"
)

// A connection sends requests, one after the other or several at once, until the meter says that it is enough.
type connection interface {
	run(*meter) error
}

func main() {
	var (
		address     = flag.String("address", "", "the server's host:port")
		method      = flag.String("method", "POST", "the method")
		path        = flag.String("path", "/version", "the path; %d in it stands for the number of the request (HTTP/1.1 only)")
		status      = flag.Int("status", 200, "the status that answers must have (other than 200: HTTP/1.1 only)")
		body        = flag.String("body", "", "what to send")
		cert        = flag.String("cert", "", "PEM file of the client's certificate")
		key         = flag.String("key", "", "PEM file of its private key")
		client      = flag.String("client", "h1", "h1, h2, handshakes (HTTP/1.1, each request over a fresh connection without resumption), or go (HTTP/2 by net/http)")
		connections = flag.Int("connections", 1, "connections at once")
		streams     = flag.Int("streams", 1, "requests at once on each HTTP/2 connection")
		warmUp      = flag.Duration("warm-up", 0, "how long to send before measuring")
		measure     = flag.Duration("measure", 0, "how long to measure; 0 for all of -requests")
		requests    = flag.Int64("requests", 1<<62, "requests in all")
		rate        = flag.Float64("rate", 0, "requests a second in all, evenly; 0 for as many as go (HTTP/1.1 only)")
		first       = flag.Int64("first", 0, "the number of the first request")
		pid         = flag.Int("pid", 0, "the server's process, for the CPU time that it takes")
	)
	flag.Parse()
	pair, err := tls.LoadX509KeyPair(*cert, *key)
	check(err)
	peer := peer{address: *address, config: &tls.Config{
		Certificates:       []tls.Certificate{pair},
		InsecureSkipVerify: true, // the server's certificate is not measured
	}}
	what := request{method: *method, path: *path, host: *address, body: []byte(*body), first: *first, status: *status}

	all := make([]connection, *connections)
	for i := range all {
		all[i], err = connect(*client, peer, what, *streams)
		check(err)
	}
	meter := newMeter(*pid, *requests, *rate)
	if *warmUp == 0 {
		meter.begin()
	}
	var group sync.WaitGroup
	for _, connection := range all {
		group.Go(func() { check(connection.run(meter)) })
	}
	if *warmUp > 0 {
		time.Sleep(*warmUp)
		meter.begin()
	}
	if *measure > 0 {
		time.Sleep(*measure)
		meter.end()
		group.Wait()
	} else {
		group.Wait()
		meter.end()
	}
	check(json.NewEncoder(os.Stdout).Encode(meter.figures()))
}

func connect(client string, peer peer, what request, streams int) (connection, error) {
	switch client {
	case "h1":
		return newHTTP1(peer, what)
	case "handshakes":
		return &handshakes{peer: peer, what: what}, nil
	case "h2":
		return newHTTP2(peer, what, streams)
	case "go":
		return newNetHTTP(peer, what, streams), nil
	}
	return nil, fmt.Errorf("-client %q is none of h1, h2, handshakes, go", client)
}

// A peer is a server and the TLS configuration for it.
type peer struct {
	address string
	config  *tls.Config
}

func (p peer) dial(protocol string) (*tls.Conn, error) {
	config := p.config.Clone()
	config.NextProtos = []string{protocol}
	connection, err := tls.Dial("tcp", p.address, config)
	if err != nil {
		return nil, err
	}
	if agreed := connection.ConnectionState().NegotiatedProtocol; agreed != protocol && agreed != "" {
		return nil, fmt.Errorf("the server chose %q instead of %q", agreed, protocol)
	}
	return connection, nil
}

// A request is the one that all connections send repeatedly.
type request struct {
	method, path, host string
	body               []byte
	first              int64
	status             int
}

func (r request) numbered() bool { return slices.Contains([]byte(r.path), '%') }

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}
