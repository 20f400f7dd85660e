package upstream

import "time"

// Endpoint is one address that a handler may open a tunnel to.
type Endpoint struct {
	// These come first as each choice looks at them, in large pools too.

	Server *Server
	// Host is the process-wide state of the address. An endpoint that was
	// expanded from placeholders holds it for one handshake only.
	Host *Host
	// down says that the address does not pass the active check, failing that connections
	// to it have failed, and doubtful that handshakes have which others could answer. All
	// are guarded by the table's lock, and after each change showLocked is called.
	down, failing, doubtful bool
	// fullUntil is until when no handshake may begin, if time ends that.
	fullUntil time.Time
	// pool and at say where its slot is, while it stands in its pool.
	pool *Pool
	at   int

	// Verdict and failures are what says so; nil if there are no such checks. Agent is
	// what has said word, which is guarded by the table's lock too.
	Verdict  *Verdict
	Failures *Failures
	Agent    *Verdict
	word     Word
	// Load is what the address says of its load, if its handler wants to know that, and
	// share what e weighs because of it; 0 if nothing follows.
	Load  *Load
	share int
	Address
	// Dial is how the source spells the address that has found it, if one has.
	Dial string
	// From is where the address comes from, if it depends on the request.
	From *Provenance
}

// Server is the place of a configured upstream in its handler's pool: what the
// balancer has to know about it. It lives as long as the configuration. The limits,
// Weight and Backup do not change.
type Server struct {
	Weight     int
	MaxTunnels int
	Backup     bool
	// MaxHandshakes is how many may be under way at once: AutoHandshakes for what is found
	// out, and zero for no limit.
	MaxHandshakes int
	HandshakeRate HandshakeRate
	// Dial is how the configuration or a source spells the address, and known what
	// it is for who chooses instead of a policy.
	Dial  string
	Known any

	// Both are guarded by the table's lock.
	current int64 // of smooth weighted round robin, while it is in no slot
	// slowSince is when the upstream has come to a pool that had others, or has
	// recovered. It is zero for those that were there from the start.
	slowSince time.Time
}

// Spelling is how the configuration has the endpoint: there are few of these, also
// where its address depends on requests.
func (e *Endpoint) Spelling() string {
	if e.From == nil {
		return e.Host.Address
	}
	return e.From.Spelling()
}

// NewEndpoint makes one without a host.
func NewEndpoint(s *Server, a Address) *Endpoint {
	return &Endpoint{Server: s, Address: a}
}

// slowSince is since when e gets tunnels; zero if it was there from the start. The
// caller holds the table's lock.
func (e *Endpoint) slowSince() time.Time {
	return Later(e.Host.slowSince, e.Server.slowSince)
}
