package websocketproxy

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// host is what the process knows about one upstream address, whichever
// handlers and configurations name it.
type host struct {
	address string

	// All are guarded by the table's mu.
	refs    int  // configurations, handshakes and tunnels that use it
	named   int  // upstreams of loaded configurations that have the address
	tunnels int  // handshakes under way and live tunnels
	closed  bool // an operator wants no new tunnels here
	// dropped tells that a source was the last that had the address, and does not
	// find it any more. It means something while nothing has the address.
	dropped bool
	// joined is when an operator has made the address ready again, for all pools.
	joined time.Time
	// verdicts are one for each check that somebody wants of the address.
	verdicts []*verdict
	// found counts those of named that a source has found, and source is its
	// module, also where the address depends on requests.
	found  int
	source string
}

// hostTable holds the hosts of the process by address. It outlives
// configurations: a new one takes its references before the old one gives its
// own back, so counts survive a reload.
type hostTable struct {
	mu sync.Mutex // also makes a choice and its count one step
	m  map[string]*host
	// templates counts the addresses with placeholders that loaded configurations
	// have.
	templates map[string]int
	// states are what operators have set, by address, also for addresses that
	// have no host.
	states map[string]upstream.State
	// statesNumber tells newer ones from older ones.
	statesNumber uint64
	// asked is when an address with a state last got a host.
	asked map[string]time.Time
	// failures are the recent ones of addresses.
	failures map[failureKey]*failures
	// queues are the pools in which handshakes wait, and tickets is how many of
	// them were told when they have come.
	queues  []*pool
	tickets uint64
	// changed is told what has changed, without the lock. That is a hint: whoever acts
	// on it asks again.
	changed func(change)
}

// change is something that has become different at an address by itself.
type change struct {
	kind      changeKind
	address   string
	endpoints []*endpoint // that this concerns
}

type changeKind int

const (
	// addressDown and addressUp: an active check has found that.
	addressDown changeKind = iota
	addressUp
	// addressTried: what failures were held against it is forgotten.
	addressTried
)

func newHostTable(changed func(change)) *hostTable {
	return &hostTable{
		m:         make(map[string]*host),
		templates: make(map[string]int),
		states:    make(map[string]upstream.State),
		asked:     make(map[string]time.Time),
		failures:  make(map[failureKey]*failures),
		changed:   changed,
	}
}

// provenance is where an address comes from that depends on the request: another one
// with placeholders, or a source that is asked in handshakes.
type provenance struct {
	template string // before placeholders were replaced; empty for a source
}

// fromTemplate is the provenance of what an address with placeholders becomes.
func fromTemplate(dial string) *provenance {
	return &provenance{template: dial}
}

// acquireLocked returns the host of address with one more reference.
func (t *hostTable) acquireLocked(address string) *host {
	h, ok := t.m[address]
	if !ok {
		s, said := t.states[address]
		if said {
			t.asked[address] = time.Now()
		}
		h = &host{address: address, closed: s.Closes()}
		t.m[address] = h
	}
	h.refs++
	return h
}

// releaseLocked gives a reference back.
func (t *hostTable) releaseLocked(h *host) {
	if h.refs--; h.refs == 0 {
		delete(t.m, h.address)
	}
}

// name is acquire for an upstream of a configuration, or for one that a source of
// it has found.
func (t *hostTable) name(address, source string) *host {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.acquireLocked(address)
	h.named++
	if source != "" {
		h.found++
		h.source = source
	}
	return h
}

// unname gives back what name has returned: dropped tells that the source has, as it
// does not find the address any more. It reports whether no configuration has the
// address any more.
func (t *hostTable) unname(h *host, source string, dropped bool) (orphaned bool) {
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
	t.releaseLocked(h)
	return orphaned
}

// isKnown reports whether a configuration or a tunnel has the address already.
func (t *hostTable) isKnown(address string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	h, ok := t.m[address]
	return ok && (h.named > 0 || h.tunnels > 0)
}

// namedOf returns those of some addresses that a configuration has, itself or by
// what its sources have found.
func (t *hostTable) namedOf(addresses []string) (named []string) {
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
func (t *hostTable) nameTemplate(dial string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.templates[dial]++
}

// unnameTemplate takes that back, and reports whether no configuration has it
// any more.
func (t *hostTable) unnameTemplate(dial string) (orphaned bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.templates[dial]--; t.templates[dial] > 0 {
		return false
	}
	delete(t.templates, dial)
	return true
}

// isNamed reports whether a loaded configuration has an upstream with the
// address of h, or may have it where it comes from. What sources find for a request
// is known in its handshake only, so nobody can say no later.
func (t *hostTable) isNamed(h *host, o *provenance) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return h.named > 0 || o != nil && (o.template == "" || t.templates[o.template] > 0)
}

// wasDropped reports whether it was a source that has given h up last. That means
// something while no configuration has it.
func (t *hostTable) wasDropped(h *host) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return h.dropped
}

// uses reports whether a loaded configuration or a tunnel has the address, or a
// handshake has lately made it of placeholders.
func (t *hostTable) uses(address string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	asked, ok := t.asked[address]
	return t.m[address] != nil || ok && time.Since(asked) < upstream.NamedInterval
}

