package dashboard

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
)

const (
	// mostEvents is how many ends and refusals are kept, and mostChecks how many
	// probes of an upstream.
	mostEvents = 200
	mostChecks = 20
	// mostChecked bounds of how many upstreams probes are kept.
	mostChecked = 2000
	// longestText bounds each text that is kept, in bytes.
	longestText = 256
)

// Event is the end of a tunnel, or a handshake that was refused. Its texts are printable.
type Event struct {
	// Number is one more than that of the event before.
	Number uint64 `json:"n"`
	// At is when it was.
	At time.Time `json:"at"`
	// Kind is end or refusal.
	Kind string `json:"kind"`
	// Why is the reason of an end, or the cause of a refusal, and Words what it means.
	Why   string `json:"why"`
	Words string `json:"words"`
	// Handler is the handler's name, Upstream the address that was used or tried last.
	Handler  string `json:"handler,omitempty"`
	Upstream string `json:"upstream,omitempty"`
	// ClientIP is the client's address.
	ClientIP string `json:"client_ip,omitempty"`
	// Tunnel is the id, and Lasted how long it was open, in seconds.
	Tunnel string  `json:"tunnel,omitempty"`
	Lasted float64 `json:"lasted,omitempty"`
	// Code is the status of the first Close frame, or of the answer.
	Code int `json:"code,omitempty"`
	// By is who has ended it, and Detail the error.
	By     string `json:"by,omitempty"`
	Detail string `json:"detail,omitempty"`
	// Labels are those of the tunnel.
	Labels map[string]string `json:"labels,omitempty"`
}

// The kinds of events.
const (
	Ended   = "end"
	Refused = "refusal"
)

// Checked is a probe of an upstream.
type Checked struct {
	// At is when its result came, Took how long it took, in seconds.
	At   time.Time `json:"at"`
	Took float64   `json:"took"`
	// Error is what was wrong; printable.
	Error string `json:"error,omitempty"`
}

// Recent is what has happened lately. Nothing is kept while no page is in force.
type Recent struct {
	kept atomic.Bool

	lock   sync.Mutex // guards what follows
	number uint64     // of the last event, more than those of a process that was before
	events []Event    // a ring once it is full, which begins at oldest
	oldest int
	checks map[string][]Checked
}

// begin has what happens kept.
func (r *Recent) begin() {
	r.lock.Lock()
	defer r.lock.Unlock()
	r.checks = make(map[string][]Checked)
	r.kept.Store(true)
}

// end forgets everything but the number, so that no page takes a new event for an old
// one.
func (r *Recent) end() {
	r.kept.Store(false)
	r.lock.Lock()
	defer r.lock.Unlock()
	r.events, r.oldest, r.checks = nil, 0, nil
}

// Wanted reports whether what happens is kept.
func (r *Recent) Wanted() bool { return r.kept.Load() }

// Add keeps an event. Its texts may be anything.
func (r *Recent) Add(e Event) {
	if !r.Wanted() {
		return
	}
	for _, text := range []*string{&e.Why, &e.Handler, &e.Upstream, &e.ClientIP, &e.Tunnel, &e.By, &e.Detail} {
		*text = shown(*text)
	}
	e.Words = wordsOf(&e)
	r.lock.Lock()
	defer r.lock.Unlock()
	if r.checks == nil {
		return // it has just ended
	}
	r.number++
	e.Number = r.number
	if len(r.events) < mostEvents {
		r.events = append(r.events, e)
		return
	}
	r.events[r.oldest] = e
	r.oldest = (r.oldest + 1) % mostEvents
}

// AddCheck keeps the result of a probe.
func (r *Recent) AddCheck(address string, took time.Duration, err error) {
	if !r.Wanted() {
		return
	}
	c := Checked{At: time.Now(), Took: took.Seconds()}
	if err != nil {
		c.Error = shown(err.Error())
	}
	r.lock.Lock()
	defer r.lock.Unlock()
	all, known := r.checks[address]
	if r.checks == nil || !known && len(r.checks) >= mostChecked {
		return
	}
	if len(all) == mostChecks {
		all = append(all[:0], all[1:]...)
	}
	r.checks[address] = append(all, c)
}

// Events returns those that came after one, oldest first, and the number of the last
// one.
func (r *Recent) Events(after uint64) (events []Event, last uint64) {
	r.lock.Lock()
	defer r.lock.Unlock()
	for i := range r.events {
		e := r.events[(r.oldest+i)%len(r.events)]
		if e.Number > after || after > r.number {
			events = append(events, e)
		}
	}
	return events, r.number
}

// checksOf returns the last probes of an upstream, oldest first.
func (r *Recent) checksOf(address string) []Checked {
	r.lock.Lock()
	defer r.lock.Unlock()
	return append([]Checked(nil), r.checks[address]...)
}

// keepChecks forgets the probes of other upstreams.
func (r *Recent) keepChecks(of map[string]bool) {
	r.lock.Lock()
	defer r.lock.Unlock()
	for address := range r.checks {
		if !of[address] {
			delete(r.checks, address)
		}
	}
}

// shown is a text of others as it is kept.
func shown(s string) string {
	const more = len(`\U0010ffff`) // there is room for whatever comes next
	if text := printable.Cut(s, longestText+more); len(text) <= longestText {
		return text
	}
	return printable.Cut(s, longestText) + "…"
}
