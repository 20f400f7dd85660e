package integration

import (
	"bytes"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"
)

// logs collects what a Caddy process logs.
type logs struct {
	mu      sync.Mutex
	rest    []byte // of an unfinished line
	lines   []string
	entries []entry
	changed chan struct{} // closed and replaced with each entry

	// take gets each entry first; those that it takes are not kept. It is set before the
	// process starts, and nil if nobody wants to.
	take func(entry) bool
}

func newLogs() *logs {
	return &logs{changed: make(chan struct{})}
}

// entry is a line of the log.
type entry map[string]any

func (e entry) str(field string) string {
	s, _ := e[field].(string)
	return s
}

func (e entry) num(field string) float64 {
	n, _ := e[field].(float64)
	return n
}

// Write implements io.Writer for the process.
func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = append(l.rest, p...)
	for {
		line, rest, found := bytes.Cut(l.rest, []byte("\n"))
		if !found {
			return len(p), nil
		}
		var e entry
		isEntry := json.Unmarshal(line, &e) == nil
		l.rest = append([]byte(nil), rest...)
		if isEntry && l.take != nil && l.take(e) {
			continue
		}
		l.lines = append(l.lines, string(line))
		if isEntry {
			l.entries = append(l.entries, e)
			close(l.changed)
			l.changed = make(chan struct{})
		}
	}
}

// String returns the end of the log.
func (l *logs) String() string {
	const most = 200
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines[max(0, len(l.lines)-most):], "\n")
}

// complaint returns the first line that no process may ever write.
func (l *logs) complaint() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if strings.Contains(line, "DATA RACE") || strings.Contains(line, "panic") {
			return line
		}
	}
	return ""
}

// matcher selects entries of the log.
type matcher func(entry) bool

// message matches the entries with a message and, as pairs of name and value,
// fields.
func message(msg string, fields ...string) matcher {
	return func(e entry) bool {
		for i := 0; i < len(fields); i += 2 {
			if e.str(fields[i]) != fields[i+1] {
				return false
			}
		}
		return e.str("msg") == msg
	}
}

// find returns the entries that match so far.
func (l *logs) find(match matcher) []entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.findLocked(match)
}

func (l *logs) findLocked(match matcher) []entry {
	var found []entry
	for _, e := range l.entries {
		if match(e) {
			found = append(found, e)
		}
	}
	return found
}

// wait waits for n entries that match and returns them.
func (l *logs) wait(tb testing.TB, n int, match matcher) []entry {
	tb.Helper()
	deadline := time.After(timeout)
	for {
		l.mu.Lock()
		found, changed := l.findLocked(match), l.changed
		l.mu.Unlock()
		if len(found) >= n {
			return found
		}
		select {
		case <-changed:
		case <-deadline:
			tb.Fatalf("the log has %d of %d such lines after %v", len(found), n, timeout)
		}
	}
}

// waitOne waits for the first entry that matches.
func (l *logs) waitOne(tb testing.TB, match matcher) entry {
	tb.Helper()
	return l.wait(tb, 1, match)[0]
}
