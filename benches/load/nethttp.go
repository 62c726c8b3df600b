package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// netHTTP is one HTTP/2 connection of Go's own client, which MinIO uses.
type netHTTP struct {
	client  *http.Client
	what    request
	streams int
}

func newNetHTTP(peer peer, what request, streams int) *netHTTP {
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	transport := &http.Transport{TLSClientConfig: peer.config.Clone(), Protocols: protocols}
	return &netHTTP{client: &http.Client{Transport: transport}, what: what, streams: streams}
}

func (c *netHTTP) run(meter *meter) error {
	var group sync.WaitGroup
	for range c.streams {
		group.Go(func() { check(c.stream(meter)) })
	}
	group.Wait()
	return nil
}

func (c *netHTTP) stream(meter *meter) error {
	log := latencyLog{meter: meter}
	defer meter.add(&log)
	for {
		if _, wanted := meter.take(); !wanted {
			return nil
		}
		sent := time.Now()
		if err := c.send(); err != nil {
			return err
		}
		log.answered(sent)
	}
}

func (c *netHTTP) send() error {
	request, err := http.NewRequest(c.what.method, "https://"+c.what.host+c.what.path, bytes.NewReader(c.what.body))
	if err != nil {
		return err
	}
	response, err := c.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, content)
	}
	return err
}
