// Command s3 writes or reads small objects of an S3 server for a while and prints its figures as one line of JSON.
//
// It takes as little of the machine as a client with net/http can: the content of all objects is the same and is hashed once.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"kms.test/load/cpu"
)

var (
	address   = flag.String("address", "", "the server's host:port")
	operation = flag.String("operation", "put", "put, get, or bucket, which only makes the bucket")
	bucket    = flag.String("bucket", "bucket", "the bucket")
	prefix    = flag.String("prefix", "objects", "where the objects are; their names are numbers")
	encrypted = flag.Bool("encrypted", false, "PUT asks for SSE-S3, and answers have to say that the object has it")
	clients   = flag.Int("clients", 1, "requests at once, each over a connection of its own")
	size      = flag.Int("size", 4096, "bytes of an object")
	first     = flag.Int64("first", 0, "put: the number of the first object")
	objects   = flag.Int64("objects", 0, "get: how many objects there are")
	warmUp    = flag.Duration("warm-up", 0, "how long to send before measuring")
	measure   = flag.Duration("measure", time.Second, "how long to measure")
	user      = flag.String("user", "", "the access key")
	password  = flag.String("password", "", "the secret key")
	pids      = flag.String("pids", "", "processes whose CPU time is measured, separated by commas")
)

func main() {
	flag.Parse()
	load := &load{content: bytes.Repeat([]byte("x"), *size), signer: newSigner(*user, *password, time.Now())}
	load.contentHash, load.emptyHash = hash(load.content), hash(nil)
	if *operation == "bucket" {
		load.content, load.contentHash = nil, load.emptyHash
		check(load.send(newClient(), http.MethodPut, "/"+*bucket))
		return
	}
	var processes []int
	for _, word := range append(strings.FieldsFunc(*pids, func(r rune) bool { return r == ',' }), strconv.Itoa(os.Getpid())) {
		pid, err := strconv.Atoi(word)
		check(err)
		processes = append(processes, pid)
	}
	var group sync.WaitGroup
	for range *clients {
		group.Go(load.run)
	}
	time.Sleep(*warmUp)
	start := read(load, processes)
	load.measuring.Store(true)
	time.Sleep(*measure)
	load.measuring.Store(false)
	end := read(load, processes)
	load.over.Store(true)
	group.Wait()

	slices.Sort(load.latencies)
	at := func(share float64) float64 {
		return float64(load.latencies[int(share*float64(len(load.latencies)-1))].Nanoseconds()) / 1e3
	}
	if len(load.latencies) == 0 {
		check(fmt.Errorf("no request ended in time"))
	}
	taken := map[string]float64{}
	for i, pid := range processes {
		name := strconv.Itoa(pid)
		if pid == os.Getpid() {
			name = "client"
		}
		taken[name] = (end.cpu[i] - start.cpu[i]).Seconds()
	}
	seconds, count := end.at.Sub(start.at).Seconds(), float64(end.done-start.done)
	check(json.NewEncoder(os.Stdout).Encode(map[string]any{
		"objects": count, "all": load.done.Load(), "seconds": seconds, "per_second": count / seconds, "cpu_seconds": taken,
		"p50_us": at(0.50), "p99_us": at(0.99),
	}))
}

// A load is the state that all clients share.
type load struct {
	content                []byte
	contentHash, emptyHash string
	signer                 signer
	next, done             atomic.Int64
	measuring, over        atomic.Bool
	lock                   sync.Mutex
	latencies              []time.Duration
}

// A reading is the state of the processes and of the count at one moment.
type reading struct {
	at   time.Time
	cpu  []time.Duration
	done int64
}

func read(load *load, processes []int) reading {
	now := reading{at: time.Now(), done: load.done.Load()}
	for _, pid := range processes {
		taken, err := cpu.Time(pid)
		check(err)
		now.cpu = append(now.cpu, taken)
	}
	return now
}

// newClient returns a client with a connection of its own.
func newClient() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableCompression: true}}
}

func (l *load) run() {
	client, method := newClient(), strings.ToUpper(*operation)
	var latencies []time.Duration
	for !l.over.Load() {
		number := l.next.Add(1) - 1 + *first
		if method == http.MethodGet {
			number = (number-*first)%*objects + *first
		}
		sent := time.Now()
		check(l.send(client, method, "/"+*bucket+"/"+*prefix+"/"+strconv.FormatInt(number, 10)))
		if l.measuring.Load() {
			latencies = append(latencies, time.Since(sent))
		}
		l.done.Add(1)
	}
	l.lock.Lock()
	defer l.lock.Unlock()
	l.latencies = append(l.latencies, latencies...)
}

func (l *load) send(client *http.Client, method, path string) error {
	var body io.Reader
	contentHash, encryption := l.emptyHash, "X-Amz-Server-Side-Encryption"
	if method == http.MethodPut && len(l.content) > 0 {
		body, contentHash = bytes.NewReader(l.content), l.contentHash
	}
	request, err := http.NewRequest(method, "http://"+*address+path, body)
	if err != nil {
		return err
	}
	if *encrypted && method == http.MethodPut && body != nil {
		request.Header[encryption] = []string{"AES256"}
	}
	l.signer.sign(request, contentHash, time.Now())
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	switch {
	case err != nil:
		return err
	case response.StatusCode != http.StatusOK:
		return fmt.Errorf("%s %s: %s: %s", method, path, response.Status, content)
	case method == http.MethodGet && !bytes.Equal(content, l.content):
		return fmt.Errorf("%s %s: %d other bytes came than were written", method, path, len(content))
	case body != nil || method == http.MethodGet:
		if *encrypted != (response.Header.Get(encryption) == "AES256") {
			return fmt.Errorf("%s %s: the answer says of encryption: %q", method, path, response.Header.Get(encryption))
		}
	}
	return nil
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "s3:", err)
		os.Exit(1)
	}
}
