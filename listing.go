package websocketproxy

import (
	"slices"
	"strings"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// info is what is known of an upstream.
type info struct {
	// Address is host and port, with the network in front if it is not TCP.
	Address string
	// State is what an operator has said; Ready without that.
	State string
	// Tunnels counts those that are open, and handshakes under way.
	Tunnels int
	// Queued counts handshakes that wait because this upstream, like the others
	// of their pool, has as many tunnels as it may have.
	Queued int
	// Failing tells that some pool avoids it, as connections have failed lately.
	Failing bool
	// Health is what active checks say, HealthError what was wrong last, and Checked
	// when the last result came.
	Health      string
	HealthError string
	Checked     time.Time
	// Configured tells whether a loaded configuration has the address itself, or
	// has it found by a source.
	Configured bool
	// Source is the module that has found the address, if one has.
	Source string
	// By is who has set the state, and Since when. Expires is when it ends.
	By      string
	Since   time.Time
	Expires time.Time
}

// held is what a table holds. All of it is zero when nothing is loaded and no
// tunnel is open.
type held struct {
	addresses, references int
	templates             int // addresses with placeholders
	failures              int // addresses of which failures are remembered
	watched               int // endpoints of which failures are counted
	queues                int // pools in which handshakes wait
}

func (t *hostTable) held() held {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := held{addresses: len(t.m), templates: len(t.templates), queues: len(t.queues)}
	for _, one := range t.m {
		h.references += one.refs
	}
	for _, f := range t.failures {
		h.watched += len(f.endpoints)
		if len(f.recent) > 0 || f.timer != nil || f.ejected {
			h.failures++
		}
	}
	return h
}

// list returns all upstreams that are configured, have tunnels or have been
// given a state, by address.
func (t *hostTable) list() []info {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]info, 0, len(t.m)+len(t.states))
	queued, failing := t.queuedLocked(), t.failingLocked()
	for address, h := range t.m {
		i := t.infoLocked(address, h)
		i.Queued, i.Failing = queued[address], failing[address]
		all = append(all, i)
	}
	for address := range t.states {
		if t.m[address] == nil {
			all = append(all, t.infoLocked(address, new(host)))
		}
	}
	slices.SortFunc(all, func(a, b info) int { return strings.Compare(a.Address, b.Address) })
	return all
}

func (t *hostTable) infoLocked(address string, h *host) info {
	s := t.states[address]
	i := info{
		Address:    address,
		State:      upstream.Ready,
		Tunnels:    h.tunnels,
		Configured: h.named > 0,
		Source:     h.source,
		By:         s.By,
		Since:      s.At,
		Expires:    s.Expires,
	}
	if s.Closes() {
		i.State = s.State
	}
	i.Health, i.HealthError, i.Checked = h.healthLocked()
	return i
}

// info returns what is known about an address, or false if nothing is.
func (t *hostTable) info(address string) (info, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h, known := t.m[address]
	if !known {
		_, known = t.states[address]
		h = new(host)
	}
	i := t.infoLocked(address, h)
	i.Queued, i.Failing = t.queuedLocked()[address], t.failingLocked()[address]
	return i, known
}
