package websocketproxy

import "time"

// provenance is where an address comes from that depends on the request: an address
// with placeholders, or a source whose configuration has some. A tunnel keeps it
// to find out whether its upstream would still be found there.
type provenance struct {
	// template is the address, or the configuration of the source, before
	// placeholders were replaced.
	template string

	// What follows is guarded by hosts.mu, and is for sources only.

	// found are the addresses that the source has given last for the same
	// values of the placeholders; nil where there is no source.
	found map[string]bool
	// tunnels counts those with an upstream from here, and used is when this was
	// last of use.
	tunnels int
	used    time.Time
}

// find is name for an address that a source of a configuration has found.
func (t *hostTable) find(address, source string) *host {
	h := t.name(address)
	t.mu.Lock()
	defer t.mu.Unlock()
	h.found++
	h.source = source
	return h
}

// lose gives back what find has returned, as the source does not find the address
// any more or, in a reload, is gone itself. It reports whether no configuration has
// the address any more.
func (t *hostTable) lose(h *host, inReload bool) (orphaned bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if h.found--; h.found == 0 {
		h.source = ""
	}
	return t.unnameLocked(h, !inReload)
}

// acquireFound is acquire for an address that a source has found for a request.
func (t *hostTable) acquireFound(address, source string) *host {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.acquireLocked(address)
	h.source = source
	return h
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

// decide notes how many sources have begun to run without having found anything
// yet; less than none if they have, or do not run any more.
func (t *hostTable) decide(change int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.undecided += change
}

// joined counts a tunnel whose upstream has this provenance, if any.
func (t *hostTable) joined(o *provenance) { t.count(o, 1) }

// touch notes that a handshake has asked there.
func (t *hostTable) touch(o *provenance) { t.count(o, 0) }

// left takes that back.
func (t *hostTable) left(o *provenance) { t.count(o, -1) }

func (t *hostTable) count(o *provenance, change int) {
	if o == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	o.tunnels += change
	o.used = time.Now()
}

// renew sets what a source has found. It reports whether a tunnel may have lost
// its upstream by that.
func (t *hostTable) renew(o *provenance, found []*endpoint) (lost bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	was := o.found
	o.found = make(map[string]bool, len(found))
	for _, e := range found {
		o.found[e.key()] = true
	}
	for address := range was {
		lost = lost || o.tunnels > 0 && !o.found[address]
	}
	return lost
}

// isIdle reports whether it has been of no use for some time.
func (t *hostTable) isIdle(o *provenance, since time.Duration) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return o.tunnels == 0 && time.Since(o.used) >= since
}