// stateOf returns what an operator has set.
func (t *hostTable) stateOf(address string) upstream.State {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.states[address]
}

// acquire returns the host of an address for a handshake, and has it known by which
// source it was found, if one has.
func (t *hostTable) acquire(address, source string) *host {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.acquireLocked(address)
	if source != "" {
		h.source = source
	}
	return h
}

func (t *hostTable) release(h *host) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.releaseLocked(h)
}

// tunnelEnded takes back what reserveLocked counted, and gives the place to who
// has waited longest for it.
func (t *hostTable) tunnelEnded(h *host) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h.tunnels--
	t.releaseLocked(h)
	t.serveLocked()
}

// joinLocked notes that addresses get tunnels again, in all pools.
func (t *hostTable) joinLocked(addresses []string) {
	for _, address := range addresses {
		if h, ok := t.m[address]; ok {
			h.joined = time.Now()
		}
	}
	t.serveLocked()
}

// joinPools notes that endpoints get tunnels in their pools from now on, or do again.
// To other pools with the same addresses it says nothing: a check or a transport of
// their own tells them what they are.
func (t *hostTable) joinPools(endpoints []*endpoint) {
	t.joinNew(endpoints, nil)
}

// joinNew is joinPools for what is new in a pool. Of the addresses that others have
// had before, those with tunnels are no newcomers. The tunnels of the rest are of
// handshakes that were faster than this call.
func (t *hostTable) joinNew(endpoints []*endpoint, had []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range endpoints {
		if e.host.tunnels == 0 || !slices.Contains(had, e.host.address) {
			e.slot.joined = time.Now()
		}
	}
	t.serveLocked()
}

// inherit has an endpoint go on with the slow start of the one in whose place it
// comes in a reload.
func (t *hostTable) inherit(e, old *endpoint) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e.slot.joined = upstream.Later(e.slot.joined, old.slot.joined)
}

// joinedAt is since when e gets tunnels; zero if it was there from the start. The
// caller holds hosts.mu.
func (e *endpoint) joinedAt() time.Time {
	return upstream.Later(e.host.joined, e.slot.joined)
}

// reserveLocked counts a tunnel (or the handshake that becomes one) at h, and
// returns the host to take it back from with tunnelEnded. That is another one
// if the configuration of this handshake was unloaded meanwhile and a newer one
// names the same address.
func (t *hostTable) reserveLocked(h *host) *host {
	if current, ok := t.m[h.address]; ok {
		h = current
	} else {
		t.m[h.address] = h
		h.closed = t.states[h.address].Closes()
	}
	h.refs++
	h.tunnels++
	return h
}

// endpoint is one address that a handler may open a tunnel to.
type endpoint struct {
	// These come first as each choice looks at them, in large pools too.

	slot *slot
	// host is the process-wide state of the address. An endpoint that was
	// expanded from placeholders holds it for one handshake only.
	host *host
	// down says that the address does not pass the active check, and failing that
	// passive checks have found it to be avoided. Both are guarded by hosts.mu.
	down, failing bool

	// verdict and failures are what says so; nil if there are no such checks.
	verdict  *verdict
	failures *failures
	address
	// dial is how the source spells the address that has found it, if one has.
	dial string
	// from is where the address comes from, if it depends on the request.
	from *provenance
}

// slot is the place of a configured upstream in its handler's pool: what the
// balancer has to know about it. It lives as long as the configuration.
type slot struct {
	weight     int
	maxTunnels int
	backup     bool
	// dial is how the configuration or a source spells the address, and known what
	// it is for who chooses instead of a policy.
	dial  string
	known any

	// All are guarded by hosts.mu.
	current int    // of smooth weighted round robin
	drawn   uint64 // number of the last random_choose that drew it
	// joined is when the upstream has come to a pool that had others, or has
	// recovered. It is zero for those that were there from the start.
	joined time.Time
}

// newEndpoint makes one without a host.
func newEndpoint(s *slot, a address) *endpoint {
	return &endpoint{slot: s, address: a}
}

// address is what is dialed, and its parts.
type address struct {
	network, hostport, hostname, port string
}

// key is what the address is known by: host and port, with the network where that
// is not TCP.
func (a address) key() string {
	if a.network == "" || a.network == "tcp" {
		return a.hostport
	}
	return a.network + "/" + a.hostport
}

// setStates replaces what operators have said, unless something newer is known, which
// has a higher number. It returns the addresses that have to be emptied from now on, and
// those that get new tunnels again.
func (t *hostTable) setStates(number uint64, states map[string]upstream.State) (evict, ready []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if number <= t.statesNumber {
		return nil, nil
	}
	t.statesNumber = number
	for address, s := range states {
		was := t.states[address]
		if s.State == upstream.Evict && (was.State != upstream.Evict || !was.At.Equal(s.At)) {
			evict = append(evict, address)
		}
	}
	for address, was := range t.states {
		if was.Closes() && !states[address].Closes() {
			ready = append(ready, address)
		}
	}
	t.states = states
	maps.DeleteFunc(t.asked, func(address string, _ time.Time) bool {
		_, said := states[address]
		return !said
	})
	for address, h := range t.m {
		h.closed = states[address].Closes()
	}
	t.joinLocked(ready)
	return evict, ready
}
