package dashboard

import (
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/metrics"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
)

// Pair is an upstream as a handler has it. What depends on the request is spelled as in
// the configuration.
type Pair struct{ Handler, Upstream string }

// Numbers are counts. All but those that are open only grow.
type Numbers struct {
	Pairs    map[Pair]PairNumbers
	Handlers map[string]HandlerNumbers
	// Took is how long handshakes took at upstreams, by address.
	Took map[string]Histogram
	// LastSync is when the storage of operators' states was last asked with success; zero:
	// never. SyncsFailed is how often it was asked without.
	LastSync    time.Time
	SyncsFailed uint64
}

// PairNumbers are counts of an upstream of a handler.
type PairNumbers struct {
	Open           int
	Opened, Closed uint64
	// Failed are attempts that have failed, by cause.
	Failed map[string]uint64
}

// HandlerNumbers are counts of a handler.
type HandlerNumbers struct {
	Open   int
	Opened uint64
	// Ended are tunnels by reason, Refused are handshakes by cause.
	Ended, Refused map[string]uint64
	// Codes are tunnels that upstreams have ended by a Close, by its status.
	Codes map[string]uint64
}

// NumbersOf are those of the metrics, so that the page and they agree.
func NumbersOf(s *metrics.Snapshot) Numbers {
	n := Numbers{
		make(map[Pair]PairNumbers), make(map[string]HandlerNumbers), make(map[string]Histogram), s.LastSync, s.SyncsFailed,
	}
	for i := range s.Pairs {
		p := &s.Pairs[i]
		n.Pairs[Pair{p.Handler, p.Upstream}] = PairNumbers{int(p.Open), p.Opened, sum(p.ClosedBy), p.Failed}
	}
	for i := range s.Handlers {
		h := &s.Handlers[i]
		n.Handlers[h.Handler] = HandlerNumbers{int(h.Open), h.Opened, h.Closed, h.Refused, h.UpstreamCodes}
	}
	for i := range s.Upstreams {
		u := &s.Upstreams[i]
		n.Took[u.Upstream] = Histogram{u.Handshakes.Bounds, u.Handshakes.Counts}
	}
	return n
}

// totals adds up the counts of all handlers.
func (n *Numbers) totals() (t totals) {
	for _, h := range n.Handlers {
		t.open += int32(h.Open)
		t.opened += h.Opened
		t.closed += sum(h.Ended)
		t.refused += sum(h.Refused)
	}
	return t
}

// TunnelEnded is told of a tunnel's end.
func (r *Recent) TunnelEnded(o *tunnel.Outcome) {
	if !r.Wanted() {
		return
	}
	labels := make(map[string]string)
	for l := range o.Labels.All() {
		labels[l.Name] = shown(l.Value)
	}
	r.Add(Event{
		Labels: labels, At: time.Now(), Kind: Ended, Why: string(o.Reason), Handler: o.Handler, Upstream: o.Upstream,
		ClientIP: o.ClientIP, Tunnel: o.ID, Lasted: round(time.Since(o.Opened).Seconds()), Code: int(o.CloseCode), By: o.EndedBy,
	})
}

// HandshakeRefused is told of a refusal.
func (r *Recent) HandshakeRefused(e Event) {
	e.At, e.Kind = time.Now(), Refused
	r.Add(e)
}
