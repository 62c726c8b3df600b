package main

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"kms.test/load/cpu"
)

// A meter hands out requests and counts their answers between begin and end.
type meter struct {
	pid   int
	limit int64
	rate  float64
	made  time.Time

	next, done atomic.Int64
	phase      atomic.Int32 // 0 warming up, 1 measuring, 2 over

	lock        sync.Mutex
	latencies   []time.Duration
	start, end_ reading
}

// A reading is the state of the server and of the count at one moment.
type reading struct {
	at   time.Time
	cpu  time.Duration
	done int64
}

func newMeter(pid int, limit int64, rate float64) *meter {
	return &meter{pid: pid, limit: limit, rate: rate, made: time.Now()}
}

func (m *meter) begin() {
	m.start = m.read()
	m.phase.Store(1)
}

func (m *meter) end() {
	m.end_ = m.read()
	m.phase.Store(2)
}

func (m *meter) read() reading {
	return reading{at: time.Now(), cpu: cpuTime(m.pid), done: m.done.Load()}
}

// take returns the number of the next request, or false if no more are wanted. With a rate, it waits until the request is
// due.
func (m *meter) take() (int64, bool) {
	if m.phase.Load() == 2 {
		return 0, false
	}
	number := m.next.Add(1) - 1
	if m.rate > 0 {
		time.Sleep(time.Until(m.due(number)))
	}
	return number, number < m.limit
}

// due returns the time at which a request should be sent. Its latency counts from then, even if all connections were busy.
func (m *meter) due(number int64) time.Time {
	return m.made.Add(time.Duration(float64(number) / m.rate * float64(time.Second)))
}

// add keeps the latencies of one connection.
func (m *meter) add(log *latencyLog) {
	m.lock.Lock()
	defer m.lock.Unlock()
	m.latencies = append(m.latencies, log.seen...)
}

// A latencyLog collects the latencies of one connection.
type latencyLog struct {
	meter *meter
	seen  []time.Duration
}

func (l *latencyLog) answered(sent time.Time) {
	l.meter.done.Add(1)
	if l.meter.phase.Load() == 1 && !sent.Before(l.meter.start.at) {
		l.seen = append(l.seen, time.Since(sent))
	}
}

func (m *meter) figures() map[string]float64 {
	elapsed, requests := m.end_.at.Sub(m.start.at), float64(m.end_.done-m.start.done)
	slices.Sort(m.latencies)
	at := func(share float64) float64 {
		if len(m.latencies) == 0 {
			return 0
		}
		return float64(m.latencies[int(share*float64(len(m.latencies)-1))].Nanoseconds()) / 1e3
	}
	return map[string]float64{
		"requests":   requests,
		"seconds":    elapsed.Seconds(),
		"per_second": requests / elapsed.Seconds(),
		"cpu_us":     float64((m.end_.cpu - m.start.cpu).Nanoseconds()) / 1e3 / max(requests, 1),
		"p50_us":     at(0.50),
		"p99_us":     at(0.99),
		"max_us":     at(1),
	}
}

// cpuTime returns the CPU time of the server, or 0 if its process is not known.
func cpuTime(pid int) time.Duration {
	if pid == 0 {
		return 0
	}
	taken, err := cpu.Time(pid)
	check(err)
	return taken
}
