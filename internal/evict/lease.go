package evict

import (
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/sticky"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// Policy is what a handler's configuration says about tunnels that have to
// move elsewhere. It is shared by all of its leases, and does not change once the
// handler's pool is known to an [Evictor].
type Policy struct {
	// Period is the time over which the tunnels of an upstream are ended that is
	// not configured any more; zero means that they stay.
	Period time.Duration
	// CloseCode and CloseText are for the Close frames to their clients.
	CloseCode uint16
	CloseText string
	// MustPass is the check that the upstream has to pass for its tunnels to
	// stay; empty means that they stay anyway.
	MustPass string
	// ResetsAtOnce is told of an upstream that has become doubtful as it resets its tunnels.
	ResetsAtOnce func(address string)
	// Report is told the end of each tunnel.
	Report func(tunnel.Outcome)

	// lineage finds the pool that the client would come to today.
	lineage *lineage
	evictor *Evictor
}

// Lease is what is held for a tunnel as long as it lives: a place at its upstream,
// and one of its client. It is the owner of the tunnel.
type Lease struct {
	Host *upstream.Host
	Room *upstream.RoomPlace // nil without a key
	// From is where the upstream's address comes from, if it depends on the
	// request.
	From   *upstream.Provenance
	Place  *upstream.ClientPlace // nil if these are not counted
	Visit  *sticky.Visit         // nil if clients are not known
	Policy *Policy
	// Failures are where it counts if the upstream resets the tunnel at once.
	Failures *upstream.Failures
}

// LeaseOf returns the lease that a tunnel has.
func LeaseOf(t *tunnel.Tunnel) *Lease {
	l, _ := t.Owner.(*Lease) // every tunnel of the process has one
	return l
}

func (l *Lease) table() *upstream.Table { return l.Policy.evictor.table }

// Ended implements tunnel.Owner: it gives all back.
func (l *Lease) Ended(o tunnel.Outcome) {
	l.Room.Leave()
	l.table().TunnelEnded(l.Host)
	l.Place.Leave()
	l.Visit.Leave()
	if time.Since(o.Opened) < upstream.AtOnce {
		l.endedAtOnce(o)
	}
	l.Policy.Report(o)
}

// endedAtOnce has an upstream that resets tunnels be found out.
func (l *Lease) endedAtOnce(o tunnel.Outcome) {
	client, _ := upstream.ClientOf(o.ClientIP)
	switch {
	case o.Reason != tunnel.UpstreamReset || o.BytesIn > 0:
		l.table().WasLeft(l.Failures, client)
	case l.table().WasReset(l.Failures, client):
		l.Policy.ResetsAtOnce(l.Host.Address)
	}
}

// MustGo implements tunnel.Owner.
func (l *Lease) MustGo() (tunnel.Ending, bool) {
	switch {
	case l.IsOrphan():
		return l.evicted(l.removedBy()), true
	case l.isEvicted():
		return l.evicted(l.operator()), true
	case l.IsUnhealthy():
		return l.moved(tunnel.Unhealthy), true
	}
	return tunnel.Ending{}, false
}

// moved is an end after which the client opens another tunnel elsewhere.
func (l *Lease) moved(why tunnel.Reason) tunnel.Ending {
	return tunnel.Ending{Reason: why, Code: l.Policy.CloseCode, Text: l.Policy.CloseText}
}

// evicted is moved because somebody wants the upstream emptied.
func (l *Lease) evicted(by string) tunnel.Ending {
	e := l.moved(tunnel.Evicted)
	e.By = by
	return e
}

// IsNamed reports whether a loaded configuration has the upstream.
func (l *Lease) IsNamed() bool { return l.table().IsNamed(l.Host, l.From) }

// IsOrphan reports whether no loaded configuration has the upstream any more. As long
// as a source of the pool that the client would come to is still to give its first
// answer, which may have it, nobody can say so.
func (l *Lease) IsOrphan() bool {
	return l.Policy.Period > 0 && !l.IsNamed() && !l.Policy.evictor.mayFind(l.Policy.lineage)
}

// isEvicted reports whether an operator wants the upstream emptied.
func (l *Lease) isEvicted() bool {
	return l.table().StateOf(l.Host.Address).State == upstream.Evict
}

// IsUnhealthy reports whether the upstream is down, and the tunnel is to end because
// of that. What the upstream's address was expanded from is not checked, so nothing
// is known about it.
func (l *Lease) IsUnhealthy() bool {
	return l.Policy.MustPass != "" && l.From == nil && l.table().IsDown(l.Host, l.Policy.MustPass)
}

// Who has tunnels evicted, if it is no operator.
const (
	evictedByReload = "reload"
	evictedBySource = "source"
)

// removedBy says by what no loaded configuration has the upstream any more.
func (l *Lease) removedBy() string {
	if l.From == nil && l.table().WasDropped(l.Host) {
		return evictedBySource
	}
	return evictedByReload
}

// operator is who wants the upstream emptied.
func (l *Lease) operator() string {
	if by := l.table().StateOf(l.Host.Address).By; by != "" {
		return by
	}
	return "operator" // of a document that somebody else has written
}
