package upstream

import (
	"slices"
	"strings"
	"time"
)

// Info is what is known of an upstream.
type Info struct {
	// Address is host and port, with the network in front if it is not TCP.
	Address string
	// State is what an operator has said; Ready without that.
	State string
	// Tunnels counts those that are open, and handshakes under way.
	Tunnels int
	// Handshakes counts those under way, and HandshakesLimit is how many may be, by the
	// lowest max_handshakes; zero means no limit.
	Handshakes, HandshakesLimit int
	// Queued counts handshakes that wait because this upstream, like the others
	// of their pool, is at max_tunnels, max_handshakes or handshake_rate, or because they
	// belong there.
	Queued int
	// Failing tells that some pool avoids it, as connections have failed lately.
	Failing bool
	// Doubtful tells that some pool passes it by for newcomers, as others have answered what
	// it has not.
	Doubtful bool
	// Health is what active checks say, HealthError what was wrong last, and Checked
	// when the last result came.
	Health      string
	HealthError string
	Checked     time.Time
	// Agent is what the agent of the address has said of it, AgentReason why, and
	// AgentError what was wrong with its last answer, or that there was none.
	Agent       string
	AgentReason string
	AgentError  string
	// Load is the utilisation that the address has reported last; 0 if that is not known.
	Load float64
	// Configured tells whether a loaded configuration has the address itself, or
	// has it found by a source.
	Configured bool
	// Source is the module that has found the address, if one has.
	Source string
	// By is who has set the state, and Since when. Expires is when it ends.
	By      string
	Since   time.Time
	Expires time.Time
	// Period is the time over which an operator has its tunnels ended, in seconds; zero
	// if the configurations of these say it, or it is not emptied.
	Period float64
}

// Held is what a table holds. All of it is zero when nothing is loaded and no
// tunnel is open.
type Held struct {
	Addresses, References int
	templates             int // addresses with placeholders
	Failures              int // addresses of which failures are remembered
	Watched               int // endpoints of which failures are counted
	queues                int // in which handshakes wait
	Handshakes            int // under way
	timers                int // that serve who waits
	rooms                 int // that have members
}

// Held tells what the table holds.
func (t *Table) Held() Held {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := Held{Addresses: len(t.m), templates: len(t.templates), queues: len(t.queues), Handshakes: t.underWay}
	if t.timer != nil {
		h.timers++
	}
	for _, one := range t.m {
		h.References += one.refs
	}
	for _, rooms := range t.rooms {
		h.rooms += rooms.Len()
	}
	for _, f := range t.failures {
		h.Watched += len(f.endpoints)
		if len(f.recent) > 0 || f.timer != nil || f.ejected {
			h.Failures++
		}
	}
	return h
}

// List returns all upstreams that are configured, have tunnels or have been
// given a state, by address.
func (t *Table) List() []Info {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]Info, 0, len(t.m)+len(t.states))
	queued := t.queuedLocked()
	failing, doubtful := t.avoidedLocked()
	for address, h := range t.m {
		i := t.infoLocked(address, h)
		i.Queued, i.Failing, i.Doubtful = queued[address], failing[address], doubtful[address]
		all = append(all, i)
	}
	for address := range t.states {
		if t.m[address] == nil {
			all = append(all, t.infoLocked(address, new(Host)))
		}
	}
	slices.SortFunc(all, func(a, b Info) int { return strings.Compare(a.Address, b.Address) })
	return all
}

func (t *Table) infoLocked(address string, h *Host) Info {
	s := t.states[address]
	i := Info{
		Address:    address,
		State:      Ready,
		Tunnels:    h.tunnels,
		Handshakes: h.underWay,
		Configured: h.named > 0,
		Source:     h.source,
		By:         s.By,
		Since:      s.At,
		Expires:    s.Expires,
		Period:     s.Period,
	}
	if s.IsSet() {
		i.State = s.State
	}
	for _, e := range h.standing {
		if most := h.mostHandshakesLocked(e.Server); most > 0 && (i.HandshakesLimit == 0 || most < i.HandshakesLimit) {
			i.HandshakesLimit = most
		}
	}
	i.Health, i.HealthError, i.Checked = h.healthLocked()
	h.tellLocked(&i)
	return i
}

// Info returns what is known about an address, or false if nothing is.
func (t *Table) Info(address string) (Info, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h, known := t.m[address]
	if !known {
		_, known = t.states[address]
		h = new(Host)
	}
	i := t.infoLocked(address, h)
	failing, doubtful := t.avoidedLocked()
	i.Queued, i.Failing, i.Doubtful = t.queuedLocked()[address], failing[address], doubtful[address]
	return i, known
}
