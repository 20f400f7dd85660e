package cluster

import (
	"maps"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

const (
	// dropAfter is how long after an address was last in use its state is dropped.
	dropAfter = 24 * time.Hour
	// goneAfter is from when on a state that is not stored any more is taken for
	// dropped by another instance, and not for lost. Clocks may differ by what
	// is left of dropAfter.
	goneAfter = dropAfter - time.Hour
	// maxAhead is how far ahead of this instance's clock a stored time may lie.
	// Clocks of machines that work differ by less. What is newest holds, so a time
	// further ahead would have the last word for so long, and there is nothing
	// later than the end of the year 9999 that JSON could express.
	maxAhead = 24 * time.Hour
)

// words are what operators have said, by address. Ready is remembered
// too: it is newer than what somebody may still know.
type words map[string]upstream.State

func (states words) equal(others words) bool {
	return maps.EqualFunc(states, others, upstream.State.Equal)
}

// holding returns what counts now, without what is only for those who keep it.
func (states words) holding(now time.Time) words {
	all := make(words)
	for address, s := range states {
		if s.Holds(now) {
			s.Named = time.Time{}
			all[address] = s
		}
	}
	return all
}

// part returns the states of local addresses, or of the others.
func (states words) part(local bool) words {
	all := make(words)
	for address, s := range states {
		if IsLocal(address) == local {
			all[address] = s
		}
	}
	return all
}

// plausible returns what was read without the times that lie too far ahead, and
// the addresses that have such. A state that was set then is nobody's word. One
// that expires then does not expire, and who has used its address then is unknown.
func (states words) plausible(now time.Time) (all words, ahead []string) {
	all = make(words, len(states))
	for address, s := range states {
		was := s
		if s.Expires.Sub(now) > upstream.LongestExpiry+maxAhead {
			s.Expires = time.Time{}
		}
		if isAhead(s.Named, now) {
			s.Named = time.Time{}
		}
		if !isAhead(s.At, now) {
			all[address] = s
		}
		if isAhead(s.At, now) || !s.Equal(was) {
			ahead = append(ahead, address)
		}
	}
	return all, ahead
}

// isAhead reports whether a time lies so far ahead that it cannot be one of a
// clock that works.
func isAhead(t, now time.Time) bool {
	return t.Sub(now) > maxAhead
}

// merged returns what is known with what is stored: the newest that was said of
// each address. It depends neither on the order in which instances meet nor
// on who has written last, and nothing goes but what is dropped by its age. So a
// document that was deleted or is older than what an instance knows heals.
func (states words) merged(stored words, now time.Time, uses func(string) bool) words {
	all := maps.Clone(stored)
	for address, k := range states {
		if isAhead(k.At, now) { // as the clock was put back; others would ignore it
			k.At = now.UTC().Round(0)
		}
		s, found := stored[address]
		switch {
		case !found:
			if now.Sub(k.LastNamed()) > goneAfter && !uses(address) {
				continue
			}
		case !k.At.After(s.At):
			if k.Drains() && s.State == upstream.Maint && isSameWord(k, s) {
				s.State = upstream.Drain // what it means was lost when an older instance wrote
			}
			s.Named = upstream.Later(s.Named, k.Named)
			k = s
		default:
			k.Named = upstream.Later(k.Named, s.Named)
		}
		all[address] = k
	}
	for address, s := range all { // so that others see that the address is in use
		if uses(address) && now.Sub(s.LastNamed()) > upstream.NamedInterval {
			s.Named = now.UTC().Round(0)
			all[address] = s
		}
	}
	all.drop(now, uses)
	return all
}

// isSameWord reports whether two states are what one operator has said once. Times are
// those of clocks that count nanoseconds, so two words have not the same.
func isSameWord(a, b upstream.State) bool { return a.At.Equal(b.At) && a.By == b.By }

// drop removes the states of addresses that nothing has had for too long.
func (states words) drop(now time.Time, uses func(string) bool) {
	maps.DeleteFunc(states, func(address string, s upstream.State) bool {
		return isAged(s, now) && !uses(address)
	})
}

// isAged reports whether a state is dropped unless its address is in use.
func isAged(s upstream.State, now time.Time) bool {
	return now.Sub(s.LastNamed()) > dropAfter
}

// IsLocal reports whether an address means another backend on every machine. A
// name that the machines resolve differently cannot be told from others.
func IsLocal(address string) bool {
	network, hostport, found := strings.Cut(address, "/")
	switch {
	case network == "unix":
		return true
	case found:
		address = hostport
	}
	name, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	// RFC 6761 section 6.3 has all names below localhost for the machine itself.
	if name == "" || name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(name)
	if err != nil {
		return false
	}
	ip = ip.Unmap()
	return ip.IsLoopback() || ip.IsUnspecified() || ip.IsLinkLocalUnicast()
}
