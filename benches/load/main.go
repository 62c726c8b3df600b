// Command load sends one kind of request over mTLS and prints what it saw as one line of JSON.
//
// Each connection is an HTTP client of its own, so that the number of connections is exact; on HTTP/2 each carries a
// number of streams at once. With -handshakes every request has a fresh connection without session resumption.
package main

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

func main() {
	var (
		url         = flag.String("url", "", "where to send to; %d stands for the number of the request")
		method      = flag.String("method", http.MethodPost, "the method")
		body        = flag.String("body", "", "what to send")
		cert        = flag.String("cert", "", "PEM file of the client's certificate")
		key         = flag.String("key", "", "PEM file of its private key")
		h2          = flag.Bool("h2", false, "speak HTTP/2 instead of HTTP/1.1")
		connections = flag.Int("connections", 1, "connections at once")
		streams     = flag.Int("streams", 1, "requests at once on each connection")
		requests    = flag.Int("requests", 1000, "requests in all")
		first       = flag.Int("first", 0, "the number of the first request")
		handshakes  = flag.Bool("handshakes", false, "a fresh connection for each request")
		status      = flag.Int("status", http.StatusOK, "the status that every answer has to have")
	)
	flag.Parse()
	pair, err := tls.LoadX509KeyPair(*cert, *key)
	check(err)
	clients := make([]*http.Client, *connections)
	for i := range clients {
		protocols := new(http.Protocols)
		protocols.SetHTTP1(!*h2)
		protocols.SetHTTP2(*h2)
		clients[i] = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
			TLSClientConfig: &tls.Config{
				Certificates:       []tls.Certificate{pair},
				InsecureSkipVerify: true, // what the server presents is not what is measured
			},
			Protocols:           protocols,
			MaxIdleConnsPerHost: *streams,
			DisableKeepAlives:   *handshakes,
			DisableCompression:  true,
		}}
	}
	send := func(client *http.Client, number int) error {
		target := *url
		if strings.Contains(target, "%d") {
			target = fmt.Sprintf(target, number)
		}
		request, err := http.NewRequest(*method, target, bytes.NewReader([]byte(*body)))
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		content, err := io.ReadAll(response.Body)
		if err == nil && response.StatusCode != *status {
			err = fmt.Errorf("%s: %s", response.Status, content)
		}
		return err
	}

	var (
		next  atomic.Int64
		group sync.WaitGroup
		lock  sync.Mutex
		times = make([]time.Duration, 0, *requests)
	)
	began := time.Now()
	for _, client := range clients {
		for range *streams {
			group.Go(func() {
				var own []time.Duration
				for {
					number := int(next.Add(1)) - 1
					if number >= *requests {
						break
					}
					sent := time.Now()
					check(send(client, *first+number))
					own = append(own, time.Since(sent))
				}
				lock.Lock()
				defer lock.Unlock()
				times = append(times, own...)
			})
		}
	}
	group.Wait()
	elapsed := time.Since(began)
	slices.Sort(times)
	at := func(share float64) float64 { return float64(times[int(share*float64(len(times)-1))].Nanoseconds()) / 1e3 }
	check(json.NewEncoder(os.Stdout).Encode(map[string]float64{
		"requests":   float64(len(times)),
		"seconds":    elapsed.Seconds(),
		"per_second": float64(len(times)) / elapsed.Seconds(),
		"p50_us":     at(0.50),
		"p99_us":     at(0.99),
		"max_us":     at(1),
	}))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}
