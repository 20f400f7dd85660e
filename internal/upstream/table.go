package upstream

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/balance"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/limit"
)

// Host is what the process knows about one upstream address, whichever
// handlers and configurations name it.
type Host struct {
	Address string
	// seed is what the address is in the order of a key. It is hashed, not what a
	// configuration writes, as that is the same everywhere and for as long as the upstream
	// is: counts go by it, and so does what operators say.
	seed uint64

	// All are guarded by the table's mu.
	refs    int // configurations, handshakes and tunnels that use it
	named   int // upstreams of loaded configurations that have the address
	tunnels int // handshakes under way and live tunnels
	// closed and draining tell that an operator wants no new tunnels here, or none of
	// newcomers.
	closed, draining bool
	// removed tells that no configuration has the address any more that one had, and
	// emptied that it was told of it, or of what an operator wants, that it has no tunnels.
	removed, emptied bool
	// dropped tells that a source was the last that had the address, and does not
	// find it any more. It means something while nothing has the address.
	dropped bool
	// slowSince is when an operator has made the address ready again, for all pools.
	slowSince time.Time
	handshakes
	// expected is until when tunnels are expected that have not come yet.
	expected []time.Time
	// standing are the endpoints of pools that have the address.
	standing []*Endpoint
	// verdicts are one for each check that somebody wants of the address.
	verdicts []*Verdict
	// agents are the same for what its agents say.
	agents []*Verdict
	// loads are what it says of its load, in different metrics.
	loads []*Load
	// found counts those of named that a source has found, and source is its
	// module, also where the address depends on requests.
	found  int
	source string
}

// Table holds the hosts of the process by address. It outlives
// configurations: a new one takes its references before the old one gives its
// own back, so counts survive a reload.
type Table struct {
	mu sync.Mutex // also makes a choice and its count one step
	m  map[string]*Host
	// templates counts the addresses with placeholders that loaded configurations
	// have.
	templates map[string]int
	// states are what operators have set, by address, also for addresses that
	// have no host.
	states map[string]State
	// statesNumber tells newer ones from older ones.
	statesNumber uint64
	// asked is when an address with a state last got a host.
	asked map[string]time.Time
	// failures are the recent ones of addresses.
	failures map[failureKey]*Failures
	// rooms are those that have members, by what counts them together.
	rooms map[any]*balance.Rooms
	// queues are those in which handshakes wait, turns the newest number of a client's turn
	// in one, and timer is set while time may make places for them. retired are those of
	// them whose pools have no slots any more, and concerned those that are served now.
	queues, retired, concerned []*queue
	// expecting are the hosts where tunnels are expected.
	expecting []*Host
	turns     uint64
	timer     *time.Timer
	wakes     time.Time // when timer is to fire
	// underWay counts the handshakes at all hosts.
	underWay int
	// Changed is told what has changed, without the lock. That is a hint: whoever acts
	// on it asks again.
	Changed func(Change)
	random  func(n int) int // a number in [0, n); in tests, the same ones in each run
}

// Change is something that has become different at an address by itself.
type Change struct {
	Kind      Kind
	Address   string
	Endpoints []*Endpoint // that this concerns
}

// Kind says what has changed.
type Kind int

// The kinds of changes.
const (
	// AddressDown and AddressUp: an active check has found that.
	AddressDown Kind = iota
	AddressUp        // see AddressDown
	// AddressTried: what failures were held against it is forgotten.
	AddressTried
	// AddressTrusted: it was doubtful and has answered.
	AddressTrusted
	// AddressEmpty: it gets no tunnels any more, or none of newcomers, and the last one
	// has ended.
	AddressEmpty
)

// NewTable makes a table that tells what has changed.
func NewTable(changed func(Change)) *Table {
	return &Table{
		m:         make(map[string]*Host),
		templates: make(map[string]int),
		states:    make(map[string]State),
		asked:     make(map[string]time.Time),
		failures:  make(map[failureKey]*Failures),
		rooms:     make(map[any]*balance.Rooms),
		Changed:   changed,
		random:    rand.IntN,
	}
}

// acquireLocked returns the host of address with one more reference.
func (t *Table) acquireLocked(address string) *Host {
	h, ok := t.m[address]
	if !ok {
		s, said := t.states[address]
		if said {
			t.asked[address] = time.Now()
		}
		h = &Host{Address: address, seed: balance.SeedOf(address)}
		h.obey(s)
		t.m[address] = h
	}
	h.refs++
	return h
}

// releaseLocked gives a reference back.
func (t *Table) releaseLocked(h *Host) {
	if h.refs--; h.refs == 0 {
		delete(t.m, h.Address)
	}
}

// Name is Acquire for an upstream of a configuration, or for one that a source of
// it has found.
func (t *Table) Name(address, source string) *Host {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.acquireLocked(address)
	h.named++
	h.removed = false
	if source != "" {
		h.found++
		h.source = source
	}
	return h
}

// Unname gives back what Name has returned: dropped tells that the source has, as it
// does not find the address any more. It reports whether no configuration has the
// address any more.
func (t *Table) Unname(h *Host, source string, dropped bool) (orphaned bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if source != "" {
		if h.found--; h.found == 0 {
			h.source = ""
		}
	}
	h.named--
	h.dropped = dropped
	orphaned = h.named == 0
	h.removed = orphaned
	t.releaseLocked(h)
	return orphaned
}

// IsKnown reports whether a configuration or a tunnel has the address already.
func (t *Table) IsKnown(address string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	h, ok := t.m[address]
	return ok && (h.named > 0 || h.tunnels > 0)
}

// NamedOf returns those of some addresses that a configuration has, itself or by
// what its sources have found.
func (t *Table) NamedOf(addresses []string) (named []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, address := range addresses {
		if h, ok := t.m[address]; ok && h.named > 0 {
			named = append(named, address)
		}
	}
	return named
}

// nameTemplate notes that an upstream of a configuration has an address with
// placeholders.
func (t *Table) nameTemplate(dial string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.templates[dial]++
}

// unnameTemplate takes that back, and reports whether no configuration has it
// any more.
func (t *Table) unnameTemplate(dial string) (orphaned bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.templates[dial]--; t.templates[dial] > 0 {
		return false
	}
	delete(t.templates, dial)
	return true
}

// IsNamed reports whether a loaded configuration has an upstream with the
// address of h, or may have it where it comes from. What sources find for a request
// is known in its handshake only, so nobody can say no later.
func (t *Table) IsNamed(h *Host, o *Provenance) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return h.named > 0 || o != nil && (o.template == "" || t.templates[o.template] > 0)
}

// WasDropped reports whether it was a source that has given h up last. That means
// something while no configuration has it.
func (t *Table) WasDropped(h *Host) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return h.dropped
}

// Uses reports whether a loaded configuration or a tunnel has the address, or a
// handshake has lately made it of placeholders.
func (t *Table) Uses(address string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	asked, ok := t.asked[address]
	return t.m[address] != nil || ok && time.Since(asked) < NamedInterval
}

// StateOf returns what an operator has set.
func (t *Table) StateOf(address string) State {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.states[address]
}

// acquire returns the host of an address for a handshake, and has it known by which
// source it was found, if one has.
func (t *Table) acquire(address, source string) *Host {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.acquireLocked(address)
	if source != "" {
		h.source = source
	}
	return h
}

func (t *Table) release(h *Host) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.releaseLocked(h)
}

// TunnelEnded takes back what reserveLocked counted, and gives the place to who
// has waited longest for it.
func (t *Table) TunnelEnded(h *Host) {
	t.mu.Lock()
	h.countLocked(-1)
	empty := h.takeEmptyLocked()
	t.releaseLocked(h)
	t.serveAtLocked(h)
	t.mu.Unlock()
	if empty {
		t.Changed(Change{Kind: AddressEmpty, Address: h.Address})
	}
}

// takeEmptyLocked reports, once, that the address has no tunnels any more and gets none, or
// none of newcomers.
func (h *Host) takeEmptyLocked() bool {
	if h.tunnels > 0 || h.emptied || !h.closed && !h.draining && !h.removed {
		return false
	}
	h.emptied = true
	return true
}

// TakeEmpty reports whether an address that an operator has just closed or drained has no
// tunnels, unless it was told already that the last one has ended.
func (t *Table) TakeEmpty(address string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	h, ok := t.m[address]
	return !ok || h.takeEmptyLocked()
}

// joinLocked notes that addresses get tunnels again, in all pools.
func (t *Table) joinLocked(addresses []string) {
	for _, address := range addresses {
		if h, ok := t.m[address]; ok {
			h.slowSince = time.Now()
			for _, e := range h.standing {
				e.startSlowlyLocked()
			}
		}
	}
	t.serveLocked()
}

// JoinPools notes that endpoints get tunnels in their pools from now on, or do again.
// To other pools with the same addresses it says nothing: a check or a transport of
// their own tells them what they are.
func (t *Table) JoinPools(endpoints []*Endpoint) {
	t.JoinNew(endpoints, nil)
}

// JoinNew is JoinPools for what is new in a pool. Of the addresses that others have
// had before, those with tunnels are no newcomers. The tunnels of the rest are of
// handshakes that were faster than this call.
func (t *Table) JoinNew(endpoints []*Endpoint, had []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range endpoints {
		if e.Host.tunnels == 0 || !slices.Contains(had, e.Host.Address) {
			e.Server.slowSince = time.Now()
			e.startSlowlyLocked()
		}
	}
	t.serveLocked()
}

// Inherit has an endpoint go on with the slow start of the one in whose place it
// comes in a reload.
func (t *Table) Inherit(e, old *Endpoint) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e.Server.slowSince = Later(e.Server.slowSince, old.Server.slowSince)
	e.startSlowlyLocked()
}

// reserveLocked counts a tunnel and the handshake that becomes one at h, and
// returns the host to take both back from with HandshakeEnded and TunnelEnded. That is another one
// if the configuration of this handshake was unloaded meanwhile and a newer one
// names the same address.
func (t *Table) reserveLocked(h *Host) (*Host, limit.Ticket) {
	if current, ok := t.m[h.Address]; ok {
		h = current
	} else {
		t.m[h.Address] = h
		h.obey(t.states[h.Address])
	}
	h.refs++
	h.emptied, h.removed = false, false // placeholders may bring an address again
	ticket := h.beginLocked()
	h.countLocked(1)
	return h, ticket
}
